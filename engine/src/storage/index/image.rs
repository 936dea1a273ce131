//! An index as bytes, table by table, for checkpoints: which places of a table are taken, and by what.

use wal::Version;

use super::{Index, Location, Slot, Table};

/// Bytes of a table before its places.
const COUNT_BYTES: usize = size_of::<u32>();

/// More places than any table has: no length that a file names is trusted further.
const PLACES_MAX: usize = 1 << 24;

impl Index {
    /// How many tables it has.
    #[must_use]
    pub fn table_count(&self) -> usize {
        self.tables.len()
    }

    /// The number of its tables, as a power of two.
    #[must_use]
    pub fn table_bits(&self) -> u32 {
        self.table_bits
    }

    /// Appends a table: the number of its places, a bit for each, and what the taken ones hold.
    ///
    /// # Panics
    /// If there is no such table.
    pub fn encode_table(&self, table: usize, out: &mut Vec<u8>) {
        let slots = &self.tables[table].slots;
        out.extend_from_slice(&u32::try_from(slots.len()).expect("a table is small").to_le_bytes());
        let bits_at = out.len();
        out.resize(bits_at + slots.len().div_ceil(8), 0);
        for (at, slot) in slots.iter().enumerate().filter(|(_, slot)| slot.version != 0) {
            out[bits_at + at / 8] |= 1 << (at % 8);
            out.extend_from_slice(&slot.place.to_le_bytes());
            out.extend_from_slice(&slot.version.to_le_bytes());
        }
    }
}

/// An index that is put together again from its tables.
#[derive(Debug)]
pub struct IndexImage {
    index: Index,
    next: usize,
}

impl IndexImage {
    /// Of an index of `2^table_bits` tables.
    ///
    /// # Panics
    /// If an index cannot have so many.
    #[must_use]
    pub fn new(table_bits: u32) -> IndexImage {
        IndexImage { index: Index::new(table_bits), next: 0 }
    }

    /// Takes the next table, if each of its entries is `acceptable` and can be found from its home.
    pub fn push(&mut self, bytes: &[u8], acceptable: impl Fn(Location) -> bool) -> Option<()> {
        let table = decode_table(bytes, acceptable)?;
        let place = self.index.tables.get_mut(self.next)?;
        self.next += 1;
        self.index.len += table.len;
        self.index.slots += table.slots.capacity();
        *place = table;
        Some(())
    }

    /// The index, once all its tables were taken.
    #[must_use]
    pub fn finish(self) -> Option<Index> {
        (self.next == self.index.tables.len()).then_some(self.index)
    }
}

fn decode_table(bytes: &[u8], acceptable: impl Fn(Location) -> bool) -> Option<Table> {
    let (count, rest) = bytes.split_first_chunk::<COUNT_BYTES>()?;
    let count = usize::try_from(u32::from_le_bytes(*count)).ok().filter(|count| *count <= PLACES_MAX)?;
    let (bits, entries) = rest.split_at_checked(count.div_ceil(8))?;
    let (entries, left) = entries.as_chunks::<{ super::SLOT_BYTES }>();
    let taken = |at: usize| bits[at / 8] & (1 << (at % 8)) != 0;
    let len = (0..count).filter(|at| taken(*at)).count();
    if !left.is_empty() || entries.len() != len {
        return None;
    }
    let mut table = Table { slots: vec![Slot::EMPTY; count], len };
    let mut entries = entries.iter();
    // The free place before the one at hand, counted on from the end: whoever looks for an entry starts behind one of them.
    let mut free = (0..count).rev().find(|at| !taken(*at)).map_or(-1, |at| distance(at) - distance(count));
    let none_free = len == count;
    for at in 0..count {
        if !taken(at) {
            free = distance(at);
            continue;
        }
        let entry = entries.next()?;
        let (place, version) = entry.split_first_chunk::<8>()?;
        let slot = Slot { place: u64::from_le_bytes(*place), version: u64::from_le_bytes(version.try_into().ok()?) };
        let home = distance(table.home(slot.tag()));
        let from_home = distance(at) - home;
        let from_home = if from_home < 0 { from_home + distance(count) } else { from_home };
        let is_found = !none_free && from_home < distance(at) - free;
        if slot.version() == Version::ZERO || !is_found || !acceptable(slot.location()) {
            return None;
        }
        table.slots[at] = slot;
    }
    Some(table)
}

fn distance(places: usize) -> i64 {
    i64::try_from(places).expect("bounded by PLACES_MAX")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use xxhash_rust::xxh3::xxh3_64;

    use super::super::SegmentSlot;
    use super::*;

    fn location(n: u32) -> Location {
        Location { segment: SegmentSlot(n % 100), offset: (n % 1_000_000) * 8, len_max: 64 }
    }

    fn filled(keys: u32, gone: u32) -> Index {
        let mut index = Index::new(2);
        for n in 0..keys {
            index.insert(xxh3_64(&n.to_le_bytes()), location(n), Version(u64::from(n) + 1));
        }
        for n in 0..gone.min(keys) {
            let (at, _) = index.find(xxh3_64(&n.to_le_bytes()), |slot| slot.location() == location(n)).expect("there");
            index.remove(at);
        }
        index
    }

    fn restored(tables: &[Vec<u8>]) -> Option<Index> {
        let mut image = IndexImage::new(2);
        for table in tables {
            image.push(table, |location| location.segment.0 < 100)?;
        }
        image.finish()
    }

    fn encoded(index: &Index) -> Vec<Vec<u8>> {
        let table = |table| {
            let mut bytes = Vec::new();
            index.encode_table(table, &mut bytes);
            bytes
        };
        (0..index.table_count()).map(table).collect()
    }

    proptest! {
        #[test]
        fn an_index_comes_back_as_it_was_and_goes_on(keys in 0u32..3_000, gone in 0u32..1_000) {
            let index = filled(keys, gone);
            let mut again = restored(&encoded(&index)).expect("whole");
            prop_assert_eq!((again.len(), again.memory_bytes()), (index.len(), index.memory_bytes()));
            for n in 0..keys {
                let found = again.find(xxh3_64(&n.to_le_bytes()), |slot| slot.location() == location(n));
                prop_assert_eq!(found.map(|(_, slot)| slot.version().0), (n >= gone).then_some(u64::from(n) + 1));
            }
            for n in keys..keys + 500 {
                again.insert(xxh3_64(&n.to_le_bytes()), location(n), Version(1));
            }
        }

        /// Whatever stands there: no panic, and no table in which a look would not end.
        #[test]
        fn what_is_no_table_is_refused(keys in 1u32..200, at in any::<prop::sample::Index>(), mask in 1u8..) {
            let mut tables = encoded(&filled(keys, 0));
            let table = at.index(tables.len());
            let byte = at.index(tables[table].len());
            tables[table][byte] ^= mask;
            if let Some(index) = restored(&tables) {
                for n in 0..keys {
                    let _ = index.find(xxh3_64(&n.to_le_bytes()), |_| false);
                }
            }
        }
    }

    #[test]
    fn tables_that_are_missing_cut_or_full_are_refused() {
        let tables = encoded(&filled(100, 0));
        assert!(restored(&tables).is_some());
        assert!(restored(&tables[..3]).is_none());
        let mut more = tables.clone();
        more.push(tables[0].clone());
        assert!(restored(&more).is_none());
        for len in [0, 3, 5, tables[0].len() - 1] {
            let mut cut = tables.clone();
            cut[0].truncate(len);
            assert!(restored(&cut).is_none(), "{len}");
        }
        // One place, taken: a look for another key would go on for ever.
        let mut full = vec![1, 0, 0, 0, 1];
        full.extend_from_slice(&[0; 8]);
        full.extend_from_slice(&7u64.to_le_bytes());
        assert!(decode_table(&full, |_| true).is_none());
    }
}
