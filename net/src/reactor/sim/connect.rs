//! How streams of the simulated network begin: listeners, SYNs, and those that arrive twice.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};

use super::loops::SimSocket;
use super::socket::{Conn, End, EndState, Outgoing, TIMEOUT_NS};
use super::world::{Event, Inner};
use crate::reactor::{Completion, Listener, Outcome, Socket, StreamKind, Tag};

/// First repetition of a lost SYN, doubling.
const SYN_RETRY_NS: u64 = 1_000_000_000;
/// A duplicated SYN arrives up to this much after its twin.
const DUPLICATE_NS_MAX: u64 = 50_000_000;

pub(super) struct SimListener {
    pub(super) addr: SocketAddr,
    pub(super) home: usize,
    shared: bool,
    kind: StreamKind,
    pub(super) accept: Option<Tag>,
    pub(super) backlog: VecDeque<u64>,
}

/// A connect that has no answer yet.
pub(super) struct Attempt {
    pub(super) home: usize,
    pub(super) tag: Tag,
    syn: Syn,
    give_up_at: u64,
    tries: u32,
}

/// What a SYN says, and the two directions between its ends.
#[derive(Clone, Copy)]
pub(super) struct Syn {
    from: IpAddr,
    to: SocketAddr,
    kind: StreamKind,
    /// The machine that sent it.
    node: usize,
    link: usize,
    back: usize,
}

impl Inner {
    pub(super) fn listen(
        &mut self,
        home: usize,
        mut addr: SocketAddr,
        kind: StreamKind,
        shared: bool,
    ) -> io::Result<Listener> {
        let node = self.loops[home].node;
        if !addr.ip().is_unspecified() && !self.nodes[node].owns(addr.ip()) {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        }
        if addr.port() == 0 {
            addr.set_port(self.network.fresh_port());
        }
        let others = self.network.ports.entry((node, addr.port())).or_default();
        let listeners = &mut self.network.listeners;
        if others.iter().any(|other| listeners[*other].addr == addr && !(shared && listeners[*other].shared)) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        others.push(listeners.len());
        listeners.push(SimListener { addr, home, shared, kind, accept: None, backlog: VecDeque::new() });
        let known = &mut self.loops[home].listeners;
        known.push(listeners.len() - 1);
        u32::try_from(known.len() - 1).map(Listener).map_err(io::Error::other)
    }

    pub(super) fn connect(&mut self, home: usize, local: Option<IpAddr>, to: SocketAddr, kind: StreamKind, tag: Tag) {
        let node = self.loops[home].node;
        let state = &self.nodes[node];
        let from = match local {
            Some(ip) => Some(ip).filter(|ip| state.owns(*ip)),
            None if to.ip().is_loopback() && !self.network.owners.contains_key(&to.ip()) => Some(to.ip()),
            None => state.ips.iter().copied().find(|ip| ip.is_ipv4() == to.is_ipv4()),
        };
        let Some(from) = from else {
            return self.complete(home, tag, Err(io::ErrorKind::AddrNotAvailable.into()));
        };
        let id = self.network.fresh_id();
        let links = &mut self.network.links;
        let (link, back) = (links.between(from, to.ip()), links.between(to.ip(), from));
        let syn = Syn { from, to, kind, node, link, back };
        let give_up_at = self.now + TIMEOUT_NS;
        self.network.attempts.insert(id, Attempt { home, tag, syn, give_up_at, tries: 0 });
        let at = self.arrival(link);
        self.schedule(at, Event::Syn(id));
    }

    /// The machine that a SYN leads to, if it gets there.
    fn target_of(&self, syn: &Syn) -> Option<usize> {
        let owner = |ip: IpAddr| self.network.owners.get(&ip).copied();
        let target = owner(syn.to.ip()).or_else(|| {
            // A node's own loopback, unless some node has this very address (the lab).
            let own = if syn.from == syn.to.ip() { Some(syn.node) } else { owner(syn.from) };
            own.filter(|_| syn.to.ip().is_loopback())
        });
        target.filter(|target| self.nodes[*target].up && !self.network.links.is_cut(syn.link))
    }

    /// Some listener for it there.
    fn listener_for(&mut self, target: usize, to: SocketAddr) -> Option<usize> {
        let Inner { network, random, .. } = self;
        let fits = |index: &&usize| {
            let addr = network.listeners[**index].addr;
            addr.ip() == to.ip() || addr.ip().is_unspecified()
        };
        let there = network.ports.get(&(target, to.port()))?;
        match there.iter().filter(fits).count() {
            0 => None,
            1 => there.iter().find(fits).copied(),
            several => there.iter().filter(fits).nth(random.index(several)).copied(),
        }
    }

    pub(super) fn syn(&mut self, id: u64) {
        let Some(attempt) = self.network.attempts.get_mut(&id) else { return };
        attempt.tries += 1;
        let (syn, give_up_at) = (attempt.syn, attempt.give_up_at);
        let Some(target) = self.target_of(&syn).filter(|_| !self.network.links.is_cut(syn.back)) else {
            return self.repeat_syn(id);
        };
        let back = self.arrival(syn.back);
        let Some(listener) = self.listener_for(target, syn.to) else {
            return self.schedule(back, Event::ConnectRefused(id));
        };
        self.half_open(id, &syn, target, listener, EndState::Waiting);
        self.schedule(back, Event::Established(id));
        if back > give_up_at {
            self.schedule(give_up_at, Event::ConnectTimeout(id));
        }
        if self.network.duplication > 0 && self.random.chance(self.network.duplication) {
            let twin = self.network.fresh_id();
            self.network.strays.insert(twin, syn);
            let at = self.now + self.random.between(1, DUPLICATE_NS_MAX);
            self.schedule(at, Event::Stray(twin));
        }
    }

    /// The SYN arrives once more: a stream whose client end knows nothing of it.
    pub(super) fn stray(&mut self, id: u64) {
        let Some(syn) = self.network.strays.remove(&id) else { return };
        let Some(target) = self.target_of(&syn) else { return };
        if let Some(listener) = self.listener_for(target, syn.to) {
            self.half_open(id, &syn, target, listener, EndState::Closed);
        }
    }

    fn half_open(&mut self, id: u64, syn: &Syn, target: usize, listener: usize, near: EndState) {
        let local = SocketAddr::new(syn.from, self.network.fresh_port());
        let end = |addr, node, link, kind, state| End {
            addr,
            node,
            link,
            kind,
            state,
            inbox: VecDeque::new(),
            eof: false,
            error: None,
            out: Outgoing::default(),
        };
        let far_kind = self.network.listeners[listener].kind;
        let ends = [
            end(local, syn.node, syn.link, syn.kind, near),
            end(syn.to, target, syn.back, far_kind, EndState::Waiting),
        ];
        self.network.conns.insert(id, Conn { ends });
        self.network.listeners[listener].backlog.push_back(id);
        self.accept_waiting(listener);
    }

    fn repeat_syn(&mut self, id: u64) {
        let Some(attempt) = self.network.attempts.get(&id) else { return };
        let again = self.now + (SYN_RETRY_NS << attempt.tries.saturating_sub(1).min(5));
        if again < attempt.give_up_at {
            self.schedule(again, Event::Syn(id));
        } else {
            self.schedule(attempt.give_up_at, Event::ConnectTimeout(id));
        }
    }

    /// The answer to a SYN arrives.
    pub(super) fn established(&mut self, id: u64) {
        let Some(back) = self.network.conns.get(&id).map(|conn| conn.ends[1].link) else { return };
        if self.network.links.is_cut(back) {
            if let Some(attempt) = self.network.attempts.get(&id) {
                let (again, give_up_at) = (self.now + SYN_RETRY_NS, attempt.give_up_at);
                let event = if again < give_up_at { Event::Established(id) } else { Event::ConnectTimeout(id) };
                self.schedule(again.min(give_up_at), event);
            }
            return;
        }
        if let Some(attempt) = self.network.attempts.remove(&id) {
            let socket = self.give(id, 0, attempt.home);
            return self.complete(attempt.home, attempt.tag, Ok(Outcome::Connected(socket)));
        }
        // Nobody waits any more: the other end learns it, unless this machine died.
        match self.network.conns.get(&id).map(|conn| conn.ends[0].state) {
            Some(EndState::Waiting) => self.hang_up(id, 0, true),
            Some(EndState::Closed) => self.answer_with_reset(id, 1),
            _ => {}
        }
    }

    pub(super) fn refused(&mut self, id: u64) {
        let Some(attempt) = self.network.attempts.get(&id) else { return };
        if self.network.links.is_cut(attempt.syn.back) {
            return self.repeat_syn(id);
        }
        self.end_attempt(id, io::ErrorKind::ConnectionRefused);
    }

    pub(super) fn end_attempt(&mut self, id: u64, kind: io::ErrorKind) {
        if let Some(attempt) = self.network.attempts.remove(&id) {
            self.complete(attempt.home, attempt.tag, Err(kind.into()));
            if let Some(conn) = self.network.conns.get_mut(&id) {
                // The other end believes in it until it speaks.
                conn.ends[0].state = EndState::Closed;
                self.forget_if_over(id);
            }
        }
    }

    /// Hands an end to a loop.
    fn give(&mut self, conn: u64, side: usize, home: usize) -> Socket {
        let key = self.loops[home].sockets.insert(SimSocket { conn, side, recv: None, is_queued: false });
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
            self.hand(home, Completion { tag, result, more: true, buf: None });
        }
    }
}
