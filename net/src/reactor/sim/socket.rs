//! The simulated network: reliable ordered byte streams that behave like TCP under delay, loss, cuts and dead peers.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;

use super::world::{Event, Inner};
use crate::reactor::{Completion, Outcome, Socket, StreamKind, Tag, cancelled};

/// Bytes a stream holds between the sender's `Send` and the receiver's `Recv`: send and receive buffer together.
const STREAM_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Segment sizes, one packet to one large offload.
const SEGMENT_BYTES_MIN: u64 = 1460;
const SEGMENT_BYTES_MAX: u64 = 64 * 1024;
/// First retransmission (the minimum of Linux), doubling after that.
pub(super) const RETRANSMIT_NS: u64 = 200_000_000;
const RETRANSMIT_DOUBLINGS_MAX: u32 = 8;
/// TCP_USER_TIMEOUT of mesh streams, and the time after which a connect gives up.
const TIMEOUT_NS: u64 = 10_000_000_000;
/// First repetition of a lost SYN, doubling.
const SYN_RETRY_NS: u64 = 1_000_000_000;
/// One way, where nothing was set.
const DELAY_NS_DEFAULT: u64 = 50_000;

/// One end of a stream.
pub(super) struct End {
    pub(super) addr: SocketAddr,
    pub(super) kind: StreamKind,
    pub(super) state: EndState,
    /// Arrived, not yet received by the application.
    pub(super) inbox: VecDeque<Bytes>,
    pub(super) eof: bool,
    pub(super) error: Option<io::ErrorKind>,
    pub(super) out: Outgoing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EndState {
    /// In the kernel of its node, not yet with a loop.
    Waiting,
    /// Socket `.1` of loop `.0`.
    Open(usize, Socket),
    /// Closed by its owner.
    Closed,
    /// Its node died without a word.
    Gone,
}

pub(super) enum Segment {
    Data(Bytes),
    Fin,
}

/// The direction away from one end.
#[derive(Default)]
pub(super) struct Outgoing {
    /// Under way, in order. The first `held` should have arrived but could not.
    pub(super) queue: VecDeque<Segment>,
    pub(super) held: usize,
    held_since: u64,
    /// Arrival of the latest segment; nothing overtakes it.
    last_at: u64,
    /// Bytes from `Send` to `Recv`.
    in_flight: usize,
    pub(super) send: Option<PendingSend>,
    /// Taken by the receiver, not yet known to the sender.
    unacked: usize,
    ack_scheduled: bool,
}

pub(super) struct PendingSend {
    tag: Tag,
    runs: VecDeque<Bytes>,
}

pub(super) struct Conn {
    pub(super) ends: [End; 2],
}

pub(super) struct SimListener {
    pub(super) addr: SocketAddr,
    pub(super) home: usize,
    pub(super) shared: bool,
    pub(super) kind: StreamKind,
    pub(super) accept: Option<Tag>,
    pub(super) backlog: VecDeque<u64>,
    pub(super) alive: bool,
}

pub(super) struct Attempt {
    pub(super) home: usize,
    pub(super) tag: Tag,
    from: IpAddr,
    to: SocketAddr,
    kind: StreamKind,
    give_up_at: u64,
    tries: u32,
}

#[derive(Default)]
pub(super) struct Network {
    delays: BTreeMap<(IpAddr, IpAddr), u64>,
    losses: BTreeMap<(IpAddr, IpAddr), u64>,
    pub(super) cuts: BTreeMap<(IpAddr, IpAddr), u64>,
    bytes: BTreeMap<(IpAddr, IpAddr), u64>,
    pub(super) conns: BTreeMap<u64, Conn>,
    pub(super) listeners: Vec<SimListener>,
    pub(super) attempts: BTreeMap<u64, Attempt>,
    next_id: u64,
    next_port: u16,
}

impl Network {
    pub(super) fn set_delay(&mut self, from: IpAddr, to: IpAddr, ns: u64) {
        self.delays.insert((from, to), ns);
    }

    pub(super) fn set_loss(&mut self, from: IpAddr, to: IpAddr, parts_per_million: u64) {
        self.losses.insert((from, to), parts_per_million);
    }

    pub(super) fn bytes_between(&self, from: IpAddr, to: IpAddr) -> u64 {
        self.bytes.get(&(from, to)).copied().unwrap_or(0)
    }

    fn is_cut(&self, from: IpAddr, to: IpAddr) -> bool {
        self.cuts.contains_key(&(from, to))
    }

    pub(super) fn fresh_port(&mut self) -> u16 {
        self.next_port = if self.next_port < 32_768 { 32_768 } else { self.next_port.wrapping_add(1).max(32_768) };
        self.next_port
    }
}

impl Inner {
    /// When something sent now arrives.
    fn arrival(&mut self, from: IpAddr, to: IpAddr) -> u64 {
        let base = self.network.delays.get(&(from, to)).copied().unwrap_or(DELAY_NS_DEFAULT);
        let mut delay = base + self.random.below(base / 16 + 2_000);
        let loss = self.network.losses.get(&(from, to)).copied().unwrap_or(0);
        let mut retransmit = RETRANSMIT_NS.max(2 * base);
        for _ in 0..RETRANSMIT_DOUBLINGS_MAX {
            if !self.random.chance(loss) {
                break;
            }
            delay += retransmit;
            retransmit *= 2;
        }
        self.now + delay
    }

    pub(super) fn connect(&mut self, home: usize, local: Option<IpAddr>, to: SocketAddr, kind: StreamKind, tag: Tag) {
        let node = &self.nodes[self.loops[home].node];
        let from = match local {
            Some(ip) => Some(ip).filter(|ip| node.owns(*ip)),
            None if to.ip().is_loopback() && !self.nodes.iter().any(|node| node.ips.contains(&to.ip())) => {
                Some(to.ip())
            }
            None => node.ips.iter().copied().find(|ip| ip.is_ipv4() == to.is_ipv4()),
        };
        let Some(from) = from else {
            return self.complete(home, tag, Err(io::ErrorKind::AddrNotAvailable.into()));
        };
        self.network.next_id += 1;
        let id = self.network.next_id;
        let give_up_at = self.now + TIMEOUT_NS;
        self.network.attempts.insert(id, Attempt { home, tag, from, to, kind, give_up_at, tries: 0 });
        let at = self.arrival(from, to.ip());
        self.schedule(at, Event::Syn(id));
    }

    /// The node that `ip` leads to, seen from `from`.
    fn resolve(&self, from: IpAddr, ip: IpAddr) -> Option<usize> {
        let owner = |ip: IpAddr| self.nodes.iter().position(|node| node.ips.contains(&ip));
        owner(ip).or_else(|| if ip == from { None } else { owner(from) }.filter(|_| ip.is_loopback()))
    }

    pub(super) fn syn(&mut self, id: u64) {
        let Some(attempt) = self.network.attempts.get_mut(&id) else { return };
        attempt.tries += 1;
        let (home, from, to, kind) = (attempt.home, attempt.from, attempt.to, attempt.kind);
        let (tries, give_up_at) = (attempt.tries, attempt.give_up_at);
        let target = if to.ip().is_loopback() && from == to.ip() {
            // A node's own loopback, unless some node has this very address (the lab).
            self.resolve(from, to.ip()).or(Some(self.loops[home].node))
        } else {
            self.resolve(from, to.ip())
        };
        let target = target.filter(|target| {
            let cut = self.network.is_cut(from, to.ip()) || self.network.is_cut(to.ip(), from);
            self.nodes[*target].up && !cut
        });
        let Some(target) = target else {
            let again = self.now + (SYN_RETRY_NS << (tries - 1).min(5));
            if again < give_up_at {
                self.schedule(again, Event::Syn(id));
            } else {
                self.schedule(give_up_at, Event::ConnectTimeout(id));
            }
            return;
        };
        let candidates: Vec<usize> = (0..self.network.listeners.len())
            .filter(|index| {
                let listener = &self.network.listeners[*index];
                listener.alive
                    && self.loops[listener.home].node == target
                    && listener.addr.port() == to.port()
                    && (listener.addr.ip() == to.ip() || listener.addr.ip().is_unspecified())
            })
            .collect();
        let back = self.arrival(to.ip(), from);
        if candidates.is_empty() {
            return self.schedule(back, Event::ConnectRefused(id));
        }
        let listener = candidates[self.random.index(candidates.len())];
        let local = SocketAddr::new(from, self.network.fresh_port());
        let end = |addr, kind| End {
            addr,
            kind,
            state: EndState::Waiting,
            inbox: VecDeque::new(),
            eof: false,
            error: None,
            out: Outgoing::default(),
        };
        let ends = [end(local, kind), end(to, self.network.listeners[listener].kind)];
        self.network.conns.insert(id, Conn { ends });
        self.network.listeners[listener].backlog.push_back(id);
        self.accept_waiting(listener);
        self.schedule(back, Event::Established(id));
    }

    pub(super) fn established(&mut self, id: u64) {
        match self.network.attempts.remove(&id) {
            Some(attempt) => {
                let socket = self.give(id, 0, attempt.home);
                self.complete(attempt.home, attempt.tag, Ok(Outcome::Connected(socket)));
            }
            // Nobody waits any more: the other end learns it, unless this machine died.
            None => {
                let waiting = |conn: &Conn| conn.ends[0].state == EndState::Waiting;
                if self.network.conns.get(&id).is_some_and(waiting) {
                    self.hang_up(id, 0, true);
                }
            }
        }
    }

    pub(super) fn end_attempt(&mut self, id: u64, kind: io::ErrorKind) {
        if let Some(attempt) = self.network.attempts.remove(&id) {
            self.complete(attempt.home, attempt.tag, Err(kind.into()));
        }
    }

    /// Hands an end to a loop.
    fn give(&mut self, conn: u64, side: usize, home: usize) -> Socket {
        let key = self.loops[home].sockets.insert(super::SimSocket { conn, side, recv: None });
        let socket = Socket(key.unwrap_or(u32::MAX));
        if let Some(conn) = self.network.conns.get_mut(&conn) {
            conn.ends[side].state = EndState::Open(home, socket);
        }
        socket
    }

    /// Moves the backlog to an armed accept.
    pub(super) fn accept_waiting(&mut self, index: usize) {
        while let Some(tag) = self.network.listeners[index].accept {
            let Some(id) = self.network.listeners[index].backlog.pop_front() else { return };
            let Some(peer) = self.network.conns.get(&id).map(|conn| conn.ends[0].addr) else { continue };
            let home = self.network.listeners[index].home;
            let socket = self.give(id, 1, home);
            let result = Ok(Outcome::Accepted(socket, peer));
            self.loops[home].completions.push_back(Completion { tag, result, more: true, buf: None });
        }
    }

    /// Starts a send; it completes when everything fits into the stream's buffers.
    pub(super) fn send(&mut self, id: u64, side: usize, home: usize, tag: Tag, runs: Vec<Bytes>) {
        let Some(end) = self.network.conns.get_mut(&id).map(|conn| &mut conn.ends[side]) else { return };
        if let Some(kind) = end.error {
            return self.complete(home, tag, Err(kind.into()));
        }
        let runs = runs.into_iter().filter(|run| !run.is_empty()).collect();
        end.out.send = Some(PendingSend { tag, runs });
        self.pump(id, side);
    }

    pub(super) fn is_sending(&self, id: u64, side: usize) -> Option<Tag> {
        self.network.conns.get(&id)?.ends[side].out.send.as_ref().map(|send| send.tag)
    }

    pub(super) fn cancel_send(&mut self, id: u64, side: usize, home: usize) {
        let send = self.network.conns.get_mut(&id).and_then(|conn| conn.ends[side].out.send.take());
        if let Some(send) = send {
            self.complete(home, send.tag, Err(cancelled()));
        }
    }

    /// Cuts segments off a pending send while there is room.
    fn pump(&mut self, id: u64, side: usize) {
        loop {
            let size = self.random.between(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX);
            let Some(conn) = self.network.conns.get_mut(&id) else { return };
            let (from, to) = (conn.ends[side].addr.ip(), conn.ends[1 - side].addr.ip());
            let end = &mut conn.ends[side];
            let Some(send) = &mut end.out.send else { return };
            if send.runs.is_empty() {
                let tag = send.tag;
                end.out.send = None;
                if let EndState::Open(home, _) = end.state {
                    self.complete(home, tag, Ok(Outcome::Done));
                }
                return;
            }
            let room = STREAM_BYTES_MAX.saturating_sub(end.out.in_flight);
            let want = usize::try_from(size).unwrap_or(usize::MAX).min(room);
            if want == 0 {
                return;
            }
            let segment = cut(&mut send.runs, want);
            end.out.in_flight += segment.len();
            *self.network.bytes.entry((from, to)).or_default() += segment.len() as u64;
            self.depart(id, side, Segment::Data(segment));
        }
    }

    fn depart(&mut self, id: u64, side: usize, segment: Segment) {
        let Some(conn) = self.network.conns.get(&id) else { return };
        let (from, to) = (conn.ends[side].addr.ip(), conn.ends[1 - side].addr.ip());
        let at = self.arrival(from, to);
        let Some(conn) = self.network.conns.get_mut(&id) else { return };
        let out = &mut conn.ends[side].out;
        out.last_at = out.last_at.max(at);
        out.queue.push_back(segment);
        let at = out.last_at;
        self.schedule(at, Event::Arrive(id, side));
    }

    /// The next segment from `side` is due.
    pub(super) fn arrive(&mut self, id: u64, side: usize) {
        let now = self.now;
        let Some(conn) = self.network.conns.get_mut(&id) else { return };
        if conn.ends[side].out.queue.len() <= conn.ends[side].out.held {
            // Thrown away meanwhile (reset, crash).
            return;
        }
        if !self.can_deliver(id, side) || self.network.conns[&id].ends[side].out.held > 0 {
            let Some(conn) = self.network.conns.get_mut(&id) else { return };
            let end = &mut conn.ends[side];
            end.out.held += 1;
            if end.out.held == 1 {
                end.out.held_since = now;
                if end.kind == StreamKind::Mesh {
                    self.schedule(now + TIMEOUT_NS, Event::UserTimeout(id, side, now));
                }
            }
            return;
        }
        self.deliver(id, side);
    }

    /// Whether packets from `side` reach the other end's machine.
    fn can_deliver(&self, id: u64, side: usize) -> bool {
        let Some(conn) = self.network.conns.get(&id) else { return false };
        let (from, to) = (conn.ends[side].addr.ip(), conn.ends[1 - side].addr.ip());
        let up = self.nodes.iter().find(|node| node.ips.contains(&to)).is_none_or(|node| node.up);
        up && !self.network.is_cut(from, to)
    }

    fn deliver(&mut self, id: u64, side: usize) {
        let Some(conn) = self.network.conns.get_mut(&id) else { return };
        let Some(segment) = conn.ends[side].out.queue.pop_front() else { return };
        let receiver = &mut conn.ends[1 - side];
        match (receiver.state, segment) {
            (EndState::Waiting | EndState::Open(..), Segment::Data(bytes)) => receiver.inbox.push_back(bytes),
            (EndState::Waiting | EndState::Open(..), Segment::Fin) => receiver.eof = true,
            (EndState::Closed | EndState::Gone, Segment::Data(_)) => {
                let (from, to) = (receiver.addr.ip(), conn.ends[side].addr.ip());
                let at = self.arrival(from, to);
                return self.schedule(at, Event::Reset(id, side));
            }
            (EndState::Closed | EndState::Gone, Segment::Fin) => return self.forget_if_over(id),
        }
        self.notify(id, 1 - side);
    }

    /// After an outage: everything that was held arrives.
    pub(super) fn flush(&mut self, id: u64, side: usize) {
        if !self.can_deliver(id, side) {
            return;
        }
        let Some(conn) = self.network.conns.get_mut(&id) else { return };
        for _ in 0..std::mem::take(&mut conn.ends[side].out.held) {
            self.deliver(id, side);
        }
    }

    pub(super) fn user_timeout(&mut self, id: u64, side: usize, since: u64) {
        let Some(conn) = self.network.conns.get(&id) else { return };
        let out = &conn.ends[side].out;
        if out.held > 0 && out.held_since == since {
            self.fail(id, side, io::ErrorKind::TimedOut);
        }
    }

    /// This end is over: pending work fails, what it had under way is thrown away.
    pub(super) fn fail(&mut self, id: u64, side: usize, kind: io::ErrorKind) {
        let Some(conn) = self.network.conns.get_mut(&id) else { return };
        let end = &mut conn.ends[side];
        if matches!(end.state, EndState::Closed | EndState::Gone) || end.error.is_some() {
            return;
        }
        end.error = Some(kind);
        let send = end.out.send.take();
        end.out.queue.clear();
        end.out.held = 0;
        if let (EndState::Open(home, _), Some(send)) = (end.state, send) {
            self.complete(home, send.tag, Err(kind.into()));
        }
        self.notify(id, side);
    }

    /// Tells a loop that its socket has something for a receive.
    pub(super) fn notify(&mut self, id: u64, side: usize) {
        let Some(conn) = self.network.conns.get(&id) else { return };
        if let EndState::Open(home, socket) = conn.ends[side].state {
            let home = &mut self.loops[home];
            if home.sockets.get(socket.0).is_some_and(|socket| socket.recv.is_some())
                && !home.readable.contains(&socket.0)
            {
                home.readable.push_back(socket.0);
            }
        }
    }

    /// The receiver took `bytes`; the sender learns it a trip later.
    pub(super) fn taken(&mut self, id: u64, side: usize, bytes: usize) {
        let Some(conn) = self.network.conns.get_mut(&id) else { return };
        let (from, to) = (conn.ends[side].addr.ip(), conn.ends[1 - side].addr.ip());
        let out = &mut conn.ends[1 - side].out;
        out.unacked += bytes;
        if !std::mem::replace(&mut out.ack_scheduled, true) {
            let at = self.arrival(from, to);
            self.schedule(at, Event::Ack(id, 1 - side));
        }
    }

    pub(super) fn ack(&mut self, id: u64, side: usize) {
        let Some(conn) = self.network.conns.get(&id) else { return };
        if self.network.is_cut(conn.ends[1 - side].addr.ip(), conn.ends[side].addr.ip()) {
            return self.schedule(self.now + RETRANSMIT_NS, Event::Ack(id, side));
        }
        let Some(conn) = self.network.conns.get_mut(&id) else { return };
        let out = &mut conn.ends[side].out;
        out.ack_scheduled = false;
        out.in_flight -= std::mem::take(&mut out.unacked).min(out.in_flight);
        self.pump(id, side);
    }

    /// The owner closes this end: FIN behind what is under way, or RST if it leaves bytes unread.
    pub(super) fn hang_up(&mut self, id: u64, side: usize, abort: bool) {
        let Some(conn) = self.network.conns.get_mut(&id) else { return };
        let (from, to) = (conn.ends[side].addr.ip(), conn.ends[1 - side].addr.ip());
        let end = &mut conn.ends[side];
        let unread = !end.inbox.is_empty();
        end.state = EndState::Closed;
        end.out.send = None;
        if end.error.is_none() {
            if abort || unread {
                end.out.queue.clear();
                end.out.held = 0;
                let at = self.arrival(from, to);
                self.schedule(at, Event::Reset(id, 1 - side));
            } else {
                self.depart(id, side, Segment::Fin);
            }
        }
        self.forget_if_over(id);
    }

    pub(super) fn reset_arrives(&mut self, id: u64, side: usize) {
        if self.network.conns.contains_key(&id) {
            self.fail(id, side, io::ErrorKind::ConnectionReset);
            self.forget_if_over(id);
        }
    }

    pub(super) fn forget_if_over(&mut self, id: u64) {
        let over = self.network.conns.get(&id).is_some_and(|conn| {
            conn.ends
                .iter()
                .all(|end| matches!(end.state, EndState::Closed | EndState::Gone) && end.out.queue.is_empty())
        });
        if over {
            self.network.conns.remove(&id);
        }
    }
}

/// The first `want` bytes (or all) of `runs`; small runs share a segment.
fn cut(runs: &mut VecDeque<Bytes>, want: usize) -> Bytes {
    match runs.front_mut() {
        Some(first) if first.len() > want => return first.split_to(want),
        Some(first) if first.len() == want => return runs.pop_front().unwrap_or_default(),
        _ => {}
    }
    let mut segment = Vec::new();
    while segment.len() < want {
        let Some(first) = runs.front_mut() else { break };
        let step = first.len().min(want - segment.len());
        segment.extend_from_slice(&first.split_to(step));
        if first.is_empty() {
            runs.pop_front();
        }
    }
    segment.into()
}
