//! What a client is told of who holds its write is true, by the devices.

use net::ids::NodeId;

use super::Violation;
use super::losses::Newest;
use crate::sim::workload::Operation;

/// The checker.
pub const HELD: &str = "a write lies where it is said to be held";

/// A write, and the nodes that are said to hold it.
#[derive(Clone, Debug)]
pub struct Holders {
    /// Its version.
    pub version: u64,
    /// Who holds it.
    pub nodes: Vec<NodeId>,
}

/// The node of region `name`, whose device has `newest`, is said to hold a write of this version: it has the key's record of that version or
/// a newer one.
///
/// # Errors
/// [`HELD`].
pub fn held(name: &str, newest: &Newest, operation: &Operation, version: u64) -> Result<(), Violation> {
    for key in operation.command.keys() {
        let found = newest.get(key.bytes()).map(|record| record.version.0);
        if found.is_none_or(|found| found < version) {
            let text =
                format!("{name} is said to hold {operation:?} in version {version}, and its device has {found:?}");
            return Err(Violation::new(HELD, text));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use wal::{RecordOp, Version};

    use super::super::device::Record;
    use super::*;
    use crate::sim::workload::{Command, Key};

    #[test]
    fn a_holder_has_that_version_or_a_newer_one() {
        let key = Key::private(1, 2);
        let operation = Operation { id: 3, region: 1, session: 1, command: Command::Del { key: key.clone() } };
        let record = Record {
            version: Version(20),
            crc: 1,
            stored_crc: 1,
            op: RecordOp::Delete,
            origin: wal::NodeId(7),
            expiry: None,
            key: key.bytes().to_vec(),
            value_crc: 0,
            writer: None,
        };
        let newest = Newest::from_iter([(key.bytes().to_vec(), record)]);
        assert_eq!(held("ams", &newest, &operation, 20), Ok(()));
        assert_eq!(held("ams", &newest, &operation, 19), Ok(()), "something newer is as good");
        assert_eq!(held("ams", &newest, &operation, 21).unwrap_err().checker, HELD);
        assert_eq!(held("ams", &Newest::new(), &operation, 1).unwrap_err().checker, HELD);
    }
}
