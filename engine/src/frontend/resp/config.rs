//! `CONFIG`: what a Redis would call the node's settings, and the two of the slow log, which can be changed.

use net::resp::{Args, Protocol, parse_integer, reply};

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

fn get(patterns: Args<'_>, node: &NodeFacts, protocol: Protocol, out: &mut Vec<u8>) {
    let fsync = match node.durability {
        Durability::Fsync => "always",
        Durability::Os => "everysec",
    };
    let settings = [
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
    ];
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
        return Err(super::wrong_arity("config|set"));
    }
    let words: Vec<&[u8]> = pairs.iter().collect();
    let mut changes = Vec::new();
    for (at, pair) in words.chunks_exact(2).enumerate() {
        let name = pair[0].to_ascii_lowercase();
        let shown = String::from_utf8_lossy(pair[0]);
        let failed = |why: &str| format!("ERR CONFIG SET failed (possibly related to argument '{shown}') - {why}");
        if words.chunks_exact(2).take(at).any(|earlier| earlier[0].eq_ignore_ascii_case(&name)) {
            return Err(failed("duplicate parameter"));
        }
        let number = || parse_integer(pair[1]).ok_or_else(|| failed("argument couldn't be parsed into an integer"));
        changes.push(match name.as_slice() {
            name if name == LOG_SLOWER_THAN.as_bytes() => match number()? {
                us @ -1.. => Change::SlowerThan(us),
                _ => return Err(failed("argument must be between -1 and 9223372036854775807 inclusive")),
            },
            name if name == MAX_LEN.as_bytes() => match usize::try_from(number()?) {
                Ok(len) => Change::MaxLen(len),
                Err(_) => return Err(failed("argument must be between 0 and 9223372036854775807 inclusive")),
            },
            _ => {
                return Err(failed("it is set in region.env or the environment, when the node starts"));
            }
        });
    }
    for change in changes {
        match change {
            Change::SlowerThan(us) => node.slow_log.set_threshold_us(us),
            Change::MaxLen(len) => node.slow_log.set_len_max(len),
        }
    }
    Ok(())
}
