//! Whether this node has everything that a session has seen elsewhere.
//!
//! A token names the highest version per node, not which logs it is from. What was seen of a node may stand in any of its logs up to there,
//! so all of them count: the one that has the version up to it, and those before it to their ends.

use net::ids::{NodeId, Version};
use net::token::Token;

use super::known::{KnownLog, KnownLogs};
use super::logs::OwnLogs;
use super::watermarks::Watermarks;
use super::{from_wire, to_wire};

/// What a node holds.
#[derive(Clone, Copy, Debug)]
pub struct Coverage<'a> {
    /// It.
    pub own: NodeId,
    /// Its own logs.
    pub logs: &'a OwnLogs,
    /// Those of others.
    pub known: &'a KnownLogs,
    /// How much it holds of them.
    pub watermarks: &'a Watermarks,
}

impl Coverage<'_> {
    /// The first entry of a token that is not covered.
    #[must_use]
    pub fn lacking(&self, token: &Token) -> Option<(NodeId, Version)> {
        token.iter().find(|(node, version)| !self.has(*node, *version))
    }

    /// Whether all is here, durably or to be seen at once, that `node` wrote up to `version`; for a higher version it is not if for a lower one
    /// it is not.
    #[must_use]
    pub fn has(&self, node: NodeId, version: Version) -> bool {
        if node == self.own { self.has_own(version) } else { self.held(node, version) }
    }

    /// What this run writes is seen at once. Of an earlier run's log what was recovered is here, unless the disk is an older copy: then others may
    /// have seen more of it. Of logs that are gone what counts stands in later ones.
    fn has_own(&self, version: Version) -> bool {
        let version = from_wire(version);
        match self.logs.logs.iter().rev().find(|log| log.first <= version) {
            Some(log) => log.end.is_none_or(|end| version <= end),
            None => true,
        }
    }

    fn held(&self, node: NodeId, version: Version) -> bool {
        let mut logs: Vec<KnownLog> = self.known.of(node).collect();
        logs.sort_unstable_by_key(|log| log.first);
        let held = |log: &KnownLog| self.watermarks.version(log.log);
        let (upto, later) = logs.split_at(logs.partition_point(|log| log.first <= version));
        // The first claim over a later log waits for what stands for those that are gone, whether this node heard of them or not.
        let is_claimed = |log: &KnownLog| held(log) >= log.first;
        let stands_later = later.iter().any(is_claimed);
        let Some((last, earlier)) = upto.split_last() else { return stands_later };
        let is_in_last = !last.gone && last.end.is_none_or(|end| version <= end);
        let is_over = |(at, log): (usize, &KnownLog)| {
            let stands_later = || logs[at + 1..].iter().any(is_claimed);
            log.end.is_some_and(|end| held(log) >= end) || log.gone && stands_later()
        };
        let has_last =
            held(last) >= version || !is_in_last && stands_later && (last.gone || is_over((upto.len() - 1, last)));
        has_last && earlier.iter().enumerate().all(is_over)
    }

    /// Up to where the log is held that has `version` of `node`; zero if it is not known.
    #[must_use]
    pub fn held_of(&self, node: NodeId, version: Version) -> Version {
        let before = |log: &KnownLog| log.first <= version;
        let log = self.known.of(node).filter(before).max_by_key(|log| log.first);
        let own = || self.logs.logs.last().map(|log| to_wire(log.complete()));
        let held = if node == self.own { own() } else { log.map(|log| self.watermarks.version(log.log)) };
        held.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use net::ids::{Incarnation, LogId};
    use net::wire::body::{LogEntry, LogState};

    use super::*;
    use crate::replication::logs::OwnLog;

    const OWN: NodeId = NodeId(1);

    fn log(node: u32, first: u64) -> LogId {
        LogId { node: NodeId(node), incarnation: Incarnation(first) }
    }

    fn entry(node: u32, first: u64, end: u64) -> LogEntry {
        let state = if end == 0 { LogState::Open } else { LogState::Retired };
        LogEntry { log: log(node, first), first: Version(first), end: Version(end), cores: 1, state }
    }

    struct World {
        logs: OwnLogs,
        known: KnownLogs,
        watermarks: Watermarks,
    }

    impl World {
        /// Logs of others, with what is held of each.
        fn new(logs: &[(LogEntry, u64)]) -> World {
            let mut world =
                World { logs: OwnLogs::default(), known: KnownLogs::default(), watermarks: Watermarks::default() };
            for (entry, held) in logs {
                world.known.learn(entry);
                world.watermarks.know(entry.log, entry.first);
                world.watermarks.raise(entry.log, Version(*held), []);
            }
            world
        }

        fn has(&self, node: u32, version: u64) -> bool {
            let coverage = Coverage { own: OWN, logs: &self.logs, known: &self.known, watermarks: &self.watermarks };
            let mut token = Token::default();
            token.note(NodeId(node), Version(version));
            let has = coverage.has(NodeId(node), Version(version));
            assert_eq!(coverage.lacking(&token).is_none(), has);
            has
        }
    }

    #[test]
    fn a_log_is_covered_up_to_where_it_is_held() {
        let world = World::new(&[(entry(2, 10, 0), 50)]);
        assert!(world.has(2, 10) && world.has(2, 50));
        assert!(!world.has(2, 51));
        assert!(world.has(2, 9), "what counted in a log that nobody told this node of stands in this one");
        assert!(!world.has(3, 1), "of that node nothing is known");
        let unclaimed = World::new(&[(entry(2, 10, 0), 0)]);
        assert!(!unclaimed.has(2, 9) && !unclaimed.has(2, 10));
    }

    #[test]
    fn logs_of_earlier_runs_count_to_their_ends() {
        let held = |first: u64, second: u64| World::new(&[(entry(2, 10, 50), first), (entry(2, 60, 0), second)]);
        assert!(held(50, 90).has(2, 70));
        assert!(!held(49, 90).has(2, 70), "the session may have seen the last record of the earlier one");
        assert!(held(49, 0).has(2, 49) && !held(49, 0).has(2, 50));
        assert!(!held(50, 0).has(2, 60), "of the later one nothing is here");
        let unknown_end = World::new(&[(entry(2, 10, 0), 50), (entry(2, 60, 0), 90)]);
        assert!(!unknown_end.has(2, 70), "there may be more of the earlier one");
        assert!(unknown_end.has(2, 50));
    }

    #[test]
    fn what_counted_in_a_log_that_is_gone_stands_in_later_ones() {
        let mut world = World::new(&[(entry(2, 10, 50), 20), (entry(2, 60, 0), 0)]);
        world.known.listed(NodeId(2), &[entry(2, 60, 0)]);
        assert!(!world.has(2, 50), "what stands for it may be on its way");
        world.watermarks.raise(log(2, 60), Version(80), []);
        assert!(world.has(2, 50) && world.has(2, 70));
        assert!(!world.has(2, 81));
        let between = |held| World::new(&[(entry(2, 10, 50), 50), (entry(2, 60, 0), held)]);
        assert!(!between(0).has(2, 55), "it may be a log that this node will hear of");
        assert!(between(60).has(2, 55));
    }

    #[test]
    fn what_this_node_wrote_is_here_unless_its_disk_is_an_older_copy() {
        let mut world = World::new(&[]);
        let own =
            |incarnation, first| OwnLog::new(wal::NodeId(1), wal::Incarnation(incarnation), wal::Version(first), 1);
        let mut earlier = own(1, 10);
        earlier.end = Some(wal::Version(50));
        world.logs.logs = vec![earlier, own(2, 60)];
        assert!(world.has(1, 5), "that log is gone, what counted in it is here");
        assert!(world.has(1, 50) && world.has(1, 60) && world.has(1, 1000));
        assert!(!world.has(1, 51), "it was written by this node, and is not here");
    }
}
