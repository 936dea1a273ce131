//! `CONFIG`: what a Redis would call the node's settings, and the two of the slow log, which can be changed.

use net::resp::{Args, Protocol, parse_integer, reply};

use super::SYNTAX_ERROR;
use super::scan::glob;
use crate::node::{Durability, NodeFacts};

/// Answers `CONFIG`; `args` starts with its name and was checked for arity.
///
/// # Errors
/// Redis' error text.
pub(super) fn config(args: Args<'_>, node: &NodeFacts, protocol: Protocol, out: &mut Vec<u8>) -> Result<(), String> {
    if args[1].eq_ignore_ascii_case(b"SET") {
        set(args.from(2), node)?;
        reply::simple(out, "OK");
    } else {
        get(args.from(2), node, protocol, out);
    }
    Ok(())
}

fn settings(node: &NodeFacts) -> [(&'static str, String); 11] {
    let fsync = match node.durability {
        Durability::Fsync => "always",
        Durability::Os => "everysec",
    };
    [
        ("daemonize", "no".into()),
        ("save", String::new()),
        ("appendonly", "yes".into()),
        ("appendfsync", fsync.into()),
        ("databases", "1".into()),
        ("maxmemory", "0".into()),
        ("maxmemory-policy", "noeviction".into()),
        ("port", node.storage_port.to_string()),
        ("timeout", "0".into()),
        (LOG_SLOWER_THAN, node.slow_log.threshold_us().to_string()),
        (MAX_LEN, node.slow_log.len_max().to_string()),
    ]
}

fn get(patterns: Args<'_>, node: &NodeFacts, protocol: Protocol, out: &mut Vec<u8>) {
    let settings = settings(node);
    let chosen: Vec<_> = settings
        .iter()
        .filter(|(name, _)| patterns.iter().any(|pattern| glob(&pattern.to_ascii_lowercase(), name.as_bytes())))
        .collect();
    reply::map_header(out, protocol, chosen.len());
    for (name, value) in chosen {
        reply::bulk(out, name.as_bytes());
        reply::bulk(out, value.as_bytes());
    }
}

const LOG_SLOWER_THAN: &str = "slowlog-log-slower-than";
const MAX_LEN: &str = "slowlog-max-len";

/// What a pair of `CONFIG SET` asks for.
enum Change {
    SlowerThan(i64),
    MaxLen(usize),
}

/// All pairs are judged before the first one holds.
fn set(pairs: Args<'_>, node: &NodeFacts) -> Result<(), String> {
    if !pairs.len().is_multiple_of(2) {
        return Err(SYNTAX_ERROR.into());
    }
    let words: Vec<&[u8]> = pairs.iter().collect();
    let pairs: Vec<(&[u8], &[u8])> = words.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
    for (at, (name, _)) in pairs.iter().enumerate() {
        if pairs[..at].iter().any(|(earlier, _)| earlier.eq_ignore_ascii_case(name)) {
            return Err(failed(name, "duplicate parameter"));
        }
    }
    let changes: Vec<Change> = pairs.iter().map(|(name, value)| change(name, value, node)).collect::<Result<_, _>>()?;
    for change in changes {
        match change {
            Change::SlowerThan(us) => node.slow_log.set_threshold_us(us),
            Change::MaxLen(len) => node.slow_log.set_len_max(len),
        }
    }
    Ok(())
}

fn failed(name: &[u8], why: &str) -> String {
    format!("ERR CONFIG SET failed (possibly related to argument '{}') - {why}", String::from_utf8_lossy(name))
}

fn change(name: &[u8], value: &[u8], node: &NodeFacts) -> Result<Change, String> {
    let number = || parse_integer(value).ok_or_else(|| failed(name, "argument couldn't be parsed into an integer"));
    let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
    if is(LOG_SLOWER_THAN) {
        return match number()? {
            us @ -1.. => Ok(Change::SlowerThan(us)),
            _ => Err(failed(name, "argument must be between -1 and 9223372036854775807 inclusive")),
        };
    }
    if is(MAX_LEN) {
        let outside = |_| failed(name, "argument must be between 0 and 9223372036854775807 inclusive");
        return usize::try_from(number()?).map(Change::MaxLen).map_err(outside);
    }
    if settings(node).iter().any(|(known, _)| is(known)) {
        return Err(failed(name, "can't set immutable config"));
    }
    let name = String::from_utf8_lossy(name);
    Err(format!("ERR Unknown option or number of arguments for CONFIG SET - '{name}'"))
}
