//! The source's side of a link: offers the own logs and streams them, from memory at the tail, from files behind it.

use net::ids::{LogId, RequestId, Version};
use net::reactor::{Completion, FileJob, Op, Outcome};
use net::wire::body::{Logs, Refuse, RefuseCode};
use net::wire::limits::LOGS_MAX;
use net::wire::message::Message;
use wal::marks::{Mark, reach};
use wal::retention::{Retention, Verdict};

use super::link::{OUT_BYTES_MAX, Role};
use super::{ControlLoop, LinkKey, Purpose};
use crate::host::{Host, segment_path};
use crate::messages::ToCore;
use crate::replication::from_wire;
use crate::replication::logs::{OwnLog, SegmentRef};
use crate::replication::residency::withhold;
use crate::replication::send::{Held, ReadRequest, Step};
use crate::shard::SegmentId;

/// What comes behind a small batch waits for so long, and goes together, unless that one is acknowledged first.
const GATHER_MS: u64 = 1;

/// Open segment files kept for catch-up reads.
const SEGMENT_FILES_MAX: usize = 64;

impl<H: Host> ControlLoop<H> {
    pub(super) fn offer_logs(&mut self, key: LinkKey) {
        let Some(node) = self.link(key).and_then(|link| link.hello()).map(|hello| hello.node) else { return };
        let all = &self.logs.logs;
        if all.len() > LOGS_MAX {
            let left_out = all.len() - LOGS_MAX;
            tracing::error!(
                left_out,
                "this node has had more runs than a peer can be told of; its oldest logs are not offered"
            );
        }
        let newest = &all[all.len().saturating_sub(LOGS_MAX)..];
        // Own logs first: only this node can serve them.
        let entries = newest.iter().map(OwnLog::entry).chain(self.known.entries(node)).take(LOGS_MAX);
        let logs = Logs { logs: entries.collect() };
        if let Some(link) = self.link(key) {
            link.push(&Message::Logs(logs), RequestId(0));
        }
    }

    pub(super) fn handle_as_source(&mut self, key: LinkKey, message: Message) {
        match message {
            Message::Watermarks(told) => {
                for entry in &told.entries {
                    self.check_for_rollback(entry.log, entry.version);
                }
                let Some(link) = self.link(key) else { return };
                if let Role::Serving { sender, .. } = &mut link.role {
                    sender.told(&told);
                    // Nothing is in flight any more.
                    let is_all = |log, held| sender.claimed(log).is_some_and(|claimed| claimed <= from_wire(held));
                    if told.entries.iter().any(|entry| is_all(entry.log, entry.version)) {
                        link.serves_at = None;
                    }
                }
                let is_bulk = link.is_bulk;
                let Some(node) = link.hello().map(|hello| hello.node) else { return };
                for entry in told.entries {
                    // The latest word counts, a lower one too: a follower that lost its disk lowers its vector. It does so on its
                    // live connection; a bulk one may be late.
                    if self.logs.get(entry.log).is_some() {
                        let acknowledged = self.acknowledged.entry((node, entry.log)).or_default();
                        let least = if is_bulk { *acknowledged } else { wal::Version::ZERO };
                        *acknowledged = from_wire(entry.version).max(least);
                        self.board.acknowledged = true;
                    }
                }
            }
            Message::Follow(mut follow) => {
                let follower =
                    self.link(key).and_then(|link| link.hello()).map(|hello| (hello.node, hello.incarnation));
                // It may have said more meanwhile, on another connection.
                let said = follower.map_or(Version(0), |(node, run)| self.cut.held_by(node, run));
                if follow.held.max(said) < self.notes.forgotten() {
                    self.tell_bootstrap_needed(key);
                    return;
                }
                let Some(allowed) = self.link(key).map(|link| link.allowed.clone()) else { return };
                let here = self.facts.residency.here();
                follow.logs.retain(|wanted| {
                    self.logs.get(wanted.log).is_some() || self.can_hand_on(here, &allowed, wanted.log.node)
                });
                let Some(link) = self.links.get_mut(key.index) else { return };
                let Role::Serving { sender, .. } = &mut link.role else { return };
                if link.is_bulk {
                    sender.follow(&self.logs, &follow.logs, follow.credit);
                } else {
                    let bytes_max = self.mesh.bulk_bytes_min;
                    let backlog = sender.follow_live(&self.logs, &follow.logs, follow.credit, bytes_max);
                    if let Some(backlog) = backlog {
                        link.push(&Message::Backlog(backlog), RequestId(0));
                    }
                }
                // While nobody followed, idle cores were not asked; a node that writes no more would never ask again.
                self.wake_senders();
            }
            Message::Bootstrap(told) => self.give_everything(key, &told),
            Message::Credit(credit) => {
                let Some(link) = self.link(key) else { return };
                let Role::Serving { sender, .. } = &mut link.role else { return };
                sender.credit(credit.upto);
                self.serve.insert(key);
            }
            message => {
                let text = format!("{} is not what a follower sends", message.opcode().name());
                self.refuse(key, &Refuse::new(RefuseCode::Unexpected, &text));
            }
        }
    }

    /// Something became durable: every sender may have work, and idle cores are asked to catch up with the busiest.
    pub(super) fn wake_senders(&mut self) {
        let mut followed = false;
        for (index, link) in &self.links {
            if matches!(link.role, Role::Serving { .. }) && link.is_up() {
                followed = true;
                self.serve.insert(LinkKey { index, generation: link.generation });
            }
        }
        if !followed {
            return;
        }
        let current = self.logs.current();
        let target = current.highest_complete();
        for (core, log) in current.cores.iter().enumerate() {
            if log.complete < target && self.raised[core] < target {
                self.raised[core] = target;
                self.cores[core].send(ToCore::Raise(target));
            }
        }
    }

    /// This node holds more of others' logs: whoever waits for a pass may get one.
    pub(super) fn wake_passes(&mut self) {
        for (index, link) in &self.links {
            if matches!(&link.role, Role::Serving { sender, .. } if sender.wants_pass()) && link.is_up() {
                self.serve.insert(LinkKey { index, generation: link.generation });
            }
        }
    }

    /// Streams to every follower that has credit and an idle connection: what is being written first, then what lies behind.
    pub(super) fn serve_followers(&mut self) {
        let mut keys: Vec<LinkKey> = self.serve.iter().copied().collect();
        keys.sort_by_key(|key| self.links.get(key.index).is_some_and(|link| link.is_bulk));
        for key in keys {
            self.serve_one(key);
        }
    }

    fn serve_one(&mut self, key: LinkKey) {
        loop {
            let Some(link) = self.links.get_mut(key.index).filter(|link| link.generation == key.generation) else {
                self.serve.remove(&key);
                return;
            };
            // One send is in flight at a time; meanwhile the next batch grows.
            if link.sending || !link.is_up() || link.out_bytes > OUT_BYTES_MAX {
                return;
            }
            if link.serves_at.is_some_and(|at| at > self.time.mono) {
                return;
            }
            link.serves_at = None;
            let follower = link.hello().map(|hello| LogId { node: hello.node, incarnation: hello.incarnation });
            let Role::Serving { sender, .. } = &mut link.role else {
                self.serve.remove(&key);
                return;
            };
            let step = match sender.step(&self.logs) {
                // In a bootstrap of its own what a node has may be dead.
                Step::Idle if !self.bootstrap.is_under_way() => sender.pass_step(&Held {
                    logs: &self.logs,
                    old_runs: self.old_runs.left(),
                    known: &self.known,
                    watermarks: &self.watermarks,
                    follower,
                }),
                step => step,
            };
            match step {
                Step::Records { mut head, mut runs } => {
                    match withhold(&link.allowed, &mut head, &mut runs) {
                        Ok(0) => {}
                        Ok(left_out) => {
                            reach(Mark::RecordsWithheld);
                            sender.withheld(left_out);
                        }
                        Err(error) => {
                            tracing::error!(%error, "a batch cannot be read");
                            link.broken = true;
                            return;
                        }
                    }
                    if runs.is_empty() {
                        continue;
                    }
                    let claim = sender.claim_behind(&self.logs);
                    match link.push_batch(head, runs, claim, self.mesh.packs.then_some(&mut self.packer)) {
                        Ok(true) => link.serves_at = Some(self.time.mono.plus_ms(GATHER_MS)),
                        Ok(false) => {}
                        Err(error) => {
                            tracing::error!(%error, "a batch could not be encoded");
                            link.broken = true;
                            return;
                        }
                    }
                    if link.out_bytes >= crate::replication::BATCH_BYTES {
                        return;
                    }
                }
                Step::Claim(claim) => link.push_claim(claim),
                Step::Given(given) => link.push(&ControlLoop::<H>::end_giving(given), RequestId(0)),
                Step::Sift(records) => self.sift(key, &records),
                Step::Read(request) => {
                    let now = self.time.mono;
                    let at = link.pace.next(self.mesh.catch_up_rate, request.len, now);
                    if at > now {
                        reach(Mark::CatchUpPaced);
                        link.reading = Some(request);
                        link.reads_at = Some(at);
                    } else {
                        self.read_segment(key, request);
                    }
                }
                Step::Idle => {
                    self.serve.remove(&key);
                    return;
                }
            }
        }
    }

    /// Lets cores give up segments that no follower is still to be sent from.
    pub(super) fn let_segments_go(&mut self) {
        if self.removable.is_empty() {
            return;
        }
        let log = self.logs.current().id;
        for (core, removable) in std::mem::take(&mut self.removable) {
            let mut retention = Retention::new(self.mesh.wal_retain_bytes);
            for (index, link) in &self.links {
                if let Role::Serving { sender, .. } = &link.role
                    && let Some(position) = sender.reads_from(log, core)
                {
                    retention.reads_from(index, position);
                }
            }
            // Where nobody follows, what is durable is told only now and then.
            let durable = self.logs.current().cores[usize::from(core)].durable.max(removable.end);
            let may_go = match retention.judge(removable.end, durable) {
                Verdict::Go => true,
                Verdict::Wait => {
                    reach(Mark::SegmentWaitsForFollower);
                    false
                }
                Verdict::Skip(behind) => {
                    behind.into_iter().all(|index| match self.links.get_mut(index).map(|link| &mut link.role) {
                        Some(Role::Serving { sender, .. }) => sender.skip_to(log, core, &removable),
                        _ => true,
                    })
                }
            };
            if !may_go {
                self.removable.push((core, removable));
                continue;
            }
            self.logs.current().cores[usize::from(core)].remove_before(&removable);
            self.segment_files.retain(|segment, _| segment.core.0 != core || segment.number != removable.number);
            self.cores[usize::from(core)].send(ToCore::RemoveSegment(removable.number));
        }
    }

    /// Begins the reads whose time has come.
    pub(super) fn start_paced_reads(&mut self) {
        let now = self.now();
        let mut due = Vec::new();
        for (index, link) in &mut self.links {
            if link.reads_at.is_some_and(|at| at <= now) {
                link.reads_at = None;
                due.extend(link.reading.map(|request| (LinkKey { index, generation: link.generation }, request)));
            }
        }
        for (key, request) in due {
            self.read_segment(key, request);
        }
    }

    fn read_segment(&mut self, key: LinkKey, request: ReadRequest) {
        let Some(link) = self.link(key) else { return };
        link.reading = Some(request);
        match self.segment_files.get(&request.segment) {
            Some(file) => {
                let job = FileJob::ReadBulk { file: file.clone(), offset: request.offset, len: request.len };
                self.ops.submit(&mut self.io, Op::File(job), Purpose::ReadSegment(key));
            }
            None => {
                let path = segment_path(&self.data_dir, request.segment.core, request.segment.number);
                let purpose = Purpose::OpenSegment(key, request.segment);
                self.ops.submit(&mut self.io, Op::File(FileJob::Open { path }), purpose);
            }
        }
    }

    pub(super) fn segment_opened(&mut self, key: LinkKey, segment: SegmentRef, completion: Completion<H::File>) {
        match completion.result {
            Ok(Outcome::Opened(file)) => {
                // A link that ended meanwhile no longer keeps the segment from being removed.
                let Some(request) = self.link(key).and_then(|link| link.reading) else { return };
                if self.segment_files.len() >= SEGMENT_FILES_MAX {
                    self.segment_files.clear();
                }
                self.segment_files.insert(segment, file);
                self.read_segment(key, request);
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && self.was_removed(segment) => {
                let Some(link) = self.link(key) else { return };
                link.reading = None;
                if let Role::Serving { sender, .. } = &mut link.role {
                    sender.read_gone();
                }
                self.serve.insert(key);
            }
            result => {
                let error = result.err().map_or_else(String::new, |error| error.to_string());
                self.read_broke(key, &format!("segment {} cannot be opened: {error}", segment.number.0));
            }
        }
    }

    pub(super) fn segment_read(&mut self, key: LinkKey, completion: Completion<H::File>) {
        let bytes = match completion.result {
            Ok(Outcome::Bulk(bytes)) => bytes,
            result => {
                let error = result.err().map_or_else(String::new, |error| error.to_string());
                self.read_broke(key, &format!("a log segment cannot be read: {error}"));
                return;
            }
        };
        let Some(link) = self.link(key) else { return };
        link.reading = None;
        let Role::Serving { sender, .. } = &mut link.role else { return };
        if let Err(damage) = sender.read_done(&bytes) {
            self.read_broke(key, &damage.to_string());
            return;
        }
        self.serve.insert(key);
    }

    /// Whether this node has given the segment up. A follower may come to hold all of a retired log from elsewhere, while it is
    /// still being sent it from here.
    fn was_removed(&self, segment: SegmentRef) -> bool {
        let is_running = self.logs.logs.last().and_then(|log| log.cores.get(usize::from(segment.core.0)));
        let is_running = is_running.is_some_and(|core| core.segments.iter().any(|left| left.number == segment.number));
        !is_running && self.old_runs.has_given_up(SegmentId { core: segment.core, number: segment.number })
    }

    fn read_broke(&mut self, key: LinkKey, text: &str) {
        tracing::error!(reason = text, "catch-up of a follower stopped");
        if let Some(link) = self.link(key) {
            if let Role::Serving { sender, .. } = &mut link.role {
                sender.read_failed();
            }
            link.broken = true;
        }
    }
}
