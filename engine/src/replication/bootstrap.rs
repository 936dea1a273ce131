//! A bootstrap: a node that lacks what others may have forgotten takes over everything that one of them has, and drops what that one does
//! not have any more ([decision 17](../../../docs/decisions/0017-below-the-floor-a-node-takes-over-everything.md)).
//!
//! Here is what both ends have to know, without I/O: what is noted of it, what the source says when it begins, and what of the follower's
//! records that makes dead.

use std::collections::BTreeMap;

use net::ids::{NodeId, Version};
use net::wire::body::HeldOfNode;
use net::wire::limits::LOGS_MAX;
use wal::ControlRecord;

use super::cut;
use super::known::KnownLogs;
use super::watermarks::Watermarks;
use super::{from_wire, to_wire};

/// What a node's own log says of what it may have forgotten, of what it held then, and of its bootstraps. No field falls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Floor {
    /// What was deleted, or had expired, by then may have been forgotten here.
    pub forgotten: wal::Version,
    /// Everything up to here, of all members, was held here.
    pub held: wal::Version,
    /// When the last bootstrap began; zero if there was none.
    pub begun: wal::Version,
    /// The `begun` of the last one that came to its end.
    pub ended: wal::Version,
}

impl Floor {
    /// Takes in what a record says; whether it is one that says something of it.
    pub fn learn(&mut self, control: &ControlRecord) -> bool {
        let other = match *control {
            ControlRecord::Forgotten { version, held } => Floor { forgotten: version, held, ..Floor::default() },
            ControlRecord::Bootstrap { begun, ended, version, held } => {
                Floor { forgotten: version, held, begun, ended }
            }
            _ => return false,
        };
        self.forgotten = self.forgotten.max(other.forgotten);
        self.held = self.held.max(other.held);
        self.begun = self.begun.max(other.begun);
        self.ended = self.ended.max(other.ended);
        true
    }

    /// The records that say it.
    pub fn records(self) -> impl Iterator<Item = ControlRecord> {
        let Floor { forgotten: version, held, begun, ended } = self;
        let cut = (held > wal::Version::ZERO).then_some(ControlRecord::Forgotten { version, held });
        let bootstrap =
            (begun > wal::Version::ZERO).then_some(ControlRecord::Bootstrap { begun, ended, version, held });
        cut.into_iter().chain(bootstrap)
    }
}

/// What a source says of itself when a bootstrap begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Given {
    /// What died up to here it may have forgotten.
    pub forgotten: Version,
    /// Everything up to here, of all members, it held.
    pub held: Version,
    /// Up to where it held everything that a node wrote.
    pub nodes: Vec<HeldOfNode>,
}

/// Up to where a node holds everything that each node wrote, itself included: `complete` of its own log.
#[must_use]
pub fn held_of_nodes(
    own: NodeId,
    complete: wal::Version,
    known: &KnownLogs,
    watermarks: &Watermarks,
) -> Vec<HeldOfNode> {
    let of = |node: NodeId| cut::held_of(known.of(node), |log| watermarks.version(log));
    let others = known.nodes().filter(|node| *node != own).map(|node| HeldOfNode { node, upto: of(node) });
    std::iter::once(HeldOfNode { node: own, upto: to_wire(complete) }).chain(others).take(LOGS_MAX).collect()
}

/// What a source did not have any more: what of a follower's records is dead if it was not sent.
#[derive(Clone, Debug, Default)]
pub struct Absent {
    upto: wal::Version,
    nodes: BTreeMap<wal::NodeId, wal::Version>,
}

impl Absent {
    /// What that source says that it may have forgotten and held.
    #[must_use]
    pub fn new(given: &Given) -> Absent {
        let nodes = given.nodes.iter().map(|held| (wal::NodeId(held.node.0), from_wire(held.upto)));
        Absent { upto: from_wire(given.forgotten), nodes: nodes.collect() }
    }

    /// Whether the source would have sent it, or what took its place, unless that was forgotten.
    #[must_use]
    pub fn is_dead(&self, origin: wal::NodeId, version: wal::Version) -> bool {
        version <= self.upto && self.was_held(origin, version)
    }

    /// Whether the source may have forgotten what this record would lose against, and never heard of the record.
    #[must_use]
    pub fn is_too_old(&self, origin: wal::NodeId, version: wal::Version) -> bool {
        version <= self.upto && !self.was_held(origin, version)
    }

    fn was_held(&self, origin: wal::NodeId, version: wal::Version) -> bool {
        self.nodes.get(&origin).is_some_and(|upto| version <= *upto)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_what_their_records_say_and_never_fall() {
        let v = wal::Version;
        let noted = Floor { forgotten: v(3), held: v(5), begun: v(9), ended: v(7) };
        let mut read = Floor::default();
        assert!(noted.records().all(|record| read.learn(&record)));
        assert_eq!(read, noted);
        assert!(read.learn(&ControlRecord::Forgotten { version: v(1), held: v(6) }));
        assert_eq!(read, Floor { held: v(6), ..noted });
        assert!(!read.learn(&ControlRecord::ClockCeiling { version: v(99) }));
        assert_eq!(Floor::default().records().count(), 0);
    }

    #[test]
    fn dead_is_what_the_source_held_and_may_have_forgotten() {
        let nodes = vec![HeldOfNode { node: NodeId(1), upto: Version(50) }];
        let absent = Absent::new(&Given { forgotten: Version(40), held: Version(45), nodes });
        let of = |origin: u32, version: u64| (wal::NodeId(origin), wal::Version(version));
        let dead = |(origin, version)| absent.is_dead(origin, version);
        assert!(dead(of(1, 40)) && !dead(of(1, 41)), "younger ones it would have had");
        assert!(!dead(of(2, 10)), "it never heard of this node");
        assert!(
            absent.is_too_old(wal::NodeId(2), wal::Version(10)) && !absent.is_too_old(wal::NodeId(1), wal::Version(10))
        );
    }
}
