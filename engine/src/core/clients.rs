//! The clients of one core: connections, their input, their commands, their replies.

mod held_by_others;
mod known;
mod native;
mod residency;
mod sessions;
mod slow_readers;

use bytes::{Bytes, BytesMut};
use net::reactor::{Completion, Io, Listener, Mono, Op, Outcome, Tag};
use net::resp::{Args, Limits, Parser, Protocol, encode_command, reply};
use slab::Slab;
use wal::marks::{Mark, reach};
use wal::{Lsn, Mapping, Version};

use self::held_by_others::HeldByOthers;
use self::native::Language;
use self::sessions::Sessions;
use self::slow_readers::{Sending, pinned_bytes};
use super::CoreLoop;
use super::ops::Context;
use super::scan::scan_from;
use crate::clock::Time;
use crate::frontend::replies::{Merge, ReplyQueue};
use crate::frontend::resp::keys::KeyCommand;
use crate::frontend::resp::session::{After, Replies, Session};
use crate::frontend::resp::table::{self, Command, KeyVerb, Kind, ManyVerb, Part, SessionVerb};
use crate::frontend::resp::transaction::Multi;
use crate::frontend::resp::wrong_arity;
use crate::host::Host;
use crate::messages::{ConnectionKey, HopCommand, ToCore};
use crate::shard::{Shard, WriteError};

/// Connections per core; one more is told so and closed.
const CONNECTIONS_MAX: usize = 10_000;

/// Replies that may wait for a slow reader before its commands do.
const REPLY_BYTES_MAX: usize = 1024 * 1024;

/// Replies that other cores owe before the connection's commands wait: their sizes are not known before they come.
const GAPS_MAX: usize = 256;

/// Unparsed input a connection may hold before it stops receiving, beyond the request in progress.
const INPUT_BYTES_MAX: usize = 256 * 1024;

/// Input of all connections of a core together. A connection whose request does not fit is refused.
const INPUT_BYTES_TOTAL_MAX: usize = 256 * 1024 * 1024;

/// Commands of one connection per tick, so that one deep pipeline does not starve the others.
const COMMANDS_PER_TURN: usize = 1024;

/// How long a listener rests after an accept for which there was no descriptor or memory: who waits in its queue would
/// make it fail again at once, for ever. It ends early when a connection closes; an idle core looks once a second.
const ACCEPT_REST_MS: u64 = 100;

#[derive(Debug)]
pub(super) struct Connection {
    socket: net::reactor::Socket,
    pub(super) generation: u32,
    pub(super) session: Session,
    /// What it speaks, by its first byte.
    language: Language,
    parser: Parser,
    input: BytesMut,
    pub(super) replies: ReplyQueue,
    receive: Option<Tag>,
    sending: Option<Sending>,
    /// No more input is taken; closed when replies are sent.
    closing: bool,
    /// The stream is gone; closed when nothing is in flight.
    broken: bool,
    close_submitted: bool,
    /// In the list of those with input to run.
    pub(super) runnable: bool,
    /// A command waits for the log; not closed before it was answered.
    stalled: bool,
    /// Its next command waits for a record that is being read from the disk.
    pub(super) fetching: bool,
    /// Between `MULTI` and `EXEC`.
    pub(super) multi: Multi,
    /// Answers of other cores without which its next command cannot be run.
    pub(super) owed: usize,
    /// The parts of that command which were run already.
    parts_done: Vec<(usize, ReplyQueue)>,
    /// The gap of a command that every core runs, and how many parts of it are missing: nothing else runs before they came.
    awaited: Option<(u64, usize)>,
    /// In the list of those with replies to look at.
    dirty: bool,
    /// It ends, and nothing that it waits for is waited for any more.
    gone: bool,
}

/// What a request may hold when values have at most `value_bytes_max` bytes. The slack lets a value that is a little too
/// large be answered with an error instead of a closed connection.
pub(super) fn limits_for(value_bytes_max: usize) -> Limits {
    Limits::for_values(u32::try_from(value_bytes_max).unwrap_or(u32::MAX), 64 * 1024)
}

/// All connections of a core.
#[derive(Debug)]
pub(crate) struct Clients {
    pub(super) connections: Slab<Connection>,
    core: u16,
    generation: u32,
    pub(super) limits: Limits,
    pub(super) runnable: Vec<u32>,
    stalled: Vec<u32>,
    dirty: Vec<u32>,
    /// Listeners that accept nothing until `rest_until`.
    resting: Vec<Listener>,
    rest_until: Mono,
    input_bytes: usize,
    /// The clock as the last turn of a connection read it.
    pub(super) clock: Mono,
    /// What connections queue between `MULTI` and `EXEC`, and watch.
    pub(super) queued_bytes: usize,
    commands: u64,
    protocol_errors: u64,
    /// When to look for slow readers again.
    slow_readers_at: Mono,
    held_by_others: HeldByOthers,
    sessions: Sessions,
}

impl Clients {
    pub(super) fn new(core: u16, value_bytes_max: usize) -> Self {
        Clients {
            connections: Slab::new(),
            core,
            generation: 0,
            limits: limits_for(value_bytes_max),
            runnable: Vec::new(),
            stalled: Vec::new(),
            dirty: Vec::new(),
            resting: Vec::new(),
            rest_until: Mono(0),
            input_bytes: 0,
            clock: Mono(0),
            queued_bytes: 0,
            commands: 0,
            protocol_errors: 0,
            slow_readers_at: Mono(0),
            held_by_others: HeldByOthers::default(),
            sessions: Sessions::default(),
        }
    }

    pub(super) fn has_runnable(&self) -> bool {
        !self.runnable.is_empty()
    }

    pub(super) fn is_stalled(&self) -> bool {
        !self.stalled.is_empty()
    }

    pub(super) fn find(&mut self, key: ConnectionKey) -> Option<&mut Connection> {
        self.connections.get_mut(key.index as usize).filter(|connection| connection.generation == key.generation)
    }

    pub(super) fn answer(
        &mut self,
        key: ConnectionKey,
        hop: (u64, usize),
        reply: Vec<Bytes>,
        sum: i64,
        written: Version,
    ) {
        let found = self.connections.get_mut(key.index as usize).filter(|found| found.generation == key.generation);
        if let Some(connection) = found {
            if connection.replies.gaps() >= GAPS_MAX {
                mark(&mut self.runnable, &mut connection.runnable, key.index);
            }
            if let Some((_, missing)) = connection.awaited.as_mut().filter(|(awaited, _)| *awaited == hop.0) {
                *missing -= 1;
                if *missing == 0 {
                    connection.awaited = None;
                    mark(&mut self.runnable, &mut connection.runnable, key.index);
                }
            }
            connection.replies.fill(hop.0, hop.1, reply, sum);
            connection.session.written = connection.session.written.max(written);
            self.held_by_others.filled(key, hop.0, written);
            mark(&mut self.dirty, &mut connection.dirty, key.index);
        }
    }

    pub(super) fn closed(&mut self, key: ConnectionKey) {
        if self.find(key).is_some() {
            let connection = self.connections.remove(key.index as usize);
            self.input_bytes -= connection.input_bytes();
            self.queued_bytes -= connection.multi.bytes();
            self.rest_until = Mono(0);
        }
    }
}

pub(super) fn mark(list: &mut Vec<u32>, flag: &mut bool, index: u32) {
    if !*flag {
        *flag = true;
        list.push(index);
    }
}

impl<H: Host> CoreLoop<H> {
    pub(super) fn accepted(&mut self, listener: Listener, completion: Completion<H::File>) {
        let exhausted = completion.is_exhausted();
        if exhausted {
            self.clients.rest_until = self.now().plus_ms(ACCEPT_REST_MS);
        }
        if !completion.more && !self.stopping {
            if exhausted {
                self.clients.resting.push(listener);
            } else {
                self.ops.submit(&mut self.io, Op::Accept { listener }, Context::Accept(listener));
            }
        }
        let (socket, addr) = match completion.result {
            Ok(Outcome::Accepted(socket, addr)) => (socket, addr),
            Ok(_) => return,
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                return;
            }
        };
        if self.clients.connections.len() >= CONNECTIONS_MAX || self.stopping {
            tracing::warn!(max = CONNECTIONS_MAX, "a connection was closed: too many clients");
            self.ops.submit(&mut self.io, Op::Close { socket }, Context::CloseRefused);
            return;
        }
        let (now, local_addr) = (self.now(), self.io.local_addr(listener).ok());
        let clients = &mut self.clients;
        clients.generation = clients.generation.wrapping_add(1);
        let entry = clients.connections.vacant_entry();
        let index = u32::try_from(entry.key()).expect("bounded by CONNECTIONS_MAX");
        let key = ConnectionKey { index, generation: clients.generation };
        let id = (u64::from(clients.generation) << 6) | u64::from(clients.core & 63);
        let receive = self.ops.submit(&mut self.io, Op::Recv { socket }, Context::Receive(key));
        entry.insert(Connection {
            socket,
            generation: key.generation,
            session: Session { id, addr: Some(addr), local_addr, since: now, active: now, ..Session::default() },
            language: Language::default(),
            parser: Parser::new(clients.limits),
            input: BytesMut::new(),
            replies: ReplyQueue::default(),
            receive: Some(receive),
            sending: None,
            closing: false,
            broken: false,
            close_submitted: false,
            runnable: false,
            stalled: false,
            fetching: false,
            multi: Multi::default(),
            owed: 0,
            parts_done: Vec::new(),
            awaited: None,
            dirty: false,
            gone: false,
        });
    }

    pub(super) fn received(&mut self, key: ConnectionKey, completion: Completion<H::File>) {
        let clients = &mut self.clients;
        let Some(connection) =
            clients.connections.get_mut(key.index as usize).filter(|c| c.generation == key.generation)
        else {
            return;
        };
        if !completion.more {
            connection.receive = None;
        }
        let repeated = completion.is_to_be_repeated();
        if completion.is_out_of_buffers() {
            reach(Mark::ReceiveRearmed);
        }
        match (completion.result, completion.buf) {
            (Ok(_), Some(lease)) if !lease.is_empty() => {
                connection.session.active = self.time.mono;
                if !connection.closing && !connection.broken {
                    connection.input.extend_from_slice(&lease);
                    clients.input_bytes += lease.len();
                    mark(&mut clients.runnable, &mut connection.runnable, key.index);
                }
            }
            // The end of the stream: what was asked is still answered if the other half listens.
            (Ok(_), _) => connection.closing = true,
            (Err(_), _) => connection.broken |= !repeated,
        }
        mark(&mut clients.dirty, &mut connection.dirty, key.index);
    }

    pub(super) fn sent(&mut self, key: ConnectionKey, completion: Completion<H::File>) {
        if let Some(connection) = self.clients.find(key) {
            connection.sending = None;
            connection.broken |= completion.result.is_err();
            mark(&mut self.clients.dirty, &mut self.clients.connections[key.index as usize].dirty, key.index);
        }
    }

    /// Runs the commands that have arrived.
    pub(super) fn run_clients(&mut self) {
        if !self.clients.resting.is_empty() && self.now() >= self.clients.rest_until && !self.stopping {
            for listener in std::mem::take(&mut self.clients.resting) {
                self.ops.submit(&mut self.io, Op::Accept { listener }, Context::Accept(listener));
            }
        }
        let mut turn = std::mem::take(&mut self.clients.stalled);
        turn.append(&mut self.clients.runnable);
        if !turn.is_empty() {
            self.clients.clock = self.io.now();
        }
        for index in turn {
            let Some(connection) = self.clients.connections.get_mut(index as usize) else { continue };
            connection.runnable = false;
            self.run_connection(index);
        }
    }

    fn run_connection(&mut self, index: u32) {
        if self.clients.connections[index as usize].speaks_native() {
            return self.run_native(index);
        }
        // Out of the table while its commands borrow the rest of the core.
        let connection = &mut self.clients.connections[index as usize];
        let mut input = std::mem::take(&mut connection.input);
        let mut parser = std::mem::replace(&mut connection.parser, Parser::new(self.clients.limits));
        let before = input.len();
        let mut stalled = false;
        let mut more = false;
        let (mut consumed, mut last) = (0, 0);
        let mut watch = self.stopwatch();
        for turn in 0.. {
            let connection = &mut self.clients.connections[index as usize];
            if connection.closing && connection.receive.is_some() || connection.broken {
                consumed = input.len();
                break;
            }
            if connection.awaited.is_some() || connection.owed > 0 || connection.fetching {
                break;
            }
            if connection.replies.bytes() > REPLY_BYTES_MAX || connection.replies.gaps() >= GAPS_MAX {
                reach(Mark::RepliesWaited);
                break;
            }
            if turn == COMMANDS_PER_TURN {
                more = true;
                break;
            }
            match parser.next(&input[consumed..]) {
                Ok(None) => break,
                Ok(Some(len)) => {
                    let args = parser.args(&input[consumed..]);
                    if !args.is_empty() {
                        connection.session.request_bytes = len;
                        let originated = self.shard.counters().originated;
                        self.shard.seen_by(connection.session.seen.clone());
                        let ran = self.run_answered(index, args);
                        self.shard.seen_by(None);
                        self.clients.has_written(index, self.written_since(originated));
                        match ran {
                            Ok(()) => {}
                            Err(WriteError::NotInMemory) => {
                                self.wait_for_records(index, &input[consumed + len..]);
                                break;
                            }
                            Err(_) => {
                                stalled = true;
                                break;
                            }
                        }
                        self.clients.commands += 1;
                        last = consumed;
                        self.ran(&mut watch, index, args);
                    }
                    consumed += len;
                }
                Err(error) => {
                    self.clients.protocol_errors += 1;
                    let connection = &mut self.clients.connections[index as usize];
                    if !error.closes_silently() {
                        connection.replies.reply(Lsn(0), |out| reply::error(out, &format!("ERR {error}")));
                    }
                    connection.closing = true;
                    consumed = input.len();
                    break;
                }
            }
        }
        self.turn_ended(&watch, index, &input[last..consumed]);
        bytes::Buf::advance(&mut input, consumed);
        if input.is_empty() && input.capacity() > INPUT_BYTES_MAX {
            input = BytesMut::new();
        }
        let clients = &mut self.clients;
        clients.input_bytes -= before - input.len();
        let connection = &mut clients.connections[index as usize];
        if clients.input_bytes > INPUT_BYTES_TOTAL_MAX && input.len() > INPUT_BYTES_MAX && !connection.closing {
            connection.replies.reply(Lsn(0), |out| {
                reply::error(out, "ERR too many large requests at once, try again later");
            });
            connection.closing = true;
            clients.input_bytes -= input.len();
            input = BytesMut::new();
        }
        connection.input = input;
        connection.parser = parser;
        connection.stalled = stalled;
        if stalled {
            clients.stalled.push(index);
        } else if more {
            mark(&mut clients.runnable, &mut connection.runnable, index);
        }
        mark(&mut clients.dirty, &mut connection.dirty, index);
    }

    /// Runs one command, and drops its replies if the client does not want any.
    fn run_answered(&mut self, index: u32, args: Args<'_>) -> Result<(), WriteError> {
        let connection = &mut self.clients.connections[index as usize];
        if connection.session.replies == Replies::On {
            return self.run_command(index, args);
        }
        // These two end the silence and know whether they are answered.
        let is = |at: usize, name: &str| args.get(at).is_some_and(|word| word.eq_ignore_ascii_case(name.as_bytes()));
        let ends_it = is(0, "CLIENT") && is(1, "REPLY") || is(0, "RESET");
        if ends_it {
            return self.run_command(index, args);
        }
        let dropped = connection.replies.to_drop();
        let replies = std::mem::replace(&mut connection.replies, dropped);
        let result = self.run_command(index, args);
        let connection = &mut self.clients.connections[index as usize];
        let dropped = std::mem::replace(&mut connection.replies, replies);
        connection.replies.dropped(&dropped);
        if result.is_ok() && connection.session.replies == Replies::SkipNext {
            connection.session.replies = Replies::On;
        }
        result
    }

    /// Runs one command of a connection of this core.
    fn run_command(&mut self, index: u32, args: Args<'_>) -> Result<(), WriteError> {
        let connection = &mut self.clients.connections[index as usize];
        let command = match table::resolve(args) {
            Ok(command) => command,
            Err(text) => {
                // An EXEC that is refused ends its transaction, as in Redis.
                let is_exec = args.get(0).is_some_and(|name| name.eq_ignore_ascii_case(b"EXEC"));
                let why = text.strip_prefix("ERR ").filter(|_| is_exec);
                let text = why.map_or(text.clone(), |why| format!("EXECABORT Transaction discarded because of: {why}"));
                connection.multi.fail();
                connection.replies.reply(Lsn(0), |out| reply::error(out, &text));
                if is_exec {
                    self.clients.forget_transaction(index);
                }
                return Ok(());
            }
        };
        connection.session.command = Some(command);
        if self.keeps_out(index, command, args) || self.queues(index, command, args) {
            return Ok(());
        }
        match command.kind {
            Kind::Key(verb) => return self.run_key(index, verb, command, args),
            Kind::Many(_) | Kind::Everywhere(_) | Kind::Session(SessionVerb::Scan) if self.holds.is_held() => {
                return Err(WriteError::Held);
            }
            Kind::Many(verb) => return self.run_many(index, verb, args),
            Kind::Crossing(_) => return self.run_crossing(index, command, args),
            Kind::Transaction(verb) => return self.run_transaction_verb(index, verb, args),
            Kind::Everywhere(verb) => self.run_everywhere(index, verb, command, args),
            Kind::Session(SessionVerb::Scan) => return self.run_scan(index, args),
            Kind::Session(verb @ (SessionVerb::Wait | SessionVerb::WaitAof)) => self.run_wait(index, verb, args),
            Kind::Session(SessionVerb::Session) => self.run_session_command(index, args),
            Kind::Session(verb) => {
                if verb == SessionVerb::Reset {
                    self.clients.forget_transaction(index);
                }
                self.run_session(index, verb, args);
            }
            // Named alone: only COMMAND may be.
            Kind::Container(_) => self.run_session(index, SessionVerb::Command, args),
        }
        Ok(())
    }

    fn run_session(&mut self, index: u32, verb: SessionVerb, args: Args<'_>) {
        let connection = &mut self.clients.connections[index as usize];
        let after = connection.session.run(verb, args, &self.facts, self.time, &mut connection.replies);
        connection.closing |= after == After::Close;
    }

    fn run_key(
        &mut self,
        index: u32,
        verb: KeyVerb,
        command: &'static Command,
        args: Args<'_>,
    ) -> Result<(), WriteError> {
        // The key comes first, whatever words of a subcommand stand before it.
        let args = args.from(usize::try_from(command.keys.0 - 1).unwrap_or(0));
        let hash = self.shard.identity().secret.hash(args.get(1).unwrap_or_default());
        let owner = hash.core(self.facts.cores);
        let connection = &mut self.clients.connections[index as usize];
        if owner == self.core {
            if self.holds.is_held() {
                return Err(WriteError::Held);
            }
            let protocol = connection.session.protocol;
            return KeyCommand { shard: &mut self.shard, time: self.time, protocol, hash }.run(
                verb,
                args,
                &mut connection.replies,
            );
        }
        let hop = connection.replies.hop(1, Merge::Concatenate);
        let words: Vec<&[u8]> = std::iter::once(command.name.as_bytes()).chain(args.iter().skip(1)).collect();
        self.send_hop(index, owner, (hop, 0), &words);
        Ok(())
    }

    pub(super) fn send_hop(&mut self, index: u32, owner: u16, hop: (u64, usize), words: &[&[u8]]) {
        let connection = &self.clients.connections[index as usize];
        let mut command = Vec::with_capacity(words.iter().map(|word| word.len() + 16).sum());
        encode_command(words, &mut command);
        self.cores[usize::from(owner)].send(ToCore::Command {
            from: self.core,
            connection: ConnectionKey { index, generation: connection.generation },
            hop,
            resp3: connection.session.protocol == Protocol::Resp3,
            seen: connection.session.seen.clone(),
            command: HopCommand::Resp(command),
        });
    }

    fn run_many(&mut self, index: u32, verb: ManyVerb, args: Args<'_>) -> Result<(), WriteError> {
        let Part { word, verb: key_verb, step, merge, array } = verb.part();
        if !(args.len() - 1).is_multiple_of(step) {
            let connection = &mut self.clients.connections[index as usize];
            connection.replies.reply(Lsn(0), |out| reply::error(out, &wrong_arity("mset")));
            return Ok(());
        }
        let parts = (args.len() - 1) / step;
        let secret = self.shard.identity().secret;
        let protocol = self.clients.connections[index as usize].session.protocol;
        // Parts of this core are run first, into queues of their own. If one has to wait for a segment, the earlier ones
        // stay done: run again, a DEL would find nothing to count, and an MSET larger than a segment would never end.
        let mut own = std::mem::take(&mut self.clients.connections[index as usize].parts_done);
        let first = own.last().map_or(0, |(part, _)| part + 1);
        for part in first..parts {
            let part_args = args.from(part * step);
            let hash = secret.hash(part_args.get(1).unwrap_or_default());
            if hash.core(self.facts.cores) != self.core {
                continue;
            }
            let mut replies = ReplyQueue::default();
            let part_args = part_args.first(1 + step);
            let mut command = KeyCommand { shard: &mut self.shard, time: self.time, protocol, hash };
            if let Err(error) = command.run(key_verb, part_args, &mut replies) {
                if error == WriteError::NotInMemory {
                    self.want_parts(args, (part + 1..parts, step));
                }
                self.clients.connections[index as usize].parts_done = own;
                return Err(error);
            }
            own.push((part, replies));
        }
        let connection = &mut self.clients.connections[index as usize];
        if array {
            connection.replies.reply(Lsn(0), |out| reply::array_header(out, parts));
        }
        let barrier = own.iter().map(|(_, replies)| replies.barrier()).max().unwrap_or_default();
        connection.replies.wait_for(barrier);
        let hop = connection.replies.hop(parts, merge);
        for (part, mut replies) in own {
            // Everything it shows waits for the barrier above.
            let mut runs = Vec::new();
            let barrier = replies.barrier();
            replies.take(barrier, &mut runs);
            let connection = &mut self.clients.connections[index as usize];
            connection.replies.fill(hop, part, runs, replies.sum);
        }
        for part in 0..parts {
            let part_args = args.from(part * step);
            let owner = secret.hash(part_args.get(1).unwrap_or_default()).core(self.facts.cores);
            if owner != self.core {
                let words: Vec<&[u8]> = std::iter::once(word).chain(part_args.iter().skip(1).take(step)).collect();
                self.send_hop(index, owner, (hop, part), &words);
            }
        }
        Ok(())
    }

    /// Sends what became showable, and closes what is done.
    pub(super) fn send_replies(&mut self) {
        let shown = self.shown();
        let dirty = std::mem::take(&mut self.clients.dirty);
        for index in dirty {
            let Some(connection) = self.clients.connections.get_mut(index as usize) else { continue };
            connection.dirty = false;
            let key = ConnectionKey { index, generation: connection.generation };
            if connection.sending.is_none() && !connection.broken {
                let mut runs: Vec<Bytes> = Vec::new();
                let was_full = connection.replies.bytes() > REPLY_BYTES_MAX;
                connection.replies.take(shown, &mut runs);
                if !runs.is_empty() {
                    let pinned = pinned_bytes(&runs);
                    let op = Op::Send { socket: connection.socket, runs };
                    let tag = self.ops.submit(&mut self.io, op, Context::Send(key));
                    connection.sending = Some(Sending::new(tag, pinned, self.time.mono));
                    if was_full {
                        mark(&mut self.clients.runnable, &mut connection.runnable, index);
                    }
                }
            }
            if connection.sending.is_none() && connection.replies.waits_for_durability(shown) {
                // Looked at again in every tick until the log catches up.
                mark(&mut self.clients.dirty, &mut connection.dirty, index);
            }
            self.regulate(key);
        }
    }

    /// Starts, stops or ends receiving, and closes the stream when nothing is in flight.
    fn regulate(&mut self, key: ConnectionKey) {
        let Some(connection) = self.clients.connections.get_mut(key.index as usize) else { return };
        if (connection.closing || connection.broken) && !std::mem::replace(&mut connection.gone, true) {
            self.clients.held_by_others.gone.push(key);
            self.clients.sessions.gone.push(key);
        }
        let waiting = connection.stalled || connection.runnable || connection.fetching || connection.awaited.is_some();
        let answered = connection.replies.is_empty() && connection.sending.is_none() && !waiting;
        let done = connection.broken || connection.closing && answered;
        if done {
            if let Some(tag) = connection.receive {
                self.io.cancel(tag);
            } else if let Some(sending) = connection.sending {
                // Whoever does not read would keep it for ever.
                self.io.cancel(sending.tag);
            } else if !connection.close_submitted {
                connection.close_submitted = true;
                let op = Op::Close { socket: connection.socket };
                self.ops.submit(&mut self.io, op, Context::Close(key));
            }
            return;
        }
        let request = connection.bytes_wanted();
        let full = connection.input.len() > INPUT_BYTES_MAX.max(request)
            || connection.replies.bytes() > REPLY_BYTES_MAX
            || connection.closing;
        match (full, connection.receive) {
            (true, Some(tag)) => self.io.cancel(tag),
            (false, None) => {
                let op = Op::Recv { socket: connection.socket };
                connection.receive = Some(self.ops.submit(&mut self.io, op, Context::Receive(key)));
            }
            _ => {}
        }
    }
}

/// Runs a RESP-encoded command of another core's client on this core's shard.
///
/// # Errors
/// Transient ones; nothing was changed or answered.
pub(super) fn run_encoded<M: Mapping>(
    command: &[u8],
    protocol: Protocol,
    shard: &mut Shard<M>,
    time: Time,
    replies: &mut ReplyQueue,
    core: u16,
) -> Result<(), WriteError> {
    // The core that sent it accepted it by the same limits.
    let mut parser = Parser::new(limits_for(shard.value_bytes_max()));
    let Ok(Some(_)) = parser.next(command) else {
        replies.reply(Lsn(0), |out| reply::error(out, "ERR internal: a hop carried no command"));
        return Ok(());
    };
    let args = parser.args(command);
    let verb = match table::find_whole(args.get(0).unwrap_or_default()).map(|command| command.kind) {
        Some(Kind::Key(verb)) => verb,
        Some(Kind::Many(verb)) => verb.part().verb,
        Some(Kind::Session(SessionVerb::Scan)) => {
            let cores = args.get(2).and_then(|text| std::str::from_utf8(text).ok()?.parse().ok()).unwrap_or(1);
            return scan_from(shard, &args[1], args.from(3), (core, cores), time, replies);
        }
        _ => {
            replies.reply(Lsn(0), |out| reply::error(out, "ERR internal: a hop carried a command without a key"));
            return Ok(());
        }
    };
    let hash = shard.identity().secret.hash(args.get(1).unwrap_or_default());
    KeyCommand { shard, time, protocol, hash }.run(verb, args, replies)
}
