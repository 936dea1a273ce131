//! Which segments are in memory. The index, and what the store counts, always are; of a segment that is not, single records are
//! fetched from the disk before anything looks at them.

use bytes::Bytes;
use wal::marks::{Mark, reach};
use wal::{Mapping, RecordError, RecordView};

use super::{KnownSegment, Store};
use crate::storage::KeyHash;
use crate::storage::index::{Location, ScanPosition, SegmentSlot};

/// A record to read from the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// Where it lies.
    pub location: Location,
    /// Tells its segment from others that had or will have the same slot.
    pub epoch: u32,
    /// Bytes to read: the record is no longer, and the file ends no earlier.
    pub len: u32,
}

/// What came of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fetched {
    /// The record is there, or its segment needs it no more.
    Done,
    /// It is longer than the index knows: to be read again.
    Longer(Fetch),
    /// It is no record.
    Damaged(RecordError),
}

/// What is read of a record whose length the index does not bound: of one that is longer, the rest follows with a second read.
const LARGE_BYTES: u32 = 2 * 1024 * 1024;

fn bytes_behind<M>(segment: &KnownSegment<M>, location: Location) -> u32 {
    u32::try_from(segment.file_bytes.saturating_sub(u64::from(location.offset))).unwrap_or(u32::MAX)
}

/// A record could not be read from the disk lately.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unreadable;

impl<M: Mapping> Store<M> {
    /// Whether some segment is not in memory: only then anything can be missing.
    #[inline]
    #[must_use]
    pub fn has_cold(&self) -> bool {
        self.cold > 0
    }

    /// Adds the records to `missing` that have to be fetched before the store can be asked for the key: its own, and rarely one of
    /// a key that shares its tag.
    ///
    /// # Errors
    /// [`Unreadable`] if one of them could not be read.
    pub fn missing(&self, hash: KeyHash, missing: &mut Vec<Fetch>) -> Result<(), Unreadable> {
        let mut unreadable = false;
        self.index.find(hash.0, |slot| {
            unreadable |= self.look_for(slot.location(), missing);
            false
        });
        if unreadable { Err(Unreadable) } else { Ok(()) }
    }

    /// As [`Store::missing`], for a record that is kept without an entry.
    ///
    /// # Errors
    /// [`Unreadable`] if it could not be read.
    pub fn missing_at(&self, location: Location, missing: &mut Vec<Fetch>) -> Result<(), Unreadable> {
        if self.look_for(location, missing) { Err(Unreadable) } else { Ok(()) }
    }

    /// As [`Store::missing`], for what [`Store::scan`] would visit; records that cannot be read are not among them.
    pub fn missing_in_scan(&self, from: ScanPosition, at_least: usize, missing: &mut Vec<Fetch>) {
        self.index.scan(from, at_least, |slot| {
            self.look_for(slot.location(), missing);
        });
    }

    /// Whether the record cannot be read; adds it to `missing` if it can and is not here.
    fn look_for(&self, location: Location, missing: &mut Vec<Fetch>) -> bool {
        let segment = self.known(location.segment);
        if segment.map.is_some() || self.fetched.is_here(location) {
            return false;
        }
        if self.is_unreadable(location) {
            return true;
        }
        let len = bytes_behind(segment, location).min(if location.len_max == u32::MAX {
            LARGE_BYTES
        } else {
            location.len_max
        });
        missing.push(Fetch { location, epoch: segment.epoch, len });
        false
    }

    pub(super) fn is_unreadable(&self, location: Location) -> bool {
        self.known(location.segment).map.is_none() && self.fetched.is_unreadable(location)
    }

    /// Takes in what was read for `fetch`, which begins with the record. Bytes that are no record count as unreadable for a while.
    pub fn fetched(&mut self, fetch: Fetch, bytes: &[u8]) -> Fetched {
        let Some(segment) = self.current(fetch) else {
            reach(Mark::FetchedTooLate);
            return Fetched::Done;
        };
        let behind = bytes_behind(segment, fetch.location);
        // Nobody has looked at it since it was written, or since the last start: it is verified.
        match RecordView::parse(bytes) {
            Ok((record, _)) => {
                self.fetched.insert(fetch.location, Bytes::copy_from_slice(record.bytes));
                Fetched::Done
            }
            Err(RecordError::Incomplete { needed, .. }) if needed > fetch.len as usize && needed <= behind as usize => {
                Fetched::Longer(Fetch { len: u32::try_from(needed).unwrap_or(behind), ..fetch })
            }
            Err(error) => {
                self.fetched.insert_unreadable(fetch.location);
                Fetched::Damaged(error)
            }
        }
    }

    /// The read for `fetch` failed.
    pub fn fetch_failed(&mut self, fetch: Fetch) {
        if self.current(fetch).is_some() {
            self.fetched.insert_unreadable(fetch.location);
        }
    }

    /// The segment, if it is still the one that was meant, and still not in memory.
    fn current(&self, fetch: Fetch) -> Option<&KnownSegment<M>> {
        let known = self.segments.get(fetch.location.segment.0 as usize).and_then(Option::as_ref);
        known.filter(|segment| segment.epoch == fetch.epoch && segment.map.is_none())
    }

    /// Size of a segment's file in bytes.
    #[must_use]
    pub fn file_bytes(&self, slot: SegmentSlot) -> u64 {
        self.known(slot).file_bytes
    }

    /// Bytes of memory that fetched records take.
    #[must_use]
    pub fn fetched_bytes(&self) -> usize {
        self.fetched.bytes()
    }

    /// Whether fetched records take more memory than they should.
    #[must_use]
    pub fn fetched_is_over(&self) -> bool {
        self.fetched.is_over()
    }

    /// Lets go of fetched records that were not used lately, down to `bytes_max`.
    pub fn trim_fetched(&mut self, bytes_max: usize, now_ms: u64) {
        self.fetched.trim(bytes_max, now_ms);
    }

    /// Bytes of segments that are in memory.
    #[must_use]
    pub fn mapped_bytes(&self) -> u64 {
        self.mapped_bytes
    }

    /// Segments that are not in memory.
    #[must_use]
    pub fn cold_segments(&self) -> usize {
        self.cold
    }

    /// Whether a segment is in memory, and how much it was read lately: zero only if no entry names it.
    #[must_use]
    pub fn use_of(&self, slot: SegmentSlot) -> (bool, u32) {
        let segment = self.known(slot);
        let uses = if segment.entries > 0 { segment.uses.get().saturating_add(1) } else { 0 };
        (segment.map.is_some(), uses)
    }

    /// Older reads count half of what they did.
    pub fn age_uses(&mut self) {
        for segment in self.segments.iter().flatten() {
            segment.uses.set(segment.uses.get() / 2);
        }
    }

    /// Takes a segment out of memory; its mapping, if it was there.
    pub fn leave_memory(&mut self, slot: SegmentSlot) -> Option<M> {
        let segment = self.known_mut(slot);
        let (map, file_bytes) = (segment.map.take()?, segment.file_bytes);
        self.cold += 1;
        self.mapped_bytes -= file_bytes;
        Some(map)
    }

    /// Puts a segment into memory.
    pub fn enter_memory(&mut self, slot: SegmentSlot, map: M) {
        let segment: &mut KnownSegment<M> = self.known_mut(slot);
        let file_bytes = segment.file_bytes;
        if segment.map.replace(map).is_none() {
            self.cold -= 1;
            self.mapped_bytes += file_bytes;
            self.fetched.forget(slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use wal::{MemoryMap, NodeId, RecordDraft, RecordOp, Version};

    use super::*;
    use crate::storage::NodeSecret;
    use crate::storage::store::{Facts, Verdict};

    const OFFSET: u32 = 64;

    fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
        let (version, op) = (Version::new(9, 0, 0), RecordOp::Put);
        RecordDraft { version, origin: NodeId(1), op, expiry: None, key, value }.to_vec()
    }

    /// A segment in which the record stands, and which is the only one.
    fn segment(store: &mut Store<MemoryMap>, key: &[u8], value: &[u8]) -> (SegmentSlot, MemoryMap) {
        let record = record(key, value);
        let map = MemoryMap::new(OFFSET as usize + record.len() + 4096);
        map.store(OFFSET as usize, &record);
        let slot = store.add_segment(None, map.clone());
        let view = RecordView::parse_trusted(&record).unwrap();
        let location = Location { segment: slot, offset: OFFSET, len_max: u32::try_from(view.bytes.len()).unwrap() };
        store.install(NodeSecret(7).hash(key), Verdict::First, location, Facts::of(&view));
        (slot, map)
    }

    fn wanted(store: &Store<MemoryMap>, key: &[u8]) -> Result<Vec<Fetch>, Unreadable> {
        let mut missing = Vec::new();
        store.missing(NodeSecret(7).hash(key), &mut missing).map(|()| missing)
    }

    fn value(store: &Store<MemoryMap>, key: &[u8]) -> Option<Vec<u8>> {
        store.read(NodeSecret(7).hash(key), key, |record| record.value.to_vec()).map(|(value, ..)| value)
    }

    fn bytes(map: &MemoryMap, fetch: Fetch) -> Vec<u8> {
        let start = fetch.location.offset as usize;
        map.to_vec()[start..start + fetch.len as usize].to_vec()
    }

    #[test]
    fn a_record_outside_memory_is_found_once_it_was_fetched() {
        let mut store = Store::new(2, NodeId(1));
        let (slot, map) = segment(&mut store, b"key", b"value");
        assert_eq!(wanted(&store, b"key"), Ok(Vec::new()));
        store.leave_memory(slot);
        let missing = wanted(&store, b"key").unwrap();
        assert_eq!(store.fetched(missing[0], &bytes(&map, missing[0])), Fetched::Done);
        assert_eq!((wanted(&store, b"key"), value(&store, b"key")), (Ok(Vec::new()), Some(b"value".to_vec())));
        let large = store.large_value(NodeSecret(7).hash(b"key"), b"key", 1, |_| true);
        assert_eq!(large.map(|(value, _)| value.to_vec()), Some(b"value".to_vec()));
        store.enter_memory(slot, map);
        assert_eq!(
            (store.has_cold(), store.fetched_bytes(), value(&store, b"key")),
            (false, 0, Some(b"value".to_vec()))
        );
    }

    #[test]
    fn a_record_longer_than_the_index_knows_is_read_again() {
        let mut store = Store::new(2, NodeId(1));
        let large = vec![b'v'; 3 << 20];
        let (slot, map) = segment(&mut store, b"key", &large);
        store.leave_memory(slot);
        let missing = wanted(&store, b"key").unwrap();
        let Fetched::Longer(again) = store.fetched(missing[0], &bytes(&map, missing[0])) else {
            panic!("it is longer")
        };
        assert_eq!(store.fetched(again, &bytes(&map, again)), Fetched::Done);
        assert_eq!(value(&store, b"key"), Some(large));
    }

    #[test]
    fn damage_is_noticed_and_tried_again_later() {
        let mut store = Store::new(2, NodeId(1));
        let (slot, map) = segment(&mut store, b"key", b"value");
        store.leave_memory(slot);
        let missing = wanted(&store, b"key").unwrap();
        let mut damaged = bytes(&map, missing[0]);
        damaged[36] ^= 1;
        assert!(matches!(store.fetched(missing[0], &damaged), Fetched::Damaged(_)));
        assert_eq!(wanted(&store, b"key"), Err(Unreadable));
        let mut visited = 0;
        store.scan(ScanPosition(0), 10, |_| visited += 1);
        assert_eq!(visited, 0, "walks leave it out");
        store.trim_fetched(0, 1_000_000);
        assert_eq!(wanted(&store, b"key").map(|missing| missing.len()), Ok(1));
    }

    #[test]
    fn a_forgotten_tombstone_is_not_taken_for_what_stands_in_its_place_now() {
        let mut store = Store::new(2, NodeId(1));
        segment(&mut store, b"key", b"value");
        let hash = NodeSecret(7).hash(b"key");
        let (location, facts) = store.present(hash, b"key").unwrap();
        let earlier = Version(facts.version.0 - 1);
        store.note_grave(hash, earlier, location, 40);
        store.note_grave(hash, facts.version, location, 40);
        let [earlier, present] = [0; 2].map(|_| store.next_grave(facts.version).unwrap());
        assert!(!store.is_current(&earlier) && store.is_current(&present));
    }

    #[test]
    fn what_comes_for_a_segment_that_went_is_not_taken_for_one_of_its_successor() {
        let mut store = Store::new(2, NodeId(1));
        let (slot, map) = segment(&mut store, b"key", b"value");
        store.leave_memory(slot);
        let late = wanted(&store, b"key").unwrap()[0];
        let late_bytes = bytes(&map, late);
        let location = late.location;
        store.drop_dead(NodeSecret(7).hash(b"key"), location, record(b"key", b"value").len());
        store.remove_segment(slot);
        let (next, map) = segment(&mut store, b"other", b"thing");
        assert_eq!(next, slot, "the slot is used again");
        store.leave_memory(next);
        assert_eq!(store.fetched(late, &late_bytes), Fetched::Done);
        let missing = wanted(&store, b"other").unwrap();
        assert_eq!(missing.len(), 1, "it still has to be read");
        store.fetched(missing[0], &bytes(&map, missing[0]));
        assert_eq!(value(&store, b"other"), Some(b"thing".to_vec()));
    }
}
