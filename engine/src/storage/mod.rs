//! The store of one core: an index over the log's segments. The segments are the data.

mod fetched;
mod graves;
pub mod index;
pub mod store;

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// What a node keys its placement with, so that clients cannot aim at one core. It never leaves the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeSecret(pub u64);

/// The keyed hash of a key: decides the core (low half) and the place in the index (high half).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyHash(pub u64);

impl NodeSecret {
    /// Hashes `key`.
    #[must_use]
    pub fn hash(self, key: &[u8]) -> KeyHash {
        KeyHash(xxh3_64_with_seed(key, self.0))
    }
}

impl KeyHash {
    /// The core that owns the key, of `cores`.
    #[must_use]
    pub fn core(self, cores: u16) -> u16 {
        let scaled = ((self.0 & 0xffff_ffff) * u64::from(cores)) >> 32;
        u16::try_from(scaled).expect("below cores by construction")
    }
}
