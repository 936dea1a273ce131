//! Redis' own test suite, in its mode for servers that it did not start, against a daemon with one and with two cores, and
//! against Redis itself: with the same tests left out, the same ones must pass.
//!
//! Redis 7.0.15 passes 361 tests of these units with nothing left out but by tag, and 254 with what is left out here, as does
//! the daemon. What is left out, and why, stands in `tests/conformance/redis-7.0.15.skip`.

use std::collections::BTreeSet;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use tests::process::redis::{Redis, clients};
use tests::process::{Daemon, finished, is_installed, skip};

const DAEMON: &str = env!("CARGO_BIN_EXE_daemon-under-test");

/// The files of the suite whose commands exist here. `auth` and `info` have no test for servers that the suite did not start.
const UNITS: &[&str] = &[
    "type/string",
    "type/incr",
    "expire",
    "keyspace",
    "scan",
    "multi",
    "protocol",
    "other",
    "introspection",
    "introspection-2",
    "quit",
    "slowlog",
];

/// Left out by tag: what takes long, needs a server of the suite's own, replicas, DEBUG, or gigabytes.
const TAGS: &str = "-slow -external:skip -needs:repl -needs:debug -large-memory";

/// How long a run may take; it takes half a minute, most of it sleep.
const PATIENCE: Duration = Duration::from_secs(180);

/// Tests that pass, at least: a suite that runs nothing shows nothing.
const PASSED_MIN: usize = 250;

/// The suite in a directory of its own, as it writes beside itself.
fn suite(source: &Path) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let link = |from: &Path, to: &Path| symlink(from, to).unwrap();
    link(&source.join("runtest"), &directory.path().join("runtest"));
    let tests = directory.path().join("tests");
    fs::create_dir_all(tests.join("support")).unwrap();
    fs::create_dir(tests.join("tmp")).unwrap();
    for entry in fs::read_dir(source.join("tests")).unwrap().map(Result::unwrap) {
        if !["support", "tmp"].iter().any(|own| entry.file_name() == *own) {
            link(&entry.path(), &tests.join(entry.file_name()));
        }
    }
    for entry in fs::read_dir(source.join("tests/support")).unwrap().map(Result::unwrap) {
        // There are no functions that would have to go before a unit.
        let text = fs::read_to_string(entry.path()).unwrap().replace("\n    r function flush\n", "\n");
        fs::write(tests.join("support").join(entry.file_name()), text).unwrap();
    }
    directory
}

/// Runs the suite against the server at `addr`: the tests that passed, and what it printed of the others.
fn run(source: &Path, addr: SocketAddr) -> (BTreeSet<String>, String) {
    let directory = suite(source);
    let left_out = Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance/redis-7.0.15.skip");
    let (host, port) = (addr.ip().to_string(), addr.port().to_string());
    let mut command = Command::new("sh");
    command.arg("./runtest").current_dir(directory.path());
    // --durable: an unexpected error is a failed test, not the end of the run.
    command
        .args(["--host", &host, "--port", &port, "--singledb", "--durable", "--tags", TAGS, "--skipfile"])
        .arg(left_out);
    // The suite's processes speak to each other over the first port from 32 below this one on that is free, and free 10,000 above.
    let free = || TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
    let port = std::iter::repeat_with(free).find(|port| *port < 50_000).unwrap();
    command.args(["--baseport", &(port + 32).to_string()]);
    for unit in UNITS {
        command.args(["--single", &format!("unit/{unit}")]);
    }
    let exit = finished(&mut command, PATIENCE);
    let text = without_colours(&exit.stdout);
    // A line is `[ok]: the test's name (12 ms)`.
    let passed = text.lines().filter_map(|line| Some(line.strip_prefix("[ok]: ")?.rsplit_once(" (")?.0.to_owned()));
    let failed: Vec<&str> =
        text.split("\n[").filter(|part| part.starts_with("err]") || part.starts_with("exception]")).collect();
    let passed: BTreeSet<String> = passed.collect();
    assert!(!passed.is_empty(), "nothing passed: {text}{}", exit.stderr);
    (passed, failed.join("\n"))
}

fn without_colours(text: &str) -> String {
    let mut parts = text.split('\x1b');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + part.split_once('m').map_or(part, |(_, rest)| rest))
}

#[test]
fn the_tests_of_redis_pass_as_they_do_with_redis() {
    let source: PathBuf = clients().join("redis-7.0.15");
    for (program, is_there) in [
        ("redis-server", is_installed("redis-server")),
        ("tclsh", is_installed("tclsh")),
        ("Redis' test suite", source.join("runtest").is_file()),
    ] {
        if !is_there {
            skip(program);
            return;
        }
    }
    let redis = Redis::start();
    let mut daemons = [1, 2].map(|cores| {
        let mut daemon = Daemon::new(DAEMON);
        daemon.set("CORES", cores).start();
        daemon
    });
    let addrs = daemons.each_ref().map(|daemon| daemon.at(daemon.ports().storage));
    // At once: they mostly sleep.
    let (expected, found) = thread::scope(|scope| {
        let source = &source;
        let runs = addrs.map(|addr| scope.spawn(move || run(source, addr)));
        (run(source, redis.addr()), runs.map(|run| run.join().unwrap()))
    });
    assert_eq!(expected.1, "", "Redis itself failed");
    assert!(expected.0.len() >= PASSED_MIN, "only {} tests ran", expected.0.len());
    for ((passed, failed), daemon) in found.iter().zip(&mut daemons) {
        let missing: Vec<&String> = expected.0.difference(passed).collect();
        assert!(
            failed.is_empty() && missing.is_empty(),
            "failed:\n{failed}\nnot passed, other than with Redis: {missing:?}"
        );
        eprintln!("{} tests of Redis pass", passed.len());
        assert_eq!(daemon.terminate().code(), Some(0));
        assert!(daemon.logged("ERROR").is_empty(), "{:?}", daemon.logged("ERROR"));
    }
}
