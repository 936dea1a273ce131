//! Which segments are in memory. `MEMORY_LIMIT` bounds the index, the buffers and the segments together: the segments that are read
//! least leave, and one that is read more than another comes back in its place.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use net::reactor::{Completion, FileJob, Mono, Op, Outcome};
use wal::Mapping;
use wal::marks::{Mark, reach};

use super::CoreLoop;
use super::ops::Context;
use crate::host::{Host, segment_path};
use crate::shard::{ImmutableSegment, SegmentId};
use crate::storage::index::SegmentSlot;

/// How often what segments are read for is looked at, and how long older reads count double of what they did.
const LOOK_MS: u64 = 1000;

/// Looks between two exchanges of a segment in memory for one that is not: each costs the read of a whole segment.
const LOOKS_PER_EXCHANGE: u32 = 5;

/// A segment comes in place of another one only if it is read so many times as much.
const EXCHANGE_FACTOR: u32 = 2;

/// The share of the limit that fetched records may take: one part in so many.
const FETCHED_PART: u64 = 4;

/// The share of the limit that may be held by what is being sent before slow readers are closed early: one part in so many.
const PINNED_PART: u64 = 8;

/// How long after a failure to open or read a segment the next attempt comes.
const RETRY_MS: u64 = 1000;

/// A segment on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Moving {
    slot: SegmentSlot,
    id: SegmentId,
    /// Into memory, or out of it.
    enters: bool,
}

/// The state of a core's memory.
#[derive(Debug)]
pub(super) struct Residency<H: Host> {
    /// Bytes that this core may take, where there is a bound.
    bytes_max: Option<u64>,
    /// Files of segments that are not in memory.
    files: BTreeMap<SegmentSlot, H::File>,
    moving: Option<Moving>,
    /// Mappings of segments that left while something of them was being sent, with the slots that they have until they are
    /// removed; not those that other cores have, too.
    leaving: Vec<(Option<SegmentSlot>, H::Map)>,
    look_at: Mono,
    looks: u32,
    retry_at: Mono,
}

impl<H: Host> Residency<H> {
    pub(super) fn new(bytes_max: Option<u64>) -> Self {
        Residency {
            bytes_max,
            files: BTreeMap::new(),
            moving: None,
            leaving: Vec::new(),
            look_at: Mono(0),
            looks: 0,
            retry_at: Mono(0),
        }
    }

    /// The file of a segment that is not in memory.
    pub(super) fn file(&self, slot: SegmentSlot) -> Option<&H::File> {
        self.files.get(&slot)
    }

    /// A segment was removed. Whether its file may be used again at once: nothing that is being sent lies in it. A record of it
    /// that is still being read from the disk is recognised as late.
    pub(super) fn removed(&mut self, slot: SegmentSlot, map: Option<H::Map>) -> bool {
        self.files.remove(&slot);
        let mut is_held = false;
        for (of, map) in &mut self.leaving {
            if *of == Some(slot) {
                is_held |= !map.is_unique();
                *of = None;
            }
        }
        !is_held && map.is_none_or(|map| map.is_unique())
    }
}

impl<H: Host> CoreLoop<H> {
    /// Keeps within the bound. Does one step at a time; a look costs time in proportion to the segments.
    pub(super) fn tend_memory(&mut self) {
        let Some(bytes_max) = self.residency.bytes_max else { return };
        let now = self.now();
        let taken = self.memory_bytes();
        // Beside their own share, fetched records have the room in which no whole segment fits.
        let room = bytes_max.saturating_sub(taken - self.shard.store().fetched_bytes() as u64);
        self.shard.store().trim_fetched(narrow(room.max(bytes_max / FETCHED_PART)), now.0 / 1_000_000);
        if self.stopping || self.commit.failed || self.residency.moving.is_some() || now < self.residency.retry_at {
            return;
        }
        self.residency.leaving.retain(|(_, map)| !map.is_unique());
        let look = now >= self.residency.look_at;
        if look {
            self.residency.look_at = now.plus_ms(LOOK_MS);
            self.residency.looks = self.residency.looks.wrapping_add(1);
            self.publish_memory(taken);
        }
        // They give way to segments, within their share.
        let fetched = (self.shard.store().fetched_bytes() as u64).saturating_sub(bytes_max / FETCHED_PART);
        let taken = taken - fetched;
        if taken > bytes_max {
            if let Some(moving) = self.coldest(None) {
                self.make_leave(moving);
            }
        } else if look && self.shard.store().has_cold() {
            self.consider_return(bytes_max - taken);
        }
        if look {
            self.shard.store().age_uses();
        }
    }

    /// Whether segments that ought to have left hold much of the memory.
    pub(super) fn much_is_pinned(&self) -> bool {
        self.residency.bytes_max.is_some_and(|bytes_max| self.pinned_bytes() > bytes_max / PINNED_PART)
    }

    fn pinned_bytes(&self) -> u64 {
        self.residency.leaving.iter().map(|(_, map)| map.len() as u64).sum()
    }

    /// What this core takes of the limit.
    fn memory_bytes(&mut self) -> u64 {
        let (current, offset) = self.shard.log().append_position();
        let segment_bytes = self.shard.log().segment_bytes();
        // Of the segment that is appended to what was, or soon will be, stored to; of spares nothing.
        let populated = self.commit.segments.populated_in(current).max(u64::from(offset));
        let spares = self.shard.segments_behind(current) as u64;
        let untouched = spares * segment_bytes + segment_bytes.saturating_sub(populated);
        let pinned = self.pinned_bytes();
        let store = self.shard.store();
        let mapped = store.mapped_bytes().saturating_sub(untouched);
        (store.index_bytes() + store.fetched_bytes() + self.clients.buffered_bytes()) as u64 + mapped + pinned
    }

    /// The segment in memory that is read least, below `uses` if that is given; of those that are read as little, the oldest.
    fn coldest(&mut self, below: Option<u32>) -> Option<Moving> {
        let mut coldest: Option<(u32, Moving)> = None;
        for ImmutableSegment { slot, id, uses, .. } in
            self.shard.immutable_segments().filter(|segment| segment.is_in_memory)
        {
            if below.is_none_or(|below| uses < below) && coldest.is_none_or(|(least, _)| uses < least) {
                coldest = Some((uses, Moving { slot, id, enters: false }));
            }
        }
        coldest.map(|(_, moving)| moving)
    }

    fn make_leave(&mut self, moving: Moving) {
        let path = segment_path(&self.commit.segments.data_dir, moving.id.core, moving.id.number);
        self.residency.moving = Some(moving);
        self.ops.submit(&mut self.io, Op::File(FileJob::Open { path }), Context::Move);
    }

    /// Brings the segment back that is read most, if there is room for it, or one in its place that is read much less.
    fn consider_return(&mut self, room: u64) {
        let cold = self.shard.immutable_segments().filter(|segment| !segment.is_in_memory);
        let hottest = cold.max_by_key(|segment| segment.uses).filter(|segment| segment.uses > 0);
        let Some(ImmutableSegment { slot, id, uses, .. }) = hottest else { return };
        let Some(file) = self.residency.files.get(&slot).cloned() else { return };
        // Half a segment of room is left, so that it does not have to leave again at once.
        if room >= self.shard.log().segment_bytes() * 3 / 2 {
            self.residency.moving = Some(Moving { slot, id, enters: true });
            self.ops.submit(&mut self.io, Op::File(FileJob::Warm { file }), Context::Move);
        } else if self.residency.looks.is_multiple_of(LOOKS_PER_EXCHANGE)
            && let Some(moving) = self.coldest(Some(uses / EXCHANGE_FACTOR))
        {
            self.make_leave(moving);
        }
    }

    /// The file of a segment that leaves is open, or that of one that returns is in the page cache.
    pub(super) fn moved(&mut self, completion: Completion<H::File>) {
        let Some(Moving { slot, id, enters }) = self.residency.moving.take() else { return };
        // It may have been removed meanwhile, and its slot may be used again.
        let is_there = self.shard.file_of(slot).is_some_and(|there| there == id);
        match completion.result {
            _ if !is_there => {}
            Ok(Outcome::Opened(file)) => {
                self.residency.files.insert(slot, file);
                let map = self.shard.leave_memory(slot);
                // Of a segment of an earlier run every core has the mapping; whoever keeps it to see when it is free keeps the others
                // from seeing that.
                let shared = self.shard.is_old(slot) && self.facts.cores > 1;
                self.residency
                    .leaving
                    .extend(map.filter(|map| !shared && !map.is_unique()).map(|map| (Some(slot), map)));
                let taken = self.memory_bytes();
                self.publish_memory(taken);
            }
            Ok(_) if enters => self.enter(slot),
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(core = self.core, segment = ?id, %error, "a segment cannot be moved into or out of memory yet");
                self.residency.retry_at = self.now().plus_ms(RETRY_MS);
            }
        }
    }

    fn enter(&mut self, slot: SegmentSlot) {
        let Some(file) = self.residency.files.get(&slot) else { return };
        match H::map(file, self.shard.store().file_bytes(slot)) {
            Ok(map) => {
                reach(Mark::SegmentEnteredMemory);
                self.residency.files.remove(&slot);
                self.shard.enter_memory(slot, map);
            }
            Err(error) => {
                tracing::warn!(core = self.core, %error, "a segment cannot be mapped");
                self.residency.retry_at = self.now().plus_ms(RETRY_MS);
            }
        }
    }

    fn publish_memory(&mut self, taken: u64) {
        let cold = self.shard.store().cold_segments() as u64;
        let pinned = self.pinned_bytes();
        let store = self.shard.store();
        for (gauge, value) in [
            (&self.gauges.memory_bytes, taken),
            (&self.gauges.mapped_bytes, store.mapped_bytes()),
            (&self.gauges.fetched_bytes, store.fetched_bytes() as u64),
            (&self.gauges.cold_segments, cold),
            (&self.gauges.pinned_bytes, pinned),
        ] {
            gauge.store(value, Ordering::Relaxed);
        }
    }
}

fn narrow(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
