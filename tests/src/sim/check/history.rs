//! Everything that ever became durable where it was written.

use std::collections::{BTreeMap, BTreeSet};

use net::ids::LogId;
use wal::{NodeId, Version};

use super::Violation;
use super::device::Record;
use super::versions::Versions;

/// One origin log.
type LogHistory = BTreeMap<Version, Vec<Record>>;

/// All originated records.
#[derive(Debug, Default)]
pub struct History {
    logs: BTreeMap<LogId, LogHistory>,
    /// How far they came.
    pub versions: Versions,
    known: BTreeSet<(NodeId, Version, Vec<u8>)>,
    winners: BTreeMap<Vec<u8>, Record>,
    /// How many there are, control records included.
    pub records: u64,
}

impl History {
    /// A record of `core` in its node's log `log` is durable. Returns whether it was not known yet.
    ///
    /// # Errors
    /// [`super::versions::C6`].
    pub fn originated(&mut self, log: LogId, core: u16, record: &Record) -> Result<bool, Violation> {
        let history = self.logs.entry(log).or_default();
        if !self.known.insert((record.origin, record.version, record.key.clone())) {
            return Ok(false);
        }
        self.versions.originated(log, core, record)?;
        self.records += 1;
        history.entry(record.version).or_default().push(record.clone());
        if record.is_control() {
            return Ok(true);
        }
        let winner = self.winners.entry(record.key.clone()).or_insert_with(|| record.clone());
        if winner.rank() < record.rank() {
            *winner = record.clone();
        }
        Ok(true)
    }

    /// The records of a log above `from` and up to `to`, control records excluded.
    pub fn between(&self, log: LogId, from: Version, to: Version) -> impl Iterator<Item = &Record> {
        let records = self.logs.get(&log);
        let range = (std::ops::Bound::Excluded(from), std::ops::Bound::Included(to.max(from)));
        let found = records.filter(|_| to > from).map(|records| records.range(range));
        found.into_iter().flatten().flat_map(|(_, records)| records).filter(|record| !record.is_control())
    }

    /// The logs of a node.
    pub fn logs_of(&self, node: NodeId) -> impl Iterator<Item = LogId> {
        let node = net::ids::NodeId(node.0);
        self.logs.keys().copied().filter(move |log| log.node == node)
    }

    /// By key, the record that wins over all others.
    #[must_use]
    pub fn winners(&self) -> &BTreeMap<Vec<u8>, Record> {
        &self.winners
    }

    /// Pairs of records of one key, of different origins, with one version; how often a tie had to be broken.
    #[must_use]
    pub fn ties(&self) -> usize {
        let mut seen: BTreeMap<(&[u8], Version), NodeId> = BTreeMap::new();
        let records = self.logs.values().flat_map(|log| log.values().flatten());
        records
            .filter(|record| !record.is_control())
            .filter(|record| {
                seen.insert((&record.key, record.version), record.origin).is_some_and(|other| other != record.origin)
            })
            .count()
    }
}
