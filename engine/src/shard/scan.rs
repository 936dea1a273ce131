//! What commands see of all keys of a shard.

use wal::{Mapping, RecordView, Version};

use super::{Shard, WriteError, is_visible};
use crate::clock::Time;
use crate::storage::KeyHash;
use crate::storage::index::ScanPosition;

impl<M: Mapping> Shard<M> {
    /// Above no version that is in the store, and below every one that is yet to be given.
    #[must_use]
    pub fn newest(&self) -> Version {
        self.clock.last()
    }

    /// Visits visible records in index order; see [`Store::scan`](crate::storage::store::Store::scan). Fewer than `at_least` may
    /// be visited where records have to be fetched from the disk.
    ///
    /// # Errors
    /// [`WriteError::NotInMemory`]: nothing was visited, run it again later.
    pub fn scan(
        &mut self,
        from: ScanPosition,
        at_least: usize,
        time: Time,
        mut visit: impl FnMut(&RecordView<'_>),
    ) -> Result<Option<ScanPosition>, WriteError> {
        let at_least = self.ready_to_scan(from, at_least)?;
        let now_unix_ms = self.clock.unix_ms(time);
        Ok(self.store.scan(from, at_least, |record| {
            self.note_read(record);
            if is_visible(record, now_unix_ms) {
                visit(record);
            }
        }))
    }

    /// Below which version everything died that this core remembers and nobody can read; zero if there is nothing.
    pub fn dead_upto(&mut self, time: Time) -> Version {
        let now_unix_ms = self.clock.unix_ms(time);
        // Of what was recovered it is not known one by one.
        match self.store.dead_upto(now_unix_ms) {
            Version::ZERO => Version::ZERO,
            upto => upto.max(self.began),
        }
    }

    /// As [`Shard::scan`], of tombstones and what has expired as well.
    ///
    /// # Errors
    /// See [`Shard::scan`].
    pub fn scan_all(
        &mut self,
        from: ScanPosition,
        at_least: usize,
        visit: impl FnMut(&RecordView<'_>),
    ) -> Result<Option<ScanPosition>, WriteError> {
        let at_least = self.ready_to_scan(from, at_least)?;
        Ok(self.store.scan(from, at_least, visit))
    }

    /// What `look` makes of the present record of `key`, tombstones and what has expired included.
    ///
    /// # Errors
    /// See [`Shard::ready`].
    pub fn look_up<R>(
        &mut self,
        hash: KeyHash,
        key: &[u8],
        look: impl FnOnce(&RecordView<'_>) -> R,
    ) -> Result<Option<R>, WriteError> {
        self.ready(hash)?;
        Ok(self.store.read(hash, key, look).map(|(found, ..)| found))
    }

    /// Keys that can be read now.
    pub fn live(&mut self, time: Time) -> u64 {
        let now_unix_ms = self.clock.unix_ms(time);
        self.store.live(now_unix_ms)
    }
}
