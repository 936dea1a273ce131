//! Every opcode, as an explicit number. Numbers are never reused: a retired one moves to [`RETIRED`].
//!
//! Ranges: `0x00xx` handshake, heartbeat, members and general answers; `0x01xx` discovery; `0x02xx` replication; `0x03xx` native
//! storage; `0x04xx` cache (reserved).

use super::body::records::HEAD_BYTES;
use super::body::value::ITEM_HEAD_BYTES;
use super::codec::codes;
use super::limits::{
    CONTROL_BODY_BYTES_MAX, KEYED_BODY_BYTES_MAX, KEYS_BODY_BYTES_MAX, RECORDS_PAYLOAD_BYTES_MAX, VALUE_BODY_BYTES_MAX,
    WRITE_BODY_BYTES_MAX,
};

codes! {
    /// What a frame's body is.
    Opcode: u16 {
        /// First frame of the side that dialled.
        Hello = 0x0001,
        /// Its answer.
        HelloAck = 0x0002,
        /// Why this link closes now.
        Refuse = 0x0003,
        /// Liveness, round-trip time, clocks.
        Heartbeat = 0x0004,
        /// The request with this id succeeded.
        Ok = 0x0005,
        /// The request with this id failed.
        Error = 0x0006,
        /// The sender's member table, because it changed.
        Members = 0x0007,
        /// Up to where the sender holds what all members write.
        Stable = 0x0008,
        /// A follower that lacks what the source may have forgotten takes over everything.
        Bootstrap = 0x0009,
        /// How much of the logs that were asked for lies behind what is being written.
        Backlog = 0x000a,
        /// A service instance announces or refreshes itself at its local node.
        Register = 0x0101,
        /// A service instance leaves.
        Deregister = 0x0102,
        /// Asks for instances in all regions.
        List = 0x0103,
        /// Asks for instances of this region.
        ListLocal = 0x0104,
        /// Answers both.
        ListReply = 0x0105,
        /// A node's local registrations, for its peers.
        FederatedRegister = 0x0106,
        /// Its acknowledgement, with what was refused.
        FederatedAck = 0x0107,
        /// An operator says that a member is gone for good.
        RemoveMember = 0x0108,
        /// Asks a node to sum up the values it has.
        Survey = 0x0110,
        /// Asks what a node has in some of the sums.
        Inspect = 0x0111,
        /// Asks what a node has of some keys.
        Lookup = 0x0112,
        /// What a node holds of every log.
        Coverage = 0x0113,
        /// What it summed up.
        Sums = 0x0114,
        /// What it has.
        Entries = 0x0115,
        /// Asks for the records of some keys.
        Fetch = 0x0116,
        /// Asks a node to sum up the values it has, in few sums.
        Compare = 0x0117,
        /// An operator asks a node to compare itself with its peers now.
        Repair = 0x0118,
        /// What came of it.
        Repaired = 0x0119,
        /// What the follower holds durably.
        Watermarks = 0x0201,
        /// The follower asks for streams.
        Follow = 0x0202,
        /// The source's own logs.
        Logs = 0x0203,
        /// Records, verbatim.
        Records = 0x0204,
        /// The source's claim over a log.
        Claim = 0x0205,
        /// How far the source may send.
        Credit = 0x0206,
        /// A small batch behind others of the same log, and the claim behind it.
        More = 0x0207,
        /// First frame of a native client.
        ClientHello = 0x0301,
        /// The node's answer.
        ClientHelloAck = 0x0302,
        /// Asks for the value of a key.
        Get = 0x0303,
        /// Asks for the values of several keys.
        GetMany = 0x0304,
        /// Writes a value.
        Put = 0x0305,
        /// Removes a key.
        Delete = 0x0306,
        /// Adds to a number.
        Increment = 0x0307,
        /// Asks for keys, a piece at a time.
        Scan = 0x0308,
        /// What is there, or that nothing is.
        Value = 0x0309,
        /// What became of a write.
        Written = 0x030a,
        /// The number after an increment.
        Incremented = 0x030b,
        /// Keys, and where to go on.
        Keys = 0x030c,
        /// Who durably holds a write that was to wait for other regions.
        Held = 0x030d,
        /// A session goes on here, or asks for its token.
        Session = 0x030e,
        /// What the session has seen.
        SessionToken = 0x030f,
    }
}

/// Numbers that once had a meaning, with the name they had.
pub const RETIRED: &[(u16, &str)] = &[];

impl Opcode {
    /// Longest body in bytes.
    #[must_use]
    pub fn body_bytes_max(self) -> usize {
        match self {
            Opcode::Records => HEAD_BYTES + RECORDS_PAYLOAD_BYTES_MAX,
            Opcode::Get | Opcode::Increment | Opcode::Scan => KEYED_BODY_BYTES_MAX,
            Opcode::GetMany | Opcode::Keys | Opcode::Entries | Opcode::Fetch => KEYS_BODY_BYTES_MAX,
            Opcode::Put | Opcode::Delete => WRITE_BODY_BYTES_MAX,
            Opcode::Value | Opcode::Written => VALUE_BODY_BYTES_MAX,
            _ => CONTROL_BODY_BYTES_MAX,
        }
    }

    /// How many leading bytes of a body of `body_bytes` the header's body checksum covers: all, with two exceptions. The
    /// payload of `Records` carries its own checksums from the origin's disk to ours. A large value goes from the log to
    /// the socket without being looked at: one client that asks for many must not keep a core from all others.
    #[must_use]
    pub fn guarded_bytes(self, body_bytes: usize) -> usize {
        match self {
            Opcode::Records => HEAD_BYTES.min(body_bytes),
            Opcode::Value | Opcode::Written if body_bytes > CONTROL_BODY_BYTES_MAX => ITEM_HEAD_BYTES,
            _ => body_bytes,
        }
    }

    /// Shortest body in bytes that can be guarded at all.
    #[must_use]
    pub fn body_bytes_min(self) -> usize {
        if self == Opcode::Records { HEAD_BYTES } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_number_is_used_twice_or_after_its_retirement() {
        let mut codes: Vec<u16> = Opcode::ALL.iter().map(|o| o.code()).chain(RETIRED.iter().map(|(c, _)| *c)).collect();
        codes.sort_unstable();
        let listed = codes.len();
        codes.dedup();
        assert_eq!(codes.len(), listed);
    }

    #[test]
    fn every_code_is_in_an_assigned_range_and_maps_back() {
        for &opcode in Opcode::ALL {
            assert!(opcode.code() & 0xff != 0 && opcode.code() >> 8 <= 0x03, "{opcode:?}");
            assert_eq!(Opcode::from_code(opcode.code()), Some(opcode));
        }
        assert_eq!(Opcode::from_code(0), None);
        assert_eq!(Opcode::from_code(0x0401), None);
    }
}
