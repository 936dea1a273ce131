//! Catch-up: what a follower lacks of one source's logs and gets on a bulk connection, how fast that comes, and how long it will take.

use std::collections::{BTreeMap, VecDeque};

use net::ids::{LogId, NodeId, Version};
use net::reactor::Mono;
use net::wire::body::{BacklogLog, FollowLog};
use serde::{Deserialize, Serialize};

use super::from_wire;

/// Rates are taken over so many of the source's last words, which come twice a second.
const SAMPLES_MAX: usize = 10;

const NS_PER_SECOND: u128 = 1_000_000_000;

/// What the source said, and what had come by then.
#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Mono,
    bytes: u64,
    left: u64,
}

/// How far a catch-up is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Bytes of records that came, as they lie in the log.
    pub bytes: u64,
    /// How many records those are.
    pub records: u64,
    /// How long it has taken so far.
    pub seconds: u64,
    /// Bytes of records a second, over the last seconds.
    pub bytes_per_second: u64,
    /// Bytes of its log that the source has still to read for it.
    pub left_bytes: u64,
    /// How long that will take at the present pace, if that is known.
    pub left_seconds: Option<u64>,
    /// By how much what is held is older than where the live stream began, in milliseconds.
    pub behind_ms: u64,
}

/// One source's logs on their way here.
#[derive(Debug)]
pub struct CatchUp {
    /// Whose logs.
    pub node: NodeId,
    began: Mono,
    lacking: BTreeMap<LogId, Version>,
    bytes: u64,
    records: u64,
    left: u64,
    samples: VecDeque<Sample>,
}

impl CatchUp {
    /// `node` streams these logs only behind what they name.
    #[must_use]
    pub fn new(node: NodeId, now: Mono) -> CatchUp {
        let (lacking, samples) = (BTreeMap::new(), VecDeque::new());
        CatchUp { node, began: now, lacking, bytes: 0, records: 0, left: 0, samples }
    }

    /// What the source says now counts; what it said on an earlier connection does not.
    pub fn lacks(&mut self, logs: &[BacklogLog], left: u64) {
        self.lacking = logs.iter().map(|entry| (entry.log, entry.upto)).collect();
        self.left = left;
        self.samples.clear();
    }

    /// What to ask for on the bulk connection.
    #[must_use]
    pub fn wanted(&self, held: impl Fn(LogId) -> Version) -> Vec<FollowLog> {
        // Those that are held by now, too: what others have lost may stand in them.
        self.lacking.iter().map(|(log, upto)| FollowLog { log: *log, from: held(*log), upto: *upto }).collect()
    }

    /// Whether everything is held that the live connection left out.
    #[must_use]
    pub fn is_over(&self, held: impl Fn(LogId) -> Version) -> bool {
        self.lacking.iter().all(|(log, upto)| held(*log) >= *upto)
    }

    /// Records came.
    pub fn received(&mut self, bytes: u64, records: u64) {
        self.bytes += bytes;
        self.records += records;
    }

    /// The source says how much is left.
    pub fn told(&mut self, left: u64, now: Mono) {
        self.left = left;
        if self.samples.len() >= SAMPLES_MAX {
            self.samples.pop_front();
        }
        self.samples.push_back(Sample { at: now, bytes: self.bytes, left });
    }

    /// How far it is.
    #[must_use]
    pub fn progress(&self, now: Mono, held: impl Fn(LogId) -> Version) -> Progress {
        let behind = |(log, upto): (&LogId, &Version)| {
            from_wire(*upto).unix_ms().saturating_sub(from_wire(held(*log)).unix_ms())
        };
        let mut progress = Progress {
            bytes: self.bytes,
            records: self.records,
            seconds: now.since(self.began) / 1_000_000_000,
            left_bytes: self.left,
            behind_ms: self.lacking.iter().map(behind).max().unwrap_or(0),
            ..Progress::default()
        };
        if let (Some(first), Some(last)) = (self.samples.front(), self.samples.back()) {
            let ns = u128::from(now.since(first.at).max(1));
            progress.bytes_per_second = per_second(self.bytes - first.bytes, ns);
            let read = per_second(first.left.saturating_sub(last.left), ns);
            progress.left_seconds = (read > 0).then(|| last.left.div_ceil(read));
        }
        progress
    }
}

fn per_second(count: u64, ns: u128) -> u64 {
    u64::try_from(u128::from(count) * NS_PER_SECOND / ns).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use net::ids::Incarnation;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn log(incarnation: u64) -> LogId {
        LogId { node: NodeId(1), incarnation: Incarnation(incarnation) }
    }

    #[test]
    fn it_is_over_when_all_that_was_left_out_is_held() {
        let mut catch_up = CatchUp::new(NodeId(1), Mono(0));
        let lacking = [(1, 70), (2, 90)].map(|(run, upto)| BacklogLog { log: log(run), upto: Version(upto) });
        catch_up.lacks(&lacking, 1_000);
        assert!(!catch_up.is_over(|_| Version(80)));
        let wanted = catch_up.wanted(|_| Version(80));
        let bounds: Vec<_> = wanted.iter().map(|entry| (entry.from.0, entry.upto.0)).collect();
        assert_eq!(bounds, [(80, 70), (80, 90)], "what rests on a log that is held waits for that one, too");
        assert!(catch_up.is_over(|_| Version(90)));
        // The live connection broke, and begins later by now.
        catch_up.lacks(&[BacklogLog { log: log(2), upto: Version(120) }], 10);
        assert!(!catch_up.is_over(|_| Version(90)));
    }

    #[test]
    fn rate_and_rest_follow_from_what_came_and_what_the_source_says() {
        let mut catch_up = CatchUp::new(NodeId(1), Mono(SECOND));
        let at = Version(5 << 22);
        catch_up.lacks(&[BacklogLog { log: log(1), upto: at }], 40_000);
        let progress = catch_up.progress(Mono(2 * SECOND), |_| Version(0));
        assert_eq!((progress.left_seconds, progress.bytes_per_second, progress.left_bytes), (None, 0, 40_000));
        for half in 0..40u64 {
            catch_up.told(40_000 - half * 500, Mono(SECOND + half * SECOND / 2));
            catch_up.received(300, 3);
        }
        let now = Mono(SECOND + 20 * SECOND);
        let progress = catch_up.progress(now, |_| Version(0));
        assert_eq!((progress.bytes, progress.records, progress.seconds), (12_000, 120, 20));
        assert_eq!(progress.bytes_per_second, 600);
        assert_eq!((progress.left_bytes, progress.left_seconds), (20_500, Some(23)), "900 bytes of log a second");
        assert!(progress.behind_ms > 0);
        assert_eq!(catch_up.progress(now, |_| at).behind_ms, 0);
    }
}
