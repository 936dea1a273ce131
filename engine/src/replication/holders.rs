//! Holders: which other nodes durably hold how much of this node's running log, by what they acknowledged.
//!
//! Versions of one log are one order, and a claim covers all of them up to it, over all cores: that a node holds what a client wrote is one
//! comparison. The control thread keeps the board; cores look at it, and are told of changes only while a client of theirs waits.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use net::ids::{NodeId, RegionName};
use wal::Version;

/// Another node of the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Which one.
    pub node: NodeId,
    /// Its region.
    pub region: RegionName,
    /// It durably holds every version of this node's running log up to this; `None` if it has said nothing in this run.
    pub upto: Option<Version>,
    /// The bits of the prefixes whose keys it may hold ([`Residency`](super::residency::Residency)).
    pub classes: u64,
}

/// Who has to hold a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Others {
    /// So many other nodes, whatever their regions: what Redis' `WAIT` counts.
    Nodes(usize),
    /// At least one node in each of so many other regions.
    Regions(usize),
    /// At least one node in every other region that has a member.
    AllRegions,
}

/// What a client waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wanted {
    /// Other nodes.
    pub others: Others,
    /// This node's own claim, too: where replies do not wait for the disk anyway.
    pub own: bool,
    /// The bits of the prefixes of what was written: who may not hold all of them holds it not.
    pub classes: u64,
}

/// What cores of this node wait for.
#[derive(Clone, Copy, Debug, Default)]
struct Waiting {
    others: bool,
    own: bool,
}

#[derive(Debug, Default)]
struct Board {
    /// The members but this node, in order of their ids.
    holders: Vec<Holder>,
    /// This node's own claim.
    own: Version,
    /// By core.
    waiting: Vec<Waiting>,
}

/// The board.
#[derive(Debug, Default)]
pub struct Holders(Mutex<Board>);

impl Holders {
    fn lock(&self) -> MutexGuard<'_, Board> {
        // It is replaced as a whole: what it says is right whatever panicked elsewhere.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces what the board says. Returns the cores that wait for such news.
    pub fn update(&self, holders: Vec<Holder>, own: Version) -> Vec<u16> {
        let mut board = self.lock();
        let (others_changed, own_changed) = (board.holders != holders, board.own != own);
        board.holders = holders;
        board.own = own;
        let news = |waiting: &Waiting| others_changed && waiting.others || own_changed && waiting.own;
        (0u16..).zip(&board.waiting).filter(|(_, waiting)| news(waiting)).map(|(core, _)| core).collect()
    }

    /// From now on, until it says otherwise, `core` is told when other nodes, or this node's own claim, have moved. A core says so
    /// before it looks.
    pub fn tell(&self, core: u16, others: bool, own: bool) {
        let mut board = self.lock();
        let core = usize::from(core);
        if board.waiting.len() <= core {
            board.waiting.resize(core + 1, Waiting::default());
        }
        board.waiting[core] = Waiting { others, own };
    }

    /// The highest version for which `wanted` is reached; `None` if there is none.
    #[must_use]
    pub fn covered(&self, wanted: Wanted) -> Option<Version> {
        let board = self.lock();
        let others = match wanted.others {
            Others::Nodes(count) => nth_highest(board.that_may(wanted.classes).map(|holder| holder.upto), count),
            Others::Regions(count) => nth_highest(board.by_region(wanted.classes).into_values(), count),
            Others::AllRegions => {
                let regions = board.by_region(wanted.classes);
                let count = regions.len();
                nth_highest(regions.into_values(), count)
            }
        };
        if wanted.own { others.map(|others| others.min(board.own)) } else { others }
    }

    /// Those that durably hold everything up to `version`, keys of these prefixes included.
    #[must_use]
    pub fn of(&self, version: Version, classes: u64) -> Vec<Holder> {
        self.lock().that_may(classes).filter(|holder| holder.holds(version)).cloned().collect()
    }

    /// How many nodes those are.
    #[must_use]
    pub fn count(&self, version: Version, classes: u64) -> usize {
        self.lock().that_may(classes).filter(|holder| holder.holds(version)).count()
    }

    /// Whether this node's own claim reaches `version`.
    #[must_use]
    pub fn is_own(&self, version: Version) -> bool {
        self.lock().own >= version
    }
}

impl Board {
    /// Those that may hold keys of all these prefixes.
    fn that_may(&self, classes: u64) -> impl Iterator<Item = &Holder> {
        self.holders.iter().filter(move |holder| holder.classes & classes == classes)
    }

    /// What at least one node of each region holds that may hold keys of all these prefixes.
    fn by_region(&self, classes: u64) -> BTreeMap<&RegionName, Option<Version>> {
        let mut regions = BTreeMap::new();
        for holder in self.that_may(classes) {
            let upto = regions.entry(&holder.region).or_insert(None);
            *upto = holder.upto.max(*upto);
        }
        regions
    }
}

impl Holder {
    fn holds(&self, version: Version) -> bool {
        self.upto.is_some_and(|upto| upto >= version)
    }
}

/// What at least `count` of them reach: everything if `count` is zero.
fn nth_highest(uptos: impl Iterator<Item = Option<Version>>, count: usize) -> Option<Version> {
    let Some(at) = count.checked_sub(1) else { return Some(Version(u64::MAX)) };
    let mut uptos: Vec<Option<Version>> = uptos.collect();
    uptos.sort_unstable_by(|a, b| b.cmp(a));
    uptos.get(at).copied().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(node: u32, region: &str, upto: Option<u64>) -> Holder {
        Holder { node: NodeId(node), region: RegionName::parse(region).unwrap(), upto: upto.map(Version), classes: 0 }
    }

    fn covered(board: &Holders, others: Others) -> Option<u64> {
        board.covered(Wanted { others, own: false, classes: 0 }).map(|version| version.0)
    }

    #[test]
    fn nodes_and_regions_are_counted_by_what_they_acknowledged() {
        let board = Holders::default();
        assert_eq!(covered(&board, Others::Nodes(0)), Some(u64::MAX));
        assert_eq!(covered(&board, Others::Nodes(1)), None);
        assert_eq!(covered(&board, Others::AllRegions), Some(u64::MAX), "there is no other region");
        let all = vec![holder(1, "ams", Some(20)), holder(2, "ams", Some(30)), holder(3, "nyc", Some(10))];
        board.update([all, vec![holder(4, "sfo", None)]].concat(), Version(25));
        let nodes = [1, 2, 3, 4, 5].map(|count| covered(&board, Others::Nodes(count)));
        assert_eq!(nodes, [Some(30), Some(20), Some(10), None, None]);
        let regions = [1, 2, 3].map(|count| covered(&board, Others::Regions(count)));
        assert_eq!(regions, [Some(30), Some(10), None], "two nodes of one region are one region");
        assert_eq!(covered(&board, Others::AllRegions), None, "sfo has said nothing");
        assert_eq!((board.count(Version(20), 0), board.count(Version(0), 0), board.count(Version(31), 0)), (2, 3, 0));
        let own = Wanted { others: Others::Regions(1), own: true, classes: 0 };
        assert_eq!(board.covered(own), Some(Version(25)));
        assert!(board.is_own(Version(25)) && !board.is_own(Version(26)));
    }

    #[test]
    fn who_may_not_hold_a_key_does_not_count_for_it() {
        let board = Holders::default();
        let may = |classes, holder: Holder| Holder { classes, ..holder };
        board.update(vec![may(1, holder(1, "ams", Some(20))), may(0, holder(2, "nyc", Some(30)))], Version(30));
        let upto = |others, classes| board.covered(Wanted { others, own: false, classes }).map(|version| version.0);
        assert_eq!((upto(Others::Nodes(1), 0), upto(Others::Nodes(1), 1)), (Some(30), Some(20)));
        assert_eq!((upto(Others::Regions(2), 0), upto(Others::Regions(2), 1)), (Some(20), None));
        assert_eq!(upto(Others::AllRegions, 1), Some(20), "all regions that may hold it");
        assert_eq!(
            (board.count(Version(10), 0), board.count(Version(10), 1), board.of(Version(10), 2).len()),
            (2, 1, 0)
        );
    }

    #[test]
    fn only_who_waits_is_told_and_only_of_what_it_waits_for() {
        let board = Holders::default();
        let nobody = [0_u16; 0];
        let holders = |upto| vec![holder(1, "ams", Some(upto))];
        assert_eq!(board.update(holders(1), Version(1)), nobody);
        board.tell(2, true, false);
        board.tell(0, false, true);
        assert_eq!(board.update(holders(1), Version(1)), nobody, "nothing changed");
        assert_eq!(board.update(holders(2), Version(1)), [2]);
        assert_eq!(board.update(holders(2), Version(2)), [0]);
        assert_eq!(board.update(holders(3), Version(3)), [0, 2]);
        board.tell(2, false, false);
        assert_eq!(board.update(holders(4), Version(3)), nobody);
    }
}
