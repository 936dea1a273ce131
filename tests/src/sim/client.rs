//! A client of the storage port: a loop of its own on a machine of its own, which knows only what its connection says.
//!
//! A timeout or a broken connection makes an operation *unknown*, never failed: it may have happened, or may yet happen.

mod native;
mod roam;

use std::cell::Cell;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;

use bytes::Bytes;
use net::reactor::sim::{LoopId, NodeIndex, SimFile, SimIo, World};
use net::reactor::{Completion, Io, Mono, Op, Outcome as IoOutcome, Socket, StreamKind, Tag, Wait, Waker};
use net::resp::{Value, parse_reply};

use self::native::Frames;
use self::roam::Roam;
pub(super) use self::roam::draw_roamers;
use super::workload::{Command, Mix, Note, Operation, Outcome, TeamWay};

/// How long a client waits for an answer.
const TIMEOUT_MS: u64 = 3_000;
/// How long it waits before it dials again.
const REDIAL_MS: u64 = 100;

/// Where a client's operations come from.
#[derive(Debug)]
pub enum Source {
    /// A random mix, while it is switched on.
    Mix {
        /// The mix.
        mix: Mix,
        /// Whether new operations begin.
        on: bool,
    },
    /// What the scenario asks for.
    Script(VecDeque<Command>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    Down {
        until: Mono,
    },
    Dialling,
    Up(Ends),
    /// On its way down: what is in flight has to end first.
    Leaving(Ends),
    Closing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ends {
    socket: Socket,
    receiving: bool,
    sending: bool,
}

const DIAL: u64 = 0;
const RECEIVE: u64 = 1;
const SEND: u64 = 2;
const CLOSE: u64 = 3;

/// One client.
#[derive(Debug)]
pub struct Client {
    io: SimIo,
    region: usize,
    session: u64,
    target: SocketAddr,
    source: Source,
    depth: usize,
    ids: Rc<Cell<u64>>,
    link: Link,
    generation: u64,
    input: Vec<u8>,
    output: Vec<u8>,
    waiting: VecDeque<(Rc<Operation>, Mono)>,
    /// Replies to the first of them, of which it gets more.
    replies: Vec<Value>,
    next_at: Mono,
    /// It speaks Godwit's own protocol.
    frames: Option<Frames>,
    /// It moves between regions.
    roam: Option<Roam>,
    notes: Vec<Note>,
    completions: Vec<Completion<SimFile>>,
}

impl Client {
    /// A client on `machine` that talks to `target` in `region` and has up to `depth` operations under way.
    #[must_use]
    pub fn new(
        world: &World,
        machine: NodeIndex,
        region: usize,
        target: SocketAddr,
        source: Source,
        depth: usize,
        ids: &Rc<Cell<u64>>,
    ) -> Client {
        ids.set(ids.get() + 1);
        let native = matches!(&source, Source::Mix { mix, .. } if mix.native);
        Client {
            frames: native.then(Frames::default),
            roam: None,
            io: SimIo::new(world, machine),
            region,
            session: ids.get(),
            target,
            source,
            depth,
            ids: Rc::clone(ids),
            link: Link::Down { until: Mono(0) },
            generation: 0,
            input: Vec::new(),
            output: Vec::new(),
            waiting: VecDeque::new(),
            replies: Vec::new(),
            next_at: Mono(0),
            notes: Vec::new(),
            completions: Vec::new(),
        }
    }

    /// Its loop.
    #[must_use]
    pub fn id(&self) -> LoopId {
        self.io.id()
    }

    /// Ends a wait, after its source was changed from outside.
    #[must_use]
    pub fn waker(&self) -> Waker {
        self.io.waker()
    }

    /// Where its operations come from.
    pub fn source(&mut self) -> &mut Source {
        &mut self.source
    }

    /// Leaves its connection for a fresh one.
    pub fn reconnect(&mut self) {
        self.hang_up();
        self.io.waker().wake();
    }

    /// Whether nothing is under way.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty()
    }

    /// What happened since the last call.
    pub fn take_notes(&mut self) -> Vec<Note> {
        std::mem::take(&mut self.notes)
    }

    /// One round: completions, timeouts, dialling, new operations, output.
    ///
    /// # Panics
    /// If the reactor fails, which the simulated one never does.
    pub fn tick(&mut self) {
        let wait = self.wait();
        let mut completions = std::mem::take(&mut self.completions);
        self.io.poll(wait, &mut completions).expect("the simulated reactor does not fail");
        for completion in completions.drain(..) {
            self.complete(completion);
        }
        self.completions = completions;
        let now = self.io.now();
        let late = self.waiting.front().map(|(_, deadline)| *deadline).or(self.entering());
        if late.is_some_and(|deadline| deadline <= now) {
            self.go_elsewhere();
            self.hang_up();
        }
        self.keep_link(now);
        self.begin(now);
        self.transmit();
    }

    /// How long it sleeps now.
    pub(crate) fn wait(&self) -> Wait {
        Wait::Until(self.deadline())
    }

    fn deadline(&self) -> Mono {
        let mut until = Mono(self.io.now().0 + 1_000_000_000);
        if let Some((_, deadline)) = self.waiting.front() {
            until = until.min(*deadline);
        }
        if let Some(deadline) = self.entering() {
            until = until.min(deadline);
        }
        match self.link {
            Link::Down { until: redial } => until = until.min(redial),
            Link::Up(_) if self.wants_more() => until = until.min(self.next_at),
            _ => {}
        }
        until
    }

    /// Until when a region is asked to go on with the session.
    fn entering(&self) -> Option<Mono> {
        self.roam.as_ref().and_then(|roam| roam.entering)
    }

    fn wants_more(&self) -> bool {
        if self.entering().is_some() {
            return false;
        }
        let more = match &self.source {
            Source::Mix { on, .. } => *on,
            Source::Script(commands) => !commands.is_empty(),
        };
        more && self.waiting.len() < self.depth
    }

    fn tag(&self, kind: u64) -> Tag {
        Tag(self.generation * 4 + kind)
    }

    fn submit(&mut self, op: Op<SimFile>, kind: u64) {
        let tag = self.tag(kind);
        self.io.submit(op, tag).expect("a client has few operations in flight");
    }

    fn complete(&mut self, completion: Completion<SimFile>) {
        if completion.tag.0 / 4 != self.generation {
            return;
        }
        match completion.tag.0 % 4 {
            DIAL => match completion.result {
                Ok(IoOutcome::Connected(socket)) => {
                    self.link = Link::Up(Ends { socket, receiving: true, sending: false });
                    self.submit(Op::Recv { socket }, RECEIVE);
                    self.enter();
                    if let Some(frames) = &mut self.frames {
                        *frames = Frames::default();
                        native::hello(&mut self.output);
                    }
                }
                _ => {
                    self.link = Link::Down { until: self.io.now().plus_ms(REDIAL_MS) };
                    self.go_elsewhere();
                }
            },
            RECEIVE => self.received(completion),
            SEND => {
                if let Link::Up(ends) | Link::Leaving(ends) = &mut self.link {
                    ends.sending = false;
                }
                if completion.result.is_err() {
                    self.hang_up();
                }
            }
            _ => self.link = Link::Down { until: self.io.now().plus_ms(REDIAL_MS) },
        }
    }

    fn received(&mut self, completion: Completion<SimFile>) {
        let out_of_buffers = completion.is_out_of_buffers();
        if let Link::Up(ends) | Link::Leaving(ends) = &mut self.link {
            ends.receiving = completion.more;
        }
        let bytes = completion.buf.as_deref().unwrap_or_default();
        let over = !out_of_buffers && (completion.result.is_err() || bytes.is_empty());
        if matches!(self.link, Link::Up(_)) {
            self.input.extend_from_slice(bytes);
            self.understand();
        }
        if over {
            self.hang_up();
        } else if let Link::Up(ends) = &mut self.link
            && !ends.receiving
        {
            ends.receiving = true;
            let socket = ends.socket;
            self.submit(Op::Recv { socket }, RECEIVE);
        }
    }

    fn understand(&mut self) {
        let stray = if self.frames.is_some() { self.understand_frames() } else { self.understand_replies() };
        if let Some(text) = stray {
            self.notes.push(Note::Stray(self.region, text));
            self.hang_up();
        }
    }

    /// Takes in what was received; what answers nothing, if anything does.
    fn understand_replies(&mut self) -> Option<String> {
        let mut at = 0;
        let stray = loop {
            match parse_reply(&self.input[at..]) {
                Ok(None) => break None,
                Ok(Some((value, taken))) => {
                    at += taken;
                    if self.entering().is_some() {
                        self.entered(&value);
                        continue;
                    }
                    let Some((operation, _)) = self.waiting.front() else {
                        // One that has left does not look at what still comes.
                        break matches!(self.link, Link::Up(_))
                            .then(|| format!("{value:?} answers nothing that was asked"));
                    };
                    self.replies.push(value);
                    if self.replies.len() < operation.command.replies() + usize::from(self.roam.is_some()) {
                        continue;
                    }
                    let operation = Rc::clone(operation);
                    if self.roam.is_some() {
                        let token = self.replies.pop();
                        if matches!(&token, Some(Value::Error(text)) if text.starts_with("ERR this node stops")) {
                            self.go_elsewhere();
                            break None;
                        }
                        if let Some(stray) = self.take_token(token) {
                            break Some(stray);
                        }
                    }
                    self.waiting.pop_front();
                    let outcome = outcome_of(&operation.command, std::mem::take(&mut self.replies));
                    self.notes.push(Note::Ended(operation, outcome));
                }
                Err(error) => break Some(error.to_string()),
            }
        };
        self.input.drain(..at);
        stray
    }

    /// Gives the connection up: whatever was under way is unknown.
    fn hang_up(&mut self) {
        self.replies.clear();
        for (operation, _) in self.waiting.drain(..) {
            self.notes.push(Note::Ended(operation, Outcome::Unknown));
        }
        if let Link::Up(ends) = self.link {
            let tags = [self.tag(RECEIVE), self.tag(SEND)];
            self.link = Link::Leaving(ends);
            for tag in tags {
                self.io.cancel(tag);
            }
        }
    }

    fn keep_link(&mut self, now: Mono) {
        match self.link {
            Link::Down { until } if until <= now => {
                self.generation += 1;
                self.input.clear();
                self.output.clear();
                self.link = Link::Dialling;
                self.submit(Op::Connect { local: None, to: self.target, kind: StreamKind::Client }, DIAL);
            }
            Link::Leaving(ends) if !ends.receiving && !ends.sending => {
                self.link = Link::Closing;
                self.submit(Op::Close { socket: ends.socket }, CLOSE);
            }
            _ => {}
        }
    }

    fn begin(&mut self, now: Mono) {
        while matches!(self.link, Link::Up(_)) && self.wants_more() && self.next_at <= now {
            if self.moves() {
                return self.go_elsewhere();
            }
            let io = &mut self.io;
            let command = match &mut self.source {
                Source::Mix { mix, .. } => {
                    self.next_at = Mono(now.0 + mix.pause_ns(&mut || io.random()));
                    if self.waiting.is_empty() && mix.reconnects(&mut || io.random()) {
                        return self.hang_up();
                    }
                    let command = mix.draw(self.region, &mut || io.random());
                    Some(if mix.native { native::spoken(command) } else { command })
                }
                Source::Script(commands) => commands.pop_front(),
            };
            let Some(command) = command else { return };
            self.ids.set(self.ids.get() + 1);
            let (id, region, session) = (self.ids.get(), self.region, self.session);
            let operation = Rc::new(Operation { id, region, session, command });
            match self.frames {
                Some(_) => native::encode(&operation, &mut self.output),
                None => operation.encode(&mut self.output),
            }
            if self.roam.is_some() {
                net::resp::encode_command(&["GODWIT.SESSION", "TOKEN"], &mut self.output);
            }
            self.notes.push(Note::Began(Rc::clone(&operation)));
            self.waiting.push_back((operation, now.plus_ms(TIMEOUT_MS)));
        }
    }

    fn transmit(&mut self) {
        if let Link::Up(ends) = &mut self.link
            && !ends.sending
            && !self.output.is_empty()
        {
            ends.sending = true;
            let socket = ends.socket;
            let runs = vec![Bytes::from(std::mem::take(&mut self.output))];
            self.submit(Op::Send { socket, runs }, SEND);
        }
    }
}

/// A text that may be absent.
fn text(value: Value) -> Result<Option<Vec<u8>>, Value> {
    match value {
        Value::Null => Ok(None),
        Value::Bulk(bytes) => Ok(Some(bytes)),
        other => Err(other),
    }
}

/// Several of them. One that could not be read is as if none had been.
fn texts(values: Vec<Value>) -> Outcome {
    match values.into_iter().map(text).collect() {
        Ok(values) => Outcome::ReadMany(values),
        Err(Value::Error(text)) => Outcome::Refused(text),
        Err(other) => malformed(&other),
    }
}

fn outcome_of(command: &Command, mut replies: Vec<Value>) -> Outcome {
    let value = replies.pop().unwrap_or(Value::Null);
    match (command, value) {
        (_, Value::Error(text)) => Outcome::Refused(text),
        (Command::SetTeam { keys, way, .. }, value) => team_set(keys.len(), *way, replies, value),
        (Command::GetTeam { keys }, value) => team_read(keys.len(), &replies, value),
        (Command::Set { .. } | Command::MSet { .. }, Value::Simple(text)) if text == "OK" => Outcome::Stored,
        (Command::Get { .. } | Command::GetSet { .. } | Command::GetDel { .. }, value) => match text(value) {
            Ok(value) => Outcome::Read(value),
            Err(other) => malformed(&other),
        },
        (Command::MGet { keys }, Value::Array(values)) if values.len() == keys.len() => texts(values),
        (Command::Del { .. }, Value::Integer(count @ 0..=1)) => Outcome::Deleted(count == 1),
        (
            Command::SetNx { .. } | Command::Expire { .. } | Command::Persist { .. } | Command::Exists { .. },
            Value::Integer(flag @ 0..=1),
        ) => Outcome::Flag(flag == 1),
        (Command::IncrBy { .. }, Value::Integer(number)) => Outcome::Number(number),
        (Command::Append { .. }, Value::Integer(number @ 1..)) => Outcome::Number(number),
        (Command::PTtl { .. }, Value::Integer(number @ -2..)) => Outcome::Number(number),
        (_, other) => malformed(&other),
    }
}

/// Whether these replies say that a transaction of so many commands was queued.
fn is_queued(count: usize, replies: &[Value]) -> bool {
    let is = |value: &Value, expected: &str| matches!(value, Value::Simple(text) if text == expected);
    replies.len() == count + 1 && is(&replies[0], "OK") && replies[1..].iter().all(|reply| is(reply, "QUEUED"))
}

fn team_set(count: usize, way: TeamWay, mut replies: Vec<Value>, exec: Value) -> Outcome {
    let watches = way == TeamWay::Watch;
    let is_done = |(at, answer): (usize, &Value)| match answer {
        Value::Integer(copied) => way == TeamWay::Copy && at > 0 && *copied == 1,
        Value::Simple(text) => text == "OK" && (way != TeamWay::Copy || at == 0),
        _ => false,
    };
    let done = match &exec {
        Value::Array(answers) => answers.len() == count && answers.iter().enumerate().all(is_done),
        Value::Null if watches => false,
        _ => return malformed(&exec),
    };
    let as_asked = done || exec == Value::Null;
    let queued = replies.split_off(if watches { 2 } else { 0 });
    if !as_asked || !is_queued(count, &queued) {
        return Outcome::Malformed(format!("{queued:?}, {exec:?}").chars().take(200).collect());
    }
    match replies.pop().map(text) {
        // What it saw could not be read; that nobody changed it is known all the same.
        Some(Err(Value::Error(_))) if done => Outcome::Stored,
        Some(Err(Value::Error(text))) => Outcome::Refused(text),
        None => Outcome::Stored,
        Some(Ok(seen)) => Outcome::Swapped { seen, done },
        Some(Err(other)) => malformed(&other),
    }
}

fn team_read(count: usize, queued: &[Value], exec: Value) -> Outcome {
    match exec {
        Value::Array(values) if values.len() == count && is_queued(count, queued) => texts(values),
        other => malformed(&other),
    }
}

fn malformed(value: &Value) -> Outcome {
    Outcome::Malformed(malformed_text(value))
}

fn malformed_text(answer: &impl std::fmt::Debug) -> String {
    format!("{answer:?}").chars().take(200).collect()
}
