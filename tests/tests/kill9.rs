//! An acknowledged write survives kill -9: real daemons, killed again and again in the middle of the work of clients that
//! keep account of every reply.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tests::process::model::{Tally, Worker, verify_all};
use tests::process::{Choices, Daemon, Value, backends, wait_for};

const DAEMON: &str = env!("CARGO_BIN_EXE_daemon-under-test");

const WORKERS: usize = 4;

/// Kills after this many replies, or after this long.
const REPLIES_BEFORE_KILL: std::ops::Range<u64> = 50..3_000;
const LOAD_MAX: Duration = Duration::from_millis(700);

/// Runs `(cores, cycles)` one after the other on one data directory.
fn torture(settings: &[(&'static str, &str)], plan: &[(u16, u32)], huge_bytes: usize) {
    if settings.contains(&("IO_BACKEND", "uring")) && !backends().contains(&"uring") {
        return;
    }
    let seed = Choices::seed();
    eprintln!("GODWIT_SEED={seed}");
    let mut choices = Choices::new(seed);
    let mut workers: Vec<Worker> = (0..WORKERS).map(|name| Worker::new(name, seed, huge_bytes)).collect();
    let tally = Tally::default();
    let mut daemon = Daemon::new(DAEMON);
    for (key, value) in settings {
        daemon.set(key, value);
    }
    for (cores, cycles) in plan {
        daemon.set("CORES", cores);
        for _ in 0..*cycles {
            daemon.start();
            verify_all(&mut daemon.client(), &mut workers);
            work_until_killed(&mut daemon, &mut workers, &tally, &mut choices);
        }
    }
    daemon.start();
    verify_all(&mut daemon.client(), &mut workers);
    assert!(daemon.logged("ERROR").is_empty(), "nothing went wrong: {:?}", daemon.logged("ERROR"));
    // Numbers never come back, whatever became of the files. A start takes one, and the spares two more.
    let segments = highest_segment(&daemon);
    let cycles: u32 = plan.iter().map(|(_, cycles)| cycles).sum();
    assert!(segments > u64::from(cycles) + 3, "{segments} segments: the logs never turned over");
    let (acknowledged, unknown) = (tally.acknowledged.into_inner(), tally.unknown.into_inner());
    eprintln!("{settings:?}: {cycles} kills, {acknowledged} replies, {unknown} writes unknown, {segments} segments");
    assert!(unknown > 0, "no kill ever hit a write in flight: this test tests nothing");
}

/// The highest number of a segment.
fn highest_segment(daemon: &Daemon) -> u64 {
    let names = std::fs::read_dir(daemon.data_dir()).unwrap().map(|entry| entry.unwrap().file_name());
    let numbers = names.filter_map(|name| match wal::file_kind(name.to_str()?) {
        wal::FileKind::Segment { number, .. } => Some(number.0),
        _ => None,
    });
    numbers.max().unwrap_or(0)
}

fn work_until_killed(daemon: &mut Daemon, workers: &mut [Worker], tally: &Tally, choices: &mut Choices) {
    let addr = daemon.at(daemon.ports().storage);
    let killed = AtomicBool::new(false);
    thread::scope(|scope| {
        for worker in workers {
            let killed = &killed;
            scope.spawn(move || {
                let error = worker.work(addr, tally);
                assert!(killed.load(Ordering::SeqCst), "a connection broke before the kill: {error}");
            });
        }
        let wanted = REPLIES_BEFORE_KILL.start + choices.below(REPLIES_BEFORE_KILL.end - REPLIES_BEFORE_KILL.start);
        let wanted = tally.acknowledged.load(Ordering::Relaxed) + wanted;
        let deadline = Instant::now() + LOAD_MAX;
        wait_for("enough replies", || {
            (tally.acknowledged.load(Ordering::Relaxed) >= wanted || Instant::now() > deadline).then_some(())
        });
        killed.store(true, Ordering::SeqCst);
        daemon.kill9();
    });
}

#[test]
fn acknowledged_writes_survive_kill_9_over_io_uring_with_small_segments() {
    torture(&[("IO_BACKEND", "uring"), ("SEGMENT_BYTES", "1MiB")], &[(1, 6), (2, 6)], 200 * 1024);
}

#[test]
fn acknowledged_writes_survive_kill_9_over_epoll_with_small_segments() {
    torture(&[("IO_BACKEND", "epoll"), ("SEGMENT_BYTES", "1MiB")], &[(2, 6), (1, 6)], 200 * 1024);
}

#[test]
fn acknowledged_writes_survive_kill_9_over_io_uring_with_values_of_a_mebibyte() {
    torture(&[("IO_BACKEND", "uring"), ("SEGMENT_BYTES", "4MiB")], &[(2, 3), (1, 3)], 1024 * 1024);
}

#[test]
fn acknowledged_writes_survive_kill_9_over_epoll_with_values_of_a_mebibyte() {
    torture(&[("IO_BACKEND", "epoll"), ("SEGMENT_BYTES", "4MiB")], &[(1, 3), (2, 3)], 1024 * 1024);
}

#[test]
fn a_clean_stop_exits_with_0_and_a_restart_has_everything() {
    let mut daemon = Daemon::new(DAEMON);
    daemon.set("CORES", 2).set("SEGMENT_BYTES", "1MiB").start();
    let mut client = daemon.client();
    let value = "v".repeat(10_000);
    for number in 0..500 {
        client.queue(&["SET", &format!("key:{number}"), &format!("{number}:{value}")]);
    }
    client.queue(&["DEL", "key:7", "key:8"]);
    client.flush().unwrap();
    for _ in 0..500 {
        assert_eq!(client.receive().unwrap(), Value::Simple("OK".into()));
    }
    assert_eq!(client.receive().unwrap(), Value::Integer(2));
    assert_eq!(daemon.terminate().code(), Some(0));
    assert!(client.call(&["PING"]).is_err(), "a stopped daemon answers nobody");
    assert_eq!(daemon.logged("stopped").len(), 1);

    daemon.start();
    let mut client = daemon.client();
    assert_eq!(client.call(&["DBSIZE"]).unwrap(), Value::Integer(498));
    for number in 0..500 {
        let expected = Value::Bulk(format!("{number}:{value}").into_bytes());
        let expected = if matches!(number, 7 | 8) { Value::Null } else { expected };
        assert_eq!(client.call(&["GET", &format!("key:{number}")]).unwrap(), expected, "key:{number}");
    }
    assert_eq!(daemon.terminate().code(), Some(0));
    assert!(daemon.logged("ERROR").is_empty());
}

#[test]
fn a_second_daemon_on_the_same_directory_is_refused_and_the_first_goes_on() {
    let mut first = Daemon::new(DAEMON);
    first.start();
    let mut client = first.client();
    assert_eq!(client.call(&["SET", "k", "v"]).unwrap(), Value::Simple("OK".into()));
    let mut second = Daemon::new(DAEMON);
    second.set("DATA_DIR", first.data_dir().display());
    let exit = second.run_to_its_end(&[]);
    assert_eq!(exit.status.code(), Some(1), "{}", exit.stderr);
    let errors: Vec<&str> = exit.stderr.lines().filter(|line| line.contains("ERROR")).collect();
    let expected = format!("{} is in use by another godwit process", first.data_dir().display());
    assert_eq!(errors.len(), 1, "one error: {}", exit.stderr);
    assert!(errors[0].contains(&expected), "{}", errors[0]);
    assert_eq!(client.call(&["GET", "k"]).unwrap(), Value::Bulk(b"v".to_vec()));
    first.kill9();
    // The lock dies with its process, not with a file.
    second.start();
    assert_eq!(second.client().call(&["GET", "k"]).unwrap(), Value::Bulk(b"v".to_vec()));
}
#[test]
fn with_durability_os_acknowledged_writes_survive_the_process() {
    // What the operating system has, kill -9 cannot take.
    torture(&[("DURABILITY", "os"), ("SEGMENT_BYTES", "1MiB")], &[(1, 3), (2, 3)], 200 * 1024);
}

#[test]
fn written_around_the_page_cache_acknowledged_writes_survive_the_process() {
    torture(&[("COMMIT_PATH", "direct"), ("SEGMENT_BYTES", "1MiB")], &[(1, 3), (2, 3)], 200 * 1024);
}
