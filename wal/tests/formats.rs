//! What is written comes back as it was: segment headers, seals, frames, records, control records.

mod support;

use proptest::prelude::*;
use support::{NODE, PEER, draft, version};
use wal::{
    ControlError, ControlKind, ControlRecord, Cookie, CoreId, FRAME_HEADER_BYTES, FrameError, FrameFlags, FrameHeader,
    FrameKind, FrameView, Incarnation, Lsn, MemberState, NodeId, OriginRange, REGION_NAME_BYTES_MAX, RecordDraft,
    RecordError, RecordFlags, RecordOp, RecordView, SEAL_ENTRIES_MAX, SealBlock, SealState, SegmentHeader,
    SegmentHeaderError, SegmentLink, SegmentNumber, Version, crc32c, frame_bytes, frames, key_hash, padded_record_len,
};

const LSN: Lsn = Lsn(0x1_1000);
const COOKIE: Cookie = Cookie(0xfeed_beef_0102_0304);

fn op() -> impl Strategy<Value = RecordOp> {
    prop_oneof![Just(RecordOp::Put), Just(RecordOp::Delete), Just(RecordOp::Control)]
}

fn bytes(max: usize) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..max)
}

/// A frame over `payload` that holds `records` records.
fn frame(payload: &[u8], records: u32, previous_header_crc: u32) -> (FrameHeader, Vec<u8>) {
    let mut header = FrameHeader {
        header_crc: 0,
        lsn: LSN,
        cookie: COOKIE,
        durable: LSN,
        hlc: version(77),
        payload_len: u32::try_from(payload.len()).expect("small"),
        payload_crc: crc32c(payload),
        records,
        kind: FrameKind::Originated,
        flags: FrameFlags::NONE,
        previous_header_crc,
    };
    let mut bytes = header.encode().to_vec();
    bytes.extend(payload);
    bytes.resize(frame_bytes(payload.len()), 0);
    (header, bytes)
}

/// The frame with a changed header that has a valid checksum again.
fn with_header(frame: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    let crc = crc32c(&frame[8..FRAME_HEADER_BYTES]);
    frame[4..8].copy_from_slice(&crc.to_le_bytes());
    frame
}

/// The record with a changed byte and a valid checksum again.
fn with_record_byte(record: &[u8], at: usize, byte: u8) -> Vec<u8> {
    let mut record = record.to_vec();
    record[at] = byte;
    let len = usize::try_from(u32::from_le_bytes(record[..4].try_into().expect("4 bytes"))).expect("small");
    let crc = crc32c(&record[8..len]);
    record[4..8].copy_from_slice(&crc.to_le_bytes());
    record
}

fn control() -> impl Strategy<Value = ControlRecord> {
    let log = || (any::<u32>().prop_map(NodeId), any::<u64>().prop_map(Incarnation));
    let version = || any::<u64>().prop_map(Version);
    let position = (any::<u64>(), any::<u16>(), any::<u64>())
        .prop_map(|(run, core, lsn)| (Incarnation(run), CoreId(core), Lsn(lsn)));
    prop_oneof![
        (log(), version(), any::<u16>()).prop_map(|((node, incarnation), first, cores)| ControlRecord::Open {
            node,
            incarnation,
            first,
            cores
        }),
        (log(), version(), any::<u32>(), prop::collection::vec(position, 0..5)).prop_map(
            |((node, incarnation), version, flags, rests_on)| ControlRecord::Watermark {
                node,
                incarnation,
                version,
                flags,
                rests_on
            }
        ),
        version().prop_map(|version| ControlRecord::ClockCeiling { version }),
        (version(), version()).prop_map(|(version, held)| ControlRecord::Forgotten { version, held }),
        (version(), version(), version(), version())
            .prop_map(|(begun, ended, version, held)| ControlRecord::Bootstrap { begun, ended, version, held }),
        (log(), version()).prop_map(|((node, incarnation), version)| ControlRecord::Close {
            node,
            incarnation,
            version
        }),
        (log(), any::<bool>(), "[a-z0-9-]{0,32}", version()).prop_map(|((node, _), joined, region, at)| {
            let state = if joined { MemberState::Joined } else { MemberState::Removed };
            ControlRecord::Membership { node, state, region, at }
        }),
    ]
}

proptest! {
    #[test]
    fn a_record_comes_back(
        version in any::<u64>(), origin in any::<u32>(), op in op(), expiry in any::<Option<u64>>(),
        key in bytes(300), value in bytes(600), behind in bytes(20),
    ) {
        let draft = RecordDraft {
            version: Version(version), origin: NodeId(origin), op, expiry, key: &key, value: &value,
        };
        let mut encoded = draft.to_vec();
        prop_assert_eq!(encoded.len(), draft.padded_len());
        prop_assert_eq!(padded_record_len(&encoded), Some(encoded.len()));
        encoded.extend(&behind);
        let (record, padded) = RecordView::parse(&encoded).expect("as it was encoded");
        prop_assert_eq!(padded, draft.padded_len());
        prop_assert_eq!(record.bytes.len(), draft.unpadded_len());
        prop_assert_eq!((record.version, record.origin, record.op, record.expiry), (draft.version, draft.origin, op, expiry));
        prop_assert_eq!((record.key, record.value), (&key[..], &value[..]));
        prop_assert_eq!(record.flags.contains(RecordFlags::EXPIRY), expiry.is_some());
        prop_assert_eq!((record.key_hash, record.crc()), (key_hash(&key), crc32c(&record.bytes[8..])));
        prop_assert_eq!(RecordView::parse_trusted(record.bytes), Ok(record));
        prop_assert_eq!(RecordView::parse_trusted_prefix(&encoded), Ok((record, padded)));
    }

    #[test]
    fn every_truncation_of_a_record_asks_for_more(key in bytes(20), value in bytes(40), cut in any::<prop::sample::Index>()) {
        let encoded = draft(1, &key, &value).to_vec();
        let record = RecordView::parse(&encoded).expect("whole").0.bytes;
        let cut = cut.index(record.len());
        let Err(RecordError::Incomplete { needed, available }) = RecordView::parse(&record[..cut]) else {
            panic!("a record without its end")
        };
        prop_assert_eq!(available, cut);
        prop_assert!(needed > cut && needed <= record.len());
    }

    #[test]
    fn a_frame_comes_back(
        values in prop::collection::vec(bytes(200), 0..6), durable in 0..=LSN.0, hlc in any::<u64>(), previous in any::<u32>(),
        kind in prop_oneof![Just(FrameKind::Originated), Just(FrameKind::Followed), Just(FrameKind::Local)], ends in any::<bool>(),
    ) {
        let payload: Vec<u8> = values.iter().flat_map(|value| draft(1, b"k", value).to_vec()).collect();
        let flags = if ends { FrameFlags::END_OF_SEGMENT } else { FrameFlags::NONE };
        let mut header = FrameHeader {
            header_crc: 0, lsn: LSN, cookie: COOKIE, durable: Lsn(durable), hlc: Version(hlc),
            payload_len: u32::try_from(payload.len()).expect("small"), payload_crc: crc32c(&payload),
            records: u32::try_from(values.len()).expect("small"), kind, flags, previous_header_crc: previous,
        };
        let mut encoded = header.encode().to_vec();
        encoded.extend(&payload);
        encoded.resize(frame_bytes(payload.len()), 0);
        let view = FrameView::parse(&encoded, LSN, COOKIE).expect("as it was encoded");
        prop_assert_eq!(*view.header(), header);
        prop_assert_eq!(view.payload(), &payload[..]);
        prop_assert_eq!(view.verify_records(), Ok(()));
        prop_assert_eq!(view.end(), LSN.plus(encoded.len() as u64));
        prop_assert_eq!(view.is_last_of_segment(), ends);
        let found: Vec<&[u8]> = view.records().map(|record| record.expect("sound").value).collect();
        prop_assert_eq!(found, values.iter().map(Vec::as_slice).collect::<Vec<_>>());
    }

    #[test]
    fn a_segment_header_comes_back(
        pages in 2..=16_384u64, run in any::<u64>(), node in any::<u32>(), core in any::<u16>(), cookie in 1..=u64::MAX,
        place in 0..1000u64, number in 1..=1u64 << 60, old_cookie in 1..=u64::MAX,
    ) {
        let segment_bytes = pages * 4096;
        let previous = SegmentLink { number: SegmentNumber(number), cookie: Cookie(old_cookie) };
        let header = SegmentHeader {
            segment_bytes, node: NodeId(node), incarnation: Incarnation(run), core: CoreId(core),
            number: SegmentNumber(number + 1), cookie: Cookie(cookie), base: Lsn(place * segment_bytes),
            previous: (place > 0).then_some(previous),
        };
        let page = header.encode_page();
        prop_assert_eq!(SegmentHeader::parse(&page), Ok(header));
        prop_assert_eq!(SealBlock::read(&page, header.link()), SealState::Absent);
        prop_assert_eq!(SegmentHeader::parse(&page[..4095]), Err(SegmentHeaderError::Short(4095)));
    }

    #[test]
    fn a_seal_comes_back_for_its_own_segment_only(
        number in 1..=u64::MAX, cookie in 1..=u64::MAX, end in any::<u64>(), durable in any::<u64>(), records in any::<u64>(),
        crc in any::<u32>(), ranges in prop::collection::vec((any::<u32>(), any::<u64>(), any::<u64>()), 0..=SEAL_ENTRIES_MAX),
        known in any::<bool>(),
    ) {
        let segment = SegmentLink { number: SegmentNumber(number), cookie: Cookie(cookie) };
        let origins: Vec<_> = ranges.into_iter()
            .map(|(origin, min, max)| OriginRange { origin: NodeId(origin), min: Version(min), max: Version(max) })
            .collect();
        let seal = SealBlock {
            segment, end: Lsn(end), durable: Lsn(durable), records, last_header_crc: crc, origins: known.then_some(origins),
        };
        let block = seal.encode();
        prop_assert_eq!(block.len() % 512, 0);
        let mut page = vec![0; 4096];
        support::write_seal(&mut page, &block);
        prop_assert_eq!(SealBlock::read(&page, segment), SealState::Valid(seal));
        for other in [
            SegmentLink { cookie: Cookie(cookie ^ 1), ..segment },
            SegmentLink { number: SegmentNumber(number ^ 1), ..segment },
        ] {
            prop_assert_eq!(SealBlock::read(&page, other), SealState::Damaged);
        }
    }

    #[test]
    fn a_control_record_comes_back(record in control()) {
        let (key, value) = record.encode();
        prop_assert_eq!(&key, &[record.kind() as u8]);
        prop_assert_eq!(ControlRecord::decode(&key, &value), Ok(record.clone()));
        let mut longer = value.clone();
        longer.push(0);
        prop_assert_eq!(ControlRecord::decode(&key, &longer), Err(ControlError::Trailing(record.kind())));
        for cut in 0..value.len() {
            prop_assert_eq!(ControlRecord::decode(&key, &value[..cut]), Err(ControlError::Short(record.kind())));
        }
    }
}

#[test]
fn ops_and_flags_of_newer_versions_are_refused_by_name() {
    let record = draft(1, b"key", b"value").to_vec();
    let (op, flags) = (28, 29);
    for number in [0, 4, 5, 6, 255] {
        let newer = with_record_byte(&record, op, number);
        assert_eq!(RecordView::parse(&newer), Err(RecordError::NewerOp(number)));
        assert_eq!(RecordView::parse_trusted(&newer), Err(RecordError::NewerOp(number)));
    }
    for bits in [4, 0x80] {
        assert_eq!(RecordView::parse(&with_record_byte(&record, flags, bits)), Err(RecordError::NewerFlags(bits)));
    }
}

#[test]
fn a_key_that_does_not_fit_its_record_is_refused_under_a_valid_checksum() {
    let record = draft(1, b"key", b"value").to_vec();
    assert_eq!(RecordView::parse(&with_record_byte(&record, 30, 9)), Err(RecordError::Layout { len: 40 }));
    let bare = draft(1, b"", b"").to_vec();
    let promised = with_record_byte(&bare, 29, RecordFlags::EXPIRY.0);
    assert_eq!(RecordView::parse(&promised), Err(RecordError::Layout { len: 32 }));
    let mut short = record;
    short[0] = 31;
    assert_eq!(RecordView::parse(&short), Err(RecordError::Length(31)));
}

#[test]
fn padding_of_a_record_or_frame_must_be_zero() {
    let mut record = draft(1, b"key", b"values").to_vec();
    *record.last_mut().expect("padding") = 1;
    assert_eq!(RecordView::parse(&record), Err(RecordError::Padding));
    let (_, mut bytes) = frame(&draft(1, b"key", b"value").to_vec(), 1, 0);
    *bytes.last_mut().expect("padding") = 1;
    assert_eq!(FrameView::parse(&bytes, LSN, COOKIE), Err(FrameError::Padding));
}

#[test]
fn a_frame_is_one_only_in_its_place_and_under_its_cookie() {
    let (_, bytes) = frame(&draft(1, b"key", b"value").to_vec(), 1, 0);
    let elsewhere = LSN.plus(64);
    assert_eq!(FrameView::parse(&bytes, elsewhere, COOKIE), Err(FrameError::Misplaced(LSN)));
    assert_eq!(FrameView::parse(&bytes, LSN, Cookie(1)), Err(FrameError::ForeignCookie(COOKIE)));
    assert_eq!(FrameView::parse(&bytes, elsewhere, Cookie(1)), Err(FrameError::ForeignCookie(COOKIE)), "cookie first");
    assert_eq!(FrameView::parse(&[0; 64], LSN, COOKIE), Err(FrameError::Blank));
    assert_eq!(FrameView::parse(&[1; 64], LSN, COOKIE), Err(FrameError::Magic));
    for cut in [0, 63, 64, bytes.len() - 1] {
        let needed = if cut < FRAME_HEADER_BYTES { FRAME_HEADER_BYTES } else { bytes.len() };
        let expected = FrameError::Incomplete { needed, available: cut };
        assert_eq!(FrameView::parse(&bytes[..cut], LSN, COOKIE), Err(expected));
    }
}

#[test]
fn fields_of_newer_frames_are_refused_and_contradictions_named() {
    let (_, bytes) = frame(&draft(1, b"key", b"value").to_vec(), 1, 0);
    let parse = |at: usize, field: &[u8]| FrameView::parse(&with_header(&bytes, at, field), LSN, COOKIE).map(|_| ());
    assert_eq!(parse(52, &[6]), Err(FrameError::Newer("frame kind")));
    assert_eq!(parse(52, &[0]), Err(FrameError::Newer("frame kind")));
    assert_eq!(parse(53, &[2]), Err(FrameError::Newer("frame flags")));
    assert_eq!(parse(54, &[1]), Err(FrameError::Newer("reserved frame fields")));
    assert_eq!(parse(60, &[1]), Err(FrameError::Newer("reserved frame fields")));
    assert_eq!(parse(24, &(LSN.0 + 1).to_le_bytes()), Err(FrameError::Value("durable beyond itself")));
    assert_eq!(parse(48, &[0]), Err(FrameError::Value("payload length against record count")));
    assert_eq!(parse(24, &LSN.0.to_le_bytes()), Ok(()));
}

#[test]
fn a_wrong_number_of_records_in_a_valid_frame_is_named() {
    let record = draft(1, b"key", b"value").to_vec();
    let (_, two) = frame(&[record.clone(), record.clone()].concat(), 3, 0);
    let view = FrameView::parse(&two, LSN, COOKIE).expect("checksums match");
    assert_eq!(view.verify_records(), Err(FrameError::RecordCount { expected: 3, found: 2 }));
    // A payload that ends inside a record, as only a faulty program writes it.
    let (_, cut) = frame(&record[..record.len() - 8], 1, 0);
    let view = FrameView::parse(&cut, LSN, COOKIE).expect("checksums match");
    let error = RecordError::Incomplete { needed: 40, available: 32 };
    assert_eq!(view.verify_records(), Err(FrameError::Record { index: 0, error }));
    let mut records = view.records();
    assert!(records.next().expect("an error").is_err());
    assert!(records.next().is_none(), "nothing is read behind an error");
}

#[test]
fn frames_are_read_in_pieces_and_have_to_continue_each_other() {
    let mut test = support::TestLog::new();
    for _ in 0..3 {
        test.put(FrameKind::Originated, 100);
        test.commit();
    }
    let number = SegmentNumber(1);
    let body = &test.files[&number].live()[support::BODY..];
    let start = Lsn(support::BODY as u64);
    let cookie = support::cookie_of(test.run, number);
    let mut first = frames(&body[..330], start, cookie);
    assert_eq!(first.by_ref().map(|frame| frame.expect("sound").records_count()).sum::<u32>(), 1);
    let (consumed, chain) = (first.consumed(), first.previous_header_crc().expect("after a frame"));
    assert_eq!((consumed, first.needed()), (256, Some(256)));
    let resume = || frames(&body[consumed..], start.plus(consumed as u64), cookie);
    assert_eq!(resume().continuing(chain).take(2).filter(Result::is_ok).count(), 2);
    let error = resume().continuing(chain ^ 1).next().expect("something").expect_err("another predecessor");
    assert_eq!(error, FrameError::Chain { expected: chain ^ 1, found: chain });
}

#[test]
fn a_segment_header_with_an_impossible_value_is_refused() {
    let (_, file) = support::prepare(support::RUN, SegmentNumber(1), Lsn(0), None, |len| vec![0; len]);
    let page = file.live();
    let with = |at: usize, field: &[u8]| {
        let mut page = page.clone();
        page[at..at + field.len()].copy_from_slice(field);
        let crc = crc32c(&page[12..512]);
        page[8..12].copy_from_slice(&crc.to_le_bytes());
        SegmentHeader::parse(&page).expect_err("an impossible value")
    };
    use SegmentHeaderError::Value;
    assert_eq!(with(12, &[2]), SegmentHeaderError::NewerFormat(2));
    assert_eq!(with(12, &[0]), Value("format version 0"));
    assert_eq!(with(16, &4096u64.to_le_bytes()), Value("segment bytes"));
    assert_eq!(with(16, &8193u64.to_le_bytes()), Value("segment bytes"));
    assert_eq!(with(16, &(128u64 << 20).to_le_bytes()), Value("segment bytes"));
    assert_eq!(with(32, &[0; 8]), Value("cookie zero"));
    assert_eq!(with(40, &[0; 8]), Value("segment number"));
    assert_eq!(with(48, &64u64.to_le_bytes()), Value("base position"));
    assert_eq!(with(48, &(u64::MAX - 8191).to_le_bytes()), Value("base position"));
    assert_eq!(with(48, &8192u64.to_le_bytes()), Value("link to the previous segment"));
    assert_eq!(with(56, &[1, 0, 0, 0, 0, 0, 0, 0, 1]), Value("segment number"));
    assert_eq!(with(78, &[1]), Value("reserved bytes"));
    assert_eq!(with(511, &[1]), Value("reserved bytes"));
}

#[test]
fn impossible_control_records_are_refused() {
    assert_eq!(ControlRecord::decode(&[77], b""), Err(ControlError::NewerKind(77)));
    assert_eq!(ControlRecord::decode(&[0], b""), Err(ControlError::NewerKind(0)));
    assert_eq!(ControlRecord::decode(b"", b""), Err(ControlError::Key(0)));
    assert_eq!(ControlRecord::decode(&[1, 1], b""), Err(ControlError::Key(2)));
    let member = ControlRecord::Membership {
        node: PEER,
        state: MemberState::Joined,
        region: "a".repeat(REGION_NAME_BYTES_MAX),
        at: version(1),
    };
    let (key, value) = member.encode();
    let with = |at: usize, byte: u8| {
        let mut value = value.clone();
        value[at] = byte;
        ControlRecord::decode(&key, &value)
    };
    let wrong = |field| Err(ControlError::Value { kind: ControlKind::Membership, field });
    assert_eq!(with(4, 3), wrong("member state"));
    assert_eq!(with(13, 33), wrong("region name"));
    assert_eq!(with(14, 0xff), wrong("region name"));
    assert!(!member.is_local());
    assert!(ControlRecord::ClockCeiling { version: version(1) }.is_local());
    assert!(ControlRecord::Forgotten { version: version(1), held: version(2) }.is_local());
    let at = version(1);
    assert!(ControlRecord::Bootstrap { begun: at, ended: at, version: at, held: at }.is_local());
    assert_eq!(ControlRecord::Close { node: NODE, incarnation: support::RUN, version: version(1) }.kind() as u8, 4);
}

#[test]
fn a_stub_is_smaller_and_names_the_record_whose_place_it_takes() {
    let draft = RecordDraft {
        version: version(7),
        origin: NODE,
        op: RecordOp::Put,
        expiry: Some(1_600_000_000_000),
        key: b"key",
        value: &[7; 500],
    };
    let bytes = draft.to_vec();
    let (record, _) = RecordView::parse(&bytes).unwrap();
    let stub = record.stub().unwrap();
    assert_eq!(stub.len(), 48);
    let (stub, len) = RecordView::parse(&stub).unwrap();
    assert_eq!((len, stub.is_stub(), record.is_stub()), (48, true, false));
    assert_eq!(
        (stub.version, stub.origin, stub.op, stub.expiry),
        (record.version, record.origin, record.op, record.expiry)
    );
    assert_eq!((stub.key, stub.key_hash), (record.key, record.key_hash));
    assert_eq!((stub.original_crc(), record.original_crc()), (record.crc(), record.crc()));
    assert_ne!(stub.crc(), record.crc());
    assert_eq!(stub.stub(), None, "it cannot shrink again");
    let forever = RecordDraft { expiry: None, ..draft }.to_vec();
    assert_eq!(RecordView::parse(&forever).unwrap().0.stub(), None);
    let small = RecordDraft { value: b"1234", ..draft }.to_vec();
    assert_eq!(RecordView::parse(&small).unwrap().0.stub(), None, "nothing would be gained");
    // On a record without expiry, or with another value, the flag is nonsense.
    let flags = 29;
    for bytes in [forever, bytes] {
        let with_flag = with_record_byte(&bytes, flags, bytes[flags] | RecordFlags::STUB.0);
        assert!(matches!(RecordView::parse(&with_flag), Err(RecordError::Layout { .. })));
    }
}
