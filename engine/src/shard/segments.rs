//! The segments of the running log: supplied, and given up once nothing in them counts.

use wal::planted::{self, Fault};
use wal::{Cookie, Lsn, Mapping, Segment, SegmentNumber, Version};

use super::{Copies, Shard};
use crate::storage::index::SegmentSlot;

/// A segment of this run in which nothing counts any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Removable {
    /// Its number.
    pub number: SegmentNumber,
    /// Position behind it: the log begins there afterwards.
    pub end: Lsn,
    /// What superseded its records has versions up to here.
    pub replaced_upto: Version,
    /// Who needs the copies of its records, and where they stand; none if there are none.
    pub copies: Copies,
}

/// A segment of the running incarnation.
#[derive(Debug)]
pub(super) struct RunSegment<M> {
    pub(super) number: SegmentNumber,
    /// How index entries name it.
    pub(super) slot: SegmentSlot,
    /// Its bytes, while they are in memory.
    pub(super) map: Option<M>,
    pub(super) cookie: Cookie,
    /// Position of its first byte.
    pub(super) base: Lsn,
    /// Copies of its records.
    pub(super) copies: Copies,
}

impl<M: Clone> RunSegment<M> {
    pub(super) fn new(segment: &Segment<M>, slot: SegmentSlot) -> RunSegment<M> {
        RunSegment {
            number: segment.number,
            slot,
            map: Some(segment.map.clone()),
            cookie: segment.cookie,
            base: segment.base,
            copies: Copies::default(),
        }
    }
}

impl<M: Mapping> Shard<M> {
    /// Hands over a prepared segment.
    pub fn supply(&mut self, segment: Segment<M>) {
        let slot = self.store.add_segment(Some(segment.base), segment.map.clone());
        self.segments.push(RunSegment::new(&segment, slot));
        self.log.supply(segment);
        self.trouble = None;
    }

    /// The oldest segment of this run, if nothing in it counts any more and what took its place is durable.
    pub fn removable(&mut self) -> Option<Removable> {
        let [oldest, next, ..] = &self.segments[..] else { return None };
        let (number, slot, end, copies) = (oldest.number, oldest.slot, next.base, oldest.copies);
        let immutable = number < self.log.oldest_live_segment() && number < self.repeated.0;
        if !immutable || !self.store.is_dead(slot) || self.is_compacting_segment(slot) {
            return None;
        }
        let (_, superseded_at) = match self.emptied {
            Some(emptied) if emptied.0 == number => emptied,
            _ => *self.emptied.insert((number, self.log.staged())),
        };
        let durable = self.log.durable();
        let replaced = durable >= superseded_at && durable >= self.repeated.1;
        (replaced || planted::is(Fault::RemoveBeforeReplaced)).then(|| Removable {
            number,
            end,
            replaced_upto: self.store.replaced_upto(slot),
            copies,
        })
    }

    /// Forgets the oldest segment, which [`Shard::removable`] named, unless there is another oldest by now. Gives its slot, and its
    /// mapping if it was in memory.
    pub fn remove(&mut self, number: SegmentNumber) -> Option<(SegmentSlot, Option<M>)> {
        if self.removable()?.number != number {
            return None;
        }
        let oldest = self.segments.remove(0);
        self.store.remove_segment(oldest.slot);
        Some((oldest.slot, oldest.map))
    }

    /// The segment this run started with.
    #[must_use]
    pub fn first_segment(&self) -> (SegmentNumber, Cookie, Lsn) {
        self.first
    }

    /// The mapping of a segment of this run that is in memory.
    #[must_use]
    pub fn map_of(&self, segment: SegmentNumber) -> Option<M> {
        self.segment(segment).and_then(|found| found.map.clone())
    }
}
