//! `Put` (client → node): writes a value, perhaps only under a condition.
//!
//! Rules:
//! - Answered by `Written`, once it is durable at this node, or by `Error`.
//! - The condition is judged and the value written in one step at the core that owns the key. Between regions the last
//!   writer wins, whatever either found.
//! - `wait` is reserved: the regions that shall hold the write before it is answered, and how long that may take. A node
//!   that does not wait for other regions answers anything but zeros with `Error` unsupported.

use bytes::{BufMut, Bytes};

use super::Body;
use crate::ids::Version;
use crate::wire::codec::{Reader, codes, put_key, put_value};
use crate::wire::error::{DecodeError, EncodeError};
use crate::wire::opcode::Opcode;

/// Which other regions a write waits for. Reserved: only [`Wait::default`] is spoken yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wait {
    /// How many other regions; 0 = none.
    pub regions: u8,
    /// How long at most, in ms.
    pub deadline_ms: u32,
}

/// Bytes of a [`Wait`].
pub const WAIT_BYTES: usize = 5;

pub(super) fn put_wait(out: &mut Vec<u8>, wait: Wait) {
    out.put_u8(wait.regions);
    out.put_u32_le(wait.deadline_ms);
}

pub(super) fn read_wait(reader: &mut Reader<'_>) -> Result<Wait, DecodeError> {
    Ok(Wait { regions: reader.u8()?, deadline_ms: reader.u32()? })
}

codes! {
    /// Kinds of [`Condition`] on the wire.
    ConditionKind: u8 {
        /// No condition.
        Always = 0,
        /// Nothing is there.
        IfAbsent = 1,
        /// Something is there.
        IfPresent = 2,
        /// Exactly this version is there.
        IfVersion = 3,
        /// Exactly this value is there.
        IfValue = 4,
    }
}

/// What must be there for a write to take place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Condition {
    /// Anything or nothing.
    #[default]
    Always,
    /// Nothing.
    IfAbsent,
    /// Something.
    IfPresent,
    /// Exactly this version; zero is that of a key which is not there.
    IfVersion(Version),
    /// Exactly this value.
    IfValue(Bytes),
}

impl Condition {
    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> ConditionKind {
        match self {
            Condition::Always => ConditionKind::Always,
            Condition::IfAbsent => ConditionKind::IfAbsent,
            Condition::IfPresent => ConditionKind::IfPresent,
            Condition::IfVersion(_) => ConditionKind::IfVersion,
            Condition::IfValue(_) => ConditionKind::IfValue,
        }
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.put_u8(self.kind().code());
        match self {
            Condition::Always | Condition::IfAbsent | Condition::IfPresent => {}
            Condition::IfVersion(version) => out.put_u64_le(version.0),
            Condition::IfValue(value) => put_value(out, value)?,
        }
        Ok(())
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Condition, DecodeError> {
        let code = reader.u8()?;
        let unknown = DecodeError::Value { field: "condition", value: code.into() };
        Ok(match ConditionKind::from_code(code).ok_or(unknown)? {
            ConditionKind::Always => Condition::Always,
            ConditionKind::IfAbsent => Condition::IfAbsent,
            ConditionKind::IfPresent => Condition::IfPresent,
            ConditionKind::IfVersion => Condition::IfVersion(Version(reader.u64()?)),
            ConditionKind::IfValue => Condition::IfValue(reader.value()?),
        })
    }
}

/// Writes a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Put {
    /// Reserved.
    pub wait: Wait,
    /// Absent from here on, in ms since 1970; 0 = never.
    pub expiry_ms: u64,
    /// What must be there.
    pub condition: Condition,
    /// Where.
    pub key: Bytes,
    /// What.
    pub value: Bytes,
}

impl Body for Put {
    const OPCODE: Opcode = Opcode::Put;

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        put_wait(out, self.wait);
        out.put_u64_le(self.expiry_ms);
        self.condition.encode(out)?;
        put_key(out, &self.key)?;
        put_value(out, &self.value)
    }

    fn read(reader: &mut Reader<'_>) -> Result<Put, DecodeError> {
        let wait = read_wait(reader)?;
        let expiry_ms = reader.u64()?;
        let condition = Condition::read(reader)?;
        Ok(Put { wait, expiry_ms, condition, key: reader.key()?, value: reader.value()? })
    }
}
