//! What the clocks of each region's node can show, from what its wall clock showed and what its device holds: a bound of each run,
//! so that worlds whose clocks stand right are judged sharply, and those whose clocks do not are judged at all.
//!
//! Physical time of a node lies between two errors against the truth. At a start both are the wall clock's, or what earlier runs
//! reached, where that is later; afterwards a wall clock that is followed widens them, one that is not does not. A node that may be
//! ahead of the median of all may take the time for that much lower.

use engine::clock::skew::AHEAD_OF_MEDIAN_MS_MAX;
use engine::clock::{AHEAD_MS_MAX, MAX_CLOCK_SKEW_MS};
use net::reactor::Mono;
use net::reactor::sim::WALL_START_UNIX_MS;
use wal::Version;

use super::Violation;
use super::writes::unix_ms;

/// Checker C6, where time is concerned.
pub const TIME: &str = "C6 time goes on over restarts";
/// Checker C6, within one run.
pub const ONWARD: &str = "C6 time never steps back";
/// Checker C6, where other nodes' clocks are concerned.
pub const FAR_FUTURE: &str = "C6 what lies in the far future is not shown";

/// How far physical time may be ahead of what is computed here, in milliseconds: frames that only a dying node knew, and what a
/// start right after another adds ([`AHEAD_MS_MAX`]) before it is slewed away.
const AHEAD_SLACK_MS: i64 = 175;
/// How far it may be behind, in milliseconds: rounding, and a turn of a loop.
const BEHIND_SLACK_MS: i64 = 20;

const SKEW_MS: i64 = MAX_CLOCK_SKEW_MS.cast_signed();
const AHEAD_MS: i64 = AHEAD_MS_MAX.cast_signed();

/// One node's clocks. Errors are in milliseconds, positive when ahead of the truth.
#[derive(Clone, Debug, Default)]
struct NodeClock {
    /// Of its wall clock, since `turned`.
    wall_ms: i64,
    turned: Mono,
    /// By how much both its clocks together can be wrong after a million seconds, in seconds.
    drift_ppm: u64,
    /// Of its physical time, at least and at most.
    least_ms: i64,
    most_ms: i64,
    /// By how much the node held itself back in this run, at most, until something last changed.
    lowered_ms: i64,
    /// What its cores take for the time, in milliseconds since 1970.
    shown_unix_ms: Vec<u64>,
    /// The wall clock was followed in this run.
    believed: bool,
    /// At its start it was not.
    began_behind: bool,
    /// The highest clock that its device shows.
    reached: Version,
    /// Where the clock of a run stood at most that died while it started, or before its device was damaged, in milliseconds since
    /// 1970: what it wrote of that may be on the device, and be gone from it again when the next run has started.
    perhaps_unix_ms: i64,
}

impl NodeClock {
    fn drift_ms(&self, at: Mono) -> i64 {
        signed(at.0 / 1_000_000 * self.drift_ppm / 1_000_000)
    }

    /// A bound of its physical time, before it holds itself back.
    fn at_least_ms(&self, at: Mono) -> i64 {
        self.least_ms - self.drift_ms(at) - BEHIND_SLACK_MS
    }

    fn at_most_ms(&self, at: Mono) -> i64 {
        self.most_ms + self.drift_ms(at) + AHEAD_SLACK_MS
    }

    fn follow(&mut self) {
        self.least_ms = self.least_ms.min(self.wall_ms);
        self.most_ms = self.most_ms.max(self.wall_ms);
        self.believed = true;
    }
}

/// Those of all nodes, by region.
#[derive(Debug, Default)]
pub struct Clocks {
    nodes: Vec<NodeClock>,
}

impl Clocks {
    /// Of nodes whose clocks drift by at most this much in parts per million, both together.
    #[must_use]
    pub fn new(drifts_ppm: impl IntoIterator<Item = u64>) -> Clocks {
        let nodes = drifts_ppm.into_iter().map(|drift_ppm| NodeClock { drift_ppm, ..NodeClock::default() });
        Clocks { nodes: nodes.collect() }
    }

    /// By how much a node may hold itself back: as far as it can be ahead of the median, less what is allowed.
    fn lowered_ms(&self, region: usize, at: Mono) -> i64 {
        let clock = &self.nodes[region];
        let mut others: Vec<i64> = self.nodes.iter().map(|node| node.at_least_ms(at)).collect();
        others.sort_unstable();
        let median_ms = if others.len() < 3 { i64::MAX / 2 } else { others[others.len() / 2] };
        let ahead_ms = clock.at_most_ms(at).saturating_sub(median_ms);
        clock.lowered_ms.max(ahead_ms - AHEAD_OF_MEDIAN_MS_MAX.cast_signed())
    }

    /// Something changes, or has changed: what was possible until now may stay.
    fn note_lowered(&mut self, at: Mono) {
        for region in 0..self.nodes.len() {
            self.nodes[region].lowered_ms = self.lowered_ms(region, at);
        }
    }

    fn earliest_ms(&self, region: usize, at: Mono) -> i64 {
        self.nodes[region].at_least_ms(at) - self.lowered_ms(region, at)
    }

    /// The wall clock of `region`'s node stands this far from the truth from now on.
    pub fn turned(&mut self, region: usize, error_ms: i64, now: Mono) {
        self.note_lowered(now);
        let clock = &mut self.nodes[region];
        (clock.wall_ms, clock.turned) = (error_ms, now);
        let near = error_ms >= clock.least_ms - SKEW_MS && error_ms <= clock.most_ms + SKEW_MS;
        if near || !clock.believed && error_ms >= clock.least_ms {
            clock.follow();
        }
        self.note_lowered(now);
    }

    /// A durable frame of `region`'s node was sealed at this time, or promises not to exceed it.
    pub fn reached(&mut self, region: usize, hlc: Version) {
        let reached = &mut self.nodes[region].reached;
        *reached = hlc.max(*reached);
    }

    /// The highest clock that the device of `region`'s node shows.
    #[must_use]
    pub fn highest(&self, region: usize) -> Version {
        self.nodes[region].reached
    }

    /// The device of `region`'s node is damaged: what it shows of its clock may be hidden from here, although the node finds it when it
    /// starts, and leaves a segment behind that holds nothing else.
    pub fn damaged(&mut self, region: usize) {
        let clock = &mut self.nodes[region];
        let reached = std::mem::take(&mut clock.reached);
        clock.perhaps_unix_ms = clock.perhaps_unix_ms.max(signed(reached.unix_ms()) + AHEAD_MS);
    }

    /// Another disk knows nothing of the clock.
    pub fn forget(&mut self, region: usize) {
        self.nodes[region].reached = Version::ZERO;
        self.nodes[region].perhaps_unix_ms = 0;
    }

    /// A run of `region`'s node died while it started, after its clock was [`Clocks::turned`].
    pub fn died_starting(&mut self, region: usize) {
        let clock = &mut self.nodes[region];
        let began = signed(unix_ms(clock.turned)) + clock.wall_ms;
        let reached = signed(clock.reached.unix_ms()) - SKEW_MS;
        clock.perhaps_unix_ms = clock.perhaps_unix_ms.max(began.max(reached) + AHEAD_MS);
    }

    /// The node of `region` has started, after its clock was [`Clocks::turned`] and all its frames were told: physical time begins
    /// there.
    ///
    /// # Errors
    /// [`TIME`].
    pub fn begins(&mut self, region: usize, begins_unix_ms: u64) -> Result<(), Violation> {
        let clock = &mut self.nodes[region];
        let truth = signed(unix_ms(clock.turned));
        let reached_ms = match clock.reached {
            Version::ZERO => clock.wall_ms,
            reached => signed(reached.unix_ms()) - SKEW_MS - truth,
        };
        // The ceiling is that much above the clock.
        clock.least_ms = clock.wall_ms.max(reached_ms);
        let perhaps_ms = std::mem::take(&mut clock.perhaps_unix_ms) - SKEW_MS - truth;
        clock.most_ms = clock.wall_ms.max(reached_ms + AHEAD_MS).max(perhaps_ms);
        clock.believed = false;
        let begins_ms = signed(begins_unix_ms) - truth;
        let drift_ms = clock.drift_ms(clock.turned);
        if begins_ms < clock.least_ms - drift_ms - BEHIND_SLACK_MS
            || begins_ms > clock.most_ms + drift_ms + AHEAD_SLACK_MS
        {
            let text = format!("region {region} begins {begins_ms} ms from the truth, with {clock:?}");
            return Err(Violation::new(TIME, text));
        }
        if clock.wall_ms >= clock.least_ms - SKEW_MS {
            clock.follow();
        }
        // It may know that its wall clock is behind.
        clock.believed &= clock.wall_ms >= perhaps_ms - SKEW_MS;
        clock.began_behind = !clock.believed;
        clock.lowered_ms = 0;
        clock.shown_unix_ms.clear();
        let turned = clock.turned;
        self.note_lowered(turned);
        Ok(())
    }

    /// A core of `region`'s node takes this for the time.
    ///
    /// # Errors
    /// [`ONWARD`], and [`TIME`] where it lies outside of the bounds.
    pub fn shows(&mut self, region: usize, core: usize, shown_unix_ms: u64, now: Mono) -> Result<(), Violation> {
        let bounds = self.earliest_unix_ms(region, now)..=self.latest_unix_ms(region, now);
        let shown = &mut self.nodes[region].shown_unix_ms;
        if shown.len() <= core {
            shown.resize(core + 1, 0);
        }
        let before = std::mem::replace(&mut shown[core], shown_unix_ms);
        if shown_unix_ms < before {
            let text = format!("core {core} of region {region} is back at {shown_unix_ms} after {before}");
            return Err(Violation::new(ONWARD, text));
        }
        if !bounds.contains(&shown_unix_ms) {
            let text =
                format!("core {core} of region {region} takes the time for {shown_unix_ms}, outside of {bounds:?}");
            return Err(Violation::new(TIME, text));
        }
        Ok(())
    }

    /// Whether the wall clock was not followed when the present run of `region`'s node began.
    #[must_use]
    pub fn began_behind(&self, region: usize) -> bool {
        self.nodes[region].began_behind
    }

    /// Physical time of `region`'s node, in milliseconds since 1970, is at least this.
    #[must_use]
    pub fn earliest_unix_ms(&self, region: usize, at: Mono) -> u64 {
        unix_ms(at).saturating_add_signed(self.earliest_ms(region, at))
    }

    /// Physical time of `region`'s node, in milliseconds since 1970, is at most this.
    #[must_use]
    pub fn latest_unix_ms(&self, region: usize, at: Mono) -> u64 {
        unix_ms(at).saturating_add_signed(self.nodes[region].at_most_ms(at))
    }

    /// Its clock for expiry shows at most this: versions of others are taken from [`MAX_CLOCK_SKEW_MS`] ahead, and the ceiling, above
    /// which a run begins, is [`AHEAD_MS_MAX`] higher.
    #[must_use]
    pub fn expiry_unix_ms(&self, region: usize, at: Mono) -> u64 {
        self.latest_unix_ms(region, at) + MAX_CLOCK_SKEW_MS + AHEAD_MS_MAX
    }

    /// Whether `region`'s node must not show another node's record of this version yet.
    #[must_use]
    pub fn is_far_future(&self, region: usize, version: Version, at: Mono) -> bool {
        version.unix_ms() > self.latest_unix_ms(region, at) + MAX_CLOCK_SKEW_MS
    }

    /// From when on, true time, every region's node takes this version for due, not earlier than `at`.
    #[must_use]
    pub fn due(&self, version: Version, at: Mono) -> Mono {
        let behind_ms = (0..self.nodes.len()).map(|region| -self.earliest_ms(region, at)).max().unwrap_or(0);
        let due_unix_ms = version.unix_ms().saturating_sub(MAX_CLOCK_SKEW_MS).saturating_add_signed(behind_ms);
        let due_ms = due_unix_ms.saturating_sub(WALL_START_UNIX_MS);
        at.max(Mono(due_ms.saturating_mul(1_000_000)))
    }
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: i64 = 3_600_000;

    fn at(ms: u64) -> Mono {
        Mono(ms * 1_000_000)
    }

    fn version(unix_ms: u64) -> Version {
        Version::new(unix_ms - wal::EPOCH_2020_UNIX_MS, 0, 0)
    }

    /// A node whose wall clock is wrong by `wall_ms` at 10 s, after it had reached the truth of 8 s.
    fn started(wall_ms: i64) -> Clocks {
        let mut clocks = Clocks::new([0]);
        clocks.turned(0, wall_ms, at(10_000));
        clocks.reached(0, version(unix_ms(at(8_000))));
        let begins = unix_ms(at(10_000)).saturating_add_signed(wall_ms.max(-2_500));
        assert_eq!(clocks.begins(0, begins), Ok(()));
        clocks
    }

    #[test]
    fn a_wall_clock_that_is_followed_bounds_time() {
        let clocks = started(30);
        let truth = unix_ms(at(12_000));
        assert_eq!(clocks.earliest_unix_ms(0, at(12_000)), truth + 10);
        assert_eq!(clocks.latest_unix_ms(0, at(12_000)), truth + 205);
        assert!(clocks.is_far_future(0, version(truth + 706), at(12_000)));
        assert!(!clocks.is_far_future(0, version(truth + 705), at(12_000)));
        assert_eq!(clocks.due(version(truth), at(12_000)), at(12_000));
        assert_eq!(clocks.due(version(truth + 4_000), at(12_000)), at(12_000 + 4_000 - 500 - 10));
    }

    #[test]
    fn a_wall_clock_behind_at_a_start_leaves_time_where_it_was_until_it_is_right() {
        let mut clocks = started(-HOUR_MS);
        let truth = unix_ms(at(12_000));
        assert_eq!(clocks.earliest_unix_ms(0, at(12_000)), truth - 2_520);
        assert_eq!(clocks.latest_unix_ms(0, at(12_000)), truth - 2_200);
        clocks.turned(0, 0, at(12_000));
        assert_eq!(clocks.latest_unix_ms(0, at(12_000)), truth + 175);
        clocks.turned(0, HOUR_MS, at(12_000));
        assert_eq!(clocks.latest_unix_ms(0, at(12_000)), truth + 175, "a step is not followed");
    }

    #[test]
    fn a_node_ahead_of_the_median_of_three_may_hold_itself_back_and_stay_there() {
        /// How far a run may be ahead of its wall clock.
        const AT_START: i64 = AHEAD_MS + AHEAD_SLACK_MS;
        let mut clocks = Clocks::new([0, 0, 0]);
        let truth = unix_ms(at(12_000));
        for (region, wall_ms) in [(0, 2_000), (1, 0), (2, -2_000)] {
            clocks.turned(region, wall_ms, at(10_000));
            let begins = unix_ms(at(10_000)).saturating_add_signed(wall_ms);
            assert_eq!(clocks.begins(region, begins), Ok(()));
        }
        // The slacks of both bounds on top of what is allowed.
        let earliest =
            |clocks: &Clocks, region| clocks.earliest_unix_ms(region, at(12_000)).cast_signed() - truth.cast_signed();
        assert_eq!(earliest(&clocks, 0), 2_000 - 20 - (2_000 + AT_START + 20 - 250));
        assert_eq!((earliest(&clocks, 1), earliest(&clocks, 2)), (-20 - (AT_START + 20 - 250), -2_020));
        assert_eq!(clocks.latest_unix_ms(0, at(12_000)), truth + 2_000 + AT_START.cast_unsigned(), "nobody has to");
        // The one in the middle starts again elsewhere; what it showed may stay for as long as the other one runs.
        clocks.turned(1, -3_000, at(12_000));
        assert_eq!(clocks.begins(1, unix_ms(at(12_000)) - 3_000), Ok(()));
        let farther = earliest(&clocks, 0);
        assert_eq!(farther, 2_000 - 20 - (2_000 + AT_START + 2_020 - 250));
        clocks.turned(1, 0, at(12_000));
        assert_eq!(clocks.begins(1, unix_ms(at(12_000))), Ok(()));
        assert_eq!(earliest(&clocks, 0), farther);
        clocks.turned(0, 0, at(12_000));
        assert_eq!(clocks.begins(0, unix_ms(at(12_000))), Ok(()));
        assert_eq!(earliest(&clocks, 0), -20 - (AT_START + 20 - 250));
    }

    #[test]
    fn time_that_steps_back_or_lies_elsewhere_is_found() {
        let mut clocks = started(30);
        let truth = unix_ms(at(12_000));
        let mut found = |shown, ms| clocks.shows(0, 1, shown, at(ms)).err().map(|violation| violation.checker);
        assert_eq!(found(truth + 30, 12_000), None);
        assert_eq!(found(truth + 30, 12_010), None);
        assert_eq!(found(truth + 29, 12_010), Some(ONWARD));
        assert_eq!(found(truth + 1_000, 12_010), Some(TIME));
        assert_eq!(found(truth + 1_000, 14_000), Some(TIME));
    }

    #[test]
    fn on_a_damaged_device_a_run_begins_where_it_may_have_been_or_where_its_wall_clock_is() {
        let begun = |begins_ms: i64| {
            let mut clocks = Clocks::new([0]);
            clocks.reached(0, version(unix_ms(at(8_000))));
            clocks.damaged(0);
            clocks.turned(0, -HOUR_MS, at(10_000));
            clocks.begins(0, unix_ms(at(10_000)).saturating_add_signed(begins_ms)).map(|()| clocks)
        };
        for right_ms in [-HOUR_MS, -2_500] {
            let mut clocks = begun(right_ms).expect("one of both");
            assert!(clocks.began_behind(0));
            clocks.turned(0, 0, at(12_000));
            assert_eq!(clocks.latest_unix_ms(0, at(12_000)), unix_ms(at(12_000)) + 175, "it may be believed");
        }
        for wrong_ms in [-HOUR_MS - 1_000, 0] {
            assert_eq!(begun(wrong_ms).unwrap_err().checker, TIME, "{wrong_ms}");
        }
    }

    #[test]
    fn a_run_that_begins_elsewhere_is_found() {
        for wrong_ms in [-HOUR_MS, -3_000, -1_000, HOUR_MS] {
            let mut clocks = started(-HOUR_MS);
            let begins = unix_ms(at(10_000)).saturating_add_signed(wrong_ms);
            assert_eq!(clocks.begins(0, begins).unwrap_err().checker, TIME, "{wrong_ms}");
        }
    }
}
