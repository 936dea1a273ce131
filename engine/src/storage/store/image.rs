//! What a store knows beside its index, as facts that can be written down and put together again.

use std::collections::BTreeMap;
use std::ops::Bound;

use wal::{Mapping, NodeId, Version};

use super::{Buried, Graves, KnownSegment, Store};
use crate::storage::index::{Index, SegmentSlot};

/// What a store knows of a segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SegmentCounts {
    /// Index entries that name it, and records held back in it.
    pub entries: u32,
    /// Bytes of those records, with their padding.
    pub live_bytes: u64,
    /// It holds records of other nodes for those who follow this node's log.
    pub stands_for_own: bool,
    /// A record of this node in it lost against another node's.
    pub lost_to_others: bool,
    /// The highest version that superseded a record in it.
    pub replaced_upto: Version,
}

/// What a store counts over all of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreCounts {
    /// Entries of the index.
    pub entries: u64,
    /// Keys that could be read when expiry was last looked at.
    pub live: u64,
    /// Bytes of all records that count.
    pub live_bytes: u64,
    /// When expiry was last looked at, in milliseconds since 1970.
    pub expired_through_unix_ms: u64,
}

/// Segments of earlier runs by slot, each with what a store knows of it.
pub type KnownSegments<M> = Vec<Option<(M, SegmentCounts)>>;

impl<M: Mapping> Store<M> {
    /// The index.
    #[must_use]
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// What it counts over all of it.
    #[must_use]
    pub fn counts(&self) -> StoreCounts {
        StoreCounts {
            entries: self.index.len() as u64,
            live: self.live,
            live_bytes: self.live_bytes,
            expired_through_unix_ms: self.expired_through_unix_ms,
        }
    }

    /// What it knows of a segment.
    ///
    /// # Panics
    /// If it does not know it.
    #[must_use]
    pub fn segment_counts(&self, slot: SegmentSlot) -> SegmentCounts {
        let segment = self.known(slot);
        SegmentCounts {
            entries: segment.entries,
            live_bytes: segment.live_bytes,
            stands_for_own: segment.stands_for_own,
            lost_to_others: segment.lost_to_others,
            replaced_upto: segment.replaced_upto,
        }
    }

    /// Live records by expiry, of those that expire behind `after`.
    pub fn expiring_after(&self, after: u64) -> impl Iterator<Item = (u64, u64)> {
        self.expiring.range((Bound::Excluded(after), Bound::Unbounded)).map(|(expiry, count)| (*expiry, *count))
    }

    /// A store of the node `own` as it was. `None` where the parts contradict one
    /// another.
    #[must_use]
    pub fn restored(
        own: NodeId,
        index: Index,
        counts: StoreCounts,
        expiring: BTreeMap<u64, u64>,
        segments: KnownSegments<M>,
    ) -> Option<Store<M>> {
        let known = || segments.iter().flatten().map(|(_, counts)| counts);
        let named: u64 = known().map(|segment| u64::from(segment.entries)).sum();
        let live_bytes: u64 = known().try_fold(0u64, |sum, segment| sum.checked_add(segment.live_bytes))?;
        let expiring_sum = expiring.values().try_fold(0u64, |sum, count| sum.checked_add(*count))?;
        let expired = expiring.first_key_value().is_some_and(|(expiry, _)| *expiry <= counts.expired_through_unix_ms);
        let fits = index.len() as u64 == counts.entries
            && named >= counts.entries
            && live_bytes == counts.live_bytes
            && counts.live <= counts.entries
            && expiring_sum <= counts.live
            && !expired
            && segments.len() <= SegmentSlot::COUNT_MAX;
        if !fits {
            return None;
        }
        let slots = (0..).map(SegmentSlot).zip(&segments);
        let free = slots.filter(|(_, segment)| segment.is_none()).map(|(slot, _)| slot).collect();
        let epochs = u32::try_from(segments.len()).expect("bounded above");
        let mapped_bytes = segments.iter().flatten().map(|(map, _)| map.len() as u64).sum();
        let restored = |(epoch, segment): (u32, Option<(M, SegmentCounts)>)| {
            let (map, counts) = segment?;
            Some(KnownSegment {
                entries: counts.entries,
                live_bytes: counts.live_bytes,
                stands_for_own: counts.stands_for_own,
                lost_to_others: counts.lost_to_others,
                replaced_upto: counts.replaced_upto,
                ..KnownSegment::new(map, None, epoch)
            })
        };
        Some(Store {
            index,
            segments: (0..).zip(segments).map(restored).collect(),
            free,
            epochs,
            mapped_bytes,
            live: counts.live,
            live_bytes: counts.live_bytes,
            expiring,
            expired_through_unix_ms: counts.expired_through_unix_ms,
            dead_upto: Version::ZERO,
            graves: Graves::default(),
            buried: Buried::default(),
            ..Store::new(1, own)
        })
    }
}
