//! A start from the checkpoint of a clean stop is the start that reading the logs would have been; and whatever is wrong with a
//! checkpoint, the logs are read.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use engine::checkpoint::SegmentFacts;
use engine::replication::logs::CoreLog;
use engine::replication::members::to_record;
use engine::storage::index::ScanPosition;
use net::ids::RegionName;
use net::wire::body::{Member, MemberState};
use proptest::prelude::*;
use wal::{ControlRecord, FileKind, Lsn, NodeId, Version, file_kind};

use support::{Node, Running};

/// What a start led to, as far as anything later depends on it.
#[derive(Debug, PartialEq)]
struct Outcome {
    begins_unix_ms: u64,
    records: u64,
    cores: Vec<CoreOutcome>,
    logs: Vec<LogOutcome>,
    watermarks: Vec<String>,
    members: Vec<Member>,
    old_runs: Vec<String>,
}

#[derive(Debug, PartialEq)]
struct CoreOutcome {
    /// Version and checksum by key.
    records: BTreeMap<Vec<u8>, (Version, u32)>,
    live: u64,
    live_bytes: u64,
    clock: Version,
    held: BTreeSet<String>,
    /// Entries and live bytes by segment.
    segments: BTreeMap<String, (u32, u64, bool)>,
    controls: Vec<ControlRecord>,
}

#[derive(Debug, PartialEq)]
struct LogOutcome {
    id: String,
    first: Version,
    end: Option<Version>,
    rests_on_later_upto: Version,
    cores: Vec<String>,
}

fn describe(log: &CoreLog) -> String {
    let marks: Vec<Lsn> = log.marks.iter().map(|(_, at)| *at).collect();
    format!(
        "{:?} durable {} complete {} replaced {} copies {:?} marks at {marks:?}",
        log.segments, log.durable, log.complete, log.replaced_upto, log.copies
    )
}

fn outcome(node: &Node, running: &mut Running) -> Outcome {
    let cores = running.cores.iter_mut().map(|core| {
        let mut records = BTreeMap::new();
        let mut position = Some(ScanPosition(0));
        while let Some(from) = position {
            position = core.shard.store().scan(from, 100, |record| {
                records.insert(record.key.to_vec(), (record.version, record.crc()));
            });
        }
        let facts = core.shard.checkpoint_facts(Vec::new());
        let segment = |segment: &SegmentFacts| {
            let counts = segment.counts;
            (format!("{:?}", segment.id), (counts.entries, counts.live_bytes, counts.stands_for_own))
        };
        CoreOutcome {
            records,
            live: core.shard.live(node.time()),
            live_bytes: core.shard.store().live_bytes(),
            clock: facts.clock,
            held: facts.held.iter().map(|held| format!("{:?}", held.key)).collect(),
            segments: facts.segments.iter().map(segment).collect(),
            controls: facts.controls,
        }
    });
    Outcome {
        begins_unix_ms: running.begins_unix_ms,
        records: running.records,
        cores: cores.collect(),
        logs: running
            .logs
            .logs
            .iter()
            .map(|log| LogOutcome {
                id: format!("{:?}", log.id),
                first: log.first,
                end: log.end,
                rests_on_later_upto: log.rests_on_later_upto,
                cores: log.cores.iter().map(describe).collect(),
            })
            .collect(),
        watermarks: running.watermarks.iter().map(|watermark| format!("{watermark:?}")).collect(),
        members: running.members.table(),
        old_runs: running.old_runs.iter().map(|run| format!("{run:?}")).collect(),
    }
}

/// Starts once from the checkpoint and once, elsewhere, without it; both lead to the same, but for what was superseded by what: who saw it
/// happen, and who compacted it, knows more of that than the logs say. The node goes on from the checkpoint.
fn start_both_ways(node: &mut Node) -> Running {
    let elsewhere = node.copy_without_checkpoint();
    let mut other = node.clone_in(elsewhere.path());
    let mut rebuilt = other.start();
    let mut running = node.start();
    assert!(used(&running), "{:?}", running.report);
    assert!(!used(&rebuilt), "{:?}", rebuilt.report);
    assert_eq!(node.checkpoints(), [""; 0], "no checkpoint outlives a start");
    let (from_checkpoint, from_logs) = (outcome(node, &mut running), outcome(&other, &mut rebuilt));
    for (left, right) in from_checkpoint.cores.iter().zip(&from_logs.cores) {
        assert_eq!(left.records, right.records);
        assert_eq!(left.segments, right.segments);
        assert_eq!((&left.held, &left.controls), (&right.held, &right.controls));
        assert_eq!(left, right);
    }
    assert_eq!(from_checkpoint, from_logs);
    running
}

fn used(running: &Running) -> bool {
    running.report.iter().any(|line| line.starts_with("started from the checkpoint"))
}

/// What a client, another node or the node itself does.
#[derive(Clone, Debug)]
enum Change {
    Put {
        key: u8,
        expires: bool,
        len: usize,
    },
    Delete {
        key: u8,
    },
    Follow {
        key: u8,
        version: u64,
        value: u8,
    },
    /// A record of another node that is not due for a while.
    FollowEarly {
        key: u8,
        ahead_ms: u64,
    },
    /// A claim over another node's log.
    Watermark {
        version: u64,
    },
    /// Something was learnt of a member.
    Member {
        node: u32,
        is_removed: bool,
        at: u64,
    },
    Compact,
    Wait,
}

fn change() -> impl Strategy<Value = Change> {
    let key = 0u8..40;
    prop_oneof![
        8 => (key.clone(), any::<bool>(), 10usize..6_000).prop_map(|(key, expires, len)| Change::Put { key, expires, len }),
        1 => key.clone().prop_map(|key| Change::Delete { key }),
        4 => (key.clone(), 1u64..9, 0u8..3).prop_map(|(key, version, value)| Change::Follow { key, version, value }),
        1 => (key, 700u64..5_000).prop_map(|(key, ahead_ms)| Change::FollowEarly { key, ahead_ms }),
        1 => (1u64..1_000).prop_map(|version| Change::Watermark { version }),
        1 => (0u32..4, any::<bool>(), 1u64..9).prop_map(|(node, is_removed, at)| Change::Member { node, is_removed, at }),
        2 => Just(Change::Compact),
        1 => Just(Change::Wait),
    ]
}

fn apply(node: &mut Node, running: &mut Running, change: &Change) {
    match *change {
        Change::Put { key, expires, len } => {
            let expiry = expires.then_some(node.unix_ms + 1_500);
            running.put(node, &[b'k', key], &vec![b'v'; len], expiry);
        }
        Change::Delete { key } => running.delete(node, &[b'k', key]),
        Change::Follow { key, version, value } => {
            let version = Version::new(node.ms() - 5_000 + version * 900, 1, 5);
            running.follow(node, &[b'k', key], version, &vec![value; 20 + usize::from(value)]);
        }
        Change::FollowEarly { key, ahead_ms } => {
            let version = Version::new(node.ms() + ahead_ms, 1, 5);
            running.follow(node, &[b'k', key], version, b"early");
        }
        Change::Watermark { version } => {
            let control = ControlRecord::Watermark {
                node: NodeId(5),
                incarnation: wal::Incarnation(version % 3),
                version: Version(running.highest_claim(version)),
                flags: 0,
                rests_on: running.positions(),
            };
            running.append_local(node, &control);
        }
        Change::Member { node: id, is_removed, at } => {
            let state = if is_removed { MemberState::Removed } else { MemberState::Joined };
            let region = RegionName::parse("nyc").unwrap();
            let row = Member { node: net::ids::NodeId(id), state, at: net::ids::Version(at), region };
            // As the control thread does it: only what changes the table is written.
            if running.members.merge(&[row]).changed.is_empty() {
                return;
            }
            while let Some(row) = running.members.next_to_persist() {
                running.append_local(node, &to_record(&row));
                running.members.persisted(&row);
            }
        }
        Change::Compact => running.compact(node),
        Change::Wait => {
            node.unix_ms += 400;
            running.release_due(node);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Runs of all lengths, some of which end in a kill, over several cores.
    #[test]
    fn a_start_from_a_checkpoint_is_the_start_that_reading_the_logs_would_be(
        cores in 1u16..4,
        runs in prop::collection::vec((prop::collection::vec(change(), 0..120), prop::bool::weighted(0.7)), 1..6),
    ) {
        let mut node = Node::new();
        node.settings.cores = cores;
        let mut stopped = false;
        for (changes, clean) in &runs {
            let mut running = if stopped { start_both_ways(&mut node) } else { node.start() };
            for change in changes {
                apply(&mut node, &mut running, change);
            }
            stopped = *clean;
            if *clean { running.stop(&node) } else { running.sync(&node) }
        }
        if stopped {
            start_both_ways(&mut node);
        }
    }
}

/// A node with two runs behind it, stopped cleanly, and the number of keys in it.
fn stopped(cores: u16) -> Node {
    let mut node = Node::new();
    node.settings.cores = cores;
    for run in 0..2u8 {
        let mut running = node.start();
        for key in 0..200u8 {
            running.put(&mut node, &[run, key], &[b'v'; 500], Some(u64::MAX >> 20));
        }
        running.stop(&node);
    }
    node
}

/// Starts a copy of the node after `harm` was done to it: the checkpoint is not used for this reason, and every key is there.
fn is_ignored(node: &Node, why: &str, harm: impl FnOnce(&Path, &mut Node)) {
    let elsewhere = node.copy();
    let mut harmed = node.clone_in(elsewhere.path());
    harm(elsewhere.path(), &mut harmed);
    let running = harmed.start();
    let said = running.report.iter().find(|line| line.starts_with("the checkpoint is not used"));
    let said = said.unwrap_or_else(|| panic!("it was used: {:?}", running.report));
    assert!(said.contains(why), "{said:?} should name {why:?}");
    let keys: u64 = running.cores.iter().map(|core| core.shard.checkpoint_facts(Vec::new()).store.entries).sum();
    assert_eq!(keys, 400);
    assert_eq!(harmed.checkpoints(), [""; 0], "what is of no use is removed");
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    let at = at.min(bytes.len() - 1);
    bytes[at] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

#[test]
fn every_flipped_byte_of_a_checkpoint_is_noticed() {
    let node = stopped(1);
    let name = wal::checkpoint_file_name(wal::CoreId(0));
    let len = fs::metadata(node.settings.data_dir.join(&name)).unwrap().len();
    let len = usize::try_from(len).unwrap();
    assert!(len > 2 * 4096, "several blocks: {len}");
    for at in (0..160).step_by(3).chain((4096..len).step_by(97)).chain(len - 40..len) {
        is_ignored(&node, &name, |directory, _| flip(&directory.join(&name), at));
    }
}

#[test]
fn a_checkpoint_that_is_torn_or_of_another_setting_is_ignored() {
    let node = stopped(2);
    let name = wal::checkpoint_file_name(wal::CoreId(1));
    let len = fs::metadata(node.settings.data_dir.join(&name)).unwrap().len();
    for cut in [0, 1, 511, 4095, 4096, 4100, len / 2, len - 1] {
        is_ignored(&node, &name, |directory, _| {
            fs::OpenOptions::new().write(true).open(directory.join(&name)).unwrap().set_len(cut).unwrap();
        });
    }
    is_ignored(&node, "longer or shorter", |directory, _| {
        let mut bytes = fs::read(directory.join(&name)).unwrap();
        bytes.push(0);
        fs::write(directory.join(&name), bytes).unwrap();
    });
    is_ignored(&node, "1 cores", |directory, _| fs::remove_file(directory.join(&name)).unwrap());
    is_ignored(&node, "2 cores", |_, node| node.settings.cores = 3);
    is_ignored(&node, "2 cores", |_, node| node.settings.cores = 1);
    is_ignored(&node, "tables", |_, node| node.settings.index_table_bits += 1);
    let other = wal::checkpoint_file_name(wal::CoreId(0));
    is_ignored(&node, "core 1 of 2", |directory, _| {
        fs::copy(directory.join(&name), directory.join(&other)).unwrap();
    });
}

#[test]
fn a_checkpoint_whose_segments_are_not_as_they_were_is_ignored() {
    let node = stopped(2);
    let segments = node.segments();
    let last = segments.last().unwrap().clone();
    let first = segments.first().unwrap().clone();
    // A seal that is damaged costs the checkpoint and nothing else.
    is_ignored(&node, &first, |directory, _| flip(&directory.join(&first), 512 + 24));
    is_ignored(&node, "is gone", |directory, _| {
        let spare = node.spare();
        fs::remove_file(directory.join(spare)).unwrap();
    });
    // The last group of a log: a torn tail if there is no seal, refused if there is one.
    let elsewhere = node.copy();
    let mut harmed = node.clone_in(elsewhere.path());
    let ends = node.ends();
    let (name, end) = ends.iter().find(|(name, _)| **name <= last).unwrap();
    flip(&elsewhere.path().join(name), usize::try_from(*end).unwrap() - 60);
    let Err(error) = harmed.try_start() else { panic!("what a seal covers was durable") };
    assert!(error.to_string().contains("damaged"), "{error}");
}

/// Somebody puts the checkpoint of an earlier stop back.
#[test]
fn the_checkpoint_of_an_earlier_stop_does_not_fit() {
    let mut node = stopped(2);
    let earlier = node.copy();
    let mut running = node.start();
    running.put(&mut node, b"new", b"value", None);
    running.sync(&node);
    drop(running);
    for name in fs::read_dir(earlier.path()).unwrap().map(|entry| entry.unwrap().file_name()) {
        if matches!(file_kind(name.to_str().unwrap()), FileKind::Checkpoint { .. }) {
            fs::copy(earlier.path().join(&name), node.settings.data_dir.join(&name)).unwrap();
        }
    }
    let running = node.start();
    assert!(running.report.iter().any(|line| line.starts_with("the checkpoint is not used")), "{:?}", running.report);
    let entries: u64 = running.cores.iter().map(|core| core.shard.checkpoint_facts(Vec::new()).store.entries).sum();
    assert_eq!(entries, 401);
}

/// A start dies right behind the removal of the checkpoint, or before it: nothing changed in between.
#[test]
fn a_checkpoint_serves_again_if_the_start_that_read_it_made_nothing() {
    let node = stopped(1);
    let elsewhere = node.copy();
    // What such a start leaves at most: temporary files.
    fs::write(elsewhere.path().join(wal::temporary_checkpoint_file_name(wal::CoreId(0))), b"half").unwrap();
    let mut again = node.clone_in(elsewhere.path());
    assert!(used(&again.start()));
}

#[test]
fn a_run_that_begins_before_the_checkpoint_was_written_reads_the_logs() {
    let mut node = stopped(1);
    let mut running = node.start();
    // The node is idle for an hour, and looks at what has expired by then.
    node.unix_ms += 3_600_000;
    running.cores[0].shard.live(node.time());
    running.stop(&node);
    node.unix_ms -= 3_600_000;
    is_ignored(&node, "later than the time", |_, _| {});
}

/// The segment in which a member was written goes once nothing in it counts; the row is repeated in those that stay, and neither a
/// checkpoint nor a start without one loses it.
#[test]
fn members_outlive_the_segments_that_named_them() {
    let mut node = Node::new();
    let mut running = node.start();
    let row = |id, state| Member {
        node: net::ids::NodeId(id),
        state,
        at: net::ids::Version(u64::from(id)),
        region: RegionName::parse("nyc").unwrap(),
    };
    let rows = [row(1, MemberState::Joined), row(2, MemberState::Removed)];
    running.append_local(&node, &to_record(&row(2, MemberState::Joined)));
    for row in &rows {
        running.append_local(&node, &to_record(row));
    }
    let named_them = node.segments().swap_remove(0);
    while node.segments().contains(&named_them) {
        running.put(&mut node, b"key", &[b'v'; 8_000], None);
        running.compact(&node);
    }
    running.stop(&node);
    let running = start_both_ways(&mut node);
    assert_eq!(running.members.table(), rows);
    // Killed.
    drop(running);
    assert_eq!(node.start().members.table(), rows);
}
