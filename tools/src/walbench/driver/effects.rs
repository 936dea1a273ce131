//! What the log asks for, performed.

use std::collections::HashMap;
use std::io;

use net::reactor::{FileJob, Mono, Op, OsFile, Outcome, Tag};
use wal::{Commit, Populate, SegmentNumber, Version};

use super::{Driver, OsIo};

/// What an operation in flight is for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Purpose {
    Commit {
        submitted: Mono,
    },
    Prepare,
    Rename,
    Seal(SegmentNumber),
    /// A segment that was written around the page cache is brought there.
    Warm(SegmentNumber),
    /// An ended segment loses its name.
    Retire,
    Remove,
}

/// Operations in flight.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    purposes: HashMap<Tag, Purpose>,
    next: u64,
    pub(super) commits: usize,
}

impl InFlight {
    pub(super) fn add(&mut self, purpose: Purpose) -> Tag {
        self.next += 1;
        self.commits += usize::from(matches!(purpose, Purpose::Commit { .. }));
        self.purposes.insert(Tag(self.next), purpose);
        Tag(self.next)
    }

    pub(super) fn take(&mut self, tag: Tag) -> Option<Purpose> {
        let purpose = self.purposes.remove(&tag)?;
        self.commits -= usize::from(matches!(purpose, Purpose::Commit { .. }));
        Some(purpose)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.purposes.is_empty()
    }
}

impl<I: OsIo> Driver<I> {
    /// Seals and commits what was staged, if nothing is in flight, and keeps the next segments ready.
    pub(crate) fn commit(&mut self) -> io::Result<()> {
        self.start_commit()?;
        self.keep_segment_ready()?;
        self.populate_ahead();
        self.write_seals()?;
        self.let_go()
    }

    /// The part of [`Driver::commit`] that writers wait for.
    pub(crate) fn start_commit(&mut self) -> io::Result<()> {
        if self.is_committing() {
            return Ok(());
        }
        let begun = self.group_begun.take();
        let sealing = if begun.is_some() { self.now() } else { Mono(0) };
        let sealed = self.log.seal_group(Version(self.version));
        let Some(commit) = self.log.next_commit() else { return Ok(()) };
        let submitted = self.now();
        if let (Some(begun), Some(_)) = (begun, sealed) {
            self.stages.staged.record(sealing.since(begun), 1);
            self.stages.written.record(submitted.since(sealing), 1);
        }
        let op = match commit {
            Commit::Sync { request, range } => {
                Op::Sync { file: self.segments.file(request.segment)?, range: Some(range) }
            }
            Commit::Write { request, offset, bytes } => {
                Op::Write { file: self.segments.direct(request.segment)?, offset, bytes, dsync: true }
            }
        };
        self.submit(op, Purpose::Commit { submitted })
    }

    fn submit(&mut self, op: Op<OsFile>, purpose: Purpose) -> io::Result<()> {
        let tag = self.in_flight.add(purpose);
        // A handful of operations is in flight at most.
        self.io.submit(op, tag).map_err(|_| io::Error::other("the reactor took no operation"))
    }

    fn submit_job(&mut self, job: FileJob<OsFile>, purpose: Purpose) -> io::Result<()> {
        self.submit(Op::File(job), purpose)
    }

    pub(super) fn completed(&mut self, purpose: Purpose, result: io::Result<Outcome<OsFile>>) -> io::Result<()> {
        let outcome = result.map_err(|error| io::Error::new(error.kind(), format!("{purpose:?} failed: {error}")))?;
        match (purpose, outcome) {
            (Purpose::Commit { submitted }, _) => {
                self.stages.synced.record(self.now().since(submitted), 1);
                self.commits += 1;
                self.log.sync_done();
                self.log.take_sealed_frames();
            }
            (Purpose::Prepare, Outcome::Opened(file)) => self.prepared(file)?,
            (Purpose::Rename, _) => self.renamed()?,
            (Purpose::Seal(number), _) => {
                if let Some(job) = self.segments.sealed(number)? {
                    self.submit_job(job, Purpose::Warm(number))?;
                }
            }
            (Purpose::Warm(number), _) => self.segments.warmed(number)?,
            (Purpose::Retire, _) => self.segments.retired(),
            _ => {}
        }
        Ok(())
    }

    fn keep_segment_ready(&mut self) -> io::Result<()> {
        if self.segments.is_preparing() || !self.log.needs_segment() {
            return Ok(());
        }
        let cookie = wal::Cookie(self.io.random() | 1);
        match self.segments.begin(self.log.next_segment_plan(), cookie)? {
            Some(job) => self.submit_job(job, Purpose::Prepare),
            None => Ok(()),
        }
    }

    /// A file of the own preparing thread.
    pub(super) fn collect_prepared(&mut self) -> io::Result<()> {
        match self.segments.collect() {
            Some(file) => self.prepared(file?),
            None => Ok(()),
        }
    }

    fn prepared(&mut self, file: OsFile) -> io::Result<()> {
        let job = self.segments.opened(file)?;
        self.submit_job(job, Purpose::Rename)
    }

    fn renamed(&mut self) -> io::Result<()> {
        let segment = self.segments.finish()?;
        if let Some(index) = &mut self.index {
            index.supply(&segment);
        }
        self.log.supply(segment);
        Ok(())
    }

    /// Makes the pages of the next stretch present before appends reach them.
    fn populate_ahead(&mut self) {
        let (segment, offset) = self.log.append_position();
        let how = if I::SYNCS_RANGES { Populate::Writing } else { Populate::Reading };
        self.segments.populate(segment, offset as usize, how);
    }

    fn write_seals(&mut self) -> io::Result<()> {
        for (number, bytes) in self.log.take_seals() {
            let file = self.segments.file(number)?;
            let job = FileJob::WriteSync { file, offset: wal::SEAL_OFFSET, bytes };
            self.submit_job(job, Purpose::Seal(number))?;
        }
        Ok(())
    }

    /// The oldest ended segment goes when the index needs nothing in it.
    fn let_go(&mut self) -> io::Result<()> {
        let Some(number) = self.segments.oldest_ended() else { return Ok(()) };
        if self.index.as_mut().is_none_or(|index| index.let_go(number)) {
            let (job, purpose) = self.segments.remove(number);
            self.submit_job(job, purpose)?;
        }
        Ok(())
    }
}
