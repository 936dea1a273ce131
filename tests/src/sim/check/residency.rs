//! R1: keys stay in their regions. No device of a node ever has a record of a key that its region may not hold, not for a moment, and
//! none is ever sent to it, by whatever way.

use std::collections::HashSet;

use engine::replication::residency::Allowed;
use wal::Version;

use super::Violation;
use super::device::Record;

/// Checker R1.
pub const R1: &str = "R1 keys stay in their regions";

/// The name of a record: its version and a checksum that covers the key.
type Name = (Version, u32);

/// One place, as the policy has it.
#[derive(Debug, Default)]
struct Place {
    name: String,
    /// Once its node has started.
    allowed: Option<Allowed>,
    /// Records that lie elsewhere and may not be here.
    kept_from: HashSet<Name>,
}

/// All places.
#[derive(Debug, Default)]
pub struct Kept(Vec<Place>);

impl Kept {
    /// Places by these names.
    #[must_use]
    pub fn new(names: &[&str]) -> Kept {
        Kept(names.iter().map(|name| Place { name: (*name).to_owned(), ..Place::default() }).collect())
    }

    /// The node of a place starts and may hold this.
    pub fn started(&mut self, place: usize, allowed: &Allowed) {
        let place = &mut self.0[place];
        if place.allowed.as_ref() != Some(allowed) {
            place.allowed = Some(allowed.clone());
            place.kept_from.clear();
        }
    }

    /// A record lies on the device of a place.
    ///
    /// # Errors
    /// [`R1`].
    pub fn durable(&mut self, at: usize, record: &Record) -> Result<(), Violation> {
        if record.is_control() {
            return Ok(());
        }
        for (index, place) in self.0.iter_mut().enumerate() {
            let Some(allowed) = place.allowed.as_ref().filter(|allowed| !allowed.may_hold(&record.key)) else {
                continue;
            };
            if index == at {
                let text = format!("{} has {record:?}, and may hold {allowed}", place.name);
                return Err(Violation::new(R1, text));
            }
            place.kept_from.extend([(record.version, record.crc), (record.version, record.stored_crc)]);
        }
        Ok(())
    }

    /// A record is sent to a place.
    ///
    /// # Errors
    /// [`R1`].
    pub fn sent(&self, from: &str, to: usize, version: Version, crc: u32) -> Result<(), Violation> {
        let place = &self.0[to];
        if place.kept_from.is_empty() || !place.kept_from.contains(&(version, crc)) {
            return Ok(());
        }
        let text =
            format!("{from} sends the record {version:?}, crc {crc:08x}, to {}, which may not hold it", place.name);
        Err(Violation::new(R1, text))
    }
}

#[cfg(test)]
mod tests {
    use wal::{NodeId, RecordOp};

    use super::*;

    fn record(key: &str, crc: u32) -> Record {
        Record {
            version: Version(7),
            crc,
            stored_crc: crc,
            op: RecordOp::Put,
            origin: NodeId(1),
            expiry: None,
            key: key.as_bytes().to_vec(),
            value_crc: 0,
            writer: None,
        }
    }

    #[test]
    fn what_a_place_may_not_hold_must_neither_lie_there_nor_be_sent_there() {
        let mut kept = Kept::new(&["sfo", "ams"]);
        kept.started(0, &Allowed::parse("+,-eu/").unwrap());
        kept.started(1, &Allowed::everything());
        assert_eq!(kept.durable(1, &record("eu/1", 1)), Ok(()));
        assert_eq!(kept.durable(1, &record("other", 2)), Ok(()));
        assert_eq!(kept.durable(0, &record("other", 2)), Ok(()));
        assert_eq!(kept.durable(0, &record("eu/1", 1)).unwrap_err().checker, R1);
        assert_eq!(kept.sent("ams", 0, Version(7), 2), Ok(()));
        assert_eq!(kept.sent("sfo", 1, Version(7), 1), Ok(()));
        assert_eq!(kept.sent("ams", 0, Version(7), 1).unwrap_err().checker, R1);
    }
}
