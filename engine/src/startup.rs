//! Start: from a data directory to shards that serve. Blocking, before any loop runs, over [`Disk`], so that the simulator
//! starts its nodes by the same code.
//!
//! Order matters: lock, identity, sync what may only be in memory, read what the disk holds, judge, close what is retired,
//! index, and only then open the new incarnation — durably, before anything is served.

mod checkpoint;
mod identity;
mod index;
mod noted;
mod retired;
mod walk;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use net::reactor::disk::Disk;
use net::reactor::{FileJob, Outcome};
use net::wire::body::Member;
use wal::marks::{Mark, reach};
use wal::planted::{self, Fault};
use wal::recovery::RecoveryError;
use wal::{
    Commit, CommitPath, ControlRecord, Cookie, CoreId, Incarnation, Lsn, NodeId, Segment, SegmentHeader, SegmentNumber,
    Version,
};

use crate::clock::{Time, earliest_unix_ms, is_far_future, is_step};
use crate::host::{Host, map_segment, segment_path};
use crate::replication::bootstrap::Floor;
use crate::replication::known::KnownLogs;
use crate::replication::logs::{OwnLog, OwnLogs, SegmentRef};
use crate::replication::members::{Members, to_record};
use crate::replication::residency::Allowed;
use crate::replication::watermarks::Watermarks;
use crate::replication::{log_id, to_wire};
use crate::shard::{Copies, HeldKey, Shard, ShardIdentity, ShardSettings, WriteError};
use crate::storage::NodeSecret;
use crate::storage::index::Location;
use crate::storage::store::Store;

use checkpoint::Files;
use identity::identity;
pub use identity::parse_identity;
pub use retired::OldRun;
use retired::RetiredSegment;

/// Held while a process owns the directory.
const LOCK_FILE: &str = "LOCK";
/// What direct I/O that a file system does not have gives: EINVAL.
const INVALID_ARGUMENT: i32 = 22;

/// What start-up needs to know.
#[derive(Clone, Debug)]
pub struct StartSettings {
    /// Where everything lies.
    pub data_dir: PathBuf,
    /// Core threads of this run.
    pub cores: u16,
    /// Size of new segments in bytes.
    pub segment_bytes: u32,
    /// Largest value in bytes.
    pub value_bytes_max: u32,
    /// How groups reach the disk.
    pub commit_path: CommitPath,
    /// Tables of each index, as a power of two.
    pub index_table_bits: u32,
    /// The keys that this node may hold.
    pub may_hold: Allowed,
}

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The directory or a file in it cannot be used.
    #[error("{}: {what}: {source}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
    /// Another process has the directory.
    #[error("{} is in use by another godwit process; stop it or set another DATA_DIR", .0.display())]
    InUse(PathBuf),
    /// The file system has no direct I/O.
    #[error("{}: COMMIT_PATH=direct does not work on this file system ({_1}); set COMMIT_PATH=mmap", .0.display())]
    NoDirect(PathBuf, std::io::Error),
    /// Logs without an identity.
    #[error("{} holds logs but no NODE file: their owner is unknown; restore NODE, or move the directory away to start empty", .0.display())]
    IdentityMissing(PathBuf),
    /// The identity does not verify.
    #[error("{} is damaged; restore it from a backup, or move the directory away to start empty", .0.display())]
    IdentityDamaged(PathBuf),
    /// The note of residency does not verify.
    #[error("{} is damaged; restore it from a backup, or move the directory away to start empty", .0.display())]
    NoteDamaged(PathBuf),
    /// The logs have records of keys that this region may not hold any more.
    #[error(
        "{} holds keys under \"{prefix}\", which RESIDENCY does not let this region hold; once the other regions have what was written here, \
         stop this node and empty its DATA_DIR", .directory.display()
    )]
    Residency {
        /// Which directory.
        directory: PathBuf,
        /// What such keys begin with.
        prefix: String,
    },
    /// The logs must not be used as they are.
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
    /// A record that verified has no meaning for this version.
    #[error("a record of the log cannot be used: {0}")]
    Record(String),
    /// The first record of the run could not be written.
    #[error("the log cannot be opened: {0}")]
    Open(WriteError),
}

/// A core's shard, its first segment and that segment's file.
pub type StartedShard<H> = (Shard<<H as Host>::Map>, SegmentNumber, <H as Host>::File);

/// A node that has recovered and opened its new incarnation.
#[derive(Debug)]
pub struct Started<H: Host, L> {
    /// This node.
    pub node: NodeId,
    /// This run.
    pub incarnation: Incarnation,
    /// Keys placement.
    pub secret: NodeSecret,
    /// By core.
    pub shards: Vec<StartedShard<H>>,
    /// Own logs, the new one last.
    pub logs: OwnLogs,
    /// What is left of earlier runs, oldest first.
    pub old_runs: Vec<OldRun>,
    /// The recovered vector.
    pub watermarks: Watermarks,
    /// The recovered member table.
    pub members: Members,
    /// Logs of other nodes that earlier runs knew of.
    pub known: KnownLogs,
    /// What may have been forgotten, what was held, and whether a bootstrap is under way.
    pub forgotten: Floor,
    /// What recovery found, a line each.
    pub report: Vec<String>,
    /// Records read back.
    pub records: u64,
    /// Physical time at which the run begins, in milliseconds since 1970: the wall clock's, unless earlier runs had got further.
    pub begins_unix_ms: u64,
    /// Keeps other processes out.
    pub lock: L,
}

fn io_error(path: &Path, what: &'static str) -> impl FnOnce(std::io::Error) -> StartError {
    let path = path.to_owned();
    move |source| StartError::Io { path, what, source }
}

/// How far start-up is, for whoever waits for it or measures it. Told by any thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// One more segment was synced, read from the device, verified and indexed.
    Reading {
        /// So many are.
        done: usize,
        /// Of so many.
        segments: usize,
    },
    /// More blocks of the checkpoint were loaded.
    Loading {
        /// So many are.
        done: usize,
        /// Of so many.
        blocks: usize,
    },
    /// Every segment was.
    Read {
        /// How many.
        segments: usize,
        /// Their bytes.
        bytes: u64,
    },
    /// Every record of the logs is in the index.
    Indexed {
        /// How many.
        records: u64,
    },
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |done: usize, segments: usize| done * 100 / segments.max(1);
        match *self {
            Progress::Reading { done, segments } => {
                write!(f, "{} % of {segments} segments read", percent(done, segments))
            }
            Progress::Loading { done, blocks } => {
                write!(f, "{} % of the checkpoint loaded", percent(done, blocks))
            }
            Progress::Read { segments, .. } => write!(f, "{segments} segments read"),
            Progress::Indexed { records } => write!(f, "{records} records indexed"),
        }
    }
}

/// Recovers the directory and opens a new incarnation in it.
///
/// The wall clock's reading in `time` is a proposal: a run begins no earlier than the one before it was.
///
/// # Errors
/// See [`StartError`]; nothing that was acknowledged is lost by any of them.
pub fn start<H: Host, D: Disk<File = H::File>>(
    disk: &D,
    settings: &StartSettings,
    random: &mut dyn FnMut() -> u64,
    time: Time,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<Started<H, D::Lock>, StartError> {
    let directory = &settings.data_dir;
    disk.create_dir_all(directory).map_err(io_error(directory, "cannot be created"))?;
    let lock = disk.lock(&directory.join(LOCK_FILE)).map_err(|source| {
        if source.kind() == std::io::ErrorKind::WouldBlock {
            StartError::InUse(directory.clone())
        } else {
            io_error(directory, "cannot be locked")(source)
        }
    })?;
    let names = disk.list(directory).map_err(io_error(directory, "cannot be listed"))?;
    let (node, secret) = identity(disk, directory, &names, random)?;
    let noted = noted::noted(disk, directory, &names)?;
    let may_hold_less = match &noted {
        Some(noted) => !settings.may_hold.covers(&noted.allowed),
        None => !settings.may_hold.is_everything(),
    };
    let mut recovery = Recovering::<H, D>::new(disk, settings, node, secret, time);
    recovery.may_hold_less = may_hold_less;
    recovery.read(&names, progress)?;
    recovery.begin();
    recovery.keep_residency(noted)?;
    let incarnation = match planted::is(Fault::IncarnationCounted) {
        true => Incarnation((u64::from(node.0) << 32) + recovery.order.len() as u64),
        false => Incarnation(random()),
    };
    recovery.open(incarnation, random, lock)
}

/// A control record that says how far another log is held, with the positions it rests on.
type HeldWatermark = (NodeId, Incarnation, Version, Vec<(Incarnation, CoreId, Lsn)>);

/// A run of this node as its records tell it.
#[derive(Debug, Default)]
struct Run {
    first: Option<(Version, u16)>,
    highest: Version,
    /// It originated something that followers must have.
    data: bool,
    cores: BTreeMap<u16, RunCore>,
}

#[derive(Debug, Default)]
struct RunCore {
    /// Copies that compaction made stand in it.
    has_copies: bool,
    segments: Vec<SegmentRef>,
    /// The highest version that they originate.
    originated: Version,
    marks: Vec<(Version, Lsn)>,
    end: Lsn,
}

struct Recovering<'a, H: Host, D: Disk<File = H::File>> {
    disk: &'a D,
    settings: &'a StartSettings,
    node: NodeId,
    secret: NodeSecret,
    time: Time,
    stores: Vec<Store<H::Map>>,
    /// By core; of several copies of a record the one that was found last.
    held: BTreeMap<(usize, HeldKey), Location>,
    runs: BTreeMap<u64, Run>,
    order: Vec<u64>,
    /// By the run in which they stand.
    watermarks: Vec<(Incarnation, HeldWatermark)>,
    /// Every row that the logs have of a member.
    members: Vec<Member>,
    /// Logs of other nodes: first versions and cores.
    known: BTreeMap<(NodeId, Incarnation), (Version, u16)>,
    /// What may have been forgotten, what was held, and whether a bootstrap is under way.
    forgotten: Floor,
    /// Up to where everything was held, by the run that said so.
    held_upto: BTreeMap<Incarnation, Version>,
    /// There may be records that this node may not hold any more.
    may_hold_less: bool,
    ends: BTreeMap<(Incarnation, CoreId), Lsn>,
    /// Highest segment number by core.
    numbers: BTreeMap<u16, u64>,
    /// Above every version given or seen.
    floor: Version,
    /// Where earlier runs' clocks were at least, by what they wrote themselves.
    reached: Version,
    records: u64,
    report: Vec<String>,
    /// Segments of earlier runs, by run; oldest first for each core.
    retired: BTreeMap<u64, Vec<RetiredSegment>>,
}

impl<'a, H: Host, D: Disk<File = H::File>> Recovering<'a, H, D> {
    fn new(disk: &'a D, settings: &'a StartSettings, node: NodeId, secret: NodeSecret, time: Time) -> Self {
        let stores = std::iter::repeat_with(|| Store::new(settings.index_table_bits, node));
        Recovering {
            disk,
            settings,
            node,
            secret,
            time,
            stores: stores.take(usize::from(settings.cores)).collect(),
            held: BTreeMap::new(),
            runs: BTreeMap::new(),
            order: Vec::new(),
            watermarks: Vec::new(),
            members: Vec::new(),
            known: BTreeMap::new(),
            forgotten: Floor::default(),
            held_upto: BTreeMap::new(),
            may_hold_less: false,
            ends: BTreeMap::new(),
            numbers: BTreeMap::new(),
            floor: Version::ZERO,
            reached: Version::ZERO,
            records: 0,
            report: Vec::new(),
            retired: BTreeMap::new(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.settings.data_dir.join(name)
    }

    /// Takes in what the directory holds: from the checkpoint of the last stop, or by reading the logs.
    fn read(&mut self, names: &[String], progress: &(dyn Fn(Progress) + Sync)) -> Result<(), StartError> {
        let files = self.open_segments(names)?;
        // A checkpoint tells no keys.
        if self.may_hold_less || !self.read_checkpoint(names, &files, progress)? {
            self.read_logs(&files, progress)?;
        }
        self.remove_checkpoints(names)
    }

    fn open_segments(&mut self, names: &[String]) -> Result<Files<H::File>, StartError> {
        let mut files = Files::new();
        for name in names {
            match wal::directory::file_kind(name) {
                wal::directory::FileKind::Temporary => {
                    reach(Mark::LeftoverRemoved);
                    self.unlink(name)?;
                }
                wal::directory::FileKind::Other | wal::directory::FileKind::Checkpoint { .. } => {}
                wal::directory::FileKind::Segment { core, number } => {
                    let highest = self.numbers.entry(core.0).or_default();
                    *highest = (*highest).max(number.0);
                    let path = self.path(name);
                    let file = self.disk.open(&path).map_err(io_error(&path, "cannot be opened"))?;
                    files.insert(name.clone(), file);
                }
            }
        }
        Ok(files)
    }

    /// Reads, judges and indexes the logs.
    fn read_logs(&mut self, files: &Files<H::File>, progress: &(dyn Fn(Progress) + Sync)) -> Result<(), StartError> {
        let names: Vec<&String> = files.keys().collect();
        let (recovery, pass) = self.read_and_judge(&names, files, progress)?;
        self.report.extend(recovery.report.iter().map(ToString::to_string));
        for log in &recovery.logs {
            self.ends.insert((log.incarnation, log.core), log.end);
            for segment in &log.segments {
                if let Some(seal) = segment.seal_block() {
                    reach(Mark::SegmentSealedAtStart);
                    // The cut becomes final: stale frames behind it never parse again.
                    let file = files[&segment.file_name].clone();
                    let job = FileJob::WriteSync { file, offset: wal::SEAL_OFFSET, bytes: seal };
                    self.disk.run(job).map_err(io_error(&self.path(&segment.file_name), "cannot be sealed"))?;
                }
            }
        }
        self.take_pass(&recovery.logs, pass)?;
        progress(Progress::Indexed { records: self.records });
        for name in &recovery.recyclable {
            self.unlink(name)?;
        }
        Ok(())
    }

    fn unlink(&self, name: &str) -> Result<(), StartError> {
        let path = self.path(name);
        let unlinked = self.disk.run(FileJob::Unlink { path: path.clone() });
        unlinked.map(|_| ()).map_err(io_error(&path, "cannot be removed"))
    }

    /// Decides where time begins. Monotonic time had brought the earlier runs that far; a wall clock behind it is wrong, or was wrong
    /// then, and following it would hide what was shown. Records that were never due stay held back.
    fn begin(&mut self) {
        self.floor = self.floor.max(self.reached);
        let (wall_unix_ms, earliest) = (self.time.unix_ms, earliest_unix_ms(self.reached));
        self.time.unix_ms = wall_unix_ms.max(earliest);
        if is_step(self.time.unix_ms, wall_unix_ms) {
            reach(Mark::WallBehindAtStart);
            let behind_ms = self.time.unix_ms - wall_unix_ms;
            self.report.push(format!(
                "the wall clock is {behind_ms} ms behind what this node has shown; it is not followed until it is no longer behind"
            ));
        }
        let time = self.time;
        let (held, due): (BTreeMap<_, _>, BTreeMap<_, _>) =
            std::mem::take(&mut self.held).into_iter().partition(|((_, key), _)| is_far_future(key.version(), time));
        self.held = held;
        for ((core, key), location) in due {
            let store = &mut self.stores[core];
            let (verdict, facts) = store.judge_at(key.hash(), location);
            store.install(key.hash(), verdict, location, facts);
            self.floor = self.floor.max(key.version());
        }
        // Room for the run's first version, which may not run ahead of physical time any further.
        if self.floor.logic() == 0x7ff {
            self.floor = Version::new(self.floor.ms() + 1, 0, 0);
        }
    }

    /// Draws the new incarnation: first segments, shards, and the open record, durable.
    fn open<L>(
        mut self,
        incarnation: Incarnation,
        random: &mut dyn FnMut() -> u64,
        lock: L,
    ) -> Result<Started<H, L>, StartError> {
        let mut logs = self.own_logs();
        let (watermarks, kept) = self.recovered_watermarks();
        let mut shards = Vec::new();
        let stores = std::mem::take(&mut self.stores);
        for (core, store) in (0..self.settings.cores).zip(stores) {
            let number = SegmentNumber(self.numbers.get(&core).copied().unwrap_or(0) + 1);
            let (segment, file) = self.first_segment(incarnation, CoreId(core), number, random)?;
            let identity = ShardIdentity { node: self.node, incarnation, core: CoreId(core), secret: self.secret };
            let settings = ShardSettings {
                segment_bytes: u64::from(self.settings.segment_bytes),
                value_bytes_max: self.settings.value_bytes_max as usize,
                commit_path: self.settings.commit_path,
                cores: self.settings.cores,
            };
            let mut shard = Shard::new(identity, settings, segment, store, self.floor);
            for ((_, key), location) in self.held.iter().filter(|((owner, _), _)| *owner == usize::from(core)) {
                shard.hold(*key, *location);
            }
            shards.push((shard, number, file));
        }
        let (shard, _, file) = shards.first_mut().expect("a node has at least one core");
        let first = shard.open(self.settings.cores, self.time).map_err(StartError::Open)?;
        // What earlier runs knew of other nodes' logs and of members stands in the new run, too, so that they may go. It rests on nothing more: what
        // it rested on was recovered, hence is durable, and goes only when what took its place is.
        for ((node, incarnation), version) in kept {
            let control = ControlRecord::Watermark { node, incarnation, version, flags: 0, rests_on: Vec::new() };
            shard.append_local(&control).map_err(StartError::Open)?;
        }
        for ((node, incarnation), (first, cores)) in &self.known {
            let (node, incarnation, first, cores) = (*node, *incarnation, *first, *cores);
            let control = ControlRecord::Open { node, incarnation, first, cores };
            shard.append_local(&control).map_err(StartError::Open)?;
        }
        for log in &logs.logs {
            let (incarnation, version) = (Incarnation(log.id.incarnation.0), log.end.unwrap_or(log.first));
            let control =
                ControlRecord::Watermark { node: self.node, incarnation, version, flags: 0, rests_on: Vec::new() };
            shard.append_local(&control).map_err(StartError::Open)?;
        }
        let members = Members::recovered(std::mem::take(&mut self.members));
        for member in members.iter() {
            shard.append_local(&to_record(member)).map_err(StartError::Open)?;
        }
        for control in self.forgotten.records() {
            shard.append_local(&control).map_err(StartError::Open)?;
        }
        shard.seal_group().map_err(StartError::Open)?;
        let mut log = OwnLog::new(self.node, incarnation, first, self.settings.cores);
        while let Some(commit) = shard.next_commit() {
            if let Commit::Write { offset, bytes, .. } = commit {
                // The first of the writes that the run will make: what does not work shows before anything is served.
                let no_direct = |source| StartError::NoDirect(self.settings.data_dir.clone(), source);
                let file = H::open_direct(file).map_err(no_direct)?;
                let job = FileJob::WriteSync { file, offset, bytes };
                self.disk.run(job).map_err(|source| match source.raw_os_error() {
                    Some(INVALID_ARGUMENT) => no_direct(source),
                    _ => io_error(&self.settings.data_dir, "the new log cannot be written")(source),
                })?;
            } else {
                self.disk.sync(file).map_err(io_error(&self.settings.data_dir, "the new log cannot be synced"))?;
            }
            let mut frames = shard.sync_done();
            for frame in &mut frames {
                // Kept for as long as the run lasts: it should not keep its segment in memory.
                frame.payload = Bytes::copy_from_slice(&frame.payload);
            }
            log.cores[0].extend(shard.log().durable(), shard.complete(), frames);
        }
        logs.logs.push(log);
        // The other cores' clocks start above the run's first version, whatever the wall clock does until they run.
        for (shard, ..) in &mut shards {
            shard.raise(first);
        }
        let old_runs = self.old_runs(&mut shards);
        Ok(Started {
            node: self.node,
            incarnation,
            secret: self.secret,
            shards,
            logs,
            old_runs,
            watermarks,
            members,
            known: KnownLogs::recovered(
                self.known.iter().map(|((node, incarnation), (first, cores))| {
                    (log_id(*node, *incarnation), to_wire(*first), *cores)
                }),
            ),
            forgotten: self.forgotten,
            report: self.report,
            records: self.records,
            begins_unix_ms: self.time.unix_ms,
            lock,
        })
    }

    fn first_segment(
        &self,
        incarnation: Incarnation,
        core: CoreId,
        number: SegmentNumber,
        random: &mut dyn FnMut() -> u64,
    ) -> Result<(Segment<H::Map>, H::File), StartError> {
        let cookie = Cookie(random() | 1);
        let len = u64::from(self.settings.segment_bytes);
        let header = SegmentHeader {
            segment_bytes: len,
            node: self.node,
            incarnation,
            core,
            number,
            cookie,
            base: Lsn(0),
            previous: None,
        };
        let temporary = self.path(&wal::temporary_file_name(core, number));
        let path = segment_path(&self.settings.data_dir, core, number);
        let job = FileJob::Prepare { path: temporary.clone(), len, head: header.encode_page() };
        let file = match self.disk.run(job).map_err(io_error(&temporary, "the first segment cannot be prepared"))? {
            Outcome::Opened(file) => file,
            other => return Err(StartError::Record(format!("a prepared segment gave {other:?}"))),
        };
        self.disk
            .run(FileJob::Rename { from: temporary, to: path.clone() })
            .map_err(io_error(&path, "the first segment cannot be named"))?;
        let commit_path = self.settings.commit_path;
        if commit_path == CommitPath::Direct {
            H::open_direct(&file).map_err(|source| StartError::NoDirect(path.clone(), source))?;
        }
        let map = map_segment::<H>(&file, len, commit_path).map_err(io_error(&path, "cannot be mapped"))?;
        Ok((Segment { number, cookie, base: Lsn(0), map }, file))
    }

    /// This node's retired logs. One without its open record never acknowledged anything; one that holds nothing else is not
    /// worth offering: a log that nobody is told of counts as held.
    fn own_logs(&mut self) -> OwnLogs {
        let mut logs = OwnLogs::default();
        for incarnation in self.order.clone() {
            let Some(run) = self.runs.remove(&incarnation) else { continue };
            let Some((first, cores)) = run.first.filter(|_| run.data) else { continue };
            if cores != self.settings.cores {
                reach(Mark::CoreCountChanged);
            }
            let end = run.highest.max(first);
            let mut log = OwnLog::new(self.node, Incarnation(incarnation), first, cores);
            log.end = Some(end);
            for (core, found) in run.cores {
                let Some(slot) = log.cores.get_mut(usize::from(core)) else { continue };
                slot.segments = found.segments;
                slot.marks = found.marks;
                slot.retire(found.end, end);
                if found.has_copies {
                    // Where nothing of this run is gone, only those need them who did not follow the runs before it.
                    slot.copies = Copies { below: first, upto: found.end };
                }
            }
            for core in &mut log.cores {
                // Every core of a run has a segment, until it is removed.
                if core.segments.first().is_none_or(|oldest| oldest.base > Lsn(0)) {
                    core.begin_late(end);
                    log.rests_on_later_upto = self.floor;
                }
            }
            for core in &mut log.cores {
                core.complete = end;
            }
            logs.logs.push(log);
        }
        logs.logs.sort_by_key(|log| log.first);
        logs
    }

    /// Watermarks whose positions were all recovered, and the highest of them for each log.
    fn recovered_watermarks(&mut self) -> (Watermarks, BTreeMap<(NodeId, Incarnation), Version>) {
        let ends = &self.ends;
        let mut discarded = 0;
        let genuine = self.watermarks.iter().map(|(_, held)| held).filter(|(_, _, _, rests_on)| {
            let rests = rests_on
                .iter()
                .all(|(incarnation, core, lsn)| ends.get(&(*incarnation, *core)).is_some_and(|end| end >= lsn));
            if !rests {
                reach(Mark::WatermarkDiscarded);
                discarded += 1;
            }
            rests || planted::is(Fault::WatermarkRestsOnNothing)
        });
        let mut highest: BTreeMap<(NodeId, Incarnation), Version> = BTreeMap::new();
        for (node, incarnation, version, _) in genuine {
            let known = highest.entry((*node, *incarnation)).or_default();
            *known = (*known).max(*version);
        }
        let watermarks = Watermarks::recovered(
            highest.iter().map(|((node, incarnation), version)| (log_id(*node, *incarnation), to_wire(*version))),
        );
        if discarded > 0 {
            self.report.push(format!("{discarded} watermarks rested on positions that were not recovered"));
        }
        (watermarks, highest)
    }
}
