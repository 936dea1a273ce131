//! Recovery: what the segments of a data directory mean after a stop of any kind.
//!
//! [`scan_segment`] looks at one file by itself (files may be scanned in parallel; [`scan_and_visit`] also shows what it finds),
//! [`judge`] puts them together. They are pure. The caller syncs every file first and reads what the *disk* holds, not what the
//! cache shows; afterwards it writes the seal blocks that [`RecoveredSegment::seal_block`] gives and unlinks
//! [`Recovery::recyclable`], in any order: judging again after a crash in between comes to the same end.
//!
//! The table that [`judge`] implements stands in docs/WAL_FORMAT.md, with the labels of [`Row`].

mod error;
mod evidence;
mod judge;
mod scan;
mod tail;

use std::fmt;

use bytes::Bytes;

use crate::format::{FrameError, OriginRange, SealBlock};
use crate::ids::{Cookie, CoreId, Incarnation, SegmentNumber};
use crate::lsn::Lsn;
use crate::version::Version;

pub use error::RecoveryError;
pub use evidence::{Finding, SegmentEvidence};
pub use judge::judge;
pub use scan::{SegmentScan, Visit, scan_and_visit, scan_segment};
pub use tail::{Tail, look_at_tail};

/// A row of the decision table: how a log's first position without an acceptable frame is understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Row {
    /// Nothing was written there or behind it.
    CleanEnd,
    /// Old bytes of a recycled file.
    RecycledBytes,
    /// Bytes that no completed sync covered, partly or wholly lost.
    TornTail,
    /// A valid seal without a following segment: a clean stop or an earlier recovery ended the log here.
    SealedCut,
    /// The next segment is not there, and nothing shows that it held anything durable.
    EndOfFiles,
}

impl Row {
    /// Every row that leaves a log behind; the others refuse.
    pub const ALL: [Row; 5] = [Row::CleanEnd, Row::RecycledBytes, Row::TornTail, Row::SealedCut, Row::EndOfFiles];

    /// As in the documentation.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Row::CleanEnd => "clean end",
            Row::RecycledBytes => "recycled bytes",
            Row::TornTail => "torn tail",
            Row::SealedCut => "sealed cut",
            Row::EndOfFiles => "end of files",
        }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// What a data directory holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// The logs with at least one frame, by core and age.
    pub logs: Vec<RecoveredLog>,
    /// File names that hold nothing durable: to be unlinked.
    pub recyclable: Vec<String>,
    /// What was decided and why, for the operator.
    pub report: Vec<String>,
}

impl Recovery {
    /// Up to where the log of `core` in `incarnation` was recovered (exclusive); `None` if nothing of it was. A watermark that
    /// rests on a higher position is void.
    #[must_use]
    pub fn end_of(&self, incarnation: Incarnation, core: CoreId) -> Option<Lsn> {
        let log = self.logs.iter().find(|log| log.incarnation == incarnation && log.core == core)?;
        Some(log.end)
    }
}

/// The log of one (incarnation, core), as far as it goes without a gap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveredLog {
    /// Of which run.
    pub incarnation: Incarnation,
    /// Of which core.
    pub core: CoreId,
    /// Its segments, oldest first; at least one.
    pub segments: Vec<RecoveredSegment>,
    /// Exclusive end of its last frame.
    pub end: Lsn,
    /// crc of its last frame's header.
    pub last_header_crc: u32,
    /// The highest clock in a frame header: no version this core gave in its sealed groups is above it.
    pub hlc: Version,
    /// How the end was found.
    pub row: Row,
    /// Set when bytes were there that do not count.
    pub cut: Option<Cut>,
}

/// Where a log was cut, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The first position that is lost.
    pub position: Lsn,
    /// What stood there.
    pub reason: FrameError,
}

/// A segment of a recovered log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveredSegment {
    /// Its file.
    pub file_name: String,
    /// Its number.
    pub number: SegmentNumber,
    /// Its cookie.
    pub cookie: Cookie,
    /// Position of its first byte.
    pub base: Lsn,
    /// Exclusive end of its last frame: nothing behind it may be read.
    pub end: Lsn,
    /// Size of the file in bytes.
    pub segment_bytes: u64,
    /// Records in it.
    pub records: u64,
    /// Version ranges of the records that travel; `None` if there were too many origins to tell.
    pub origins: Option<Vec<OriginRange>>,
    /// Whether a valid seal block was found.
    pub sealed: bool,
    seal: SealBlock,
}

impl RecoveredSegment {
    /// What to write (and sync) at [`SEAL_OFFSET`](crate::SEAL_OFFSET), so that the end found here is final; `None` if the segment
    /// was sealed already.
    #[must_use]
    pub fn seal_block(&self) -> Option<Bytes> {
        (!self.sealed).then(|| self.seal.encode())
    }
}
