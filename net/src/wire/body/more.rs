//! `More` (source → follower): a small batch behind others of the same log, and what may be claimed with it, in few bytes.
//!
//! Rules:
//! - An 8-byte head, then the payload: the records in their brief form, which leaves out what follows from the rest (`wal::Brief`), opaque
//!   here. The log is that of the last `Records` without flags on this connection, the stream
//!   offset goes on where the last batch ended, and there are no flags: what needs one is said by `Records`.
//! - `claim_by` above zero claims `(from, from + claim_by]` of that log, where `from` is what the last claim over it on this
//!   connection went up to, be it a `Claim` or one like this. It counts behind the records of this message.
//! - Packed it is one lz4 block that may refer to what lies before it: the last [`WINDOW_BYTES`] bytes, before packing, of the
//!   payloads of `More` on this connection.
//! - Stream offset and credit count the records as `Records` would carry them.
//! - The body checksum covers all of it, and each record has its own.

use bytes::{BufMut, Bytes};

use super::Body;
use crate::ids::CoreIndex;
use crate::wire::codec::Reader;
use crate::wire::error::{DecodeError, EncodeError};
use crate::wire::limits::{MORE_RAW_BYTES_MAX, RECORD_ALIGN_BYTES};
use crate::wire::opcode::Opcode;
#[cfg(doc)]
use crate::wire::packing::WINDOW_BYTES;

/// Bytes before the payload.
pub const HEAD_BYTES: usize = 8;
/// The payload is packed.
const PACKED: u8 = 1;

/// A small batch of the log that the last one was of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct More {
    /// How much further the claim goes than the last one over this log; 0 if there is none.
    pub claim_by: u32,
    /// Bytes of the records as `Records` would carry them, at most [`MORE_RAW_BYTES_MAX`].
    pub raw_bytes: u32,
    /// The source's core that holds the records; one of the first 256.
    pub core: CoreIndex,
    /// Whether the payload is packed.
    pub packed: bool,
    /// Records in their brief form.
    pub payload: Bytes,
}

impl More {
    /// What both sides hold it to.
    fn check(&self) -> Result<(), (&'static str, u64)> {
        let (raw, payload) = (self.raw_bytes as usize, self.payload.len());
        let is_sized = raw <= MORE_RAW_BYTES_MAX && raw.is_multiple_of(RECORD_ALIGN_BYTES);
        if (1..raw).contains(&payload) && is_sized {
            Ok(())
        } else {
            Err(("raw bytes of more records", self.raw_bytes.into()))
        }
    }
}

impl Body for More {
    const OPCODE: Opcode = Opcode::More;

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        self.check().map_err(|(field, value)| EncodeError::Value { field, value })?;
        let core = u8::try_from(self.core.0)
            .map_err(|_| EncodeError::Value { field: "core of more records", value: self.core.0.into() })?;
        let units = self.raw_bytes as usize / RECORD_ALIGN_BYTES;
        out.put_u32_le(self.claim_by);
        out.put_u16_le(u16::try_from(units).expect("MORE_RAW_BYTES_MAX was checked"));
        out.put_u8(core);
        out.put_u8(if self.packed { PACKED } else { 0 });
        out.extend_from_slice(&self.payload);
        Ok(())
    }

    fn read(reader: &mut Reader<'_>) -> Result<More, DecodeError> {
        let claim_by = reader.u32()?;
        let raw_bytes = u32::from(reader.u16()?) * u32::try_from(RECORD_ALIGN_BYTES).unwrap_or(u32::MAX);
        let core = CoreIndex(reader.u8()?.into());
        let flags = reader.u8()?;
        if flags & !PACKED != 0 {
            return Err(DecodeError::Value { field: "flags of more records", value: flags.into() });
        }
        let more = More { claim_by, raw_bytes, core, packed: flags == PACKED, payload: reader.rest() };
        more.check().map_err(|(field, value)| DecodeError::Value { field, value })?;
        Ok(more)
    }
}
