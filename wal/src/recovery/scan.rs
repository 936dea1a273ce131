//! One segment, looked at by itself.

use crate::appender::Tally;
use crate::directory::{FileKind, file_kind, segment_file_name};
use crate::format::{
    FRAME_HEADER_BYTES, FrameError, FrameHeader, FrameKind, RecordView, SEGMENT_HEADER_BYTES, SealBlock, SealState,
    SegmentHeader, SegmentHeaderError,
};
use crate::limits::FRAME_ALIGN_BYTES;
use crate::lsn::Lsn;
use crate::planted;
use crate::reader::{FrameView, frames, intact_headers};
use crate::version::Version;

/// What one file holds. Input of [`judge`](super::judge()).
#[derive(Clone, Debug)]
pub struct SegmentScan {
    pub(super) file: String,
    pub(super) outcome: Outcome,
}

#[derive(Clone, Debug)]
pub(super) enum Outcome {
    /// Left over from a preparation.
    Temporary,
    Header(SegmentHeaderError),
    Misnamed {
        belongs: String,
    },
    Segment(Box<ScannedSegment>),
}

#[derive(Clone, Debug)]
pub(super) struct ScannedSegment {
    pub(super) header: SegmentHeader,
    /// Valid for this segment, with an end that is possible.
    pub(super) seal: Option<SealBlock>,
    /// Something stood in the seal's place that was none.
    pub(super) seal_damaged: bool,
    pub(super) walk: Walk,
    pub(super) behind: Behind,
}

/// The frames from the start of a segment, as far as each is valid and continues the one before it.
#[derive(Clone, Debug)]
pub(super) struct Walk {
    pub(super) first: Option<FrameHeader>,
    pub(super) last: Option<FrameHeader>,
    /// Exclusive end of the last one; where the first frame belongs if there is none.
    pub(super) end: Lsn,
    pub(super) hlc: Version,
    pub(super) tally: Tally,
    /// What stands at `end`; `None` if there is nothing to stand: the segment, or its sealed part, is over.
    pub(super) stop: Option<FrameError>,
}

impl Walk {
    pub(super) fn ends_segment(&self) -> bool {
        self.last.is_some_and(|last| last.flags.ends_segment())
    }
}

/// What lies behind the walk's end. Nothing of it is data.
#[derive(Clone, Debug, Default)]
pub(super) struct Behind {
    /// Only zeros.
    pub(super) blank: bool,
    /// Headers of this segment's frames stand there, and the furthest of them declares this durable.
    pub(super) durable: Option<Lsn>,
    /// The first of those headers behind the frame at the end, which is damaged even where its own header is not.
    pub(super) resumes: Option<Lsn>,
    /// A header of an earlier use of the file stands there.
    pub(super) foreign: bool,
    /// An intact header that this program does not understand.
    pub(super) unreadable: Option<(Lsn, FrameError)>,
}

/// Sees what a scan accepts, in the order of the log. Nothing of a frame is shown before all of it is verified. Whether a segment's
/// frames belong to a log at all is for [`judge`](super::judge()) to say.
pub trait Visit {
    /// A frame begins.
    fn frame(&mut self, frame: &FrameView<'_>);
    /// A record of that frame, which stands `offset` bytes behind the start of the file.
    fn record(&mut self, kind: FrameKind, record: &RecordView<'_>, offset: usize);
}

/// Looks at nothing.
struct Nobody;

impl Visit for Nobody {
    fn frame(&mut self, _: &FrameView<'_>) {}
    fn record(&mut self, _: FrameKind, _: &RecordView<'_>, _: usize) {}
}

impl SegmentScan {
    /// Exclusive end of the last frame that it accepted; `None` if there is none.
    #[must_use]
    pub fn frames_end(&self) -> Option<Lsn> {
        match &self.outcome {
            Outcome::Segment(segment) => segment.walk.last.map(|_| segment.walk.end),
            _ => None,
        }
    }

    /// The size that the segment's header gives it, in bytes; `None` if the file is no segment.
    #[must_use]
    pub fn segment_bytes(&self) -> Option<u64> {
        match &self.outcome {
            Outcome::Segment(segment) => Some(segment.header.segment_bytes),
            _ => None,
        }
    }
}

/// Looks at the file `name`, whose whole contents are `bytes`.
#[must_use]
pub fn scan_segment(name: &str, bytes: &[u8]) -> SegmentScan {
    scan_and_visit(name, bytes, &mut Nobody)
}

/// As [`scan_segment`], and shows `visitor` the frames that it accepts.
#[must_use]
pub fn scan_and_visit(name: &str, bytes: &[u8], visitor: &mut impl Visit) -> SegmentScan {
    SegmentScan { file: name.to_owned(), outcome: outcome(name, bytes, visitor) }
}

fn outcome(name: &str, bytes: &[u8], visitor: &mut impl Visit) -> Outcome {
    if file_kind(name) == FileKind::Temporary {
        return Outcome::Temporary;
    }
    let header = match SegmentHeader::parse(bytes) {
        Ok(header) => header,
        Err(error) => return Outcome::Header(error),
    };
    let belongs = segment_file_name(header.core, header.number);
    if name != belongs {
        return Outcome::Misnamed { belongs };
    }
    if bytes.len() as u64 != header.segment_bytes {
        return Outcome::Header(SegmentHeaderError::Size {
            expected: header.segment_bytes,
            actual: bytes.len() as u64,
        });
    }
    let state = SealBlock::read(bytes, header.link());
    let (seal, seal_damaged) = match state {
        SealState::Absent => (None, false),
        SealState::Valid(_) if planted::is(planted::Fault::StaleFrameAfterCut) => (None, false),
        SealState::Valid(seal) if is_possible_end(&header, &seal) => (Some(seal), false),
        SealState::Valid(_) | SealState::Damaged => (None, true),
    };
    let end =
        seal.as_ref().and_then(|seal| seal.end.offset_from(header.base)).and_then(|end| usize::try_from(end).ok());
    let walk = walk(&header, &bytes[..end.unwrap_or(bytes.len())], visitor);
    // Behind a seal nothing counts, not even as evidence.
    let behind = match &seal {
        Some(seal) => Behind { resumes: resumes_before(seal.end, &header, &walk, bytes), ..Behind::default() },
        None => look_behind(&header, &walk, bytes),
    };
    Outcome::Segment(Box::new(ScannedSegment { header, seal, seal_damaged, walk, behind }))
}

fn is_possible_end(header: &SegmentHeader, seal: &SealBlock) -> bool {
    seal.end >= header.first_frame()
        && seal.end <= header.base.plus(header.segment_bytes)
        && seal.end.0.is_multiple_of(FRAME_ALIGN_BYTES as u64)
        && seal.durable >= seal.end
}

fn walk(header: &SegmentHeader, bytes: &[u8], visitor: &mut impl Visit) -> Walk {
    let first_frame = header.first_frame();
    let mut walk =
        Walk { first: None, last: None, end: first_frame, hlc: Version::ZERO, tally: Tally::default(), stop: None };
    let body = &bytes[SEGMENT_HEADER_BYTES..];
    let mut reader = frames(body, first_frame, header.cookie);
    for frame in reader.by_ref() {
        match frame.and_then(|frame| take(&mut walk, &frame, header, visitor)) {
            Ok(()) => {}
            Err(error) => {
                walk.stop = Some(error);
                return walk;
            }
        }
    }
    if let Some(needed) = reader.needed() {
        walk.stop = Some(FrameError::Incomplete { needed, available: body.len() - reader.consumed() });
    }
    walk
}

fn take(
    walk: &mut Walk,
    frame: &FrameView<'_>,
    header: &SegmentHeader,
    visitor: &mut impl Visit,
) -> Result<(), FrameError> {
    frame.verify_records()?;
    visitor.frame(frame);
    let kind = frame.kind();
    let mut offset = file_offset(header, frame.lsn()) + FRAME_HEADER_BYTES;
    // Verified just now: a second look at the checksums would only cost.
    let mut rest = frame.payload();
    while let Ok((record, padded)) = RecordView::parse_trusted_prefix(rest) {
        walk.tally.count(kind, record.origin, record.version);
        visitor.record(kind, &record, offset);
        rest = rest.get(padded..).unwrap_or(&[]);
        offset += padded;
    }
    walk.first = walk.first.or(Some(*frame.header()));
    walk.last = Some(*frame.header());
    walk.end = frame.end();
    walk.hlc = walk.hlc.max(frame.hlc());
    Ok(())
}

/// Of a position that lies in the segment.
fn file_offset(header: &SegmentHeader, lsn: Lsn) -> usize {
    usize::try_from(lsn.0.saturating_sub(header.base.0)).expect("64-bit target")
}

/// Where frames go on in a sealed segment in which the walk did not reach the seal's end: it bounds the damage.
fn resumes_before(end: Lsn, header: &SegmentHeader, walk: &Walk, bytes: &[u8]) -> Option<Lsn> {
    let file_offset = |lsn: Lsn| lsn.offset_from(header.base).and_then(|offset| usize::try_from(offset).ok());
    let rest = bytes.get(file_offset(walk.end)?..file_offset(end)?)?;
    intact_headers(rest, walk.end, header.cookie).find_map(|(at, found)| (found.is_ok() && at > walk.end).then_some(at))
}

fn look_behind(header: &SegmentHeader, walk: &Walk, bytes: &[u8]) -> Behind {
    let offset = walk.end.offset_from(header.base).and_then(|offset| usize::try_from(offset).ok());
    let rest = offset.and_then(|offset| bytes.get(offset..)).unwrap_or(&[]);
    let mut behind = Behind { blank: rest.iter().all(|&byte| byte == 0), ..Behind::default() };
    if behind.blank || walk.ends_segment() {
        return behind;
    }
    behind.foreign = (0..rest.len()).step_by(FRAME_ALIGN_BYTES).any(|offset| {
        let found = FrameHeader::parse(&rest[offset..], walk.end.plus(offset as u64), header.cookie);
        matches!(found, Err(FrameError::ForeignCookie(_)))
    });
    for (at, found) in intact_headers(rest, walk.end, header.cookie) {
        match found {
            Ok(found) => {
                behind.durable = behind.durable.max(Some(found.durable));
                // At the end itself an intact header stands before a damaged payload.
                if at > walk.end {
                    behind.resumes.get_or_insert(at);
                }
            }
            Err(error) => {
                behind.unreadable.get_or_insert((at, error));
            }
        }
    }
    behind
}
