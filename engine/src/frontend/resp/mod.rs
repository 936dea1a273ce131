//! The Redis protocol on the storage port.
//!
//! - [`table`]: every command with its arity and its keys; what COMMAND answers.
//! - [`keys`]: commands on one key, run on the core that owns it.
//! - [`session`]: commands about the connection and the server.
//! - [`transaction`]: what a connection collects between MULTI and EXEC.
//! - [`script`]: a transaction on its way through the cores, stage by stage.
//! - [`crossing`]: commands that look at some keys before they write others (`RENAME`, `COPY`, `MSETNX`).
//!
//! Read-modify-write commands (`INCR`, `SET NX`, `EXPIRE`, …) are atomic on the key's core of this region. Between regions
//! the last writer wins: two increments of one key in two regions within the replication delay count as one.

pub mod crossing;
pub mod keys;
pub mod script;
pub mod session;
pub mod set_options;
pub mod table;
pub mod transaction;

/// `ERR wrong number of arguments for 'get' command`
#[must_use]
pub fn wrong_arity(name: &str) -> String {
    format!("ERR wrong number of arguments for '{}' command", name.to_ascii_lowercase())
}

/// Redis' text for a command it does not know: the name and the beginning of its arguments, each cut to 128 bytes.
#[must_use]
pub fn unknown_command(args: net::resp::Args<'_>) -> String {
    let mut arguments = String::new();
    for argument in args.from(1).iter() {
        if arguments.len() >= 128 {
            break;
        }
        let shown = &argument[..argument.len().min(128 - arguments.len())];
        arguments.push_str(&format!("'{}' ", String::from_utf8_lossy(shown)));
    }
    let name = args.get(0).unwrap_or_default();
    let name = String::from_utf8_lossy(&name[..name.len().min(128)]).into_owned();
    format!("ERR unknown command '{name}', with args beginning with: {arguments}")
}

/// Redis' text for a number that is none.
pub const NOT_AN_INTEGER: &str = "ERR value is not an integer or out of range";
/// Redis' text for anything its grammar does not allow.
pub const SYNTAX_ERROR: &str = "ERR syntax error";
