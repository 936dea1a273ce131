//! What clients were told (D1, D2, D6): an acknowledged write is durable at that moment and wins or loses only to newer ones.

use std::collections::HashMap;

use wal::{NodeId, Version};

use super::Violation;
use super::device::Record;
use super::history::{D3, History};
use crate::sim::workload::{Command, Operation, Outcome, writer_of};

/// Checker D1.
pub const D1: &str = "D1 acknowledged means durable";
/// Reads of one region never go back.
pub const READS: &str = "reads do not go back";

/// What an operation that is under way will be held to.
#[derive(Clone, Copy, Debug)]
struct Began {
    /// How many tombstones of the key the region's node had written.
    deletes: usize,
    /// What the region's clients had seen of the key.
    seen: Version,
}

/// The clients' side of the story.
#[derive(Debug, Default)]
pub struct Ledger {
    began: HashMap<u64, Began>,
    commands: HashMap<u64, Command>,
    /// By key, the newest acknowledged write.
    acknowledged: HashMap<Vec<u8>, Record>,
    seen: HashMap<(usize, Vec<u8>), Version>,
    /// Acknowledged writes.
    pub acknowledged_count: u64,
    /// Operations without an answer.
    pub unknown_count: u64,
    /// Operations that were refused.
    pub refused_count: u64,
    /// Answered reads.
    pub read_count: u64,
}

impl Ledger {
    /// A client of the region whose node is `node` sends this.
    pub fn begin(&mut self, history: &History, node: NodeId, operation: &Operation) {
        let key = operation.command.key();
        let deletes = history.deletes(node, key).len();
        let seen = self.seen.get(&(operation.region, key.to_vec())).copied().unwrap_or_default();
        self.began.insert(operation.id, Began { deletes, seen });
        self.commands.insert(operation.id, operation.command.clone());
    }

    /// A client learnt this.
    ///
    /// # Errors
    /// [`D1`], [`D3`], [`READS`].
    pub fn end(
        &mut self,
        history: &History,
        node: NodeId,
        operation: &Operation,
        outcome: &Outcome,
    ) -> Result<(), Violation> {
        let Some(began) = self.began.remove(&operation.id) else { return Ok(()) };
        let key = operation.command.key();
        let written = match outcome {
            Outcome::Unknown => {
                self.unknown_count += 1;
                return Ok(());
            }
            Outcome::Refused(_) => {
                self.refused_count += 1;
                return Ok(());
            }
            Outcome::Deleted(false) | Outcome::Read(None) => {
                self.read_count += 1;
                return Ok(());
            }
            Outcome::Read(Some(value)) => return self.read(history, operation, began, value),
            Outcome::Stored => history.write(operation.id),
            Outcome::Deleted(true) => history.deletes(node, key).get(began.deletes),
        };
        let Some(record) = written else {
            let text = format!("{operation:?} was acknowledged, but no device holds it in its origin's log");
            return Err(Violation::new(D1, text));
        };
        self.acknowledged_count += 1;
        self.see(operation.region, key, record.version);
        let newest = self.acknowledged.entry(key.to_vec()).or_insert_with(|| record.clone());
        if newest.rank() < record.rank() {
            *newest = record.clone();
        }
        Ok(())
    }

    fn read(&mut self, history: &History, operation: &Operation, began: Began, value: &[u8]) -> Result<(), Violation> {
        self.read_count += 1;
        let key = operation.command.key();
        let writer = writer_of(value);
        let genuine = writer
            .and_then(|writer| self.commands.get(&writer))
            .is_some_and(|command| matches!(command, Command::Set { .. }) && command.key() == key);
        let Some(record) = writer.and_then(|writer| history.write(writer)).filter(|_| genuine) else {
            let shown = String::from_utf8_lossy(&value[..value.len().min(24)]).into_owned();
            return Err(Violation::new(D3, format!("{operation:?} read {shown:?}, which nobody durably wrote there")));
        };
        if record.version < began.seen {
            let text = format!("{operation:?} read {record:?} after {:?} was seen in this region", began.seen);
            return Err(Violation::new(READS, text));
        }
        self.see(operation.region, key, record.version);
        Ok(())
    }

    /// The disk of `region` is another one: what its clients saw may be gone.
    pub fn forget(&mut self, region: usize) {
        self.seen.retain(|(of, _), _| *of != region);
    }

    fn see(&mut self, region: usize, key: &[u8], version: Version) {
        let seen = self.seen.entry((region, key.to_vec())).or_default();
        *seen = (*seen).max(version);
    }

    /// By key, the newest acknowledged write.
    #[must_use]
    pub fn acknowledged(&self) -> &HashMap<Vec<u8>, Record> {
        &self.acknowledged
    }
}
