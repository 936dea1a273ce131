//! `Held` (node → client): who durably holds a write that was to wait for other regions.
//!
//! Rules:
//! - A write with a wait is answered twice: by `Written` or `Incremented` once it is durable at this node, like every write, and then by
//!   this, with the same request id. If nothing was written there is no second answer.
//! - `reached` says whether as many regions hold it as were asked for. If not, the deadline passed first, or the node stops: the write
//!   stands all the same. It is durable here, and the others get it when they can be reached.
//! - A holder has said that it durably has this write, or something newer for the same key.

use bytes::BufMut;

use super::Body;
use crate::ids::{NodeId, RegionName};
use crate::wire::codec::{Reader, put_count, put_region};
use crate::wire::error::{DecodeError, EncodeError};
use crate::wire::limits::HOLDERS_MAX;
use crate::wire::opcode::Opcode;

/// Smallest holder: its id and a region of no characters.
const HOLDER_BYTES_MIN: usize = 6;

/// A node that holds a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldBy {
    /// Which one.
    pub node: NodeId,
    /// Its region.
    pub region: RegionName,
}

/// Who holds a write beside the node that took it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// As many regions do as were asked for.
    pub reached: bool,
    /// How many nodes.
    pub count: u16,
    /// The first of them, by their ids.
    pub holders: Vec<HeldBy>,
}

impl Body for Held {
    const OPCODE: Opcode = Opcode::Held;

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.put_u8(u8::from(self.reached));
        out.put_u16_le(self.count);
        put_count(out, "holders", self.holders.len(), HOLDERS_MAX)?;
        for holder in &self.holders {
            out.put_u32_le(holder.node.0);
            put_region(out, &holder.region)?;
        }
        Ok(())
    }

    fn read(reader: &mut Reader<'_>) -> Result<Held, DecodeError> {
        let reached = match reader.u8()? {
            0 => false,
            1 => true,
            value => return Err(DecodeError::Value { field: "reached", value: value.into() }),
        };
        let count = reader.u16()?;
        let named = reader.count("holders", HOLDERS_MAX, HOLDER_BYTES_MIN)?;
        let mut holders = Vec::with_capacity(named);
        for _ in 0..named {
            holders.push(HeldBy { node: NodeId(reader.u32()?), region: reader.region()? });
        }
        Ok(Held { reached, count, holders })
    }
}
