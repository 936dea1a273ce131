//! Drives one log over a real reactor, with the effects of production's driver (`engine/src/core/{commit,segments}.rs`): group
//! commit without a timer, one commit in flight, spares prepared off the hot path, pages populated ahead, seals, ended segments
//! used again.

mod effects;
mod segments;

use std::io;
use std::path::{Path, PathBuf};

use engine::daemon::OsIo;
use net::reactor::helper::Helper;
use net::reactor::{Backend, Completion, Mono, OsFile, Wait};
use wal::{
    Cookie, CoreId, FrameKind, Incarnation, Log, LogIdentity, Lsn, MappedFile, NodeId, RecordDraft, RecordOp,
    SegmentNumber, Version,
};

use self::effects::{InFlight, Purpose};
use self::segments::Segments;
use super::index::KeyIndex;
use super::latency::Latency;
use super::options::CommitPath;
use super::prepare::Preparation;

/// Whose log the benchmark writes.
pub(crate) const IDENTITY: LogIdentity =
    LogIdentity { node: NodeId(0xbe9c_0001), incarnation: Incarnation(1), core: CoreId(0) };

/// What a log is built of.
#[derive(Clone, Debug)]
pub(crate) struct LogSettings {
    pub(crate) directory: PathBuf,
    pub(crate) backend: Backend,
    pub(crate) commit: CommitPath,
    pub(crate) preparation: Preparation,
    pub(crate) segment_bytes: u64,
    /// Whether every append goes into an index, too, as in production.
    pub(crate) index: bool,
    /// Whether ended segments stay: recovery is to find them.
    pub(crate) keep: bool,
}

/// Where a group's time goes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stages {
    /// First append of the group → the group is about to be sealed.
    pub(crate) staged: Latency,
    /// Sealing: checksum and headers; for the direct path also the copy that is written.
    pub(crate) written: Latency,
    /// Submission of the sync or write → its completion was seen.
    pub(crate) synced: Latency,
    /// Completion seen → the last waiting writer was released.
    pub(crate) woken: Latency,
}

impl Stages {
    pub(crate) fn add(&mut self, other: &Stages) {
        self.staged.add(&other.staged);
        self.written.add(&other.written);
        self.synced.add(&other.synced);
        self.woken.add(&other.woken);
    }
}

/// One log and the thread's reactor. Fields are dropped in this order: the reactor before the helper it hands jobs to.
#[derive(Debug)]
pub(crate) struct Driver<I: OsIo> {
    io: I,
    pub(crate) log: Log<MappedFile>,
    segments: Segments,
    in_flight: InFlight,
    index: Option<KeyIndex>,
    /// When the first record of the open group was appended.
    group_begun: Option<Mono>,
    pub(crate) stages: Stages,
    /// Commits that completed.
    pub(crate) commits: u64,
    version: u64,
    completions: Vec<Completion<OsFile>>,
    helper: Option<Helper>,
}

impl<I: OsIo> Driver<I> {
    /// Prepares the first segment and an empty log in it.
    pub(crate) fn start(settings: &LogSettings) -> io::Result<Driver<I>> {
        let helper = Helper::spawn(settings.backend, || Box::pin(std::future::pending()))?;
        let mut io = I::create(&helper.handle())?;
        let mut segments = Segments::new(settings, io.waker())?;
        let first = segments.first(Cookie(io.random() | 1))?;
        let mut index = settings.index.then(|| KeyIndex::new(IDENTITY.node));
        if let Some(index) = &mut index {
            index.supply(&first);
        }
        let log = Log::with_commit_path(IDENTITY, settings.segment_bytes, first, settings.commit.into());
        let mut driver = Driver {
            io,
            log,
            segments,
            in_flight: InFlight::default(),
            index,
            group_begun: None,
            stages: Stages::default(),
            commits: 0,
            version: 0,
            completions: Vec::new(),
            helper: Some(helper),
        };
        driver.wait_for_spares()?;
        Ok(driver)
    }

    pub(crate) fn now(&self) -> Mono {
        self.io.now()
    }

    /// Appends one record, begun at `now`. `None` while the segment is full and no spare is ready.
    pub(crate) fn append(&mut self, now: Mono, key: &[u8], value: &[u8]) -> io::Result<Option<Lsn>> {
        self.version += 1;
        let version = Version(self.version);
        let draft = RecordDraft { version, origin: IDENTITY.node, op: RecordOp::Put, expiry: None, key, value };
        let placement = match self.log.append_draft(FrameKind::Originated, &draft) {
            Ok(placement) => placement,
            Err(wal::AppendError::NoSegment) => {
                self.version -= 1;
                return Ok(None);
            }
            Err(error) => return Err(io::Error::other(error)),
        };
        if let Some(index) = &mut self.index {
            index.put(key, version, &placement);
        }
        self.group_begun.get_or_insert(now);
        Ok(Some(placement.end))
    }

    /// Bytes appended and not sealed yet.
    pub(crate) fn open_bytes(&self) -> u64 {
        self.log.staged().0 - self.log.written().0
    }

    /// Waits for completions as told and does what they call for. When a commit is among them: the instant it was seen.
    pub(crate) fn poll(&mut self, wait: Wait) -> io::Result<Option<Mono>> {
        let mut completions = std::mem::take(&mut self.completions);
        self.io.poll(wait, &mut completions)?;
        let mut committed = None;
        for completion in completions.drain(..) {
            if let Some(purpose) = self.in_flight.take(completion.tag) {
                if matches!(purpose, Purpose::Commit { .. }) {
                    committed = Some(self.io.now());
                }
                self.completed(purpose, completion.result)?;
            }
        }
        self.completions = completions;
        self.collect_prepared()?;
        Ok(committed)
    }

    /// Whether a commit is in flight.
    pub(crate) fn is_committing(&self) -> bool {
        self.in_flight.commits > 0
    }

    /// Lets everything in flight come to its end and the spares be ready, so that the device is left alone.
    pub(crate) fn settle(&mut self) -> io::Result<()> {
        while self.log.durable() != self.log.staged() {
            self.commit()?;
            self.wait_a_little()?;
        }
        self.wait_for_spares()
    }

    fn wait_for_spares(&mut self) -> io::Result<()> {
        loop {
            self.commit()?;
            if self.in_flight.is_empty() && !self.segments.is_preparing() {
                return Ok(());
            }
            self.wait_a_little()?;
        }
    }

    fn wait_a_little(&mut self) -> io::Result<()> {
        let soon = self.io.now().plus_ms(100);
        self.poll(Wait::Until(soon)).map(|_| ())
    }

    /// Ends the log and its threads.
    pub(crate) fn stop(mut self) -> io::Result<()> {
        self.settle()?;
        let helper = self.helper.take();
        drop(self);
        helper.map_or(Ok(()), Helper::join)
    }
}

/// Where a segment of the benchmark's log lies.
pub(crate) fn segment_path(directory: &Path, number: SegmentNumber) -> PathBuf {
    directory.join(wal::segment_file_name(IDENTITY.core, number))
}
