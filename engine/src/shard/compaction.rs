//! Compaction: the records that still count in an old segment are appended again, verbatim, so that the segment can go.
//!
//! The copies stand in the running log like everything else: a group commit makes them durable, recovery reads them, and a
//! follower that begins behind what was removed finds them further up. Nothing else is needed to be safe at every step: a
//! segment goes only when no entry names it and what took the place of its records is durable. Frames of their own kinds tell
//! copies from the live stream, which leaves them out.

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;
use wal::marks::{Mark, reach};
use wal::planted::{self, Fault};
use wal::{
    Cookie, CoreId, FRAME_HEADER_BYTES, FrameError, FrameKind, Incarnation, Lsn, Mapping, RecordOp, RecordView,
    SegmentNumber, Version,
};

use super::{DiskTrouble, HeldKey, RunSegment, Shard, WriteError};
use crate::clock::Time;
use crate::storage::KeyHash;
use crate::storage::index::{Location, SegmentSlot};
use crate::storage::store::Facts;

/// Bytes of one read; doubled for a frame that does not fit.
const READ_BYTES: u32 = 256 * 1024;

/// Records looked at in one slice, so that a segment in which nothing counts does not hold up a core either.
const RECORDS_PER_SLICE: usize = 512;

/// Names a segment inside a node, by its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentId {
    /// The core that wrote it.
    pub core: CoreId,
    /// Its number.
    pub number: SegmentNumber,
}

/// A segment of an earlier run, as one shard sees it.
#[derive(Clone, Copy, Debug)]
pub struct OldSegment {
    /// Its name.
    pub id: SegmentId,
    /// Of which run.
    pub incarnation: Incarnation,
    /// What its frames carry.
    pub cookie: Cookie,
    /// Position of its first byte.
    pub base: Lsn,
    /// Exclusive end of its frames.
    pub end: Lsn,
    /// Size of its file in bytes.
    pub file_bytes: u64,
    /// How this shard's entries name it.
    pub slot: SegmentSlot,
}

/// What copies of a removed segment's records mean for followers of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copies {
    /// Whoever holds less of the log than this needs them.
    pub below: Version,
    /// They all stand before this position.
    pub upto: Lsn,
}

impl Copies {
    /// What both mean together.
    #[must_use]
    pub fn and(self, other: Copies) -> Copies {
        Copies { below: self.below.max(other.below), upto: self.upto.max(other.upto) }
    }
}

/// Bytes of a segment that compaction wants; answer with [`Shard::compaction_chunk`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompactionRead {
    /// Which file.
    pub segment: SegmentId,
    /// Byte offset in it.
    pub offset: u64,
    /// Bytes wanted.
    pub len: u32,
}

/// Counters of compaction; monotonic.
#[derive(Clone, Copy, Debug, Default)]
pub struct CompactionCounters {
    /// Segments that were read to their end.
    pub segments: u64,
    /// Records appended again.
    pub records: u64,
    /// Their bytes, with padding.
    pub bytes: u64,
}

/// An old segment that this shard has an eye on.
#[derive(Debug)]
pub(super) struct Old {
    pub(super) segment: OldSegment,
    /// Nothing in it counts here any more; the staged end at the moment when that was seen.
    pub(super) emptied: Option<Lsn>,
    pub(super) reported: bool,
}

/// The records of one frame, read back.
#[derive(Debug)]
struct Loaded {
    kind: FrameKind,
    /// File offset of the first byte of `payload`.
    offset: u32,
    payload: Bytes,
}

/// A segment to compact, and how far that is.
#[derive(Debug)]
struct Work {
    segment: SegmentId,
    slot: SegmentSlot,
    cookie: Cookie,
    base: Lsn,
    /// Exclusive end of its frames, or of the file.
    end: Lsn,
    /// Where to read on.
    next: Lsn,
    read_bytes: u32,
    ended: bool,
    frames: VecDeque<Loaded>,
    /// How far the first of `frames` was looked at.
    position: usize,
    /// The highest version that was originated in it.
    highest: Version,
    /// Hashes of keys whose present record, of another node, was appended for those who follow this node's log.
    covered: BTreeSet<u64>,
    copied: bool,
}

impl Work {
    fn new(segment: SegmentId, slot: SegmentSlot, cookie: Cookie, base: Lsn, end: Lsn) -> Work {
        Work {
            segment,
            slot,
            cookie,
            base,
            end,
            next: base.plus(wal::SEGMENT_HEADER_BYTES as u64),
            read_bytes: READ_BYTES,
            ended: false,
            frames: VecDeque::new(),
            position: 0,
            highest: Version::ZERO,
            covered: BTreeSet::new(),
            copied: false,
        }
    }
}

/// State of one shard's compaction.
#[derive(Debug, Default)]
pub(super) struct Compaction {
    work: Option<Work>,
    pub(super) old: Vec<Old>,
    /// Segments that cannot be read.
    unreadable: BTreeSet<SegmentId>,
    counters: CompactionCounters,
}

/// What became of a record that was looked at.
enum Found {
    /// It does not count.
    Nothing,
    /// An entry names it.
    Named(KeyHash),
    /// It is held back.
    Held(HeldKey),
    /// It lost against this record of another node, which whoever follows this node's log would miss.
    LostTo(KeyHash, Location),
}

impl<M: Mapping> Shard<M> {
    /// Tells the shard of segments of earlier runs, oldest first.
    pub fn set_old_segments(&mut self, segments: impl IntoIterator<Item = OldSegment>) {
        let old = segments.into_iter().map(|segment| Old { segment, emptied: None, reported: false });
        self.compaction.old.extend(old);
    }

    /// The counters of compaction.
    #[must_use]
    pub fn compaction_counters(&self) -> CompactionCounters {
        self.compaction.counters
    }

    /// Bytes of this core's immutable segment files that compaction can free: those in which something counts, and those behind
    /// them, which have to wait for them. What only waits for followers is not among them, nor what waits for a segment that cannot be read:
    /// nothing that is copied from behind it lets a file go.
    #[must_use]
    pub fn compactable_bytes(&self) -> u64 {
        let mut blocked = BTreeSet::new();
        let mut bytes = 0;
        for segment in self.old_segments() {
            let log = (segment.incarnation, segment.id.core);
            if !self.store.is_dead(segment.slot) {
                blocked.insert(log);
            }
            // Of an old segment in which several cores find something, one counts the file.
            let is_own = segment.id.core.0 % self.cores == self.identity.core.0;
            if is_own && blocked.contains(&log) {
                bytes += segment.file_bytes;
            }
        }
        let live = self.log.oldest_live_segment();
        let immutable = self.run_segments().take_while(|segment| segment.number < live);
        let behind = immutable.skip_while(|segment| self.store.is_dead(segment.slot)).count() as u64;
        bytes + behind * self.log.segment_bytes()
    }

    /// What they should be at most: what counts, garbage of seven eighths of that, and a segment. On a full disk it is worth the work
    /// to give back more.
    #[must_use]
    pub fn compactable_bytes_wanted(&self) -> u64 {
        let live = self.store.live_bytes();
        let garbage = if self.trouble == Some(DiskTrouble::Full) { live / 8 } else { live - live / 8 };
        live + garbage + self.log.segment_bytes()
    }

    /// Whether a segment is being compacted.
    #[must_use]
    pub fn is_compacting(&self) -> bool {
        self.compaction.work.is_some()
    }

    /// Bytes that count in the segment being compacted.
    #[must_use]
    pub fn compacting_live_bytes(&self) -> u64 {
        self.compaction.work.as_ref().map_or(0, |work| self.store.live_bytes_in(work.slot))
    }

    /// Begins to compact a segment, if one is due: when there is more than [what is wanted](Self::compactable_bytes_wanted).
    pub fn begin_compaction(&mut self) {
        if self.compaction.work.is_some() || self.log.is_dead() {
            return;
        }
        if self.compactable_bytes() <= self.compactable_bytes_wanted() {
            return;
        }
        let chosen = self.candidates().find(|work| !self.store.is_dead(work.slot));
        if chosen.is_some() {
            reach(Mark::CompactionBegan);
        }
        self.compaction.work = chosen;
    }

    /// Whether this segment of this run is being compacted.
    pub(super) fn is_compacting_segment(&self, slot: SegmentSlot) -> bool {
        self.compaction.work.as_ref().is_some_and(|work| work.slot == slot)
    }

    /// Whether a segment stays for good: something in it counts, and it cannot be read.
    fn is_stuck(&self, segment: SegmentId, slot: SegmentSlot) -> bool {
        self.compaction.unreadable.contains(&segment) && !self.store.is_dead(slot)
    }

    /// Segments of earlier runs, those excepted that stay for good and what is behind them in their log.
    fn old_segments(&self) -> impl Iterator<Item = &OldSegment> {
        let mut stuck = BTreeSet::new();
        self.compaction.old.iter().map(|old| &old.segment).filter(move |segment| {
            let log = (segment.incarnation, segment.id.core);
            if self.is_stuck(segment.id, segment.slot) {
                stuck.insert(log);
            }
            !stuck.contains(&log)
        })
    }

    /// The same of this run.
    fn run_segments(&self) -> impl Iterator<Item = &RunSegment<M>> {
        let core = self.identity.core;
        self.segments
            .iter()
            .take_while(move |segment| !self.is_stuck(SegmentId { core, number: segment.number }, segment.slot))
    }

    /// Immutable segments, oldest first.
    fn candidates(&self) -> impl Iterator<Item = Work> {
        let old = self
            .old_segments()
            .map(|segment| Work::new(segment.id, segment.slot, segment.cookie, segment.base, segment.end));
        let live = self.log.oldest_live_segment().min(self.repeated.0);
        let current = self.run_segments().filter(move |segment| segment.number < live).map(|segment| {
            let id = SegmentId { core: self.identity.core, number: segment.number };
            let end = segment.base.plus(self.log.segment_bytes());
            Work::new(id, segment.slot, segment.cookie, segment.base, end)
        });
        old.chain(current)
    }

    /// What to read next, if something has to be read.
    #[must_use]
    pub fn compaction_read(&self) -> Option<CompactionRead> {
        let work = self.compaction.work.as_ref().filter(|work| work.frames.is_empty() && !work.ended)?;
        let left = work.end.0 - work.next.0;
        let len = u32::try_from(left.min(u64::from(work.read_bytes))).unwrap_or(u32::MAX);
        Some(CompactionRead { segment: work.segment, offset: work.next.0 - work.base.0, len })
    }

    /// The bytes of the read.
    ///
    /// # Errors
    /// When they are not the frames that stood there; the segment is left alone from then on.
    pub fn compaction_chunk(&mut self, bytes: &Bytes) -> Result<(), FrameError> {
        let Some(mut work) = self.compaction.work.take() else { return Ok(()) };
        match work.load(bytes) {
            Ok(()) => {
                self.compaction.work = Some(work);
                Ok(())
            }
            Err(error) => {
                self.give_up_reading(work.segment);
                Err(error)
            }
        }
    }

    /// The read failed: the segment is left alone from then on.
    pub fn compaction_read_failed(&mut self) {
        if let Some(work) = self.compaction.work.take() {
            self.give_up_reading(work.segment);
        }
    }

    fn give_up_reading(&mut self, segment: SegmentId) {
        reach(Mark::CompactionStopped);
        self.compaction.unreadable.insert(segment);
    }

    /// Appends copies of what counts, about `budget` bytes of them, as far as the segment was read; with a budget of zero it only
    /// passes over what does not count. Gives the bytes appended.
    ///
    /// # Errors
    /// See [`WriteError`]; what was not appended is tried again with the next call.
    pub fn compact(&mut self, budget: usize, time: Time) -> Result<usize, WriteError> {
        let Some(mut work) = self.compaction.work.take() else { return Ok(0) };
        let mut copied = 0;
        // By the hybrid clock: what is absent stays so, whatever the wall clock says later.
        let now_unix_ms = self.clock.unix_ms(time);
        // What is given up as expired does not count as live any more.
        _ = self.store.live(now_unix_ms);
        let result = self.walk(&mut work, budget, now_unix_ms, &mut copied);
        if result.is_ok() && work.ended && work.frames.is_empty() {
            self.compacted(&work);
        } else {
            self.compaction.work = Some(work);
        }
        result.map(|()| copied)
    }

    fn walk(&mut self, work: &mut Work, budget: usize, now_unix_ms: u64, copied: &mut usize) -> Result<(), WriteError> {
        for _ in 0..RECORDS_PER_SLICE {
            let Some(frame) = work.frames.front() else { return Ok(()) };
            let (kind, payload) = (frame.kind, frame.payload.clone());
            let Some(rest) = payload.get(work.position..).filter(|rest| !rest.is_empty()) else {
                work.frames.pop_front();
                work.position = 0;
                continue;
            };
            let offset = frame.offset + u32::try_from(work.position).expect("inside a segment");
            // The frame's checksum was verified when it was read.
            let Ok((record, padded)) = RecordView::parse_trusted_prefix(rest) else {
                work.frames.clear();
                self.give_up_reading(work.segment);
                return Ok(());
            };
            let location = Location { segment: work.slot, offset, len_max: u32::MAX };
            if self.may_have_lost(work, kind) && record.op != RecordOp::Control {
                self.ready(self.identity.secret.hash(record.key))?;
            }
            let found = self.look_at(work, kind, &record, location);
            if *copied >= budget && !matches!(found, Found::Nothing) {
                return Ok(());
            }
            let bytes = self.copy(work, kind, &record, location, (found, now_unix_ms))?;
            if kind == FrameKind::Originated {
                work.highest = work.highest.max(record.version);
            }
            work.position += padded;
            *copied += bytes;
        }
        Ok(())
    }

    /// Whether records of such a frame may have lost against another node's.
    fn may_have_lost(&self, work: &Work, kind: FrameKind) -> bool {
        matches!(kind, FrameKind::Originated | FrameKind::Compacted) && self.store.has_losses(work.slot)
    }

    fn look_at(&mut self, work: &Work, kind: FrameKind, record: &RecordView<'_>, location: Location) -> Found {
        if record.op == RecordOp::Control {
            // What this node's own say is repeated in newer segments.
            return Found::Nothing;
        }
        let hash = self.identity.secret.hash(record.key);
        if self.store.is_named(hash, location) {
            return Found::Named(hash);
        }
        let held = HeldKey::of(record, hash);
        if self.held.get(&held).is_some_and(|at| (at.segment, at.offset) == (location.segment, location.offset)) {
            return Found::Held(held);
        }
        if self.may_have_lost(work, kind) && !work.covered.contains(&hash.0) {
            match self.store.present(hash, record.key) {
                Some((at, facts)) if facts.origin != self.identity.node => return Found::LostTo(hash, at),
                // What took another node's place meanwhile: a claim has to wait for it.
                Some((_, facts)) => self.store.replaced_by(work.slot, facts.version),
                None => {}
            }
        }
        Found::Nothing
    }

    /// Appends what has to be where `record` will be gone. Gives the bytes appended.
    fn copy(
        &mut self,
        work: &mut Work,
        kind: FrameKind,
        record: &RecordView<'_>,
        location: Location,
        (found, now_unix_ms): (Found, u64),
    ) -> Result<usize, WriteError> {
        let travels = matches!(kind, FrameKind::Originated | FrameKind::Compacted);
        let kind = if travels { FrameKind::Compacted } else { FrameKind::CompactedFollowed };
        let to = match found {
            Found::Nothing => return Ok(0),
            Found::Named(hash) => {
                if record.op == RecordOp::Delete && planted::is(Fault::TombstoneDroppedInCompaction) {
                    self.store.drop_dead(hash, location, record.padded_len());
                    return Ok(0);
                }
                let expired = record.expiry.is_some_and(|expiry| expiry <= now_unix_ms);
                if (expired || record.op == RecordOp::Delete)
                    && self.need_not_copy(hash, location, Facts::of(record).dead_upto())
                {
                    reach(Mark::DeadNotCopied);
                    self.forgotten += 1;
                    self.store.drop_dead(hash, location, record.padded_len());
                    return Ok(0);
                }
                let stub = if expired { record.stub() } else { None };
                if stub.is_some() {
                    reach(Mark::ExpiredShrunk);
                }
                let to = self.append_copy(kind, stub.as_deref().unwrap_or(record.bytes))?;
                let len = stub.map_or(record.padded_len(), |stub| stub.len());
                self.store.relocate(hash, (location, record.padded_len()), (to, len));
                if record.op == RecordOp::Delete {
                    self.store.note_grave(hash, record.version, to, len);
                }
                to
            }
            Found::Held(held) => {
                let to = self.append_copy(kind, record.bytes)?;
                self.store.pin(to.segment, record.padded_len());
                self.store.unpin(location.segment, record.padded_len());
                self.held.insert(held, to);
                to
            }
            Found::LostTo(hash, at) => {
                reach(Mark::WinnerCopied);
                if planted::is(Fault::WinnersNotCopied) {
                    work.covered.insert(hash.0);
                    return Ok(0);
                }
                let winner = self.store.with_record(at, |winner| winner.bytes.to_vec());
                let winner = RecordView::parse_trusted(&winner).expect("an entry names a verified record");
                let to = self.append_copy(FrameKind::Compacted, winner.bytes)?;
                // Not before there was room for it.
                work.covered.insert(hash.0);
                self.store.relocate(hash, (at, winner.padded_len()), (to, winner.padded_len()));
                self.store.stands_for_own(to.segment);
                work.copied = true;
                return Ok(winner.padded_len());
            }
        };
        if kind == FrameKind::Compacted && record.origin != self.identity.node {
            self.store.stands_for_own(to.segment);
        }
        self.summary.copied_own |= kind == FrameKind::Compacted && record.origin == self.identity.node;
        work.copied |= kind == FrameKind::Compacted;
        Ok(record.padded_len())
    }

    pub(super) fn append_copy(&mut self, kind: FrameKind, record: &[u8]) -> Result<Location, WriteError> {
        let placement = self.log.append(kind, record).map_err(|error| self.write_error(error))?;
        let counters = &mut self.compaction.counters;
        counters.records += 1;
        counters.bytes += wal::padded_record_bytes(placement.len as usize) as u64;
        Ok(self.location(&placement))
    }

    /// Nothing in the segment counts any more: all of it was looked at.
    fn compacted(&mut self, work: &Work) {
        self.compaction.counters.segments += 1;
        self.store.losses_are_covered(work.slot);
        let upto = self.log.staged();
        let segment = self.segments.iter_mut().find(|segment| segment.slot == work.slot);
        if let Some(segment) = segment.filter(|_| work.copied) {
            segment.copies = segment.copies.and(Copies { below: work.highest, upto });
        }
    }

    /// Segments of earlier runs in which, durably, nothing counts here any more, each once, with the highest version that superseded
    /// one of its records.
    pub fn emptied_old_segments(&mut self) -> Vec<(SegmentId, Version)> {
        let (staged, durable) = (self.log.staged(), self.log.durable());
        let working = self.compaction.work.as_ref().map(|work| work.segment);
        let mut emptied = Vec::new();
        for old in self.compaction.old.iter_mut().filter(|old| !old.reported) {
            // Of one that is being compacted the losses are not all covered yet.
            if !self.store.is_dead(old.segment.slot) || working == Some(old.segment.id) {
                old.emptied = None;
            } else if *old.emptied.get_or_insert(staged) <= durable {
                old.reported = true;
                emptied.push((old.segment.id, self.store.replaced_upto(old.segment.slot)));
            }
        }
        emptied
    }

    /// The file of an old segment is gone. Gives the slot that it had.
    pub fn forget_old_segment(&mut self, id: SegmentId) -> Option<SegmentSlot> {
        let at = self.compaction.old.iter().position(|old| old.segment.id == id)?;
        let old = self.compaction.old.remove(at);
        self.store.remove_segment(old.segment.slot);
        if self.compaction.old.is_empty() {
            self.store.nothing_is_old();
        }
        Some(old.segment.slot)
    }
}

impl Work {
    /// Takes in the frames of a read.
    fn load(&mut self, bytes: &Bytes) -> Result<(), FrameError> {
        let whole = self.next.0 + bytes.len() as u64 >= self.end.0;
        let start = self.next;
        for frame in wal::frames(bytes, start, self.cookie) {
            let frame = frame?;
            self.next = frame.end();
            self.ended = frame.is_last_of_segment();
            let offset = frame.lsn().0 - self.base.0 + FRAME_HEADER_BYTES as u64;
            let offset = u32::try_from(offset).expect("offsets inside a segment fit 32 bits");
            self.frames.push_back(Loaded { kind: frame.kind(), offset, payload: bytes.slice_ref(frame.payload()) });
        }
        self.ended |= self.next >= self.end;
        if self.next == start {
            // The frame is longer than what was read.
            self.read_bytes = self.read_bytes.saturating_mul(2);
            if whole || bytes.is_empty() {
                return Err(FrameError::Incomplete { needed: self.read_bytes as usize, available: bytes.len() });
            }
        } else {
            self.read_bytes = READ_BYTES;
        }
        Ok(())
    }
}
