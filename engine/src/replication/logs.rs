//! This node's own logs, current and retired: where their segments lie, what is durable, what is promised.

use std::collections::VecDeque;

use net::ids::LogId;
use net::wire::body::{LogEntry, LogState};
use wal::{Cookie, CoreId, Lsn, SegmentNumber, Version};

use super::{log_id, to_wire};
use crate::shard::{Copies, DurableFrame, Removable, SegmentId};

/// Durable frames kept in hand per core, so that a follower at the tail is served without reading files.
pub const RECENT_BYTES_MAX: usize = 8 * 1024 * 1024;

/// A place to start reading is remembered once per this many log bytes.
pub(crate) const MARK_EVERY_BYTES: u64 = 256 * 1024;

/// One segment file of an own log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SegmentRef {
    /// The core that wrote it (it names the file).
    pub core: CoreId,
    /// Its number (it names the file).
    pub number: SegmentNumber,
    /// What its frames carry.
    pub cookie: Cookie,
    /// Position of its first byte.
    pub base: Lsn,
    /// Exclusive end of its frames, once it is known.
    pub end: Option<Lsn>,
}

/// One core's part of an own log.
#[derive(Debug, Default)]
pub struct CoreLog {
    /// In order.
    pub segments: Vec<SegmentRef>,
    /// Exclusive end of what is durable.
    pub durable: Lsn,
    /// Every version ≤ this is durable and none will be originated again.
    pub complete: Version,
    /// Segments at the log's beginning were removed; what superseded their records has versions up to here. It is in what is left
    /// of the log, or was removed itself and is counted here.
    pub replaced_upto: Version,
    /// Copies of records of removed segments, and who needs them.
    pub copies: Copies,
    /// (version, position): every originated version at or after the position is greater. Rising.
    pub marks: Vec<(Version, Lsn)>,
    /// Every originated durable frame at or after this position is in `recent`.
    recent_start: Lsn,
    recent: VecDeque<DurableFrame>,
    recent_bytes: usize,
}

impl CoreLog {
    /// A retired log is only in its files.
    pub fn retire(&mut self, end: Lsn, complete: Version) {
        self.recent_start = Lsn(u64::MAX);
        self.durable = end;
        self.complete = complete;
    }

    /// Remembers a frame boundary where a reader may start; every version originated before it is ≤ `before`, and every later
    /// one is greater. (Not the clock of the frame that ends there: other frames of its group carry the same.)
    pub fn mark(&mut self, before: Version, at: Lsn) {
        let due = self.marks.last().is_none_or(|(_, last)| at.0 >= last.0 + MARK_EVERY_BYTES);
        if due {
            self.marks.push((before, at));
        }
    }

    /// Where to start for a follower that holds everything up to `version`.
    #[must_use]
    pub fn start_for(&self, version: Version) -> Lsn {
        let after = self.marks.partition_point(|(mark, _)| *mark <= version);
        match after.checked_sub(1) {
            Some(at) => self.marks[at].1,
            None => self.begin(),
        }
    }

    /// Where everything up to `version` has been read, as far as is known.
    #[must_use]
    pub fn end_for(&self, version: Version) -> Lsn {
        let after = self.marks.partition_point(|(mark, _)| *mark < version);
        self.marks.get(after).map_or(self.durable, |(_, at)| *at).min(self.durable)
    }

    /// About how many bytes of it are to be read for a follower that holds everything up to `from`: what is in memory is counted
    /// exactly, so that one that lacks little of it is seen to.
    #[must_use]
    pub fn lacking_bytes(&self, from: Version) -> u64 {
        let wants_copies = from < self.copies.below && self.copies.upto > self.begin();
        if from >= self.complete
            && self.recent.back().is_none_or(|last| last.frame.max_version <= from)
            && !wants_copies
        {
            return 0;
        }
        let start = if wants_copies { self.begin() } else { self.start_for(from) }.max(self.begin());
        let in_files = self.recent_start.min(self.durable).0.saturating_sub(start.0);
        let lacking = self.recent_from(start.max(self.recent_start)).into_iter().flatten();
        let lacking = lacking.filter(|durable| durable.frame.max_version > from);
        in_files + lacking.map(|durable| durable.payload.len() as u64).sum::<u64>()
    }

    /// Where it begins: a place to start for a follower that has nothing of it.
    #[must_use]
    pub fn begin(&self) -> Lsn {
        self.segments.first().map_or(Lsn(0), |segment| segment.base)
    }

    /// Its beginning is gone: who holds less than `end` needs all that is left, copies included, before a claim.
    pub fn begin_late(&mut self, end: Version) {
        self.replaced_upto = end;
        if self.copies.upto > Lsn(0) {
            self.copies.below = end;
        }
    }

    /// The log begins at `removed.end` from now on.
    pub fn remove_before(&mut self, removed: &Removable) {
        let end = removed.end;
        self.replaced_upto = self.replaced_upto.max(removed.replaced_upto);
        self.copies = self.copies.and(removed.copies);
        self.segments.retain(|segment| segment.base >= end);
        self.marks.retain(|(_, at)| *at >= end);
        while let Some(old) = self.recent.pop_front_if(|frame| frame.frame.lsn < end) {
            self.recent_bytes -= old.payload.len();
            self.recent_start = old.frame.end;
        }
    }

    /// Takes in frames that became durable.
    pub fn extend(&mut self, durable: Lsn, complete: Version, frames: Vec<DurableFrame>) {
        for frame in frames {
            self.mark(self.recent.back().map_or(self.complete, |last| last.frame.max_version), frame.frame.lsn);
            self.recent_bytes += frame.payload.len();
            self.recent.push_back(frame);
        }
        while self.recent_bytes > RECENT_BYTES_MAX && self.recent.len() > 1 {
            if let Some(old) = self.recent.pop_front() {
                self.recent_bytes -= old.payload.len();
                self.recent_start = old.frame.end;
            }
        }
        self.durable = self.durable.max(durable);
        self.complete = self.complete.max(complete);
    }

    /// The frames in hand at or after `from`; `None` if earlier ones have to be read from files first.
    #[must_use]
    pub fn recent_from(&self, from: Lsn) -> Option<impl Iterator<Item = &DurableFrame>> {
        if from < self.recent_start {
            return None;
        }
        let at = self.recent.partition_point(|frame| frame.frame.lsn < from);
        Some(self.recent.range(at..))
    }

    /// Bytes of the frames in hand, at most [`RECENT_BYTES_MAX`] and one frame.
    #[must_use]
    pub fn in_hand_bytes(&self) -> usize {
        self.recent_bytes
    }

    /// The segment that holds `at`.
    #[must_use]
    pub fn segment_at(&self, at: Lsn) -> Option<(usize, SegmentRef)> {
        let after = self.segments.partition_point(|segment| segment.base <= at);
        let index = after.checked_sub(1)?;
        Some((index, self.segments[index]))
    }
}

/// One own log.
#[derive(Debug)]
pub struct OwnLog {
    /// Its name.
    pub id: LogId,
    /// Every version of it is ≥ this.
    pub first: Version,
    /// The claim that ends it; `None` while it is being written.
    pub end: Option<Version>,
    /// By core.
    pub cores: Vec<CoreLog>,
    /// It has lost its beginning. What counted there, or superseded it, stands in later logs: in copies, and in what they
    /// originated up to this version. Zero if it is whole.
    pub rests_on_later_upto: Version,
}

impl OwnLog {
    /// An empty log of `cores` cores.
    #[must_use]
    pub fn new(node: wal::NodeId, incarnation: wal::Incarnation, first: Version, cores: u16) -> Self {
        OwnLog {
            id: log_id(node, incarnation),
            first,
            end: None,
            rests_on_later_upto: Version::ZERO,
            cores: std::iter::repeat_with(CoreLog::default).take(usize::from(cores)).collect(),
        }
    }

    /// A segment of this retired log is gone, and none before it is left. What superseded its records has versions up to
    /// `replaced_upto`.
    pub fn lose_beginning(&mut self, segment: SegmentId, replaced_upto: Version) {
        // At least something, so that it counts as no longer whole.
        self.rests_on_later_upto = self.rests_on_later_upto.max(replaced_upto).max(self.first);
        let end = self.end.unwrap_or(Version::ZERO);
        for core in &mut self.cores {
            let gone = |found: &SegmentRef| (found.core, found.number) == (segment.core, segment.number);
            if let Some(at) = core.segments.iter().position(gone) {
                core.segments.remove(at);
                let begin = core.begin();
                core.marks.retain(|(_, at)| *at >= begin);
                core.begin_late(end);
                if core.segments.is_empty() {
                    core.durable = Lsn(0);
                    core.copies = Copies::default();
                }
            }
        }
    }

    /// What followers are told of it.
    #[must_use]
    pub fn entry(&self) -> LogEntry {
        LogEntry {
            log: self.id,
            first: to_wire(self.first),
            end: to_wire(self.end.unwrap_or(Version::ZERO)),
            cores: u16::try_from(self.cores.len()).unwrap_or(u16::MAX),
            state: if self.end.is_some() { LogState::Retired } else { LogState::Open },
        }
    }

    /// The highest promise of any core: what the idle ones are asked to catch up with.
    #[must_use]
    pub fn highest_complete(&self) -> Version {
        self.cores.iter().map(|core| core.complete).max().unwrap_or(Version::ZERO)
    }

    /// What a follower that holds everything up to `from` may claim first: it holds what superseded the records of removed segments
    /// once it was sent everything up to here.
    #[must_use]
    pub fn claims_begin_at(&self, from: Version) -> Version {
        let replaced_upto = self.cores.iter().map(|core| core.replaced_upto).max().unwrap_or(Version::ZERO);
        if from < replaced_upto { replaced_upto } else { Version::ZERO }
    }

    /// The node's own claim: the minimum over its cores.
    #[must_use]
    pub fn complete(&self) -> Version {
        self.cores.iter().map(|core| core.complete).min().unwrap_or(Version::ZERO)
    }
}

/// All own logs, oldest first; the last one is being written.
#[derive(Debug, Default)]
pub struct OwnLogs {
    /// Never empty once the node runs.
    pub logs: Vec<OwnLog>,
}

impl OwnLogs {
    /// A log by name.
    #[must_use]
    pub fn get(&self, id: LogId) -> Option<&OwnLog> {
        self.logs.iter().find(|log| log.id == id)
    }

    /// The log being written.
    ///
    /// # Panics
    /// Before the node opened one.
    pub fn current(&mut self) -> &mut OwnLog {
        self.logs.last_mut().expect("a running node has opened its log")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_wait_for_what_superseded_removed_records_and_for_no_more() {
        let mut log = OwnLog::new(wal::NodeId(1), wal::Incarnation(2), Version(10), 2);
        log.cores[0].complete = Version(1_000);
        assert_eq!(log.claims_begin_at(Version(0)), Version::ZERO);
        let removed = |end, replaced_upto| Removable {
            number: SegmentNumber(1),
            end: Lsn(end),
            replaced_upto: Version(replaced_upto),
            copies: Copies::default(),
        };
        log.cores[0].remove_before(&removed(8_192, 50));
        log.cores[1].remove_before(&removed(8_192, 70));
        log.cores[0].remove_before(&removed(16_384, 40));
        assert_eq!(log.claims_begin_at(Version(0)), Version(70));
        assert_eq!(log.claims_begin_at(Version(69)), Version(70));
        assert_eq!(log.claims_begin_at(Version(70)), Version::ZERO, "whoever holds them claims as always");
    }
}
