//! Comparisons of this node with others, on behalf of an operator, of a peer, or of itself: the cores say what they have, this thread puts it
//! together.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use net::ids::{CoreIndex, NodeId, RegionName, RequestId, StreamOffset};
use net::wire::body::{
    Compression, Coverage, Covered, Entries, Entry, ErrorCode, Failed, Inspect, RecordsHead, Sums, records,
};
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

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asker {
    /// The other end of a link.
    Link(LinkKey, RequestId),
    /// This node, for the comparison with this number.
    Myself(u64),
}

/// A request that cores work on.
#[derive(Debug)]
struct Asked {
    asker: Asker,
    /// Cores that have not answered.
    waits_for: usize,
    gathered: Gathered,
}

/// What cores found so far.
#[derive(Debug)]
pub(super) enum Gathered {
    /// Sums of all cores.
    Sums(Digest),
    /// The same; of parts is told.
    Parts(Digest),
    /// Of this core, which is the only one that was asked.
    Piece(u16),
    /// What is there, and of which keys that is unclear.
    Entries(Vec<Entry>, Vec<Bytes>),
    /// Records of this core.
    Records(u16, Vec<Bytes>),
}

/// The requests that cores work on, by ticket.
#[derive(Debug, Default)]
pub(super) struct Surveys {
    tickets: u64,
    asked: BTreeMap<u64, Asked>,
}

/// What who comes beyond them is told.
const FULL: &str = "this node is compared with others as often as it can be at once; try again later";

impl Surveys {
    /// Whether others ask for as much as this node does at once.
    fn are_full(&self) -> bool {
        self.asked.values().filter(|asked| matches!(asked.asker, Asker::Link(..))).count() >= SURVEYS_MAX
    }

    /// Whether somebody waits for an answer on this link.
    pub(super) fn wait_on(&self, link: LinkKey) -> bool {
        self.asked.values().any(|asked| matches!(asked.asker, Asker::Link(key, _) if key == link))
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
        if self.surveys.are_full() {
            return self.answer(key, request, failed(ErrorCode::Full, FULL));
        }
        let asker = Asker::Link(key, request);
        match message {
            Message::Survey(survey) => {
                self.say_coverage(key, request);
                let shown = self.shown_to(key, &survey.regions);
                let counting = Counting { upto: from_wire(survey.upto), expiry_above: survey.expiry_above };
                self.sum_up(asker, Gathered::Sums(Digest::default()), &shown, counting);
            }
            Message::Compare(compare) => {
                self.say_coverage(key, request);
                let shown = self.shown_to_peer(key);
                let counting = Counting { upto: from_wire(compare.upto), expiry_above: compare.expiry_above };
                self.sum_up(asker, Gathered::Parts(Digest::default()), &shown, counting);
            }
            Message::Inspect(Inspect { cursor, leaves, regions }) => {
                let core = u16::try_from(cursor >> POSITION_BITS).unwrap_or(u16::MAX);
                if core >= self.facts.cores {
                    return self.answer(key, request, failed(ErrorCode::Invalid, "no such cursor; begin with 0"));
                }
                if cursor == 0 {
                    self.say_coverage(key, request);
                }
                let shown = self.shown_to(key, &regions);
                self.inspect(asker, cursor, &shown, Arc::new(LeafSet::new(&leaves)));
            }
            Message::Lookup(lookup) => {
                self.say_coverage(key, request);
                let shown = self.shown_to(key, &lookup.regions);
                self.look_up(asker, &shown, lookup.keys);
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

    /// What this node and a peer may both hold.
    pub(super) fn shown_to_peer(&mut self, key: LinkKey) -> Arc<Allowed> {
        let region = self.link(key).and_then(|link| link.hello()).map(|hello| hello.region.clone());
        let policy = self.facts.residency.policy();
        Arc::new(region.map_or_else(|| policy.of_any(), |region| policy.of_all([&region, &self.region])))
    }

    /// A peer asks for records that it lost. Those of one core are given at a time; it asks again for the rest.
    pub(super) fn give_records(&mut self, key: LinkKey, request: RequestId, keys: Vec<Bytes>) {
        let Some(hello) = self.link(key).and_then(|link| link.hello()).cloned() else { return };
        if !self.is_peer(key, &hello) {
            let text = "records are given to peers only";
            return self.answer(key, request, Err(Failed::new(ErrorCode::Unsupported, text)));
        }
        if self.stop.asked || self.failed.is_some() {
            return self.answer(key, request, Err(Failed::new(ErrorCode::NotReady, "this node stops")));
        }
        if self.surveys.are_full() {
            return self.answer(key, request, Err(Failed::new(ErrorCode::Full, FULL)));
        }
        let shown = self.shown_to_peer(key);
        let keys: Vec<Bytes> = keys.into_iter().filter(|key| shown.may_hold(key)).collect();
        let Some(core) = keys.first().map(|first| self.core_state.core_of(first)) else {
            return self.answer(key, request, Ok(()));
        };
        let keys = keys.into_iter().filter(|key| self.core_state.core_of(key) == core).collect();
        let gathered = Gathered::Records(core, Vec::new());
        self.ask_cores(Asker::Link(key, request), gathered, &shown, vec![(core, SurveyTask::Fetch { keys })]);
    }

    pub(super) fn sum_up(&mut self, asker: Asker, gathered: Gathered, shown: &Arc<Allowed>, counting: Counting) {
        let tasks = (0..self.facts.cores).map(|core| (core, SurveyTask::Sum(counting))).collect();
        self.ask_cores(asker, gathered, shown, tasks);
    }

    /// Has one core look at leaves, from where the cursor says.
    pub(super) fn inspect(&mut self, asker: Asker, cursor: u64, shown: &Arc<Allowed>, leaves: Arc<LeafSet>) {
        let core = u16::try_from(cursor >> POSITION_BITS).unwrap_or(u16::MAX);
        let from = ScanPosition(cursor & ((1 << POSITION_BITS) - 1));
        self.ask_cores(asker, Gathered::Piece(core), shown, vec![(core, SurveyTask::Inspect { leaves, from })]);
    }

    pub(super) fn look_up(&mut self, asker: Asker, shown: &Arc<Allowed>, keys: Vec<Bytes>) {
        let mut by_core: BTreeMap<u16, Vec<Bytes>> = BTreeMap::new();
        for wanted in keys.into_iter().filter(|wanted| shown.may_hold(wanted)) {
            let core = self.core_state.core_of(&wanted);
            by_core.entry(core).or_default().push(wanted);
        }
        let tasks = by_core.into_iter().map(|(core, keys)| (core, SurveyTask::Lookup { keys })).collect();
        self.ask_cores(asker, Gathered::Entries(Vec::new(), Vec::new()), shown, tasks);
    }

    fn ask_cores(&mut self, asker: Asker, gathered: Gathered, shown: &Arc<Allowed>, tasks: Vec<(u16, SurveyTask)>) {
        let asked = Asked { asker, waits_for: tasks.len(), gathered };
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
            (Gathered::Sums(digest) | Gathered::Parts(digest), SurveyFound::Sums(found)) => digest.merge(&found),
            (Gathered::Entries(entries, all_unclear), SurveyFound::Entries { entries: found, unclear, .. }) => {
                entries.extend(found);
                all_unclear.extend(unclear);
            }
            (Gathered::Records(_, records), SurveyFound::Records(found)) => records.extend(found),
            (Gathered::Piece(core), SurveyFound::Entries { entries, next: position, .. }) => {
                next = match position {
                    Some(position) => Some((u64::from(*core) << POSITION_BITS) | position.0),
                    None => Some(u64::from(*core) + 1)
                        .filter(|core| *core < u64::from(self.facts.cores))
                        .map(|core| core << POSITION_BITS),
                };
                asked.gathered = Gathered::Entries(entries, Vec::new());
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
        let (key, request) = match asked.asker {
            Asker::Link(key, request) => (key, request),
            Asker::Myself(comparison) => return self.found_here(comparison, asked.gathered, next),
        };
        if let Gathered::Records(core, records) = asked.gathered {
            return self.send_repair(key, request, core, records);
        }
        let Some(link) = self.link(key) else { return };
        match asked.gathered {
            Gathered::Parts(digest) => {
                let sums = Sums { more: false, keys: digest.keys(), first: 0, sums: digest.parts() };
                link.push(&Message::Sums(sums), request);
            }
            Gathered::Sums(digest) => {
                let (parts, keys) = (digest.sums().chunks(SUMS_MAX), digest.keys());
                let last = parts.len() - 1;
                for (at, sums) in parts.enumerate() {
                    let first = u16::try_from(at * SUMS_MAX).unwrap_or(u16::MAX);
                    let sums = Sums { more: at < last, keys, first, sums: sums.to_vec() };
                    link.push(&Message::Sums(sums), request);
                }
            }
            Gathered::Entries(entries, _) => {
                let mut parts = split(entries).into_iter().peekable();
                while let Some(entries) = parts.next() {
                    let more = parts.peek().is_some();
                    let entries = Entries { more, cursor: next.unwrap_or(0), entries };
                    link.push(&Message::Entries(entries), request);
                }
            }
            Gathered::Piece(_) | Gathered::Records(..) => {}
        }
    }

    /// Sends records as they lie here, by which nothing is claimed.
    fn send_repair(&mut self, key: LinkKey, request: RequestId, core: u16, records: Vec<Bytes>) {
        if records.is_empty() {
            return self.answer(key, request, Ok(()));
        }
        let raw_bytes = records.iter().map(Bytes::len).sum::<usize>();
        let head = RecordsHead {
            log: self.logs.current().id,
            core: CoreIndex(core),
            flags: records::REPAIR,
            stream_offset: StreamOffset(0),
            count: u32::try_from(records.len()).unwrap_or(u32::MAX),
            raw_bytes: u32::try_from(raw_bytes).unwrap_or(u32::MAX),
            compression: Compression::None,
        };
        let Some(link) = self.link(key) else { return };
        match head.encode_frame_head(request, raw_bytes) {
            Ok(bytes) => {
                link.sent.raw_records += u64::from(head.raw_bytes);
                link.push_records(std::iter::once(bytes.into()).chain(records));
            }
            Err(error) => tracing::error!(%error, "records that a peer lost could not be sent to it"),
        }
    }

    fn say_coverage(&mut self, key: LinkKey, request: RequestId) {
        let coverage = self.coverage();
        if let Some(link) = self.link(key) {
            link.push(&Message::Coverage(coverage), request);
        }
    }

    /// What this node holds of every log that it knows.
    pub(super) fn covered(&self) -> impl Iterator<Item = Covered> {
        let own = self.logs.logs.iter().rev().map(|log| Covered {
            log: log.id,
            first: to_wire(log.first),
            upto: to_wire(log.end.unwrap_or_else(|| log.complete())),
        });
        let others = self.known.firsts().map(|(log, first)| Covered { log, first, upto: self.watermarks.version(log) });
        own.chain(others)
    }

    /// The same for others. A log for which there is no room counts as not held.
    fn coverage(&self) -> Coverage {
        Coverage {
            node: NodeId(self.facts.node.0),
            region: self.region.clone(),
            physical_ms: self.time.unix_ms,
            logs: self.covered().take(WATERMARKS_MAX).collect(),
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
