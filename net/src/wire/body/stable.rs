//! `Stable` (node → node of another region): up to where the sender holds what all members write, so that what was deleted before that
//! need not be remembered.
//!
//! Rules:
//! - Of every log of every member that `view` counts, the sender holds all up to `stable`, or something newer for the same key, and
//!   will after a crash.
//! - `view` is a fingerprint of who the members are and of what is held of removed nodes' logs. Bodies with different views say
//!   nothing together; a receiver compares with its own.
//! - `wanted` is up to where the sender waits for the least of all: a receiver that writes less than that raises its claims
//!   to there, but not beyond its own clock. 0: it waits for nothing.
//! - Accepted from a peer only, after the handshake; not answered. The latest one counts.

use bytes::BufMut;

use super::Body;
use crate::ids::Version;
use crate::wire::codec::Reader;
use crate::wire::error::{DecodeError, EncodeError};
use crate::wire::opcode::Opcode;

/// Up to where a node holds everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stable {
    /// What it counted.
    pub view: u64,
    /// Everything up to here is held.
    pub stable: Version,
    /// It waits for everybody to hold everything up to here.
    pub wanted: Version,
}

impl Body for Stable {
    const OPCODE: Opcode = Opcode::Stable;

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.put_u64_le(self.view);
        out.put_u64_le(self.stable.0);
        out.put_u64_le(self.wanted.0);
        Ok(())
    }

    fn read(reader: &mut Reader<'_>) -> Result<Stable, DecodeError> {
        Ok(Stable { view: reader.u64()?, stable: Version(reader.u64()?), wanted: Version(reader.u64()?) })
    }
}
