//! `Claim` (source → follower): "up to here you have everything of this log".
//!
//! Rules:
//! - `(from, to]` of one log and class: the `Records` before it on the same connection, together with what the follower
//!   had at `from`, hold every effect of that log up to `to`, or something newer for the same key.
//! - Accepted only if the follower's watermark is at or above `from`; it takes effect when all that came before it is
//!   durable at the follower. Claims are ordered; records are not. It never travels inside `Records`.
//! - `from = to` claims nothing new and is allowed.
//! - COMPLETE is reserved for in-region eager streams: "all sent, not yet durable here".

use bytes::BufMut;

use super::Body;
use crate::ids::{Class, LogId, Version};
use crate::wire::codec::{Reader, put_log};
use crate::wire::error::{DecodeError, EncodeError};
use crate::wire::opcode::Opcode;

/// Reserved: all up to `to` was sent, but is not yet durable at the source.
pub const COMPLETE: u16 = 1;
/// Flags this version speaks.
const KNOWN: u16 = 0;

/// The source's claim over a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Which log.
    pub log: LogId,
    /// Exclusive: the follower must hold this already.
    pub from: Version,
    /// Inclusive: the follower holds this afterwards.
    pub to: Version,
    /// [`COMPLETE`]; 0 in this version.
    pub flags: u16,
    /// Residency class; 0.
    pub class: Class,
}

impl Body for Claim {
    const OPCODE: Opcode = Opcode::Claim;

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        if self.from > self.to {
            return Err(EncodeError::Value { field: "claim from", value: self.from.0 });
        }
        if self.flags & !KNOWN != 0 {
            return Err(EncodeError::Value { field: "claim flags", value: self.flags.into() });
        }
        put_log(out, self.log);
        out.put_u64_le(self.from.0);
        out.put_u64_le(self.to.0);
        out.put_u16_le(self.flags);
        out.put_u16_le(self.class.0);
        Ok(())
    }

    fn read(reader: &mut Reader<'_>) -> Result<Claim, DecodeError> {
        let log = reader.log()?;
        let (from, to) = (Version(reader.u64()?), Version(reader.u64()?));
        if from > to {
            return Err(DecodeError::Value { field: "claim from", value: from.0 });
        }
        let flags = reader.flags("claim flags", KNOWN)?;
        Ok(Claim { log, from, to, flags, class: Class(reader.u16()?) })
    }
}
