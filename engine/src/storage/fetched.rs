//! Records of segments that are not in memory, read from the disk one by one, and kept for a while: the ones that are asked for
//! most stay.

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::index::{Location, SegmentSlot};

/// What a record costs here besides its bytes: its place in the map and in the queue, and the counters of its bytes.
const OVERHEAD_BYTES: usize = 160;

/// What was looked at within this time is wanted again, most likely by a command that still waits for other records. It stays, even
/// if there is more of it than there should be.
const WANTED_MS: u64 = 1000;

/// A record that cannot be read is tried again after this time.
const UNREADABLE_MS: u64 = 1000;

/// Records considered for leaving in one go.
const TRIM_RECORDS_MAX: usize = 256;

type Place = (SegmentSlot, u32);

#[derive(Debug)]
struct Kept {
    /// A whole record, without padding.
    record: Bytes,
    used_ms: Cell<u64>,
}

/// See the module documentation.
#[derive(Debug, Default)]
pub(super) struct Fetched {
    records: BTreeMap<Place, Kept>,
    /// Oldest first; one that was used since it came, or since it was last considered, has another round.
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
    /// The record at `location`, if it is here.
    pub(super) fn get(&self, location: Location) -> Option<&Bytes> {
        let kept = self.records.get(&place(location))?;
        kept.used_ms.set(self.now_ms);
        Some(&kept.record)
    }

    pub(super) fn insert(&mut self, location: Location, record: Bytes) {
        let place = place(location);
        self.bytes += record.len() + OVERHEAD_BYTES;
        match self.records.insert(place, Kept { record, used_ms: Cell::new(self.now_ms) }) {
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
            if kept.used_ms.get() + WANTED_MS > now_ms {
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
    fn what_was_not_used_for_longest_goes_first_and_what_is_wanted_stays() {
        let mut fetched = Fetched::default();
        fetched.trim(2000, 0);
        for n in 0..3 {
            fetched.insert(at(0, n * 8), record(1000));
        }
        assert!(fetched.is_over());
        fetched.trim(2000, 500);
        assert!(fetched.get(at(0, 0)).is_some(), "all of them are wanted");
        fetched.trim(2000, 1400);
        let left: Vec<bool> = (0..3).map(|n| fetched.get(at(0, n * 8)).is_some()).collect();
        assert_eq!(left, [true, false, false], "the first was used at 500, the others were not");
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
