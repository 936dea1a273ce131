//! `FederatedRegister` (node → peer node): the sender's local registrations. FEDERATED_REGISTER of the founding text.
//!
//! Rules:
//! - Local registrations only, never what was learned from peers (else two regions keep each other's dead alive).
//! - The receiver stamps the region of the authenticated peer; the region and node here must equal the handshake's.
//! - `ttl_ms_left` is what remains at the sender, so that expiry here and there does not add up.
//! - Without `FULL`: changes. With `FULL`: a snapshot; the parts carry consecutive sequence numbers, the first `FIRST`,
//!   the last `LAST`; after the last, what no part named is gone. It repairs whatever was lost.
//! - `sequence` rises by one per frame within a connection, from 1. Each is answered by `FederatedAck`.

use std::net::SocketAddr;

use bytes::BufMut;

use super::deregister::KEY_BYTES_MIN;
use super::{Body, InstanceKey};
use crate::ids::{Incarnation, LogId, NodeId, RegionName, Sequence};
use crate::wire::codec::{
    ADDRESS_BYTES_MIN, Reader, address_bytes, put_address, put_bytes, put_count, put_log, put_region,
};
use crate::wire::error::{DecodeError, EncodeError};
use crate::wire::limits::{ENTRIES_MAX, METADATA_BYTES_MAX};
use crate::wire::opcode::Opcode;

/// Part of a snapshot.
pub const FULL: u16 = 1;
/// First part of a snapshot.
pub const FIRST: u16 = 2;
/// Last part of a snapshot.
pub const LAST: u16 = 4;

const ENTRY_BYTES_MIN: usize = KEY_BYTES_MIN + ADDRESS_BYTES_MIN + 4 + 2;
/// Bytes before the lists, and their counts, at most.
pub const FIXED_BYTES_MAX: usize = 12 + 8 + 2 + 2 + crate::ids::REGION_NAME_BYTES_MAX + 2 + 2;

/// One local instance of the sender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FederatedEntry {
    /// Who.
    pub key: InstanceKey,
    /// Where, as a peer can reach it.
    pub address: SocketAddr,
    /// What remains of its time to live, ms.
    pub ttl_ms_left: u32,
    /// What the service says about it; opaque.
    pub metadata: Vec<u8>,
}

impl FederatedEntry {
    /// Bytes it takes in a body, for cutting a snapshot into parts.
    #[must_use]
    pub fn encoded_bytes(&self) -> usize {
        self.key.encoded_bytes() + address_bytes(self.address) + 4 + 2 + self.metadata.len()
    }
}

/// Where a frame stands in a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotPart {
    /// The first of its snapshot.
    pub first: bool,
    /// The last of its snapshot.
    pub last: bool,
}

/// The sender's local registrations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FederatedRegister {
    /// The sender; must equal the handshake's.
    pub node: NodeId,
    /// Its current run.
    pub incarnation: Incarnation,
    /// Rises by one per frame within a connection.
    pub sequence: Sequence,
    /// Part of a snapshot; `None` = changes.
    pub snapshot: Option<SnapshotPart>,
    /// The sender's region; must equal the handshake's.
    pub region: RegionName,
    /// Registered or refreshed.
    pub entries: Vec<FederatedEntry>,
    /// Left, or expired at the sender.
    pub deregistered: Vec<InstanceKey>,
}

impl Body for FederatedRegister {
    const OPCODE: Opcode = Opcode::FederatedRegister;

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        put_log(out, LogId { node: self.node, incarnation: self.incarnation });
        out.put_u64_le(self.sequence.0);
        out.put_u16_le(
            self.snapshot
                .map_or(0, |part| FULL | if part.first { FIRST } else { 0 } | if part.last { LAST } else { 0 }),
        );
        put_region(out, &self.region)?;
        put_count(out, "entries", self.entries.len(), ENTRIES_MAX)?;
        for entry in &self.entries {
            entry.key.encode(out)?;
            put_address(out, entry.address);
            out.put_u32_le(entry.ttl_ms_left);
            put_bytes(out, "metadata", &entry.metadata, METADATA_BYTES_MAX)?;
        }
        put_count(out, "deregistered", self.deregistered.len(), ENTRIES_MAX)?;
        for key in &self.deregistered {
            key.encode(out)?;
        }
        Ok(())
    }

    fn read(reader: &mut Reader<'_>) -> Result<FederatedRegister, DecodeError> {
        let LogId { node, incarnation } = reader.log()?;
        let sequence = Sequence(reader.u64()?);
        let flags = reader.flags("federation flags", FULL | FIRST | LAST)?;
        let snapshot = match flags {
            0 => None,
            _ if flags & FULL == 0 => return Err(DecodeError::Flags { field: "federation flags", flags }),
            _ => Some(SnapshotPart { first: flags & FIRST != 0, last: flags & LAST != 0 }),
        };
        let region = reader.region()?;
        let count = reader.count("entries", ENTRIES_MAX, ENTRY_BYTES_MIN)?;
        let mut entries = Vec::with_capacity(count);
        for _ in 0..count {
            entries.push(FederatedEntry {
                key: InstanceKey::read(reader)?,
                address: reader.address()?,
                ttl_ms_left: reader.u32()?,
                metadata: reader.bytes("metadata", METADATA_BYTES_MAX)?.to_vec(),
            });
        }
        let count = reader.count("deregistered", ENTRIES_MAX, KEY_BYTES_MIN)?;
        let mut deregistered = Vec::with_capacity(count);
        for _ in 0..count {
            deregistered.push(InstanceKey::read(reader)?);
        }
        Ok(FederatedRegister { node, incarnation, sequence, snapshot, region, entries, deregistered })
    }
}
