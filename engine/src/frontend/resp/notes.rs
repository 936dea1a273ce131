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
        "cluster" => "3.0.0",
        "client|reply" => "3.2.0",
        "touch" => "3.2.1",
        "memory" | "memory|help" | "memory|usage" | "object|freq" | "unlink" => "4.0.0",
        "client|help" | "client|id" | "command|help" | "config|help" => "5.0.0",
        "hello" => "6.0.0",
        "client|info" | "copy" | "getdel" | "getex" | "object|help" | "reset" | "slowlog|help" => "6.2.0",
        "client|no-evict" | "command|docs" | "command|list" | "expiretime" | "pexpiretime" => "7.0.0",
        "client|no-touch" | "client|setinfo" => "7.2.0",
        "delex" => "8.4.0",
        _ => "",
    }
}

/// Differences from Redis 7.0.15, by command; what holds for many commands stands in REDIS.md.
pub const DIFFERENCES: &[(&str, &str)] = &[];
