//! The log's files: prepared, renamed, mapped; used again or removed when they ended.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;

use net::reactor::{FileJob, OsFile, Waker};
use wal::{Cookie, Lsn, MappedFile, Mapping, NextSegment, Populate, Segment, SegmentHeader, SegmentNumber};

use super::effects::Purpose;
use super::{IDENTITY, LogSettings, segment_path};
use crate::walbench::options::CommitPath;
use crate::walbench::prepare::{self, Order, Preparation, Preparer};

/// Pages of a shared mapping are made present this far ahead of the appends.
const POPULATE_BYTES: usize = 1024 * 1024;
/// Pages of a private mapping have to be copied for that: less at a time, so that no append waits long.
const POPULATE_PRIVATE_BYTES: usize = 256 * 1024;
/// Old files at the start when files are recycled: the spares, and two on their way back.
const OLD_FILES: usize = wal::limits::SPARE_SEGMENTS + 2;

/// A segment on its way to the log.
#[derive(Debug)]
struct Preparing {
    plan: NextSegment,
    cookie: Cookie,
    temporary: PathBuf,
    file: Option<OsFile>,
}

/// A segment that the log has.
#[derive(Debug)]
struct Held {
    number: SegmentNumber,
    file: OsFile,
    direct: Option<OsFile>,
    map: MappedFile,
}

#[derive(Debug)]
pub(super) struct Segments {
    settings: LogSettings,
    held: Vec<Held>,
    preparing: Option<Preparing>,
    preparer: Preparer,
    /// Temporary names of files that wait for their next use.
    old: VecDeque<PathBuf>,
    /// A segment is losing its name.
    retiring: Option<PathBuf>,
    /// Ended, sealed and still named, oldest first.
    ended: VecDeque<SegmentNumber>,
    populated: (SegmentNumber, usize),
}

impl Segments {
    pub(super) fn new(settings: &LogSettings, waker: Waker) -> io::Result<Segments> {
        let mut old = VecDeque::new();
        if settings.preparation == Preparation::Recycled {
            for number in 0..OLD_FILES {
                let path = settings.directory.join(format!("old-{number}"));
                prepare::prepare(Preparation::Recycled, &path, settings.segment_bytes, &[], None)?;
                old.push_back(path);
            }
        }
        Ok(Segments {
            settings: settings.clone(),
            held: Vec::new(),
            preparing: None,
            preparer: Preparer::spawn(waker)?,
            old,
            retiring: None,
            ended: VecDeque::new(),
            populated: (SegmentNumber(0), 0),
        })
    }

    /// The first segment, prepared here and now.
    pub(super) fn first(&mut self, cookie: Cookie) -> io::Result<Segment<MappedFile>> {
        let plan = NextSegment { number: SegmentNumber(1), base: Lsn(0), previous: None };
        let path = segment_path(&self.settings.directory, plan.number);
        let head = self.head(&plan, cookie);
        let old = self.old.pop_front();
        let file =
            prepare::prepare(self.settings.preparation, &path, self.settings.segment_bytes, &head, old.as_deref())?;
        self.take(plan, cookie, OsFile::new(file, path))
    }

    fn head(&self, plan: &NextSegment, cookie: Cookie) -> bytes::Bytes {
        SegmentHeader {
            segment_bytes: self.settings.segment_bytes,
            node: IDENTITY.node,
            incarnation: IDENTITY.incarnation,
            core: IDENTITY.core,
            number: plan.number,
            cookie,
            base: plan.base,
            previous: plan.previous,
        }
        .encode_page()
    }

    fn temporary_path(&self, number: SegmentNumber) -> PathBuf {
        self.settings.directory.join(wal::temporary_file_name(IDENTITY.core, number))
    }

    pub(super) fn is_preparing(&self) -> bool {
        self.preparing.is_some()
    }

    /// Begins to prepare a segment. `None` when there is nothing to submit: the own thread does it, or no old file is there.
    pub(super) fn begin(&mut self, plan: NextSegment, cookie: Cookie) -> io::Result<Option<FileJob<OsFile>>> {
        let len = self.settings.segment_bytes;
        let head = self.head(&plan, cookie);
        let preparation = self.settings.preparation;
        let mut temporary = self.temporary_path(plan.number);
        let job = match (preparation, self.old.pop_front()) {
            (Preparation::ZerosSmall, _) => Some(FileJob::Prepare { path: temporary.clone(), len, head }),
            (Preparation::Recycled, Some(old)) => {
                temporary = old;
                Some(FileJob::Recycle { path: temporary.clone(), len, head })
            }
            (Preparation::Recycled, None) if !self.settings.keep => return Ok(None),
            // Where ended segments stay, another old file has to be made.
            _ => {
                self.preparer.order(Order { preparation, path: temporary.clone(), len, head })?;
                None
            }
        };
        self.preparing = Some(Preparing { plan, cookie, temporary, file: None });
        Ok(job)
    }

    pub(super) fn collect(&self) -> Option<io::Result<OsFile>> {
        self.preparer.ready()
    }

    /// The header is durable: the file gets its name.
    pub(super) fn opened(&mut self, file: OsFile) -> io::Result<FileJob<OsFile>> {
        let Some(preparing) = &mut self.preparing else { return Err(io::Error::other("no segment is being prepared")) };
        preparing.file = Some(file);
        let to = segment_path(&self.settings.directory, preparing.plan.number);
        Ok(FileJob::Rename { from: preparing.temporary.clone(), to })
    }

    /// The prepared segment.
    pub(super) fn finish(&mut self) -> io::Result<Segment<MappedFile>> {
        let Some(Preparing { plan, cookie, file: Some(file), .. }) = self.preparing.take() else {
            return Err(io::Error::other("no segment was prepared"));
        };
        self.take(plan, cookie, file)
    }

    fn take(&mut self, plan: NextSegment, cookie: Cookie, file: OsFile) -> io::Result<Segment<MappedFile>> {
        let len = usize::try_from(self.settings.segment_bytes).map_err(io::Error::other)?;
        let (map, direct) = match self.settings.commit {
            CommitPath::Mmap => (MappedFile::map(file.as_file(), len)?, None),
            CommitPath::Direct => (MappedFile::map_private(file.as_file(), len)?, Some(open_direct(&file)?)),
        };
        self.held.push(Held { number: plan.number, file, direct, map: map.clone() });
        Ok(Segment { number: plan.number, cookie, base: plan.base, map })
    }

    fn held(&self, number: SegmentNumber) -> io::Result<&Held> {
        let held = self.held.iter().rev().find(|held| held.number == number);
        held.ok_or_else(|| io::Error::other(format!("segment {number} has no file")))
    }

    pub(super) fn file(&self, number: SegmentNumber) -> io::Result<OsFile> {
        Ok(self.held(number)?.file.clone())
    }

    pub(super) fn direct(&self, number: SegmentNumber) -> io::Result<OsFile> {
        self.held(number)?.direct.clone().ok_or_else(|| io::Error::other("the segment is not open for direct writes"))
    }

    pub(super) fn populate(&mut self, segment: SegmentNumber, offset: usize, how: Populate) {
        let step = match self.settings.commit {
            CommitPath::Mmap => POPULATE_BYTES,
            CommitPath::Direct => POPULATE_PRIVATE_BYTES,
        };
        if self.populated.0 != segment {
            self.populated = (segment, 0);
        }
        let Ok(held) = self.held(segment) else { return };
        let len = held.map.len();
        let wanted = (offset + step / 2).min(len);
        if self.populated.1 < wanted {
            let end = (self.populated.1.max(offset) + step).min(len);
            held.map.populate(self.populated.1..end, how);
            self.populated.1 = end;
        }
    }

    /// The seal of `number` is on disk. What was written around the page cache is to be read into it before the memory that holds
    /// it is given back.
    pub(super) fn sealed(&mut self, number: SegmentNumber) -> io::Result<Option<FileJob<OsFile>>> {
        if self.settings.commit == CommitPath::Direct {
            return Ok(Some(FileJob::Warm { file: self.file(number)? }));
        }
        self.ended.push_back(number);
        Ok(None)
    }

    /// The page cache has it.
    pub(super) fn warmed(&mut self, number: SegmentNumber) -> io::Result<()> {
        self.held(number)?.map.settle();
        self.ended.push_back(number);
        Ok(())
    }

    /// The segment that may go next, if ended segments go at all.
    pub(super) fn oldest_ended(&self) -> Option<SegmentNumber> {
        self.ended.front().copied().filter(|_| !self.settings.keep && self.retiring.is_none())
    }

    /// Lets the oldest ended segment go: for use again, or for good.
    pub(super) fn remove(&mut self, number: SegmentNumber) -> (FileJob<OsFile>, Purpose) {
        self.ended.retain(|ended| *ended != number);
        self.held.retain(|held| held.number != number);
        let path = segment_path(&self.settings.directory, number);
        if self.settings.preparation == Preparation::Recycled {
            let to = self.temporary_path(number);
            self.retiring = Some(to.clone());
            return (FileJob::Rename { from: path, to }, Purpose::Retire);
        }
        (FileJob::Unlink { path }, Purpose::Remove)
    }

    /// It has lost its name, durably.
    pub(super) fn retired(&mut self) {
        self.old.extend(self.retiring.take());
    }
}

fn open_direct(file: &OsFile) -> io::Result<OsFile> {
    file.open_direct().map_err(|error| match error.kind() {
        io::ErrorKind::InvalidInput => {
            io::Error::new(io::ErrorKind::Unsupported, "this file system has no direct I/O; use --commit mmap")
        }
        _ => error,
    })
}
