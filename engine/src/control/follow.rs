//! The follower's side of a link: batches to the cores, claims to the watermarks, watermarks to the disk and back.

use std::cell::OnceCell;
use std::collections::BTreeSet;

use net::ids::{Class, LogId, NodeId, RequestId, StreamOffset};
use net::wire::body::{
    Credit, Follow, FollowLog, LogEntry, LogState, Logs, Refuse, RefuseCode, Watermark, Watermarks as WatermarksBody,
    more, records,
};
use net::wire::header::HEADER_BYTES;
use net::wire::message::Message;
use wal::RecordView;
use wal::marks::{Mark, reach};
use wal::planted::{self, Fault};

use super::link::{Link, Role};
use super::{ControlLoop, LinkKey, PERSIST_MS, Persisting};
use crate::host::Host;
use crate::messages::ToCore;
use crate::replication::bootstrap::{Absent, Given, held_of_nodes};
use crate::replication::{from_wire, pass, to_wire};
use crate::shard::Covered;

impl<H: Host> ControlLoop<H> {
    pub(super) fn handle_as_follower(&mut self, key: LinkKey, message: Message) {
        let Some(link) = self.links.get_mut(key.index) else { return };
        match &message {
            Message::Records(batch) => {
                link.received_records(HEADER_BYTES + records::HEAD_BYTES + batch.payload.len());
                link.brevity.records(&batch.head);
            }
            Message::Claim(claim) => link.brevity.claim(claim),
            Message::More(more) => {
                link.received_records(HEADER_BYTES + more::HEAD_BYTES + more.payload.len());
                let Role::Following { receiver, .. } = &link.role else { return };
                match link.brevity.lengthen(more, receiver.received()) {
                    Ok((batch, claim)) => {
                        self.follow(key, Message::Records(batch));
                        if let Some(claim) = claim.filter(|_| self.link(key).is_some_and(|link| link.is_up())) {
                            self.follow(key, Message::Claim(claim));
                        }
                    }
                    Err(error) => {
                        reach(Mark::BatchDamaged);
                        let text = format!(
                            "a short batch cannot be read ({error}); the link is reset and the batch fetched again"
                        );
                        self.refuse(key, &Refuse::new(RefuseCode::Unexpected, &text));
                    }
                }
                return;
            }
            _ => {}
        }
        self.follow(key, message);
    }

    fn follow(&mut self, key: LinkKey, message: Message) {
        match message {
            Message::Logs(logs) => self.follow_logs(key, &logs),
            Message::Backlog(backlog) => self.hear_backlog(key, &backlog),
            Message::Records(batch) => {
                let Some(link) = self.links.get_mut(key.index) else { return };
                let Some(node) = link.hello().map(|hello| hello.node) else { return };
                link.received.raw_records += u64::from(batch.head.raw_bytes);
                if link.is_bulk {
                    let catch_up = link.dial_target().and_then(|target| self.catch_ups.get_mut(&target.address()?));
                    if let Some(catch_up) = catch_up {
                        catch_up.received(batch.head.raw_bytes.into(), batch.head.count.into());
                    }
                }
                if batch.head.log.node != node {
                    let text = "a source may only stream its own logs in this version";
                    self.refuse(key, &Refuse::new(RefuseCode::Unexpected, text));
                    return;
                }
                if batch.head.flags & records::PASS != 0 {
                    self.relays.heard(key, false, self.time.mono);
                }
                // All that comes in a bootstrap counts, whatever was here before.
                let is_bootstrap = batch.head.flags & records::BOOTSTRAP != 0;
                let belongs = if is_bootstrap { self.bootstrap.is_from(key) } else { !self.bootstrap.is_under_way() };
                if !belongs {
                    let text = "a source may send what belongs to a bootstrap, and that only, between its beginning and its end";
                    self.refuse(key, &Refuse::new(RefuseCode::Unexpected, text));
                    return;
                }
                if is_bootstrap {
                    self.bootstrap.received(batch.head.count, batch.head.raw_bytes);
                }
                let (forgotten, own) = (from_wire(self.notes.forgotten()), self.facts.node);
                let complete = self.logs.logs.last().map_or(wal::Version::ZERO, |log| log.complete());
                let covered = OnceCell::new();
                let here = || {
                    let nodes = held_of_nodes(NodeId(own.0), complete, &self.known, &self.watermarks);
                    let given = Given { forgotten: to_wire(forgotten), held: to_wire(forgotten), nodes };
                    (pass::Covered::here(&self.known, &self.watermarks), Absent::new(&given))
                };
                // When this node noted that, it held all of its own logs up to there, of which it may have given up some since. Of logs of
                // others that were given up before this node came it never heard.
                let is_covered = |record: &RecordView<'_>| {
                    let has = |(covered, absent): &(pass::Covered, Absent)| {
                        covered.has(record.origin, record.version) || absent.is_dead(record.origin, record.version)
                    };
                    let is_here = !is_bootstrap
                        && record.version <= forgotten
                        && (record.origin == own || has(covered.get_or_init(here)));
                    is_here && {
                        reach(Mark::CoveredLeftOut);
                        !planted::is(Fault::CoveredApplied)
                    }
                };
                let Role::Following { receiver, .. } = &mut link.role else { return };
                let held = self.watermarks.covered(batch.head.log, batch.head.flags);
                match receiver.records(&batch, &mut self.core_state, is_covered) {
                    Ok(parts) => {
                        for part in parts {
                            let (sequence, records) = (part.sequence, part.records);
                            let covered = Covered::clone(&held);
                            self.cores[usize::from(part.core)].send(ToCore::Follow { sequence, records, covered });
                        }
                    }
                    Err(error) => self.refuse(key, &Refuse::new(RefuseCode::Unexpected, &error.to_string())),
                }
            }
            Message::Bootstrap(told) => self.hear_of_bootstrap(key, told),
            Message::Claim(claim) => {
                let Some(link) = self.links.get_mut(key.index) else { return };
                link.received.claims += 1;
                if link.hello().is_some_and(|hello| hello.node != claim.log.node) {
                    let allowed = link.allowed.clone();
                    if !self.can_hand_on(&allowed, self.facts.residency.here(), claim.log.node) {
                        let text = "a claim over another node's log by a node that may hold less than this one says nothing here";
                        self.refuse(key, &Refuse::new(RefuseCode::Unexpected, text));
                        return;
                    }
                    self.relays.heard(key, true, self.time.mono);
                }
                let Some(link) = self.links.get_mut(key.index) else { return };
                let Role::Following { receiver, .. } = &mut link.role else { return };
                if let Err(error) = receiver.claim(claim, &self.core_state) {
                    self.refuse(key, &Refuse::new(RefuseCode::Unexpected, &error.to_string()));
                }
            }
            message => {
                let text = format!("{} is not what a source sends", message.opcode().name());
                self.refuse(key, &Refuse::new(RefuseCode::Unexpected, &text));
            }
        }
    }

    /// The source told which logs it has: ask for each from where this node stands.
    pub(super) fn follow_logs(&mut self, key: LinkKey, logs: &Logs) {
        let Some(link) = self.links.get_mut(key.index) else { return };
        let Some(node) = link.hello().map(|hello| hello.node) else { return };
        let Role::Following { receiver, .. } = &mut link.role else { return };
        let own: Vec<_> = logs.logs.iter().filter(|entry| entry.log.node == node).collect();
        let ends = own.iter().map(|entry| (entry.log, (entry.state == LogState::Retired).then_some(entry.end)));
        let credit = match receiver.open(&self.core_state, ends) {
            Ok(credit) => credit,
            Err(error) => {
                self.refuse(key, &Refuse::new(RefuseCode::Unexpected, &error.to_string()));
                return;
            }
        };
        let mut is_news = false;
        for entry in logs.logs.iter().filter(|entry| entry.log.node.0 != self.facts.node.0) {
            is_news |= self.known.learn(entry);
            if self.known.contains(entry.log) || entry.log.node == node {
                self.watermarks.know(entry.log, entry.first);
            }
        }
        let named: Vec<LogEntry> = own.iter().map(|entry| **entry).collect();
        self.known.listed(node, &named);
        if is_news {
            self.logs_are_known();
        }
        if self.keep_offer(key, logs) {
            return;
        }
        // The source forgets what it was asked of other nodes' logs.
        self.relays.forget(key);
        if self.link(key).is_some_and(|link| link.is_bulk) {
            self.ask_for_backlog(key);
        } else {
            self.follow_live(key, &named, credit);
        }
    }

    /// Asks on a live connection for all logs of its source.
    fn follow_live(&mut self, key: LinkKey, logs: &[LogEntry], credit: StreamOffset) {
        let (vector, held) = (self.held_vector(), self.notes.held());
        let vector = WatermarksBody { full: true, entries: vector };
        let wanted = logs.iter().map(|entry| FollowLog::all(entry.log, self.watermarks.version(entry.log))).collect();
        let Some(link) = self.link(key) else { return };
        link.push(&Message::Watermarks(vector), RequestId(0));
        link.push(&Message::Follow(Follow { credit, held, logs: wanted }), RequestId(0));
    }

    /// What this node holds: of its own logs, and of others.
    pub(super) fn held_vector(&self) -> Vec<Watermark> {
        let own = self.logs.logs.iter().map(|log| {
            let version = to_wire(log.end.unwrap_or_else(|| log.complete()));
            Watermark { log: log.id, version, persisted: version, class: Class(0) }
        });
        own.chain(self.watermarks.all()).collect()
    }

    /// Lets claims take effect, tells sources, returns credit.
    pub(super) fn advance_claims(&mut self) {
        let now = self.now();
        let (mut broken, mut visible) = (Vec::new(), Vec::new());
        let mut raised = false;
        for (index, link) in &mut self.links {
            let Role::Following { receiver, .. } = &mut link.role else { continue };
            if link.closing || link.broken {
                continue;
            }
            match receiver.advance(&self.core_state, &mut self.watermarks) {
                Ok(changed) => raised |= changed,
                Err(error) => broken.push((LinkKey { index, generation: link.generation }, error.to_string())),
            }
            visible.extend(receiver.take_visible());
            if let Some(credit) = receiver.credit_due() {
                link.push(&Message::Credit(Credit { upto: credit }), RequestId(0));
            }
        }
        for (origin, version) in visible {
            let ahead_ms = self.ahead_ms(origin);
            let Some(member) = self.members.get(origin) else { continue };
            self.visibility.became_visible(&member.region, version, self.time.unix_ms, ahead_ms);
        }
        for (key, text) in broken {
            self.refuse(key, &Refuse::new(RefuseCode::Unexpected, &text));
        }
        // What came on one connection may be what claims of another one waited for.
        for (_, link) in &mut self.links {
            if let Role::Following { receiver, .. } = &mut link.role {
                raised |= receiver.connect(&mut self.watermarks);
            }
        }
        if raised && self.persist_at.is_none() {
            self.persist_at = Some(now.plus_ms(PERSIST_MS));
        }
        if raised {
            self.wake_passes();
        }
        self.acknowledge();
    }

    fn acknowledge(&mut self) {
        let is_following = |link: &Link| matches!(link.role, Role::Following { .. }) && link.is_up();
        let live = self.links.iter().filter(|(_, link)| is_following(link) && !link.is_bulk);
        let live: BTreeSet<NodeId> = live.filter_map(|(_, link)| link.hello().map(|hello| hello.node)).collect();
        for (_, link) in &mut self.links {
            // Where there is a live connection, nothing is said behind what lies on a bulk one.
            let has_live = link.hello().is_some_and(|hello| live.contains(&hello.node));
            if !is_following(link) || link.is_bulk && has_live {
                continue;
            }
            let Some(node) = link.hello().map(|hello| hello.node) else { continue };
            let entries = self.watermarks.changes_of(node);
            if !entries.is_empty() {
                link.push(&Message::Watermarks(WatermarksBody { full: false, entries }), RequestId(0));
            }
        }
    }

    /// Writes changed watermarks to this node's own log, so that a restart goes on where it stood.
    pub(super) fn persist_watermarks(&mut self) {
        let now = self.now();
        if self.persist_at.is_none_or(|at| now < at) {
            return;
        }
        self.persist_at = None;
        while let Some((log, record)) = self.watermarks.next_to_persist(self.facts.incarnation) {
            self.ticket += 1;
            self.persisting.insert(self.ticket, (Persisting::Watermark(log), None));
            self.cores[0].send(ToCore::AppendLocal { ticket: self.ticket, record });
        }
    }

    /// Core 0's log became durable further, or a record's place became known.
    pub(super) fn watermark_records_durable(&mut self, core: u16) {
        if core != 0 {
            return;
        }
        let durable = self.core_state.durable_of(0);
        let done: Vec<u64> = self
            .persisting
            .iter()
            .filter(|(_, (_, end))| end.is_some_and(|end| end <= durable))
            .map(|(ticket, _)| *ticket)
            .collect();
        for ticket in done {
            match self.persisting.remove(&ticket) {
                Some((Persisting::Watermark(log), _)) => self.watermarks.persisted(log),
                Some((Persisting::Member(member), _)) => self.member_persisted(&member),
                Some((Persisting::Note, _)) => self.note_is_durable(),
                Some((Persisting::Bootstrap(noted), _)) => self.bootstrap_noted(noted),
                None => {}
            }
        }
        if self.watermarks.has_to_persist() && self.persist_at.is_none() {
            self.persist_at = Some(self.now().plus_ms(PERSIST_MS));
        }
    }

    /// The source's side: what a follower told about this node's logs.
    pub(super) fn check_for_rollback(&self, log: LogId, version: net::ids::Version) {
        let Some(own) = self.logs.get(log) else { return };
        let held = own.end.unwrap_or(own.highest_complete());
        if from_wire(version) > held {
            reach(Mark::FollowerHoldsMore);
            tracing::error!(
                %log,
                told = version.0,
                held = held.0,
                "a follower holds more of this node's log than this disk: the disk was rolled back; do not serve writes \
                 from it, restore it from the other regions"
            );
        }
    }
}
