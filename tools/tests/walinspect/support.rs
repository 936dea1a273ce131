//! What the tests share: a node's logs, appended by the real appender, as files in a temporary directory; and the tool, run as a
//! process.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use tempfile::TempDir;
use wal::{
    AppendError, ControlRecord, Cookie, CoreId, FrameKind, FrameRef, Incarnation, Log, LogIdentity, Lsn, MemoryMap,
    NodeId, RecordDraft, RecordOp, SEAL_OFFSET, SEGMENT_HEADER_BYTES, Segment, SegmentHeader, SegmentNumber, Version,
    crc32c, segment_file_name,
};

pub(crate) const NODE: NodeId = NodeId(0x0a00_0001);
pub(crate) const PEER: NodeId = NodeId(0x0a00_0002);
pub(crate) const RUN: Incarnation = Incarnation(0x1122_3344_5566_7788);
pub(crate) const PEER_RUN: Incarnation = Incarnation(0x99aa_bbcc_ddee_ff00);
pub(crate) const SEGMENT_BYTES: u64 = 8192;

pub(crate) fn version(ms: u64) -> Version {
    Version::new(ms, 0, 7)
}

pub(crate) fn name_of(number: u64) -> String {
    segment_file_name(CoreId(0), SegmentNumber(number))
}

type Memory = Arc<Mutex<Vec<u8>>>;

/// The log of one run in a data directory. Nothing is on disk before [`TestLog::write`].
pub(crate) struct TestLog {
    dir: PathBuf,
    node: NodeId,
    run: Incarnation,
    pub(crate) log: Log<MemoryMap>,
    files: BTreeMap<SegmentNumber, Memory>,
    pub(crate) frames: Vec<FrameRef>,
    pub(crate) ms: u64,
}

/// A data directory of `node`, with its NODE file.
pub(crate) fn data_dir(node: NodeId) -> TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let body = format!("godwit-node 1 id={:08x} secret=0123456789abcdef", node.0);
    let line = format!("{body} crc={:08x}\n", crc32c(body.as_bytes()));
    fs::write(dir.path().join("NODE"), line).expect("a NODE file");
    dir
}

impl TestLog {
    pub(crate) fn new(dir: &Path, node: NodeId, run: Incarnation) -> TestLog {
        TestLog::from(dir, node, run, 1, &[0; 4096])
    }

    /// The log of a run from segment `first` on; the bodies of its files hold `old` before.
    pub(crate) fn from(dir: &Path, node: NodeId, run: Incarnation, first: u64, old: &[u8]) -> TestLog {
        let (segment, memory) = prepare(node, run, SegmentNumber(first), Lsn(0), None, old);
        let identity = LogIdentity { node, incarnation: run, core: CoreId(0) };
        TestLog {
            dir: dir.to_owned(),
            node,
            run,
            log: Log::new(identity, SEGMENT_BYTES, segment),
            files: BTreeMap::from([(SegmentNumber(first), memory)]),
            frames: Vec::new(),
            ms: 1000,
        }
    }

    pub(crate) fn append(&mut self, kind: FrameKind, draft: &RecordDraft<'_>) {
        if let Err(error) = self.log.append_draft(kind, draft) {
            assert_eq!(error, AppendError::NoSegment);
            let plan = self.log.next_segment_plan();
            let (segment, memory) = prepare(self.node, self.run, plan.number, plan.base, plan.previous, &[0; 4096]);
            self.files.insert(plan.number, memory);
            self.log.supply(segment);
            self.log.append_draft(kind, draft).expect("a segment is ready");
        }
    }

    fn own(&mut self, op: RecordOp, key: &[u8], value: &[u8], expiry: Option<u64>) -> Version {
        self.ms += 1;
        let version = version(self.ms);
        self.append(FrameKind::Originated, &RecordDraft { version, origin: self.node, op, expiry, key, value });
        version
    }

    pub(crate) fn put(&mut self, key: &str, value: &str) -> Version {
        self.own(RecordOp::Put, key.as_bytes(), value.as_bytes(), None)
    }

    pub(crate) fn put_until(&mut self, key: &str, value: &str, expiry: u64) -> Version {
        self.own(RecordOp::Put, key.as_bytes(), value.as_bytes(), Some(expiry))
    }

    pub(crate) fn delete(&mut self, key: &str) -> Version {
        self.own(RecordOp::Delete, key.as_bytes(), b"", None)
    }

    /// A record of the other node, as it was received.
    pub(crate) fn follow(&mut self, origin: NodeId, version: Version, key: &str, value: &str) {
        let (key, value) = (key.as_bytes(), value.as_bytes());
        let draft = RecordDraft { version, origin, op: RecordOp::Put, expiry: None, key, value };
        self.append(FrameKind::Followed, &draft);
    }

    pub(crate) fn control(&mut self, record: &ControlRecord) {
        let kind = if record.is_local() { FrameKind::Local } else { FrameKind::Originated };
        let (key, value) = record.encode();
        self.ms += 1;
        let (version, origin) = (version(self.ms), self.node);
        let draft = RecordDraft { version, origin, op: RecordOp::Control, expiry: None, key: &key, value: &value };
        self.append(kind, &draft);
    }

    pub(crate) fn open(&mut self) {
        let first = version(self.ms + 1);
        self.control(&ControlRecord::Open { node: self.node, incarnation: self.run, first, cores: 1 });
    }

    /// This node holds the log of a run up to `version`.
    pub(crate) fn watermark(&mut self, node: NodeId, incarnation: Incarnation, version: Version) {
        let rests_on = vec![(self.run, CoreId(0), self.log.durable())];
        self.control(&ControlRecord::Watermark { node, incarnation, version, flags: 0, rests_on });
    }

    /// Seals the group without making it durable.
    pub(crate) fn seal(&mut self) {
        self.log.seal_group(version(self.ms)).expect("something was appended");
        self.frames.extend(self.log.take_sealed_frames());
    }

    /// Group commit.
    pub(crate) fn commit(&mut self) {
        self.seal();
        self.sync();
    }

    pub(crate) fn sync(&mut self) {
        while self.log.next_commit().is_some() {
            self.log.sync_done();
        }
        let at = usize::try_from(SEAL_OFFSET).expect("small");
        for (number, block) in self.log.take_seals() {
            self.files[&number].lock().expect("no panic")[at..at + block.len()].copy_from_slice(&block);
        }
    }

    pub(crate) fn idle(&mut self) {
        assert!(self.log.seal_idle(version(self.ms)));
        self.frames.extend(self.log.take_sealed_frames());
        self.sync();
    }

    /// Brings the files to what the process sees, in place, as a mapping would: new segments appear whole and under a temporary
    /// name first.
    pub(crate) fn write(&self) {
        for (number, memory) in &self.files {
            let bytes = memory.lock().expect("no panic").clone();
            let path = self.dir.join(segment_file_name(CoreId(0), *number));
            if path.exists() {
                let file = OpenOptions::new().write(true).open(&path).expect("a segment");
                file.write_all_at(&bytes[SEGMENT_HEADER_BYTES..], SEGMENT_HEADER_BYTES as u64).expect("written");
                file.write_all_at(&bytes[..SEGMENT_HEADER_BYTES], 0).expect("written");
            } else {
                let temporary = self.dir.join(wal::temporary_file_name(CoreId(0), *number));
                fs::write(&temporary, &bytes).expect("written");
                fs::rename(&temporary, &path).expect("renamed");
            }
        }
    }
}

/// Every use of a file draws another cookie; here they follow from run and number.
fn cookie_of(run: Incarnation, number: SegmentNumber) -> Cookie {
    Cookie((run.0 ^ 0x5eed_c00c_1e00_0000).wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(number.0) | 1)
}

fn prepare(
    node: NodeId,
    run: Incarnation,
    number: SegmentNumber,
    base: Lsn,
    previous: Option<wal::SegmentLink>,
    old: &[u8],
) -> (Segment<MemoryMap>, Memory) {
    let cookie = cookie_of(run, number);
    let core = CoreId(0);
    let header =
        SegmentHeader { segment_bytes: SEGMENT_BYTES, node, incarnation: run, core, number, cookie, base, previous };
    let mut contents = header.encode_page().to_vec();
    contents.extend(old);
    let memory = Arc::new(Mutex::new(contents));
    let map = MemoryMap::shared(Arc::clone(&memory));
    (Segment { number, cookie, base, map }, memory)
}

/// `count` durable groups of one record in the log of [`NODE`], on disk.
pub(crate) fn groups(dir: &Path, count: usize) -> TestLog {
    let mut test = TestLog::new(dir, NODE, RUN);
    for index in 0..count {
        test.put(&format!("key {index}"), "value");
        test.commit();
    }
    test.write();
    test
}

/// A durable log of three full segments and a bit, on disk.
pub(crate) fn segments(dir: &Path) -> TestLog {
    let mut test = TestLog::new(dir, NODE, RUN);
    let value = "x".repeat(900);
    while test.log.append_position().0 < SegmentNumber(4) {
        test.put(&format!("key {}", test.ms), &value);
        test.commit();
    }
    test.write();
    test
}

/// Changes a file in place.
pub(crate) fn change(dir: &Path, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
    let path = dir.join(name);
    let mut bytes = fs::read(&path).expect("a file");
    change(&mut bytes);
    fs::write(&path, bytes).expect("written");
}

/// What the tool did.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// The rows of a table, without its header.
    pub(crate) fn rows(&self) -> Vec<Vec<&str>> {
        self.stdout.lines().skip(1).map(|line| line.split('\t').collect()).collect()
    }

    pub(crate) fn json(&self) -> Vec<serde_json::Value> {
        let parse = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let lines: Vec<serde_json::Value> = self.stdout.lines().map(parse).collect();
        assert!(lines.iter().all(|line| line["schema"] == 1 && line["type"].is_string()), "{}", self.stdout);
        lines
    }

    /// The findings of `verify --json` of a class.
    pub(crate) fn findings(&self, class: &str) -> Vec<serde_json::Value> {
        self.json().into_iter().filter(|line| line["type"] == "finding" && line["class"] == class).collect()
    }
}

pub(crate) fn command() -> Command {
    Command::new(env!("CARGO_BIN_EXE_walinspect"))
}

/// Runs the tool on `dir`: the command, the directory, then the other arguments.
pub(crate) fn inspect(name: &str, dir: &Path, args: &[&str]) -> Ran {
    ran(command().arg(name).arg(dir).args(args))
}

pub(crate) fn ran(command: &mut Command) -> Ran {
    let output = command.output().expect("the tool runs");
    let code = output.status.code().expect("it was not killed");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    Ran { code, stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// Holds the directory as a daemon does.
pub(crate) fn hold(dir: &Path) -> File {
    let file = File::create(dir.join("LOCK")).expect("a lock file");
    file.try_lock().expect("nobody else has it");
    file
}
