//! The simulated network: reliable ordered byte streams that behave like TCP under delay, loss, cuts and dead peers.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;

use super::connect::{Attempt, SimListener, Syn};
use super::link::{Links, RETRANSMIT_NS, Sent};
use super::outage::keep_some;
use super::random::Random;
use super::world::{Event, Inner};
use crate::reactor::{Outcome, Socket, StreamKind, Tag, cancelled};

/// Bytes a stream holds between the sender's `Send` and the receiver's `Recv`: send and receive buffer together.
const STREAM_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Segment sizes, one packet to one large offload.
const SEGMENT_BYTES_MIN: usize = 1460;
const SEGMENT_BYTES_MAX: usize = 64 * 1024;
/// TCP_USER_TIMEOUT of mesh streams, and the time after which a connect gives up.
pub(super) const TIMEOUT_NS: u64 = 10_000_000_000;

/// One end of a stream.
pub(super) struct End {
    pub(super) addr: SocketAddr,
    /// Its machine.
    pub(super) node: usize,
    /// The direction away from it.
    pub(super) link: usize,
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
    /// Closed by its owner, or never known to it.
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
    /// Since when what arrived was not acknowledged, because the way back is cut.
    unheard_since: Option<u64>,
    /// Arrival of the latest segment; nothing overtakes it.
    pub(super) last_at: u64,
    /// Bytes from `Send` to `Recv`.
    in_flight: usize,
    pub(super) send: Option<PendingSend>,
    /// Taken by the receiver, not yet known to the sender.
    unacked: usize,
    ack_scheduled: bool,
}

impl Outgoing {
    /// The sender is gone. What already left the machine may arrive, up to any byte; what was in its send buffer never
    /// does.
    pub(super) fn break_off(&mut self, random: &mut Random) {
        if self.held > 0 {
            self.clear();
        } else {
            keep_some(&mut self.queue, random);
        }
    }

    /// Nothing is under way any more.
    pub(super) fn clear(&mut self) {
        self.queue.clear();
        self.held = 0;
    }
}

pub(super) struct PendingSend {
    tag: Tag,
    runs: VecDeque<Bytes>,
    /// Bytes in `runs`.
    left: usize,
}

pub(super) struct Conn {
    pub(super) ends: [End; 2],
}

#[derive(Default)]
pub(super) struct Network {
    /// Machines by address.
    pub(super) owners: BTreeMap<IpAddr, usize>,
    pub(super) links: Links,
    pub(super) conns: BTreeMap<u64, Conn>,
    /// All that ever were; only those in `ports` live.
    pub(super) listeners: Vec<SimListener>,
    /// By machine and port.
    pub(super) ports: BTreeMap<(usize, u16), Vec<usize>>,
    pub(super) attempts: BTreeMap<u64, Attempt>,
    /// Duplicated SYNs under way.
    pub(super) strays: BTreeMap<u64, Syn>,
    /// Parts per million.
    pub(super) duplication: u64,
    /// What mesh streams sent, while somebody wants to know.
    pub(super) tap: Option<Vec<Sent>>,
    next_id: u64,
    next_port: u16,
}

impl Network {
    pub(super) fn fresh_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    pub(super) fn fresh_port(&mut self) -> u16 {
        self.next_port = if self.next_port < 32_768 { 32_768 } else { self.next_port.wrapping_add(1).max(32_768) };
        self.next_port
    }
}

impl Inner {
    /// Starts a send; it completes when everything fits into the stream's buffers.
    pub(super) fn send(&mut self, id: u64, side: usize, home: usize, tag: Tag, runs: Vec<Bytes>) {
        let Some(end) = self.network.conns.get_mut(&id).map(|conn| &mut conn.ends[side]) else { return };
        if let Some(kind) = end.error {
            return self.complete(home, tag, Err(kind.into()));
        }
        let left = runs.iter().map(Bytes::len).sum();
        let runs = runs.into_iter().filter(|run| !run.is_empty()).collect();
        end.out.send = Some(PendingSend { tag, runs, left });
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
            let Some(conn) = self.network.conns.get_mut(&id) else { return };
            let to = conn.ends[1 - side].addr;
            let end = &mut conn.ends[side];
            let Some(send) = &mut end.out.send else { return };
            if send.left == 0 {
                let tag = send.tag;
                end.out.send = None;
                if let EndState::Open(home, _) = end.state {
                    self.complete(home, tag, Ok(Outcome::Done));
                }
                return;
            }
            let room = STREAM_BYTES_MAX.saturating_sub(end.out.in_flight);
            if room == 0 {
                return;
            }
            let spread = if send.left > SEGMENT_BYTES_MIN {
                self.random.index(SEGMENT_BYTES_MAX - SEGMENT_BYTES_MIN + 1)
            } else {
                0
            };
            let segment = cut(&mut send.runs, room.min(SEGMENT_BYTES_MIN + spread));
            send.left -= segment.len();
            end.out.in_flight += segment.len();
            self.network.links.get_mut(end.link).bytes += segment.len() as u64;
            if let Some(tap) = &mut self.network.tap
                && end.kind.is_mesh()
            {
                tap.push(Sent { from: end.addr.ip(), to, conn: id, side, bytes: segment.clone() });
            }
            self.depart(id, side, Segment::Data(segment));
        }
    }

    fn depart(&mut self, id: u64, side: usize, segment: Segment) {
        let Some(link) = self.network.conns.get(&id).map(|conn| conn.ends[side].link) else { return };
        let at = self.arrival(link);
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
        let reaches = self.can_deliver(id, side);
        let Some(conn) = self.network.conns.get_mut(&id) else { return };
        let end = &mut conn.ends[side];
        if end.out.queue.len() <= end.out.held {
            // Thrown away meanwhile (reset, crash).
            return;
        }
        if reaches && end.out.held == 0 {
            return self.deliver(id, side);
        }
        end.out.held += 1;
        if end.out.held == 1 {
            end.out.held_since = now;
            if end.kind.is_mesh() {
                self.schedule(now + TIMEOUT_NS, Event::UserTimeout(id, side, now));
            }
        }
    }

    /// Whether packets from `side` reach the other end's machine.
    pub(super) fn can_deliver(&self, id: u64, side: usize) -> bool {
        self.network.conns.get(&id).is_some_and(|conn| {
            self.nodes[conn.ends[1 - side].node].up && !self.network.links.is_cut(conn.ends[side].link)
        })
    }

    fn deliver(&mut self, id: u64, side: usize) {
        let Some(conn) = self.network.conns.get_mut(&id) else { return };
        let Some(segment) = conn.ends[side].out.queue.pop_front() else { return };
        let receiver = &mut conn.ends[1 - side];
        let listens = matches!(receiver.state, EndState::Waiting | EndState::Open(..)) && receiver.error.is_none();
        match segment {
            Segment::Data(bytes) if listens => receiver.inbox.push_back(bytes),
            Segment::Fin if listens => receiver.eof = true,
            Segment::Data(_) => return self.answer_with_reset(id, side),
            Segment::Fin => return self.forget_if_over(id),
        }
        self.expect_ack(id, side);
        self.notify(id, 1 - side);
    }

    /// What arrived from `side` is acknowledged, unless the way back is cut: then `side` gives up some time.
    fn expect_ack(&mut self, id: u64, side: usize) {
        let Some(conn) = self.network.conns.get_mut(&id) else { return };
        let Some(cut) = self.network.links.get(conn.ends[1 - side].link).cut_since else { return };
        let end = &mut conn.ends[side];
        if end.kind.is_mesh() && end.out.unheard_since.is_none_or(|since| since < cut) {
            end.out.unheard_since = Some(self.now);
            self.schedule(self.now + TIMEOUT_NS, Event::AckTimeout(id, side, self.now));
        }
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
            self.give_up(id, side);
        }
    }

    pub(super) fn ack_timeout(&mut self, id: u64, side: usize, since: u64) {
        let Some(conn) = self.network.conns.get_mut(&id) else { return };
        let cut = self.network.links.get(conn.ends[1 - side].link).cut_since;
        let unheard_since = &mut conn.ends[side].out.unheard_since;
        if *unheard_since == Some(since) {
            *unheard_since = None;
            if cut.is_some_and(|cut| cut <= since) {
                self.give_up(id, side);
            }
        }
    }

    /// TCP_USER_TIMEOUT. An end that was closed already is forgotten with what it had to say.
    fn give_up(&mut self, id: u64, side: usize) {
        let Some(conn) = self.network.conns.get_mut(&id) else { return };
        if conn.ends[side].state == EndState::Closed {
            conn.ends[side].out.clear();
            self.forget_if_over(id);
        } else {
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
        end.out.clear();
        if let (EndState::Open(home, _), Some(send)) = (end.state, send) {
            self.complete(home, send.tag, Err(kind.into()));
        }
        self.notify(id, side);
    }

    /// Tells a loop that its socket has something for a receive.
    pub(super) fn notify(&mut self, id: u64, side: usize) {
        let Some(conn) = self.network.conns.get(&id) else { return };
        if let EndState::Open(home, socket) = conn.ends[side].state {
            let receives = self.loops[home].sockets.get(socket.0).is_some_and(|known| known.recv.is_some());
            if receives {
                self.make_readable(home, socket.0);
            }
        }
    }

    /// The receiver took `bytes`; the sender learns it a trip later.
    pub(super) fn taken(&mut self, id: u64, side: usize, bytes: usize) {
        let Some(conn) = self.network.conns.get_mut(&id) else { return };
        let link = conn.ends[side].link;
        let out = &mut conn.ends[1 - side].out;
        out.unacked += bytes;
        if !std::mem::replace(&mut out.ack_scheduled, true) {
            let at = self.arrival(link);
            self.schedule(at, Event::Ack(id, 1 - side));
        }
    }

    pub(super) fn ack(&mut self, id: u64, side: usize) {
        let Some(conn) = self.network.conns.get_mut(&id) else { return };
        if self.network.links.is_cut(conn.ends[1 - side].link) {
            return self.schedule(self.now + RETRANSMIT_NS, Event::Ack(id, side));
        }
        let out = &mut conn.ends[side].out;
        out.ack_scheduled = false;
        out.in_flight -= std::mem::take(&mut out.unacked).min(out.in_flight);
        self.pump(id, side);
    }

    /// The owner closes this end: FIN behind what is under way, or RST if it leaves bytes unread.
    pub(super) fn hang_up(&mut self, id: u64, side: usize, abort: bool) {
        let Some(conn) = self.network.conns.get_mut(&id) else { return };
        let end = &mut conn.ends[side];
        let unread = !end.inbox.is_empty();
        end.state = EndState::Closed;
        end.out.send = None;
        if end.error.is_none() {
            if abort || unread {
                end.out.break_off(&mut self.random);
                self.answer_with_reset(id, 1 - side);
            } else {
                self.depart(id, side, Segment::Fin);
            }
        }
        self.forget_if_over(id);
    }

    /// A RST is under way to `side`.
    pub(super) fn answer_with_reset(&mut self, id: u64, side: usize) {
        let Some(link) = self.network.conns.get(&id).map(|conn| conn.ends[1 - side].link) else { return };
        let at = self.arrival(link);
        self.schedule(at, Event::Reset(id, side));
    }

    /// A RST that cannot arrive is lost: nobody repeats it.
    pub(super) fn reset_arrives(&mut self, id: u64, side: usize) {
        if self.can_deliver(id, 1 - side) {
            self.fail(id, side, io::ErrorKind::ConnectionReset);
        }
        self.forget_if_over(id);
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
    let alone = runs.len() == 1;
    match runs.front_mut() {
        Some(first) if first.len() > want => return first.split_to(want),
        Some(first) if first.len() == want || alone => return runs.pop_front().unwrap_or_default(),
        _ => {}
    }
    let all = runs.iter().map(Bytes::len).sum();
    let mut segment = Vec::with_capacity(want.min(all));
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
