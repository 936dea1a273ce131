//! What one node holds durably, as the checkers saw it on its device, and what the node claims.

use std::collections::{BTreeMap, HashMap, HashSet};

use engine::replication::residency::Allowed;
use net::ids::LogId;
use wal::{FrameKind, NodeId, Version};

use super::Violation;
use super::device::{Record, Tail};
use super::losses::Newest;

/// Checker C4.
pub const C4: &str = "C4 no echo";

/// A node as the checkers know it.
#[derive(Debug, Default)]
pub struct View {
    /// What it may hold, where that is not everything.
    may_hold: Option<Allowed>,
    /// By key, the newest durable record.
    pub newest: Newest,
    /// By log, how far the node claims to hold it.
    pub claims: BTreeMap<LogId, Version>,
    /// What it said of all logs at its control loop's last turn.
    pub said: Vec<(LogId, Version)>,
    /// The running log of each core.
    pub tails: Vec<Tail>,
    /// By core, the promise it gave at its last tick.
    pub complete: Vec<Version>,
    /// Records of its own that it was given back: none of its logs has them.
    pub given_back: HashSet<(Version, u32)>,
    /// Every record that lay here since the node started, and whether it was more than a copy that compaction made. The checksum
    /// covers the key, the origin and the value.
    appended: HashMap<(Version, u32), bool>,
}

impl View {
    /// Of a node that may hold this.
    #[must_use]
    pub fn of(may_hold: Allowed) -> View {
        View { may_hold: Some(may_hold).filter(|may_hold| !may_hold.is_everything()), ..View::default() }
    }

    /// Whether the node may hold a key.
    #[must_use]
    pub fn may_hold(&self, key: &[u8]) -> bool {
        self.may_hold.as_ref().is_none_or(|may_hold| may_hold.may_hold(key))
    }

    /// A record lies on the device of `node`, which may have been given back what its disk lost if it was `rolled_back`.
    ///
    /// # Errors
    /// [`C4`] when a node appends what it holds already, or follows itself.
    pub fn take(&mut self, node: NodeId, kind: FrameKind, record: &Record, rolled_back: bool) -> Result<(), Violation> {
        let original = self.appended.entry((record.version, record.crc)).or_default();
        let again = std::mem::replace(original, *original || !kind.is_compacted()) && !kind.is_compacted();
        self.appended.entry((record.version, record.stored_crc)).or_default();
        if record.is_control() {
            return Ok(());
        }
        let fits = match kind {
            FrameKind::Originated => record.origin == node,
            FrameKind::Followed | FrameKind::CompactedFollowed => record.origin != node || rolled_back,
            FrameKind::Compacted => true,
            FrameKind::Local => false,
        };
        if record.origin == node && matches!(kind, FrameKind::Followed | FrameKind::CompactedFollowed) {
            self.given_back.insert((record.version, record.crc));
        }
        if !fits {
            return Err(Violation::new(C4, format!("node {node} has {record:?} in a frame of kind {kind:?}")));
        }
        if again {
            return Err(Violation::new(C4, format!("node {node} appended {record:?} a second time")));
        }
        let newest = self.newest.entry(record.key.clone()).or_insert_with(|| record.clone());
        if newest.rank() < record.rank() {
            *newest = record.clone();
        }
        Ok(())
    }

    /// The node has lost a record, or is about to get an old one back: it may append that again.
    pub fn lose(&mut self, key: &[u8], version: Version, crc: u32) {
        self.appended.remove(&(version, crc));
        self.newest.retain(|held, record| held != key || record.version != version);
    }

    /// Whether a record with this name lies on the device, or lay there since the node started.
    #[must_use]
    pub fn lay_here(&self, version: Version, crc: u32) -> bool {
        self.appended.contains_key(&(version, crc))
    }

    /// Whether this record, or a newer one of its key, is durable here, if it may be.
    #[must_use]
    pub fn holds(&self, record: &Record) -> bool {
        !self.may_hold(&record.key) || self.newest.get(&record.key).is_some_and(|newest| newest.rank() >= record.rank())
    }
}
