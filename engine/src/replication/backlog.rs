//! Backlog: which of a source's logs a follower lacks so much of that it gets that on a connection of its own, beside what is being written.
//!
//! The live connection then begins at what the source claims by now, and its first claim does, too. The follower keeps such claims
//! until it holds what lies below: records may travel in any order, only claims are ordered.

use net::wire::body::{BacklogLog, FollowLog};
use wal::Version;

use super::logs::{OwnLog, OwnLogs};
use super::{from_wire, to_wire};

/// The logs that are not streamed from where they are wanted: none, if all of `wanted` takes at most `bytes_max` of reading. Otherwise
/// all that the follower lacks something of, and the running one, each with the version up to which it is to be asked for elsewhere.
pub(super) fn of(logs: &OwnLogs, wanted: &[FollowLog], bytes_max: u64) -> Vec<BacklogLog> {
    let own = || wanted.iter().filter_map(|entry| Some((from_wire(entry.from), logs.get(entry.log)?)));
    let lacking: u64 = own().map(|(from, log)| lacking_bytes(log, from)).sum();
    if lacking <= bytes_max {
        return Vec::new();
    }
    let lies_back = |(from, log): (Version, &OwnLog)| {
        // A follower that holds more of the running log than there is has to be noticed, not to be served.
        let upto = log.end.unwrap_or(log.complete().max(from));
        (log.end.is_none() || from < upto).then_some(BacklogLog { log: log.id, upto: to_wire(upto) })
    };
    own().filter_map(lies_back).collect()
}

/// What a live connection streams of `wanted` when `lacking` is asked for elsewhere.
pub(super) fn left_to_follow(logs: &OwnLogs, wanted: &[FollowLog], lacking: &[BacklogLog]) -> Vec<FollowLog> {
    let here = |entry: &FollowLog| match lacking.iter().find(|lacking| lacking.log == entry.log) {
        Some(lacking) => {
            let is_running = logs.get(entry.log).is_some_and(|log| log.end.is_none());
            is_running.then_some(FollowLog { from: lacking.upto, ..*entry })
        }
        // Of a retired one that is held nothing is left to be streamed, once others travel elsewhere.
        None => (lacking.is_empty() || logs.get(entry.log).is_none()).then_some(*entry),
    };
    wanted.iter().filter_map(here).collect()
}

/// About how many bytes of log that are.
pub(super) fn bytes_of(logs: &OwnLogs, wanted: &[FollowLog], lacking: &[BacklogLog]) -> u64 {
    let is_lacking = |entry: &&FollowLog| lacking.iter().any(|lacking| lacking.log == entry.log);
    let of = |entry: &FollowLog| logs.get(entry.log).map_or(0, |log| lacking_bytes(log, from_wire(entry.from)));
    wanted.iter().filter(is_lacking).map(of).sum()
}

fn lacking_bytes(log: &OwnLog, from: Version) -> u64 {
    if log.end.is_some_and(|end| from >= end) {
        return 0;
    }
    log.cores.iter().map(|core| core.lacking_bytes(from)).sum()
}
