//! One generic test of every message: round trip, golden bytes, truncation, damage; and the reader under hostile input.
#![allow(clippy::cast_possible_truncation, clippy::unwrap_used)]

use bytes::{Bytes, BytesMut};
use net::ids::{RequestId, Version};
use net::wire::body::{Body, Condition, Delete, Get, Hello, Item, ItemRef, Records, Shown, Value, Wait, Written, more};
use net::wire::frame::{Cut, cut_frame};
use net::wire::header::{HEADER_BYTES, Header, MAGIC, crc32c};
use net::wire::limits::{
    CONTROL_BODY_BYTES_MAX, FEED_BYTES_MAX, KEY_BYTES_MAX, RECORDS_PAYLOAD_BYTES_MAX, TEXT_BYTES_MAX, VALUE_BYTES_MAX,
};
use net::wire::samples::{Sample, packed_records, samples};
use net::wire::{DecodeError, EncodeError, Foreign, Frame, FrameReader, Message, Opcode, WireError, encode_frame};
use proptest::prelude::*;

fn encoded(sample: &Sample) -> Vec<u8> {
    let mut out = Vec::new();
    sample.message.encode(sample.request_id, &mut out).unwrap();
    out
}

fn reader() -> FrameReader {
    let mut reader = FrameReader::new();
    reader.admit_values();
    reader
}

fn only_frame(bytes: &[u8]) -> Result<Option<Frame>, WireError> {
    let mut reader = reader();
    reader.feed(bytes);
    reader.next()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn every_opcode_has_a_sample_with_golden_bytes() {
    let samples = samples().unwrap();
    let opcodes: Vec<Opcode> = samples.iter().map(|sample| sample.message.opcode()).collect();
    assert_eq!(opcodes, Opcode::ALL);
    let mut drifted = String::new();
    for sample in &samples {
        let found = hex(&encoded(sample));
        if found != sample.frame_hex {
            drifted += &format!("{}: {found}\n", sample.message.opcode().name());
        }
    }
    assert!(drifted.is_empty(), "the bytes of these messages are not the golden ones:\n{drifted}");
}

#[test]
fn every_message_survives_a_round_trip() {
    for sample in samples().unwrap() {
        let frame = only_frame(&encoded(&sample)).unwrap().unwrap();
        assert_eq!(frame.header.request_id, sample.request_id);
        assert_eq!(Message::decode(&frame).unwrap(), sample.message);
    }
}

#[test]
fn every_truncation_of_a_frame_waits_and_every_truncation_of_a_body_errs() {
    for sample in samples().unwrap() {
        let bytes = encoded(&sample);
        for cut in 0..bytes.len() {
            assert_eq!(only_frame(&bytes[..cut]), Ok(None), "{:?} cut at {cut}", sample.message.opcode());
        }
        let opcode = sample.message.opcode();
        // How long its payload is follows from its records, which are opaque here; the checksum guards it.
        let end = if opcode == Opcode::More { HEADER_BYTES + more::HEAD_BYTES + 1 } else { bytes.len() };
        for cut in HEADER_BYTES..end {
            let body = Bytes::copy_from_slice(&bytes[HEADER_BYTES..cut]);
            let header = only_frame(&bytes).unwrap().unwrap().header;
            let decoded = Message::decode(&Frame { header, body });
            assert!(matches!(decoded, Err(WireError::Body { .. })), "{opcode:?} with {cut} bytes: {decoded:?}");
        }
        let mut longer = bytes[HEADER_BYTES..].to_vec();
        longer.extend(vec![0; if opcode == Opcode::More { 64 } else { 1 }]);
        let header = only_frame(&bytes).unwrap().unwrap().header;
        assert!(Message::decode(&Frame { header, body: longer.into() }).is_err(), "{opcode:?} with more bytes");
    }
}

#[test]
fn every_flipped_byte_is_refused_except_in_record_payload() {
    for sample in samples().unwrap() {
        let bytes = encoded(&sample);
        let guarded = match sample.message {
            Message::Records(_) => HEADER_BYTES + 40,
            _ => bytes.len(),
        };
        for at in 0..guarded {
            for flip in [0x01, 0x80, 0xff] {
                let mut damaged = bytes.clone();
                damaged[at] ^= flip;
                let found = only_frame(&damaged);
                assert!(found.is_err(), "{:?}: byte {at} ^ {flip:#x} gave {found:?}", sample.message.opcode());
            }
        }
    }
}

#[test]
fn a_length_is_not_believed_before_the_header_checksum() {
    let mut bytes = encoded(&samples().unwrap()[0]);
    bytes[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
    let mut reader = reader();
    reader.feed(&bytes[..HEADER_BYTES]);
    assert!(matches!(reader.next(), Err(WireError::HeaderCrc { .. })));
    assert_eq!(reader.buffered_bytes(), 0);
}

fn header(opcode: Opcode, body_bytes: usize) -> [u8; HEADER_BYTES] {
    let body_bytes = u32::try_from(body_bytes).unwrap();
    Header { opcode, request_id: RequestId(0), body_bytes, body_crc: 0 }.to_bytes()
}

#[test]
fn bodies_beyond_their_class_are_refused_by_the_header_alone() {
    let too_large = |bytes: &[u8]| matches!(only_frame(bytes), Err(WireError::BodyTooLarge { .. }));
    assert!(too_large(&header(Opcode::Hello, CONTROL_BODY_BYTES_MAX + 1)));
    assert!(!too_large(&header(Opcode::Hello, CONTROL_BODY_BYTES_MAX)));
    assert!(too_large(&header(Opcode::Records, 40 + RECORDS_PAYLOAD_BYTES_MAX + 1)));
    assert!(!too_large(&header(Opcode::Records, 40 + RECORDS_PAYLOAD_BYTES_MAX)));
    assert!(matches!(only_frame(&header(Opcode::Records, 39)), Err(WireError::BodyTooShort { .. })));
}

#[test]
fn a_peer_that_is_not_admitted_cannot_send_large_batches() {
    let mut stranger = FrameReader::new();
    stranger.feed(&header(Opcode::Records, CONTROL_BODY_BYTES_MAX + 1));
    assert!(matches!(stranger.next(), Err(WireError::BodyTooLarge { .. })));
}

#[test]
fn a_reader_that_is_fed_without_being_emptied_stays_bounded() {
    let mut stranger = FrameReader::new();
    let frame = encoded(&samples().unwrap()[3]);
    let mut fed = 0;
    while fed < 4 * FEED_BYTES_MAX {
        stranger.feed(&frame);
        fed += frame.len();
        assert!(stranger.buffered_bytes() <= HEADER_BYTES + CONTROL_BODY_BYTES_MAX + FEED_BYTES_MAX);
    }
    assert_eq!(stranger.next(), Err(WireError::Flooded));
}

#[test]
fn other_protocols_are_named_by_their_first_byte() {
    let foreign = |bytes: &[u8]| match only_frame(bytes) {
        Err(WireError::Magic { foreign, .. }) => foreign,
        other => panic!("{other:?}"),
    };
    assert_eq!(foreign(b"GET / HTTP/1.1\r\n"), Foreign::Text);
    assert_eq!(foreign(b"P"), Foreign::Text);
    assert_eq!(foreign(b"\x16\x03\x01"), Foreign::Tls);
    assert_eq!(foreign(b"*1\r\n$4\r\nPING\r\n"), Foreign::Resp);
    assert_eq!(foreign(&[0]), Foreign::Unknown);
    assert!(only_frame(b"*1").unwrap_err().to_string().contains("storage or cache port"));
}

#[test]
fn an_error_is_final() {
    let mut reader = reader();
    reader.feed(b"GET /");
    let first = reader.next().unwrap_err();
    reader.feed(&encoded(&samples().unwrap()[0]));
    assert_eq!(reader.next(), Err(first));
}

#[test]
fn a_failed_encoding_leaves_the_buffer_as_it_was() {
    let mut out = b"before".to_vec();
    let long = net::wire::body::Refuse { code: 1, text: "x".repeat(TEXT_BYTES_MAX + 1) };
    let refused = Message::Refuse(long).encode(RequestId(0), &mut out);
    assert!(matches!(refused, Err(EncodeError::TooLong { field: "text", .. })));
    let huge = encode_frame(Opcode::Ok, RequestId(0), &mut out, |body| {
        body.resize(body.len() + CONTROL_BODY_BYTES_MAX + 1, 0);
        Ok(())
    });
    assert!(matches!(huge, Err(EncodeError::BodyTooLarge { .. })));
    assert_eq!(out, b"before");
}

#[test]
fn a_text_beyond_its_limit_is_clipped_at_a_character() {
    let text = "é".repeat(TEXT_BYTES_MAX);
    let refuse = net::wire::body::Refuse::new(net::wire::body::RefuseCode::Protocol, &text);
    assert_eq!(refuse.text, "é".repeat(TEXT_BYTES_MAX / 2));
}

#[test]
fn records_sent_as_runs_equal_records_sent_whole() {
    let sample = samples().unwrap().into_iter().find(|sample| sample.message.opcode() == Opcode::Records).unwrap();
    let Message::Records(Records { head, payload }) = &sample.message else { unreachable!() };
    let mut runs = head.encode_frame_head(sample.request_id, payload.len()).unwrap();
    assert_eq!(runs.len() % 8, 0, "the payload must start aligned");
    runs.extend_from_slice(payload);
    assert_eq!(runs, encoded(&sample));
}

#[test]
fn an_item_shown_from_where_it_lies_equals_one_shown_whole() {
    for value_bytes in [0, 20_000, CONTROL_BODY_BYTES_MAX - 21, CONTROL_BODY_BYTES_MAX - 20, VALUE_BYTES_MAX] {
        is_shown_the_same(Bytes::from(vec![b'v'; value_bytes]));
    }
}

fn is_shown_the_same(value: Bytes) {
    let item = Item { version: Version(7), expiry_ms: 9, value };
    let lying = ItemRef { version: item.version, expiry_ms: item.expiry_ms, value: &item.value };
    let id = RequestId(3);
    for (shown, message) in [
        (Shown::Found, Message::Value(Value { item: Some(item.clone()) })),
        (Shown::InTheWay, Message::Written(Written::Refused { present: Some(item.clone()) })),
    ] {
        let (mut whole, mut copied, mut head) = (Vec::new(), vec![1], Vec::new());
        message.encode(id, &mut whole).unwrap();
        lying.encode_frame(shown, id, &mut copied).unwrap();
        lying.encode_frame_head(shown, id, &mut head).unwrap();
        assert_eq!(copied[1..], whole);
        assert_eq!([&head[..], &item.value].concat(), whole);
    }
    let too_large = ItemRef { value: &vec![0; VALUE_BYTES_MAX + 1], ..lying };
    let mut out = vec![1];
    assert!(matches!(too_large.encode_frame(Shown::Found, id, &mut out), Err(EncodeError::TooLong { .. })));
    assert_eq!(out, [1], "what was there stays");
}

#[test]
fn a_value_is_guarded_unless_it_is_large() {
    let found_at = |value_bytes: usize, at: usize| {
        let item = Item { version: Version(7), expiry_ms: 9, value: Bytes::from(vec![b'v'; value_bytes]) };
        let mut bytes = Vec::new();
        Message::Value(Value { item: Some(item) }).encode(RequestId(1), &mut bytes).unwrap();
        bytes[HEADER_BYTES + at] ^= 1;
        let mut input = BytesMut::from(&bytes[..]);
        matches!(cut_frame(&mut input, Opcode::Value.body_bytes_max()), Err(WireError::BodyCrc { .. }))
    };
    let guarded = CONTROL_BODY_BYTES_MAX - 21;
    assert!(found_at(guarded, 0) && found_at(guarded, 20) && found_at(guarded, 21) && found_at(guarded, 65_535));
    let large = guarded + 1;
    assert!(found_at(large, 0) && found_at(large, 20), "the head always is");
    assert!(!found_at(large, 21) && !found_at(large, 65_536), "nobody looks at the value on its way");
}

#[test]
fn every_condition_and_outcome_survives_a_round_trip() {
    let item = Item { version: Version(7), expiry_ms: 0, value: Bytes::new() };
    let conditions = [
        Condition::Always,
        Condition::IfAbsent,
        Condition::IfPresent,
        Condition::IfVersion(Version(u64::MAX)),
        Condition::IfValue(Bytes::from_static(b"")),
        Condition::IfValue(Bytes::from_static(b"x")),
    ];
    let key = Bytes::from(vec![b'k'; KEY_BYTES_MAX]);
    let wait = Wait { regions: 2, deadline_ms: 500 };
    let deletes = conditions.map(|condition| Message::Delete(Delete { wait, condition, key: key.clone() }));
    let written = [
        Written::Written { version: Version(1) },
        Written::Nothing,
        Written::Refused { present: None },
        Written::Refused { present: Some(item) },
    ];
    for message in deletes.into_iter().chain(written.map(Message::Written)).chain([Message::Get(Get { key })]) {
        let mut bytes = Vec::new();
        message.encode(RequestId(1), &mut bytes).unwrap();
        assert_eq!(Message::decode(&only_frame(&bytes).unwrap().unwrap()).unwrap(), message);
    }
}

#[test]
fn received_keys_and_values_are_not_copied_again() {
    let sample = samples().unwrap().into_iter().find(|sample| sample.message.opcode() == Opcode::Put).unwrap();
    let frame = only_frame(&encoded(&sample)).unwrap().unwrap();
    let Message::Put(put) = Message::decode(&frame).unwrap() else { unreachable!() };
    assert_eq!(put.value.as_ptr_range().end, frame.body.as_ptr_range().end);
}

#[test]
fn requests_that_have_no_answer_are_refused() {
    let refused = |opcode, body: &[u8]| {
        let decoded = Message::decode(&only_frame(&sealed(opcode, body)).unwrap().unwrap());
        assert!(matches!(decoded, Err(WireError::Body { .. })), "{opcode:?}: {decoded:?}");
    };
    refused(Opcode::GetMany, &[0, 0]);
    for count in [0_u16, 1025] {
        let [low, high] = count.to_le_bytes();
        refused(Opcode::Scan, &[0, 0, 0, 0, 0, 0, 0, 0, low, high, 0, 0]);
    }
    refused(Opcode::Value, &[2]);
    refused(Opcode::Written, &[9]);
    refused(Opcode::Delete, &[0, 0, 0, 0, 0, 5, 0, 0]);
}

#[test]
fn received_records_are_not_copied_again() {
    let sample = samples().unwrap().into_iter().find(|sample| sample.message.opcode() == Opcode::Records).unwrap();
    let frame = only_frame(&encoded(&sample)).unwrap().unwrap();
    let Message::Records(records) = Message::decode(&frame).unwrap() else { unreachable!() };
    assert_eq!(records.payload.as_ptr(), frame.body[40..].as_ptr());
}

#[test]
fn a_head_that_contradicts_its_payload_is_refused() {
    let sample = samples().unwrap().into_iter().find(|sample| sample.message.opcode() == Opcode::Records).unwrap();
    let good = encoded(&sample)[HEADER_BYTES..].to_vec();
    // core 12, flags 14, offset 16, count 24, raw bytes 28, compression 32, reserved 33..40.
    for (at, value) in [(14, 1), (14, 32), (24, 0), (24, 99), (28, 48), (28, 39), (32, 1), (32, 9), (33, 1), (39, 1)] {
        let mut bad = good.clone();
        bad[at] = value;
        let refused = Records::decode(&Bytes::from(bad));
        assert!(
            matches!(refused, Err(DecodeError::Value { .. } | DecodeError::Flags { .. })),
            "byte {at} = {value} gave {refused:?}"
        );
    }
    assert!(Records::decode(&Bytes::from(good)).is_ok());
}

#[test]
fn the_packed_sample_has_its_golden_bytes_and_unpacks() {
    let (sample, raw) = packed_records();
    assert_eq!(hex(&encoded(&sample)), sample.frame_hex);
    let frame = only_frame(&encoded(&sample)).unwrap().unwrap();
    assert_eq!(Message::decode(&frame).unwrap(), sample.message);
    let Message::Records(records) = sample.message else { unreachable!() };
    assert_eq!(records.unpacked().unwrap(), raw);
}

#[test]
fn a_packed_head_that_contradicts_its_payload_is_refused() {
    let (sample, _) = packed_records();
    let good = encoded(&sample)[HEADER_BYTES..].to_vec();
    let packed_bytes = u32::try_from(good.len() - 40).unwrap();
    let with = |raw_bytes: u32| {
        let mut bad = good.clone();
        bad[28..32].copy_from_slice(&raw_bytes.to_le_bytes());
        Records::decode(&Bytes::from(bad))
    };
    // As small as the payload, and larger than any block of its length can be; not whole records.
    for raw_bytes in [0, 8, 48, 79, 255 * packed_bytes + 1_000, 8 << 20, !7] {
        assert!(matches!(with(raw_bytes), Err(DecodeError::Value { .. })), "{raw_bytes}");
    }
    // As much as a block of its length might hold: it does not, and says so without more memory than that.
    for raw_bytes in [72, 88, 255 * packed_bytes / 8 * 8] {
        let refused = with(raw_bytes).unwrap().unpacked();
        assert!(refused.as_ref().is_err_and(|error| error.to_string().contains("packed")), "{raw_bytes}: {refused:?}");
    }
    // Built by hand it is held to the same.
    let (Sample { message: Message::Records(mut records), .. }, _) = packed_records() else { unreachable!() };
    records.head.raw_bytes = 1 << 30;
    assert!(records.unpacked().is_err());
}

#[test]
fn a_packed_payload_with_any_byte_changed_unpacks_to_its_length_or_not_at_all() {
    let (sample, raw) = packed_records();
    let Message::Records(records) = sample.message else { unreachable!() };
    for at in 0..records.payload.len() {
        for byte in 0..=u8::MAX {
            let mut payload = records.payload.to_vec();
            payload[at] = byte;
            let damaged = Records { payload: payload.into(), ..records.clone() };
            assert!(damaged.unpacked().is_ok_and(|found| found.len() == raw.len()) || damaged.unpacked().is_err());
        }
    }
}

#[test]
fn a_list_longer_than_its_bytes_reserves_nothing() {
    let mut body = encoded(&samples().unwrap()[0])[HEADER_BYTES..].to_vec();
    let count_at = body.len() - 2 * (4 + 1 + 8 + 2 + 3) - 2;
    assert_eq!(body[count_at..count_at + 2], [2, 0]);
    body[count_at..count_at + 2].copy_from_slice(&900_u16.to_le_bytes());
    assert!(matches!(Hello::decode(&body.clone().into()), Err(DecodeError::Short { .. })));
    body[count_at..count_at + 2].copy_from_slice(&u16::MAX.to_le_bytes());
    assert!(matches!(Hello::decode(&body.into()), Err(DecodeError::TooMany { .. })));
}

/// A frame with sound checksums around an arbitrary body.
fn sealed(opcode: Opcode, body: &[u8]) -> Vec<u8> {
    let guarded = opcode.guarded_bytes(body.len());
    let header = Header {
        opcode,
        request_id: RequestId(0),
        body_bytes: u32::try_from(body.len()).unwrap(),
        body_crc: crc32c(&body[..guarded]),
    };
    [header.to_bytes().as_slice(), body].concat()
}

proptest! {
    #[test]
    fn any_split_of_a_stream_gives_the_same_frames(cuts in prop::collection::vec(1_usize..200, 1..80)) {
        let samples = samples().unwrap();
        let stream: Vec<u8> = samples.iter().flat_map(encoded).collect();
        let (mut reader, mut rest, mut cuts) = (reader(), stream.as_slice(), cuts.into_iter().cycle());
        let mut found = Vec::new();
        while !rest.is_empty() {
            let (piece, tail) = rest.split_at(cuts.next().unwrap().min(rest.len()));
            reader.feed(piece);
            while let Some(frame) = reader.next().unwrap() {
                found.push(Message::decode(&frame).unwrap());
            }
            rest = tail;
        }
        prop_assert_eq!(reader.buffered_bytes(), 0);
        prop_assert_eq!(found, samples.into_iter().map(|sample| sample.message).collect::<Vec<_>>());
    }

    #[test]
    fn frames_cut_from_held_input_are_those_of_a_reader(
        bytes in prop::collection::vec(any::<u8>(), 0..100),
        at in any::<prop::sample::Index>(),
        flip in any::<u8>(),
    ) {
        let mut stream: Vec<u8> = samples().unwrap().iter().flat_map(encoded).collect();
        let at = at.index(stream.len());
        stream[at] ^= flip;
        stream.extend(bytes);
        let (mut reader, mut input) = (FrameReader::new(), BytesMut::new());
        for piece in stream.chunks(333) {
            reader.feed(piece);
            input.extend_from_slice(piece);
            loop {
                let cut = cut_frame(&mut input, CONTROL_BODY_BYTES_MAX);
                match (reader.next(), cut) {
                    (Ok(Some(frame)), Ok(Cut::Frame(cut))) => prop_assert_eq!(frame, cut),
                    (Ok(None), Ok(Cut::Wants(bytes))) => {
                        prop_assert!(bytes > input.len());
                        break;
                    }
                    (Err(error), Err(cut)) => {
                        prop_assert_eq!(error, cut);
                        return Ok(());
                    }
                    (reader, cut) => prop_assert!(false, "{reader:?} and {cut:?}"),
                }
            }
        }
    }

    #[test]
    fn random_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 1..200), magic in any::<bool>()) {
        if magic {
            bytes[0] = MAGIC;
        }
        let mut reader = reader();
        reader.feed(&bytes);
        while let Ok(Some(frame)) = reader.next() {
            let _ = Message::decode(&frame);
        }
    }

    #[test]
    fn random_bodies_under_sound_checksums_never_panic(
        opcode in prop::sample::select(Opcode::ALL),
        body in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        if let Ok(Some(frame)) = only_frame(&sealed(opcode, &body)) {
            let _ = Message::decode(&frame);
        }
    }

    #[test]
    fn a_damaged_body_under_a_sound_checksum_errs_or_encodes_to_itself(
        index in 0..Opcode::ALL.len(),
        at in any::<prop::sample::Index>(),
        flip in 1_u8..,
    ) {
        let sample = &samples().unwrap()[index];
        let mut body = encoded(sample)[HEADER_BYTES..].to_vec();
        if body.is_empty() {
            return Ok(());
        }
        let at = at.index(body.len());
        body[at] ^= flip;
        let frame = only_frame(&sealed(sample.message.opcode(), &body)).unwrap().unwrap();
        if let Ok(message) = Message::decode(&frame) {
            // One meaning has one encoding: what decodes must encode to the same bytes.
            let mut again = Vec::new();
            message.encode(RequestId(0), &mut again).unwrap();
            prop_assert_eq!(&again[HEADER_BYTES..], &body);
        }
    }
}
