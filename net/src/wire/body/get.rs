//! `Get` and `GetMany` (client → node): what is there under a key, or under several.
//!
//! Rules:
//! - `Get` is answered by one `Value` or `Error`.
//! - `GetMany` is answered by as many frames as it has keys, in their order, each a `Value` or an `Error`, all with its
//!   request id: no frame grows with the number of keys, and no node holds all the values at once.
//! - The keys of one `GetMany` are not read at one moment.

use bytes::Bytes;

use super::Body;
use crate::wire::codec::{Reader, put_count, put_key};
use crate::wire::error::{DecodeError, EncodeError};
use crate::wire::limits::KEYS_MAX;
use crate::wire::opcode::Opcode;

/// Asks for one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Get {
    /// Which.
    pub key: Bytes,
}

impl Body for Get {
    const OPCODE: Opcode = Opcode::Get;

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        put_key(out, &self.key)
    }

    fn read(reader: &mut Reader<'_>) -> Result<Get, DecodeError> {
        Ok(Get { key: reader.key()? })
    }
}

/// Asks for several keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GetMany {
    /// Which; at least one.
    pub keys: Vec<Bytes>,
}

impl Body for GetMany {
    const OPCODE: Opcode = Opcode::GetMany;

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        if self.keys.is_empty() {
            return Err(EncodeError::Value { field: "keys", value: 0 });
        }
        put_count(out, "keys", self.keys.len(), KEYS_MAX)?;
        self.keys.iter().try_for_each(|key| put_key(out, key))
    }

    fn read(reader: &mut Reader<'_>) -> Result<GetMany, DecodeError> {
        let count = reader.count("keys", KEYS_MAX, 2)?;
        if count == 0 {
            // It would have no answer at all.
            return Err(DecodeError::Value { field: "keys", value: 0 });
        }
        Ok(GetMany { keys: (0..count).map(|_| reader.key()).collect::<Result<_, _>>()? })
    }
}
