//! C4, the end of it: once all regions are equal and nobody writes, links fall silent. No record and no claim travels any more, and
//! what is left — heartbeats and refreshes of discovery — stays below a bound on each way between two nodes. (While clients write,
//! [`super::view`] notices an echo: nobody appends what it holds already.)

use wal::Version;

use super::Violation;

/// Checker C4 after quiesce.
pub const SILENCE: &str = "C4 silent links";

/// Bytes a second that one node may send another when nothing happens: heartbeats on four connections twice a second, and the
/// registrations of its services every five seconds, with their acknowledgements.
pub const QUIET_BYTES_PER_SECOND_MAX: u64 = 2_048;

/// Bytes that one node sends another for a comparison of both, if they are equal: what it covers and few sums.
pub const COMPARISON_BYTES_MAX: u64 = 10_240;

/// Bytes of claims that all nodes may send while keys expire: each core raises what it promises at most five times a second.
pub const CUT_BYTES_MAX: u64 = 32_768;

/// What links have carried so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// Records on all streams, as [`super::leaves`] counted them.
    pub records: u64,
    /// By node, bytes of records and claims over its present links, as it says itself.
    pub said: Vec<(String, u64)>,
    /// By way from one node to another, all bytes.
    pub bytes: Vec<((String, String), u64)>,
    /// By the same ways, comparisons that were answered on them.
    pub comparisons: Vec<u64>,
    /// Up to where each node wants the stable cut to be, and where it is. When a key expires it rises, and claims rise with it, as soon as
    /// the slowest clock is there, too.
    pub cuts: Vec<(Version, Version)>,
}

impl Carried {
    /// Nothing but what keeps links alive was carried between this and `after`, which was `ms` milliseconds later.
    ///
    /// # Errors
    /// [`SILENCE`].
    pub fn silent_until(&self, after: &Carried, ms: u64) -> Result<(), Violation> {
        let claims = |carried: &Carried| carried.said.iter().map(|(_, bytes)| bytes).sum::<u64>();
        let claimed = claims(after) - claims(self);
        let is_awaited = self.cuts != after.cuts || self.cuts.iter().any(|(wanted, cut)| wanted > cut);
        let may_claim = if is_awaited { CUT_BYTES_MAX } else { 0 };
        if self.records != after.records || claimed > may_claim {
            let text = format!(
                "links carried records or claims long after the last write: {} and {:?}, then {} and {:?}",
                self.records, self.said, after.records, after.said
            );
            return Err(Violation::new(SILENCE, text));
        }
        for (at, ((way, before), (_, bytes))) in self.bytes.iter().zip(&after.bytes).enumerate() {
            let count = |carried: &Carried| carried.comparisons.get(at).copied().unwrap_or(0);
            // One may have begun before, one may not have ended.
            let compared = match count(after) - count(self) {
                0 if count(after) == 0 => 0,
                ended => (ended + 1) * COMPARISON_BYTES_MAX,
            };
            let per_second = (bytes - before).saturating_sub(compared) * 1_000 / ms;
            if per_second > QUIET_BYTES_PER_SECOND_MAX {
                let text = format!("{} sends {} {per_second} bytes a second when nothing happens", way.0, way.1);
                return Err(Violation::new(SILENCE, text));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn carried(records: u64, said: u64, bytes: u64) -> Carried {
        Carried {
            records,
            said: vec![("sfo".to_owned(), said)],
            bytes: vec![(("sfo".to_owned(), "nyc".to_owned()), bytes)],
            comparisons: vec![0],
            cuts: vec![(Version(5), Version(5))],
        }
    }

    #[test]
    fn heartbeats_are_silence() {
        let before = carried(7, 900, 5_000);
        assert_eq!(before.silent_until(&carried(7, 900, 5_000 + 5 * QUIET_BYTES_PER_SECOND_MAX), 5_000), Ok(()));
    }

    #[test]
    fn comparisons_are_as_far_as_they_find_nothing() {
        let (mut before, mut after) = (carried(7, 900, 5_000), carried(7, 900, 5_000 + 20 * COMPARISON_BYTES_MAX));
        assert!(before.silent_until(&after, 5_000).is_err());
        (before.comparisons, after.comparisons) = (vec![3], vec![22]);
        assert_eq!(before.silent_until(&after, 5_000), Ok(()));
        after.bytes[0].1 += 20 * COMPARISON_BYTES_MAX;
        assert!(before.silent_until(&after, 5_000).is_err());
    }

    #[test]
    fn claims_are_when_keys_expire() {
        let before = carried(7, 900, 5_000);
        let mut after = carried(7, 964, 5_100);
        assert!(before.silent_until(&after, 5_000).is_err());
        after.cuts = vec![(Version(6), Version(5))];
        assert_eq!(before.silent_until(&after, 5_000), Ok(()));
        after.said[0].1 += CUT_BYTES_MAX;
        assert!(before.silent_until(&after, 5_000).is_err());
    }

    #[test]
    fn records_claims_and_a_loop_are_not() {
        let before = carried(7, 900, 5_000);
        for after in
            [carried(8, 900, 5_100), carried(7, 948, 5_100), carried(7, 900, 5_000 + 6 * QUIET_BYTES_PER_SECOND_MAX)]
        {
            let silent = before.silent_until(&after, 5_000);
            assert_eq!(silent.err().map(|violation| violation.checker), Some(SILENCE));
        }
    }
}
