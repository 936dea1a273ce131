//! Control records: what nodes tell each other, or themselves, through the log.
//!
//! The record's key is one byte, the kind; its value is the body. Open, close and membership travel; watermark, clock
//! ceiling and what may be forgotten are local.

use thiserror::Error;

use crate::ids::{CoreId, Incarnation, NodeId};
use crate::lsn::Lsn;
use crate::version::Version;

/// Longest region name in bytes; the wire has the same limit.
pub const REGION_NAME_BYTES_MAX: usize = 32;

/// The first byte of a control record's key. Numbers are for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ControlKind {
    /// A run begins.
    Open = 1,
    /// What this node claims to hold of a log.
    Watermark = 2,
    /// No version above this was given.
    ClockCeiling = 3,
    /// A retired log is complete everywhere.
    Close = 4,
    /// Who belongs to the mesh.
    Membership = 5,
    /// What died up to a version may have been forgotten.
    Forgotten = 6,
    /// All of another node's data is, or was, taken over.
    Bootstrap = 7,
}

/// A member's state; removed is final for an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum MemberState {
    /// Counts.
    Joined = 1,
    /// Does not count, and never will again.
    Removed = 2,
}

/// The contents of a control record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlRecord {
    /// The first record of a run. Its versions lie at `first` or above, disjoint from all other runs of the node.
    Open {
        /// Whose run.
        node: NodeId,
        /// Which run.
        incarnation: Incarnation,
        /// Lowest version it gives.
        first: Version,
        /// Cores the run's log is spread over.
        cores: u16,
    },
    /// This node durably holds everything of a log up to `version`, or something newer.
    Watermark {
        /// Whose log.
        node: NodeId,
        /// Which run of it.
        incarnation: Incarnation,
        /// Up to here, inclusive.
        version: Version,
        /// Bits that the engine gives a meaning.
        flags: u32,
        /// Positions that must have been recovered for the watermark to hold: exclusive ends.
        rests_on: Vec<(Incarnation, CoreId, Lsn)>,
    },
    /// Nothing above `version` leaves this core before a higher ceiling is durable.
    ClockCeiling {
        /// The ceiling.
        version: Version,
    },
    /// The log ended at `version` and every member holds it.
    Close {
        /// Whose log.
        node: NodeId,
        /// Which run of it.
        incarnation: Incarnation,
        /// Its highest version.
        version: Version,
    },
    /// A node joined or was removed.
    Membership {
        /// Which node.
        node: NodeId,
        /// Its state.
        state: MemberState,
        /// Its region, at most [`REGION_NAME_BYTES_MAX`] bytes.
        region: String,
        /// When.
        at: Version,
    },
    /// What this node holds of all members' logs together, and what it may have forgotten since all of them hold as much.
    Forgotten {
        /// Tombstones, and records that had expired, may be gone up to here, inclusive.
        version: Version,
        /// Everything that any member wrote up to here was held.
        held: Version,
    },
    /// This node takes over what another one has, because others may have forgotten what it lacks; or has done so. None of the fields falls.
    Bootstrap {
        /// When the last one began. Above `ended`: what is here may be dead, and is claimed by nobody until another one has ended.
        begun: Version,
        /// The `begun` of the last one that came to its end.
        ended: Version,
        /// As in `Forgotten`, of the node that it came from.
        version: Version,
        /// As in `Forgotten`.
        held: Version,
    },
}

/// Why a control record cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ControlError {
    /// A kind of a newer version.
    #[error("control kind {0} was written by a newer version; start the newer program")]
    NewerKind(u8),
    /// The key is not one byte.
    #[error("the key of a control record is {0} bytes long, not one; it was written by a faulty program")]
    Key(usize),
    /// The body ends early.
    #[error("the body of control record {0:?} ends early; it was written by a faulty program")]
    Short(ControlKind),
    /// Bytes behind the last field.
    #[error("control record {0:?} has bytes behind its last field; a newer version wrote it, start the newer program")]
    Trailing(ControlKind),
    /// A field with an impossible value.
    #[error("control record {kind:?} has an impossible {field}; it was written by a newer or faulty program")]
    Value {
        /// Of which kind.
        kind: ControlKind,
        /// Which field.
        field: &'static str,
    },
}

impl ControlRecord {
    /// The kind.
    #[must_use]
    pub fn kind(&self) -> ControlKind {
        match self {
            ControlRecord::Open { .. } => ControlKind::Open,
            ControlRecord::Watermark { .. } => ControlKind::Watermark,
            ControlRecord::ClockCeiling { .. } => ControlKind::ClockCeiling,
            ControlRecord::Close { .. } => ControlKind::Close,
            ControlRecord::Membership { .. } => ControlKind::Membership,
            ControlRecord::Forgotten { .. } => ControlKind::Forgotten,
            ControlRecord::Bootstrap { .. } => ControlKind::Bootstrap,
        }
    }

    /// Whether it stays on its node.
    #[must_use]
    pub fn is_local(&self) -> bool {
        matches!(
            self,
            ControlRecord::Watermark { .. }
                | ControlRecord::ClockCeiling { .. }
                | ControlRecord::Forgotten { .. }
                | ControlRecord::Bootstrap { .. }
        )
    }

    /// Key and value of the record.
    ///
    /// # Panics
    /// If a region name is longer than [`REGION_NAME_BYTES_MAX`], or a watermark rests on more than 65,535 positions.
    #[must_use]
    pub fn encode(&self) -> (Vec<u8>, Vec<u8>) {
        let mut body = Vec::with_capacity(64);
        match self {
            ControlRecord::Open { node, incarnation, first, cores } => {
                body.extend(node.0.to_le_bytes());
                body.extend(incarnation.0.to_le_bytes());
                body.extend(first.0.to_le_bytes());
                body.extend(cores.to_le_bytes());
            }
            ControlRecord::Watermark { node, incarnation, version, flags, rests_on } => {
                body.extend(node.0.to_le_bytes());
                body.extend(incarnation.0.to_le_bytes());
                body.extend(version.0.to_le_bytes());
                body.extend(flags.to_le_bytes());
                let count = u16::try_from(rests_on.len()).expect("one position per core and run fits 16 bits");
                body.extend(count.to_le_bytes());
                for (incarnation, core, lsn) in rests_on {
                    body.extend(incarnation.0.to_le_bytes());
                    body.extend(core.0.to_le_bytes());
                    body.extend(lsn.0.to_le_bytes());
                }
            }
            ControlRecord::ClockCeiling { version } => body.extend(version.0.to_le_bytes()),
            ControlRecord::Forgotten { version, held } => {
                body.extend(version.0.to_le_bytes());
                body.extend(held.0.to_le_bytes());
            }
            ControlRecord::Bootstrap { begun, ended, version, held } => {
                [begun, ended, version, held].iter().for_each(|field| body.extend(field.0.to_le_bytes()));
            }
            ControlRecord::Close { node, incarnation, version } => {
                body.extend(node.0.to_le_bytes());
                body.extend(incarnation.0.to_le_bytes());
                body.extend(version.0.to_le_bytes());
            }
            ControlRecord::Membership { node, state, region, at } => {
                assert!(region.len() <= REGION_NAME_BYTES_MAX, "region names are checked where they are read");
                body.extend(node.0.to_le_bytes());
                body.push(*state as u8);
                body.extend(at.0.to_le_bytes());
                body.push(u8::try_from(region.len()).expect("bounded above"));
                body.extend(region.as_bytes());
            }
        }
        (vec![self.kind() as u8], body)
    }

    /// Reads a control record from its key and value.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub fn decode(key: &[u8], value: &[u8]) -> Result<ControlRecord, ControlError> {
        let &[kind] = key else { return Err(ControlError::Key(key.len())) };
        let kind = match kind {
            1 => ControlKind::Open,
            2 => ControlKind::Watermark,
            3 => ControlKind::ClockCeiling,
            4 => ControlKind::Close,
            5 => ControlKind::Membership,
            6 => ControlKind::Forgotten,
            7 => ControlKind::Bootstrap,
            newer => return Err(ControlError::NewerKind(newer)),
        };
        let mut body = Body { kind, rest: value };
        let record = match kind {
            ControlKind::Open => ControlRecord::Open {
                node: body.node()?,
                incarnation: body.incarnation()?,
                first: body.version()?,
                cores: body.u16()?,
            },
            ControlKind::Watermark => ControlRecord::Watermark {
                node: body.node()?,
                incarnation: body.incarnation()?,
                version: body.version()?,
                flags: u32::from_le_bytes(body.take()?),
                rests_on: body.rests_on()?,
            },
            ControlKind::ClockCeiling => ControlRecord::ClockCeiling { version: body.version()? },
            ControlKind::Close => {
                ControlRecord::Close { node: body.node()?, incarnation: body.incarnation()?, version: body.version()? }
            }
            ControlKind::Membership => {
                let node = body.node()?;
                let state = body.member_state()?;
                let at = body.version()?;
                ControlRecord::Membership { node, state, region: body.region()?, at }
            }
            ControlKind::Forgotten => ControlRecord::Forgotten { version: body.version()?, held: body.version()? },
            ControlKind::Bootstrap => ControlRecord::Bootstrap {
                begun: body.version()?,
                ended: body.version()?,
                version: body.version()?,
                held: body.version()?,
            },
        };
        if body.rest.is_empty() { Ok(record) } else { Err(ControlError::Trailing(kind)) }
    }
}

struct Body<'a> {
    kind: ControlKind,
    rest: &'a [u8],
}

impl Body<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], ControlError> {
        let (bytes, rest) = self.rest.split_first_chunk::<N>().ok_or(ControlError::Short(self.kind))?;
        self.rest = rest;
        Ok(*bytes)
    }

    fn u16(&mut self) -> Result<u16, ControlError> {
        Ok(u16::from_le_bytes(self.take()?))
    }

    fn node(&mut self) -> Result<NodeId, ControlError> {
        Ok(NodeId(u32::from_le_bytes(self.take()?)))
    }

    fn incarnation(&mut self) -> Result<Incarnation, ControlError> {
        Ok(Incarnation(u64::from_le_bytes(self.take()?)))
    }

    fn version(&mut self) -> Result<Version, ControlError> {
        Ok(Version(u64::from_le_bytes(self.take()?)))
    }

    fn rests_on(&mut self) -> Result<Vec<(Incarnation, CoreId, Lsn)>, ControlError> {
        // Grown as it is read, so that a lying count allocates nothing.
        let count = self.u16()?;
        let mut positions = Vec::new();
        for _ in 0..count {
            let incarnation = self.incarnation()?;
            let core = CoreId(self.u16()?);
            positions.push((incarnation, core, Lsn(u64::from_le_bytes(self.take()?))));
        }
        Ok(positions)
    }

    fn member_state(&mut self) -> Result<MemberState, ControlError> {
        match self.take::<1>()? {
            [1] => Ok(MemberState::Joined),
            [2] => Ok(MemberState::Removed),
            _ => Err(ControlError::Value { kind: self.kind, field: "member state" }),
        }
    }

    fn region(&mut self) -> Result<String, ControlError> {
        let wrong = ControlError::Value { kind: self.kind, field: "region name" };
        let [len] = self.take::<1>()?;
        let len = usize::from(len);
        if len > REGION_NAME_BYTES_MAX {
            return Err(wrong);
        }
        let (name, rest) = self.rest.split_at_checked(len).ok_or(ControlError::Short(self.kind))?;
        self.rest = rest;
        String::from_utf8(name.to_vec()).map_err(|_| wrong)
    }
}
