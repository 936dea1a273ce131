//! What a walk through the running log would find beside its keys, kept up to date: for checkpoints.

use wal::{ControlRecord, FrameKind, FrameRef, Lsn, Mapping, SegmentNumber, Version};

use super::{SegmentId, Shard};
use crate::checkpoint::{CoreFacts, HeldRecord, OldRunFacts, SegmentFacts};
use crate::replication::logs::MARK_EVERY_BYTES;

/// Of the frames that are durable.
#[derive(Debug, Default)]
pub(super) struct Summary {
    /// The highest version that they originate.
    originated: Version,
    has_copies: bool,
    /// Copies of this node's own records are among them.
    pub(super) copied_own: bool,
    /// Places to start reading, each with the highest version that is originated before it.
    marks: Vec<(Version, Lsn)>,
    marked: Option<SegmentNumber>,
}

impl Summary {
    /// Takes in the next frame.
    pub(super) fn note(&mut self, frame: &FrameRef) {
        let is_due = self.marks.last().is_none_or(|(_, last)| frame.lsn.0 >= last.0 + MARK_EVERY_BYTES);
        if is_due || self.marked != Some(frame.segment) {
            self.marked = Some(frame.segment);
            self.marks.push((self.originated, frame.lsn));
        }
        self.has_copies |= frame.kind == FrameKind::Compacted;
        if frame.kind == FrameKind::Originated {
            self.originated = self.originated.max(frame.max_version);
        }
    }
}

impl<M: Mapping> Shard<M> {
    /// What a checkpoint says of this core beside its index and what expires; the node's earlier runs are known to others. The log
    /// has ended.
    #[must_use]
    pub fn checkpoint_facts(&self, old_runs: Vec<OldRunFacts>) -> CoreFacts {
        let store = &self.store;
        let old = self.compaction.old.iter().map(|old| SegmentFacts {
            id: old.segment.id,
            incarnation: old.segment.incarnation,
            cookie: old.segment.cookie,
            base: old.segment.base,
            file_bytes: old.segment.file_bytes,
            slot: old.segment.slot,
            counts: store.segment_counts(old.segment.slot),
        });
        let running = self.segments.iter().map(|segment| SegmentFacts {
            id: SegmentId { core: self.identity.core, number: segment.number },
            incarnation: self.identity.incarnation,
            cookie: segment.cookie,
            base: segment.base,
            file_bytes: self.log.segment_bytes(),
            slot: segment.slot,
            counts: store.segment_counts(segment.slot),
        });
        let begin = self.segments.first().map_or(Lsn(0), |oldest| oldest.base);
        let ceiling = ControlRecord::ClockCeiling { version: self.ceiling };
        CoreFacts {
            end: self.log.durable(),
            clock: self.clock.last(),
            originated: self.summary.originated,
            data: self.counters.originated > 0 || self.summary.copied_own,
            has_copies: self.summary.has_copies,
            store: store.counts(),
            segments: old.chain(running).collect(),
            held: self.held.iter().map(|(key, location)| HeldRecord { key: *key, location: *location }).collect(),
            marks: self.summary.marks.iter().copied().filter(|(_, at)| *at >= begin).collect(),
            controls: std::iter::once(ceiling).chain(self.kept.values().cloned()).collect(),
            old_runs,
        }
    }
}
