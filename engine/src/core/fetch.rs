//! Records of segments that are not in memory: read one by one, each with one read, for whoever waits for them.
//!
//! A connection whose next command waits is run again when its record is there; other connections go on meanwhile. So do commands
//! of other cores: what waits for a record holds up only what its own connection asked for afterwards.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use net::reactor::{Completion, Op};
use net::resp::{Args, Parser};
use wal::RecordView;
use wal::marks::{Mark, reach};

use super::CoreLoop;
use super::clients::mark;
use super::ops::Context;
use crate::frontend::resp::table::{self, Kind};
use crate::host::Host;
use crate::messages::{ConnectionKey, ToCore};
use crate::storage::KeyHash;
use crate::storage::index::SegmentSlot;
use crate::storage::store::{Fetch, Fetched};

/// Reads of records that are in flight at a time. More would only wait in the device, and hold memory.
const FETCHES_MAX: usize = 128;

/// How far ahead it is looked what else will have to be read.
const AHEAD_MAX: usize = 256;

/// Whose order matters: the core and the connection that asked.
type Asker = (u16, Option<(u32, u32)>);

/// The state of a core's fetches.
#[derive(Debug, Default)]
pub(super) struct Fetches {
    /// Connections that wait for a record, by its place.
    waiting: BTreeMap<(SegmentSlot, u32), Vec<ConnectionKey>>,
    /// Not submitted yet.
    queue: VecDeque<Fetch>,
    in_flight: usize,
    /// Commands of other cores that wait for a record, in the order in which they came.
    commands: VecDeque<ToCore>,
    /// How many of them a connection, and a core, asked for.
    askers: BTreeMap<Asker, usize>,
    /// Some record came since they were tried.
    arrived: bool,
}

impl Fetches {
    /// Whether a command has to wait because an earlier one of the same connection does.
    pub(super) fn holds_up(&self, message: &ToCore) -> bool {
        !self.askers.is_empty() && asker(message).is_some_and(|asker| self.askers.contains_key(&asker))
    }

    /// Keeps a command until records came.
    pub(super) fn keep(&mut self, message: ToCore) {
        reach(Mark::GuestCommandWaitsForRecord);
        for asker in askers(&message) {
            *self.askers.entry(asker).or_default() += 1;
        }
        self.commands.push_back(message);
    }

    /// Forgets a command that is not to be run any more.
    pub(super) fn forget(&mut self, mut is_meant: impl FnMut(&ToCore) -> bool) {
        let commands = std::mem::take(&mut self.commands);
        self.askers.clear();
        commands.into_iter().filter(|message| !is_meant(message)).for_each(|message| self.keep(message));
    }

    /// The commands to try again.
    fn take_commands(&mut self) -> VecDeque<ToCore> {
        if !std::mem::take(&mut self.arrived) {
            return VecDeque::new();
        }
        self.askers.clear();
        std::mem::take(&mut self.commands)
    }
}

/// Whose earlier commands come first. A transaction over several cores is known by the core that leads it.
fn asker(message: &ToCore) -> Option<Asker> {
    match message {
        ToCore::Command { from, connection, .. }
        | ToCore::Everywhere { from, connection, .. }
        | ToCore::Watch { from, connection, .. }
        | ToCore::Transact { from, connection, .. } => Some((*from, Some((connection.index, connection.generation)))),
        ToCore::Hold { ticket, .. } => Some((ticket.core, None)),
        _ => None,
    }
}

/// Whom a command holds up: its connection, and the transactions of its core.
fn askers(message: &ToCore) -> impl Iterator<Item = Asker> {
    let asker = asker(message);
    let of_core = asker.map(|(core, _)| (core, None)).filter(|of_core| asker != Some(*of_core));
    asker.into_iter().chain(of_core)
}

impl<H: Host> CoreLoop<H> {
    /// The connection's next command waits for what the shard wants: it is run again when something of that is there. What its
    /// commands behind that one, in `input`, have to look at is read at the same time.
    pub(super) fn wait_for_records(&mut self, index: u32, input: &[u8]) {
        let connection = &mut self.clients.connections[index as usize];
        connection.fetching = true;
        let key = ConnectionKey { index, generation: connection.generation };
        let mut new = false;
        for fetch in self.shard.take_wanted() {
            new |= self.want(fetch, Some(key));
        }
        // Else it was looked ahead already.
        if new {
            self.want_pipelined(input);
        }
    }

    fn want_pipelined(&mut self, input: &[u8]) {
        let mut parser = Parser::new(self.clients.limits);
        let secret = self.shard.identity().secret;
        let mut at = 0;
        for _ in 0..AHEAD_MAX {
            let Ok(Some(len)) = parser.next(&input[at..]) else { break };
            let args = parser.args(&input[at..]);
            at += len;
            let Ok(command) = table::resolve(args) else { continue };
            if let Kind::Key(_) = command.kind {
                let key = args.get(usize::try_from(command.keys.0).unwrap_or(1)).unwrap_or_default();
                self.want_key(secret.hash(key));
            }
        }
    }

    /// As above, for the parts of a command on many keys that are yet to be run.
    pub(super) fn want_parts(&mut self, args: Args<'_>, (parts, step): (Range<usize>, usize)) {
        let secret = self.shard.identity().secret;
        for part in parts.take(AHEAD_MAX) {
            self.want_key(secret.hash(args.get(1 + part * step).unwrap_or_default()));
        }
    }

    /// As above, for the records of a batch of another node's log.
    pub(super) fn want_records(&mut self, runs: &[Bytes]) {
        let secret = self.shard.identity().secret;
        for run in runs.iter().take(AHEAD_MAX) {
            let mut at = 0;
            while let Some(Ok((record, len))) =
                run.get(at..).filter(|rest| !rest.is_empty()).map(RecordView::parse_trusted_prefix)
            {
                if self.shard.wants() > AHEAD_MAX {
                    return;
                }
                self.want_key(secret.hash(record.key));
                at += len;
            }
        }
    }

    fn want_key(&mut self, hash: KeyHash) {
        if hash.core(self.facts.cores) == self.core {
            // What is wanted is kept by the shard.
            _ = self.shard.ready(hash);
        }
    }

    /// Whether it was not wanted before.
    fn want(&mut self, fetch: Fetch, connection: Option<ConnectionKey>) -> bool {
        let place = (fetch.location.segment, fetch.location.offset);
        let new = !self.fetches.waiting.contains_key(&place);
        let waiting = self.fetches.waiting.entry(place).or_default();
        waiting.extend(connection.filter(|key| waiting.last() != Some(key)));
        if new {
            self.fetches.queue.push_back(fetch);
        }
        new
    }

    /// Submits reads for what is wanted.
    pub(super) fn fetch(&mut self) {
        for fetch in self.shard.take_wanted() {
            self.want(fetch, None);
        }
        // What was fetched is let go of only after a while. Where that is too much, one read at a time goes on.
        while self.fetches.in_flight < if self.shard.store().fetched_is_over() { 1 } else { FETCHES_MAX } {
            let Some(fetch) = self.fetches.queue.pop_front() else { break };
            let Some(file) = self.residency.file(fetch.location.segment) else {
                // It is in memory again, or gone.
                self.fetched_or_not(fetch);
                continue;
            };
            let op = Op::Read { file: file.clone(), offset: u64::from(fetch.location.offset), len: fetch.len };
            self.fetches.in_flight += 1;
            self.ops.submit(&mut self.io, op, Context::Fetch(fetch));
        }
    }

    /// A read ended.
    pub(super) fn fetch_completed(&mut self, fetch: Fetch, completion: Completion<H::File>) {
        self.fetches.in_flight -= 1;
        self.gauges.fetches.fetch_add(1, Ordering::Relaxed);
        let problem = match (completion.result, completion.buf) {
            (Ok(_), bytes) => match self.shard.store().fetched(fetch, bytes.as_deref().unwrap_or_default()) {
                Fetched::Done => None,
                Fetched::Longer(fetch) => return self.fetches.queue.push_front(fetch),
                Fetched::Damaged(error) => Some(error.to_string()),
            },
            (Err(error), _) => {
                self.shard.store().fetch_failed(fetch);
                Some(error.to_string())
            }
        };
        if let Some(problem) = problem {
            reach(Mark::RecordUnreadable);
            self.gauges.unreadable.fetch_add(1, Ordering::Relaxed);
            let segment = self.shard.file_of(fetch.location.segment);
            let (core, offset) = (self.core, fetch.location.offset);
            tracing::error!(
                core,
                ?segment,
                offset,
                problem,
                "a record cannot be read; check the disk, then run walinspect verify"
            );
        }
        self.fetched_or_not(fetch);
    }

    /// Whoever waited for the record tries again.
    fn fetched_or_not(&mut self, fetch: Fetch) {
        self.fetches.arrived = true;
        let place = (fetch.location.segment, fetch.location.offset);
        for key in self.fetches.waiting.remove(&place).unwrap_or_default() {
            if let Some(connection) = self.clients.find(key) {
                connection.fetching = false;
                mark(&mut self.clients.runnable, &mut self.clients.connections[key.index as usize].runnable, key.index);
            }
        }
    }

    /// Runs commands of other cores again that waited for records, in their order.
    pub(super) fn retry_fetched(&mut self) {
        for message in self.fetches.take_commands() {
            self.take(message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::{HopCommand, Ticket};

    fn command(from: u16, index: u32) -> ToCore {
        let connection = ConnectionKey { index, generation: 1 };
        let command = HopCommand::Resp(Vec::new());
        ToCore::Command { from, connection, hop: (1, 0), resp3: false, seen: None, command }
    }

    fn hold(core: u16) -> ToCore {
        let ticket = Ticket { core, number: 1 };
        ToCore::Hold { ticket, resp3: false, seen: None, watched: Vec::new(), pieces: Vec::new() }
    }

    #[test]
    fn what_waits_holds_up_its_connection_and_the_transactions_of_its_core_only() {
        let mut fetches = Fetches::default();
        assert!(!fetches.holds_up(&command(1, 7)));
        fetches.keep(command(1, 7));
        assert!(fetches.holds_up(&command(1, 7)), "its connection's next command comes later");
        assert!(!fetches.holds_up(&command(1, 8)) && !fetches.holds_up(&command(2, 7)), "others go on");
        assert!(fetches.holds_up(&hold(1)) && !fetches.holds_up(&hold(2)));
        fetches.keep(hold(1));
        fetches.forget(|message| matches!(message, ToCore::Command { .. }));
        assert!(!fetches.holds_up(&command(1, 7)) && fetches.holds_up(&hold(1)));
        assert!(fetches.take_commands().is_empty(), "nothing came yet");
        fetches.arrived = true;
        assert_eq!(fetches.take_commands().len(), 1);
        assert!(!fetches.holds_up(&hold(1)));
    }
}
