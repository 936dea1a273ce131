//! The stable cut: up to where every member of the mesh holds everything that any of them wrote. What was deleted, or expired, before
//! it need not be remembered: nobody can bring it back.
//!
//! Each node says up to where it holds all ([`stable`]), in the view of the mesh that it has ([`view`]); the cut is the least of what
//! all members said in one and the same view. A log of a member that is away stops it. It never falls: claims do not.
//!
//! An idle node's log would stop it, too: whoever waits for the cut says up to where, and nodes that write less raise their claims.

use std::collections::BTreeMap;

use net::ids::{Incarnation, LogId, NodeId, Version};
use net::wire::body::{MemberState, Stable};
use wal::planted::{self, Fault};
use xxhash_rust::xxh3::Xxh3Default;

use super::known::{KnownLog, KnownLogs};
use super::members::Members;

/// Up to where a node holds all that members write, and will after a crash: `complete` of its own log, and what `persisted` says of the
/// logs of the others. A member of which no log is known may have written anything.
#[must_use]
pub fn stable(
    own: NodeId,
    complete: Version,
    members: &Members,
    known: &KnownLogs,
    persisted: impl Fn(LogId) -> Version,
) -> Version {
    let others = members.joined().filter(|member| member.node != own);
    others.fold(complete, |stable, member| stable.min(stable_of(known.of(member.node), &persisted)))
}

/// Up to where all is held that one node writes, of which these logs are known.
fn stable_of(logs: impl Iterator<Item = KnownLog>, persisted: impl Fn(LogId) -> Version) -> Version {
    let (stable, is_open, _) = limit_of(logs, persisted);
    stable.filter(|_| is_open).unwrap_or_default()
}

/// Up to where all is held that one node wrote, in these logs or before them, whether or not it goes on in another one.
#[must_use]
pub fn held_of(logs: impl Iterator<Item = KnownLog>, held: impl Fn(LogId) -> Version) -> Version {
    let (stable, _, end) = limit_of(logs, held);
    stable.unwrap_or(end)
}

/// What the least held of these logs, all of one node, limits what is held of it to, if one can grow or is not held to its end; whether one
/// is open; and where those end that are over.
fn limit_of(
    logs: impl Iterator<Item = KnownLog>,
    persisted: impl Fn(LogId) -> Version,
) -> (Option<Version>, bool, Version) {
    let mut logs: Vec<KnownLog> = logs.collect();
    logs.sort_unstable_by_key(|log| log.first);
    let is_claimed = |log: &KnownLog| persisted(log.log) >= log.first;
    let mut stable: Option<Version> = None;
    // What earlier logs held is here, as far as nothing limits it.
    let mut has_begun = false;
    let mut is_open = false;
    let mut end = Version(0);
    for (at, log) in logs.iter().enumerate() {
        let held = persisted(log.log);
        is_open |= log.end.is_none() && !log.gone;
        // The first claim over a later log waits for what stands for the logs that are gone.
        let is_over = match log.gone {
            true => is_claimed(log) || logs[at + 1..].iter().any(is_claimed),
            false => log.end.is_some_and(|end| held >= end),
        };
        if !is_over {
            let upto = match (is_claimed(log), has_begun) {
                (true, _) => held,
                (false, true) => Version(log.first.0.saturating_sub(1)),
                (false, false) => Version(0),
            };
            stable = Some(stable.map_or(upto, |stable| stable.min(upto)));
        }
        end = end.max(log.end.unwrap_or(held).min(held));
        has_begun = true;
    }
    (stable, is_open, end)
}

/// A fingerprint of who belongs to the mesh, and of how far the logs of removed nodes are held. Nodes in equal views count the same
/// members, take nothing more from those that were removed, and hold the same of what those left behind.
#[must_use]
pub fn view(members: &Members, known: &KnownLogs, held: impl Fn(LogId) -> Version) -> u64 {
    let mut hash = Xxh3Default::new();
    for member in members.iter() {
        hash.update(&member.node.0.to_le_bytes());
        let is_removed = member.state == MemberState::Removed;
        hash.update(&[u8::from(is_removed)]);
        for log in known.of(member.node).filter(|_| is_removed) {
            hash.update(&log.log.incarnation.0.to_le_bytes());
            hash.update(&held(log.log).0.to_le_bytes());
        }
    }
    hash.digest()
}

/// What a member said.
#[derive(Clone, Copy, Debug)]
struct Told {
    run: Incarnation,
    last: Stable,
    /// The most that this run said. With another member in view it may say less, and yet holds what it said that it does.
    most: Version,
}

/// What the members said last, and the cut that follows.
#[derive(Debug, Default)]
pub struct Cut {
    told: BTreeMap<NodeId, Told>,
    /// What this node says itself.
    own: Stable,
    /// Up to where this node's cores wait for it.
    wanted: BTreeMap<u16, Version>,
    cut: Version,
}

impl Cut {
    /// A member says up to where it holds everything, in this run of it.
    pub fn told(&mut self, node: NodeId, incarnation: Incarnation, stable: Stable) {
        let before = self.held_by(node, incarnation);
        let told = Told { run: incarnation, last: stable, most: before.max(stable.stable) };
        self.told.insert(node, told);
    }

    /// Up to where a run of a member said that it holds everything. Of another run of it that may not hold: the disk may be an older one.
    #[must_use]
    pub fn held_by(&self, node: NodeId, incarnation: Incarnation) -> Version {
        let told = self.told.get(&node).filter(|told| told.run == incarnation);
        told.map_or(Version(0), |told| told.most)
    }

    /// One of this node's cores remembers things that would be forgotten at this cut; zero if it does not.
    pub fn want(&mut self, core: u16, upto: Version) {
        self.wanted.insert(core, upto);
    }

    /// Up to where this node's own cores wait for it, or waited.
    #[must_use]
    pub fn wanted_here(&self) -> Version {
        self.wanted.values().copied().max().unwrap_or_default()
    }

    /// Up to where somebody waits for the cut, beyond where it is.
    #[must_use]
    pub fn wanted(&self, members: &Members) -> Option<Version> {
        let told = self.told.iter().filter(|(node, _)| members.get(**node).is_some_and(is_joined));
        let wanted = told.map(|(_, told)| told.last.wanted).chain(self.wanted.values().copied()).max()?;
        (wanted > self.cut).then_some(wanted)
    }

    /// This node holds all up to `stable`, in this view. Gives what its peers are to be told.
    pub fn own(&mut self, view: u64, stable: Version) -> Stable {
        let wanted = self.wanted_here();
        self.own = Stable { view, stable, wanted: if wanted > self.cut { wanted } else { Version(0) } };
        self.own
    }

    /// Whether all members see the mesh as this node does.
    #[must_use]
    pub fn is_one_view(&self, own: NodeId, members: &Members) -> bool {
        let mut others = members.joined().filter(|member| member.node != own);
        others.all(|member| self.told.get(&member.node).is_some_and(|told| told.last.view == self.own.view))
    }

    /// Raises the cut to what all members hold, if all of them see the mesh as this node does.
    pub fn advance(&mut self, own: NodeId, members: &Members) {
        let mut least = self.own.stable;
        for member in members.joined().filter(|member| member.node != own) {
            if planted::is(Fault::ForgottenBeforeOthers) {
                break;
            }
            match self.told.get(&member.node) {
                Some(told) if told.last.view == self.own.view => least = least.min(told.last.stable),
                _ => return,
            }
        }
        self.cut = self.cut.max(least);
    }

    /// Members that keep the cut from passing `upto`: they said less, said it in another view, or said nothing.
    pub fn held_up_by<'a>(
        &'a self,
        own: NodeId,
        members: &'a Members,
        upto: Version,
    ) -> impl Iterator<Item = NodeId> + 'a {
        let others = members.joined().map(|member| member.node).filter(move |node| *node != own);
        others.filter(move |node| {
            let told = self.told.get(node).filter(|told| told.last.view == self.own.view);
            told.is_none_or(|told| told.last.stable < upto)
        })
    }

    /// The cut.
    #[must_use]
    pub fn cut(&self) -> Version {
        self.cut
    }
}

fn is_joined(member: &net::wire::body::Member) -> bool {
    member.state == MemberState::Joined
}

#[cfg(test)]
mod tests {
    use net::ids::RegionName;
    use net::wire::body::{LogEntry, LogState, Member};

    use super::*;

    const OWN: NodeId = NodeId(1);

    fn members(rows: &[(u32, MemberState)]) -> Members {
        let mut members = Members::default();
        let row = |(node, state): &(u32, MemberState)| Member {
            node: NodeId(*node),
            state: *state,
            at: Version(1),
            region: RegionName::parse(&format!("r{node}")).unwrap(),
        };
        members.merge(&rows.iter().map(row).collect::<Vec<_>>());
        members
    }

    fn joined(nodes: &[u32]) -> Members {
        members(&nodes.iter().map(|node| (*node, MemberState::Joined)).collect::<Vec<_>>())
    }

    fn log(node: u32, incarnation: u64) -> LogId {
        LogId { node: NodeId(node), incarnation: Incarnation(incarnation) }
    }

    /// Logs of which this much is known: node, first version, end (0: open).
    fn known(logs: &[(u32, u64, u64)]) -> KnownLogs {
        let mut known = KnownLogs::default();
        for (node, first, end) in logs {
            let state = if *end == 0 { LogState::Open } else { LogState::Retired };
            let entry =
                LogEntry { log: log(*node, *first), first: Version(*first), end: Version(*end), cores: 1, state };
            assert!(known.learn(&entry));
        }
        known
    }

    #[test]
    fn the_least_of_all_logs_that_can_grow_or_are_not_held_to_their_end_counts() {
        let three = joined(&[1, 2, 3]);
        let held = |versions: &'static [(u32, u64, u64)]| {
            move |of: LogId| {
                let found = versions.iter().find(|(node, first, _)| log(*node, *first) == of);
                found.map_or(Version(0), |(_, _, held)| Version(*held))
            }
        };
        let logs = known(&[(2, 10, 50), (2, 60, 0), (3, 20, 0)]);
        let all = held(&[(2, 10, 50), (2, 60, 90), (3, 20, 80)]);
        assert_eq!(
            stable(OWN, Version(100), &three, &logs, all),
            Version(80),
            "the end of a log that is held stops nothing"
        );
        assert_eq!(stable(OWN, Version(70), &three, &logs, all), Version(70), "this node's own log counts");
        let lacking = held(&[(2, 10, 49), (2, 60, 90), (3, 20, 80)]);
        assert_eq!(stable(OWN, Version(100), &three, &logs, lacking), Version(49), "its last record is lacking");
        let unclaimed = held(&[(2, 10, 50), (2, 60, 90)]);
        assert_eq!(
            stable(OWN, Version(100), &three, &logs, unclaimed),
            Version(0),
            "what stands for its earlier logs may be on its way"
        );
        let mut given_up = logs.clone();
        given_up.listed(
            NodeId(2),
            &[LogEntry { log: log(2, 60), first: Version(60), end: Version(0), cores: 1, state: LogState::Open }],
        );
        assert_eq!(stable(OWN, Version(100), &three, &given_up, lacking), Version(80), "it had nothing in it any more");
        let nothing = held(&[(2, 10, 50), (3, 20, 80)]);
        assert_eq!(
            stable(OWN, Version(100), &three, &logs, nothing),
            Version(59),
            "below its first version is nothing"
        );
        let unknown = known(&[(3, 20, 0)]);
        assert_eq!(stable(OWN, Version(100), &three, &unknown, all), Version(0), "a member may have written anything");
        let retired = known(&[(2, 10, 50), (3, 20, 0)]);
        assert_eq!(stable(OWN, Version(100), &three, &retired, all), Version(0), "it writes another log now");
        let removed = members(&[(1, MemberState::Joined), (2, MemberState::Removed), (3, MemberState::Joined)]);
        assert_eq!(stable(OWN, Version(100), &removed, &logs, lacking), Version(80), "removed nodes do not count");
    }

    #[test]
    fn a_view_tells_members_apart_and_what_removed_ones_left() {
        let logs = known(&[(2, 10, 0), (3, 20, 0)]);
        let (two, three) = (joined(&[1, 2]), joined(&[1, 2, 3]));
        let removed = members(&[(1, MemberState::Joined), (2, MemberState::Joined), (3, MemberState::Removed)]);
        let at = |version: u64| move |_: LogId| Version(version);
        assert_ne!(view(&two, &logs, at(1)), view(&three, &logs, at(1)));
        assert_ne!(view(&removed, &logs, at(1)), view(&three, &logs, at(1)));
        assert_eq!(view(&three, &logs, at(1)), view(&three, &logs, at(2)), "joined nodes go on writing");
        assert_ne!(view(&removed, &logs, at(1)), view(&removed, &logs, at(2)));
    }

    #[test]
    fn the_cut_is_the_least_that_was_said_in_one_view_and_never_falls() {
        let three = joined(&[1, 2, 3]);
        let mut cut = Cut::default();
        let say = |view, stable, wanted| Stable { view, stable: Version(stable), wanted: Version(wanted) };
        cut.own(7, Version(50));
        cut.told(NodeId(2), Incarnation(1), say(7, 40, 0));
        cut.advance(OWN, &three);
        assert_eq!(cut.cut(), Version(0), "one of them has said nothing");
        cut.told(NodeId(3), Incarnation(1), say(8, 60, 0));
        assert!(!cut.is_one_view(OWN, &three) && cut.is_one_view(OWN, &joined(&[1, 2])));
        cut.advance(OWN, &three);
        assert_eq!(cut.cut(), Version(0), "one of them counts others");
        assert_eq!(cut.held_by(NodeId(3), Incarnation(1)), Version(60));
        assert_eq!(cut.held_by(NodeId(3), Incarnation(2)), Version(0), "another run may have another disk");
        assert_eq!(cut.held_up_by(OWN, &three, Version(40)).collect::<Vec<_>>(), [NodeId(3)]);
        assert_eq!(cut.held_up_by(OWN, &three, Version(41)).collect::<Vec<_>>(), [NodeId(2), NodeId(3)]);
        cut.told(NodeId(3), Incarnation(1), say(7, 60, 0));
        cut.advance(OWN, &three);
        assert_eq!(cut.cut(), Version(40));
        cut.told(NodeId(2), Incarnation(1), say(7, 30, 0));
        cut.advance(OWN, &three);
        assert_eq!(cut.cut(), Version(40), "it never falls");
        assert_eq!(cut.held_by(NodeId(2), Incarnation(1)), Version(40), "what it held it holds");
        assert_eq!(cut.wanted(&three), None);
        cut.want(0, Version(45));
        cut.told(NodeId(3), Incarnation(1), say(7, 60, 55));
        assert_eq!(cut.wanted(&three), Some(Version(55)));
        assert_eq!(cut.own(7, Version(50)).wanted, Version(45), "each speaks for itself");
        assert_eq!(cut.wanted(&joined(&[1, 2])), Some(Version(45)), "who is no member waits for nothing");
        cut.told(NodeId(2), Incarnation(1), say(7, 58, 0));
        cut.own(7, Version(58));
        cut.advance(OWN, &three);
        assert_eq!((cut.cut(), cut.wanted(&three)), (Version(58), None));
    }
}
