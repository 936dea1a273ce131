//! The part of a transaction that one core runs: at once and alone, or held by the core that leads it.
//!
//! A held core runs no other command and applies no record of another node until it is released; whatever it wrote for the
//! transaction is a batch of its shard, which is appended in one go or forgotten.

use std::collections::VecDeque;

use net::resp::{Parser, Protocol, reply};
use wal::marks::{Mark, reach};
use wal::planted::{self, Fault};
use wal::{Lsn, Mapping, Version};

use super::{CoreLoop, clients};
use crate::clock::Time;
use crate::frontend::replies::ReplyQueue;
use crate::frontend::resp::crossing::{Effect, Found, Look};
use crate::frontend::resp::script::{FoundBySlot, Piece, PieceReply, Script, Work};
use crate::frontend::resp::transaction::Watched;
use crate::frontend::seen::Seen;
use crate::host::Host;
use crate::messages::{Refusal, Ticket, ToCore};
use crate::shard::{Shard, WriteError};

/// What pieces came to.
#[derive(Debug, Default)]
struct Results {
    replies: Vec<PieceReply>,
    found: FoundBySlot,
    /// What must be durable before any of it is shown.
    barrier: Lsn,
    /// The highest version that was written.
    written: Version,
}

/// How a transaction ended that one core ran alone.
pub(super) type Outcome = (Result<(), Refusal>, Lsn);

/// The transaction that holds this core.
#[derive(Debug)]
pub(super) struct Hold {
    ticket: Ticket,
    protocol: Protocol,
    /// What it reads is noted here.
    seen: Option<Seen>,
    /// Time stands still for it.
    time: Time,
    watched: Vec<Watched>,
    pieces: VecDeque<Piece>,
    results: Results,
    state: HoldState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HoldState {
    /// Pieces are to be run, or their writes have no room yet.
    Running,
    /// The leader has its answer.
    Answered,
    /// To be appended.
    Committing,
}

/// A transaction that is over for this core, until what it shows is durable.
#[derive(Debug)]
pub(super) struct Farewell {
    ticket: Ticket,
    results: Results,
}

/// What a core knows of transactions in which it takes part.
#[derive(Debug, Default)]
pub(super) struct Holds {
    held: Option<Hold>,
    farewells: Vec<Farewell>,
    /// The core was released while clients of its own waited: they have a turn before it is held again.
    clients_turn: bool,
}

impl Holds {
    pub(super) fn is_held(&self) -> bool {
        self.held.is_some()
    }

    /// Whether commands of other cores have to wait.
    pub(super) fn is_closed(&self) -> bool {
        self.is_held() || self.clients_turn
    }

    /// Whether the core has to try again although nobody will tell it to.
    pub(super) fn is_stalled(&self) -> bool {
        self.held.as_ref().is_some_and(|hold| hold.state != HoldState::Answered)
    }

    /// The clients had their turn. Whether somebody waited for that.
    pub(super) fn end_clients_turn(&mut self) -> bool {
        std::mem::take(&mut self.clients_turn)
    }
}

impl<H: Host> CoreLoop<H> {
    /// A transaction asks for this core. The caller has made sure that nothing else holds it.
    pub(super) fn hold(
        &mut self,
        ticket: Ticket,
        protocol: Protocol,
        seen: Option<Seen>,
        watched: Vec<Watched>,
        pieces: Vec<Piece>,
    ) {
        reach(Mark::CoreHeld);
        self.shard.begin_batch();
        self.holds.held = Some(Hold {
            ticket,
            protocol,
            seen,
            time: self.time,
            watched,
            pieces: pieces.into(),
            results: Results::default(),
            state: HoldState::Running,
        });
        self.continue_hold();
    }

    /// More to run for the transaction that holds this core.
    pub(super) fn hold_pieces(&mut self, ticket: Ticket, pieces: Vec<Piece>) {
        if let Some(hold) = self.holds.held.as_mut().filter(|hold| hold.ticket == ticket) {
            hold.pieces.extend(pieces);
            hold.state = HoldState::Running;
            self.continue_hold();
        }
    }

    /// Does what the transaction that holds this core waits for, as far as the log lets it.
    pub(super) fn continue_hold(&mut self) {
        let Some(mut hold) = self.holds.held.take() else { return };
        match hold.state {
            HoldState::Answered => {}
            HoldState::Committing => return self.commit_hold(hold),
            HoldState::Running => {
                self.shard.seen_by(hold.seen.clone());
                let ran = run_pieces(&mut hold, &mut self.shard, self.core);
                self.shard.seen_by(None);
                let outcome = match ran {
                    Ok(()) => self.shard.prepare_batch(self.time).map_err(Refusal::Failed),
                    Err(refusal) => Err(refusal),
                };
                let waits = matches!(outcome, Err(Refusal::Failed(error)) if error.is_transient());
                if waits {
                    reach(Mark::HoldStalled);
                } else {
                    hold.state = HoldState::Answered;
                    let outcome = outcome.map(|()| std::mem::take(&mut hold.results.found));
                    let answer = ToCore::Held { from: self.core, ticket: hold.ticket, outcome };
                    self.send_to(hold.ticket.core, answer);
                }
            }
        }
        self.holds.held = Some(hold);
    }

    /// The transaction takes place or does not.
    pub(super) fn release(&mut self, ticket: Ticket, commit: bool) {
        match self.holds.held.take() {
            Some(mut hold) if hold.ticket == ticket => {
                if commit {
                    hold.state = HoldState::Committing;
                    self.commit_hold(hold);
                } else {
                    self.shard.abandon_batch();
                    self.go_on_after(hold);
                }
            }
            other => {
                self.holds.held = other;
                // It gave up before this core was its own.
                let asks = |message: &ToCore| matches!(message, ToCore::Hold { ticket: asked, .. } if *asked == ticket);
                self.stalled_commands.retain(|message| !asks(message));
                self.fetches.forget(asks);
                self.holds.farewells.push(Farewell { ticket, results: Results::default() });
            }
        }
    }

    fn commit_hold(&mut self, mut hold: Hold) {
        let originated = self.shard.counters().originated;
        match self.shard.commit_batch(self.time) {
            Ok(end) => {
                hold.results.written = self.written_since(originated);
                hold.results.barrier = hold.results.barrier.max(end);
                self.go_on_after(hold);
            }
            Err(WriteError::LogFailed) => {
                self.shard.abandon_batch();
                let (from, ticket) = (self.core, hold.ticket);
                let (replies, written) = (Err(WriteError::LogFailed), Version::ZERO);
                self.send_to(ticket.core, ToCore::Released { from, ticket, replies, written });
                self.holds.clients_turn = self.clients.is_stalled();
            }
            // Other cores append their parts: this one must, too. There was room when it answered, so that it will not be long.
            Err(_) => {
                reach(Mark::HoldStalled);
                self.holds.held = Some(hold);
            }
        }
    }

    fn go_on_after(&mut self, hold: Hold) {
        self.holds.clients_turn = self.clients.is_stalled();
        self.holds.farewells.push(Farewell { ticket: hold.ticket, results: hold.results });
    }

    /// Tells the leaders of transactions what became durable.
    pub(super) fn answer_leaders(&mut self, shown: Lsn) {
        let mut index = 0;
        while let Some(farewell) = self.holds.farewells.get(index) {
            if farewell.results.barrier > shown {
                index += 1;
                continue;
            }
            let Farewell { ticket, results } = self.holds.farewells.swap_remove(index);
            let (replies, written) = (Ok(results.replies), results.written);
            let answer = ToCore::Released { from: self.core, ticket, replies, written };
            self.send_to(ticket.core, answer);
        }
    }
}

/// Runs what is left of the transaction's pieces. A piece that has to wait is run again.
fn run_pieces<M: Mapping>(hold: &mut Hold, shard: &mut Shard<M>, core: u16) -> Result<(), Refusal> {
    all_ready(shard, hold.pieces.iter()).map_err(Refusal::Failed)?;
    if !unchanged(shard, &hold.watched, hold.time, &mut hold.results).map_err(Refusal::Failed)? {
        return Err(Refusal::Changed);
    }
    hold.watched.clear();
    while let Some(piece) = hold.pieces.front() {
        run_piece(shard, piece, hold.time, hold.protocol, core, &mut hold.results).map_err(Refusal::Failed)?;
        hold.pieces.pop_front();
    }
    Ok(())
}

/// Runs a transaction whose keys are all of this core, or that has none.
///
/// # Errors
/// Transient ones; nothing was changed, and the script was rewound.
pub(super) fn run_alone<M: Mapping>(
    shard: &mut Shard<M>,
    script: &mut Script,
    watched: &[Watched],
    time: Time,
    protocol: Protocol,
    core: u16,
) -> Result<Outcome, WriteError> {
    let mut results = Results::default();
    let unchanged = match unchanged(shard, watched, time, &mut results) {
        Err(error) if error.is_transient() => return Err(error),
        Err(error) => return Ok((Err(Refusal::Failed(error)), Lsn(0))),
        Ok(unchanged) => unchanged,
    };
    if !unchanged {
        return Ok((Err(Refusal::Changed), results.barrier));
    }
    shard.begin_batch();
    let run = run_stages(shard, script, time, protocol, core, &mut results);
    match run.and_then(|()| shard.commit_batch(time)) {
        Ok(end) => {
            results.replies.into_iter().for_each(|reply| script.fill(reply));
            Ok((Ok(()), results.barrier.max(end)))
        }
        Err(error) => {
            shard.abandon_batch();
            script.rewind();
            if error.is_transient() { Err(error) } else { Ok((Err(Refusal::Failed(error)), Lsn(0))) }
        }
    }
}

fn run_stages<M: Mapping>(
    shard: &mut Shard<M>,
    script: &mut Script,
    time: Time,
    protocol: Protocol,
    core: u16,
    results: &mut Results,
) -> Result<(), WriteError> {
    while let Some(stage) = script.next_stage(std::mem::take(&mut results.found)) {
        all_ready(shard, stage.values().flatten())?;
        for piece in stage.values().flatten() {
            run_piece(shard, piece, time, protocol, core, results)?;
        }
    }
    Ok(())
}

/// Whether none of the keys changed since they were watched. That one did may be shown once it is durable.
///
/// # Errors
/// Those of [`Shard::presence`].
fn unchanged<M: Mapping>(
    shard: &mut Shard<M>,
    watched: &[Watched],
    time: Time,
    results: &mut Results,
) -> Result<bool, WriteError> {
    for watched in watched {
        let hash = shard.identity().secret.hash(&watched.key);
        let (now, barrier) = shard.presence(hash, &watched.key, time)?;
        results.barrier = results.barrier.max(barrier);
        if watched.presence.changed(&now) && !planted::is(Fault::WatchIgnored) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether all records are in memory at which the pieces look. What cannot be read takes the whole transaction along.
///
/// # Errors
/// Those of [`Shard::ready`]; what is missing for any of them is wanted.
pub(super) fn all_ready<'a, M: Mapping>(
    shard: &mut Shard<M>,
    pieces: impl Iterator<Item = &'a Piece>,
) -> Result<(), WriteError> {
    if !shard.store().has_cold() {
        return Ok(());
    }
    let mut parser = Parser::new(clients::limits_for(shard.value_bytes_max()));
    let secret = shard.identity().secret;
    let hash = |piece: &Piece| match &piece.work {
        // Cores name commands to each other with the key first.
        Work::Command(encoded) => match parser.next(encoded) {
            Ok(Some(_)) => Some(secret.hash(parser.args(encoded).get(1).unwrap_or_default())),
            _ => None,
        },
        Work::Look(look) => Some(secret.hash(&look.key)),
        Work::Effect(effect) => Some(secret.hash(effect.key())),
    };
    shard.all_ready(pieces.filter_map(hash))
}

fn run_piece<M: Mapping>(
    shard: &mut Shard<M>,
    piece: &Piece,
    time: Time,
    protocol: Protocol,
    core: u16,
    results: &mut Results,
) -> Result<(), WriteError> {
    let mut queue = ReplyQueue::default();
    match &piece.work {
        Work::Command(encoded) => clients::run_encoded(encoded, protocol, shard, time, &mut queue, core)?,
        Work::Look(Look { key, value }) => {
            let hash = shard.identity().secret.hash(key);
            let (found, barrier) = shard.read(hash, key, time, |record| Found {
                value: if *value { record.value.to_vec() } else { Vec::new() },
                expiry: record.expiry,
            });
            results.barrier = results.barrier.max(barrier);
            results.found.push((piece.slot, found));
            return Ok(());
        }
        Work::Effect(effect) => {
            let hash = shard.identity().secret.hash(effect.key());
            let written = match effect {
                Effect::Put(key, Found { value, expiry }) => shard.put(hash, key, value, *expiry, time),
                Effect::Delete(key) => shard.delete(hash, key, time),
            };
            match written {
                Ok(_) => return Ok(()),
                Err(error) if error.is_transient() => return Err(error),
                Err(error) => queue.reply(Lsn(0), |out| reply::error(out, &format!("ERR {error}"))),
            }
        }
    }
    let barrier = queue.barrier();
    results.barrier = results.barrier.max(barrier);
    let mut runs = Vec::new();
    queue.take(barrier, &mut runs);
    results.replies.push(PieceReply { slot: piece.slot, runs, sum: queue.sum });
    Ok(())
}
