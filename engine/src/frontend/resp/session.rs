//! Commands about the connection and the server.

#![allow(clippy::disallowed_methods, reason = "INFO names the process")]

use net::resp::{Args, Protocol, parse_integer, reply};
use wal::Lsn;

use super::scan::glob;
use super::table::{self, SessionVerb};
use super::{NOT_AN_INTEGER, SYNTAX_ERROR};
use crate::clock::Time;
use crate::frontend::replies::ReplyQueue;
use crate::node::{Durability, GODWIT_VERSION, NodeFacts, REDIS_COMPATIBLE_VERSION};

/// Redis' text for a password that nobody asked for.
const NO_PASSWORD: &str = "ERR AUTH <password> called without any password configured for the default user. \
                           Are you sure your configuration is correct?";
/// Redis' text for a user that does not exist.
const WRONG_PASSWORD: &str = "WRONGPASS invalid username-password pair or user is disabled.";

/// What a connection remembers.
#[derive(Debug, Default)]
pub struct Session {
    /// Unique within the node.
    pub id: u64,
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
        queue.reply(Lsn(0), |bytes| match answer {
            Ok(()) => bytes.extend_from_slice(&out),
            Err(text) => reply::error(bytes, &text),
        });
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
                *self = Session { id: self.id, ..Session::default() };
                reply::simple(out, "RESET");
            }
            SessionVerb::Select => match parse_integer(&args[1]) {
                Some(0) => reply::simple(out, "OK"),
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
            SessionVerb::Client => return self.client(args, out),
            SessionVerb::Config => return config(args, node, self.protocol, out),
            SessionVerb::Info => reply::verbatim(out, self.protocol, *b"txt", &info(args.from(1), node, time)),
            SessionVerb::Command => return command(args, self.protocol, out),
            SessionVerb::DbSize => {
                let keys = node.sum(|core| &core.live_keys);
                reply::integer(out, i64::try_from(keys).unwrap_or(i64::MAX));
            }
            SessionVerb::Time => {
                reply::array_header(out, 2);
                reply::bulk(out, (time.unix_ms / 1000).to_string().as_bytes());
                reply::bulk(out, (time.unix_ms % 1000 * 1000).to_string().as_bytes());
            }
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

    fn client(&mut self, args: Args<'_>, out: &mut Vec<u8>) -> Answer {
        let sub = args[1].to_ascii_uppercase();
        match (sub.as_slice(), args.len()) {
            (b"ID", 2) => reply::integer(out, i64::try_from(self.id).unwrap_or(i64::MAX)),
            (b"GETNAME", 2) if self.name.is_empty() => reply::null(out, self.protocol),
            (b"GETNAME", 2) => reply::bulk(out, &self.name),
            (b"SETNAME", 3) => {
                self.name = valid_name(&args[2])?;
                reply::simple(out, "OK");
            }
            (b"SETINFO", 4) => {
                let known = args[2].eq_ignore_ascii_case(b"LIB-NAME") || args[2].eq_ignore_ascii_case(b"LIB-VER");
                if !known {
                    return Err(format!("ERR Unrecognized option '{}'", String::from_utf8_lossy(&args[2])));
                }
                valid_name(&args[3])?;
                reply::simple(out, "OK");
            }
            (b"ID" | b"GETNAME" | b"SETNAME" | b"SETINFO", _) => {
                let name = format!("client|{}", String::from_utf8_lossy(&sub));
                return Err(super::wrong_arity(&name));
            }
            _ => return Err(unknown_subcommand(&args[1], "CLIENT")),
        }
        Ok(())
    }
}

fn unknown_subcommand(sub: &[u8], container: &str) -> String {
    let shown = String::from_utf8_lossy(&sub[..sub.len().min(128)]).into_owned();
    format!("ERR unknown subcommand '{shown}'. Try {container} HELP.")
}

fn valid_name(name: &[u8]) -> Result<Vec<u8>, String> {
    if name.iter().all(|byte| (b'!'..=b'~').contains(byte)) {
        Ok(name.to_vec())
    } else {
        Err("ERR Client names cannot contain spaces, newlines or special characters.".into())
    }
}

fn config(args: Args<'_>, node: &NodeFacts, protocol: Protocol, out: &mut Vec<u8>) -> Answer {
    if !args[1].eq_ignore_ascii_case(b"GET") {
        return Err(if args[1].eq_ignore_ascii_case(b"SET") {
            "ERR CONFIG SET is not supported: change region.env or the environment and restart".into()
        } else {
            unknown_subcommand(&args[1], "CONFIG")
        });
    }
    if args.len() < 3 {
        return Err(super::wrong_arity("config|get"));
    }
    let fsync = match node.durability {
        Durability::Fsync => "always",
        Durability::Os => "everysec",
    };
    let port = node.storage_port.to_string();
    let settings = [
        ("save", ""),
        ("appendonly", "yes"),
        ("appendfsync", fsync),
        ("databases", "1"),
        ("maxmemory", "0"),
        ("maxmemory-policy", "noeviction"),
        ("port", port.as_str()),
        ("timeout", "0"),
    ];
    let chosen: Vec<_> = settings
        .iter()
        .filter(|(name, _)| args.from(2).iter().any(|pattern| glob(&pattern.to_ascii_lowercase(), name.as_bytes())))
        .collect();
    reply::map_header(out, protocol, chosen.len());
    for (name, value) in chosen {
        reply::bulk(out, name.as_bytes());
        reply::bulk(out, value.as_bytes());
    }
    Ok(())
}

fn command(args: Args<'_>, protocol: Protocol, out: &mut Vec<u8>) -> Answer {
    let Some(sub) = args.get(1) else {
        table::describe_all(None::<std::iter::Empty<&[u8]>>, out, protocol);
        return Ok(());
    };
    let names = args.from(2);
    match sub.to_ascii_uppercase().as_slice() {
        b"COUNT" if names.is_empty() => {
            reply::integer(out, i64::try_from(table::COMMANDS.len()).unwrap_or(i64::MAX));
        }
        b"INFO" if names.is_empty() => table::describe_all(None::<std::iter::Empty<&[u8]>>, out, protocol),
        b"INFO" => table::describe_all(Some(names.iter()), out, protocol),
        b"DOCS" => table::document_all(names.iter(), out, protocol),
        b"LIST" if names.is_empty() => {
            reply::array_header(out, table::COMMANDS.len());
            table::COMMANDS.iter().for_each(|command| reply::bulk(out, command.name.as_bytes()));
        }
        b"COUNT" => return Err(super::wrong_arity("command|count")),
        b"LIST" => return Err(SYNTAX_ERROR.into()),
        _ => return Err(unknown_subcommand(sub, "COMMAND")),
    }
    Ok(())
}

/// A number of bytes with two decimals, as Redis shows it.
fn human(bytes: u64) -> String {
    let units = ["K", "M", "G", "T", "P", "E"];
    let Some(power) = bytes.checked_ilog2().map(|log| log / 10).filter(|power| *power > 0) else {
        return format!("{bytes}B");
    };
    let hundredths = (u128::from(bytes) * 100) >> (10 * power);
    format!("{}.{:02}{}", hundredths / 100, hundredths % 100, units[power as usize - 1])
}

/// The text of INFO; `wanted` names sections, none means all.
fn info(wanted: Args<'_>, node: &NodeFacts, time: Time) -> String {
    let uptime_s = time.unix_ms.saturating_sub(node.started_unix_ms) / 1000;
    let live = node.sum(|core| &core.live_keys);
    let index_bytes = node.sum(|core| &core.index_bytes);
    let disk_full = node.sum(|core| &core.disk_full);
    let sections = [
        (
            "Server",
            format!(
                "redis_version:{REDIS_COMPATIBLE_VERSION}\r\nredis_mode:standalone\r\nos:{}\r\narch_bits:{}\r\n\
             run_id:{:08x}{:032x}\r\ngodwit_version:{GODWIT_VERSION}\r\n\
             godwit_region:{}\r\ngodwit_node:{:08x}\r\ngodwit_incarnation:{:016x}\r\ngodwit_cores:{}\r\n\
             godwit_io_backend:{}\r\nprocess_id:{}\r\ntcp_port:{}\r\nuptime_in_seconds:{uptime_s}\r\n\
             uptime_in_days:{}\r\n",
                "Linux",
                usize::BITS,
                node.node.0,
                node.incarnation.0,
                node.region,
                node.node.0,
                node.incarnation.0,
                node.cores,
                node.io_backend,
                std::process::id(),
                node.storage_port,
                uptime_s / 86_400,
            ),
        ),
        ("Clients", format!("connected_clients:{}\r\nblocked_clients:0\r\n", node.connections())),
        (
            "Memory",
            format!(
                "used_memory:{index_bytes}\r\nused_memory_human:{}\r\ngodwit_index_bytes:{index_bytes}\r\nmaxmemory:0\r\n",
                human(index_bytes),
            ),
        ),
        (
            "Persistence",
            format!(
                "loading:0\r\naof_enabled:1\r\naof_last_write_status:{}\r\ngodwit_syncs:{}\r\ngodwit_disk_full:{disk_full}\r\n",
                if node.sum(|core| &core.log_failed) == 0 && disk_full == 0 { "ok" } else { "err" },
                node.sum(|core| &core.syncs),
            ),
        ),
        (
            "Stats",
            format!(
                "total_connections_received:{}\r\ntotal_commands_processed:{}\r\ngodwit_records_originated:{}\r\ngodwit_records_followed:{}\r\n\
             godwit_records_already_applied:{}\r\ngodwit_records_superseded:{}\r\n",
                // Past connections are not counted; the present ones are at least no invention.
                node.connections(),
                node.sum(|core| &core.commands),
                node.sum(|core| &core.originated),
                node.sum(|core| &core.followed),
                node.sum(|core| &core.already_applied),
                node.sum(|core| &core.superseded),
            ),
        ),
        ("Replication", "role:master\r\nconnected_slaves:0\r\n".to_owned()),
        ("Cluster", "cluster_enabled:0\r\n".to_owned()),
        ("Keyspace", if live == 0 { String::new() } else { format!("db0:keys={live},expires=0,avg_ttl=0\r\n") }),
    ];
    let all = ["all", "default", "everything"];
    let everything =
        wanted.is_empty() || wanted.iter().any(|name| all.iter().any(|all| name.eq_ignore_ascii_case(all.as_bytes())));
    let chosen = sections
        .iter()
        .filter(|(name, _)| everything || wanted.iter().any(|want| want.eq_ignore_ascii_case(name.as_bytes())));
    chosen.map(|(name, text)| format!("# {name}\r\n{text}")).collect::<Vec<_>>().join("\r\n")
}
