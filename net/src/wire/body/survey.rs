//! `Survey` (operator, or node of another region → node): sum up the values you have. The answer is a `Coverage`, then `Sums`.
//!
//! Rules:
//! - Two nodes have the same values exactly if their sums are equal, up to accidents of 64 bits. A value counts if its version is
//!   at most `upto` and it has no expiry, or one above `expiry_above`; tombstones count nowhere.
//! - The leaf of a key is the upper 16 bits of its hash. A leaf's sum is the sum, modulo 2^64, of
//!   `mix(mix(mix(key hash) + version) + crc)` over its values: hash, version and crc as in the record's header (a stub's crc is that of the
//!   record whose place it takes), `mix` the finalizer of SplitMix64.
//! - `Coverage` is taken before anything is looked at: what it covers was there, or something newer for the same key.
//!   What came later may be in the sums or not. It names the logs of each node, disjoint intervals of versions, by what they begin with.
//! - `Sums` come in frames, each with the leaves behind those of the frame before it; all but the last carry `MORE`.
//! - Keys that a region among `regions`, or that of the host that asks, may not hold are left out; without any region, all that some region
//!   may not hold.
//! - Accepted from processes of the node's own host and of the hosts of its peers. A node that has enough to do answers `Error` full.

use bytes::BufMut;

use super::Body;
use crate::ids::{LogId, NodeId, RegionName, Version};
use crate::wire::codec::{Reader, put_count, put_log, put_region, put_regions};
use crate::wire::error::{DecodeError, EncodeError};
use crate::wire::limits::{LEAVES, SUMS_MAX, WATERMARKS_MAX};
use crate::wire::opcode::Opcode;

/// Further frames with the same request id follow.
pub const MORE: u16 = 1;

/// Sum up the values you have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survey {
    /// Versions above it do not count.
    pub upto: Version,
    /// Milliseconds since 1970. Values that expire at this time or earlier do not count.
    pub expiry_above: u64,
    /// The regions that are compared.
    pub regions: Vec<RegionName>,
}

impl Body for Survey {
    const OPCODE: Opcode = Opcode::Survey;

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.put_u64_le(self.upto.0);
        out.put_u64_le(self.expiry_above);
        put_regions(out, &self.regions)
    }

    fn read(reader: &mut Reader<'_>) -> Result<Survey, DecodeError> {
        Ok(Survey { upto: Version(reader.u64()?), expiry_above: reader.u64()?, regions: reader.regions()? })
    }
}

/// How far the sender holds a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Covered {
    /// Which log.
    pub log: LogId,
    /// Every version of it is above or equal to this.
    pub first: Version,
    /// Everything of it up to this is held, or something newer for the same key.
    pub upto: Version,
}

/// What the sender holds, and its clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coverage {
    /// The sender.
    pub node: NodeId,
    /// Its region.
    pub region: RegionName,
    /// Its physical clock, milliseconds since 1970.
    pub physical_ms: u64,
    /// The logs that it knows, its own included.
    pub logs: Vec<Covered>,
}

impl Body for Coverage {
    const OPCODE: Opcode = Opcode::Coverage;

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.put_u32_le(self.node.0);
        put_region(out, &self.region)?;
        out.put_u64_le(self.physical_ms);
        put_count(out, "covered logs", self.logs.len(), WATERMARKS_MAX)?;
        for covered in &self.logs {
            put_log(out, covered.log);
            out.put_u64_le(covered.first.0);
            out.put_u64_le(covered.upto.0);
        }
        Ok(())
    }

    fn read(reader: &mut Reader<'_>) -> Result<Coverage, DecodeError> {
        let (node, region) = (NodeId(reader.u32()?), reader.region()?);
        let physical_ms = reader.u64()?;
        let count = reader.count("covered logs", WATERMARKS_MAX, 28)?;
        let mut logs = Vec::with_capacity(count);
        for _ in 0..count {
            let log = reader.log()?;
            logs.push(Covered { log, first: Version(reader.u64()?), upto: Version(reader.u64()?) });
        }
        Ok(Coverage { node, region, physical_ms, logs })
    }
}

/// The sums of some leaves, one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sums {
    /// Whether further frames of this answer follow.
    pub more: bool,
    /// Values that were summed up, in all leaves.
    pub keys: u64,
    /// The leaf of the first sum.
    pub first: u16,
    /// The sums.
    pub sums: Vec<u64>,
}

impl Sums {
    fn is_inside(first: u16, count: usize) -> bool {
        usize::from(first) + count <= LEAVES
    }
}

impl Body for Sums {
    const OPCODE: Opcode = Opcode::Sums;

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        if !Self::is_inside(self.first, self.sums.len()) {
            return Err(EncodeError::Value { field: "first leaf", value: self.first.into() });
        }
        out.put_u16_le(if self.more { MORE } else { 0 });
        out.put_u64_le(self.keys);
        out.put_u16_le(self.first);
        put_count(out, "sums", self.sums.len(), SUMS_MAX)?;
        self.sums.iter().for_each(|sum| out.put_u64_le(*sum));
        Ok(())
    }

    fn read(reader: &mut Reader<'_>) -> Result<Sums, DecodeError> {
        let more = reader.flags("sums flags", MORE)? == MORE;
        let keys = reader.u64()?;
        let first = reader.u16()?;
        let count = reader.count("sums", SUMS_MAX, 8)?;
        if !Self::is_inside(first, count) {
            return Err(DecodeError::Value { field: "first leaf", value: first.into() });
        }
        Ok(Sums { more, keys, first, sums: (0..count).map(|_| reader.u64()).collect::<Result<_, _>>()? })
    }
}
