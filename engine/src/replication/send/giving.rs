//! The source's side of a bootstrap: a pass of everything, to a follower that lacks what this node may have forgotten.

use net::ids::{Class, LogId};
use net::wire::body::Claim;
use wal::{Lsn, Version};

use super::{Held, Passes, Sender};
use crate::replication::bootstrap::Given;
use crate::replication::pass::{Covered, Pass};
use crate::replication::to_wire;

impl Passes {
    /// Opens the pass of a bootstrap.
    fn give(&mut self, held: &Held<'_>, sift_upto: Version, given: Given) {
        let claim = |log: LogId, to: net::ids::Version| {
            let from = self.vector.get(&log).copied().unwrap_or_default();
            (to > from).then_some(Claim { log, from, to, flags: 0, class: Class(0) })
        };
        let own = held.logs.logs.iter().map(|log| (log.id, to_wire(log.end.unwrap_or_else(|| log.complete()))));
        let others = held.known.firsts().map(|(log, _)| (log, held.watermarks.version(log)));
        // What the follower wrote itself it has, or has lost for good.
        let others = others.filter(|(log, _)| held.follower.is_none_or(|follower| follower.node != log.node));
        let claims = own.chain(others).filter_map(|(log, to)| claim(log, to)).collect();
        let old = held.old_runs.iter().flat_map(|run| &run.segments).copied();
        let cores = held.logs.logs.last().map_or(0, |running| running.cores.len());
        self.under_way = Some(Pass::open(Covered::default(), claims, None, old, cores).of_everything(sift_upto));
        self.giving = Some(given);
        self.wanted = Vec::new();
    }
}

impl Sender {
    /// The follower takes over everything that this node has: what is at most as old as `sift_upto` if it counts here. Whether nothing else
    /// is under way.
    pub fn give(&mut self, held: &Held<'_>, sift_upto: Version, given: Given) -> bool {
        let is_free = self.streams.is_empty() && self.passes.under_way.is_none() && self.reading.is_none();
        if is_free {
            self.passes.give(held, sift_upto, given);
        }
        is_free
    }

    /// Whether a bootstrap is under way. As long as one is, nothing more may be forgotten.
    #[must_use]
    pub fn is_giving(&self) -> bool {
        self.passes.giving.is_some()
    }

    /// So many cores were asked which records count.
    pub fn asked_cores(&mut self, count: usize) {
        if let Some(pass) = &mut self.passes.under_way {
            pass.asked_cores(count);
        }
    }

    /// Of the records that a core was asked of these count; its log ended at `staged` then.
    pub fn sifted(&mut self, core: u16, records: &[u8], staged: Lsn) {
        if let Some(pass) = &mut self.passes.under_way {
            pass.sift(core, records, staged);
        }
    }
}
