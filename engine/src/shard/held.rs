//! Names of records that are held back until they are due.

use wal::{RecordView, Version};

use crate::storage::KeyHash;

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
