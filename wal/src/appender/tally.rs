//! What a seal block says about the versions in a segment.

use crate::format::{FrameKind, OriginRange, SEAL_ENTRIES_MAX};
use crate::ids::NodeId;
use crate::version::Version;

/// Records and version ranges of one segment, while it is written or scanned.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    records: u64,
    ranges: Vec<OriginRange>,
    /// Where the last record's origin was found: runs of one origin are the rule.
    last: usize,
    overflow: bool,
}

impl Tally {
    /// Counts a record. Local ones have no range: they never travel, so nobody waits for them.
    #[inline]
    pub(crate) fn count(&mut self, kind: FrameKind, origin: NodeId, version: Version) {
        self.records += 1;
        if kind == FrameKind::Local || self.overflow {
            return;
        }
        match self.ranges.get_mut(self.last) {
            Some(range) if range.origin == origin => widen(range, version),
            _ => self.find_and_count(origin, version),
        }
    }

    fn find_and_count(&mut self, origin: NodeId, version: Version) {
        if let Some(at) = self.ranges.iter().position(|range| range.origin == origin) {
            self.last = at;
            widen(&mut self.ranges[at], version);
        } else if self.ranges.len() < SEAL_ENTRIES_MAX {
            self.last = self.ranges.len();
            self.ranges.push(OriginRange { origin, min: version, max: version });
        } else {
            self.overflow = true;
            self.ranges = Vec::new();
        }
    }

    /// Records of all kinds.
    pub(crate) fn records(&self) -> u64 {
        self.records
    }

    /// Version ranges, ordered by origin; `None` if there were too many origins.
    pub(crate) fn origins(&self) -> Option<Vec<OriginRange>> {
        let mut ranges = self.ranges.clone();
        ranges.sort_unstable_by_key(|range| range.origin);
        (!self.overflow).then_some(ranges)
    }
}

#[inline]
fn widen(range: &mut OriginRange, version: Version) {
    range.min = range.min.min(version);
    range.max = range.max.max(version);
}
