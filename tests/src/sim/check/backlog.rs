//! B1: a peer that does not read makes its source hold a bounded amount of memory. Looked at in every turn of a control loop,
//! whether links are cut or not: the fullest link's queue, and the durable frames kept in hand for followers at the tail. What a
//! slow follower has not got beyond that stays on the disk. ([`super::positions`] holds sources to their followers' credit.)

use engine::control::{LINK_QUEUE_BYTES_MAX, PeerMemory};
use engine::replication::BATCH_BYTES;
use engine::replication::logs::RECENT_BYTES_MAX;

use super::Violation;
use crate::sim::node::{SEGMENT_BYTES, VALUE_BYTES_MAX};

/// Checker B1.
pub const B1: &str = "B1 a slow peer costs bounded memory";

/// What a link that is not full yet may be given at once: a batch, the record that crosses its line, its head and a claim.
const MESSAGES_BYTES_MAX: usize = BATCH_BYTES + VALUE_BYTES_MAX as usize + 1_024;

/// The most that was seen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Backlog {
    /// Over all control loops and their turns.
    pub largest: PeerMemory,
}

impl Backlog {
    /// The control loop of `region` holds this after a turn.
    ///
    /// # Errors
    /// [`B1`].
    pub fn holds(&mut self, region: &str, held: PeerMemory) -> Result<(), Violation> {
        self.largest.queue_bytes = self.largest.queue_bytes.max(held.queue_bytes);
        self.largest.in_hand_bytes = self.largest.in_hand_bytes.max(held.in_hand_bytes);
        let queue = held.queue_bytes <= LINK_QUEUE_BYTES_MAX + MESSAGES_BYTES_MAX;
        let in_hand = held.in_hand_bytes <= RECENT_BYTES_MAX + SEGMENT_BYTES as usize;
        if queue && in_hand {
            return Ok(());
        }
        Err(Violation::new(B1, format!("{region} holds {held:?} for its peers")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fails(queue_bytes: usize, in_hand_bytes: usize) -> bool {
        let held = Backlog::default().holds("sfo", PeerMemory { queue_bytes, in_hand_bytes });
        held.is_err_and(|violation| violation.checker == B1)
    }

    #[test]
    fn each_budget_is_held() {
        let (queue, in_hand) = (LINK_QUEUE_BYTES_MAX + MESSAGES_BYTES_MAX, RECENT_BYTES_MAX + SEGMENT_BYTES as usize);
        assert!(!fails(queue, in_hand));
        assert!(fails(queue + 1, in_hand));
        assert!(fails(queue, in_hand + 1));
    }
}
