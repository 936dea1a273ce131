//! D5, what clients see of a full disk: reads go on, and writes are refused only while the disk is full and for a bounded time
//! after that. (That nothing is acknowledged that is not durable is D1's, in [`super::ledger`], full disk or not.)

use net::reactor::Mono;

use super::Violation;
use crate::sim::workload::{Operation, Outcome};

/// Checker D5.
pub const D5: &str = "D5 a full disk is survived";

/// Once a disk has room, its node takes writes after this long, in virtual milliseconds: it tries again every second, and prepares a
/// segment on a disk that may be slow. A node that is stopped meanwhile gets the time again.
pub const RESUME_MS_MAX: u64 = 2_500;

/// What a write is told while there is no room for another segment.
const REFUSAL: &str = "the disk is full";

/// What a node says that ends.
const STOPPING: &str = "the node is stopping";

/// What a client is told whose record cannot be read.
const UNREADABLE: &str = "cannot be read from the disk";

/// One node's disk.
#[derive(Clone, Copy, Debug, Default)]
struct Disk {
    is_full: bool,
    /// A read of it failed, or will.
    fails_reads: bool,
    /// From then on the node had room and ran.
    since: Mono,
}

/// The nodes' disks.
#[derive(Debug, Default)]
pub struct Room {
    disks: Vec<Disk>,
    /// Writes that were refused for want of space.
    pub refused: u64,
    /// Reads that were answered by nodes whose disks were full.
    pub read: u64,
}

impl Room {
    /// `nodes` disks with room.
    #[must_use]
    pub fn new(nodes: usize) -> Room {
        Room { disks: vec![Disk::default(); nodes], ..Room::default() }
    }

    /// The disk of `node` is full from now on, or has room again.
    pub fn set(&mut self, node: usize, is_full: bool, now: Mono) {
        if self.disks[node].is_full || is_full {
            self.disks[node] = Disk { is_full, since: now, ..self.disks[node] };
        }
    }

    /// A read of the disk of `node` will fail.
    pub fn fail_read(&mut self, node: usize) {
        self.disks[node].fails_reads = true;
    }

    /// The node of `node` was stopped, or slow, until now.
    pub fn delayed(&mut self, node: usize, now: Mono) {
        let disk = &mut self.disks[node];
        disk.since = disk.since.max(now);
    }

    /// A client learnt this.
    ///
    /// # Errors
    /// [`D5`].
    pub fn heard(&mut self, operation: &Operation, outcome: &Outcome, now: Mono) -> Result<(), Violation> {
        let disk = self.disks[operation.region];
        let Outcome::Refused(text) = outcome else {
            let is_read = !operation.command.writes() && *outcome != Outcome::Unknown;
            self.read += u64::from(disk.is_full && is_read);
            return Ok(());
        };
        // A transaction that only reads is refused by a node that ends, too.
        if text.contains(UNREADABLE) && disk.fails_reads || text.contains(STOPPING) {
            return Ok(());
        }
        if !operation.command.writes() || text.contains(UNREADABLE) {
            return Err(Violation::new(
                D5,
                format!("{operation:?} was refused: {text}; but nothing is wrong with the disk's reads"),
            ));
        }
        if text.contains(REFUSAL) {
            self.refused += 1;
            if !disk.is_full && now > disk.since.plus_ms(RESUME_MS_MAX) {
                let text = format!("{operation:?} was refused: {text}; but there was room since {:?}", disk.since);
                return Err(Violation::new(D5, text));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::workload::Command;

    fn operation(command: Command) -> Operation {
        Operation { id: 1, region: 0, session: 1, command }
    }

    fn set() -> Operation {
        operation(Command::Set { key: "key".into(), filler: 1, px: None })
    }

    fn full() -> Outcome {
        Outcome::Refused(format!("ERR {}", engine::shard::WriteError::DiskFull))
    }

    fn at(ms: u64) -> Mono {
        Mono(ms * 1_000_000)
    }

    fn checker(result: Result<(), Violation>) -> Option<&'static str> {
        result.err().map(|violation| violation.checker)
    }

    #[test]
    fn writes_are_refused_while_the_disk_is_full_and_a_little_longer() {
        let mut room = Room::new(1);
        room.set(0, true, at(5_000));
        assert_eq!(room.heard(&set(), &full(), at(90_000)), Ok(()));
        room.set(0, false, at(100_000));
        assert_eq!(room.heard(&set(), &full(), at(100_000 + RESUME_MS_MAX)), Ok(()));
        assert_eq!(checker(room.heard(&set(), &full(), at(100_001 + RESUME_MS_MAX))), Some(D5));
        assert_eq!(room.refused, 3);
        // A second cure of the same fault gives no more time, a stop does.
        room.set(0, false, at(101_000));
        assert_eq!(checker(room.heard(&set(), &full(), at(100_001 + RESUME_MS_MAX))), Some(D5));
        room.delayed(0, at(101_000));
        assert_eq!(room.heard(&set(), &full(), at(101_000 + RESUME_MS_MAX)), Ok(()));
    }

    #[test]
    fn a_disk_that_never_was_full_refuses_nothing() {
        assert_eq!(checker(Room::new(1).heard(&set(), &full(), at(50_000))), Some(D5));
        let other = Outcome::Refused("ERR value is not an integer".to_owned());
        assert_eq!(Room::new(1).heard(&set(), &other, at(50_000)), Ok(()));
    }

    #[test]
    fn reads_go_on() {
        let mut room = Room::new(1);
        room.set(0, true, at(0));
        let get = operation(Command::Get { key: "key".into() });
        assert_eq!(room.heard(&get, &Outcome::Read(None), at(1)), Ok(()));
        assert_eq!(room.read, 1);
        assert_eq!(checker(room.heard(&get, &full(), at(1))), Some(D5));
    }
}
