//! `Members` (either side of a handshake): the sender's member table, again, because it changed. And `RemoveMember`
//! (operator → a node of the mesh): a member is gone for good.
//!
//! Rules:
//! - A table is merged into the receiver's: for each id removed wins for ever, else the row that was written later. Rows
//!   that the receiver has and the table has not stay. So tables may come in any order and any number of times.
//! - `Members` is accepted from a peer only, after the handshake; it is not answered.
//! - `RemoveMember` is accepted from processes of the node's own host only. It is answered by `Ok` once the removal is
//!   durable there, also when the id was removed before, or by `Error`.

use bytes::BufMut;

use super::Body;
use crate::ids::{NodeId, RegionName, Version};
use crate::wire::codec::{Reader, codes, put_count, put_region};
use crate::wire::error::{DecodeError, EncodeError};
use crate::wire::limits::MEMBERS_MAX;
use crate::wire::opcode::Opcode;

/// Smallest encoded row: a region of one byte.
const MEMBER_BYTES_MIN: usize = 16;

codes! {
    /// A member's place in the mesh. The order is that of merging: removed is final.
    MemberState: u8 {
        /// Counts.
        Joined = 1,
        /// Counts never again.
        Removed = 2,
    }
}

/// One row of the member table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Who.
    pub node: NodeId,
    /// Whether it counts.
    pub state: MemberState,
    /// When that was written.
    pub at: Version,
    /// Where it lives.
    pub region: RegionName,
}

/// Appends a member table.
pub(super) fn put_members(out: &mut Vec<u8>, members: &[Member]) -> Result<(), EncodeError> {
    put_count(out, "members", members.len(), MEMBERS_MAX)?;
    for member in members {
        out.put_u32_le(member.node.0);
        out.put_u8(member.state.code());
        out.put_u64_le(member.at.0);
        put_region(out, &member.region)?;
    }
    Ok(())
}

/// Reads a member table.
pub(super) fn read_members(reader: &mut Reader<'_>) -> Result<Vec<Member>, DecodeError> {
    let count = reader.count("members", MEMBERS_MAX, MEMBER_BYTES_MIN)?;
    let mut members = Vec::with_capacity(count);
    for _ in 0..count {
        let node = NodeId(reader.u32()?);
        let state = reader.u8()?;
        let state =
            MemberState::from_code(state).ok_or(DecodeError::Value { field: "member state", value: state.into() })?;
        members.push(Member { node, state, at: Version(reader.u64()?), region: reader.region()? });
    }
    Ok(members)
}

/// The sender's member table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Members {
    /// All of it.
    pub members: Vec<Member>,
}

impl Body for Members {
    const OPCODE: Opcode = Opcode::Members;

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        put_members(out, &self.members)
    }

    fn read(reader: &mut Reader<'_>) -> Result<Members, DecodeError> {
        Ok(Members { members: read_members(reader)? })
    }
}

/// A member is gone for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RemoveMember {
    /// Which.
    pub node: NodeId,
}

impl Body for RemoveMember {
    const OPCODE: Opcode = Opcode::RemoveMember;

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.put_u32_le(self.node.0);
        Ok(())
    }

    fn read(reader: &mut Reader<'_>) -> Result<RemoveMember, DecodeError> {
        Ok(RemoveMember { node: NodeId(reader.u32()?) })
    }
}
