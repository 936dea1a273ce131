//! An index in parts, each of which some thread may fill by itself: every part has the tables of one range of hashes.

use wal::Version;

use super::{Index, Location, Slot, Table};

impl Index {
    /// Part number `part` of `2^part_bits`, empty.
    ///
    /// # Panics
    /// If there are more parts than tables, or there is no such part.
    #[must_use]
    pub fn part(table_bits: u32, part_bits: u32, part: usize) -> Index {
        assert!(part_bits <= table_bits && part < 1 << part_bits, "a part has at least one table");
        let tables = std::iter::repeat_with(Table::default).take(1 << (table_bits - part_bits)).collect();
        Index { tables, ..Index::new(table_bits) }
    }

    /// The part, of `2^part_bits`, that has the entries of keys with this hash.
    #[must_use]
    pub fn part_of(hash: u64, part_bits: u32) -> usize {
        super::to_index(hash.checked_shr(u64::BITS - part_bits).unwrap_or(0))
    }

    /// Puts all parts together, in their order.
    #[must_use]
    pub fn joined(parts: Vec<Index>) -> Index {
        let mut parts = parts.into_iter();
        let mut index = parts.next().expect("there is at least one part");
        for part in parts {
            index.tables.extend(part.tables);
            index.len += part.len;
            index.slots += part.slots;
        }
        assert_eq!(index.tables.len(), 1 << index.table_bits, "all parts make up an index");
        index
    }

    /// Makes room for the entries of keys with these hashes, of which each may come more than once; no table gets more than
    /// `at_most` at a time.
    pub fn reserve(&mut self, hashes: impl Iterator<Item = u64> + Clone, at_most: usize) {
        let tables = hashes.clone().map(|hash| self.split(hash).0);
        let (Some(first), Some(last)) = (tables.clone().min(), tables.clone().max()) else { return };
        let mut counts = vec![0usize; last - first + 1];
        tables.for_each(|table| counts[table - first] += 1);
        for (table, count) in self.tables[first..=last].iter_mut().zip(counts) {
            let before = table.slots.capacity();
            table.reserve(count.min(at_most));
            self.slots += table.slots.capacity() - before;
        }
    }

    /// Adds an entry unless there is one that may be of the same key, as the index alone can tell; whether it did.
    pub fn insert_if_lacking(&mut self, hash: u64, location: Location, version: Version) -> bool {
        assert!(version != Version::ZERO, "version zero marks an empty slot");
        let (table, tag) = self.split(hash);
        let table = &mut self.tables[table];
        let before = table.slots.capacity();
        let added = table.insert_if_lacking(Slot::new(location, tag, version));
        self.slots += table.slots.capacity() - before;
        self.len += usize::from(added);
        added
    }
}

impl Table {
    fn reserve(&mut self, entries: usize) {
        let size = Self::size_for(self.len + entries);
        if size > self.slots.len() {
            self.resize(size);
        }
    }

    fn insert_if_lacking(&mut self, slot: Slot) -> bool {
        // Where it is lacking it needs the room; where it is not, the room is of use to another one soon.
        self.make_room();
        let mut at = self.home(slot.tag());
        while self.slots[at].version != 0 {
            if self.slots[at].tag() == slot.tag() {
                return false;
            }
            at = self.next(at);
        }
        self.slots[at] = slot;
        self.len += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use xxhash_rust::xxh3::xxh3_64;

    use super::super::SegmentSlot;
    use super::*;

    proptest! {
        #[test]
        fn parts_that_are_filled_apart_make_up_the_same_index(keys in 0u32..2_000, part_bits in 0u32..=3) {
            let location = |n: u32| Location { segment: SegmentSlot(n % 100), offset: n * 8, len_max: 64 };
            let mut whole = Index::new(3);
            let mut parts: Vec<Index> = (0..1 << part_bits).map(|part| Index::part(3, part_bits, part)).collect();
            for n in 0..keys {
                let (hash, version) = (xxh3_64(&n.to_le_bytes()), Version(u64::from(n) + 1));
                let part = &mut parts[Index::part_of(hash, part_bits)];
                let lacks = whole.find(hash, |_| true).is_none();
                prop_assert_eq!(part.insert_if_lacking(hash, location(n), version), lacks);
                if lacks {
                    whole.insert(hash, location(n), version);
                }
            }
            let joined = Index::joined(parts);
            prop_assert_eq!((joined.len(), joined.table_count()), (whole.len(), whole.table_count()));
            for n in 0..keys {
                let find = |index: &Index| {
                    index.find(xxh3_64(&n.to_le_bytes()), |slot| slot.location() == location(n)).map(|(_, slot)| slot)
                };
                prop_assert_eq!(find(&joined), find(&whole));
            }
        }
    }
}
