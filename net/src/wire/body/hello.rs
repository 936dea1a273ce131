//! `Hello` (the side that dialled) and `HelloAck` (the side that accepted): who I am, what I speak, what I am for.
//!
//! Rules:
//! - The first frame in each direction on every connection; nothing else is answered before. `HelloAck` repeats the
//!   purpose it accepts. A side that does not agree sends `Refuse` instead and closes.
//! - The member table is merged before any data travels, as `Members` says; a node that is removed there is refused.
//! - The residency fingerprint is 0 without a policy; different fingerprints do not exchange data (fail closed).
//! - The clock serves the estimation of skew only; it is read as late as possible before sending.
//! - Flags, kinds and reserved values that the receiver does not know are refused, not ignored.

use std::net::SocketAddr;

use bytes::BufMut;

use super::members::{Member, MemberState, put_members, read_members};
use super::{Body, Refuse, RefuseCode};
use crate::ids::{Incarnation, LogId, NodeId, RegionName};
use crate::wire::codec::{Reader, codes, put_address, put_bytes, put_log, put_region};
use crate::wire::error::{DecodeError, EncodeError};
use crate::wire::limits::PROOF_BYTES_MAX;
use crate::wire::opcode::Opcode;

codes! {
    /// What a connection is for; each has its own.
    Purpose: u8 {
        /// Reserved: membership goes over discovery's connections, watermarks over live ones.
        Control = 1,
        /// What is being written, and watermarks.
        Live = 2,
        /// What lies behind that, and passes.
        Bulk = 3,
        /// Registrations.
        Discovery = 4,
    }
}

/// Proof of the mesh key. Only `none` (kind 0) is spoken in this version; other kinds are carried so that the receiver
/// can refuse them by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proof {
    /// 0 = none.
    pub kind: u8,
    /// Depends on the kind; empty for none.
    pub bytes: Vec<u8>,
}

/// The handshake, in both directions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Oldest protocol spoken.
    pub protocol_min: u16,
    /// Newest protocol spoken.
    pub protocol_max: u16,
    /// The sender.
    pub node: NodeId,
    /// Its current run.
    pub incarnation: Incarnation,
    /// What this connection is for.
    pub purpose: Purpose,
    /// Version of the record and segment format; records travel verbatim, so it must be equal.
    pub record_format: u16,
    /// Largest value in bytes; must agree across the mesh.
    pub value_bytes_max: u32,
    /// Fingerprint of the residency policy; 0 = none.
    pub residency: u64,
    /// The sender's physical clock, ms since 1970.
    pub physical_ms: u64,
    /// Where the sender can be dialled for discovery.
    pub advertised: SocketAddr,
    /// The sender's region.
    pub region: RegionName,
    /// Proof of the mesh key.
    pub proof: Proof,
    /// The sender's member table.
    pub members: Vec<Member>,
}

impl Hello {
    /// The log the sender is writing now.
    #[must_use]
    pub fn log(&self) -> LogId {
        LogId { node: self.node, incarnation: self.incarnation }
    }

    /// Judges what must agree between any two nodes and gives the protocol both speak: the newest common one. Rules
    /// about regions depend on the link and are the caller's.
    ///
    /// # Errors
    /// The refusal to send before closing, written for the operator of either side.
    pub fn agree(ours: &Hello, theirs: &Hello) -> Result<u16, Refuse> {
        if theirs.node == ours.node {
            return Err(if theirs.incarnation == ours.incarnation {
                Refuse::new(RefuseCode::Myself, "this address leads back to the node itself; remove it from the peers")
            } else {
                Refuse::new(
                    RefuseCode::NodeTwice,
                    &format!("two live nodes hold the id {}; give the copied one an empty data directory", ours.node),
                )
            });
        }
        let protocol = ours.protocol_max.min(theirs.protocol_max);
        if protocol < ours.protocol_min.max(theirs.protocol_min) {
            return Err(Refuse::new(
                RefuseCode::Protocol,
                &format!(
                    "protocols {} to {} and {} to {} have none in common; upgrade the older node",
                    ours.protocol_min, ours.protocol_max, theirs.protocol_min, theirs.protocol_max
                ),
            ));
        }
        let agreements = [
            (RefuseCode::RecordFormat, "record format", ours.record_format.into(), theirs.record_format.into()),
            (RefuseCode::MeshLimits, "VALUE_BYTES_MAX", ours.value_bytes_max.into(), theirs.value_bytes_max.into()),
            (RefuseCode::Residency, "RESIDENCY: the residency policy", ours.residency, theirs.residency),
            (RefuseCode::Proof, "mesh proof kind", ours.proof.kind.into(), theirs.proof.kind.into()),
        ];
        for (code, what, mine, yours) in agreements {
            if mine != yours {
                let text = format!(
                    "{what} differs: {mine:#x} in {}, {yours:#x} in {}; make them equal",
                    ours.region, theirs.region
                );
                return Err(Refuse::new(code, &text));
            }
        }
        if ours.members.iter().any(|m| m.node == theirs.node && m.state == MemberState::Removed) {
            return Err(Refuse::removed(theirs.node));
        }
        Ok(protocol)
    }
}

impl Body for Hello {
    const OPCODE: Opcode = Opcode::Hello;

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.put_u16_le(self.protocol_min);
        out.put_u16_le(self.protocol_max);
        put_log(out, self.log());
        out.put_u8(self.purpose.code());
        out.put_u8(self.proof.kind);
        out.put_u16_le(self.record_format);
        out.put_u32_le(self.value_bytes_max);
        out.put_u64_le(self.residency);
        out.put_u64_le(self.physical_ms);
        put_address(out, self.advertised);
        put_region(out, &self.region)?;
        put_bytes(out, "proof", &self.proof.bytes, PROOF_BYTES_MAX)?;
        put_members(out, &self.members)
    }

    fn read(reader: &mut Reader<'_>) -> Result<Hello, DecodeError> {
        let protocol_min = reader.u16()?;
        let protocol_max = reader.u16()?;
        let LogId { node, incarnation } = reader.log()?;
        let purpose = reader.u8()?;
        let purpose =
            Purpose::from_code(purpose).ok_or(DecodeError::Value { field: "purpose", value: purpose.into() })?;
        let kind = reader.u8()?;
        let record_format = reader.u16()?;
        let value_bytes_max = reader.u32()?;
        let residency = reader.u64()?;
        let physical_ms = reader.u64()?;
        let advertised = reader.address()?;
        let region = reader.region()?;
        let proof = Proof { kind, bytes: reader.bytes("proof", PROOF_BYTES_MAX)?.to_vec() };
        if kind == 0 && !proof.bytes.is_empty() {
            return Err(DecodeError::Value { field: "proof kind", value: 0 });
        }
        Ok(Hello {
            protocol_min,
            protocol_max,
            node,
            incarnation,
            purpose,
            record_format,
            value_bytes_max,
            residency,
            physical_ms,
            advertised,
            region,
            proof,
            members: read_members(reader)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(node: u32, region: &str) -> Hello {
        Hello {
            protocol_min: 1,
            protocol_max: 3,
            node: NodeId(node),
            incarnation: Incarnation(u64::from(node) << 8),
            purpose: Purpose::Control,
            record_format: 1,
            value_bytes_max: 8 << 20,
            residency: 0,
            physical_ms: 0,
            advertised: "10.0.0.1:10200".parse().unwrap(),
            region: RegionName::parse(region).unwrap(),
            proof: Proof::default(),
            members: Vec::new(),
        }
    }

    fn refusal(change: impl FnOnce(&mut Hello)) -> Option<RefuseCode> {
        let mut theirs = hello(2, "nyc");
        change(&mut theirs);
        Hello::agree(&hello(1, "sfo"), &theirs).err().map(|refuse| refuse.reason().unwrap())
    }

    #[test]
    fn the_newest_common_protocol_is_chosen() {
        let mut theirs = hello(2, "nyc");
        theirs.protocol_max = 2;
        assert_eq!(Hello::agree(&hello(1, "sfo"), &theirs), Ok(2));
        (theirs.protocol_min, theirs.protocol_max) = (3, 9);
        assert_eq!(Hello::agree(&hello(1, "sfo"), &theirs), Ok(3));
    }

    #[test]
    fn peer_that_is_self_is_refused() {
        let me = hello(1, "sfo");
        assert_eq!(Hello::agree(&me, &me).unwrap_err().reason(), Some(RefuseCode::Myself));
    }

    #[test]
    fn two_live_holders_of_one_node_id_are_refused() {
        assert_eq!(refusal(|theirs| theirs.node = NodeId(1)), Some(RefuseCode::NodeTwice));
    }

    #[test]
    fn what_must_agree_across_the_mesh_is_checked() {
        assert_eq!(refusal(|_| ()), None);
        assert_eq!(refusal(|theirs| theirs.protocol_min = 4), Some(RefuseCode::Protocol));
        assert_eq!(refusal(|theirs| theirs.record_format = 2), Some(RefuseCode::RecordFormat));
        assert_eq!(refusal(|theirs| theirs.value_bytes_max = 1), Some(RefuseCode::MeshLimits));
        assert_eq!(refusal(|theirs| theirs.residency = 1), Some(RefuseCode::Residency));
        assert_eq!(refusal(|theirs| theirs.proof.kind = 1), Some(RefuseCode::Proof));
    }

    #[test]
    fn a_removed_node_is_refused() {
        let mut ours = hello(1, "sfo");
        let region = RegionName::parse("nyc").unwrap();
        ours.members.push(Member { node: NodeId(2), state: MemberState::Removed, at: crate::ids::Version(7), region });
        let refused = Hello::agree(&ours, &hello(2, "nyc")).unwrap_err();
        assert_eq!(refused.reason(), Some(RefuseCode::Removed));
    }
}
