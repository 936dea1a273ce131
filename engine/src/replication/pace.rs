//! Pace: how fast one follower is brought up to date, if the operator bounds it (`CATCH_UP_RATE`).
//!
//! Every read from segment files is charged to the follower and the next one begins when the charge is worked off. Nothing is
//! saved up: after a pause the first read goes at once, the second waits for it. The live stream, which comes from memory, is not
//! charged.

use net::reactor::Mono;

const NS_PER_SECOND: u128 = 1_000_000_000;

/// When the next read of one follower may begin.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    free_at: Mono,
}

impl Pace {
    /// When a read of `bytes` may begin, at `bytes_per_second` (0: no bound); charges it.
    pub fn next(&mut self, bytes_per_second: u64, bytes: u32, now: Mono) -> Mono {
        if bytes_per_second == 0 {
            return now;
        }
        let at = self.free_at.max(now);
        let takes_ns = (u128::from(bytes) * NS_PER_SECOND).div_ceil(u128::from(bytes_per_second));
        self.free_at = Mono(at.0.saturating_add(u64::try_from(takes_ns).unwrap_or(u64::MAX)));
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn without_a_bound_every_read_begins_at_once() {
        let mut pace = Pace::default();
        for _ in 0..1_000 {
            assert_eq!(pace.next(0, u32::MAX, Mono(7)), Mono(7));
        }
    }

    #[test]
    fn reads_take_the_time_that_the_bound_gives_them() {
        let mut pace = Pace::default();
        assert_eq!(pace.next(1_000_000, 500_000, Mono(SECOND)), Mono(SECOND), "the first one goes at once");
        assert_eq!(pace.next(1_000_000, 500_000, Mono(SECOND)), Mono(SECOND + SECOND / 2));
        // Asked late, it has nothing saved up.
        assert_eq!(pace.next(1_000_000, 500_000, Mono(9 * SECOND)), Mono(9 * SECOND));
        assert_eq!(pace.next(1_000_000, 500_000, Mono(9 * SECOND)), Mono(9 * SECOND + SECOND / 2));
    }

    #[test]
    fn over_any_stretch_the_bound_holds_but_for_one_read() {
        let (rate, bytes) = (300_000, 524_288);
        let (mut pace, mut now, mut taken) = (Pace::default(), Mono(3), 0u64);
        while now.0 < 60 * SECOND {
            // The next read is asked for when the last has ended.
            now = Mono(pace.next(rate, bytes, now).0 + 1_000_000);
            taken += u64::from(bytes);
        }
        let allowed = rate * now.0 / SECOND + 2 * u64::from(bytes);
        assert!(taken <= allowed && taken > allowed - 4 * u64::from(bytes), "{taken} of {allowed}");
    }

    #[test]
    fn the_slowest_bound_and_the_largest_read_do_not_overflow() {
        let mut pace = Pace { free_at: Mono(u64::MAX - 1) };
        assert_eq!(pace.next(1, u32::MAX, Mono(0)), Mono(u64::MAX - 1));
        assert_eq!(pace.free_at, Mono(u64::MAX));
    }
}
