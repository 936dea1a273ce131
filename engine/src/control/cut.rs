//! The stable cut's driver: tells peers up to where this node holds everything, raises claims that others wait for, and hands the cut on.

use net::ids::{LogId, NodeId, RequestId, Version};
use net::reactor::Mono;
use net::wire::body::{MemberState, Stable};
use net::wire::message::Message;
use wal::ControlRecord;
use wal::marks::{Mark, reach};

use super::link::Role;
use super::{ControlLoop, LinkKey, Persisting};
use crate::clock::physical_version;
use crate::host::Host;
use crate::messages::ToCore;
use crate::replication::bootstrap::Floor;
use crate::replication::cut::{stable, view};
use crate::replication::{from_wire, to_wire};

/// How often the cut is looked at while somebody waits for it.
const CUT_MS: u64 = 200;

/// When something has been remembered for so long, it is said once.
const OVERDUE_MS: u64 = 10 * 60_000;

/// What this node's own log says of what is held and what may be forgotten.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Note {
    /// What was deleted, or had expired, by then may have been forgotten here.
    forgotten: Version,
    /// Everything up to here, of all members, was held here.
    held: Version,
}

impl Note {
    fn and(self, other: Note) -> Note {
        Note { forgotten: self.forgotten.max(other.forgotten), held: self.held.max(other.held) }
    }
}

/// The note, on its way to the log and there.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Notes {
    durable: Note,
    writing: Option<Note>,
    /// The cores know that they may forget up to here.
    told: Version,
    /// It was said that this takes long.
    is_overdue: bool,
}

impl Notes {
    pub(super) fn recovered(floor: Floor) -> Notes {
        let durable = Note { forgotten: to_wire(floor.forgotten), held: to_wire(floor.held) };
        Notes { durable, ..Notes::default() }
    }

    /// What was deleted, or had expired, by then may have been forgotten here.
    pub(super) fn forgotten(&self) -> Version {
        self.durable.forgotten.max(self.writing.unwrap_or_default().forgotten)
    }

    /// A bootstrap has ended, and is noted.
    pub(super) fn take_over(&mut self, floor: Floor) {
        self.durable = self.durable.and(Note { forgotten: to_wire(floor.forgotten), held: to_wire(floor.held) });
    }

    /// Everything up to here is held, and was noted to be.
    pub(super) fn held(&self) -> Version {
        self.durable.held
    }
}

impl<H: Host> ControlLoop<H> {
    /// A peer says up to where it holds everything.
    pub(super) fn hear_stable(&mut self, key: LinkKey, told: Stable) {
        let Some(hello) = self.link(key).and_then(|link| link.hello()).cloned() else { return };
        if self.is_peer(key, &hello) {
            self.cut.told(hello.node, hello.incarnation, told);
        }
    }

    /// While somebody waits for the cut: says what this node holds, lets its claims rise as far as is waited for, and sees what all hold.
    pub(super) fn advance_cut(&mut self) {
        let now = self.now();
        if now < self.cut_at || self.removed || self.stop.asked || self.failed.is_some() {
            return;
        }
        let wanted = self.cut.wanted(&self.members);
        if wanted.is_none() && !self.has_what_removed_nodes_left() {
            return;
        }
        self.cut_at = now.plus_ms(CUT_MS);
        // Claims say nothing of what is here and should not be.
        if self.bootstrap.is_under_way() {
            return;
        }
        let own = NodeId(self.facts.node.0);
        let view = view(&self.members, &self.known, |log| self.watermarks.version(log));
        let Some(wanted) = wanted else {
            // How far this node holds all others do not ask for.
            let told = self.cut.own(view, Version(0));
            return self.tell_stable(told);
        };
        let complete = to_wire(self.logs.current().complete());
        let persisted = |log: LogId| self.watermarks.persisted_version(log);
        let stable = stable(own, complete, &self.members, &self.known, persisted);
        // What others build upon has to be known after a crash: not only the positions, but that there was nothing else to hold.
        let told = self.cut.own(view, stable.min(self.notes.held()));
        if self.has_met_all() {
            self.cut.advance(own, &self.members);
        }
        let forgotten = if self.mesh.collects_tombstones { self.cut.cut() } else { Version(0) };
        self.note(Note { forgotten, held: stable });
        self.tell_stable(told);
        self.raise_to(wanted);
        self.tell_cores_what_to_forget();
    }

    /// Writes down what is held and how far the cut has come, before anybody acts on it.
    fn note(&mut self, note: Note) {
        let note = note.and(self.notes.durable);
        if note == self.notes.durable || self.notes.writing.is_some() {
            return;
        }
        self.notes.writing = Some(note);
        self.ticket += 1;
        self.persisting.insert(self.ticket, (Persisting::Note, None));
        let record = ControlRecord::Forgotten { version: from_wire(note.forgotten), held: from_wire(note.held) };
        self.cores[0].send(ToCore::AppendLocal { ticket: self.ticket, record });
    }

    /// The note is in the log.
    pub(super) fn note_is_durable(&mut self) {
        if let Some(note) = self.notes.writing.take() {
            self.notes.durable = self.notes.durable.and(note);
        }
        self.tell_cores_what_to_forget();
    }

    /// What earlier runs were allowed to forget counts again once all members say so to this one.
    pub(super) fn tell_cores_what_to_forget(&mut self) {
        let upto = self.notes.durable.forgotten.min(self.cut.cut());
        if upto > self.notes.told && !self.is_giving() {
            self.notes.told = upto;
            for core in &mut self.cores {
                core.send(ToCore::Forget(from_wire(upto)));
            }
        }
    }

    /// Up to where this node may have forgotten what was deleted, or had expired.
    #[must_use]
    pub fn forgotten(&self) -> wal::Version {
        from_wire(self.notes.durable.forgotten)
    }

    /// Whether every configured peer is, or was, a member: for one that never was everything is kept.
    pub(super) fn has_met_all(&self) -> bool {
        let others = self.mesh.peers.iter().filter(|peer| **peer != self.mesh.discovery).count();
        let regions = self.members.iter().filter(|member| member.region != self.region).map(|member| &member.region);
        regions.collect::<std::collections::BTreeSet<_>>().len() >= others
    }

    /// Up to where everything is held, and was noted to be; for checkers.
    #[must_use]
    pub fn held(&self) -> wal::Version {
        from_wire(self.notes.held())
    }

    fn tell_stable(&mut self, told: Stable) {
        for (_, link) in &mut self.links {
            let discovery = matches!(link.role, Role::DiscoveryIn | Role::DiscoveryOut { .. });
            if discovery && link.is_up() && link.told_stable != Some(told) {
                link.told_stable = Some(told);
                link.push(&Message::Stable(told), RequestId(0));
            }
        }
    }

    /// Cores that write less than others wait for raise their clocks, so that this node's claims pass there. Never beyond the present.
    fn raise_to(&mut self, wanted: Version) {
        let target = from_wire(wanted).min(physical_version(self.time));
        for (core, log) in self.logs.logs.last().map_or(&[][..], |log| &log.cores).iter().enumerate() {
            if log.complete < target && self.raised[core] < target {
                reach(Mark::IdleClaimRaised);
                self.raised[core] = target;
                self.cores[core].send(ToCore::Raise(target));
            }
        }
    }

    /// Up to where every member holds everything, as far as somebody waited for that.
    #[must_use]
    pub fn stable_cut(&self) -> wal::Version {
        from_wire(self.cut.cut())
    }

    /// For how long something has been remembered that could be forgotten if all members held what this node does, in milliseconds. Says
    /// once when that is long, and who it is.
    pub(super) fn uncollected_ms(&mut self) -> u64 {
        let wanted = self.cut.wanted_here();
        let cut = self.cut.cut();
        if wanted <= cut {
            self.notes.is_overdue = false;
            return 0;
        }
        let since_unix_ms = from_wire(cut).unix_ms().max(self.facts.started_unix_ms);
        let waits_ms = self.time.unix_ms.saturating_sub(since_unix_ms);
        if waits_ms > OVERDUE_MS && !std::mem::replace(&mut self.notes.is_overdue, true) {
            let members: Vec<String> = self
                .cut
                .held_up_by(NodeId(self.facts.node.0), &self.members, wanted)
                .map(|node| node.to_string())
                .collect();
            tracing::warn!(
                minutes = waits_ms / 60_000,
                members = members.join(", "),
                "what was deleted, or has expired, is remembered for these members, which may not hold it: bring them back, or take \
                 those that are gone for good out with `godwit member remove`"
            );
        }
        waits_ms
    }

    /// Up to where this node wanted, or wants, the cut to be; for checkers.
    #[must_use]
    pub fn wanted_cut(&self) -> wal::Version {
        from_wire(self.cut.wanted_here())
    }

    /// Whether this node knows of logs of nodes that were removed: then members tell each other how much of them they hold.
    fn has_what_removed_nodes_left(&self) -> bool {
        let mut removed = self.members.iter().filter(|member| member.state == MemberState::Removed);
        removed.any(|member| self.known.of(member.node).next().is_some())
    }

    /// Whether there is no more to be had of a node's logs: it was removed, and all members say that they know that, hold the same of what it
    /// left, and count the same members. Should one come to hold more, or a new one join, that is so no more.
    pub(super) fn is_settled(&self, node: NodeId) -> bool {
        self.members.is_removed(node) && self.cut.is_one_view(NodeId(self.facts.node.0), &self.members)
    }

    /// When the cut is to be looked at next.
    pub(super) fn cut_deadline(&self) -> Option<Mono> {
        let own = NodeId(self.facts.node.0);
        let is_unsettled = || self.has_what_removed_nodes_left() && !self.cut.is_one_view(own, &self.members);
        let can = !self.removed && !self.stop.asked && self.failed.is_none();
        let is_due = can && (self.cut.wanted(&self.members).is_some() || is_unsettled());
        is_due.then_some(self.cut_at)
    }
}
