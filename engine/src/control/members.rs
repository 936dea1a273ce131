//! The member table's driver: what peers say is merged, what changed is told to peers and written to this node's log, and who is
//! removed is shut out.

use net::ids::{NodeId, RequestId, Version};
use net::wire::body::{ErrorCode, Failed, Hello, Member, MemberState, Members as MembersBody, Refuse, RefuseCode};
use net::wire::message::Message;

use super::link::Role;
use super::status::{MemberStatus, REMOVED};
use super::{ControlLoop, LinkKey, Persisting};
use crate::host::Host;
use crate::messages::ToCore;
use crate::replication::members::{RemoveError, TableFull, to_record};

/// An operator who asked for a removal and is answered once it is durable.
#[derive(Clone, Copy, Debug)]
pub(super) struct Removal {
    node: NodeId,
    link: LinkKey,
    request: RequestId,
}

impl<H: Host> ControlLoop<H> {
    fn own_id(&self) -> NodeId {
        NodeId(self.facts.node.0)
    }

    /// Puts this node into its own table, unless it was removed.
    pub(super) fn join(&mut self) {
        let (own, region) = (self.own_id(), self.region.clone());
        // The first version of a run lies above those of all earlier runs, hence above when the row was written before.
        let at = Version(self.logs.logs.last().map_or(0, |log| log.first.0));
        if let Err(error) = self.members.join(own, &region, at) {
            tracing::error!(%error, "this node cannot join the mesh");
        }
        self.look_for_own_removal();
    }

    /// Merges the table of a peer that introduces itself, and judges whether both belong to the mesh.
    pub(super) fn meet(&mut self, key: LinkKey, theirs: &Hello) -> Result<(), Refuse> {
        if self.is_peer(key, theirs) {
            self.merge_members(&theirs.members);
            if self.members.get(theirs.node).is_none() {
                // It left itself out, or there was no room.
                let joined = self.members.join(theirs.node, &theirs.region, Version(0));
                joined.map_err(|error| Refuse::new(RefuseCode::MeshLimits, &error.to_string()))?;
            }
        }
        if self.removed {
            return Err(Refuse::removed(self.own_id()));
        }
        if self.members.is_removed(theirs.node) {
            return Err(Refuse::removed(theirs.node));
        }
        Ok(())
    }

    /// Whether the other end of a link is one of the nodes that this one is configured to work with: what others say of members
    /// does not count.
    pub(super) fn is_peer(&mut self, key: LinkKey, theirs: &Hello) -> bool {
        let Some(link) = self.link(key) else { return false };
        match link.role {
            Role::DiscoveryOut { .. } | Role::Following { .. } => true,
            Role::DiscoveryIn | Role::Serving { .. } => {
                // The address it advertises must be where it comes from: nobody speaks for a peer from elsewhere.
                theirs.advertised.ip() == link.remote.ip() && self.mesh.peers.contains(&theirs.advertised)
            }
        }
    }

    /// A peer's table has changed.
    pub(super) fn hear_members(&mut self, key: LinkKey, table: &[Member]) {
        let Some(hello) = self.link(key).and_then(|link| link.hello()).cloned() else { return };
        if self.is_peer(key, &hello) {
            self.merge_members(table);
        }
    }

    fn merge_members(&mut self, table: &[Member]) {
        let merged = self.members.merge(table);
        if merged.left_out > 0 {
            tracing::error!(left_out = merged.left_out, error = %TableFull, "members of the mesh are not known here");
        }
        for member in &merged.changed {
            self.member_changed(member);
        }
    }

    fn member_changed(&mut self, member: &Member) {
        let Member { node, state, at, region } = member;
        match state {
            MemberState::Joined => {
                tracing::info!(%node, %region, "a member of the mesh");
                let others = self.members.joined().filter(|other| other.region == *region && other.node != *node);
                for other in others {
                    tracing::warn!(
                        %region,
                        "the region has two members, {node} and {}; if the disk of one of them is gone for good, take it out with \
                         `godwit member remove` and its id",
                        other.node
                    );
                }
            }
            MemberState::Removed => {
                tracing::warn!(%node, %region, at = at.0, "a node was removed from the mesh for good");
                self.look_for_own_removal();
                self.shut_out(*node);
            }
        }
    }

    /// Closes the links to a node that was removed, and forgets what it acknowledged: nothing is kept for it.
    fn shut_out(&mut self, node: NodeId) {
        self.acknowledged.retain(|(follower, _), _| *follower != node);
        let links = self.links.iter().filter(|(_, link)| {
            let theirs = link.hello().is_some_and(|hello| hello.node == node);
            theirs && link.is_up()
        });
        let keys: Vec<LinkKey> = links.map(|(index, link)| LinkKey { index, generation: link.generation }).collect();
        for key in keys {
            // So that it knows why it is refused, and says so.
            self.push_members(key);
            self.refuse(key, &Refuse::removed(node));
        }
    }

    /// This node may be the one that was removed: then it speaks to nobody, and takes no writes, which nobody would get.
    fn look_for_own_removal(&mut self) {
        if self.removed || !self.members.is_removed(self.own_id()) {
            return;
        }
        self.removed = true;
        tracing::error!("{REMOVED}");
        for core in &mut self.cores {
            core.send(ToCore::RefuseWrites);
        }
        let peers = self.links.iter().filter(|(_, link)| link.is_up());
        let keys: Vec<LinkKey> = peers.map(|(index, link)| LinkKey { index, generation: link.generation }).collect();
        for key in keys {
            self.refuse(key, &Refuse::removed(self.own_id()));
        }
    }

    /// Sends the table to every peer that was told an older one.
    pub(super) fn tell_members(&mut self) {
        let revision = self.members.revision();
        let untold = self.links.iter().filter(|(_, link)| {
            let discovery = matches!(link.role, Role::DiscoveryIn | Role::DiscoveryOut { .. });
            discovery && link.is_up() && link.told_members < revision
        });
        let keys: Vec<LinkKey> = untold.map(|(index, link)| LinkKey { index, generation: link.generation }).collect();
        for key in keys {
            self.push_members(key);
        }
    }

    fn push_members(&mut self, key: LinkKey) {
        let (members, revision) = (self.members.table(), self.members.revision());
        let Some(link) = self.link(key) else { return };
        link.told_members = revision;
        link.push(&Message::Members(MembersBody { members }), RequestId(0));
    }

    /// Writes changed rows to this node's own log. One that never had a peer is no member of anything.
    pub(super) fn persist_members(&mut self) {
        let is_alone = self.mesh.peers.is_empty() && self.members.iter().count() == 1;
        if is_alone || self.stop.asked {
            return;
        }
        while let Some(member) = self.members.next_to_persist() {
            let record = to_record(&member);
            self.ticket += 1;
            self.persisting.insert(self.ticket, (Persisting::Member(member), None));
            self.cores[0].send(ToCore::AppendLocal { ticket: self.ticket, record });
        }
    }

    /// A row is durable in this node's log.
    pub(super) fn member_persisted(&mut self, member: &Member) {
        self.members.persisted(member);
        self.answer_removals();
    }

    /// An operator says that a member is gone for good.
    pub(super) fn remove_member(&mut self, key: LinkKey, request: RequestId, node: NodeId) {
        match self.remove(node) {
            Ok(()) => {
                self.removals.push(Removal { node, link: key, request });
                self.answer_removals();
            }
            Err(error) => {
                let code = match error {
                    RemoveError::Myself(_) | RemoveError::Removed(_) => ErrorCode::Invalid,
                    RemoveError::Unknown(_) => ErrorCode::NotFound,
                };
                self.answer(key, request, Err(Failed::new(code, &error.to_string())));
            }
        }
    }

    /// Removes a member for good, on behalf of an operator; also for scenarios. Twice is once.
    ///
    /// # Errors
    /// See [`RemoveError`].
    pub fn remove(&mut self, node: NodeId) -> Result<(), RemoveError> {
        // No earlier than anything of it that is known here.
        let held = self.watermarks.iter().filter(|(log, _)| log.node == node).map(|(_, component)| component.version);
        let at = held.max().unwrap_or_default().max(Version(self.logs.current().complete().0));
        if self.members.remove(self.own_id(), node, at)?
            && let Some(member) = self.members.get(node).cloned()
        {
            self.member_changed(&member);
        }
        Ok(())
    }

    fn answer_removals(&mut self) {
        for removal in std::mem::take(&mut self.removals) {
            if self.members.is_durable(removal.node) {
                self.answer(removal.link, removal.request, Ok(()));
            } else if self.link(removal.link).is_some() {
                self.removals.push(removal);
            }
        }
    }

    pub(super) fn member_statuses(&self) -> Vec<MemberStatus> {
        let current = self.logs.logs.last().map(|log| log.id);
        let status = |member: &Member| MemberStatus {
            node: member.node.to_string(),
            region: member.region.to_string(),
            state: member.state.name().to_ascii_lowercase(),
            myself: member.node == self.own_id(),
            connected: self
                .links
                .iter()
                .any(|(_, link)| link.is_up() && link.hello().is_some_and(|hello| hello.node == member.node)),
            acknowledged: current
                .and_then(|log| self.acknowledged.get(&(member.node, log)))
                .map_or(0, |version| version.0),
            catch_up: self.catch_up_of(member.node),
        };
        self.members.iter().map(status).collect()
    }
}
