//! Everything that ever became durable where it was written.

use std::collections::{BTreeMap, BTreeSet};

use net::ids::LogId;
use wal::{NodeId, Version};

use super::Violation;
use super::device::Record;
use super::versions::Versions;

/// One origin log.
type LogHistory = BTreeMap<Version, Vec<Record>>;

/// A record that dies: its rank, and when it is dead.
type Dead = ((Version, u32), Version);

/// All originated records.
#[derive(Debug, Default)]
pub struct History {
    logs: BTreeMap<LogId, LogHistory>,
    /// How far they came.
    pub versions: Versions,
    known: BTreeSet<(NodeId, Version, Vec<u8>)>,
    winners: BTreeMap<Vec<u8>, Record>,
    /// By key, tombstones and records that expire: which they are, and when they are dead.
    dead: BTreeMap<Vec<u8>, Vec<Dead>>,
    /// What was dead by then may be forgotten.
    forgotten: Version,
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
        if let Some(dead_at) = record.dead_at() {
            self.dead.entry(record.key.clone()).or_default().push((record.rank(), dead_at));
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

    /// All records up to a version, of all logs.
    pub fn upto(&self, upto: Version) -> impl Iterator<Item = &Record> {
        self.logs.keys().flat_map(move |log| self.between(*log, Version::ZERO, upto))
    }

    /// Up to where some node may forget what is dead.
    #[must_use]
    pub fn forgotten(&self) -> Version {
        self.forgotten
    }

    /// Some node may forget up to here.
    pub fn may_forget(&mut self, upto: Version) {
        self.forgotten = self.forgotten.max(upto);
    }

    /// Whether a record, or what took its place, may have been forgotten.
    #[must_use]
    pub fn is_forgotten(&self, record: &Record) -> bool {
        self.is_rank_forgotten(&record.key, record.rank())
    }

    /// Whether what took a record's place may have been forgotten.
    #[must_use]
    pub fn was_forgotten_after(&self, record: &Record) -> bool {
        let dead = self.dead.get(&record.key).into_iter().flatten();
        dead.into_iter().any(|(dead, dead_at)| *dead > record.rank() && *dead_at <= self.forgotten)
    }

    /// The same, of a record of this key and rank.
    #[must_use]
    pub fn is_rank_forgotten(&self, key: &[u8], rank: (Version, u32)) -> bool {
        let dead = self.dead.get(key).into_iter().flatten();
        dead.into_iter().any(|(dead, dead_at)| *dead >= rank && *dead_at <= self.forgotten)
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
