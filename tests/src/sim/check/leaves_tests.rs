use std::net::SocketAddr;

use bytes::Bytes;
use net::ids::{Class, CoreIndex, RequestId, StreamOffset};
use net::wire::body::{Claim, Compression, Follow, FollowLog, Heartbeat, Records, RecordsHead, Watermark, Watermarks};
use net::wire::message::Message;
use net::wire::packing::{Packer, Packing};
use wal::{FrameKind, Incarnation, NodeId, RecordDraft, RecordOp, RecordView};

use super::super::device::Record;
use super::super::positions::{C5, CREDIT};
use super::super::stream::WIRE;
use super::*;

const SOURCE: usize = 1;
const FOLLOWER: usize = 0;

fn log() -> LogId {
    engine::replication::log_id(NodeId(7), Incarnation(9))
}

fn put(version: u64, value: &[u8]) -> Vec<u8> {
    let draft = RecordDraft {
        version: Version(version),
        origin: NodeId(7),
        op: RecordOp::Put,
        expiry: None,
        key: b"key",
        value,
    };
    let mut bytes = vec![0; draft.padded_len()];
    draft.encode_into(&mut bytes);
    bytes
}

fn bytes_of(message: &Message) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.encode(RequestId(0), &mut bytes).expect("it fits");
    bytes
}

fn records(offset: u64, records: &[Vec<u8>]) -> Vec<u8> {
    let payload: Vec<u8> = records.concat();
    let head = RecordsHead {
        log: log(),
        core: CoreIndex(0),
        flags: 0,
        stream_offset: StreamOffset(offset),
        count: u32::try_from(records.len()).expect("few"),
        raw_bytes: u32::try_from(payload.len()).expect("few"),
        compression: Compression::None,
    };
    bytes_of(&Message::Records(Records { head, payload: Bytes::from(payload) }))
}

fn packed(offset: u64, records: &[Vec<u8>]) -> Vec<u8> {
    let raw = Bytes::from(records.concat());
    let payload =
        Packer::default().pack(&mut Packing::default(), std::slice::from_ref(&raw)).expect("it becomes smaller");
    let head = RecordsHead {
        log: log(),
        core: CoreIndex(0),
        flags: 0,
        stream_offset: StreamOffset(offset),
        count: u32::try_from(records.len()).expect("few"),
        raw_bytes: u32::try_from(raw.len()).expect("few"),
        compression: Compression::Lz4,
    };
    bytes_of(&Message::Records(Records { head, payload }))
}

fn claim(from: u64, to: u64) -> Vec<u8> {
    let (from, to) = (net::ids::Version(from), net::ids::Version(to));
    bytes_of(&Message::Claim(Claim { log: log(), from, to, flags: 0, class: Class(0) }))
}

fn follow(from: u64, credit: u64) -> Vec<u8> {
    let logs = vec![FollowLog::all(log(), net::ids::Version(from))];
    bytes_of(&Message::Follow(Follow { credit: StreamOffset(credit), held: net::ids::Version(0), logs }))
}

fn told(version: u64) -> Vec<u8> {
    let version = net::ids::Version(version);
    let entries = vec![Watermark { log: log(), version, persisted: version, class: Class(0) }];
    bytes_of(&Message::Watermarks(Watermarks { full: true, entries }))
}

/// A follower that asked for everything above 100 with credit for 1,000 bytes, and a source that holds these records durably and
/// claims its log up to `claimed`.
struct Wire {
    leaves: Leaves,
    view: View,
    excused: BTreeSet<LogId>,
}

impl Wire {
    fn new(durable: &[Vec<u8>], claimed: u64) -> Wire {
        let ips = [IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2])];
        let mut view = View::default();
        for bytes in durable {
            let (record, _) = RecordView::parse(bytes).expect("a record");
            view.take(NodeId(7), FrameKind::Originated, &Record::of(&record), false).expect("no echo");
        }
        view.claims.insert(log(), Version(claimed));
        let mut wire = Wire { leaves: Leaves::new(ips.to_vec()), view, excused: BTreeSet::new() };
        assert_eq!(wire.send(FOLLOWER, &follow(100, 1_000), 4), Ok(()));
        wire
    }

    /// The checker's name for what is wrong with `bytes`, which the network carries in pieces.
    fn send(&mut self, side: usize, bytes: &[u8], piece: usize) -> Result<(), &'static str> {
        let from = IpAddr::from([10, 0, 0, if side == FOLLOWER { 1 } else { 2 }]);
        let sender = Sender { name: "here", view: &self.view, excused: &self.excused, kept: None, is_dying: false };
        for piece in bytes.chunks(piece) {
            let bytes = Bytes::copy_from_slice(piece);
            let sent = Sent { from, to: SocketAddr::from(([10, 0, 0, 9], 10_400)), conn: 3, side, bytes };
            self.leaves.sent(&sent, &sender).map_err(|violation| violation.checker)?;
        }
        Ok(())
    }
}

#[test]
fn packed_records_are_looked_at_like_any() {
    let (first, second) = (put(101, &[7; 300]), put(102, &[8; 300]));
    let raw = (first.len() + second.len()) as u64;
    for piece in [1, 7, 5_000] {
        let mut wire = Wire::new(&[first.clone(), second.clone()], 150);
        assert_eq!(wire.send(SOURCE, &packed(0, &[first.clone(), second.clone()]), piece), Ok(()));
        assert_eq!(wire.leaves.records, 2);
        // Offsets are those of the bytes before packing.
        assert_eq!(wire.send(SOURCE, &packed(raw, std::slice::from_ref(&first)), piece), Ok(()));
        let mut wire = Wire::new(std::slice::from_ref(&first), 150);
        assert_eq!(wire.send(SOURCE, &packed(0, &[first.clone(), second.clone()]), piece), Err(D8));
    }
}

#[test]
fn durable_records_and_true_claims_may_leave_in_any_pieces() {
    let (first, second) = (put(101, b"one"), put(102, &[7; 900]));
    for piece in [1, 3, 16, 33, 5_000] {
        let mut wire = Wire::new(&[first.clone(), second.clone()], 150);
        let bytes = [
            bytes_of(&Message::Heartbeat(Heartbeat { sent_at_ns: 1, echo_ns: 0, held_ns: 0, physical_ms: 2 })),
            records(0, &[first.clone(), second.clone()]),
            claim(100, 102),
            records((first.len() + second.len()) as u64, std::slice::from_ref(&first)),
            claim(102, 150),
        ];
        assert_eq!(wire.send(SOURCE, &bytes.concat(), piece), Ok(()));
        assert_eq!((wire.leaves.records, wire.leaves.claims), (3, 2));
    }
}

#[test]
fn a_record_that_is_not_on_the_device_must_not_leave() {
    let (durable, staged) = (put(101, b"one"), put(102, b"two"));
    for piece in [1, 5_000] {
        let mut wire = Wire::new(std::slice::from_ref(&durable), 150);
        assert_eq!(wire.send(SOURCE, &records(0, &[durable.clone(), staged.clone()]), piece), Err(D8));
    }
    // The same version and key with another value is another record.
    let mut wire = Wire::new(&[durable], 150);
    assert_eq!(wire.send(SOURCE, &records(0, &[put(101, b"two")]), 7), Err(D8));
}

#[test]
fn a_superseded_record_that_was_durable_may_leave() {
    let (old, new) = (put(101, b"one"), put(102, b"two"));
    let mut wire = Wire::new(&[old.clone(), new], 150);
    assert_eq!(wire.send(SOURCE, &records(0, &[old]), 7), Ok(()));
}

#[test]
fn a_claim_beyond_what_the_sender_holds_must_not_leave() {
    let mut wire = Wire::new(&[], 150);
    assert_eq!(wire.send(SOURCE, &claim(100, 151), 7), Err(D8));
    let mut wire = Wire::new(&[], 150);
    assert_eq!(wire.send(SOURCE, &told(150), 7), Ok(()));
    assert_eq!(wire.send(SOURCE, &told(151), 7), Err(D8));
    let mut wire = Wire::new(&[], 150);
    wire.excused.insert(log());
    assert_eq!(wire.send(SOURCE, &claim(100, 151), 7), Ok(()), "nobody knows what such a log held");
}

#[test]
fn a_gap_between_claims_is_noticed() {
    for (first, second) in [(101, 120), (99, 120), (100, 121)] {
        let mut wire = Wire::new(&[], 150);
        let sent = wire.send(SOURCE, &[claim(first, 120), claim(second, 130)].concat(), 11);
        assert_eq!(sent, Err(C5), "{first}, {second}");
    }
    let mut wire = Wire::new(&[], 150);
    assert_eq!(wire.send(SOURCE, &[claim(100, 120), claim(120, 130)].concat(), 11), Ok(()));
    // What was asked for goes on; a further wish does not set it back.
    assert_eq!(wire.send(FOLLOWER, &follow(100, 1_000), 11), Ok(()));
    assert_eq!(wire.send(SOURCE, &claim(130, 140), 11), Ok(()));
}

#[test]
fn a_gap_between_payloads_is_noticed() {
    let record = put(101, b"one");
    let len = record.len() as u64;
    for (offset, holds) in [(len, Ok(())), (len + 8, Err(C5)), (0, Err(C5))] {
        let mut wire = Wire::new(std::slice::from_ref(&record), 150);
        assert_eq!(wire.send(SOURCE, &records(0, std::slice::from_ref(&record)), 11), Ok(()));
        assert_eq!(wire.send(SOURCE, &records(offset, std::slice::from_ref(&record)), 11), holds, "at {offset}");
    }
}

#[test]
fn sending_beyond_the_credit_is_noticed() {
    let large = put(101, &[1; 1_000]);
    let mut wire = Wire::new(std::slice::from_ref(&large), 150);
    assert_eq!(wire.send(SOURCE, &records(0, std::slice::from_ref(&large)), 64), Ok(()), "it crosses the line");
    assert_eq!(wire.send(SOURCE, &records(large.len() as u64, &[large]), 64), Err(CREDIT));
}

#[test]
fn bytes_that_are_no_message_are_noticed() {
    let mut bytes = claim(100, 120);
    bytes[9] ^= 1;
    assert_eq!(Wire::new(&[], 150).send(SOURCE, &bytes, 64), Err(WIRE));
    // A record that says to be longer than its batch.
    let record = put(101, b"one");
    let mut bytes = records(0, std::slice::from_ref(&record));
    let at = bytes.len() - record.len();
    bytes[at] = 200;
    assert_eq!(Wire::new(&[record], 150).send(SOURCE, &bytes, 64), Err(WIRE));
}
