//! `Written` (node → client): what became of a `Put` or `Delete`.
//!
//! Rules:
//! - It leaves the node only when what it shows is durable there: what was written, or what stood against it.
//! - When the condition did not hold, it says what is there instead, value included: a client that tries again need not
//!   read first.

use bytes::BufMut;

use super::{Body, Item};
use crate::ids::Version;
use crate::wire::codec::{Reader, codes};
use crate::wire::error::{DecodeError, EncodeError};
use crate::wire::opcode::Opcode;

codes! {
    /// What became of a write.
    Outcome: u8 {
        /// It took place.
        Written = 1,
        /// There was nothing to delete; nothing was written.
        Nothing = 2,
        /// The condition did not hold: nothing is there.
        RefusedAbsent = 3,
        /// The condition did not hold: something is there.
        RefusedPresent = 4,
    }
}

/// What became of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Written {
    /// It took place.
    Written {
        /// Of the new record; of the tombstone after a `Delete`.
        version: Version,
    },
    /// There was nothing to delete; nothing was written.
    Nothing,
    /// The condition did not hold, and nothing was written.
    Refused {
        /// What is there; `None`: nothing.
        present: Option<Item>,
    },
}

impl Written {
    /// What it says, in one number.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match self {
            Written::Written { .. } => Outcome::Written,
            Written::Nothing => Outcome::Nothing,
            Written::Refused { present: None } => Outcome::RefusedAbsent,
            Written::Refused { present: Some(_) } => Outcome::RefusedPresent,
        }
    }
}

impl Body for Written {
    const OPCODE: Opcode = Opcode::Written;

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.put_u8(self.outcome().code());
        match self {
            Written::Written { version } => out.put_u64_le(version.0),
            Written::Refused { present: Some(item) } => item.encode(out)?,
            Written::Nothing | Written::Refused { present: None } => {}
        }
        Ok(())
    }

    fn read(reader: &mut Reader<'_>) -> Result<Written, DecodeError> {
        let code = reader.u8()?;
        let unknown = DecodeError::Value { field: "outcome", value: code.into() };
        Ok(match Outcome::from_code(code).ok_or(unknown)? {
            Outcome::Written => Written::Written { version: Version(reader.u64()?) },
            Outcome::Nothing => Written::Nothing,
            Outcome::RefusedAbsent => Written::Refused { present: None },
            Outcome::RefusedPresent => Written::Refused { present: Some(Item::read(reader)?) },
        })
    }
}
