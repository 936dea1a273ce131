//! What the fuzz targets do with an input, as plain functions: `tests/fuzz.rs` runs them on a fixed corpus and on mutations of it,
//! `fuzz/` under libFuzzer.
//!
//! Bytes under a checksum are out of a fuzzer's reach, so every body looks at its input twice: as it is, and *healed*, with
//! lengths and checksums made to fit. Each body panics where a property does not hold, and says whether anything in the
//! input was accepted: a driver that only ever sees refusals tests nothing.
#![allow(dead_code)]

mod edits;
mod heal;
mod input;
mod logs;
mod recovered;
pub(crate) mod seeds;

use wal::{
    ControlRecord, Cookie, FrameError, FrameView, Lsn, RecordDraft, RecordView, frames, key_hash, padded_record_len,
};

use heal::{Healing, heal_frames, heal_record};
use input::Input;

pub(crate) use recovered::{directory, segment};

/// What a target does with an input; whether anything in it was accepted.
pub(crate) type Body = fn(&[u8]) -> bool;

/// Name and body of every target.
pub(crate) const TARGETS: &[(&str, Body)] =
    &[("record", record), ("frame", frame), ("segment", segment), ("directory", directory)];

/// A record, or the key and value of a control record.
pub(crate) fn record(data: &[u8]) -> bool {
    let mut healed = data.to_vec();
    heal_record(&mut healed);
    let control = data.split_first().is_some_and(|(kind, value)| check_control(&[*kind], value));
    check_record(data) | check_record(&healed) | control
}

fn check_record(bytes: &[u8]) -> bool {
    let trusted = RecordView::parse_trusted_prefix(bytes);
    let Ok((record, padded)) = RecordView::parse(bytes) else { return false };
    assert_eq!(trusted, Ok((record, padded)), "what is valid can be trusted");
    assert_eq!(RecordView::parse_trusted(record.bytes), Ok(record));
    assert_eq!((padded_record_len(bytes), record.padded_len()), (Some(padded), padded));

    let RecordView { version, origin, op, expiry, key, value, .. } = record;
    let draft = RecordDraft { version, origin, op, expiry, key, value };
    let encoded = draft.to_vec();
    assert_eq!((encoded.len(), draft.unpadded_len()), (padded, record.bytes.len()));
    // Readers take the hash as it is: another one makes another record, not a damaged one.
    if record.key_hash == key_hash(key) {
        assert_eq!(&encoded[..record.bytes.len()], record.bytes, "one record has one encoding");
    } else {
        let (again, _) = RecordView::parse(&encoded).expect("it was just written");
        assert_eq!((again.version, again.origin, again.op, again.expiry), (version, origin, op, expiry));
        assert_eq!((again.key, again.value), (key, value));
    }
    check_control(key, value);
    true
}

fn check_control(key: &[u8], value: &[u8]) -> bool {
    let Ok(control) = ControlRecord::decode(key, value) else { return false };
    assert_eq!(control.encode(), (key.to_vec(), value.to_vec()), "one control record has one encoding");
    true
}

/// Frames in bytes that begin anywhere in a log.
pub(crate) fn frame(data: &[u8]) -> bool {
    let mut input = Input::new(data);
    // Positions near the end of 64 bits do not exist: a segment's header must leave room for the segment.
    let (lsn, cookie) = (Lsn(input.u64() >> 1), Cookie(input.u64()));
    let healing = Healing::from(input.byte());
    let mut bytes = input.rest().to_vec();
    let found = check_frames(&bytes, lsn, cookie);
    heal_frames(&mut bytes, lsn, cookie, healing);
    found + check_frames(&bytes, lsn, cookie) > 0
}

/// How many frames there are.
fn check_frames(bytes: &[u8], start: Lsn, cookie: Cookie) -> usize {
    let mut reader = frames(bytes, start, cookie);
    let mut found: Vec<FrameView<'_>> = Vec::new();
    let mut consumed = 0;
    while let Some(next) = reader.next() {
        let Ok(frame) = next else {
            assert!(reader.next().is_none(), "nothing is read behind an error");
            break;
        };
        let (at, lsn) = (consumed, start.plus(consumed as u64));
        assert_eq!(frame.lsn(), lsn);
        assert_eq!(FrameView::parse(&bytes[at..], lsn, cookie), Ok(frame));
        assert_eq!(&frame.header().clone().encode()[..], &bytes[at..at + 64], "one header has one encoding");
        if let Some(before) = found.last() {
            assert_eq!(frame.header().previous_header_crc, before.header().header_crc);
            assert!(!before.is_last_of_segment(), "nothing follows the last frame of a segment");
        }
        consumed = reader.consumed();
        assert_eq!(frame.end(), start.plus(consumed as u64));
        check_records(&frame);
        found.push(frame);
    }
    assert!(reader.needed().is_none_or(|needed| needed > bytes.len() - consumed), "what was there was read");

    // Bytes that arrive in pieces hold the same frames.
    let cut = bytes.len() / 2;
    let mut first = frames(&bytes[..cut], start, cookie);
    let before_cut = first.by_ref().take_while(Result::is_ok).flatten().count();
    assert!(before_cut <= found.len() && first.consumed() <= cut);
    for (frame, whole) in frames(&bytes[..cut], start, cookie).flatten().zip(&found) {
        assert_eq!(frame, *whole);
    }
    found.len()
}

fn check_records(frame: &FrameView<'_>) {
    let mut records = frame.records();
    let mut count = 0;
    let mut sound = true;
    loop {
        let at = records.position();
        let Some(record) = records.next() else { break };
        match record {
            Ok(record) => {
                assert_eq!(records.position(), at + record.padded_len());
                assert_eq!(&frame.payload()[at..at + record.bytes.len()], record.bytes);
                count += 1;
            }
            Err(_) => sound = false,
        }
    }
    match frame.verify_records() {
        Ok(()) => assert!(sound && count == frame.records_count(), "verified frames hold what they say"),
        Err(FrameError::Record { index, .. }) => assert!(!sound && index == count),
        Err(error) => assert!(sound && matches!(error, FrameError::RecordCount { .. }), "{error}"),
    }
}

/// Files of valid logs with edits, for programs that look into directories (`tools/`).
#[allow(dead_code, reason = "only the fuzz target of the inspection tool uses it")]
pub(crate) fn edited_files(data: &[u8]) -> std::collections::BTreeMap<String, Vec<u8>> {
    let mut input = Input::new(data);
    let (mut files, _) = logs::write_logs(&mut input);
    edits::edit(&mut files, &mut input);
    files
}
