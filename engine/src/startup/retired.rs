//! What is left of earlier runs, for compaction.

use net::reactor::disk::Disk;
use wal::recovery::RecoveredSegment;
use wal::{Cookie, CoreId, Incarnation, Lsn};

use super::{Recovering, StartedShard};
use crate::host::Host;
use crate::shard::{OldSegment, SegmentId};
use crate::storage::index::SegmentSlot;

/// A segment of an earlier run.
pub(super) struct RetiredSegment {
    pub(super) id: SegmentId,
    pub(super) cookie: Cookie,
    pub(super) base: Lsn,
    /// Exclusive end of its frames.
    pub(super) end: Lsn,
    pub(super) file_bytes: u64,
    /// By core of this run.
    pub(super) slots: Vec<SegmentSlot>,
}

impl RetiredSegment {
    pub(super) fn new(core: CoreId, segment: &RecoveredSegment, slots: Vec<SegmentSlot>) -> RetiredSegment {
        RetiredSegment {
            id: SegmentId { core, number: segment.number },
            cookie: segment.cookie,
            base: segment.base,
            end: segment.end,
            file_bytes: segment.segment_bytes,
            slots,
        }
    }
}

/// What is left of an earlier run.
#[derive(Clone, Debug)]
pub struct OldRun {
    /// Its name.
    pub incarnation: Incarnation,
    /// Its segments; those of one core from the oldest on.
    pub segments: Vec<SegmentId>,
}

impl<H: Host, D: Disk<File = H::File>> Recovering<'_, H, D> {
    /// Gives each shard its view of every segment of earlier runs, oldest run first.
    pub(super) fn old_runs(&mut self, shards: &mut [StartedShard<H>]) -> Vec<OldRun> {
        let mut runs = Vec::new();
        for incarnation in std::mem::take(&mut self.order) {
            let segments = self.retired.remove(&incarnation).unwrap_or_default();
            let incarnation = Incarnation(incarnation);
            for (core, (shard, ..)) in shards.iter_mut().enumerate() {
                shard.set_old_segments(segments.iter().map(|found| OldSegment {
                    id: found.id,
                    incarnation,
                    cookie: found.cookie,
                    base: found.base,
                    end: found.end,
                    file_bytes: found.file_bytes,
                    slot: found.slots[core],
                }));
            }
            let segments = segments.iter().map(|found| found.id).collect();
            runs.push(OldRun { incarnation, segments });
        }
        runs
    }
}
