//! `CLIENT`: the connection itself, and which of all connections `LIST` and `KILL` mean.

use std::net::SocketAddr;

use net::reactor::Mono;
use net::resp::{Args, Protocol, parse_integer, reply};

use super::SYNTAX_ERROR;
use super::session::{Replies, Session, valid_name};

impl Session {
    /// Answers `CLIENT`; `args` starts with its name and was checked for arity.
    ///
    /// # Errors
    /// Redis' error text.
    pub(super) fn client(&mut self, args: Args<'_>, now: Mono, out: &mut Vec<u8>) -> Result<(), String> {
        match args[1].to_ascii_uppercase().as_slice() {
            b"ID" => reply::integer(out, i64::try_from(self.id).unwrap_or(i64::MAX)),
            b"GETNAME" if self.name.is_empty() => reply::null(out, self.protocol),
            b"GETNAME" => reply::bulk(out, &self.name),
            b"SETNAME" => {
                self.name = valid_name(&args[2])?;
                reply::simple(out, "OK");
            }
            b"SETINFO" => {
                if !is_one_of(&args[2], &["LIB-NAME", "LIB-VER"]) {
                    return Err(format!("ERR Unrecognized option '{}'", String::from_utf8_lossy(&args[2])));
                }
                valid_name(&args[3])?;
                reply::simple(out, "OK");
            }
            b"INFO" => reply::verbatim(out, self.protocol, *b"txt", &self.line(now, self.request_bytes, 0)),
            b"REPLY" => self.set_replies(&args[2], out)?,
            // NO-EVICT and NO-TOUCH change nothing here: nobody is evicted, and access times are not kept.
            sub => {
                if !is_one_of(&args[2], &["ON", "OFF"]) {
                    return Err(SYNTAX_ERROR.into());
                }
                self.no_evict = if sub == b"NO-EVICT" { args[2].eq_ignore_ascii_case(b"ON") } else { self.no_evict };
                reply::simple(out, "OK");
            }
        }
        Ok(())
    }

    fn set_replies(&mut self, mode: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
        match mode.to_ascii_uppercase().as_slice() {
            b"ON" => {
                self.replies = Replies::On;
                reply::simple(out, "OK");
            }
            b"OFF" => self.replies = Replies::Off,
            b"SKIP" if self.replies == Replies::Off => {}
            b"SKIP" => self.replies = Replies::SkipNext,
            _ => return Err(SYNTAX_ERROR.into()),
        }
        Ok(())
    }

    /// The connection as `CLIENT LIST` shows it, with a line end. `input_bytes` wait to be parsed, `reply_bytes` to be sent.
    #[must_use]
    pub fn line(&self, now: Mono, input_bytes: usize, reply_bytes: usize) -> String {
        let seconds = |since: Mono| now.since(since) / 1_000_000_000;
        let address = |addr: Option<SocketAddr>| addr.map_or_else(String::new, |addr| addr.to_string());
        let resp = match self.protocol {
            _ if self.native => 0,
            Protocol::Resp2 => 2,
            Protocol::Resp3 => 3,
        };
        let flags = if self.no_evict { "e" } else { "N" };
        format!(
            "id={} addr={} laddr={} fd=-1 name={} age={} idle={} flags={flags} db=0 sub=0 psub=0 ssub=0 multi=-1 \
             qbuf={input_bytes} qbuf-free=0 argv-mem=0 multi-mem=0 rbs=0 rbp=0 obl={reply_bytes} oll=0 omem=0 \
             tot-mem={} events=r cmd={} user=default redir=-1 resp={resp}\n",
            self.id,
            address(self.addr),
            address(self.local_addr),
            String::from_utf8_lossy(&self.name),
            seconds(self.since),
            seconds(self.active),
            input_bytes + reply_bytes,
            self.command.map_or("NULL", |command| command.name),
        )
    }
}

fn is_one_of(word: &[u8], names: &[&str]) -> bool {
    names.iter().any(|name| word.eq_ignore_ascii_case(name.as_bytes()))
}

/// Kinds of clients that Redis names; there are only normal ones here.
const TYPES: &[&str] = &["normal", "master", "slave", "replica", "pubsub"];

fn is_normal(kind: &[u8]) -> Result<bool, String> {
    if is_one_of(kind, TYPES) {
        Ok(kind.eq_ignore_ascii_case(b"normal"))
    } else {
        Err(format!("ERR Unknown client type '{}'", String::from_utf8_lossy(kind)))
    }
}

/// Which connections `CLIENT LIST` and `CLIENT KILL` mean.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientFilter {
    /// None of them: the kind does not occur.
    nobody: bool,
    ids: Option<Vec<u64>>,
    addr: Option<Vec<u8>>,
    local_addr: Option<Vec<u8>>,
    /// This one is spared.
    spared: Option<u64>,
}

impl ClientFilter {
    /// That of `CLIENT LIST`.
    ///
    /// # Errors
    /// Redis' error text.
    pub fn of_list(args: Args<'_>) -> Result<ClientFilter, String> {
        let mut filter = ClientFilter::default();
        match args.get(2) {
            None => {}
            Some(word) if word.eq_ignore_ascii_case(b"TYPE") && args.len() == 4 => {
                filter.nobody = !is_normal(&args[3])?;
            }
            Some(word) if word.eq_ignore_ascii_case(b"ID") && args.len() > 3 => {
                let ids = args.from(3).iter().map(|id| parse_integer(id).ok_or("ERR Invalid client ID"));
                let ids: Vec<i64> = ids.collect::<Result<_, _>>()?;
                filter.ids = Some(ids.into_iter().filter_map(|id| u64::try_from(id).ok()).collect());
            }
            Some(_) => return Err(SYNTAX_ERROR.into()),
        }
        Ok(filter)
    }

    /// That of `CLIENT KILL`, asked for by the connection `asker`.
    ///
    /// # Errors
    /// Redis' error text.
    pub fn of_kill(args: Args<'_>, asker: u64) -> Result<ClientFilter, String> {
        if args.len() == 3 {
            return Ok(ClientFilter { addr: Some(args[2].to_vec()), ..ClientFilter::default() });
        }
        let mut filter = ClientFilter { spared: Some(asker), ..ClientFilter::default() };
        let mut words = args.from(2).iter();
        while let Some(word) = words.next() {
            let value = words.next().ok_or(SYNTAX_ERROR)?;
            match word.to_ascii_uppercase().as_slice() {
                b"ID" => match parse_integer(value).and_then(|id| u64::try_from(id).ok()).filter(|id| *id > 0) {
                    Some(id) => filter.ids = Some(vec![id]),
                    None => return Err("ERR client-id should be greater than 0".into()),
                },
                b"TYPE" => filter.nobody = !is_normal(value)?,
                b"USER" if value == b"default" => {}
                b"USER" => return Err(format!("ERR No such user '{}'", String::from_utf8_lossy(value))),
                b"ADDR" => filter.addr = Some(value.to_vec()),
                b"LADDR" => filter.local_addr = Some(value.to_vec()),
                b"SKIPME" if value.eq_ignore_ascii_case(b"yes") => filter.spared = Some(asker),
                b"SKIPME" if value.eq_ignore_ascii_case(b"no") => filter.spared = None,
                _ => return Err(SYNTAX_ERROR.into()),
            }
        }
        Ok(filter)
    }

    /// Whether it means this connection.
    #[must_use]
    pub fn means(&self, session: &Session) -> bool {
        let is_at = |wanted: &Option<Vec<u8>>, addr: Option<SocketAddr>| {
            wanted.as_ref().is_none_or(|wanted| addr.is_some_and(|addr| addr.to_string().as_bytes() == wanted))
        };
        !self.nobody
            && self.spared != Some(session.id)
            && self.ids.as_ref().is_none_or(|ids| ids.contains(&session.id))
            && is_at(&self.addr, session.addr)
            && is_at(&self.local_addr, session.local_addr)
    }
}
