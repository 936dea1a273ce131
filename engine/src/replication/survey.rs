//! What a node has, in a form that two nodes can compare: sums over its values by leaf of the key's hash, and the entries of single
//! leaves. The hash is the one that records carry, so nodes of any number of cores, each with its own placement, come to the same sums.
//!
//! Nothing is kept up to date for this: each core walks its index when it is asked ([decision
//! 14](../../../docs/decisions/0014-sums-are-computed-when-asked-for.md)). What is summed up is what is served.

use std::sync::Arc;

use bytes::Bytes;
use net::ids::NodeId;
use net::wire::body::Entry;
use net::wire::limits::{LEAVES, LEAVES_PER_PART};
use wal::{RecordOp, RecordView, Version};

use super::to_wire;
use crate::storage::index::ScanPosition;

/// Bits of a key's hash that choose its leaf: the upper ones.
const LEAF_BITS: u32 = LEAVES.trailing_zeros();

/// What a core is asked.
#[derive(Clone, Debug)]
pub enum SurveyTask {
    /// Sum up the values that count.
    Sum(Counting),
    /// What is there in these leaves, from this position on?
    Inspect {
        /// Which.
        leaves: Arc<LeafSet>,
        /// Where to go on.
        from: ScanPosition,
    },
    /// What is there of these keys?
    Lookup {
        /// All of them are the core's.
        keys: Vec<Bytes>,
    },
    /// The records of these keys, up to the size of a batch.
    Fetch {
        /// All of them are the core's.
        keys: Vec<Bytes>,
    },
}

/// What a core answers; all of it is durable there.
#[derive(Clone, Debug)]
pub enum SurveyFound {
    /// The sums.
    Sums(Digest),
    /// A piece of what is there, and where to go on.
    Entries {
        /// Tombstones and expired values included.
        entries: Vec<Entry>,
        /// `None` at the end.
        next: Option<ScanPosition>,
        /// Keys that were asked for and of which this cannot be said: what is there cannot be read at present, or is not shown yet.
        unclear: Vec<Bytes>,
    },
    /// Whole records, each padded.
    Records(Vec<Bytes>),
}

/// Which values count in a sum. Two nodes that are compared count the same, whatever their clocks say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counting {
    /// Versions above it do not.
    pub upto: Version,
    /// What expires at this time or earlier does not, in milliseconds since 1970.
    pub expiry_above: u64,
}

impl Counting {
    /// Whether a record does.
    #[must_use]
    pub fn counts(&self, record: &RecordView<'_>) -> bool {
        record.op == RecordOp::Put
            && record.version <= self.upto
            && record.expiry.is_none_or(|expiry| expiry > self.expiry_above)
    }
}

/// The finalizer of SplitMix64: a bijection that spreads every bit.
fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// What a record adds to the sum of its leaf.
fn share(record: &RecordView<'_>) -> u64 {
    let key_and_version = mix(mix(record.key_hash).wrapping_add(record.version.0));
    mix(key_and_version.wrapping_add(u64::from(record.original_crc())))
}

fn leaf(key_hash: u64) -> usize {
    usize::try_from(key_hash >> (u64::BITS - LEAF_BITS)).expect("a leaf has 16 bits")
}

/// A sum for each leaf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digest {
    /// [`LEAVES`] of them.
    sums: Vec<u64>,
    keys: u64,
}

impl Default for Digest {
    fn default() -> Self {
        Digest { sums: vec![0; LEAVES], keys: 0 }
    }
}

impl Digest {
    /// Takes in a record that counts.
    pub fn add(&mut self, record: &RecordView<'_>) {
        let sum = &mut self.sums[leaf(record.key_hash)];
        *sum = sum.wrapping_add(share(record));
        self.keys += 1;
    }

    /// The sums of parts: of [`LEAVES_PER_PART`] leaves each.
    #[must_use]
    pub fn parts(&self) -> Vec<u64> {
        let sum = |leaves: &[u64]| leaves.iter().fold(0u64, |sum, leaf| sum.wrapping_add(*leaf));
        self.sums.chunks(LEAVES_PER_PART).map(sum).collect()
    }

    /// Takes in what another core has.
    pub fn merge(&mut self, other: &Digest) {
        for (sum, other) in self.sums.iter_mut().zip(&other.sums) {
            *sum = sum.wrapping_add(*other);
        }
        self.keys += other.keys;
    }

    /// The sums, by leaf.
    #[must_use]
    pub fn sums(&self) -> &[u64] {
        &self.sums
    }

    /// Records that were taken in.
    #[must_use]
    pub fn keys(&self) -> u64 {
        self.keys
    }
}

/// Some leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeafSet(Vec<u64>);

impl LeafSet {
    /// These.
    #[must_use]
    pub fn new(leaves: &[u16]) -> LeafSet {
        let mut bits = vec![0u64; LEAVES / 64];
        for leaf in leaves {
            bits[usize::from(*leaf) / 64] |= 1 << (leaf % 64);
        }
        LeafSet(bits)
    }

    /// Whether a key with this hash, that of its records, is in one of them.
    #[must_use]
    pub fn contains(&self, key_hash: u64) -> bool {
        let leaf = leaf(key_hash);
        self.0[leaf / 64] & (1 << (leaf % 64)) != 0
    }
}

/// A record as another node is told of it.
#[must_use]
pub fn entry(record: &RecordView<'_>) -> Entry {
    Entry {
        version: to_wire(record.version),
        origin: NodeId(record.origin.0),
        crc: record.original_crc(),
        is_tombstone: record.op == RecordOp::Delete,
        expiry: record.expiry.unwrap_or(0),
        key_hash: record.key_hash,
        key: Bytes::copy_from_slice(record.key),
    }
}

#[cfg(test)]
mod tests {
    use wal::{NodeId, RecordDraft};

    use super::*;

    fn record(key: &str, version: u64, value: &str, expiry: Option<u64>) -> Vec<u8> {
        let (key, value) = (key.as_bytes(), value.as_bytes());
        let draft = RecordDraft { version: Version(version), origin: NodeId(1), op: RecordOp::Put, expiry, key, value };
        draft.to_vec()
    }

    fn view(bytes: &[u8]) -> RecordView<'_> {
        RecordView::parse(bytes).unwrap().0
    }

    fn digest(records: &[Vec<u8>]) -> Digest {
        let mut digest = Digest::default();
        records.iter().for_each(|record| digest.add(&view(record)));
        digest
    }

    #[test]
    fn the_sums_depend_on_what_is_there_and_not_on_the_order_nor_on_the_cores() {
        let records: Vec<Vec<u8>> = (0..100).map(|n| record(&format!("key {n}"), n + 1, "value", None)).collect();
        let whole = digest(&records);
        let mut backwards = records.clone();
        backwards.reverse();
        assert_eq!(digest(&backwards), whole);
        let (first, second) = records.split_at(30);
        let mut merged = digest(first);
        merged.merge(&digest(second));
        assert_eq!(merged, whole);
        assert_eq!(merged.keys(), 100);
    }

    #[test]
    fn a_value_a_version_or_a_key_that_differs_changes_one_leaf() {
        let present = record("key", 7, "value", None);
        for other in [record("key", 7, "walue", None), record("key", 8, "value", None)] {
            let (ours, theirs) = (digest(std::slice::from_ref(&present)), digest(&[other]));
            let differing = ours.sums().iter().zip(theirs.sums()).filter(|(ours, theirs)| ours != theirs).count();
            assert_eq!(differing, 1);
        }
        let twice = digest(&[present.clone(), present.clone()]);
        assert_ne!(twice.sums(), Digest::default().sums(), "the same twice is not the same as nothing");
    }

    #[test]
    fn a_stub_counts_as_the_record_whose_place_it_takes() {
        let long = record("key", 7, &"v".repeat(100), Some(5_000));
        let stub = view(&long).stub().unwrap();
        assert_eq!(digest(&[stub]), digest(&[long]));
    }

    #[test]
    fn what_is_newer_or_expires_first_does_not_count() {
        let counting = Counting { upto: Version(10), expiry_above: 5_000 };
        let counts = |version, expiry| counting.counts(&view(&record("key", version, "value", expiry)));
        assert!(counts(10, None) && counts(10, Some(5_001)));
        assert!(!counts(11, None) && !counts(10, Some(5_000)));
        let (op, key, value) = (RecordOp::Delete, &b"key"[..], &b""[..]);
        let tombstone = RecordDraft { version: Version(1), origin: NodeId(1), op, expiry: None, key, value }.to_vec();
        assert!(!counting.counts(&view(&tombstone)));
    }

    #[test]
    fn a_key_is_in_the_leaf_that_its_sum_is_in() {
        for n in 0..100 {
            let record = record(&format!("key {n}"), 1, "value", None);
            let sums = digest(std::slice::from_ref(&record));
            let leaf = sums.sums().iter().position(|sum| *sum != 0).unwrap();
            let hash = view(&record).key_hash;
            assert!(LeafSet::new(&[u16::try_from(leaf).unwrap()]).contains(hash));
            assert!(!LeafSet::new(&[u16::try_from(leaf ^ 1).unwrap()]).contains(hash));
        }
    }
}
