//! A pass: a node that is not the origin of a log hands on what it holds of it.
//!
//! What this node holds of another node's log lies somewhere in its own logs, and may be superseded by a record of any origin. So a
//! pass goes upward through all of this node's own logs and sends *everything* that the follower's vector did not cover when the
//! pass opened, whatever its origin. At the end it claims what this node claimed when the pass opened.
//!
//! Why that holds: every effect that the opening vector promises was durable here then, or something newer was. Such a record
//! moves upward only (compaction appends to the end of a running log, and gives a segment up when its copies are durable), and is
//! superseded only by one that is durable further up. Each log is read to a durable end that was observed after everything below
//! it had been read, so whatever moved or took a record's place meanwhile was read where it went.
//!
//! To a follower that lacks what this node may have forgotten goes everything, but of what is old enough to have been forgotten only
//! what still counts here (`Sifting`): for the rest there may be nothing left to send that would tell that it is dead.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

use bytes::Bytes;
use net::ids::LogId;
use net::wire::body::Claim;
use wal::marks::{Mark, reach};
use wal::planted::{self, Fault};
use wal::{
    Cookie, FrameKind, Lsn, NodeId, OriginRange, RecordOp, RecordView, SEGMENT_HEADER_BYTES, SealBlock, SealState,
    SegmentHeader, SegmentNumber, Version,
};

use super::known::KnownLogs;
use super::logs::{CoreLog, OwnLog, SegmentRef};
use super::send::{READ_BYTES, ReadRequest, SourceDamage};
use super::watermarks::Watermarks;
use super::{BATCH_BYTES, from_wire};
use crate::shard::{Removable, SegmentId};

/// What a follower holds.
#[derive(Clone, Debug, Default)]
pub struct Covered {
    /// By node and first version of each log, up to where it is held.
    logs: BTreeMap<(NodeId, Version), Version>,
}

impl Covered {
    /// Of these logs, each with its first version, `held` says how much.
    pub fn new(logs: impl Iterator<Item = (LogId, Version)>, held: impl Fn(LogId) -> Version) -> Covered {
        Covered { logs: logs.map(|(log, first)| ((NodeId(log.node.0), first), held(log))).collect() }
    }

    /// What this node's vector says of the logs of others.
    #[must_use]
    pub fn here(known: &KnownLogs, watermarks: &Watermarks) -> Covered {
        let logs = known.firsts().map(|(log, first)| (log, from_wire(first)));
        Covered::new(logs, |log| from_wire(watermarks.version(log)))
    }

    /// The log that has a version: where it begins, and up to where it is held.
    fn log_of(&self, origin: NodeId, version: Version) -> Option<(Version, Version)> {
        let upto = (Bound::Unbounded, Bound::Included((origin, version)));
        let ((node, first), held) = self.logs.range(upto).next_back()?;
        (*node == origin).then_some((*first, *held))
    }

    /// Whether a version of a node is held for certain.
    #[must_use]
    pub fn has(&self, origin: NodeId, version: Version) -> bool {
        self.log_of(origin, version).is_some_and(|(_, held)| version <= held)
    }

    /// Whether it is certain that all of a range is held; of one that goes over several logs it is not.
    fn has_all(&self, range: &OriginRange) -> bool {
        match (self.log_of(range.origin, range.min), self.log_of(range.origin, range.max)) {
            (Some(of_min), Some(of_max)) => of_min == of_max && range.max <= of_max.1,
            _ => false,
        }
    }

    fn has_all_of(&self, seal: &SealBlock) -> bool {
        seal.origins.as_ref().is_some_and(|ranges| ranges.iter().all(|range| self.has_all(range)))
    }
}

/// Whole records of one of this node's cores.
#[derive(Debug)]
pub(super) struct PassPiece {
    pub(super) core: u16,
    pub(super) bytes: Bytes,
    pub(super) records: u32,
}

/// How far a core's log was read.
#[derive(Clone, Debug, Default)]
struct Cursor {
    next: Lsn,
    /// A durable end that was observed after everything below `next` had been read.
    end: Option<Lsn>,
    /// The segment whose header page was looked at.
    looked_at: Option<SegmentNumber>,
    /// Base of the segment of which nothing more is to be read.
    finished: Option<Lsn>,
}

/// A stretch of a retired log's segment that is left to read.
#[derive(Clone, Copy, Debug)]
struct OldSegment {
    segment: SegmentRef,
    next: Lsn,
    end: Lsn,
}

#[derive(Clone, Copy, Debug)]
enum Reading {
    /// The header page of the oldest segment of earlier runs.
    OldHead(ReadRequest),
    OldFrames(ReadRequest),
    /// The header page of the segment in which the present core's cursor stands.
    Head(ReadRequest),
    Frames(ReadRequest),
}

impl Reading {
    fn request(self) -> ReadRequest {
        match self {
            Reading::OldHead(request)
            | Reading::OldFrames(request)
            | Reading::Head(request)
            | Reading::Frames(request) => request,
        }
    }
}

/// What is old enough that what took its place may have been forgotten is sent only if it counts. The cores that own its keys know.
#[derive(Debug, Default)]
struct Sifting {
    /// How old that is.
    upto: Version,
    /// Such records that were read.
    found: Vec<u8>,
    /// Cores that have been asked and have not answered yet.
    asked: usize,
    /// By core, where its log ended when it answered last: what took the place of the records that do not count lies below.
    behind: Vec<Lsn>,
}

/// Where a pass ended, for the next one to the same follower: it has been sent everything below that its vector did not cover.
#[derive(Clone, Debug)]
pub struct Ended(Vec<Cursor>);

/// A pass under way.
#[derive(Debug)]
pub struct Pass {
    covered: Covered,
    claims: VecDeque<Claim>,
    /// Segments of earlier runs that are left to read.
    old: VecDeque<SegmentId>,
    old_segment: Option<OldSegment>,
    cursors: Vec<Cursor>,
    /// The core whose running log is being read.
    core: usize,
    reading: Option<Reading>,
    read_bytes: u32,
    pieces: VecDeque<PassPiece>,
    sifting: Option<Sifting>,
}

impl Pass {
    /// Opens a pass to a follower that holds `covered`, at the end of which come `claims`. It begins where the last one to the same
    /// follower ended, or else at the beginning of all logs: `old` are the segments of earlier runs, from the oldest on.
    #[must_use]
    pub fn open(
        covered: Covered,
        claims: Vec<Claim>,
        last: Option<&Ended>,
        old: impl Iterator<Item = SegmentId>,
        cores: usize,
    ) -> Pass {
        reach(Mark::PassOpened);
        let cursor = |core: usize| last.and_then(|last| last.0.get(core).cloned()).unwrap_or_default();
        Pass {
            covered,
            claims: claims.into(),
            old: if last.is_some() { VecDeque::new() } else { old.collect() },
            old_segment: None,
            cursors: (0..cores).map(cursor).collect(),
            core: 0,
            reading: None,
            read_bytes: READ_BYTES,
            pieces: VecDeque::new(),
            sifting: None,
        }
    }

    /// The same pass, of everything: what is at most as old as `upto` only if it counts.
    #[must_use]
    pub fn of_everything(mut self, upto: Version) -> Pass {
        let behind = vec![Lsn(0); self.cursors.len()];
        self.sifting = Some(Sifting { upto, behind, ..Sifting::default() });
        self
    }

    /// Whether records wait for what the cores say of them.
    pub(super) fn is_sifting(&self) -> bool {
        self.sifting.as_ref().is_some_and(|sifting| sifting.asked > 0)
    }

    /// Records of which cores are to be asked whether they count, if there are some; answer with [`Pass::sift`].
    pub(super) fn next_to_sift(&mut self) -> Option<Bytes> {
        let sifting = self.sifting.as_mut().filter(|sifting| sifting.asked == 0 && !sifting.found.is_empty())?;
        Some(std::mem::take(&mut sifting.found).into())
    }

    /// So many cores were asked.
    pub(super) fn asked_cores(&mut self, count: usize) {
        if let Some(sifting) = &mut self.sifting {
            sifting.asked = count;
        }
    }

    /// Of the records that a core was asked of these count. Its log ended at `staged` then.
    pub(super) fn sift(&mut self, core: u16, records: &[u8], staged: Lsn) {
        let Some(sifting) = &mut self.sifting else { return };
        sifting.asked = sifting.asked.saturating_sub(1);
        if let Some(behind) = sifting.behind.get_mut(usize::from(core)) {
            *behind = (*behind).max(staged);
        }
        let mut counting = Lacking::new(core);
        let mut at = 0;
        while at < records.len() {
            let len = wal::padded_record_len(&records[at..]).unwrap_or(records.len() - at).clamp(8, records.len() - at);
            counting.push(&records[at..at + len]);
            at += len;
        }
        self.pieces.extend(counting.finish());
    }

    /// Once everything was read: whether a core's log has to be read on, to where what took the place of records lies that were left out.
    pub(super) fn has_to_go_on(&mut self) -> bool {
        let Some(sifting) = &self.sifting else { return false };
        let mut is_behind = false;
        for (core, (cursor, behind)) in self.cursors.iter_mut().zip(&sifting.behind).enumerate() {
            if cursor.next < *behind {
                cursor.end = None;
                self.core = self.core.min(core);
                is_behind = true;
            }
        }
        is_behind
    }

    /// Records to send, if some are at hand.
    pub(super) fn next_piece(&mut self) -> Option<PassPiece> {
        self.pieces.pop_front()
    }

    /// Whether records are at hand.
    pub(super) fn has_pieces(&self) -> bool {
        !self.pieces.is_empty()
    }

    /// The next claim, once everything was read and sent.
    pub(super) fn next_claim(&mut self) -> Option<Claim> {
        self.claims.pop_front()
    }

    /// Where it ended.
    pub(super) fn ended(&self) -> Ended {
        Ended(self.cursors.iter().map(|cursor| Cursor { end: None, ..cursor.clone() }).collect())
    }

    /// Whether a read is under way.
    pub(super) fn is_reading(&self) -> bool {
        self.reading.is_some()
    }

    /// From where on `core`'s running log will be read.
    pub(super) fn reads_from(&self, core: usize) -> Option<Lsn> {
        self.cursors.get(core).map(|cursor| cursor.next)
    }

    /// The next read; `None` if everything was read.
    pub(super) fn read(&mut self, running: &OwnLog) -> Option<ReadRequest> {
        let reading = self.next_old().or_else(|| self.next_running(running))?;
        self.reading = Some(reading);
        Some(reading.request())
    }

    fn next_old(&mut self) -> Option<Reading> {
        if let Some(OldSegment { segment, next, end }) = self.old_segment.filter(|old| old.next < old.end) {
            let offset = next.0 - segment.base.0;
            return Some(Reading::OldFrames(ReadRequest { segment, offset, len: self.bounded(end.0 - next.0) }));
        }
        self.old_segment = None;
        let id = self.old.front()?;
        // What it says of itself is read first.
        let segment = SegmentRef { core: id.core, number: id.number, cookie: Cookie(0), base: Lsn(0), end: None };
        Some(Reading::OldHead(head_request(segment)))
    }

    fn next_running(&mut self, running: &OwnLog) -> Option<Reading> {
        while let Some(log) = running.cores.get(self.core) {
            match self.next_of_core(log) {
                Some(reading) => return Some(reading),
                None => self.core += 1,
            }
        }
        None
    }

    fn next_of_core(&mut self, log: &CoreLog) -> Option<Reading> {
        let read_bytes = self.read_bytes;
        let cursor = self.cursors.get_mut(self.core)?;
        loop {
            let end = *cursor.end.get_or_insert(log.durable);
            if cursor.next >= end {
                return None;
            }
            let Some((at, segment)) = log.segment_at(cursor.next) else {
                // What stood here was removed: where its records went has to be read, too.
                let first = log.segments.first()?;
                cursor.next = first.base;
                cursor.end = None;
                continue;
            };
            let next_base = log.segments.get(at + 1).map(|next| next.base);
            let frames = segment.base.plus(SEGMENT_HEADER_BYTES as u64);
            if cursor.next <= frames && next_base.is_some() && cursor.looked_at != Some(segment.number) {
                cursor.looked_at = Some(segment.number);
                return Some(Reading::Head(head_request(segment)));
            }
            cursor.next = cursor.next.max(frames);
            let segment_end = segment.end.or(next_base).unwrap_or(end).min(end);
            if cursor.next >= segment_end || cursor.finished == Some(segment.base) {
                cursor.next = next_base.unwrap_or(end).min(end);
                continue;
            }
            let left = segment_end.0 - cursor.next.0;
            let len = u32::try_from(left.min(u64::from(read_bytes))).unwrap_or(u32::MAX);
            return Some(Reading::Frames(ReadRequest { segment, offset: cursor.next.0 - segment.base.0, len }));
        }
    }

    fn bounded(&self, left: u64) -> u32 {
        u32::try_from(left.min(u64::from(self.read_bytes))).unwrap_or(u32::MAX)
    }

    /// The bytes of the read.
    ///
    /// # Errors
    /// When they are not what this node's log held when it was written.
    pub(super) fn read_done(&mut self, bytes: &Bytes) -> Result<(), SourceDamage> {
        match self.reading.take() {
            None => Ok(()),
            Some(Reading::OldHead(request)) => self.old_head(&request, bytes),
            Some(Reading::Head(request)) => {
                let cursor = &mut self.cursors[usize::from(request.segment.core.0)];
                if is_covered(&self.covered, request.segment, bytes) {
                    reach(Mark::PassSkipsSegment);
                    cursor.finished = Some(request.segment.base);
                }
                Ok(())
            }
            Some(Reading::OldFrames(request)) => {
                let (next, ended) = self.frames(&request, bytes)?;
                if let Some(old) = &mut self.old_segment {
                    old.next = if ended { old.end } else { next };
                }
                Ok(())
            }
            Some(Reading::Frames(request)) => {
                let (next, ended) = self.frames(&request, bytes)?;
                // Another core's turn may have come again since it was asked for.
                let cursor = &mut self.cursors[usize::from(request.segment.core.0)];
                cursor.next = next;
                if ended {
                    cursor.finished = Some(request.segment.base);
                }
                Ok(())
            }
        }
    }

    fn old_head(&mut self, request: &ReadRequest, page: &Bytes) -> Result<(), SourceDamage> {
        self.old.pop_front();
        let segment = request.segment;
        let damage = |detail: String| SourceDamage::new(request, detail);
        let header = SegmentHeader::parse(page).map_err(|error| damage(error.to_string()))?;
        if (header.core, header.number) != (segment.core, segment.number) {
            return Err(damage("it is another segment".into()));
        }
        // Recovery has sealed every segment of earlier runs.
        let SealState::Valid(seal) = SealBlock::read(page, header.link()) else {
            return Err(damage("it has no intact seal".into()));
        };
        if self.covered.has_all_of(&seal) {
            reach(Mark::PassSkipsSegment);
            return Ok(());
        }
        let segment = SegmentRef { cookie: header.cookie, base: header.base, end: Some(seal.end), ..segment };
        self.old_segment = Some(OldSegment { segment, next: header.first_frame(), end: seal.end });
        Ok(())
    }

    /// Takes the records that the follower lacks. Where to go on, and whether the segment ends there.
    fn frames(&mut self, request: &ReadRequest, bytes: &Bytes) -> Result<(Lsn, bool), SourceDamage> {
        let damage = |detail: String| SourceDamage::new(request, detail);
        let start = Lsn(request.segment.base.0 + request.offset);
        let mut frames = wal::frames(bytes, start, request.segment.cookie);
        let mut lacking = Lacking::new(request.segment.core.0);
        let (mut next, mut ended) = (start, false);
        for frame in frames.by_ref() {
            let frame = frame.map_err(|error| damage(error.to_string()))?;
            next = frame.end();
            ended = frame.is_last_of_segment();
            if frame.kind() == FrameKind::Local {
                continue;
            }
            let mut at = 0;
            let payload = frame.payload();
            while at < payload.len() {
                let (record, len) =
                    RecordView::parse_trusted_prefix(&payload[at..]).map_err(|error| damage(error.to_string()))?;
                // What logs say of themselves, their nodes tell.
                let is_of_use = record.op != RecordOp::Control && !self.covered.has(record.origin, record.version);
                let sifting = self.sifting.as_mut().filter(|sifting| record.version <= sifting.upto);
                if let Some(sifting) = sifting.filter(|_| is_of_use && !planted::is(Fault::BootstrapUnsifted)) {
                    sifting.found.extend_from_slice(&payload[at..at + len]);
                } else if is_of_use && !(planted::is(Fault::PassOfOneOrigin) && frame.kind() == FrameKind::Originated) {
                    lacking.push(&payload[at..at + len]);
                }
                at += len;
            }
        }
        self.pieces.extend(lacking.finish());
        if frames.consumed() > 0 || ended {
            self.read_bytes = READ_BYTES;
            return Ok((next, ended));
        }
        // Less than a whole read was wanted: that was all there is.
        if bytes.len() < request.len as usize || request.len < self.read_bytes {
            return Err(damage("no whole frame".into()));
        }
        self.read_bytes = self.read_bytes.saturating_mul(2);
        Ok((next, false))
    }

    /// The file that was to be read is not there any more: what counted in it was copied before it went, to where is read later.
    pub(super) fn read_gone(&mut self) {
        reach(Mark::PassSegmentGone);
        match self.reading.take() {
            Some(Reading::OldHead(_)) => {
                self.old.pop_front();
            }
            Some(Reading::OldFrames(_)) => self.old_segment = None,
            Some(Reading::Head(request) | Reading::Frames(request)) => {
                if let Some(cursor) = self.cursors.get_mut(usize::from(request.segment.core.0)) {
                    cursor.end = None;
                }
            }
            None => {}
        }
    }

    /// Goes on behind what is about to be removed from `core`'s running log; not while that is being read.
    pub(super) fn skip_to(&mut self, core: usize, removed: &Removable) -> bool {
        let of_core = |request: ReadRequest| usize::from(request.segment.core.0) == core;
        let reads = matches!(self.reading, Some(Reading::Head(request) | Reading::Frames(request)) if of_core(request));
        let Some(cursor) = self.cursors.get_mut(core).filter(|cursor| cursor.next < removed.end) else { return true };
        if reads {
            return false;
        }
        cursor.next = removed.end;
        cursor.end = None;
        // What was read already may have to be read on.
        self.core = self.core.min(core);
        true
    }
}

fn head_request(segment: SegmentRef) -> ReadRequest {
    let len = u32::try_from(SEGMENT_HEADER_BYTES).expect("a page");
    ReadRequest { segment, offset: 0, len }
}

/// Whether the segment's seal says that the follower holds all of it. One that is not sealed yet is read.
fn is_covered(covered: &Covered, segment: SegmentRef, page: &[u8]) -> bool {
    let Some(header) = SegmentHeader::parse(page).ok().filter(|header| header.cookie == segment.cookie) else {
        return false;
    };
    match SealBlock::read(page, header.link()) {
        SealState::Valid(seal) => covered.has_all_of(&seal),
        _ => false,
    }
}

/// Records that are sent, copied out of what lies between them.
struct Lacking {
    core: u16,
    bytes: Vec<u8>,
    records: u32,
    pieces: Vec<PassPiece>,
}

impl Lacking {
    fn new(core: u16) -> Lacking {
        Lacking { core, bytes: Vec::new(), records: 0, pieces: Vec::new() }
    }

    fn push(&mut self, record: &[u8]) {
        if !self.bytes.is_empty() && self.bytes.len() + record.len() > BATCH_BYTES {
            self.cut();
        }
        self.bytes.extend_from_slice(record);
        self.records += 1;
    }

    fn cut(&mut self) {
        let (bytes, records) = (std::mem::take(&mut self.bytes).into(), std::mem::take(&mut self.records));
        self.pieces.push(PassPiece { core: self.core, bytes, records });
    }

    fn finish(mut self) -> Vec<PassPiece> {
        if self.records > 0 {
            self.cut();
        }
        self.pieces
    }
}
