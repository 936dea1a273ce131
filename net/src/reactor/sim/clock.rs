//! A clock that runs at a rate of its own over the world's true time.

use super::random::Random;

/// Parts per million of nothing wrong.
const MILLION: i128 = 1_000_000;
/// No oscillator is this wrong; within it, time always goes on.
const DRIFT_PPM_MAX: i64 = 500_000;
/// A machine's monotonic time starts within this of zero, in nanoseconds.
const BOOT_NS_MAX: u64 = 5_000_000_000;

/// Local time as a function of true time: `local + (now − since) · (1 + ppm / 10⁶)`, rounded down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Clock {
    since: u64,
    local: u64,
    ppm: i64,
}

impl Clock {
    /// A clock that shows the truth.
    pub(super) fn truthful() -> Clock {
        Clock { since: 0, local: 0, ppm: 0 }
    }

    fn rate(&self) -> i128 {
        MILLION + i128::from(self.ppm)
    }

    /// What the clock shows at true time `now`.
    pub(super) fn at(&self, now: u64) -> u64 {
        if self.ppm == 0 {
            return now.saturating_sub(self.since).saturating_add(self.local);
        }
        let passed = i128::from(now.saturating_sub(self.since)) * self.rate() / MILLION;
        u64::try_from(i128::from(self.local) + passed).unwrap_or(u64::MAX)
    }

    /// The first true time at which the clock shows `local` or more: a sleeper that wakes then finds its deadline past.
    pub(super) fn when(&self, local: u64) -> u64 {
        let wanted = local.saturating_sub(self.local);
        if self.ppm == 0 {
            return self.since.saturating_add(wanted);
        }
        let rate = self.rate();
        let passed = (i128::from(wanted) * MILLION + rate - 1) / rate;
        u64::try_from(i128::from(self.since) + passed).unwrap_or(u64::MAX)
    }

    /// From `now` on it goes at another rate; what it shows at `now` stays.
    pub(super) fn set_drift(&mut self, now: u64, ppm: i64) {
        *self = Clock { since: now, local: self.at(now), ppm: ppm.clamp(-DRIFT_PPM_MAX, DRIFT_PPM_MAX) };
    }

    /// The machine boots: it starts near zero and keeps its rate.
    pub(super) fn boot(&mut self, now: u64, random: &mut Random) {
        *self = Clock { since: now, local: 1 + random.below(BOOT_NS_MAX), ppm: self.ppm };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_past_when_its_sleeper_wakes_and_not_a_moment_before() {
        let mut random = Random::new(5);
        for ppm in [-500_000, -200_000, -137, -1, 0, 1, 50, 333, 99_999, 500_000] {
            let mut clock = Clock::truthful();
            clock.set_drift(random.below(1 << 40), ppm);
            for _ in 0..2_000 {
                let deadline = clock.local + random.below(1 << 45);
                let wake = clock.when(deadline);
                assert!(clock.at(wake) >= deadline, "{clock:?} {deadline}");
                assert!(wake <= clock.since || clock.at(wake - 1) < deadline, "{clock:?} {deadline}");
            }
            assert_eq!(clock.when(u64::MAX).max(1 << 62), clock.when(u64::MAX), "never stays never");
        }
    }

    #[test]
    fn a_new_rate_does_not_jump() {
        let mut clock = Clock::truthful();
        let mut shown = 0;
        let mut now = 0;
        for ppm in [300, -300, 0, 500_000, -500_000, 0] {
            clock.set_drift(now, ppm);
            assert_eq!(clock.at(now), shown);
            now += 1_000_000;
            shown = clock.at(now);
        }
        // Each million nanoseconds at its rate; opposite drifts cancel out.
        assert_eq!(shown, 6_000_000);
    }

    #[test]
    fn a_boot_starts_near_zero_and_keeps_the_rate() {
        let mut clock = Clock::truthful();
        clock.set_drift(0, 100_000);
        clock.boot(1 << 50, &mut Random::new(1));
        let start = clock.at(1 << 50);
        assert!((1..=BOOT_NS_MAX).contains(&start));
        assert_eq!(clock.at((1 << 50) + 10), start + 11);
    }
}
