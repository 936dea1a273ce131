//! What a source may say, and what is refused: a follower believes records that verify and claims over what it asked for,
//! nothing else. Each of these once poisoned a node or raised a watermark falsely.

use bytes::Bytes;
use engine::replication::WINDOW_BYTES;
use engine::replication::receive::{Cores, Receiver, StreamError};
use engine::replication::watermarks::Watermarks;
use engine::storage::NodeSecret;
use net::ids::{Class, CoreIndex, Incarnation, LogId, NodeId, StreamOffset, Version};
use net::wire::body::{Claim, Compression, Records, RecordsHead};
use net::wire::packing::{Packer, Packing};
use wal::{ControlRecord, Lsn, RecordDraft, RecordOp};

const SECRET: NodeSecret = NodeSecret(7);
const VALUE_BYTES_MAX: usize = 1024;

const LOG: LogId = LogId { node: NodeId(5), incarnation: Incarnation(1) };

fn record(op: RecordOp, version: u64, key: &[u8], value: &[u8]) -> Vec<u8> {
    let version = wal::Version(version);
    let draft = RecordDraft { version, origin: wal::NodeId(LOG.node.0), op, expiry: None, key, value };
    let mut bytes = vec![0; draft.padded_len()];
    draft.encode_into(&mut bytes);
    bytes
}

fn control(control: &ControlRecord) -> Vec<u8> {
    let (key, value) = control.encode();
    record(RecordOp::Control, 5 << 22, &key, &value)
}

fn batch(log: LogId, bytes: Vec<u8>) -> Records {
    let raw_bytes = u32::try_from(bytes.len()).unwrap();
    let head = RecordsHead {
        log,
        core: CoreIndex(0),
        flags: 0,
        stream_offset: StreamOffset(0),
        count: 1,
        raw_bytes,
        compression: Compression::None,
    };
    Records { head, payload: Bytes::from(bytes) }
}

fn claim(log: LogId, to: u64) -> Claim {
    Claim { log, from: Version(0), to: Version(to), flags: 0, class: Class(0) }
}

fn receiver() -> (Receiver, Cores) {
    let cores = Cores::new(1, SECRET, VALUE_BYTES_MAX);
    let mut receiver = Receiver::default();
    receiver.open(&cores, [(LOG, None)]).unwrap();
    (receiver, cores)
}

fn refusal(bytes: Vec<u8>) -> StreamError {
    let (mut receiver, mut cores) = receiver();
    receiver.records(&batch(LOG, bytes), &mut cores, |_| false).expect_err("must be refused")
}

#[test]
fn a_version_of_zero_is_refused() {
    assert!(matches!(refusal(record(RecordOp::Put, 0, b"k", b"v")), StreamError::Unacceptable { .. }));
}

#[test]
fn a_value_larger_than_this_node_takes_is_refused_and_does_not_end_the_node() {
    let error = refusal(record(RecordOp::Put, 1, b"k", &[0; VALUE_BYTES_MAX + 1]));
    assert!(error.to_string().contains("raise VALUE_BYTES_MAX"), "{error}");
}

#[test]
fn control_records_that_must_not_travel_or_that_nobody_here_knows_are_refused() {
    let ceiling = ControlRecord::ClockCeiling { version: wal::Version(u64::MAX) };
    let watermark = ControlRecord::Watermark {
        node: wal::NodeId(6),
        incarnation: wal::Incarnation(1),
        version: wal::Version(u64::MAX),
        flags: 0,
        rests_on: Vec::new(),
    };
    let open = |node: u32| ControlRecord::Open {
        node: wal::NodeId(node),
        incarnation: wal::Incarnation(LOG.incarnation.0),
        first: wal::Version(1),
        cores: 1,
    };
    for bytes in [control(&ceiling), control(&watermark), control(&open(6)), record(RecordOp::Control, 1, &[99], b"")] {
        assert!(matches!(refusal(bytes), StreamError::Unacceptable { .. }));
    }
    let (mut receiver, mut cores) = receiver();
    receiver
        .records(&batch(LOG, control(&open(LOG.node.0))), &mut cores, |_| false)
        .expect("its own open record travels");
}

#[test]
fn records_and_claims_of_logs_that_were_not_asked_for_are_refused() {
    let (mut receiver, mut cores) = receiver();
    let other = LogId { node: NodeId(6), incarnation: Incarnation(1) };
    assert_eq!(receiver.claim(claim(other, u64::MAX), &cores), Err(StreamError::NotAsked(other)));
    let error = receiver.records(&batch(other, record(RecordOp::Put, 1, b"k", b"v")), &mut cores, |_| false);
    assert_eq!(error.expect_err("not asked"), StreamError::NotAsked(other));
}

#[test]
fn a_claim_beyond_a_retired_logs_end_is_refused() {
    let (mut receiver, cores) = receiver();
    let retired = LogId { incarnation: Incarnation(2), ..LOG };
    receiver.open(&cores, [(retired, Some(Version(10)))]).unwrap();
    assert_eq!(receiver.claim(claim(retired, 10), &cores), Ok(()));
    let beyond = StreamError::BeyondEnd { log: retired, to: 11, end: 10 };
    assert_eq!(receiver.claim(claim(retired, 11), &cores), Err(beyond));
}

#[test]
fn logs_without_end_are_refused() {
    let (mut receiver, cores) = receiver();
    let invented = (0..5_000).map(|n| (LogId { incarnation: Incarnation(n), ..LOG }, None));
    assert_eq!(receiver.open(&cores, invented), Err(StreamError::TooMany("logs")));
}

#[test]
fn a_second_offer_does_not_let_a_claim_overtake_the_disk() {
    let (mut receiver, mut cores) = receiver();
    let mut watermarks = Watermarks::default();
    receiver.records(&batch(LOG, record(RecordOp::Put, 5 << 22, b"k", b"v")), &mut cores, |_| false).unwrap();
    cores.followed(0, 1, Lsn(8192));
    receiver.followed(0, 1, Lsn(8192));
    receiver.open(&cores, [(LOG, None)]).unwrap();
    receiver.claim(claim(LOG, 5 << 22), &cores).unwrap();
    receiver.advance(&cores, &mut watermarks).unwrap();
    assert_eq!(watermarks.version(LOG), Version(0), "staged is not durable");
    cores.durable(0, Lsn(8192));
    receiver.advance(&cores, &mut watermarks).unwrap();
    assert_eq!(watermarks.version(LOG), Version(5 << 22));
}

#[test]
fn adjacent_claims_wait_as_one() {
    let (mut receiver, mut cores) = receiver();
    let mut watermarks = Watermarks::default();
    receiver.records(&batch(LOG, record(RecordOp::Put, 5, b"k", b"v")), &mut cores, |_| false).unwrap();
    for to in 5..1_000 {
        let claim = Claim { from: Version(if to == 5 { 0 } else { to - 1 }), ..claim(LOG, to) };
        receiver.claim(claim, &cores).unwrap();
    }
    assert_eq!(receiver.announced(LOG), Some(Version(999)));
    cores.followed(0, 1, Lsn(8192));
    receiver.followed(0, 1, Lsn(8192));
    cores.durable(0, Lsn(8192));
    receiver.advance(&cores, &mut watermarks).unwrap();
    assert_eq!(watermarks.version(LOG), Version(999));
}

#[test]
fn what_is_held_already_is_left_out_and_the_claim_over_it_takes_effect() {
    let all = [5, 6, 7, 8].map(|version| record(RecordOp::Put, version, &[b'k', u8::try_from(version).unwrap()], b"v"));
    let left = |is_covered: &dyn Fn(u64) -> bool| {
        let (mut receiver, mut cores) = receiver();
        let mut batch = batch(LOG, all.concat());
        batch.head.count = 4;
        let parts = receiver.records(&batch, &mut cores, |record| is_covered(record.version.0)).unwrap();
        let runs = parts.iter().flat_map(|part| &part.records).map(|run| run.to_vec()).collect::<Vec<_>>();
        receiver.claim(claim(LOG, 8), &cores).unwrap();
        let mut watermarks = Watermarks::default();
        receiver.advance(&cores, &mut watermarks).unwrap();
        (runs, watermarks.version(LOG))
    };
    assert_eq!(left(&|_| false), (vec![all.concat()], Version(0)), "all wait for a core");
    assert_eq!(left(&|version| version == 6), (vec![all[0].clone(), all[2..].concat()], Version(0)));
    assert_eq!(left(&|version| version != 8), (vec![all[3].clone()], Version(0)));
    assert_eq!(left(&|version| version < 8 && version > 5), (vec![all[0].clone(), all[3].clone()], Version(0)));
    assert_eq!(left(&|_| true), (vec![], Version(8)), "nothing is left to wait for");
}

/// Two hundred records in one packed batch, and their bytes.
fn packed() -> (Records, usize) {
    let raw: Vec<u8> = (1..=200).flat_map(|at| record(RecordOp::Put, at << 22, b"key", &[7; 100])).collect();
    let len = raw.len();
    let mut records = batch(LOG, raw);
    let block = Packer::default().pack(&mut Packing::default(), std::slice::from_ref(&records.payload));
    records.payload = block.expect("equal values become smaller");
    records.head.compression = Compression::Lz4;
    records.head.count = 200;
    (records, len)
}

#[test]
fn a_packed_batch_is_what_it_was_and_counts_as_such() {
    let (mut receiver, mut cores) = receiver();
    let (first, len) = packed();
    let parts = receiver.records(&first, &mut cores, |_| false).unwrap();
    let records: usize = parts.iter().flat_map(|part| &part.records).map(Bytes::len).sum();
    assert_eq!(records, len);
    // The next one stands behind the bytes as they were.
    let (mut next, _) = packed();
    next.head.stream_offset = StreamOffset(first.payload.len() as u64);
    assert!(matches!(receiver.records(&next, &mut cores, |_| false), Err(StreamError::Offset { .. })));
    next.head.stream_offset = StreamOffset(len as u64);
    receiver.records(&next, &mut cores, |_| false).unwrap();
}

#[test]
fn a_packed_batch_that_is_not_what_its_head_says_is_refused_whole() {
    let (sound, len) = packed();
    let refused = |change: &dyn Fn(&mut Records)| {
        let (mut receiver, mut cores) = receiver();
        let mut bad = sound.clone();
        change(&mut bad);
        let error = receiver.records(&bad, &mut cores, |_| false).expect_err("must be refused");
        receiver.records(&sound, &mut cores, |_| false).expect("nothing was taken of the one before");
        error
    };
    let raw = |bytes: usize| move |bad: &mut Records| bad.head.raw_bytes = u32::try_from(bytes).unwrap();
    // Shorter, longer, more than a block of its length can hold, more than any batch has.
    for bytes in [len - 8, len + 8, 255 * sound.payload.len() + 1_000, 1 << 30] {
        let error = refused(&raw(bytes));
        assert!(matches!(error, StreamError::Packed { log: LOG, .. }), "{bytes}: {error:?}");
        assert!(error.to_string().contains("packed payload is damaged"), "{error}");
    }
    for cut in 0..sound.payload.len() {
        let error = refused(&|bad| bad.payload = sound.payload.slice(..cut));
        assert!(matches!(error, StreamError::Packed { .. }), "cut at {cut}: {error:?}");
    }
    assert!(matches!(refused(&|bad| bad.head.count = 199), StreamError::Count { found: 200, .. }));
    // Whatever a changed byte makes of it, no record passes that is not the one that was written.
    for at in 0..sound.payload.len() {
        let (mut receiver, mut cores) = receiver();
        let mut payload = sound.payload.to_vec();
        payload[at] ^= 0x55;
        let damaged = Records { payload: payload.into(), ..sound.clone() };
        if let Ok(parts) = receiver.records(&damaged, &mut cores, |_| false) {
            let records: Vec<u8> = parts.iter().flat_map(|part| &part.records).flatten().copied().collect();
            assert_eq!(records, sound.unpacked().unwrap(), "byte {at}");
        }
    }
}

#[test]
fn nothing_is_unpacked_beyond_the_credit_or_unasked() {
    let (mut receiver, mut cores) = receiver();
    let (mut bad, _) = packed();
    bad.payload = bad.payload.slice(1..);
    bad.head.log = LogId { node: NodeId(6), ..LOG };
    assert!(matches!(receiver.records(&bad, &mut cores, |_| false), Err(StreamError::NotAsked(_))));
    let (mut at, mut sent) = (0u64, 0);
    let error = loop {
        let (mut next, len) = packed();
        next.head.stream_offset = StreamOffset(at);
        match receiver.records(&next, &mut cores, |_| false) {
            Ok(_) => at += len as u64,
            Err(error) => break error,
        }
        sent += next.payload.len();
    };
    assert_eq!(error, StreamError::Flooded);
    assert!((WINDOW_BYTES..WINDOW_BYTES + 100_000).contains(&at), "{at} bytes were unpacked of {sent}");
}

/// A live connection that begins late: its claims wait until what lies below has come on another one, and then take effect.
#[test]
fn a_claim_above_what_is_held_waits_where_its_log_begins_late_and_ends_the_stream_elsewhere() {
    let gap = |from: u64, to: u64| Claim { from: Version(from), ..claim(LOG, to) };
    let (mut live, mut cores) = receiver();
    let mut watermarks = Watermarks::default();
    watermarks.raise(LOG, Version(10), []);
    live.claim(gap(50, 60), &cores).unwrap();
    let refused = live.advance(&cores, &mut watermarks);
    assert_eq!(refused, Err(StreamError::Gap { log: LOG, from: 50, held: 10 }), "nobody said that it begins late");

    let (mut live, mut bulk) = (receiver().0, receiver().0);
    live.begin_late([(LOG, Version(50))]);
    live.records(&batch(LOG, record(RecordOp::Put, 55, b"k", b"v")), &mut cores, |_| false).unwrap();
    live.claim(gap(50, 60), &cores).unwrap();
    live.advance(&cores, &mut watermarks).unwrap();
    assert!(!live.connect(&mut watermarks));
    cores.followed(0, 1, Lsn(100));
    live.followed(0, 1, Lsn(100));
    cores.durable(0, Lsn(100));
    live.claim(gap(60, 70), &cores).unwrap();
    assert_eq!(live.advance(&cores, &mut watermarks), Ok(false));
    assert!(!live.connect(&mut watermarks), "what lies between is not here");
    assert_eq!(watermarks.version(LOG), Version(10));
    bulk.claim(gap(10, 40), &cores).unwrap();
    assert_eq!(bulk.advance(&cores, &mut watermarks), Ok(true));
    assert!(!live.connect(&mut watermarks));
    bulk.claim(gap(40, 52), &cores).unwrap();
    bulk.advance(&cores, &mut watermarks).unwrap();
    assert!(live.connect(&mut watermarks));
    assert_eq!(watermarks.version(LOG), Version(70));
    let (_, component) = watermarks.iter().next().unwrap();
    assert_eq!(component.rests_on.get(&0), Some(&Lsn(100)), "it rests on what came on the live connection, too");
    assert!(!live.connect(&mut watermarks), "once");
    live.claim(gap(80, 90), &cores).unwrap();
    assert!(live.advance(&cores, &mut watermarks).is_ok());
    assert!(!live.connect(&mut watermarks), "a hole in its own claims is none that anybody fills");
    assert_eq!(live.claim(gap(95, 99), &cores), Ok(()));
    assert!(matches!(live.advance(&cores, &mut watermarks), Err(StreamError::Gap { from: 95, .. })));
}
