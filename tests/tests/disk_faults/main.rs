//! What an acknowledgement is worth when the disk fails: a daemon over disks that lose power, return errors and fill up.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tests::process::{Client, Daemon, Value};

mod errors;
mod journal;
mod power;
mod space;

const DAEMON: &str = env!("CARGO_BIN_EXE_daemon-under-test");

const MIB: u64 = 1024 * 1024;

fn ok() -> Value {
    Value::Simple("OK".into())
}

/// A daemon whose data lie in `data_dir`. Declare it after the disk: it must be gone before the disk is unmounted.
fn daemon_in(data_dir: &Path) -> Daemon {
    let mut daemon = Daemon::new(DAEMON);
    daemon.set("DATA_DIR", data_dir.display()).set("SEGMENT_BYTES", "1MiB");
    daemon
}

/// The segments in a directory, oldest first.
fn segments(data_dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(data_dir).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|end| end == "wal")).collect();
    found.sort();
    found
}

/// The one value that a key ever has: some pages for each group, so that a group is never lost or kept as one page.
fn value_of(key: &str) -> String {
    format!("{key}={}", "v".repeat(3000))
}

/// Those of `keys` that are there, each with the right value.
fn present<'a>(client: &mut Client, keys: impl Iterator<Item = &'a String>) -> BTreeSet<String> {
    let holds = |key: &&String| match client.call(&["GET", key]).unwrap() {
        Value::Bulk(value) => {
            assert!(value == value_of(key).into_bytes(), "{key} has a value that was never written");
            true
        }
        Value::Null => false,
        other => panic!("GET {key} gave {other:?}"),
    };
    keys.filter(holds).cloned().collect()
}

fn large_key(number: usize) -> String {
    format!("large:{number}")
}

fn large_value(number: usize) -> String {
    format!("{number}:{}", "l".repeat(100_000))
}

/// All large values are there and come soon, although nothing can be written.
fn reads_go_on(client: &mut Client, count: usize) {
    let mut slowest = Duration::ZERO;
    for number in 0..count {
        let began = Instant::now();
        let reply = client.call(&["GET", &large_key(number)]).unwrap();
        assert!(reply == Value::Bulk(large_value(number).into_bytes()), "{} differs", large_key(number));
        assert_eq!(client.call(&["PING"]).unwrap(), Value::Simple("PONG".into()));
        slowest = slowest.max(began.elapsed());
    }
    assert!(slowest < Duration::from_secs(1), "a read took {} ms", slowest.as_millis());
}
