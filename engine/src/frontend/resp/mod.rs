//! The Redis protocol on the storage port.
//!
//! - [`table`]: every command with its arity and its keys; what COMMAND answers.
//! - [`keys`]: commands on one key, run on the core that owns it; expiry and numbers have files of their own.
//! - [`scan`]: what `SCAN` and `KEYS` select.
//! - [`session`]: commands about the connection and the server; the large ones have files of their own.
//! - [`transaction`]: what a connection collects between MULTI and EXEC.
//! - [`script`]: a transaction on its way through the cores, stage by stage.
//! - [`wait`]: `WAIT` and `WAITAOF`.
//! - [`crossing`]: commands that look at some keys before they write others (`RENAME`, `COPY`, `MSETNX`).
//!
//! Read-modify-write commands (`INCR`, `SET NX`, `EXPIRE`, …) are atomic on the key's core of this region. Between regions
//! the last writer wins: two increments of one key in two regions within the replication delay count as one.

pub mod client_command;
mod config;
pub mod crossing;
mod describe;
mod expire;
mod extended;
mod info;
pub mod keys;
pub mod notes;
mod numbers;
mod object;
mod range;
pub mod scan;
pub mod script;
pub mod session;
pub mod set_options;
pub mod slow_log;
mod subcommands;
pub mod table;
pub mod transaction;
pub mod wait;

/// `ERR wrong number of arguments for 'get' command`
#[must_use]
pub fn wrong_arity(name: &str) -> String {
    format!("ERR wrong number of arguments for '{}' command", name.to_ascii_lowercase())
}

/// Redis' text for a subcommand it does not know.
#[must_use]
pub fn unknown_subcommand(sub: &[u8], container: &str) -> String {
    let shown = String::from_utf8_lossy(&sub[..sub.len().min(128)]).into_owned();
    format!("ERR unknown subcommand '{shown}'. Try {} HELP.", container.to_ascii_uppercase())
}

/// Redis' text for a command it does not know: the name and the beginning of its arguments, each cut to 128 bytes.
#[must_use]
pub fn unknown_command(args: net::resp::Args<'_>) -> String {
    let mut arguments = String::new();
    for argument in args.from(1).iter() {
        if arguments.len() >= 128 {
            break;
        }
        let shown = printed(&argument[..argument.len().min(128 - arguments.len())]);
        arguments.push_str(&format!("'{}' ", String::from_utf8_lossy(shown)));
    }
    let name = args.get(0).unwrap_or_default();
    let name = String::from_utf8_lossy(printed(&name[..name.len().min(128)])).into_owned();
    format!("ERR unknown command '{name}', with args beginning with: {arguments}")
}

/// As much of it as C prints.
fn printed(text: &[u8]) -> &[u8] {
    text.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Redis' text for a number that is none.
pub const NOT_AN_INTEGER: &str = "ERR value is not an integer or out of range";
/// Redis' text for anything its grammar does not allow.
pub const SYNTAX_ERROR: &str = "ERR syntax error";
/// Redis' text for a string that is longer than any.
pub const STRING_TOO_LONG: &str = "ERR string exceeds maximum allowed size (proto-max-bulk-len)";
