//! Keys stay in their regions: real daemons, every byte between them recorded, every file of the region outside searched.

use std::net::IpAddr;
use std::path::Path;

use net::client::{Client, ClientError, ErrorCode};
use tests::process::wiretap::{Wiretap, count};
use tests::process::{Daemon, Value, wait_for};

const DAEMON: &str = env!("CARGO_BIN_EXE_daemon-under-test");

/// Stands in keys and values of the kept keys and nowhere else.
const CANARY: &str = "canary-5d1f9c83e2b7";

/// ams, fra and nyc, each behind a tap. Nothing is packed, so that what is sent can be searched.
fn regions(tap: &Wiretap, policy: &str) -> ([Daemon; 3], [IpAddr; 3]) {
    let mut daemons = [(); 3].map(|()| Daemon::new(DAEMON));
    let addresses = [0, 1, 2].map(|at| tap.tap(&mut daemons[at]));
    let peers = [0, 1, 2].map(|at| format!("{}:{}", addresses[at], daemons[at].ports().discovery));
    for (at, daemon) in daemons.iter_mut().enumerate() {
        let others: Vec<&str> = (0..3).filter(|other| *other != at).map(|other| peers[other].as_str()).collect();
        daemon.set("REGION", ["ams", "fra", "nyc"][at]).set("DISCOVERY_PEERS", others.join(","));
        daemon.set("COMPRESSION", "none").set("SEGMENT_BYTES", "1MiB").set("RESIDENCY", policy).start();
    }
    (daemons, addresses)
}

/// Writes kept keys and free ones, of names that begin with `round`.
fn write(daemon: &Daemon, round: &str, count: usize, filler: usize) {
    let mut client = daemon.client();
    let filler = "f".repeat(filler);
    for number in 0..count {
        let kept = (format!("eu/{CANARY}/{round}/{number}"), format!("{CANARY}-{filler}"));
        let free = (format!("free/{round}/{number}"), format!("free-{filler}"));
        for (key, value) in [kept, free] {
            assert_eq!(client.call(&["SET", &key, &value]).unwrap(), Value::Simple("OK".into()));
        }
    }
}

fn wait_for_keys(daemon: &Daemon, name: &str, count: usize) {
    let mut client = daemon.client();
    wait_for(&format!("{name} to arrive"), || {
        let has = |number| client.call(&["EXISTS", &format!("{name}/{number}")]).unwrap() == Value::Integer(1);
        (0..count).all(has).then_some(())
    });
}

/// How often the canary is in files below a directory.
fn in_files(directory: &Path) -> usize {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries
        .map(|path| match path.is_dir() {
            true => in_files(&path),
            false => count(&std::fs::read(&path).unwrap(), CANARY.as_bytes()),
        })
        .sum()
}

#[test]
fn a_region_outside_never_gets_a_kept_key_live_in_catch_up_or_from_a_third() {
    let tap = Wiretap::default();
    let ([ams, fra, mut nyc], [ams_at, fra_at, nyc_at]) = regions(&tap, "eu/=ams,fra;us/=nyc");

    write(&ams, "live", 50, 100);
    wait_for_keys(&fra, &format!("eu/{CANARY}/live"), 50);
    wait_for_keys(&nyc, "free/live", 50);

    // Away for more than its source has in memory.
    nyc.kill9();
    write(&ams, "catch-up", 200, 20_000);
    write(&fra, "other", 20, 100);
    nyc.start();
    wait_for_keys(&nyc, "free/catch-up", 200);
    wait_for_keys(&nyc, "free/other", 20);

    // What ams writes comes over fra, which has all of it.
    tap.cut(ams_at, nyc_at);
    write(&ams, "relayed", 50, 100);
    wait_for_keys(&nyc, "free/relayed", 50);
    tap.mend(ams_at, nyc_at);
    write(&ams, "mended", 20, 100);
    wait_for_keys(&nyc, "free/mended", 20);
    wait_for_keys(&fra, &format!("eu/{CANARY}/mended"), 20);

    assert_eq!(nyc.terminate().code(), Some(0));
    assert_eq!(in_files(&nyc.data_dir()), 0, "in a file of nyc");
    for other in [ams_at, fra_at] {
        let (bytes, canaries) = tap.heard(other, nyc_at, CANARY.as_bytes());
        assert!(bytes > 10_000, "{bytes} bytes went by");
        assert_eq!(canaries, 0, "among {bytes} bytes between nyc and {other}");
    }
    // The search finds what is there.
    assert!(tap.heard(ams_at, fra_at, CANARY.as_bytes()).1 > 600);
    assert!(in_files(&fra.data_dir()) > 600);
    for daemon in [&ams, &fra, &nyc] {
        assert!(daemon.logged("cannot be accepted").is_empty(), "nothing had to be refused");
    }
}

#[test]
fn who_names_a_kept_key_elsewhere_is_told_where_to_ask() {
    let tap = Wiretap::default();
    let ([ams, fra, nyc], _) = regions(&tap, "eu/=ams,fra;us/=nyc");
    let refusal = Value::Error("RESIDENCY keys under \"eu/\" are kept in ams, fra only; ask a node there".into());
    let mut client = nyc.client();
    for command in [
        &["GET", "eu/1"][..],
        &["SET", "eu/1", "x"],
        &["MGET", "free/1", "eu/1"],
        &["MSET", "free/1", "x", "eu/1", "y"],
        &["DEL", "free/1", "eu/1"],
        &["EXISTS", "eu/1"],
        &["INCR", "eu/1"],
        &["RENAME", "free/1", "eu/1"],
        &["COPY", "eu/1", "free/1"],
        &["MSETNX", "free/1", "x", "eu/1", "y"],
        &["OBJECT", "ENCODING", "eu/1"],
        &["WATCH", "eu/1"],
        &["PTTL", "eu/1"],
    ] {
        assert_eq!(client.call(command).unwrap(), refusal, "{command:?}");
    }
    assert_eq!(client.call(&["MULTI"]).unwrap(), Value::Simple("OK".into()));
    assert_eq!(client.call(&["SET", "free/1", "x"]).unwrap(), Value::Simple("QUEUED".into()));
    assert_eq!(client.call(&["SET", "eu/1", "x"]).unwrap(), refusal);
    assert!(matches!(client.call(&["EXEC"]).unwrap(), Value::Error(text) if text.starts_with("EXECABORT")));
    assert_eq!(client.call(&["DBSIZE"]).unwrap(), Value::Integer(0), "nothing of all that took place");
    assert_eq!(client.call(&["SET", "us/1", "x"]).unwrap(), Value::Simple("OK".into()));

    let mut native = Client::connect(nyc.at(nyc.ports().storage)).unwrap();
    let refused = |error: ClientError| match error {
        ClientError::Failed(failed) => (failed.reason(), failed.text),
        other => panic!("{other}"),
    };
    let (reason, text) = refused(native.put("eu/1", "x").unwrap_err());
    assert_eq!(reason, Some(ErrorCode::Residency));
    assert!(text.contains("kept in ams, fra only"), "{text}");
    assert_eq!(refused(native.get_many(&["free/1", "eu/1"]).unwrap_err()).0, Some(ErrorCode::Residency));
    assert!(native.get("us/1").unwrap().is_some(), "the connection goes on");

    // Those who may not hold a key do not count as holding it, though they hold all that they may.
    wait_for("nyc to follow", || {
        let mut client = ams.client();
        client.call(&["SET", "free/2", "x"]).unwrap();
        (client.call(&["WAIT", "2", "1000"]).unwrap() == Value::Integer(2)).then_some(())
    });
    let mut client = ams.client();
    assert_eq!(client.call(&["SET", "eu/2", "x"]).unwrap(), Value::Simple("OK".into()));
    assert_eq!(client.call(&["WAIT", "1", "20000"]).unwrap(), Value::Integer(1));
    assert_eq!(client.call(&["WAIT", "2", "300"]).unwrap(), Value::Integer(1), "fra has it");
    assert_eq!(fra.client().call(&["GET", "eu/2"]).unwrap(), Value::Bulk(b"x".to_vec()));
}

#[test]
fn a_node_starts_only_on_what_it_may_hold_and_talks_only_to_those_of_its_policy() {
    let mut daemon = Daemon::new(DAEMON);
    daemon.set("REGION", "nyc").set("RESIDENCY", "eu/=nyc").start();
    let mut client = daemon.client();
    assert_eq!(client.call(&["SET", "eu/1", "x"]).unwrap(), Value::Simple("OK".into()));
    drop(client);
    assert_eq!(daemon.terminate().code(), Some(0));
    daemon.set("RESIDENCY", "eu/=ams");
    let exit = daemon.run_to_its_end(&[]);
    assert!(!exit.status.success());
    let last = exit.stderr.lines().last().unwrap_or_default();
    assert!(last.contains("holds keys under") && last.contains("empty its DATA_DIR"), "{}", exit.stderr);
    // A prefix of which it has nothing may be taken away, and what it has it serves again under the old policy.
    daemon.set("RESIDENCY", "eu/=nyc;uk/=ams").start();
    assert_eq!(daemon.client().call(&["GET", "eu/1"]).unwrap(), Value::Bulk(b"x".to_vec()));
    assert!(matches!(daemon.client().call(&["GET", "uk/1"]).unwrap(), Value::Error(_)));
    daemon.kill9();
    daemon.set("RESIDENCY", "eu/");
    let exit = daemon.run_to_its_end(&["--check"]);
    assert!(exit.stderr.contains("RESIDENCY=eu/: \"eu/\" names no regions; write PREFIX=REGION"), "{}", exit.stderr);

    let mut daemons = [Daemon::new(DAEMON), Daemon::new(DAEMON)];
    let addresses = [0, 1].map(|at| daemons[at].at(daemons[at].ports().discovery));
    for (at, daemon) in daemons.iter_mut().enumerate() {
        daemon.set("REGION", ["ams", "nyc"][at]).set("DISCOVERY_PEERS", addresses[1 - at]);
        daemon.set("RESIDENCY", ["eu/=ams", "eu/=ams;us/=nyc"][at]).start();
    }
    wait_for("one to refuse the other", || {
        let lines = daemons.iter().flat_map(|daemon| daemon.logged("residency policy differs"));
        lines.into_iter().any(|line| line.contains("make them equal")).then_some(())
    });
    assert_eq!(daemons[0].client().call(&["SET", "free", "x"]).unwrap(), Value::Simple("OK".into()));
    assert!(daemons[0].logged("link up").is_empty());
}
