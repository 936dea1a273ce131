//! Completions of the control thread: links come up, bytes come in and go out.

use std::net::SocketAddr;

use bytes::Bytes;
use net::ids::RequestId;
use net::reactor::{Completion, Io, Listener, Mono, Op, Outcome, Socket, StreamKind};
use net::wire::body::{Refuse, RefuseCode};
use net::wire::message::Message;
use wal::marks::{Mark, reach};

use super::link::{HANDSHAKE_MS_MAX, Introduction, Link, Role, SILENCE_MS_MAX};
use super::{
    ControlLoop, DialTarget, GOOD_LINK_MS, LinkKey, Port, Purpose, REDIAL_MS_MAX, REDIAL_MS_MIN, Redial,
    UNREACHABLE_WARN_MS,
};
use crate::host::Host;
use crate::replication::receive::Receiver;
use crate::replication::send::Sender;

/// How long a listener rests after an accept for which there was no descriptor or memory.
const ACCEPT_REST_MS: u64 = 100;

/// Links at once: peers, their reconnects, and local clients of discovery.
const LINKS_MAX: usize = 1024;

impl<H: Host> ControlLoop<H> {
    pub(super) fn complete(&mut self, completion: Completion<H::File>) {
        let Some(purpose) = self.ops.context(&completion) else { return };
        match purpose {
            Purpose::Accept(listener, port) => self.accepted(listener, port, completion),
            Purpose::Receive(key) => self.received(key, completion),
            Purpose::Send(key) => {
                if let Some(link) = self.link(key) {
                    link.sending = false;
                    link.broken |= completion.result.is_err();
                    self.serve.insert(key);
                }
                // Requests that waited for the peer to read.
                self.take_frames(key);
            }
            Purpose::Close => {}
            Purpose::Dial(target) => self.dialled(target, completion),
            Purpose::OpenSegment(key, segment) => self.segment_opened(key, segment, completion),
            Purpose::ReadSegment(key) => self.segment_read(key, completion),
            Purpose::RemoveOldSegment => self.old_segment_removed(completion),
        }
    }

    pub(super) fn link(&mut self, key: LinkKey) -> Option<&mut Link> {
        self.links.get_mut(key.index).filter(|link| link.generation == key.generation)
    }

    fn accepted(&mut self, listener: Listener, port: Port, completion: Completion<H::File>) {
        if completion.is_exhausted() {
            tracing::warn!("a connection cannot be accepted: too many open files or too little memory");
            self.resting.push((listener, port));
            self.rest_until = self.now().plus_ms(ACCEPT_REST_MS);
        } else if !completion.more {
            self.ops.submit(&mut self.io, Op::Accept { listener }, Purpose::Accept(listener, port));
        }
        let Ok(Outcome::Accepted(socket, remote)) = completion.result else { return };
        if self.links.len() >= LINKS_MAX {
            tracing::warn!(%remote, max = LINKS_MAX, "a connection was closed: too many links");
            self.ops.submit(&mut self.io, Op::Close { socket }, Purpose::Close);
            return;
        }
        let role = match port {
            Port::Discovery => Role::DiscoveryIn,
            Port::Replication => Role::Serving { sender: Box::new(Sender::default()) },
        };
        self.add_link(socket, remote, role);
    }

    /// Lets listeners accept again after their rest.
    pub(super) fn end_rest(&mut self) {
        if self.now() < self.rest_until {
            return;
        }
        for (listener, port) in std::mem::take(&mut self.resting) {
            self.ops.submit(&mut self.io, Op::Accept { listener }, Purpose::Accept(listener, port));
        }
    }

    fn add_link(&mut self, socket: Socket, remote: SocketAddr, role: Role) -> LinkKey {
        self.generation = self.generation.wrapping_add(1);
        let delay_ns = self.mesh.delays_ns.get(&remote.ip()).copied().unwrap_or(0);
        let link = Link::new(socket, self.generation, remote, role, delay_ns, self.now());
        let key = LinkKey { index: self.links.insert(link), generation: self.generation };
        self.start_receiving(key);
        key
    }

    fn start_receiving(&mut self, key: LinkKey) {
        let Some(link) = self.links.get_mut(key.index) else { return };
        let op = Op::Recv { socket: link.socket };
        link.receive = Some(self.ops.submit(&mut self.io, op, Purpose::Receive(key)));
    }

    /// Dials what is not connected and whose time has come.
    pub(super) fn dial(&mut self) {
        let now = self.now();
        let mut wanted: Vec<(DialTarget, SocketAddr)> = Vec::new();
        for (index, address) in self.mesh.peers.iter().enumerate() {
            let up =
                self.links.iter().any(|(_, link)| matches!(link.role, Role::DiscoveryOut { peer } if peer == index));
            if !up {
                wanted.push((DialTarget::Discovery(index), *address));
            }
        }
        for address in self.sources.iter().copied() {
            let up = self.links.iter().any(
                |(_, link)| matches!(link.role, Role::Following { target, .. } if target == address && !link.is_bulk),
            );
            if !up {
                wanted.push((DialTarget::Source(address), address));
            }
            let is_bulk =
                |link: &Link| matches!(link.role, Role::Following { target, .. } if target == address && link.is_bulk);
            if self.wants_bulk(address) && !self.links.iter().any(|(_, link)| is_bulk(link)) {
                wanted.push((DialTarget::Bulk(address), address));
            }
        }
        for (target, to) in wanted {
            let redial = self.dials.entry(target).or_insert(Redial {
                not_before: Mono(0),
                wait_ms: 0,
                busy: false,
                warned_at: None,
            });
            if redial.busy || now < redial.not_before {
                continue;
            }
            redial.busy = true;
            redial.wait_ms = (redial.wait_ms * 2).clamp(REDIAL_MS_MIN, REDIAL_MS_MAX);
            redial.not_before = redial.not_before.max(now.plus_ms(redial.wait_ms));
            let local = self.mesh.bind_outgoing.then_some(self.mesh.advertise);
            let kind = match target {
                DialTarget::Discovery(_) => StreamKind::Discovery,
                DialTarget::Source(_) | DialTarget::Bulk(_) => StreamKind::Replication,
            };
            let op = Op::Connect { local, to, kind };
            self.ops.submit(&mut self.io, op, Purpose::Dial(target));
        }
    }

    /// Puts off the next attempt to reach `target`.
    pub(super) fn redial_later(&mut self, target: DialTarget, wait_ms: u64) {
        let not_before = self.now().plus_ms(wait_ms);
        let redial =
            self.dials.entry(target).or_insert(Redial { not_before, wait_ms: 0, busy: false, warned_at: None });
        redial.not_before = redial.not_before.max(not_before);
    }

    fn dialled(&mut self, target: DialTarget, completion: Completion<H::File>) {
        if let Some(redial) = self.dials.get_mut(&target) {
            redial.busy = false;
        }
        let socket = match completion.result {
            Ok(Outcome::Connected(socket)) => socket,
            Ok(_) => return,
            Err(error) => {
                self.say_unreachable(target, &error);
                return;
            }
        };
        let (role, remote) = match target {
            DialTarget::Discovery(peer) => (Role::DiscoveryOut { peer }, self.mesh.peers[peer]),
            DialTarget::Source(target) | DialTarget::Bulk(target) => {
                (Role::Following { target, receiver: Box::new(Receiver::default()) }, target)
            }
        };
        let key = self.add_link(socket, remote, role);
        if let Some(link) = self.link(key) {
            link.is_bulk = matches!(target, DialTarget::Bulk(_));
        }
        self.say_hello(key, false);
    }

    /// Says that nobody answers, at first and from time to time.
    fn say_unreachable(&mut self, target: DialTarget, error: &std::io::Error) {
        let now = self.now();
        let Some(redial) = self.dials.get_mut(&target) else { return };
        if redial.warned_at.is_some_and(|at| now < at.plus_ms(UNREACHABLE_WARN_MS)) {
            return;
        }
        redial.warned_at = Some(now);
        let (what, address) = match target {
            DialTarget::Discovery(peer) => ("discovery", self.mesh.peers[peer]),
            DialTarget::Source(address) | DialTarget::Bulk(address) => ("replication", address),
        };
        tracing::warn!(%address, %error, "the {what} port of a peer cannot be reached; it is tried again. Is it up, and the tunnel?");
    }

    fn received(&mut self, key: LinkKey, completion: Completion<H::File>) {
        let now = self.now();
        let Some(link) = self.link(key) else { return };
        if !completion.more {
            link.receive = None;
        }
        let repeated = completion.is_to_be_repeated();
        if completion.is_out_of_buffers() {
            reach(Mark::ReceiveRearmed);
        }
        match (completion.result, completion.buf) {
            (Ok(_), Some(lease)) if !lease.is_empty() => link.arrived(&lease, now),
            (Ok(_), _) => link.broken = true,
            (Err(_), _) => link.broken |= !repeated,
        }
        self.take_frames(key);
    }

    /// Lets the lab's delay lines release what is due.
    pub(super) fn release_delayed(&mut self) {
        let now = self.now();
        let due: Vec<LinkKey> = self
            .links
            .iter()
            .filter(|(_, link)| link.next_release().is_some_and(|at| at <= now))
            .map(|(index, link)| LinkKey { index, generation: link.generation })
            .collect();
        for key in due {
            while self.link(key).is_some_and(|link| link.release_one(now)) {
                self.take_frames(key);
            }
        }
    }

    fn take_frames(&mut self, key: LinkKey) {
        loop {
            let Some(link) = self.link(key) else { return };
            if link.closing || link.broken || link.owes_too_much() {
                return;
            }
            let decoded = match link.reader.next() {
                Ok(None) => return,
                Ok(Some(frame)) => Message::decode(&frame).map(|message| (frame.header.request_id, message)),
                Err(error) => Err(error),
            };
            match decoded {
                Ok((request, message)) => self.handle(key, request, message),
                Err(error) => self.refuse(key, &Refuse::new(RefuseCode::Protocol, &error.to_string())),
            }
        }
    }

    /// Says why, then closes.
    pub(super) fn refuse(&mut self, key: LinkKey, refuse: &Refuse) {
        let Some(link) = self.link(key) else { return };
        tracing::warn!(remote = %link.remote, reason = refuse.text, "a link is closed");
        link.push(&Message::Refuse(refuse.clone()), RequestId(0));
        link.closing = true;
        self.refused += 1;
        self.last_refusal.clone_from(&refuse.text);
    }

    /// Heartbeats, timeouts, and the end of links.
    pub(super) fn keep_links(&mut self) {
        let now = self.now();
        let physical_ms = self.physical.clock_unix_ms();
        for index in 0..self.links.capacity() {
            let Some(link) = self.links.get_mut(index) else { continue };
            let key = LinkKey { index, generation: link.generation };
            match &link.introduction {
                Introduction::Done(_) => {
                    link.beat(now, physical_ms);
                    let proves = !link.is_good && now > link.opened_at.plus_ms(GOOD_LINK_MS);
                    link.is_good |= proves;
                    let target = link.dial_target().filter(|_| proves);
                    // What is in the delay line was sent in time.
                    let allowed = SILENCE_MS_MAX + link.delay_ns / 1_000_000;
                    if now > link.heard_at.plus_ms(allowed) && !link.broken {
                        reach(Mark::PeerSilent);
                        tracing::warn!(remote = %link.remote, "a peer fell silent; its link is reset");
                        link.broken = true;
                    }
                    if let Some(redial) = target.and_then(|target| self.dials.get_mut(&target)) {
                        redial.wait_ms = 0;
                        redial.warned_at = None;
                    }
                }
                Introduction::Pending(since) => {
                    let local_client = matches!(link.role, Role::DiscoveryIn) && link.remote.ip().is_loopback();
                    let is_waiting = self.surveys.wait_on(key) || self.entropy.wait_on(key);
                    let allowed = HANDSHAKE_MS_MAX + 2 * link.delay_ns / 1_000_000;
                    // A local client of discovery may stay as long as it speaks from time to time.
                    let since = if local_client { link.heard_at.plus_ms(60_000) } else { *since };
                    if is_waiting {
                        // What it asked for may take long.
                        link.heard_at = now;
                        link.introduction = Introduction::Pending(now);
                    } else if now > since.plus_ms(allowed) && !link.broken {
                        if link.dial_target().is_some() {
                            tracing::warn!(remote = %link.remote, "nobody there says hello; is this the port of a godwit node?");
                        }
                        link.broken = true;
                    }
                }
            }
            let Some(link) = self.link(key) else { continue };
            let done = link.broken || link.closing && link.out.is_empty() && !link.sending;
            if done {
                self.wind_down(key);
            } else {
                self.regulate(key);
            }
        }
    }

    fn regulate(&mut self, key: LinkKey) {
        let Some(link) = self.link(key) else { return };
        match (link.is_full(), link.receive) {
            (true, Some(tag)) => self.io.cancel(tag),
            (false, None) => self.start_receiving(key),
            _ => {}
        }
    }

    /// Cancels what is in flight, then closes, then forgets.
    fn wind_down(&mut self, key: LinkKey) {
        let Some(link) = self.link(key) else { return };
        link.broken = true;
        link.out.clear();
        if let Some(tag) = link.receive {
            self.io.cancel(tag);
            return;
        }
        if link.sending {
            return;
        }
        let socket = link.socket;
        let link = self.links.remove(key.index);
        self.ops.submit(&mut self.io, Op::Close { socket }, Purpose::Close);
        self.link_lost(key, &link);
    }

    /// Sends what is queued, one send per link at a time.
    pub(super) fn send_all(&mut self) {
        for (index, link) in &mut self.links {
            if link.sending || link.out.is_empty() || link.broken {
                continue;
            }
            let runs: Vec<Bytes> = std::mem::take(&mut link.out);
            link.out_bytes = 0;
            link.sending = true;
            let key = LinkKey { index, generation: link.generation };
            self.ops.submit(&mut self.io, Op::Send { socket: link.socket, runs }, Purpose::Send(key));
        }
    }
}
