//! Comparing this node's clock with its peers' ([`crate::clock::skew`]).

use net::ids::NodeId;
use net::wire::body::Heartbeat;

use super::{ControlLoop, LinkKey};
use crate::clock::skew::{AHEAD_OF_MEDIAN_MS_MAX, ALARM_MS, Offset};
use crate::host::Host;
use crate::messages::ToCore;

impl<H: Host> ControlLoop<H> {
    /// A heartbeat came. Those of the link that speaks for a peer in discovery say how far its clock stands from this node's.
    pub(super) fn compare_clocks(&mut self, key: LinkKey, beat: &Heartbeat) {
        let Some(peer) = self.peer_links.iter().position(|link| *link == Some(key)) else { return };
        let now = self.now();
        if let Some(rtt_ns) = beat.rtt_ns(now.0) {
            let offset = Offset::measured(beat.physical_ms, self.physical.clock_unix_ms(), rtt_ns);
            self.skews.measured(peer, offset, now);
        }
    }

    /// By how much the clock of `node` is ahead of what this node takes for the time, in milliseconds, if that is known.
    pub(super) fn ahead_ms(&self, node: NodeId) -> Option<i64> {
        let of_node = |key: &Option<LinkKey>| {
            let link = key.and_then(|key| self.links.get(key.index).filter(|link| link.generation == key.generation));
            link.and_then(|link| link.hello()).is_some_and(|hello| hello.node == node)
        };
        let peer = self.peer_links.iter().position(of_node)?;
        let offset = self.skews.offset(peer, self.now())?;
        Some(offset.ms.saturating_add_unsigned(self.skews.held_back_ms()))
    }

    /// Says which alarms began or ended, and holds this node back where its clock is the one that is ahead.
    pub(super) fn judge_clocks(&mut self) {
        let now = self.now();
        let judgement = self.skews.judge(now);
        for peer in judgement.alarms {
            let address = self.mesh.peers[peer];
            match self.skews.offset(peer, now) {
                Some(Offset { ms, uncertainty_ms }) if self.skews.is_alarmed(peer) => tracing::warn!(
                    peer = %address,
                    offset_ms = ms,
                    uncertainty_ms,
                    "the peer's clock and this node's stand more than {ALARM_MS} ms apart; check that both follow NTP"
                ),
                Some(Offset { ms, uncertainty_ms }) => {
                    tracing::info!(peer = %address, offset_ms = ms, uncertainty_ms, "the peer's clock is near again");
                }
                None => tracing::info!(peer = %address, "the peer's clock, which stood apart, is not known any more"),
            }
        }
        let Some(ms) = judgement.hold_back_ms else { return };
        match (self.held_back, ms) {
            (false, 1..) => tracing::warn!(
                lowered_ms = ms,
                "this node's clock is more than {AHEAD_OF_MEDIAN_MS_MAX} ms ahead of the others'; it takes the time for lower \
                 until its clock is right: check that it follows NTP"
            ),
            (true, 0) => tracing::info!("this node's clock is no longer ahead of the others'"),
            _ => {}
        }
        self.held_back = ms > 0;
        self.physical.hold_back(now, ms);
        for core in &mut self.cores {
            core.send(ToCore::HoldBack(ms));
        }
    }
}
