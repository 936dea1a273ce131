//! What must hold of whatever recovery accepts.

use wal::recovery::{RecoveredLog, Recovery, RecoveryError, judge, scan_segment};
use wal::{
    Cookie, CoreId, FileKind, Incarnation, Lsn, SEAL_OFFSET, SEGMENT_BYTES_MIN, SEGMENT_HEADER_BYTES, SegmentHeader,
    SegmentNumber, file_kind, frames, segment_file_name,
};

use super::edits::edit;
use super::heal::{Healing, heal_frames};
use super::input::Input;
use super::logs::{Files, NODE, Written, write_logs};

/// One file: any bytes, any body behind a sound header, or a segment that was damaged.
pub(crate) fn segment(data: &[u8]) -> bool {
    let mut input = Input::new(data);
    match input.below(3) {
        0 => {
            let bytes = input.rest();
            let own = SegmentHeader::parse(bytes).map(|header| segment_file_name(header.core, header.number));
            let name = own.unwrap_or_else(|_| String::from_utf8_lossy(bytes.get(..32).unwrap_or(bytes)).into_owned());
            check(&Files::from([(name, bytes.to_vec())]), 0).is_some()
        }
        1 => {
            let (core, number) = (CoreId(u16::from(input.byte())), SegmentNumber(1 + input.u64() % 100));
            let healing = Healing::from(input.byte());
            let cookie = Cookie(input.u64() | 1);
            let header = SegmentHeader {
                segment_bytes: SEGMENT_BYTES_MIN.into(),
                node: NODE,
                incarnation: Incarnation(1),
                core,
                number,
                cookie,
                base: Lsn(0),
                previous: None,
            };
            let mut bytes = header.encode_page().to_vec();
            bytes.extend(input.rest());
            bytes.resize(SEGMENT_BYTES_MIN as usize, 0);
            heal_frames(&mut bytes[SEGMENT_HEADER_BYTES..], header.first_frame(), cookie, healing);
            check(&Files::from([(segment_file_name(core, number), bytes)]), 0).is_some()
        }
        _ => {
            let (mut files, _) = write_logs(&mut input);
            edit(&mut files, &mut input);
            let chosen = input.below(files.len().max(1));
            files.into_iter().nth(chosen).is_some_and(|file| check(&Files::from([file]), 0).is_some())
        }
    }
}

/// Valid logs, and what was done to their files.
pub(crate) fn directory(data: &[u8]) -> bool {
    let mut input = Input::new(data);
    let (mut files, written) = write_logs(&mut input);
    let order = input.byte();
    let edited = edit(&mut files, &mut input);
    let recovery = check(&files, usize::from(order));
    if !edited.anything {
        let logs = &recovery.as_ref().expect("nothing was damaged").logs;
        let sealed = written.iter().filter(|written| written.sealed > 0).count();
        assert!(logs.len() >= sealed, "a log was lost");
        for (log, written) in of_each(logs, &written) {
            assert_eq!(records_of(&files, log).len(), written.sealed, "what was sealed survives a kill");
        }
    }
    if let Some(recovery) = recovery.as_ref().filter(|_| !edited.forged) {
        for (log, written) in of_each(&recovery.logs, &written) {
            // Segments at the front may have been retired; behind them nothing may be left out.
            let from = log.segments[0].number;
            let records = written.records.iter().filter(|(number, _)| *number >= from).map(|(_, record)| record);
            let found = records_of(&files, log);
            assert!(found.iter().eq(records.take(found.len())), "records that were not written so: {log:?}");
        }
    }
    recovery.is_some_and(|recovery| !recovery.logs.is_empty())
}

/// Every recovered log with what was written to it.
fn of_each<'a>(
    logs: &'a [RecoveredLog],
    written: &'a [Written],
) -> impl Iterator<Item = (&'a RecoveredLog, &'a Written)> {
    logs.iter().map(|log| {
        let is_its = |written: &&Written| (written.core, written.incarnation) == (log.core, log.incarnation);
        (log, written.iter().find(is_its).expect("a log that was written"))
    })
}

fn recover(files: &Files) -> Result<Recovery, RecoveryError> {
    let counted =
        files.iter().filter(|(name, _)| matches!(file_kind(name), FileKind::Segment { .. } | FileKind::Temporary));
    judge(NODE, counted.map(|(name, bytes)| scan_segment(name, bytes)).collect())
}

/// Recovers, and takes the steps that recovery asks for, with a crash in between: whatever the order, judging again comes
/// to the same end. `None` if recovery refuses.
fn check(files: &Files, order: usize) -> Option<Recovery> {
    // A name that nothing but a segment may have: scanned all the same, it must be refused, not believed.
    for (name, bytes) in files {
        let _ = judge(NODE, vec![scan_segment(name, bytes)]);
    }
    let recovery = recover(files).ok()?;
    for log in &recovery.logs {
        assert!(!log.segments.is_empty());
        assert_eq!(recovery.end_of(log.incarnation, log.core), Some(log.end));
        assert_eq!(log.segments.last().map(|segment| segment.end), Some(log.end));
        records_of(files, log);
    }

    let mut steps: Vec<Step> = recovery.recyclable.iter().map(|name| Step::Unlink(name.clone())).collect();
    for segment in recovery.logs.iter().flat_map(|log| &log.segments) {
        assert_eq!(segment.sealed, segment.seal_block().is_none());
        steps.extend(segment.seal_block().map(|block| Step::Seal(segment.file_name.clone(), block.to_vec())));
    }
    let len = steps.len().max(1);
    steps.rotate_left(order % len);
    if order & 0x80 != 0 {
        steps.reverse();
    }
    let mut files = files.clone();
    let crash = (order / len) % len;
    for (index, step) in steps.into_iter().enumerate() {
        if index == crash {
            compare(&recovery, &recover(&files).expect("half of what recovery asked for was done"));
        }
        step.take(&mut files);
    }
    let again = recover(&files).expect("what recovery asked for was done");
    compare(&recovery, &again);
    assert!(again.recyclable.is_empty(), "everything that holds nothing is gone: {again:?}");
    assert!(again.logs.iter().flat_map(|log| &log.segments).all(|segment| segment.sealed), "ends are final: {again:?}");
    Some(recovery)
}

/// What the caller of recovery does.
enum Step {
    Unlink(String),
    Seal(String, Vec<u8>),
}

impl Step {
    fn take(self, files: &mut Files) {
        match self {
            Step::Unlink(name) => drop(files.remove(&name).expect("a recyclable file")),
            Step::Seal(name, block) => {
                let at = usize::try_from(SEAL_OFFSET).expect("inside the header page");
                files.get_mut(&name).expect("a recovered file")[at..at + block.len()].copy_from_slice(&block);
            }
        }
    }
}

/// Both found the same logs, apart from how their ends were told.
fn compare(first: &Recovery, second: &Recovery) {
    assert_eq!(first.logs.len(), second.logs.len(), "{first:?}\n{second:?}");
    for (first, second) in first.logs.iter().zip(&second.logs) {
        assert_eq!((first.core, first.incarnation, first.end), (second.core, second.incarnation, second.end));
        assert_eq!((first.last_header_crc, first.hlc), (second.last_header_crc, second.hlc));
        assert_eq!(first.segments.len(), second.segments.len());
        for (first, second) in first.segments.iter().zip(&second.segments) {
            assert_eq!(
                (&first.file_name, first.number, first.cookie),
                (&second.file_name, second.number, second.cookie)
            );
            assert_eq!((first.base, first.end, first.segment_bytes), (second.base, second.end, second.segment_bytes));
            assert_eq!((first.records, &first.origins), (second.records, &second.origins));
        }
    }
}

/// The records of a recovered log, padded, read as the engine reads them: up to the end of each segment.
fn records_of(files: &Files, log: &RecoveredLog) -> Vec<Vec<u8>> {
    let mut records = Vec::new();
    let mut chain = None;
    for segment in &log.segments {
        let end =
            usize::try_from(segment.end.offset_from(segment.base).expect("an end behind the base")).expect("small");
        let body = &files[&segment.file_name][SEGMENT_HEADER_BYTES..end];
        let mut reader = frames(body, segment.base.plus(SEGMENT_HEADER_BYTES as u64), segment.cookie);
        if let Some(crc) = chain {
            reader = reader.continuing(crc);
        }
        let mut found = 0;
        for frame in reader.by_ref() {
            let frame = frame.expect("recovered bytes hold whole frames");
            frame.verify_records().expect("recovered frames hold whole records");
            for record in frame.records().flatten() {
                let mut bytes = record.bytes.to_vec();
                bytes.resize(record.padded_len(), 0);
                records.push(bytes);
                found += 1;
            }
        }
        assert_eq!((reader.consumed(), found), (body.len(), segment.records), "{segment:?}");
        chain = reader.previous_header_crc();
    }
    assert_eq!(chain, Some(log.last_header_crc));
    records
}
