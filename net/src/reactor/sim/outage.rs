//! What goes wrong in the simulated network: cuts, dead machines, dead processes, resets.

use std::collections::{BTreeSet, VecDeque};
use std::io;

use super::link::RETRANSMIT_NS;
use super::random::Random;
use super::socket::{Conn, EndState, Segment};
use super::world::{Event, Inner};

/// TCP waits longer the longer an outage lasts; after it, at most this.
const RETRANSMIT_NS_MAX: u64 = 30_000_000_000;

impl Inner {
    pub(super) fn cut(&mut self, link: usize) {
        self.network.links.get_mut(link).cut_since.get_or_insert(self.now);
    }

    /// What was held arrives later than the healing: TCP's own recovery takes up to the outage's length.
    pub(super) fn heal(&mut self, link: usize) {
        let Some(since) = self.network.links.get_mut(link).cut_since.take() else { return };
        let outage = (self.now - since).clamp(RETRANSMIT_NS, RETRANSMIT_NS_MAX);
        for (id, side) in self.held(|conn, side| conn.ends[side].link == link) {
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
    pub(super) fn node_is_up(&mut self, node: usize) {
        for (id, side) in self.held(|conn, side| conn.ends[1 - side].node == node) {
            let at = self.now + self.random.between(RETRANSMIT_NS, 10 * RETRANSMIT_NS);
            self.schedule(at, Event::Flush(id, side));
        }
    }

    /// The loops `dead` of `node` are gone: with their machine (power), or only the process (its kernel says goodbye).
    pub(super) fn drop_loops(&mut self, node: usize, dead: &BTreeSet<usize>, power: bool) {
        for home in dead {
            for index in std::mem::take(&mut self.loops[*home].listeners) {
                let listener = &mut self.network.listeners[index];
                listener.accept = None;
                listener.backlog.clear();
                if let Some(there) = self.network.ports.get_mut(&(node, listener.addr.port())) {
                    there.retain(|other| *other != index);
                }
            }
        }
        self.network.attempts.retain(|_, attempt| !dead.contains(&attempt.home));
        let ids: Vec<u64> = self.network.conns.keys().copied().collect();
        for id in ids {
            for side in 0..2 {
                let Some(conn) = self.network.conns.get_mut(&id) else { break };
                let end = &mut conn.ends[side];
                let dies = match end.state {
                    EndState::Open(home, _) => dead.contains(&home),
                    EndState::Waiting => end.node == node,
                    EndState::Closed => power && end.node == node,
                    EndState::Gone => false,
                };
                if !dies {
                    continue;
                }
                if !power {
                    self.hang_up(id, side, false);
                    continue;
                }
                end.state = EndState::Gone;
                end.out.send = None;
                end.out.break_off(&mut self.random);
                self.forget_if_over(id);
            }
        }
    }

    /// Resets some stream with two live ends; returns whether there was one.
    pub(super) fn reset_random_stream(&mut self) -> bool {
        let is_live =
            |conn: &Conn| conn.ends.iter().all(|end| matches!(end.state, EndState::Open(..)) && end.error.is_none());
        let live: Vec<u64> = self.network.conns.iter().filter(|(_, conn)| is_live(conn)).map(|(id, _)| *id).collect();
        if live.is_empty() {
            return false;
        }
        let id = live[self.random.index(live.len())];
        let first = self.random.index(2);
        let learns = self.random.below(3);
        self.receive_some(id, first);
        if learns == 0 {
            self.receive_some(id, 1 - first);
        }
        // What the first had under way may go on for a while.
        let Some(conn) = self.network.conns.get_mut(&id) else { return true };
        let out = &mut conn.ends[first].out;
        let (mut queue, held) = (std::mem::take(&mut out.queue), out.held);
        self.fail(id, first, io::ErrorKind::ConnectionReset);
        if learns == 0 {
            self.fail(id, 1 - first, io::ErrorKind::ConnectionReset);
            return true;
        }
        keep_some(&mut queue, &mut self.random);
        if let Some(conn) = self.network.conns.get_mut(&id) {
            let out = &mut conn.ends[first].out;
            out.held = held.min(queue.len());
            out.queue = queue;
        }
        if learns == 1 {
            self.answer_with_reset(id, 1 - first);
        }
        true
    }

    /// `side` receives a random prefix of what is under way to it; the rest stays under way.
    fn receive_some(&mut self, id: u64, side: usize) {
        if !self.can_deliver(id, 1 - side) {
            return;
        }
        let Some(conn) = self.network.conns.get_mut(&id) else { return };
        let [left, right] = &mut conn.ends;
        let (near, far) = if side == 0 { (left, right) } else { (right, left) };
        if far.out.held > 0 {
            return;
        }
        let mut room = self.random.index(octets(&far.out.queue) + 1);
        while room > 0 {
            match far.out.queue.front_mut() {
                Some(Segment::Data(bytes)) if bytes.len() > room => {
                    near.inbox.push_back(bytes.split_to(room));
                    room = 0;
                }
                Some(Segment::Data(bytes)) => {
                    room -= bytes.len();
                    near.inbox.push_back(std::mem::take(bytes));
                    far.out.queue.pop_front();
                }
                Some(Segment::Fin) | None => return,
            }
        }
    }
}

/// The length of what is under way, counted as TCP does: a FIN is one.
fn octets(queue: &VecDeque<Segment>) -> usize {
    queue.iter().map(Segment::octets).sum()
}

/// Keeps a random prefix, which may end in the middle of a segment.
pub(super) fn keep_some(queue: &mut VecDeque<Segment>, random: &mut Random) {
    let mut room = random.index(octets(queue) + 1);
    let mut kept = 0;
    for segment in queue.iter_mut() {
        if room == 0 {
            break;
        }
        if let Segment::Data(bytes) = segment {
            bytes.truncate(room);
        }
        room -= segment.octets();
        kept += 1;
    }
    queue.truncate(kept);
}

impl Segment {
    fn octets(&self) -> usize {
        match self {
            Segment::Data(bytes) => bytes.len(),
            Segment::Fin => 1,
        }
    }
}
