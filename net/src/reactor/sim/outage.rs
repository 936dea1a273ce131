//! What goes wrong in the simulated network: cuts, dead machines, dead processes, resets.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use super::socket::{Conn, EndState, RETRANSMIT_NS};
use super::world::{Event, Inner};

/// TCP waits longer the longer an outage lasts; after it, at most this.
const RETRANSMIT_NS_MAX: u64 = 30_000_000_000;

impl Inner {
    pub(super) fn cut(&mut self, from: IpAddr, to: IpAddr) {
        let now = self.now;
        self.network.cuts.entry((from, to)).or_insert(now);
    }

    /// What was held arrives later than the healing: TCP's own recovery takes up to the outage's length.
    pub(super) fn heal(&mut self, from: IpAddr, to: IpAddr) {
        let Some(since) = self.network.cuts.remove(&(from, to)) else { return };
        let outage = (self.now - since).clamp(RETRANSMIT_NS, RETRANSMIT_NS_MAX);
        for (id, side) in
            self.held(|conn, side| conn.ends[side].addr.ip() == from && conn.ends[1 - side].addr.ip() == to)
        {
            let at = self.now + self.random.between(RETRANSMIT_NS / 4, outage);
            self.schedule(at, Event::Flush(id, side));
        }
    }

    fn held(&self, is_meant: impl Fn(&Conn, usize) -> bool) -> Vec<(u64, usize)> {
        let all = self.network.conns.iter().flat_map(|(id, conn)| [(*id, conn, 0), (*id, conn, 1)]);
        all.filter(|(_, conn, side)| conn.ends[*side].out.held > 0 && is_meant(conn, *side))
            .map(|(id, _, side)| (id, side))
            .collect()
    }

    /// A machine is back: retransmissions reach it and are answered with RST.
    pub(super) fn node_is_up(&mut self, ips: &[IpAddr]) {
        for (id, side) in self.held(|conn, side| ips.contains(&conn.ends[1 - side].addr.ip())) {
            let at = self.now + self.random.between(RETRANSMIT_NS, 10 * RETRANSMIT_NS);
            self.schedule(at, Event::Flush(id, side));
        }
    }

    /// The loops `dead` are gone: with their machine (power), or only the process (its kernel says goodbye).
    pub(super) fn drop_loops(&mut self, dead: &BTreeSet<usize>, ips: &[IpAddr], power: bool) {
        for listener in self.network.listeners.iter_mut().filter(|listener| dead.contains(&listener.home)) {
            listener.alive = false;
            listener.accept = None;
            listener.backlog.clear();
        }
        self.network.attempts.retain(|_, attempt| !dead.contains(&attempt.home));
        let ids: Vec<u64> = self.network.conns.keys().copied().collect();
        for id in ids {
            for side in 0..2 {
                let keep = self.random.next();
                let Some(conn) = self.network.conns.get_mut(&id) else { break };
                let end = &mut conn.ends[side];
                let dies = match end.state {
                    EndState::Open(home, _) => dead.contains(&home),
                    EndState::Waiting => ips.contains(&end.addr.ip()),
                    EndState::Closed => power && ips.contains(&end.addr.ip()),
                    EndState::Gone => false,
                };
                if !dies {
                    continue;
                }
                if !power {
                    self.hang_up(id, side, false);
                    continue;
                }
                // What already left the machine may arrive; what was in its send buffer never does.
                end.state = EndState::Gone;
                let sent = end.out.queue.len() - end.out.held;
                let survivors =
                    if end.out.held > 0 { 0 } else { usize::try_from(keep % (sent as u64 + 1)).unwrap_or(0) };
                end.out.queue.truncate(survivors);
                end.out.held = 0;
                end.out.send = None;
                self.forget_if_over(id);
            }
        }
    }

    /// Resets some stream with two live ends; returns whether there was one.
    pub(super) fn reset_random_stream(&mut self) -> bool {
        let live: Vec<u64> = self
            .network
            .conns
            .iter()
            .filter(|(_, conn)| {
                conn.ends.iter().all(|end| matches!(end.state, EndState::Open(..)) && end.error.is_none())
            })
            .map(|(id, _)| *id)
            .collect();
        if live.is_empty() {
            return false;
        }
        let id = live[self.random.index(live.len())];
        for side in 0..2 {
            self.fail(id, side, io::ErrorKind::ConnectionReset);
        }
        true
    }
}
