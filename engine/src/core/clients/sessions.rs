//! Sessions that move between nodes: `GODWIT.SESSION`, and `Session` of the native protocol.
//!
//! A connection in a session collects what its commands read ([`Seen`]); with what it wrote that is its token. One that comes with a token
//! waits, in a gap of its replies, until the control thread says that everything is here, and then until each core shows it and gives
//! only higher versions. Nothing blocks the core.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use net::ids::RequestId;
use net::reactor::Mono;
use net::resp::{Args, parse_integer, reply};
use net::token::{Token, TokenError};
use net::wire::Message;
use net::wire::body::{ErrorCode, Failed, Session as SessionBody, SessionToken};
use net::wire::limits::SESSION_MS_MAX;
use wal::planted::{self, Fault};
use wal::{Lsn, Version};

use super::Clients;
use crate::clock::due_in_ms;
use crate::core::CoreLoop;
use crate::frontend::native::encode;
use crate::frontend::replies::Merge;
use crate::frontend::seen::Seen;
use crate::host::Host;
use crate::messages::{ConnectionKey, CoreEvent, ToCore};

/// How long `GODWIT.SESSION AFTER` waits if it does not say.
const AFTER_MS: u64 = 10_000;

const NO_SESSION: &str =
    "ERR this connection is in no session, begin one with GODWIT.SESSION BEGIN or go on with GODWIT.SESSION AFTER";

/// What the answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// `GODWIT.SESSION AFTER`.
    Done,
    /// `GODWIT.SESSION TOKEN`.
    Token,
    Native(RequestId),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Other cores owe answers to what the connection asked before.
    Owed,
    /// The control thread is asked.
    Asked,
    /// So many cores do not show all of it yet.
    Shown(u16),
}

#[derive(Debug)]
struct Waiting {
    connection: ConnectionKey,
    /// The gap of its answer.
    hop: u64,
    token: Token,
    until: Mono,
    answer: Answer,
    stage: Stage,
}

/// A core asks whether this one shows everything up to a version.
#[derive(Clone, Copy, Debug)]
struct Observing {
    from: u16,
    number: u64,
    version: Version,
    until: Mono,
}

/// Sessions of a core's connections that wait, and what other cores' sessions wait for here.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    last: u64,
    by_number: BTreeMap<u64, Waiting>,
    owed: BTreeSet<u64>,
    deadlines: BTreeSet<(Mono, u64)>,
    observing: Vec<Observing>,
    /// Connections whose clients are gone.
    pub(super) gone: Vec<ConnectionKey>,
    /// The node stops: nothing waits any more.
    pub(super) over: bool,
}

impl Sessions {
    fn remove(&mut self, number: u64) -> Option<Waiting> {
        let waiting = self.by_number.remove(&number)?;
        self.owed.remove(&number);
        self.deadlines.remove(&(waiting.until, number));
        Some(waiting)
    }
}

impl Clients {
    /// When something has to be done about sessions although nothing comes.
    pub(in crate::core) fn sessions_until(&self) -> Option<Mono> {
        let sessions = &self.sessions;
        if sessions.over && !sessions.by_number.is_empty() || !sessions.gone.is_empty() {
            return Some(Mono(0));
        }
        let observing = sessions.observing.iter().map(|observing| observing.until).min();
        sessions.deadlines.first().map(|(until, _)| *until).into_iter().chain(observing).min()
    }

    /// The highest version that sessions wait to be shown up to, if any do.
    pub(in crate::core) fn observed_upto(&self) -> Option<Version> {
        self.sessions.observing.iter().map(|observing| observing.version).min()
    }

    /// What the connection has seen so far is collected from now on.
    fn begin_session(&mut self, index: u32) -> Seen {
        self.connections[index as usize].session.seen.get_or_insert_default().clone()
    }
}

impl<H: Host> CoreLoop<H> {
    /// `GODWIT.SESSION`: the connection runs nothing else before the answer.
    pub(super) fn run_session_command(&mut self, index: u32, args: Args<'_>) {
        let is = |name: &[u8]| args.get(1).is_some_and(|word| word.eq_ignore_ascii_case(name));
        let (key, session, replies) = self.clients.asker(index);
        if is(b"BEGIN") {
            self.clients.begin_session(index);
            return self.clients.replies(index).reply(Lsn(0), |out| reply::simple(out, "OK"));
        }
        let asked = if is(b"TOKEN") {
            if session.seen.is_some() { Ok((Token::default(), 0)) } else { Err(NO_SESSION.into()) }
        } else {
            after(args)
        };
        match asked {
            Ok((token, within_ms)) => {
                let answer = if is(b"TOKEN") { Answer::Token } else { Answer::Done };
                self.session_waits(index, key, token, within_ms, answer);
            }
            Err(text) => replies.reply(Lsn(0), |out| reply::error(out, &text)),
        }
    }

    /// A `Session` of the native protocol.
    pub(super) fn run_native_session(&mut self, index: u32, id: RequestId, body: &SessionBody) {
        let (key, _, replies) = self.clients.asker(index);
        let token = if body.token.is_empty() { Ok(Token::default()) } else { Token::from_bytes(&body.token) };
        let refusal = match token {
            Ok(token) if (1..=SESSION_MS_MAX).contains(&body.deadline_ms) => {
                return self.session_waits(index, key, token, body.deadline_ms.into(), Answer::Native(id));
            }
            Ok(_) => format!("a session waits from 1 to {SESSION_MS_MAX} ms"),
            Err(error) => error.to_string(),
        };
        crate::frontend::native::fail(replies, id, ErrorCode::Invalid, &refusal);
    }

    fn session_waits(&mut self, index: u32, connection: ConnectionKey, token: Token, within_ms: u64, answer: Answer) {
        let hop = self.clients.replies(index).hop(1, Merge::Concatenate);
        self.clients.waits_for(index, hop, 1);
        let until = self.time.mono.plus_ms(within_ms);
        let sessions = &mut self.clients.sessions;
        sessions.last += 1;
        sessions.owed.insert(sessions.last);
        let waiting = Waiting { connection, hop, token, until, answer, stage: Stage::Owed };
        sessions.by_number.insert(sessions.last, waiting);
    }

    /// The control thread says whether everything is here that a session has seen, or what is lacking.
    pub(in crate::core) fn session_covered(&mut self, number: u64, lacking: Option<String>) {
        if let Some(lacking) = lacking {
            return self.end_session_wait(number, Err(lacking));
        }
        let sessions = &mut self.clients.sessions;
        let Some(waiting) = sessions.by_number.get_mut(&number) else { return };
        waiting.stage = Stage::Shown(self.facts.cores);
        sessions.deadlines.insert((waiting.until, number));
        let (version, until) = (Version(waiting.token.highest().0), waiting.until);
        for core in 0..self.facts.cores {
            // Before any command that the connection sends there.
            self.send_to(core, ToCore::Observe { from: self.core, number, version, until });
        }
    }

    /// A core's session waits until this core shows everything up to `version`.
    pub(in crate::core) fn observe(&mut self, from: u16, number: u64, version: Version, until: Mono) {
        self.clients.sessions.observing.push(Observing { from, number, version, until });
    }

    /// Another core does.
    pub(in crate::core) fn session_observed(&mut self, number: u64) {
        let Some(waiting) = self.clients.sessions.by_number.get_mut(&number) else { return };
        let Stage::Shown(missing) = &mut waiting.stage else { return };
        *missing = missing.saturating_sub(1);
        if *missing == 0 {
            self.end_session_wait(number, Ok(()));
        }
    }

    /// Answers those who asked whether this core shows what their sessions have seen. Its clock is above all of that then.
    pub(in crate::core) fn tend_observing(&mut self) {
        if self.clients.sessions.observing.is_empty() {
            return;
        }
        let now = self.time.mono;
        let mut observing = std::mem::take(&mut self.clients.sessions.observing);
        observing.retain(|asked| {
            if !self.shard.shows(asked.version, self.time) {
                return asked.until > now;
            }
            self.shard.raise(asked.version);
            self.send_to(asked.from, ToCore::Observed { number: asked.number });
            false
        });
        self.clients.sessions.observing = observing;
    }

    /// In how many milliseconds something becomes due for which a session waits.
    pub(in crate::core) fn observed_in_ms(&self) -> Option<u64> {
        self.clients.observed_upto().map(|version| due_in_ms(version, self.time))
    }

    /// Goes on with sessions that wait.
    pub(in crate::core) fn tend_session_waits(&mut self) {
        let sessions = &mut self.clients.sessions;
        if sessions.by_number.is_empty() {
            sessions.gone.clear();
            return;
        }
        for number in sessions.owed.iter().copied().collect::<Vec<_>>() {
            self.begin_session_wait(number);
        }
        let sessions = &mut self.clients.sessions;
        let now = self.time.mono;
        let late: Vec<u64> =
            sessions.deadlines.iter().take_while(|(until, _)| *until <= now).map(|(_, number)| *number).collect();
        let gone = std::mem::take(&mut sessions.gone);
        let mut left = Vec::new();
        if sessions.over || !gone.is_empty() {
            let is_left = |waiting: &Waiting| sessions.over || gone.contains(&waiting.connection);
            left.extend(sessions.by_number.iter().filter(|(_, waiting)| is_left(waiting)).map(|(number, _)| *number));
        }
        for number in late {
            self.end_session_wait(
                number,
                Err("what is not due here yet: this node's clock is behind that of who wrote it".into()),
            );
        }
        for number in left {
            self.end_session_wait(number, Err("what it may not get any more: it stops, or the client is gone".into()));
        }
    }

    fn begin_session_wait(&mut self, number: u64) {
        let Some(waiting) = self.clients.sessions.by_number.get(&number) else { return };
        let (connection, hop, until) = (waiting.connection, waiting.hop, waiting.until);
        match self.clients.find(connection) {
            None => _ = self.clients.sessions.remove(number),
            Some(connection) if connection.replies.owes_before(hop) => {}
            Some(_) => {
                let sessions = &mut self.clients.sessions;
                sessions.owed.remove(&number);
                let Some(waiting) = sessions.by_number.get_mut(&number) else { return };
                if waiting.token.is_empty() || planted::is(Fault::TokenNotAwaited) {
                    return self.end_session_wait(number, Ok(()));
                }
                waiting.stage = Stage::Asked;
                let token = waiting.token.clone();
                self.tell(CoreEvent::SessionCame { number, token, until });
            }
        }
    }

    fn end_session_wait(&mut self, number: u64, ended: Result<(), String>) {
        let Some(waiting) = self.clients.sessions.remove(number) else { return };
        let own = net::ids::NodeId(self.facts.node.0);
        let Some(connection) = self.clients.find(waiting.connection) else { return };
        let session = &mut connection.session;
        let ended = ended.map(|()| {
            let seen = session.seen.get_or_insert_default();
            seen.merge(&waiting.token);
            let mut token = seen.token();
            if session.written > Version::ZERO {
                token.note(own, net::ids::Version(session.written.0));
            }
            token
        });
        let out = Bytes::from(waiting.answer.encoded(ended));
        self.clients.answer(waiting.connection, (waiting.hop, 0), vec![out], 0, Version::ZERO);
    }
}

impl Answer {
    fn encoded(self, ended: Result<Token, String>) -> Vec<u8> {
        let mut out = Vec::new();
        let not_covered =
            |lacking: String| format!("this node does not have all yet that the session has seen; it lacks {lacking}");
        match (self, ended) {
            (Answer::Done, Ok(_)) => reply::simple(&mut out, "OK"),
            (Answer::Token, Ok(token)) => match token.to_text() {
                Ok(text) => reply::bulk(&mut out, text.as_bytes()),
                Err(error) => reply::error(&mut out, &format!("ERR {error}")),
            },
            // It waited for the answers before it only.
            (Answer::Token, Err(_)) => reply::error(&mut out, "ERR this node stops; go on at another one"),
            (Answer::Done, Err(lacking)) => {
                reply::error(&mut out, &format!("NOTCOVERED {}", not_covered(lacking)));
            }
            (Answer::Native(id), Ok(token)) => {
                let invalid = |error: TokenError| Message::Error(Failed::new(ErrorCode::Invalid, &error.to_string()));
                let answer = |token: Vec<u8>| Message::SessionToken(SessionToken { token: token.into() });
                encode(&token.to_bytes().map_or_else(invalid, answer), id, &mut out);
            }
            (Answer::Native(id), Err(lacking)) => {
                let failed = Failed::new(ErrorCode::NotCovered, &not_covered(lacking));
                encode(&Message::Error(failed), id, &mut out);
            }
        }
        out
    }
}

/// What `GODWIT.SESSION AFTER` asks for; the arity was checked.
fn after(args: Args<'_>) -> Result<(Token, u64), String> {
    if args.len() > 4 {
        return Err(crate::frontend::resp::wrong_arity("godwit.session|after"));
    }
    let token = Token::from_text(&args[2]).map_err(|error| format!("ERR {error}"))?;
    let within_ms = match args.get(3).map(|text| parse_integer(text).and_then(|ms| u64::try_from(ms).ok())) {
        None => AFTER_MS,
        Some(Some(ms)) if (1..=u64::from(SESSION_MS_MAX)).contains(&ms) => ms,
        Some(_) => return Err(format!("ERR timeout must be between 1 and {SESSION_MS_MAX} milliseconds")),
    };
    Ok((token, within_ms))
}
