//! A store that recovery puts together from what the segments say, in parts that threads fill each by itself.

use bytes::Bytes;
use wal::{Mapping, NodeId, RecordView};

use super::{Facts, KnownSegment, Store, Verdict};
use crate::storage::index::{Index, Location, Slot};
use crate::storage::{KeyHash, NodeSecret};

impl<M: Mapping> Store<M> {
    /// Part number `part` of `2^part_bits` of a store of `2^table_bits` tables, of the node `own`. All parts have to be told of the
    /// same segments in the same order; the entries of a key are in one of them, see [`Index::part_of`].
    ///
    /// # Panics
    /// If there are more parts than tables, or there is no such part.
    #[must_use]
    pub fn part(table_bits: u32, own: NodeId, part_bits: u32, part: usize) -> Self {
        Store { index: Index::part(table_bits, part_bits, part), ..Store::new(1, own) }
    }

    /// Puts all parts together, in their order.
    ///
    /// # Panics
    /// If they are not all parts of one store.
    #[must_use]
    pub fn joined(mut parts: Vec<Store<M>>) -> Self {
        let index =
            Index::joined(parts.iter_mut().map(|part| std::mem::replace(&mut part.index, Index::new(1))).collect());
        let mut parts = parts.into_iter();
        let mut store = parts.next().expect("there is at least one part");
        store.index = index;
        for part in parts {
            store.live += part.live;
            store.live_bytes += part.live_bytes;
            for (expiry, count) in part.expiring {
                *store.expiring.entry(expiry).or_insert(0) += count;
            }
            assert_eq!(store.segments.len(), part.segments.len(), "all parts know the same segments");
            for (known, other) in store.segments.iter_mut().zip(part.segments) {
                if let (Some(known), Some(other)) = (known, other) {
                    known.take_counts_of(&other);
                }
            }
        }
        store
    }

    /// Records of keys with these hashes follow, at most `at_most` of them in each table, or else more rarely.
    pub fn expect(&mut self, hashes: impl Iterator<Item = u64> + Clone, at_most: usize) {
        self.index.reserve(hashes, at_most);
    }

    /// Recovery found the record at `location`, which is this. Each record is to be told once; those of one key in the order of the
    /// log that they stand in.
    pub fn recovered(&mut self, secret: NodeSecret, hash: KeyHash, location: Location, facts: Facts, is_copy: bool) {
        // Most keys are new: their records need not be looked at again, nor, most of the time, those of others.
        if self.index.insert_if_lacking(hash.0, location, facts.version) {
            self.count_in(location.segment, u64::from(facts.padded_len));
            self.count(facts, true);
            return;
        }
        // A look may be a read from the disk: the other record says alone whether its key only shares the tag.
        let may_be_its_key = |slot: Slot| self.with_record(slot.location(), |record| secret.hash(record.key) == hash);
        if self.index.find(hash.0, may_be_its_key).is_none() {
            self.install(hash, Verdict::First, location, facts);
            return;
        }
        let bytes = self.recovered_bytes(location);
        let record = RecordView::parse_trusted(&bytes).expect("recovery has verified it");
        match self.judge(hash, &record) {
            // The later one counts, so that the segment it was made of can go.
            Verdict::Same if is_copy => self.moved_to(hash, &record, location),
            verdict => self.install(hash, verdict, location, facts),
        }
    }

    /// A record whose length its location says, as bytes that do not keep the mapping from lending others.
    fn recovered_bytes(&self, location: Location) -> Bytes {
        let map = self.known(location.segment).map.as_ref().expect("recovery has all segments in memory");
        map.bytes(location.offset as usize..location.offset as usize + location.len_max as usize)
    }
}

impl<M> KnownSegment<M> {
    fn take_counts_of(&mut self, other: &KnownSegment<M>) {
        self.entries += other.entries;
        self.live_bytes += other.live_bytes;
        self.stands_for_own |= other.stands_for_own;
        self.lost_to_others |= other.lost_to_others;
        self.replaced_upto = self.replaced_upto.max(other.replaced_upto);
    }
}
