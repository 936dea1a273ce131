//! What the scan of one file found, for tools that show it: [`judge`](super::judge()) needs no more than this either.

use super::scan::{Outcome, ScannedSegment, SegmentScan};
use crate::format::{FrameError, FrameHeader, OriginRange, SealBlock, SegmentHeader, SegmentHeaderError};
use crate::lsn::Lsn;
use crate::version::Version;

/// What one file is, looked at by itself.
#[derive(Clone, Copy, Debug)]
pub enum Finding<'a> {
    /// Left over from a preparation, by its name.
    Temporary,
    /// Named like a segment, without a usable header.
    Unusable(SegmentHeaderError),
    /// A segment that belongs into the file of this name.
    Misnamed(&'a str),
    /// A segment.
    Segment(SegmentEvidence<'a>),
}

/// What one segment holds, looked at by itself.
#[derive(Clone, Copy, Debug)]
pub struct SegmentEvidence<'a>(&'a ScannedSegment);

impl SegmentScan {
    /// The scan of a file whose contents were not read because its header or its length already decides.
    #[must_use]
    pub fn unusable(name: &str, error: SegmentHeaderError) -> SegmentScan {
        SegmentScan { file: name.to_owned(), outcome: Outcome::Header(error) }
    }

    /// The file's name.
    #[must_use]
    pub fn file_name(&self) -> &str {
        &self.file
    }

    /// What was found.
    #[must_use]
    pub fn finding(&self) -> Finding<'_> {
        match &self.outcome {
            Outcome::Temporary => Finding::Temporary,
            Outcome::Header(error) => Finding::Unusable(*error),
            Outcome::Misnamed { belongs } => Finding::Misnamed(belongs),
            Outcome::Segment(segment) => Finding::Segment(SegmentEvidence(segment)),
        }
    }

    /// The segment, where there is one.
    #[must_use]
    pub fn segment(&self) -> Option<SegmentEvidence<'_>> {
        match self.finding() {
            Finding::Segment(segment) => Some(segment),
            _ => None,
        }
    }
}

impl<'a> SegmentEvidence<'a> {
    /// Its header.
    #[must_use]
    pub fn header(self) -> &'a SegmentHeader {
        &self.0.header
    }

    /// Its seal, if there is a valid one with an end that is possible.
    #[must_use]
    pub fn seal(self) -> Option<&'a SealBlock> {
        self.0.seal.as_ref()
    }

    /// Whether something stands in the seal's place that is none.
    #[must_use]
    pub fn seal_is_damaged(self) -> bool {
        self.0.seal_damaged
    }

    /// The header of its first frame.
    #[must_use]
    pub fn first_frame(self) -> Option<&'a FrameHeader> {
        self.0.walk.first.as_ref()
    }

    /// The header of its last frame.
    #[must_use]
    pub fn last_frame(self) -> Option<&'a FrameHeader> {
        self.0.walk.last.as_ref()
    }

    /// Exclusive end of its last frame; where the first one belongs if there is none.
    #[must_use]
    pub fn end(self) -> Lsn {
        self.0.walk.end
    }

    /// Whether its last frame says that the log goes on in the next segment.
    #[must_use]
    pub fn ends_segment(self) -> bool {
        self.0.walk.ends_segment()
    }

    /// What stands at [`SegmentEvidence::end`]; `None` if there is nothing to stand.
    #[must_use]
    pub fn stop(self) -> Option<FrameError> {
        self.0.walk.stop
    }

    /// Records in its frames.
    #[must_use]
    pub fn records(self) -> u64 {
        self.0.walk.tally.records()
    }

    /// The highest clock in a frame header.
    #[must_use]
    pub fn hlc(self) -> Version {
        self.0.walk.hlc
    }

    /// Version ranges of the records that travel, by origin; `None` if there are too many origins.
    #[must_use]
    pub fn origins(self) -> Option<Vec<OriginRange>> {
        self.0.walk.tally.origins()
    }

    /// Whether only zeros stand behind the end. Not known, and false, where a seal fixes the end.
    #[must_use]
    pub fn is_blank_behind(self) -> bool {
        self.0.behind.blank
    }

    /// The furthest position that a frame header behind the end declares durable.
    #[must_use]
    pub fn durable_behind(self) -> Option<Lsn> {
        self.0.behind.durable
    }

    /// Where behind the end the first intact header of this segment stands: damage does not reach further than this.
    #[must_use]
    pub fn resumes_at(self) -> Option<Lsn> {
        self.0.behind.resumes
    }

    /// Whether behind the end a frame header of an earlier use of the file stands. Not looked for behind a seal.
    #[must_use]
    pub fn has_foreign_frames_behind(self) -> bool {
        self.0.behind.foreign
    }
}
