//! The command table: name, arity, keys, flags, summary. COMMAND answers from it, dispatch looks names up in it.

use net::resp::Protocol;
use net::resp::reply;

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
    GetSet,
    StrLen,
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
    DelEx,
    DelIfEq,
}

/// Commands on several keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the Redis command of that name")]
pub enum ManyVerb {
    Del,
    Exists,
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
    DbSize,
    Scan,
    Time,
    Reset,
    Cluster,
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
            ManyVerb::Exists => (b"EXISTS", KeyVerb::Exists, Merge::Sum),
            ManyVerb::MGet => (b"GET", KeyVerb::Get, Merge::Concatenate),
            ManyVerb::MSet => (b"SET", KeyVerb::Set, Merge::AllOk),
        };
        let step = if self == ManyVerb::MSet { 2 } else { 1 };
        Part { word, verb, step, merge, array: self == ManyVerb::MGet }
    }
}

/// One command.
#[derive(Clone, Copy, Debug)]
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

const WRITE: &[&str] = &["write", "denyoom", "fast"];
const WRITE_MANY: &[&str] = &["write", "denyoom"];
const READ: &[&str] = &["readonly", "fast"];
const ADMIN: &[&str] = &["loading", "stale", "fast"];
const ONE: (i64, i64, i64) = (1, 1, 1);
const ALL: (i64, i64, i64) = (1, -1, 1);
const NONE: (i64, i64, i64) = (0, 0, 0);

macro_rules! commands {
    ($($name:literal $arity:literal $keys:ident $flags:ident $group:literal $kind:expr, $summary:literal;)*) => {
        &[$(Command { name: $name, arity: $arity, keys: $keys, flags: $flags, summary: $summary, group: $group, kind: $kind }),*]
    };
}

/// All commands, the most frequent first: lookup is a scan over names of equal length.
#[rustfmt::skip]
pub const COMMANDS: &[Command] = commands! {
    "get" 2 ONE READ "string" Kind::Key(KeyVerb::Get), "Returns the string value of a key.";
    "set" -3 ONE WRITE "string" Kind::Key(KeyVerb::Set), "Sets the string value of a key, ignoring its type. The key is created if it doesn't exist.";
    "del" -2 ALL WRITE "generic" Kind::Many(ManyVerb::Del), "Deletes one or more keys.";
    "mget" -2 ALL READ "string" Kind::Many(ManyVerb::MGet), "Atomically per key returns the string values of one or more keys.";
    "mset" -3 PAIRS WRITE_MANY "string" Kind::Many(ManyVerb::MSet), "Sets the string values of one or more keys; each key on its own.";
    "incr" 2 ONE WRITE "string" Kind::Key(KeyVerb::Incr), "Increments the integer value of a key by one. Uses 0 as initial value if the key doesn't exist.";
    "decr" 2 ONE WRITE "string" Kind::Key(KeyVerb::Decr), "Decrements the integer value of a key by one. Uses 0 as initial value if the key doesn't exist.";
    "incrby" 3 ONE WRITE "string" Kind::Key(KeyVerb::IncrBy), "Increments the integer value of a key by a number.";
    "decrby" 3 ONE WRITE "string" Kind::Key(KeyVerb::DecrBy), "Decrements a number from the integer value of a key.";
    "incrbyfloat" 3 ONE WRITE "string" Kind::Key(KeyVerb::IncrByFloat), "Increments the floating point value of a key by a number.";
    "exists" -2 ALL READ "generic" Kind::Many(ManyVerb::Exists), "Determines whether one or more keys exist.";
    "unlink" -2 ALL WRITE "generic" Kind::Many(ManyVerb::Del), "Deletes one or more keys.";
    "setnx" 3 ONE WRITE "string" Kind::Key(KeyVerb::SetNx), "Set the string value of a key only when the key doesn't exist.";
    "setex" 4 ONE WRITE "string" Kind::Key(KeyVerb::SetEx), "Sets the string value and expiration time in seconds of a key.";
    "psetex" 4 ONE WRITE "string" Kind::Key(KeyVerb::PSetEx), "Sets the string value and expiration time in milliseconds of a key.";
    "getset" 3 ONE WRITE "string" Kind::Key(KeyVerb::GetSet), "Returns the previous string value of a key after setting it to a new value.";
    "getdel" 2 ONE WRITE "string" Kind::Key(KeyVerb::GetDel), "Returns the string value of a key after deleting the key.";
    "strlen" 2 ONE READ "string" Kind::Key(KeyVerb::StrLen), "Returns the length of a string value.";
    "append" 3 ONE WRITE "string" Kind::Key(KeyVerb::Append), "Appends a string to the value of a key. Creates the key if it doesn't exist.";
    "expire" -3 ONE WRITE "generic" Kind::Key(KeyVerb::Expire), "Sets the expiration time of a key in seconds.";
    "pexpire" -3 ONE WRITE "generic" Kind::Key(KeyVerb::PExpire), "Sets the expiration time of a key in milliseconds.";
    "expireat" -3 ONE WRITE "generic" Kind::Key(KeyVerb::ExpireAt), "Sets the expiration time of a key to a Unix timestamp.";
    "pexpireat" -3 ONE WRITE "generic" Kind::Key(KeyVerb::PExpireAt), "Sets the expiration time of a key to a Unix milliseconds timestamp.";
    "ttl" 2 ONE READ "generic" Kind::Key(KeyVerb::Ttl), "Returns the expiration time in seconds of a key.";
    "pttl" 2 ONE READ "generic" Kind::Key(KeyVerb::PTtl), "Returns the expiration time in milliseconds of a key.";
    "expiretime" 2 ONE READ "generic" Kind::Key(KeyVerb::ExpireTime), "Returns the expiration time of a key as a Unix timestamp.";
    "pexpiretime" 2 ONE READ "generic" Kind::Key(KeyVerb::PExpireTime), "Returns the expiration time of a key as a Unix milliseconds timestamp.";
    "persist" 2 ONE WRITE "generic" Kind::Key(KeyVerb::Persist), "Removes the expiration time of a key.";
    "type" 2 ONE READ "generic" Kind::Key(KeyVerb::Type), "Determines the type of value stored at a key.";
    "ping" -1 NONE ADMIN "connection" Kind::Session(SessionVerb::Ping), "Returns the server's liveliness response.";
    "echo" 2 NONE ADMIN "connection" Kind::Session(SessionVerb::Echo), "Returns the given string.";
    "hello" -1 NONE ADMIN "connection" Kind::Session(SessionVerb::Hello), "Handshakes with the server.";
    "auth" -2 NONE ADMIN "connection" Kind::Session(SessionVerb::Auth), "Authenticates the connection; there are no passwords yet.";
    "select" 2 NONE ADMIN "connection" Kind::Session(SessionVerb::Select), "Changes the selected database; only 0 exists.";
    "quit" -1 NONE ADMIN "connection" Kind::Session(SessionVerb::Quit), "Closes the connection.";
    "reset" 1 NONE ADMIN "connection" Kind::Session(SessionVerb::Reset), "Resets the connection.";
    "client" -2 NONE ADMIN "connection" Kind::Session(SessionVerb::Client), "A container for client connection commands.";
    "config" -2 NONE ADMIN "server" Kind::Session(SessionVerb::Config), "A container for server configuration commands.";
    "info" -1 NONE ADMIN "server" Kind::Session(SessionVerb::Info), "Returns information and statistics about the server.";
    "command" -1 NONE ADMIN "server" Kind::Session(SessionVerb::Command), "Returns detailed information about all commands.";
    "cluster" -2 NONE ADMIN "cluster" Kind::Session(SessionVerb::Cluster), "A container for cluster commands; there is no cluster.";
    "dbsize" 1 NONE READ "server" Kind::Session(SessionVerb::DbSize), "Returns the number of keys in the database.";
    "time" 1 NONE ADMIN "server" Kind::Session(SessionVerb::Time), "Returns the server time.";
    "scan" -2 NONE READ "generic" Kind::Session(SessionVerb::Scan), "Iterates over the key names in the database.";
    "multi" 1 NONE CONTROL "transactions" Kind::Transaction(TransactionVerb::Multi), "Starts a transaction.";
    "exec" 1 NONE CONTROL "transactions" Kind::Transaction(TransactionVerb::Exec), "Executes all commands in a transaction.";
    "discard" 1 NONE CONTROL "transactions" Kind::Transaction(TransactionVerb::Discard), "Discards a transaction.";
    "watch" -2 ALL CONTROL "transactions" Kind::Transaction(TransactionVerb::Watch), "Monitors changes to keys to determine the execution of a transaction.";
    "unwatch" 1 NONE CONTROL "transactions" Kind::Transaction(TransactionVerb::Unwatch), "Forgets about watched keys of a transaction.";
    "msetnx" -3 PAIRS WRITE_MANY "string" Kind::Crossing(CrossingVerb::MSetNx), "Atomically modifies the string values of one or more keys only when all keys don't exist.";
    "rename" 3 TWO WRITE_MANY "generic" Kind::Crossing(CrossingVerb::Rename), "Renames a key and overwrites the destination.";
    "renamenx" 3 TWO WRITE "generic" Kind::Crossing(CrossingVerb::RenameNx), "Renames a key only when the target key name doesn't exist.";
    "copy" -3 TWO WRITE_MANY "generic" Kind::Crossing(CrossingVerb::Copy), "Copies the value of a key to a new key.";
    "delex" -2 ONE WRITE "string" Kind::Key(KeyVerb::DelEx), "Deletes a key, optionally only if it has a given value. The syntax is that of Redis 8.4.";
    "delifeq" 3 ONE WRITE "string" Kind::Key(KeyVerb::DelIfEq), "Deletes a key if it has the given value. The syntax is that of Valkey 9.0.";
};

const PAIRS: (i64, i64, i64) = (1, -1, 2);
const TWO: (i64, i64, i64) = (1, 2, 1);
const CONTROL: &[&str] = &["noscript", "loading", "stale", "fast", "allow_busy"];

impl Command {
    /// Whether `count` arguments, the name included, are acceptable.
    #[must_use]
    pub fn accepts(&self, count: usize) -> bool {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        if self.arity >= 0 { count == self.arity } else { count >= -self.arity }
    }

    fn describe(&self, out: &mut Vec<u8>, protocol: Protocol) {
        reply::array_header(out, 10);
        reply::bulk(out, self.name.as_bytes());
        reply::integer(out, self.arity);
        reply::set_header(out, protocol, self.flags.len());
        for flag in self.flags {
            reply::simple(out, flag);
        }
        reply::integer(out, self.keys.0);
        reply::integer(out, self.keys.1);
        reply::integer(out, self.keys.2);
        // ACL categories, tips, key specifications, subcommands: none.
        reply::set_header(out, protocol, 0);
        for _ in 0..3 {
            reply::array_header(out, 0);
        }
    }

    fn document(&self, out: &mut Vec<u8>, protocol: Protocol) {
        reply::bulk(out, self.name.as_bytes());
        reply::map_header(out, protocol, 2);
        reply::bulk(out, b"summary");
        reply::bulk(out, self.summary.as_bytes());
        reply::bulk(out, b"group");
        reply::bulk(out, self.group.as_bytes());
    }
}

/// Finds a command by its name in any case.
#[must_use]
pub fn find(name: &[u8]) -> Option<&'static Command> {
    COMMANDS
        .iter()
        .find(|command| command.name.len() == name.len() && command.name.as_bytes().eq_ignore_ascii_case(name))
}

/// `COMMAND`, and `COMMAND INFO names…`.
pub fn describe_all<'a>(names: Option<impl ExactSizeIterator<Item = &'a [u8]>>, out: &mut Vec<u8>, protocol: Protocol) {
    match names {
        None => {
            reply::array_header(out, COMMANDS.len());
            COMMANDS.iter().for_each(|command| command.describe(out, protocol));
        }
        Some(names) => {
            reply::array_header(out, names.len());
            for name in names {
                match find(name) {
                    Some(command) => command.describe(out, protocol),
                    None => reply::null(out, protocol),
                }
            }
        }
    }
}

/// `COMMAND DOCS [names…]`.
pub fn document_all<'a>(names: impl ExactSizeIterator<Item = &'a [u8]>, out: &mut Vec<u8>, protocol: Protocol) {
    let chosen: Vec<&Command> =
        if names.len() == 0 { COMMANDS.iter().collect() } else { names.filter_map(find).collect() };
    reply::map_header(out, protocol, chosen.len());
    chosen.iter().for_each(|command| command.document(out, protocol));
}
