//! What was durable stays durable (D1, D2, D4): over every death of a node, and in worlds that lose disks as far as such a world
//! can promise it.
//!
//! A node that starts must find at least what the checkers last saw on its device. Somebody who damaged the device makes an
//! exception for the last frame of a log: rot there cannot be told from a torn tail. Everything that a later frame calls
//! durable is *protected*: the node must hold it, or refuse to start.
//!
//! A world that lost a disk, or rolled one back, cannot become equal to the model: what only that disk held is gone, and until
//! members relay for each other, what only one other node got of it stays there. What holds still: every node keeps what it
//! has, and gets whatever the others have originated and still hold.

use std::collections::BTreeMap;

use net::reactor::sim::SimDisk;
use wal::Lsn;

use super::Violation;
use super::device::{self, Record};
use super::finals::C1;
use super::recovery::stored;
use crate::sim::node::Node;

/// Checker D2, at every start.
pub const D2: &str = "D1/D2 what was durable stays durable";
/// Checker D4.
pub const D4: &str = "D4 damage is found";

/// By key, the newest record.
pub type Newest = BTreeMap<Vec<u8>, Record>;

/// What each node must still hold.
#[derive(Debug, Default)]
pub struct Losses {
    /// By node that is down.
    held: Vec<Newest>,
    any: bool,
}

impl Losses {
    /// Nothing was lost on `nodes` disks.
    #[must_use]
    pub fn new(nodes: usize) -> Losses {
        Losses { held: vec![Newest::new(); nodes], any: false }
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

    /// The disk of a node that is down is another one now: nobody knows what it holds until it starts.
    pub fn disk_changed(&mut self, node: usize) {
        self.held[node].clear();
        self.any = true;
    }

    /// Somebody is about to damage the disk of a node that is down.
    ///
    /// # Errors
    /// If a segment on it cannot be read already.
    pub fn damaging(&mut self, node: usize, disk: &SimDisk) -> Result<(), String> {
        self.held[node] = protected(&device::segments(disk)?);
        self.any = true;
        Ok(())
    }

    /// A node has started, and its device holds `newest`.
    ///
    /// # Errors
    /// [`D2`]; [`D4`] if its disk was damaged.
    pub fn started(&mut self, node: usize, region: &str, newest: &Newest, damaged: bool) -> Result<(), Violation> {
        let checker = if damaged { D4 } else { D2 };
        for (key, held) in std::mem::take(&mut self.held[node]) {
            let found = newest.get(&key);
            if found.is_none_or(|found| found.rank() < held.rank()) {
                return Err(Violation::new(checker, format!("{region} started with {found:?}, but held {held:?}")));
            }
        }
        Ok(())
    }

    /// Something that a node has to have in a world that lost a disk, and has not.
    pub fn missing<'a>(&self, nodes: impl Iterator<Item = (&'a str, &'a mut Node)>) -> Option<Violation> {
        let all: Vec<(&str, wal::NodeId, Newest)> = nodes.map(|(name, node)| (name, node.id, stored(node))).collect();
        for (source, id, originated) in &all {
            for record in originated.values().filter(|record| record.origin == *id) {
                for (target, _, held) in &all {
                    let found = held.get(&record.key);
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

/// The newest record of each key in frames that a later frame of their log calls durable.
fn protected(segments: &[device::Segment]) -> Newest {
    let mut durable: BTreeMap<_, Lsn> = BTreeMap::new();
    for segment in segments {
        let log = (segment.header.incarnation, segment.header.core);
        let end = durable.entry(log).or_default();
        let said = segment.frames.iter().map(|frame| frame.durable).max().unwrap_or_default();
        *end = (*end).max(said);
        // A log that goes on in another segment has all of this one.
        if let Some(last) = segment.frames.last().filter(|frame| frame.ends_segment) {
            *end = (*end).max(last.end);
        }
    }
    let mut newest = Newest::new();
    for segment in segments {
        let end = durable[&(segment.header.incarnation, segment.header.core)];
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
