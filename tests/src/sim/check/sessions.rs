//! What one region shows never goes back: neither to a session (read-your-writes, monotonic reads, monotonic writes, writes
//! follow reads; Terry et al., "Session guarantees", 1994), nor to anybody in real time.
//!
//! A region has one node: what one client of it was shown before another's request began, that one has to be shown, too.
//! A session's own requests are ordered by the connection, even if they are under way at the same time. One that moves to another
//! region with its token is shown nothing older there, and writes above all that it saw before.

use std::collections::HashMap;

use wal::Version;

use super::Violation;
use super::writes::{KeyId, NOTHING, Rank, Writes};
use crate::sim::workload::Operation;

/// In real time.
pub const READS: &str = "reads do not go back";
/// Within a session.
pub const SESSIONS: &str = "sessions see their past";
/// Nothing is shown where something must be.
pub const ABSENT: &str = "what was seen is only gone if deleted or expired";
/// A value is shown after its expiry.
pub const EXPIRED: &str = "expired values are not shown";

/// What an answer shows of a key.
#[derive(Clone, Copy, Debug)]
pub enum Shown<'a> {
    /// This value.
    Value(&'a [u8]),
    /// That there is one.
    Present,
    /// That there is none.
    Absent,
}

/// What has been shown so far.
#[derive(Debug, Default)]
pub struct Sessions {
    regions: HashMap<(usize, KeyId), Rank>,
    sessions: HashMap<(u64, KeyId), Rank>,
    /// By session, the highest version that it saw.
    highest: HashMap<u64, Version>,
    /// The same when it came to its region.
    entered: HashMap<u64, Version>,
}

impl Sessions {
    /// What the clients of a region have been shown of a key: a request that begins now is held to it.
    #[must_use]
    pub fn shown(&self, region: usize, key: KeyId) -> Rank {
        self.regions.get(&(region, key)).copied().unwrap_or(NOTHING)
    }

    /// A new disk knows nothing of what the old one showed, and of a session that was there nobody can tell what it missed.
    pub fn forget(&mut self, region: usize) {
        self.regions.retain(|(other, _), _| *other != region);
        self.sessions.clear();
        self.highest.clear();
        self.entered.clear();
    }

    /// A region says that it has what a session saw elsewhere.
    pub fn enters(&mut self, session: u64) {
        let highest = self.highest.get(&session).copied().unwrap_or(Version(0));
        self.entered.insert(session, highest);
    }

    /// A version that a write of the session must be above.
    #[must_use]
    pub fn entered_with(&self, operation: &Operation) -> Version {
        self.entered.get(&operation.session).copied().unwrap_or(Version(0))
    }

    /// The clients of a region were shown this, at least.
    pub fn show(&mut self, operation: &Operation, key: KeyId, rank: Rank) {
        for known in [
            self.regions.entry((operation.region, key)).or_insert(NOTHING),
            self.sessions.entry((operation.session, key)).or_insert(NOTHING),
        ] {
            *known = rank.max(*known);
        }
        let highest = self.highest.entry(operation.session).or_insert(Version(0));
        *highest = rank.0.max(*highest);
    }

    /// What an answer must not be older than: the higher one of what the region had shown when the operation began, and
    /// what its session has been shown since; and the name of that rule.
    #[must_use]
    pub fn floor(&self, operation: &Operation, key: KeyId, at_begin: Rank) -> (Rank, &'static str) {
        let session = self.sessions.get(&(operation.session, key)).copied().unwrap_or(NOTHING);
        if session > at_begin { (session, SESSIONS) } else { (at_begin, READS) }
    }

    /// An answer shows this of a key; the node's clock shows at most `unix_ms`. Returns the newest rank that it can stand for.
    ///
    /// # Errors
    /// [`READS`], [`SESSIONS`], [`ABSENT`].
    pub fn read(
        &mut self,
        writes: &Writes,
        operation: &Operation,
        key: KeyId,
        at_begin: Rank,
        shown: Shown<'_>,
        unix_ms: u64,
    ) -> Result<Rank, Violation> {
        let (floor, rule) = self.floor(operation, key, at_begin);
        let before = || (floor > NOTHING).then(|| writes.record(key, floor)).flatten();
        match shown {
            Shown::Value(value) => {
                let holding = writes.holding(key, value);
                let newest = holding.last().copied().unwrap_or(NOTHING);
                let Some(rank) = holding.get(holding.partition_point(|rank| *rank < floor)) else {
                    let read = writes.record(key, newest);
                    return Err(Violation::new(rule, format!("{operation:?} read {read:?} after {:?}", before())));
                };
                self.show(operation, key, *rank);
                Ok(newest)
            }
            Shown::Present => {
                let newest = writes.newest_put(key).unwrap_or(NOTHING);
                if newest < floor {
                    return Err(Violation::new(rule, format!("{operation:?} found a value after {:?}", before())));
                }
                Ok(newest)
            }
            Shown::Absent if floor == NOTHING => Ok(writes.newest_absence(key, unix_ms).unwrap_or(NOTHING)),
            Shown::Absent => {
                let Some(rank) = writes.absence(key, floor, unix_ms) else {
                    let text = format!("{operation:?} found nothing after {:?} ({rule})", before());
                    return Err(Violation::new(ABSENT, text));
                };
                self.show(operation, key, rank);
                Ok(writes.newest_absence(key, unix_ms).unwrap_or(rank))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use wal::{NodeId, RecordOp};

    use super::super::device::Record;
    use super::*;
    use crate::sim::workload::{Command, value_of, writer_of};

    fn get(session: u64) -> Operation {
        Operation { id: 100, region: 0, session, command: Command::Get { key: "k".into() } }
    }

    /// A key whose records of these versions are durable: a value, a tombstone (no expiry of its own), or one that expires.
    fn written(records: &[(u64, Option<u64>)]) -> (Writes, KeyId) {
        let mut writes = Writes::default();
        for (version, expiry) in records {
            let tombstone = *expiry == Some(0);
            let px = expiry.filter(|expiry| *expiry > 0);
            let command = Command::Set { key: "k".into(), filler: 0, px };
            let writer = Operation { id: *version, region: 0, session: 1, command };
            writes.expect(&writer);
            let value = if tombstone { Vec::new() } else { value_of(*version, 0) };
            let record = Record {
                version: Version(*version),
                crc: 0,
                stored_crc: 0,
                op: if tombstone { RecordOp::Delete } else { RecordOp::Put },
                origin: NodeId(1),
                expiry: px,
                key: b"k".to_vec(),
                value_crc: wal::crc32c(&value),
                writer: writer_of(&value),
            };
            writes.durable(&record, Some(&writer)).expect("it was asked for");
        }
        let id = writes.id(&"k".into());
        (writes, id)
    }

    fn rule(result: Result<Rank, Violation>) -> Option<&'static str> {
        result.err().map(|violation| violation.checker)
    }

    #[test]
    fn reads_do_not_go_back() {
        let (writes, id) = written(&[(1, None), (2, None)]);
        let (old, new) = (value_of(1, 0), value_of(2, 0));
        let mut sessions = Sessions::default();
        let mut read = |session, at_begin, value: &[u8]| {
            rule(sessions.read(&writes, &get(session), id, at_begin, Shown::Value(value), 0))
        };
        assert_eq!(read(1, NOTHING, &old), None);
        assert_eq!(read(1, NOTHING, &new), None);
        assert_eq!(read(2, NOTHING, &old), None, "another session's read may have begun before");
        assert_eq!(read(2, (Version(2), 0), &old), Some(READS));
        assert_eq!(read(1, NOTHING, &old), Some(SESSIONS), "one connection answers in order");
    }

    #[test]
    fn a_session_that_moves_is_held_to_what_it_saw_elsewhere() {
        let (writes, id) = written(&[(1, None), (2, None)]);
        let (old, new) = (value_of(1, 0), value_of(2, 0));
        let mut sessions = Sessions::default();
        let read = |sessions: &mut Sessions, operation: &Operation, value: &[u8]| {
            rule(sessions.read(&writes, operation, id, NOTHING, Shown::Value(value), 0))
        };
        let elsewhere = |session| Operation { region: 1, ..get(session) };
        assert_eq!(read(&mut sessions, &get(1), &new), None);
        assert_eq!(read(&mut sessions, &elsewhere(2), &old), None, "nobody promised that to another session");
        assert_eq!(read(&mut sessions, &elsewhere(1), &old), Some(SESSIONS));
        assert_eq!(sessions.entered_with(&elsewhere(1)), Version(0));
        sessions.enters(1);
        assert_eq!(sessions.entered_with(&elsewhere(1)), Version(2));
        sessions.forget(0);
        assert_eq!(read(&mut sessions, &elsewhere(1), &old), None, "what it saw may be lost with the disk");
    }

    #[test]
    fn what_was_seen_does_not_vanish() {
        let seen = (Version(5), 0);
        for (records, unix_ms, expected) in [
            (vec![(5, None)], 0, Some(ABSENT)),
            (vec![(4, Some(0)), (5, None)], 0, Some(ABSENT)),
            (vec![(5, None), (6, Some(0))], 0, None),
            (vec![(5, Some(90_000))], 10_000, Some(ABSENT)),
            (vec![(5, Some(90_000))], 89_999, Some(ABSENT)),
            (vec![(5, Some(90_000))], 90_000, None),
            (vec![(5, None), (6, Some(90_000))], 95_000, None),
        ] {
            let (writes, id) = written(&records);
            let mut sessions = Sessions::default();
            let read = sessions.read(&writes, &get(1), id, seen, Shown::Absent, unix_ms);
            assert_eq!(rule(read), expected, "{records:?} at {unix_ms}");
        }
    }

    #[test]
    fn after_a_tombstone_there_is_a_value_only_if_one_was_written() {
        let seen = (Version(6), 0);
        let (writes, id) = written(&[(5, None), (6, Some(0))]);
        let read = Sessions::default().read(&writes, &get(1), id, seen, Shown::Present, 0);
        assert_eq!(rule(read), Some(READS));
        let (writes, id) = written(&[(5, None), (6, Some(0)), (7, None)]);
        let read = Sessions::default().read(&writes, &get(1), id, seen, Shown::Present, 0);
        assert_eq!(rule(read), None);
    }
}
