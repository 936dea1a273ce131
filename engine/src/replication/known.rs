//! Logs of other nodes that this node knows of: their own nodes offered them, or somebody who follows them. What a record's log is
//! follows from its origin and version, since the logs of one node are disjoint intervals of versions.

use std::collections::BTreeMap;

use net::ids::{Incarnation, LogId, NodeId, Version};
use net::wire::body::{LogEntry, LogState};
use net::wire::limits::LOGS_MAX;
use wal::ControlRecord;

/// A log of another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Known {
    first: Version,
    /// Its highest version, once its node has said that it is over.
    end: Option<Version>,
    cores: u16,
    /// Its node does not list it any more: nothing in it counted, or what did stands in later ones.
    gone: bool,
    /// This node's own log says of it.
    written: bool,
}

/// What may be said of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownLog {
    /// Which one.
    pub log: LogId,
    /// Its first version.
    pub first: Version,
    /// Its highest version, once its node has said that it is over.
    pub end: Option<Version>,
    /// Its node does not list it any more: nothing in it counted, or what did stands in later ones.
    pub gone: bool,
}

/// In the order of logs, the first that `node` could have.
fn first_log(node: NodeId) -> LogId {
    LogId { node, incarnation: Incarnation(0) }
}

/// All of them.
#[derive(Clone, Debug, Default)]
pub struct KnownLogs {
    logs: BTreeMap<LogId, Known>,
}

impl KnownLogs {
    /// What recovery found: logs, each with its first version and its cores.
    #[must_use]
    pub fn recovered(logs: impl IntoIterator<Item = (LogId, Version, u16)>) -> KnownLogs {
        let known = |(log, first, cores)| (log, Known { first, end: None, cores, gone: false, written: true });
        KnownLogs { logs: logs.into_iter().map(known).collect() }
    }

    /// Somebody offers a log of another node. Whether that is news; more logs than a peer may be told of are not remembered.
    pub fn learn(&mut self, entry: &LogEntry) -> bool {
        let end = (entry.state != LogState::Open).then_some(entry.end);
        if let Some(known) = self.logs.get_mut(&entry.log) {
            let is_news = end.is_some() && known.end.is_none();
            known.end = known.end.or(end);
            return is_news;
        }
        if self.logs.len() >= LOGS_MAX {
            return false;
        }
        let known = Known { first: entry.first, end, cores: entry.cores, gone: false, written: false };
        self.logs.insert(entry.log, known);
        true
    }

    /// `node` itself says which logs it has: earlier ones that it does not name are gone.
    pub fn listed(&mut self, node: NodeId, named: &[LogEntry]) {
        let Some(newest) = named.iter().map(|entry| entry.first).max().filter(|_| named.len() < LOGS_MAX) else {
            return;
        };
        for (log, known) in self.logs.range_mut(first_log(node)..).take_while(|(log, _)| log.node == node) {
            known.gone |= known.first < newest && named.iter().all(|entry| entry.log != *log);
        }
    }

    /// The next log that this node's own log says nothing of, as the record to write. The earliest first: whatever a crash leaves, no log of a node
    /// is known without those before it.
    pub fn next_to_write(&mut self) -> Option<ControlRecord> {
        let unwritten = self.logs.iter_mut().filter(|(_, known)| !known.written);
        let (log, known) = unwritten.min_by_key(|(_, known)| known.first)?;
        known.written = true;
        Some(ControlRecord::Open {
            node: wal::NodeId(log.node.0),
            incarnation: wal::Incarnation(log.incarnation.0),
            first: wal::Version(known.first.0),
            cores: known.cores,
        })
    }

    /// Every log with its first version.
    pub fn firsts(&self) -> impl Iterator<Item = (LogId, Version)> {
        self.logs.iter().map(|(log, known)| (*log, known.first))
    }

    /// The logs of `node` that `held` says are not held to their end.
    pub fn open_of(&self, node: NodeId, held: impl Fn(LogId) -> Version) -> impl Iterator<Item = LogId> {
        let logs = self.logs.iter().filter(move |(log, _)| log.node == node);
        logs.filter(move |(log, known)| known.end.is_none_or(|end| held(**log) < end)).map(|(log, _)| *log)
    }

    /// The logs of `node`.
    pub fn of(&self, node: NodeId) -> impl Iterator<Item = KnownLog> {
        let logs = self.logs.range(first_log(node)..).take_while(move |(log, _)| log.node == node);
        logs.map(|(log, known)| KnownLog { log: *log, first: known.first, end: known.end, gone: known.gone })
    }

    /// Whose logs they are.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> {
        let mut last = None;
        self.logs.keys().map(|log| log.node).filter(move |node| last.replace(*node) != Some(*node))
    }

    /// Whether a log is among them.
    #[must_use]
    pub fn contains(&self, log: LogId) -> bool {
        self.logs.contains_key(&log)
    }

    /// What followers are told of those that are not of the node `but`, which knows its own.
    pub fn entries(&self, but: NodeId) -> impl Iterator<Item = LogEntry> {
        self.logs.iter().filter(move |(log, _)| log.node != but).map(|(log, known)| LogEntry {
            log: *log,
            first: known.first,
            end: known.end.unwrap_or(Version(0)),
            cores: known.cores,
            state: if known.end.is_some() { LogState::Retired } else { LogState::Open },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(node: u32, first: u64, end: u64) -> LogEntry {
        let state = if end == 0 { LogState::Open } else { LogState::Retired };
        let log = LogId { node: NodeId(node), incarnation: Incarnation(first) };
        LogEntry { log, first: Version(first), end: Version(end), cores: 2, state }
    }

    #[test]
    fn what_is_learnt_is_news_once_and_written_once() {
        let mut known = KnownLogs::default();
        assert!(known.learn(&entry(1, 10, 0)));
        assert!(!known.learn(&entry(1, 10, 0)));
        assert!(known.learn(&entry(1, 10, 20)), "it is over");
        assert!(!known.learn(&entry(1, 10, 0)), "an old word changes nothing");
        assert!(known.entries(NodeId(0)).all(|known| known == entry(1, 10, 20)));
        assert!(known.next_to_write().is_some() && known.next_to_write().is_none());
        assert!(known.learn(&entry(2, 5, 0)) && known.learn(&entry(1, 30, 0)));
        assert_eq!(known.nodes().collect::<Vec<_>>(), [NodeId(1), NodeId(2)]);
        assert_eq!(known.entries(NodeId(1)).collect::<Vec<_>>(), [entry(2, 5, 0)]);
        let open: Vec<_> = known.open_of(NodeId(1), |_| Version(20)).collect();
        assert_eq!(open, [entry(1, 30, 0).log], "the other one is held to its end");
    }

    #[test]
    fn what_a_node_does_not_list_any_more_is_gone() {
        let mut known = KnownLogs::default();
        for log in [entry(1, 10, 20), entry(1, 30, 0), entry(1, 50, 0), entry(2, 5, 0)] {
            assert!(known.learn(&log));
        }
        let gone = |known: &KnownLogs| known.of(NodeId(1)).map(|log| log.gone).collect::<Vec<_>>();
        known.listed(NodeId(1), &[entry(1, 10, 20), entry(1, 30, 0)]);
        assert_eq!(gone(&known), [false, false, false], "a newer one that it did not know of yet is not");
        known.listed(NodeId(1), &[entry(1, 50, 0)]);
        assert_eq!(gone(&known), [true, true, false]);
        assert!(known.of(NodeId(2)).all(|log| !log.gone));
    }

    #[test]
    fn there_is_a_bound() {
        let mut known = KnownLogs::default();
        assert!((0..LOGS_MAX as u64).all(|n| known.learn(&entry(1, n + 1, 0))));
        assert!(!known.learn(&entry(2, 1, 0)));
        assert!(known.learn(&entry(1, 1, 7)), "of those that are known the end is still learnt");
    }
}
