//! A slab whose keys carry a generation, so that a late use of a freed key finds nothing instead of a stranger.

/// Bits of a key that are the index; the other twelve are the generation.
const INDEX_BITS: u32 = 20;
const INDEX_MASK: u32 = (1 << INDEX_BITS) - 1;
const GENERATION_MASK: u32 = u32::MAX >> INDEX_BITS;

/// Most entries a table can hold.
pub(crate) const ENTRIES_MAX: usize = 1 << INDEX_BITS;

struct Slot<T> {
    generation: u32,
    value: Option<T>,
}

/// Values by key: index | generation << 20.
pub(crate) struct Table<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
    len: usize,
}

impl<T> Table<T> {
    pub(crate) fn new() -> Self {
        Table { slots: Vec::new(), free: Vec::new(), len: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Stores `value`; hands it back when the table is full.
    pub(crate) fn insert(&mut self, value: T) -> Result<u32, T> {
        if let Some(index) = self.free.pop() {
            let slot = &mut self.slots[index as usize];
            slot.value = Some(value);
            self.len += 1;
            return Ok(index | slot.generation << INDEX_BITS);
        }
        match u32::try_from(self.slots.len()) {
            Ok(index) if index < INDEX_MASK => {
                self.slots.push(Slot { generation: 0, value: Some(value) });
                self.len += 1;
                Ok(index)
            }
            _ => Err(value),
        }
    }

    fn slot(&self, key: u32) -> Option<&Slot<T>> {
        self.slots.get((key & INDEX_MASK) as usize).filter(|slot| slot.generation == key >> INDEX_BITS)
    }

    pub(crate) fn get(&self, key: u32) -> Option<&T> {
        self.slot(key)?.value.as_ref()
    }

    pub(crate) fn get_mut(&mut self, key: u32) -> Option<&mut T> {
        let slot = self.slots.get_mut((key & INDEX_MASK) as usize)?;
        if slot.generation != key >> INDEX_BITS { None } else { slot.value.as_mut() }
    }

    pub(crate) fn remove(&mut self, key: u32) -> Option<T> {
        let index = key & INDEX_MASK;
        let slot = self.slots.get_mut(index as usize)?;
        if slot.generation != key >> INDEX_BITS {
            return None;
        }
        let value = slot.value.take()?;
        slot.generation = (slot.generation + 1) & GENERATION_MASK;
        self.free.push(index);
        self.len -= 1;
        Some(value)
    }

    /// Keys and values, in index order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.slots
            .iter()
            .zip(0u32..)
            .filter_map(|(slot, index)| slot.value.as_ref().map(|value| (index | slot.generation << INDEX_BITS, value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_freed_key_does_not_find_its_successor() {
        let mut table = Table::new();
        let first = table.insert('a').unwrap();
        assert_eq!(table.remove(first), Some('a'));
        let second = table.insert('b').unwrap();
        assert_ne!(first, second);
        assert_eq!(table.get(first), None);
        assert_eq!(table.get_mut(first), None);
        assert_eq!(table.remove(first), None);
        assert_eq!(table.get(second), Some(&'b'));
        assert_eq!(table.len(), 1);
        assert_eq!(table.iter().collect::<Vec<_>>(), vec![(second, &'b')]);
    }
}
