//! The command table: name, arity, keys, flags, summary. COMMAND answers from it, dispatch looks names up in it.

use net::resp::Args;

use super::{subcommands, unknown_command, unknown_subcommand, wrong_arity};

use crate::frontend::replies::Merge;

/// How a command is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// On one key (the first argument), on that key's core.
    Key(KeyVerb),
    /// On several keys, each on its core.
    Many(ManyVerb),
    /// About the connection or the server.
    Session(SessionVerb),
    /// By every core, each for its own part.
    Everywhere(EveryVerb),
    /// Named by its first argument.
    Container(&'static [Command]),
    /// Looks at some keys before it writes others, on all their cores at once.
    Crossing(CrossingVerb),
    /// About transactions.
    Transaction(TransactionVerb),
}

/// Commands on one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the Redis command of that name")]
pub enum KeyVerb {
    Get,
    Set,
    SetNx,
    SetEx,
    PSetEx,
    GetDel,
    GetEx,
    GetSet,
    StrLen,
    GetRange,
    SetRange,
    Append,
    Expire,
    PExpire,
    ExpireAt,
    PExpireAt,
    Ttl,
    PTtl,
    ExpireTime,
    PExpireTime,
    Persist,
    Incr,
    Decr,
    IncrBy,
    DecrBy,
    IncrByFloat,
    Type,
    Delete,
    Exists,
    Encoding,
    IdleTime,
    RefCount,
    Freq,
    MemoryUsage,
    DelEx,
    DelIfEq,
}

/// Commands on several keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the Redis command of that name")]
pub enum ManyVerb {
    Del,
    Exists,
    Touch,
    MGet,
    MSet,
}

/// Commands about the connection or the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the Redis command of that name")]
pub enum SessionVerb {
    Hello,
    Auth,
    Ping,
    Echo,
    Select,
    Quit,
    Client,
    Config,
    Info,
    Command,
    SlowLog,
    Role,
    Scan,
    Time,
    Wait,
    WaitAof,
    Reset,
    Cluster,
    /// `GODWIT.SESSION`.
    Session,
    /// `HELP` of a container.
    Help,
}

/// Commands that every core runs on its part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the Redis command of that name")]
pub enum EveryVerb {
    DbSize,
    Keys,
    RandomKey,
    /// `FLUSHDB` and `FLUSHALL`: there is one database.
    Flush,
    ClientList,
    ClientKill,
}

/// Commands that look at some keys before they write others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the Redis command of that name")]
pub enum CrossingVerb {
    MSetNx,
    Rename,
    RenameNx,
    Copy,
}

/// Commands about transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the Redis command of that name")]
pub enum TransactionVerb {
    Multi,
    Exec,
    Discard,
    Watch,
    Unwatch,
}

/// How a command on several keys becomes one command per key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The name of the command on one key.
    pub word: &'static [u8],
    /// That command.
    pub verb: KeyVerb,
    /// Arguments per key, the key included.
    pub step: usize,
    /// How the replies become one.
    pub merge: Merge,
    /// The reply is an array, which begins with their number.
    pub array: bool,
}

impl ManyVerb {
    /// The command on one key.
    #[must_use]
    pub fn part(self) -> Part {
        let (word, verb, merge): (&[u8], _, _) = match self {
            ManyVerb::Del => (b"DEL", KeyVerb::Delete, Merge::Sum),
            ManyVerb::Exists | ManyVerb::Touch => (b"EXISTS", KeyVerb::Exists, Merge::Sum),
            ManyVerb::MGet => (b"GET", KeyVerb::Get, Merge::Concatenate),
            ManyVerb::MSet => (b"SET", KeyVerb::Set, Merge::AllOk),
        };
        let step = if self == ManyVerb::MSet { 2 } else { 1 };
        Part { word, verb, step, merge, array: self == ManyVerb::MGet }
    }
}

/// One command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command {
    /// Lower-case name.
    pub name: &'static str,
    /// Redis' arity: positive = exactly, negative = at least; the name counts.
    pub arity: i64,
    /// First key, last key (−1 = last argument), step; zero for none.
    pub keys: (i64, i64, i64),
    /// Redis' flags.
    pub flags: &'static [&'static str],
    /// One line for COMMAND DOCS.
    pub summary: &'static str,
    /// The group for COMMAND DOCS.
    pub group: &'static str,
    /// How it is run.
    pub kind: Kind,
}

// Redis' flags, to the letter: clients take them from COMMAND.
const WRITE: &[&str] = &["write", "denyoom", "fast"];
const WRITE_MANY: &[&str] = &["write", "denyoom"];
const REMOVE: &[&str] = &["write", "fast"];
const REMOVE_MANY: &[&str] = &["write"];
pub(super) const READ: &[&str] = &["readonly", "fast"];
pub(super) const READ_MANY: &[&str] = &["readonly"];
const FAST: &[&str] = &["fast"];
const ADMIN: &[&str] = &["loading", "stale", "fast"];
const GREETING: &[&str] = &["noscript", "loading", "stale", "fast", "no_auth", "allow_busy"];
const ROLE: &[&str] = &["noscript", "loading", "stale", "fast"];
pub(super) const SHOW: &[&str] = &["loading", "stale"];
pub(super) const BARE: &[&str] = &[];
const ONE: (i64, i64, i64) = (1, 1, 1);
const ALL: (i64, i64, i64) = (1, -1, 1);
pub(super) const NONE: (i64, i64, i64) = (0, 0, 0);

macro_rules! commands {
    ($($name:literal $arity:literal $keys:ident $flags:ident $group:literal $kind:expr, $summary:literal;)*) => {
        &[$(Command { name: $name, arity: $arity, keys: $keys, flags: $flags, summary: $summary, group: $group, kind: $kind }),*]
    };
}

pub(super) use commands;

/// All commands, the most frequent first: lookup is a scan over names of equal length.
#[rustfmt::skip]
pub const COMMANDS: &[Command] = commands! {
    "get" 2 ONE READ "string" Kind::Key(KeyVerb::Get), "Returns the string value of a key.";
    "set" -3 ONE WRITE_MANY "string" Kind::Key(KeyVerb::Set), "Sets the string value of a key, ignoring its type. The key is created if it doesn't exist.";
    "del" -2 ALL REMOVE_MANY "generic" Kind::Many(ManyVerb::Del), "Deletes one or more keys.";
    "mget" -2 ALL READ "string" Kind::Many(ManyVerb::MGet), "Atomically per key returns the string values of one or more keys.";
    "mset" -3 PAIRS WRITE_MANY "string" Kind::Many(ManyVerb::MSet), "Sets the string values of one or more keys; each key on its own.";
    "incr" 2 ONE WRITE "string" Kind::Key(KeyVerb::Incr), "Increments the integer value of a key by one. Uses 0 as initial value if the key doesn't exist.";
    "decr" 2 ONE WRITE "string" Kind::Key(KeyVerb::Decr), "Decrements the integer value of a key by one. Uses 0 as initial value if the key doesn't exist.";
    "incrby" 3 ONE WRITE "string" Kind::Key(KeyVerb::IncrBy), "Increments the integer value of a key by a number.";
    "decrby" 3 ONE WRITE "string" Kind::Key(KeyVerb::DecrBy), "Decrements a number from the integer value of a key.";
    "incrbyfloat" 3 ONE WRITE "string" Kind::Key(KeyVerb::IncrByFloat), "Increments the floating point value of a key by a number.";
    "exists" -2 ALL READ "generic" Kind::Many(ManyVerb::Exists), "Determines whether one or more keys exist.";
    "unlink" -2 ALL REMOVE "generic" Kind::Many(ManyVerb::Del), "Deletes one or more keys.";
    "touch" -2 ALL READ "generic" Kind::Many(ManyVerb::Touch), "Returns how many of the keys exist; access times are not kept.";
    "setnx" 3 ONE WRITE "string" Kind::Key(KeyVerb::SetNx), "Set the string value of a key only when the key doesn't exist.";
    "setex" 4 ONE WRITE_MANY "string" Kind::Key(KeyVerb::SetEx), "Sets the string value and expiration time in seconds of a key.";
    "psetex" 4 ONE WRITE_MANY "string" Kind::Key(KeyVerb::PSetEx), "Sets the string value and expiration time in milliseconds of a key.";
    "getset" 3 ONE WRITE "string" Kind::Key(KeyVerb::GetSet), "Returns the previous string value of a key after setting it to a new value.";
    "getdel" 2 ONE REMOVE "string" Kind::Key(KeyVerb::GetDel), "Returns the string value of a key after deleting the key.";
    "getex" -2 ONE REMOVE "string" Kind::Key(KeyVerb::GetEx), "Returns the string value of a key after setting or removing its expiration time.";
    "strlen" 2 ONE READ "string" Kind::Key(KeyVerb::StrLen), "Returns the length of a string value.";
    "getrange" 4 ONE READ_MANY "string" Kind::Key(KeyVerb::GetRange), "Returns a part of the string stored at a key.";
    "substr" 4 ONE READ_MANY "string" Kind::Key(KeyVerb::GetRange), "Returns a part of the string stored at a key; the old name of GETRANGE.";
    "setrange" 4 ONE WRITE_MANY "string" Kind::Key(KeyVerb::SetRange), "Overwrites a part of a string value from an offset on. Creates the key if it doesn't exist.";
    "append" 3 ONE WRITE "string" Kind::Key(KeyVerb::Append), "Appends a string to the value of a key. Creates the key if it doesn't exist.";
    "expire" -3 ONE REMOVE "generic" Kind::Key(KeyVerb::Expire), "Sets the expiration time of a key in seconds.";
    "pexpire" -3 ONE REMOVE "generic" Kind::Key(KeyVerb::PExpire), "Sets the expiration time of a key in milliseconds.";
    "expireat" -3 ONE REMOVE "generic" Kind::Key(KeyVerb::ExpireAt), "Sets the expiration time of a key to a Unix timestamp.";
    "pexpireat" -3 ONE REMOVE "generic" Kind::Key(KeyVerb::PExpireAt), "Sets the expiration time of a key to a Unix milliseconds timestamp.";
    "ttl" 2 ONE READ "generic" Kind::Key(KeyVerb::Ttl), "Returns the expiration time in seconds of a key.";
    "pttl" 2 ONE READ "generic" Kind::Key(KeyVerb::PTtl), "Returns the expiration time in milliseconds of a key.";
    "expiretime" 2 ONE READ "generic" Kind::Key(KeyVerb::ExpireTime), "Returns the expiration time of a key as a Unix timestamp.";
    "pexpiretime" 2 ONE READ "generic" Kind::Key(KeyVerb::PExpireTime), "Returns the expiration time of a key as a Unix milliseconds timestamp.";
    "persist" 2 ONE REMOVE "generic" Kind::Key(KeyVerb::Persist), "Removes the expiration time of a key.";
    "type" 2 ONE READ "generic" Kind::Key(KeyVerb::Type), "Determines the type of value stored at a key.";
    "object" -2 NONE BARE "generic" Kind::Container(subcommands::OBJECT), "A container for object introspection commands.";
    "memory" -2 NONE BARE "server" Kind::Container(subcommands::MEMORY), "A container for memory diagnostics commands.";
    "keys" 2 NONE READ_MANY "generic" Kind::Everywhere(EveryVerb::Keys), "Returns all key names that match a pattern.";
    "randomkey" 1 NONE READ_MANY "generic" Kind::Everywhere(EveryVerb::RandomKey), "Returns a random key name.";
    "flushdb" -1 NONE REMOVE_MANY "server" Kind::Everywhere(EveryVerb::Flush), "Deletes all keys that this node shows, in every region.";
    "flushall" -1 NONE REMOVE_MANY "server" Kind::Everywhere(EveryVerb::Flush), "Deletes all keys that this node shows, in every region.";
    "ping" -1 NONE FAST "connection" Kind::Session(SessionVerb::Ping), "Returns the server's liveliness response.";
    "echo" 2 NONE ADMIN "connection" Kind::Session(SessionVerb::Echo), "Returns the given string.";
    "hello" -1 NONE GREETING "connection" Kind::Session(SessionVerb::Hello), "Handshakes with the server.";
    "auth" -2 NONE GREETING "connection" Kind::Session(SessionVerb::Auth), "Authenticates the connection; there are no passwords yet.";
    "select" 2 NONE ADMIN "connection" Kind::Session(SessionVerb::Select), "Changes the selected database; only 0 exists.";
    "quit" -1 NONE GREETING "connection" Kind::Session(SessionVerb::Quit), "Closes the connection.";
    "reset" 1 NONE GREETING "connection" Kind::Session(SessionVerb::Reset), "Resets the connection.";
    "client" -2 NONE BARE "connection" Kind::Container(subcommands::CLIENT), "A container for client connection commands.";
    "config" -2 NONE BARE "server" Kind::Container(subcommands::CONFIG), "A container for server configuration commands.";
    "info" -1 NONE SHOW "server" Kind::Session(SessionVerb::Info), "Returns information and statistics about the server.";
    "command" -1 NONE SHOW "server" Kind::Container(subcommands::COMMAND), "Returns detailed information about all commands.";
    "cluster" -2 NONE BARE "cluster" Kind::Session(SessionVerb::Cluster), "A container for cluster commands; there is no cluster.";
    "slowlog" -2 NONE BARE "server" Kind::Container(subcommands::SLOWLOG), "A container for slow log commands.";
    "role" 1 NONE ROLE "server" Kind::Session(SessionVerb::Role), "Returns the replication role: that of a primary without replicas.";
    "dbsize" 1 NONE READ "server" Kind::Everywhere(EveryVerb::DbSize), "Returns the number of keys in the database.";
    "time" 1 NONE ADMIN "server" Kind::Session(SessionVerb::Time), "Returns the server time.";
    "wait" 3 NONE WAIT "generic" Kind::Session(SessionVerb::Wait), "Waits until other nodes durably hold all that the connection wrote, and returns their number.";
    "waitaof" 4 NONE WAIT_AOF "generic" Kind::Session(SessionVerb::WaitAof), "Waits until this node and other nodes durably hold all that the connection wrote, and returns their numbers.";
    "scan" -2 NONE READ_MANY "generic" Kind::Session(SessionVerb::Scan), "Iterates over the key names in the database.";
    "multi" 1 NONE CONTROL "transactions" Kind::Transaction(TransactionVerb::Multi), "Starts a transaction.";
    "exec" 1 NONE EXEC "transactions" Kind::Transaction(TransactionVerb::Exec), "Executes all commands in a transaction.";
    "discard" 1 NONE CONTROL "transactions" Kind::Transaction(TransactionVerb::Discard), "Discards a transaction.";
    "watch" -2 ALL CONTROL "transactions" Kind::Transaction(TransactionVerb::Watch), "Monitors changes to keys to determine the execution of a transaction.";
    "unwatch" 1 NONE CONTROL "transactions" Kind::Transaction(TransactionVerb::Unwatch), "Forgets about watched keys of a transaction.";
    "msetnx" -3 PAIRS WRITE_MANY "string" Kind::Crossing(CrossingVerb::MSetNx), "Atomically modifies the string values of one or more keys only when all keys don't exist.";
    "rename" 3 TWO REMOVE_MANY "generic" Kind::Crossing(CrossingVerb::Rename), "Renames a key and overwrites the destination.";
    "renamenx" 3 TWO REMOVE "generic" Kind::Crossing(CrossingVerb::RenameNx), "Renames a key only when the target key name doesn't exist.";
    "copy" -3 TWO WRITE_MANY "generic" Kind::Crossing(CrossingVerb::Copy), "Copies the value of a key to a new key.";
    "godwit.session" -2 NONE BARE "connection" Kind::Container(subcommands::SESSION), "A container for commands of a session that moves between nodes.";
    "delex" -2 ONE REMOVE "string" Kind::Key(KeyVerb::DelEx), "Deletes a key, optionally only if it has a given value. The syntax is that of Redis 8.4.";
    "delifeq" 3 ONE REMOVE "string" Kind::Key(KeyVerb::DelIfEq), "Deletes a key if it has the given value. The syntax is that of Valkey 9.0.";
};

const WAIT: &[&str] = &["noscript"];
const WAIT_AOF: &[&str] = &["blocking"];
const PAIRS: (i64, i64, i64) = (1, -1, 2);
const TWO: (i64, i64, i64) = (1, 2, 1);
const CONTROL: &[&str] = &["noscript", "loading", "stale", "fast", "allow_busy"];
const EXEC: &[&str] = &["noscript", "loading", "stale", "skip_slowlog"];

impl Command {
    /// Those of a container; none of any other command.
    #[must_use]
    pub fn subcommands(&self) -> &'static [Command] {
        match self.kind {
            Kind::Container(subcommands) => subcommands,
            _ => &[],
        }
    }

    /// The subcommand of a container by its own name in any case.
    #[must_use]
    pub fn subcommand(&self, name: &[u8]) -> Option<&'static Command> {
        let skipped = self.name.len() + 1;
        self.subcommands().iter().find(|sub| sub.name.as_bytes()[skipped..].eq_ignore_ascii_case(name))
    }

    /// Whether `count` arguments, the name included, are acceptable.
    #[must_use]
    pub fn accepts(&self, count: usize) -> bool {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        if self.arity >= 0 { count == self.arity } else { count >= -self.arity }
    }
}

/// The command that a request means, which is a container's subcommand where it names one; arity is checked.
///
/// # Errors
/// Redis' error text.
pub fn resolve(args: Args<'_>) -> Result<&'static Command, String> {
    let command = find(args.get(0).unwrap_or_default()).ok_or_else(|| unknown_command(args))?;
    if !command.accepts(args.len()) {
        return Err(wrong_arity(command.name));
    }
    let (Kind::Container(_), Some(name)) = (command.kind, args.get(1)) else { return Ok(command) };
    let subcommand = command.subcommand(name).ok_or_else(|| unknown_subcommand(name, command.name))?;
    if subcommand.accepts(args.len()) { Ok(subcommand) } else { Err(wrong_arity(subcommand.name)) }
}

/// Finds a command by its name in any case.
#[must_use]
pub fn find(name: &[u8]) -> Option<&'static Command> {
    find_in(COMMANDS, name)
}

fn find_in(commands: &'static [Command], name: &[u8]) -> Option<&'static Command> {
    commands
        .iter()
        .find(|command| command.name.len() == name.len() && command.name.as_bytes().eq_ignore_ascii_case(name))
}

/// Finds a command, or a subcommand by its whole name (`object|encoding`): what cores name to each other, and COMMAND INFO.
#[must_use]
pub fn find_whole(name: &[u8]) -> Option<&'static Command> {
    let container = name.split(|byte| *byte == b'|').next().unwrap_or_default();
    let command = find(container)?;
    if container.len() == name.len() { Some(command) } else { find_in(command.subcommands(), name) }
}
