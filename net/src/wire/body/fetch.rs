//! `Fetch` (node → node of another region): send me the records that you have of these keys. The answer is one `Records` with the flag
//! REPAIR, or `Ok` if there is none of them.
//! `Compare` (node → node of another region): like `Survey`, with few sums: each is that of [`LEAVES_PER_PART`] leaves. `Repair` (operator →
//! node of the own host): compare yourself with every peer now; the answer is `Repaired`.
//!
//! Rules:
//! - The records are those that lie on the answering node's disk, byte for byte, and durable there; tombstones and what has expired are given,
//!   too. They are of any origin, are no part of any stream, and nothing is claimed by them.
//! - An answer ends once it has the size of a batch, and may leave out any of the keys: who needs the rest asks again. If an answer brings
//!   nothing that was asked for, there is nothing.
//! - `Fetch` is accepted from peers that have introduced themselves; keys and values are nobody else's business.
//! - The answer to `Compare` is a `Coverage`, then one `Sums` with [`PARTS`] sums: the n-th is the sum of those of the leaves from
//!   [`LEAVES_PER_PART`] × n on. Who may ask: as with `Survey`.

use bytes::{BufMut, Bytes};

use super::Body;
use crate::ids::Version;
use crate::wire::codec::{Reader, put_count, put_key};
use crate::wire::error::{DecodeError, EncodeError};
use crate::wire::limits::KEYS_MAX;
use crate::wire::opcode::Opcode;

pub use crate::wire::limits::{LEAVES_PER_PART, PARTS};

/// Send me what you have of these keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// Which; at most [`KEYS_MAX`].
    pub keys: Vec<Bytes>,
}

impl Body for Fetch {
    const OPCODE: Opcode = Opcode::Fetch;

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        put_count(out, "keys", self.keys.len(), KEYS_MAX)?;
        self.keys.iter().try_for_each(|key| put_key(out, key))
    }

    fn read(reader: &mut Reader<'_>) -> Result<Fetch, DecodeError> {
        let count = reader.count("keys", KEYS_MAX, 2)?;
        Ok(Fetch { keys: (0..count).map(|_| reader.key()).collect::<Result<_, _>>()? })
    }
}

/// Sum up the values you have, in few sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compare {
    /// Versions above it do not count.
    pub upto: Version,
    /// Milliseconds since 1970. Values that expire at this time or earlier do not count.
    pub expiry_above: u64,
}

impl Body for Compare {
    const OPCODE: Opcode = Opcode::Compare;

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.put_u64_le(self.upto.0);
        out.put_u64_le(self.expiry_above);
        Ok(())
    }

    fn read(reader: &mut Reader<'_>) -> Result<Compare, DecodeError> {
        Ok(Compare { upto: Version(reader.u64()?), expiry_above: reader.u64()? })
    }
}

/// Compare yourself with every peer now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repair;

impl Body for Repair {
    const OPCODE: Opcode = Opcode::Repair;

    fn encode(&self, _: &mut Vec<u8>) -> Result<(), EncodeError> {
        Ok(())
    }

    fn read(_: &mut Reader<'_>) -> Result<Repair, DecodeError> {
        Ok(Repair)
    }
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repaired {
    /// Peers that the node compared itself with.
    pub compared: u16,
    /// Peers that could not be asked, or stopped answering.
    pub not_compared: u16,
    /// Keys that the node lacked although it had said that it holds them.
    pub lacking: u64,
    /// How many of them it has got back.
    pub repaired: u64,
}

impl Body for Repaired {
    const OPCODE: Opcode = Opcode::Repaired;

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.put_u16_le(self.compared);
        out.put_u16_le(self.not_compared);
        out.put_u64_le(self.lacking);
        out.put_u64_le(self.repaired);
        Ok(())
    }

    fn read(reader: &mut Reader<'_>) -> Result<Repaired, DecodeError> {
        let (compared, not_compared) = (reader.u16()?, reader.u16()?);
        Ok(Repaired { compared, not_compared, lacking: reader.u64()?, repaired: reader.u64()? })
    }
}
