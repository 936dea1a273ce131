//! How far one region may lag behind another while nothing is broken: what another region acknowledged longer ago than the
//! bound is visible, or something newer.
//!
//! A read is judged by the acknowledgements before it began. Only those count that came a grace after the last moment at which
//! any fault was active; the harness says when that was.

use std::collections::{HashMap, VecDeque};

use net::reactor::Mono;

use super::Violation;
use super::writes::{KeyId, Rank};

/// The checker.
pub const STALENESS: &str = "staleness is bounded while connected";

/// An acknowledged write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acknowledged {
    /// Where.
    pub region: usize,
    /// What.
    pub rank: Rank,
    /// When; if it was due later in some region, then.
    pub at: Mono,
}

#[derive(Debug, Default)]
struct KeyState {
    /// By region, the highest write that is older than the bound and counts.
    settled: Vec<Acknowledged>,
    /// Younger ones, oldest first.
    pending: VecDeque<Acknowledged>,
}

/// What was acknowledged lately.
#[derive(Debug)]
pub struct Staleness {
    bound_ns: u64,
    grace_ns: u64,
    healthy_since: Option<Mono>,
    keys: HashMap<KeyId, KeyState>,
    /// The oldest write that a read which counts did not show, in nanoseconds before the read began.
    pub largest_ns: u64,
    /// Reads that were held to something.
    pub checked: u64,
}

impl Staleness {
    /// With this bound in nanoseconds, and no word of health yet.
    #[must_use]
    pub fn new(bound_ns: u64) -> Staleness {
        Staleness { bound_ns, grace_ns: 0, healthy_since: None, keys: HashMap::new(), largest_ns: 0, checked: 0 }
    }

    /// The last moment at which any fault was active, `None` while one is. Writes count from `grace_ns` after it.
    pub fn healthy_since(&mut self, since: Option<Mono>, grace_ns: u64) {
        self.healthy_since = since;
        self.grace_ns = grace_ns;
    }

    fn counts(&self, at: Mono) -> bool {
        self.healthy_since.is_some_and(|since| at.0 >= since.0.saturating_add(self.grace_ns))
    }

    /// A region acknowledged a write that is due everywhere `at` this instant.
    pub fn acknowledged(&mut self, region: usize, key: KeyId, rank: Rank, at: Mono) {
        if self.counts(at) {
            let pending = &mut self.keys.entry(key).or_default().pending;
            let place = pending.partition_point(|earlier| earlier.at <= at);
            pending.insert(place, Acknowledged { region, rank, at });
        }
    }

    /// A read begins in `region`: what it must show. Reads are told in the order in which they begin.
    pub fn demand(&mut self, region: usize, key: KeyId, began: Mono) -> Option<Acknowledged> {
        let due = began.0.saturating_sub(self.bound_ns);
        let healthy_from = self.healthy_since?.0.saturating_add(self.grace_ns);
        let state = self.keys.get_mut(&key)?;
        state.settled.retain(|settled| settled.at.0 >= healthy_from);
        while let Some(write) = state.pending.front().copied().filter(|write| write.at.0 <= due) {
            state.pending.pop_front();
            if write.at.0 < healthy_from {
                continue;
            }
            match state.settled.iter_mut().find(|settled| settled.region == write.region) {
                Some(settled) if settled.rank < write.rank => *settled = write,
                Some(_) => {}
                None => state.settled.push(write),
            }
        }
        state.settled.iter().filter(|settled| settled.region != region).max_by_key(|settled| settled.rank).copied()
    }

    /// A read that began at `began` showed `newest`, the newest write that its answer can stand for.
    ///
    /// # Errors
    /// [`STALENESS`].
    pub fn read(
        &mut self,
        region: usize,
        key: KeyId,
        demand: Option<Acknowledged>,
        newest: Rank,
        began: Mono,
    ) -> Result<(), Violation> {
        // A fault since then excuses everything.
        if let Some(missing) = demand.filter(|demand| self.counts(demand.at)) {
            self.checked += 1;
            if newest < missing.rank {
                let millis = began.since(missing.at) / 1_000_000;
                let text = format!("region {region} showed {newest:?}, {millis} ms after {missing:?}");
                return Err(Violation::new(STALENESS, text));
            }
        }
        let Some(state) = self.keys.get(&key) else { return Ok(()) };
        let foreign = |write: &&Acknowledged| write.region != region && write.rank > newest && write.at <= began;
        if let Some(missed) = state.pending.iter().find(foreign)
            && self.counts(missed.at)
        {
            self.largest_ns = self.largest_ns.max(began.since(missed.at));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use wal::Version;

    use super::*;

    const KEY: KeyId = KeyId(0);
    const MS: u64 = 1_000_000;

    fn rank(version: u64) -> Rank {
        (Version(version), 0)
    }

    fn at(ms: u64) -> Mono {
        Mono(ms * MS)
    }

    fn healthy() -> Staleness {
        let mut staleness = Staleness::new(1_000 * MS);
        staleness.healthy_since(Some(at(0)), 0);
        staleness
    }

    fn read(staleness: &mut Staleness, region: usize, version: u64, ms: u64) -> Result<(), Violation> {
        let demand = staleness.demand(region, KEY, at(ms));
        staleness.read(region, KEY, demand, rank(version), at(ms))
    }

    #[test]
    fn a_read_may_lag_within_the_bound_only() {
        let mut staleness = healthy();
        staleness.acknowledged(0, KEY, rank(5), at(100));
        assert_eq!(read(&mut staleness, 1, 0, 1_099), Ok(()));
        assert_eq!(staleness.largest_ns, 999 * MS);
        assert_eq!(read(&mut staleness, 1, 4, 1_100).unwrap_err().checker, STALENESS);
        assert_eq!(read(&mut staleness, 1, 5, 1_101), Ok(()));
        assert_eq!(read(&mut staleness, 1, 6, 1_102), Ok(()));
        assert_eq!(read(&mut staleness, 0, 0, 1_103), Ok(()), "a region's own writes are the sessions' affair");
    }

    #[test]
    fn a_read_is_judged_by_when_it_began() {
        let mut staleness = healthy();
        staleness.acknowledged(0, KEY, rank(5), at(100));
        let early = staleness.demand(1, KEY, at(1_000));
        assert_eq!(read(&mut staleness, 1, 5, 1_200), Ok(()));
        assert_eq!(staleness.read(1, KEY, early, rank(0), at(1_000)), Ok(()));
    }

    #[test]
    fn faults_excuse() {
        let mut staleness = healthy();
        staleness.acknowledged(0, KEY, rank(5), at(100));
        let demand = staleness.demand(1, KEY, at(2_000));
        staleness.healthy_since(None, 0);
        assert_eq!(staleness.read(1, KEY, demand, rank(0), at(2_000)), Ok(()));
        staleness.healthy_since(Some(at(3_000)), 500 * MS);
        assert_eq!(read(&mut staleness, 1, 0, 4_000), Ok(()));
        staleness.acknowledged(0, KEY, rank(6), at(3_400));
        assert_eq!(read(&mut staleness, 1, 0, 6_000), Ok(()), "within the grace");
        staleness.acknowledged(0, KEY, rank(7), at(3_500));
        assert!(read(&mut staleness, 1, 6, 6_000).is_err());
    }
}
