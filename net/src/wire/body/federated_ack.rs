//! `FederatedAck` (peer node → node): a `FederatedRegister` arrived; what of it was refused and why.
//!
//! Rules:
//! - Acknowledges exactly one sequence number.
//! - `WANT_FULL`: the receiver misses something; the sender answers with a snapshot.
//! - At most 128 refusals are named; `refused_count` counts all.

use bytes::BufMut;

use super::deregister::KEY_BYTES_MIN;
use super::{Body, InstanceKey};
use crate::ids::Sequence;
use crate::wire::codec::{Reader, clipped, codes, put_bytes, put_count};
use crate::wire::error::{DecodeError, EncodeError};
use crate::wire::limits::{REFUSED_MAX, TEXT_BYTES_MAX};
use crate::wire::opcode::Opcode;

/// The receiver wants a snapshot.
pub const WANT_FULL: u16 = 1;

codes! {
    /// Why a registration was refused.
    RefusedCode: u16 {
        /// The node or region is not the one of the handshake.
        Identity = 1,
        /// A loopback address.
        Loopback = 2,
        /// A wildcard, multicast or broadcast address, or port 0.
        Unusable = 3,
        /// The receiver's own address.
        Own = 4,
        /// An address of another region.
        ForeignRegion = 5,
        /// An earlier life of an instance that is known.
        StaleEpoch = 6,
        /// The receiver holds as many as it may.
        Full = 7,
    }
}

/// One refused registration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Which.
    pub key: InstanceKey,
    /// A [`RefusedCode`], perhaps one of a newer version.
    pub code: u16,
    /// One line for the sender's operator.
    pub text: String,
}

impl Refused {
    /// A refusal; a text beyond the limit is clipped.
    #[must_use]
    pub fn new(key: InstanceKey, code: RefusedCode, text: &str) -> Refused {
        Refused { key, code: code.code(), text: clipped(text, TEXT_BYTES_MAX) }
    }

    /// The code, if this version knows it.
    #[must_use]
    pub fn reason(&self) -> Option<RefusedCode> {
        RefusedCode::from_code(self.code)
    }
}

/// What was accepted, by what was not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FederatedAck {
    /// Which frame this acknowledges.
    pub sequence: Sequence,
    /// The receiver misses something.
    pub want_full: bool,
    /// How many were refused.
    pub refused_count: u32,
    /// The first of them.
    pub refused: Vec<Refused>,
}

impl Body for FederatedAck {
    const OPCODE: Opcode = Opcode::FederatedAck;

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.put_u64_le(self.sequence.0);
        out.put_u16_le(if self.want_full { WANT_FULL } else { 0 });
        out.put_u32_le(self.refused_count);
        put_count(out, "refused", self.refused.len(), REFUSED_MAX)?;
        for refused in &self.refused {
            refused.key.encode(out)?;
            out.put_u16_le(refused.code);
            put_bytes(out, "text", refused.text.as_bytes(), TEXT_BYTES_MAX)?;
        }
        Ok(())
    }

    fn read(reader: &mut Reader<'_>) -> Result<FederatedAck, DecodeError> {
        let sequence = Sequence(reader.u64()?);
        let want_full = reader.flags("acknowledgement flags", WANT_FULL)? == WANT_FULL;
        let refused_count = reader.u32()?;
        let count = reader.count("refused", REFUSED_MAX, KEY_BYTES_MIN + 4)?;
        let mut refused = Vec::with_capacity(count);
        for _ in 0..count {
            let key = InstanceKey::read(reader)?;
            let code = reader.u16()?;
            let text = reader.text("text", TEXT_BYTES_MAX)?.to_owned();
            refused.push(Refused { key, code, text });
        }
        Ok(FederatedAck { sequence, want_full, refused_count, refused })
    }
}
