//! `Deregister` (instance → its node): the instance leaves now, without waiting for its time to live.
//!
//! Rules:
//! - Answered by `Ok`, also when it was not there (leaving twice is leaving), or by `Error`.
//! - It names one epoch: a late one of an earlier life does not remove its successor.

use bytes::BufMut;

use super::Body;
use crate::ids::{Epoch, InstanceId, ServiceName};
use crate::wire::codec::{Reader, put_service};
use crate::wire::error::{DecodeError, EncodeError};
use crate::wire::opcode::Opcode;

/// Smallest encoded key: a name of one byte.
pub const KEY_BYTES_MIN: usize = 19;

/// One life of one instance of a service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceKey {
    /// Which service.
    pub service: ServiceName,
    /// Which instance of it.
    pub instance: InstanceId,
    /// Which life of it.
    pub epoch: Epoch,
}

impl InstanceKey {
    /// Appends the key.
    ///
    /// # Errors
    /// None in practice.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        put_service(out, &self.service)?;
        out.put_u64_le(self.instance.0);
        out.put_u64_le(self.epoch.0);
        Ok(())
    }

    /// Reads a key.
    ///
    /// # Errors
    /// When the bytes are no key.
    pub fn read(reader: &mut Reader<'_>) -> Result<InstanceKey, DecodeError> {
        Ok(InstanceKey { service: reader.service()?, instance: InstanceId(reader.u64()?), epoch: Epoch(reader.u64()?) })
    }

    /// Bytes that `encode` appends.
    #[must_use]
    pub fn encoded_bytes(&self) -> usize {
        2 + self.service.as_str().len() + 16
    }
}

/// The instance leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deregister {
    /// Who leaves.
    pub key: InstanceKey,
}

impl Body for Deregister {
    const OPCODE: Opcode = Opcode::Deregister;

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        self.key.encode(out)
    }

    fn read(reader: &mut Reader<'_>) -> Result<Deregister, DecodeError> {
        Ok(Deregister { key: InstanceKey::read(reader)? })
    }
}
