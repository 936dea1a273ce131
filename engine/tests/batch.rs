//! Batches of a shard: what they show while they are open, and that they are written in one frame or not at all.

use engine::clock::{AHEAD_MS_MAX, Time};
use engine::shard::{BATCH_KEYS_MAX, Shard, ShardIdentity, ShardSettings, WriteError};
use engine::storage::NodeSecret;
use engine::storage::store::Store;
use net::reactor::Mono;
use wal::{
    CommitPath, Cookie, CoreId, EPOCH_2020_UNIX_MS, Incarnation, Lsn, Mapping, MemoryMap, NodeId, RecordDraft,
    RecordOp, RecordView, Segment, SegmentNumber, Version,
};

const SECRET: NodeSecret = NodeSecret(7);

fn at(ms: u64) -> Time {
    Time { mono: Mono(1), unix_ms: EPOCH_2020_UNIX_MS + 1_000_000 + ms }
}

fn segment(number: u64, bytes: usize) -> Segment<MemoryMap> {
    let base = Lsn((number - 1) * bytes as u64);
    Segment { number: SegmentNumber(number), cookie: Cookie(number), base, map: MemoryMap::new(bytes) }
}

fn shard(segment_bytes: usize) -> Shard<MemoryMap> {
    let identity = ShardIdentity { node: NodeId(9), incarnation: Incarnation(1), core: CoreId(0), secret: SECRET };
    let settings = ShardSettings {
        segment_bytes: segment_bytes as u64,
        value_bytes_max: 64 * 1024,
        commit_path: CommitPath::Mmap,
        cores: 1,
    };
    Shard::new(identity, settings, segment(1, segment_bytes), Store::new(4, NodeId(9)), Version::ZERO)
}

fn put(shard: &mut Shard<MemoryMap>, key: &[u8], value: &[u8], ms: u64) -> Result<Lsn, WriteError> {
    shard.put(SECRET.hash(key), key, value, None, at(ms))
}

fn get(shard: &Shard<MemoryMap>, key: &[u8], ms: u64) -> Option<Vec<u8>> {
    shard.read(SECRET.hash(key), key, at(ms), |record| record.value.to_vec()).0
}

/// Seals what is staged; the number of records in each frame of the log's own records since the last call.
fn frames(shard: &mut Shard<MemoryMap>) -> Vec<u32> {
    shard.seal_group().unwrap();
    let mut frames = Vec::new();
    while shard.next_commit().is_some() {
        frames.extend(shard.sync_done().iter().map(|frame| frame.frame.records));
    }
    frames
}

#[test]
fn reads_see_what_an_open_batch_holds_and_the_log_does_not() {
    let mut shard = shard(1 << 20);
    put(&mut shard, b"old", b"1", 0).unwrap();
    let staged = shard.log().staged();
    shard.begin_batch();
    assert_eq!(get(&shard, b"old", 0).as_deref(), Some(&b"1"[..]));
    assert_eq!(put(&mut shard, b"new", &[b'x'; 20_000], 0), Ok(Lsn(0)));
    put(&mut shard, b"old", b"2", 0).unwrap();
    assert_eq!(get(&shard, b"old", 0).as_deref(), Some(&b"2"[..]));
    let large = shard.large_value(SECRET.hash(b"new"), b"new", at(0), 16_384).map(|(value, _)| value.len());
    assert_eq!(large, Some(20_000));
    shard.delete(SECRET.hash(b"old"), b"old", at(0)).unwrap();
    assert_eq!(get(&shard, b"old", 0), None);
    shard.put(SECRET.hash(b"short"), b"short", b"v", Some(at(5).unix_ms), at(0)).unwrap();
    assert_eq!((get(&shard, b"short", 4), get(&shard, b"short", 5)), (Some(b"v".to_vec()), None));
    assert_eq!(put(&mut shard, b"huge", &[0; 64 * 1024 + 1], 0), Err(WriteError::TooLarge));
    assert_eq!(shard.log().staged(), staged);
    shard.abandon_batch();
    assert_eq!((get(&shard, b"old", 0).as_deref(), get(&shard, b"new", 0)), (Some(&b"1"[..]), None));
    assert_eq!(shard.log().staged(), staged);
}

#[test]
fn a_batch_is_one_frame_with_the_last_write_of_each_key() {
    let mut shard = shard(1 << 20);
    put(&mut shard, b"before", b"1", 0).unwrap();
    shard.begin_batch();
    for round in 0..3u8 {
        for key in 0..10u8 {
            put(&mut shard, &[key], &[round], 0).unwrap();
        }
    }
    let end = shard.commit_batch(at(0)).unwrap();
    assert_eq!(end, shard.log().staged());
    assert_eq!(get(&shard, &[4], 0), Some(vec![2]));
    assert_eq!(frames(&mut shard), [11], "one frame, with the write before it");
    shard.begin_batch();
    assert_eq!(shard.commit_batch(at(0)), Ok(Lsn(0)), "an empty one waits for nothing");
}

#[test]
fn a_batch_whose_versions_pass_the_ceiling_is_one_frame_all_the_same() {
    let mut shard = shard(1 << 20);
    put(&mut shard, b"k", b"1", 0).unwrap();
    assert_eq!(frames(&mut shard), [1]);
    // The present ceiling ends in the middle of it.
    let ms = AHEAD_MS_MAX - 1;
    shard.begin_batch();
    for key in 0..5_000u32 {
        put(&mut shard, &key.to_le_bytes(), b"v", ms).unwrap();
    }
    shard.commit_batch(at(ms)).unwrap();
    assert_eq!(frames(&mut shard), [5_000]);
}

#[test]
fn a_batch_that_does_not_fit_the_rest_of_a_segment_goes_to_the_next_one_as_a_whole() {
    let mut shard = shard(64 * 1024);
    put(&mut shard, b"k", &[0; 40_000], 0).unwrap();
    let before = frames(&mut shard);
    shard.begin_batch();
    for key in 0..3u8 {
        put(&mut shard, &[key], &[key; 8_000], 0).unwrap();
    }
    assert_eq!(shard.prepare_batch(at(0)), Err(WriteError::NoSegment));
    assert_eq!(shard.commit_batch(at(0)), Err(WriteError::NoSegment));
    assert_eq!(get(&shard, &[1], 0), Some(vec![1; 8_000]), "still open");
    shard.supply(segment(2, 64 * 1024));
    assert_eq!(shard.prepare_batch(at(0)), Ok(()));
    shard.commit_batch(at(0)).unwrap();
    assert_eq!(shard.log().append_position().0, SegmentNumber(2));
    assert_eq!((before, frames(&mut shard)), (vec![1], vec![3]));
}

/// A new segment that nothing was repeated in yet is full before its first group is sealed.
#[test]
fn a_batch_that_writes_nothing_needs_no_room() {
    let mut shard = shard(64 * 1024);
    shard.supply(segment(2, 64 * 1024));
    for bytes in [10_000, 100, 0] {
        while put(&mut shard, b"k", &vec![0; bytes], 0).is_ok() {}
    }
    assert_eq!(shard.log().append_position().0, SegmentNumber(2));
    shard.begin_batch();
    assert!(get(&shard, b"k", 0).is_some());
    assert_eq!(shard.prepare_batch(at(0)), Ok(()));
    assert_eq!(shard.commit_batch(at(0)), Ok(Lsn(0)));
}

#[test]
fn what_no_segment_holds_is_refused_for_good() {
    let mut shard = shard(64 * 1024);
    shard.supply(segment(2, 64 * 1024));
    shard.begin_batch();
    for key in 0..8u8 {
        put(&mut shard, &[key], &[key; 8_000], 0).unwrap();
    }
    assert_eq!(shard.prepare_batch(at(0)), Err(WriteError::BatchTooLarge));
    assert_eq!(shard.commit_batch(at(0)), Err(WriteError::BatchTooLarge));
    shard.abandon_batch();
    assert_eq!(shard.log().append_position().0, SegmentNumber(1), "no segment was ended for it");
}

#[test]
fn more_keys_than_versions_can_be_given_in_a_moment_are_refused() {
    let mut shard = shard(16 << 20);
    shard.begin_batch();
    for key in 0..=u32::try_from(BATCH_KEYS_MAX).unwrap() {
        put(&mut shard, &key.to_le_bytes(), b"v", 0).unwrap();
    }
    assert_eq!(shard.commit_batch(at(0)), Err(WriteError::BatchTooLarge));
    shard.delete(SECRET.hash(b"k"), b"k", at(0)).unwrap();
    shard.abandon_batch();
}

#[test]
fn a_clock_that_is_ahead_holds_a_batch_up_and_gives_it_nothing() {
    let mut shard = shard(1 << 20);
    put(&mut shard, b"k", b"1", 0).unwrap();
    let seen = Version::new(at(AHEAD_MS_MAX).unix_ms - EPOCH_2020_UNIX_MS, 0x7f0, 3);
    let draft =
        RecordDraft { version: seen, origin: NodeId(5), op: RecordOp::Put, expiry: None, key: b"x", value: b"" };
    let bytes = draft.to_vec();
    shard.follow(&RecordView::parse(&bytes).unwrap().0, at(0)).unwrap();
    shard.begin_batch();
    for key in 0..100u8 {
        put(&mut shard, &[key], b"v", 0).unwrap();
    }
    let staged = shard.log().staged();
    assert_eq!(shard.commit_batch(at(0)), Err(WriteError::Throttled));
    assert_eq!(shard.log().staged(), staged);
    shard.commit_batch(at(1)).unwrap();
    assert_eq!(get(&shard, &[99], 1), Some(b"v".to_vec()));
}

#[test]
fn a_change_of_any_kind_shows_and_one_that_is_none_does_not() {
    let mut shard = shard(1 << 20);
    let hash = SECRET.hash(b"k");
    let look = |shard: &mut Shard<MemoryMap>, ms: u64| shard.presence(hash, b"k", at(ms)).unwrap().0;
    let nothing = look(&mut shard, 0);
    assert!(!nothing.changed(&look(&mut shard, 0)));
    put(&mut shard, b"k", b"v", 0).unwrap();
    let first = look(&mut shard, 0);
    assert!(nothing.changed(&first) && !first.changed(&look(&mut shard, 0)));
    put(&mut shard, b"k", b"v", 0).unwrap();
    assert!(first.changed(&look(&mut shard, 0)), "the same value again");
    let second = look(&mut shard, 0);
    shard.delete(hash, b"k", at(0)).unwrap();
    let deleted = look(&mut shard, 0);
    assert!(second.changed(&deleted) && nothing.changed(&deleted) && !deleted.changed(&look(&mut shard, 0)));
    shard.put(hash, b"k", b"v", Some(at(10).unix_ms), at(0)).unwrap();
    let expiring = look(&mut shard, 0);
    assert!(!expiring.changed(&look(&mut shard, 9)) && expiring.changed(&look(&mut shard, 10)));
    assert!(!look(&mut shard, 10).changed(&look(&mut shard, 11)), "it had expired before");
    // Another node's record of the same version.
    let version = expiring.version;
    let draft = |value: u8| {
        RecordDraft {
            version,
            origin: NodeId(5),
            op: RecordOp::Put,
            expiry: Some(at(10).unix_ms),
            key: b"k",
            value: &[value],
        }
        .to_vec()
    };
    let winner = (0..).map(draft).find(|bytes| RecordView::parse(bytes).unwrap().0.crc() > expiring.crc).unwrap();
    shard.follow(&RecordView::parse(&winner).unwrap().0, at(0)).unwrap();
    let tied = look(&mut shard, 0);
    assert!(tied.version == expiring.version && expiring.changed(&tied));
}

/// Power is lost when any part of the group reached the disk: the frame's checksum covers the whole batch.
#[test]
fn a_batch_is_found_whole_after_a_crash_or_not_at_all() {
    let mut shard = shard(64 * 1024);
    shard.begin_batch();
    for key in 0..20u8 {
        put(&mut shard, &[key], &[key; 200], 0).unwrap();
    }
    shard.commit_batch(at(0)).unwrap();
    shard.seal_group().unwrap();
    let map = shard.map_of(SegmentNumber(1)).unwrap();
    let whole = map.with(0..map.len(), <[u8]>::to_vec);
    let found = |bytes: &[u8]| {
        let mut records = 0;
        let mut at = wal::SEGMENT_HEADER_BYTES;
        while let Ok(frame) = wal::FrameView::parse(&bytes[at..], Lsn(at as u64), Cookie(1)) {
            records += if frame.header().kind == wal::FrameKind::Originated { frame.header().records } else { 0 };
            at += usize::try_from(frame.header().end().0 - frame.header().lsn.0).unwrap();
        }
        records
    };
    assert_eq!(found(&whole), 20);
    for sector in (wal::SEGMENT_HEADER_BYTES..wal::SEGMENT_HEADER_BYTES + 20 * 248).step_by(512) {
        let mut torn = whole.clone();
        torn[sector..sector + 512].fill(0);
        assert_eq!(found(&torn), 0, "without the sector at {sector}");
    }
}
