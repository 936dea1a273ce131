//! `Value` (node → client): what is there under a key, or that nothing is.
//!
//! Rules:
//! - It leaves the node only when what it shows is durable there.
//! - The version is that of the record: every write gives its key a new one, and a `Put` or `Delete` may ask for it.
//! - The header's body checksum covers the value only while the body has at most 64 KiB. A larger value is not looked at
//!   between the log and the socket; a client that wants proof keeps one in its value.
//! - A key that was removed or has expired is not there.

use bytes::{BufMut, Bytes};

use super::{Body, Outcome};
use crate::ids::{RequestId, Version};
use crate::wire::codec::{Reader, put_value_len};
use crate::wire::error::{DecodeError, EncodeError};
use crate::wire::frame::encode_frame_head;
use crate::wire::opcode::Opcode;

/// Bytes of a body that shows an item, up to its value: one that says so, version, expiry, length.
pub const ITEM_HEAD_BYTES: usize = 1 + 8 + 8 + 4;

/// What is there under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Of the record; never zero.
    pub version: Version,
    /// Absent from here on, in ms since 1970; 0 = never.
    pub expiry_ms: u64,
    /// The value.
    pub value: Bytes,
}

impl Item {
    pub(super) fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        put_head(out, self.version, self.expiry_ms, self.value.len())?;
        out.extend_from_slice(&self.value);
        Ok(())
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Item, DecodeError> {
        Ok(Item { version: Version(reader.u64()?), expiry_ms: reader.u64()?, value: reader.value()? })
    }
}

fn put_head(out: &mut Vec<u8>, version: Version, expiry_ms: u64, value_bytes: usize) -> Result<(), EncodeError> {
    out.put_u64_le(version.0);
    out.put_u64_le(expiry_ms);
    put_value_len(out, value_bytes)
}

/// Which answer shows an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// A `Value`: it is what was asked for.
    Found,
    /// A `Written`: it is there although the condition says otherwise.
    InTheWay,
}

/// An item that lies elsewhere, such as in the log: it becomes a frame without a copy of its own.
#[derive(Clone, Copy, Debug)]
pub struct ItemRef<'a> {
    /// As in [`Item`].
    pub version: Version,
    /// As in [`Item`].
    pub expiry_ms: u64,
    /// As in [`Item`].
    pub value: &'a [u8],
}

impl ItemRef<'_> {
    /// Appends the whole frame that shows this.
    ///
    /// # Errors
    /// When the value is longer than the client accepts; `out` is as before.
    pub fn encode_frame(&self, shown: Shown, request_id: RequestId, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        self.encode_frame_head(shown, request_id, out)?;
        out.extend_from_slice(self.value);
        Ok(())
    }

    /// Appends the frame up to the value; the value's bytes are to follow as they are.
    ///
    /// # Errors
    /// When the value is longer than the client accepts; `out` is as before.
    pub fn encode_frame_head(&self, shown: Shown, request_id: RequestId, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let (opcode, lead) = match shown {
            Shown::Found => (Opcode::Value, FOUND),
            Shown::InTheWay => (Opcode::Written, Outcome::RefusedPresent.code()),
        };
        encode_frame_head(opcode, request_id, out, self.value, |out| {
            out.put_u8(lead);
            put_head(out, self.version, self.expiry_ms, self.value.len())
        })
    }
}

const FOUND: u8 = 1;
const NOT_FOUND: u8 = 0;

/// What is there under a key, if anything is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// `None`: nothing.
    pub item: Option<Item>,
}

impl Body for Value {
    const OPCODE: Opcode = Opcode::Value;

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.put_u8(if self.item.is_some() { FOUND } else { NOT_FOUND });
        self.item.as_ref().map_or(Ok(()), |item| item.encode(out))
    }

    fn read(reader: &mut Reader<'_>) -> Result<Value, DecodeError> {
        let item = match reader.u8()? {
            NOT_FOUND => None,
            FOUND => Some(Item::read(reader)?),
            found => return Err(DecodeError::Value { field: "found", value: found.into() }),
        };
        Ok(Value { item })
    }
}
