//! Anti-entropy: one comparison of this node with a peer, as a state machine. What the peer has and this node lost is fetched; what the peer
//! lost it fetches itself, when it compares itself with this node.
//!
//! Both sum up what they have, in few sums at first: nodes that are equal need no more. Where sums differ, the entries of some leaves at a
//! time are taken from this node, then held to those of the peer as they come; only what the peer has newer is remembered. Those keys are
//! looked at here once more, after it was noted what is held: what is covered and absent, or older, was lost
//! ([`is_lost`]). Everything else is on its way, was deleted, or is the peer's to fetch.
//!
//! Memory is bounded: so many leaves at a time that about [`BATCH_ENTRIES`] of this node are at hand, and [`WANTED_MAX`] of the peer.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use net::ids::{RegionName, Version};
use net::wire::body::{Compare, Entries, Entry, Fetch, Inspect, Sums, Survey};
use net::wire::limits::{INSPECT_LEAVES_MAX, LEAVES, LEAVES_PER_PART, PARTS};
use net::wire::message::Message;

use super::compare::{Held, differing_leaves, identity, is_lost};
use super::survey::{Counting, Digest, LeafSet};
use super::to_wire;

/// Entries of this node that are at hand at a time, about.
pub const BATCH_ENTRIES: usize = 20_000;

/// Keys of one batch that are looked at again; what is beyond is left to the next comparison.
pub const WANTED_MAX: usize = 20_000;

/// What one look, or one request for records, may name.
const KEYS_AT_ONCE: usize = 1_000;
const KEY_BYTES_AT_ONCE: usize = 60_000;

/// Hashes of lost keys that are remembered for a line in the log.
const HASHES_SHOWN: usize = 5;

/// What is to be done next.
#[derive(Clone, Debug)]
pub enum Step {
    /// Nothing: an answer is on its way.
    Wait,
    /// Ask the peer.
    Ask(Message),
    /// Look at these leaves here, from the beginning.
    InspectHere(Arc<LeafSet>),
    /// Note what is held, then look at these keys here.
    LookHere(Vec<Bytes>),
    /// It is over.
    Done,
    /// The peer answers what was not asked.
    Broken,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Keys that were looked at one by one.
    pub looked_at: u64,
    /// Keys that this node lost.
    pub lacking: u64,
    /// Those that were fetched.
    pub repaired: u64,
    /// The hashes of the first of them.
    pub hashes: Vec<u64>,
    /// There may be more that differs.
    pub is_cut_short: bool,
}

#[derive(Debug)]
enum Stage {
    /// Sums of parts, then perhaps of leaves.
    Summing { of_leaves: bool, theirs: Vec<u64>, is_complete: bool },
    /// This node's entries come.
    InspectingHere,
    /// The peer's entries come.
    InspectingThere,
    /// What was found here of these is on its way.
    Looking(BTreeMap<Bytes, Entry>),
    /// Records are on their way.
    Fetching(BTreeMap<Bytes, Entry>),
}

/// A comparison with one peer.
#[derive(Debug)]
pub struct Comparison {
    counting: Counting,
    /// Those of the two nodes: what both may hold is compared.
    regions: Vec<RegionName>,
    stage: Stage,
    ours: Option<Digest>,
    /// Leaves that are still to be compared key by key.
    leaves: VecDeque<u16>,
    /// Those that are compared now.
    batch: Vec<u16>,
    per_leaf: usize,
    /// By key, what this node has in these leaves.
    here: BTreeMap<Bytes, (Version, u32)>,
    /// What the peer has there that is newer.
    wanted: VecDeque<Entry>,
    outcome: Outcome,
}

impl Comparison {
    /// A comparison, for two regions, of values that count; also what is to be asked. The sums of this node are to be made at the same time.
    #[must_use]
    pub fn begin(counting: Counting, regions: Vec<RegionName>) -> (Comparison, Message) {
        let comparison = Comparison {
            counting,
            regions,
            stage: Stage::Summing { of_leaves: false, theirs: Vec::new(), is_complete: false },
            ours: None,
            leaves: VecDeque::new(),
            batch: Vec::new(),
            per_leaf: 1,
            here: BTreeMap::new(),
            wanted: VecDeque::new(),
            outcome: Outcome::default(),
        };
        let Counting { upto, expiry_above } = counting;
        (comparison, Message::Compare(Compare { upto: to_wire(upto), expiry_above }))
    }

    /// What came of it so far.
    #[must_use]
    pub fn outcome(&self) -> &Outcome {
        &self.outcome
    }

    /// This node's sums.
    pub fn summed_here(&mut self, digest: Digest) -> Step {
        self.per_leaf = usize::try_from(digest.keys()).unwrap_or(usize::MAX) / LEAVES + 1;
        self.ours = Some(digest);
        self.compare_sums()
    }

    /// Sums of the peer.
    pub fn summed_there(&mut self, sums: &Sums) -> Step {
        let Stage::Summing { of_leaves, theirs, is_complete } = &mut self.stage else { return Step::Broken };
        let wanted = if *of_leaves { LEAVES } else { PARTS };
        if *is_complete || usize::from(sums.first) != theirs.len() || theirs.len() + sums.sums.len() > wanted {
            return Step::Broken;
        }
        theirs.extend(&sums.sums);
        if sums.more {
            return Step::Wait;
        }
        *is_complete = true;
        if theirs.len() == wanted { self.compare_sums() } else { Step::Broken }
    }

    fn compare_sums(&mut self) -> Step {
        let (Stage::Summing { of_leaves, theirs, is_complete: true }, Some(ours)) = (&self.stage, &self.ours) else {
            return Step::Wait;
        };
        if *of_leaves {
            self.leaves = differing_leaves(&[ours.sums(), theirs]).into();
            return self.next_batch();
        }
        let parts = differing_leaves(&[&ours.parts(), theirs]);
        if parts.len() * LEAVES_PER_PART * self.per_leaf > BATCH_ENTRIES {
            // Too much to look at key by key: rather ask for all sums, of the same values.
            self.stage = Stage::Summing { of_leaves: true, theirs: Vec::new(), is_complete: false };
            let Counting { upto, expiry_above } = self.counting;
            return Step::Ask(Message::Survey(Survey {
                upto: to_wire(upto),
                expiry_above,
                regions: self.regions.clone(),
            }));
        }
        let leaves = parts.into_iter().flat_map(|part| {
            let first = usize::from(part) * LEAVES_PER_PART;
            (first..first + LEAVES_PER_PART).filter_map(|leaf| u16::try_from(leaf).ok())
        });
        self.leaves = leaves.collect();
        self.next_batch()
    }

    fn next_batch(&mut self) -> Step {
        self.here.clear();
        let count = (BATCH_ENTRIES / self.per_leaf).clamp(1, INSPECT_LEAVES_MAX).min(self.leaves.len());
        self.batch = self.leaves.drain(..count).collect();
        if self.batch.is_empty() {
            return Step::Done;
        }
        self.stage = Stage::InspectingHere;
        Step::InspectHere(Arc::new(LeafSet::new(&self.batch)))
    }

    /// Some of what this node has in the leaves that were to be looked at.
    pub fn found_here(&mut self, entries: Vec<Entry>) {
        self.here.extend(entries.into_iter().map(|entry| (entry.key.clone(), identity(&entry))));
    }

    /// That was all.
    pub fn inspected_here(&mut self) -> Step {
        // Tombstones are among them, which the sums say nothing of.
        self.per_leaf = self.per_leaf.max(self.here.len() / self.batch.len().max(1));
        self.stage = Stage::InspectingThere;
        Step::Ask(Message::Inspect(Inspect { cursor: 0, leaves: self.batch.clone(), regions: self.regions.clone() }))
    }

    /// Some of what the peer has there.
    pub fn found_there(&mut self, found: Entries) -> Step {
        if !matches!(self.stage, Stage::InspectingThere) {
            return Step::Broken;
        }
        for entry in found.entries {
            let nothing_new = match self.here.get(&entry.key) {
                Some(here) => *here >= identity(&entry),
                None => entry.is_tombstone,
            };
            if nothing_new {
                continue;
            }
            if self.wanted.len() >= WANTED_MAX {
                self.outcome.is_cut_short = true;
                break;
            }
            self.wanted.push_back(entry);
        }
        match (found.more, found.cursor) {
            (true, _) => Step::Wait,
            (false, 0) => self.look(),
            (false, cursor) => {
                let (leaves, regions) = (self.batch.clone(), self.regions.clone());
                Step::Ask(Message::Inspect(Inspect { cursor, leaves, regions }))
            }
        }
    }

    /// Looks at some of what the peer has newer.
    fn look(&mut self) -> Step {
        self.here.clear();
        let mut chunk = BTreeMap::new();
        let mut bytes = 0;
        while let Some(entry) = self.wanted.pop_front_if(|entry| {
            bytes += 2 + entry.key.len();
            chunk.is_empty() || chunk.len() < KEYS_AT_ONCE && bytes <= KEY_BYTES_AT_ONCE
        }) {
            chunk.insert(entry.key.clone(), entry);
        }
        if chunk.is_empty() {
            return self.next_batch();
        }
        self.outcome.looked_at += chunk.len() as u64;
        let keys = chunk.keys().cloned().collect();
        self.stage = Stage::Looking(chunk);
        Step::LookHere(keys)
    }

    /// What this node has of the keys that were to be looked at, and held before; of those that are `unclear` nothing can be said now. What was
    /// deleted up to `forgotten` may be absent.
    pub fn looked_here(&mut self, held: &Held, forgotten: wal::Version, found: &[Entry], unclear: &[Bytes]) -> Step {
        let Stage::Looking(chunk) = &mut self.stage else { return Step::Wait };
        let found: BTreeMap<&Bytes, &Entry> = found.iter().map(|entry| (&entry.key, entry)).collect();
        let unclear: BTreeSet<&Bytes> = unclear.iter().collect();
        let forgotten = to_wire(forgotten);
        let mut lost = std::mem::take(chunk);
        lost.retain(|key, theirs| !unclear.contains(key) && is_lost(theirs, held, found.get(key).copied(), forgotten));
        self.outcome.lacking += lost.len() as u64;
        let room = HASHES_SHOWN.saturating_sub(self.outcome.hashes.len());
        self.outcome.hashes.extend(lost.values().take(room).map(|entry| entry.key_hash));
        self.fetch(lost)
    }

    fn fetch(&mut self, lost: BTreeMap<Bytes, Entry>) -> Step {
        if lost.is_empty() {
            return self.look();
        }
        let keys = lost.keys().cloned().collect();
        self.stage = Stage::Fetching(lost);
        Step::Ask(Message::Fetch(Fetch { keys }))
    }

    /// Whether a record that came is one that was asked for, or newer.
    #[must_use]
    pub fn asked_for(&self, key: &[u8], version: wal::Version, crc: u32) -> bool {
        let Stage::Fetching(lost) = &self.stage else { return false };
        lost.get(key).is_some_and(|wanted| (to_wire(version), crc) >= identity(wanted))
    }

    /// Records of these keys came, and were handed on. If there are none, the peer has none of the rest any more.
    pub fn fetched(&mut self, keys: &BTreeSet<Bytes>) -> Step {
        let Stage::Fetching(lost) = &mut self.stage else { return Step::Broken };
        let mut lost = std::mem::take(lost);
        let before = lost.len();
        lost.retain(|key, _| !keys.contains(key));
        let came = before - lost.len();
        self.outcome.repaired += came as u64;
        if came == 0 {
            lost.clear();
        }
        self.fetch(lost)
    }
}

/// What counts in a comparison that begins at this time, in milliseconds since 1970.
#[must_use]
pub fn counting_at(now_ms: u64) -> Counting {
    let upto = wal::Version::new(now_ms.saturating_sub(wal::EPOCH_2020_UNIX_MS), u16::MAX, u16::MAX);
    Counting { upto, expiry_above: now_ms }
}

#[cfg(test)]
mod tests {
    use net::ids::NodeId;
    use net::wire::limits::SUMS_MAX;
    use wal::{RecordDraft, RecordOp, RecordView};

    use super::*;

    fn record(n: u64) -> Vec<u8> {
        let (key, value) = (format!("key {n}"), b"value");
        let version = wal::Version::new(n, 0, 0);
        let draft = RecordDraft {
            version,
            origin: wal::NodeId(1),
            op: RecordOp::Put,
            expiry: None,
            key: key.as_bytes(),
            value,
        };
        draft.to_vec()
    }

    fn digest(records: impl Iterator<Item = u64>) -> Digest {
        let mut digest = Digest::default();
        records.for_each(|n| digest.add(&RecordView::parse(&record(n)).unwrap().0));
        digest
    }

    fn entry(n: u64) -> Entry {
        super::super::survey::entry(&RecordView::parse(&record(n)).unwrap().0)
    }

    fn parts(digest: &Digest) -> Sums {
        Sums { more: false, keys: digest.keys(), first: 0, sums: digest.parts() }
    }

    fn begun(here: &Digest) -> Comparison {
        let (mut comparison, question) =
            Comparison::begin(counting_at(wal::EPOCH_2020_UNIX_MS + 1_000_000), Vec::new());
        assert!(matches!(question, Message::Compare(_)));
        assert!(matches!(comparison.summed_here(here.clone()), Step::Wait));
        comparison
    }

    /// What the node says of itself: all of node 1's log.
    fn held() -> Held {
        let (first, upto) = (Version(0), Version(u64::MAX));
        let log = net::ids::LogId { node: NodeId(1), incarnation: net::ids::Incarnation(1) };
        let covered = net::wire::body::Covered { log, first, upto };
        Held::by(NodeId(2), Version(0), [covered].into_iter(), wal::EPOCH_2020_UNIX_MS + 1_000_000)
    }

    #[test]
    fn equal_sums_end_it_and_an_answer_that_is_none_breaks_it() {
        let here = digest(1..500);
        let mut comparison = begun(&here);
        assert!(matches!(comparison.summed_there(&parts(&here)), Step::Done));
        assert_eq!(comparison.outcome(), &Outcome::default());
        let mut comparison = begun(&here);
        let short = Sums { sums: vec![0; 3], ..parts(&here) };
        assert!(matches!(comparison.summed_there(&short), Step::Broken));
        assert!(matches!(begun(&here).fetched(&BTreeSet::new()), Step::Broken));
    }

    #[test]
    fn what_the_peer_has_newer_is_looked_at_again_and_what_is_lacking_is_fetched_in_as_many_answers_as_it_takes() {
        let (here, there) = (digest(1..500), digest(1..503));
        let mut comparison = begun(&here);
        assert!(matches!(comparison.summed_there(&parts(&there)), Step::InspectHere(_)));
        comparison.found_here((1..500).map(entry).collect());
        assert!(matches!(comparison.inspected_here(), Step::Ask(Message::Inspect(_))));
        let answer = |more, cursor, entries| Entries { more, cursor, entries };
        assert!(matches!(comparison.found_there(answer(true, 0, (1..501).map(entry).collect())), Step::Wait));
        let step = comparison.found_there(answer(false, 9, vec![entry(501)]));
        assert!(matches!(step, Step::Ask(Message::Inspect(Inspect { cursor: 9, .. }))));
        let tombstone = Entry { is_tombstone: true, key: Bytes::from_static(b"nothing either way"), ..entry(9) };
        let Step::LookHere(keys) = comparison.found_there(answer(false, 0, vec![entry(502), tombstone])) else {
            panic!("keys to look at")
        };
        assert_eq!(keys.len(), 3);
        // One has come meanwhile, of one nothing can be said.
        let mut both = begun(&here);
        both.stage = Stage::Looking((500..503).map(|n| (entry(n).key, entry(n))).collect());
        let step = both.looked_here(&held(), wal::Version::ZERO, &[entry(500)], &[entry(501).key]);
        let Step::Ask(Message::Fetch(Fetch { keys })) = step else { panic!("{step:?}") };
        assert_eq!(keys, [entry(502).key]);

        let step = comparison.looked_here(&held(), wal::Version::ZERO, &[], &[]);
        assert!(matches!(step, Step::Ask(Message::Fetch(_))), "{step:?}");
        let (wanted, older) = (record(500), record(499));
        let is_asked_for = |bytes: &[u8]| {
            let record = RecordView::parse(bytes).unwrap().0;
            comparison.asked_for(record.key, record.version, record.original_crc())
        };
        assert!(is_asked_for(&wanted) && !is_asked_for(&older));
        let step = comparison.fetched(&BTreeSet::from([entry(500).key]));
        let Step::Ask(Message::Fetch(Fetch { keys })) = step else { panic!("{step:?}") };
        assert_eq!(keys.len(), 2);
        assert!(matches!(comparison.fetched(&BTreeSet::new()), Step::Done), "the peer has them no more");
        let Outcome { lacking, repaired, hashes, .. } = comparison.outcome().clone();
        assert_eq!((lacking, repaired, hashes.len()), (3, 1, 3));
    }

    #[test]
    fn what_may_have_been_forgotten_here_is_not_fetched() {
        let mut comparison = begun(&digest(1..2));
        comparison.stage = Stage::Looking([(entry(7).key, entry(7))].into());
        let step = comparison.looked_here(&held(), wal::Version::new(7, 0, 0), &[], &[]);
        assert!(matches!(step, Step::Done) && comparison.outcome().lacking == 0, "{step:?}");
    }

    #[test]
    fn where_too_much_differs_all_sums_are_asked_for() {
        let (here, there) = (digest(1..30_000), digest(30_000..60_000));
        let mut comparison = begun(&here);
        assert!(matches!(comparison.summed_there(&parts(&there)), Step::Ask(Message::Survey(_))));
        for (at, sums) in here.sums().chunks(SUMS_MAX).enumerate() {
            let first = u16::try_from(at * SUMS_MAX).unwrap();
            let more = at < LEAVES / SUMS_MAX - 1;
            let step = comparison.summed_there(&Sums { more, keys: 1, first, sums: sums.to_vec() });
            assert!(matches!(step, Step::Wait) == more && matches!(step, Step::Done) != more, "{step:?}");
        }
    }
}
