//! Lag: how old the oldest version is that a follower has not acknowledged. True when idle: a log that stood still for an
//! hour has no lag, and its next write starts at zero.

use std::collections::VecDeque;

use wal::Version;

/// Steps remembered. When they run out, the older half is merged by pairs: far back the resolution is coarse.
const STEPS_MAX: usize = 1024;

/// When this node's own claim reached which version.
#[derive(Clone, Debug, Default)]
pub struct LagClock {
    /// (the claim, unix ms at which it was first that high); both rise.
    steps: VecDeque<(Version, u64)>,
}

impl LagClock {
    /// The own claim stands at `complete` now.
    pub fn reached(&mut self, complete: Version, now_unix_ms: u64) {
        match self.steps.back_mut() {
            Some((last, _)) if complete <= *last => return,
            // The same millisecond: one step.
            Some((last, at)) if *at == now_unix_ms => {
                *last = complete;
                return;
            }
            _ => self.steps.push_back((complete, now_unix_ms)),
        }
        if self.steps.len() > STEPS_MAX {
            // Of two old steps one remains, with the later version and the earlier time: an age is never shown too small.
            let recent = self.steps.split_off(STEPS_MAX / 2);
            let old = std::mem::take(&mut self.steps);
            for (index, step) in old.into_iter().enumerate() {
                match self.steps.back_mut() {
                    Some(last) if index % 2 == 1 => last.0 = step.0,
                    _ => self.steps.push_back(step),
                }
            }
            self.steps.extend(recent);
        }
    }

    /// Milliseconds since the first version above `acknowledged` was claimed; 0 if there is none.
    #[must_use]
    pub fn lag_ms(&self, acknowledged: Version, now_unix_ms: u64) -> u64 {
        let behind = self.steps.partition_point(|(complete, _)| *complete <= acknowledged);
        self.steps.get(behind).map_or(0, |(_, at)| now_unix_ms.saturating_sub(*at).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn memory_is_bounded_and_an_old_lag_is_never_shown_too_small() {
        let mut clock = LagClock::default();
        for n in 1..=100_000u64 {
            clock.reached(Version(n), n);
        }
        assert!(clock.steps.len() <= STEPS_MAX);
        assert_eq!(clock.lag_ms(Version(0), 100_000), 99_999);
        for acknowledged in [1, 777, 50_000, 99_998] {
            let exact = 100_000 - (acknowledged + 1);
            assert!(clock.lag_ms(Version(acknowledged), 100_000) >= exact, "{acknowledged}");
        }
        assert_eq!(clock.lag_ms(Version(99_900), 100_000), 99, "what is recent is exact");
    }
}
