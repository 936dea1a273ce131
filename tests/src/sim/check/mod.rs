//! The checkers. They stand beside the nodes, see every device, every claim and every answer, and stop a run at the first
//! sentence of the contract that is not true.
//!
//! | checker | file | when it looks |
//! |---|---|---|
//! | D1, D2, D6 an acknowledged write is durable, and stays | `ledger`, `losses`, `finals` | at every answer; every start; the end |
//! | D3 recovery is an exact prefix; nothing that was never written | `recovery`, `writes`, `ledger`, `finals` | at every start; every record; every read |
//! | D4 damage is found | `losses` | at every start |
//! | S1 sessions and regions do not go back | `sessions` | at every answer |
//! | private keys are registers | `privates` with `linear` and `string_key` | at the end |
//! | K1 staleness is bounded while connected | `staleness` | at every read |
//! | F1, F2 what discovery lists | `services` | every virtual second |
//! | C1 equal regions, C3 no resurrection | `finals` | at the end |
//! | C4 no echo | `view`, `finals` | at every append; after quiesce |
//! | C6 versions rise strictly | `versions` | at every durable record; every start |
//! | C8 no false claim | `claims` | at every changed claim, every late record, every start |
//! | L1 progress | [`crate::sim::converge`] | after healing |

pub mod backlog;
pub mod claims;
pub mod device;
pub mod finals;
pub mod history;
pub mod leaves;
pub mod ledger;
pub mod linear;
pub mod losses;
pub mod positions;
pub mod privates;
pub mod recovery;
pub mod room;
pub mod services;
pub mod sessions;
pub mod staleness;
pub mod stream;
pub mod string_key;
pub mod sync_failure;
pub mod versions;
pub mod view;
pub mod writes;

use std::collections::BTreeSet;
use std::net::IpAddr;

use net::ids::LogId;
use net::reactor::Mono;
use net::reactor::sim::{Sent, SimDisk};
use wal::{CoreId, FrameKind, NodeId, Version};

use self::backlog::Backlog;
use self::device::{Record, Tail};
use self::history::History;
use self::leaves::{Leaves, Sender};
use self::ledger::{D1, Ledger, PROTOCOL};
use self::losses::Losses;
use self::room::Room;
use self::sync_failure::SyncFailures;
use self::view::View;
use crate::sim::node::Node;
use crate::sim::workload::Note;

/// A sentence of the contract that is not true.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Who noticed.
    pub checker: &'static str,
    /// What.
    pub text: String,
}

impl Violation {
    /// A finding of `checker`.
    #[must_use]
    pub fn new(checker: &'static str, text: String) -> Violation {
        Violation { checker, text }
    }
}

impl std::fmt::Display for Violation {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}: {}", self.checker, self.text)
    }
}

/// All checkers of one run.
#[derive(Debug, Default)]
pub struct Checks {
    /// What was written.
    pub history: History,
    /// What clients were told.
    pub ledger: Ledger,
    /// What each region's node holds and claims.
    pub views: Vec<View>,
    /// What each must still hold, and whether a disk was lost.
    pub losses: Losses,
    /// What they send.
    pub leaves: Leaves,
    /// What slow peers make them hold.
    pub backlog: Backlog,
    /// Their full disks.
    pub room: Room,
    /// Their failed syncs.
    pub sync_failures: SyncFailures,
    /// Logs whose end may be gone from their origin's disk. Nobody refills it from those who hold more, so it and who follows it
    /// claim what is gone, too.
    rolled_back: BTreeSet<LogId>,
    /// The places' names and the nodes there.
    regions: Vec<(String, NodeId)>,
}

impl Checks {
    /// Checkers of the nodes at these places, with their addresses.
    #[must_use]
    pub fn new(regions: &[&str], homes: Vec<IpAddr>) -> Checks {
        Checks {
            leaves: Leaves::new(homes),
            room: Room::new(regions.len()),
            sync_failures: SyncFailures::new(regions.len()),
            losses: Losses::new(regions.len()),
            views: regions.iter().map(|_| View::default()).collect(),
            regions: regions.iter().map(|name| ((*name).to_owned(), NodeId(0))).collect(),
            ..Checks::default()
        }
    }

    /// The node of `region` has recovered its disk, which somebody may have damaged, and is about to serve.
    ///
    /// # Errors
    /// Whatever does not hold.
    pub fn started(&mut self, region: usize, node: &mut Node, disk: &SimDisk, damaged: bool) -> Result<(), Violation> {
        self.regions[region].1 = node.id;
        self.views[region] = View::default();
        let mut segments = device::segments(disk).map_err(|text| Violation::new(recovery::D3, text))?;
        // The new run's records come after all that were found.
        segments.sort_by_key(|segment| segment.header.incarnation == node.incarnation);
        for segment in &segments {
            if segment.header.incarnation == node.incarnation {
                continue;
            }
            let log = engine::replication::log_id(node.id, segment.header.incarnation);
            for frame in &segment.frames {
                for record in &frame.records {
                    self.durable(region, log, segment.header.core.0, frame.kind, record)?;
                }
            }
        }
        let log = engine::replication::log_id(node.id, node.incarnation);
        let first = node.control.logs().get(log).map_or(Version::ZERO, |log| log.first);
        self.history.versions.begins(node.id, log, first)?;
        let name = self.regions[region].0.clone();
        self.losses.started(region, &name, &self.views[region].newest, damaged)?;
        recovery::compare(&name, &self.views[region], node)?;
        for core in 0..node.cores.len() {
            let (number, ..) = node.cores[core].shard().first_segment();
            let id = CoreId(u16::try_from(core).expect("a node has at most 64 cores"));
            let tail = Tail::new(disk, id, number).map_err(|text| Violation::new(D1, text))?;
            self.views[region].tails.push(tail);
            self.views[region].complete.push(Version::ZERO);
            self.core_ticked(region, core, node, disk, false)?;
        }
        self.claims(region, node)
    }

    /// The node of `region` died: what it claimed only in memory is forgotten.
    pub fn died(&mut self, region: usize) {
        let view = std::mem::take(&mut self.views[region]);
        self.losses.died(region, view.newest);
        self.sync_failures.died(region);
        self.ledger.died(region);
    }

    /// The disk of `region`'s node, which is down, is another one now.
    pub fn disk_changed(&mut self, region: usize) {
        self.losses.disk_changed(region);
        self.ledger.forget(region);
        self.roll_back(region);
    }

    fn roll_back(&mut self, region: usize) {
        let node = self.regions[region].1;
        self.rolled_back.extend(self.history.logs_of(node));
        self.history.versions.forget_promises(node);
    }

    /// Somebody is about to damage the disk of `region`'s node, which is down.
    ///
    /// # Errors
    /// If a segment on it cannot be read already.
    pub fn damaging(&mut self, region: usize, disk: &SimDisk) -> Result<(), String> {
        self.losses.damaging(region, disk)?;
        self.ledger.forget(region);
        self.roll_back(region);
        Ok(())
    }

    /// A core has run: whatever it calls durable now must be on the device. `sync_failed` says that a sync of it has failed.
    ///
    /// # Errors
    /// Whatever does not hold.
    pub fn core_ticked(
        &mut self,
        region: usize,
        core: usize,
        node: &mut Node,
        disk: &SimDisk,
        sync_failed: bool,
    ) -> Result<(), Violation> {
        let shard = node.cores[core].shard();
        let (durable, complete) = (shard.log().durable(), shard.complete());
        let view = &mut self.views[region];
        if sync_failed {
            let name = &self.regions[region].0;
            self.sync_failures.core_ticked(name, region, view.tails[core].end(), durable)?;
        }
        let promised = std::mem::replace(&mut view.complete[core], complete);
        self.history.versions.promised(node.id, complete);
        let frames = view.tails[core].read_to(disk, durable).map_err(|text| Violation::new(D1, text))?;
        let log = engine::replication::log_id(node.id, node.incarnation);
        let number = u16::try_from(core).expect("a node has at most 64 cores");
        for frame in frames {
            for record in &frame.records {
                if frame.kind == FrameKind::Originated {
                    claims::promise(log, number, promised, record)?;
                }
                self.durable(region, log, number, frame.kind, record)?;
            }
        }
        Ok(())
    }

    fn durable(
        &mut self,
        region: usize,
        log: LogId,
        core: u16,
        kind: FrameKind,
        record: &Record,
    ) -> Result<(), Violation> {
        let node = self.regions[region].1;
        self.views[region].take(node, kind, record)?;
        if kind == FrameKind::Originated && self.history.originated(log, core, record)? {
            if !self.rolled_back.contains(&log) {
                let views = self.regions.iter().map(|(name, _)| name.as_str()).zip(&self.views);
                claims::turned_up(views, log, record)?;
            }
            if !record.is_control() {
                self.ledger.durable(record)?;
            }
        }
        Ok(())
    }

    /// The control loop has run: every claim that changed must be true.
    ///
    /// # Errors
    /// [`claims::C8`], [`backlog::B1`], [`sync_failure::D6`].
    pub fn claims(&mut self, region: usize, node: &Node) -> Result<(), Violation> {
        let (name, _) = &self.regions[region];
        self.backlog.holds(name, node.control.peer_memory())?;
        if node.control.failure().is_none() {
            self.sync_failures.control_ticked(name, region)?;
        }
        let view = &mut self.views[region];
        for (log, component) in node.control.watermarks().iter() {
            let claimed = Version(component.version.0);
            if view.claims.get(&log) != Some(&claimed) && !self.rolled_back.contains(&log) {
                claims::claim(name, &self.history, view, log, claimed)?;
            }
        }
        for own in &node.control.logs().logs {
            let claimed = own.complete();
            if view.claims.get(&own.id) != Some(&claimed) && !self.rolled_back.contains(&own.id) {
                claims::claim(name, &self.history, view, own.id, claimed)?;
            }
        }
        Ok(())
    }

    /// Nodes sent this; `dying` died in the turn in which it sent the last of it.
    ///
    /// # Errors
    /// Those of [`Leaves::sent`].
    pub fn overheard(&mut self, sent: &[Sent], dying: Option<usize>) -> Result<(), Violation> {
        for sent in sent {
            let Some(region) = self.leaves.home(sent.from) else { continue };
            let (name, _) = &self.regions[region];
            let (view, excused) = (&self.views[region], &self.rolled_back);
            self.leaves.sent(sent, &Sender { name, view, excused, is_dying: dying == Some(region) })?;
        }
        Ok(())
    }

    /// A client reports.
    ///
    /// # Errors
    /// Whatever does not hold.
    pub fn heard(&mut self, now: Mono, note: &Note) -> Result<(), Violation> {
        match note {
            Note::Began(operation) => {
                self.ledger.begin(self.regions[operation.region].1, operation, now);
                Ok(())
            }
            Note::Ended(operation, outcome) => {
                self.room.heard(operation, outcome, now)?;
                self.ledger.end(operation, outcome, now)
            }
            Note::Stray(region, text) => {
                Err(Violation::new(PROTOCOL, format!("{} sent this: {text}", self.regions[*region].0)))
            }
        }
    }
}
