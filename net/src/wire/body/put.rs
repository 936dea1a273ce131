//! `Put` (client → node): writes a value, perhaps only under a condition.
//!
//! Rules:
//! - Answered by `Written`, once it is durable at this node, or by `Error`.
//! - The condition is judged and the value written in one step at the core that owns the key. Between regions the last
//!   writer wins, whatever either found.
//! - With a `wait`, if it was written, a second answer follows: `Held`, once as many other regions durably hold it, or when the
//!   deadline has passed. A wait for no region has no deadline, and one for some has one; anything else is `Error` invalid, and nothing
//!   is written.

use bytes::{BufMut, Bytes};

use super::Body;
use crate::ids::Version;
use crate::wire::codec::{Reader, codes, put_key, put_value};
use crate::wire::error::{DecodeError, EncodeError};
use crate::wire::opcode::Opcode;

/// Which other regions a write waits for; none by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wait {
    /// How many other regions; 0 = none, [`Wait::ALL_REGIONS`] = all that have a member.
    pub regions: u8,
    /// How long at most, in ms from when the node reads the request.
    pub deadline_ms: u32,
}

impl Wait {
    /// Stands for every other region that has a member.
    pub const ALL_REGIONS: u8 = 255;

    /// Whether it asks for anything.
    #[must_use]
    pub fn is_none(self) -> bool {
        self == Wait::default()
    }

    /// Whether it asks for what can be done: regions with a deadline, or neither.
    #[must_use]
    pub fn is_sound(self) -> bool {
        (self.regions == 0) == (self.deadline_ms == 0)
    }
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
    /// Which other regions shall hold it.
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
