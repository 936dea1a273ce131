//! Connections that speak Godwit's own protocol: frames in, requests to the cores that own their keys, answers in order.
//!
//! The first byte of a connection says what it speaks, for its life.

use bytes::{Bytes, BytesMut};
use net::ids::{Incarnation, LogId, NodeId, RegionName, RequestId};
use net::wire::body::{ClientHello, ClientHelloAck, ErrorCode, GetMany, Refuse, RefuseCode};
use net::wire::frame::{Cut, cut_frame};
use net::wire::header::MAGIC;
use net::wire::limits::CONTROL_BODY_BYTES_MAX;
use net::wire::{Message, Opcode, WireError};
use wal::Lsn;
use wal::marks::{Mark, reach};

use super::{COMMANDS_PER_TURN, Connection, GAPS_MAX, INPUT_BYTES_MAX, INPUT_BYTES_TOTAL_MAX, REPLY_BYTES_MAX, mark};
use crate::core::CoreLoop;
use crate::core::slow::Stopwatch;
use crate::frontend::native::request::{Request, Verb};
use crate::frontend::native::run::{Runner, core_of_cursor};
use crate::frontend::native::{answer, fail, refuse};
use crate::frontend::replies::Merge;
use crate::host::Host;
use crate::messages::{ConnectionKey, HopCommand, ToCore};
use crate::shard::WriteError;

/// What a connection speaks.
#[derive(Debug, Default)]
pub(super) enum Language {
    /// It has not said a word.
    #[default]
    Unknown,
    /// RESP.
    Resp,
    /// Frames.
    Native(Native),
}

/// What is remembered of a connection of frames.
#[derive(Debug, Default)]
pub(super) struct Native {
    /// The handshake is done.
    greeted: bool,
    /// Bytes that the frame in progress needs.
    wanted: usize,
    /// A request that waits for the log, and the bytes of its frame: they count as input until it was run.
    pending: Option<Box<(Request, usize)>>,
}

impl Connection {
    /// Decides by the first byte of `input` what is spoken, once there is one.
    pub(super) fn speaks_native(&mut self) -> bool {
        if matches!(self.language, Language::Unknown)
            && let Some(&first) = self.input.first()
        {
            self.session.native = first == MAGIC;
            self.language = if first == MAGIC { Language::Native(Native::default()) } else { Language::Resp };
        }
        matches!(self.language, Language::Native(_))
    }

    /// Bytes that the request in progress needs, and input may hold whatever other bounds say.
    pub(super) fn bytes_wanted(&self) -> usize {
        match &self.language {
            Language::Native(native) => native.wanted,
            Language::Unknown | Language::Resp => self.parser.bytes_wanted(),
        }
    }

    /// Bytes of requests that were received and not run.
    pub(super) fn input_bytes(&self) -> usize {
        match &self.language {
            Language::Native(Native { pending: Some(pending), .. }) => self.input.len() + pending.1,
            _ => self.input.len(),
        }
    }
}

/// What comes next on a connection.
enum Next {
    /// Nothing, until more is received.
    Nothing,
    /// The handshake.
    Hello(ClientHello),
    /// A request and the bytes of its frame.
    Request(Request, usize),
}

impl Native {
    fn next(&mut self, input: &mut BytesMut) -> Result<Next, Refuse> {
        if let Some(pending) = self.pending.take() {
            return Ok(Next::Request(pending.0, pending.1));
        }
        let body_bytes_max = if self.greeted { Opcode::Put.body_bytes_max() } else { CONTROL_BODY_BYTES_MAX };
        let before = input.len();
        let frame = match cut_frame(input, body_bytes_max).map_err(|error| unreadable(&error))? {
            Cut::Wants(bytes) => {
                self.wanted = bytes;
                return Ok(Next::Nothing);
            }
            Cut::Frame(frame) => frame,
        };
        self.wanted = 0;
        let message = Message::decode(&frame).map_err(|error| unreadable(&error))?;
        let opcode = message.opcode();
        match message {
            Message::ClientHello(hello) if !self.greeted => Ok(Next::Hello(hello)),
            message if self.greeted => Request::of(frame.header.request_id, message)
                .map(|request| Next::Request(request, before - input.len()))
                .ok_or_else(|| unexpected(opcode, "a request")),
            _ => Err(unexpected(opcode, "ClientHello")),
        }
    }
}

fn unexpected(opcode: Opcode, due: &str) -> Refuse {
    let text = format!("{} came where {due} is due; this port is for clients of the store", opcode.name());
    Refuse::new(RefuseCode::Unexpected, &text)
}

fn unreadable(error: &WireError) -> Refuse {
    Refuse::new(RefuseCode::Protocol, &error.to_string())
}

/// How a connection's turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// There is nothing more to do for now.
    Over,
    /// There may be more to run at once.
    More,
    /// A request waits for the log.
    Stalled,
}

impl<H: Host> CoreLoop<H> {
    /// Runs the requests of a connection of frames that have arrived.
    pub(super) fn run_native(&mut self, index: u32) {
        // Out of the table while its requests borrow the rest of the core.
        let connection = &mut self.clients.connections[index as usize];
        let before = connection.input_bytes();
        let Language::Native(mut native) = std::mem::take(&mut connection.language) else { return };
        let mut input = std::mem::take(&mut connection.input);
        let turn = self.run_native_turn(index, &mut native, &mut input);
        if input.is_empty() && input.capacity() > INPUT_BYTES_MAX {
            input = BytesMut::new();
        }
        let clients = &mut self.clients;
        let connection = &mut clients.connections[index as usize];
        connection.input = input;
        connection.language = Language::Native(native);
        clients.input_bytes = clients.input_bytes + connection.input_bytes() - before;
        if clients.input_bytes > INPUT_BYTES_TOTAL_MAX
            && connection.input.len() > INPUT_BYTES_MAX
            && !connection.closing
        {
            let text = "too many large requests at once; try again later";
            refuse(&mut connection.replies, Refuse::new(RefuseCode::NotReady, text));
            connection.closing = true;
            clients.input_bytes -= std::mem::take(&mut connection.input).len();
        }
        connection.stalled = turn == Turn::Stalled;
        match turn {
            Turn::Stalled => clients.stalled.push(index),
            Turn::More => mark(&mut clients.runnable, &mut connection.runnable, index),
            Turn::Over => {}
        }
        mark(&mut clients.dirty, &mut connection.dirty, index);
    }

    fn run_native_turn(&mut self, index: u32, native: &mut Native, input: &mut BytesMut) -> Turn {
        let mut watch = self.stopwatch();
        let mut last = None;
        let mut turn = None;
        for _ in 0..COMMANDS_PER_TURN {
            turn = self.run_native_step(index, native, input, &mut watch, &mut last);
            if turn.is_some() {
                break;
            }
        }
        if let Some(last) = last {
            self.native_turn_ended(&watch, index, &last);
        }
        turn.unwrap_or(Turn::More)
    }

    /// Runs what comes next. `None` while the turn goes on.
    fn run_native_step(
        &mut self,
        index: u32,
        native: &mut Native,
        input: &mut BytesMut,
        watch: &mut Stopwatch,
        last: &mut Option<Request>,
    ) -> Option<Turn> {
        let connection = &mut self.clients.connections[index as usize];
        if connection.closing && connection.receive.is_some() || connection.broken {
            input.clear();
            native.pending = None;
            return Some(Turn::Over);
        }
        if connection.fetching || connection.awaited.is_some() {
            return Some(Turn::Over);
        }
        if connection.replies.bytes() > REPLY_BYTES_MAX || connection.replies.gaps() >= GAPS_MAX {
            reach(Mark::RepliesWaited);
            return Some(Turn::Over);
        }
        let refusal = match native.next(input) {
            Ok(Next::Nothing) => return Some(Turn::Over),
            Ok(Next::Hello(hello)) => match self.greet(index, hello) {
                Ok(()) => {
                    native.greeted = true;
                    return None;
                }
                Err(refusal) => refusal,
            },
            Ok(Next::Request(request, bytes)) => {
                if let Err(error) = self.run_request(index, &request, bytes) {
                    native.pending = Some(Box::new((request, bytes)));
                    if error == WriteError::NotInMemory {
                        self.wait_for_records(index, &[]);
                        return Some(Turn::Over);
                    }
                    return Some(Turn::Stalled);
                }
                self.clients.commands += 1;
                self.ran_request(watch, index, &request);
                *last = Some(request);
                return None;
            }
            Err(refusal) => refusal,
        };
        self.clients.protocol_errors += 1;
        let connection = &mut self.clients.connections[index as usize];
        refuse(&mut connection.replies, refusal);
        connection.closing = true;
        input.clear();
        Some(Turn::Over)
    }

    /// Answers the handshake.
    fn greet(&mut self, index: u32, hello: ClientHello) -> Result<(), Refuse> {
        let protocol = hello.agree()?;
        // The configuration accepts no other names; a second look costs nothing.
        let region = RegionName::parse(&self.facts.region)
            .map_err(|error| Refuse::new(RefuseCode::NotReady, &error.to_string()))?;
        let value_bytes_max = u32::try_from(self.shard.value_bytes_max()).unwrap_or(u32::MAX);
        let connection = &mut self.clients.connections[index as usize];
        connection.session.name = hello.name.into_bytes();
        let ack = ClientHelloAck {
            protocol,
            log: LogId { node: NodeId(self.facts.node.0), incarnation: Incarnation(self.facts.incarnation.0) },
            cores: self.facts.cores,
            value_bytes_max,
            connection: connection.session.id,
            region,
        };
        answer(&mut connection.replies, Lsn(0), RequestId(0), &Message::ClientHelloAck(ack));
        Ok(())
    }

    /// Runs a request, or sends it to the cores that do.
    fn run_request(&mut self, index: u32, request: &Request, bytes: usize) -> Result<(), WriteError> {
        let session = &mut self.clients.connections[index as usize].session;
        (session.command, session.request_bytes) = (request.command(), bytes);
        if self.keeps_out_request(index, request) {
            return Ok(());
        }
        self.may_run(request)?;
        if !request.wait().is_sound() {
            let text = "a wait for other regions needs a deadline, and a deadline needs regions; nothing was written";
            let replies = &mut self.clients.connections[index as usize].replies;
            fail(replies, request.id, ErrorCode::Invalid, text);
            return Ok(());
        }
        match &request.verb {
            Verb::Get(_) | Verb::Put(_) | Verb::Delete(_) | Verb::Increment(_) => {
                let owner = self.owner_of(request.keys().first().map_or(&[], |key| key));
                let originated = self.shard.counters().originated;
                let gap = self.run_at(index, owner, request)?;
                let written = self.written_since(originated);
                self.clients.has_written(index, written);
                self.wait_for_regions(index, request, gap, written);
                Ok(())
            }
            Verb::GetMany(many) => {
                // Each key on its own core; neighbours of one core go together.
                let (secret, cores) = (self.shard.identity().secret, self.facts.cores);
                let owner_of = |key: &Bytes| secret.hash(key).core(cores);
                for keys in many.keys.chunk_by(|a, b| owner_of(a) == owner_of(b)) {
                    let part = Verb::GetMany(GetMany { keys: keys.to_vec() });
                    self.run_at(index, owner_of(&keys[0]), &Request { id: request.id, verb: part })?;
                }
                Ok(())
            }
            Verb::Scan(scan) if core_of_cursor(scan.cursor) < self.facts.cores => {
                self.run_at(index, core_of_cursor(scan.cursor), request).map(|_| ())
            }
            Verb::Session(session) => {
                self.run_native_session(index, request.id, session);
                Ok(())
            }
            Verb::Scan(_) => {
                let replies = &mut self.clients.connections[index as usize].replies;
                fail(replies, request.id, ErrorCode::Invalid, "no node gave this cursor in this run; begin at 0");
                Ok(())
            }
        }
    }

    /// Whether the part of a request that is this core's can be run now. What has to wait waits here, before any part of
    /// it was run: a `GetMany` is not answered twice.
    fn may_run(&mut self, request: &Request) -> Result<(), WriteError> {
        let is_own = |key: &Bytes| self.owner_of(key) == self.core;
        let is_own_scan = matches!(&request.verb, Verb::Scan(scan) if core_of_cursor(scan.cursor) == self.core);
        if self.holds.is_held() && (is_own_scan || request.keys().iter().any(is_own)) {
            return Err(WriteError::Held);
        }
        if !self.shard.store().has_cold() {
            return Ok(());
        }
        let secret = self.shard.identity().secret;
        let own = request.keys().iter().filter(|key| self.owner_of(key) == self.core).map(|key| secret.hash(key));
        match self.shard.all_ready(own.collect::<Vec<_>>()) {
            // That is the answer.
            Err(WriteError::Unreadable) => Ok(()),
            ready => ready,
        }
    }

    fn owner_of(&self, key: &[u8]) -> u16 {
        self.shard.identity().secret.hash(key).core(self.facts.cores)
    }

    /// Runs a request on the core that owns its keys; the gap of its answer if that is another one.
    fn run_at(&mut self, index: u32, owner: u16, request: &Request) -> Result<Option<u64>, WriteError> {
        let replies = &mut self.clients.connections[index as usize].replies;
        if owner == self.core {
            let (core, cores) = (self.core, self.facts.cores);
            self.shard.seen_by(self.clients.connections[index as usize].session.seen.clone());
            let replies = &mut self.clients.connections[index as usize].replies;
            let ran = Runner { shard: &mut self.shard, time: self.time, core, cores }.run(request, replies);
            self.shard.seen_by(None);
            return ran.map(|()| None);
        }
        let hop = replies.hop(1, Merge::Concatenate);
        self.send_request(index, owner, (hop, 0), request.clone());
        Ok(Some(hop))
    }

    fn send_request(&mut self, index: u32, owner: u16, hop: (u64, usize), request: Request) {
        let connection = &self.clients.connections[index as usize];
        let (generation, seen) = (connection.generation, connection.session.seen.clone());
        self.cores[usize::from(owner)].send(ToCore::Command {
            from: self.core,
            connection: ConnectionKey { index, generation },
            hop,
            resp3: false,
            seen,
            command: HopCommand::Native(Box::new(request)),
        });
    }
}
