//! The member table: who belongs to the mesh, and who never will again. Every node has a copy, and copies are merged.
//!
//! The merge of two rows of one id is the greater of them, by state, then by when it was written. So tables may be merged in any
//! order and any number of times, and every node ends with the same one. Removed is the greater state: it is final.
//!
//! Here is no I/O: the caller tells peers when [`Members::revision`] has risen, and writes what [`Members::next_to_persist`] gives.

use std::collections::BTreeMap;

use net::ids::{NodeId, RegionName, Version};
use net::wire::body::{Member, MemberState};
use net::wire::limits::MEMBERS_MAX;
use wal::ControlRecord;

/// Why a member cannot be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RemoveError {
    /// The node that was asked.
    #[error("node {0} is this node itself; ask another node of the mesh to remove it")]
    Myself(NodeId),
    /// The node that was asked is no member any more.
    #[error("node {0}, which was asked, was removed from the mesh itself; ask one that belongs to it")]
    Removed(NodeId),
    /// Nobody with this id is known.
    #[error("no member of the mesh has the id {0}; `godwit members` lists them")]
    Unknown(NodeId),
}

/// The table is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the mesh has had {MEMBERS_MAX} nodes, removed ones included, and its table of members takes no more; start a new mesh \
     to let further nodes join"
)]
pub struct TableFull;

/// One row, and what of it is on the disk.
#[derive(Clone, Debug)]
struct Row {
    member: Member,
    /// As the log has it durably.
    durable: Option<Member>,
    /// As it is on its way to the log.
    writing: Option<Member>,
}

/// This node's copy of the table.
#[derive(Clone, Debug, Default)]
pub struct Members {
    rows: BTreeMap<NodeId, Row>,
    revision: u64,
}

/// What a merge did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Merged {
    /// Rows that are new or other than before, as they are now.
    pub changed: Vec<Member>,
    /// Rows of further nodes for which there was no room.
    pub left_out: usize,
}

/// Whether `theirs` takes the place of `ours`.
fn wins(theirs: &Member, ours: &Member) -> bool {
    // Regions decide where a faulty program gave one time to two rows, so that all nodes decide alike.
    fn rank(member: &Member) -> (MemberState, Version, &str) {
        (member.state, member.at, member.region.as_str())
    }
    rank(theirs) > rank(ours)
}

impl Members {
    /// The table that recovery found.
    #[must_use]
    pub fn recovered(rows: impl IntoIterator<Item = Member>) -> Self {
        let mut members = Members::default();
        for member in rows {
            // The log has no more than a table holds.
            let _ = members.put(&member);
        }
        for row in members.rows.values_mut() {
            row.durable = Some(row.member.clone());
        }
        members
    }

    /// Takes over what is newer in another table.
    pub fn merge(&mut self, table: &[Member]) -> Merged {
        let mut merged = Merged::default();
        for member in table {
            match self.put(member) {
                Ok(true) => merged.changed.push(member.clone()),
                Ok(false) => {}
                Err(TableFull) => merged.left_out += 1,
            }
        }
        merged
    }

    /// `node` runs in `region` now. Where that is known already, nothing is written; a removed node stays removed.
    ///
    /// # Errors
    /// If the table is full.
    pub fn join(&mut self, node: NodeId, region: &RegionName, at: Version) -> Result<bool, TableFull> {
        if self.get(node).is_some_and(|known| known.region == *region) {
            return Ok(false);
        }
        self.put(&Member { node, state: MemberState::Joined, at, region: region.clone() })
    }

    /// `node` is gone for good, on behalf of `own`. Returns whether it was still a member.
    ///
    /// # Errors
    /// See [`RemoveError`].
    pub fn remove(&mut self, own: NodeId, node: NodeId, at: Version) -> Result<bool, RemoveError> {
        if self.is_removed(own) {
            return Err(RemoveError::Removed(own));
        }
        if node == own {
            return Err(RemoveError::Myself(node));
        }
        let Some(known) = self.get(node) else { return Err(RemoveError::Unknown(node)) };
        if known.state == MemberState::Removed {
            return Ok(false);
        }
        let removed = Member { state: MemberState::Removed, at, ..known.clone() };
        Ok(self.put(&removed).unwrap_or(false))
    }

    fn put(&mut self, member: &Member) -> Result<bool, TableFull> {
        let is_full = self.rows.len() >= MEMBERS_MAX;
        match self.rows.get_mut(&member.node) {
            Some(row) if wins(member, &row.member) => row.member = member.clone(),
            Some(_) => return Ok(false),
            None if is_full => return Err(TableFull),
            None => {
                let row = Row { member: member.clone(), durable: None, writing: None };
                self.rows.insert(member.node, row);
            }
        }
        self.revision += 1;
        Ok(true)
    }

    /// What is known of `node`.
    #[must_use]
    pub fn get(&self, node: NodeId) -> Option<&Member> {
        self.rows.get(&node).map(|row| &row.member)
    }

    /// Whether `node` never counts again.
    #[must_use]
    pub fn is_removed(&self, node: NodeId) -> bool {
        self.get(node).is_some_and(|member| member.state == MemberState::Removed)
    }

    /// Those who count.
    pub fn joined(&self) -> impl Iterator<Item = &Member> {
        self.iter().filter(|member| member.state == MemberState::Joined)
    }

    /// All of them, in order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = &Member> {
        self.rows.values().map(|row| &row.member)
    }

    /// The table, for peers.
    #[must_use]
    pub fn table(&self) -> Vec<Member> {
        self.iter().cloned().collect()
    }

    /// Rises with every change.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// A row that the log does not have yet; each is given once, until it changes.
    pub fn next_to_persist(&mut self) -> Option<Member> {
        let row = self.rows.values_mut().find(|row| {
            let known = row.writing.as_ref().or(row.durable.as_ref());
            known != Some(&row.member)
        })?;
        row.writing = Some(row.member.clone());
        row.writing.clone()
    }

    /// The log has this row durably.
    pub fn persisted(&mut self, member: &Member) {
        let Some(row) = self.rows.get_mut(&member.node) else { return };
        row.writing.take_if(|writing| writing == member);
        if row.durable.as_ref().is_none_or(|durable| wins(member, durable)) {
            row.durable = Some(member.clone());
        }
    }

    /// Whether what is known of `node` survives a crash.
    #[must_use]
    pub fn is_durable(&self, node: NodeId) -> bool {
        self.rows.get(&node).is_some_and(|row| row.durable.as_ref() == Some(&row.member))
    }
}

/// A row as the log keeps it.
#[must_use]
pub fn to_record(member: &Member) -> ControlRecord {
    ControlRecord::Membership {
        node: wal::NodeId(member.node.0),
        state: match member.state {
            MemberState::Joined => wal::MemberState::Joined,
            MemberState::Removed => wal::MemberState::Removed,
        },
        region: member.region.to_string(),
        at: wal::Version(member.at.0),
    }
}

/// The row that a record holds, if it is one of a member in a region that may be called so.
#[must_use]
pub fn from_record(record: &ControlRecord) -> Option<Member> {
    let ControlRecord::Membership { node, state, region, at } = record else { return None };
    let state = match state {
        wal::MemberState::Joined => MemberState::Joined,
        wal::MemberState::Removed => MemberState::Removed,
    };
    Some(Member { node: NodeId(node.0), state, at: Version(at.0), region: RegionName::parse(region).ok()? })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn region(name: &str) -> RegionName {
        RegionName::parse(name).unwrap()
    }

    fn row(node: u32, state: MemberState, at: u64, name: &str) -> Member {
        Member { node: NodeId(node), state, at: Version(at), region: region(name) }
    }

    /// Few ids, times and regions, so that rows meet; equal times with different regions, too.
    fn tables() -> impl Strategy<Value = Vec<Member>> {
        let state = prop_oneof![Just(MemberState::Joined), Just(MemberState::Removed)];
        let name = prop_oneof![Just("sfo"), Just("nyc"), Just("ams")];
        proptest::collection::vec((0u32..5, state, 0u64..4, name).prop_map(|(n, s, at, r)| row(n, s, at, r)), 0..12)
    }

    fn merged(tables: &[&[Member]]) -> Vec<Member> {
        let mut members = Members::default();
        for table in tables {
            members.merge(table);
        }
        members.table()
    }

    proptest! {
        #[test]
        fn merging_is_commutative_associative_and_idempotent(a in tables(), b in tables(), c in tables()) {
            let abc = merged(&[&a, &b, &c]);
            prop_assert_eq!(&abc, &merged(&[&c, &a, &b]));
            prop_assert_eq!(&abc, &merged(&[&b, &a, &c]));
            prop_assert_eq!(&abc, &merged(&[&a, &merged(&[&b, &c])]));
            prop_assert_eq!(&abc, &merged(&[&merged(&[&a, &b]), &c]));
            prop_assert_eq!(&abc, &merged(&[&abc, &a, &abc, &c, &b]));
        }

        #[test]
        fn a_removal_is_never_undone(a in tables(), b in tables()) {
            let mut members = Members::default();
            members.merge(&a);
            let removed: Vec<NodeId> = members.iter().map(|m| m.node).filter(|n| members.is_removed(*n)).collect();
            members.merge(&b);
            for node in removed {
                members.join(node, &region("new"), Version(u64::MAX)).unwrap();
                prop_assert!(members.is_removed(node));
            }
        }

        #[test]
        fn the_revision_tells_every_change_and_nothing_else(a in tables(), b in tables()) {
            let mut members = Members::default();
            members.merge(&a);
            let (before, revision) = (members.table(), members.revision());
            let changed = members.merge(&b).changed;
            prop_assert_eq!(members.table() == before, members.revision() == revision);
            prop_assert_eq!(changed.is_empty(), members.revision() == revision);
        }
    }

    #[test]
    fn a_node_joins_once_and_again_when_its_region_has_another_name() {
        let mut members = Members::default();
        assert_eq!(members.join(NodeId(1), &region("sfo"), Version(5)), Ok(true));
        assert_eq!(members.join(NodeId(1), &region("sfo"), Version(9)), Ok(false));
        assert_eq!(members.get(NodeId(1)).unwrap().at, Version(5));
        assert_eq!(members.join(NodeId(1), &region("lax"), Version(9)), Ok(true));
        assert_eq!(members.table(), [row(1, MemberState::Joined, 9, "lax")]);
    }

    #[test]
    fn who_is_removed_counts_no_longer_and_stays_listed() {
        let mut members = Members::default();
        members.merge(&[row(1, MemberState::Joined, 5, "sfo"), row(2, MemberState::Joined, 6, "nyc")]);
        assert_eq!(members.remove(NodeId(1), NodeId(1), Version(7)), Err(RemoveError::Myself(NodeId(1))));
        assert_eq!(members.remove(NodeId(1), NodeId(3), Version(7)), Err(RemoveError::Unknown(NodeId(3))));
        assert_eq!(members.remove(NodeId(1), NodeId(2), Version(7)), Ok(true));
        assert_eq!(members.remove(NodeId(1), NodeId(2), Version(8)), Ok(false));
        assert_eq!(members.joined().map(|member| member.node).collect::<Vec<_>>(), [NodeId(1)]);
        assert_eq!(members.get(NodeId(2)), Some(&row(2, MemberState::Removed, 7, "nyc")));
        // One that was written before the node last moved wins, too.
        members.merge(&[row(1, MemberState::Removed, 1, "sfo")]);
        assert!(members.is_removed(NodeId(1)));
        // Whoever was removed removes nobody.
        assert_eq!(members.remove(NodeId(1), NodeId(3), Version(9)), Err(RemoveError::Removed(NodeId(1))));
    }

    #[test]
    fn a_full_table_takes_changes_but_nobody_new() {
        let mut members = Members::default();
        let all: Vec<Member> = (0..).take(MEMBERS_MAX).map(|node| row(node, MemberState::Joined, 1, "sfo")).collect();
        assert_eq!(members.merge(&all).left_out, 0);
        let further = [row(7, MemberState::Removed, 1, "sfo"), row(u32::MAX, MemberState::Joined, 1, "sfo")];
        let merged = members.merge(&further);
        assert_eq!((merged.changed, merged.left_out), (vec![further[0].clone()], 1));
        assert_eq!(members.join(NodeId(u32::MAX), &region("sfo"), Version(2)), Err(TableFull));
        assert_eq!(members.table().len(), MEMBERS_MAX);
    }

    #[test]
    fn each_row_is_written_until_the_log_has_its_last_form() {
        let mut members = Members::recovered([row(1, MemberState::Joined, 5, "sfo")]);
        assert!(members.is_durable(NodeId(1)));
        assert_eq!(members.next_to_persist(), None);
        members.merge(&[row(2, MemberState::Joined, 6, "nyc")]);
        let joined = members.next_to_persist().unwrap();
        assert_eq!(members.next_to_persist(), None, "it is on its way");
        members.remove(NodeId(1), NodeId(2), Version(7)).unwrap();
        let removed = members.next_to_persist().unwrap();
        members.persisted(&joined);
        assert!(!members.is_durable(NodeId(2)), "only that it joined is");
        assert_eq!(members.next_to_persist(), None);
        members.persisted(&removed);
        assert!(members.is_durable(NodeId(2)));
        assert_eq!(members.next_to_persist(), None);
    }

    #[test]
    fn a_record_gives_the_row_back_and_one_of_no_region_none() {
        for member in [row(1, MemberState::Joined, 5, "sfo"), row(2, MemberState::Removed, 6, "nyc")] {
            assert_eq!(from_record(&to_record(&member)), Some(member));
        }
        let nowhere = ControlRecord::Membership {
            node: wal::NodeId(1),
            state: wal::MemberState::Joined,
            region: "no region".into(),
            at: wal::Version(1),
        };
        assert_eq!(from_record(&nowhere), None);
    }
}
