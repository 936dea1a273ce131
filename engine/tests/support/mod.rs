//! A node without loops: started from a directory, driven by hand, stopped cleanly or not.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use engine::checkpoint::{Job, OldRunFacts, OldRunLog, Writer};
use engine::clock::Time;
use engine::daemon::Os;
use engine::replication::log_id;
use engine::replication::logs::OwnLogs;
use engine::replication::members::Members;
use engine::replication::watermarks::Watermarks;
use engine::shard::Shard;
use engine::startup::{OldRun, StartError, StartSettings, start};
use net::reactor::disk::{Disk, OsDisk};
use net::reactor::epoll::EpollIo;
use net::reactor::{FileJob, Mono, OsFile, Outcome};
use tempfile::TempDir;
use wal::{
    Commit, CommitPath, ControlRecord, Cookie, CoreId, EPOCH_2020_UNIX_MS, FileKind, Incarnation, Lsn, MappedFile,
    NodeId, RecordDraft, RecordOp, RecordView, SealBlock, SealState, Segment, SegmentHeader, SegmentNumber, Version,
    file_kind,
};

type Host = Os<EpollIo>;

/// A data directory and the numbers its runs draw.
pub(crate) struct Node {
    pub(crate) settings: StartSettings,
    drawn: u64,
    pub(crate) unix_ms: u64,
    _directory: Option<TempDir>,
}

/// One core of a running node.
pub(crate) struct Core {
    pub(crate) shard: Shard<MappedFile>,
    files: BTreeMap<u64, OsFile>,
}

/// A running node.
pub(crate) struct Running {
    pub(crate) cores: Vec<Core>,
    pub(crate) logs: OwnLogs,
    pub(crate) watermarks: Watermarks,
    pub(crate) members: Members,
    pub(crate) old_runs: Vec<OldRun>,
    pub(crate) report: Vec<String>,
    pub(crate) records: u64,
    pub(crate) begins_unix_ms: u64,
    secret: engine::storage::NodeSecret,
    node: NodeId,
    incarnation: Incarnation,
    claims: BTreeMap<u64, u64>,
    changes: u64,
    _lock: <OsDisk as Disk>::Lock,
}

impl Node {
    pub(crate) fn new() -> Node {
        let directory = tempfile::tempdir().unwrap();
        let settings = StartSettings {
            data_dir: directory.path().join("data"),
            cores: 1,
            segment_bytes: 64 * 1024,
            value_bytes_max: 16 * 1024,
            commit_path: CommitPath::Mmap,
            index_table_bits: 4,
            may_hold: engine::replication::residency::Allowed::everything(),
        };
        Node { settings, drawn: 77, unix_ms: EPOCH_2020_UNIX_MS + 10_000_000, _directory: Some(directory) }
    }

    /// As it is now, in another directory.
    pub(crate) fn clone_in(&self, data_dir: &Path) -> Node {
        let settings = StartSettings { data_dir: data_dir.to_owned(), ..self.settings.clone() };
        Node { settings, drawn: self.drawn, unix_ms: self.unix_ms, _directory: None }
    }

    pub(crate) fn copy(&self) -> TempDir {
        let elsewhere = tempfile::tempdir().unwrap();
        for name in self.names() {
            fs::copy(self.settings.data_dir.join(&name), elsewhere.path().join(&name)).unwrap();
        }
        elsewhere
    }

    pub(crate) fn copy_without_checkpoint(&self) -> TempDir {
        let elsewhere = self.copy();
        for name in self.checkpoints() {
            fs::remove_file(elsewhere.path().join(name)).unwrap();
        }
        elsewhere
    }

    fn names(&self) -> Vec<String> {
        OsDisk.list(&self.settings.data_dir).unwrap()
    }

    pub(crate) fn checkpoints(&self) -> Vec<String> {
        self.names().into_iter().filter(|name| matches!(file_kind(name), FileKind::Checkpoint { .. })).collect()
    }

    pub(crate) fn segments(&self) -> Vec<String> {
        self.names().into_iter().filter(|name| matches!(file_kind(name), FileKind::Segment { .. })).collect()
    }

    /// Ends of sealed segments in their files, by name.
    pub(crate) fn ends(&self) -> BTreeMap<String, u64> {
        let sealed = |name: String| {
            let bytes = fs::read(self.settings.data_dir.join(&name)).unwrap();
            let header = SegmentHeader::parse(&bytes).unwrap();
            match SealBlock::read(&bytes, header.link()) {
                SealState::Valid(seal) => Some((name, seal.end.0 - header.base.0)),
                _ => None,
            }
        };
        self.segments().into_iter().filter_map(sealed).collect()
    }

    /// A segment that was prepared and never used.
    pub(crate) fn spare(&self) -> String {
        let ends = self.ends();
        self.segments().into_iter().find(|name| !ends.contains_key(name)).expect("there is always a spare")
    }

    pub(crate) fn time(&self) -> Time {
        Time { mono: Mono(1), unix_ms: self.unix_ms }
    }

    pub(crate) fn ms(&self) -> u64 {
        self.unix_ms - EPOCH_2020_UNIX_MS
    }

    pub(crate) fn start(&mut self) -> Running {
        self.try_start().expect("a start")
    }

    pub(crate) fn try_start(&mut self) -> Result<Running, StartError> {
        self.unix_ms += 1_000;
        let time = self.time();
        let drawn = &mut self.drawn;
        let mut random = || {
            *drawn = drawn.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *drawn
        };
        let started = start::<Host, _>(&OsDisk, &self.settings, &mut random, time, &|_| {})?;
        let cores = started.shards.into_iter();
        let cores = cores.map(|(shard, number, file)| Core { shard, files: BTreeMap::from([(number.0, file)]) });
        let mut running = Running {
            cores: cores.collect(),
            logs: started.logs,
            watermarks: started.watermarks,
            members: started.members,
            old_runs: started.old_runs,
            report: started.report,
            records: started.records,
            begins_unix_ms: started.begins_unix_ms,
            secret: started.secret,
            node: started.node,
            incarnation: started.incarnation,
            claims: BTreeMap::new(),
            changes: 0,
            _lock: started.lock,
        };
        running.keep_spares(self);
        Ok(running)
    }
}

impl Running {
    fn core_of(&mut self, key: &[u8]) -> (&mut Core, engine::storage::KeyHash) {
        let hash = self.secret.hash(key);
        let cores = u16::try_from(self.cores.len()).unwrap();
        (&mut self.cores[usize::from(hash.core(cores))], hash)
    }

    pub(crate) fn put(&mut self, node: &mut Node, key: &[u8], value: &[u8], expiry: Option<u64>) {
        node.unix_ms += 1;
        let (core, hash) = self.core_of(key);
        core.shard.put(hash, key, value, expiry, node.time()).expect("room");
        self.settle(node);
    }

    pub(crate) fn delete(&mut self, node: &mut Node, key: &[u8]) {
        node.unix_ms += 1;
        let (core, hash) = self.core_of(key);
        core.shard.delete(hash, key, node.time()).expect("room");
        self.settle(node);
    }

    pub(crate) fn follow(&mut self, node: &mut Node, key: &[u8], version: Version, value: &[u8]) {
        let draft = RecordDraft { version, origin: NodeId(5), op: RecordOp::Put, expiry: None, key, value };
        let bytes = draft.to_vec();
        let (core, _) = self.core_of(key);
        core.shard.follow(&RecordView::parse(&bytes).unwrap().0, node.time()).expect("room");
        self.settle(node);
    }

    /// Claims rise.
    pub(crate) fn highest_claim(&mut self, version: u64) -> u64 {
        let log = log_id(NodeId(5), Incarnation(version % 3));
        let claim = self.claims.entry(version % 3).or_default();
        *claim = (*claim).max(version).max(self.watermarks.version(log).0);
        *claim
    }

    /// The staged end of every core.
    pub(crate) fn positions(&self) -> Vec<(Incarnation, CoreId, Lsn)> {
        let positions = self.cores.iter().zip(0..);
        positions.map(|(core, number)| (self.incarnation, CoreId(number), core.shard.log().staged())).collect()
    }

    pub(crate) fn append_local(&mut self, node: &Node, control: &ControlRecord) {
        let last = self.cores.len() - 1;
        self.cores[last].shard.append_local(control).expect("room");
        self.sync(node);
    }

    pub(crate) fn release_due(&mut self, node: &Node) {
        for core in &mut self.cores {
            core.shard.release_due(node.time());
        }
        self.sync(node);
        for core in &mut self.cores {
            core.shard.release_due(node.time());
        }
    }

    /// Compacts what is due and gives up what is empty.
    pub(crate) fn compact(&mut self, node: &Node) {
        for at in 0..self.cores.len() {
            self.cores[at].shard.begin_compaction();
            while self.cores[at].shard.is_compacting() {
                let core = &mut self.cores[at];
                if let Some(read) = core.shard.compaction_read() {
                    let path =
                        node.settings.data_dir.join(wal::segment_file_name(read.segment.core, read.segment.number));
                    let file = OsDisk.open(&path).unwrap();
                    let job = FileJob::ReadBulk { file, offset: read.offset, len: read.len };
                    let Ok(Outcome::Bulk(bytes)) = OsDisk.run(job) else { panic!("not read") };
                    core.shard.compaction_chunk(&bytes).expect("intact");
                }
                core.shard.compact(8 * 1024, node.time()).expect("room");
                self.sync(node);
            }
            self.sync(node);
            let core = &mut self.cores[at];
            while let Some(removable) = core.shard.removable() {
                core.shard.remove(removable.number).expect("the oldest");
                core.files.remove(&removable.number.0);
                let number = u16::try_from(at).unwrap();
                let path = node.settings.data_dir.join(wal::segment_file_name(CoreId(number), removable.number));
                OsDisk.run(FileJob::Unlink { path }).unwrap();
            }
        }
    }

    /// Groups of a few changes, and always a segment in reserve.
    fn settle(&mut self, node: &Node) {
        self.changes += 1;
        if self.changes.is_multiple_of(8) {
            self.sync(node);
        }
        self.keep_spares(node);
    }

    /// Makes everything durable.
    pub(crate) fn sync(&mut self, node: &Node) {
        for core in &mut self.cores {
            core.shard.seal_group().expect("room");
            core.commit();
        }
        self.keep_spares(node);
        self.write_seals();
    }

    fn write_seals(&mut self) {
        for core in &mut self.cores {
            for (number, bytes) in core.shard.log_mut().take_seals() {
                let file = core.files[&number.0].clone();
                OsDisk.run(FileJob::WriteSync { file, offset: wal::SEAL_OFFSET, bytes }).unwrap();
            }
        }
    }

    fn keep_spares(&mut self, node: &Node) {
        for core in &mut self.cores {
            while core.shard.log().needs_segment() {
                core.supply(&node.settings.data_dir, self.node);
            }
        }
    }

    /// A clean stop.
    pub(crate) fn stop(mut self, node: &Node) {
        self.sync(node);
        let mut old_runs: Vec<OldRunFacts> = self.logs.logs[..self.logs.logs.len() - 1]
            .iter()
            .map(|log| OldRunFacts {
                incarnation: Incarnation(log.id.incarnation.0),
                first: log.first,
                end: log.end.unwrap(),
                cores: log
                    .cores
                    .iter()
                    .map(|core| OldRunLog { has_copies: core.copies.upto > Lsn(0), marks: core.marks.clone() })
                    .collect(),
            })
            .collect();
        for core in &mut self.cores {
            core.shard.seal_idle();
            core.commit();
            assert!(core.shard.log_mut().close());
        }
        self.write_seals();
        let cores = u16::try_from(self.cores.len()).unwrap();
        for core in &mut self.cores {
            let runs = std::mem::take(&mut old_runs);
            let mut writer = Writer::new(&node.settings.data_dir, &mut core.shard, cores, runs);
            loop {
                match writer.next(&mut core.shard) {
                    Job::Do(job) => writer.completed(OsDisk.run(job).unwrap()),
                    Job::Finished => break,
                    Job::GiveUp(why) => panic!("{why}"),
                }
            }
        }
    }
}

impl Core {
    fn commit(&mut self) {
        while let Some(commit) = self.shard.next_commit() {
            let Commit::Sync { request, .. } = commit else { panic!("a mapped log is synced") };
            OsDisk.sync(&self.files[&request.segment.0]).unwrap();
            self.shard.sync_done();
        }
    }

    fn supply(&mut self, directory: &Path, node: NodeId) {
        let plan = self.shard.log().next_segment_plan();
        let (segment_bytes, identity) = (self.shard.log().segment_bytes(), self.shard.identity());
        let cookie = Cookie(plan.number.0 * 1_000 + u64::from(identity.core.0) + 1);
        let head = SegmentHeader {
            segment_bytes,
            node,
            incarnation: identity.incarnation,
            core: identity.core,
            number: plan.number,
            cookie,
            base: plan.base,
            previous: plan.previous,
        };
        let path: PathBuf = directory.join(wal::segment_file_name(identity.core, plan.number));
        let job = FileJob::Prepare { path, len: segment_bytes, head: head.encode_page() };
        let Ok(Outcome::Opened(file)) = OsDisk.run(job) else { panic!("not prepared") };
        let map = MappedFile::map(file.as_file(), usize::try_from(segment_bytes).unwrap()).unwrap();
        let SegmentNumber(number) = plan.number;
        self.files.insert(number, file);
        self.shard.supply(Segment { number: plan.number, cookie, base: plan.base, map });
    }
}
