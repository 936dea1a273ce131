//! The driver of one core's compaction: reads old segments in bulk on the helper thread, and lets the shard append copies in slices
//! beside what clients write.
//!
//! The pace follows the writes: each byte that is appended earns as many bytes of copies as keep the log from growing, so
//! that copies ride in group commits that happen anyway. A log that nobody writes to is compacted a little at a time.

use std::sync::atomic::Ordering;

use net::reactor::{Completion, FileJob, Io, Mono, Op, Outcome};
use wal::{Lsn, SegmentNumber};

use super::CoreLoop;
use super::ops::Context;
use crate::host::{Host, segment_path};
use crate::messages::CoreEvent;
use crate::shard::SegmentId;

/// Bytes of copies in one group commit, at most.
const SLICE_BYTES_MAX: usize = 64 * 1024;

/// The smallest slice for which the copies of a busy log are worth a frame of their own.
const SLICE_BYTES_MIN: usize = 2 * 1024;

/// How long nothing was written before a log counts as idle.
const IDLE_MS: u64 = 20;

/// How often an idle log takes a slice.
const IDLE_SLICE_MS: u64 = 2;

/// How often it is looked whether compaction is due.
const LOOK_MS: u64 = 100;

/// The state of a core's compaction.
#[derive(Debug)]
pub(super) struct Compactor<F> {
    /// The file of the segment being compacted.
    file: Option<(SegmentId, F)>,
    reading: bool,
    /// Bytes of copies that writes have earned.
    credit: usize,
    /// The staged end when that was last counted.
    seen: Lsn,
    /// What writes earn is multiplied by this.
    urgency: u64,
    written_at: Mono,
    look_at: Mono,
    /// The segment that was appended to at the last look; with a new one there is more to compact.
    looked_in: SegmentNumber,
    slice_at: Mono,
}

impl<F> Default for Compactor<F> {
    fn default() -> Self {
        let never = Mono(0);
        Compactor {
            file: None,
            reading: false,
            credit: 0,
            seen: Lsn(0),
            urgency: 1,
            written_at: never,
            look_at: never,
            looked_in: SegmentNumber(0),
            slice_at: never,
        }
    }
}

impl<H: Host> CoreLoop<H> {
    /// When compaction has something to do without any completion.
    pub(super) fn compaction_deadline(&self) -> Option<Mono> {
        let compactor = &self.compactor;
        let waits = !self.shard.is_compacting() || compactor.reading || self.commit.is_syncing() || self.stopping;
        (!waits).then(|| compactor.slice_at.max(compactor.written_at.plus_ms(IDLE_MS)))
    }

    /// Appends a slice of copies to the open group, if there is a reason to. Called before a group is sealed that will be synced at
    /// once.
    pub(super) fn compact(&mut self) {
        // A core that is held has promised room to a transaction.
        if self.stopping || self.commit.failed || self.holds.is_held() {
            return;
        }
        let now = self.now();
        self.look_for_work(now);
        self.earn(now);
        if !self.shard.is_compacting() {
            return;
        }
        let idle = now >= self.compactor.written_at.plus_ms(IDLE_MS);
        if idle && now >= self.compactor.slice_at {
            self.compactor.slice_at = now.plus_ms(IDLE_SLICE_MS);
            self.compactor.credit = self.compactor.credit.max(SLICE_BYTES_MAX);
        }
        // To look at what does not count costs no writes.
        let earned = self.compactor.credit >= SLICE_BYTES_MIN;
        let budget = if earned { self.compactor.credit.min(SLICE_BYTES_MAX) } else { 0 };
        // Where there is no room, room has to come from elsewhere; it is tried again.
        let began = self.io.now();
        let copied = self.shard.compact(budget, self.time);
        self.gauges.compaction_ns.fetch_add(self.io.now().since(began), Ordering::Relaxed);
        if let Ok(copied) = copied {
            self.compactor.credit -= copied.min(self.compactor.credit);
            self.compactor.seen = self.compactor.seen.max(self.shard.log().staged());
        }
        if !self.shard.is_compacting() {
            self.compactor.look_at = now;
        }
        self.read_ahead();
    }

    fn look_for_work(&mut self, now: Mono) {
        let (segment, _) = self.shard.log().append_position();
        if now < self.compactor.look_at && segment == self.compactor.looked_in {
            return;
        }
        self.compactor.looked_in = segment;
        self.compactor.look_at = now.plus_ms(LOOK_MS);
        self.shard.begin_compaction();
        let excess_percent = self.shard.compactable_bytes() * 100 / self.shard.compactable_bytes_wanted().max(1);
        self.compactor.urgency = [(120, 16), (110, 8), (105, 4), (102, 2)]
            .into_iter()
            .find_map(|(percent, urgency)| (excess_percent >= percent).then_some(urgency))
            .unwrap_or(1);
        for (segment, replaced_upto) in self.shard.emptied_old_segments() {
            let upto = self.shard.log().durable();
            self.tell(CoreEvent::OldSegmentEmptied { segment, upto, replaced_upto });
        }
        self.publish_compaction();
        self.read_ahead();
    }

    /// Counts what was appended since the last look. To free a segment of which the share `u` counts, `u` has to be written
    /// for `1 − u` that becomes free; half as much again, so that compaction keeps ahead, and more where it has fallen behind.
    fn earn(&mut self, now: Mono) {
        let staged = self.shard.log().staged();
        let appended = staged.0.saturating_sub(self.compactor.seen.0);
        self.compactor.seen = staged;
        if appended == 0 {
            return;
        }
        self.compactor.written_at = now;
        if !self.shard.is_compacting() {
            return;
        }
        let segment = self.shard.log().segment_bytes();
        let live = self.shard.compacting_live_bytes().min(segment);
        let free = (segment - live).max(segment / 8);
        let earned = appended.saturating_mul(live * 3 * self.compactor.urgency) / (free * 2);
        let earned = usize::try_from(earned).unwrap_or(usize::MAX);
        self.compactor.credit = self.compactor.credit.saturating_add(earned).min(16 * SLICE_BYTES_MAX);
    }

    /// Asks for the next stretch of the segment, so that it is here when it is wanted.
    fn read_ahead(&mut self) {
        let Some(read) = self.shard.compaction_read().filter(|_| !self.compactor.reading) else { return };
        self.compactor.reading = true;
        let job = match &self.compactor.file {
            Some((segment, file)) if *segment == read.segment => {
                FileJob::ReadBulk { file: file.clone(), offset: read.offset, len: read.len }
            }
            _ => {
                let path = segment_path(&self.commit.segments.data_dir, read.segment.core, read.segment.number);
                FileJob::Open { path }
            }
        };
        self.ops.submit(&mut self.io, Op::File(job), Context::Compaction);
    }

    /// A file was opened, or a read ended.
    pub(super) fn compaction_completed(&mut self, completion: Completion<H::File>) {
        self.compactor.reading = false;
        let Some(read) = self.shard.compaction_read() else { return };
        let problem = match completion.result {
            Ok(Outcome::Opened(file)) => {
                self.compactor.file = Some((read.segment, file));
                self.read_ahead();
                return;
            }
            Ok(Outcome::Bulk(bytes)) => match self.shard.compaction_chunk(&bytes) {
                Ok(()) => return self.read_ahead(),
                Err(error) => error.to_string(),
            },
            Ok(other) => format!("unexpected answer {other:?}"),
            Err(error) => {
                self.shard.compaction_read_failed();
                error.to_string()
            }
        };
        self.gauges.compaction_stopped.fetch_add(1, Ordering::Relaxed);
        let (core, number) = (read.segment.core.0, read.segment.number.0);
        tracing::error!(
            core,
            number,
            offset = read.offset,
            problem,
            "a segment cannot be compacted and keeps its space; check the disk, then run walinspect verify"
        );
    }

    fn publish_compaction(&mut self) {
        let counters = self.shard.compaction_counters();
        let (live, compactable) = (self.shard.store().live_bytes(), self.shard.compactable_bytes());
        for (gauge, value) in [
            (&self.gauges.live_bytes, live),
            (&self.gauges.compactable_bytes, compactable),
            (&self.gauges.compacted_segments, counters.segments),
            (&self.gauges.compacted_records, counters.records),
            (&self.gauges.compacted_bytes, counters.bytes),
        ] {
            gauge.store(value, Ordering::Relaxed);
        }
    }
}
