//! The vector of claims that hold here: which log is durably here up to which version.

use std::collections::BTreeMap;

use net::ids::{Class, LogId, Version};
use net::wire::body::{Watermark, records};
use wal::{ControlRecord, CoreId, Incarnation, Lsn};

use crate::shard::Covered;

/// One component.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Component {
    /// Everything of the log up to this, or something newer, is durable here.
    pub version: Version,
    /// Still known after a crash.
    pub persisted: Version,
    /// The positions of this run that `version` rests on, by core.
    pub rests_on: BTreeMap<u16, Lsn>,
    /// A record of this version is on its way to the log.
    writing: Option<Version>,
    /// Changed since followed sources were told.
    untold: bool,
}

/// The vector. A log not in it is covered below its first version only.
#[derive(Clone, Debug, Default)]
pub struct Watermarks {
    components: BTreeMap<LogId, Component>,
}

impl Watermarks {
    /// The vector that recovery found.
    #[must_use]
    pub fn recovered(persisted: impl IntoIterator<Item = (LogId, Version)>) -> Self {
        let mut watermarks = Watermarks::default();
        for (log, version) in persisted {
            let component = watermarks.components.entry(log).or_default();
            component.version = component.version.max(version);
            component.persisted = component.version;
        }
        watermarks
    }

    /// How far `log` is held.
    #[must_use]
    pub fn version(&self, log: LogId) -> Version {
        self.components.get(&log).map_or(Version(0), |component| component.version)
    }

    /// How far `log` is held after a crash.
    #[must_use]
    pub fn persisted_version(&self, log: LogId) -> Version {
        self.components.get(&log).map_or(Version(0), |component| component.persisted.min(component.version))
    }

    /// How far the logs were here before a batch of `log` with these flags: that log, or all of them where a batch has records of
    /// any origin.
    #[must_use]
    pub fn covered(&self, log: LogId, flags: u16) -> Covered {
        let entry = |log: LogId, version: Version| (wal::NodeId(log.node.0), wal::Version(version.0));
        if flags & (records::COPIES | records::PASS) == 0 {
            return Covered::from([entry(log, self.version(log))]);
        }
        self.components.iter().map(|(log, component)| entry(*log, component.version)).collect()
    }

    /// A log whose first version is `first` counts as covered below it.
    pub fn know(&mut self, log: LogId, first: Version) {
        let component = self.components.entry(log).or_default();
        if component.version == Version(0) {
            component.version = Version(first.0.saturating_sub(1));
        }
    }

    /// A claim took effect: `to` holds, resting on these positions of this run.
    pub fn raise(&mut self, log: LogId, to: Version, rests_on: impl IntoIterator<Item = (u16, Lsn)>) {
        let component = self.components.entry(log).or_default();
        for (core, lsn) in rests_on {
            let rest = component.rests_on.entry(core).or_default();
            *rest = (*rest).max(lsn);
        }
        if to > component.version {
            component.version = to;
            component.untold = true;
        }
    }

    /// The next component whose durable form lags, as the record to write; at most one per log is on its way.
    pub fn next_to_persist(&mut self, incarnation: Incarnation) -> Option<(LogId, ControlRecord)> {
        let (log, component) = self
            .components
            .iter_mut()
            .find(|(_, component)| component.writing.is_none() && component.version > component.persisted)?;
        component.writing = Some(component.version);
        let rests_on = component.rests_on.iter().map(|(core, lsn)| (incarnation, CoreId(*core), *lsn)).collect();
        let record = ControlRecord::Watermark {
            node: wal::NodeId(log.node.0),
            incarnation: Incarnation(log.incarnation.0),
            version: wal::Version(component.version.0),
            flags: 0,
            rests_on,
        };
        Some((*log, record))
    }

    /// Whether some component's durable form lags and none of its log is on its way.
    #[must_use]
    pub fn has_to_persist(&self) -> bool {
        self.components.values().any(|component| component.writing.is_none() && component.version > component.persisted)
    }

    /// The record for `log` is durable.
    pub fn persisted(&mut self, log: LogId) {
        if let Some(component) = self.components.get_mut(&log)
            && let Some(version) = component.writing.take()
        {
            component.persisted = component.persisted.max(version);
            component.untold = true;
        }
    }

    /// All components, for the handshake.
    #[must_use]
    pub fn all(&self) -> Vec<Watermark> {
        self.components.iter().map(|(log, component)| told(*log, component)).collect()
    }

    /// The components of one node's logs that changed since the last call.
    pub fn changes_of(&mut self, node: net::ids::NodeId) -> Vec<Watermark> {
        let mut changes = Vec::new();
        for (log, component) in &mut self.components {
            if log.node == node && std::mem::take(&mut component.untold) {
                changes.push(told(*log, component));
            }
        }
        changes
    }

    /// All components.
    pub fn iter(&self) -> impl Iterator<Item = (LogId, &Component)> {
        self.components.iter().map(|(log, component)| (*log, component))
    }
}

fn told(log: LogId, component: &Component) -> Watermark {
    // A component that was only learnt (`know`) is covered by definition, not by a record.
    let persisted = component.persisted.min(component.version);
    Watermark { log, version: component.version, persisted, class: Class(0) }
}
