//! The checkers. They stand beside the nodes, see every device, every claim, every byte that a node sends and every answer, and stop
//! a run at the first sentence of the contract that is not true. The sentences have names in TESTING.md.
//!
//! | invariant | file | what is checked, and when |
//! |---|---|---|
//! | D1 an acknowledged write is durable | `ledger` | at every answer, on the device |
//! | D2 and stays so over every death | `losses`, `finals` | at every start: nothing that was seen on the device is gone; the end |
//! | D3 recovery is an exact prefix, nothing was never written | `recovery`, `writes`, `ledger` | at every start: store = device; every record; every read |
//! | D4 damage is found | `losses` | at every start after damage: everything that a later frame calls durable is there, or the node refuses |
//! | D5 a full disk | `room`; `ledger` | at every answer: reads go on, writes are refused only while full and for a bounded time after; no false OK |
//! | D6 a failed sync is final | `sync_failure` | at every turn: the log's durable position stays, the process ends |
//! | D7 names are durable before what they hold counts | `losses`, `device` | at every start, after deaths between any two effects |
//! | D8 only what is durable leaves | `leaves` with `stream` | every record, claim and watermark on a mesh stream, when it is sent |
//! | C1 equal regions | `finals` | at the end: each store = the model's maximum, record for record |
//! | C2 ties | `history`, `finals` | the model breaks ties by checksum (scenario `equal_version_converges`); algebra: property tests in `engine` |
//! | C3 no resurrection | `finals`, `sessions` | at the end; at every read of what was shown deleted |
//! | C4 no echo, silent links | `view`, `silence` | at every append; after quiesce: no record, no claim, bounded bytes on each way |
//! | C5 no gap in positions | `positions`; `device` | on each connection: payload offsets; claims begin where one ended or the follower stood |
//! | C6 versions rise strictly | `versions` | at every start, above all that was originated or promised; at every durable record |
//! | C6 time goes on, and the far future is not shown | `clocks`, `ledger` | at every start; every turn of a core; every read |
//! | C7 replays give the same | `view`, `finals` | resets and restarts make streams repeat records: none is appended twice, and C1 holds |
//! | C8 no false claim | `claims` | at every changed claim, every late record, every start |
//! | C10 nothing is repaired where nothing was lost | `repairs` | at every turn of a control loop |
//! | C9 nothing is forgotten too early | `cuts` | when a node may forget more; every record that is written |
//! | C8 what clients are told of who holds a write | `held` | at every such answer, on the devices of those that are named |
//! | S1 sessions | `sessions` | at every answer, by region; of sessions that move with a token everywhere |
//! | S2 per-key linearizability | `privates` with `linear`, `string_key` | at the end, for keys that one region uses; W is 1 |
//! | S3 transactions | `teams` | at every answer: a transaction's keys as one, after a crash those of a core; EXEC replaces what was read after WATCH |
//! | R1 keys stay in their regions | `residency` | every record on a device; every record on a mesh stream, when it is sent |
//! | K1 staleness | `staleness` | at every read while nothing is broken (of the store: there is no cache yet) |
//! | F1, F2 discovery | `services` | every virtual second |
//! | B1 slow peers cost bounded memory | `backlog`, `positions` | at every turn of a control loop; every batch lies within its credit |
//! | L1 progress | [`crate::sim::converge`] | after healing, within [`crate::sim::converge::CONVERGE_MS_MAX`] |
//! | M1 one seed, one trace | `tests/tests/simulator.rs` | a seed runs twice |
//!
//! # What later features bring
//!
//! A checker is a file here with a pure core, that unit tests give facts made by hand, and one call from [`Checks`] or
//! [`crate::sim::mesh`]; it gets a row above, and a planted fault that it notices (`wal/src/planted.rs`, `tests/tests/planted.rs`).
//!
//! - **K1, K2 (cache)**: answers of the cache port go through [`Checks::heard`] as those of the store do; `staleness` gets a bound by
//!   mode, and fills a file of their own that holds each to the invalidations and versions before it.
//! - **S1, S2 (tokens, several nodes in a region)**: `sessions` follows a token from region to region; `linear` takes keys of a whole
//!   region with W > 1; views and promises of epochs get a file beside `claims`.
//! - **Relays and passes**: `view` and `leaves` tell originated from relayed records already; `positions` gets one state by pass.

pub mod backlog;
pub mod claims;
pub mod clocks;
pub mod cuts;
pub mod device;
pub mod finals;
pub mod held;
pub mod history;
pub mod leaves;
pub mod ledger;
pub mod linear;
pub mod losses;
pub mod lz4;
pub mod more;
pub mod positions;
pub mod privates;
pub mod recovery;
pub mod repairs;
pub mod residency;
pub mod room;
pub mod services;
pub mod sessions;
pub mod silence;
pub mod staleness;
pub mod stream;
pub mod string_key;
pub mod sync_failure;
pub mod teams;
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
use self::held::Holders;
use self::history::History;
use self::leaves::{Leaves, Sender};
use self::ledger::{D1, Ledger, PROTOCOL};
use self::losses::{Damage, Losses};
use self::residency::Kept;
use self::room::Room;
use self::sync_failure::SyncFailures;
use self::view::View;
use crate::sim::node::Node;
use crate::sim::workload::{Note, Operation};

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
    /// What stays where.
    pub kept: Kept,
    /// What slow peers make them hold.
    pub backlog: Backlog,
    /// Their full disks.
    pub room: Room,
    /// Their failed syncs.
    pub sync_failures: SyncFailures,
    /// Somebody took records from a node that it held: it may find that out.
    pub may_repair: bool,
    /// Logs whose end may be gone from their origin's disk. Nobody refills it from those who hold more, so it and who follows it
    /// claim what is gone, too.
    rolled_back: BTreeSet<LogId>,
    /// Places whose disk is another one, and may lack what was forgotten, until the node there says that it holds all that.
    set_back: BTreeSet<usize>,
    /// The places' names and the nodes there.
    regions: Vec<(String, NodeId)>,
}

impl Checks {
    /// Checkers of the nodes at these places, with their addresses.
    #[must_use]
    pub fn new(regions: &[&str], homes: Vec<IpAddr>) -> Checks {
        Checks {
            leaves: Leaves::new(homes),
            kept: Kept::new(regions),
            room: Room::new(regions.len()),
            sync_failures: SyncFailures::new(regions.len()),
            losses: Losses::new(regions.len()),
            views: regions.iter().map(|_| View::default()).collect(),
            regions: regions.iter().map(|name| ((*name).to_owned(), NodeId(0))).collect(),
            ..Checks::default()
        }
    }

    /// The node of `region` has recovered its disk and is about to serve.
    ///
    /// # Errors
    /// Whatever does not hold.
    pub fn started(&mut self, region: usize, node: &mut Node, disk: &SimDisk) -> Result<(), Violation> {
        self.regions[region].1 = node.id;
        let secret = node.cores[0].shard().identity().secret;
        self.ledger.teams.started(region, secret, node.facts.cores);
        if self.regions.iter().filter(|(_, id)| *id == node.id).count() > 1 {
            // Somebody copied its disk: neither can know what the other does.
            self.history.versions.forget(node.id);
        }
        let allowed = node.facts.residency.here();
        self.kept.started(region, allowed);
        self.views[region] = View::of(allowed.clone());
        let mut segments = device::segments(disk).map_err(|text| Violation::new(recovery::D3, text))?;
        // The new run's records come after all that were found.
        segments.sort_by_key(|segment| segment.header.incarnation == node.incarnation);
        for segment in &segments {
            if segment.header.incarnation == node.incarnation {
                continue;
            }
            let log = engine::replication::log_id(node.id, segment.header.incarnation);
            for frame in &segment.frames {
                self.ledger.clocks.reached(region, frame.hlc);
                for record in &frame.records {
                    self.durable(region, log, segment.header.core.0, frame.kind, record)?;
                }
            }
        }
        let log = engine::replication::log_id(node.id, node.incarnation);
        let first = node.control.logs().get(log).map_or(Version::ZERO, |log| log.first);
        self.history.versions.begins(node.id, log, first)?;
        let begins_unix_ms = node.facts.started_unix_ms;
        self.ledger.clocks.begins(region, begins_unix_ms)?;
        let reached = self.ledger.clocks.highest(region);
        let name = self.regions[region].0.clone();
        self.losses.started(region, &name, &self.views[region].newest, &self.history)?;
        recovery::compare(&name, &self.views[region], &self.history, reached, node)?;
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
        self.ledger.clocks.forget(region);
        self.set_back.insert(region);
        self.roll_back(region);
    }

    fn roll_back(&mut self, region: usize) {
        let node = self.regions[region].1;
        self.rolled_back.extend(self.history.logs_of(node));
        self.history.versions.forget(node);
    }

    /// Somebody is about to damage the disk of `region`'s node, which is down.
    ///
    /// # Errors
    /// If a segment on it cannot be read already.
    pub fn damaging(&mut self, region: usize, disk: &SimDisk, damage: Damage) -> Result<(), String> {
        self.losses.damaging(region, disk, damage)?;
        self.ledger.forget(region);
        self.ledger.clocks.damaged(region);
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
            self.ledger.clocks.reached(region, frame.hlc);
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
        let rolled_back = self.rolled_back.iter().any(|log| log.node.0 == node.0);
        self.views[region].take(node, kind, record, rolled_back)?;
        self.kept.durable(region, record)?;
        if kind == FrameKind::Originated && self.history.originated(log, core, record)? {
            if !self.rolled_back.contains(&log) {
                let views = self.regions.iter().map(|(name, _)| name.as_str()).zip(&self.views).enumerate();
                let judged = views.filter(|(at, _)| !self.losses.may_lack(*at)).map(|(_, view)| view);
                claims::turned_up(judged, &self.history, log, record)?;
            }
            cuts::written(&self.history, record)?;
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
        if !self.may_repair && !self.losses.any() && self.rolled_back.is_empty() {
            repairs::nothing_was_lost(name, node.control.compared())?;
        }
        let forgotten = node.control.forgotten();
        if !node.control.is_bootstrapping() && node.control.held() >= self.history.forgotten() {
            self.set_back.remove(&region);
        }
        if forgotten > self.history.forgotten() {
            // A node that is down has no core whose log is read on.
            let views = self.regions.iter().map(|(name, _)| name.as_str()).zip(&self.views).enumerate();
            let counts =
                |(at, (_, view)): &(usize, (&str, &View))| !view.tails.is_empty() && !self.set_back.contains(at);
            let up = views.filter(counts).map(|(_, view)| view);
            cuts::may_forget(name, &self.history, up, forgotten)?;
            self.history.may_forget(forgotten);
        }
        let view = &mut self.views[region];
        let said = || {
            let followed = node.control.watermarks().iter().map(|(log, held)| (log, Version(held.version.0)));
            followed.chain(node.control.logs().logs.iter().map(|own| (own.id, own.complete())))
        };
        if said().eq(view.said.iter().copied()) {
            return Ok(());
        }
        view.said.clear();
        view.said.extend(said());
        for at in 0..view.said.len() {
            let (log, claimed) = view.said[at];
            if self.losses.may_lack(region) {
                view.claims.insert(log, claimed);
            } else if view.claims.get(&log) != Some(&claimed) && !self.rolled_back.contains(&log) {
                claims::claim(name, &self.history, view, log, claimed)?;
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
            let kept = self.leaves.home(sent.to.ip()).map(|to| (&self.kept, to));
            self.leaves.sent(sent, &Sender { name, view, excused, kept, is_dying: dying == Some(region) })?;
        }
        Ok(())
    }

    /// A client was told who holds what it wrote.
    fn held(&self, operation: &Operation, holders: &Holders) -> Result<(), Violation> {
        for (region, (name, node)) in self.regions.iter().enumerate() {
            let is_named = holders.nodes.iter().any(|named| named.0 == node.0);
            // A disk that was changed or damaged meanwhile may lack what its node said it had.
            let was_changed = self.losses.may_lack(region) || self.rolled_back.iter().any(|log| log.node.0 == node.0);
            let view = &self.views[region];
            let newest = if view.tails.is_empty() { self.losses.held(region) } else { &view.newest };
            if is_named && !was_changed && !newest.is_empty() {
                held::held(name, newest, operation, holders.version)?;
            }
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
            Note::Held(operation, holders) => self.held(operation, holders),
            Note::Entered { session, .. } => {
                self.ledger.sessions.enters(*session);
                Ok(())
            }
            Note::Stray(region, text) => {
                Err(Violation::new(PROTOCOL, format!("{} sent this: {text}", self.regions[*region].0)))
            }
        }
    }
}
