//! Receive: takes one source's stream in and turns its claims into watermarks, never before the slowest core.
//!
//! A batch is verified, split by owning core and handed out under a sequence number per core. A core answers with its
//! *staged end* whether or not it appended. A claim waits until every core that received part of what came before it on
//! this connection is durable up to the staged end of that part.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use net::ids::{LogId, NodeId, StreamOffset, Version};
use net::wire::body::{Claim, Records, RecordsHead, records};
use net::wire::limits::LOGS_MAX;
use net::wire::packing::UnpackError;
use wal::marks::{Mark, reach};
use wal::planted::{self, Fault};
use wal::{ControlRecord, Lsn, RecordOp, RecordView};

use super::WINDOW_BYTES;
use super::residency::Allowed;
use super::watermarks::Watermarks;
use crate::storage::NodeSecret;

/// Batches and claims that may wait for the cores: a window of the smallest records, each in a batch of its own, with a claim
/// behind each.
const WAITING_MAX: usize = 1 << 20;
/// Origins of which the oldest version is remembered between two claims.
const ORIGINS_MAX: usize = 16;
const _: () = assert!(WAITING_MAX as u64 >= 2 * WINDOW_BYTES / 40);

/// Why a stream cannot go on; the connection is closed with this text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// A record did not verify.
    #[error("record {index} of a batch of {log} is damaged ({detail}); the link is reset and the batch fetched again")]
    Damaged {
        /// Which log.
        log: LogId,
        /// Which record of the batch.
        index: u32,
        /// What is wrong.
        detail: String,
    },
    /// A record of another origin, which an origin must not send but among copies and in passes.
    #[error("{log} sent a record of origin {origin:08x}; a source may only send what it originated")]
    ForeignOrigin {
        /// Which log.
        log: LogId,
        /// Whose record.
        origin: u32,
    },
    /// A packed batch that does not unpack.
    #[error("a batch of {log} cannot be read ({error}); the link is reset and the batch fetched again")]
    Packed {
        /// Which log.
        log: LogId,
        /// What is wrong.
        error: UnpackError,
    },
    /// The count in the head is wrong.
    #[error("a batch of {log} announced {announced} records and held {found}")]
    Count {
        /// Which log.
        log: LogId,
        /// In the head.
        announced: u32,
        /// In the payload.
        found: u32,
    },
    /// Bytes were lost or repeated on the connection.
    #[error("a batch starts at stream offset {found}, expected {expected}")]
    Offset {
        /// In the head.
        found: u64,
        /// What came before.
        expected: u64,
    },
    /// A record that verified and must not be here.
    #[error("record {index} of a batch of {log} cannot be accepted: {reason}")]
    Unacceptable {
        /// Which log.
        log: LogId,
        /// Which record of the batch.
        index: u32,
        /// Why, and what to do.
        reason: String,
    },
    /// Records or a claim of a log that was not asked for on this connection.
    #[error("{0} was not asked for on this connection; a source may only stream logs of its own that it has offered")]
    NotAsked(LogId),
    /// A claim beyond a retired log's end.
    #[error("a claim over {log} goes up to {to}, but the log ended at {end}")]
    BeyondEnd {
        /// Which log.
        log: LogId,
        /// How far the claim goes.
        to: u64,
        /// How far the log goes.
        end: u64,
    },
    /// More logs, or more claims at once, than any node has.
    #[error("the source offers or claims more than a node may have ({0}); the link is reset")]
    TooMany(&'static str),
    /// More than the credit allowed.
    #[error("the source sent beyond its credit")]
    Flooded,
    /// A claim that does not connect to what is here.
    #[error("a claim over {log} starts at {from}, but only {held} is held; the link is reset")]
    Gap {
        /// Which log.
        log: LogId,
        /// Where it starts.
        from: u64,
        /// What is here.
        held: u64,
    },
}

/// What one core has been handed and has answered.
#[derive(Clone, Copy, Debug, Default)]
struct CoreTrack {
    sent: u64,
    answered: u64,
    /// Staged end at the last answer.
    staged: Lsn,
    durable: Lsn,
}

/// The cores, as all streams see them; one per node.
#[derive(Debug)]
pub struct Cores {
    tracks: Vec<CoreTrack>,
    secret: NodeSecret,
    value_bytes_max: usize,
    may_hold: Allowed,
}

impl Cores {
    /// `count` idle cores that accept values of up to `value_bytes_max` bytes, of all keys.
    #[must_use]
    pub fn new(count: u16, secret: NodeSecret, value_bytes_max: usize) -> Self {
        let tracks = vec![CoreTrack::default(); usize::from(count)];
        Cores { tracks, secret, value_bytes_max, may_hold: Allowed::everything() }
    }

    /// They accept these keys only.
    #[must_use]
    pub fn that_may_hold(self, may_hold: Allowed) -> Self {
        Cores { may_hold, ..self }
    }

    /// The core that owns a key.
    #[must_use]
    pub fn core_of(&self, key: &[u8]) -> u16 {
        self.secret.hash(key).core(u16::try_from(self.tracks.len()).unwrap_or(u16::MAX))
    }

    /// Judges a record of `log` that verified. What is refused here would make every later start fail, or end the node.
    pub(super) fn accept(&self, head: &RecordsHead, index: u32, record: &RecordView<'_>) -> Result<(), StreamError> {
        let log = head.log;
        let of_any_origin = head.flags & (records::COPIES | records::PASS | records::REPAIR) != 0;
        if record.origin.0 != log.node.0 && !of_any_origin && !planted::is(Fault::NoOriginFilter) {
            return Err(StreamError::ForeignOrigin { log, origin: record.origin.0 });
        }
        let refuse = |reason: String| Err(StreamError::Unacceptable { log, index, reason });
        if record.version == wal::Version::ZERO {
            return refuse("its version is zero, which no clock gives".into());
        }
        if record.value.len() > self.value_bytes_max {
            let (len, max) = (record.value.len(), self.value_bytes_max);
            return refuse(format!("its value has {len} bytes; raise VALUE_BYTES_MAX here, which is {max}"));
        }
        if !self.may_hold.may_have(record) && !planted::is(Fault::ResidencyIgnored) {
            let prefix = self.may_hold.refused_prefix(record.key);
            return refuse(format!(
                "RESIDENCY does not let this region hold keys under \"{prefix}\"; set the same RESIDENCY on all nodes, and restart the one that sent it"
            ));
        }
        if record.op != RecordOp::Control {
            return Ok(());
        }
        match ControlRecord::decode(record.key, record.value) {
            Err(error) => refuse(error.to_string()),
            Ok(control) if control.is_local() => refuse("a local control record never travels".into()),
            Ok(ControlRecord::Open { node, incarnation, .. }) if super::log_id(node, incarnation) != log => {
                refuse("it opens another log than the one it came in".into())
            }
            Ok(_) => Ok(()),
        }
    }

    /// The number of the next hand-over to a core.
    pub(super) fn hand_over(&mut self, core: u16) -> u64 {
        let track = &mut self.tracks[usize::from(core)];
        track.sent += 1;
        track.sent
    }

    /// A core answered a batch.
    pub fn followed(&mut self, core: u16, sequence: u64, staged: Lsn) {
        let track = &mut self.tracks[usize::from(core)];
        assert!(sequence == track.answered + 1, "a core answers batches in order");
        track.answered = sequence;
        track.staged = track.staged.max(staged);
    }

    /// A core's log became durable further.
    pub fn durable(&mut self, core: u16, durable: Lsn) {
        let track = &mut self.tracks[usize::from(core)];
        track.durable = track.durable.max(durable);
    }

    /// A core's durable end.
    #[must_use]
    pub fn durable_of(&self, core: u16) -> Lsn {
        self.tracks[usize::from(core)].durable
    }
}

/// A part of a batch for one core.
#[derive(Debug)]
pub struct Part {
    /// Which core.
    pub core: u16,
    /// The sequence number of this hand-over.
    pub sequence: u64,
    /// Whole records.
    pub records: Vec<Bytes>,
}

/// One core's share in what a claim waits for.
#[derive(Clone, Copy, Debug)]
struct Requirement {
    core: u16,
    sequence: u64,
    /// Known once the core answered.
    staged: Option<Lsn>,
}

#[derive(Debug)]
enum Waiting {
    Claim {
        claim: Claim,
        requirements: Vec<Requirement>,
        /// By origin, the oldest version that becomes visible with it.
        oldest: Vec<(NodeId, wal::Version)>,
    },
    /// Payload whose credit is returned once every core has it.
    Batch { requirements: Vec<Requirement>, end: u64 },
}

/// A stretch of a log that is durable here, above what is held of it.
#[derive(Debug)]
struct Ahead {
    from: Version,
    to: Version,
    rests_on: BTreeMap<u16, Lsn>,
}

/// The follower's side of one source's connection.
#[derive(Debug, Default)]
pub struct Receiver {
    received: u64,
    granted: u64,
    appended: u64,
    /// Per core, the last sequence of this connection.
    last: Vec<Option<u64>>,
    /// The logs asked for, with the end of retired ones.
    logs: BTreeMap<LogId, Option<Version>>,
    waiting: VecDeque<Waiting>,
    /// Logs that begin late on this connection, with where: what lies below comes on another one.
    begins: BTreeMap<LogId, Version>,
    /// Claims over those, durable here, that wait for what lies below them.
    ahead: BTreeMap<LogId, Ahead>,
    /// By origin, the oldest version that came since the last claim; of each batch the first record is looked at.
    oldest: Vec<(NodeId, wal::Version)>,
    /// What has become visible.
    visible: Vec<(NodeId, wal::Version)>,
}

impl Receiver {
    /// Asks for logs, each with its end if it is retired; also again, for more of them. Gives the credit that holds.
    ///
    /// # Errors
    /// [`StreamError::TooMany`].
    pub fn open(
        &mut self,
        cores: &Cores,
        logs: impl IntoIterator<Item = (LogId, Option<Version>)>,
    ) -> Result<StreamOffset, StreamError> {
        if self.last.is_empty() {
            self.last = vec![None; cores.tracks.len()];
            self.granted = WINDOW_BYTES;
        }
        self.logs.extend(logs);
        if self.logs.len() > LOGS_MAX {
            return Err(StreamError::TooMany("logs"));
        }
        Ok(StreamOffset(self.granted))
    }

    /// Takes a batch; gives the parts to hand to the cores, each exactly once and in order. Records that `is_covered` are left out: what
    /// took their place may have been forgotten, so that a core would take them for new.
    ///
    /// # Errors
    /// See [`StreamError`]; nothing of the batch is handed out.
    pub fn records(
        &mut self,
        batch: &Records,
        cores: &mut Cores,
        is_covered: impl Fn(&RecordView<'_>) -> bool,
    ) -> Result<Vec<Part>, StreamError> {
        let head = &batch.head;
        if head.stream_offset.0 != self.received {
            reach(Mark::StreamBroken);
            return Err(StreamError::Offset { found: head.stream_offset.0, expected: self.received });
        }
        if self.received >= self.granted {
            return Err(StreamError::Flooded);
        }
        if !self.logs.contains_key(&head.log) || head.flags & records::REPAIR != 0 {
            return Err(StreamError::NotAsked(head.log));
        }
        // Behind the checks above: nobody makes this node unpack more than it asked for.
        let payload = batch.unpacked().map_err(|error| {
            reach(Mark::BatchDamaged);
            StreamError::Packed { log: head.log, error }
        })?;
        let count = u16::try_from(cores.tracks.len()).expect("a node has at most 64 cores");
        let mut runs: Vec<Vec<Bytes>> = vec![Vec::new(); usize::from(count)];
        let mut open: Option<(u16, usize)> = None;
        let (mut at, mut found) = (0, 0u32);
        while at < payload.len() {
            let (record, len) = RecordView::parse(&payload[at..]).map_err(|error| {
                reach(Mark::BatchDamaged);
                StreamError::Damaged { log: head.log, index: found, detail: error.to_string() }
            })?;
            cores.accept(head, found, &record)?;
            if found == 0 && head.flags & records::COPIES == 0 && record.op != RecordOp::Control {
                note_oldest(&mut self.oldest, NodeId(record.origin.0), record.version);
            }
            let owner = if record.op == RecordOp::Control { 0 } else { cores.secret.hash(record.key).core(count) };
            let owner = (record.op == RecordOp::Control || !is_covered(&record)).then_some(owner);
            if open.map(|(core, _)| core) != owner {
                if let Some((core, start)) = open {
                    runs[usize::from(core)].push(payload.slice(start..at));
                }
                open = owner.map(|owner| (owner, at));
            }
            at += len;
            found += 1;
        }
        if found != head.count {
            return Err(StreamError::Count { log: head.log, announced: head.count, found });
        }
        if let Some((core, start)) = open {
            runs[usize::from(core)].push(payload.slice(start..));
        }
        self.received += payload.len() as u64;
        let mut parts = Vec::new();
        let mut requirements = Vec::new();
        for (core, records) in (0..count).zip(runs) {
            if records.is_empty() {
                continue;
            }
            let sequence = cores.hand_over(core);
            self.last[usize::from(core)] = Some(sequence);
            requirements.push(Requirement { core, sequence, staged: None });
            parts.push(Part { core, sequence, records });
        }
        self.waiting.push_back(Waiting::Batch { requirements, end: self.received });
        Ok(parts)
    }

    /// Takes a claim. It takes effect from a later [`Receiver::advance`].
    ///
    /// # Errors
    /// [`StreamError::NotAsked`], [`StreamError::BeyondEnd`], [`StreamError::TooMany`].
    pub fn claim(&mut self, claim: Claim, cores: &Cores) -> Result<(), StreamError> {
        let log = claim.log;
        let end = *self.logs.get(&log).ok_or(StreamError::NotAsked(log))?;
        if let Some(end) = end.filter(|end| claim.to > *end) {
            return Err(StreamError::BeyondEnd { log, to: claim.to.0, end: end.0 });
        }
        if self.waiting.len() >= WAITING_MAX {
            return Err(StreamError::TooMany("claims"));
        }
        let requirements = (0u16..)
            .zip(&self.last)
            .filter_map(|(core, sequence)| {
                let sequence = (*sequence)?;
                let track = &cores.tracks[usize::from(core)];
                // Answered already: the staged end at the last answer is at or above that of this batch.
                let staged = (track.answered >= sequence).then_some(track.staged);
                Some(Requirement { core, sequence, staged })
            })
            .collect();
        // What waits for no more than this one may as well be said by it.
        let came = std::mem::take(&mut self.oldest);
        if let Some(Waiting::Claim { claim: last, requirements: needs, oldest }) = self.waiting.back_mut()
            && last.log == log
            && claim.from <= last.to
        {
            last.to = last.to.max(claim.to);
            *needs = requirements;
            came.into_iter().for_each(|(origin, version)| note_oldest(oldest, origin, version));
            return Ok(());
        }
        self.waiting.push_back(Waiting::Claim { claim, requirements, oldest: came });
        Ok(())
    }

    /// A core answered a batch.
    pub fn followed(&mut self, core: u16, sequence: u64, staged: Lsn) {
        for waiting in &mut self.waiting {
            let (Waiting::Claim { requirements, .. } | Waiting::Batch { requirements, .. }) = waiting;
            for requirement in requirements {
                if requirement.core == core && requirement.sequence == sequence {
                    requirement.staged = Some(staged);
                }
            }
        }
    }

    /// Lets claims take effect that nothing holds back any more, in order. Returns whether any did.
    ///
    /// # Errors
    /// [`StreamError::Gap`].
    pub fn advance(&mut self, cores: &Cores, watermarks: &mut Watermarks) -> Result<bool, StreamError> {
        let mut raised = false;
        while let Some(front) = self.waiting.front_mut() {
            match front {
                Waiting::Batch { requirements, end } => {
                    if requirements.iter().any(|requirement| requirement.staged.is_none()) {
                        break;
                    }
                    self.appended = *end;
                }
                Waiting::Claim { claim, requirements, oldest } => {
                    if !is_satisfied(requirements, cores) {
                        break;
                    }
                    let held = watermarks.version(claim.log);
                    let rests_on = requirements.iter().filter_map(|need| Some((need.core, need.staged?)));
                    if claim.from > held && keep_ahead(&self.begins, &mut self.ahead, claim, rests_on.clone()) {
                        self.visible.append(oldest);
                        self.waiting.pop_front();
                        continue;
                    }
                    if claim.from > held && !planted::is(Fault::BacklogForgotten) {
                        reach(Mark::StreamBroken);
                        return Err(StreamError::Gap { log: claim.log, from: claim.from.0, held: held.0 });
                    }
                    watermarks.raise(claim.log, claim.to, rests_on);
                    raised |= claim.to > held;
                    self.visible.append(oldest);
                }
            }
            self.waiting.pop_front();
        }
        Ok(raised)
    }

    /// Payload bytes that have come so far, before packing.
    #[must_use]
    pub fn received(&self) -> StreamOffset {
        StreamOffset(self.received)
    }

    /// Whether everything that came is appended, and every claim has taken effect.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Lets claims take effect that waited for what lies below them, and comes on another connection. Returns whether any did.
    pub fn connect(&mut self, watermarks: &mut Watermarks) -> bool {
        let mut raised = false;
        self.ahead.retain(|log, ahead| {
            let held = watermarks.version(*log);
            if ahead.from > held {
                return true;
            }
            watermarks.raise(*log, ahead.to, std::mem::take(&mut ahead.rests_on));
            raised |= ahead.to > held;
            false
        });
        raised
    }

    /// The source streams these logs from there on only, on this connection.
    pub fn begin_late(&mut self, logs: impl IntoIterator<Item = (LogId, Version)>) {
        self.begins = logs.into_iter().collect();
    }

    /// Whether logs were asked for.
    #[must_use]
    pub fn is_open(&self) -> bool {
        !self.last.is_empty()
    }

    /// What has become visible since the last call: origins, each with the oldest version that it had not shown before.
    pub fn take_visible(&mut self) -> Vec<(NodeId, wal::Version)> {
        std::mem::take(&mut self.visible)
    }

    /// A new credit, once a quarter of the window was appended.
    pub fn credit_due(&mut self) -> Option<StreamOffset> {
        let credit = self.appended + WINDOW_BYTES;
        if credit < self.granted + WINDOW_BYTES / 4 {
            return None;
        }
        self.granted = credit;
        Some(StreamOffset(credit))
    }

    /// The highest version any claim on its way promises for `log`.
    #[must_use]
    pub fn announced(&self, log: LogId) -> Option<Version> {
        let claims = self.waiting.iter().filter_map(|waiting| match waiting {
            Waiting::Claim { claim, .. } if claim.log == log => Some(claim.to),
            _ => None,
        });
        claims.max()
    }
}

/// Keeps a claim whose records are durable, and that waits for what lies below. Whether this is one: its log begins late here, and it goes on
/// where the last one ended.
fn keep_ahead(
    begins: &BTreeMap<LogId, Version>,
    ahead: &mut BTreeMap<LogId, Ahead>,
    claim: &Claim,
    rests_on: impl Iterator<Item = (u16, Lsn)>,
) -> bool {
    if begins.get(&claim.log).is_none_or(|begin| claim.from < *begin) || planted::is(Fault::BacklogForgotten) {
        return false;
    }
    let new = || Ahead { from: claim.from, to: claim.from, rests_on: BTreeMap::new() };
    let kept = ahead.entry(claim.log).or_insert_with(new);
    if claim.from > kept.to {
        return false;
    }
    reach(Mark::ClaimAhead);
    kept.to = kept.to.max(claim.to);
    for (core, lsn) in rests_on {
        let rest = kept.rests_on.entry(core).or_default();
        *rest = (*rest).max(lsn);
    }
    true
}

/// Keeps the oldest version of each origin, of a few origins.
fn note_oldest(oldest: &mut Vec<(NodeId, wal::Version)>, origin: NodeId, version: wal::Version) {
    if let Some((_, known)) = oldest.iter_mut().find(|(known, _)| *known == origin) {
        *known = version.min(*known);
    } else if oldest.len() < ORIGINS_MAX {
        oldest.push((origin, version));
    }
}

fn is_satisfied(requirements: &[Requirement], cores: &Cores) -> bool {
    let mut durable = requirements
        .iter()
        .map(|need| need.staged.is_some_and(|staged| cores.tracks[usize::from(need.core)].durable >= staged));
    if planted::is(Fault::ClaimBeforeSlowestCore) {
        return requirements.is_empty() || durable.any(|durable| durable);
    }
    durable.all(|durable| durable)
}
