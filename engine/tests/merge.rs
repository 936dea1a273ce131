//! The merge of a shard: whatever order, however many copies, the same record of each key remains.

use engine::clock::Time;
use engine::shard::{Shard, ShardIdentity, ShardSettings};
use engine::storage::NodeSecret;
use engine::storage::store::Store;
use net::reactor::Mono;
use proptest::prelude::*;
use wal::{
    CommitPath, Cookie, CoreId, EPOCH_2020_UNIX_MS, Incarnation, Lsn, MemoryMap, NodeId, RecordDraft, RecordOp,
    RecordView, Segment, SegmentNumber, Version,
};

const SEGMENT_BYTES: usize = 1024 * 1024;
const SECRET: NodeSecret = NodeSecret(7);

fn now() -> Time {
    Time { mono: Mono(1), unix_ms: EPOCH_2020_UNIX_MS + 1_000_000 }
}

fn shard() -> Shard<MemoryMap> {
    let identity = ShardIdentity { node: NodeId(9), incarnation: Incarnation(1), core: CoreId(0), secret: SECRET };
    let first =
        Segment { number: SegmentNumber(1), cookie: Cookie(1), base: Lsn(0), map: MemoryMap::new(SEGMENT_BYTES) };
    let settings = ShardSettings {
        segment_bytes: SEGMENT_BYTES as u64,
        value_bytes_max: 64 * 1024,
        commit_path: CommitPath::Mmap,
        cores: 1,
    };
    Shard::new(identity, settings, first, Store::new(4, NodeId(9)), Version::ZERO)
}

/// The bytes of a record, padded.
fn encode(draft: &RecordDraft<'_>) -> Vec<u8> {
    let mut bytes = vec![0; draft.unpadded_len().next_multiple_of(8)];
    draft.encode_into(&mut bytes);
    bytes
}

fn follow(shard: &mut Shard<MemoryMap>, bytes: &[u8]) {
    let (record, _) = RecordView::parse(bytes).expect("a record that was just encoded");
    shard.follow(&record, now()).expect("room in the segment");
}

/// Makes everything that is staged durable, the clock's ceiling with it.
fn sync(shard: &mut Shard<MemoryMap>) {
    shard.seal_group().expect("room in the segment");
    while shard.next_commit().is_some() {
        let _ = shard.sync_done();
    }
}

/// Makes visible what is due at `time`: at once, or after the sync that raises the ceiling over it.
fn release(shard: &mut Shard<MemoryMap>, time: Time) {
    shard.release_due(time);
    sync(shard);
    shard.release_due(time);
}

/// What remains of each key, tombstones and expired records included.
fn remains(shard: &mut Shard<MemoryMap>) -> Vec<Option<Vec<u8>>> {
    let read = |key: u8| shard.store().read(SECRET.hash(&[key]), &[key], |record| record.bytes.to_vec());
    (0..4).map(read).map(|found| found.map(|(bytes, ..)| bytes)).collect()
}

prop_compose! {
    /// Few keys, few versions, few origins: ties in version, and ties between an expired value and a tombstone, are the rule.
    fn record()(
        key in 0u8..4,
        version in 1u64..5,
        origin in 1u32..4,
        delete in any::<bool>(),
        expired in any::<bool>(),
        value in 0u8..3,
    ) -> Vec<u8> {
        let expiry = (expired && !delete).then_some(EPOCH_2020_UNIX_MS);
        let value = [value];
        encode(&RecordDraft {
            version: Version(version << 22),
            origin: NodeId(origin),
            op: if delete { RecordOp::Delete } else { RecordOp::Put },
            expiry,
            key: &[key],
            value: if delete { &[] } else { &value },
        })
    }
}

proptest! {
    #[test]
    fn order_and_copies_do_not_matter(
        (records, shuffled) in prop::collection::vec(record(), 1..24).prop_flat_map(|records| {
            let again: Vec<_> = records.iter().chain(records.iter().step_by(2)).cloned().collect();
            (Just(records), Just(again).prop_shuffle())
        })
    ) {
        let (mut one, mut other) = (shard(), shard());
        records.iter().for_each(|bytes| follow(&mut one, bytes));
        shuffled.iter().for_each(|bytes| follow(&mut other, bytes));
        prop_assert_eq!(remains(&mut one), remains(&mut other));
    }

    #[test]
    fn what_remains_is_the_highest_version_and_on_a_tie_the_higher_crc_then_bytes(
        records in prop::collection::vec(record(), 1..24)
    ) {
        let mut shard = shard();
        records.iter().for_each(|bytes| follow(&mut shard, bytes));
        for (key, found) in (0u8..).zip(remains(&mut shard)) {
            let rank = |bytes: &Vec<u8>| {
                let (record, _) = RecordView::parse(bytes).expect("encoded above");
                (record.version, record.crc(), record.bytes.to_vec())
            };
            let of_key = records.iter().filter(|bytes| RecordView::parse(bytes).expect("encoded above").0.key == [key]);
            prop_assert_eq!(found, of_key.map(rank).max().map(|(_, _, bytes)| bytes));
        }
    }

    #[test]
    fn the_same_record_again_appends_nothing(bytes in record()) {
        let mut shard = shard();
        follow(&mut shard, &bytes);
        let staged = shard.log().staged();
        follow(&mut shard, &bytes);
        prop_assert_eq!(shard.log().staged(), staged);
        prop_assert_eq!(shard.counters().already_applied, 1);
    }
}

/// `expired_value_does_not_uncover_its_predecessor`: it wins the merge and reads as absent.
#[test]
fn expired_value_does_not_uncover_its_predecessor() {
    let mut shard = shard();
    let put = |version: u64, expiry: Option<u64>, value: &[u8]| {
        let version = Version(version << 22);
        encode(&RecordDraft { version, origin: NodeId(1), op: RecordOp::Put, expiry, key: b"k", value })
    };
    follow(&mut shard, &put(2, Some(EPOCH_2020_UNIX_MS + 1), b"expired"));
    follow(&mut shard, &put(1, None, b"older"));
    let hash = SECRET.hash(b"k");
    assert_eq!(shard.read(hash, b"k", now(), |record| record.value.to_vec()).0, None);
    assert_eq!(shard.live(now()), 0);
    follow(&mut shard, &put(3, None, b"newer"));
    assert_eq!(shard.read(hash, b"k", now(), |record| record.value.to_vec()).0.as_deref(), Some(&b"newer"[..]));
    assert_eq!(shard.live(now()), 1);
}

/// A record of the far future is durable and claimed, but neither visible nor seen by the clock before it is due, nor
/// visible before a ceiling over it is durable. Meanwhile its stream may repeat it.
#[test]
fn a_record_of_the_far_future_is_held_back_until_due() {
    let mut shard = shard();
    let ahead = Version::new(1_000_000 + 10_000, 0, 1);
    let draft = RecordDraft {
        version: ahead,
        origin: NodeId(1),
        op: RecordOp::Put,
        expiry: None,
        key: b"k",
        value: b"from the future",
    };
    follow(&mut shard, &encode(&draft));
    let hash = SECRET.hash(b"k");
    assert_eq!(shard.read(hash, b"k", now(), |_| ()).0, None);
    let end = shard.put(hash, b"k", b"present", None, now()).expect("a write");
    assert!(end > Lsn(0));
    let visible = |shard: &mut Shard<MemoryMap>, time| shard.read(hash, b"k", time, |record| record.value.to_vec()).0;
    release(&mut shard, now());
    assert_eq!(visible(&mut shard, now()).as_deref(), Some(&b"present"[..]));
    let later = Time { mono: Mono(2), unix_ms: now().unix_ms + 10_000 };
    shard.release_due(later);
    assert_eq!(visible(&mut shard, later).as_deref(), Some(&b"present"[..]), "the ceiling is not durable yet");
    let bytes = encode(&draft);
    let (record, _) = RecordView::parse(&bytes).expect("a record that was just encoded");
    let staged = shard.log().staged();
    shard.follow(&record, later).expect("room in the segment");
    assert_eq!(shard.log().staged(), staged, "it is here already");
    sync(&mut shard);
    shard.release_due(later);
    assert_eq!(visible(&mut shard, later).as_deref(), Some(&b"from the future"[..]));
}

/// Two records of one key with one version, both of the far future: the tie is decided when they are due.
#[test]
fn equal_versions_of_the_far_future_converge() {
    let ahead = Version::new(1_000_000 + 10_000, 0, 1);
    let record = |origin: u32, value: &[u8]| {
        encode(&RecordDraft {
            version: ahead,
            origin: NodeId(origin),
            op: RecordOp::Put,
            expiry: None,
            key: b"k",
            value,
        })
    };
    let records = [record(1, b"one"), record(2, b"two")];
    let later = Time { mono: Mono(2), unix_ms: now().unix_ms + 10_000 };
    let run = |order: [usize; 2]| {
        let mut shard = shard();
        order.iter().for_each(|index| follow(&mut shard, &records[*index]));
        release(&mut shard, later);
        shard.read(SECRET.hash(b"k"), b"k", later, |record| record.value.to_vec()).0
    };
    assert!(run([0, 1]).is_some());
    assert_eq!(run([0, 1]), run([1, 0]));
}

/// `complete` promises durability, and never exceeds the durable clock ceiling.
#[test]
fn a_claim_waits_for_the_sync_and_is_never_followed_by_a_lower_version() {
    let mut shard = shard();
    let first = shard.open(1, now()).expect("open");
    let hash = SECRET.hash(b"k");
    shard.put(hash, b"k", b"v", None, now()).expect("a write");
    assert_eq!(shard.complete(), Version::ZERO);
    shard.seal_group().expect("sealed");
    assert!(shard.next_commit().is_some());
    assert!(shard.next_commit().is_none(), "one sync in flight");
    assert_eq!(shard.complete(), Version::ZERO);
    let frames = shard.sync_done();
    let claimed = shard.complete();
    assert!(claimed > first);
    let versions = |payload: &[u8]| {
        let (mut at, mut found) = (0, Vec::new());
        while at < payload.len() {
            let (record, len) = RecordView::parse(&payload[at..]).expect("a durable record");
            found.push(record.version);
            at += len;
        }
        found
    };
    let shipped: Vec<Version> = frames.iter().flat_map(|frame| versions(&frame.payload)).collect();
    assert_eq!(shipped.len(), 2, "the open record and the write; the ceiling stays here");
    assert!(shipped.iter().all(|version| *version <= claimed));
    // The wall clock steps back an hour: versions go on rising.
    let back = Time { mono: Mono(3), unix_ms: now().unix_ms - 3_600_000 };
    shard.put(hash, b"k", b"w", None, back).expect("a write");
    let (_, version, _) = shard.store().read(hash, b"k", |_| ()).expect("there");
    assert!(version > claimed);
}

/// A write of another node that arrives when this node has written later did not know it, and is counted where that shows.
#[test]
fn writes_of_others_that_lose_against_own_ones_which_did_not_know_them_are_kept() {
    let mut shard = shard();
    let hash = |key: &[u8]| SECRET.hash(key);
    let version = |ms: u64| Version::new(ms, 0, 1);
    let record = |ms: u64, key: &[u8], value: Option<&[u8]>, expiry: Option<u64>| {
        let op = if value.is_some() { RecordOp::Put } else { RecordOp::Delete };
        let value = value.unwrap_or_default();
        encode(&RecordDraft { version: version(ms), origin: NodeId(1), op, expiry, key, value })
    };
    // Those come first, and are known to what overwrites them.
    follow(&mut shard, &record(999_000, b"known", Some(b"known"), None));
    for key in [&b"known"[..], b"put"] {
        shard.put(hash(key), key, b"own", None, now()).expect("a write");
    }
    shard.put(hash(b"gone"), b"gone", b"own", None, now()).expect("a write");
    shard.delete(hash(b"gone"), b"gone", now()).expect("a write");
    follow(&mut shard, &record(999_100, b"put", Some(b"lost"), None));
    follow(&mut shard, &record(999_101, b"gone", Some(b"deleted"), None));
    follow(&mut shard, &record(999_102, b"put", None, None));
    assert_eq!(shard.counters().concurrent, 3);
    let lost: Vec<_> =
        shard.lost().iter().map(|lost| (lost.key.clone(), lost.value.clone(), lost.winner_deletes)).collect();
    let expected = [
        (b"put".to_vec(), None, false),
        (b"gone".to_vec(), Some(b"deleted".to_vec()), true),
        (b"put".to_vec(), Some(b"lost".to_vec()), false),
    ];
    assert_eq!(lost, expected);
    assert!(shard.lost().iter().all(|lost| lost.origin == NodeId(1) && lost.winner > lost.version));
    // Deletions agree, what has expired was gone anyway, and what is covered was here before; the winner's side counts.
    follow(&mut shard, &record(999_103, b"gone", None, None));
    follow(&mut shard, &record(999_104, b"put", Some(b"expired"), Some(EPOCH_2020_UNIX_MS + 1)));
    shard.lost().expect([(NodeId(2), version(999_999)), (NodeId(1), version(999_200))].into());
    follow(&mut shard, &record(999_200, b"put", Some(b"again"), None));
    follow(&mut shard, &record(1_000_400, b"put", Some(b"later"), None));
    assert_eq!(shard.counters().concurrent, 3);
    follow(&mut shard, &record(999_201, b"known", Some(b"late"), None));
    assert_eq!(shard.counters().concurrent, 4);
}

/// What was held back was not seen: a write of this node that it loses against when it is due did not know it.
#[test]
fn a_write_from_the_far_future_may_lose_against_one_that_did_not_see_it() {
    let mut shard = shard();
    let ahead = Version::new(1_000_000 + 10_000, 0, 1);
    let (op, expiry, key) = (RecordOp::Put, None, &b"k"[..]);
    follow(&mut shard, &encode(&RecordDraft { version: ahead, origin: NodeId(1), op, expiry, key, value: b"early" }));
    shard.lost().expect([(NodeId(1), ahead)].into());
    let later = Time { mono: Mono(2), unix_ms: now().unix_ms + 20_000 };
    shard.put(SECRET.hash(key), key, b"own", None, later).expect("a write");
    assert_eq!(shard.counters().concurrent, 0);
    release(&mut shard, later);
    assert_eq!(shard.counters().concurrent, 1);
    assert_eq!(shard.lost().iter().next().and_then(|lost| lost.value.clone()).as_deref(), Some(&b"early"[..]));
}
