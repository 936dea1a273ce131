//! The life of segments: prepared, sealed, given up, used again. In the simulator with a crash after every system call, and
//! with real processes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use tests::process::{Choices, Daemon, Value, backends, wait_for};
use tests::sim::mesh::Mesh;
use tests::sim::workload::Command;

const DAEMON: &str = env!("CARGO_BIN_EXE_daemon-under-test");

/// Enough for several segments of 64 KiB, over and over the same four keys: the segments die and are used again.
fn overwrites() -> impl Iterator<Item = Command> {
    (0..90).map(|at| Command::Set { key: format!("hot:{}", at % 4).into(), filler: 6_000, px: None })
}

/// One region alone, whose node has just started.
fn alone(seed: u64) -> Mesh {
    let mut mesh = Mesh::down(seed, [1, 1, 1]);
    mesh.region("sfo").start();
    mesh.run_ms(300);
    mesh
}

#[test]
fn segment_rename_needs_directory_sync() {
    // Power is lost after every system call of every preparation, naming, sealing, retirement and new use of a segment. The
    // checkers hold the next start against everything that was acknowledged, and against what the device held.
    let (crashes, recycled, _) = cut_at_every_step(1..=4, overwrites);
    assert!(crashes > 150 && recycled > 4, "{crashes} crashes, {recycled} segments used again");
}

#[test]
fn a_power_cut_at_any_step_of_a_compaction_loses_nothing() {
    // As above; one write in six is to a key of its own, so that no segment dies by itself.
    let writes = || {
        (0..300).map(|at| {
            let key = if at % 6 == 0 { format!("cold:{at}") } else { format!("hot:{}", at % 4) };
            Command::Set { key: key.into(), filler: if at % 6 == 0 { 700 } else { 6_000 }, px: None }
        })
    };
    let (crashes, recycled, compacted) = cut_at_every_step(11..=11, writes);
    assert!(crashes > 80 && recycled > 4, "{crashes} crashes, {recycled} segments used again");
    assert!(compacted > 4, "{compacted} segments compacted");
}

/// Loses power after every file operation of these writes, and again half a second after the start, under the eyes of the
/// checkers. Gives the crashes, and the segments that were used again and that were compacted without any.
fn cut_at_every_step<I: Iterator<Item = Command>>(
    seeds: impl Iterator<Item = u64>,
    writes: impl Fn() -> I,
) -> (u64, u64, u64) {
    let (mut crashes, mut recycled, mut compacted) = (0, 0, 0);
    for seed in seeds {
        let mut mesh = alone(seed);
        let first = mesh.region("sfo").job_steps();
        mesh.region("sfo").post(writes());
        mesh.region("sfo").run_to_job_step(u64::MAX);
        let last = mesh.region("sfo").job_steps();
        recycled += mesh.segments_given_up().1;
        compacted += mesh.segments_compacted();
        for step in first + 1..=last {
            let mut mesh = alone(seed);
            mesh.region("sfo").post(writes());
            if !mesh.region("sfo").run_to_job_step(step) {
                continue;
            }
            mesh.region("sfo").lose_power();
            mesh.region("sfo").start();
            mesh.sound();
            assert!(mesh.region("sfo").is_up(), "after step {step}: {:?}", mesh.story);
            mesh.run_ms(500);
            mesh.region("sfo").lose_power();
            mesh.region("sfo").start();
            mesh.sound();
            assert!(mesh.region("sfo").is_up(), "the second start after step {step}: {:?}", mesh.story);
            crashes += 1;
        }
    }
    (crashes, recycled, compacted)
}

/// Names of the segments in a data directory.
fn segments(daemon: &Daemon) -> BTreeSet<String> {
    let names = fs::read_dir(daemon.data_dir()).expect("the data directory").map(|entry| {
        let name = entry.expect("an entry").file_name();
        name.into_string().expect("UTF-8")
    });
    names.filter(|name| name.ends_with(".wal")).collect()
}

fn overwrite(daemon: &Daemon, rounds: usize) {
    let mut client = daemon.client();
    let value = "v".repeat(50_000);
    for round in 0..rounds {
        for key in 0..4 {
            let set = ["SET", &format!("hot:{key}"), &format!("{round}:{value}")];
            assert_eq!(client.call(&set).unwrap(), Value::Simple("OK".into()));
        }
    }
}

#[test]
fn a_log_of_overwritten_keys_stays_small_and_its_files_are_used_again() {
    for backend in backends() {
        for path in ["mmap", "direct"] {
            let mut daemon = Daemon::new(DAEMON);
            daemon.set("IO_BACKEND", backend).set("COMMIT_PATH", path).set("SEGMENT_BYTES", "1MiB").start();
            // 40 MB into segments of 1 MiB.
            overwrite(&daemon, 200);
            wait_for("segments to be given up", || {
                let given_up = daemon.metric("godwit_segments_removed_total{core=\"0\"}");
                let recycled = daemon.metric("godwit_segments_recycled_total{core=\"0\"}");
                (given_up > 30 && recycled > 10 && segments(&daemon).len() < 10).then_some(())
            });
            let before = segments(&daemon);
            daemon.kill9();
            daemon.start();
            let mut client = daemon.client();
            for key in 0..4 {
                let Value::Bulk(value) = client.call(&["GET", &format!("hot:{key}")]).unwrap() else { panic!("{key}") };
                assert!(value.starts_with(b"199:v"), "{path} over {backend}");
            }
            // The next run overwrites them all: then nothing of the run before counts.
            overwrite(&daemon, 1);
            drop(client);
            wait_for("the segments of the run before to go", || before.is_disjoint(&segments(&daemon)).then_some(()));
            let Value::Bulk(value) = daemon.client().call(&["GET", "hot:3"]).unwrap() else { panic!("gone") };
            assert!(value.starts_with(b"0:v"));
        }
    }
}

/// Every file of a data directory, by name; but for preparations that a kill interrupted, which hold nothing.
fn contents(daemon: &Daemon) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(daemon.data_dir()).expect("the data directory").map(|entry| entry.expect("an entry"));
    entries
        .map(|entry| (entry.file_name().into_string().expect("UTF-8"), entry.path()))
        .filter(|(name, _)| !name.ends_with(".tmp"))
        .map(|(name, path)| (name, fs::read(path).expect("a file")))
        .collect()
}

#[test]
fn corrupt_segment_never_deletes_data() {
    let mut daemon = Daemon::new(DAEMON);
    daemon.set("SEGMENT_BYTES", "1MiB").start();
    let mut client = daemon.client();
    let value = "v".repeat(100_000);
    for key in 0..40 {
        let set = ["SET", &format!("key:{key}"), &format!("{key}:{value}")];
        assert_eq!(client.call(&set).unwrap(), Value::Simple("OK".into()));
    }
    drop(client);
    // A clean stop would leave a checkpoint, with which the start reads only the ends of the logs.
    daemon.kill9();

    // A bit flips in the middle of a segment that has others behind it.
    let oldest = segments(&daemon).into_iter().next().expect("segments");
    let path = daemon.data_dir().join(&oldest);
    let mut bytes = fs::read(&path).expect("the segment");
    bytes[500_000] ^= 0x10;
    fs::write(&path, &bytes).expect("rot");
    let before = contents(&daemon);
    let exit = daemon.run_to_its_end(&[]);
    assert_eq!(exit.status.code(), Some(3), "{}", exit.stderr);
    let errors: Vec<&str> = exit.stderr.lines().filter(|line| line.contains("ERROR")).collect();
    assert_eq!(errors.len(), 1, "one error: {}", exit.stderr);
    for words in [oldest.as_str(), "were durable and are damaged", "nothing was cut", "file offset"] {
        assert!(errors[0].contains(words), "{:?} does not say {words:?}", errors[0]);
    }
    assert!(contents(&daemon) == before, "a refused start changes no file");

    // Whoever repairs the segment has lost nothing.
    bytes[500_000] ^= 0x10;
    fs::write(&path, &bytes).expect("repair");
    daemon.start();
    let mut client = daemon.client();
    for key in 0..40 {
        let Value::Bulk(found) = client.call(&["GET", &format!("key:{key}")]).unwrap() else { panic!("key:{key}") };
        assert_eq!(found, format!("{key}:{value}").into_bytes());
    }
}

#[test]
fn a_dead_segment_that_cannot_be_removed_yet_keeps_those_behind_it() {
    // Recovery takes a gap for damage: whatever stands in the way of the oldest segment's end stands in the way of all.
    let mut daemon = Daemon::new(DAEMON);
    daemon.set("SEGMENT_BYTES", "1MiB").start();
    let obstacle = daemon.data_dir().join("prepare-core-000-0000000001.tmp");
    fs::create_dir(&obstacle).expect("something in the way of the first segment's new name");
    overwrite(&daemon, 60);
    wait_for("the failure to be noticed", || (!daemon.logged("cannot be removed yet").is_empty()).then_some(()));
    // The second attempt unlinks it, and the others follow.
    wait_for("segments to be given up", || {
        (daemon.metric("godwit_segments_removed_total{core=\"0\"}") > 3).then_some(())
    });
    daemon.kill9();
    fs::remove_dir(&obstacle).expect("the obstacle");
    daemon.start();
    let Value::Bulk(value) = daemon.client().call(&["GET", "hot:3"]).unwrap() else { panic!("gone") };
    assert!(value.starts_with(b"59:v"));
}

/// Bytes of all segment files.
fn disk_bytes(daemon: &Daemon) -> u64 {
    let len = |name: &String| fs::metadata(daemon.data_dir().join(name)).map_or(0, |found| found.len());
    segments(daemon).iter().map(len).sum()
}

#[test]
fn a_store_that_is_overwritten_ten_times_takes_little_more_than_twice_what_counts() {
    const KEYS: usize = 3_200;
    const VALUE_BYTES: usize = 10_000;
    let mut daemon = Daemon::new(DAEMON);
    daemon.set("SEGMENT_BYTES", "1MiB").set("CORES", 2).start();
    let mut client = daemon.client();
    let mut choices = Choices::new(7);
    let value = |key: usize, round: usize| format!("{key}:{round}:{}", "v".repeat(VALUE_BYTES));
    let mut newest = vec![0; KEYS];
    let mut worst = 0.0f64;
    // Every key once, then ten times as many writes to random keys; one key in ten is never written again.
    for write in 0..KEYS * 11 {
        let key = if write < KEYS { write } else { usize::try_from(choices.below(KEYS as u64)).unwrap() };
        if write >= KEYS && key % 10 == 0 {
            continue;
        }
        newest[key] = write;
        let set = ["SET", &format!("key:{key}"), &value(key, write)];
        assert_eq!(client.call(&set).unwrap(), Value::Simple("OK".into()));
        if write >= KEYS && write % 500 == 0 {
            let live = (KEYS * VALUE_BYTES) as f64;
            worst = worst.max((disk_bytes(&daemon) as f64 - 2.0 * 3.0 * 1_048_576.0) / live);
        }
    }
    assert!(worst <= 2.2, "{worst:.2} times what counts");
    assert!(daemon.metric("godwit_compacted_segments_total{core=\"0\"}") > 10);
    daemon.kill9();
    daemon.start();
    let mut client = daemon.client();
    for (key, write) in newest.iter().enumerate() {
        let expected = Value::Bulk(value(key, *write).into_bytes());
        assert!(client.call(&["GET", &format!("key:{key}")]).unwrap() == expected, "key:{key}");
    }
}
