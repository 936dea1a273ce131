//! C5: no gap in any position on the way. On each connection the payload offsets are those of the bytes that came before, the
//! first claim over a log begins where its follower asked, or where the source said that it begins on a live connection, and every
//! further one where the last one ended: across segments that end, are given up or used again, catch-up from files, and restarts of either
//! side, which begin another connection. A claim at the end of a pass, over a log that its source did not originate, begins where the
//! follower said that it stands; so do all claims of a bootstrap.
//!
//! That the records between two claims are all there is C8's: it looks at the follower's device when the claim takes effect.
//! B1 is judged here as far as the wire shows it: a source sends within its follower's credit.

use std::collections::{BTreeMap, BTreeSet};

use net::ids::{LogId, NodeId};
use net::wire::body::BootstrapStep;
use wal::Version;

use super::Violation;
use super::stream::Carried;

/// Checker C5.
pub const C5: &str = "C5 no gap in positions";
/// Checker B1 on the wire.
pub const CREDIT: &str = "B1 a source sends within its credit";

/// Where the source of one connection stands.
#[derive(Debug, Default)]
pub struct Positions {
    /// Payload bytes so far.
    payload: u64,
    credit: u64,
    /// By log, what the next claim begins at.
    claimed: BTreeMap<LogId, Version>,
    /// Logs that begin late on this connection, as its source said, before it sent anything of them.
    late: BTreeSet<LogId>,
    /// Whose logs the connection streams: those that its source lists first.
    source: Option<NodeId>,
    /// The follower asked for everything, and for no stream since.
    everything: bool,
    /// What the follower said that it holds, at any time: a pass begins at such a place.
    told: BTreeSet<(LogId, u64)>,
}

impl Positions {
    /// The connection carried this, from whichever side.
    ///
    /// # Errors
    /// [`C5`], [`CREDIT`].
    pub fn carried(&mut self, region: &str, carried: &Carried) -> Result<(), Violation> {
        match carried {
            Carried::Bootstrap(told) if told.step == BootstrapStep::Ask => {
                self.everything = true;
                self.claimed.clear();
            }
            // What was asked for began no stream: it is asked for anew when the follower has taken over everything from somewhere.
            Carried::Bootstrap(told) if told.step == BootstrapStep::Needed && self.payload == 0 => self.claimed.clear(),
            Carried::Bootstrap(_) => {}
            Carried::Follow(follow) => {
                self.everything = false;
                self.credit = self.credit.max(follow.credit.0);
                for entry in &follow.logs {
                    if *self.source.get_or_insert(entry.log.node) == entry.log.node {
                        // What was asked for before goes on.
                        self.claimed.entry(entry.log).or_insert(Version(entry.from.0));
                    }
                }
            }
            Carried::Credit(credit) => self.credit = self.credit.max(credit.upto.0),
            Carried::Backlog(backlog) => {
                for entry in &backlog.logs {
                    let begins = Version(entry.upto.0);
                    match self.claimed.get_mut(&entry.log).filter(|claimed| **claimed <= begins) {
                        // What was left out goes on being left out; what was claimed is no more.
                        Some(claimed) if self.late.insert(entry.log) => *claimed = begins,
                        _ if self.late.contains(&entry.log) => {}
                        claimed => {
                            let text =
                                format!("{region} leaves out {entry:?} where its follower was told up to {claimed:?}");
                            return Err(Violation::new(C5, text));
                        }
                    }
                }
            }
            Carried::Logs(logs) => self.source = self.source.or(logs.logs.first().map(|entry| entry.log.node)),
            Carried::Records { log, offset, bytes, of_pass } => {
                let is_of_pass = *of_pass && self.source == Some(log.node);
                let is_asked = self.everything || self.claimed.contains_key(log) || is_of_pass;
                if *offset != self.payload || !is_asked {
                    let text = format!(
                        "{region} sends records of {log} at {offset} where the stream stands at {}",
                        self.payload
                    );
                    return Err(Violation::new(C5, text));
                }
                // The batch that crosses the line goes along.
                if *offset >= self.credit {
                    let text = format!("{region} sends at {offset} with credit up to {}", self.credit);
                    return Err(Violation::new(CREDIT, text));
                }
                self.payload += bytes;
            }
            Carried::Claim(claim) if self.everything || self.source != Some(claim.log.node) => {
                if !self.told.contains(&(claim.log, claim.from.0)) {
                    let text = format!("{region} claims {claim:?}, from where its follower never stood");
                    return Err(Violation::new(C5, text));
                }
            }
            Carried::Claim(claim) => {
                let reached = self.claimed.get_mut(&claim.log);
                match reached {
                    Some(reached) if reached.0 == claim.from.0 => *reached = Version(claim.to.0),
                    reached => {
                        let text = format!("{region} claims {claim:?} where its follower was told up to {reached:?}");
                        return Err(Violation::new(C5, text));
                    }
                }
            }
            Carried::Watermarks(told) => {
                self.told.extend(told.entries.iter().map(|entry| (entry.log, entry.version.0)))
            }
            Carried::Record { .. } => {}
        }
        Ok(())
    }
}
