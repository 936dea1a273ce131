//! Comparisons of this node with others, on behalf of an operator: the cores say what they have, this thread puts it together.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use net::ids::{NodeId, RegionName, RequestId};
use net::wire::body::{Coverage, Covered, Entries, Entry, ErrorCode, Failed, Inspect, Sums};
use net::wire::limits::{CONTROL_BODY_BYTES_MAX, SUMS_MAX, WATERMARKS_MAX};
use net::wire::message::Message;

use super::{ControlLoop, LinkKey};
use crate::host::Host;
use crate::messages::ToCore;
use crate::replication::residency::Allowed;
use crate::replication::survey::{Counting, Digest, LeafSet, SurveyFound, SurveyTask};
use crate::replication::{from_wire, to_wire};
use crate::storage::index::ScanPosition;

/// Requests at once. Each may take 512 KiB here and on every core.
const SURVEYS_MAX: usize = 4;

/// The core's bits of a cursor stand above those of the position.
const POSITION_BITS: u32 = 48;

/// A request that cores work on.
#[derive(Debug)]
struct Asked {
    link: LinkKey,
    request: RequestId,
    /// Cores that have not answered.
    waits_for: usize,
    gathered: Gathered,
}

#[derive(Debug)]
enum Gathered {
    Sums(Digest),
    /// Of this core, which is the only one that was asked.
    Piece(u16),
    Entries(Vec<Entry>),
}

/// The requests that cores work on, by ticket.
#[derive(Debug, Default)]
pub(super) struct Surveys {
    tickets: u64,
    asked: BTreeMap<u64, Asked>,
}

impl Surveys {
    /// Whether somebody waits for an answer on this link.
    pub(super) fn wait_on(&self, link: LinkKey) -> bool {
        self.asked.values().any(|asked| asked.link == link)
    }
}

impl<H: Host> ControlLoop<H> {
    /// Whether the other end is of this host or of that of a peer: keys are nobody else's business.
    fn may_survey(&mut self, key: LinkKey) -> bool {
        let Some(remote) = self.link(key).map(|link| link.remote.ip()) else { return false };
        remote.is_loopback() || remote == self.mesh.advertise || self.mesh.peers.iter().any(|peer| peer.ip() == remote)
    }

    /// Answers a survey, or has the cores do so.
    pub(super) fn survey(&mut self, key: LinkKey, request: RequestId, message: Message) {
        let failed = |code, text: &str| Err(Failed::new(code, text));
        if !self.may_survey(key) {
            let text = "values are compared from the hosts of the mesh; run this on one of them";
            return self.answer(key, request, failed(ErrorCode::Unsupported, text));
        }
        if self.stop.asked || self.failed.is_some() {
            return self.answer(key, request, failed(ErrorCode::NotReady, "this node stops"));
        }
        if self.surveys.asked.len() >= SURVEYS_MAX {
            let text = "this node is compared with others as often as it can be at once; try again later";
            return self.answer(key, request, failed(ErrorCode::Full, text));
        }
        match message {
            Message::Survey(survey) => {
                self.say_coverage(key, request);
                let shown = self.shown_to(key, &survey.regions);
                let counting = Counting { upto: from_wire(survey.upto), expiry_above: survey.expiry_above };
                let tasks = (0..self.facts.cores).map(|core| (core, SurveyTask::Sum(counting))).collect();
                self.ask_cores(key, request, Gathered::Sums(Digest::default()), &shown, tasks);
            }
            Message::Inspect(Inspect { cursor, leaves, regions }) => {
                let core = u16::try_from(cursor >> POSITION_BITS).unwrap_or(u16::MAX);
                if core >= self.facts.cores {
                    return self.answer(key, request, failed(ErrorCode::Invalid, "no such cursor; begin with 0"));
                }
                if cursor == 0 {
                    self.say_coverage(key, request);
                }
                let from = ScanPosition(cursor & ((1 << POSITION_BITS) - 1));
                let leaves = Arc::new(LeafSet::new(&leaves));
                let shown = self.shown_to(key, &regions);
                let tasks = vec![(core, SurveyTask::Inspect { leaves, from })];
                self.ask_cores(key, request, Gathered::Piece(core), &shown, tasks);
            }
            Message::Lookup(lookup) => {
                self.say_coverage(key, request);
                let shown = self.shown_to(key, &lookup.regions);
                let mut by_core: BTreeMap<u16, Vec<Bytes>> = BTreeMap::new();
                for wanted in lookup.keys.into_iter().filter(|wanted| shown.may_hold(wanted)) {
                    let core = self.core_state.core_of(&wanted);
                    by_core.entry(core).or_default().push(wanted);
                }
                let tasks = by_core.into_iter().map(|(core, keys)| (core, SurveyTask::Lookup { keys })).collect();
                self.ask_cores(key, request, Gathered::Entries(Vec::new()), &shown, tasks);
            }
            _ => {}
        }
    }

    /// What may be shown over a link to whoever compares these regions: what each of them may hold, and the region that the link leads to.
    /// Of a host whose node has not introduced itself that is what any region may hold.
    fn shown_to(&mut self, key: LinkKey, regions: &[RegionName]) -> Arc<Allowed> {
        let policy = self.facts.residency.policy();
        if policy.is_none() {
            return Arc::new(Allowed::everything());
        }
        let remote = self.links.get(key.index).map(|link| link.remote.ip());
        let there = match remote {
            Some(ip) if ip == self.mesh.advertise || ip == self.mesh.local => Some(&self.region),
            ip => {
                let introduced = self.links.iter().filter_map(|(_, link)| link.hello());
                let peer =
                    introduced.filter(|hello| Some(hello.advertised.ip()) == ip).map(|hello| &hello.region).next();
                // The lab and its like, where every node has a loopback address and tools have another one.
                peer.or(Some(&self.region).filter(|_| ip.is_some_and(|ip| ip.is_loopback())))
            }
        };
        Arc::new(match there {
            Some(there) if !regions.is_empty() => policy.of_all(regions.iter().chain([there, &self.region])),
            _ => policy.of_any(),
        })
    }

    fn ask_cores(
        &mut self,
        link: LinkKey,
        request: RequestId,
        gathered: Gathered,
        shown: &Arc<Allowed>,
        tasks: Vec<(u16, SurveyTask)>,
    ) {
        let asked = Asked { link, request, waits_for: tasks.len(), gathered };
        if tasks.is_empty() {
            return self.say_found(asked, None);
        }
        self.surveys.tickets += 1;
        let ticket = self.surveys.tickets;
        self.surveys.asked.insert(ticket, asked);
        for (core, task) in tasks {
            self.cores[usize::from(core)].send(ToCore::Survey { ticket, task, shown: Arc::clone(shown) });
        }
    }

    /// A core has answered.
    pub(super) fn surveyed(&mut self, ticket: u64, found: SurveyFound) {
        let Some(asked) = self.surveys.asked.get_mut(&ticket) else { return };
        let mut next = None;
        match (&mut asked.gathered, found) {
            (Gathered::Sums(digest), SurveyFound::Sums(found)) => digest.merge(&found),
            (Gathered::Entries(entries), SurveyFound::Entries { entries: found, .. }) => entries.extend(found),
            (Gathered::Piece(core), SurveyFound::Entries { entries, next: position }) => {
                next = match position {
                    Some(position) => Some((u64::from(*core) << POSITION_BITS) | position.0),
                    None => Some(u64::from(*core) + 1)
                        .filter(|core| *core < u64::from(self.facts.cores))
                        .map(|core| core << POSITION_BITS),
                };
                asked.gathered = Gathered::Entries(entries);
            }
            _ => {}
        }
        asked.waits_for = asked.waits_for.saturating_sub(1);
        if asked.waits_for == 0
            && let Some(asked) = self.surveys.asked.remove(&ticket)
        {
            self.say_found(asked, next);
        }
    }

    fn say_found(&mut self, asked: Asked, next: Option<u64>) {
        let Some(link) = self.link(asked.link) else { return };
        match asked.gathered {
            Gathered::Sums(digest) => {
                let (parts, keys) = (digest.sums().chunks(SUMS_MAX), digest.keys());
                let last = parts.len() - 1;
                for (at, sums) in parts.enumerate() {
                    let first = u16::try_from(at * SUMS_MAX).unwrap_or(u16::MAX);
                    let sums = Sums { more: at < last, keys, first, sums: sums.to_vec() };
                    link.push(&Message::Sums(sums), asked.request);
                }
            }
            Gathered::Entries(entries) => {
                let mut parts = split(entries).into_iter().peekable();
                while let Some(entries) = parts.next() {
                    let more = parts.peek().is_some();
                    let entries = Entries { more, cursor: next.unwrap_or(0), entries };
                    link.push(&Message::Entries(entries), asked.request);
                }
            }
            Gathered::Piece(_) => {}
        }
    }

    fn say_coverage(&mut self, key: LinkKey, request: RequestId) {
        let coverage = self.coverage();
        if let Some(link) = self.link(key) {
            link.push(&Message::Coverage(coverage), request);
        }
    }

    /// What this node holds of every log that it knows. A log for which there is no room counts as not held.
    fn coverage(&self) -> Coverage {
        let own = self.logs.logs.iter().rev().map(|log| Covered {
            log: log.id,
            first: to_wire(log.first),
            upto: to_wire(log.end.unwrap_or_else(|| log.complete())),
        });
        let others = self.known.firsts().map(|(log, first)| Covered { log, first, upto: self.watermarks.version(log) });
        Coverage {
            node: NodeId(self.facts.node.0),
            region: self.region.clone(),
            physical_ms: self.time.unix_ms,
            logs: own.chain(others).take(WATERMARKS_MAX).collect(),
        }
    }
}

/// A frame ends once it has this much. At least one, which may be empty.
fn split(entries: Vec<Entry>) -> Vec<Vec<Entry>> {
    let mut parts = vec![Vec::new()];
    let mut bytes = 0;
    for entry in entries {
        if bytes >= CONTROL_BODY_BYTES_MAX {
            parts.push(Vec::new());
            bytes = 0;
        }
        bytes += 40 + entry.key.len();
        if let Some(part) = parts.last_mut() {
            part.push(entry);
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use net::ids::Version;
    use net::wire::limits::{KEY_BYTES_MAX, KEYS_BODY_BYTES_MAX};

    use super::*;

    #[test]
    fn every_entry_goes_into_one_frame_and_every_frame_fits() {
        let entry = |len: usize| Entry {
            version: Version(1),
            origin: NodeId(1),
            crc: 0,
            is_tombstone: false,
            expiry: 0,
            key_hash: 0,
            key: vec![b'k'; len].into(),
        };
        assert_eq!(split(Vec::new()), [Vec::new()], "an answer has at least one frame");
        let entries: Vec<Entry> =
            (0..4_000).map(|n| entry(if n % 50 == 0 { KEY_BYTES_MAX } else { n % 100 })).collect();
        let parts = split(entries.clone());
        assert!(parts.len() > 50 && parts.iter().all(|part| !part.is_empty()));
        for part in &parts {
            let mut body = Vec::new();
            let message = Message::Entries(Entries { more: false, cursor: 0, entries: part.clone() });
            message.encode_body(&mut body).unwrap();
            assert!(body.len() <= KEYS_BODY_BYTES_MAX);
        }
        assert_eq!(parts.concat(), entries);
    }
}
