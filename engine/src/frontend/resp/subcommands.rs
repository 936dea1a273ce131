//! The rows of the command table that are subcommands. Their arity counts the container's name, too.

use super::table::{Command, EveryVerb, KeyVerb, Kind, NONE, READ_MANY, SHOW, SessionVerb, commands};

const OWN: &[&str] = &["noscript", "loading", "stale"];
const OPERATOR: &[&str] = &["admin", "noscript", "loading", "stale"];
const OPERATOR_LOG: &[&str] = &["admin", "loading", "stale"];
const SECOND: (i64, i64, i64) = (2, 2, 1);

/// `OBJECT`.
#[rustfmt::skip]
pub(super) const OBJECT: &[Command] = commands! {
    "object|encoding" 3 SECOND READ_MANY "generic" Kind::Key(KeyVerb::Encoding), "Returns the encoding that Redis would choose for a key's value.";
    "object|idletime" 3 SECOND READ_MANY "generic" Kind::Key(KeyVerb::IdleTime), "Returns the time since a key was last written, in seconds.";
    "object|refcount" 3 SECOND READ_MANY "generic" Kind::Key(KeyVerb::RefCount), "Returns the number of references to a key's value: 1.";
    "object|freq" 3 SECOND READ_MANY "generic" Kind::Key(KeyVerb::Freq), "Answers with an error: access frequencies are not kept.";
    "object|help" 2 NONE SHOW "generic" Kind::Session(SessionVerb::Help), "Returns helpful text about the subcommands.";
};

/// `MEMORY`.
#[rustfmt::skip]
pub(super) const MEMORY: &[Command] = commands! {
    "memory|usage" -3 SECOND READ_MANY "server" Kind::Key(KeyVerb::MemoryUsage), "Returns the bytes that a key takes in log and index.";
    "memory|help" 2 NONE SHOW "server" Kind::Session(SessionVerb::Help), "Returns helpful text about the subcommands.";
};

/// `CLIENT`.
#[rustfmt::skip]
pub(super) const CLIENT: &[Command] = commands! {
    "client|id" 2 NONE OWN "connection" Kind::Session(SessionVerb::Client), "Returns the connection's ID, unique within this run of the node.";
    "client|getname" 2 NONE OWN "connection" Kind::Session(SessionVerb::Client), "Returns the name of the connection.";
    "client|setname" 3 NONE OWN "connection" Kind::Session(SessionVerb::Client), "Sets the name of the connection.";
    "client|setinfo" 4 NONE OWN "connection" Kind::Session(SessionVerb::Client), "Takes the name or the version of the client's library and forgets it.";
    "client|info" 2 NONE OWN "connection" Kind::Session(SessionVerb::Client), "Returns information about the connection.";
    "client|list" -2 NONE OPERATOR "connection" Kind::Everywhere(EveryVerb::ClientList), "Lists open connections.";
    "client|kill" -3 NONE OPERATOR "connection" Kind::Everywhere(EveryVerb::ClientKill), "Closes open connections.";
    "client|reply" 3 NONE OWN "connection" Kind::Session(SessionVerb::Client), "Sets whether the server replies to commands.";
    "client|no-evict" 3 NONE OPERATOR "connection" Kind::Session(SessionVerb::Client), "Takes a client eviction mode; no client is ever evicted.";
    "client|no-touch" 3 NONE OWN "connection" Kind::Session(SessionVerb::Client), "Takes ON or OFF; access times are not kept.";
    "client|help" 2 NONE SHOW "connection" Kind::Session(SessionVerb::Help), "Returns helpful text about the subcommands.";
};

/// `GODWIT.SESSION`.
#[rustfmt::skip]
pub(super) const SESSION: &[Command] = commands! {
    "godwit.session|begin" 2 NONE OWN "connection" Kind::Session(SessionVerb::Session), "Begins to collect what the connection reads and writes.";
    "godwit.session|after" -3 NONE OWN "connection" Kind::Session(SessionVerb::Session), "Goes on with a session once this node has all that it has seen.";
    "godwit.session|token" 2 NONE OWN "connection" Kind::Session(SessionVerb::Session), "Returns a token of all that the connection's session has seen.";
    "godwit.session|help" 2 NONE SHOW "connection" Kind::Session(SessionVerb::Help), "Returns helpful text about the subcommands.";
};

/// `CONFIG`.
#[rustfmt::skip]
pub(super) const CONFIG: &[Command] = commands! {
    "config|get" -3 NONE OPERATOR "server" Kind::Session(SessionVerb::Config), "Returns the values of configuration parameters.";
    "config|set" -4 NONE OPERATOR "server" Kind::Session(SessionVerb::Config), "Sets the parameters of the slow log.";
    "config|help" 2 NONE SHOW "server" Kind::Session(SessionVerb::Help), "Returns helpful text about the subcommands.";
};

/// `COMMAND`, which is a command of its own as well.
#[rustfmt::skip]
pub(super) const COMMAND: &[Command] = commands! {
    "command|count" 2 NONE SHOW "server" Kind::Session(SessionVerb::Command), "Returns the number of commands.";
    "command|docs" -2 NONE SHOW "server" Kind::Session(SessionVerb::Command), "Returns documentation about one, several or all commands.";
    "command|info" -2 NONE SHOW "server" Kind::Session(SessionVerb::Command), "Returns details of one, several or all commands.";
    "command|list" -2 NONE SHOW "server" Kind::Session(SessionVerb::Command), "Returns command names, filtered by category or pattern if asked.";
    "command|getkeys" -4 NONE SHOW "server" Kind::Session(SessionVerb::Command), "Extracts the key names from a command.";
    "command|help" 2 NONE SHOW "server" Kind::Session(SessionVerb::Help), "Returns helpful text about the subcommands.";
};

/// `SLOWLOG`.
#[rustfmt::skip]
pub(super) const SLOWLOG: &[Command] = commands! {
    "slowlog|get" -2 NONE OPERATOR_LOG "server" Kind::Session(SessionVerb::SlowLog), "Returns the slow log's entries.";
    "slowlog|len" 2 NONE OPERATOR_LOG "server" Kind::Session(SessionVerb::SlowLog), "Returns the number of entries in the slow log.";
    "slowlog|reset" 2 NONE OPERATOR_LOG "server" Kind::Session(SessionVerb::SlowLog), "Clears all entries from the slow log.";
    "slowlog|help" 2 NONE SHOW "server" Kind::Session(SessionVerb::Help), "Returns helpful text about the subcommands.";
};
