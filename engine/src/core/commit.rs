//! The log's disk work of one core: group commit, the next segment, seals.

use std::path::PathBuf;

use net::reactor::{Completion, FileJob, Io, Mono, Op, Outcome};
use wal::{Cookie, Mapping, Segment, SegmentHeader, SegmentNumber};

use super::CoreLoop;
use super::ops::Context;
use crate::host::{Host, segment_path};
use crate::messages::CoreEvent;
use crate::node::Durability;

/// With `DURABILITY=os`, the longest that acknowledged bytes stay un-synced.
const BACKGROUND_SYNC_MS: u64 = 100;

/// How often the control thread is told what is durable when nobody follows.
const UNSHIPPED_REPORT_MS: u64 = 100;

/// How long a log is quiet before its last group is sealed by an empty frame.
const IDLE_SEAL_MS: u64 = 50;

/// How long after a failure to prepare a segment the next attempt comes.
const PREPARE_RETRY_MS: u64 = 1000;

/// Pages are made present this far ahead of the appends.
const POPULATE_BYTES: usize = 1024 * 1024;

/// A segment on its way to the log.
#[derive(Debug)]
struct Preparing<H: Host> {
    number: SegmentNumber,
    cookie: Cookie,
    base: wal::Lsn,
    file: Option<H::File>,
}

/// The state of a core's disk work.
#[derive(Debug)]
pub(crate) struct Commit<H: Host> {
    data_dir: PathBuf,
    segment_bytes: u64,
    /// Files of segments that may still be synced or sealed, newest last.
    files: Vec<(SegmentNumber, H::File)>,
    syncing: bool,
    last_sync: Mono,
    last_append: Mono,
    idle_sealed: bool,
    preparing: Option<Preparing<H>>,
    prepare_after: Mono,
    populated: (SegmentNumber, usize),
    /// The first segment was announced to the control thread.
    announced: bool,
    failed: bool,
    /// Un-synced bytes wait for the background sync.
    background: bool,
    /// No room for the clock's ceiling, and that was said.
    ceiling_stuck: bool,
    /// When the control thread was last told what is durable, where nobody follows.
    reported: Mono,
}

impl<H: Host> Commit<H> {
    pub(super) fn new(data_dir: PathBuf, segment_bytes: u64) -> Self {
        Commit {
            data_dir,
            segment_bytes,
            files: Vec::new(),
            syncing: false,
            last_sync: Mono(0),
            last_append: Mono(0),
            idle_sealed: false,
            preparing: None,
            prepare_after: Mono(0),
            populated: (SegmentNumber(0), 0),
            announced: false,
            failed: false,
            background: false,
            ceiling_stuck: false,
            reported: Mono(0),
        }
    }

    /// The next instant at which something has to be done without any completion.
    pub(super) fn deadline(&self) -> Option<Mono> {
        let idle = (!self.idle_sealed && !self.syncing).then(|| self.last_append.plus_ms(IDLE_SEAL_MS));
        let background = (!self.syncing && self.background).then(|| self.last_sync.plus_ms(BACKGROUND_SYNC_MS));
        let retry = (self.prepare_after > Mono(0)).then_some(self.prepare_after);
        [idle, background, retry].into_iter().flatten().min()
    }
}

impl<H: Host> CoreLoop<H> {
    /// Registers the file of a segment that the log starts with.
    pub fn add_segment_file(&mut self, number: SegmentNumber, file: H::File) {
        self.commit.files.push((number, file));
    }

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
        self.start_sync();
        self.keep_segment_ready();
        self.populate_ahead();
        self.write_seals();
        self.finish_if_stopping();
    }

    fn start_sync(&mut self) {
        let now = self.now();
        if self.shard.has_unsealed() {
            self.commit.last_append = now;
            self.commit.idle_sealed = false;
        }
        if self.facts.durability == Durability::Os {
            // What is shown must be in a sealed frame: recovery sees no other, and the process may die at any time.
            self.seal_group();
        }
        if self.commit.syncing {
            return;
        }
        self.commit.background = self.facts.durability == Durability::Os
            && !self.ships
            && !self.stopping
            && self.shard.log().written() > self.shard.log().durable()
            && now < self.commit.last_sync.plus_ms(BACKGROUND_SYNC_MS);
        if self.commit.background {
            return;
        }
        self.seal_group();
        let Some(request) = self.shard.next_commit() else {
            self.seal_idle(now);
            return;
        };
        let file = self.commit.files.iter().rev().find(|(number, _)| *number == request.segment);
        let Some((_, file)) = file else {
            self.fail(&format!("segment {} has no file", request.segment.0));
            return;
        };
        self.commit.syncing = true;
        self.commit.last_sync = now;
        self.ops.submit(&mut self.io, Op::Sync { file: file.clone() }, Context::Sync);
    }

    /// Closes what was staged, so that recovery finds it.
    fn seal_group(&mut self) {
        let lasting = self.shard.seal_group().err().filter(|error| !error.is_transient());
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
            // The empty frame itself is synced like any group, by the next tick.
            if let Some(request) = self.shard.next_commit()
                && let Some((_, file)) = self.commit.files.iter().rev().find(|(number, _)| *number == request.segment)
            {
                self.commit.syncing = true;
                self.ops.submit(&mut self.io, Op::Sync { file: file.clone() }, Context::Sync);
            }
        }
    }

    pub(super) fn disk_completed(&mut self, context: Context, completion: Completion<H::File>) {
        match (context, completion.result) {
            (Context::Sync, Ok(_)) => {
                self.commit.syncing = false;
                let frames = self.shard.sync_done();
                if self.ships {
                    self.report_durable(frames);
                } else if self.commit.reported == Mono(0)
                    || self.now() >= self.commit.reported.plus_ms(UNSHIPPED_REPORT_MS)
                {
                    // Nobody follows: the control thread only shows it. Waking it for every group would cost a switch each.
                    // The first one says that the log is open, and an idle log has no second.
                    self.commit.reported = self.now();
                    self.report_durable(Vec::new());
                }
            }
            (Context::Sync, Err(error)) => {
                self.commit.syncing = false;
                self.fail(&format!("fdatasync of the log failed: {error}"));
            }
            (Context::Prepare, Ok(Outcome::Opened(file))) => self.prepared(file),
            (Context::Rename, Ok(_)) => self.renamed(),
            (Context::Prepare | Context::Rename, result) => {
                let error = result.err().map_or_else(|| "unexpected answer".to_owned(), |error| error.to_string());
                tracing::error!(
                    core = self.core,
                    error,
                    "no log segment can be prepared; writes are refused when this one is full"
                );
                self.commit.preparing = None;
                self.commit.prepare_after = self.now().plus_ms(PREPARE_RETRY_MS);
                self.shard.set_disk_full(true);
                self.gauges.disk_full.store(1, std::sync::atomic::Ordering::Relaxed);
            }
            (Context::Seal, Err(error)) => {
                // Recovery closes an unsealed segment as well; nothing depends on this write.
                tracing::warn!(core = self.core, %error, "a segment's seal was not written");
            }
            _ => {}
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

    fn keep_segment_ready(&mut self) {
        let now = self.now();
        if self.stopping
            || self.commit.preparing.is_some()
            || !self.shard.log().needs_segment()
            || now < self.commit.prepare_after
        {
            return;
        }
        self.commit.prepare_after = Mono(0);
        let plan = self.shard.log().next_segment_plan();
        let cookie = Cookie(self.io.random() | 1);
        let identity = self.shard.identity();
        let head = SegmentHeader {
            segment_bytes: self.commit.segment_bytes,
            node: identity.node,
            incarnation: identity.incarnation,
            core: identity.core,
            number: plan.number,
            cookie,
            base: plan.base,
            previous: plan.previous,
        }
        .encode_page();
        self.commit.preparing = Some(Preparing { number: plan.number, cookie, base: plan.base, file: None });
        let job = FileJob::Prepare { path: self.temporary_path(plan.number), len: self.commit.segment_bytes, head };
        self.ops.submit(&mut self.io, Op::File(job), Context::Prepare);
    }

    fn temporary_path(&self, number: SegmentNumber) -> PathBuf {
        self.commit.data_dir.join(wal::temporary_file_name(self.shard.identity().core, number))
    }

    fn prepared(&mut self, file: H::File) {
        let Some(preparing) = &mut self.commit.preparing else { return };
        preparing.file = Some(file);
        let number = preparing.number;
        let job = FileJob::Rename {
            from: self.temporary_path(number),
            to: segment_path(&self.commit.data_dir, self.shard.identity().core, number),
        };
        self.ops.submit(&mut self.io, Op::File(job), Context::Rename);
    }

    fn renamed(&mut self) {
        let Some(Preparing { number, cookie, base, file: Some(file) }) = self.commit.preparing.take() else { return };
        match H::map(&file, self.commit.segment_bytes) {
            Ok(map) => {
                self.commit.files.push((number, file));
                self.shard.supply(Segment { number, cookie, base, map });
                self.gauges.disk_full.store(0, std::sync::atomic::Ordering::Relaxed);
                self.tell(CoreEvent::Segment { number, cookie, base });
            }
            Err(error) => self.fail(&format!("a prepared segment cannot be mapped: {error}")),
        }
    }

    /// Makes the pages of the next stretch present before appends reach them.
    fn populate_ahead(&mut self) {
        let (segment, offset) = self.shard.log().append_position();
        let segment_bytes = usize::try_from(self.commit.segment_bytes).expect("64-bit target");
        if self.commit.populated.0 != segment {
            self.commit.populated = (segment, 0);
        }
        let wanted = (offset as usize + POPULATE_BYTES / 2).min(segment_bytes);
        if self.commit.populated.1 < wanted {
            let start = self.commit.populated.1;
            let end = (start.max(offset as usize) + POPULATE_BYTES).min(segment_bytes);
            if let Some(map) = self.shard.map_of(segment) {
                map.populate(start..end);
            }
            self.commit.populated.1 = end;
        }
    }

    fn write_seals(&mut self) {
        for (number, seal) in self.shard.log_mut().take_seals() {
            let Some(at) = self.commit.files.iter().position(|(have, _)| *have == number) else { continue };
            let (_, file) = self.commit.files.remove(at);
            let job = FileJob::WriteSync { file, offset: wal::SEAL_OFFSET, bytes: seal };
            self.ops.submit(&mut self.io, Op::File(job), Context::Seal);
        }
    }

    fn finish_if_stopping(&mut self) {
        let log = self.shard.log();
        if self.stopping && !self.stopped && !self.commit.syncing {
            let sealed = self.commit.idle_sealed && log.durable() == log.staged();
            if sealed || self.commit.failed {
                self.stopped = true;
                self.tell(CoreEvent::Stopped);
            }
        }
    }
}
