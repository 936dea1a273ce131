//! The local registry, all peers, and the lists that clients ask for.
//!
//! The driver calls an event method for what happened, then `tick`, performs the effects in order, and comes back at
//! `next_deadline` or with the next event.

use std::net::{IpAddr, SocketAddr};

use net::ids::{Incarnation, NodeId, RegionName, ServiceName};
use net::reactor::Mono;
use net::wire::body::federated_register::{FIXED_BYTES_MAX, SnapshotPart};
use net::wire::body::{
    ErrorCode, Failed, FederatedAck, FederatedEntry, FederatedRegister, InstanceKey, ListEntry, ListReply, RefusedCode,
    Register,
};
use net::wire::limits::{CONTROL_BODY_BYTES_MAX, ENTRIES_MAX, METADATA_BYTES_MAX};
use thiserror::Error;
use wal::planted::{self, Fault};

use super::address::{Unusable, check, for_peers, from_peer};
use super::limits::{LEARNING_MS, LOCAL_GRACE_MS, PEER_LEARNING_MS, TTL_MS_MAX, TTL_MS_MIN};
use super::peer::{Due, Peer, PeerIndex, PeerStatus, refuse};
use super::registry::{AnnounceError, Announced, Announcement, Departure, Entry, Registry};

/// Who this node is and whom it knows.
#[derive(Clone, Debug)]
pub struct Settings {
    /// This region.
    pub region: RegionName,
    /// This node.
    pub node: NodeId,
    /// This run of it.
    pub incarnation: Incarnation,
    /// Where peers reach this host.
    pub advertise: IpAddr,
    /// `DISCOVERY_PEERS`, own address excluded.
    pub peers: Vec<SocketAddr>,
}

/// What the driver must do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Send this on the peer's discovery link.
    SendFederated {
        /// To whom.
        peer: PeerIndex,
        /// What.
        message: FederatedRegister,
    },
    /// The peer stopped acknowledging: close its link and dial again later. `on_peer_down` need not follow.
    ResetLink {
        /// Whose.
        peer: PeerIndex,
        /// Not before this many ms.
        redial_ms: u64,
    },
    /// Some list changed; wake whoever watches. At most one per tick.
    Changed,
}

/// Why a local registration was refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RegisterError {
    /// The address names no host.
    #[error("{0} names no host and port that clients could reach; register the instance's own address")]
    Address(SocketAddr),
    /// The address is another region's.
    #[error("{0} belongs to another region; register the instance at a node of that region")]
    ForeignRegion(SocketAddr),
    /// The time to live is out of range.
    #[error("a time to live is {TTL_MS_MIN} to {TTL_MS_MAX} ms, not {0}; choose three times the refresh interval")]
    Ttl(u32),
    /// The metadata is too long.
    #[error("metadata of {0} bytes exceeds {METADATA_BYTES_MAX}; shorten it")]
    Metadata(usize),
    /// The registry refused it.
    #[error(transparent)]
    Registry(#[from] AnnounceError),
}

impl RegisterError {
    /// The answer to send.
    #[must_use]
    pub fn to_failed(&self) -> Failed {
        let code = match self {
            RegisterError::Address(_) | RegisterError::ForeignRegion(_) => ErrorCode::Address,
            RegisterError::Ttl(_) | RegisterError::Metadata(_) => ErrorCode::Invalid,
            RegisterError::Registry(AnnounceError::Full) => ErrorCode::Full,
            RegisterError::Registry(AnnounceError::Stale { .. } | AnnounceError::Left) => ErrorCode::StaleEpoch,
        };
        Failed::new(code, &self.to_string())
    }
}

/// The answer to a list request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// Absence means unknown, not absent: this node started recently and has not heard from all.
    pub learning: bool,
    /// In order of region (this one first), source, service and instance.
    pub entries: Vec<ListEntry>,
}

impl Listing {
    /// The frames to answer with: at least one, `more` on all but the last.
    #[must_use]
    pub fn into_replies(self) -> Vec<ListReply> {
        let learning = self.learning;
        let parts = cut(self.entries, CONTROL_BODY_BYTES_MAX - 4, ListEntry::encoded_bytes);
        let count = parts.len();
        let reply = |(index, entries)| ListReply { more: index + 1 < count, learning, entries };
        parts.into_iter().enumerate().map(reply).collect()
    }
}

/// Discovery of one node.
#[derive(Debug)]
pub struct Federation {
    settings: Settings,
    started_at: Mono,
    local: Registry,
    peers: Vec<Peer>,
    changed: bool,
}

impl Federation {
    /// Knows nothing yet, and says so for [`LEARNING_MS`].
    #[must_use]
    pub fn new(settings: Settings, now: Mono) -> Federation {
        let peers = settings.peers.iter().map(|address| Peer::new(*address)).collect();
        Federation { settings, started_at: now, local: Registry::default(), peers, changed: false }
    }

    /// An instance registers or refreshes itself here.
    ///
    /// # Errors
    /// When it is refused; nothing changed. [`RegisterError::to_failed`] is the answer.
    pub fn register_local(&mut self, register: Register, now: Mono) -> Result<(), RegisterError> {
        let Register { key, address, ttl_ms, metadata } = register;
        if check(address) == Err(Unusable::NoHost) {
            return Err(RegisterError::Address(address));
        }
        let owner = self.peers.iter().find(|peer| peer.address.ip().to_canonical() == address.ip().to_canonical());
        if owner.is_some_and(|peer| peer.region.as_ref().is_some_and(|region| *region != self.settings.region)) {
            return Err(RegisterError::ForeignRegion(address));
        }
        if !(TTL_MS_MIN..=TTL_MS_MAX).contains(&ttl_ms) {
            return Err(RegisterError::Ttl(ttl_ms));
        }
        if metadata.len() > METADATA_BYTES_MAX {
            return Err(RegisterError::Metadata(metadata.len()));
        }
        let ttl_ms = u64::from(ttl_ms);
        let said = Announcement {
            key: key.clone(),
            address,
            metadata,
            expires_at: now.plus_ms(ttl_ms),
            // Refreshed every third of it, so this is two missed refreshes and a bit.
            suspect_at: now.plus_ms(ttl_ms * 3 / 4),
            gone_at: now.plus_ms(ttl_ms + LOCAL_GRACE_MS),
        };
        // Whoever is gone but not yet swept must be reported before its slot is taken again.
        self.sweep_local(now);
        if self.local.announce(said, now)? == Announced::Changed {
            self.note_change(&key);
        }
        Ok(())
    }

    /// An instance leaves. Leaving twice is leaving.
    pub fn deregister_local(&mut self, key: &InstanceKey, now: Mono) {
        if self.local.leave(key, Departure::Final, now) {
            self.note_change(key);
        }
    }

    /// A discovery link to this run of this peer is up; who it is comes from the handshake, never from an address.
    pub fn on_peer_up(
        &mut self,
        peer: PeerIndex,
        region: RegionName,
        node: NodeId,
        incarnation: Incarnation,
        now: Mono,
    ) {
        if let Some(peer) = self.peers.get_mut(peer.0) {
            // Its entries are listed under the region of the handshake.
            self.changed |= peer.region.as_ref() != Some(&region);
            peer.up(region, node, incarnation, now);
        }
    }

    /// The discovery link to this peer is gone.
    pub fn on_peer_down(&mut self, peer: PeerIndex, now: Mono) {
        if let Some(peer) = self.peers.get_mut(peer.0) {
            peer.down(now);
        }
    }

    /// A peer's registrations came over its link. The answer goes back on the same link.
    pub fn on_federated_register(&mut self, peer: PeerIndex, message: &FederatedRegister, now: Mono) -> FederatedAck {
        // What every peer's host belongs to, as far as handshakes told; an unknown one is foreign to all but itself.
        let hosts: Vec<(IpAddr, Option<RegionName>)> =
            self.peers.iter().map(|peer| (peer.address.ip().to_canonical(), peer.region.clone())).collect();
        let Some(sender) = self.peers.get_mut(peer.0) else {
            let mut ack = FederatedAck { sequence: message.sequence, ..FederatedAck::default() };
            for entry in &message.entries {
                refuse(&mut ack, &entry.key, RefusedCode::Identity, "this node is not a configured peer");
            }
            return ack;
        };
        let (advertise, own_ip) = (self.settings.advertise, sender.address.ip().to_canonical());
        let region = sender.region.clone();
        let foreign = |ip: IpAddr| ip != own_ip && hosts.iter().any(|(host, of)| *host == ip && *of != region);
        let (ack, changed) = sender.receive(message, now, |address| from_peer(address, advertise, foreign));
        self.changed |= changed;
        ack
    }

    /// A peer's acknowledgement came over its link.
    pub fn on_ack(&mut self, peer: PeerIndex, ack: FederatedAck, now: Mono) {
        if let Some(peer) = self.peers.get_mut(peer.0) {
            peer.acknowledged(ack, now);
        }
    }

    /// What is due. Call after every event and at `next_deadline`.
    pub fn tick(&mut self, now: Mono) -> Vec<Effect> {
        self.sweep_local(now);
        let mut effects = Vec::new();
        for index in 0..self.peers.len() {
            self.tick_peer(PeerIndex(index), now, &mut effects);
        }
        if std::mem::take(&mut self.changed) {
            effects.push(Effect::Changed);
        }
        effects
    }

    /// When `tick` has something to do without an event; `Mono(0)` when it has now.
    #[must_use]
    pub fn next_deadline(&self) -> Mono {
        if self.changed {
            return Mono(0);
        }
        let peers = self.peers.iter().map(|peer| peer.next_deadline().min(peer.registry.next_change()));
        peers.fold(self.local.next_change(), Mono::min)
    }

    /// Instances in all regions; `None` = of all services.
    #[must_use]
    pub fn list(&self, service: Option<&ServiceName>, with_gone: bool, now: Mono) -> Listing {
        let unheard = self.peers.iter().any(|peer| !peer.snapshot_heard);
        let learning = self.learning(now) || (unheard && now < self.started_at.plus_ms(PEER_LEARNING_MS));
        Listing { learning, entries: self.entries(service, with_gone, now, |_| true) }
    }

    /// Instances of this region; `None` = of all services.
    #[must_use]
    pub fn list_local(&self, service: Option<&ServiceName>, with_gone: bool, now: Mono) -> Listing {
        let own = &self.settings.region;
        let neighbour = |peer: &Peer| peer.region.as_ref() == Some(own);
        let unheard = self.peers.iter().any(|peer| neighbour(peer) && !peer.snapshot_heard);
        let learning = self.learning(now) || (unheard && now < self.started_at.plus_ms(PEER_LEARNING_MS));
        Listing { learning, entries: self.entries(service, with_gone, now, neighbour) }
    }

    /// What the monitor shows, in the configured order.
    pub fn peer_status(&self) -> impl Iterator<Item = PeerStatus> {
        self.peers.iter().map(Peer::status)
    }

    fn learning(&self, now: Mono) -> bool {
        now < self.started_at.plus_ms(LEARNING_MS)
    }

    fn entries(
        &self,
        service: Option<&ServiceName>,
        with_gone: bool,
        now: Mono,
        include: impl Fn(&Peer) -> bool,
    ) -> Vec<ListEntry> {
        let local = self.local.entries().map(|entry| (entry, &self.settings.region));
        let remote = self.peers.iter().filter(|peer| include(peer)).flat_map(|peer| {
            // A peer that never introduced itself has no entries.
            peer.region.iter().flat_map(|region| peer.registry.entries().map(move |entry| (entry, region)))
        });
        local
            .chain(remote)
            .filter(|(entry, _)| service.is_none_or(|service| entry.said.key.service == *service))
            .filter(|(entry, _)| with_gone || entry.is_live(now))
            .map(|(entry, region)| listed(entry, region, now))
            .collect()
    }

    fn sweep_local(&mut self, now: Mono) {
        let swept = self.local.sweep(now);
        self.changed |= swept.changed;
        for key in swept.gone {
            self.note_change(&key);
        }
    }

    fn note_change(&mut self, key: &InstanceKey) {
        self.changed = true;
        for peer in &mut self.peers {
            peer.note_change(key);
        }
    }

    fn tick_peer(&mut self, index: PeerIndex, now: Mono, effects: &mut Vec<Effect>) {
        let learning = self.learning(now);
        let Some(peer) = self.peers.get_mut(index.0) else { return };
        let due = peer.due(now);
        self.changed |= peer.registry.sweep(now).changed;
        match due {
            Due::Nothing => {}
            Due::Reset(redial_ms) => effects.push(Effect::ResetLink { peer: index, redial_ms }),
            Due::Exchange => {
                peer.exchanged(now);
                // While learning, what is missing here may be alive: no snapshot, so nothing is taken for gone, and
                // departures are named. A snapshot tells departures by what it does not name.
                let named = self.local.entries().filter(|entry| learning || entry.is_live(now));
                let keys: Vec<InstanceKey> = named.map(|entry| entry.said.key.clone()).collect();
                self.send(index, &keys, !learning, now, effects);
            }
            Due::Push => {
                let keys = peer.take_changes();
                self.send(index, &keys, false, now, effects);
            }
        }
    }

    /// Sends the live ones of `keys` as entries, the others as departures. Local instances only, by construction.
    fn send(&mut self, index: PeerIndex, keys: &[InstanceKey], snapshot: bool, now: Mono, effects: &mut Vec<Effect>) {
        let (mut entries, mut departed) = (Vec::new(), Vec::new());
        for key in keys {
            match self.local.entry(&key.service, key.instance) {
                Some(entry) if entry.is_live(now) => entries.push(federated(entry, self.settings.advertise, now)),
                _ => departed.push(key.clone()),
            }
        }
        if planted::is(Fault::RemoteEntriesForwarded) {
            let others = self.peers.iter().enumerate().filter(|(other, _)| *other != index.0);
            let remote = others.flat_map(|(_, peer)| peer.registry.entries()).filter(|entry| entry.is_live(now));
            entries.extend(remote.map(|entry| federated(entry, self.settings.advertise, now)));
        }
        // Half of a body each, so that a last part of entries and a first part of departures fit one frame.
        let half = (CONTROL_BODY_BYTES_MAX - FIXED_BYTES_MAX) / 2;
        let mut entries = cut(entries, half, FederatedEntry::encoded_bytes).into_iter();
        let mut departed = cut(departed, half, InstanceKey::encoded_bytes).into_iter();
        let parts = entries.len().max(departed.len());
        let Some(peer) = self.peers.get_mut(index.0) else { return };
        for part in 0..parts {
            let message = FederatedRegister {
                node: self.settings.node,
                incarnation: self.settings.incarnation,
                sequence: peer.next_sequence(now),
                snapshot: snapshot.then_some(SnapshotPart { first: part == 0, last: part + 1 == parts }),
                region: self.settings.region.clone(),
                entries: entries.next().unwrap_or_default(),
                deregistered: departed.next().unwrap_or_default(),
            };
            effects.push(Effect::SendFederated { peer: index, message });
        }
    }
}

fn federated(entry: &Entry, advertise: IpAddr, now: Mono) -> FederatedEntry {
    FederatedEntry {
        key: entry.said.key.clone(),
        address: for_peers(entry.said.address, advertise),
        ttl_ms_left: entry.ttl_ms_left(now),
        metadata: entry.said.metadata.clone(),
    }
}

fn listed(entry: &Entry, region: &RegionName, now: Mono) -> ListEntry {
    ListEntry {
        key: entry.said.key.clone(),
        region: region.clone(),
        address: entry.said.address,
        state: entry.state(now),
        ttl_ms_left: entry.ttl_ms_left(now),
        age_ms: entry.age_ms(now),
        metadata: entry.said.metadata.clone(),
    }
}

/// Cuts a list into parts of at most `bytes_max` and [`ENTRIES_MAX`] items; an empty list is one empty part.
fn cut<T>(items: Vec<T>, bytes_max: usize, bytes_of: impl Fn(&T) -> usize) -> Vec<Vec<T>> {
    let mut parts = vec![Vec::new()];
    let (mut count, mut bytes) = (0, 0);
    for item in items {
        let size = bytes_of(&item);
        if count == ENTRIES_MAX || (count > 0 && bytes + size > bytes_max) {
            parts.push(Vec::new());
            (count, bytes) = (0, 0);
        }
        (count, bytes) = (count + 1, bytes + size);
        if let Some(part) = parts.last_mut() {
            part.push(item);
        }
    }
    parts
}
