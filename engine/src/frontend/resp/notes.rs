//! What COMMANDS.md and COMMAND DOCS say of a command beside its row in the table.

/// The version of Redis in which the command appeared; empty for one that Redis does not have.
#[must_use]
pub fn since(name: &str) -> &'static str {
    match name {
        "auth" | "dbsize" | "decr" | "decrby" | "del" | "echo" | "exists" | "expire" | "flushall" | "flushdb"
        | "get" | "getset" | "incr" | "incrby" | "info" | "keys" | "mget" | "ping" | "quit" | "randomkey"
        | "rename" | "renamenx" | "select" | "set" | "setnx" | "substr" | "ttl" | "type" => "1.0.0",
        "mset" | "msetnx" => "1.0.1",
        "exec" | "expireat" | "multi" => "1.2.0",
        "append" | "config" | "config|get" | "config|set" | "discard" | "setex" => "2.0.0",
        "persist" | "setrange" | "strlen" | "unwatch" | "watch" => "2.2.0",
        "object" | "object|encoding" | "object|idletime" | "object|refcount" => "2.2.3",
        "slowlog" | "slowlog|get" | "slowlog|len" | "slowlog|reset" => "2.2.12",
        "client" | "client|kill" | "client|list" | "getrange" => "2.4.0",
        "incrbyfloat" | "pexpire" | "pexpireat" | "psetex" | "pttl" | "time" => "2.6.0",
        "client|getname" | "client|setname" => "2.6.9",
        "scan" => "2.8.0",
        "role" => "2.8.12",
        "command" | "command|count" | "command|getkeys" | "command|info" => "2.8.13",
        "cluster" | "wait" => "3.0.0",
        "client|reply" => "3.2.0",
        "touch" => "3.2.1",
        "memory" | "memory|help" | "memory|usage" | "object|freq" | "unlink" => "4.0.0",
        "client|help" | "client|id" | "command|help" | "config|help" => "5.0.0",
        "hello" => "6.0.0",
        "client|info" | "copy" | "getdel" | "getex" | "object|help" | "reset" | "slowlog|help" => "6.2.0",
        "client|no-evict" | "command|docs" | "command|list" | "expiretime" | "pexpiretime" => "7.0.0",
        "client|no-touch" | "client|setinfo" | "waitaof" => "7.2.0",
        "delex" => "8.4.0",
        _ => "",
    }
}

/// Differences from Redis 7.0.15, by command; what holds for many commands stands in REDIS.md.
pub const DIFFERENCES: &[(&str, &str)] = &[
    ("auth", "Answers as a Redis without a password: the user `default` takes any."),
    ("client|info", "As `CLIENT LIST`."),
    (
        "client|list",
        "Lists the connections of all cores. Ids are unique within a run of the node but do not rise over time; `fd` is -1; \
         `qbuf` and `obl` are bytes that wait, the other sizes are 0.",
    ),
    ("client|no-evict", "Nobody is ever evicted: the mode is shown and changes nothing."),
    ("client|no-touch", "Taken from Redis 7.2. Access times are not kept: it changes nothing."),
    ("client|setinfo", "Taken from Redis 7.2, for the clients that send it; the words are checked and forgotten."),
    ("cluster", "Every subcommand answers that cluster support is disabled, `HELP` too."),
    (
        "command",
        "There are no key specifications, no tips and, in `COMMAND DOCS`, no arguments. Subcommands are described.",
    ),
    (
        "config|get",
        "Knows `daemonize`, `save`, `appendonly`, `appendfsync`, `databases`, `maxmemory`, `maxmemory-policy`, `port`, `timeout`, \
         `slowlog-log-slower-than` and `slowlog-max-len`, and shows what a Redis would call the node's settings.",
    ),
    (
        "config|set",
        "Sets `slowlog-log-slower-than` and `slowlog-max-len`, until the node ends. The other parameters cannot be set: they are in \
         region.env or the environment.",
    ),
    ("dbsize", "Asks every core. The reply waits until what it counts is durable."),
    (
        "flushall",
        "Deletes, by tombstones, every key that this node shows when a core begins with it. The tombstones travel: the keys go in \
         every region, unless somebody wrote them later. It goes on in slices beside other clients' commands, which may see \
         some keys gone and others not yet. Answered when all of it is durable; `ASYNC` and `SYNC` make no difference. Tombstones take \
         room in log and index like the keys did.",
    ),
    ("flushdb", "The same as `FLUSHALL`: there is one database."),
    (
        "godwit.session|after",
        "`GODWIT.SESSION AFTER token [milliseconds]`: waits until this node has everything that the session of the token has seen, and answers \
         `OK`; what the connection asks then is shown nothing older, and its writes get versions above all of it. 10,000 ms if nothing is said, \
         600,000 at most. When the time passes first it answers `NOTCOVERED` and says what is lacking; the connection goes on without that session, \
         commands that were sent behind it, too. What the token named belongs to the connection's own from then on.",
    ),
    (
        "godwit.session|begin",
        "Godwit's own, like the other subcommands. Before it, or `AFTER`, nothing is collected. `RESET` ends the session.",
    ),
    (
        "godwit.session|token",
        "What the connection has read and written since its session began, and what that began with: a text to be passed to `AFTER`, on \
         whatever node. It comes behind all answers to earlier commands and speaks for all of them. It is to be taken as it is. `DBSIZE` and `WATCH` \
         do not count as reads.",
    ),
    ("incrbyfloat", "The same digits as Redis on x86, on every machine. Hexadecimal numbers are refused."),
    (
        "info",
        "`used_memory` is that of the index; `total_connections_received` counts the present connections only. There are no sections \
         `CPU`, `Commandstats`, `Errorstats` and `Latencystats`; fields that begin with `godwit_` are this node's own.",
    ),
    (
        "keys",
        "Asks every core, which goes through its index in slices beside other clients' commands: a key that is there \
         throughout is returned once.",
    ),
    (
        "memory|usage",
        "The bytes of the key's record in the log and of its entry in the index. `SAMPLES` is checked and changes nothing.",
    ),
    ("mset", "Atomic per key, not as a whole: an `MSET` that fails on one key has written others."),
    (
        "object|encoding",
        "What Redis would choose for a value that is set as a whole: it shows `raw` where Redis does so for length, not where it does so \
         because of `APPEND` or `SETRANGE`.",
    ),
    ("object|freq", "Answers for every key as a Redis without an LFU policy."),
    ("object|idletime", "Counts from the last write of the key: access times are not kept."),
    ("object|refcount", "Always 1, also for small numbers, which Redis shares."),
    (
        "randomkey",
        "Every core proposes a key, chosen among neighbours in its index; cores count by the keys they hold.",
    ),
    ("role", "Regions are no replicas of each other in Redis' sense: always a primary without replicas, at offset 0."),
    (
        "scan",
        "Returns each key that was there throughout exactly once. `COUNT` is at most 100,000; `TYPE` knows strings only.",
    ),
    ("select", "There is one database, 0."),
    (
        "slowlog",
        "One log over all cores. The time of a command on one key, and of others with the flag `fast`, is the mean over what its \
         connection ran at once, under the name of the last one; below a threshold of 1 ms every command is timed on its own. \
         Of a command that every core runs, each core logs its own part, by the time for which it kept that core busy. What other \
         cores do for a command on several keys is not measured. `AUTH` and `HELLO` are never logged.",
    ),
    ("time", "Microseconds are those of a clock that counts milliseconds: the last three digits are 0."),
    ("touch", "Counts the keys; access times are not kept."),
    ("unlink", "The same as `DEL`."),
    (
        "wait",
        "Counts the other nodes of the mesh, whatever their regions, whose disks hold all that this connection wrote, by what they told \
         this node; one that was told and is unreachable now counts. What a third node handed on to a node that cannot reach this one is \
         not counted. The wait ends when the client closes its side, too.",
    ),
    (
        "waitaof",
        "Taken from Redis 7.2. Every node has a log: the first number is 1 once this node's disk holds all that this connection wrote, the \
         second is that of `WAIT`. With `DURABILITY=fsync` no reply leaves before that anyway.",
    ),
];
