//! `Register` (instance → its node): announces an instance, or refreshes it; the two are the same.
//!
//! Rules:
//! - Answered by `Ok` or `Error`. Repeated within `ttl_ms`, else the instance is gone.
//! - A higher epoch of the same instance replaces the lower one; a lower one is refused as stale.
//! - A loopback or wildcard host is right here (instances live on this host); peers are told the node's address.

use std::net::SocketAddr;

use bytes::BufMut;

use super::{Body, InstanceKey};
use crate::wire::codec::{Reader, put_address, put_bytes};
use crate::wire::error::{DecodeError, EncodeError};
use crate::wire::limits::METADATA_BYTES_MAX;
use crate::wire::opcode::Opcode;

/// Announces or refreshes an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Register {
    /// Who.
    pub key: InstanceKey,
    /// Where.
    pub address: SocketAddr,
    /// Gone when not repeated within this many ms.
    pub ttl_ms: u32,
    /// What the service says about it; opaque.
    pub metadata: Vec<u8>,
}

impl Body for Register {
    const OPCODE: Opcode = Opcode::Register;

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        self.key.encode(out)?;
        put_address(out, self.address);
        out.put_u32_le(self.ttl_ms);
        put_bytes(out, "metadata", &self.metadata, METADATA_BYTES_MAX)
    }

    fn read(reader: &mut Reader<'_>) -> Result<Register, DecodeError> {
        Ok(Register {
            key: InstanceKey::read(reader)?,
            address: reader.address()?,
            ttl_ms: reader.u32()?,
            metadata: reader.bytes("metadata", METADATA_BYTES_MAX)?.to_vec(),
        })
    }
}
