//! What a restart makes of what the run before it left.

use engine::clock::Time;
use engine::daemon::Os;
use engine::startup::{StartSettings, Started, start};
use net::ids::{Incarnation, LogId, NodeId, Version};
use net::reactor::Mono;
use net::reactor::disk::{Disk, OsDisk};
use net::reactor::epoll::EpollIo;
use wal::{CommitPath, ControlRecord, EPOCH_2020_UNIX_MS, RecordDraft, RecordOp, RecordView};

type Host = Os<EpollIo>;
type Running = Started<Host, <OsDisk as Disk>::Lock>;

/// A data directory and the numbers its runs draw.
struct Node {
    settings: StartSettings,
    drawn: u64,
    unix_ms: u64,
    _directory: tempfile::TempDir,
}

impl Node {
    fn new() -> Node {
        let directory = tempfile::tempdir().unwrap();
        let settings = StartSettings {
            data_dir: directory.path().join("data"),
            cores: 1,
            segment_bytes: 1 << 20,
            value_bytes_max: 1 << 18,
            commit_path: CommitPath::Mmap,
            index_table_bits: 4,
        };
        Node { settings, drawn: 77, unix_ms: EPOCH_2020_UNIX_MS + 10_000_000, _directory: directory }
    }

    fn time(&self) -> Time {
        Time { mono: Mono(1), unix_ms: self.unix_ms }
    }

    fn start(&mut self) -> Running {
        self.unix_ms += 1_000;
        let time = self.time();
        let drawn = &mut self.drawn;
        let mut random = || {
            *drawn = drawn.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *drawn
        };
        start::<Host, _>(&OsDisk, &self.settings, &mut random, time, &|_| {}).expect("a start")
    }
}

fn sync(running: &mut Running) {
    let (shard, _, file) = &mut running.shards[0];
    shard.seal_group().unwrap();
    while shard.next_commit().is_some() {
        OsDisk.sync(file).unwrap();
        shard.sync_done();
    }
}

fn record(op: RecordOp, version: u64, key: &[u8], value: &[u8]) -> Vec<u8> {
    let draft = RecordDraft { version: wal::Version(version), origin: wal::NodeId(5), op, expiry: None, key, value };
    let mut bytes = vec![0; draft.padded_len()];
    draft.encode_into(&mut bytes);
    bytes
}

/// Control records that reached a log all the same change nothing at the next start.
#[test]
fn followed_control_records_neither_stop_nor_steer_a_restart() {
    let mut node = Node::new();
    let mut running = node.start();
    let ceiling = ControlRecord::ClockCeiling { version: wal::Version(u64::MAX) }.encode();
    let watermark = ControlRecord::Watermark {
        node: wal::NodeId(6),
        incarnation: wal::Incarnation(1),
        version: wal::Version(u64::MAX),
        flags: 0,
        rests_on: Vec::new(),
    }
    .encode();
    for (key, value) in [(vec![99], Vec::new()), ceiling, watermark] {
        let bytes = record(RecordOp::Control, 5, &key, &value);
        let (record, _) = RecordView::parse(&bytes).unwrap();
        running.shards[0].0.follow(&record, node.time()).unwrap();
    }
    sync(&mut running);
    drop(running);
    let again = node.start();
    let third = LogId { node: NodeId(6), incarnation: Incarnation(1) };
    assert_eq!(again.watermarks.version(third), Version(0));
}

/// Runs that wrote nothing are not offered to followers: a node that is restarted often stays below what a peer can be told.
#[test]
fn runs_that_wrote_nothing_are_not_offered() {
    let mut node = Node::new();
    for _ in 0..5 {
        let mut running = node.start();
        sync(&mut running);
    }
    let mut running = node.start();
    assert_eq!(running.logs.logs.len(), 1, "the present run only");
    let (shard, ..) = &mut running.shards[0];
    let hash = shard.identity().secret.hash(b"k");
    shard.put(hash, b"k", b"v", None, node.time()).unwrap();
    sync(&mut running);
    drop(running);
    let again = node.start();
    assert_eq!(again.logs.logs.len(), 2, "the run with the write, and the present one");
    assert!(again.logs.logs[0].end.is_some());
}

/// The wall clock stood an hour ahead, writes were acknowledged, and it was put right before the restart.
#[test]
fn own_writes_stay_visible_when_the_wall_clock_is_put_back_between_runs() {
    let mut node = Node::new();
    node.unix_ms += 3_600_000;
    let mut running = node.start();
    let (shard, ..) = &mut running.shards[0];
    let hash = shard.identity().secret.hash(b"k");
    shard.put(hash, b"k", b"v", None, node.time()).unwrap();
    sync(&mut running);
    drop(running);
    node.unix_ms -= 3_600_000;
    let again = node.start();
    let time = node.time();
    let (found, _) = again.shards[0].0.read(hash, b"k", time, |record| record.value.to_vec());
    assert_eq!(found.as_deref(), Some(&b"v"[..]));
}
