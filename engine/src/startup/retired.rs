//! Earlier runs in which nothing counts any more: found, given up, and their files removed.

use net::reactor::disk::Disk;
use wal::Incarnation;
use wal::marks::{Mark, reach};

use super::{Recovering, StartedShard};
use crate::host::Host;
use crate::storage::index::SegmentSlot;

/// A segment of an earlier run.
pub(super) struct RetiredSegment {
    pub(super) file_name: String,
    /// By core of this run.
    pub(super) slots: Vec<SegmentSlot>,
}

impl<H: Host, D: Disk<File = H::File>> Recovering<'_, H, D> {
    /// Earlier runs in which nothing counts any more, and those that a start before this one began to remove. They are not offered: a
    /// log that nobody is told of counts as held.
    pub(super) fn runs_to_give_up(&mut self) -> Vec<u64> {
        let is_dead = |segment: &RetiredSegment| self.is_dead(segment);
        let is_given_up = |incarnation: &u64| self.given_up.contains(incarnation);
        let runs = self.retired.iter().filter(|(run, segments)| is_given_up(run) || segments.iter().all(is_dead));
        let given_up: Vec<u64> = runs.map(|(incarnation, _)| *incarnation).collect();
        self.order.retain(|incarnation| !given_up.contains(incarnation));
        given_up
    }

    fn is_dead(&self, segment: &RetiredSegment) -> bool {
        let is_held = |core: usize, slot: SegmentSlot| {
            self.held.iter().any(|(owner, _, location)| *owner == core && location.segment == slot)
        };
        let mut slots = self.stores.iter().zip(&segment.slots).enumerate();
        slots.all(|(core, (store, slot))| store.is_dead(*slot) && !is_held(core, *slot))
    }

    /// Removes the files of runs that were given up; what took their place, and what they knew, is durable. A file that cannot go,
    /// or in which something counts again because the clock was put back, stops its run's removal until the next start.
    pub(super) fn remove(&mut self, given_up: &[u64], shards: &mut [StartedShard<H>]) {
        for incarnation in given_up {
            let segments = self.retired.remove(incarnation).unwrap_or_default();
            let mut removed = 0;
            for segment in &segments {
                let mut slots = shards.iter_mut().zip(&segment.slots);
                if !slots.all(|((shard, ..), slot)| shard.store().is_dead(*slot)) {
                    reach(Mark::RunRemovalStopped);
                    break;
                }
                if let Err(error) = self.unlink(&segment.file_name) {
                    reach(Mark::RunRemovalStopped);
                    self.report.push(format!("{error}; the next start tries again"));
                    break;
                }
                for ((shard, ..), slot) in shards.iter_mut().zip(&segment.slots) {
                    shard.store().remove_segment(*slot);
                }
                removed += 1;
            }
            reach(Mark::RunGivenUp);
            let name = Incarnation(*incarnation);
            self.report.push(format!("incarnation {name}: nothing in it counts any more, {removed} segments removed"));
        }
    }
}
