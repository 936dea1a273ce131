//! The decision table over all segments of a data directory.

use std::collections::BTreeMap;

use super::scan::{Outcome, ScannedSegment};
use super::{Cut, RecoveredLog, RecoveredSegment, Recovery, RecoveryError, Row, SegmentScan};
use crate::format::{FrameError, SealBlock};
use crate::ids::{CoreId, Incarnation, NodeId};
use crate::limits::FRAME_ALIGN_BYTES;
use crate::lsn::Lsn;
use crate::marks::{Mark, reach};
use crate::planted;

/// One segment with its file name.
type Scanned = (String, Box<ScannedSegment>);

/// Decides what the segments of node `node` mean together.
///
/// # Errors
/// See [`RecoveryError`]: whenever something durable is damaged, missing, foreign or written by a newer program.
pub fn judge(node: NodeId, scans: Vec<SegmentScan>) -> Result<Recovery, RecoveryError> {
    let mut recovery = Recovery::default();
    let mut logs: BTreeMap<(CoreId, Incarnation), Vec<Scanned>> = BTreeMap::new();
    let mut numbers: BTreeMap<(CoreId, u64), String> = BTreeMap::new();
    for SegmentScan { file, outcome } in scans {
        let segment = match outcome {
            Outcome::Temporary => {
                recovery.report.push(format!("{file}: left over from a preparation, to be removed"));
                recovery.recyclable.push(file);
                continue;
            }
            Outcome::Header(error) => return Err(RecoveryError::Header { file, error }),
            Outcome::Misnamed { belongs } => return Err(RecoveryError::Misnamed { file, belongs }),
            Outcome::Segment(segment) => segment,
        };
        let header = &segment.header;
        if header.node != node {
            return Err(RecoveryError::ForeignNode { file, found: header.node, expected: node });
        }
        if let Some(other) = numbers.insert((header.core, header.number.0), file.clone()) {
            return Err(RecoveryError::Duplicate { file, other });
        }
        logs.entry((header.core, header.incarnation)).or_default().push((file, segment));
    }
    for ((core, incarnation), mut segments) in logs {
        segments.sort_by_key(|(_, segment)| segment.header.base);
        if let Some(pair) = segments.windows(2).find(|pair| pair[0].1.header.base == pair[1].1.header.base) {
            return Err(RecoveryError::Duplicate { file: pair[0].0.clone(), other: pair[1].0.clone() });
        }
        judge_log(core, incarnation, segments, &mut recovery)?;
    }
    // A run's numbers are above those of every run before it.
    recovery.logs.sort_by_key(|log| (log.core, log.segments[0].number));
    Ok(recovery)
}

/// Where a log ends, before it is known whether it may end there.
struct Stop {
    position: Lsn,
    /// What stands at the position; `None` if nothing can.
    reason: Option<FrameError>,
    row: Row,
    /// Index of the segment that holds the position, or of the first one behind a gap, where there is one.
    at: usize,
    /// Whether the position lies in a gap between files, or behind the last of them.
    gap: bool,
}

fn judge_log(
    core: CoreId,
    incarnation: Incarnation,
    segments: Vec<Scanned>,
    recovery: &mut Recovery,
) -> Result<(), RecoveryError> {
    let name = format!("core {core}, incarnation {incarnation}");
    for (file, segment) in &segments {
        if segment.seal_damaged {
            reach(Mark::DamagedSealIgnored);
            recovery.report.push(format!("{file}: its seal block is damaged and was not used"));
        }
    }
    let (kept, stop) = follow(&segments)?;
    refuse_lost_durable(&segments, &stop)?;

    let mut files = segments.into_iter();
    let kept: Vec<Scanned> = files.by_ref().take(kept).collect();
    for (file, _) in files {
        recovery.report.push(format!("{file}: {name}: holds nothing that counts, to be removed"));
        recovery.recyclable.push(file);
    }
    let Some((_, last)) = kept.last() else { return Ok(()) };
    let cut = match (stop.row, stop.reason) {
        (Row::TornTail, Some(reason)) => Some(Cut { position: stop.position, reason }),
        _ => None,
    };
    note_row(stop.row, last);
    let end = last.walk.end;
    let last_header_crc = last.walk.last.map_or(0, |frame| frame.header_crc);
    let hlc = kept.iter().map(|(_, segment)| segment.walk.hlc).max().unwrap_or_default();
    let why = cut.map_or_else(String::new, |cut| format!(", cut at {}: {}", cut.position, cut.reason));
    recovery.report.push(format!("{name}: {} segments, end {end}, {}{why}", kept.len(), stop.row));
    let segments = kept.into_iter().map(|(file, segment)| recovered(file, &segment, end)).collect();
    recovery.logs.push(RecoveredLog { incarnation, core, segments, end, last_header_crc, hlc, row: stop.row, cut });
    Ok(())
}

/// Marks how a log ended, if that is rare.
fn note_row(row: Row, last: &ScannedSegment) {
    match row {
        Row::CleanEnd => {}
        Row::RecycledBytes => reach(Mark::RecycledBytesIgnored),
        Row::TornTail => {
            reach(Mark::TornTailCut);
            if last.behind.resumes.is_some() {
                reach(Mark::TailCutBeforeIntactFrames);
            }
        }
        Row::SealedCut => reach(Mark::SealedCutFound),
        Row::EndOfFiles => reach(Mark::EndOfFilesFound),
    }
}

/// Follows the chain of frames through the segments: how many of them hold some of it, and where it stops.
fn follow(segments: &[Scanned]) -> Result<(usize, Stop), RecoveryError> {
    let mut chain: Option<u32> = None;
    let mut position = Lsn(0);
    for (index, (file, segment)) in segments.iter().enumerate() {
        let walk = &segment.walk;
        if index > 0 && !continues(&segments[index - 1].1, segment) {
            let stop = Stop { position, reason: None, row: Row::EndOfFiles, at: index, gap: true };
            return Ok((index, stop));
        }
        if let Some(error) = walk.stop.filter(FrameError::is_intact) {
            return Err(RecoveryError::Unreadable { file: file.clone(), at: walk.end, error });
        }
        if let Some(seal) = &segment.seal {
            check_seal(file, segment, seal)?;
        }
        let (Some(first), Some(last)) = (walk.first, walk.last) else {
            return Ok((index, stop_in(segment, index)));
        };
        // The first segment of a run chains to nothing; of an older segment's predecessor nothing may be left to compare.
        let expected = if segment.header.previous.is_none() { Some(0) } else { chain };
        let found = first.previous_header_crc;
        if let Some(expected) = expected.filter(|&expected| expected != found)
            && !planted::is(planted::Fault::StaleFrameAfterCut)
        {
            let error = FrameError::Chain { expected, found };
            return Err(RecoveryError::Unreadable { file: file.clone(), at: first.lsn, error });
        }
        chain = Some(last.header_crc);
        position = walk.end;
        if !walk.ends_segment() {
            return Ok((index + 1, stop_in(segment, index)));
        }
    }
    let at = segments.len();
    Ok((at, Stop { position, reason: None, row: Row::EndOfFiles, at, gap: true }))
}

/// Whether `next` is the segment right behind `previous`.
fn continues(previous: &ScannedSegment, next: &ScannedSegment) -> bool {
    next.header.previous == Some(previous.header.link())
        && next.header.segment_bytes == previous.header.segment_bytes
        && next.header.base == previous.header.base.plus(previous.header.segment_bytes)
}

/// The stop in a segment whose frames do not go on in the next one.
fn stop_in(segment: &ScannedSegment, at: usize) -> Stop {
    let walk = &segment.walk;
    let row = match walk.stop {
        _ if segment.seal.is_some() => Row::SealedCut,
        None => Row::CleanEnd,
        Some(FrameError::Blank) if segment.behind.blank => Row::CleanEnd,
        Some(FrameError::ForeignCookie(_)) if segment.behind.durable.is_none() => Row::RecycledBytes,
        Some(_) => Row::TornTail,
    };
    Stop { position: walk.end, reason: walk.stop, row, at, gap: false }
}

/// A sealed segment was durable up to its end: everything in it must be there.
fn check_seal(file: &str, segment: &ScannedSegment, seal: &SealBlock) -> Result<(), RecoveryError> {
    let walk = &segment.walk;
    if walk.end != seal.end {
        let reason = walk.stop.unwrap_or(FrameError::Value("the segment ends before its seal says"));
        return Err(corrupt(file, segment, walk.end, seal.end, reason));
    }
    let found = (walk.tally.records(), walk.last.map_or(0, |last| last.header_crc));
    let sealed = (seal.records, seal.last_header_crc);
    if found == sealed {
        return Ok(());
    }
    let describe = |(records, crc): (u64, u32)| format!("{records} records, last frame {crc:#010x}");
    Err(RecoveryError::SealContradicts { file: file.to_owned(), seal: describe(sealed), frames: describe(found) })
}

/// Refuses if something at or behind the stop shows that the log was durable beyond it.
fn refuse_lost_durable(segments: &[Scanned], stop: &Stop) -> Result<(), RecoveryError> {
    // A seal speaks about its whole log: one that recovery wrote says how far the log reached, in segments behind it as well.
    let sealed_before = segments.iter().take(stop.at).filter_map(|(_, segment)| segment.seal.as_ref());
    let mut durable: Option<Lsn> = sealed_before.map(|seal| seal.durable).max();
    for (index, (file, segment)) in segments.iter().enumerate().skip(stop.at) {
        if let Some((at, error)) = segment.behind.unreadable {
            return Err(RecoveryError::Unreadable { file: file.clone(), at, error });
        }
        durable = durable.max(segment.behind.durable);
        // What stands before the stop in its own segment cannot speak about it.
        if index > stop.at || stop.gap {
            durable = durable.max(segment.seal.as_ref().map(|seal| seal.durable));
            durable = durable.max(segment.walk.last.map(|last| last.durable));
        }
    }
    let Some(to) = durable.filter(|&durable| durable > stop.position) else { return Ok(()) };
    if planted::is(planted::Fault::CutAtFirstBadFrame) {
        return Ok(());
    }
    if stop.gap {
        reach(Mark::MissingSegmentRefused);
        let (before, previous) = &segments[stop.at - 1];
        return Err(RecoveryError::MissingSegment {
            before: before.clone(),
            after: segments.get(stop.at).map_or_else(|| "the end of the log".to_owned(), |(file, _)| file.clone()),
            number: previous.header.number.next(),
            from: stop.position,
            to,
        });
    }
    let (file, segment) = &segments[stop.at];
    Err(corrupt(file, segment, stop.position, to, stop.reason.unwrap_or(FrameError::Blank)))
}

fn corrupt(file: &str, segment: &ScannedSegment, from: Lsn, to: Lsn, reason: FrameError) -> RecoveryError {
    reach(Mark::DamageRefused);
    debug_assert!(from.0.is_multiple_of(FRAME_ALIGN_BYTES as u64));
    let offset = from.offset_from(segment.header.base).unwrap_or(0);
    RecoveryError::Corrupt { file: file.to_owned(), from, to, offset, reason }
}

fn recovered(file_name: String, segment: &ScannedSegment, log_end: Lsn) -> RecoveredSegment {
    let header = &segment.header;
    let walk = &segment.walk;
    let seal = segment.seal.clone().unwrap_or_else(|| SealBlock {
        segment: header.link(),
        end: walk.end,
        // The caller synced the files before it read them: all that was recovered is durable.
        durable: log_end,
        records: walk.tally.records(),
        last_header_crc: walk.last.map_or(0, |last| last.header_crc),
        origins: walk.tally.origins(),
    });
    RecoveredSegment {
        file_name,
        number: header.number,
        cookie: header.cookie,
        base: header.base,
        end: walk.end,
        segment_bytes: header.segment_bytes,
        records: walk.tally.records(),
        origins: seal.origins.clone(),
        sealed: segment.seal.is_some(),
        seal,
    }
}
