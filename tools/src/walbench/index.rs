//! The store's index beside the log, so that an append costs here what it costs in a node.

use engine::storage::NodeSecret;
use engine::storage::index::{Location, SegmentSlot};
use engine::storage::store::{Facts, Store};
use wal::{MappedFile, NodeId, Placement, Segment, SegmentNumber, Version};

/// As a power of two: what a node begins with.
const TABLE_BITS: u32 = 8;

/// Where each key's record lies.
#[derive(Debug)]
pub(crate) struct KeyIndex {
    store: Store<MappedFile>,
    own: NodeId,
    secret: NodeSecret,
    /// Oldest first.
    segments: Vec<(SegmentNumber, SegmentSlot)>,
}

impl KeyIndex {
    /// An empty index of the node `own`.
    pub(crate) fn new(own: NodeId) -> KeyIndex {
        KeyIndex { store: Store::new(TABLE_BITS, own), own, secret: NodeSecret(0x5eed), segments: Vec::new() }
    }

    /// A segment that the log may append to.
    pub(crate) fn supply(&mut self, segment: &Segment<MappedFile>) {
        let slot = self.store.add_segment(Some(segment.base), segment.map.clone());
        self.segments.push((segment.number, slot));
    }

    /// The record of `key` was appended at `placement`.
    pub(crate) fn put(&mut self, key: &[u8], version: Version, placement: &Placement) {
        let hash = self.secret.hash(key);
        let found = self.segments.iter().rev().find(|(number, _)| *number == placement.segment);
        let Some((_, slot)) = found else { return };
        let location = Location { segment: *slot, offset: placement.offset, len_max: placement.len };
        let verdict = self.store.judge_newest(hash, key, version);
        let facts = Facts { version, origin: self.own, put: true, expiry: None, padded_len: location.len_max };
        self.store.install(hash, verdict, location, facts);
    }

    /// Forgets an ended segment in which nothing counts any more; whether it is one.
    pub(crate) fn let_go(&mut self, number: SegmentNumber) -> bool {
        let Some(at) = self.segments.iter().position(|(known, _)| *known == number) else { return true };
        let (_, slot) = self.segments[at];
        if !self.store.is_dead(slot) {
            return false;
        }
        self.store.remove_segment(slot);
        self.segments.remove(at);
        true
    }
}
