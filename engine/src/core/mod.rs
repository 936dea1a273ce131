//! One core thread: its reactor, its shard, its clients.
//!
//! [`CoreLoop::tick`] owns the order of stages and they never call each other: collect completions and messages, run
//! commands, commit (seal the group, start a sync), hand out what became durable, send. One tick never blocks but in `poll`.

mod bootstrap;
mod clients;
mod closing;
mod commit;
mod compaction;
mod everywhere;
mod fetch;
mod holds;
pub(crate) mod ops;
mod residency;
mod scan;
mod segments;
mod slow;
pub mod stages;
mod survey;
mod transactions;
mod waits;

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use net::reactor::{Completion, Io, Listener, Mono, StreamKind, Wait};
use net::resp::Protocol;
use wal::marks::{Mark, reach};
use wal::planted::{self, Fault};
use wal::{CommitPath, Lsn, RecordView, Version};

use self::bootstrap::Sweep;
use self::clients::Clients;
pub(crate) use self::closing::CHECKPOINT_MS_MAX;
use self::closing::{CLOSED_SLEEP_MS, Closing};
use self::commit::Commit;
use self::compaction::Compactor;
use self::everywhere::Parts;
use self::fetch::Fetches;
use self::holds::Holds;
use self::ops::{Context, Ops};
use self::residency::Residency;
use self::segments::Segments;
use self::survey::Surveys;
use self::transactions::Leads;
use crate::clock::{PhysicalClock, Time};
use crate::frontend::native::run::Runner;
use crate::frontend::replies::ReplyQueue;
use crate::host::Host;
use crate::mailbox::{Outbox, Receiver};
use crate::messages::{ConnectionKey, CoreEvent, HopCommand, ToControl, ToCore};
use crate::node::{CoreGauges, Durability, NodeFacts};
use crate::shard::{Covered, Shard, WriteError};

/// Messages handled per tick, so that clients and peers take turns.
const MESSAGES_PER_TICK: usize = 1024;

/// How long a loop may sleep when a full mailbox or a throttled clock makes it try again.
const RETRY_MS: u64 = 1;

/// How often the control thread is told what is remembered of keys that are gone.
const DEAD_MS: u64 = 500;

/// What a core is made of.
#[derive(Debug)]
pub struct CoreParts<H: Host> {
    /// This core's number.
    pub core: u16,
    /// The node.
    pub facts: Arc<NodeFacts>,
    /// The data.
    pub shard: Shard<H::Map>,
    /// Where segments lie.
    pub data_dir: PathBuf,
    /// Size of a segment.
    pub segment_bytes: u64,
    /// Messages for this core.
    pub mailbox: Receiver<ToCore>,
    /// Mailboxes of all cores; its own is never used.
    pub cores: Vec<Outbox<ToCore>>,
    /// The control thread's mailbox.
    pub control: Outbox<ToControl>,
    /// Bytes of memory that this core may take, where there is a bound.
    pub memory_bytes_max: Option<u64>,
    /// Whether other regions follow this node: durable frames are handed to the control thread.
    pub ships: bool,
}

/// A command of another core's client, or a part of one of this core's, answered once what it shows is durable.
#[derive(Debug)]
struct Guest {
    from: u16,
    connection: ConnectionKey,
    hop: (u64, usize),
    replies: ReplyQueue,
}

/// One core.
#[derive(Debug)]
pub struct CoreLoop<H: Host> {
    core: u16,
    facts: Arc<NodeFacts>,
    gauges: Arc<CoreGauges>,
    io: H::Io,
    ops: Ops<H::File>,
    completions: Vec<Completion<H::File>>,
    physical: PhysicalClock,
    time: Time,
    shard: Shard<H::Map>,
    commit: Commit<H>,
    compactor: Compactor<H::File>,
    residency: Residency<H>,
    fetches: Fetches,
    clients: Clients,
    mailbox: Receiver<ToCore>,
    cores: Vec<Outbox<ToCore>>,
    control: Outbox<ToControl>,
    /// Messages for the log that a missing segment or a full disk held up; none for the log overtakes them.
    stalled_log: VecDeque<ToCore>,
    /// Commands of other cores that a missing segment or a throttled clock held up; no command overtakes them.
    stalled_commands: VecDeque<ToCore>,
    guests: Vec<Guest>,
    /// This core's parts of commands that every core runs.
    parts: Parts,
    surveys: Surveys,
    sweep: Option<Sweep>,
    /// Messages of this core to itself.
    own: VecDeque<ToCore>,
    /// The transactions that this core leads, and those that hold it.
    leads: Leads,
    holds: Holds,
    ships: bool,
    stopping: bool,
    closing: Closing<H::File>,
    stopped: bool,
    /// What the control thread was told last of keys that are gone.
    dead_upto: Version,
    dead_at: Mono,
    /// Whether there may be more to forget.
    forgetting: bool,
}

impl<H: Host> CoreLoop<H> {
    /// Assembles the loop on its thread. Nothing is listened on yet.
    #[must_use]
    pub fn new(io: H::Io, parts: CoreParts<H>) -> Self {
        let gauges = Arc::clone(&parts.facts.gauges[usize::from(parts.core)]);
        let physical = PhysicalClock::new(io.now(), io.wall_unix_ms(), parts.facts.started_unix_ms);
        let clients = Clients::new(parts.core, parts.shard.value_bytes_max());
        let mut core = CoreLoop {
            core: parts.core,
            facts: parts.facts,
            gauges,
            io,
            ops: Ops::default(),
            completions: Vec::new(),
            physical,
            time: Time::default(),
            shard: parts.shard,
            commit: Commit::new(Segments::new(parts.data_dir, parts.segment_bytes)),
            compactor: Compactor::default(),
            residency: Residency::new(parts.memory_bytes_max),
            fetches: Fetches::default(),
            clients,
            mailbox: parts.mailbox,
            cores: parts.cores,
            control: parts.control,
            stalled_log: VecDeque::new(),
            stalled_commands: VecDeque::new(),
            guests: Vec::new(),
            parts: Parts::default(),
            surveys: Surveys::default(),
            sweep: None,
            own: VecDeque::new(),
            leads: Leads::default(),
            holds: Holds::default(),
            ships: parts.ships,
            stopping: false,
            closing: Closing::default(),
            stopped: false,
            dead_upto: Version::ZERO,
            dead_at: Mono(0),
            forgetting: false,
        };
        core.read_clock();
        core
    }

    /// Listens for clients.
    ///
    /// # Errors
    /// Those of bind and listen.
    pub fn listen(&mut self, addr: SocketAddr, shared: bool) -> io::Result<SocketAddr> {
        let listener: Listener = self.io.listen(addr, StreamKind::Client, shared)?;
        let bound = self.io.local_addr(listener)?;
        self.ops.submit(&mut self.io, net::reactor::Op::Accept { listener }, Context::Accept(listener));
        Ok(bound)
    }

    /// The shard, for checkers and tests.
    pub fn shard(&mut self) -> &mut Shard<H::Map> {
        &mut self.shard
    }

    /// The instant of the last tick, for checkers.
    #[must_use]
    pub fn time(&self) -> Time {
        self.time
    }

    /// Whether the loop has finished after [`ToCore::Stop`].
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    fn read_clock(&mut self) {
        self.time = self.physical.read(self.io.now(), self.io.wall_unix_ms());
    }

    /// One round of all stages. Blocks in `poll` when there is nothing to do.
    ///
    /// # Errors
    /// Those that make the loop unusable.
    pub fn tick(&mut self) -> io::Result<()> {
        let wait = self.wait();
        let mut completions = std::mem::take(&mut self.completions);
        self.io.poll(wait, &mut completions)?;
        self.mailbox.disarm();
        self.read_clock();
        for completion in completions.drain(..) {
            self.complete(completion);
        }
        self.completions = completions;
        if self.closing.is_closed() || self.stopped {
            self.answer_last();
            return Ok(());
        }
        if !self.holds.is_held() {
            self.shard.release_due(self.time);
        }
        self.receive();
        if !self.stopping {
            self.run_clients();
        }
        self.receive_own();
        if self.holds.end_clients_turn() {
            self.retry_commands();
            self.receive_own();
        }
        self.walk_parts();
        self.survey();
        self.sweep_on();
        self.commit();
        self.answer_guests();
        self.receive_own();
        self.tend_waits();
        self.tend_observing();
        self.tend_session_waits();
        self.receive_own();
        self.send_replies();
        self.fetch();
        self.tend_memory();
        self.close_slow_readers();
        self.commit.clock.told(|| self.io.now(), &self.gauges.stages);
        self.ops.resubmit(&mut self.io);
        self.forgetting = !self.holds.is_held() && self.shard.forget();
        self.tell_dead();
        self.publish();
        Ok(())
    }

    /// How long the next tick may sleep in `poll`. Arms the mailbox: whoever sends to it from now on wakes the loop.
    pub fn wait(&mut self) -> Wait {
        let mut retry = self.control.flush();
        for core in &mut self.cores {
            retry |= core.flush();
        }
        if self.closing.is_closed() || self.stopped {
            let retry = retry || self.ops.has_backlog();
            let sleep_ms = if retry { RETRY_MS } else { CLOSED_SLEEP_MS };
            return if self.mailbox.arm() { Wait::Until(self.io.now().plus_ms(sleep_ms)) } else { Wait::Now };
        }
        retry |= !self.stalled_log.is_empty()
            || !self.stalled_commands.is_empty()
            || self.holds.is_stalled()
            || self.clients.is_stalled()
            || self.parts.is_stalled()
            || self.surveys.is_stalled()
            || self.sweeps().1
            || self.ops.has_backlog();
        let walking = self.parts.is_walking() && !self.holds.is_held();
        if (self.clients.has_runnable() && !self.stopping)
            || walking
            || !self.own.is_empty()
            || self.forgetting
            || (self.sweeps().0 && !self.stopping)
            || !self.mailbox.arm()
        {
            return Wait::Now;
        }
        let now = self.io.now();
        let mut until = self.commit.deadline().unwrap_or(now.plus_ms(1000)).min(now.plus_ms(1000));
        if let Some(due_in_ms) = self.shard.next_due_in_ms(self.time) {
            // What is due and still held waits for the ceiling, whose sync ends the wait.
            until = until.min(now.plus_ms(due_in_ms.clamp(RETRY_MS, 1000)));
        }
        if let Some(at) = self.clients.waits_until() {
            until = until.min(at);
        }
        if let Some(at) = self.clients.sessions_until() {
            until = until.min(at);
        }
        if let Some(due_in_ms) = self.observed_in_ms() {
            until = until.min(now.plus_ms(due_in_ms.clamp(RETRY_MS, 1000)));
        }
        if let Some(at) = self.surveys.deadline().filter(|_| !self.holds.is_held()) {
            until = until.min(at);
        }
        if let Some(at) = self.compaction_deadline() {
            until = until.min(at);
        }
        if retry {
            until = until.min(now.plus_ms(RETRY_MS));
        }
        Wait::Until(until)
    }

    fn complete(&mut self, completion: Completion<H::File>) {
        let Some(context) = self.ops.context(&completion) else { return };
        match context {
            Context::Accept(listener) => self.accepted(listener, completion),
            Context::Receive(connection) => self.received(connection, completion),
            Context::Send(connection) => self.sent(connection, completion),
            Context::Close(connection) => self.clients.closed(connection),
            Context::CloseRefused => {}
            Context::Compaction => self.compaction_completed(completion),
            Context::Fetch(fetch) => self.fetch_completed(fetch, completion),
            Context::Move => self.moved(completion),
            Context::Checkpoint => self.checkpoint_completed(completion),
            context => self.disk_completed(context, completion),
        }
    }

    fn receive(&mut self) {
        self.retry_stalled();
        self.retry_fetched();
        for _ in 0..MESSAGES_PER_TICK {
            let Some(message) = self.mailbox.receive() else { break };
            self.take(message);
        }
        self.receive_own();
    }

    /// Handles what this core said to itself, and what it says to itself then.
    fn receive_own(&mut self) {
        while let Some(message) = self.own.pop_front() {
            self.take(message);
        }
    }

    /// Handles one message, or puts it to those that wait.
    fn take(&mut self, message: ToCore) {
        // Records of one log must reach this shard's log in order, and commands of one client their shard. Everything
        // else goes on: a full disk stops neither reads nor the answers of other cores, nor the end.
        if self.stopping && matches!(message, ToCore::Follow { .. } | ToCore::AppendLocal { .. }) {
            // Nobody claims what was not answered. A stream that goes on would keep the log from its end.
            return;
        }
        let waiting = match &message {
            // What may be forgotten was said of records that came before.
            ToCore::Follow { .. }
            | ToCore::AppendLocal { .. }
            | ToCore::Forget(_)
            | ToCore::BeginBootstrap(_)
            | ToCore::Sweep(_) => !self.stalled_log.is_empty() || self.holds.is_held(),
            command if is_command(command) => !self.stalled_commands.is_empty() || self.holds.is_closed(),
            _ => false,
        };
        if self.fetches.holds_up(&message) {
            return self.fetches.keep(message);
        }
        let wanted = self.shard.wants();
        let left = if waiting { Some(message) } else { self.handle(message).err() };
        match left {
            Some(message) if !waiting && self.shard.wants() > wanted && is_command(&message) => {
                self.fetches.keep(message)
            }
            Some(message) if is_command(&message) => {
                reach(Mark::GuestCommandStalled);
                self.stalled_commands.push_back(message);
            }
            Some(message) => {
                reach(Mark::FollowStalled);
                self.stalled_log.push_back(message);
            }
            None => {}
        }
    }

    /// Tries what was held up again, each kind in order.
    fn retry_stalled(&mut self) {
        self.continue_hold();
        while !self.holds.is_held()
            && let Some(message) = self.stalled_log.pop_front()
        {
            if let Err(message) = self.handle(message) {
                self.stalled_log.push_front(message);
                break;
            }
        }
        self.retry_commands();
    }

    fn retry_commands(&mut self) {
        while !self.holds.is_closed()
            && let Some(message) = self.stalled_commands.pop_front()
        {
            if let Err(message) = self.handle(message) {
                self.stalled_commands.push_front(message);
                break;
            }
        }
    }

    /// Handles one message, or hands it back if it has to wait.
    fn handle(&mut self, message: ToCore) -> Result<(), ToCore> {
        match message {
            ToCore::Command { from, connection, hop, resp3, seen, command } => {
                let mut replies = ReplyQueue::default();
                let originated = self.shard.counters().originated;
                self.shard.seen_by(seen.clone());
                let ran = self.run_guest(&command, resp3, &mut replies);
                self.shard.seen_by(None);
                if ran.is_err() {
                    return Err(ToCore::Command { from, connection, hop, resp3, seen, command });
                }
                replies.written = self.written_since(originated);
                self.guests.push(Guest { from, connection, hop, replies });
            }
            ToCore::Everywhere { from, seen, connection, hop, resp3, command } => {
                self.begin_part(from, seen, connection, hop, resp3, &command);
            }
            ToCore::Answer { connection, hop, reply, sum, written } => {
                self.clients.answer(connection, hop, reply, sum, written);
            }
            ToCore::Covered { number, lacking } => self.session_covered(number, lacking),
            ToCore::Observe { from, number, version, until } => self.observe(from, number, version, until),
            ToCore::Observed { number } => self.session_observed(number),
            ToCore::Acknowledged => self.clients.hear_of_holders(),
            ToCore::Follow { sequence, records, covered } => return self.follow(sequence, records, covered),
            ToCore::Raise(version) => {
                if self.shard.raise(version) {
                    self.report_durable(Vec::new());
                } else {
                    self.commit.report_until(version);
                }
            }
            ToCore::AppendLocal { ticket, record } => match self.shard.append_local(&record) {
                Ok(end) => self.tell(CoreEvent::Appended { ticket, end }),
                Err(error) if error.is_transient() || error.is_disk() => {
                    return Err(ToCore::AppendLocal { ticket, record });
                }
                Err(error) => self.tell(CoreEvent::Failed(error.to_string())),
            },
            ToCore::Forget(upto) => self.shard.may_forget(upto),
            ToCore::BeginBootstrap(upto) => self.shard.begin_bootstrap(upto),
            ToCore::Sweep(absent) => self.begin_sweep(absent),
            ToCore::Sift { ticket, records } => {
                let records = self.shard.sift(&records).into();
                let staged = self.shard.log().staged();
                self.tell(CoreEvent::Sifted { ticket, records, staged });
            }
            ToCore::HoldBack(ms) => self.physical.hold_back(self.now(), ms),
            ToCore::Survey { ticket, task, shown } => self.begin_survey(ticket, task, shown),
            ToCore::RefuseWrites => self.shard.refuse_writes(),
            ToCore::RemoveSegment(number) => self.remove_segment(number),
            ToCore::ForgetOldSegment(segment) => {
                if let Some(slot) = self.shard.forget_old_segment(segment) {
                    self.residency.removed(slot, None);
                }
            }
            ToCore::Watch { from, connection, hop, keys } => match self.look_at(&keys) {
                Ok(watched) => self.send_to(from, ToCore::Watched { connection, hop, watched }),
                Err(_) => return Err(ToCore::Watch { from, connection, hop, keys }),
            },
            ToCore::Watched { connection, hop, watched } => self.clients.watched(connection, hop, watched),
            message @ ToCore::Transact { .. } => return self.transact(message),
            ToCore::Hold { ticket, resp3, seen, watched, pieces } => {
                // Rather before it holds the core than while it does.
                if holds::all_ready(&mut self.shard, pieces.iter()) == Err(WriteError::NotInMemory) {
                    return Err(ToCore::Hold { ticket, resp3, seen, watched, pieces });
                }
                let protocol = if resp3 { Protocol::Resp3 } else { Protocol::Resp2 };
                self.hold(ticket, protocol, seen, watched, pieces);
            }
            ToCore::Pieces { ticket, pieces } => self.hold_pieces(ticket, pieces),
            ToCore::Held { from, ticket, outcome } => self.held(from, ticket, outcome),
            ToCore::Release { ticket, commit } => {
                self.release(ticket, commit);
                // Also the records: another transaction may be next, and another one after it.
                self.retry_stalled();
            }
            ToCore::Released { from, ticket, replies, written } => self.released(from, ticket, replies, written),
            ToCore::Stop { old_runs } => {
                self.stopping = true;
                self.closing.old_runs = old_runs;
                self.give_up_transactions();
                self.clients.end_waits();
            }
        }
        Ok(())
    }

    /// Runs a command of another core's client.
    fn run_guest(&mut self, command: &HopCommand, resp3: bool, replies: &mut ReplyQueue) -> Result<(), WriteError> {
        match command {
            HopCommand::Resp(command) => {
                let protocol = if resp3 { Protocol::Resp3 } else { Protocol::Resp2 };
                clients::run_encoded(command, protocol, &mut self.shard, self.time, replies, self.core)
            }
            HopCommand::Native(request) => {
                let (core, cores) = (self.core, self.facts.cores);
                Runner { shard: &mut self.shard, time: self.time, core, cores }.run(request, replies)
            }
        }
    }

    /// Applies a batch. If it has to wait, the part that was applied is cut off first; applying it twice would do no harm,
    /// but a batch larger than what is left of a segment must make progress.
    fn follow(&mut self, sequence: u64, mut records: Vec<bytes::Bytes>, covered: Covered) -> Result<(), ToCore> {
        self.shard.lost().expect(Covered::clone(&covered));
        let mut appended = Lsn(0);
        let mut done = 0;
        while let Some(run) = records.get_mut(done) {
            if run.is_empty() {
                done += 1;
                continue;
            }
            // The control thread verified every record of the batch before it was split.
            let Ok((record, len)) = RecordView::parse_trusted_prefix(run) else {
                self.tell(CoreEvent::Failed("a followed batch holds something else than records".into()));
                return Ok(());
            };
            let before = self.shard.log().staged();
            match self.shard.follow(&record, self.time) {
                Ok(()) => {
                    let len = len.min(run.len());
                    bytes::Buf::advance(run, len);
                    let after = self.shard.log().staged();
                    appended = if after > before { after } else { appended };
                }
                Err(error) if error.is_transient() || error.is_disk() => {
                    if error == WriteError::NotInMemory {
                        self.want_records(&records[done..]);
                    }
                    records.drain(..done);
                    return Err(ToCore::Follow { sequence, records, covered });
                }
                Err(error) => {
                    self.tell(CoreEvent::Failed(error.to_string()));
                    return Ok(());
                }
            }
        }
        // Also when nothing was appended: the copy that is here may itself not be durable yet.
        let staged = self.shard.log().staged();
        if appended == Lsn(0) && staged > self.shard.log().durable() {
            reach(Mark::HereButNotDurable);
        }
        let staged = if planted::is(Fault::HaveItBeforeSync) { appended } else { staged };
        self.tell(CoreEvent::Followed { sequence, staged });
        Ok(())
    }

    fn tell(&mut self, event: CoreEvent) {
        self.control.send(ToControl { core: self.core, event });
    }

    fn report_durable(&mut self, frames: Vec<crate::shard::DurableFrame>) {
        let event = CoreEvent::Durable { durable: self.shard.log().durable(), complete: self.shard.complete(), frames };
        self.tell(event);
    }

    /// The position up to which replies may be shown.
    fn shown(&self) -> Lsn {
        if planted::is(Fault::AckBeforeSync) {
            return self.shard.log().staged();
        }
        match self.facts.durability {
            Durability::Fsync => self.shard.log().durable(),
            Durability::Os if self.shard.log().commit_path() == CommitPath::Mmap => self.shard.log().written(),
            // What a direct write has not completed is in this process only.
            Durability::Os => self.shard.log().durable(),
        }
    }

    fn answer_guests(&mut self) {
        let shown = match planted::is(Fault::AnswerBeforeOtherCore) {
            true => self.shard.log().staged(),
            false => self.shown(),
        };
        self.answer_leaders(shown);
        let mut index = 0;
        while index < self.guests.len() {
            if self.guests[index].replies.waits_for_durability(shown) || self.guests[index].replies.barrier() > shown {
                index += 1;
                continue;
            }
            let mut guest = self.guests.swap_remove(index);
            let mut runs = Vec::new();
            guest.replies.take(shown, &mut runs);
            let (connection, hop, sum) = (guest.connection, guest.hop, guest.replies.sum);
            let written = guest.replies.written;
            if guest.from == self.core {
                self.clients.answer(connection, hop, runs, sum, written);
            } else {
                let answer = ToCore::Answer { connection, hop, reply: runs, sum, written };
                self.cores[usize::from(guest.from)].send(answer);
            }
        }
    }

    /// Tells the control thread, now and then, what is remembered of keys that are gone.
    fn tell_dead(&mut self) {
        if self.time.mono < self.dead_at {
            return;
        }
        self.dead_at = self.time.mono.plus_ms(DEAD_MS);
        let upto = self.shard.dead_upto(self.time);
        if upto != self.dead_upto {
            self.dead_upto = upto;
            self.tell(CoreEvent::Dead { upto });
        }
    }

    fn publish(&mut self) {
        let gauges = &self.gauges;
        let counters = self.shard.counters();
        gauges.live_keys.store(self.shard.live(self.time), Ordering::Relaxed);
        gauges.entries.store(self.shard.store().entries() as u64, Ordering::Relaxed);
        gauges.index_bytes.store(self.shard.store().index_bytes() as u64, Ordering::Relaxed);
        gauges.originated.store(counters.originated, Ordering::Relaxed);
        gauges.followed.store(counters.followed, Ordering::Relaxed);
        gauges.already_applied.store(counters.already_applied, Ordering::Relaxed);
        gauges.superseded.store(counters.superseded, Ordering::Relaxed);
        gauges.concurrent.store(counters.concurrent, Ordering::Relaxed);
        self.facts.lost.collect(self.shard.lost());
        gauges.held_back.store(counters.held_back, Ordering::Relaxed);
        gauges.forgotten.store(self.shard.forgotten(), Ordering::Relaxed);
        gauges.syncs.store(counters.syncs, Ordering::Relaxed);
        gauges.durable_lsn.store(self.shard.log().durable().0, Ordering::Relaxed);
        gauges.connections.store(self.clients.count(), Ordering::Relaxed);
        gauges.commands.store(self.clients.commands(), Ordering::Relaxed);
        gauges.protocol_errors.store(self.clients.protocol_errors(), Ordering::Relaxed);
    }

    /// A deadline helper for the parts of this loop.
    fn now(&self) -> Mono {
        self.time.mono
    }
}

/// Whether a message is a command or a transaction, which run in order and not while another transaction holds the core.
fn is_command(message: &ToCore) -> bool {
    matches!(
        message,
        ToCore::Command { .. }
            | ToCore::Everywhere { .. }
            | ToCore::Watch { .. }
            | ToCore::Transact { .. }
            | ToCore::Hold { .. }
    )
}
