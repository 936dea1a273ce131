//! Discovery's driver: registrations of this node's own services, requests of local clients, exchanges with peers.

use std::net::SocketAddr;

use net::ids::{Epoch, InstanceId, RequestId, ServiceName};
use net::reactor::Mono;
use net::wire::body::{Done, EntryState, ErrorCode, Failed, InstanceKey, ListEntry, Refuse, RefuseCode, Register};
use net::wire::message::Message;
use wal::marks::{Mark, reach};

use super::link::{Link, Role};
use super::status::{PeerStatus, ServiceStatus};
use super::{ControlLoop, DialTarget, LinkKey};
use crate::discovery::limits::{EXCHANGE_MS, TTL_MS_DEFAULT};
use crate::discovery::{Effect, PeerIndex};
use crate::host::Host;

/// The service under which a node offers its origin logs.
const REPLICATION_SERVICE: &str = "replication";

impl<H: Host> ControlLoop<H> {
    /// Refreshes own registrations, runs the state machine, performs its effects.
    pub(super) fn run_discovery(&mut self) {
        let now = self.now();
        if self.registered_at.is_none_or(|at| now >= at.plus_ms(EXCHANGE_MS)) {
            self.registered_at = Some(now);
            self.register_own_services();
        }
        for effect in self.federation.tick(now) {
            match effect {
                Effect::SendFederated { peer, message } => {
                    if let Some(link) = self.peer_links[peer.0].and_then(|key| self.link(key)) {
                        link.push(&Message::FederatedRegister(message), RequestId(0));
                    }
                }
                Effect::ResetLink { peer, redial_ms } => {
                    if let Some(key) = self.peer_links[peer.0].take()
                        && let Some(link) = self.link(key)
                    {
                        link.broken = true;
                    }
                    self.redial_later(DialTarget::Discovery(peer.0), redial_ms);
                }
                Effect::Changed => self.list_again(),
            }
        }
    }

    fn register_own_services(&mut self) {
        let now = self.now();
        // The run's first version: unlike the wall clock it rises with every run, or peers would take this run for an old one.
        let epoch = Epoch(self.logs.logs.last().map_or(0, |log| log.first.0));
        for (name, port) in self.mesh.services.clone() {
            let Ok(service) = ServiceName::parse(&name) else { continue };
            let register = Register {
                key: InstanceKey { service, instance: InstanceId(u64::from(self.facts.node.0)), epoch },
                address: SocketAddr::new(self.mesh.local, port),
                ttl_ms: TTL_MS_DEFAULT,
                metadata: Vec::new(),
            };
            if let Err(error) = self.federation.register_local(register, now) {
                tracing::error!(service = name, %error, "an own service could not be registered");
            }
        }
    }

    /// What is listed has changed: the sources to follow, which are remote instances of the replication service, and what the
    /// monitor shows.
    fn list_again(&mut self) {
        let listing = self.federation.list(None, true, self.now());
        let is_source = |entry: &&ListEntry| {
            entry.key.service.as_str() == REPLICATION_SERVICE
                && entry.region != self.region
                && entry.state != EntryState::Gone
        };
        self.sources = listing.entries.iter().filter(is_source).map(|entry| entry.address).collect();
        let show = |entry: &ListEntry| ServiceStatus {
            service: entry.key.service.to_string(),
            region: entry.region.to_string(),
            address: entry.address.to_string(),
            state: format!("{:?}", entry.state).to_ascii_lowercase(),
        };
        let services = listing.entries.iter().map(show).collect();
        self.status.write(|status| status.services = services);
    }

    /// Which configured peer a discovery link belongs to.
    fn peer_of(&mut self, key: LinkKey) -> Option<usize> {
        let link = self.link(key)?;
        match link.role {
            Role::DiscoveryOut { peer } => Some(peer),
            Role::DiscoveryIn => {
                let (advertised, remote) = (link.hello()?.advertised, link.remote.ip());
                // The address it advertises must be where it comes from: nobody speaks for a peer from elsewhere.
                let genuine = advertised.ip() == remote;
                genuine.then(|| self.mesh.peers.iter().position(|peer| *peer == advertised))?
            }
            _ => None,
        }
    }

    /// A discovery link's handshake is done. It is used if the peer has no other one that is up, or is a later run by now: then
    /// the other one is dead, though nobody said so yet.
    pub(super) fn discovery_link_up(&mut self, key: LinkKey) {
        let Some(peer) = self.peer_of(key) else {
            reach(Mark::UnknownPeerRefused);
            let text = "this node is not one of the peer's DISCOVERY_PEERS; add its advertised address there";
            self.refuse(key, &Refuse::new(RefuseCode::UnknownRegion, text));
            return;
        };
        let now = self.now();
        let Some((region, node, incarnation)) = self
            .link(key)
            .and_then(|link| link.hello())
            .map(|hello| (hello.region.clone(), hello.node, hello.incarnation))
        else {
            return;
        };
        let present = self.peer_links[peer].and_then(|key| self.link(key)).filter(|link| link.is_up());
        let same_run = present
            .and_then(|link| link.hello())
            .is_some_and(|hello| hello.node == node && hello.incarnation == incarnation);
        if !same_run {
            self.peer_links[peer] = Some(key);
            self.federation.on_peer_up(PeerIndex(peer), region, node, incarnation, now);
        }
    }

    pub(super) fn link_lost(&mut self, key: LinkKey, link: &Link) {
        tracing::info!(remote = %link.remote, "link down");
        if let Some(hello) = link.hello() {
            let (sent, received) = self.past_traffic.entry(hello.node).or_default();
            sent.add(link.sent);
            received.add(link.received);
        }
        self.serve.remove(&key);
        let now = self.now();
        for peer in 0..self.peer_links.len() {
            if self.peer_links[peer] != Some(key) {
                continue;
            }
            self.federation.on_peer_down(PeerIndex(peer), now);
            self.peer_links[peer] = None;
            // Another link of the same peer takes over; of links to different runs of it, the one that was opened last.
            let mut others: Vec<(Mono, LinkKey)> = self
                .links
                .iter()
                .filter(|(_, link)| link.is_up() && matches!(link.role, Role::DiscoveryIn | Role::DiscoveryOut { .. }))
                .map(|(index, link)| (link.opened_at, LinkKey { index, generation: link.generation }))
                .collect();
            others.sort_by_key(|(opened_at, _)| *opened_at);
            for (_, other) in others {
                if self.peer_of(other) == Some(peer) {
                    self.discovery_link_up(other);
                }
            }
        }
    }

    pub(super) fn handle_discovery(&mut self, key: LinkKey, request: RequestId, message: Message) {
        let now = self.now();
        let Some(link) = self.link(key) else { return };
        let is_peer = link.hello().is_some();
        let local = link.remote.ip().is_loopback() || link.remote.ip() == self.mesh.advertise;
        match message {
            Message::FederatedRegister(register) => {
                let Some(peer) = self.peer_of(key) else {
                    let text = "registrations of a peer need a handshake first; say hello";
                    self.refuse(key, &Refuse::new(RefuseCode::Unexpected, text));
                    return;
                };
                let ack = self.federation.on_federated_register(PeerIndex(peer), &register, now);
                for refused in &ack.refused {
                    tracing::warn!(peer, refused = ?refused, "a registration of a peer was refused");
                }
                if let Some(link) = self.link(key) {
                    link.push(&Message::FederatedAck(ack), request);
                }
            }
            Message::FederatedAck(ack) => {
                if let Some(peer) = self.peer_of(key) {
                    self.federation.on_ack(PeerIndex(peer), ack, now);
                }
            }
            Message::List(list) => {
                let listing = self.federation.list(list.service.as_ref(), list.with_gone, now);
                self.answer_list(key, request, listing);
            }
            Message::ListLocal(list) => {
                let listing = self.federation.list_local(list.service.as_ref(), list.with_gone, now);
                self.answer_list(key, request, listing);
            }
            Message::Register(_) | Message::Deregister(_) if !local => {
                let text = format!("instances register at the node of their own host; use {}", self.mesh.local);
                self.answer(key, request, Err(Failed::new(ErrorCode::Unsupported, &text)));
            }
            Message::RemoveMember(_) if !local => {
                let text = format!("members are removed at the host of a node; use {}", self.mesh.local);
                self.answer(key, request, Err(Failed::new(ErrorCode::Unsupported, &text)));
            }
            Message::Repair(_) if !local => {
                let text = format!("a node is repaired from its own host; use {}", self.mesh.local);
                self.answer(key, request, Err(Failed::new(ErrorCode::Unsupported, &text)));
            }
            Message::Survey(_) | Message::Compare(_) | Message::Inspect(_) | Message::Lookup(_) => {
                self.survey(key, request, message);
            }
            Message::Fetch(fetch) if is_peer => self.give_records(key, request, fetch.keys),
            Message::Repair(_) => self.repair_now(key, request),
            Message::Coverage(_)
            | Message::Sums(_)
            | Message::Entries(_)
            | Message::Records(_)
            | Message::Ok(_)
            | Message::Error(_)
                if is_peer =>
            {
                self.hear_comparison(key, request, message);
            }
            Message::RemoveMember(remove) => self.remove_member(key, request, remove.node),
            Message::Register(register) => {
                let outcome = self.federation.register_local(register, now).map_err(|error| error.to_failed());
                self.answer(key, request, outcome);
            }
            Message::Deregister(deregister) => {
                self.federation.deregister_local(&deregister.key, now);
                self.answer(key, request, Ok(()));
            }
            message => {
                let text = format!("{} has no meaning on the discovery port", message.opcode().name());
                self.refuse(key, &Refuse::new(RefuseCode::Unexpected, &text));
            }
        }
    }

    pub(super) fn answer(&mut self, key: LinkKey, request: RequestId, outcome: Result<(), Failed>) {
        let message = match outcome {
            Ok(()) => Message::Ok(Done),
            Err(failed) => Message::Error(failed),
        };
        if let Some(link) = self.link(key) {
            link.push(&message, request);
        }
    }

    fn answer_list(&mut self, key: LinkKey, request: RequestId, listing: crate::discovery::Listing) {
        let Some(link) = self.link(key) else { return };
        for reply in listing.into_replies() {
            link.push(&Message::ListReply(reply), request);
        }
    }

    pub(super) fn peer_statuses(&self) -> Vec<PeerStatus> {
        let own = self.logs.logs.last();
        let mut statuses = Vec::new();
        for (index, peer) in self.federation.peer_status().enumerate() {
            let offset = self.skews.offset(index, self.now());
            let node = peer.node.unwrap_or_default();
            let mut status = PeerStatus {
                region: peer.region.as_ref().map(ToString::to_string).unwrap_or_default(),
                node: node.0,
                address: peer.address.to_string(),
                discovery_up: peer.linked,
                clock_offset_ms: offset.map(|offset| offset.ms),
                clock_uncertainty_ms: offset.map(|offset| offset.uncertainty_ms),
                clock_alarm: self.skews.is_alarmed(index),
                comparisons: self.entropy.compared(index).comparisons,
                keys_lacking: self.entropy.compared(index).lacking,
                keys_repaired: self.entropy.compared(index).repaired,
                compared_unix_ms: self.entropy.compared(index).ended_unix_ms,
                ..PeerStatus::default()
            };
            let (mut sent, mut received) = self.past_traffic.get(&node).copied().unwrap_or_default();
            for (_, link) in &self.links {
                if link.hello().is_none_or(|hello| hello.node != node) {
                    continue;
                }
                status.following |= matches!(link.role, Role::Following { .. }) && link.is_up() && !link.is_bulk;
                status.followed |= matches!(link.role, Role::Serving { .. }) && link.is_up() && !link.is_bulk;
                // What lies behind bulk says little about the path.
                status.rtt_us = link.rtt_ns.filter(|_| !link.is_bulk).map(|ns| ns / 1000).or(status.rtt_us);
                sent.add(link.sent);
                received.add(link.received);
            }
            status.sent_records_bytes = sent.records;
            status.sent_records_raw_bytes = sent.raw_records;
            status.sent_claims_bytes = sent.claims;
            status.sent_heartbeats_bytes = sent.heartbeats;
            status.sent_other_bytes = sent.other;
            status.received_records_bytes = received.records;
            status.received_records_raw_bytes = received.raw_records;
            (status.sent_bulk_bytes, status.received_bulk_bytes) = (sent.bulk, received.bulk);
            status.catch_up = self.catch_up_of(node);
            let acknowledged = own.and_then(|own| self.acknowledged.get(&(node, own.id)).copied());
            let acknowledged = acknowledged.unwrap_or(wal::Version::ZERO);
            status.acknowledged = acknowledged.0;
            // Nobody waits for a node that was removed.
            let counts = !self.members.is_removed(node);
            if counts {
                status.lag_ms = self.lag.lag_ms(acknowledged, self.time.unix_ms);
                let volume = self.lag.unacknowledged(acknowledged);
                (status.unacknowledged_bytes, status.unacknowledged_records) = (volume.bytes, volume.records);
            }
            let held =
                self.watermarks.iter().filter(|(log, _)| log.node == node).map(|(_, component)| component.version.0);
            status.held = held.max().unwrap_or(0);
            statuses.push(status);
        }
        statuses
    }
}
