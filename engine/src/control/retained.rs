//! What is kept on the disk for followers alone: files in which nothing counts any more, which somebody has still to be sent.

use std::collections::BTreeSet;

use net::ids::NodeId;
use net::wire::body::MemberState;

use super::ControlLoop;
use super::link::Role;
use crate::host::Host;

impl<H: Host> ControlLoop<H> {
    /// Bytes of files in which nothing counts any more, and that are kept because some member may lack what is in them. Says once
    /// when that is more than half of `WAL_RETAIN`, and for whom it is.
    pub(super) fn retained_bytes(&mut self) -> u64 {
        let current = self.logs.logs.last();
        let mut waits_for = BTreeSet::new();
        let mut bytes = self.old_runs.kept_bytes(&self.logs);
        if bytes > 0 {
            let present = self.present_followers();
            let others = self.members.iter().filter(|member| member.state == MemberState::Joined);
            let absent = others.map(|member| member.node).filter(|node| !present.contains(node));
            waits_for.extend(absent.filter(|node| node.0 != self.facts.node.0));
        }
        for (core, _) in &self.removable {
            let Some(log) = current.filter(|log| usize::from(*core) < log.cores.len()) else { continue };
            let durable = log.cores[usize::from(*core)].durable;
            let readers = self.links.iter().filter_map(|(_, link)| match &link.role {
                Role::Serving { sender, .. } => Some((link.hello()?.node, sender.reads_from(log.id, *core)?)),
                _ => None,
            });
            let behind = |(node, position): (NodeId, wal::Lsn)| (durable.0.saturating_sub(position.0), node);
            if let Some((behind, node)) = readers.map(behind).max() {
                bytes += behind;
                waits_for.insert(node);
            }
        }
        let is_much = bytes > self.mesh.wal_retain_bytes / 2;
        if is_much && !self.is_retention_alarmed {
            let members: Vec<String> = waits_for.iter().map(NodeId::to_string).collect();
            tracing::warn!(
                bytes,
                wal_retain = self.mesh.wal_retain_bytes,
                members = members.join(", "),
                "files in which nothing counts any more are kept for these members: bring them back, or take those that are gone for good out \
                 with `godwit member remove`"
            );
        }
        self.is_retention_alarmed = is_much;
        bytes
    }
}
