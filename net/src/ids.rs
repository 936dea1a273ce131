//! Names of things on the wire: newtypes, so that mixing two of them does not compile.
//!
//! `net` gives none of them a meaning beyond identity and order; the engine does.

use std::fmt;
use std::sync::Arc;

use thiserror::Error;

/// Longest region name in bytes.
pub const REGION_NAME_BYTES_MAX: usize = 32;
/// Longest service name in bytes.
pub const SERVICE_NAME_BYTES_MAX: usize = 64;

/// 32 random bits that live on a node's data disk and die with it; the origin in every record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u32);

/// 64 random bits: one run of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(pub u64);

/// A version: one integer compare is the order. Opaque here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub u64);

/// One core of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CoreIndex(pub u16);

/// A residency class of a log; 0 until residency policies exist.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Class(pub u16);

/// An origin log: every run of a node is one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId {
    /// Whose log.
    pub node: NodeId,
    /// Which run.
    pub incarnation: Incarnation,
}

/// Pairs an answer with its request on one connection; 0 where no answer is expected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u32);

/// Payload bytes since a stream opened. Absolute, so that a lost or repeated credit does no harm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamOffset(pub u64);

/// One instance of a service; chosen by the instance, stable over its restarts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceId(pub u64);

/// One life of an instance; a higher epoch replaces a lower one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

/// Position in the registrations one run of a node sends to one peer; 0 is before the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sequence(pub u64);

/// Why a name was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NameError {
    /// Not a region name.
    #[error("a region name has 1 to 32 characters of a-z, 0-9 and '-'; rename the region")]
    Region,
    /// Not a service name.
    #[error("a service name has 1 to 64 characters of A-Z, a-z, 0-9, '.', '_' and '-'; rename the service")]
    Service,
}

/// A region's name: 1 to 32 characters of a-z, 0-9 and '-'.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RegionName(Arc<str>);

impl RegionName {
    /// Checks and takes a name.
    ///
    /// # Errors
    /// When it is empty, too long, or has other characters.
    pub fn parse(name: &str) -> Result<RegionName, NameError> {
        let known = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if name.is_empty() || name.len() > REGION_NAME_BYTES_MAX || !name.bytes().all(known) {
            return Err(NameError::Region);
        }
        Ok(RegionName(name.into()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A service's name: 1 to 64 characters of A-Z, a-z, 0-9, '.', '_' and '-'.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName(Arc<str>);

impl ServiceName {
    /// Checks and takes a name.
    ///
    /// # Errors
    /// When it is empty, too long, or has other characters.
    pub fn parse(name: &str) -> Result<ServiceName, NameError> {
        let known = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if name.is_empty() || name.len() > SERVICE_NAME_BYTES_MAX || !name.bytes().all(known) {
            return Err(NameError::Service);
        }
        Ok(ServiceName(name.into()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.node, self.incarnation)
    }
}

impl fmt::Display for RegionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_outside_their_alphabet_are_refused() {
        assert_eq!(RegionName::parse("ams-2").unwrap().as_str(), "ams-2");
        for bad in ["", "AMS", "a b", "a\n", "é", &"x".repeat(33)] {
            assert_eq!(RegionName::parse(bad), Err(NameError::Region), "{bad:?}");
        }
        assert_eq!(ServiceName::parse("Cache_v1.local-x").unwrap().as_str(), "Cache_v1.local-x");
        for bad in ["", "a b", "a/b", "é", &"x".repeat(65)] {
            assert_eq!(ServiceName::parse(bad), Err(NameError::Service), "{bad:?}");
        }
    }
}
