//! How long a group of records takes on its way to the disk, stage by stage.
//!
//! | stage | from | to |
//! |---|---|---|
//! | staged | the tick that appended its first record | the group is sealed: while the group before it is being synced, it fills |
//! | written | sealing begins | its frames have their headers and checksums, and what makes it durable was submitted |
//! | synced | submitted | completed |
//! | woken | completed | the replies that waited for it were handed to the reactor |

use std::sync::{Mutex, MutexGuard, PoisonError};

use hdrhistogram::Histogram;
use net::reactor::Mono;

/// Longest latency that is told apart: a minute.
const LATENCY_NS_MAX: u64 = 60_000_000_000;

/// Significant decimal digits: 25 KiB per stage.
const DIGITS: u8 = 2;

/// A stage of group commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(usize)]
pub enum Stage {
    /// Waiting for the group before.
    Staged,
    /// Sealing.
    Written,
    /// The disk.
    Synced,
    /// Telling those who waited.
    Woken,
}

impl Stage {
    /// In the order in which a group goes through them.
    pub const ALL: [Stage; 4] = [Stage::Staged, Stage::Written, Stage::Synced, Stage::Woken];

    /// Its name in the metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Stage::Staged => "staged",
            Stage::Written => "written",
            Stage::Synced => "synced",
            Stage::Woken => "woken",
        }
    }
}

/// A histogram of nanoseconds per stage, since the start. Written by its core once per group, read by anyone.
#[derive(Debug)]
pub struct StageLatencies {
    by_stage: Mutex<[Histogram<u64>; 4]>,
}

impl Default for StageLatencies {
    fn default() -> Self {
        let empty = || Histogram::new_with_bounds(1, LATENCY_NS_MAX, DIGITS).expect("constant bounds are valid");
        StageLatencies { by_stage: Mutex::new([empty(), empty(), empty(), empty()]) }
    }
}

impl StageLatencies {
    fn lock(&self) -> MutexGuard<'_, [Histogram<u64>; 4]> {
        // Counts are whole whatever panicked elsewhere.
        self.by_stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self, latencies: &[(Stage, u64)]) {
        let mut by_stage = self.lock();
        for (stage, latency_ns) in latencies {
            by_stage[*stage as usize].saturating_record((*latency_ns).max(1));
        }
    }

    /// Latency in nanoseconds that the fraction `quantile` of all groups did not exceed; 0 before the first group.
    #[must_use]
    pub fn quantile_ns(&self, stage: Stage, quantile: f64) -> u64 {
        let by_stage = self.lock();
        let histogram = &by_stage[stage as usize];
        if histogram.is_empty() { 0 } else { histogram.value_at_quantile(quantile) }
    }
}

/// A group on its way to the disk.
#[derive(Clone, Copy, Debug)]
struct OnItsWay {
    staged_ns: u64,
    written_ns: u64,
    submitted: Mono,
}

/// The instants of up to three groups: one is being filled, one is on its way to the disk, one is durable.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct GroupClock {
    opened: Option<Mono>,
    on_its_way: Option<OnItsWay>,
    durable: Option<(OnItsWay, Mono)>,
}

impl GroupClock {
    /// Something was appended in this tick.
    pub(super) fn appended(&mut self, now: Mono) {
        self.opened.get_or_insert(now);
    }

    /// The group was sealed between these instants and submitted at the second.
    pub(super) fn submitted(&mut self, sealing: Mono, now: Mono) {
        let opened = self.opened.take().unwrap_or(sealing);
        let (staged_ns, written_ns) = (sealing.since(opened), now.since(sealing));
        self.on_its_way = Some(OnItsWay { staged_ns, written_ns, submitted: now });
    }

    /// It is durable.
    pub(super) fn completed(&mut self, now: Mono) {
        self.durable = self.on_its_way.take().map(|group| (group, now));
    }

    /// Whoever waited for it was told. The next group may be on its way already.
    pub(super) fn told(&mut self, now: impl FnOnce() -> Mono, latencies: &StageLatencies) {
        let Some((group, completed)) = self.durable.take() else { return };
        latencies.record(&[
            (Stage::Staged, group.staged_ns),
            (Stage::Written, group.written_ns),
            (Stage::Synced, completed.since(group.submitted)),
            (Stage::Woken, now().since(completed)),
        ]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_stage_is_measured_between_its_own_instants() {
        let latencies = StageLatencies::default();
        let mut clock = GroupClock::default();
        assert_eq!(latencies.quantile_ns(Stage::Synced, 0.5), 0);
        clock.appended(Mono(1_000));
        clock.appended(Mono(2_000));
        clock.submitted(Mono(11_000), Mono(12_000));
        // The next group fills meanwhile and does not disturb this one.
        clock.appended(Mono(20_000));
        clock.completed(Mono(112_000));
        // It is on its way before those who waited for this one are told.
        clock.submitted(Mono(113_000), Mono(114_000));
        clock.told(|| Mono(115_000), &latencies);
        clock.told(|| Mono(999_000), &latencies);
        let found = Stage::ALL.map(|stage| latencies.quantile_ns(stage, 1.0) / 1_000);
        assert_eq!(found, [10, 1, 100, 3]);
        assert_eq!(latencies.lock().each_ref().map(|stage| stage.len()), [1; 4]);
        clock.completed(Mono(314_000));
        clock.told(|| Mono(315_000), &latencies);
        assert_eq!(latencies.quantile_ns(Stage::Staged, 1.0) / 1_000, 93);
        assert_eq!(latencies.quantile_ns(Stage::Synced, 1.0) / 100_000, 2);
    }
}
