//! Group commit of one core: sealing, one sync or direct write at a time, and what its completion sets free.

use net::reactor::{Completion, Io, Mono, Op, Outcome};
use wal::marks::{Mark, reach};
use wal::planted::{self, Fault};
use wal::{CommitPath, SegmentNumber, Version};

use super::CoreLoop;
use super::ops::Context;
use super::segments::Segments;
use super::stages::GroupClock;
use crate::host::Host;
use crate::messages::CoreEvent;
use crate::node::Durability;

/// With `DURABILITY=os`, the longest that acknowledged bytes stay un-synced.
const BACKGROUND_SYNC_MS: u64 = 100;

/// How often the control thread is told what is durable when nobody follows.
const UNSHIPPED_REPORT_MS: u64 = 100;

/// How long a log is quiet before its last group is sealed by an empty frame.
const IDLE_SEAL_MS: u64 = 50;

/// A file of a segment that may still be committed to or sealed.
#[derive(Debug)]
pub(super) struct SegmentFile<F> {
    pub(super) number: SegmentNumber,
    pub(super) file: F,
    /// The same file around the page cache, for direct writes.
    pub(super) direct: Option<F>,
}

/// The state of a core's disk work.
#[derive(Debug)]
pub(crate) struct Commit<H: Host> {
    pub(super) segments: Segments,
    /// Newest last.
    pub(super) files: Vec<SegmentFile<H::File>>,
    pub(super) clock: GroupClock,
    syncing: bool,
    last_sync: Mono,
    last_append: Mono,
    idle_sealed: bool,
    /// The first segment was announced to the control thread.
    announced: bool,
    pub(super) failed: bool,
    /// Un-synced bytes wait for the background sync.
    background: bool,
    /// No room for the clock's ceiling, and that was said.
    ceiling_stuck: bool,
    /// The same, also for a reason that will pass.
    pub(super) ceiling_waits: bool,
    /// When the control thread was last told what is durable, where nobody follows.
    reported: Mono,
    /// Until the promise reaches this it is told always.
    report_until: Version,
}

impl<H: Host> Commit<H> {
    pub(super) fn new(segments: Segments) -> Self {
        Commit {
            segments,
            files: Vec::new(),
            clock: GroupClock::default(),
            syncing: false,
            last_sync: Mono(0),
            last_append: Mono(0),
            idle_sealed: false,
            announced: false,
            failed: false,
            background: false,
            ceiling_stuck: false,
            ceiling_waits: false,
            reported: Mono(0),
            report_until: Version::ZERO,
        }
    }

    /// The control thread is told of every sync until the promise reaches `version`.
    pub(super) fn report_until(&mut self, version: Version) {
        self.report_until = self.report_until.max(version);
    }

    /// Whether a group is on its way to the disk.
    pub(super) fn is_syncing(&self) -> bool {
        self.syncing
    }

    /// The next instant at which something has to be done without any completion.
    pub(super) fn deadline(&self) -> Option<Mono> {
        let idle = (!self.idle_sealed && !self.syncing).then(|| self.last_append.plus_ms(IDLE_SEAL_MS));
        let background = (!self.syncing && self.background).then(|| self.last_sync.plus_ms(BACKGROUND_SYNC_MS));
        [idle, background, self.segments.deadline()].into_iter().flatten().min()
    }
}

impl<H: Host> CoreLoop<H> {
    /// Commits what was staged in this tick and keeps the next segment ready.
    pub(super) fn commit(&mut self) {
        if self.commit.failed {
            self.finish_if_stopping();
            return;
        }
        if !self.commit.announced {
            self.commit.announced = true;
            let (number, cookie, base) = self.shard.first_segment();
            self.tell(CoreEvent::Segment { number, cookie, base });
        }
        // Copies of old records ride in the group that is about to be sealed.
        if !self.commit.syncing || self.facts.durability == Durability::Os {
            self.compact();
        }
        self.start_sync();
        self.keep_segments();
        self.finish_if_stopping();
    }

    fn start_sync(&mut self) {
        let now = self.now();
        if self.shard.has_unsealed() {
            self.commit.last_append = now;
            self.commit.idle_sealed = false;
            self.commit.clock.appended(now);
        }
        if self.facts.durability == Durability::Os {
            // What is shown must be in a sealed frame: recovery sees no other, and the process may die at any time.
            self.seal_group();
        }
        if self.commit.syncing {
            return;
        }
        self.commit.background = self.facts.durability == Durability::Os
            && self.shard.log().commit_path() == CommitPath::Mmap
            && !self.ships
            && !self.stopping
            && self.shard.log().written() > self.shard.log().durable()
            // Each sync is of one segment: a full one would make the next wait longer.
            && self.shard.log().oldest_live_segment() == self.shard.log().append_position().0
            && now < self.commit.last_sync.plus_ms(BACKGROUND_SYNC_MS);
        if self.commit.background {
            return;
        }
        let sealing = self.io.now();
        self.seal_group();
        #[cfg(planted)]
        if planted::is(Fault::ShipBeforeDurable) {
            let written = self.shard.take_written();
            self.report_durable(written);
        }
        if !self.submit_commit(sealing) {
            self.seal_idle(now);
        }
    }

    /// Submits what makes the next group durable, whose sealing began at `sealing`. Whether there was one.
    fn submit_commit(&mut self, sealing: Mono) -> bool {
        let Some(commit) = self.shard.next_commit() else { return false };
        let number = commit.request().segment;
        let file = self.commit.files.iter().rev().find(|file| file.number == number);
        let op = match (commit, file) {
            (wal::Commit::Sync { range, .. }, Some(SegmentFile { file, .. })) => {
                Op::Sync { file: file.clone(), range: Some(range) }
            }
            (wal::Commit::Write { offset, bytes, .. }, Some(SegmentFile { direct: Some(file), .. })) => {
                Op::Write { file: file.clone(), offset, bytes, dsync: true }
            }
            _ => {
                self.fail(&format!("segment {} has no file to commit to", number.0));
                return true;
            }
        };
        self.commit.syncing = true;
        self.commit.last_sync = self.now();
        self.ops.submit(&mut self.io, op, Context::Sync);
        let submitted = self.io.now();
        self.commit.clock.submitted(sealing, submitted);
        true
    }

    /// Closes what was staged, so that recovery finds it.
    fn seal_group(&mut self) {
        let error = self.shard.seal_group().err();
        self.commit.ceiling_waits = error.is_some();
        let lasting = error.filter(|error| !error.is_transient());
        if let Some(error) = lasting
            && !self.commit.ceiling_stuck
        {
            tracing::warn!(core = self.core, %error, "the clock's ceiling cannot be raised; followers wait for this core's claim");
        }
        self.commit.ceiling_stuck = lasting.is_some();
    }

    /// Declares the last group durable once the log is quiet, so that later damage there is not taken for a torn tail.
    fn seal_idle(&mut self, now: Mono) {
        let quiet = now >= self.commit.last_append.plus_ms(IDLE_SEAL_MS) || self.stopping;
        if !self.commit.idle_sealed && quiet {
            self.commit.idle_sealed = true;
            self.shard.seal_idle();
            // The empty frame itself is committed like any group.
            self.submit_commit(now);
        }
    }

    pub(super) fn disk_completed(&mut self, context: Context, completion: Completion<H::File>) {
        match (context, completion.result) {
            (Context::Sync, Ok(_)) => {
                self.commit.syncing = false;
                self.commit.clock.completed(self.io.now());
                let frames = self.shard.sync_done();
                if self.ships {
                    self.report_durable(frames);
                } else if self.commit.report_until > Version::ZERO {
                    if self.shard.complete() >= self.commit.report_until {
                        self.commit.report_until = Version::ZERO;
                    }
                    self.report_durable(Vec::new());
                } else if self.commit.reported == Mono(0)
                    || self.now() >= self.commit.reported.plus_ms(UNSHIPPED_REPORT_MS)
                {
                    // Nobody follows: the control thread only shows it. Waking it for every group would cost a switch each.
                    // The first one says that the log is open, and an idle log has no second.
                    self.commit.reported = self.now();
                    self.report_durable(Vec::new());
                }
            }
            (Context::Sync, Err(_)) if planted::is(Fault::RetryFailedSync) => {
                let oldest = self.shard.log().oldest_live_segment();
                if let Some(SegmentFile { file, .. }) = self.commit.files.iter().find(|file| file.number == oldest) {
                    self.ops.submit(&mut self.io, Op::Sync { file: file.clone(), range: None }, Context::Sync);
                }
            }
            (Context::Sync, Err(error)) => {
                self.commit.syncing = false;
                let (what, mark) = match self.shard.log().commit_path() {
                    CommitPath::Mmap => ("fdatasync of the log", Mark::SyncFailed),
                    CommitPath::Direct => ("a write to the log", Mark::WriteFailed),
                };
                reach(mark);
                self.fail(&format!("{what} failed: {error}"));
            }
            (Context::Prepare, Ok(Outcome::Opened(file))) => self.prepared(file),
            (Context::Rename, Ok(_)) => self.renamed(),
            (context, result) => self.segment_job_ended(context, result.err()),
        }
    }

    /// A failed sync is final: no acknowledgement after it anywhere on the node.
    pub(super) fn fail(&mut self, reason: &str) {
        tracing::error!(core = self.core, reason, "the log failed");
        self.commit.failed = true;
        self.shard.sync_failed();
        self.gauges.log_failed.store(1, std::sync::atomic::Ordering::Relaxed);
        self.tell(CoreEvent::Failed(reason.to_owned()));
    }

    fn finish_if_stopping(&mut self) {
        if !self.stopping || self.stopped || self.commit.syncing || self.is_in_transaction() {
            return;
        }
        let log = self.shard.log();
        let is_durable = log.durable() == log.staged();
        if self.commit.failed {
            self.end();
        } else if is_durable && (self.commit.idle_sealed || self.commit.ceiling_waits) {
            self.close();
        }
    }
}
