//! What clients were told: an acknowledged write is durable at that moment (D1, D2, D6), a value that is read was durably
//! written there (D3). Hands every answer to the checkers that have a file of their own: `sessions`, `staleness`,
//! `privates`, `teams`.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use net::reactor::Mono;
use wal::{NodeId, RecordOp};

use super::Violation;
use super::clocks::{Clocks, FAR_FUTURE};
use super::device::Record;
use super::privates::Privates;
use super::sessions::{EXPIRED, SESSIONS, Sessions, Shown};
use super::staleness::{Acknowledged, Staleness};
use super::teams::Teams;
use super::writes::{D3, Durable, KeyId, NOTHING, Rank, Writes};
use crate::sim::workload::{Command, Operation, Outcome};

/// Checker D1.
pub const D1: &str = "D1 acknowledged means durable";
/// Answers that their commands cannot have.
pub const PROTOCOL: &str = "answers fit their commands";

/// What other regions acknowledged longer ago than this is visible while nothing is broken, in nanoseconds: the longest way
/// (82.5 ms), a sync at either end, a batch before it in both.
pub const STALENESS_NS_MAX: u64 = 500_000_000;

/// What an operation that is under way will be held to.
#[derive(Debug)]
struct Began {
    region: usize,
    at: Mono,
    node: NodeId,
    /// One for each of its keys.
    keys: Vec<BeganKey>,
}

#[derive(Clone, Copy, Debug)]
struct BeganKey {
    key: KeyId,
    /// How many records of the key were durable.
    records: usize,
    /// What the region's clients had been shown.
    shown: Rank,
    demand: Option<Acknowledged>,
}

/// What an answer says was written to a key.
#[derive(Clone, Copy, Debug)]
enum Wrote {
    /// The operation's value.
    Value,
    /// This number.
    Number(i64),
    /// Something.
    Something,
    /// The present value, with an expiry or without.
    Copy {
        expires: bool,
    },
    Tombstone,
}

/// The clients' side of the story.
#[derive(Debug)]
pub struct Ledger {
    /// What is durable, by key.
    pub writes: Writes,
    /// What time it may be where.
    pub clocks: Clocks,
    /// What was shown.
    pub sessions: Sessions,
    /// How far regions lag.
    pub staleness: Staleness,
    /// Keys that only one region uses.
    pub privates: Privates,
    /// Keys that are only written and read in transactions.
    pub teams: Teams,
    events: u64,
    began: HashMap<u64, Began>,
    operations: HashMap<u64, Rc<Operation>>,
    /// By key, the newest acknowledged write.
    acknowledged: BTreeMap<KeyId, Durable>,
    /// Operations that began.
    pub operation_count: u64,
    /// Acknowledged writes.
    pub acknowledged_count: u64,
    /// Operations without an answer.
    pub unknown_count: u64,
    /// Operations that were refused.
    pub refused_count: u64,
    /// Answers that show a key.
    pub read_count: u64,
}

impl Default for Ledger {
    fn default() -> Ledger {
        Ledger {
            writes: Writes::default(),
            clocks: Clocks::default(),
            sessions: Sessions::default(),
            staleness: Staleness::new(STALENESS_NS_MAX),
            privates: Privates::default(),
            teams: Teams::default(),
            events: 0,
            began: HashMap::new(),
            operations: HashMap::new(),
            acknowledged: BTreeMap::new(),
            operation_count: 0,
            acknowledged_count: 0,
            unknown_count: 0,
            refused_count: 0,
            read_count: 0,
        }
    }
}

impl Ledger {
    fn event(&mut self) -> u64 {
        self.events += 1;
        self.events
    }

    /// A record is durable in its origin's log for the first time; no control record.
    ///
    /// # Errors
    /// [`D3`].
    pub fn durable(&mut self, record: &Record) -> Result<(), Violation> {
        let writer = record.writer.and_then(|writer| self.operations.get(&writer));
        self.writes.durable(record, writer.map(Rc::as_ref))
    }

    /// The process of a region's node ended.
    pub fn died(&mut self, region: usize) {
        let event = self.event();
        self.privates.died(region, event);
        self.teams.died(region);
    }

    /// A region's disk was replaced or set back: what it showed and what it acknowledged to its private keys binds it no more.
    pub fn forget(&mut self, region: usize) {
        let event = self.event();
        self.privates.forget(region, event);
        self.teams.forget(region);
        self.sessions.forget(region);
        // An answer of the old disk may still be on its way.
        self.began.retain(|_, began| began.region != region);
    }

    /// A client of the region whose node is `node` sends this now.
    pub fn begin(&mut self, node: NodeId, operation: &Rc<Operation>, now: Mono) {
        self.operation_count += 1;
        let event = self.event();
        self.privates.begin(operation, event);
        self.teams.begin(operation);
        self.writes.expect(operation);
        let keys = operation.command.keys().iter().map(|key| {
            let id = self.writes.id(key);
            BeganKey {
                key: id,
                records: self.writes.count(id),
                shown: self.sessions.shown(operation.region, id),
                demand: self.staleness.demand(operation.region, id, now),
            }
        });
        let began = Began { at: now, region: operation.region, node, keys: keys.collect() };
        self.began.insert(operation.id, began);
        if operation.command.filler().is_some() {
            self.operations.insert(operation.id, Rc::clone(operation));
        }
    }

    /// A client learnt this now.
    ///
    /// # Errors
    /// Whatever does not hold.
    pub fn end(&mut self, operation: &Operation, outcome: &Outcome, now: Mono) -> Result<(), Violation> {
        let Some(began) = self.began.remove(&operation.id) else { return Ok(()) };
        let event = self.event();
        self.privates.end(operation, outcome, event);
        self.teams.end(operation, outcome)?;
        match outcome {
            Outcome::Unknown => self.unknown_count += 1,
            Outcome::Refused(_) => self.refused_count += 1,
            Outcome::Malformed(text) => {
                return Err(Violation::new(PROTOCOL, format!("{operation:?} was answered with {text}")));
            }
            _ => {}
        }
        for (index, key) in began.keys.iter().enumerate() {
            let (shown, wrote) = meaning(&operation.command, outcome, index);
            // What was there before the write comes first.
            if let Some(shown) = shown {
                self.read_count += 1;
                self.shown(operation, &began, *key, shown, now)?;
            }
            if let Some(wrote) = wrote {
                self.wrote(operation, &began, *key, wrote, now)?;
            }
        }
        if let Outcome::Swapped { seen, done: true } = outcome {
            let key = began.keys[0].key;
            self.teams.swapped(operation, seen, self.writes.before(key, operation.id))?;
        }
        Ok(())
    }

    fn shown(
        &mut self,
        operation: &Operation,
        began: &Began,
        key: BeganKey,
        shown: Shown<'_>,
        now: Mono,
    ) -> Result<(), Violation> {
        if let Shown::Value(value) = shown {
            let holding = self.writes.holding(key.key, value);
            let Some(newest) = holding.last() else {
                let text = String::from_utf8_lossy(&value[..value.len().min(60)]).into_owned();
                let text =
                    format!("{operation:?} read {text:?} ({} bytes), which nobody durably wrote there", value.len());
                return Err(Violation::new(D3, text));
            };
            let record = self.writes.record(key.key, *newest).filter(|_| holding.len() == 1);
            let earliest = self.clocks.earliest_unix_ms(operation.region, began.at);
            if record.and_then(|record| record.expiry).is_some_and(|expiry| expiry < earliest) {
                return Err(Violation::new(EXPIRED, format!("{operation:?} read {record:?} at {earliest} or later")));
            }
            let foreign = record.filter(|record| record.origin != began.node);
            if foreign.is_some_and(|record| self.clocks.is_far_future(operation.region, record.rank.0, now)) {
                let latest = self.clocks.latest_unix_ms(operation.region, now);
                let text = format!("{operation:?} read {foreign:?} at {latest} or earlier");
                return Err(Violation::new(FAR_FUTURE, text));
            }
        }
        let latest = self.clocks.expiry_unix_ms(operation.region, now);
        let newest = self.sessions.read(&self.writes, operation, key.key, key.shown, shown, latest)?;
        self.staleness.read(operation.region, key.key, key.demand, newest, began.at)
    }

    fn wrote(
        &mut self,
        operation: &Operation,
        began: &Began,
        key: BeganKey,
        wrote: Wrote,
        now: Mono,
    ) -> Result<(), Violation> {
        let (floor, rule) = self.sessions.floor(operation, key.key, key.shown);
        let number = if let Wrote::Number(number) = wrote { wal::crc32c(number.to_string().as_bytes()) } else { 0 };
        let fits = |durable: &Durable| {
            let put = durable.op == RecordOp::Put;
            durable.origin == began.node
                && match wrote {
                    Wrote::Value => durable.writer == Some(operation.id),
                    Wrote::Number(_) => put && durable.value_crc == number,
                    Wrote::Something => put,
                    Wrote::Copy { expires } => put && durable.expiry.is_some() == expires,
                    Wrote::Tombstone => durable.op == RecordOp::Delete,
                }
        };
        let found = self.writes.written(key.key, key.records, floor, fits).copied();
        let Some(record) = found else {
            let name = self.writes.key(key.key).clone();
            let anywhere = self.writes.written(key.key, key.records, NOTHING, fits);
            if let Some(record) = anywhere {
                let text = format!("{operation:?} wrote {record:?} of {name:?} below {floor:?}, which it follows");
                return Err(Violation::new(rule, text));
            }
            let text = format!("{operation:?} was acknowledged, but no device holds it in its origin's log ({name:?})");
            return Err(Violation::new(D1, text));
        };
        self.acknowledged_count += 1;
        let entered = self.sessions.entered_with(operation);
        if record.rank.0 <= entered {
            let text = format!("{operation:?} wrote {record:?} not above {entered:?}, with which its session came");
            return Err(Violation::new(SESSIONS, text));
        }
        self.sessions.show(operation, key.key, record.rank);
        if self.writes.key(key.key).owner().is_none() {
            let due = self.clocks.due(record.rank.0, now);
            self.staleness.acknowledged(operation.region, key.key, record.rank, due);
        }
        let newest = self.acknowledged.entry(key.key).or_insert(record);
        if newest.rank < record.rank {
            *newest = record;
        }
        Ok(())
    }

    /// By key, the newest acknowledged write.
    pub fn acknowledged(&self) -> impl Iterator<Item = (&[u8], &Durable)> {
        self.acknowledged.iter().map(|(id, durable)| (self.writes.key(*id).bytes(), durable))
    }
}

/// What an answer shows of a command's key `index`, and what was written to it.
fn meaning<'a>(command: &Command, outcome: &'a Outcome, index: usize) -> (Option<Shown<'a>>, Option<Wrote>) {
    let value = |value: &'a Option<Vec<u8>>| value.as_ref().map_or(Shown::Absent, |value| Shown::Value(value));
    let there = |there: bool| if there { Shown::Present } else { Shown::Absent };
    match (command, outcome) {
        (_, Outcome::Stored) => (None, Some(Wrote::Value)),
        (Command::GetSet { .. }, Outcome::Read(old)) => (Some(value(old)), Some(Wrote::Value)),
        (Command::GetDel { .. }, Outcome::Read(old)) => (Some(value(old)), old.is_some().then_some(Wrote::Tombstone)),
        (_, Outcome::Read(read)) => (Some(value(read)), None),
        // Only the first key was read.
        (_, Outcome::Swapped { seen, done }) => ((index == 0).then(|| value(seen)), done.then_some(Wrote::Value)),
        (_, Outcome::ReadMany(values)) => (values.get(index).map(value), None),
        (_, Outcome::Deleted(deleted)) => (Some(there(*deleted)), deleted.then_some(Wrote::Tombstone)),
        (Command::SetNx { .. }, Outcome::Flag(set)) => (Some(there(!set)), set.then_some(Wrote::Value)),
        (Command::Expire { .. }, Outcome::Flag(set)) => {
            (Some(there(*set)), set.then_some(Wrote::Copy { expires: true }))
        }
        // Without an expiry there is nothing to take away.
        (Command::Persist { .. }, Outcome::Flag(set)) => {
            (set.then_some(Shown::Present), set.then_some(Wrote::Copy { expires: false }))
        }
        (_, Outcome::Flag(found)) => (Some(there(*found)), None),
        (Command::IncrBy { .. }, Outcome::Number(sum)) => (None, Some(Wrote::Number(*sum))),
        (Command::PTtl { .. }, Outcome::Number(left)) => (Some(there(*left != -2)), None),
        (_, Outcome::Number(_)) => (None, Some(Wrote::Something)),
        (_, Outcome::Refused(_) | Outcome::Malformed(_) | Outcome::Unknown) => (None, None),
    }
}
