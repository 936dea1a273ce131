//! Time: a physical clock that never jumps inside a run, and the hybrid logical clock that versions come from.
//!
//! The hybrid logical clock follows Kulkarni et al., "Logical Physical Clocks" (2014), packed into one `u64` as
//! DESIGN §6 lays it out: 42 bits of milliseconds since 2020, 11 bits of logic, 11 bits of tag.

pub mod skew;

use net::reactor::Mono;
use wal::marks::{Mark, reach};
use wal::planted::{self, Fault};
use wal::{EPOCH_2020_UNIX_MS, Version};

/// How far ahead of physical time a version may be before it is held back, in milliseconds.
pub const MAX_CLOCK_SKEW_MS: u64 = 500;

/// How far ahead of physical time this node's own versions may run, and how far the persisted ceiling reaches.
pub const AHEAD_MS_MAX: u64 = MAX_CLOCK_SKEW_MS / 4;

/// The instant of one tick, read once from the reactor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Time {
    /// Monotonic time, for deadlines.
    pub mono: Mono,
    /// Physical time in milliseconds since 1970, monotonic within the run; lower than the physical clock where the node holds itself
    /// back ([`PhysicalClock::hold_back`]).
    pub unix_ms: u64,
}

/// What a clock that holds itself back is lowered by.
#[derive(Clone, Copy, Debug, Default)]
struct Lowering {
    wanted_ms: u64,
    /// So far.
    ms: u64,
    /// What has passed since then does not count in `ms` yet.
    since: Mono,
}

impl Lowering {
    /// Time goes at half its speed until everything wanted is reached, and at once ahead where less is wanted.
    fn go_on(&mut self, mono: Mono) {
        let planted = planted::is(Fault::HeldBackClockSteps);
        let gained_ms = mono.since(self.since) / 2_000_000;
        if self.wanted_ms <= self.ms.saturating_add(gained_ms) || planted {
            (self.ms, self.since) = (self.wanted_ms, mono);
        } else {
            self.ms += gained_ms;
            self.since = self.since.plus_ms(2 * gained_ms);
        }
    }
}

/// Physical time: monotonic time slewed toward the wall clock.
///
/// A difference of up to [`MAX_CLOCK_SKEW_MS`] is worked off at 1 ms per 64 ms; a larger one is an alarm and is not followed.
/// A run that begins with the wall clock further behind than that has no reading it may believe: it goes by monotonic time from
/// where the run before it was, and takes the first reading that is not behind as other runs take the one at their start.
///
/// A node that finds its clock ahead of the others' holds itself back: the time it gives goes at half its speed until it is low enough.
#[derive(Debug)]
pub struct PhysicalClock {
    base_unix_ms: u64,
    base_mono: Mono,
    last_unix_ms: u64,
    stepped: bool,
    /// The wall clock was followed at some time of this run.
    believed: bool,
    lowering: Lowering,
    /// The latest time that was given.
    given_unix_ms: u64,
}

impl PhysicalClock {
    /// Starts at the wall clock's present reading, or at `earliest_unix_ms` ([`earliest_unix_ms`]) where that is later.
    #[must_use]
    pub fn new(mono: Mono, wall_unix_ms: u64, earliest_unix_ms: u64) -> Self {
        let base_unix_ms = wall_unix_ms.max(earliest_unix_ms);
        let stepped = is_step(base_unix_ms, wall_unix_ms);
        PhysicalClock {
            base_unix_ms,
            base_mono: mono,
            last_unix_ms: base_unix_ms,
            stepped,
            believed: !stepped,
            lowering: Lowering::default(),
            given_unix_ms: base_unix_ms,
        }
    }

    /// The present time. `wall_unix_ms` may have jumped; the result never steps back.
    pub fn read(&mut self, mono: Mono, wall_unix_ms: u64) -> Time {
        self.advance(mono, wall_unix_ms);
        self.lowering.go_on(mono);
        let lowered = self.last_unix_ms.saturating_sub(self.lowering.ms);
        self.given_unix_ms =
            if planted::is(Fault::HeldBackClockSteps) { lowered } else { lowered.max(self.given_unix_ms) };
        Time { mono, unix_ms: self.given_unix_ms }
    }

    /// The time given is to be this much below the clock, in place of what was asked for before. It gets there without a step back.
    pub fn hold_back(&mut self, mono: Mono, wanted_ms: u64) {
        self.lowering.go_on(mono);
        self.lowering.wanted_ms = wanted_ms;
    }

    /// The clock when it was read last, in milliseconds since 1970, before anything is held back: what other nodes compare theirs with.
    #[must_use]
    pub fn clock_unix_ms(&self) -> u64 {
        self.last_unix_ms
    }

    fn advance(&mut self, mono: Mono, wall_unix_ms: u64) {
        let mut elapsed_ms = mono.since(self.base_mono) / 1_000_000;
        let mut estimate = self.base_unix_ms.saturating_add(elapsed_ms);
        if !self.believed && wall_unix_ms >= estimate {
            reach(Mark::WallCaughtUp);
            (self.base_mono, self.base_unix_ms) = (mono, wall_unix_ms);
            (elapsed_ms, estimate) = (0, wall_unix_ms);
        }
        let difference = wall_unix_ms.abs_diff(estimate);
        self.stepped = is_step(estimate, wall_unix_ms);
        self.believed |= !self.stepped;
        if self.stepped {
            reach(Mark::WallStepIgnored);
            if planted::is(Fault::SteppedClockFollowed) {
                (self.base_mono, self.base_unix_ms, self.stepped) = (mono, wall_unix_ms, false);
                self.last_unix_ms = self.last_unix_ms.max(wall_unix_ms);
                return;
            }
        }
        // Re-base every 64 ms so that the slew is bounded by elapsed time, not by how often we are asked.
        if elapsed_ms >= 64 {
            self.base_mono = Mono(self.base_mono.0 + elapsed_ms * 1_000_000);
            self.base_unix_ms = estimate;
            if !self.stepped {
                let slew = difference.min(elapsed_ms / 64);
                self.base_unix_ms =
                    if wall_unix_ms > estimate { estimate + slew } else { estimate.saturating_sub(slew) };
            }
        }
        self.last_unix_ms = self.last_unix_ms.max(estimate);
    }

    /// Whether the wall clock stands more than [`MAX_CLOCK_SKEW_MS`] away and is therefore not followed.
    #[must_use]
    pub fn is_stepped(&self) -> bool {
        self.stepped
    }
}

/// Whether the wall clock stands so far away that it is not followed.
#[must_use]
pub fn is_step(physical_unix_ms: u64, wall_unix_ms: u64) -> bool {
    wall_unix_ms.abs_diff(physical_unix_ms) > MAX_CLOCK_SKEW_MS
}

/// Where physical time was at least, in milliseconds since 1970, when a clock had reached `reached`: it follows versions only up to
/// [`MAX_CLOCK_SKEW_MS`] ahead. The next run begins there or later, so that what was shown is not in its far future.
#[must_use]
pub fn earliest_unix_ms(reached: Version) -> u64 {
    reached.unix_ms().saturating_sub(MAX_CLOCK_SKEW_MS)
}

/// The clock is further ahead of physical time than [`AHEAD_MS_MAX`]: the writer has to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Throttled;

/// The hybrid logical clock of one core.
///
/// Invariant: every version returned by [`Hlc::tick`] is greater than all it returned or observed before.
#[derive(Debug)]
pub struct Hlc {
    last: Version,
    tag: u16,
}

impl Hlc {
    /// A clock that only gives versions above `floor`; `tag` is the node's 11-bit tag.
    #[must_use]
    pub fn new(floor: Version, tag: u16) -> Self {
        Hlc { last: floor, tag: tag & 0x7ff }
    }

    /// The highest version given or observed.
    #[must_use]
    pub fn last(&self) -> Version {
        self.last
    }

    /// A new version, strictly above every earlier one.
    ///
    /// # Errors
    /// [`Throttled`] when the logic ran further ahead of physical time than [`AHEAD_MS_MAX`].
    pub fn tick(&mut self, time: Time) -> Result<Version, Throttled> {
        let physical = physical_ms(time);
        let version = if physical > self.last.ms() {
            Version::new(physical, 0, self.tag)
        } else if self.last.logic() < 0x7ff {
            Version::new(self.last.ms(), self.last.logic() + 1, self.tag)
        } else {
            reach(Mark::LogicCarried);
            Version::new(self.last.ms() + 1, 0, self.tag)
        };
        if version.ms() > physical + AHEAD_MS_MAX && version.ms() > self.last.ms() {
            reach(Mark::ClockThrottled);
            return Err(Throttled);
        }
        assert!(version > self.last, "the clock never steps back");
        self.last = version;
        Ok(version)
    }

    /// The last of `count` further versions, none of which is given yet.
    ///
    /// # Errors
    /// As [`Hlc::tick`], when not all of them can be given now.
    pub fn after(&self, count: usize, time: Time) -> Result<Version, Throttled> {
        let mut ahead = Hlc { last: self.last, tag: self.tag };
        for _ in 0..count {
            ahead.tick(time)?;
        }
        Ok(ahead.last)
    }

    /// Moves the clock to at least `seen`, so that later versions are above it.
    pub fn observe(&mut self, seen: Version) {
        self.last = self.last.max(seen);
    }

    /// The clock's reading for expiry, in milliseconds since 1970: physical time or the last version, whichever is later.
    #[must_use]
    pub fn unix_ms(&self, time: Time) -> u64 {
        time.unix_ms.max(self.last.unix_ms())
    }
}

/// Whether `version` is too far ahead of physical time to be shown or seen by the clock yet.
#[must_use]
pub fn is_far_future(version: Version, time: Time) -> bool {
    due_in_ms(version, time) > 0
}

/// How long `version` stays in the far future, in milliseconds of physical time.
#[must_use]
pub fn due_in_ms(version: Version, time: Time) -> u64 {
    version.ms().saturating_sub(physical_ms(time).saturating_add(MAX_CLOCK_SKEW_MS))
}

/// The lowest version of the present millisecond.
#[must_use]
pub fn physical_version(time: Time) -> Version {
    Version::new(physical_ms(time), 0, 0)
}

fn physical_ms(time: Time) -> u64 {
    time.unix_ms.saturating_sub(EPOCH_2020_UNIX_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(unix_ms: u64) -> Time {
        Time { mono: Mono(0), unix_ms: EPOCH_2020_UNIX_MS + unix_ms }
    }

    #[test]
    fn versions_rise_strictly_when_time_stands_still_or_steps_back() {
        let mut clock = Hlc::new(Version::ZERO, 7);
        let mut last = Version::ZERO;
        for ms in [1000, 1000, 1000, 900, 1001, 1000] {
            let version = clock.tick(at(ms)).unwrap();
            assert!(version > last);
            last = version;
        }
    }

    #[test]
    fn logic_overflow_carries_and_is_throttled_at_the_bound() {
        let mut clock = Hlc::new(Version::ZERO, 1);
        let mut given = 0u64;
        while clock.tick(at(1000)).is_ok() {
            given += 1;
        }
        assert_eq!(given, 2048 * (AHEAD_MS_MAX + 1));
        assert!(clock.tick(at(1001)).is_ok(), "time passing releases the throttle");
    }

    #[test]
    fn a_wall_clock_step_is_an_alarm_and_is_not_followed() {
        let mut physical = PhysicalClock::new(Mono(0), 1_000_000, 0);
        let ten_years = 315_000_000_000;
        let time = physical.read(Mono(100_000_000), 1_000_100 + ten_years);
        assert_eq!(time.unix_ms, 1_000_100);
        assert!(physical.is_stepped());
        let back = physical.read(Mono(200_000_000), 1);
        assert!(back.unix_ms >= 1_000_200);
    }

    #[test]
    fn a_run_begins_no_earlier_than_the_one_before_it_and_takes_the_first_wall_clock_that_is_not_behind() {
        let hour_ms = 3_600_000;
        let mut physical = PhysicalClock::new(Mono(0), 10 * hour_ms, 11 * hour_ms);
        assert!(physical.is_stepped());
        let at = |ms: u64| Mono(ms * 1_000_000);
        assert_eq!(physical.read(at(0), 10 * hour_ms).unix_ms, 11 * hour_ms);
        assert_eq!(physical.read(at(2_000), 10 * hour_ms + 2_000).unix_ms, 11 * hour_ms + 2_000);
        assert!(physical.is_stepped());
        // It is set right: the node was down for ten seconds, which nobody had counted.
        let right = 11 * hour_ms + 13_000;
        assert_eq!(physical.read(at(3_000), right).unix_ms, right);
        assert!(!physical.is_stepped());
        assert_eq!(physical.read(at(4_000), right + hour_ms).unix_ms, right + 1_000, "that was the only time");
        assert!(physical.is_stepped());
    }

    #[test]
    fn a_run_that_begins_a_little_ahead_of_the_wall_clock_waits_for_it() {
        let mut physical = PhysicalClock::new(Mono(0), 1_000_000, 1_000_400);
        assert!(!physical.is_stepped());
        let mut last = 0;
        for step in 0..=600u64 {
            let time = physical.read(Mono(step * 100_000_000), 1_000_000 + step * 100);
            assert!(time.unix_ms >= last);
            last = time.unix_ms;
        }
        assert_eq!(last, 1_000_000 + 600 * 100);
    }

    #[test]
    fn what_a_clock_has_seen_is_not_in_the_far_future_of_the_next_run() {
        let seen = Version::new(5_000, 0x7ff, 3);
        let next = Time { mono: Mono(0), unix_ms: earliest_unix_ms(seen) };
        assert!(!is_far_future(seen, next));
        assert!(is_far_future(Version::new(5_001, 0, 0), next));
        assert_eq!(due_in_ms(Version::new(5_003, 0, 0), next), 3);
    }

    #[test]
    fn a_clock_that_holds_itself_back_slows_down_and_never_steps_back() {
        let at = |ms: u64| Mono(ms * 1_000_000);
        let mut physical = PhysicalClock::new(at(0), 1_000_000, 0);
        let read = |physical: &mut PhysicalClock, ms: u64| physical.read(at(ms), 1_000_000 + ms).unix_ms - 1_000_000;
        assert_eq!(read(&mut physical, 1_000), 1_000);
        physical.hold_back(at(1_000), 750);
        let mut last = 1_000;
        for ms in 1_000..=4_000 {
            let time = read(&mut physical, ms);
            assert!(time >= last && time >= 1_000 + (ms - 1_000) / 2 && time + 750 >= ms, "{time} at {ms}");
            last = time;
        }
        assert_eq!((last, physical.clock_unix_ms()), (3_250, 1_004_000));
        // More is wanted, however rarely it is read, and then less.
        physical.hold_back(at(4_000), 1_750);
        assert_eq!(read(&mut physical, 5_000), 3_750);
        assert_eq!(read(&mut physical, 60_000), 58_250);
        physical.hold_back(at(60_000), 250);
        assert_eq!(read(&mut physical, 60_001), 59_751);
        physical.hold_back(at(60_001), 0);
        assert_eq!(read(&mut physical, 60_002), 60_002);
    }

    #[test]
    fn a_small_difference_is_slewed_away() {
        let mut physical = PhysicalClock::new(Mono(0), 1_000_000, 0);
        let mut time = Time::default();
        for step in 1..=200u64 {
            time = physical.read(Mono(step * 100_000_000), 1_000_000 + step * 100 + 50);
        }
        assert_eq!(time.unix_ms, 1_000_000 + 200 * 100 + 50);
        assert!(!physical.is_stepped());
    }
}
