//! What a restart makes of what the run before it left.

use std::collections::BTreeMap;
use std::sync::Mutex;

use engine::clock::Time;
use engine::daemon::Os;
use engine::replication::members::to_record;
use engine::startup::{Progress, StartSettings, Started, start};
use net::ids::{Incarnation, LogId, NodeId, RegionName, Version};
use net::reactor::Mono;
use net::reactor::disk::{Disk, OsDisk};
use net::reactor::epoll::EpollIo;
use net::wire::body::{Member, MemberState};
use proptest::prelude::*;
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
            may_hold: engine::replication::residency::Allowed::everything(),
        };
        Node { settings, drawn: 77, unix_ms: EPOCH_2020_UNIX_MS + 10_000_000, _directory: directory }
    }

    fn time(&self) -> Time {
        Time { mono: Mono(1), unix_ms: self.unix_ms }
    }

    fn start(&mut self) -> Running {
        self.start_telling(&|_| {})
    }

    fn start_telling(&mut self, progress: &(dyn Fn(Progress) + Sync)) -> Running {
        self.unix_ms += 1_000;
        let time = self.time();
        let drawn = &mut self.drawn;
        let mut random = || {
            *drawn = drawn.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *drawn
        };
        start::<Host, _>(&OsDisk, &self.settings, &mut random, time, progress).expect("a start")
    }
}

fn sync(running: &mut Running) {
    for (shard, _, file) in &mut running.shards {
        shard.seal_group().unwrap();
        while shard.next_commit().is_some() {
            OsDisk.sync(file).unwrap();
            shard.sync_done();
        }
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
    let removal = to_record(&member(5, MemberState::Removed)).encode();
    for (key, value) in [(vec![99], Vec::new()), ceiling, watermark, removal] {
        let bytes = record(RecordOp::Control, 5, &key, &value);
        let (record, _) = RecordView::parse(&bytes).unwrap();
        running.shards[0].0.follow(&record, node.time()).unwrap();
    }
    sync(&mut running);
    drop(running);
    let again = node.start();
    let third = LogId { node: NodeId(6), incarnation: Incarnation(1) };
    assert_eq!(again.watermarks.version(third), Version(0));
    assert_eq!(again.members.table(), []);
}

fn member(node: u32, state: MemberState) -> Member {
    Member { node: NodeId(node), state, at: Version(u64::from(node)), region: RegionName::parse("nyc").unwrap() }
}

/// What a run learnt of members is known to all later ones; of several records of one member the one that counts.
#[test]
fn members_outlive_the_runs_that_named_them() {
    let mut node = Node::new();
    let mut running = node.start();
    let rows = [member(5, MemberState::Joined), member(6, MemberState::Removed)];
    for row in [member(6, MemberState::Joined)].iter().chain(&rows) {
        running.shards[0].0.append_local(&to_record(row)).unwrap();
    }
    sync(&mut running);
    for _ in 0..3 {
        drop(running);
        running = node.start();
        assert_eq!(running.members.table(), rows);
        assert!(rows.iter().all(|row| running.members.is_durable(row.node)));
    }
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

/// What a client, or another node, does to a key.
#[derive(Clone, Debug)]
enum Change {
    Put {
        expires: bool,
    },
    Delete,
    /// A record of another node, in the log of the core that owns the key, or in that of the one after it.
    Follow {
        version: u64,
        value: u8,
        astray: bool,
    },
    /// A record of another node that is not due for hours.
    FollowEarly,
}

fn changes() -> impl Strategy<Value = Vec<(u8, Change)>> {
    let change = prop_oneof![
        4 => any::<bool>().prop_map(|expires| Change::Put { expires }),
        1 => Just(Change::Delete),
        4 => (1u64..6, 0u8..3, any::<bool>())
            .prop_map(|(version, value, astray)| Change::Follow { version, value, astray }),
        1 => Just(Change::FollowEarly),
    ];
    prop::collection::vec((0u8..30, change), 0..60)
}

/// The record that counts, by key, in the order in which records win.
#[derive(Default)]
struct Model(BTreeMap<Vec<u8>, (wal::Version, u32, Vec<u8>)>);

impl Model {
    fn merge(&mut self, bytes: &[u8]) {
        let record = RecordView::parse_trusted(bytes).unwrap();
        let incoming = (record.version, record.crc(), record.bytes.to_vec());
        let present = self.0.entry(record.key.to_vec()).or_insert_with(|| incoming.clone());
        if incoming > *present {
            *present = incoming;
        }
    }

    fn live(&self, unix_ms: u64) -> u64 {
        let is_live = |bytes: &[u8]| {
            let record = RecordView::parse_trusted(bytes).unwrap();
            record.op == RecordOp::Put && record.expiry.is_none_or(|expiry| expiry > unix_ms)
        };
        self.0.values().filter(|(.., bytes)| is_live(bytes)).count() as u64
    }
}

fn apply(node: &Node, running: &mut Running, model: &mut Model, key: u8, change: &Change) {
    let (key, time, cores) = ([b'k', key], node.time(), node.settings.cores);
    let hash = running.secret.hash(&key);
    let owner = hash.core(cores);
    match change {
        Change::Put { expires } => {
            let expiry = expires.then_some(node.unix_ms + 2_500);
            running.shards[usize::from(owner)].0.put(hash, &key, &[b'v'; 100], expiry, time).unwrap();
        }
        Change::Delete => {
            running.shards[usize::from(owner)].0.delete(hash, &key, time).unwrap();
        }
        Change::Follow { version, value, astray } => {
            let version = wal::Version::new(9_997_000 + version * 900, 1, 5);
            let bytes = record(RecordOp::Put, version.0, &key, &vec![*value; 20 + usize::from(*value)]);
            let core = usize::from(if *astray { (owner + 1) % cores } else { owner });
            running.shards[core].0.follow(&RecordView::parse(&bytes).unwrap().0, time).unwrap();
            model.merge(&bytes);
            return;
        }
        Change::FollowEarly => {
            let bytes = record(RecordOp::Put, wal::Version::new(20_000_000, 1, 5).0, &key, b"early");
            running.shards[usize::from(owner)].0.follow(&RecordView::parse(&bytes).unwrap().0, time).unwrap();
            return;
        }
    }
    let store = running.shards[usize::from(owner)].0.store();
    if let Some((bytes, ..)) = store.read(hash, &key, |record| record.bytes.to_vec()) {
        model.merge(&bytes);
    }
}

fn check(node: &Node, running: &mut Running, model: &Model) {
    let (secret, cores) = (running.secret, node.settings.cores);
    let mut live = 0;
    for (core, (shard, ..)) in (0..cores).zip(&mut running.shards) {
        let store = shard.store();
        let own: Vec<_> = model.0.iter().filter(|(key, _)| secret.hash(key).core(cores) == core).collect();
        assert_eq!(store.entries(), own.len(), "entries of core {core} of {cores}");
        for (key, (version, _, bytes)) in own {
            let found = store.read(secret.hash(key), key, |record| record.bytes.to_vec());
            let (found, found_version, _) = found.unwrap_or_else(|| panic!("{key:?} is not on core {core}"));
            assert_eq!((found_version, &found), (*version, bytes));
        }
        let padded: usize = model
            .0
            .iter()
            .filter(|(key, _)| secret.hash(key).core(cores) == core)
            .map(|(_, (.., bytes))| bytes.len().next_multiple_of(8))
            .sum();
        // Records that are held back count as well.
        assert!(store.live_bytes() >= padded as u64);
        live += store.live(node.unix_ms);
    }
    assert_eq!(live, model.live(node.unix_ms));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Every run may have another number of cores, and a key's records lie in the logs of many.
    #[test]
    fn whatever_runs_wrote_each_key_has_its_record_on_its_core(
        runs in prop::collection::vec((1u16..5, changes()), 1..7),
        last_cores in 1u16..5,
    ) {
        let (mut node, mut model) = (Node::new(), Model::default());
        for (cores, changes) in runs {
            node.settings.cores = cores;
            let mut running = node.start();
            check(&node, &mut running, &model);
            for (key, change) in &changes {
                apply(&node, &mut running, &mut model, *key, change);
            }
            sync(&mut running);
        }
        node.settings.cores = last_cores;
        let mut running = node.start();
        check(&node, &mut running, &model);
    }
}

/// Each segment is told of once when it was read, in their order.
#[test]
fn a_start_tells_how_far_it_is() {
    let mut node = Node::new();
    node.settings.cores = 3;
    for _ in 0..4 {
        let mut running = node.start();
        sync(&mut running);
    }
    let told = Mutex::new(Vec::new());
    node.start_telling(&|progress| told.lock().unwrap().push(progress));
    let told = told.into_inner().unwrap();
    let read = told.iter().filter_map(|progress| match progress {
        Progress::Reading { done, segments: 12 } => Some(*done),
        _ => None,
    });
    assert!(read.eq(1..=12), "{told:?}");
    assert!(matches!(told[12], Progress::Read { segments: 12, .. }), "{told:?}");
}
