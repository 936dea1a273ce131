//! What is owed to one peer and expected from it. Peers share nothing, so that one cannot delay another.
//!
//! Outgoing: every exchange repeats everything; changes go at once while nothing is unacknowledged. A missed deadline
//! stops the pushes until the next exchange (a black hole must not be filled), the third in a row gives the link up.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;

use net::ids::{Epoch, Incarnation, InstanceId, NodeId, RegionName, Sequence, ServiceName};
use net::reactor::Mono;
use net::wire::body::federated_register::SnapshotPart;
use net::wire::body::{FederatedAck, FederatedRegister, InstanceKey, Refused, RefusedCode};
use net::wire::limits::REFUSED_MAX;
use wal::marks::{Mark, reach};
use wal::planted::{self, Fault};

use super::limits::{
    DEADLINE_MS, EXCHANGE_MS, MISSES_MAX, PEER_GRACE_MS, REDIAL_MS_MAX, REDIAL_MS_MIN, SUSPECT_AFTER_MS, TTL_MS_MAX,
};
use super::registry::{AnnounceError, Announced, Announcement, Departure, Registry};

/// A position in the configured list of peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerIndex(pub usize);

/// What the monitor shows of a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// As configured.
    pub address: SocketAddr,
    /// From the handshake; `None` before the first.
    pub region: Option<RegionName>,
    /// From the handshake; `None` before the first.
    pub node: Option<NodeId>,
    /// Whether a link is up.
    pub linked: bool,
    /// Deadlines missed in a row.
    pub missed: u32,
    /// Links given up since the peer last acknowledged.
    pub resets: u32,
    /// When its last registrations came.
    pub heard_at: Option<Mono>,
    /// How many of our registrations it refused in its last answer.
    pub refused_count: u32,
    /// The first of them, for the operator.
    pub refused: Vec<Refused>,
}

/// What a peer is due now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Nothing.
    Nothing,
    /// Everything.
    Exchange,
    /// The changes.
    Push,
    /// The link is dead; dial again after so many ms.
    Reset(u64),
}

/// One configured peer.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) address: SocketAddr,
    pub(super) region: Option<RegionName>,
    pub(super) node: Option<NodeId>,
    incarnation: Option<Incarnation>,
    pub(super) registry: Registry,
    /// A whole snapshot came since this node started.
    pub(super) snapshot_heard: bool,
    linked: bool,
    /// Rises over all links of this run: the two sides change links independently of each other.
    sent: Sequence,
    unacknowledged: VecDeque<(Sequence, Mono)>,
    changed: BTreeMap<(ServiceName, InstanceId), Epoch>,
    next_exchange: Mono,
    last_exchange: Option<Mono>,
    missed: u32,
    resets: u32,
    /// The last one of the peer's run that was heard, over all links.
    heard: Sequence,
    heard_at: Option<Mono>,
    /// Instances named so far by the snapshot under way.
    named: Option<BTreeSet<(ServiceName, InstanceId)>>,
    refused_count: u32,
    refused: Vec<Refused>,
}

impl Peer {
    pub(super) fn new(address: SocketAddr) -> Peer {
        Peer {
            address,
            region: None,
            node: None,
            incarnation: None,
            registry: Registry::default(),
            snapshot_heard: false,
            linked: false,
            sent: Sequence(0),
            unacknowledged: VecDeque::new(),
            changed: BTreeMap::new(),
            next_exchange: Mono(u64::MAX),
            last_exchange: None,
            missed: 0,
            resets: 0,
            heard: Sequence(0),
            heard_at: None,
            named: None,
            refused_count: 0,
            refused: Vec::new(),
        }
    }

    /// A link is up and authenticated: everything is due. What was heard of this run on its other links stays heard: it may not
    /// have lost any of them.
    pub(super) fn up(&mut self, region: RegionName, node: NodeId, incarnation: Incarnation, now: Mono) {
        self.unlink();
        if self.incarnation != Some(incarnation) {
            self.heard = Sequence(0);
        }
        self.linked = true;
        self.incarnation = Some(incarnation);
        self.region = Some(region);
        self.node = Some(node);
        self.next_exchange = now;
    }

    /// The link is gone. Its instances are marked, never deleted: they live as long as their time to live says.
    pub(super) fn down(&mut self, now: Mono) {
        if self.linked {
            self.unlink();
            self.registry.suspect_all(now);
        }
    }

    fn unlink(&mut self) {
        self.linked = false;
        self.unacknowledged.clear();
        // The snapshot of the next link says it all.
        self.changed.clear();
        self.next_exchange = Mono(u64::MAX);
        self.last_exchange = None;
        self.missed = 0;
        self.named = None;
    }

    /// An instance of this node changed.
    pub(super) fn note_change(&mut self, key: &InstanceKey) {
        if self.linked {
            self.changed.insert((key.service.clone(), key.instance), key.epoch);
        }
    }

    /// What to send now. The caller sends it, then calls `exchanged` or takes the changes.
    pub(super) fn due(&mut self, now: Mono) -> Due {
        if !self.linked {
            return Due::Nothing;
        }
        if self.unacknowledged.front().is_some_and(|(_, sent_at)| now >= sent_at.plus_ms(DEADLINE_MS)) {
            reach(Mark::ExchangeMissed);
            self.unacknowledged.clear();
            self.missed += 1;
            if self.missed >= MISSES_MAX {
                let redial_ms = REDIAL_MS_MIN.saturating_mul(1 << self.resets.min(10)).min(REDIAL_MS_MAX);
                self.resets = self.resets.saturating_add(1);
                self.down(now);
                return Due::Reset(redial_ms);
            }
        }
        if now >= self.next_exchange {
            Due::Exchange
        } else if self.can_push() {
            Due::Push
        } else {
            Due::Nothing
        }
    }

    fn can_push(&self) -> bool {
        self.missed == 0 && self.unacknowledged.is_empty() && !self.changed.is_empty()
    }

    /// Everything goes out now.
    pub(super) fn exchanged(&mut self, now: Mono) {
        self.changed.clear();
        self.last_exchange = Some(now);
        self.next_exchange = now.plus_ms(EXCHANGE_MS);
    }

    /// The changes go out now.
    pub(super) fn take_changes(&mut self) -> Vec<InstanceKey> {
        let key = |((service, instance), epoch)| InstanceKey { service, instance, epoch };
        std::mem::take(&mut self.changed).into_iter().map(key).collect()
    }

    /// The number of a frame that is sent now.
    pub(super) fn next_sequence(&mut self, now: Mono) -> Sequence {
        self.sent = Sequence(self.sent.0 + 1);
        self.unacknowledged.push_back((self.sent, now));
        self.sent
    }

    /// An acknowledgement of one of our frames, late ones included: the peer lives.
    pub(super) fn acknowledged(&mut self, ack: FederatedAck, now: Mono) {
        if !self.linked || ack.sequence == Sequence(0) || ack.sequence > self.sent {
            return;
        }
        self.unacknowledged.retain(|(sequence, _)| *sequence > ack.sequence);
        self.missed = 0;
        self.resets = 0;
        self.refused_count = ack.refused_count;
        self.refused = ack.refused;
        if ack.want_full {
            // At most once per deadline: two sides that disagree must not answer each other at the speed of the link.
            let earliest = self.last_exchange.map_or(now, |last| last.plus_ms(DEADLINE_MS));
            self.next_exchange = self.next_exchange.min(earliest.max(now));
        }
    }

    /// When `due` has something to say.
    pub(super) fn next_deadline(&self) -> Mono {
        if !self.linked {
            return Mono(u64::MAX);
        }
        if self.can_push() {
            return Mono(0);
        }
        let missed_at = self.unacknowledged.front().map_or(Mono(u64::MAX), |(_, sent_at)| sent_at.plus_ms(DEADLINE_MS));
        self.next_exchange.min(missed_at)
    }

    /// Takes the peer's registrations. `judge` refuses addresses. Gives the answer and whether a list changed.
    pub(super) fn receive(
        &mut self,
        message: &FederatedRegister,
        now: Mono,
        judge: impl Fn(SocketAddr) -> Result<(), (RefusedCode, String)>,
    ) -> (FederatedAck, bool) {
        let mut ack = FederatedAck { sequence: message.sequence, ..FederatedAck::default() };
        let genuine = self.region.as_ref() == Some(&message.region)
            && self.node == Some(message.node)
            && self.incarnation == Some(message.incarnation);
        if !self.linked || !genuine {
            let text = format!(
                "run {} of node {} of {} is not the one of the handshake; reconnect",
                message.incarnation, message.node, message.region
            );
            for entry in &message.entries {
                refuse(&mut ack, &entry.key, RefusedCode::Identity, &text);
            }
            return (ack, false);
        }
        self.heard_at = Some(now);
        if message.sequence <= self.heard {
            // A repeated frame: its answer may have been lost, its content is old.
            return (ack, false);
        }
        let gap = message.sequence.0 != self.heard.0 + 1;
        self.heard = message.sequence;
        match message.snapshot {
            Some(SnapshotPart { first: true, .. }) => self.named = Some(BTreeSet::new()),
            _ if gap => {
                reach(Mark::RegistrationLost);
                ack.want_full = true;
                self.named = None;
            }
            Some(_) => ack.want_full = self.named.is_none(),
            None => {}
        }
        let mut changed = false;
        for entry in &message.entries {
            let judged = judge(entry.address).inspect_err(|_| reach(Mark::AddressRefused));
            let verdict = judged.and_then(|()| {
                let ttl_ms = u64::from(entry.ttl_ms_left.min(TTL_MS_MAX));
                let (ttl_ms, grace_ms) = match planted::is(Fault::OneLostRefreshExpires) {
                    true => (ttl_ms.min(EXCHANGE_MS + DEADLINE_MS), 0),
                    false => (ttl_ms, PEER_GRACE_MS),
                };
                let said = Announcement {
                    key: entry.key.clone(),
                    address: entry.address,
                    metadata: entry.metadata.clone(),
                    expires_at: now.plus_ms(ttl_ms),
                    suspect_at: now.plus_ms(SUSPECT_AFTER_MS.min(ttl_ms + grace_ms)),
                    gone_at: now.plus_ms(ttl_ms + grace_ms),
                };
                self.registry.announce(said, now).map_err(|error| {
                    let code = match error {
                        AnnounceError::Stale { .. } | AnnounceError::Left => RefusedCode::StaleEpoch,
                        AnnounceError::Full => RefusedCode::Full,
                    };
                    (code, error.to_string())
                })
            });
            match verdict {
                Ok(announced) => {
                    changed |= announced == Announced::Changed;
                    if let Some(named) = &mut self.named {
                        named.insert((entry.key.service.clone(), entry.key.instance));
                    }
                }
                Err((code, text)) => refuse(&mut ack, &entry.key, code, &text),
            }
        }
        for key in &message.deregistered {
            changed |= self.registry.leave(key, Departure::Reported, now);
        }
        if message.snapshot.is_some_and(|part| part.last)
            && let Some(named) = self.named.take()
        {
            self.snapshot_heard = true;
            let unnamed: Vec<InstanceKey> = self
                .registry
                .entries()
                .filter(|entry| entry.is_live(now))
                .map(|entry| entry.said.key.clone())
                .filter(|key| !named.contains(&(key.service.clone(), key.instance)))
                .collect();
            for key in unnamed {
                changed |= self.registry.leave(&key, Departure::Reported, now);
            }
        }
        (ack, changed)
    }

    pub(super) fn status(&self) -> PeerStatus {
        PeerStatus {
            address: self.address,
            region: self.region.clone(),
            node: self.node,
            linked: self.linked,
            missed: self.missed,
            resets: self.resets,
            heard_at: self.heard_at,
            refused_count: self.refused_count,
            refused: self.refused.clone(),
        }
    }
}

/// Counts a refusal and names it while there is room.
pub(super) fn refuse(ack: &mut FederatedAck, key: &InstanceKey, code: RefusedCode, text: &str) {
    ack.refused_count = ack.refused_count.saturating_add(1);
    if ack.refused.len() < REFUSED_MAX {
        ack.refused.push(Refused::new(key.clone(), code, text));
    }
}
