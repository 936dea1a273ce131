//! This core's part of a comparison with other nodes: it sums up what it has, or says what is there in some leaves.
//!
//! A walk goes in slices, so few entries a tick that clients hardly notice it, and rests in between, so that it takes a small part of a
//! CPU even where there is nothing else to do. An answer waits until all it tells is durable: what a
//! power loss takes back is no difference between nodes.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use net::reactor::Mono;
use net::wire::body::Entry;
use net::wire::limits::RECORDS_BATCH_BYTES;
use wal::{Lsn, RecordView};

use super::CoreLoop;
use crate::host::Host;
use crate::messages::CoreEvent;
use crate::replication::residency::Allowed;
use crate::replication::survey::{Counting, Digest, LeafSet, SurveyFound, SurveyTask, entry};
use crate::shard::WriteError;
use crate::storage::index::ScanPosition;

/// Index entries that all surveys of a core may visit in one tick: up to 100 µs, where the records are in memory.
const ENTRIES_PER_TICK: usize = 256;

/// The rest after a slice: some 400,000 entries a second are visited at most, for a seventh or so of the core's time.
const REST_NS: u64 = 500_000;

/// Keys that are looked up in one tick.
const KEYS_PER_TICK: usize = 128;

/// An answer ends once it has this many bytes of entries.
const ANSWER_BYTES: usize = 256 * 1024;

/// An answer ends once this many entries were visited for it, so that whoever asked knows that it goes on.
const ANSWER_VISITS: usize = 256 * 1024;

/// What an entry takes besides its key.
const ENTRY_BYTES: usize = 40;

#[derive(Debug)]
struct Running {
    ticket: u64,
    work: Work,
    /// Keys that whoever asks may be shown.
    shown: Arc<Allowed>,
}

#[derive(Debug)]
enum Work {
    Sum { counting: Counting, from: ScanPosition, digest: Digest },
    Inspect { leaves: Arc<LeafSet>, from: ScanPosition, visited: usize, found: Found },
    Lookup { keys: Vec<Bytes>, found: Found },
    Fetch { keys: Vec<Bytes>, records: Vec<Bytes>, bytes: usize },
}

#[derive(Debug, Default)]
struct Found {
    entries: Vec<Entry>,
    bytes: usize,
    unclear: Vec<Bytes>,
}

impl Found {
    fn push(&mut self, entry: Entry) {
        self.bytes += ENTRY_BYTES + entry.key.len();
        self.entries.push(entry);
    }
}

/// The surveys that this core takes part in.
#[derive(Debug, Default)]
pub(super) struct Surveys {
    running: VecDeque<Running>,
    /// Answers that wait until the log is durable up to a position.
    found: VecDeque<(Lsn, u64, SurveyFound)>,
    /// The first one waits for records from the disk.
    stalled: bool,
    rests_until: Mono,
}

impl Surveys {
    /// When the next slice is due.
    pub(super) fn deadline(&self) -> Option<Mono> {
        (!self.running.is_empty() && !self.stalled).then_some(self.rests_until)
    }

    fn begin_slice(&mut self, now: Mono) -> Option<Running> {
        if now < self.rests_until {
            return None;
        }
        let running = self.running.pop_front()?;
        self.rests_until = Mono(now.0 + REST_NS);
        Some(running)
    }

    pub(super) fn is_stalled(&self) -> bool {
        self.stalled
    }
}

impl<H: Host> CoreLoop<H> {
    pub(super) fn begin_survey(&mut self, ticket: u64, task: SurveyTask, shown: Arc<Allowed>) {
        let work = match task {
            SurveyTask::Sum(counting) => Work::Sum { counting, from: ScanPosition(0), digest: Digest::default() },
            SurveyTask::Inspect { leaves, from } => Work::Inspect { leaves, from, visited: 0, found: Found::default() },
            SurveyTask::Lookup { keys } => Work::Lookup { keys, found: Found::default() },
            SurveyTask::Fetch { keys } => Work::Fetch { keys, records: Vec::new(), bytes: 0 },
        };
        self.surveys.running.push_back(Running { ticket, work, shown });
    }

    /// Goes on with one survey, as far as one tick may, and answers those that are done.
    pub(super) fn survey(&mut self) {
        self.surveys.stalled = false;
        // Nothing is looked at between the stages of a transaction.
        if !self.holds.is_held()
            && let Some(mut running) = self.surveys.begin_slice(self.time.mono)
        {
            match self.survey_slice(&mut running.work, &running.shown) {
                Ok(Some(found)) => {
                    let staged = self.shard.log().staged();
                    self.surveys.found.push_back((staged, running.ticket, found));
                }
                Ok(None) => self.surveys.running.push_back(running),
                Err(_) => {
                    self.surveys.running.push_front(running);
                    self.surveys.stalled = true;
                }
            }
        }
        let durable = self.shard.log().durable();
        while let Some((_, ticket, found)) = self.surveys.found.pop_front_if(|(staged, ..)| *staged <= durable) {
            self.tell(CoreEvent::Surveyed { ticket, found });
        }
    }

    /// What was found, once all of it is.
    ///
    /// # Errors
    /// Transient ones: nothing was done, run it again later.
    fn survey_slice(&mut self, work: &mut Work, shown: &Allowed) -> Result<Option<SurveyFound>, WriteError> {
        match work {
            Work::Sum { counting, from, digest } => {
                let next = self.shard.scan_all(*from, ENTRIES_PER_TICK, |record| {
                    if counting.counts(record) && shown.may_hold(record.key) {
                        digest.add(record);
                    }
                })?;
                *from = next.unwrap_or(ScanPosition::END);
                Ok(next.is_none().then(|| SurveyFound::Sums(std::mem::take(digest))))
            }
            Work::Inspect { leaves, from, visited, found } => {
                let next = self.shard.scan_all(*from, ENTRIES_PER_TICK, |record| {
                    *visited += 1;
                    if leaves.contains(record.key_hash) && shown.may_hold(record.key) {
                        found.push(entry(record));
                    }
                })?;
                *from = next.unwrap_or(ScanPosition::END);
                let ends = next.is_none() || found.bytes >= ANSWER_BYTES || *visited >= ANSWER_VISITS;
                Ok(ends.then(|| {
                    let entries = std::mem::take(&mut found.entries);
                    SurveyFound::Entries { entries, next, unclear: Vec::new() }
                }))
            }
            Work::Lookup { keys, found } => {
                let secret = self.shard.identity().secret;
                for _ in 0..KEYS_PER_TICK {
                    let Some(key) = keys.last() else { break };
                    let hash = secret.hash(key);
                    let is_held_back = self.shard.holds_back(hash);
                    match self.shard.look_up(hash, key, entry) {
                        Ok(entry) => {
                            entry.into_iter().for_each(|entry| found.push(entry));
                            found.unclear.extend(is_held_back.then(|| key.clone()));
                        }
                        // For others as if it were not there, like in a walk.
                        Err(WriteError::Unreadable) => found.unclear.push(key.clone()),
                        Err(error) => return Err(error),
                    }
                    keys.pop();
                }
                Ok(keys.is_empty().then(|| {
                    let Found { entries, unclear, .. } = std::mem::take(found);
                    SurveyFound::Entries { entries, next: None, unclear }
                }))
            }
            Work::Fetch { keys, records, bytes } => {
                let secret = self.shard.identity().secret;
                for _ in 0..KEYS_PER_TICK {
                    let Some(key) = keys.last() else { break };
                    let padded = |record: &RecordView<'_>| {
                        let mut padded = record.bytes.to_vec();
                        padded.resize(record.padded_len(), 0);
                        Bytes::from(padded)
                    };
                    match self.shard.look_up(secret.hash(key), key, padded) {
                        Ok(record) => records.extend(record.inspect(|record| *bytes += record.len())),
                        Err(WriteError::Unreadable) => {}
                        Err(error) => return Err(error),
                    }
                    keys.pop();
                    if *bytes >= RECORDS_BATCH_BYTES {
                        keys.clear();
                    }
                }
                Ok(keys.is_empty().then(|| SurveyFound::Records(std::mem::take(records))))
            }
        }
    }
}
