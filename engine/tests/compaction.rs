//! Compaction of a shard: whatever it moves, and whenever, each key keeps its record, and the segment it came from can go.

use bytes::Bytes;
use engine::clock::Time;
use engine::shard::{DiskTrouble, Shard, ShardIdentity, ShardSettings, WriteError};
use engine::storage::NodeSecret;
use engine::storage::store::Store;
use net::reactor::Mono;
use proptest::prelude::*;
use wal::{
    CommitPath, Cookie, CoreId, EPOCH_2020_UNIX_MS, FrameKind, Incarnation, Lsn, Mapping, MemoryMap, NodeId,
    RecordDraft, RecordOp, RecordView, Segment, SegmentNumber, Version,
};

const SEGMENT_BYTES: usize = 64 * 1024;
const SECRET: NodeSecret = NodeSecret(7);
const OWN: NodeId = NodeId(9);
const OTHER: NodeId = NodeId(1);

fn at(millis: u64) -> Time {
    Time { mono: Mono(millis), unix_ms: EPOCH_2020_UNIX_MS + 1_000_000 + millis }
}

fn segment(number: u64, base: u64) -> Segment<MemoryMap> {
    Segment {
        number: SegmentNumber(number),
        cookie: Cookie(number),
        base: Lsn(base),
        map: MemoryMap::new(SEGMENT_BYTES),
    }
}

/// A shard with a driver's patience: it is given segments, and everything staged becomes durable.
struct Driven {
    shard: Shard<MemoryMap>,
    millis: u64,
    /// Segments are prepared from these files only.
    files: Option<usize>,
}

impl Driven {
    fn new() -> Driven {
        let identity = ShardIdentity { node: OWN, incarnation: Incarnation(1), core: CoreId(0), secret: SECRET };
        let settings = ShardSettings {
            segment_bytes: SEGMENT_BYTES as u64,
            value_bytes_max: 16 * 1024,
            commit_path: CommitPath::Mmap,
            cores: 1,
        };
        let shard = Shard::new(identity, settings, segment(1, 0), Store::new(4, OWN), Version::ZERO);
        let mut driven = Driven { shard, millis: 0, files: None };
        driven.settle();
        driven
    }

    fn time(&self) -> Time {
        at(self.millis)
    }

    /// Supplies segments and makes everything durable.
    fn settle(&mut self) {
        self.millis += 1;
        while self.shard.log().needs_segment() {
            if let Some(files) = &mut self.files {
                if *files == 0 {
                    self.shard.set_disk_trouble(DiskTrouble::Full);
                    break;
                }
                *files -= 1;
            }
            let plan = self.shard.log().next_segment_plan();
            self.shard.supply(segment(plan.number.0, plan.base.0));
        }
        self.shard.seal_group().expect("there is always a segment");
        while self.shard.next_commit().is_some() {
            let _ = self.shard.sync_done();
        }
        let _ = self.shard.log_mut().take_seals();
    }

    fn put(&mut self, key: &str, value: &[u8], expiry: Option<u64>) {
        let time = self.time();
        self.shard.put(SECRET.hash(key.as_bytes()), key.as_bytes(), value, expiry, time).expect("room");
        self.settle();
    }

    fn delete(&mut self, key: &str) {
        let time = self.time();
        self.shard.delete(SECRET.hash(key.as_bytes()), key.as_bytes(), time).expect("room");
        self.settle();
    }

    /// A record of another node, `ahead_ms` ahead of this one's clock.
    fn follow(&mut self, key: &str, value: &[u8], ahead_ms: u64) -> Vec<u8> {
        let version = Version::new(1_000_000 + self.millis + ahead_ms, 1, 1);
        let (op, expiry, key) = (RecordOp::Put, None, key.as_bytes());
        let bytes = RecordDraft { version, origin: OTHER, op, expiry, key, value }.to_vec();
        self.follow_bytes(&bytes);
        bytes
    }

    fn follow_bytes(&mut self, bytes: &[u8]) {
        let (record, _) = RecordView::parse(bytes).expect("a record that was just encoded");
        let time = self.time();
        self.shard.follow(&record, time).expect("room");
        self.settle();
    }

    /// Fills segments with values of one key, so that what was written before lies in immutable ones.
    fn churn(&mut self, segments: usize) {
        for _ in 0..segments * 8 {
            self.put("churn", &[b'c'; 8_000], None);
        }
    }

    /// Bytes of a segment, as a bulk read gives them.
    fn read(&self, number: SegmentNumber, offset: u64, len: u32) -> Bytes {
        let offset = usize::try_from(offset).expect("inside a segment");
        self.shard.map_of(number).expect("a segment of this run").bytes(offset..offset + len as usize)
    }

    /// Compacts until nothing is due and gives up what is empty. Gives the segments given up.
    fn compact(&mut self, budget: usize) -> usize {
        let mut removed = 0;
        loop {
            self.shard.begin_compaction();
            while self.shard.is_compacting() {
                if let Some(read) = self.shard.compaction_read() {
                    let bytes = self.read(read.segment.number, read.offset, read.len);
                    self.shard.compaction_chunk(&bytes).expect("intact");
                }
                let time = self.time();
                self.shard.compact(budget, time).expect("room");
                self.settle();
            }
            self.settle();
            match self.shard.removable() {
                Some(removable) => {
                    let _ = self.shard.remove(removable.number).expect("the oldest");
                    self.files = self.files.map(|files| files + 1);
                    removed += 1;
                }
                None => return removed,
            }
        }
    }

    fn bytes_of(&mut self, key: &str) -> Option<Vec<u8>> {
        let found =
            self.shard.store().read(SECRET.hash(key.as_bytes()), key.as_bytes(), |record| record.bytes.to_vec());
        found.map(|(bytes, ..)| bytes)
    }

    fn value_of(&self, key: &str, millis: u64) -> Option<Vec<u8>> {
        let hash = SECRET.hash(key.as_bytes());
        self.shard.read(hash, key.as_bytes(), at(millis), |record| record.value.to_vec()).0
    }

    /// Kinds of the frames in which a record with this value stands, oldest first.
    fn frames_with(&self, value: &[u8]) -> Vec<FrameKind> {
        let mut kinds = Vec::new();
        for number in 1..1000 {
            let Some(map) = self.shard.map_of(SegmentNumber(number)) else { continue };
            let base = (number - 1) * SEGMENT_BYTES as u64;
            let bytes = map.bytes(4096..SEGMENT_BYTES);
            for frame in wal::frames(&bytes, Lsn(base + 4096), Cookie(number)).map_while(Result::ok) {
                let holds = frame.records().flatten().any(|record| record.value == value);
                kinds.extend(holds.then_some(frame.kind()));
            }
        }
        kinds
    }
}

#[test]
fn records_move_verbatim_and_their_segments_go() {
    let mut driven = Driven::new();
    driven.put("own", b"of this node", None);
    driven.put("gone", b"x", None);
    driven.delete("gone");
    let followed = driven.follow("followed", b"of another node", 0);
    let before: Vec<_> = ["own", "gone", "followed"].map(|key| driven.bytes_of(key).expect("here")).into();
    driven.churn(6);
    assert!(driven.compact(100) >= 4);
    let after: Vec<_> = ["own", "gone", "followed"].map(|key| driven.bytes_of(key).expect("here")).into();
    assert_eq!(before, after, "tombstones included");
    assert_eq!(followed[..after[2].len()], after[2]);
    assert_eq!(driven.frames_with(b"of this node"), [FrameKind::Compacted]);
    assert_eq!(driven.frames_with(b"of another node"), [FrameKind::CompactedFollowed]);
    let counters = driven.shard.compaction_counters();
    assert!(counters.records >= 3 && counters.bytes > 100, "{counters:?}");
}

#[test]
fn nothing_is_copied_while_files_take_less_than_twice_what_counts() {
    let mut driven = Driven::new();
    for key in 0..100 {
        driven.put(&format!("key:{key}"), &[b'v'; 4_000], None);
    }
    assert_eq!(driven.compact(usize::MAX), 0);
    assert_eq!(driven.shard.compaction_counters().records, 0);
}

#[test]
fn an_expired_value_shrinks_and_its_record_is_still_the_same() {
    let mut driven = Driven::new();
    let expiry = at(50).unix_ms;
    driven.put("session", &[b's'; 5_000], Some(expiry));
    let original = driven.bytes_of("session").expect("here");
    driven.churn(12);
    assert!(driven.millis > 60, "the clock has passed the expiry");
    assert!(driven.compact(usize::MAX) > 0);
    let stub = driven.bytes_of("session").expect("its version is kept");
    assert!(stub.len() < 100, "{} bytes", stub.len());
    assert_eq!(driven.value_of("session", 0), None, "whatever the clock says");
    // The original comes again, by a stream that repeats it.
    let staged = driven.shard.log().staged();
    let (record, _) = RecordView::parse(&original).expect("intact");
    let time = driven.time();
    driven.shard.follow(&record, time).expect("nothing to do");
    assert_eq!((driven.shard.log().staged(), driven.shard.counters().already_applied), (staged, 1));
}

#[test]
fn what_is_held_back_moves_and_is_shown_when_it_is_due() {
    let mut driven = Driven::new();
    driven.follow("future", b"later", 10_000);
    driven.churn(6);
    assert!(driven.compact(usize::MAX) >= 4);
    assert_eq!(driven.value_of("future", driven.millis), None);
    assert_eq!(driven.frames_with(b"later"), [FrameKind::CompactedFollowed]);
    driven.millis += 11_000;
    for _ in 0..2 {
        let time = driven.time();
        driven.shard.release_due(time);
        driven.settle();
    }
    assert_eq!(driven.value_of("future", driven.millis).as_deref(), Some(&b"later"[..]));
}

#[test]
fn whoever_follows_this_log_finds_what_superseded_its_records() {
    let mut driven = Driven::new();
    driven.put("key", b"loser", None);
    driven.churn(1);
    driven.follow("key", b"winner", 5);
    driven.churn(6);
    assert!(driven.compact(usize::MAX) >= 4);
    assert_eq!(driven.frames_with(b"loser"), []);
    assert!(driven.frames_with(b"winner").contains(&FrameKind::Compacted));
    // Another node's newer record takes that one's place: it has to stand there as well.
    driven.follow("key", b"second winner", 5);
    driven.churn(12);
    assert!(driven.compact(usize::MAX) >= 4);
    assert!(driven.frames_with(b"second winner").contains(&FrameKind::Compacted));
}

#[test]
fn what_superseded_a_record_is_copied_although_there_was_no_room_at_first() {
    let mut driven = Driven::new();
    driven.put("key", b"loser", None);
    driven.churn(1);
    driven.follow("key", b"winner", 5);
    driven.churn(6);
    // The segments at hand are full, and the next one is not prepared yet.
    let (time, churn) = (driven.time(), SECRET.hash(b"churn"));
    while driven.shard.put(churn, b"churn", &[b'c'; 8_000], None, time).is_ok() {}
    while driven.shard.put(churn, b"churn", b"c", None, time).is_ok() {}
    driven.shard.begin_compaction();
    let read = driven.shard.compaction_read().expect("the first segment");
    let bytes = driven.read(read.segment.number, read.offset, read.len);
    driven.shard.compaction_chunk(&bytes).expect("intact");
    assert_eq!(driven.shard.compact(usize::MAX, time), Err(WriteError::NoSegment));
    driven.settle();
    assert!(driven.compact(usize::MAX) >= 4);
    assert_eq!(driven.frames_with(b"loser"), []);
    assert!(driven.frames_with(b"winner").contains(&FrameKind::Compacted));
}

#[test]
fn a_full_disk_leaves_compaction_the_room_that_it_needs_to_make_more() {
    let mut driven = Driven::new();
    driven.put("key", b"value", None);
    driven.files = Some(6);
    let put = |driven: &mut Driven| {
        let time = driven.time();
        let result = driven.shard.put(SECRET.hash(b"churn"), b"churn", &[b'c'; 8_000], None, time);
        driven.settle();
        result
    };
    let refused = (0..1000).map(|_| put(&mut driven)).find_map(Result::err);
    assert_eq!(refused, Some(WriteError::DiskFull));
    assert_eq!(put(&mut driven), Err(WriteError::DiskFull), "and it stays so");
    assert!(driven.compact(usize::MAX) >= 4);
    assert!(put(&mut driven).is_ok());
    assert_eq!(driven.value_of("key", driven.millis).as_deref(), Some(&b"value"[..]));
}

#[test]
fn a_segment_that_is_damaged_is_left_alone() {
    let mut driven = Driven::new();
    driven.put("key", b"value", None);
    driven.churn(6);
    driven.shard.begin_compaction();
    let read = driven.shard.compaction_read().expect("a segment is due");
    let mut bytes = driven.read(read.segment.number, read.offset, read.len).to_vec();
    bytes[70] ^= 1;
    assert!(driven.shard.compaction_chunk(&Bytes::from(bytes)).is_err());
    assert!(!driven.shard.is_compacting());
    assert_eq!(driven.compact(usize::MAX), 0, "nothing behind it goes either");
    assert_eq!(driven.value_of("key", driven.millis).as_deref(), Some(&b"value"[..]));
}

#[derive(Clone, Debug)]
enum Op {
    Put(u8, u16, bool),
    Delete(u8),
    Follow(u8, u16, u64),
    Compact(usize),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0u8..12, 1u16..9_000, any::<bool>()).prop_map(|(key, len, expires)| Op::Put(key, len, expires)),
        1 => (0u8..12).prop_map(Op::Delete),
        3 => (0u8..12, 1u16..4_000, 0u64..3).prop_map(|(key, len, ahead)| Op::Follow(key, len, ahead)),
        1 => (1usize..20_000).prop_map(Op::Compact),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_compacted_shard_holds_what_one_that_never_compacts_holds(ops in prop::collection::vec(op(), 1..160)) {
        let (mut one, mut other) = (Driven::new(), Driven::new());
        for (number, op) in ops.iter().enumerate() {
            for (driven, compacts) in [(&mut one, true), (&mut other, false)] {
                driven.millis = number as u64 * 10;
                match op {
                    Op::Put(key, len, expires) => {
                        let expiry = expires.then(|| driven.time().unix_ms + 200);
                        driven.put(&format!("key:{key}"), &vec![*key; usize::from(*len)], expiry);
                    }
                    Op::Delete(key) => driven.delete(&format!("key:{key}")),
                    Op::Follow(key, len, ahead) => {
                        driven.follow(&format!("key:{key}"), &vec![*key; usize::from(*len)], *ahead);
                    }
                    Op::Compact(budget) if compacts => { driven.compact(*budget); }
                    Op::Compact(_) => {}
                }
            }
        }
        let millis = one.millis.max(other.millis);
        for key in 0..12 {
            let key = format!("key:{key}");
            let rank = |bytes: Vec<u8>| {
                let (record, _) = RecordView::parse(&bytes).expect("intact");
                (record.version.ms(), record.op, record.expiry, record.origin)
            };
            prop_assert_eq!(one.bytes_of(&key).map(rank), other.bytes_of(&key).map(rank));
            prop_assert_eq!(one.value_of(&key, millis), other.value_of(&key, millis));
        }
    }
}

#[test]
fn behind_a_segment_that_cannot_be_read_nothing_is_moved_until_it_can_go() {
    let mut driven = Driven::new();
    driven.put("kept", b"in the first segment", None);
    driven.churn(20);
    driven.shard.begin_compaction();
    assert!(driven.shard.is_compacting());
    driven.shard.compaction_read_failed();
    // Copies of what lies behind it would let nothing go, and there would be no end of them.
    driven.churn(20);
    driven.shard.begin_compaction();
    assert!(!driven.shard.is_compacting());
    assert_eq!(driven.shard.compactable_bytes(), 0);
    assert!(driven.shard.removable().is_none());
    // Nothing counts in it any more: it goes, and all behind it.
    driven.put("kept", b"elsewhere", None);
    driven.settle();
    assert!(driven.compact(64 * 1024) > 30);
    assert!(driven.shard.compactable_bytes() <= driven.shard.compactable_bytes_wanted());
}
