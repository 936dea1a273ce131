//! What has to be fetched from the disk before a command, a followed record or a slice of a walk can be run.
//!
//! Everything that looks at records first asks whether they are in memory; if not, it is run again later, and the driver reads what
//! is wanted. So nothing below that question ever waits, and a core thread never faults on the disk.

use wal::marks::{Mark, reach};
use wal::{Mapping, SegmentNumber};

use super::{SegmentId, Shard, WriteError};
use crate::storage::KeyHash;
use crate::storage::index::{Location, ScanPosition, SegmentSlot};
use crate::storage::store::Fetch;

/// Entries visited in one slice while records of them may have to be fetched: what is wanted together is in memory together.
const COLD_SLICE_ENTRIES: usize = 64;

/// A segment whose bytes never change any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImmutableSegment {
    /// How the store knows it.
    pub slot: SegmentSlot,
    /// Its file.
    pub id: SegmentId,
    /// Whether its bytes are in memory.
    pub is_in_memory: bool,
    /// How much it was read lately; zero only if nothing in it counts.
    pub uses: u32,
}

impl<M: Mapping> Shard<M> {
    /// Whether everything is in memory that has to be looked at to read or write a key with this hash.
    ///
    /// # Errors
    /// [`WriteError::NotInMemory`] if something has to be fetched first, see [`Shard::take_wanted`]; [`WriteError::Unreadable`] if it
    /// could not be.
    #[inline]
    pub fn ready(&mut self, hash: KeyHash) -> Result<(), WriteError> {
        if !self.store.has_cold() {
            return Ok(());
        }
        let before = self.wanted.len();
        let looked = self.store.missing(hash, &mut self.wanted);
        looked.map_err(|_| WriteError::Unreadable).and_then(|()| self.wanted_since(before))
    }

    /// As [`Shard::ready`], for several keys: what is missing for any of them is wanted.
    ///
    /// # Errors
    /// See [`Shard::ready`]; [`WriteError::Unreadable`] only if nothing is still to be fetched.
    pub fn all_ready(&mut self, hashes: impl IntoIterator<Item = KeyHash>) -> Result<(), WriteError> {
        let mut all = Ok(());
        for hash in hashes {
            match self.ready(hash) {
                Err(error) if all.is_ok() || error == WriteError::NotInMemory => all = Err(error),
                _ => {}
            }
        }
        all
    }

    /// As [`Shard::ready`], for a record that is kept without an entry.
    pub(super) fn ready_at(&mut self, location: Location) -> Result<(), WriteError> {
        let before = self.wanted.len();
        let looked = self.store.missing_at(location, &mut self.wanted);
        looked.map_err(|_| WriteError::Unreadable).and_then(|()| self.wanted_since(before))
    }

    /// As [`Shard::ready`], for a walk. Gives how many entries it should visit at least.
    pub(super) fn ready_to_scan(&mut self, from: ScanPosition, at_least: usize) -> Result<usize, WriteError> {
        if !self.store.has_cold() {
            return Ok(at_least);
        }
        let at_least = at_least.min(COLD_SLICE_ENTRIES);
        let before = self.wanted.len();
        self.store.missing_in_scan(from, at_least, &mut self.wanted);
        self.wanted_since(before).map(|()| at_least)
    }

    fn wanted_since(&self, before: usize) -> Result<(), WriteError> {
        if self.wanted.len() == before {
            return Ok(());
        }
        reach(Mark::RecordNotInMemory);
        Err(WriteError::NotInMemory)
    }

    /// What is to be fetched for those that were told so since the last call; the same record may be wanted more than once.
    pub fn take_wanted(&mut self) -> Vec<Fetch> {
        std::mem::take(&mut self.wanted)
    }

    /// How much is to be fetched.
    #[must_use]
    pub fn wants(&self) -> usize {
        self.wanted.len()
    }

    /// The file of a segment that the store knows by this slot.
    #[must_use]
    pub fn file_of(&self, slot: SegmentSlot) -> Option<SegmentId> {
        if let Some(segment) = self.segments.iter().find(|segment| segment.slot == slot) {
            return Some(SegmentId { core: self.identity.core, number: segment.number });
        }
        self.compaction.old.iter().find(|old| old.segment.slot == slot).map(|old| old.segment.id)
    }

    /// Segments whose bytes never change any more, older ones first.
    pub fn immutable_segments(&self) -> impl Iterator<Item = ImmutableSegment> {
        let old = self.compaction.old.iter().map(|old| (old.segment.slot, old.segment.id));
        let live = self.log.oldest_live_segment();
        let current = self.segments.iter().take_while(move |segment| segment.number < live);
        let core = self.identity.core;
        let current = current.map(move |segment| (segment.slot, SegmentId { core, number: segment.number }));
        old.chain(current).map(|(slot, id)| {
            let (is_in_memory, uses) = self.store.use_of(slot);
            ImmutableSegment { slot, id, is_in_memory, uses }
        })
    }

    /// Whether the store knows a segment of an earlier run by this slot.
    #[must_use]
    pub fn is_old(&self, slot: SegmentSlot) -> bool {
        self.compaction.old.iter().any(|old| old.segment.slot == slot)
    }

    /// Segments of this run behind `number`.
    #[must_use]
    pub fn segments_behind(&self, number: SegmentNumber) -> usize {
        self.segments.iter().rev().take_while(|segment| segment.number > number).count()
    }

    /// Takes a segment out of memory whose bytes never change any more. Gives its mapping, which lives on for as long as
    /// something of it is being sent.
    pub fn leave_memory(&mut self, slot: SegmentSlot) -> Option<M> {
        reach(Mark::SegmentLeftMemory);
        let map = self.store.leave_memory(slot);
        if let Some(segment) = self.segments.iter_mut().find(|segment| segment.slot == slot) {
            segment.map = None;
        }
        map
    }

    /// Puts a segment back into memory.
    pub fn enter_memory(&mut self, slot: SegmentSlot, map: M) {
        if let Some(segment) = self.segments.iter_mut().find(|segment| segment.slot == slot) {
            segment.map = Some(map.clone());
        }
        self.store.enter_memory(slot, map);
    }
}
