//! The index: key → 16-byte slot, in many small open-addressing tables.
//!
//! A key's hash picks a table (top bits) and gives a 20-bit tag. Inside a table of `n` slots the home of a tag is
//! `tag × n / 2^20`, so that a table may have any size: it grows by a quarter, one table at a time, without reading the log,
//! and its order by tag survives growth, which is what makes a SCAN cursor stable.

mod image;
mod part;

use wal::Version;

pub use image::IndexImage;

/// Tables of one core, as a power of two, in production: so many that at a hundred million keys a core's tags still tell nearly all
/// keys of a table apart.
pub const TABLE_BITS: u32 = 14;

const TAG_BITS: u32 = 20;
const TAG_MASK: u64 = (1 << TAG_BITS) - 1;
const CLASS_BITS: u32 = 4;
const OFFSET_BITS: u32 = 23;
const SEGMENT_BITS: u32 = 17;
const _: () = assert!(TAG_BITS + CLASS_BITS + OFFSET_BITS + SEGMENT_BITS == 64);
const _: () = assert!(size_of::<Slot>() == SLOT_BYTES);

/// Memory that an entry takes, in bytes.
pub const SLOT_BYTES: usize = 16;

/// Index of a segment in the core's segment table (17 bits).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SegmentSlot(pub u32);

impl SegmentSlot {
    /// How many segments one core can name.
    pub const COUNT_MAX: usize = 1 << SEGMENT_BITS;
}

/// Where a record lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    /// Which segment.
    pub segment: SegmentSlot,
    /// Byte offset of the record in it, a multiple of 8.
    pub offset: u32,
    /// Upper bound of the record's length in bytes: one read of this many bytes fetches it.
    pub len_max: u32,
}

/// One entry: segment slot 17 | offset/8 23 | size class 4 | tag 20 bits, then the version. Version zero means empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    place: u64,
    version: u64,
}

impl Slot {
    const EMPTY: Slot = Slot { place: 0, version: 0 };

    fn new(location: Location, tag: u64, version: Version) -> Slot {
        debug_assert!(location.offset.is_multiple_of(8));
        let place = (u64::from(location.segment.0) << (64 - SEGMENT_BITS))
            | (u64::from(location.offset / 8) << (TAG_BITS + CLASS_BITS))
            | (size_class(location.len_max) << TAG_BITS)
            | tag;
        Slot { place, version: version.0 }
    }

    fn tag(self) -> u64 {
        self.place & TAG_MASK
    }

    /// The version of the record.
    #[must_use]
    pub fn version(self) -> Version {
        Version(self.version)
    }

    /// Where the record lies.
    #[must_use]
    pub fn location(self) -> Location {
        let class = (self.place >> TAG_BITS) & 0xf;
        Location {
            segment: SegmentSlot(narrow(self.place >> (64 - SEGMENT_BITS))),
            offset: narrow((self.place >> (TAG_BITS + CLASS_BITS)) & ((1 << OFFSET_BITS) - 1)) * 8,
            len_max: class_len_max(class),
        }
    }
}

/// Class `c` holds records of up to `64 << c` bytes; the last one the largest record.
fn size_class(len: u32) -> u64 {
    u64::from(len.div_ceil(64).next_power_of_two().trailing_zeros().min(15))
}

fn class_len_max(class: u64) -> u32 {
    if class >= 15 { u32::MAX } else { 64 << class }
}

/// Bit fields are at most 23 bits wide by construction.
fn narrow(bits: u64) -> u32 {
    u32::try_from(bits).expect("a bit field of a slot fits 32 bits")
}

fn to_index(n: u64) -> usize {
    usize::try_from(n).expect("64-bit target")
}

#[derive(Debug, Default)]
struct Table {
    slots: Vec<Slot>,
    len: usize,
}

impl Table {
    const SLOTS_MIN: usize = 8;

    fn home(&self, tag: u64) -> usize {
        to_index((tag * self.slots.len() as u64) >> TAG_BITS)
    }

    fn next(&self, at: usize) -> usize {
        if at + 1 == self.slots.len() { 0 } else { at + 1 }
    }

    /// First slot with this tag that `is_key` accepts.
    fn find(&self, tag: u64, mut is_key: impl FnMut(Slot) -> bool) -> Option<usize> {
        if self.slots.is_empty() {
            return None;
        }
        let mut at = self.home(tag);
        loop {
            let slot = self.slots[at];
            if slot.version == 0 {
                return None;
            }
            if slot.tag() == tag && is_key(slot) {
                return Some(at);
            }
            at = self.next(at);
        }
    }

    fn insert(&mut self, slot: Slot) {
        self.make_room();
        self.place(slot);
        self.len += 1;
    }

    /// Room for one more entry.
    fn make_room(&mut self) {
        if Self::size_for(self.len + 1) > self.slots.len() {
            self.resize((self.slots.len() * 5 / 4).max(self.slots.len() + Self::SLOTS_MIN));
        }
    }

    /// Seven places of eight are taken at most.
    fn size_for(entries: usize) -> usize {
        (entries * 8).div_ceil(7)
    }

    fn place(&mut self, slot: Slot) {
        let mut at = self.home(slot.tag());
        while self.slots[at].version != 0 {
            at = self.next(at);
        }
        self.slots[at] = slot;
    }

    /// Empties the slot at `at`; the ones behind it move up, so that each is still found from its home.
    fn remove(&mut self, at: usize) {
        let count = self.slots.len();
        let distance = |from: usize, to: usize| (to + count - from) % count;
        let (mut hole, mut next) = (at, self.next(at));
        while self.slots[next].version != 0 {
            let home = self.home(self.slots[next].tag());
            if distance(home, next) >= distance(hole, next) {
                self.slots[hole] = self.slots[next];
                hole = next;
            }
            next = self.next(next);
        }
        self.slots[hole] = Slot::EMPTY;
        self.len -= 1;
    }

    fn resize(&mut self, size: usize) {
        let old = std::mem::replace(&mut self.slots, vec![Slot::EMPTY; size]);
        for slot in old {
            if slot.version != 0 {
                self.place(slot);
            }
        }
    }
}

/// A position in the index's order, for SCAN. Zero is the beginning; there is no end value: `scan` says when it is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ScanPosition(pub u64);

impl ScanPosition {
    /// Behind every entry, for who has to remember that it is done.
    pub const END: ScanPosition = ScanPosition(u64::MAX);
}

/// The index of one core.
#[derive(Debug)]
pub struct Index {
    tables: Vec<Table>,
    table_bits: u32,
    len: usize,
    /// Slots of all tables, empty ones included.
    slots: usize,
}

/// Names an occupied slot until the next insertion.
#[derive(Clone, Copy, Debug)]
pub struct SlotRef {
    table: usize,
    at: usize,
}

impl Index {
    /// An index of `2^table_bits` tables.
    #[must_use]
    pub fn new(table_bits: u32) -> Self {
        assert!((1..=24).contains(&table_bits), "table bits and tag come from one 64-bit hash");
        let tables = std::iter::repeat_with(Table::default).take(1 << table_bits).collect();
        Index { tables, table_bits, len: 0, slots: 0 }
    }

    /// Keys, tombstones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of memory held by slots.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.slots * size_of::<Slot>() + self.tables.len() * size_of::<Table>()
    }

    /// A position anywhere in the order, chosen by `random`.
    #[must_use]
    pub fn position(&self, random: u64) -> ScanPosition {
        ScanPosition(random & (((self.tables.len() as u64) << TAG_BITS) - 1))
    }

    fn split(&self, hash: u64) -> (usize, u64) {
        // All tables of a range of hashes, which may be all there are: their numbers differ in the low bits only.
        let table = to_index(hash >> (64 - self.table_bits)) & (self.tables.len() - 1);
        (table, (hash >> (64 - self.table_bits - TAG_BITS)) & TAG_MASK)
    }

    /// The entry of a key; `is_key` compares the key of a candidate's record.
    pub fn find(&self, hash: u64, is_key: impl FnMut(Slot) -> bool) -> Option<(SlotRef, Slot)> {
        let (table, tag) = self.split(hash);
        let at = self.tables[table].find(tag, is_key)?;
        Some((SlotRef { table, at }, self.tables[table].slots[at]))
    }

    /// The entry at a place that `find` gave.
    #[must_use]
    pub fn slot(&self, at: SlotRef) -> Slot {
        self.tables[at.table].slots[at.at]
    }

    /// Points an existing entry at another record of the same key.
    pub fn replace(&mut self, at: SlotRef, location: Location, version: Version) {
        let slot = &mut self.tables[at.table].slots[at.at];
        *slot = Slot::new(location, slot.tag(), version);
    }

    /// Takes an entry out.
    pub fn remove(&mut self, at: SlotRef) {
        self.tables[at.table].remove(at.at);
        self.len -= 1;
    }

    /// Adds an entry for a key that has none.
    pub fn insert(&mut self, hash: u64, location: Location, version: Version) {
        assert!(version != Version::ZERO, "version zero marks an empty slot");
        let (table, tag) = self.split(hash);
        let table = &mut self.tables[table];
        let before = table.slots.capacity();
        table.insert(Slot::new(location, tag, version));
        self.slots += table.slots.capacity() - before;
        self.len += 1;
    }

    /// Visits entries in scan order from `from` until `at_least` were visited and a tag is complete.
    /// Returns where to go on, or `None` at the end.
    pub fn scan(&self, from: ScanPosition, at_least: usize, mut visit: impl FnMut(Slot)) -> Option<ScanPosition> {
        let mut table = to_index(from.0 >> TAG_BITS);
        let mut tag_min = from.0 & TAG_MASK;
        let mut seen = 0;
        while table < self.tables.len() {
            let mut found: Vec<Slot> = self.tables[table]
                .slots
                .iter()
                .copied()
                .filter(|slot| slot.version != 0 && slot.tag() >= tag_min)
                .collect();
            found.sort_unstable_by_key(|slot| slot.tag());
            let mut last_tag = None;
            for slot in found {
                if seen >= at_least && last_tag != Some(slot.tag()) {
                    return Some(ScanPosition(((table as u64) << TAG_BITS) | slot.tag()));
                }
                last_tag = Some(slot.tag());
                seen += 1;
                visit(slot);
            }
            table += 1;
            tag_min = 0;
            if seen >= at_least && table < self.tables.len() {
                return Some(ScanPosition((table as u64) << TAG_BITS));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;
    use xxhash_rust::xxh3::xxh3_64;

    use super::*;

    fn location(n: u32) -> Location {
        Location { segment: SegmentSlot(n % 100_000), offset: (n % 1_000_000) * 8, len_max: 64 }
    }

    #[test]
    fn a_slot_gives_back_what_was_put_in() {
        for (segment, offset, len) in [(0, 4096, 40), ((1 << 17) - 1, (1 << 26) - 8, 8 << 20), (77, 8, 64), (3, 16, 65)]
        {
            let location = Location { segment: SegmentSlot(segment), offset, len_max: len };
            let slot = Slot::new(location, 0xabcde, Version(9));
            assert_eq!(slot.tag(), 0xabcde);
            assert_eq!(slot.version(), Version(9));
            let back = slot.location();
            assert_eq!((back.segment.0, back.offset), (segment, offset));
            assert!(back.len_max >= len);
        }
    }

    #[test]
    fn over_a_doubling_a_key_costs_at_most_26_bytes_and_never_more_than_36() {
        let mut index = Index::new(TABLE_BITS);
        let (mut sum, mut samples, mut worst) = (0.0, 0u32, 0.0f64);
        for n in 0..2_000_000u32 {
            index.insert(xxh3_64(&n.to_le_bytes()), location(n), Version(u64::from(n) + 1));
            if n >= 1_000_000 && n % 1_000 == 0 {
                let per_key = index.memory_bytes() as f64 / index.len() as f64;
                sum += per_key;
                samples += 1;
                worst = worst.max(per_key);
            }
        }
        let average = sum / f64::from(samples);
        assert!(average <= 26.0 && worst <= 36.0, "{average:.1} bytes on average, {worst:.1} at worst");
    }

    #[test]
    fn at_a_hundred_million_keys_fewer_than_one_look_in_a_hundred_goes_to_another_keys_record() {
        // As many keys in each table as a hundred million give, in fewer tables: the tables know nothing of each other.
        const BITS: u32 = 4;
        let keys = 100_000_000u32 >> (TABLE_BITS - BITS);
        let mut index = Index::new(BITS);
        for n in 0..keys {
            index.insert(xxh3_64(&n.to_le_bytes()), location(n), Version(u64::from(n) + 1));
        }
        let mut others = 0u32;
        for n in 0..keys {
            let found = index.find(xxh3_64(&n.to_le_bytes()), |slot| {
                let own = slot.version() == Version(u64::from(n) + 1);
                others += u32::from(!own);
                own
            });
            assert!(found.is_some());
        }
        // A key that is not here looks at all that share its tag.
        for n in keys..2 * keys {
            assert!(
                index
                    .find(xxh3_64(&n.to_le_bytes()), |_| {
                        others += 1;
                        false
                    })
                    .is_none()
            );
        }
        assert!(others < 2 * keys / 100, "{others} in {} looks", 2 * keys);
    }

    proptest! {
        #[test]
        fn behaves_like_a_map(ops in prop::collection::vec((0u32..300, 0u64..1000), 1..2000)) {
            let mut index = Index::new(2);
            let mut model: HashMap<u32, u64> = HashMap::new();
            for (key, version) in ops {
                let hash = xxh3_64(&key.to_le_bytes());
                // The key is found through its location, as the store finds it through the log.
                match index.find(hash, |slot| slot.location() == location(key)) {
                    Some((at, slot)) => {
                        prop_assert_eq!(slot.version().0, model[&key]);
                        if version < 300 {
                            index.remove(at);
                            model.remove(&key);
                            continue;
                        }
                        index.replace(at, location(key), Version(version));
                    }
                    None if version == 0 => continue,
                    None => {
                        prop_assert!(!model.contains_key(&key));
                        index.insert(hash, location(key), Version(version));
                    }
                }
                model.insert(key, version);
            }
            prop_assert_eq!(index.len(), model.len());
        }

        #[test]
        fn a_scan_sees_every_key_that_was_there_throughout_while_tables_grow(step in 1usize..40, extra in 0u32..400) {
            let mut index = Index::new(3);
            for n in 0..500u32 {
                index.insert(xxh3_64(&n.to_le_bytes()), location(n), Version(1));
            }
            let mut seen = std::collections::HashSet::new();
            let (mut position, mut added) = (Some(ScanPosition(0)), 0);
            while let Some(from) = position {
                position = index.scan(from, step, |slot| { seen.insert(slot.location().offset); });
                if added < extra {
                    index.insert(xxh3_64(&(1000 + added).to_le_bytes()), location(1000 + added), Version(1));
                    added += 1;
                }
            }
            for n in 0..500u32 {
                prop_assert!(seen.contains(&location(n).offset), "{} was missed", n);
            }
        }
    }
}
