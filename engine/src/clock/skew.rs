//! How far the physical clocks of other nodes stand from this one's, and what follows from it: an alarm per peer, and by how much this
//! node holds itself back where its own clock is the one that is ahead.
//!
//! A heartbeat gives one measurement, as in NTP: the peer's clock when it was sent, beside this node's half a round trip before it
//! arrived. Whatever the path does in either direction, the truth is at most half a round trip away. Of the latest few measurements
//! the one with the smallest round trip counts (RFC 5905, section 10, the clock filter).

use std::collections::VecDeque;

use net::reactor::Mono;
use wal::marks::{Mark, reach};

use super::MAX_CLOCK_SKEW_MS;

/// A peer whose clock stands further away than this, whatever the path does, is an alarm.
pub const ALARM_MS: u64 = 100;

/// The alarm ends when it is this near again.
pub const ALARM_ENDS_MS: u64 = 75;

/// How far ahead of the median a node's own physical time may be, once three clocks are known.
pub const AHEAD_OF_MEDIAN_MS_MAX: u64 = MAX_CLOCK_SKEW_MS / 2;

/// A measurement says nothing any more when it is this old.
pub const FRESH_MS: u64 = 10_000;

/// Measurements of which the best one counts: those of four seconds.
const MEASUREMENTS_MAX: usize = 8;

/// What a node holds itself back by changes in steps of at least this, so that jitter of the paths is no reason to tell the cores.
const HOLD_BACK_STEP_MS: u64 = 10;

/// The peer's clock minus this node's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offset {
    /// In milliseconds; positive when the peer's is ahead.
    pub ms: i64,
    /// How far the truth may be away from that in either direction, in milliseconds.
    pub uncertainty_ms: u64,
}

impl Offset {
    /// From a heartbeat that says `theirs_unix_ms`, and arrived when this node's clock said `ours_unix_ms`.
    #[must_use]
    pub fn measured(theirs_unix_ms: u64, ours_unix_ms: u64, rtt_ns: u64) -> Offset {
        let half_ms = rtt_ns / 2_000_000;
        let midpoint_ms = ours_unix_ms.saturating_sub(half_ms);
        let difference = i128::from(theirs_unix_ms) - i128::from(midpoint_ms);
        let bound = i128::from(i64::MAX / 4);
        let ms = i64::try_from(difference.clamp(-bound, bound)).unwrap_or(0);
        // Both clocks are read in whole milliseconds, and so is half the round trip.
        Offset { ms, uncertainty_ms: half_ms.saturating_add(2) }
    }

    /// How far apart the clocks are at least.
    #[must_use]
    pub fn at_least_ms(&self) -> u64 {
        self.ms.unsigned_abs().saturating_sub(self.uncertainty_ms)
    }

    fn lowest(&self) -> i64 {
        self.ms.saturating_sub_unsigned(self.uncertainty_ms)
    }

    fn highest(&self) -> i64 {
        self.ms.saturating_add_unsigned(self.uncertainty_ms)
    }

    /// Whether not both can be true of the same pair of clocks.
    fn contradicts(&self, other: &Offset) -> bool {
        self.lowest() > other.highest() || self.highest() < other.lowest()
    }
}

/// What is known of one peer's clock.
#[derive(Clone, Debug, Default)]
struct PeerClock {
    measurements: VecDeque<(Offset, Mono)>,
    alarmed: bool,
}

impl PeerClock {
    fn measured(&mut self, offset: Offset, now: Mono) {
        // One of the two clocks moved meanwhile, or another node answers.
        self.measurements.retain(|(earlier, _)| !earlier.contradicts(&offset));
        if self.measurements.len() == MEASUREMENTS_MAX {
            self.measurements.pop_front();
        }
        self.measurements.push_back((offset, now));
    }

    fn offset(&self, now: Mono) -> Option<Offset> {
        let fresh = self.measurements.iter().filter(|(_, at)| now < at.plus_ms(FRESH_MS)).map(|(offset, _)| *offset);
        fresh.min_by_key(|offset| offset.uncertainty_ms)
    }

    /// Whether the alarm began or ended.
    fn judge(&mut self, now: Mono) -> bool {
        let apart_ms = self.offset(now).map_or(0, |offset| offset.at_least_ms());
        let alarmed = apart_ms > if self.alarmed { ALARM_ENDS_MS } else { ALARM_MS };
        std::mem::replace(&mut self.alarmed, alarmed) != alarmed
    }
}

/// What [`Skews::judge`] found to be new.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judgement {
    /// Peers whose alarm began or ended.
    pub alarms: Vec<usize>,
    /// By how much this node holds itself back from now on, if that has changed, in milliseconds.
    pub hold_back_ms: Option<u64>,
}

/// The clocks of all peers, by their place in the configuration.
#[derive(Clone, Debug, Default)]
pub struct Skews {
    peers: Vec<PeerClock>,
    held_back_ms: u64,
}

impl Skews {
    /// Of so many peers, of whose clocks nothing is known yet.
    #[must_use]
    pub fn new(peers: usize) -> Skews {
        Skews { peers: vec![PeerClock::default(); peers], held_back_ms: 0 }
    }

    /// A heartbeat of `peer` gave this.
    pub fn measured(&mut self, peer: usize, offset: Offset, now: Mono) {
        if let Some(peer) = self.peers.get_mut(peer) {
            peer.measured(offset, now);
        }
    }

    /// How far the clock of `peer` stands from this node's, if that is known at present.
    #[must_use]
    pub fn offset(&self, peer: usize, now: Mono) -> Option<Offset> {
        self.peers.get(peer)?.offset(now)
    }

    /// Whether the clock of `peer` stands too far away.
    #[must_use]
    pub fn is_alarmed(&self, peer: usize) -> bool {
        self.peers.get(peer).is_some_and(|peer| peer.alarmed)
    }

    /// By how much this node holds itself back, in milliseconds.
    #[must_use]
    pub fn held_back_ms(&self) -> u64 {
        self.held_back_ms
    }

    /// Judges what is known now.
    pub fn judge(&mut self, now: Mono) -> Judgement {
        let mut judgement = Judgement::default();
        for (index, peer) in self.peers.iter_mut().enumerate() {
            if peer.judge(now) {
                reach(Mark::SkewAlarmed);
                judgement.alarms.push(index);
            }
        }
        // Without three clocks nobody can say whose is wrong: what was found when there were stays.
        if let Some(ahead_ms) = self.ahead_of_median_ms(now) {
            let hold_back_ms = ahead_ms.saturating_sub(AHEAD_OF_MEDIAN_MS_MAX);
            let ends = hold_back_ms == 0 && self.held_back_ms > 0;
            if ends || hold_back_ms.abs_diff(self.held_back_ms) >= HOLD_BACK_STEP_MS {
                reach(Mark::HeldItselfBack);
                self.held_back_ms = hold_back_ms;
                judgement.hold_back_ms = Some(hold_back_ms);
            }
        }
        judgement
    }

    /// By how much this node's clock is ahead of the median of all that are known, at least; `None` with fewer than three.
    ///
    /// Each peer's clock is taken for as late as its measurement allows. The median of those is not below the true one, so that no
    /// path, however uneven, makes a node hold itself back further than it should.
    fn ahead_of_median_ms(&self, now: Mono) -> Option<u64> {
        let known = self.peers.iter().filter_map(|peer| peer.offset(now));
        let mut clocks: Vec<i64> = known.map(|offset| offset.highest()).chain([0]).collect();
        if clocks.len() < 3 {
            return None;
        }
        clocks.sort_unstable();
        // Of an even number, the later of the two in the middle.
        let median = clocks[clocks.len() / 2];
        Some(median.min(0).unsigned_abs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Mono {
        Mono(ms * 1_000_000)
    }

    fn offset(ms: i64, uncertainty_ms: u64) -> Offset {
        Offset { ms, uncertainty_ms }
    }

    /// Of peers whose clocks were measured exactly at `now`.
    fn known(skews: &mut Skews, offsets: &[i64], now: Mono) -> Judgement {
        for (peer, ms) in offsets.iter().enumerate() {
            skews.measured(peer, offset(*ms, 0), now);
        }
        skews.judge(now)
    }

    #[test]
    fn an_uneven_path_is_within_the_uncertainty() {
        // The peer is 40 ms ahead; 10 ms there, 70 ms back.
        let measured = Offset::measured(1_000_040, 1_000_070, 80_000_000);
        assert_eq!(measured, offset(10, 42));
        assert!(measured.lowest() <= 40 && measured.highest() >= 40);
        assert_eq!(measured.at_least_ms(), 0);
        assert_eq!(offset(-130, 20).at_least_ms(), 110);
    }

    #[test]
    fn impossible_clocks_do_no_harm() {
        for (theirs, ours, rtt_ns) in [(u64::MAX, 0, 0), (0, u64::MAX, 0), (0, 0, u64::MAX), (u64::MAX, 1, u64::MAX)] {
            let mut skews = Skews::new(2);
            skews.measured(0, Offset::measured(theirs, ours, rtt_ns), at(0));
            skews.measured(1, Offset::measured(ours, theirs, rtt_ns), at(0));
            skews.judge(at(0));
            assert_eq!(skews.held_back_ms(), 0, "one ahead and one behind leave this node in the middle");
        }
        Skews::new(0).measured(7, offset(1, 1), at(0));
    }

    #[test]
    fn of_the_latest_measurements_the_one_with_the_shortest_way_counts() {
        let mut skews = Skews::new(1);
        assert_eq!(skews.offset(0, at(0)), None);
        skews.measured(0, offset(20, 80), at(0));
        skews.measured(0, offset(12, 10), at(500));
        for turn in 2..9 {
            skews.measured(0, offset(50, 90), at(500 * turn));
            assert_eq!(skews.offset(0, at(500 * turn)), Some(offset(12, 10)));
        }
        skews.measured(0, offset(50, 90), at(4_500));
        assert_eq!(skews.offset(0, at(4_500)), Some(offset(50, 90)), "it has left the window");
        assert_eq!(skews.offset(0, at(4_500 + FRESH_MS)), None, "nobody was heard since");
    }

    #[test]
    fn a_clock_that_moved_is_measured_anew() {
        let mut skews = Skews::new(1);
        skews.measured(0, offset(0, 5), at(0));
        skews.measured(0, offset(2_000, 80), at(500));
        assert_eq!(skews.offset(0, at(500)), Some(offset(2_000, 80)));
    }

    #[test]
    fn the_alarm_begins_beyond_the_uncertainty_and_ends_nearer() {
        let mut skews = Skews::new(2);
        let mut told = |offset: Offset, ms| {
            skews.measured(1, offset, at(ms));
            let changed = skews.judge(at(ms)).alarms;
            (changed == [1], skews.is_alarmed(1))
        };
        assert_eq!(told(offset(170, 82), 0), (false, false), "it may be 88 ms");
        assert_eq!(told(offset(-170, 60), 20_000), (true, true));
        assert_eq!(told(offset(-170, 60), 40_000), (false, true), "said once");
        assert_eq!(told(offset(-90, 10), 60_000), (false, true));
        assert_eq!(told(offset(-90, 20), 80_000), (true, false));
        assert_eq!(told(offset(400, 20), 100_000), (true, true));
        assert_eq!(skews.judge(at(100_000 + FRESH_MS)).alarms, [1], "its clock is not known any more");
        assert!(!skews.is_alarmed(1) && !skews.is_alarmed(0));
    }

    #[test]
    fn with_three_clocks_the_one_ahead_holds_itself_back() {
        let mut skews = Skews::new(2);
        assert_eq!(known(&mut skews, &[-2_000], at(0)).hold_back_ms, None, "two clocks: who knows which is wrong");
        assert_eq!(known(&mut skews, &[-2_000, -4_000], at(0)).hold_back_ms, Some(1_750));
        assert_eq!(known(&mut skews, &[-2_005, -4_000], at(1)).hold_back_ms, None, "jitter");
        assert_eq!(skews.held_back_ms(), 1_750);
        assert_eq!(skews.judge(at(30_000)).hold_back_ms, None, "cut off it stays where it is");
        assert_eq!(known(&mut skews, &[-251, -4_000], at(31_000)).hold_back_ms, Some(1));
        assert_eq!(known(&mut skews, &[-250, -4_000], at(50_000)).hold_back_ms, Some(0));
        for sound in [[2_000, -4_000], [-10, -4_000], [5_000, 5_000], [-250, -251]] {
            assert_eq!(known(&mut Skews::new(2), &sound, at(0)).hold_back_ms, None, "{sound:?}");
        }
    }

    #[test]
    fn of_four_clocks_the_later_of_the_middle_ones_counts() {
        assert_eq!(known(&mut Skews::new(3), &[-900, -400, -300], at(0)).hold_back_ms, Some(50));
    }

    #[test]
    fn no_path_makes_a_node_hold_itself_back_further_than_it_should() {
        // Sound clocks behind a path that takes three seconds in one direction; heartbeats that lay here while the process was stopped.
        for late_ms in [3_000, 60_000] {
            let mut skews = Skews::new(2);
            for peer in 0..2 {
                skews.measured(peer, Offset::measured(1_000_000, 1_000_000 + late_ms, late_ms * 1_000_000), at(0));
            }
            assert_eq!(skews.judge(at(0)), Judgement::default());
        }
    }
}
