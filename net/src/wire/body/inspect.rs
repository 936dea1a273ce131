//! `Inspect` (operator, or node of another region → node): what do you have in these leaves? `Lookup`: what of these keys? The answer to both is
//! `Entries`, behind a `Coverage` where nothing was looked at before: with a cursor of 0, and always with `Lookup`.
//!
//! Rules:
//! - Leaves are those of `Survey`. Tombstones and expired values are given, too: that something is newer counts, not what it is.
//! - The first cursor is 0; each next one is that of the answer, and 0 again at the end. It means something to the node that gave
//!   it, in that run, only. A key that is there from the first `Inspect` to the last is given once.
//! - A piece may be empty before the end, and ends after a while, so that no answer keeps the node from its other work. `Lookup`
//!   is answered in one piece, in any order; a key of which the node has nothing is left out.
//! - A long piece spans several frames with the same request id; all but the last carry `MORE`, and all the same cursor.
//! - Who may ask, and what is left out: as with `Survey`.

use bytes::{BufMut, Bytes};

use super::Body;
use crate::ids::{NodeId, RegionName, Version};
use crate::wire::codec::{Reader, put_count, put_key, put_regions};
use crate::wire::error::{DecodeError, EncodeError};
use crate::wire::limits::{INSPECT_LEAVES_MAX, KEYS_MAX};
use crate::wire::opcode::Opcode;

/// Further frames with the same request id follow.
pub const MORE: u16 = 1;

/// Bytes of an entry beside its key.
const ENTRY_BYTES_MIN: usize = 35;

/// What do you have in these leaves?
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspect {
    /// 0, or that of the last answer.
    pub cursor: u64,
    /// Which; at most [`INSPECT_LEAVES_MAX`].
    pub leaves: Vec<u16>,
    /// The regions that are compared.
    pub regions: Vec<RegionName>,
}

impl Body for Inspect {
    const OPCODE: Opcode = Opcode::Inspect;

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.put_u64_le(self.cursor);
        put_count(out, "leaves", self.leaves.len(), INSPECT_LEAVES_MAX)?;
        self.leaves.iter().for_each(|leaf| out.put_u16_le(*leaf));
        put_regions(out, &self.regions)
    }

    fn read(reader: &mut Reader<'_>) -> Result<Inspect, DecodeError> {
        let cursor = reader.u64()?;
        let count = reader.count("leaves", INSPECT_LEAVES_MAX, 2)?;
        let leaves = (0..count).map(|_| reader.u16()).collect::<Result<_, _>>()?;
        Ok(Inspect { cursor, leaves, regions: reader.regions()? })
    }
}

/// What do you have of these keys?
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lookup {
    /// Which; at most [`KEYS_MAX`]. With none the answer says what is covered.
    pub keys: Vec<Bytes>,
    /// The regions that are compared.
    pub regions: Vec<RegionName>,
}

impl Body for Lookup {
    const OPCODE: Opcode = Opcode::Lookup;

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        put_count(out, "keys", self.keys.len(), KEYS_MAX)?;
        self.keys.iter().try_for_each(|key| put_key(out, key))?;
        put_regions(out, &self.regions)
    }

    fn read(reader: &mut Reader<'_>) -> Result<Lookup, DecodeError> {
        let count = reader.count("keys", KEYS_MAX, 2)?;
        let keys = (0..count).map(|_| reader.key()).collect::<Result<_, _>>()?;
        Ok(Lookup { keys, regions: reader.regions()? })
    }
}

/// What is there of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its place in the order of all writes.
    pub version: Version,
    /// The node that wrote it.
    pub origin: NodeId,
    /// The record's checksum, before it was shrunk to a stub.
    pub crc: u32,
    /// Whether it is a tombstone.
    pub is_tombstone: bool,
    /// Milliseconds since 1970 from which on it reads as absent; 0 never.
    pub expiry: u64,
    /// The key's hash, as in the record.
    pub key_hash: u64,
    /// The key.
    pub key: Bytes,
}

/// What is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entries {
    /// Whether further frames of this answer follow.
    pub more: bool,
    /// Where to go on; 0 = that was all.
    pub cursor: u64,
    /// Some of it.
    pub entries: Vec<Entry>,
}

impl Body for Entries {
    const OPCODE: Opcode = Opcode::Entries;

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.put_u16_le(if self.more { MORE } else { 0 });
        out.put_u64_le(self.cursor);
        put_count(out, "entries", self.entries.len(), usize::from(u16::MAX))?;
        for entry in &self.entries {
            out.put_u64_le(entry.version.0);
            out.put_u32_le(entry.origin.0);
            out.put_u32_le(entry.crc);
            out.put_u8(entry.is_tombstone.into());
            out.put_u64_le(entry.expiry);
            out.put_u64_le(entry.key_hash);
            put_key(out, &entry.key)?;
        }
        Ok(())
    }

    fn read(reader: &mut Reader<'_>) -> Result<Entries, DecodeError> {
        let more = reader.flags("entries flags", MORE)? == MORE;
        let cursor = reader.u64()?;
        let count = reader.count("entries", usize::from(u16::MAX), ENTRY_BYTES_MIN)?;
        let mut entries = Vec::with_capacity(count);
        for _ in 0..count {
            let (version, origin, crc) = (Version(reader.u64()?), NodeId(reader.u32()?), reader.u32()?);
            let is_tombstone = match reader.u8()? {
                0 => false,
                1 => true,
                value => return Err(DecodeError::Value { field: "tombstone", value: value.into() }),
            };
            let (expiry, key_hash, key) = (reader.u64()?, reader.u64()?, reader.key()?);
            entries.push(Entry { version, origin, crc, is_tombstone, expiry, key_hash, key });
        }
        Ok(Entries { more, cursor, entries })
    }
}
