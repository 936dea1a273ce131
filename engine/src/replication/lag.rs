//! Lag: how old the oldest version is that a follower has not acknowledged, and how much there is of such versions. True when idle: a log
//! that stood still for an hour has no lag, and its next write starts at zero.
//!
//! What is not acknowledged is counted as it becomes durable, from the frames that followers are sent: a running total, and beside each step
//! of the claim how much of it lies at or below that step. The rest is the difference. Where the resolution is coarse, far back, it is
//! too large, never too small.

use std::collections::VecDeque;

use wal::Version;

/// Steps remembered. When they run out, the older half is merged by pairs: far back the resolution is coarse.
const STEPS_MAX: usize = 1024;

/// Frames remembered per core that lie above the claim. When there are more, the newest become one.
const AHEAD_MAX: usize = 1024;

/// How much of a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Volume {
    /// Bytes of records.
    pub bytes: u64,
    /// Records.
    pub records: u64,
}

impl Volume {
    fn add(&mut self, other: Volume) {
        self.bytes += other.bytes;
        self.records += other.records;
    }
}

/// The claim went up.
#[derive(Clone, Copy, Debug)]
struct Step {
    upto: Version,
    /// When it was first that high.
    at_unix_ms: u64,
    /// What lies at or below it, of all that became durable.
    covered: Volume,
}

/// When this node's own claim reached which version, and how much had become durable up to it.
#[derive(Clone, Debug, Default)]
pub struct LagClock {
    /// Versions, times and volumes rise.
    steps: VecDeque<Step>,
    total: Volume,
    covered: Volume,
    /// By core: what became durable above the claim, by the highest version of each frame.
    ahead: Vec<VecDeque<(Version, Volume)>>,
}

impl LagClock {
    /// A frame of `core` became durable; its versions go up to `upto`.
    pub fn durable(&mut self, core: u16, upto: Version, volume: Volume) {
        let core = usize::from(core);
        if self.ahead.len() <= core {
            self.ahead.resize_with(core + 1, VecDeque::new);
        }
        self.total.add(volume);
        let ahead = &mut self.ahead[core];
        if ahead.len() >= AHEAD_MAX
            && let Some((last, sum)) = ahead.back_mut()
        {
            *last = upto;
            sum.add(volume);
        } else {
            ahead.push_back((upto, volume));
        }
    }

    /// The own claim stands at `complete` now.
    pub fn reached(&mut self, complete: Version, now_unix_ms: u64) {
        if self.steps.back().is_some_and(|last| complete <= last.upto) {
            return;
        }
        for ahead in &mut self.ahead {
            while let Some((_, volume)) = ahead.pop_front_if(|(upto, _)| *upto <= complete) {
                self.covered.add(volume);
            }
        }
        let step = Step { upto: complete, at_unix_ms: now_unix_ms, covered: self.covered };
        match self.steps.back_mut() {
            // The same millisecond: one step.
            Some(last) if last.at_unix_ms == now_unix_ms => *last = step,
            _ => self.steps.push_back(step),
        }
        if self.steps.len() > STEPS_MAX {
            // Of two old steps one remains, with the later version and the earlier time: an age is never shown too small.
            let recent = self.steps.split_off(STEPS_MAX / 2);
            let old = std::mem::take(&mut self.steps);
            for (index, step) in old.into_iter().enumerate() {
                match self.steps.back_mut() {
                    Some(last) if index % 2 == 1 => *last = Step { at_unix_ms: last.at_unix_ms, ..step },
                    _ => self.steps.push_back(step),
                }
            }
            self.steps.extend(recent);
        }
    }

    /// How many steps lie at or below `acknowledged`.
    fn behind(&self, acknowledged: Version) -> usize {
        self.steps.partition_point(|step| step.upto <= acknowledged)
    }

    /// Milliseconds since the first version above `acknowledged` was claimed; 0 if there is none.
    #[must_use]
    pub fn lag_ms(&self, acknowledged: Version, now_unix_ms: u64) -> u64 {
        let next = self.steps.get(self.behind(acknowledged));
        next.map_or(0, |step| now_unix_ms.saturating_sub(step.at_unix_ms).max(1))
    }

    /// How much of what became durable lies above `acknowledged`.
    #[must_use]
    pub fn unacknowledged(&self, acknowledged: Version) -> Volume {
        let last = self.behind(acknowledged).checked_sub(1).and_then(|at| self.steps.get(at));
        let covered = last.map_or(Volume::default(), |step| step.covered);
        Volume { bytes: self.total.bytes - covered.bytes, records: self.total.records - covered.records }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(bytes: u64, records: u64) -> Volume {
        Volume { bytes, records }
    }

    #[test]
    fn an_idle_log_has_no_lag_and_its_next_write_starts_at_zero() {
        let mut clock = LagClock::default();
        assert_eq!(clock.lag_ms(Version(0), 50), 0);
        clock.reached(Version(10), 100);
        assert_eq!(clock.lag_ms(Version(10), 3_600_100), 0);
        clock.reached(Version(11), 3_600_100);
        assert_eq!(clock.lag_ms(Version(10), 3_600_105), 5);
        clock.reached(Version(12), 3_600_200);
        assert_eq!(clock.lag_ms(Version(10), 3_600_300), 200, "the oldest counts");
        assert_eq!(clock.lag_ms(Version(11), 3_600_300), 100);
        assert_eq!(clock.lag_ms(Version(12), 3_600_300), 0);
    }

    #[test]
    fn what_is_not_acknowledged_is_counted_over_all_cores() {
        let mut clock = LagClock::default();
        assert_eq!(clock.unacknowledged(Version(0)), volume(0, 0));
        // The other core is idle: the claim does not cover this frame yet, and still it is not acknowledged.
        clock.durable(0, Version(10), volume(100, 2));
        assert_eq!(clock.unacknowledged(Version(0)), volume(100, 2));
        clock.reached(Version(5), 1);
        assert_eq!(clock.unacknowledged(Version(5)), volume(100, 2));
        clock.reached(Version(10), 2);
        assert_eq!(clock.unacknowledged(Version(10)), volume(0, 0));
        clock.durable(1, Version(11), volume(10, 1));
        clock.reached(Version(11), 3);
        clock.durable(0, Version(14), volume(1000, 3));
        clock.reached(Version(12), 4);
        assert_eq!(clock.unacknowledged(Version(10)), volume(1010, 4));
        assert_eq!(clock.unacknowledged(Version(11)), volume(1000, 3));
        assert_eq!(clock.unacknowledged(Version(12)), volume(1000, 3));
        clock.reached(Version(20), 5);
        assert_eq!(clock.unacknowledged(Version(12)), volume(1000, 3));
        assert_eq!(clock.unacknowledged(Version(20)), volume(0, 0));
        assert_eq!(clock.unacknowledged(Version(0)), volume(1110, 6), "somebody who has nothing");
    }

    #[test]
    fn memory_is_bounded_and_an_old_lag_is_never_shown_too_small() {
        let mut clock = LagClock::default();
        for n in 1..=100_000u64 {
            clock.durable(0, Version(n), volume(10, 1));
            clock.reached(Version(n), n);
        }
        assert!(clock.steps.len() <= STEPS_MAX);
        assert_eq!(clock.lag_ms(Version(0), 100_000), 99_999);
        assert_eq!(clock.unacknowledged(Version(0)), volume(1_000_000, 100_000));
        for acknowledged in [1, 777, 50_000, 99_998] {
            let exact = 100_000 - (acknowledged + 1);
            assert!(clock.lag_ms(Version(acknowledged), 100_000) >= exact, "{acknowledged}");
            let records = 100_000 - acknowledged;
            let shown = clock.unacknowledged(Version(acknowledged));
            assert!(shown.records >= records && shown.bytes == 10 * shown.records, "{acknowledged}: {shown:?}");
        }
        assert_eq!(clock.lag_ms(Version(99_900), 100_000), 99, "what is recent is exact");
        assert_eq!(clock.unacknowledged(Version(99_900)), volume(1_000, 100), "what is recent is exact");
        for n in 100_001..=200_000u64 {
            clock.durable(1, Version(n), volume(10, 1));
        }
        assert!(clock.ahead[1].len() <= AHEAD_MAX);
        assert_eq!(clock.unacknowledged(Version(100_000)), volume(1_000_000, 100_000));
        clock.reached(Version(200_000), 200_000);
        assert_eq!(clock.unacknowledged(Version(200_000)), volume(0, 0));
    }
}
