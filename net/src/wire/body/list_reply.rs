//! `ListReply` (node → asker): the instances it knows.
//!
//! Rules:
//! - A long list spans several frames with the same request id; all but the last carry `MORE`.
//! - `LEARNING`: this node has not yet heard from every source of registrations since it started, so an instance that
//!   is missing is unknown, not absent. Do not act on its absence.
//! - Suspect instances are listed as such: their region was not heard from in time. Gone ones only if asked for.

use std::net::SocketAddr;

use bytes::BufMut;

use super::deregister::KEY_BYTES_MIN;
use super::{Body, InstanceKey};
use crate::ids::RegionName;
use crate::wire::codec::{
    ADDRESS_BYTES_MIN, Reader, address_bytes, codes, put_address, put_bytes, put_count, put_region,
};
use crate::wire::error::{DecodeError, EncodeError};
use crate::wire::limits::{ENTRIES_MAX, METADATA_BYTES_MAX};
use crate::wire::opcode::Opcode;

/// Further frames with the same request id follow.
pub const MORE: u16 = 1;
/// Absence means nothing yet.
pub const LEARNING: u16 = 2;

const ENTRY_BYTES_MIN: usize = KEY_BYTES_MIN + 3 + ADDRESS_BYTES_MIN + 1 + 4 + 4 + 2;

codes! {
    /// What is known of an instance's life.
    EntryState: u8 {
        /// Refreshed in time.
        Alive = 1,
        /// Its node was not heard from in time; its time to live is not over.
        Suspect = 2,
        /// Its time to live is over, or it left.
        Gone = 3,
    }
}

/// One instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListEntry {
    /// Who.
    pub key: InstanceKey,
    /// In which region.
    pub region: RegionName,
    /// Where.
    pub address: SocketAddr,
    /// Its life.
    pub state: EntryState,
    /// Gone when not refreshed within this many ms.
    pub ttl_ms_left: u32,
    /// Time in ms since this node last heard of it.
    pub age_ms: u32,
    /// What the service says about it; opaque.
    pub metadata: Vec<u8>,
}

impl ListEntry {
    /// Bytes it takes in a body, for cutting a long list into frames.
    #[must_use]
    pub fn encoded_bytes(&self) -> usize {
        let names = self.key.encoded_bytes() + 2 + self.region.as_str().len();
        names + address_bytes(self.address) + 1 + 4 + 4 + 2 + self.metadata.len()
    }
}

/// The instances a node knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListReply {
    /// Further frames follow.
    pub more: bool,
    /// Absence means nothing yet.
    pub learning: bool,
    /// In order of their keys.
    pub entries: Vec<ListEntry>,
}

impl Body for ListReply {
    const OPCODE: Opcode = Opcode::ListReply;

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.put_u16_le(if self.more { MORE } else { 0 } | if self.learning { LEARNING } else { 0 });
        put_count(out, "entries", self.entries.len(), ENTRIES_MAX)?;
        for entry in &self.entries {
            entry.key.encode(out)?;
            put_region(out, &entry.region)?;
            put_address(out, entry.address);
            out.put_u8(entry.state.code());
            out.put_u32_le(entry.ttl_ms_left);
            out.put_u32_le(entry.age_ms);
            put_bytes(out, "metadata", &entry.metadata, METADATA_BYTES_MAX)?;
        }
        Ok(())
    }

    fn read(reader: &mut Reader<'_>) -> Result<ListReply, DecodeError> {
        let flags = reader.flags("list flags", MORE | LEARNING)?;
        let count = reader.count("entries", ENTRIES_MAX, ENTRY_BYTES_MIN)?;
        let mut entries = Vec::with_capacity(count);
        for _ in 0..count {
            let key = InstanceKey::read(reader)?;
            let region = reader.region()?;
            let address = reader.address()?;
            let state = reader.u8()?;
            let state =
                EntryState::from_code(state).ok_or(DecodeError::Value { field: "entry state", value: state.into() })?;
            let (ttl_ms_left, age_ms) = (reader.u32()?, reader.u32()?);
            let metadata = reader.bytes("metadata", METADATA_BYTES_MAX)?.to_vec();
            entries.push(ListEntry { key, region, address, state, ttl_ms_left, age_ms, metadata });
        }
        Ok(ListReply { more: flags & MORE != 0, learning: flags & LEARNING != 0, entries })
    }
}
