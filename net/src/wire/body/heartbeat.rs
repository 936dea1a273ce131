//! `Heartbeat`: liveness, round-trip time and clocks, in both directions.
//!
//! Rules:
//! - Sent on a timer by each side, never as an immediate answer (two sides that answered each other would not stop).
//! - `echo_ns` repeats the `sent_at_ns` of the newest heartbeat received, `held_ns` says how long ago that was; both
//!   are 0 before the first. The receiver's round-trip time is now − echo − held, all on its own monotonic clock.

use bytes::BufMut;

use super::Body;
use crate::wire::codec::Reader;
use crate::wire::error::{DecodeError, EncodeError};
use crate::wire::opcode::Opcode;

/// Liveness, round-trip time, clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// The sender's monotonic clock in ns.
    pub sent_at_ns: u64,
    /// The receiver's clock as of its newest heartbeat that arrived here; 0 = none yet.
    pub echo_ns: u64,
    /// Time in ns between that arrival and this sending.
    pub held_ns: u64,
    /// The sender's physical clock, ms since 1970.
    pub physical_ms: u64,
}

impl Heartbeat {
    /// Round-trip time in ns at the receiver's monotonic `now_ns`; `None` without an echo or with an impossible one.
    #[must_use]
    pub fn rtt_ns(&self, now_ns: u64) -> Option<u64> {
        if self.echo_ns == 0 {
            return None;
        }
        now_ns.checked_sub(self.echo_ns)?.checked_sub(self.held_ns)
    }
}

impl Body for Heartbeat {
    const OPCODE: Opcode = Opcode::Heartbeat;

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.put_u64_le(self.sent_at_ns);
        out.put_u64_le(self.echo_ns);
        out.put_u64_le(self.held_ns);
        out.put_u64_le(self.physical_ms);
        Ok(())
    }

    fn read(reader: &mut Reader<'_>) -> Result<Heartbeat, DecodeError> {
        Ok(Heartbeat {
            sent_at_ns: reader.u64()?,
            echo_ns: reader.u64()?,
            held_ns: reader.u64()?,
            physical_ms: reader.u64()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_a_peer_held_the_echo_is_not_round_trip_time() {
        let beat = Heartbeat { sent_at_ns: 9, echo_ns: 1_000, held_ns: 500, physical_ms: 0 };
        assert_eq!(beat.rtt_ns(1_900), Some(400));
        assert_eq!(beat.rtt_ns(1_400), None, "an echo from the future measures nothing");
        assert_eq!(Heartbeat { echo_ns: 0, ..beat }.rtt_ns(1_900), None);
    }
}
