//! What every member of the mesh holds deleted, or expired, is forgotten: the entry goes, and the record with its segment.
//!
//! Nothing may bring back what the forgotten record took the place of. In other nodes nothing does: all of them hold everything up to the
//! cut, and take nothing older (the receiving side leaves out what it holds already). Here, a start reads the files again. An older
//! record of the key lies in an earlier segment of the same core's log, which goes first; or in a file of an earlier run: then the
//! tombstone stays until those are gone.

use wal::marks::{Mark, reach};
use wal::planted::{self, Fault};
use wal::{Mapping, Version};

use super::Shard;
use crate::storage::KeyHash;
use crate::storage::index::{Location, SegmentSlot};

/// Tombstones looked at in one slice.
const GRAVES_PER_SLICE: usize = 256;

impl<M: Mapping> Shard<M> {
    /// Every member holds everything up to here: what died before may be forgotten.
    pub fn may_forget(&mut self, upto: Version) {
        self.forget_upto = self.forget_upto.max(upto);
    }

    /// Forgets some tombstones that need not be remembered any more. Whether there may be more of them now.
    pub fn forget(&mut self) -> bool {
        if self.forget_upto == Version::ZERO {
            return false;
        }
        for _ in 0..GRAVES_PER_SLICE {
            let Some(grave) = self.store.next_grave(self.forget_upto) else { return false };
            if !self.store.is_current(&grave) {
                continue;
            }
            if self.may_be_dug_up(grave.hash, grave.location.segment) {
                reach(Mark::TombstoneKeptForOldRun);
                self.store.keep_grave(grave);
                continue;
            }
            reach(Mark::TombstoneForgotten);
            self.forgotten += 1;
            self.store.drop_dead(grave.hash, grave.location, grave.padded_len as usize);
        }
        true
    }

    /// Whether a start might find an older record of a key whose dead one lies here, and not the dead one.
    pub(super) fn may_be_dug_up(&self, hash: KeyHash, slot: SegmentSlot) -> bool {
        if planted::is(Fault::BuriedDugUp) {
            return false;
        }
        !self.store.is_of_this_run(slot) || !self.compaction.old.is_empty() && self.store.may_be_buried(hash)
    }

    /// In compaction: whether the dead record at `location`, which died at `dead_at`, need not be copied.
    pub(super) fn need_not_copy(&self, hash: KeyHash, location: Location, dead_at: Version) -> bool {
        dead_at <= self.forget_upto && !self.may_be_dug_up(hash, location.segment)
    }

    /// Tombstones and expired records that were forgotten.
    #[must_use]
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }
}
