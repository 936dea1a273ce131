//! `Credit` (follower → source): how far the source may send on this connection.
//!
//! Rules:
//! - An absolute payload offset; the highest one received counts, so a repeated or late one does no harm.
//! - It opens the window for `Records` payload only; control bodies need none.

use bytes::BufMut;

use super::Body;
use crate::ids::StreamOffset;
use crate::wire::codec::Reader;
use crate::wire::error::{DecodeError, EncodeError};
use crate::wire::opcode::Opcode;

/// How far the source may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credit {
    /// Payload bytes since the stream opened.
    pub upto: StreamOffset,
}

impl Body for Credit {
    const OPCODE: Opcode = Opcode::Credit;

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.put_u64_le(self.upto.0);
        Ok(())
    }

    fn read(reader: &mut Reader<'_>) -> Result<Credit, DecodeError> {
        Ok(Credit { upto: StreamOffset(reader.u64()?) })
    }
}
