//! Commands about the connection and the server.

use std::net::SocketAddr;

use net::reactor::Mono;
use net::resp::{Args, Protocol, parse_integer, reply};
use wal::{Lsn, Version};

use super::table::{Command, SessionVerb};
use super::wait::Wait;
use super::{NOT_AN_INTEGER, SYNTAX_ERROR, config, describe, info};
use crate::clock::Time;
use crate::frontend::replies::ReplyQueue;
use crate::frontend::seen::Seen;
use crate::node::{NodeFacts, REDIS_COMPATIBLE_VERSION};

/// Redis' text for a password that nobody asked for.
const NO_PASSWORD: &str = "ERR AUTH <password> called without any password configured for the default user. \
                           Are you sure your configuration is correct?";
/// Redis' text for a user that does not exist.
const WRONG_PASSWORD: &str = "WRONGPASS invalid username-password pair or user is disabled.";

/// Whether a connection's commands are answered (`CLIENT REPLY`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Replies {
    /// They are.
    #[default]
    On,
    /// They are not.
    Off,
    /// The next one is not.
    SkipNext,
}

/// What a connection remembers.
#[derive(Debug, Default)]
pub struct Session {
    /// Unique within the node.
    pub id: u64,
    /// The client's address.
    pub addr: Option<SocketAddr>,
    /// The address at which it was accepted.
    pub local_addr: Option<SocketAddr>,
    /// When it was accepted.
    pub since: Mono,
    /// When it was last heard.
    pub active: Mono,
    /// Its last command.
    pub command: Option<&'static Command>,
    /// The highest version that its commands wrote, as far as cores have said.
    pub written: Version,
    /// The bits of the prefixes of RESIDENCY that its commands named keys of.
    pub classes: u64,
    /// What its commands read, if it is in a session that moves between nodes.
    pub seen: Option<Seen>,
    /// Bytes of its last request.
    pub request_bytes: usize,
    /// `CLIENT NO-EVICT`.
    pub no_evict: bool,
    /// `CLIENT REPLY`.
    pub replies: Replies,
    /// It speaks Godwit's own protocol; what is only RESP's stays as it is.
    pub native: bool,
    /// RESP2 until `HELLO 3`.
    pub protocol: Protocol,
    /// `CLIENT SETNAME`.
    pub name: Vec<u8>,
}

/// Whether the connection goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// It does.
    Continue,
    /// It is closed once its replies are sent.
    Close,
}

type Answer = Result<(), String>;

impl Session {
    /// Runs a command; `args` starts with its name and was checked for arity. `SCAN` is the core loop's.
    pub fn run(
        &mut self,
        verb: SessionVerb,
        args: Args<'_>,
        node: &NodeFacts,
        time: Time,
        queue: &mut ReplyQueue,
    ) -> After {
        let mut out = Vec::new();
        let answer = self.answer(verb, args, node, time, &mut out);
        if self.replies == Replies::On {
            queue.reply(Lsn(0), |bytes| match answer {
                Ok(()) => bytes.extend_from_slice(&out),
                Err(text) => reply::error(bytes, &text),
            });
        }
        if verb == SessionVerb::Quit { After::Close } else { After::Continue }
    }

    fn answer(&mut self, verb: SessionVerb, args: Args<'_>, node: &NodeFacts, time: Time, out: &mut Vec<u8>) -> Answer {
        match verb {
            SessionVerb::Ping if args.len() > 2 => return Err(super::wrong_arity("ping")),
            SessionVerb::Ping => match args.get(1) {
                None => reply::simple(out, "PONG"),
                Some(text) => reply::bulk(out, text),
            },
            SessionVerb::Echo => reply::bulk(out, &args[1]),
            SessionVerb::Quit => reply::simple(out, "OK"),
            SessionVerb::Reset => {
                let Session { id, addr, local_addr, since, active, command, written, classes, request_bytes, .. } =
                    *self;
                let kept = Session { id, addr, local_addr, since, active, command, written, ..Session::default() };
                *self = Session { classes, request_bytes, ..kept };
                reply::simple(out, "RESET");
            }
            SessionVerb::Select => match parse_integer(&args[1]) {
                Some(0) => reply::simple(out, "OK"),
                Some(number) if i32::try_from(number).is_err() => {
                    return Err("ERR value is out of range, value must between -2147483648 and 2147483647".into());
                }
                Some(_) => return Err("ERR DB index is out of range".into()),
                None => return Err(NOT_AN_INTEGER.into()),
            },
            // What cluster-aware clients ask for first, and the words by which they know that there is none.
            SessionVerb::Cluster => return Err("ERR This instance has cluster support disabled".into()),
            SessionVerb::Auth => match args.len() {
                2 => return Err(NO_PASSWORD.into()),
                3 if &args[1] == b"default".as_slice() => reply::simple(out, "OK"),
                3 => return Err(WRONG_PASSWORD.into()),
                _ => return Err(SYNTAX_ERROR.into()),
            },
            SessionVerb::Hello => return self.hello(args, out),
            SessionVerb::Client => return self.client(args, time.mono, out),
            SessionVerb::Config => return config::config(args, node, self.protocol, out),
            SessionVerb::Info => reply::verbatim(out, self.protocol, *b"txt", &info::info(args.from(1), node, time)),
            SessionVerb::Command => return describe::command(args, self.protocol, out),
            SessionVerb::SlowLog => return node.slow_log.answer(args, out),
            SessionVerb::Help => return describe::help(args, out),
            SessionVerb::Role => {
                reply::array_header(out, 3);
                reply::bulk(out, b"master");
                reply::integer(out, 0);
                reply::array_header(out, 0);
            }
            SessionVerb::Time => {
                reply::array_header(out, 2);
                reply::bulk(out, (time.unix_ms / 1000).to_string().as_bytes());
                reply::bulk(out, (time.unix_ms % 1000 * 1000).to_string().as_bytes());
            }
            // In a transaction nobody waits: it says what is.
            SessionVerb::Wait | SessionVerb::WaitAof => {
                Wait::parse(verb, args, node.durability)?.among(self.classes).answer(self.written, node, out);
            }
            SessionVerb::Session => return Err("ERR GODWIT.SESSION is BEGIN, AFTER or TOKEN".into()),
            SessionVerb::Scan => unreachable!("the core loop runs SCAN on the core that the cursor names"),
        }
        Ok(())
    }

    fn hello(&mut self, args: Args<'_>, out: &mut Vec<u8>) -> Answer {
        let mut protocol = self.protocol;
        if let Some(version) = args.get(1) {
            protocol = match parse_integer(version) {
                Some(2) => Protocol::Resp2,
                Some(3) => Protocol::Resp3,
                Some(_) => return Err("NOPROTO unsupported protocol version".into()),
                None => return Err("ERR Protocol version is not an integer or out of range".into()),
            };
        }
        let mut name = None;
        let mut words = args.from(2).iter();
        while let Some(word) = words.next() {
            let option_error = || format!("ERR Syntax error in HELLO option '{}'", String::from_utf8_lossy(word));
            if word.eq_ignore_ascii_case(b"AUTH") {
                // No credentials exist yet; the default user takes any password, as in a Redis without one.
                let user = words.next().ok_or_else(option_error)?;
                words.next().ok_or_else(option_error)?;
                if user != b"default" {
                    return Err(WRONG_PASSWORD.into());
                }
            } else if word.eq_ignore_ascii_case(b"SETNAME") {
                name = Some(valid_name(words.next().ok_or_else(option_error)?)?);
            } else {
                return Err(option_error());
            }
        }
        self.protocol = protocol;
        if let Some(name) = name {
            self.name = name;
        }
        reply::map_header(out, protocol, 7);
        for (key, value) in [("server", "redis"), ("version", REDIS_COMPATIBLE_VERSION)] {
            reply::bulk(out, key.as_bytes());
            reply::bulk(out, value.as_bytes());
        }
        reply::bulk(out, b"proto");
        reply::integer(out, if protocol == Protocol::Resp3 { 3 } else { 2 });
        reply::bulk(out, b"id");
        reply::integer(out, i64::try_from(self.id).unwrap_or(i64::MAX));
        for (key, value) in [("mode", "standalone"), ("role", "master")] {
            reply::bulk(out, key.as_bytes());
            reply::bulk(out, value.as_bytes());
        }
        reply::bulk(out, b"modules");
        reply::array_header(out, 0);
        Ok(())
    }
}

pub(super) fn valid_name(name: &[u8]) -> Result<Vec<u8>, String> {
    if name.iter().all(|byte| (b'!'..=b'~').contains(byte)) {
        Ok(name.to_vec())
    } else {
        Err("ERR Client names cannot contain spaces, newlines or special characters.".into())
    }
}
