//! Everything that ever became durable in its origin's log, by key: what an answer is compared with.
//!
//! Clients see values, not versions. A value stands for the records of its key that hold it: one, where the value names its
//! write; several, for a counter that reached a number twice or a value whose expiry was changed. Every question here is
//! answered in favour of the node where several records could be meant.

use std::collections::HashMap;

use net::reactor::Mono;
use net::reactor::sim::WALL_START_UNIX_MS;
use wal::{NodeId, RecordOp, Version};

use super::Violation;
use super::device::Record;
use crate::sim::workload::{Command, Key, Operation};

/// Checker D3, where clients are concerned.
pub const D3: &str = "D3 nothing that was never written";

/// A record's place in the merge order of its key.
pub type Rank = (Version, u32);

/// Below every record.
pub const NOTHING: Rank = (Version::ZERO, 0);

/// A key, as a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(pub u32);

/// The true time at an instant, in milliseconds since 1970: a world begins with the year 2026.
#[must_use]
pub fn unix_ms(at: Mono) -> u64 {
    WALL_START_UNIX_MS + at.0 / 1_000_000
}

/// A durable record.
#[derive(Clone, Copy, Debug)]
pub struct Durable {
    /// Its place in the order.
    pub rank: Rank,
    /// Who wrote it.
    pub origin: NodeId,
    /// What it does.
    pub op: RecordOp,
    /// Milliseconds since 1970.
    pub expiry: Option<u64>,
    /// Of its value.
    pub value_crc: u32,
    /// The operation that its value names.
    pub writer: Option<u64>,
}

#[derive(Debug, Default)]
struct KeyWrites {
    /// In the order in which they became durable.
    log: Vec<Durable>,
    newest_put: Option<Rank>,
    /// Tombstones, and records that expire, by rank.
    absences: Vec<(Rank, Option<u64>)>,
    /// Commands that began so far and write at most one record each.
    asked: usize,
    /// Those among them that write a present value again.
    copies: usize,
}

/// All of them.
#[derive(Debug, Default)]
pub struct Writes {
    ids: HashMap<Key, KeyId>,
    keys: Vec<Key>,
    writes: Vec<KeyWrites>,
    /// By key and value, the ranks of the records that hold it, in order.
    values: HashMap<(KeyId, u32), Vec<Rank>>,
    /// By operation and key, how many records name it.
    named: HashMap<(u64, KeyId), usize>,
}

impl Writes {
    /// The number of a key.
    pub fn id(&mut self, key: &Key) -> KeyId {
        match self.ids.get(key) {
            Some(id) => *id,
            None => self.add(key.clone()),
        }
    }

    fn add(&mut self, key: Key) -> KeyId {
        let id = KeyId(u32::try_from(self.keys.len()).expect("a run has fewer than 2^32 keys"));
        self.ids.insert(key.clone(), id);
        self.keys.push(key);
        self.writes.push(KeyWrites::default());
        id
    }

    /// The key of a number.
    #[must_use]
    pub fn key(&self, id: KeyId) -> &Key {
        &self.keys[id.0 as usize]
    }

    fn of(&self, id: KeyId) -> &KeyWrites {
        &self.writes[id.0 as usize]
    }

    /// A client is about to ask for this: the records that it may write are expected from now on.
    pub fn expect(&mut self, operation: &Operation) {
        if !operation.command.writes() {
            return;
        }
        let copies = matches!(operation.command, Command::Expire { .. } | Command::Persist { .. });
        for key in operation.command.keys() {
            let id = self.id(key);
            let writes = &mut self.writes[id.0 as usize];
            writes.asked += 1;
            writes.copies += usize::from(copies);
        }
    }

    /// A record is durable in its origin's log for the first time. `writer` is the operation that its value names.
    ///
    /// # Errors
    /// [`D3`] when nobody asked for it, or when an operation is written twice: a run goes no further.
    pub fn durable(&mut self, record: &Record, writer: Option<&Operation>) -> Result<(), Violation> {
        let id = match self.ids.get(record.key.as_slice()) {
            Some(id) => *id,
            None => self.add(record.key.clone().into()),
        };
        let durable = Durable {
            rank: record.rank(),
            origin: record.origin,
            op: record.op,
            expiry: record.expiry,
            value_crc: record.value_crc,
            writer: record.writer,
        };
        if record.writer.is_some() {
            self.expected(id, &durable, writer)?;
        }
        let writes = &mut self.writes[id.0 as usize];
        writes.log.push(durable);
        if writes.log.len() > writes.asked {
            let text = format!(
                "{durable:?} of {:?} is one more than the {} that were asked for",
                self.keys[id.0 as usize], writes.asked
            );
            return Err(Violation::new(D3, text));
        }
        if durable.op == RecordOp::Put {
            writes.newest_put = writes.newest_put.max(Some(durable.rank));
            insert(self.values.entry((id, durable.value_crc)).or_default(), durable.rank, |rank| *rank);
        }
        if durable.op == RecordOp::Delete || durable.expiry.is_some() {
            let expiry = durable.expiry.filter(|_| durable.op == RecordOp::Put);
            insert(&mut writes.absences, (durable.rank, expiry), |(rank, _)| *rank);
        }
        Ok(())
    }

    fn expected(&mut self, id: KeyId, durable: &Durable, writer: Option<&Operation>) -> Result<(), Violation> {
        let key = self.key(id).clone();
        let Some(writer) =
            writer.filter(|writer| writer.command.filler().is_some() && writer.command.keys().contains(&key))
        else {
            return Err(Violation::new(D3, format!("{durable:?} of {key:?} is durable, but nobody wrote that there")));
        };
        let count = self.named.entry((writer.id, id)).or_default();
        *count += 1;
        let copies = self.writes[id.0 as usize].copies;
        if *count > 1 + copies {
            let text =
                format!("{writer:?} is in {count} records, but only {copies} commands could have written it again");
            return Err(Violation::new(D3, text));
        }
        let expires = matches!(writer.command, Command::Set { px: Some(_), .. });
        if *count == 1 && expires != durable.expiry.is_some() {
            return Err(Violation::new(D3, format!("{writer:?} was written as {durable:?}: with another expiry")));
        }
        Ok(())
    }

    /// How many records of the key are durable.
    #[must_use]
    pub fn count(&self, id: KeyId) -> usize {
        self.of(id).log.len()
    }

    /// The first record above `above` that became durable after the first `from` ones and is what `fits` asks for.
    pub fn written(&self, id: KeyId, from: usize, above: Rank, fits: impl Fn(&Durable) -> bool) -> Option<&Durable> {
        self.of(id).log[from..].iter().find(|durable| durable.rank > above && fits(durable))
    }

    /// The record right below the one that this operation wrote; `None` if that is the first one, or nothing is known of it.
    #[must_use]
    pub fn before(&self, id: KeyId, writer: u64) -> Option<Option<&Durable>> {
        let log = &self.of(id).log;
        let rank = log.iter().rev().find(|durable| durable.writer == Some(writer))?.rank;
        Some(log.iter().filter(|durable| durable.rank < rank).max_by_key(|durable| durable.rank))
    }

    /// Ranks of the records that hold this value.
    #[must_use]
    pub fn holding(&self, id: KeyId, value: &[u8]) -> &[Rank] {
        self.values.get(&(id, wal::crc32c(value))).map_or(&[], Vec::as_slice)
    }

    /// The record of a rank.
    #[must_use]
    pub fn record(&self, id: KeyId, rank: Rank) -> Option<&Durable> {
        self.of(id).log.iter().rev().find(|durable| durable.rank == rank)
    }

    /// When a record expires, in milliseconds since 1970.
    #[must_use]
    pub fn expiry(&self, id: KeyId, rank: Rank) -> Option<u64> {
        let absences = &self.of(id).absences;
        let at = absences.binary_search_by_key(&rank, |(rank, _)| *rank).ok()?;
        absences[at].1
    }

    /// The lowest record from `floor` on that explains why a reader whose clock shows at most `unix_ms` finds nothing.
    #[must_use]
    pub fn absence(&self, id: KeyId, floor: Rank, unix_ms: u64) -> Option<Rank> {
        let absences = &self.of(id).absences;
        let from = absences.partition_point(|(rank, _)| *rank < floor);
        absences[from..].iter().find(|absence| explains(absence, unix_ms)).map(|(rank, _)| *rank)
    }

    /// The highest such record.
    #[must_use]
    pub fn newest_absence(&self, id: KeyId, unix_ms: u64) -> Option<Rank> {
        self.of(id).absences.iter().rev().find(|absence| explains(absence, unix_ms)).map(|(rank, _)| *rank)
    }

    /// The highest record that is no tombstone.
    #[must_use]
    pub fn newest_put(&self, id: KeyId) -> Option<Rank> {
        self.of(id).newest_put
    }
}

/// Whether a reader whose clock shows at most `unix_ms` finds nothing.
fn explains((_, expiry): &(Rank, Option<u64>), unix_ms: u64) -> bool {
    expiry.is_none_or(|expiry| expiry <= unix_ms)
}

/// Inserts into a list that is in order; mostly at its end.
fn insert<T>(list: &mut Vec<T>, item: T, rank: impl Fn(&T) -> Rank) {
    let at = list.iter().rposition(|other| rank(other) <= rank(&item)).map_or(0, |at| at + 1);
    list.insert(at, item);
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;
    use crate::sim::workload::value_of;

    fn record(version: u64, op: RecordOp, value: &[u8], expiry: Option<u64>) -> Record {
        Record {
            version: Version(version),
            crc: 0,
            stored_crc: 0,
            op,
            origin: NodeId(1),
            expiry,
            key: b"k".to_vec(),
            value_crc: wal::crc32c(value),
            writer: crate::sim::workload::writer_of(value),
        }
    }

    fn asked(writes: &mut Writes, id: u64, command: Command) -> Rc<Operation> {
        let operation = Rc::new(Operation { id, region: 0, session: 1, command });
        writes.expect(&operation);
        operation
    }

    fn set() -> Command {
        Command::Set { key: "k".into(), filler: 2, px: None }
    }

    #[test]
    fn what_nobody_asked_for_is_found() {
        let mut writes = Writes::default();
        let put = record(5, RecordOp::Put, &value_of(1, 2), None);
        assert!(writes.durable(&put, None).is_err(), "no such operation");
        assert!(Writes::default().durable(&record(5, RecordOp::Delete, b"", None), None).is_err());
        let one = asked(&mut writes, 1, set());
        assert_eq!(writes.durable(&put, Some(&one)), Ok(()));
        assert!(writes.durable(&record(6, RecordOp::Put, &value_of(1, 2), None), Some(&one)).is_err(), "twice");
        let mut writes = Writes::default();
        let one = asked(&mut writes, 1, set());
        assert!(writes.durable(&record(5, RecordOp::Put, &value_of(1, 2), Some(9)), Some(&one)).is_err(), "it expires");
    }

    #[test]
    fn a_value_may_be_written_again_by_who_changes_its_expiry() {
        let mut writes = Writes::default();
        let one = asked(&mut writes, 1, set());
        asked(&mut writes, 2, Command::Expire { key: "k".into(), px: 5 });
        let value = value_of(1, 2);
        let now = unix_ms(Mono(0));
        assert_eq!(writes.durable(&record(5, RecordOp::Put, &value, None), Some(&one)), Ok(()));
        assert_eq!(writes.durable(&record(6, RecordOp::Put, &value, Some(now + 5_000)), Some(&one)), Ok(()));
        let id = writes.id(&"k".into());
        let rank = |version| (Version(version), 0);
        assert_eq!(writes.holding(id, &value), [rank(5), rank(6)]);
        assert_eq!(writes.expiry(id, rank(6)), Some(now + 5_000));
        assert_eq!(writes.absence(id, rank(5), now), None);
        assert_eq!(writes.absence(id, rank(5), now + 4_999), None);
        assert_eq!(writes.absence(id, rank(5), now + 5_000), Some(rank(6)));
        assert_eq!(writes.absence(id, rank(7), now + 5_000), None);
    }
}
