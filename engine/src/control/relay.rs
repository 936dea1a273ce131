//! Other nodes' logs from whoever has them: while a node cannot be reached, what others hold of its logs comes from them, a pass at
//! a time. Its own link, once it is up again, takes over.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use net::ids::{LogId, NodeId, RequestId};
use net::reactor::Mono;
use net::wire::body::{Follow, FollowLog, Refuse, RefuseCode, Watermarks as WatermarksBody};
use net::wire::message::Message;
use wal::marks::{Mark, reach};
use wal::planted::{self, Fault};

use super::link::Role;
use super::{ControlLoop, LinkKey};
use crate::host::Host;
use crate::messages::ToCore;
use crate::replication::residency::Allowed;

/// A node that is not followed for this long is asked for elsewhere. Longer than a reconnect takes.
const RELAY_AFTER_MS: u64 = 2_000;

/// A source that has had nothing new for this long is not the only one asked any more.
const RELAY_PATIENCE_MS: u64 = 5_000;

/// A source that was asked for a pass.
#[derive(Debug)]
struct Asked {
    at: Mono,
    /// The claims at its end came.
    is_answered: bool,
    logs: Vec<LogId>,
}

/// Who is asked for the logs of nodes that cannot be reached.
#[derive(Debug, Default)]
pub(super) struct Relays {
    /// Since when nodes are not followed.
    absent_since: BTreeMap<NodeId, Mono>,
    asked: BTreeMap<LinkKey, Asked>,
    /// Sources to which a bulk connection is wanted, since when.
    wanted: BTreeMap<SocketAddr, Mono>,
}

impl Relays {
    /// Something of a pass came over a link: records, or a claim at its end.
    pub(super) fn heard(&mut self, key: LinkKey, is_claim: bool, now: Mono) {
        if let Some(asked) = self.asked.get_mut(&key) {
            asked.at = now;
            asked.is_answered |= is_claim;
        }
    }

    /// Whether a bulk connection to a source is wanted.
    pub(super) fn want(&self, source: SocketAddr) -> bool {
        self.wanted.contains_key(&source)
    }

    /// What was asked over a link counts no more.
    pub(super) fn forget(&mut self, key: LinkKey) {
        self.asked.remove(&key);
    }
}

impl<H: Host> ControlLoop<H> {
    /// The nodes that are followed directly, each with its live link and its address, nearest first.
    pub(super) fn followed(&self) -> Vec<(LinkKey, SocketAddr, NodeId)> {
        let followed = self.links.iter().filter_map(|(index, link)| {
            let Role::Following { target, .. } = link.role else { return None };
            let node = link.hello().filter(|_| link.is_up() && !link.is_bulk)?.node;
            let key = LinkKey { index, generation: link.generation };
            Some((link.rtt_ns.unwrap_or(u64::MAX), key, target, node))
        });
        let mut followed: Vec<_> = followed.collect();
        followed.sort_unstable();
        followed.into_iter().map(|(_, key, target, node)| (key, target, node)).collect()
    }

    /// The logs of nodes that have not been followed for a while, as far as they are not held to their end.
    fn missed_logs(&mut self, followed: &[(LinkKey, SocketAddr, NodeId)]) -> Vec<LogId> {
        let now = self.now();
        let mut missed = Vec::new();
        for node in self.known.nodes() {
            if followed.iter().any(|(_, _, of)| *of == node) || self.is_settled(node) {
                self.relays.absent_since.remove(&node);
                continue;
            }
            let since = *self.relays.absent_since.entry(node).or_insert(now);
            if now >= since.plus_ms(RELAY_AFTER_MS) {
                missed.extend(self.known.open_of(node, |log| self.watermarks.version(log)));
            }
        }
        missed
    }

    /// Asks others for what nodes that cannot be reached have written.
    pub(super) fn ask_relays(&mut self) {
        if self.bootstrap.is_under_way() {
            return;
        }
        let now = self.now();
        let followed = self.followed();
        let missed = self.missed_logs(&followed);
        let links = &self.links;
        let is_up =
            |key: &LinkKey| links.get(key.index).is_some_and(|link| link.generation == key.generation && link.is_up());
        self.relays.asked.retain(|key, _| is_up(key));
        let asked: Vec<LinkKey> = self.relays.asked.keys().copied().collect();
        for key in asked {
            let Some(asked) = self.relays.asked.get(&key) else { continue };
            let wanted = self.that_has(key, &missed);
            if wanted.is_empty() {
                // Nothing that it comes to hold is of use any more.
                self.ask_relay(key, &[]);
                self.relays.forget(key);
            } else if asked.logs != wanted || asked.is_answered && self.has_taken(key, &wanted) {
                self.ask_relay(key, &wanted);
            }
        }
        if missed.is_empty() {
            self.relays.wanted.clear();
            return;
        }
        let is_waiting = |asked: &&Asked| asked.is_answered || now < asked.at.plus_ms(RELAY_PATIENCE_MS);
        let awaited: Vec<LogId> =
            self.relays.asked.values().filter(is_waiting).flat_map(|asked| &asked.logs).copied().collect();
        let rest: Vec<LogId> = missed.iter().copied().filter(|log| !awaited.contains(log)).collect();
        if rest.is_empty() {
            return;
        }
        for (live, source, _) in followed {
            let bulk = self.bulk_link(source);
            let is_asked = bulk.is_some_and(|key| self.relays.asked.contains_key(&key));
            if is_asked || self.that_has(live, &rest).is_empty() {
                continue;
            }
            // Passes travel beside the live stream. One who cannot be reached a second time is not the only one asked, either.
            let since = *self.relays.wanted.entry(source).or_insert(now);
            if let Some(key) = bulk {
                reach(Mark::RelayAsked);
                let wanted = self.that_has(key, &missed);
                self.ask_relay(key, &wanted);
                return;
            }
            if now < since.plus_ms(RELAY_PATIENCE_MS) {
                return;
            }
        }
    }

    /// Those of these logs that the source of a link can hand on to this node.
    fn that_has(&self, key: LinkKey, logs: &[LogId]) -> Vec<LogId> {
        let Some(link) = self.links.get(key.index) else { return Vec::new() };
        let here = self.facts.residency.here();
        logs.iter().copied().filter(|log| self.can_hand_on(&link.allowed, here, log.node)).collect()
    }

    /// Whether who may hold `source` can claim a log of `origin` to who may hold `follower`: a claim means what its source may hold itself. Nothing
    /// else has ever been in the log than what its origin may hold.
    pub(super) fn can_hand_on(&self, source: &Allowed, follower: &Allowed, origin: NodeId) -> bool {
        if source.is_everything() || planted::is(Fault::PassWithoutCover) {
            return true;
        }
        let origin = self.members.get(origin).map(|member| self.facts.residency.policy().of(&member.region));
        source.covers(&origin.map_or_else(|| follower.clone(), |origin| follower.and(&origin)))
    }

    /// How many logs others are asked for in place of their nodes; for checkers.
    #[must_use]
    pub fn logs_asked_of_others(&self) -> usize {
        self.relays.asked.values().map(|asked| asked.logs.len()).sum()
    }

    /// Whether every claim over these logs that came over the link has taken effect.
    fn has_taken(&self, key: LinkKey, logs: &[LogId]) -> bool {
        match self.links.get(key.index).map(|link| &link.role) {
            Some(Role::Following { receiver, .. }) => logs.iter().all(|log| receiver.announced(*log).is_none()),
            _ => false,
        }
    }

    fn ask_relay(&mut self, key: LinkKey, logs: &[LogId]) {
        let (now, vector, held) = (self.now(), self.held_vector(), self.notes.held());
        let Some(link) = self.links.get_mut(key.index) else { return };
        let Role::Following { receiver, .. } = &mut link.role else { return };
        // Others may hold more of a log than its node says that there is, if that node's disk was rolled back.
        let credit = match receiver.open(&self.core_state, logs.iter().map(|log| (*log, None))) {
            Ok(credit) => credit,
            Err(error) => {
                self.refuse(key, &Refuse::new(RefuseCode::Unexpected, &error.to_string()));
                return;
            }
        };
        // What the pass is to leave out is what is held now.
        let vector = WatermarksBody { full: true, entries: vector };
        let wanted = logs.iter().map(|log| FollowLog::all(*log, self.watermarks.version(*log))).collect();
        link.push(&Message::Watermarks(vector), RequestId(0));
        link.push(&Message::Follow(Follow { credit, held, logs: wanted }), RequestId(0));
        self.relays.asked.insert(key, Asked { at: now, is_answered: false, logs: logs.to_vec() });
    }

    /// Somebody offered logs that this node did not know of: they are noted in its own log, and offered to its followers.
    pub(super) fn logs_are_known(&mut self) {
        while let Some(record) = self.known.next_to_write() {
            self.ticket += 1;
            self.cores[0].send(ToCore::AppendLocal { ticket: self.ticket, record });
        }
        let followers = self.links.iter().filter(|(_, link)| matches!(link.role, Role::Serving { .. }) && link.is_up());
        let followers: Vec<LinkKey> =
            followers.map(|(index, link)| LinkKey { index, generation: link.generation }).collect();
        for key in followers {
            self.offer_logs(key);
        }
    }
}
