//! What commands see of all keys of a shard.

use wal::{Mapping, RecordView, Version};

use super::{Shard, is_visible};
use crate::clock::Time;
use crate::storage::index::ScanPosition;

impl<M: Mapping> Shard<M> {
    /// Above no version that is in the store, and below every one that is yet to be given.
    #[must_use]
    pub fn newest(&self) -> Version {
        self.clock.last()
    }

    /// Visits visible records in index order; see [`Store::scan`](crate::storage::store::Store::scan).
    pub fn scan(
        &self,
        from: ScanPosition,
        at_least: usize,
        time: Time,
        mut visit: impl FnMut(&RecordView<'_>),
    ) -> Option<ScanPosition> {
        let now_unix_ms = self.clock.unix_ms(time);
        self.store.scan(from, at_least, |record| {
            if is_visible(record, now_unix_ms) {
                visit(record);
            }
        })
    }

    /// Keys that can be read now.
    pub fn live(&mut self, time: Time) -> u64 {
        let now_unix_ms = self.clock.unix_ms(time);
        self.store.live(now_unix_ms)
    }
}
