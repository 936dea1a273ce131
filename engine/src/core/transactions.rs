//! Transactions that clients of this core ask for: `MULTI` and what belongs to it, and commands on keys of several cores that are
//! atomic. This core leads them.
//!
//! | keys | what happens |
//! |---|---|
//! | all of this core | run at once |
//! | all of one other core | sent there, run there at once |
//! | of several cores | these are held one after the other; each runs its part; when all can append theirs, all do and go on |
//!
//! Cores are held in ascending order, so that no two transactions wait for each other. A transaction does not depend on its client:
//! it ends when the cores have answered, whether anybody waits for it or not.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use net::resp::{Args, Parser, Protocol, reply};
use wal::marks::{Mark, reach};
use wal::planted::{self, Fault};
use wal::{Lsn, Version};

use super::{CoreLoop, Guest, holds};
use crate::frontend::replies::{Merge, ReplyQueue};
use crate::frontend::resp::script::{FoundBySlot, PieceReply, Place, Script, Shape, Stage};
use crate::frontend::resp::table::{Command, Kind, SessionVerb, TransactionVerb};
use crate::frontend::resp::transaction::{self, NOT_ALLOWED, QUEUED_BYTES_MAX, Queued, Watched};
use crate::frontend::seen::Seen;
use crate::host::Host;
use crate::messages::{ConnectionKey, Refusal, Ticket, ToCore};
use crate::shard::{Presence, WriteError};

/// Bytes that all connections of a core may queue and watch together.
const QUEUED_BYTES_TOTAL_MAX: usize = 256 * 1024 * 1024;

/// A transaction over several cores.
#[derive(Debug)]
struct Led {
    connection: ConnectionKey,
    hop: u64,
    shape: Shape,
    protocol: Protocol,
    seen: Option<Seen>,
    script: Script,
    /// All of them, ascending.
    cores: Vec<u16>,
    /// How many of them were asked to be held.
    asked: usize,
    /// Those whose answer is missing.
    missing: BTreeSet<u16>,
    watched: BTreeMap<u16, Vec<Watched>>,
    /// What to run first, by core.
    first: Stage,
    found: FoundBySlot,
    refusal: Option<Refusal>,
    lost: Option<WriteError>,
    /// The highest version that it wrote.
    written: Version,
    /// The cores were told to go on.
    ending: bool,
}

/// The transactions that this core leads.
#[derive(Debug, Default)]
pub(super) struct Leads {
    last: u64,
    by_number: BTreeMap<u64, Led>,
}

/// A transaction about to start.
struct Start {
    script: Script,
    shape: Shape,
    watched: Vec<Watched>,
}

impl<H: Host> CoreLoop<H> {
    /// A message to any core; those to this one are handled soon, in order.
    pub(super) fn send_to(&mut self, core: u16, message: ToCore) {
        if core == self.core {
            self.own.push_back(message);
        } else {
            self.cores[usize::from(core)].send(message);
        }
    }

    /// `MULTI`, `EXEC`, `DISCARD`, `WATCH`, `UNWATCH`.
    pub(super) fn run_transaction_verb(
        &mut self,
        index: u32,
        verb: TransactionVerb,
        args: Args<'_>,
    ) -> Result<(), WriteError> {
        let connection = &mut self.clients.connections[index as usize];
        let multi = &mut connection.multi;
        let answer = match (verb, multi.is_open()) {
            (TransactionVerb::Multi, true) => Err("ERR MULTI calls can not be nested"),
            (TransactionVerb::Watch, true) => Err("ERR WATCH inside MULTI is not allowed"),
            (TransactionVerb::Exec, false) => Err("ERR EXEC without MULTI"),
            (TransactionVerb::Discard, false) => Err("ERR DISCARD without MULTI"),
            (TransactionVerb::Watch, false) => return self.watch(index, args),
            (TransactionVerb::Exec, true) => return self.exec(index),
            (TransactionVerb::Multi, false) => {
                multi.open();
                Ok(())
            }
            (TransactionVerb::Discard, true) => {
                self.clients.forget_transaction(index);
                Ok(())
            }
            (TransactionVerb::Unwatch, _) => {
                self.clients.queued_bytes -= multi.bytes();
                multi.unwatch();
                self.clients.queued_bytes += multi.bytes();
                Ok(())
            }
        };
        let replies = &mut self.clients.connections[index as usize].replies;
        replies.reply(Lsn(0), |out| match answer {
            Ok(()) => reply::simple(out, "OK"),
            Err(text) => reply::error(out, text),
        });
        Ok(())
    }

    /// Whether a command was queued for the connection's transaction instead of being run now.
    pub(super) fn queues(&mut self, index: u32, command: &'static Command, args: Args<'_>) -> bool {
        let is_queued = self.clients.connections[index as usize].multi.queues(command);
        if is_queued {
            self.queue(index, command, args);
        }
        is_queued
    }

    /// Queues a command between `MULTI` and `EXEC`.
    fn queue(&mut self, index: u32, command: &'static Command, args: Args<'_>) {
        let total = self.clients.queued_bytes;
        let multi = &mut self.clients.connections[index as usize].multi;
        let answer = if !transaction::is_allowed(command) {
            Err(NOT_ALLOWED)
        } else if !has_room(multi.bytes(), total, args) {
            Err("ERR the transaction is too large")
        } else if !multi.has_failed() {
            let before = multi.bytes();
            multi.push(Queued::new(command, args));
            self.clients.queued_bytes += multi.bytes() - before;
            Ok(())
        } else {
            // It will not be run.
            Ok(())
        };
        let connection = &mut self.clients.connections[index as usize];
        if answer.is_err() {
            connection.multi.fail();
        }
        connection.replies.reply(Lsn(0), |out| match answer {
            Ok(()) => reply::simple(out, "QUEUED"),
            Err(text) => reply::error(out, text),
        });
    }

    fn watch(&mut self, index: u32, args: Args<'_>) -> Result<(), WriteError> {
        let place = self.place();
        let connection = &mut self.clients.connections[index as usize];
        if !has_room(connection.multi.bytes(), self.clients.queued_bytes, args) {
            connection.replies.reply(Lsn(0), |out| reply::error(out, "ERR too many watched keys"));
            return Ok(());
        }
        let mut by_core: BTreeMap<u16, Vec<Vec<u8>>> = BTreeMap::new();
        for key in args.iter().skip(1).filter(|key| !connection.multi.watches(key)) {
            by_core.entry(place.core(key)).or_default().push(key.to_vec());
        }
        if by_core.contains_key(&self.core) && self.holds.is_held() {
            return Err(WriteError::Held);
        }
        let own = by_core.remove(&self.core).unwrap_or_default();
        let watched = self.look_at(&own)?;
        self.clients.watch(index, watched);
        let connection = &mut self.clients.connections[index as usize];
        if by_core.is_empty() {
            connection.replies.reply(Lsn(0), |out| reply::simple(out, "OK"));
            return Ok(());
        }
        let hop = connection.replies.hop(by_core.len(), Merge::AllOk);
        // What comes next may change the keys, and EXEC compares with what was there before.
        connection.owed += by_core.len();
        let connection = ConnectionKey { index, generation: connection.generation };
        for (part, (core, keys)) in by_core.into_iter().enumerate() {
            self.send_to(core, ToCore::Watch { from: self.core, connection, hop: (hop, part), keys });
        }
        Ok(())
    }

    /// What is present of keys of this core.
    ///
    /// # Errors
    /// Those of [`Shard::presence`](crate::shard::Shard::presence).
    pub(super) fn look_at(&mut self, keys: &[Vec<u8>]) -> Result<Vec<Watched>, WriteError> {
        let look = |key: &Vec<u8>| {
            let hash = self.shard.identity().secret.hash(key);
            let presence = match self.shard.presence(hash, key, self.time) {
                Ok((presence, _)) => presence,
                // Whoever watches it is told at EXEC, if it still cannot be read.
                Err(WriteError::Unreadable) => Presence::default(),
                Err(error) => return Err(error),
            };
            Ok(Watched { presence, key: key.clone() })
        };
        keys.iter().map(look).collect()
    }

    fn place(&self) -> Place {
        Place { secret: self.shard.identity().secret, cores: self.facts.cores }
    }

    fn exec(&mut self, index: u32) -> Result<(), WriteError> {
        let limits = self.clients.limits;
        let place = self.place();
        let connection = &mut self.clients.connections[index as usize];
        if connection.multi.has_failed() {
            let text = "EXECABORT Transaction discarded because of previous errors.";
            connection.replies.reply(Lsn(0), |out| reply::error(out, text));
        } else {
            let waits = |queued: &Queued| {
                matches!(queued.command.kind, Kind::Session(SessionVerb::Wait | SessionVerb::WaitAof))
            };
            // What it counts holders of must be known.
            if connection.replies.owes_before(u64::MAX) && connection.multi.queue().iter().any(waits) {
                return Err(WriteError::Held);
            }
            let mut parser = Parser::new(limits);
            let script = Script::new(connection.multi.queue(), Shape::Array, place, &mut parser);
            let watched = connection.multi.watched();
            self.start_transaction(index, Start { script, shape: Shape::Array, watched })?;
        }
        self.clients.forget_transaction(index);
        Ok(())
    }

    /// Runs one command that looks at some keys before it writes others.
    pub(super) fn run_crossing(
        &mut self,
        index: u32,
        command: &'static Command,
        args: Args<'_>,
    ) -> Result<(), WriteError> {
        let mut parser = Parser::new(self.clients.limits);
        let script = Script::new(&[Queued::new(command, args)], Shape::Single, self.place(), &mut parser);
        self.start_transaction(index, Start { script, shape: Shape::Single, watched: Vec::new() })
    }

    fn start_transaction(&mut self, index: u32, start: Start) -> Result<(), WriteError> {
        let place = self.place();
        let mut cores = start.script.cores();
        cores.extend(start.watched.iter().map(|watched| place.core(&watched.key)));
        let others = cores.iter().filter(|core| **core != self.core).count();
        if others == 0 {
            return self.run_here(index, start);
        }
        if others == 1 && cores.len() == 1 && !start.script.has_sessions() {
            self.send_away(index, cores.into_iter().next().unwrap_or_default(), start);
            return Ok(());
        }
        if self.stopping {
            return Err(WriteError::Held);
        }
        self.lead(index, cores.into_iter().collect(), start);
        Ok(())
    }

    fn run_here(&mut self, index: u32, start: Start) -> Result<(), WriteError> {
        if self.holds.is_held() {
            return Err(WriteError::Held);
        }
        let protocol = self.clients.connections[index as usize].session.protocol;
        let Start { mut script, shape, watched } = start;
        let (outcome, barrier) =
            holds::run_alone(&mut self.shard, &mut script, &watched, self.time, protocol, self.core)?;
        if outcome.is_ok() {
            self.run_sessions(index, &mut script);
        }
        let runs = answer(shape, protocol, outcome, || script.finish());
        let replies = &mut self.clients.connections[index as usize].replies;
        replies.wait_for(barrier);
        let hop = replies.hop(1, Merge::Concatenate);
        replies.fill(hop, 0, runs, 0);
        Ok(())
    }

    /// The transaction takes place: its commands about the connection and the server are run.
    fn run_sessions(&mut self, index: u32, script: &mut Script) {
        if !script.has_sessions() {
            return;
        }
        // DBSIZE counts what the transaction wrote.
        self.publish();
        let mut parser = Parser::new(self.clients.limits);
        let Some(connection) = self.clients.connections.get_mut(index as usize) else { return };
        script.run_sessions(|queued| {
            let verb = match queued.command.kind {
                Kind::Session(verb) => verb,
                // Named alone: only COMMAND may be.
                Kind::Container(_) => SessionVerb::Command,
                // DBSIZE: the others may not stand here.
                _ => {
                    let mut count = Vec::new();
                    let keys = self.facts.sum(|core| &core.live_keys);
                    reply::integer(&mut count, i64::try_from(keys).unwrap_or(i64::MAX));
                    return count;
                }
            };
            if !matches!(parser.next(&queued.encoded), Ok(Some(_))) {
                return Vec::new();
            }
            let mut queue = ReplyQueue::default();
            connection.session.run(verb, parser.args(&queued.encoded), &self.facts, self.time, &mut queue);
            let mut runs = Vec::new();
            queue.take(Lsn(0), &mut runs);
            runs.concat()
        });
    }

    fn send_away(&mut self, index: u32, core: u16, start: Start) {
        let connection = &mut self.clients.connections[index as usize];
        let hop = connection.replies.hop(1, Merge::Concatenate);
        let message = ToCore::Transact {
            from: self.core,
            seen: connection.session.seen.clone(),
            connection: ConnectionKey { index, generation: connection.generation },
            hop: (hop, 0),
            resp3: connection.session.protocol == Protocol::Resp3,
            watched: start.watched,
            script: Box::new(start.script),
        };
        self.send_to(core, message);
    }

    /// Runs a transaction of another core's client.
    ///
    /// # Errors
    /// Hands the message back if it has to wait.
    pub(super) fn transact(&mut self, message: ToCore) -> Result<(), ToCore> {
        let ToCore::Transact { from, seen, connection, hop, resp3, watched, mut script } = message else {
            return Err(message);
        };
        let protocol = if resp3 { Protocol::Resp3 } else { Protocol::Resp2 };
        let originated = self.shard.counters().originated;
        self.shard.seen_by(seen.clone());
        let run = holds::run_alone(&mut self.shard, &mut script, &watched, self.time, protocol, self.core);
        self.shard.seen_by(None);
        let Ok((outcome, barrier)) = run else {
            return Err(ToCore::Transact { from, seen, connection, hop, resp3, watched, script });
        };
        let shape = script.shape();
        let mut replies = ReplyQueue::default();
        replies.written = self.written_since(originated);
        replies.wait_for(barrier);
        let gap = replies.hop(1, Merge::Concatenate);
        replies.fill(gap, 0, answer(shape, protocol, outcome, || script.finish()), 0);
        self.guests.push(Guest { from, connection, hop, replies });
        Ok(())
    }

    fn lead(&mut self, index: u32, cores: Vec<u16>, start: Start) {
        reach(Mark::CoresHeldTogether);
        let place = self.place();
        let Start { mut script, shape, watched } = start;
        let mut watched_by_core: BTreeMap<u16, Vec<Watched>> = BTreeMap::new();
        for watched in watched {
            watched_by_core.entry(place.core(&watched.key)).or_default().push(watched);
        }
        let connection = &mut self.clients.connections[index as usize];
        connection.owed += 1;
        let led = Led {
            connection: ConnectionKey { index, generation: connection.generation },
            hop: connection.replies.hop(1, Merge::Concatenate),
            shape,
            protocol: connection.session.protocol,
            seen: connection.session.seen.clone(),
            first: script.next_stage(Vec::new()).unwrap_or_default(),
            script,
            cores,
            asked: 0,
            missing: BTreeSet::new(),
            watched: watched_by_core,
            found: Vec::new(),
            refusal: None,
            lost: None,
            written: Version::ZERO,
            ending: false,
        };
        self.leads.last += 1;
        let number = self.leads.last;
        self.leads.by_number.insert(number, led);
        self.continue_transaction(number);
    }

    /// A core is held and ran what it was told to.
    pub(super) fn held(&mut self, from: u16, ticket: Ticket, outcome: Result<FoundBySlot, Refusal>) {
        let Some(led) = self.leads.by_number.get_mut(&ticket.number).filter(|led| !led.ending) else { return };
        match outcome {
            Ok(found) => led.found.extend(found),
            Err(refusal) => led.refusal = led.refusal.or(Some(refusal)),
        }
        if planted::is(Fault::CoresNotHeld) && led.script.has_one_stage() {
            let commit = led.refusal.is_none();
            return self.send_to(from, ToCore::Release { ticket, commit });
        }
        led.missing.remove(&from);
        self.continue_transaction(ticket.number);
    }

    /// Takes the next step, once all answers are there.
    fn continue_transaction(&mut self, number: u64) {
        let ticket = Ticket { core: self.core, number };
        let Some(led) = self.leads.by_number.get_mut(&number).filter(|led| led.missing.is_empty()) else { return };
        if led.refusal.is_some() {
            return self.end_transaction(number, false);
        }
        if let Some(&core) = led.cores.get(led.asked) {
            led.asked += 1;
            led.missing.insert(core);
            let watched = led.watched.remove(&core).unwrap_or_default();
            let pieces = led.first.remove(&core).unwrap_or_default();
            let resp3 = led.protocol == Protocol::Resp3;
            let seen = led.seen.clone();
            return self.send_to(core, ToCore::Hold { ticket, resp3, seen, watched, pieces });
        }
        match led.script.next_stage(std::mem::take(&mut led.found)) {
            None => self.end_transaction(number, true),
            Some(stage) => {
                led.missing.extend(stage.keys());
                for (core, pieces) in stage {
                    self.send_to(core, ToCore::Pieces { ticket, pieces });
                }
            }
        }
    }

    /// Tells all cores that were asked to append and go on, or only to go on.
    fn end_transaction(&mut self, number: u64, commit: bool) {
        let Some(mut led) = self.leads.by_number.remove(&number) else { return };
        led.ending = true;
        led.missing = led.cores[..led.asked].iter().copied().collect();
        if planted::is(Fault::CoresNotHeld) && led.script.has_one_stage() {
            led.missing.clear();
        }
        let ticket = Ticket { core: self.core, number };
        if self.clients.is_there(led.connection) {
            if commit {
                self.run_sessions(led.connection.index, &mut led.script);
            }
            self.clients.pay(led.connection);
        }
        for core in &led.missing {
            self.send_to(*core, ToCore::Release { ticket, commit });
        }
        self.leads.by_number.insert(number, led);
        self.finish_transaction(number);
    }

    /// A core went on, and what it shows is durable.
    pub(super) fn released(
        &mut self,
        from: u16,
        ticket: Ticket,
        replies: Result<Vec<PieceReply>, WriteError>,
        written: Version,
    ) {
        let Some(led) = self.leads.by_number.get_mut(&ticket.number) else { return };
        match replies {
            Ok(replies) => replies.into_iter().for_each(|reply| led.script.fill(reply)),
            Err(error) => led.lost = Some(error),
        }
        led.written = led.written.max(written);
        led.missing.remove(&from);
        if planted::is(Fault::CoresNotHeld) && !led.ending {
            return self.continue_transaction(ticket.number);
        }
        self.finish_transaction(ticket.number);
    }

    /// Answers the client, once every core went on.
    fn finish_transaction(&mut self, number: u64) {
        if self.leads.by_number.get(&number).is_none_or(|led| !led.missing.is_empty()) {
            return;
        }
        let Some(led) = self.leads.by_number.remove(&number) else { return };
        let runs = match led.lost {
            // Other cores may have appended their parts.
            Some(error) => error_runs(&format!("ERR {error}")),
            None => {
                let outcome = led.refusal.map_or(Ok(()), Err);
                answer(led.shape, led.protocol, outcome, || led.script.finish())
            }
        };
        self.clients.answer(led.connection, (led.hop, 0), runs, 0, led.written);
    }

    /// The node stops: what does not have all its cores yet gives up those it has.
    pub(super) fn give_up_transactions(&mut self) {
        let waiting = self.leads.by_number.iter().filter(|(_, led)| !led.ending).map(|(number, _)| *number);
        for number in waiting.collect::<Vec<_>>() {
            if let Some(led) = self.leads.by_number.get_mut(&number) {
                led.refusal = Some(Refusal::Stopping);
            }
            self.end_transaction(number, false);
        }
    }

    /// Whether this core must not end yet: it is held, or another one has not been told to go on.
    pub(super) fn is_in_transaction(&self) -> bool {
        let untold = |core: &u16| *core != self.core && self.cores[usize::from(*core)].has_waiting();
        self.holds.is_held() || self.leads.by_number.values().any(|led| led.missing.iter().any(untold))
    }
}

fn has_room(bytes: usize, total: usize, args: Args<'_>) -> bool {
    let len: usize = args.iter().map(|word| word.len() + 16).sum();
    bytes + len <= QUEUED_BYTES_MAX && total + len <= QUEUED_BYTES_TOTAL_MAX
}

/// The reply to a transaction.
fn answer(
    shape: Shape,
    protocol: Protocol,
    outcome: Result<(), Refusal>,
    finish: impl FnOnce() -> Vec<Bytes>,
) -> Vec<Bytes> {
    let reason = match outcome {
        Ok(()) => return finish(),
        Err(Refusal::Changed) => {
            reach(Mark::WatchedKeyChanged);
            let mut out = Vec::new();
            reply::null_array(&mut out, protocol);
            return vec![out.into()];
        }
        Err(Refusal::Failed(error)) => error.to_string(),
        Err(Refusal::Stopping) => "the node is stopping".to_owned(),
    };
    error_runs(&match shape {
        Shape::Array => format!("EXECABORT Transaction discarded because: {reason}"),
        Shape::Single => format!("ERR {reason}"),
    })
}

fn error_runs(text: &str) -> Vec<Bytes> {
    let mut out = Vec::new();
    reply::error(&mut out, text);
    vec![out.into()]
}
