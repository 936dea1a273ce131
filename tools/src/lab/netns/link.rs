//! One direction of a link between two regions: which packets pass, and when they arrive.
//!
//! A packet first waits for its turn on the wire (`rate`), in a buffer that drops what does not fit, and then travels
//! for `delay`. Nothing overtakes. No clock and no randomness of its own: both come with the packet.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// What waits for its turn when nothing else is said: what 100 Mbit/s carry in 165 ms.
pub(super) const BUFFER_BYTES: f64 = 2_000_000.0;

/// How a direction treats packets.
#[derive(Clone, Debug)]
pub(super) struct Conditions {
    /// Whether the link is whole. A cut one swallows everything, also what is under way.
    pub(super) up: bool,
    /// How long a packet travels.
    pub(super) delay: Duration,
    /// How much of the packets is lost.
    pub(super) loss_percent: f64,
    /// Mbit/s, if limited.
    pub(super) rate_mbit: Option<f64>,
    /// Bytes that may wait for their turn, where there is a rate.
    pub(super) buffer_bytes: f64,
}

/// What became of the packets so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Delivered.
    pub(super) delivered: u64,
    /// Lost by chance.
    pub(super) lost: u64,
    /// Dropped because the buffer was full.
    pub(super) overflowed: u64,
    /// Swallowed by a cut.
    pub(super) cut: u64,
}

/// One direction of a link.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) conditions: Conditions,
    pub(super) counts: Counts,
    /// When the wire is free again.
    free_at: Option<Instant>,
    /// What is under way, with its arrival; in order.
    under_way: VecDeque<(Instant, Vec<u8>)>,
}

impl Link {
    /// A whole link without loss or limit.
    pub(super) fn new(delay: Duration) -> Link {
        let conditions = Conditions { up: true, delay, loss_percent: 0.0, rate_mbit: None, buffer_bytes: BUFFER_BYTES };
        Link { conditions, counts: Counts::default(), free_at: None, under_way: VecDeque::new() }
    }

    /// Takes a packet that comes in `now`; `chance` is even between 0 and 1.
    pub(super) fn admit(&mut self, now: Instant, packet: Vec<u8>, chance: f64) {
        if !self.conditions.up {
            self.counts.cut += 1;
            return;
        }
        if chance * 100.0 < self.conditions.loss_percent {
            self.counts.lost += 1;
            return;
        }
        let mut arrival = now + self.conditions.delay;
        if let Some(rate_mbit) = self.conditions.rate_mbit {
            let bytes_per_s = rate_mbit * 1e6 / 8.0;
            let start = self.free_at.map_or(now, |free| free.max(now));
            let bytes = packet_bytes(&packet);
            let waiting_bytes = (start - now).as_secs_f64() * bytes_per_s;
            if waiting_bytes + bytes > self.conditions.buffer_bytes {
                self.counts.overflowed += 1;
                return;
            }
            let sent = start + Duration::from_secs_f64(bytes / bytes_per_s);
            self.free_at = Some(sent);
            arrival = sent + self.conditions.delay;
        }
        // A packet that came before a change of the conditions is not overtaken.
        let last = self.under_way.back().map_or(arrival, |(last, _)| *last);
        self.under_way.push_back((arrival.max(last), packet));
    }

    /// The next packet that has arrived by `now`.
    pub(super) fn arrived(&mut self, now: Instant) -> Option<Vec<u8>> {
        let (_, packet) = self.under_way.pop_front_if(|(arrival, _)| *arrival <= now)?;
        self.counts.delivered += 1;
        Some(packet)
    }

    /// When the next packet arrives.
    pub(super) fn next_arrival(&self) -> Option<Instant> {
        self.under_way.front().map(|(arrival, _)| *arrival)
    }

    /// Cuts the link, with all that is under way, or heals it.
    pub(super) fn set_up(&mut self, up: bool) {
        self.conditions.up = up;
        if !up {
            self.counts.cut += self.under_way.len() as u64;
            self.under_way.clear();
            self.free_at = None;
        }
    }

    /// Limits the rate, in Mbit/s, or no longer does. What waits keeps its arrival.
    pub(super) fn set_rate(&mut self, rate_mbit: Option<f64>, buffer_bytes: f64) {
        self.conditions.rate_mbit = rate_mbit;
        self.conditions.buffer_bytes = buffer_bytes;
        self.free_at = None;
    }
}

#[expect(clippy::cast_precision_loss, reason = "a packet has a few thousand bytes")]
fn packet_bytes(packet: &[u8]) -> f64 {
    packet.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELAY: Duration = Duration::from_millis(80);

    fn packet(first: u8) -> Vec<u8> {
        let mut packet = vec![0; 1000];
        packet[0] = first;
        packet
    }

    /// Everything that arrives by `now`, by first byte.
    fn drain(link: &mut Link, now: Instant) -> Vec<u8> {
        std::iter::from_fn(|| link.arrived(now)).map(|packet| packet[0]).collect()
    }

    #[test]
    fn a_packet_arrives_after_the_delay_and_not_before() {
        let (mut link, start) = (Link::new(DELAY), Instant::now());
        link.admit(start, packet(1), 0.5);
        assert_eq!(link.next_arrival(), Some(start + DELAY));
        assert_eq!(drain(&mut link, start + DELAY - Duration::from_nanos(1)), [0; 0]);
        assert_eq!(drain(&mut link, start + DELAY), [1]);
        assert_eq!(link.next_arrival(), None);
        assert_eq!(link.counts, Counts { delivered: 1, ..Counts::default() });
    }

    #[test]
    fn a_cut_swallows_what_is_under_way_and_what_comes_until_it_heals() {
        let (mut link, start) = (Link::new(DELAY), Instant::now());
        link.admit(start, packet(1), 0.5);
        link.set_up(false);
        link.admit(start, packet(2), 0.5);
        link.set_up(true);
        link.admit(start, packet(3), 0.5);
        assert_eq!(drain(&mut link, start + DELAY), [3]);
        assert_eq!(link.counts, Counts { delivered: 1, cut: 2, ..Counts::default() });
    }

    #[test]
    fn the_share_of_packets_that_chance_names_is_lost() {
        let (mut link, start) = (Link::new(DELAY), Instant::now());
        link.conditions.loss_percent = 25.0;
        for number in 0..100 {
            link.admit(start, packet(number), f64::from(number) / 100.0);
        }
        assert_eq!(drain(&mut link, start + DELAY), (25..100).collect::<Vec<u8>>());
        assert_eq!(link.counts.lost, 25);
    }

    #[test]
    fn a_rate_spaces_packets_and_a_full_buffer_drops_them() {
        let (mut link, start) = (Link::new(DELAY), Instant::now());
        // 1000 bytes take 10 ms; two of them may wait.
        link.set_rate(Some(0.8), 2_500.0);
        for number in 1..=4 {
            link.admit(start, packet(number), 0.5);
        }
        let at = |ms: u64| start + DELAY + Duration::from_millis(ms);
        assert_eq!(drain(&mut link, at(9)), [0; 0]);
        assert_eq!(drain(&mut link, at(10)), [1]);
        assert_eq!(drain(&mut link, at(20)), [2]);
        assert_eq!(drain(&mut link, at(1000)), [0; 0]);
        assert_eq!(link.counts, Counts { delivered: 2, overflowed: 2, ..Counts::default() });
        // The wire has been idle since; and without a limit nothing waits.
        link.admit(at(1000), packet(5), 0.5);
        assert_eq!(link.next_arrival(), Some(at(1010) + DELAY));
        link.set_rate(None, BUFFER_BYTES);
        link.admit(at(1100), packet(6), 0.5);
        assert_eq!(drain(&mut link, at(1100) + DELAY), [5, 6]);
    }

    #[test]
    fn nothing_overtakes_when_the_delay_shrinks() {
        let (mut link, start) = (Link::new(DELAY), Instant::now());
        link.admit(start, packet(1), 0.5);
        link.conditions.delay = Duration::from_millis(1);
        link.admit(start, packet(2), 0.5);
        assert_eq!(drain(&mut link, start + Duration::from_millis(1)), [0; 0]);
        assert_eq!(drain(&mut link, start + DELAY), [1, 2]);
    }
}
