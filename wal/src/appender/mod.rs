//! Appending: staged → written → durable.

mod commit;
mod tally;

use std::collections::VecDeque;
use std::ops::Range;

use bytes::Bytes;
use thiserror::Error;

use crate::format::{
    FRAME_HEADER_BYTES, FrameFlags, FrameKind, RecordDraft, RecordFacts, SEGMENT_HEADER_BYTES, padded_record_bytes,
    record_facts, round_up,
};
use crate::ids::{Cookie, CoreId, Incarnation, NodeId, SegmentLink, SegmentNumber};
use crate::limits::{FRAME_ALIGN_BYTES, SPARE_SEGMENTS, is_segment_size};
use crate::lsn::Lsn;
use crate::map::Mapping;
use crate::version::Version;

pub(crate) use tally::Tally;

/// Whose log it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogIdentity {
    /// Of which node.
    pub node: NodeId,
    /// Of which run.
    pub incarnation: Incarnation,
    /// Of which core.
    pub core: CoreId,
}

/// A prepared segment: its header page is on disk, synced, under its final name, and the directory is synced.
#[derive(Clone, Debug)]
pub struct Segment<M> {
    /// Its number.
    pub number: SegmentNumber,
    /// Its cookie, as in the header page.
    pub cookie: Cookie,
    /// Position of its first byte.
    pub base: Lsn,
    /// Its bytes.
    pub map: M,
}

/// What the next segment has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextSegment {
    /// Its number.
    pub number: SegmentNumber,
    /// Position of its first byte.
    pub base: Lsn,
    /// The segment before it.
    pub previous: Option<SegmentLink>,
}

/// Where a record was put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// In which segment.
    pub segment: SegmentNumber,
    /// File offset of the record in bytes.
    pub offset: u32,
    /// Its length in bytes, without padding.
    pub len: u32,
    /// Exclusive end, padding included: durable once the log is durable up to here.
    pub end: Lsn,
}

/// Why a record was not appended. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AppendError {
    /// The segment is full and no next one was supplied.
    #[error("the segment is full and the next one is not ready; supply it and append again")]
    NoSegment,
    /// The record would not fit an empty segment.
    #[error("the record is too large for a segment")]
    TooLarge,
    /// A sync failed.
    #[error("a sync of this log failed; nothing can be appended before the process is restarted")]
    Dead,
}

/// The positions that one call of [`Log::seal_group`] wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// Where the group begins.
    pub from: Lsn,
    /// Its exclusive end.
    pub upto: Lsn,
}

/// How sealed groups reach the disk. The bytes there are the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum CommitPath {
    /// Records are stored into a shared mapping of the file, which is then synced.
    #[default]
    Mmap,
    /// Records are stored into memory that is private to the process (a private mapping of the file); each group is written
    /// from there around the page cache, durable at completion.
    Direct,
}

/// A sync to perform.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncRequest {
    /// Of which segment's file.
    pub segment: SegmentNumber,
    /// The log will be durable up to here.
    pub upto: Lsn,
}

/// What makes the next group durable; answer with [`Log::sync_done`] or [`Log::sync_failed`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Commit {
    /// Sync the segment's file.
    Sync {
        /// Which segment, and what is durable afterwards.
        request: SyncRequest,
        /// The bytes of the file that need it: the next group, which may be dirty already behind them, does not have to be written
        /// along.
        range: Range<u64>,
    },
    /// Write to the segment's file, durable at completion.
    Write {
        /// Which segment, and what is durable afterwards.
        request: SyncRequest,
        /// Byte offset in the file, a multiple of [`DIRECT_ALIGN_BYTES`](crate::limits::DIRECT_ALIGN_BYTES).
        offset: u64,
        /// What to write: as long, and as aligned in memory, as direct I/O needs. It begins with bytes that are durable already
        /// when the group does not begin at such an offset.
        bytes: Bytes,
    },
}

impl Commit {
    /// Which segment, and what is durable afterwards.
    #[must_use]
    pub fn request(&self) -> SyncRequest {
        match self {
            Commit::Sync { request, .. } | Commit::Write { request, .. } => *request,
        }
    }
}

/// A sealed frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameRef {
    /// Whose records it holds.
    pub kind: FrameKind,
    /// In which segment.
    pub segment: SegmentNumber,
    /// File offset of its header in bytes.
    pub offset: u32,
    /// Bytes of records.
    pub payload_len: u32,
    /// Bytes in all: header, payload, padding.
    pub total_len: u32,
    /// Position of its header.
    pub lsn: Lsn,
    /// Exclusive end, padding included.
    pub end: Lsn,
    /// The clock when it was sealed.
    pub hlc: Version,
    /// Records in it; 0 for a frame that only declares the ones before it durable, or ends a segment.
    pub records: u32,
    /// The highest version in it; zero if it is empty.
    pub max_version: Version,
}

/// A segment that still has something to be sealed or synced.
#[derive(Debug)]
struct LiveSegment<M> {
    segment: Segment<M>,
    /// End of its sealed frames.
    written: Lsn,
    /// End of what a completed sync covered.
    synced: Lsn,
    /// End of its last frame, once that frame was placed (not necessarily sealed).
    end: Option<Lsn>,
    /// crc of its last sealed frame's header.
    last_header_crc: u32,
    tally: Tally,
}

impl<M: Mapping> LiveSegment<M> {
    fn new(segment: Segment<M>) -> Self {
        let first_frame = segment.base.plus(SEGMENT_HEADER_BYTES as u64);
        LiveSegment {
            segment,
            written: first_frame,
            synced: first_frame,
            end: None,
            last_header_crc: 0,
            tally: Tally::default(),
        }
    }
}

/// The frame that records are being appended to. Its header is stored when the group is sealed.
#[derive(Clone, Copy, Debug)]
struct OpenFrame {
    kind: FrameKind,
    offset: usize,
    records: u32,
    max_version: Version,
}

/// A frame of the open group that takes no more records.
#[derive(Clone, Copy, Debug)]
struct ClosedFrame {
    segment: SegmentNumber,
    kind: FrameKind,
    flags: FrameFlags,
    offset: usize,
    payload_len: usize,
    records: u32,
    max_version: Version,
}

/// The log of one core in one run.
///
/// Invariant: `durable() ≤ written() ≤ staged()`. Bytes below *staged* are never stored again, except for the headers of
/// frames of the open group, which lie at or above *written*.
#[derive(Debug)]
pub struct Log<M: Mapping> {
    identity: LogIdentity,
    path: CommitPath,
    segment_bytes: usize,
    current: LiveSegment<M>,
    /// Rotated out, not yet sealed and synced throughout; oldest first.
    retiring: VecDeque<LiveSegment<M>>,
    successors: VecDeque<Segment<M>>,
    /// The last of them is for records that make room: see [`Log::keep_last_segment`].
    keeps_last: bool,
    /// File offset in the current segment where the next record or frame goes.
    tail: usize,
    open: Option<OpenFrame>,
    closed: Vec<ClosedFrame>,
    written: Lsn,
    durable: Lsn,
    in_flight: Option<SyncRequest>,
    previous_header_crc: u32,
    /// The last sealed frame is an empty one that declares everything before it durable.
    idle_sealed: bool,
    dead: bool,
    frames: Vec<FrameRef>,
    seals: Vec<(SegmentNumber, Bytes)>,
}

impl<M: Mapping> Log<M> {
    /// A log that begins in `first`: the first segment of a new run, holding nothing but its header page.
    ///
    /// # Panics
    /// If the sizes do not fit the format, or `first` does not begin at position 0.
    #[must_use]
    pub fn new(identity: LogIdentity, segment_bytes: u64, first: Segment<M>) -> Self {
        Log::with_commit_path(identity, segment_bytes, first, CommitPath::Mmap)
    }

    /// As [`Log::new`], on a path of the caller's choice. For [`CommitPath::Direct`] every segment's mapping is private.
    ///
    /// # Panics
    /// As [`Log::new`].
    #[must_use]
    pub fn with_commit_path(identity: LogIdentity, segment_bytes: u64, first: Segment<M>, path: CommitPath) -> Self {
        assert!(is_segment_size(segment_bytes), "a segment size outside the format's limits: {segment_bytes}");
        assert_eq!(first.base, Lsn(0), "a run begins its log at position 0");
        let segment_bytes = usize::try_from(segment_bytes).expect("bounded by SEGMENT_BYTES_MAX");
        check_segment(&first, segment_bytes);
        let current = LiveSegment::new(first);
        let start = current.written;
        Log {
            identity,
            path,
            segment_bytes,
            current,
            retiring: VecDeque::new(),
            successors: VecDeque::new(),
            keeps_last: false,
            tail: SEGMENT_HEADER_BYTES,
            open: None,
            closed: Vec::new(),
            written: start,
            durable: start,
            in_flight: None,
            previous_header_crc: 0,
            idle_sealed: false,
            dead: false,
            frames: Vec::new(),
            seals: Vec::new(),
        }
    }

    /// Whose log it is.
    #[must_use]
    pub fn identity(&self) -> LogIdentity {
        self.identity
    }

    /// Size of a segment in bytes.
    #[must_use]
    pub fn segment_bytes(&self) -> u64 {
        self.segment_bytes as u64
    }

    /// End of what is in the mapping, sealed or not.
    #[must_use]
    pub fn staged(&self) -> Lsn {
        self.current.segment.base.plus(self.tail as u64)
    }

    /// End of what is in sealed frames.
    #[must_use]
    pub fn written(&self) -> Lsn {
        self.written
    }

    /// End of what survives power loss.
    #[must_use]
    pub fn durable(&self) -> Lsn {
        self.durable
    }

    /// Whether a sync failed.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.dead
    }

    /// The segment that is appended to, and the file offset that was reached.
    #[must_use]
    pub fn append_position(&self) -> (SegmentNumber, u32) {
        (self.current.segment.number, narrow(self.tail))
    }

    /// Bytes that are left in the current segment, headers of further frames included.
    #[must_use]
    pub fn room(&self) -> usize {
        if self.current.end.is_some() { 0 } else { self.segment_bytes - self.tail }
    }

    /// Whether fewer than [`SPARE_SEGMENTS`](crate::limits::SPARE_SEGMENTS) successors of the current segment are ready. Prepare
    /// one by [`Log::next_segment_plan`] and [`supply`](Log::supply) it.
    #[must_use]
    pub fn needs_segment(&self) -> bool {
        self.successors.len() < SPARE_SEGMENTS && !self.dead
    }

    /// How the log is committed.
    #[must_use]
    pub fn commit_path(&self) -> CommitPath {
        self.path
    }

    /// The oldest segment that is not durable and sealed throughout: everything before it is immutable.
    #[must_use]
    pub fn oldest_live_segment(&self) -> SegmentNumber {
        self.retiring.front().unwrap_or(&self.current).segment.number
    }

    /// No segment can be prepared at present: the last one at hand is left to compaction, which gives segments back, and to what
    /// this node notes for itself. It ends with the next one that is supplied.
    pub fn keep_last_segment(&mut self) {
        self.keeps_last = true;
    }

    /// The next segment, for a frame of `kind`.
    fn next_segment(&mut self, kind: FrameKind) -> Result<Segment<M>, AppendError> {
        let makes_room = kind.is_compacted() || kind == FrameKind::Local;
        if self.keeps_last && !makes_room && self.successors.len() <= 1 {
            return Err(AppendError::NoSegment);
        }
        self.successors.pop_front().ok_or(AppendError::NoSegment)
    }

    /// What the next segment to be supplied has to be.
    #[must_use]
    pub fn next_segment_plan(&self) -> NextSegment {
        let last = self.successors.back().unwrap_or(&self.current.segment);
        NextSegment {
            number: last.number.next(),
            base: last.base.plus(self.segment_bytes as u64),
            previous: Some(SegmentLink { number: last.number, cookie: last.cookie }),
        }
    }

    /// Hands over the next segment, prepared by the plan.
    ///
    /// # Panics
    /// If it is not what [`Log::next_segment_plan`] said.
    pub fn supply(&mut self, segment: Segment<M>) {
        let plan = self.next_segment_plan();
        assert_eq!((segment.number, segment.base), (plan.number, plan.base), "a segment that was not planned");
        check_segment(&segment, self.segment_bytes);
        self.successors.push_back(segment);
        self.keeps_last = false;
    }

    /// Appends a record verbatim: the bytes of a record that was parsed before, with or without padding.
    ///
    /// # Errors
    /// See [`AppendError`]; nothing was changed.
    ///
    /// # Panics
    /// If the bytes do not begin with a whole record.
    pub fn append(&mut self, kind: FrameKind, record_bytes: &[u8]) -> Result<Placement, AppendError> {
        let facts = record_facts(record_bytes).expect("only records that were parsed before are appended");
        let padded = padded_record_bytes(facts.len);
        let offset = self.place(kind, padded)?;
        self.current.segment.map.store_with(offset, padded, |target| {
            let (record, padding) = target.split_at_mut(facts.len);
            record.copy_from_slice(&record_bytes[..facts.len]);
            padding.fill(0);
        });
        Ok(self.placed(kind, offset, padded, facts))
    }

    /// Appends a new record, encoded straight into the mapping.
    ///
    /// # Errors
    /// See [`AppendError`]; nothing was changed.
    #[inline]
    pub fn append_draft(&mut self, kind: FrameKind, draft: &RecordDraft<'_>) -> Result<Placement, AppendError> {
        if !draft.fits() {
            return Err(AppendError::TooLarge);
        }
        let facts = RecordFacts { len: draft.unpadded_len(), version: draft.version, origin: draft.origin };
        let padded = padded_record_bytes(facts.len);
        let offset = self.place(kind, padded)?;
        self.current.segment.map.store_with(offset, padded, |target| draft.encode_into(target));
        Ok(self.placed(kind, offset, padded, facts))
    }

    /// Makes room for `bytes` of padded records in one frame of `kind`: what is appended next, up to so many bytes and nothing of
    /// another kind between, lies in one frame and is found whole after a crash, or not at all.
    ///
    /// # Errors
    /// See [`AppendError`]; at most a segment was ended.
    pub fn reserve(&mut self, kind: FrameKind, bytes: usize) -> Result<(), AppendError> {
        if self.dead {
            return Err(AppendError::Dead);
        }
        let needed = FRAME_HEADER_BYTES.saturating_add(bytes);
        if needed > self.segment_bytes || !self.fits(SEGMENT_HEADER_BYTES, needed) {
            return Err(AppendError::TooLarge);
        }
        let fits_open = self.open.is_some_and(|open| open.kind == kind) && self.fits(self.tail, bytes);
        let fits_here = self.current.end.is_none() && self.fits(round_up(self.tail, FRAME_ALIGN_BYTES), needed);
        if !fits_open && !fits_here {
            let successor = self.next_segment(kind)?;
            self.rotate(successor);
        }
        Ok(())
    }

    /// Finds the file offset for `padded` bytes of a record in a frame of `kind`, which is open afterwards.
    #[inline]
    fn place(&mut self, kind: FrameKind, padded: usize) -> Result<usize, AppendError> {
        if self.dead {
            return Err(AppendError::Dead);
        }
        if let Some(open) = &self.open
            && open.kind == kind
            && self.fits(self.tail, padded)
        {
            return Ok(self.tail);
        }
        self.place_in_new_frame(kind, padded)
    }

    /// Whether `bytes` at `offset` leave room for the empty frame that may have to end the segment.
    #[inline]
    fn fits(&self, offset: usize, bytes: usize) -> bool {
        round_up(offset + bytes, FRAME_ALIGN_BYTES) + FRAME_HEADER_BYTES <= self.segment_bytes
    }

    fn place_in_new_frame(&mut self, kind: FrameKind, padded: usize) -> Result<usize, AppendError> {
        // No sum of these can overflow: a record was in memory, and a segment's size is bounded.
        let needed = FRAME_HEADER_BYTES + padded;
        if !self.fits(SEGMENT_HEADER_BYTES, needed) {
            return Err(AppendError::TooLarge);
        }
        let fits_here = self.current.end.is_none() && self.fits(round_up(self.tail, FRAME_ALIGN_BYTES), needed);
        if fits_here {
            self.close_frame(FrameFlags::NONE);
        } else {
            let successor = self.next_segment(kind)?;
            self.rotate(successor);
        }
        self.open = Some(OpenFrame { kind, offset: self.tail, records: 0, max_version: Version::ZERO });
        self.tail += FRAME_HEADER_BYTES;
        Ok(self.tail)
    }

    #[inline]
    fn placed(&mut self, kind: FrameKind, offset: usize, padded: usize, facts: RecordFacts) -> Placement {
        self.tail = offset + padded;
        let open = self.open.as_mut().expect("place() opened a frame");
        open.records += 1;
        open.max_version = open.max_version.max(facts.version);
        self.current.tally.count(kind, facts.origin, facts.version);
        Placement {
            segment: self.current.segment.number,
            offset: narrow(offset),
            len: narrow(facts.len),
            end: self.staged(),
        }
    }

    /// Closes the open frame, if there is one; it is sealed with its group.
    fn close_frame(&mut self, flags: FrameFlags) {
        let Some(open) = self.open.take() else { return };
        let payload_len = self.tail - open.offset - FRAME_HEADER_BYTES;
        self.tail = round_up(self.tail, FRAME_ALIGN_BYTES);
        self.closed.push(ClosedFrame {
            segment: self.current.segment.number,
            kind: open.kind,
            flags,
            offset: open.offset,
            payload_len,
            records: open.records,
            max_version: open.max_version,
        });
    }

    /// Closes an empty frame at the tail.
    fn close_empty_frame(&mut self, flags: FrameFlags) {
        assert!(self.open.is_none() && self.tail + FRAME_HEADER_BYTES <= self.segment_bytes, "room is always kept");
        self.closed.push(ClosedFrame {
            segment: self.current.segment.number,
            kind: FrameKind::Local,
            flags,
            offset: self.tail,
            payload_len: 0,
            records: 0,
            max_version: Version::ZERO,
        });
        self.tail += FRAME_HEADER_BYTES;
    }

    /// Ends the current segment and goes on in `successor`.
    fn rotate(&mut self, successor: Segment<M>) {
        if self.current.end.is_none() {
            if self.open.is_some() {
                self.close_frame(FrameFlags::END_OF_SEGMENT);
            } else {
                self.close_empty_frame(FrameFlags::END_OF_SEGMENT);
            }
            self.current.end = Some(self.staged());
        }
        let ended = std::mem::replace(&mut self.current, LiveSegment::new(successor));
        self.tail = SEGMENT_HEADER_BYTES;
        self.retiring.push_back(ended);
        self.retire_synced();
    }
}

fn check_segment<M: Mapping>(segment: &Segment<M>, segment_bytes: usize) {
    assert_eq!(segment.map.len(), segment_bytes, "a segment's mapping has the size of the segment");
    assert!(segment.cookie != Cookie(0), "a cookie is never zero");
    assert!(segment.number != SegmentNumber(0), "segment numbers begin at 1");
}

/// An offset or length inside a segment.
#[inline]
fn narrow(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("a segment is at most SEGMENT_BYTES_MAX long")
}
