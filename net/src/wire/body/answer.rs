//! `Ok` and `Error`: the answers to requests that return nothing else.
//!
//! Rules:
//! - They carry the request id of what they answer.
//! - After `Error` the connection goes on; what ends it is `Refuse`.

use bytes::BufMut;

use super::Body;
use crate::wire::codec::{Reader, clipped, codes, put_bytes};
use crate::wire::error::{DecodeError, EncodeError};
use crate::wire::limits::TEXT_BYTES_MAX;
use crate::wire::opcode::Opcode;

codes! {
    /// Reasons why a request failed.
    ErrorCode: u16 {
        /// The request contradicts itself or a limit.
        Invalid = 1,
        /// This version or this port does not do that.
        Unsupported = 2,
        /// Try again later.
        NotReady = 3,
        /// A bound of this node is reached.
        Full = 4,
        /// What it names is not there.
        NotFound = 5,
        /// A newer epoch is registered.
        StaleEpoch = 6,
        /// The address cannot be reached from elsewhere.
        Address = 7,
        /// What is there is no integer, or the sum would not be one of 64 bits.
        NotANumber = 8,
        /// The node cannot write: its disk is full or failing. Reads go on.
        CannotWrite = 9,
        /// What is there cannot be read from the node's disk.
        Unreadable = 10,
        /// The node's region may not hold the key; the text says which may.
        Residency = 11,
        /// This node does not have everything yet that the session has seen.
        NotCovered = 12,
    }
}

/// Body of `Ok`: empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done;

impl Body for Done {
    const OPCODE: Opcode = Opcode::Ok;

    fn encode(&self, _out: &mut Vec<u8>) -> Result<(), EncodeError> {
        Ok(())
    }

    fn read(_reader: &mut Reader<'_>) -> Result<Done, DecodeError> {
        Ok(Done)
    }
}

/// Body of `Error`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// An [`ErrorCode`], perhaps one of a newer version.
    pub code: u16,
    /// One line for the caller.
    pub text: String,
}

impl Failed {
    /// A failure; a text beyond the limit is clipped.
    #[must_use]
    pub fn new(code: ErrorCode, text: &str) -> Failed {
        Failed { code: code.code(), text: clipped(text, TEXT_BYTES_MAX) }
    }

    /// The code, if this version knows it.
    #[must_use]
    pub fn reason(&self) -> Option<ErrorCode> {
        ErrorCode::from_code(self.code)
    }
}

impl Body for Failed {
    const OPCODE: Opcode = Opcode::Error;

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.put_u16_le(self.code);
        put_bytes(out, "text", self.text.as_bytes(), TEXT_BYTES_MAX)
    }

    fn read(reader: &mut Reader<'_>) -> Result<Failed, DecodeError> {
        let code = reader.u16()?;
        let text = reader.text("text", TEXT_BYTES_MAX)?.to_owned();
        Ok(Failed { code, text })
    }
}
