//! The segments of one core's log: spares are prepared before they are needed, full ones are sealed, those in which nothing
//! counts any more are used again or removed.
//!
//! Every step is crash-safe by its order: a file gets a segment's name only when its header is durable; a segment loses its
//! name, durably, before a byte of it changes; the oldest goes first. The jobs of a node run in the order of their submission.

use std::path::PathBuf;
use std::sync::atomic::Ordering;

use net::reactor::{FileJob, Io, Mono, Op};
use wal::marks::{Mark, reach};
use wal::planted::{self, Fault};
use wal::{CommitPath, Cookie, Mapping, Populate, Segment, SegmentHeader, SegmentNumber};

use super::CoreLoop;
use super::commit::SegmentFile;
use super::ops::Context;
use crate::host::{Host, map_segment, segment_path};
use crate::messages::CoreEvent;
use crate::shard::DiskTrouble;

/// How long after a failure to prepare a segment the next attempt comes.
const PREPARE_RETRY_MS: u64 = 1000;

/// Pages of a shared mapping are made present this far ahead of the appends.
const POPULATE_BYTES: usize = 1024 * 1024;

/// Pages of a private mapping have to be copied for that: less at a time, so that no append waits long.
const POPULATE_PRIVATE_BYTES: usize = 256 * 1024;

/// A segment on its way to the log.
#[derive(Debug)]
struct Preparing {
    number: SegmentNumber,
    cookie: Cookie,
    base: wal::Lsn,
    temporary: PathBuf,
    recycled: bool,
}

/// What happens to the segments of one core.
#[derive(Debug)]
pub(crate) struct Segments {
    pub(super) data_dir: PathBuf,
    segment_bytes: u64,
    preparing: Option<Preparing>,
    prepare_after: Mono,
    populated: (SegmentNumber, usize),
    /// The control thread was asked whether this one may go.
    asked: Option<SegmentNumber>,
    /// The temporary name of a file that waits for its next use.
    reusable: Option<PathBuf>,
    /// A segment is losing its name. Until it has, no other one goes: recovery takes a gap for damage.
    departing: Option<Departing>,
}

/// A segment that was given up and still has its name.
#[derive(Debug)]
struct Departing {
    path: PathBuf,
    /// Its temporary name, if its file is to be used again.
    reuse_as: Option<PathBuf>,
    /// When to try again, after a failure.
    retry_at: Option<Mono>,
}

impl Segments {
    pub(super) fn new(data_dir: PathBuf, segment_bytes: u64) -> Self {
        Segments {
            data_dir,
            segment_bytes,
            preparing: None,
            prepare_after: Mono(0),
            populated: (SegmentNumber(0), 0),
            asked: None,
            reusable: None,
            departing: None,
        }
    }

    /// Bytes of the segment, from its beginning on, whose pages were made present.
    pub(super) fn populated_in(&self, segment: SegmentNumber) -> u64 {
        if self.populated.0 == segment { self.populated.1 as u64 } else { 0 }
    }

    /// Whether a file is about to get or to lose its name.
    pub(super) fn is_moving(&self) -> bool {
        self.preparing.is_some() || self.departing.as_ref().is_some_and(|departing| departing.retry_at.is_none())
    }

    /// Whether a file that is to lose its name keeps it for now.
    pub(super) fn is_stuck(&self) -> bool {
        self.departing.is_some()
    }

    pub(super) fn deadline(&self) -> Option<Mono> {
        let prepare = (self.prepare_after > Mono(0)).then_some(self.prepare_after);
        let depart = self.departing.as_ref().and_then(|departing| departing.retry_at);
        prepare.into_iter().chain(depart).min()
    }
}

impl<H: Host> CoreLoop<H> {
    /// Registers the file of a segment that the log starts with.
    ///
    /// # Errors
    /// Where the file cannot be opened for direct writes although the log commits by them.
    pub fn add_segment_file(&mut self, number: SegmentNumber, file: H::File) -> std::io::Result<()> {
        let direct = match self.shard.log().commit_path() {
            CommitPath::Mmap => None,
            CommitPath::Direct => Some(H::open_direct(&file)?),
        };
        self.commit.files.push(SegmentFile { number, file, direct });
        Ok(())
    }

    /// Everything that is not the commit of a group.
    pub(super) fn keep_segments(&mut self) {
        self.keep_spares_ready();
        self.populate_ahead();
        self.write_seals();
        self.offer_removable();
    }

    fn keep_spares_ready(&mut self) {
        let now = self.now();
        let segments = &mut self.commit.segments;
        if self.stopping
            || segments.preparing.is_some()
            || !self.shard.log().needs_segment()
            || now < segments.prepare_after
        {
            return;
        }
        segments.prepare_after = Mono(0);
        let plan = self.shard.log().next_segment_plan();
        let cookie = Cookie(self.io.random() | 1);
        let identity = self.shard.identity();
        let len = segments.segment_bytes;
        let head = SegmentHeader {
            segment_bytes: len,
            node: identity.node,
            incarnation: identity.incarnation,
            core: identity.core,
            number: plan.number,
            cookie,
            base: plan.base,
            previous: plan.previous,
        }
        .encode_page();
        let reusable = segments.reusable.take();
        let recycled = reusable.is_some();
        let fresh = || segments.data_dir.join(wal::temporary_file_name(identity.core, plan.number));
        let temporary = reusable.unwrap_or_else(fresh);
        let job = if recycled {
            FileJob::Recycle { path: temporary.clone(), len, head }
        } else {
            FileJob::Prepare { path: temporary.clone(), len, head }
        };
        segments.preparing = Some(Preparing { number: plan.number, cookie, base: plan.base, temporary, recycled });
        self.ops.submit(&mut self.io, Op::File(job), Context::Prepare);
    }

    /// The next segment's header is durable: it gets its name.
    pub(super) fn prepared(&mut self, file: H::File) {
        let segments = &self.commit.segments;
        let Some(preparing) = &segments.preparing else { return };
        let to = segment_path(&segments.data_dir, self.shard.identity().core, preparing.number);
        let job = FileJob::Rename { from: preparing.temporary.clone(), to };
        let number = preparing.number;
        if let Err(error) = self.add_segment_file(number, file) {
            self.fail(&format!("a prepared segment cannot be opened for direct writes: {error}"));
            return;
        }
        if planted::is(Fault::UseBeforeNamed) {
            self.ops.submit(&mut self.io, Op::File(job), Context::Discard);
            self.renamed();
            return;
        }
        self.ops.submit(&mut self.io, Op::File(job), Context::Rename);
    }

    /// The next segment has its name, durably.
    pub(super) fn renamed(&mut self) {
        let Some(Preparing { number, cookie, base, recycled, .. }) = self.commit.segments.preparing.take() else {
            return;
        };
        let Some(prepared) = self.commit.files.iter().rev().find(|file| file.number == number) else { return };
        match map_segment::<H>(&prepared.file, self.commit.segments.segment_bytes, self.shard.log().commit_path()) {
            Ok(map) => {
                self.shard.supply(Segment { number, cookie, base, map });
                self.gauges.disk_full.store(0, Ordering::Relaxed);
                if recycled {
                    reach(Mark::SegmentRecycled);
                }
                let made = if recycled { &self.gauges.segments_recycled } else { &self.gauges.segments_prepared };
                made.fetch_add(1, Ordering::Relaxed);
                self.tell(CoreEvent::Segment { number, cookie, base });
            }
            Err(error) => self.fail(&format!("a prepared segment cannot be mapped: {error}")),
        }
    }

    /// A job that is not part of a commit ended, with an error or with nothing more to say.
    pub(super) fn segment_job_ended(&mut self, context: Context, error: Option<std::io::Error>) {
        match (context, error) {
            (Context::Prepare | Context::Rename, error) => self.preparation_failed(error),
            (Context::Seal(number), error) => {
                if let Some(error) = error {
                    // Recovery closes an unsealed segment as well; nothing depends on this write.
                    tracing::warn!(core = self.core, %error, "a segment's seal was not written");
                }
                if !self.stopping {
                    self.warm(number);
                }
            }
            (Context::Warm(number), _) => {
                if let Some(map) = self.shard.map_of(number) {
                    map.settle();
                }
            }
            (Context::Unname, None) => {
                let departed = self.commit.segments.departing.take();
                self.commit.segments.reusable = departed.and_then(|departed| departed.reuse_as);
            }
            (Context::Unlink, None) => self.commit.segments.departing = None,
            (Context::Unname | Context::Unlink, Some(error)) => self.departure_failed(&error),
            _ => {}
        }
    }

    fn preparation_failed(&mut self, error: Option<std::io::Error>) {
        let Some(preparing) = self.commit.segments.preparing.take() else { return };
        self.commit.files.retain(|file| file.number != preparing.number);
        let trouble = match error.as_ref().map(std::io::Error::kind) {
            Some(std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded) => DiskTrouble::Full,
            _ => DiskTrouble::Failing,
        };
        let error = error.map_or_else(|| "unexpected answer".to_owned(), |error| error.to_string());
        // The next attempt begins anew; what is left of this one would be in its way. Usually nothing is.
        let job = FileJob::Unlink { path: preparing.temporary };
        self.ops.submit(&mut self.io, Op::File(job), Context::Discard);
        if preparing.recycled {
            // A new file is prepared in its place.
            tracing::warn!(core = self.core, error, "an old segment cannot be used again");
            return;
        }
        tracing::error!(
            core = self.core,
            error,
            "no log segment can be prepared; writes are refused when the ones at hand are full"
        );
        reach(if trouble == DiskTrouble::Full { Mark::DiskFull } else { Mark::DiskFailing });
        self.commit.segments.prepare_after = self.now().plus_ms(PREPARE_RETRY_MS);
        self.shard.set_disk_trouble(trouble);
        self.gauges.disk_full.store(1, Ordering::Relaxed);
    }

    /// Makes the pages of the next stretch present before appends reach them.
    fn populate_ahead(&mut self) {
        let (segment, offset) = self.shard.log().append_position();
        let step = match self.shard.log().commit_path() {
            CommitPath::Mmap => POPULATE_BYTES,
            CommitPath::Direct => POPULATE_PRIVATE_BYTES,
        };
        let segments = &mut self.commit.segments;
        let segment_bytes = usize::try_from(segments.segment_bytes).expect("64-bit target");
        if segments.populated.0 != segment {
            segments.populated = (segment, 0);
        }
        let wanted = (offset as usize + step / 2).min(segment_bytes);
        if segments.populated.1 < wanted {
            let start = segments.populated.1;
            let end = (start.max(offset as usize) + step).min(segment_bytes);
            if let Some(map) = self.shard.map_of(segment) {
                let how = if H::Io::SYNCS_RANGES { Populate::Writing } else { Populate::Reading };
                map.populate(start..end, how);
            }
            segments.populated.1 = end;
        }
    }

    pub(super) fn write_seals(&mut self) {
        for (number, seal) in self.shard.log_mut().take_seals() {
            let Some(at) = self.commit.files.iter().position(|file| file.number == number) else { continue };
            let file = &mut self.commit.files[at];
            let job = FileJob::WriteSync { file: file.file.clone(), offset: wal::SEAL_OFFSET, bytes: seal };
            self.ops.submit(&mut self.io, Op::File(job), Context::Seal(number));
            if file.direct.take().is_none() {
                self.commit.files.remove(at);
            }
        }
    }

    /// A segment that was written around the page cache is brought there, before the memory that holds it is given back.
    fn warm(&mut self, number: SegmentNumber) {
        let Some(at) = self.commit.files.iter().position(|file| file.number == number) else { return };
        let SegmentFile { file, .. } = self.commit.files.remove(at);
        self.ops.submit(&mut self.io, Op::File(FileJob::Warm { file }), Context::Warm(number));
    }

    /// Asks the control thread, who may be reading it for a follower, to let the oldest segment go.
    fn offer_removable(&mut self) {
        self.retry_departure();
        if self.stopping || self.commit.segments.asked.is_some() || self.commit.segments.departing.is_some() {
            return;
        }
        if let Some(removable) = self.shard.removable() {
            self.commit.segments.asked = Some(removable.number);
            self.tell(CoreEvent::Removable(removable));
        }
    }

    /// Nobody reads the segment any more.
    pub(super) fn remove_segment(&mut self, number: SegmentNumber) {
        let segments = &mut self.commit.segments;
        segments.asked = None;
        if self.commit.failed {
            return;
        }
        let Some((slot, map)) = self.shard.remove(number) else { return };
        let map_is_unique = self.residency.removed(slot, map);
        reach(Mark::SegmentRemoved);
        let core = self.shard.identity().core;
        let path = segment_path(&segments.data_dir, core, number);
        self.gauges.segments_removed.fetch_add(1, Ordering::Relaxed);
        if planted::is(Fault::RecycleBeforeRename) {
            segments.reusable.get_or_insert(path);
            return;
        }
        // A reply on its way may still point into it: then its pages must keep their bytes.
        let reuse = map_is_unique && segments.reusable.is_none() && !self.stopping;
        let reuse_as = reuse.then(|| segments.data_dir.join(wal::temporary_file_name(core, number)));
        let (job, context) = match &reuse_as {
            Some(to) => (FileJob::Rename { from: path.clone(), to: to.clone() }, Context::Unname),
            None => (FileJob::Unlink { path: path.clone() }, Context::Unlink),
        };
        segments.departing = Some(Departing { path, reuse_as, retry_at: None });
        self.ops.submit(&mut self.io, Op::File(job), context);
    }

    /// The segment may have lost its name or not; until that is certain none behind it may.
    fn departure_failed(&mut self, error: &std::io::Error) {
        let now = self.now();
        let Some(departing) = &mut self.commit.segments.departing else { return };
        if error.kind() == std::io::ErrorKind::NotFound {
            self.commit.segments.departing = None;
            return;
        }
        reach(Mark::DepartureFailed);
        tracing::warn!(core = self.core, %error, path = %departing.path.display(), "a segment in which nothing counts any more cannot be removed yet");
        departing.retry_at = Some(now.plus_ms(PREPARE_RETRY_MS));
    }

    fn retry_departure(&mut self) {
        let now = self.now();
        let Some(departing) = &mut self.commit.segments.departing else { return };
        if self.commit.failed || departing.retry_at.is_none_or(|at| now < at) {
            return;
        }
        // A new name may need space that an unlink does not.
        departing.retry_at = None;
        let job = FileJob::Unlink { path: departing.path.clone() };
        self.ops.submit(&mut self.io, Op::File(job), Context::Unlink);
    }
}
