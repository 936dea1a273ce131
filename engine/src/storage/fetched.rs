//! Records of segments that are not in memory, read from the disk one by one, and kept for a while: the ones that are asked for
//! most stay.

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::index::{Location, SegmentSlot};

/// What a record costs here besides its bytes: its place in the map and in the queue, and the counters of its bytes.
const OVERHEAD_BYTES: usize = 160;

/// What somebody waits for, perhaps together with other records, stays until it is used, even if there is more of it than there
/// should be; but no longer than this: who waited may be gone.
const WANTED_MS: u64 = 1000;

/// Rounds that a record stays for having been used again and again.
const ROUNDS_MAX: u8 = 3;

/// A record that cannot be read is tried again after this time.
const UNREADABLE_MS: u64 = 1000;

/// Records considered for leaving in one go.
const TRIM_RECORDS_MAX: usize = 256;

type Place = (SegmentSlot, u32);

#[derive(Debug)]
struct Kept {
    /// A whole record, without padding.
    record: Bytes,
    /// Until then somebody waits for it.
    wanted_ms: Cell<u64>,
    used_ms: Cell<u64>,
    rounds: Cell<u8>,
}

/// See the module documentation.
#[derive(Debug, Default)]
pub(super) struct Fetched {
    records: BTreeMap<Place, Kept>,
    /// Oldest first; one that was used again has another round.
    order: VecDeque<Place>,
    bytes: usize,
    bytes_max: usize,
    now_ms: u64,
    /// Until when these count as unreadable.
    unreadable: BTreeMap<Place, u64>,
}

fn place(location: Location) -> Place {
    (location.segment, location.offset)
}

impl Fetched {
    /// Whether the record at `location` is here. Who asks wants to use it, perhaps once others are here as well.
    pub(super) fn is_here(&self, location: Location) -> bool {
        let kept = self.records.get(&place(location));
        kept.is_some_and(|kept| {
            kept.wanted_ms.set(self.now_ms + WANTED_MS);
            true
        })
    }

    /// The record at `location`, for use, if it is here.
    pub(super) fn get(&self, location: Location) -> Option<&Bytes> {
        let kept = self.records.get(&place(location))?;
        kept.wanted_ms.set(0);
        // A command may look more than once.
        let used_ms = kept.used_ms.replace(self.now_ms);
        if used_ms != 0 && used_ms != self.now_ms {
            kept.rounds.set(ROUNDS_MAX.min(kept.rounds.get() + 1));
        }
        Some(&kept.record)
    }

    pub(super) fn insert(&mut self, location: Location, record: Bytes) {
        let place = place(location);
        self.bytes += record.len() + OVERHEAD_BYTES;
        let wanted_ms = Cell::new(self.now_ms + WANTED_MS);
        let kept = Kept { record, wanted_ms, used_ms: Cell::default(), rounds: Cell::default() };
        match self.records.insert(place, kept) {
            Some(before) => self.bytes -= before.record.len() + OVERHEAD_BYTES,
            None => self.order.push_back(place),
        }
    }

    /// The record at `location` could not be read.
    pub(super) fn insert_unreadable(&mut self, location: Location) {
        self.unreadable.insert(place(location), self.now_ms + UNREADABLE_MS);
    }

    pub(super) fn is_unreadable(&self, location: Location) -> bool {
        self.unreadable.get(&place(location)).is_some_and(|until| *until > self.now_ms)
    }

    /// Forgets what lies in a segment: its slot may name another one from now on.
    pub(super) fn forget(&mut self, segment: SegmentSlot) {
        let all = (segment, 0)..=(segment, u32::MAX);
        let gone: Vec<Place> = self.records.range(all.clone()).map(|(place, _)| *place).collect();
        for place in gone {
            if let Some(kept) = self.records.remove(&place) {
                self.bytes -= kept.record.len() + OVERHEAD_BYTES;
            }
        }
        self.unreadable.retain(|place, _| !all.contains(place));
    }

    /// Bytes of memory held.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether there is more than there should be.
    pub(super) fn is_over(&self) -> bool {
        self.bytes > self.bytes_max
    }

    /// Lets go of what was not used for longest, down to `bytes_max` bytes. `now_ms` is of a clock that does not step back.
    pub(super) fn trim(&mut self, bytes_max: usize, now_ms: u64) {
        (self.bytes_max, self.now_ms) = (bytes_max, now_ms);
        if !self.unreadable.is_empty() {
            self.unreadable.retain(|_, until| *until > now_ms);
        }
        for _ in 0..TRIM_RECORDS_MAX {
            // What a forgotten segment left in the queue goes, too.
            if !self.is_over() && self.order.len() <= 2 * self.records.len() {
                break;
            }
            let Some(place) = self.order.pop_front() else { break };
            let Some(kept) = self.records.get(&place) else { continue };
            if kept.wanted_ms.get() > now_ms || kept.rounds.get() > 0 {
                kept.rounds.set(kept.rounds.get().saturating_sub(1));
                self.order.push_back(place);
            } else if let Some(kept) = self.records.remove(&place) {
                self.bytes -= kept.record.len() + OVERHEAD_BYTES;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(segment: u32, offset: u32) -> Location {
        Location { segment: SegmentSlot(segment), offset, len_max: 64 }
    }

    fn record(len: usize) -> Bytes {
        Bytes::from(vec![7; len])
    }

    #[test]
    fn what_was_not_used_again_goes_first_and_what_is_wanted_stays() {
        const THREE: usize = 3 * (1000 + OVERHEAD_BYTES);
        let mut fetched = Fetched::default();
        let left = |fetched: &Fetched| -> Vec<u32> {
            (0..4).filter(|n| fetched.records.contains_key(&(SegmentSlot(0), n * 8))).collect()
        };
        fetched.trim(THREE, 1);
        for n in 0..4 {
            fetched.insert(at(0, n * 8), record(1000));
        }
        fetched.trim(THREE, 500);
        assert_eq!((fetched.is_over(), left(&fetched)), (true, vec![0, 1, 2, 3]), "all of them are wanted");
        assert!(fetched.get(at(0, 0)).is_some() && fetched.get(at(0, 8)).is_some());
        fetched.trim(THREE + 1000 + OVERHEAD_BYTES, 510);
        assert!(fetched.get(at(0, 0)).is_some() && fetched.is_here(at(0, 16)));
        fetched.trim(THREE, 520);
        assert_eq!(left(&fetched), [0, 2, 3], "the second was used once, and nobody waits for it");
        fetched.insert(at(0, 8), record(1000));
        fetched.trim(THREE, 1505);
        assert_eq!(left(&fetched), [0, 1, 2], "nobody came for the fourth; the third was asked for at 510");
    }

    #[test]
    fn a_segment_that_goes_takes_its_records_along() {
        let mut fetched = Fetched::default();
        fetched.insert(at(1, 8), record(10));
        fetched.insert(at(2, 8), record(10));
        fetched.insert_unreadable(at(1, 16));
        fetched.forget(SegmentSlot(1));
        assert!(fetched.get(at(1, 8)).is_none() && fetched.get(at(2, 8)).is_some());
        assert!(!fetched.is_unreadable(at(1, 16)));
        fetched.insert(at(1, 8), record(20));
        fetched.trim(0, 5000);
        assert_eq!((fetched.bytes(), fetched.records.len(), fetched.order.len()), (0, 0, 0));
    }

    #[test]
    fn an_unreadable_record_is_tried_again_later() {
        let mut fetched = Fetched::default();
        fetched.trim(0, 10);
        fetched.insert_unreadable(at(1, 8));
        assert!(fetched.is_unreadable(at(1, 8)));
        fetched.trim(0, 10 + UNREADABLE_MS);
        assert!(!fetched.is_unreadable(at(1, 8)));
    }
}
