//! Who holds what is written here: the board that cores look at for clients that wait for other regions.

use wal::Version;

use super::ControlLoop;
use crate::host::Host;
use crate::messages::ToCore;
use crate::replication::holders::Holder;

/// What the board was made of last.
#[derive(Debug, Default)]
pub(super) struct BoardState {
    /// A follower has acknowledged more, or less.
    pub(super) acknowledged: bool,
    members: u64,
    own: Version,
}

impl<H: Host> ControlLoop<H> {
    /// Puts what changed onto the board, and tells the cores whose clients wait for it.
    pub(super) fn tell_holders(&mut self) {
        let Some(running) = self.logs.logs.last() else { return };
        let (members, own, log) = (self.members.revision(), running.complete(), running.id);
        let board = &mut self.board;
        if !std::mem::take(&mut board.acknowledged) && board.members == members && board.own == own {
            return;
        }
        (board.members, board.own) = (members, own);
        let others = self.members.joined().filter(|member| member.node.0 != self.facts.node.0);
        let holders = others.map(|member| Holder {
            node: member.node,
            region: member.region.clone(),
            upto: self.acknowledged.get(&(member.node, log)).copied(),
            classes: self.facts.residency.classes_of(&member.region),
        });
        for core in self.facts.holders.update(holders.collect(), own) {
            self.cores[usize::from(core)].send(ToCore::Acknowledged);
        }
    }

    /// A client waits until this node's own claim reaches `version`. Where nobody follows, nobody else asks the cores for it.
    pub(super) fn own_claim_wanted(&mut self, version: Version) {
        for (core, log) in self.logs.current().cores.iter().enumerate() {
            if log.complete < version {
                self.cores[core].send(ToCore::Raise(version));
            }
        }
    }
}
