//! `Delete` (client → node): removes a key, perhaps only under a condition.
//!
//! Rules:
//! - Those of `Put`. Where nothing is there, nothing is written, and `Written` says so.

use bytes::Bytes;

use super::put::{put_wait, read_wait};
use super::{Body, Condition, Wait};
use crate::wire::codec::{Reader, put_key};
use crate::wire::error::{DecodeError, EncodeError};
use crate::wire::opcode::Opcode;

/// Removes a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delete {
    /// Which other regions shall hold it.
    pub wait: Wait,
    /// What must be there.
    pub condition: Condition,
    /// Which.
    pub key: Bytes,
}

impl Body for Delete {
    const OPCODE: Opcode = Opcode::Delete;

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        put_wait(out, self.wait);
        self.condition.encode(out)?;
        put_key(out, &self.key)
    }

    fn read(reader: &mut Reader<'_>) -> Result<Delete, DecodeError> {
        let wait = read_wait(reader)?;
        let condition = Condition::read(reader)?;
        Ok(Delete { wait, condition, key: reader.key()? })
    }
}
