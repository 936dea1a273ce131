//! Inputs to begin with.

use wal::{
    ControlRecord, Cookie, CoreId, FRAME_HEADER_BYTES, FrameFlags, FrameHeader, FrameKind, Incarnation, Lsn,
    MemberState, NodeId, RecordDraft, RecordOp, Version, crc32c, frame_bytes,
};

/// Inputs for the target of that name; with the committed corpus, what drivers mutate.
pub(crate) fn seeds(target: &str) -> Vec<Vec<u8>> {
    match target {
        "record" => record_seeds(),
        "frame" => vec![[&framing(0)[..], &frames()].concat(), [&framing(0xff)[..], &frames()].concat()],
        "segment" => segment_seeds(),
        _ => (1..8).map(|seed| choices(seed, 40 * usize::from(seed))).collect(),
    }
}

/// Position, cookie and healing, as `frame` reads them.
fn framing(healing: u8) -> Vec<u8> {
    [&(LSN.0 << 1).to_le_bytes()[..], &COOKIE.0.to_le_bytes(), &[healing]].concat()
}

const LSN: Lsn = Lsn(0x1000);
const COOKIE: Cookie = Cookie(0xfeed_beef_0102_0305);

fn record(op: RecordOp, expiry: Option<u64>, key: &[u8], value: &[u8]) -> Vec<u8> {
    RecordDraft { version: Version::new(1000, 0, 7), origin: NodeId(9), op, expiry, key, value }.to_vec()
}

fn control_records() -> Vec<ControlRecord> {
    let (node, incarnation, version) = (NodeId(9), Incarnation(11), Version::new(1000, 0, 7));
    vec![
        ControlRecord::Open { node, incarnation, first: version, cores: 2 },
        ControlRecord::Watermark {
            node,
            incarnation,
            version,
            flags: 1,
            rests_on: vec![(incarnation, CoreId(0), LSN)],
        },
        ControlRecord::ClockCeiling { version },
        ControlRecord::Forgotten { version, held: version },
        ControlRecord::Bootstrap { begun: version, ended: version, version, held: version },
        ControlRecord::Close { node, incarnation, version },
        ControlRecord::Membership { node, state: MemberState::Joined, region: "sfo".into(), at: version },
    ]
}

fn record_seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![
        record(RecordOp::Put, None, b"key", b"a value"),
        record(RecordOp::Put, Some(7), b"key", b"a value"),
        record(RecordOp::Delete, None, b"key", b""),
    ];
    for control in control_records() {
        let (key, value) = control.encode();
        seeds.push(record(RecordOp::Control, None, &key, &value));
        seeds.push([key, value].concat());
    }
    seeds
}

/// Three frames with two records each, and an empty one.
fn frames() -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut previous_header_crc = 0;
    for kind in [FrameKind::Originated, FrameKind::Followed, FrameKind::Local] {
        let payload =
            [record(RecordOp::Put, None, b"key", b"a value"), record(RecordOp::Delete, Some(9), b"k", b"")].concat();
        let mut header = FrameHeader {
            header_crc: 0,
            lsn: LSN.plus(bytes.len() as u64),
            cookie: COOKIE,
            durable: LSN,
            hlc: Version::new(1000, 0, 7),
            payload_len: u32::try_from(payload.len()).expect("small"),
            payload_crc: crc32c(&payload),
            records: 2,
            kind,
            flags: FrameFlags::NONE,
            previous_header_crc,
        };
        let end = bytes.len() + frame_bytes(payload.len());
        bytes.extend(header.encode());
        bytes.extend(payload);
        bytes.resize(end, 0);
        previous_header_crc = header.header_crc;
    }
    assert!(bytes.len() > 3 * FRAME_HEADER_BYTES);
    bytes
}

/// One for each way in which `segment` makes its file.
fn segment_seeds() -> Vec<Vec<u8>> {
    let sound = [&[1, 0][..], &7u64.to_le_bytes(), &[0], &COOKIE.0.to_le_bytes(), &frames()].concat();
    let chosen = (1..5).map(|seed| [vec![2], choices(seed, 60 * usize::from(seed))].concat());
    [vec![0, 1, 2, 3], sound].into_iter().chain(chosen).collect()
}

/// Bytes without meaning (xorshift), the same ones each time.
fn choices(seed: u8, len: usize) -> Vec<u8> {
    let mut state = u32::from(seed).wrapping_mul(0x9e37_79b9);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[1]
    };
    (0..len).map(|_| next()).collect()
}
