//! Who lacks what: judged from what nodes say they hold, and from what is found there afterwards. No I/O.
//!
//! A node's coverage is taken before anything is looked at there. What it covers was there, or something newer for the same key. So of
//! two nodes, the one with the older record lacks the newer one only if its coverage names it; otherwise the record is on its way.

use std::collections::{BTreeMap, BTreeSet};

use net::ids::{LogId, NodeId, Version};
use net::wire::body::{Coverage, Covered, Entry};
use wal::planted::{self, Fault};

/// What expires within this time of the latest clock counts as expired: it may be so at one node and not yet at another.
const EXPIRY_SLACK_MS: u64 = 2_000;

/// What a node said that it holds, and when.
#[derive(Clone, Debug, Default)]
pub struct Held {
    /// By node, in order: where a log begins, and up to where it is held.
    logs: BTreeMap<NodeId, Vec<(Version, Version)>>,
    /// Whose record was whole when its present run began, and where that is: this node, if it judges itself.
    own: Option<(NodeId, Version)>,
    physical_ms: u64,
}

impl Held {
    /// What `coverage` says.
    #[must_use]
    pub fn of(coverage: &Coverage) -> Held {
        Held::of_logs(coverage.logs.iter().copied(), coverage.physical_ms)
    }

    fn of_logs(covered: impl Iterator<Item = Covered>, physical_ms: u64) -> Held {
        let mut logs: BTreeMap<NodeId, Vec<(Version, Version)>> = BTreeMap::new();
        for covered in covered {
            logs.entry(covered.log.node).or_default().push((covered.first, covered.upto));
        }
        logs.values_mut().for_each(|logs| logs.sort_unstable());
        Held { logs, own: None, physical_ms }
    }

    /// What the node `own`, whose present run began at `began`, holds of these logs by its own account. Whatever it wrote in earlier runs it
    /// had: what is not here any more was lost with a part of its disk, also where its logs seem to end earlier by now.
    #[must_use]
    pub fn by(own: NodeId, began: Version, covered: impl Iterator<Item = Covered>, physical_ms: u64) -> Held {
        Held { own: Some((own, began)), ..Held::of_logs(covered, physical_ms) }
    }

    /// Whether a record of `origin` is covered, and old enough not to be held back from readers.
    #[must_use]
    pub fn covers(&self, origin: NodeId, version: Version) -> bool {
        let Some(logs) = self.logs.get(&origin) else { return false };
        let after = logs.partition_point(|(first, _)| *first <= version);
        let covered = match after.checked_sub(1) {
            Some(at) => version <= logs[at].1,
            // A log that is not listed any more holds nothing that counts but what stands in later ones: the first claim over those
            // waited for it.
            None => logs.first().is_some_and(|(first, upto)| upto >= first),
        };
        let is_own = self.own.is_some_and(|(own, began)| own == origin && version < began);
        (covered || is_own) && wal::Version(version.0).unix_ms() <= self.physical_ms
    }
}

/// What all of several nodes hold: for each log the lowest of what they say. A log that one of them does not know is not among it.
#[must_use]
pub fn held_by_all(coverages: &[&Coverage]) -> Vec<Covered> {
    let mut all: BTreeMap<LogId, (Covered, usize)> = BTreeMap::new();
    for covered in coverages.iter().flat_map(|coverage| &coverage.logs) {
        let (lowest, known) = all.entry(covered.log).or_insert((*covered, 0));
        lowest.upto = lowest.upto.min(covered.upto);
        *known += 1;
    }
    all.into_values().filter(|(_, known)| *known == coverages.len()).map(|(covered, _)| covered).collect()
}

/// The leaves in which sums differ, in order.
#[must_use]
pub fn differing_leaves(sums: &[&[u64]]) -> Vec<u16> {
    let Some((first, others)) = sums.split_first() else { return Vec::new() };
    let differs = |at: &usize| others.iter().any(|other| other.get(*at) != first.get(*at));
    (0..first.len()).filter(differs).filter_map(|leaf| u16::try_from(leaf).ok()).collect()
}

/// One number for all sums.
#[must_use]
pub fn digest(sums: &[u64]) -> u64 {
    sums.iter().fold(0, |all, sum| all.wrapping_add(*sum))
}

/// What names a record of a key: the order in which records supersede each other.
#[must_use]
pub fn identity(entry: &Entry) -> (Version, u32) {
    (entry.version, entry.crc)
}

/// The newest of what nodes have of a key, and whether all of them have exactly it.
#[must_use]
pub fn newest(found: &[Option<Entry>]) -> Option<(&Entry, bool)> {
    let newest = found.iter().flatten().max_by_key(|entry| identity(entry))?;
    let same = found.iter().all(|entry| entry.as_ref().is_some_and(|entry| identity(entry) == identity(newest)));
    Some((newest, same))
}

/// What became of a key that nodes had different records of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Everybody has what was wanted, or something newer; or nobody has a value.
    Settled,
    /// These nodes hold the log of the record up to there, and do not have it.
    Lacking(BTreeSet<usize>),
    /// These nodes may still get it.
    OnItsWay(BTreeSet<usize>),
}

/// Looks again: `wanted` is what some node had; `held` and `found` are what every node said and had later.
#[must_use]
pub fn settle(wanted: &Entry, held: &[Held], found: &[Option<Entry>]) -> Outcome {
    let now_ms = held.iter().map(|held| held.physical_ms).max().unwrap_or(0) + EXPIRY_SLACK_MS;
    if !found.iter().flatten().any(|entry| is_value(entry, now_ms)) {
        return Outcome::Settled;
    }
    let (mut lacking, mut waiting) = (BTreeSet::new(), BTreeSet::new());
    for (node, (held, entry)) in held.iter().zip(found).enumerate() {
        match stands(wanted, held, entry.as_ref(), now_ms) {
            Standing::HasIt => {}
            Standing::Lacks => drop(lacking.insert(node)),
            Standing::MayStillGetIt => drop(waiting.insert(node)),
        }
    }
    match (lacking.is_empty(), waiting.is_empty()) {
        (false, _) => Outcome::Lacking(lacking),
        (true, false) => Outcome::OnItsWay(waiting),
        (true, true) => Outcome::Settled,
    }
}

/// How a node stands to a record that another one has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// It has that, or something newer; or neither of them has a value.
    HasIt,
    /// It holds the log of the record up to there, and does not have it.
    Lacks,
    /// It may still get it.
    MayStillGetIt,
}

fn is_value(entry: &Entry, now_ms: u64) -> bool {
    !entry.is_tombstone && (entry.expiry == 0 || entry.expiry > now_ms)
}

fn stands(wanted: &Entry, held: &Held, found: Option<&Entry>, now_ms: u64) -> Standing {
    let has_it = found.is_some_and(|entry| identity(entry) >= identity(wanted));
    let nothing_either = !is_value(wanted, now_ms) && !found.is_some_and(|entry| is_value(entry, now_ms));
    if has_it || nothing_either {
        Standing::HasIt
    } else if held.covers(wanted.origin, wanted.version) || planted::is(Fault::JudgeIgnoresCoverage) {
        Standing::Lacks
    } else {
        Standing::MayStillGetIt
    }
}

/// Whether a node lost `theirs`, which another one has: `held` is what it held before it looked and found `found`, `forgotten` up to
/// where it may have forgotten by now what was deleted, or had expired. Nothing up to there is lacking: that it is absent means that it was
/// deleted.
#[must_use]
pub fn is_lost(theirs: &Entry, held: &Held, found: Option<&Entry>, forgotten: Version) -> bool {
    let may_be_deleted = theirs.version <= forgotten && !planted::is(Fault::JudgeIgnoresFloor);
    !may_be_deleted && stands(theirs, held, found, held.physical_ms + EXPIRY_SLACK_MS) == Standing::Lacks
}

#[cfg(test)]
mod tests {
    use net::ids::{Incarnation, RegionName};

    use super::*;

    const SFO: NodeId = NodeId(1);
    const NYC: NodeId = NodeId(2);
    const NOW_MS: u64 = wal::EPOCH_2020_UNIX_MS + 1_000_000;

    fn at(ms: u64) -> Version {
        Version(wal::Version::new(ms, 0, 0).0)
    }

    fn coverage(logs: &[(NodeId, u64, u64)]) -> Coverage {
        let covered = |(node, first, upto): &(NodeId, u64, u64)| Covered {
            log: LogId { node: *node, incarnation: Incarnation(*first) },
            first: at(*first),
            upto: at(*upto),
        };
        let logs = logs.iter().map(covered).collect();
        Coverage { node: SFO, region: RegionName::parse("sfo").unwrap(), physical_ms: NOW_MS, logs }
    }

    fn held(logs: &[(NodeId, u64, u64)]) -> Held {
        Held::of(&coverage(logs))
    }

    fn entry(ms: u64, crc: u32) -> Entry {
        let key = bytes::Bytes::from_static(b"key");
        Entry { version: at(ms), origin: NYC, crc, is_tombstone: false, expiry: 0, key_hash: 0, key }
    }

    fn tombstone(ms: u64) -> Entry {
        Entry { is_tombstone: true, ..entry(ms, 1) }
    }

    fn nodes(nodes: &[usize]) -> BTreeSet<usize> {
        nodes.iter().copied().collect()
    }

    #[test]
    fn a_record_is_covered_by_the_log_in_whose_interval_it_lies() {
        let held = held(&[(NYC, 500, 700), (NYC, 100, 300)]);
        for (ms, covered) in
            [(50, true), (100, true), (300, true), (301, false), (499, false), (500, true), (701, false)]
        {
            assert_eq!(held.covers(NYC, at(ms)), covered, "{ms}");
        }
        assert!(!held.covers(SFO, at(1)), "of a node that was never heard of nothing is covered");
        let ahead = self::held(&[(NYC, 100, 3_000_000)]);
        assert!(ahead.covers(NYC, at(1_000_000)) && !ahead.covers(NYC, at(1_000_001)), "it may be held back");
    }

    #[test]
    fn what_is_not_covered_is_on_its_way_and_what_is_covered_is_lacking() {
        let all = [held(&[(NYC, 100, 500)]), held(&[(NYC, 100, 499)])];
        let with = |found: Option<Entry>| [Some(entry(500, 1)), found];
        let settle = |found| settle(&entry(500, 1), &all, &with(found));
        assert_eq!(settle(None), Outcome::OnItsWay(nodes(&[1])));
        assert_eq!(settle(Some(entry(400, 1))), Outcome::OnItsWay(nodes(&[1])));
        assert_eq!(settle(Some(entry(500, 1))), Outcome::Settled);
        assert_eq!(settle(Some(entry(600, 1))), Outcome::Settled, "something newer is as good");
        let covering = [all[0].clone(), all[0].clone()];
        let outcome = super::settle(&entry(500, 1), &covering, &with(Some(entry(400, 1))));
        assert_eq!(outcome, Outcome::Lacking(nodes(&[1])));
        let outcome = super::settle(&entry(500, 2), &covering, &[Some(entry(500, 2)), Some(entry(500, 1))]);
        assert_eq!(outcome, Outcome::Lacking(nodes(&[1])), "one version, two records");
    }

    #[test]
    fn one_that_lacks_it_counts_more_than_one_that_waits() {
        let all = [held(&[(NYC, 1, 500)]), held(&[(NYC, 1, 500)]), held(&[(NYC, 1, 499)])];
        let found = [Some(entry(500, 1)), None, None];
        assert_eq!(settle(&entry(500, 1), &all, &found), Outcome::Lacking(nodes(&[1])));
    }

    #[test]
    fn nothing_is_nothing_whatever_is_left_of_it() {
        let all = [held(&[(NYC, 1, 900)]), held(&[(NYC, 1, 900)])];
        let settle = |wanted: Entry, other| settle(&wanted, &all, &[Some(wanted.clone()), other]);
        let expiring = |expiry| Entry { expiry, ..entry(500, 1) };
        assert_eq!(settle(tombstone(500), None), Outcome::Settled, "one has collected it");
        assert_eq!(settle(expiring(NOW_MS), None), Outcome::Settled);
        assert_eq!(settle(expiring(NOW_MS + 1_000), None), Outcome::Settled, "as good as expired");
        assert_eq!(settle(expiring(NOW_MS + 60_000), None), Outcome::Lacking(nodes(&[1])));
        assert_eq!(settle(tombstone(500), Some(entry(400, 1))), Outcome::Lacking(nodes(&[1])), "a value came back");
        assert_eq!(settle(expiring(NOW_MS), Some(entry(400, 1))), Outcome::Lacking(nodes(&[1])));
        assert_eq!(settle(tombstone(950), Some(entry(400, 1))), Outcome::OnItsWay(nodes(&[1])));
    }

    #[test]
    fn what_a_node_lost_is_what_it_holds_by_its_own_account_and_has_not_unless_it_may_be_deleted() {
        let held = held(&[(NYC, 100, 500)]);
        let lost = |theirs: &Entry, found: Option<&Entry>, forgotten| is_lost(theirs, &held, found, at(forgotten));
        let theirs = entry(400, 1);
        assert!(lost(&theirs, None, 399) && lost(&theirs, Some(&entry(300, 1)), 0));
        assert!(!lost(&theirs, None, 400), "deleted, and forgotten");
        assert!(!lost(&theirs, Some(&entry(400, 1)), 0) && !lost(&theirs, Some(&tombstone(450)), 0));
        assert!(lost(&theirs, Some(&entry(400, 0)), 0), "one version, two records: the order decides");
        assert!(!lost(&entry(400, 0), Some(&entry(400, 1)), 0), "and it decides for one side only");
        assert!(!lost(&entry(501, 1), None, 0), "on its way");
        assert!(!lost(&tombstone(400), None, 0), "nothing either way");
        assert!(lost(&tombstone(400), Some(&entry(300, 1)), 0), "a value that is deleted elsewhere");
        assert!(!lost(&Entry { expiry: NOW_MS + 1_000, ..entry(400, 1) }, None, 0), "as good as expired");
    }

    #[test]
    fn what_a_node_wrote_in_earlier_runs_it_had_and_what_nobody_claimed_is_not_covered() {
        let logs = coverage(&[(NYC, 100, 300), (NYC, 500, 700)]).logs;
        let own = Held::by(NYC, at(500), logs.iter().copied(), NOW_MS);
        for (ms, covered) in [(50, true), (300, true), (400, true), (500, true), (701, false)] {
            assert_eq!(own.covers(NYC, at(ms)), covered, "{ms}");
        }
        assert!(
            !Held::by(SFO, at(500), logs.iter().copied(), NOW_MS).covers(NYC, at(400)),
            "of others there may be more"
        );
        assert!(!held(&[(NYC, 100, 99)]).covers(NYC, at(50)), "the first claim has not come yet");
    }

    #[test]
    fn all_hold_what_the_last_of_them_holds() {
        let (first, second) = (coverage(&[(SFO, 1, 50), (NYC, 1, 70)]), coverage(&[(SFO, 1, 60), (NYC, 1, 40)]));
        let upto = |covered: Vec<Covered>| covered.iter().map(|covered| covered.upto).collect::<Vec<_>>();
        assert_eq!(upto(held_by_all(&[&first, &second])), [at(50), at(40)]);
        let third = coverage(&[(NYC, 1, 90)]);
        assert_eq!(upto(held_by_all(&[&first, &second, &third])), [at(40)]);
    }

    #[test]
    fn leaves_differ_where_any_two_sums_do() {
        assert_eq!(differing_leaves(&[&[1, 2, 3], &[1, 2, 3], &[1, 0, 3]]), [1]);
        assert!(differing_leaves(&[&[1, 2], &[1, 2]]).is_empty());
        assert_eq!(differing_leaves(&[&[1, 2], &[1]]), [1], "an answer cut short is no answer");
        assert_eq!(digest(&[1, u64::MAX, 5]), 5);
    }

    #[test]
    fn the_newest_is_by_version_then_by_checksum() {
        assert_eq!(newest(&[None, None]), None);
        let same = [Some(entry(5, 1)), Some(entry(5, 1))];
        assert_eq!(newest(&same), Some((&entry(5, 1), true)));
        let tie = [Some(entry(5, 1)), Some(entry(5, 2))];
        assert_eq!(newest(&tie), Some((&entry(5, 2), false)));
        assert_eq!(newest(&[None, Some(entry(5, 1))]), Some((&entry(5, 1), false)));
    }
}
