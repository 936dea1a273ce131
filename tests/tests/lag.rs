//! What a node says of how far behind others are, and of how soon others' writes are seen here, on real daemons.

use std::thread;
use std::time::Duration;

use serde_json::Value as Json;
use tests::process::mesh::mesh;
use tests::process::{Daemon, Value, wait_for};

const DAEMON: &str = env!("CARGO_BIN_EXE_daemon-under-test");

/// What the only peer has not acknowledged: how old the oldest is, how many there are, and their bytes.
fn lag(daemon: &Daemon) -> (u64, u64, u64) {
    let peer = daemon.status("status")["peers"][0].clone();
    let field = |name: &str| peer[name].as_u64().unwrap_or_else(|| panic!("{name} in {peer}"));
    (field("lag_ms"), field("unacknowledged_records"), field("unacknowledged_bytes"))
}

fn write(daemon: &Daemon, count: usize) {
    let mut client = daemon.client();
    let value = "v".repeat(1000);
    for key in 0..count {
        assert_eq!(client.call(&["SET", &format!("key:{key}"), &value]).unwrap(), Value::Simple("OK".into()));
    }
}

#[test]
fn lag_is_nothing_when_all_is_acknowledged_and_grows_while_the_peer_is_gone() {
    for cores in ["1", "2"] {
        let [sfo, mut nyc] = mesh(DAEMON, ["sfo", "nyc"], &[("CORES", cores)]);
        wait_for("the beginning to be acknowledged", || (lag(&sfo) == (0, 0, 0)).then_some(()));
        nyc.pause();
        thread::sleep(Duration::from_millis(200));
        assert_eq!(lag(&sfo), (0, 0, 0), "nothing was written");
        write(&sfo, 50);
        let (first_ms, records, bytes) =
            wait_for("the writes", || Some(lag(&sfo)).filter(|(_, records, _)| *records >= 50));
        assert_eq!(records, 50, "no more than was written");
        assert!((50_000..60_000).contains(&bytes), "{bytes}");
        let later_ms = wait_for("the lag to grow", || Some(lag(&sfo).0).filter(|lag_ms| *lag_ms >= first_ms + 500));
        assert!(later_ms < 20_000);
        // Gone, not only silent: it goes on growing.
        nyc.kill9();
        wait_for("the lag to grow on", || (lag(&sfo).0 >= later_ms + 500).then_some(()));
        write(&sfo, 10);
        wait_for("further writes", || (lag(&sfo).1 == 60).then_some(()));
        assert_eq!(sfo.metric(&metric(&sfo, "godwit_peer_unacknowledged_records")), 60);
        nyc.start();
        wait_for("all to be acknowledged", || (lag(&sfo) == (0, 0, 0)).then_some(()));
        write(&sfo, 10);
        wait_for("all to be acknowledged again", || (lag(&sfo) == (0, 0, 0)).then_some(()));
    }
}

/// The name of a metric of the only peer, with its labels.
fn metric(daemon: &Daemon, name: &str) -> String {
    let address = daemon.status("status")["peers"][0]["address"].as_str().unwrap().to_owned();
    format!("{name}{{peer=\"{address}\",region=\"nyc\"}}")
}

#[test]
fn the_age_at_which_other_regions_writes_become_visible_is_measured() {
    let [sfo, nyc] = mesh(DAEMON, ["sfo", "nyc"], &[("CORES", "2")]);
    assert_eq!(nyc.status("status")["visibility"], Json::Array(Vec::new()), "nothing was written");
    write(&sfo, 100);
    let seen = wait_for("samples", || {
        let seen = nyc.status("status")["visibility"][0].clone();
        seen["samples"].as_u64().filter(|samples| *samples >= 20).map(|_| seen)
    });
    assert_eq!(seen["region"], "sfo");
    assert!(seen["p50_ms"].as_u64().unwrap() < 500, "{seen}");
    let metrics = nyc.http("/metrics").unwrap().1;
    for line in [
        "godwit_visibility_milliseconds{region=\"sfo\",quantile=\"0.5\"}",
        "godwit_visibility_samples_total{region=\"sfo\"}",
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
    // An outage counts with its whole length.
    nyc.pause();
    write(&sfo, 10);
    thread::sleep(Duration::from_millis(1500));
    nyc.signal("CONT");
    wait_for("the outage to be seen", || {
        let max = nyc.status("status")["visibility"][0]["max_ms"].as_u64()?;
        (max >= 1400).then_some(())
    });
    assert_eq!(sfo.status("status")["visibility"], Json::Array(Vec::new()), "nyc wrote nothing");
}
