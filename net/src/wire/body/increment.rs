//! `Increment` (client → node): adds to a number. `Incremented` (node → client): what it came to.
//!
//! Rules:
//! - Values are numbers as `INCR` writes them: decimal text of a signed 64-bit integer. A key that is not there counts
//!   as 0. Its expiry stays.
//! - Anything else there, or a sum outside the range, is answered with `Error` not a number.
//! - Atomic at this node; between regions the last writer wins.

use bytes::{BufMut, Bytes};

use super::put::{put_wait, read_wait};
use super::{Body, Wait};
use crate::ids::Version;
use crate::wire::codec::{Reader, put_key};
use crate::wire::error::{DecodeError, EncodeError};
use crate::wire::opcode::Opcode;

/// Adds to a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Increment {
    /// Which other regions shall hold it.
    pub wait: Wait,
    /// What to add; may be negative.
    pub by: i64,
    /// Where.
    pub key: Bytes,
}

impl Body for Increment {
    const OPCODE: Opcode = Opcode::Increment;

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        put_wait(out, self.wait);
        out.put_i64_le(self.by);
        put_key(out, &self.key)
    }

    fn read(reader: &mut Reader<'_>) -> Result<Increment, DecodeError> {
        let wait = read_wait(reader)?;
        let by = i64::from_le_bytes(reader.array()?);
        Ok(Increment { wait, by, key: reader.key()? })
    }
}

/// The number afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Incremented {
    /// Its version.
    pub version: Version,
    /// The sum.
    pub value: i64,
}

impl Body for Incremented {
    const OPCODE: Opcode = Opcode::Incremented;

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.put_u64_le(self.version.0);
        out.put_i64_le(self.value);
        Ok(())
    }

    fn read(reader: &mut Reader<'_>) -> Result<Incremented, DecodeError> {
        let version = Version(reader.u64()?);
        Ok(Incremented { version, value: i64::from_le_bytes(reader.array()?) })
    }
}
