//! Records that are held back until they are due.

use wal::marks::{Mark, reach};
use wal::{FrameKind, Mapping, RecordView, Version};

use super::{Shard, WriteError};
use crate::clock::{Time, due_in_ms, is_far_future};
use crate::storage::KeyHash;
use crate::storage::index::Location;
use crate::storage::store::Verdict;

/// Names a record that is held back, in the order in which such records become due. Two records of one key may share a
/// version; the crc tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HeldKey {
    version: Version,
    hash: u64,
    crc: u32,
}

impl HeldKey {
    /// The name of `record`, whose key has this hash.
    #[must_use]
    pub fn of(record: &RecordView<'_>, hash: KeyHash) -> HeldKey {
        HeldKey { version: record.version, hash: hash.0, crc: record.original_crc() }
    }

    pub(crate) fn new(version: Version, hash: KeyHash, crc: u32) -> HeldKey {
        HeldKey { version, hash: hash.0, crc }
    }

    /// The record's checksum, before it was shrunk.
    #[must_use]
    pub fn crc(&self) -> u32 {
        self.crc
    }

    /// The record's version.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// The hash of its key.
    #[must_use]
    pub fn hash(&self) -> KeyHash {
        KeyHash(self.hash)
    }
}

impl<M: Mapping> Shard<M> {
    /// Keeps a far-future record out of sight until it is due (also used by recovery). `location` knows its exact length.
    pub fn hold(&mut self, key: HeldKey, location: Location) {
        if let std::collections::btree_map::Entry::Vacant(vacant) = self.held.entry(key) {
            reach(Mark::FarFutureHeld);
            vacant.insert(location);
            self.store.pin(location.segment, wal::padded_record_bytes(location.len_max as usize));
        }
        self.counters.held_back += 1;
    }

    /// Makes held records visible that are due, and that the durable ceiling covers: after a restart with any wall clock, what was
    /// shown is not in the far future again.
    pub fn release_due(&mut self, time: Time) {
        while let Some((&key, &location)) = self.held.first_key_value() {
            if is_far_future(key.version(), time) || !self.raise(key.version()) {
                break;
            }
            let hash = key.hash();
            if self.ready_at(location).and_then(|()| self.ready(hash)).is_err() {
                break;
            }
            let (verdict, facts) = self.store.judge_at(hash, location);
            let Ok(place) = self.behind_what_it_supersedes(verdict, location) else { break };
            reach(Mark::FarFutureReleased);
            self.held.pop_first();
            let is_over = facts.expiry.is_some_and(|expiry| expiry <= time.unix_ms);
            if let Verdict::Older(_, present) = verdict
                && present.origin == self.identity.node
                && !is_over
            {
                // It lay here, but nobody saw it before.
                let lost = &mut self.lost;
                let counts = self.store.with_record(location, |record| lost.lost(record, present));
                self.counters.concurrent += u64::from(counts);
            }
            self.store.install(hash, verdict, place, facts);
            self.store.unpin(location.segment, facts.padded_len as usize);
        }
    }

    /// Where a record counts that was appended at `location` and held back since: there, or in a copy, if what it takes the place of was
    /// appended later. The records of a key stand in the order of their versions, so that the segment of one that is forgotten does not go before
    /// those of the ones that it superseded.
    fn behind_what_it_supersedes(&mut self, verdict: Verdict, location: Location) -> Result<Location, WriteError> {
        match verdict {
            Verdict::Newer(present, _) if self.store.is_behind(present, location) => {
                reach(Mark::ReleasedBehindPresent);
                let record = self.store.with_record(location, |record| record.bytes.to_vec());
                self.append_copy(FrameKind::CompactedFollowed, &record)
            }
            _ => Ok(location),
        }
    }

    /// Whether a record of a key with this hash is held back.
    #[must_use]
    pub fn holds_back(&self, hash: KeyHash) -> bool {
        self.held.keys().any(|key| key.hash == hash.0)
    }

    /// Whether every record that came here with a version up to `version` is shown.
    #[must_use]
    pub fn shows(&self, version: Version, time: Time) -> bool {
        let is_held = self.held.first_key_value().is_some_and(|(key, _)| key.version() <= version);
        !is_held && !is_far_future(version, time)
    }

    /// In how many milliseconds of physical time the next held record is due, if there is one.
    #[must_use]
    pub fn next_due_in_ms(&self, time: Time) -> Option<u64> {
        self.held.first_key_value().map(|(key, _)| due_in_ms(key.version(), time))
    }
}
