//! What was durable stays durable (D1, D2, D4): over every death of a node, and in worlds that lose disks as far as such a world
//! can promise it.
//!
//! A node that starts must find at least what the checkers last saw on its device. Somebody who damaged the device makes an
//! exception for the end of a log: rot there cannot be told from a torn tail. *Protected* is what a later frame calls durable,
//! if either it lies before all damage to its log or that later frame is itself intact: the node must hold it, or refuse to
//! start.
//!
//! A world that lost a disk, or rolled one back, cannot become equal to the model: what only that disk held is gone, and until
//! members relay for each other, what only one other node got of it stays there. What holds still: every node keeps what it
//! has, and gets whatever the others have originated and still hold.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use net::reactor::sim::SimDisk;
use wal::{CoreId, Lsn, SegmentNumber};

use super::Violation;
use super::device::{self, Record};
use super::finals::{C1, C3};
use super::history::History;
use super::recovery::stored;
use super::view::View;
use crate::sim::node::Node;

/// Checker D2, at every start.
pub const D2: &str = "D1/D2 what was durable stays durable";
/// Checker D4.
pub const D4: &str = "D4 damage is found";

/// By key, the newest record.
pub type Newest = BTreeMap<Vec<u8>, Record>;

/// Bytes of a segment that are not what they were.
#[derive(Clone, Debug)]
pub struct Damage {
    /// Whose segment.
    pub core: CoreId,
    /// Which segment.
    pub number: SegmentNumber,
    /// Where in its file.
    pub bytes: Range<u64>,
}

/// What was on a device before somebody damaged it, and what is not any more.
#[derive(Debug, Default)]
struct Damaged {
    whole: Vec<device::Segment>,
    damage: Vec<Damage>,
}

/// What each node must still hold.
#[derive(Debug, Default)]
pub struct Losses {
    /// By node that is down.
    held: Vec<Newest>,
    /// By node, since it last started.
    damaged: BTreeMap<usize, Damaged>,
    /// Nodes whose disk, or the one before it, was damaged at some time. Where rot took the end of a log for a torn tail, it may have taken copies that
    /// compaction made of what such a node claims; until members repair each other, nothing tells.
    may_lack: BTreeSet<usize>,
    any: bool,
}

impl Losses {
    /// Nothing was lost on `nodes` disks.
    #[must_use]
    pub fn new(nodes: usize) -> Losses {
        Losses { held: vec![Newest::new(); nodes], ..Losses::default() }
    }

    /// Whether some disk was lost, rolled back or damaged.
    #[must_use]
    pub fn any(&self) -> bool {
        self.any
    }

    /// A node died and held this durably.
    pub fn died(&mut self, node: usize, newest: Newest) {
        if !newest.is_empty() {
            self.held[node] = newest;
        }
    }

    /// What the disk of a node that is down must still hold; nothing if nobody knows.
    #[must_use]
    pub fn held(&self, node: usize) -> &Newest {
        &self.held[node]
    }

    /// The disk of a node that is down is another one now: nobody knows what it holds until it starts.
    pub fn disk_changed(&mut self, node: usize) {
        self.held[node].clear();
        self.damaged.remove(&node);
        self.any = true;
    }

    /// Somebody is about to damage the disk of a node that is down, for the first time since it last ran or again.
    ///
    /// # Errors
    /// If a segment on it cannot be read before the first damage.
    pub fn damaging(&mut self, node: usize, disk: &SimDisk, damage: Damage) -> Result<(), String> {
        self.may_lack.insert(node);
        let damaged = match self.damaged.entry(node) {
            Entry::Occupied(damaged) => damaged.into_mut(),
            Entry::Vacant(vacant) => vacant.insert(Damaged { whole: device::segments(disk)?, ..Damaged::default() }),
        };
        damaged.damage.push(damage);
        self.held[node] = protected(&damaged.whole, &damaged.damage);
        self.any = true;
        Ok(())
    }

    /// Whether the disk of this node was damaged since it last started.
    #[must_use]
    pub fn is_damaged(&self, node: usize) -> bool {
        self.damaged.contains_key(&node)
    }

    /// Whether the disk of a node was damaged at some time: it may lack what it claims.
    #[must_use]
    pub fn may_lack(&self, node: usize) -> bool {
        self.may_lack.contains(&node)
    }

    /// A node has started, and its device holds `newest`.
    ///
    /// # Errors
    /// [`D2`]; [`D4`] if its disk was damaged.
    pub fn started(&mut self, node: usize, region: &str, newest: &Newest, history: &History) -> Result<(), Violation> {
        let checker = if self.damaged.remove(&node).is_some() { D4 } else { D2 };
        for (key, held) in std::mem::take(&mut self.held[node]) {
            let found = newest.get(&key);
            let is_dead = |found: &Record| found.dead_at().is_some_and(|dead_at| dead_at <= history.forgotten());
            if history.is_forgotten(&held) && found.is_none_or(is_dead) {
                continue;
            }
            if found.is_none_or(|found| found.rank() < held.rank()) {
                return Err(Violation::new(checker, format!("{region} started with {found:?}, but held {held:?}")));
            }
        }
        Ok(())
    }

    /// Something that a node has to have in a world that lost a disk, and has not.
    pub fn missing<'a>(
        &self,
        views: &[View],
        nodes: impl Iterator<Item = (usize, &'a str, &'a mut Node)>,
        history: &History,
    ) -> Option<Violation> {
        let all: Vec<(usize, &str, wal::NodeId, Newest)> =
            nodes.map(|(index, name, node)| (index, name, node.id, stored(node))).collect();
        for (index, name, _, held) in &all {
            let is_back = |record: &&Record| record.op == wal::RecordOp::Put && history.was_forgotten_after(record);
            if let Some(record) = held.values().find(is_back).filter(|_| !self.may_lack(*index)) {
                let text = format!("{name} has {record:?}, whose successor all members held before it was forgotten");
                return Some(Violation::new(C3, text));
            }
        }
        for (at, source, id, originated) in &all {
            // What it was given back after its disk was rolled back stands in none of its logs.
            let ships = |record: &&Record| !views[*at].given_back.contains(&record.rank());
            for record in originated.values().filter(|record| record.origin == *id).filter(ships) {
                let judged = |index: usize| !self.may_lack(index) && views[index].may_hold(&record.key);
                for (_, target, _, held) in all.iter().filter(|(index, ..)| judged(*index)) {
                    let found = held.get(&record.key);
                    if found.is_none() && history.is_forgotten(record) {
                        continue;
                    }
                    if found.is_none_or(|found| found.rank() < record.rank()) {
                        let text = format!("{target} has {found:?}, but {source} still holds its own {record:?}");
                        return Some(Violation::new(C1, text));
                    }
                }
            }
        }
        None
    }
}

/// Whether damage to this segment touches the bytes between these positions.
fn touches(damage: &[Damage], header: &wal::SegmentHeader, positions: Range<Lsn>) -> bool {
    let (from, to) = (positions.start.0 - header.base.0, positions.end.0 - header.base.0);
    let mut here = damage.iter().filter(|damage| damage.core == header.core && damage.number == header.number);
    here.any(|damage| damage.bytes.start < to && damage.bytes.end > from)
}

/// What frames of one log say, up to here exclusively.
#[derive(Debug, Default)]
struct Said {
    /// By any of them, before there was damage.
    durable: Lsn,
    /// By an intact one.
    still: Lsn,
    /// The end of the last frame before the damage, once there is some.
    intact: Option<Lsn>,
}

/// The newest record of each key in frames that are protected.
fn protected(segments: &[device::Segment], damage: &[Damage]) -> Newest {
    let mut logs: BTreeMap<_, Said> = BTreeMap::new();
    for segment in segments {
        let said = logs.entry((segment.header.incarnation, segment.header.core)).or_default();
        let mut start = Lsn(segment.header.base.0 + wal::SEGMENT_HEADER_BYTES as u64);
        for frame in &segment.frames {
            // A log that goes on in another segment has all of this one.
            let durable = if frame.ends_segment { frame.end } else { frame.durable };
            said.durable = said.durable.max(durable);
            if touches(damage, &segment.header, start..frame.end) {
                said.intact.get_or_insert(start);
            } else {
                said.still = said.still.max(durable);
            }
            start = frame.end;
        }
    }
    let mut newest = Newest::new();
    for segment in segments {
        let said = &logs[&(segment.header.incarnation, segment.header.core)];
        let end = said.still.max(said.durable.min(said.intact.unwrap_or(said.durable)));
        for record in segment.frames.iter().filter(|frame| frame.end <= end).flat_map(|frame| &frame.records) {
            if record.is_control() {
                continue;
            }
            let known = newest.entry(record.key.clone()).or_insert_with(|| record.clone());
            if known.rank() < record.rank() {
                *known = record.clone();
            }
        }
    }
    newest
}

#[cfg(test)]
mod tests {
    use wal::{Cookie, FrameKind, Incarnation, NodeId, RecordOp, SegmentHeader, Version};

    use super::*;

    const BASE: u64 = wal::SEGMENT_HEADER_BYTES as u64;

    fn record(key: u8) -> Record {
        Record {
            version: Version(u64::from(key)),
            crc: 0,
            stored_crc: 0,
            op: RecordOp::Put,
            origin: NodeId(1),
            expiry: None,
            key: vec![key],
            value_crc: 0,
            writer: None,
        }
    }

    /// Four frames of 128 bytes, each with one key and sealed when the ones before it were durable.
    fn segment() -> device::Segment {
        let frame = |index: u8| device::Frame {
            kind: FrameKind::Originated,
            end: Lsn(BASE + 128 * (u64::from(index) + 1)),
            durable: Lsn(BASE + 128 * u64::from(index)),
            hlc: Version::ZERO,
            ends_segment: false,
            records: vec![record(index)],
        };
        let header = SegmentHeader {
            segment_bytes: 65_536,
            node: NodeId(1),
            incarnation: Incarnation(1),
            core: CoreId(0),
            number: SegmentNumber(1),
            cookie: Cookie(1),
            base: Lsn(0),
            previous: None,
        };
        device::Segment { header, frames: (0..4).map(frame).collect() }
    }

    fn keys_after(damaged: Range<u64>) -> Vec<u8> {
        let bytes = BASE + damaged.start..BASE + damaged.end;
        let damage = Damage { core: CoreId(0), number: SegmentNumber(1), bytes };
        protected(&[segment()], &[damage]).into_keys().flatten().collect()
    }

    #[test]
    fn what_an_intact_later_frame_calls_durable_is_protected_even_where_it_is_damaged_itself() {
        assert_eq!(keys_after(130..131), [0, 1, 2]);
        assert_eq!(keys_after(260..261), [0, 1, 2]);
        assert_eq!(keys_after(5_000..5_001), [0, 1, 2]);
    }

    #[test]
    fn before_all_damage_everything_that_was_called_durable_is_protected() {
        assert_eq!(keys_after(390..391), [0, 1, 2], "the last frame itself is not");
        assert_eq!(keys_after(256..512), [0, 1], "a frame that is gone together with what called it durable");
        assert_eq!(keys_after(0..512), [0; 0]);
    }
}
