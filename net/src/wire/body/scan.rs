//! `Scan` (client → node): keys, a piece at a time. `Keys` (node → client): such a piece.
//!
//! Rules:
//! - The first cursor is 0; each next one is that of the answer, and 0 again at the end. It means something to the node
//!   that gave it, in that run, only.
//! - A key that is there from the first `Scan` to the last is given at least once; others may be, and a key may be given
//!   twice. A piece may be empty before the end.
//! - `count` is how many keys the node looks at, at least; with a prefix fewer are given.
//! - A long piece spans several frames with the same request id; all but the last carry `MORE`, and all the same cursor.

use bytes::{BufMut, Bytes};

use super::Body;
use crate::wire::codec::{Reader, put_bytes, put_count, put_key};
use crate::wire::error::{DecodeError, EncodeError};
use crate::wire::limits::{KEY_BYTES_MAX, KEYS_MAX};
use crate::wire::opcode::Opcode;

/// Further frames with the same request id follow.
pub const MORE: u16 = 1;

/// Asks for keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scan {
    /// 0, or that of the last answer.
    pub cursor: u64,
    /// How many keys to look at: 1 to [`KEYS_MAX`].
    pub count: u16,
    /// What the keys begin with; empty = all.
    pub prefix: Bytes,
}

impl Body for Scan {
    const OPCODE: Opcode = Opcode::Scan;

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        if !is_count(self.count) {
            return Err(EncodeError::Value { field: "scan count", value: self.count.into() });
        }
        out.put_u64_le(self.cursor);
        out.put_u16_le(self.count);
        put_bytes(out, "prefix", &self.prefix, KEY_BYTES_MAX)
    }

    fn read(reader: &mut Reader<'_>) -> Result<Scan, DecodeError> {
        let cursor = reader.u64()?;
        let count = reader.u16()?;
        if !is_count(count) {
            return Err(DecodeError::Value { field: "scan count", value: count.into() });
        }
        Ok(Scan { cursor, count, prefix: reader.key()? })
    }
}

fn is_count(count: u16) -> bool {
    (1..=KEYS_MAX).contains(&usize::from(count))
}

/// Some keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    /// Whether further frames of this answer follow.
    pub more: bool,
    /// Where to go on; 0 = that was all.
    pub cursor: u64,
    /// The keys.
    pub keys: Vec<Bytes>,
}

impl Body for Keys {
    const OPCODE: Opcode = Opcode::Keys;

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.put_u16_le(if self.more { MORE } else { 0 });
        out.put_u64_le(self.cursor);
        put_count(out, "keys", self.keys.len(), usize::from(u16::MAX))?;
        self.keys.iter().try_for_each(|key| put_key(out, key))
    }

    fn read(reader: &mut Reader<'_>) -> Result<Keys, DecodeError> {
        let more = reader.flags("keys flags", MORE)? == MORE;
        let cursor = reader.u64()?;
        // A tag of the index is never split: there may be more keys than were asked for.
        let count = reader.count("keys", usize::from(u16::MAX), 2)?;
        Ok(Keys { more, cursor, keys: (0..count).map(|_| reader.key()).collect::<Result<_, _>>()? })
    }
}
