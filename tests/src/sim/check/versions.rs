//! C6: versions of an origin rise strictly, inside each core's log and over restarts and clock jumps.
//!
//! A run of a node begins above everything that an earlier run of it originated, and above everything that an earlier run promised
//! never to originate at or below again ([`engine::shard::Shard::complete`], by core): followers may hold such a promise in
//! memory only, as a claim, so that the device need not show it. A node whose disk was set back or damaged may have lost the
//! clock's ceiling with it, and is excused.

use std::collections::BTreeMap;

use net::ids::LogId;
use wal::{NodeId, Version};

use super::Violation;
use super::device::Record;

/// Checker C6.
pub const C6: &str = "C6 versions rise strictly";

/// How far the runs of one node came.
#[derive(Debug, Default)]
struct Reached {
    originated: Version,
    promised: Version,
}

/// One run.
#[derive(Debug)]
struct Run {
    /// Every version of it is above this.
    floor: Version,
    /// Last version by core.
    last: BTreeMap<u16, Version>,
}

/// How far versions came.
#[derive(Debug, Default)]
pub struct Versions {
    nodes: BTreeMap<NodeId, Reached>,
    runs: BTreeMap<LogId, Run>,
}

impl Versions {
    /// A run of `node` begins; it says that `first` is its first version.
    ///
    /// # Errors
    /// [`C6`].
    pub fn begins(&mut self, node: NodeId, log: LogId, first: Version) -> Result<(), Violation> {
        let reached = self.nodes.entry(node).or_default();
        let floor = reached.originated.max(reached.promised);
        self.runs.insert(log, Run { floor, last: BTreeMap::new() });
        if first > floor {
            return Ok(());
        }
        let Reached { originated, promised } = reached;
        let text = format!(
            "{log} begins at {first:?}, but earlier runs of the node originated up to {originated:?} and promised up to {promised:?}"
        );
        Err(Violation::new(C6, text))
    }

    /// A core of `node` will never again originate this or less.
    pub fn promised(&mut self, node: NodeId, version: Version) {
        let reached = self.nodes.entry(node).or_default();
        reached.promised = reached.promised.max(version);
    }

    /// The disk of `node` is an earlier one, or damaged: nothing on it tells the next run how far the lost ones came. (Members that hold
    /// more of its log could: DESIGN §6, not there yet.)
    pub fn forget(&mut self, node: NodeId) {
        self.nodes.remove(&node);
    }

    /// A record of `core` in `log` is durable that was not known yet.
    ///
    /// # Errors
    /// [`C6`].
    pub fn originated(&mut self, log: LogId, core: u16, record: &Record) -> Result<(), Violation> {
        let reached = self.nodes.entry(record.origin).or_default();
        // A run that ended before anybody saw it start.
        let run = self.runs.entry(log).or_insert_with(|| Run { floor: reached.originated, last: BTreeMap::new() });
        reached.originated = reached.originated.max(record.version);
        if record.version <= run.floor {
            let text = format!("{log} gives {record:?}, but an earlier run of the node reached {:?}", run.floor);
            return Err(Violation::new(C6, text));
        }
        let last = run.last.entry(core).or_default();
        if record.version <= *last {
            return Err(Violation::new(C6, format!("core {core} of {log} gives {record:?} after {last:?}")));
        }
        *last = record.version;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use wal::{Incarnation, RecordOp};

    use super::*;

    const NODE: NodeId = NodeId(7);

    fn log(run: u64) -> LogId {
        engine::replication::log_id(NODE, Incarnation(run))
    }

    fn record(version: u64) -> Record {
        Record {
            version: Version(version),
            crc: 1,
            stored_crc: 1,
            op: RecordOp::Put,
            origin: NODE,
            expiry: None,
            key: b"key".to_vec(),
            value_crc: 2,
            writer: None,
        }
    }

    fn fails(result: Result<(), Violation>) -> bool {
        result.is_err_and(|violation| violation.checker == C6)
    }

    /// A run that originated up to 120 on two cores and promised up to 150.
    fn after_one_run() -> Versions {
        let mut versions = Versions::default();
        assert_eq!(versions.begins(NODE, log(1), Version(100)), Ok(()));
        for (core, version) in [(0, 101), (1, 101), (0, 110), (1, 120)] {
            assert_eq!(versions.originated(log(1), core, &record(version)), Ok(()));
        }
        versions.promised(NODE, Version(150));
        versions.promised(NODE, Version(140));
        versions
    }

    #[test]
    fn a_run_begins_above_what_was_originated_and_promised() {
        assert_eq!(after_one_run().begins(NODE, log(2), Version(151)), Ok(()));
        assert!(fails(after_one_run().begins(NODE, log(2), Version(150))));
        assert_eq!(after_one_run().begins(NodeId(8), log(3), Version(1)), Ok(()), "another node has its own clock");
    }

    #[test]
    fn a_disk_that_was_set_back_excuses_its_node() {
        let mut versions = after_one_run();
        versions.forget(NODE);
        assert_eq!(versions.begins(NODE, log(2), Version(1)), Ok(()), "nothing tells it more");
    }

    #[test]
    fn records_rise_by_core_and_over_runs() {
        let mut versions = after_one_run();
        assert!(fails(versions.originated(log(1), 0, &record(110))), "not above the core's last");
        assert_eq!(versions.originated(log(1), 0, &record(111)), Ok(()), "cores are not ordered among each other");
        assert_eq!(versions.begins(NODE, log(2), Version(200)), Ok(()));
        assert!(fails(versions.originated(log(2), 0, &record(149))), "below what the first run promised");
        assert_eq!(versions.originated(log(1), 1, &record(121)), Ok(()), "what turns up late belongs to its own run");
    }
}
