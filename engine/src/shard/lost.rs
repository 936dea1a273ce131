//! Writes of other nodes that lost against a write of this node which did not know them.
//!
//! A record of another node that arrives after this node wrote the same key with a later version was not known to that write, or its
//! clients would have seen it: the two are concurrent, and last-writer-wins hides one. This is where that shows for certain,
//! so that each node counts the writes that its own ones overwrote. A record that the watermarks cover was here before, and does not count
//! again when it is repeated.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use wal::marks::{Mark, reach};
use wal::{NodeId, RecordOp, RecordView, Version};

use crate::storage::store::Facts;

/// Writes that are kept.
const LOST_WRITES_MAX: usize = 256;

/// Bytes of their keys and values that are kept.
const LOST_BYTES_MAX: usize = 256 * 1024;

/// Bytes of one key, and of one value, that are kept.
const LOST_VALUE_BYTES_MAX: usize = 4 * 1024;

/// A write that lost, and what it lost against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostWrite {
    /// Who wrote it.
    pub origin: NodeId,
    /// Its version.
    pub version: Version,
    /// The beginning of its key.
    pub key: Vec<u8>,
    /// The beginning of its value; `None` of a deletion.
    pub value: Option<Vec<u8>>,
    /// Bytes of the whole value.
    pub value_bytes: usize,
    /// The version of this node's write that it lost against.
    pub winner: Version,
    /// Whether that is a deletion.
    pub winner_deletes: bool,
}

impl LostWrite {
    fn of(record: &RecordView<'_>, winner: Facts) -> LostWrite {
        let beginning = |bytes: &[u8]| bytes[..bytes.len().min(LOST_VALUE_BYTES_MAX)].to_vec();
        LostWrite {
            origin: record.origin,
            version: record.version,
            key: beginning(record.key),
            value: (record.op == RecordOp::Put).then(|| beginning(record.value)),
            value_bytes: record.value.len(),
            winner: winner.version,
            winner_deletes: !winner.put,
        }
    }

    fn bytes(&self) -> usize {
        self.key.len() + self.value.as_ref().map_or(0, Vec::len)
    }
}

/// How far the logs of other nodes are covered by the watermarks, by node.
pub type Covered = Arc<[(NodeId, Version)]>;

/// The latest of them, within bounds.
#[derive(Debug, Default)]
pub struct LostWrites {
    /// Oldest first.
    latest: VecDeque<LostWrite>,
    bytes: usize,
    /// What was here before the records that are followed now.
    covered: Option<Covered>,
}

impl LostWrites {
    /// What was here before the records that are followed from now on.
    pub fn expect(&mut self, covered: Covered) {
        self.covered = Some(covered);
    }

    /// Whether a record that is followed now was here before.
    #[must_use]
    pub fn was_here(&self, record: &RecordView<'_>) -> bool {
        let covered = self.covered.iter().flat_map(|covered| covered.iter());
        covered.filter(|(node, _)| *node == record.origin).any(|(_, upto)| record.version <= *upto)
    }

    /// `record` lost against a record of this node, `winner`, which did not know it. Returns whether that counts.
    pub fn lost(&mut self, record: &RecordView<'_>, winner: Facts) -> bool {
        // Two deletions agree.
        if record.op == RecordOp::Delete && !winner.put {
            return false;
        }
        reach(Mark::ConcurrentLost);
        self.push(LostWrite::of(record, winner));
        true
    }

    fn push(&mut self, lost: LostWrite) {
        self.bytes += lost.bytes();
        self.latest.push_back(lost);
        while self.latest.len() > LOST_WRITES_MAX || self.bytes > LOST_BYTES_MAX {
            let Some(oldest) = self.latest.pop_front() else { break };
            self.bytes -= oldest.bytes();
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.latest.is_empty()
    }

    /// Newest first.
    pub fn iter(&self) -> impl Iterator<Item = &LostWrite> {
        self.latest.iter().rev()
    }

    fn take(&mut self) -> VecDeque<LostWrite> {
        self.bytes = 0;
        std::mem::take(&mut self.latest)
    }
}

/// The latest of all cores; those who ask read it.
#[derive(Debug, Default)]
pub struct LostBoard(Mutex<LostWrites>);

impl LostBoard {
    /// Takes what a core has. Costs nothing where it has none.
    pub fn collect(&self, lost: &mut LostWrites) {
        if lost.is_empty() {
            return;
        }
        let mut board = self.lock();
        for lost in lost.take() {
            board.push(lost);
        }
    }

    /// A copy, newest first.
    #[must_use]
    pub fn read(&self) -> Vec<LostWrite> {
        self.lock().iter().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, LostWrites> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(number: u64, bytes: usize) -> LostWrite {
        LostWrite {
            origin: NodeId(1),
            version: Version(number),
            key: b"k".to_vec(),
            value: Some(vec![b'v'; bytes]),
            value_bytes: bytes,
            winner: Version(number + 1),
            winner_deletes: false,
        }
    }

    #[test]
    fn the_latest_stay_within_count_and_bytes() {
        let mut lost = LostWrites::default();
        for number in 0..300 {
            lost.push(write(number, 10));
        }
        let kept: Vec<u64> = lost.iter().map(|lost| lost.version.0).collect();
        assert_eq!(kept, (44..300).rev().collect::<Vec<u64>>());
        for number in 300..400 {
            lost.push(write(number, LOST_VALUE_BYTES_MAX));
        }
        assert_eq!(lost.iter().next().map(|lost| lost.version), Some(Version(399)));
        assert!(lost.iter().count() < 65 && lost.iter().map(LostWrite::bytes).sum::<usize>() <= LOST_BYTES_MAX);
        let board = LostBoard::default();
        board.collect(&mut lost);
        assert!(lost.is_empty() && lost.bytes == 0);
        lost.push(write(400, 10));
        board.collect(&mut lost);
        assert_eq!(board.read().first(), Some(&write(400, 10)));
        let bytes = board.lock().bytes;
        assert_eq!(bytes, board.read().iter().map(LostWrite::bytes).sum::<usize>());
    }
}
