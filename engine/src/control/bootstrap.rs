//! The driver of bootstraps, at both ends. A node that a source may have forgotten something for takes over everything that one source has, asks
//! nobody for anything else meanwhile, and then drops what that source did not have any more.
//!
//! What is noted keeps this whole over crashes: `begun` stands in the log before any claim that the bootstrap brings, and `ended`, with what the
//! source may have forgotten and held, after the last record was dropped and the last claim was written. In between the bootstrap begins
//! again with every start, and nobody is told that anything is held here, but of single logs.

use std::collections::BTreeMap;
use std::sync::Arc;

use net::ids::{NodeId, RequestId, Version};
use net::reactor::Mono;
use net::wire::body::{
    Bootstrap as Told, BootstrapStep, Credit, LogState, Logs, Refuse, RefuseCode, Watermarks as WatermarksBody,
};
use net::wire::message::Message;
use wal::marks::{Mark, reach};
use wal::planted::{self, Fault};
use wal::{ControlRecord, Lsn, RecordView};

use super::link::Role;
use super::status::BootstrapStatus;
use super::{ControlLoop, LinkKey, Persisting};
use crate::clock::physical_version;
use crate::host::Host;
use crate::messages::ToCore;
use crate::replication::bootstrap::{Absent, Floor, Given, held_of_nodes};
use crate::replication::send::Held;
use crate::replication::{from_wire, to_wire};

/// A source that could not give one is asked again after this long.
const UNABLE_MS: u64 = 2_000;

/// How far a bootstrap of this node is.
#[derive(Debug, Default)]
enum Phase {
    /// There is none.
    #[default]
    None,
    /// No source was found yet, or the last one was lost.
    Waiting,
    /// A source was asked.
    Asked(LinkKey),
    /// It sends.
    Taking(LinkKey),
    /// Everything came; not all of it is durable.
    Settling(LinkKey, Given),
    /// The cores drop what did not come. Those that are done said where their logs ended.
    Sweeping(Given, Vec<Option<Lsn>>),
    /// What is held is on its way to the log.
    Claiming(Given),
    /// The end is on its way to the log.
    Ending,
}

/// A node's bootstrap, and what it does for those of others.
#[derive(Debug, Default)]
pub(super) struct Bootstraps {
    phase: Phase,
    begun: Version,
    ended: Version,
    /// A source has to hold everything up to here: others may have forgotten what died by then.
    floor: Version,
    /// What sources offered last, and until when those are not asked that could not give one.
    offers: BTreeMap<LinkKey, Logs>,
    unable: BTreeMap<LinkKey, Mono>,
    progress: BootstrapStatus,
    /// It was said that no source may hold all that this node may.
    is_lacking_said: bool,
    /// Followers for whom cores look through records.
    sifting: BTreeMap<u64, LinkKey>,
}

impl Bootstraps {
    pub(super) fn recovered(floor: Floor) -> Bootstraps {
        let (begun, ended) = (to_wire(floor.begun), to_wire(floor.ended));
        let phase = if begun > ended { Phase::Waiting } else { Phase::None };
        Bootstraps { phase, begun, ended, ..Bootstraps::default() }
    }

    /// Whether what is here may be dead, and is not all.
    pub(super) fn is_under_way(&self) -> bool {
        !matches!(self.phase, Phase::None)
    }

    /// Whether records of one come over this link.
    pub(super) fn is_from(&self, key: LinkKey) -> bool {
        matches!(&self.phase, Phase::Taking(from) if *from == key)
    }

    /// Records of one came.
    pub(super) fn received(&mut self, records: u32, bytes: u32) {
        self.progress.records += u64::from(records);
        self.progress.bytes += u64::from(bytes);
    }

    pub(super) fn status(&self) -> BootstrapStatus {
        BootstrapStatus { under_way: self.is_under_way(), ..self.progress.clone() }
    }

    /// The link over which everything has to come, as long as it does not all lie here.
    fn source(&self) -> Option<LinkKey> {
        match &self.phase {
            Phase::Asked(key) | Phase::Taking(key) | Phase::Settling(key, _) => Some(*key),
            _ => None,
        }
    }
}

impl<H: Host> ControlLoop<H> {
    // ---- the follower ----------------------------------------------------------------------------------------------

    /// A source offers logs. Whether it is not to be asked for them: in a bootstrap nobody is, but who gives it.
    pub(super) fn keep_offer(&mut self, key: LinkKey, logs: &Logs) -> bool {
        let links = &self.links;
        self.bootstrap
            .offers
            .retain(|key, _| links.get(key.index).is_some_and(|link| link.generation == key.generation));
        self.bootstrap.offers.insert(key, logs.clone());
        let is_under_way = self.bootstrap.is_under_way();
        if is_under_way {
            self.expect_all(key);
        }
        is_under_way
    }

    /// Claims over every log that the source offers may come. Gives the credit that holds.
    fn expect_all(&mut self, key: LinkKey) -> Option<Credit> {
        let logs = self.bootstrap.offers.get(&key)?;
        let link = self.links.get_mut(key.index).filter(|link| link.generation == key.generation)?;
        let node = link.hello()?.node;
        let Role::Following { receiver, .. } = &mut link.role else { return None };
        let own = self.facts.node.0;
        let others = logs.logs.iter().filter(|entry| entry.log.node.0 != own);
        let ends = others.map(|entry| {
            let is_over = entry.log.node == node && entry.state == LogState::Retired;
            (entry.log, is_over.then_some(entry.end))
        });
        match receiver.open(&self.core_state, ends) {
            Ok(upto) => Some(Credit { upto }),
            Err(error) => {
                self.refuse(key, &Refuse::new(RefuseCode::Unexpected, &error.to_string()));
                None
            }
        }
    }

    pub(super) fn hear_of_bootstrap(&mut self, key: LinkKey, told: Told) {
        let is_asked = matches!(self.bootstrap.phase, Phase::Asked(from) if from == key);
        let is_taking = self.bootstrap.is_from(key);
        match told.step {
            BootstrapStep::Needed => {
                self.bootstrap.floor = self.bootstrap.floor.max(told.held);
                if !self.bootstrap.is_under_way() {
                    self.begin_bootstrap(key);
                }
            }
            BootstrapStep::Unable if is_asked => {
                self.bootstrap.unable.insert(key, self.now().plus_ms(UNABLE_MS));
                self.bootstrap.phase = Phase::Waiting;
            }
            BootstrapStep::Begin if is_asked => self.take_over(key, &told),
            BootstrapStep::End if is_taking => {
                let given = Given { forgotten: told.forgotten, held: told.held, nodes: told.nodes };
                self.bootstrap.phase = Phase::Settling(key, given);
            }
            step => {
                let text = format!("a bootstrap's {} comes at the wrong time", step.name());
                self.refuse(key, &Refuse::new(RefuseCode::Unexpected, &text));
            }
        }
    }

    /// What is here may have been deleted without a trace.
    fn begin_bootstrap(&mut self, told_by: LinkKey) {
        let bootstrap = &mut self.bootstrap;
        bootstrap.begun = to_wire(physical_version(self.time)).max(Version(bootstrap.ended.0 + 1));
        bootstrap.phase = Phase::Waiting;
        bootstrap.progress = BootstrapStatus::default();
        tracing::info!(
            "other nodes may have forgotten deletions that this one never heard of: everything is taken over from one of them, and \
             this node is not ready until that is done"
        );
        self.note_bootstrap(Floor::default());
        self.catch_ups.clear();
        // What streams on other links would be taken for what the source has.
        for (index, link) in &mut self.links {
            let is_other = LinkKey { index, generation: link.generation } != told_by;
            link.broken |= is_other && matches!(link.role, Role::Following { .. });
        }
    }

    /// Says in this node's own log how far its bootstraps are, and at the end of one what it may have forgotten and holds.
    fn note_bootstrap(&mut self, floor: Floor) {
        self.ticket += 1;
        let (begun, ended) = (from_wire(self.bootstrap.begun), floor.ended.max(from_wire(self.bootstrap.ended)));
        let noted = Floor { begun, ended, ..floor };
        self.persisting.insert(self.ticket, (Persisting::Bootstrap(noted), None));
        let record = ControlRecord::Bootstrap { begun, ended, version: noted.forgotten, held: noted.held };
        self.cores[0].send(ToCore::AppendLocal { ticket: self.ticket, record });
    }

    fn take_over(&mut self, key: LinkKey, told: &Told) {
        let region = self.link(key).and_then(|link| link.hello()).map(|hello| hello.region.to_string());
        self.bootstrap.progress = BootstrapStatus { from: region.unwrap_or_default(), ..BootstrapStatus::default() };
        tracing::info!(from = %self.bootstrap.progress.from, "a bootstrap begins: everything comes from there");
        let upto = from_wire(told.forgotten);
        for core in &mut self.cores {
            core.send(ToCore::BeginBootstrap(upto));
            // What is written here from now on cannot be taken for something that had been deleted.
            core.send(ToCore::Raise(upto));
        }
        if planted::is(Fault::BootstrapCutShort) {
            let (forgotten, held) = (from_wire(told.forgotten), from_wire(told.held));
            let (begun, ended) = (wal::Version::ZERO, from_wire(self.bootstrap.begun));
            self.note_bootstrap(Floor { forgotten, held, begun, ended });
        }
        self.bootstrap.phase = Phase::Taking(key);
    }

    /// Takes this node's bootstrap on, and lets cores forget what they may once nobody's bootstrap is in the way any more.
    pub(super) fn advance_bootstrap(&mut self) {
        self.tell_cores_what_to_forget();
        if !self.bootstrap.is_under_way() || self.stop.asked || self.failed.is_some() {
            return;
        }
        if let Some(key) = self.bootstrap.source()
            && !self.link(key).is_some_and(|link| link.is_up())
        {
            tracing::info!("the source of a bootstrap was lost; it begins again with the nearest one");
            self.bootstrap.phase = Phase::Waiting;
        }
        match std::mem::take(&mut self.bootstrap.phase) {
            Phase::Waiting => self.bootstrap.phase = self.ask_for_all(),
            Phase::Settling(key, given) => {
                let is_settled = match self.links.get(key.index).map(|link| &link.role) {
                    Some(Role::Following { receiver, .. }) => receiver.is_settled(),
                    _ => false,
                };
                self.bootstrap.phase = if is_settled { self.begin_sweeps(given) } else { Phase::Settling(key, given) };
            }
            Phase::Sweeping(given, ends) => {
                let is_durable =
                    |(core, end): (u16, &Option<Lsn>)| end.is_some_and(|end| self.core_state.durable_of(core) >= end);
                let is_done = (0..).zip(&ends).all(is_durable);
                if is_done && self.persist_at.is_none() {
                    self.persist_at = Some(self.now());
                }
                self.bootstrap.phase = if is_done { Phase::Claiming(given) } else { Phase::Sweeping(given, ends) };
            }
            Phase::Claiming(given) if self.has_written_claims() => {
                let (forgotten, held) = (from_wire(given.forgotten), from_wire(given.held));
                let ended = from_wire(self.bootstrap.begun);
                self.bootstrap.phase = Phase::Ending;
                self.note_bootstrap(Floor { forgotten, held, begun: wal::Version::ZERO, ended });
            }
            phase => self.bootstrap.phase = phase,
        }
    }

    fn has_written_claims(&self) -> bool {
        let is_claim = |(what, _): &(Persisting, Option<Lsn>)| matches!(what, Persisting::Watermark(_));
        !self.watermarks.has_to_persist() && !self.persisting.values().any(is_claim)
    }

    /// Asks the nearest source that may be able to.
    fn ask_for_all(&mut self) -> Phase {
        let now = self.now();
        // Who may hold less than this node has not everything that it would have to send.
        let here = self.facts.residency.here();
        let covers = |key: &LinkKey| self.links.get(key.index).is_some_and(|link| link.allowed.covers(here));
        let followed: Vec<LinkKey> = self.followed().into_iter().map(|(key, ..)| key).collect();
        let is_lacking = !followed.is_empty() && !followed.iter().any(covers);
        let may_be_asked = |key: &&LinkKey| {
            let is_able = self.bootstrap.unable.get(*key).is_none_or(|until| now >= *until);
            self.bootstrap.offers.contains_key(*key) && is_able && covers(key)
        };
        let chosen = followed.iter().find(may_be_asked).copied();
        if is_lacking && !std::mem::replace(&mut self.bootstrap.is_lacking_said, true) {
            tracing::error!(
                "RESIDENCY lets no other region that is up hold all that this one may, so that nobody can give it everything: bring \
                 such a region up, or set TOMBSTONES=keep where regions have keys to themselves"
            );
        }
        let Some(key) = chosen else { return Phase::Waiting };
        let Some(credit) = self.expect_all(key) else { return Phase::Waiting };
        let vector = WatermarksBody { full: true, entries: self.held_vector() };
        let (held, forgotten) = (self.bootstrap.floor, Version(0));
        let ask = Told { step: BootstrapStep::Ask, forgotten, held, nodes: Vec::new() };
        let Some(link) = self.link(key) else { return Phase::Waiting };
        link.push(&Message::Watermarks(vector), RequestId(0));
        link.push(&Message::Credit(credit), RequestId(0));
        link.push(&Message::Bootstrap(ask), RequestId(0));
        Phase::Asked(key)
    }

    fn begin_sweeps(&mut self, given: Given) -> Phase {
        let absent = Arc::new(Absent::new(&given));
        for core in &mut self.cores {
            core.send(ToCore::Sweep(Arc::clone(&absent)));
        }
        Phase::Sweeping(given, vec![None; self.cores.len()])
    }

    /// A core has dropped what did not come.
    pub(super) fn swept(&mut self, core: u16, dropped: u64, staged: Lsn) {
        if let Phase::Sweeping(_, ends) = &mut self.bootstrap.phase
            && let Some(end) = ends.get_mut(usize::from(core))
        {
            *end = Some(staged);
            self.bootstrap.progress.dropped += dropped;
        }
    }

    /// What was noted of a bootstrap is in the log. With the end of one everything is as at any other node.
    pub(super) fn bootstrap_noted(&mut self, noted: Floor) {
        if !matches!(self.bootstrap.phase, Phase::Ending) || noted.ended != noted.begun {
            return;
        }
        reach(Mark::BootstrapEnded);
        self.notes.take_over(noted);
        self.bootstrap.ended = to_wire(noted.ended);
        self.bootstrap.phase = Phase::None;
        self.bootstrap.floor = Version(0);
        self.bootstrap.unable.clear();
        let BootstrapStatus { from, records, bytes, dropped, .. } = &self.bootstrap.progress;
        tracing::info!(%from, records, bytes, dropped, "the bootstrap has ended: this node holds what the mesh does");
        for (key, logs) in std::mem::take(&mut self.bootstrap.offers) {
            self.follow_logs(key, &logs);
        }
        self.wake_passes();
    }

    /// Whether everything is taken over from another node; for checkers.
    #[must_use]
    pub fn is_bootstrapping(&self) -> bool {
        self.bootstrap.is_under_way()
    }

    // ---- the source ------------------------------------------------------------------------------------------------

    /// A follower lacks what this node may have forgotten.
    pub(super) fn tell_bootstrap_needed(&mut self, key: LinkKey) {
        reach(Mark::FollowerBelowForgotten);
        let forgotten = self.notes.forgotten();
        let told = Told { step: BootstrapStep::Needed, forgotten, held: forgotten, nodes: Vec::new() };
        if let Some(link) = self.link(key) {
            link.push(&Message::Bootstrap(told), RequestId(0));
        }
    }

    /// A follower asks for everything.
    pub(super) fn give_everything(&mut self, key: LinkKey, told: &Told) {
        if told.step != BootstrapStep::Ask {
            let text = format!("a bootstrap's {} is not what a follower sends", told.step.name());
            self.refuse(key, &Refuse::new(RefuseCode::Unexpected, &text));
            return;
        }
        let is_able = !self.bootstrap.is_under_way() && self.notes.held() >= told.held;
        let (own, complete) = (NodeId(self.facts.node.0), self.logs.current().complete());
        let nodes = held_of_nodes(own, complete, &self.known, &self.watermarks);
        let given = Given { forgotten: self.notes.forgotten(), held: self.notes.held(), nodes };
        // An earlier run may have forgotten what this one was not told to forget yet.
        let sift_upto = from_wire(given.forgotten);
        let Some(link) = self.links.get_mut(key.index).filter(|link| link.generation == key.generation) else { return };
        let follower = link.hello().map(|hello| net::ids::LogId { node: hello.node, incarnation: hello.incarnation });
        let Role::Serving { sender, .. } = &mut link.role else { return };
        let held = Held {
            logs: &self.logs,
            old_runs: self.old_runs.left(),
            known: &self.known,
            watermarks: &self.watermarks,
            follower,
        };
        let step = if is_able { BootstrapStep::Begin } else { BootstrapStep::Unable };
        let answer = Told { step, forgotten: given.forgotten, held: given.held, nodes: Vec::new() };
        if is_able && !sender.give(&held, sift_upto, given) {
            let text = "a bootstrap is asked for where streams are under way";
            self.refuse(key, &Refuse::new(RefuseCode::Unexpected, text));
            return;
        }
        link.push(&Message::Bootstrap(answer), RequestId(0));
        self.serve.insert(key);
    }

    /// Everything was sent.
    pub(super) fn end_giving(given: Given) -> Message {
        let Given { forgotten, held, nodes } = given;
        Message::Bootstrap(Told { step: BootstrapStep::End, forgotten, held, nodes })
    }

    /// Whether some follower is in the middle of a bootstrap from here: what died meanwhile is still to be sent to it.
    pub(super) fn is_giving(&self) -> bool {
        self.links.iter().any(|(_, link)| matches!(&link.role, Role::Serving { sender, .. } if sender.is_giving()))
    }

    /// Asks the cores that own these records' keys which of them count.
    pub(super) fn sift(&mut self, key: LinkKey, records: &[u8]) {
        let mut by_core: BTreeMap<u16, Vec<u8>> = BTreeMap::new();
        let mut at = 0;
        while let Some(rest) = records.get(at..).filter(|rest| !rest.is_empty()) {
            // They were read as records before.
            let Ok((record, len)) = RecordView::parse_trusted_prefix(rest) else { break };
            let core = self.core_state.core_of(record.key);
            by_core.entry(core).or_default().extend_from_slice(&rest[..len]);
            at += len;
        }
        if let Some(Role::Serving { sender, .. }) = self.link(key).map(|link| &mut link.role) {
            sender.asked_cores(by_core.len());
        }
        for (core, records) in by_core {
            self.ticket += 1;
            self.bootstrap.sifting.insert(self.ticket, key);
            self.cores[usize::from(core)].send(ToCore::Sift { ticket: self.ticket, records: records.into() });
        }
    }

    /// A core says which count.
    pub(super) fn sifted(&mut self, core: u16, ticket: u64, records: &[u8], staged: Lsn) {
        let Some(key) = self.bootstrap.sifting.remove(&ticket) else { return };
        if let Some(Role::Serving { sender, .. }) = self.link(key).map(|link| &mut link.role) {
            sender.sifted(core, records, staged);
            self.serve.insert(key);
        }
    }
}
