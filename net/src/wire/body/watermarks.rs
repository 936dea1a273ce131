//! `Watermarks` (follower → source): what the follower durably holds, at the opening and as acknowledgement.
//!
//! Rules:
//! - `version` is the durable watermark: every effect of that log up to it, or something newer for the same key, is
//!   durable at the sender. `persisted` is what it would still declare after a crash; `persisted ≤ version`.
//! - With `FULL` the body is the whole vector: a log it does not name is at zero. Without, it names only what rose.
//! - A lower value than one sent before on any connection means that data was lost: it must come with `FULL`.
//! - The class is 0 until residency policies exist.

use bytes::BufMut;

use super::Body;
use crate::ids::{Class, LogId, Version};
use crate::wire::codec::{Reader, put_count, put_log};
use crate::wire::error::{DecodeError, EncodeError};
use crate::wire::limits::WATERMARKS_MAX;
use crate::wire::opcode::Opcode;

/// The body is the whole vector.
pub const FULL: u16 = 1;

/// One component of a vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermark {
    /// Which log.
    pub log: LogId,
    /// Durable up to and including this.
    pub version: Version,
    /// Still declared after a crash.
    pub persisted: Version,
    /// Residency class; 0.
    pub class: Class,
}

/// What the follower durably holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watermarks {
    /// Whether logs not named are at zero.
    pub full: bool,
    /// The components.
    pub entries: Vec<Watermark>,
}

impl Body for Watermarks {
    const OPCODE: Opcode = Opcode::Watermarks;

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.put_u16_le(if self.full { FULL } else { 0 });
        put_count(out, "watermarks", self.entries.len(), WATERMARKS_MAX)?;
        for entry in &self.entries {
            if entry.persisted > entry.version {
                return Err(EncodeError::Value { field: "persisted watermark", value: entry.persisted.0 });
            }
            put_log(out, entry.log);
            out.put_u64_le(entry.version.0);
            out.put_u64_le(entry.persisted.0);
            out.put_u16_le(entry.class.0);
        }
        Ok(())
    }

    fn read(reader: &mut Reader<'_>) -> Result<Watermarks, DecodeError> {
        let full = reader.flags("watermark flags", FULL)? == FULL;
        let count = reader.count("watermarks", WATERMARKS_MAX, 30)?;
        let mut entries = Vec::with_capacity(count);
        for _ in 0..count {
            let log = reader.log()?;
            let (version, persisted) = (Version(reader.u64()?), Version(reader.u64()?));
            if persisted > version {
                return Err(DecodeError::Value { field: "persisted watermark", value: persisted.0 });
            }
            entries.push(Watermark { log, version, persisted, class: Class(reader.u16()?) });
        }
        Ok(Watermarks { full, entries })
    }
}
