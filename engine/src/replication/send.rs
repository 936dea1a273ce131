//! Send: streams this node's own logs to one follower, from the follower's positions; and what it holds of others' in
//! [passes](super::pass).
//!
//! Records first, then the claim over them, as separate messages. What is sent lies below the durable position, always:
//! it comes from frames that were reported durable, or from file bytes below that position.

mod giving;

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use net::ids::{Class, CoreIndex, LogId, StreamOffset};
use net::wire::body::{Backlog, BacklogLog, Claim, Compression, FollowLog, RecordsHead, records};
use net::wire::limits::WATERMARKS_MAX;
use wal::marks::{Mark, reach};
use wal::planted::{self, Fault};
use wal::{FrameKind, Lsn, Version};

use super::backlog;
use super::bootstrap::Given;
use super::cursor::{Cursor, highest_version, split};
use super::known::KnownLogs;
use super::logs::{CoreLog, OwnLog, OwnLogs, SegmentRef};
use super::pass::{Covered, Ended, Pass, PassPiece};
use super::watermarks::Watermarks;
use super::{BATCH_BYTES, from_wire, to_wire};
use crate::shard::{Copies, Removable};
use crate::startup::OldRun;

/// Bytes of one bulk read; doubled for a frame that does not fit.
pub(super) const READ_BYTES: u32 = 512 * 1024;

/// A bulk read that the driver performs; answer with [`Sender::read_done`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadRequest {
    /// Which file.
    pub segment: SegmentRef,
    /// Byte offset in it.
    pub offset: u64,
    /// Bytes wanted.
    pub len: u32,
}

/// What to do next for this follower.
#[derive(Debug)]
pub enum Step {
    /// Send these records.
    Records {
        /// The message's head.
        head: RecordsHead,
        /// The payload, pinned in the segments.
        runs: Vec<Bytes>,
    },
    /// Send this claim.
    Claim(Claim),
    /// Read from a segment file.
    Read(ReadRequest),
    /// Ask the cores which of these records count; answer with [`Sender::asked_cores`] and [`Sender::sifted`].
    Sift(Bytes),
    /// A bootstrap was sent; this is what was said of this node when it began.
    Given(Given),
    /// Nothing until something becomes durable, credit arrives or a read ends.
    Idle,
}

#[derive(Debug)]
struct Stream {
    log: LogId,
    /// Where the follower started: frames that end their clock at or below this are skipped.
    from: Version,
    /// The follower gets what is above this on another connection.
    upto: Version,
    claimed: Version,
    /// No claim below this: [`OwnLog::claims_begin_at`](super::logs::OwnLog::claims_begin_at).
    claims_begin_at: Version,
    cursors: Vec<Cursor>,
    next_core: usize,
}

/// The source's side of one follower's connection.
#[derive(Debug, Default)]
pub struct Sender {
    streams: Vec<Stream>,
    sent: u64,
    credit: u64,
    reading: Option<(usize, usize, ReadRequest)>,
    /// The stream that sent last: a claim over it is due.
    claim_due: Option<usize>,
    next_stream: usize,
    passes: Passes,
    /// On a live connection: what was found to lie too far back when the first logs were asked for.
    backlog: Option<Vec<BacklogLog>>,
}

/// What a node can hand on of other nodes' logs.
#[derive(Clone, Copy, Debug)]
pub struct Held<'a> {
    /// Its own logs.
    pub logs: &'a OwnLogs,
    /// What is left of its earlier runs, oldest first.
    pub old_runs: &'a [OldRun],
    /// The logs of others.
    pub known: &'a KnownLogs,
    /// How far it holds those.
    pub watermarks: &'a Watermarks,
    /// The running log of the follower, who holds all that it has written there.
    pub follower: Option<LogId>,
}

/// A follower's passes.
#[derive(Debug, Default)]
struct Passes {
    /// What the follower holds, as it told last.
    vector: BTreeMap<LogId, net::ids::Version>,
    /// Other nodes' logs that it asked for.
    wanted: Vec<LogId>,
    under_way: Option<Pass>,
    /// The pass under way is a bootstrap.
    giving: Option<Given>,
    last: Option<Ended>,
}

impl Passes {
    fn is_reading(&self) -> bool {
        self.under_way.as_ref().is_some_and(Pass::is_reading)
    }

    /// A pass, if this node holds more of what the follower wants than the follower does.
    fn open(&mut self, held: &Held<'_>) -> Option<Pass> {
        let told = |log: LogId| self.vector.get(&log).copied().unwrap_or_default();
        let claim = |log: &LogId| {
            let (from, to) = (told(*log), held.watermarks.version(*log));
            let is_more = to > from && held.known.contains(*log);
            is_more.then_some(Claim { log: *log, from, to, flags: 0, class: Class(0) })
        };
        let claims: Vec<Claim> = self.wanted.iter().filter_map(claim).collect();
        if claims.is_empty() {
            return None;
        }
        let others = held.known.firsts().map(|(log, first)| (log, from_wire(first)));
        let own = held.logs.logs.iter().map(|log| (log.id, log.first));
        let covered = Covered::new(others.chain(own), |log| match held.follower == Some(log) {
            true => Version(u64::MAX),
            false => from_wire(told(log)),
        });
        self.wanted = Vec::new();
        let old = held.old_runs.iter().flat_map(|run| &run.segments).copied();
        let cores = held.logs.logs.last().map_or(0, |running| running.cores.len());
        Some(Pass::open(covered, claims, self.last.as_ref(), old, cores))
    }
}

/// A bulk read brought something that is not this log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "segment {number} of core {core} does not hold its durable frames at offset {offset}: {detail}; run a check of this node's log"
)]
pub struct SourceDamage {
    number: u64,
    core: u16,
    offset: u64,
    detail: String,
}

impl SourceDamage {
    pub(super) fn new(request: &ReadRequest, detail: String) -> SourceDamage {
        let ReadRequest { segment, offset, .. } = *request;
        SourceDamage { number: segment.number.0, core: segment.core.0, offset, detail }
    }
}

impl Sender {
    /// The follower tells what it holds, of this node's logs and of others. Logs behind as many as a vector may have are not
    /// remembered: of what is not known to be held more is sent.
    pub fn told(&mut self, watermarks: &net::wire::body::Watermarks) {
        let vector = &mut self.passes.vector;
        if watermarks.full {
            vector.clear();
        }
        for entry in &watermarks.entries {
            if vector.len() < WATERMARKS_MAX || vector.contains_key(&entry.log) {
                vector.insert(entry.log, entry.version);
            }
        }
    }

    /// The follower asks for streams; those of this node's logs that it asked for before on this connection go on. Of other nodes'
    /// logs it gets one pass, as soon as this node holds more of them than it does; asking again takes back what it asked for before.
    pub fn follow(&mut self, logs: &OwnLogs, wanted: &[FollowLog], credit: StreamOffset) {
        self.credit = self.credit.max(credit.0);
        let of_others = wanted.iter().map(|entry| entry.log).filter(|log| logs.get(*log).is_none());
        self.passes.wanted = of_others.collect();
        for entry in wanted {
            let Some(log) = logs.get(entry.log) else { continue };
            if let Some(stream) = self.streams.iter_mut().find(|stream| stream.log == entry.log) {
                stream.upto = stream.upto.max(from_wire(entry.upto));
                continue;
            }
            let from = from_wire(entry.from);
            let cursors = log
                .cores
                .iter()
                .map(|core| Cursor {
                    // Copies may stand anywhere: marks say nothing of versions whose originals are gone.
                    next: if from < core.copies.below { core.begin() } else { core.start_for(from) },
                    wants_copies: from < core.copies.below && !planted::is(Fault::CopiesNotSent),
                    shipped: from,
                    pieces: VecDeque::new(),
                    read_bytes: READ_BYTES,
                    finished: None,
                    from_memory: false,
                })
                .collect();
            let claims_begin_at = log.claims_begin_at(from);
            if claims_begin_at > Version::ZERO {
                reach(Mark::LogBeginsLate);
            }
            if log.end.is_some() {
                reach(Mark::RetiredLogFollowed);
            }
            let upto = from_wire(entry.upto);
            let stream = Stream { log: entry.log, from, upto, claimed: from, claims_begin_at, cursors, next_core: 0 };
            self.streams.push(stream);
        }
    }

    /// The follower asks for streams on a live connection. If it lacks more than `bytes_max` of this node's logs it gets what is written
    /// from now on there; the rest, of which it is told, it is to ask for elsewhere.
    pub fn follow_live(
        &mut self,
        logs: &OwnLogs,
        wanted: &[FollowLog],
        credit: StreamOffset,
        bytes_max: u64,
    ) -> Option<Backlog> {
        if !wanted.iter().any(|entry| logs.get(entry.log).is_some()) {
            self.follow(logs, wanted, credit);
            return None;
        }
        if self.backlog.is_none() {
            let lacking = backlog::of(logs, wanted, bytes_max);
            if !lacking.is_empty() {
                reach(Mark::BacklogElsewhere);
            }
            self.backlog = Some(lacking);
        }
        let lacking = self.backlog.clone().unwrap_or_default();
        self.follow(logs, &backlog::left_to_follow(logs, wanted, &lacking), credit);
        let left = backlog::bytes_of(logs, wanted, &lacking);
        Some(Backlog { left, logs: lacking })
    }

    /// About how many bytes of this node's logs are left to be read for the follower; `None` if it asked for none.
    #[must_use]
    pub fn left(&self, logs: &OwnLogs) -> Option<u64> {
        let of_stream = |(stream, upto): (&Stream, Version)| {
            let cores = logs.get(stream.log).map_or(&[][..], |log| &log.cores);
            stream.cursors.iter().zip(cores).map(|(cursor, core)| cursor.left(core, upto)).sum::<u64>()
        };
        (!self.streams.is_empty()).then(|| self.streams.iter().zip(self.needed(logs)).map(of_stream).sum())
    }

    /// Up to where each stream is needed: as far as was asked, and as far as claims over it, and over earlier logs, rest on it.
    fn needed(&self, logs: &OwnLogs) -> Vec<Version> {
        let own = |stream: &Stream| logs.get(stream.log).map(|log| (log.first, log.rests_on_later_upto));
        let firsts: Vec<_> = self.streams.iter().map(own).collect();
        let resting = firsts.iter().flatten().filter(|(_, upto)| *upto > Version::ZERO);
        let resting: Vec<_> = resting.collect();
        let upto = |(stream, own): (&Stream, &Option<(Version, Version)>)| {
            let Some((first, _)) = own else { return Version::ZERO };
            let needed = resting.iter().filter(|(earlier, _)| earlier < first).map(|(_, upto)| *upto);
            needed.fold(stream.upto.max(stream.claims_begin_at), Version::max)
        };
        self.streams.iter().zip(&firsts).map(upto).collect()
    }

    /// The follower raised its credit.
    pub fn credit(&mut self, offset: StreamOffset) {
        self.credit = self.credit.max(offset.0);
    }

    /// Payload bytes sent so far.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// So many bytes of the last batch were left out before it was sent: the follower counts only what it gets.
    pub fn withheld(&mut self, bytes: u32) {
        self.sent = self.sent.saturating_sub(bytes.into());
    }

    /// How far the claims over a log went.
    #[must_use]
    pub fn claimed(&self, log: LogId) -> Option<Version> {
        self.streams.iter().find(|stream| stream.log == log).map(|stream| stream.claimed)
    }

    /// From where on `core`'s part of `log` will be read, if it is.
    #[must_use]
    pub fn reads_from(&self, log: LogId, core: u16) -> Option<Lsn> {
        let streams = self.streams.iter().filter(|stream| stream.log == log);
        let by_streams = streams.filter_map(|stream| stream.cursors.get(usize::from(core))).map(|cursor| cursor.next);
        let by_pass = self.passes.under_way.as_ref().and_then(|pass| pass.reads_from(usize::from(core)));
        by_streams.chain(by_pass).min()
    }

    /// Goes on behind what is about to be removed from `core`'s part of `log`. Claims wait until the follower holds what superseded
    /// it, and the copies. Whether that was possible; a read that is under way ends first.
    pub fn skip_to(&mut self, log: LogId, core: u16, removed: &Removable) -> bool {
        let (core, end) = (usize::from(core), removed.end);
        let reads = |stream: usize| self.reading.is_some_and(|(reading, of, _)| (reading, of) == (stream, core));
        let streams = self.streams.iter().enumerate().filter(|(_, stream)| stream.log == log);
        let behind = |stream: &Stream| stream.cursors.get(core).is_some_and(|cursor| cursor.next < end);
        let skipping: Vec<usize> = streams.filter(|(_, stream)| behind(stream)).map(|(index, _)| index).collect();
        if skipping.iter().any(|stream| reads(*stream)) {
            return false;
        }
        if self.passes.under_way.as_mut().is_some_and(|pass| !pass.skip_to(core, removed)) {
            return false;
        }
        for stream in skipping {
            reach(Mark::FollowerSkipsSegment);
            let stream = &mut self.streams[stream];
            stream.claims_begin_at = stream.claims_begin_at.max(removed.replaced_upto);
            let cursor = &mut stream.cursors[core];
            cursor.next = end;
            cursor.wants_copies |= removed.copies != Copies::default() && !planted::is(Fault::CopiesNotSent);
        }
        true
    }

    /// The next thing to send or read.
    pub fn step(&mut self, logs: &OwnLogs) -> Step {
        if let Some(claim) = self.claim_behind(logs) {
            return Step::Claim(claim);
        }
        let count = self.streams.len();
        let needed = self.needed(logs);
        // What lies in files is fetched beside the sending: a link that live writes keep busy must not leave it behind.
        if let Some(step) = self.read(logs, &needed) {
            return step;
        }
        // Streams and their cores take turns.
        for turn in 0..count {
            let index = (self.next_stream + turn) % count;
            let Some(log) = logs.get(self.streams[index].log) else { continue };
            let cores = self.streams[index].cursors.len();
            let first = self.streams[index].next_core;
            for core in (0..cores).map(|turn| (first + turn) % cores) {
                let Some(core_log) = log.cores.get(core) else { continue };
                self.refill(index, core, core_log, needed[index]);
                if let Some(step) = self.send(index, core) {
                    self.claim_due = Some(index);
                    self.next_stream = index + 1;
                    self.streams[index].next_core = core + 1;
                    return step;
                }
            }
        }
        for index in 0..count {
            if let Some(claim) = self.claim(logs, index) {
                return Step::Claim(claim);
            }
        }
        Step::Idle
    }

    /// The claim that the batch before it allows.
    pub fn claim_behind(&mut self, logs: &OwnLogs) -> Option<Claim> {
        let index = self.claim_due.take()?;
        self.claim(logs, index)
    }

    /// Takes frames that are in hand; skips to the end of the log when there is none.
    fn refill(&mut self, stream: usize, core: usize, log: &CoreLog, upto: Version) {
        let from = self.streams[stream].from;
        let cursor = &mut self.streams[stream].cursors[core];
        if !cursor.pieces.is_empty() || cursor.owes_copies(log) || cursor.is_done(log, upto) {
            return;
        }
        let Some(frames) = log.recent_from(cursor.next) else {
            if cursor.next >= log.durable {
                cursor.shipped = cursor.shipped.max(log.complete);
            }
            return;
        };
        let mut taken = 0;
        let mut exhausted = true;
        for durable in frames {
            if taken >= BATCH_BYTES {
                exhausted = false;
                break;
            }
            cursor.next = durable.frame.end;
            cursor.from_memory = true;
            if durable.frame.hlc > from {
                taken += durable.payload.len();
                let reaches = durable.frame.max_version;
                split(&durable.payload, durable.frame.records, Some(reaches), false, &mut cursor.pieces);
            }
        }
        if exhausted {
            cursor.next = cursor.next.max(log.durable);
            cursor.from_memory = true;
            if cursor.pieces.is_empty() {
                cursor.shipped = cursor.shipped.max(log.complete);
            } else if let Some(last) = cursor.pieces.back_mut() {
                last.reaches = last.reaches.max(Some(log.complete));
            }
        }
    }

    fn send(&mut self, stream: usize, core: usize) -> Option<Step> {
        let cursor = &self.streams[stream].cursors[core];
        if self.sent >= self.credit {
            if !cursor.pieces.is_empty() {
                reach(Mark::CreditExhausted);
            }
            return None;
        }
        let log = self.streams[stream].log;
        let cursor = &mut self.streams[stream].cursors[core];
        let mut runs: Vec<Bytes> = Vec::new();
        let (mut bytes, mut count) = (0, 0);
        let copies = cursor.pieces.front().is_some_and(|piece| piece.copies);
        while let Some(piece) = cursor.pieces.front().filter(|piece| piece.copies == copies) {
            if bytes > 0 && bytes + piece.bytes.len() > BATCH_BYTES {
                break;
            }
            bytes += piece.bytes.len();
            count += piece.records;
            if let Some(piece) = cursor.pieces.pop_front() {
                if let Some(reaches) = piece.reaches {
                    cursor.shipped = cursor.shipped.max(reaches);
                }
                runs.push(piece.bytes);
            }
        }
        if runs.is_empty() {
            return None;
        }
        let head = RecordsHead {
            log,
            core: CoreIndex(u16::try_from(core).unwrap_or(u16::MAX)),
            flags: if copies { records::COPIES } else { 0 },
            stream_offset: StreamOffset(self.sent),
            count,
            raw_bytes: u32::try_from(bytes).expect("a batch is at most one record larger than BATCH_BYTES"),
            compression: Compression::None,
        };
        self.sent += bytes as u64;
        Some(Step::Records { head, runs })
    }

    /// Whether later logs hold something that stands for the lost beginning of `log` and that was not sent yet.
    fn owes_what_replaced(&self, log: &OwnLog, logs: &OwnLogs) -> bool {
        if log.rests_on_later_upto == Version::ZERO {
            return false;
        }
        logs.logs.iter().filter(|later| later.first > log.first).any(|later| {
            let Some(stream) = self.streams.iter().find(|stream| stream.log == later.id) else {
                // A retired one that was not asked for is held.
                return later.end.is_none();
            };
            let needed = log.rests_on_later_upto.min(later.end.unwrap_or(Version(u64::MAX)));
            let originated = needed >= later.first && stream.claimed < needed;
            originated || stream.cursors.iter().zip(&later.cores).any(|(cursor, core)| cursor.owes_copies(core))
        })
    }

    /// The claim that what was sent so far allows, if it says anything new.
    fn claim(&mut self, logs: &OwnLogs, index: usize) -> Option<Claim> {
        let stream = &self.streams[index];
        let log = logs.get(stream.log)?;
        if stream.cursors.iter().zip(&log.cores).any(|(cursor, core)| cursor.owes_copies(core)) {
            reach(Mark::ClaimHeldBack);
            return None;
        }
        if stream.from < log.end.unwrap_or(Version::ZERO) && self.owes_what_replaced(log, logs) {
            reach(Mark::ClaimWaitedForCopies);
            return None;
        }
        let stream = &mut self.streams[index];
        // Never beyond what the owner itself promises.
        let reached = |(cursor, core): (&Cursor, &CoreLog)| {
            let all = cursor.pieces.is_empty() && cursor.next >= core.durable;
            if all { core.complete } else { cursor.shipped.min(core.complete) }
        };
        let promises = stream.cursors.iter().zip(&log.cores).map(reached);
        let to = if planted::is(Fault::ClaimOfBusiestCore) { promises.max() } else { promises.min() }?;
        if to <= stream.claimed {
            return None;
        }
        if to < stream.claims_begin_at && !planted::is(Fault::ClaimBeforeReplaced) {
            reach(Mark::ClaimHeldBack);
            return None;
        }
        if Some(to) == log.end {
            reach(Mark::RetiredLogEnded);
        }
        let claim =
            Claim { log: stream.log, from: to_wire(stream.claimed), to: to_wire(to), flags: 0, class: Class(0) };
        stream.claimed = to;
        Some(claim)
    }

    /// The bulk read that the most backward cursor needs, if any needs one.
    fn read(&mut self, logs: &OwnLogs, needed: &[Version]) -> Option<Step> {
        if self.reading.is_some() || self.passes.is_reading() || self.sent >= self.credit {
            return None;
        }
        let mut chosen: Option<(Version, usize, usize, ReadRequest)> = None;
        for (index, stream) in self.streams.iter_mut().enumerate() {
            let Some(log) = logs.get(stream.log) else { continue };
            for (core, (cursor, core_log)) in stream.cursors.iter_mut().zip(&log.cores).enumerate() {
                if let Some(request) = cursor.wanted(core_log, needed[index])
                    && chosen.is_none_or(|(shipped, ..)| cursor.shipped < shipped)
                {
                    chosen = Some((cursor.shipped, index, core, request));
                }
            }
        }
        let (_, index, core, request) = chosen?;
        reach(Mark::CaughtUpFromFiles);
        self.reading = Some((index, core, request));
        Some(Step::Read(request))
    }

    /// The bytes of the bulk read.
    ///
    /// # Errors
    /// When they are not what the log held when it was written.
    pub fn read_done(&mut self, bytes: &Bytes) -> Result<(), SourceDamage> {
        let Some((stream, core, request)) = self.reading.take() else {
            return self.passes.under_way.as_mut().map_or(Ok(()), |pass| pass.read_done(bytes));
        };
        let from = self.streams[stream].from;
        let cursor = &mut self.streams[stream].cursors[core];
        let damage = |detail: String| SourceDamage::new(&request, detail);
        let start = Lsn(request.segment.base.0 + request.offset);
        let mut frames = wal::frames(bytes, start, request.segment.cookie);
        let mut ended = false;
        for frame in frames.by_ref() {
            let frame = frame.map_err(|error| damage(error.to_string()))?;
            cursor.next = frame.end();
            ended = frame.is_last_of_segment();
            if frame.kind() == FrameKind::Compacted && cursor.wants_copies {
                reach(Mark::CopiesSent);
                let payload = bytes.slice_ref(frame.payload());
                split(&payload, frame.records_count(), None, true, &mut cursor.pieces);
            }
            if frame.kind() == FrameKind::Originated && frame.records_count() > 0 && frame.hlc() > from {
                let payload = bytes.slice_ref(frame.payload());
                let reaches = highest_version(&payload).map_err(|error| damage(error.to_string()))?;
                // A read may begin before what was sent from memory.
                if reaches > cursor.shipped {
                    split(&payload, frame.records_count(), Some(reaches), false, &mut cursor.pieces);
                } else {
                    reach(Mark::ReadOverlapsSent);
                }
            }
        }
        if ended {
            cursor.finished = Some(request.segment.base);
        }
        let consumed = frames.consumed();
        if consumed == 0 && !ended {
            // Less than a whole read was wanted: that was all there is.
            if bytes.len() < request.len as usize || request.len < cursor.read_bytes {
                return Err(damage("no whole frame".into()));
            }
            cursor.read_bytes = cursor.read_bytes.saturating_mul(2);
        } else {
            cursor.read_bytes = READ_BYTES;
        }
        Ok(())
    }

    /// Whether the follower waits for a pass: what else this node comes to hold may open one.
    #[must_use]
    pub fn wants_pass(&self) -> bool {
        !self.passes.wanted.is_empty()
    }

    /// The next thing to send or read for a pass, when there is nothing for the streams.
    pub fn pass_step(&mut self, held: &Held<'_>) -> Step {
        loop {
            if self.passes.under_way.is_none() {
                self.passes.under_way = self.passes.open(held);
            }
            let (Some(pass), Some(running)) = (&mut self.passes.under_way, held.logs.logs.last()) else {
                return Step::Idle;
            };
            if self.sent >= self.credit {
                if pass.has_pieces() {
                    reach(Mark::CreditExhausted);
                }
                return Step::Idle;
            }
            if let Some(PassPiece { core, bytes, records: count }) = pass.next_piece() {
                let raw_bytes =
                    u32::try_from(bytes.len()).expect("a batch is at most one record larger than BATCH_BYTES");
                let head = RecordsHead {
                    log: running.id,
                    core: CoreIndex(core),
                    flags: if self.passes.giving.is_some() {
                        records::PASS | records::BOOTSTRAP
                    } else {
                        records::PASS
                    },
                    stream_offset: StreamOffset(self.sent),
                    count,
                    raw_bytes,
                    compression: Compression::None,
                };
                self.sent += u64::from(raw_bytes);
                return Step::Records { head, runs: vec![bytes] };
            }
            if pass.is_reading() || self.reading.is_some() || pass.is_sifting() {
                return Step::Idle;
            }
            if let Some(records) = pass.next_to_sift() {
                return Step::Sift(records);
            }
            if let Some(request) = pass.read(running) {
                return Step::Read(request);
            }
            if pass.has_to_go_on() {
                // What is not durable yet is read once it is.
                return pass.read(running).map_or(Step::Idle, Step::Read);
            }
            // Whatever was read last may have brought more to send, which went out before this.
            if let Some(mut claim) = pass.next_claim() {
                if planted::is(Fault::PassClaimsItsEnd) {
                    claim.to = held.watermarks.version(claim.log);
                }
                return Step::Claim(claim);
            }
            reach(Mark::PassEnded);
            self.passes.last = Some(pass.ended());
            self.passes.under_way = None;
            if let Some(given) = self.passes.giving.take() {
                return Step::Given(given);
            }
        }
    }

    /// The file of a read was removed because nobody needs it any more: of a log that the follower holds, by now, or of one whose
    /// records a pass finds elsewhere.
    pub fn read_gone(&mut self) {
        if self.reading.take().is_none()
            && let Some(pass) = &mut self.passes.under_way
        {
            pass.read_gone();
        }
    }

    /// The bulk read failed; it is asked for again with the next step.
    pub fn read_failed(&mut self) {
        self.reading = None;
    }
}
