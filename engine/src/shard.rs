//! The shard: one core's log, store and clock as a state machine without I/O.
//!
//! Writes append to the log and answer with a position; the driver shows the result once the log is durable up to there.
//! Invariant: `complete` is a promise — every record this shard originated with a version ≤ `complete` is durable, and it
//! will never originate one ≤ `complete` again. It never exceeds the durable clock ceiling.

mod batch;
mod bootstrap;
mod compaction;
mod error;
mod forget;
mod held;
mod lost;
mod memory;
mod scan;
mod segments;
mod summary;

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use wal::marks::{Mark, reach};
use wal::planted::Fault;
use wal::{
    AppendError, Commit, CommitPath, ControlRecord, Cookie, CoreId, FrameKind, FrameRef, Incarnation, Log, LogIdentity,
    Lsn, Mapping, NodeId, Placement, RecordDraft, RecordOp, RecordView, Segment, SegmentNumber, Version, planted,
};

use crate::clock::{AHEAD_MS_MAX, Hlc, Time, is_far_future};
use crate::frontend::seen::Seen;
use crate::storage::index::Location;
use crate::storage::store::{Facts, Fetch, Store, Verdict};
use crate::storage::{KeyHash, NodeSecret};

use batch::Batch;
use bootstrap::Takeover;
use compaction::Compaction;

pub use batch::{BATCH_KEYS_MAX, Presence};
pub use compaction::{CompactionCounters, CompactionRead, Copies, OldSegment, SegmentId};
pub use error::{DiskTrouble, WriteError};
pub use held::HeldKey;
pub use lost::{Covered, LostBoard, LostWrite, LostWrites};
pub use memory::ImmutableSegment;
pub use segments::Removable;
use segments::RunSegment;
use summary::Summary;

/// What one shard needs to know about itself.
#[derive(Clone, Copy, Debug)]
pub struct ShardIdentity {
    /// This node, the origin of what it writes.
    pub node: NodeId,
    /// This run.
    pub incarnation: Incarnation,
    /// This core.
    pub core: CoreId,
    /// Keys placement and index.
    pub secret: NodeSecret,
}

/// Sizes and choices of one shard.
#[derive(Clone, Copy, Debug)]
pub struct ShardSettings {
    /// Size of a segment.
    pub segment_bytes: u64,
    /// Largest value that is accepted.
    pub value_bytes_max: usize,
    /// How groups reach the disk.
    pub commit_path: CommitPath,
    /// Cores of this node.
    pub cores: u16,
}

/// What the log can say about a shipped frame: an originated, durable one.
#[derive(Clone, Debug)]
pub struct DurableFrame {
    /// Position and contents of the frame.
    pub frame: FrameRef,
    /// The record bytes (the frame's payload), pinned in their segment.
    pub payload: Bytes,
}

/// What a kept control record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum KeptKey {
    Run,
    Watermark(NodeId, Incarnation),
    Member(NodeId),
    /// Another node's log.
    Log(NodeId, Incarnation),
    Forgotten,
    Bootstrap,
}

/// Counters of one shard; monotonic.
#[derive(Clone, Copy, Debug, Default)]
pub struct ShardCounters {
    /// Records originated here.
    pub originated: u64,
    /// Records of other nodes that were appended.
    pub followed: u64,
    /// Records of other nodes that were here already.
    pub already_applied: u64,
    /// Records of other nodes that lost against a newer one.
    pub superseded: u64,
    /// Records of other nodes that lost against a record of this node which did not know them.
    pub concurrent: u64,
    /// Records held back because their version lies in the far future.
    pub held_back: u64,
    /// Group commits that became durable.
    pub syncs: u64,
}

/// One core's data.
#[derive(Debug)]
pub struct Shard<M: Mapping> {
    identity: ShardIdentity,
    log: Log<M>,
    store: Store<M>,
    clock: Hlc,
    /// Newest last; spares included.
    segments: Vec<RunSegment<M>>,
    first: (SegmentNumber, Cookie, Lsn),
    /// Above every version that earlier runs gave or saw.
    began: Version,
    /// The clock ceiling as far as it is staged.
    ceiling: Version,
    /// Sealed groups that are not durable yet: (end, clock when sealed).
    sealed: VecDeque<(Lsn, Version)>,
    complete: Version,
    /// Sealed frames that are not durable yet.
    frames: VecDeque<FrameRef>,
    /// Far-future records: appended, claimed, but not visible until due.
    held: BTreeMap<HeldKey, Location>,
    /// What the log says of this run, of others' logs and of members, by the newest record of each: a segment that is removed must not take the
    /// only copy along, so that each segment begins by repeating it.
    kept: BTreeMap<KeptKey, ControlRecord>,
    /// The segment that repeats it last, and where that ends.
    repeated: (SegmentNumber, Lsn),
    /// The oldest segment, once nothing in it counted any more, and the staged end then: what superseded its records.
    emptied: Option<(SegmentNumber, Lsn)>,
    compaction: Compaction,
    /// What died up to here may be forgotten.
    forget_upto: Version,
    /// Tombstones and expired records that were.
    forgotten: u64,
    /// What another node has is being taken over.
    takeover: Option<Takeover>,
    summary: Summary,
    /// Cores of this node.
    cores: u16,
    value_bytes_max: usize,
    trouble: Option<DiskTrouble>,
    /// The node was removed from the mesh.
    removed: bool,
    /// Records to fetch for those who wait for them.
    wanted: Vec<Fetch>,
    /// While there is one, writes are collected in it and reads look there first.
    batch: Option<Batch>,
    lost: LostWrites,
    /// What is read is noted here, for the connection whose command is run.
    seen: Option<Seen>,
    counters: ShardCounters,
}

impl<M: Mapping> Shard<M> {
    /// A shard over a recovered (or empty) store. `floor` is above every version this node ever gave or saw.
    #[must_use]
    pub fn new(
        identity: ShardIdentity,
        settings: ShardSettings,
        first: Segment<M>,
        mut store: Store<M>,
        floor: Version,
    ) -> Self {
        let slot = store.add_segment(Some(first.base), first.map.clone());
        let segments = vec![RunSegment::new(&first, slot)];
        let first_segment = (first.number, first.cookie, first.base);
        let log_identity = LogIdentity { node: identity.node, incarnation: identity.incarnation, core: identity.core };
        Shard {
            identity,
            repeated: (first.number, Lsn(0)),
            log: Log::with_commit_path(log_identity, settings.segment_bytes, first, settings.commit_path),
            store,
            clock: Hlc::new(floor, tag_of(identity.node)),
            segments,
            first: first_segment,
            began: floor,
            ceiling: Version::ZERO,
            sealed: VecDeque::new(),
            complete: Version::ZERO,
            frames: VecDeque::new(),
            held: BTreeMap::new(),
            kept: BTreeMap::new(),
            emptied: None,
            compaction: Compaction::default(),
            forget_upto: Version::ZERO,
            forgotten: 0,
            takeover: None,
            summary: Summary::default(),
            cores: settings.cores,
            value_bytes_max: settings.value_bytes_max,
            trouble: None,
            removed: false,
            wanted: Vec::new(),
            batch: None,
            lost: LostWrites::default(),
            seen: None,
            counters: ShardCounters::default(),
        }
    }

    /// Who this shard is.
    #[must_use]
    pub fn identity(&self) -> ShardIdentity {
        self.identity
    }

    /// The log, for its positions.
    #[must_use]
    pub fn log(&self) -> &Log<M> {
        &self.log
    }

    /// The counters.
    #[must_use]
    pub fn counters(&self) -> ShardCounters {
        self.counters
    }

    /// The promise described in the module documentation.
    #[must_use]
    pub fn complete(&self) -> Version {
        self.complete
    }

    /// The store, for sizes.
    pub fn store(&mut self) -> &mut Store<M> {
        &mut self.store
    }

    /// The largest value that is accepted, in bytes.
    #[must_use]
    pub fn value_bytes_max(&self) -> usize {
        self.value_bytes_max
    }

    /// Says that no segment can be prepared at present; it ends with the next one that is supplied.
    pub fn set_disk_trouble(&mut self, trouble: DiskTrouble) {
        self.trouble = Some(trouble);
        self.log.keep_last_segment();
    }

    /// From now on nothing of clients is written: the node was removed from the mesh, and nobody would get it.
    pub fn refuse_writes(&mut self) {
        self.removed = true;
    }

    // ---- reading -------------------------------------------------------------------------------------------------

    /// What is read from now on is seen by this session, or by none.
    pub fn seen_by(&mut self, seen: Option<Seen>) {
        self.seen = seen;
    }

    #[inline]
    fn note_read(&self, record: &RecordView<'_>) {
        if let Some(seen) = &self.seen {
            seen.note(record.origin, record.version);
        }
    }

    /// Reads the visible record of `key`: what `read` makes of it, and the position that must be durable before it is shown.
    /// A key that is absent, deleted or expired gives `None` with the position of the tombstone, if there is one.
    pub fn read<R>(
        &self,
        hash: KeyHash,
        key: &[u8],
        time: Time,
        read: impl FnOnce(&RecordView<'_>) -> R,
    ) -> (Option<R>, Lsn) {
        let now_unix_ms = self.clock.unix_ms(time);
        if let Some(record) = self.batched(key) {
            return (is_visible(&record, now_unix_ms).then(|| read(&record)), Lsn(0));
        }
        let found = self.store.read(hash, key, |record| {
            self.note_read(record);
            is_visible(record, now_unix_ms).then(|| read(record))
        });
        match found {
            None => (None, Lsn(0)),
            Some((result, ..)) if planted::is(Fault::ReadUndurable) => (result, Lsn(0)),
            Some((result, _, end)) => (result, end.unwrap_or(Lsn(0))),
        }
    }

    /// The value of `key` as bytes pinned in their segment, if it is visible and at least `len_min` bytes long.
    #[must_use]
    pub fn large_value(&self, hash: KeyHash, key: &[u8], time: Time, len_min: usize) -> Option<(Bytes, Lsn)> {
        let now_unix_ms = self.clock.unix_ms(time);
        if let Some(record) = self.batched(key) {
            let wanted = record.value.len() >= len_min && is_visible(&record, now_unix_ms);
            return wanted.then(|| (Bytes::copy_from_slice(record.value), Lsn(0)));
        }
        self.store.large_value(hash, key, len_min, |record| is_visible(record, now_unix_ms))
    }

    // ---- writing -------------------------------------------------------------------------------------------------

    /// Writes `key` = `value`, absent from `expiry` (milliseconds since 1970) on. Returns the position that must be durable
    /// before it is acknowledged.
    ///
    /// # Errors
    /// See [`WriteError`]; nothing was changed.
    pub fn put(
        &mut self,
        hash: KeyHash,
        key: &[u8],
        value: &[u8],
        expiry: Option<u64>,
        time: Time,
    ) -> Result<Lsn, WriteError> {
        if value.len() > self.value_bytes_max {
            return Err(WriteError::TooLarge);
        }
        if self.removed {
            return Err(WriteError::Removed);
        }
        self.originate(hash, RecordOp::Put, key, value, expiry, time)
    }

    /// Writes a tombstone for `key`.
    ///
    /// # Errors
    /// See [`WriteError`]; nothing was changed.
    pub fn delete(&mut self, hash: KeyHash, key: &[u8], time: Time) -> Result<Lsn, WriteError> {
        if self.removed {
            return Err(WriteError::Removed);
        }
        self.originate(hash, RecordOp::Delete, key, &[], None, time)
    }

    fn originate(
        &mut self,
        hash: KeyHash,
        op: RecordOp,
        key: &[u8],
        value: &[u8],
        expiry: Option<u64>,
        time: Time,
    ) -> Result<Lsn, WriteError> {
        if self.batch.is_some() {
            return self.collect(hash, op, key, value, expiry);
        }
        self.ready(hash)?;
        let version = self.clock.tick(time).map_err(|_| WriteError::Throttled)?;
        // First, so that a write that found room is never held up by a ceiling that did not.
        self.raise_ceiling(version)?;
        let draft = RecordDraft { version, origin: self.identity.node, op, expiry, key, value };
        let placement = self.log.append_draft(FrameKind::Originated, &draft).map_err(|e| self.write_error(e))?;
        let location = self.location(&placement);
        let verdict = self.store.judge_newest(hash, key, version);
        let facts = Facts {
            version,
            origin: self.identity.node,
            put: op == RecordOp::Put,
            expiry,
            padded_len: u32::try_from(draft.padded_len()).expect("a record that was appended fits a segment"),
        };
        self.store.install(hash, verdict, location, facts);
        self.counters.originated += 1;
        Ok(placement.end)
    }

    fn write_error(&self, error: AppendError) -> WriteError {
        match error {
            AppendError::NoSegment => {
                reach(if self.trouble.is_none() { Mark::WriteWaitedForSegment } else { Mark::WriteRefused });
                match self.trouble {
                    None => WriteError::NoSegment,
                    Some(DiskTrouble::Full) => WriteError::DiskFull,
                    Some(DiskTrouble::Failing) => WriteError::DiskFailing,
                }
            }
            AppendError::TooLarge => WriteError::TooLarge,
            AppendError::Dead => WriteError::LogFailed,
        }
    }

    fn segment(&self, number: SegmentNumber) -> Option<&RunSegment<M>> {
        self.segments.iter().rev().find(|segment| segment.number == number)
    }

    fn location(&self, placement: &Placement) -> Location {
        let found = self.segment(placement.segment);
        let segment = found.expect("every segment of the log was registered when it was supplied").slot;
        Location { segment, offset: placement.offset, len_max: placement.len }
    }

    /// Appends this run's first record. Its version is the first that this incarnation may give.
    ///
    /// # Errors
    /// See [`WriteError`].
    pub fn open(&mut self, cores: u16, time: Time) -> Result<Version, WriteError> {
        let first = self.clock.tick(time).map_err(|_| WriteError::Throttled)?;
        let control =
            ControlRecord::Open { node: self.identity.node, incarnation: self.identity.incarnation, first, cores };
        self.append_control(FrameKind::Originated, &control, first)?;
        self.kept.insert(KeptKey::Run, control);
        Ok(first)
    }

    /// Appends a control record that never leaves this node (watermark, clock ceiling, that another node's log exists, its row of a
    /// member).
    ///
    /// # Errors
    /// See [`WriteError`].
    pub fn append_local(&mut self, control: &ControlRecord) -> Result<Lsn, WriteError> {
        let end = self.append_control(FrameKind::Local, control, self.clock.last())?;
        let kept = match control {
            ControlRecord::Watermark { node, incarnation, .. } => KeptKey::Watermark(*node, *incarnation),
            ControlRecord::Membership { node, .. } => KeptKey::Member(*node),
            ControlRecord::Open { node, incarnation, .. } => KeptKey::Log(*node, *incarnation),
            ControlRecord::Forgotten { .. } => KeptKey::Forgotten,
            ControlRecord::Bootstrap { .. } => KeptKey::Bootstrap,
            _ => return Ok(end),
        };
        self.kept.insert(kept, control.clone());
        Ok(end)
    }

    /// Repeats in the current segment what earlier ones say, so that they can be removed.
    fn repeat_kept(&mut self) -> Result<(), WriteError> {
        let (segment, _) = self.log.append_position();
        if segment == self.repeated.0 {
            return Ok(());
        }
        if planted::is(Fault::RepeatNothing) {
            self.repeated = (segment, Lsn(0));
            return Ok(());
        }
        let ceiling = ControlRecord::ClockCeiling { version: self.ceiling };
        let mut end = self.append_control(FrameKind::Local, &ceiling, self.clock.last())?;
        for control in self.kept.values().cloned().collect::<Vec<_>>() {
            end = self.append_control(FrameKind::Local, &control, self.clock.last())?;
        }
        if !self.kept.is_empty() {
            reach(Mark::KeptRepeated);
        }
        self.repeated = (segment, end);
        Ok(())
    }

    fn append_control(
        &mut self,
        kind: FrameKind,
        control: &ControlRecord,
        version: Version,
    ) -> Result<Lsn, WriteError> {
        let (key, value) = control.encode();
        let draft = RecordDraft {
            version,
            origin: self.identity.node,
            op: RecordOp::Control,
            expiry: None,
            key: &key,
            value: &value,
        };
        let placement = self.log.append_draft(kind, &draft).map_err(|e| self.write_error(e))?;
        Ok(placement.end)
    }

    // ---- following -----------------------------------------------------------------------------------------------

    /// The latest writes of other nodes that lost, and what was here before what is followed next.
    pub fn lost(&mut self) -> &mut LostWrites {
        &mut self.lost
    }

    /// Applies one record of another node's log. What is newer is appended verbatim and merged; what is here already, or
    /// lost, is counted. Either way the caller's claim waits for the *staged end* afterwards ([`Log::staged`]): the record
    /// that makes ours "the same or newer" may itself not be durable yet.
    ///
    /// # Errors
    /// See [`WriteError`]; transient ones are to be repeated with the same record.
    pub fn follow(&mut self, record: &RecordView<'_>, time: Time) -> Result<(), WriteError> {
        if record.op == RecordOp::Control {
            self.log.append(FrameKind::Followed, record.bytes).map_err(|e| self.write_error(e))?;
            self.counters.followed += 1;
            return Ok(());
        }
        let hash = self.identity.secret.hash(record.key);
        self.ready(hash)?;
        self.confirm(hash, record.version);
        let verdict = self.store.judge(hash, record);
        let far_future = is_far_future(record.version, time) && !planted::is(Fault::FarFutureBelieved);
        let is_over = |expiry: Option<u64>| expiry.is_some_and(|expiry| expiry <= time.unix_ms);
        if is_over(record.expiry) {
            reach(Mark::ExpiredOnArrival);
            if planted::is(Fault::ExpiredOnArrivalDropped) {
                return Ok(());
            }
        }
        match verdict {
            Verdict::Same => {
                reach(Mark::AlreadyHere);
                self.counters.already_applied += 1;
            }
            Verdict::Older(_, present) => {
                reach(Mark::SupersededOnArrival);
                if is_over(present.expiry) && record.op == RecordOp::Put && !is_over(record.expiry) {
                    reach(Mark::LostToExpired);
                }
                let is_shown = !is_over(record.expiry) && record.origin != self.identity.node;
                if is_shown && present.origin == self.identity.node && !self.lost.was_here(record) {
                    self.counters.concurrent += u64::from(self.lost.lost(record, present));
                }
                self.counters.superseded += 1;
            }
            Verdict::First if record.op == RecordOp::Delete && planted::is(Fault::TombstoneOfNothingDropped) => {}
            Verdict::First | Verdict::Newer(..) => {
                // Also one that is due by now and waits for the ceiling.
                if self.held.contains_key(&HeldKey::of(record, hash)) {
                    reach(Mark::AlreadyHere);
                    self.counters.already_applied += 1;
                    return Ok(());
                }
                let placement = self.log.append(FrameKind::Followed, record.bytes).map_err(|e| self.write_error(e))?;
                let location = self.location(&placement);
                self.counters.followed += 1;
                if far_future {
                    self.hold(HeldKey::of(record, hash), location);
                } else {
                    self.store.install(hash, verdict, location, Facts::of(record));
                }
            }
        }
        if !far_future {
            self.clock.observe(record.version);
        }
        Ok(())
    }

    /// Raises the clock, so that this idle shard can promise `complete ≥ version`. Returns whether that holds at once;
    /// otherwise it will with the next sync.
    pub fn raise(&mut self, version: Version) -> bool {
        self.clock.observe(version);
        if self.log.durable() == self.log.staged() && self.clock.last() <= self.ceiling {
            self.complete = self.complete.max(self.clock.last());
        }
        self.complete >= version
    }

    // ---- the log -------------------------------------------------------------------------------------------------

    /// Makes the ceiling at least `version`, by a record in the open group.
    fn raise_ceiling(&mut self, version: Version) -> Result<(), WriteError> {
        if version > self.ceiling {
            let raised = Version::new(version.ms() + AHEAD_MS_MAX, 0, 0);
            self.append_local(&ControlRecord::ClockCeiling { version: raised })?;
            self.ceiling = raised;
        }
        Ok(())
    }

    /// Closes the open group, if there is anything in it, or if the ceiling has to rise for `raise`.
    ///
    /// # Errors
    /// [`WriteError::NoSegment`] and the like when the ceiling record finds no room. The group is closed all the same: what
    /// was originated in it lies below the present ceiling; only the promise stays there.
    pub fn seal_group(&mut self) -> Result<(), WriteError> {
        let raised = self.raise_ceiling(self.clock.last()).and_then(|()| self.repeat_kept());
        if let Some(sealed) = self.log.seal_group(self.clock.last()) {
            let promise = self.clock.last().min(self.ceiling);
            if planted::is(Fault::PromiseBeforeSync) {
                self.complete = self.complete.max(promise);
            }
            self.sealed.push_back((sealed.upto, promise));
        }
        if raised.is_err() {
            reach(Mark::CeilingHeldUp);
        }
        raised
    }

    /// Whether something is staged that no sync covers yet, or a promise waits for a higher ceiling.
    #[must_use]
    pub fn has_unsealed(&self) -> bool {
        self.log.staged() > self.log.written() || self.clock.last() > self.ceiling
    }

    /// What makes the next group durable, if nothing is in flight and something needs it.
    pub fn next_commit(&mut self) -> Option<Commit> {
        self.log.next_commit()
    }

    /// The sync in flight succeeded. Returns the originated frames that became durable, in order.
    pub fn sync_done(&mut self) -> Vec<DurableFrame> {
        self.log.sync_done();
        self.counters.syncs += 1;
        let durable = self.log.durable();
        while let Some(&(end, clock)) = self.sealed.front() {
            if end > durable {
                break;
            }
            self.complete = self.complete.max(clock);
            self.sealed.pop_front();
        }
        // A raise that came while the sync was in flight: nothing of the clock's past is left to become durable.
        if durable == self.log.staged() && self.clock.last() <= self.ceiling {
            self.complete = self.complete.max(self.clock.last());
        }
        self.take_frames(durable)
    }

    /// The originated frames that were sealed and not taken yet, up to `end`, in order.
    fn take_frames(&mut self, end: Lsn) -> Vec<DurableFrame> {
        self.frames.extend(self.log.take_sealed_frames());
        let mut shipped = Vec::new();
        while self.frames.front().is_some_and(|frame| frame.end <= end) {
            let frame = self.frames.pop_front().expect("just seen");
            self.summary.note(&frame);
            let foreign = planted::is(Fault::FollowedShipped) || planted::is(Fault::NoOriginFilter);
            let ships = frame.kind == FrameKind::Originated || foreign && frame.kind == FrameKind::Followed;
            if ships && frame.records > 0 {
                let payload = self.payload(&frame);
                shipped.push(DurableFrame { frame, payload });
            }
        }
        shipped
    }

    /// For [`Fault::ShipBeforeDurable`]: what was sealed, whether it is durable or not.
    #[cfg(planted)]
    pub fn take_written(&mut self) -> Vec<DurableFrame> {
        self.take_frames(self.log.written())
    }

    /// The record bytes of a sealed frame.
    #[must_use]
    pub fn payload(&self, frame: &FrameRef) -> Bytes {
        let segment = self.segment(frame.segment).expect("a sealed frame lies in a segment of this run");
        let map = segment.map.as_ref().expect("what was not shipped yet lies in a segment that is in memory");
        let start = frame.offset as usize + wal::FRAME_HEADER_BYTES;
        map.bytes(start..start + frame.payload_len as usize)
    }

    /// The sync in flight failed: final.
    pub fn sync_failed(&mut self) {
        self.log.sync_failed();
    }

    /// Appends the empty frame that declares the last group durable.
    pub fn seal_idle(&mut self) {
        if self.log.durable() == self.log.staged() {
            self.log.seal_idle(self.clock.last());
        }
    }

    /// The log, for the driver's housekeeping (seals, next segment).
    pub fn log_mut(&mut self) -> &mut Log<M> {
        &mut self.log
    }
}

/// The node's 11 bits in every version, mixed from its id.
#[must_use]
pub fn tag_of(node: NodeId) -> u16 {
    let mixed = (node.0 ^ (node.0 >> 11) ^ (node.0 >> 22)) & 0x7ff;
    u16::try_from(mixed).expect("11 bits")
}

fn is_visible(record: &RecordView<'_>, now_unix_ms: u64) -> bool {
    record.op == RecordOp::Put && !record.is_stub() && record.expiry.is_none_or(|expiry| expiry > now_unix_ms)
}
