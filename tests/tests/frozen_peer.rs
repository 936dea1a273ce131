//! A region whose process is frozen, its sockets open: clients of the others and the link between those notice nothing.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tests::process::{Daemon, Value, wait_for};

const DAEMON: &str = env!("CARGO_BIN_EXE_daemon-under-test");

/// Longer than a silent peer's link is kept (3 s), so that both is seen: a link that takes nothing, and none.
const FROZEN_FOR: Duration = Duration::from_secs(5);

/// What the two that live may be apart: links here have no delay, but the machine is shared.
const LAG_MS_MAX: u64 = 1_000;

/// What a write may take on a machine that does other things, too.
const WRITE_WITHIN: Duration = Duration::from_secs(1);

/// What the process may grow by: what a peer is owed is bounded, whatever is written meanwhile.
const GROWTH_BYTES_MAX: u64 = 64 * 1024 * 1024;

const VALUE_BYTES: usize = 16 * 1024;

fn mesh(regions: [&str; 3]) -> [Daemon; 3] {
    let mut daemons = regions.map(|_| Daemon::new(DAEMON));
    let addresses: Vec<SocketAddr> = daemons.iter().map(|daemon| daemon.at(daemon.ports().discovery)).collect();
    for (at, daemon) in daemons.iter_mut().enumerate() {
        let others = addresses.iter().filter(|address| **address != addresses[at]).map(ToString::to_string);
        daemon.set("REGION", regions[at]).set("DISCOVERY_PEERS", others.collect::<Vec<_>>().join(","));
        // The log's own memory is bounded, so that what grows is what is kept for peers.
        daemon.set("MEMORY_LIMIT", "256MiB").set("COMPRESSION", "none").start();
    }
    daemons
}

fn peer(daemon: &Daemon, region: &str) -> serde_json::Value {
    let peers = daemon.status("status")["peers"].clone();
    peers.as_array().unwrap().iter().find(|peer| peer["region"] == region).cloned().unwrap_or_default()
}

fn lag_ms(daemon: &Daemon, region: &str) -> u64 {
    peer(daemon, region)["lag_ms"].as_u64().unwrap()
}

#[test]
fn a_frozen_region_costs_the_others_nothing() {
    let [sfo, nyc, ams] = mesh(["sfo", "nyc", "ams"]);
    wait_for("everybody to follow sfo", || {
        ["nyc", "ams"].iter().all(|region| peer(&sfo, region)["followed"] == true).then_some(())
    });
    let mut client = sfo.client();
    let value = vec![b'v'; VALUE_BYTES];
    let mut write = |number: u32| {
        let began = Instant::now();
        assert_eq!(
            client.call(&[b"SET", format!("key:{number}").as_bytes(), &value]).unwrap(),
            Value::Simple("OK".into())
        );
        began.elapsed()
    };
    for number in 0..100 {
        write(number);
    }
    let memory = sfo.resident_bytes();
    ams.pause();
    let (began, mut number, mut slowest, mut lag) = (Instant::now(), 100, Duration::ZERO, 0);
    while began.elapsed() < FROZEN_FOR {
        slowest = slowest.max(write(number));
        number += 1;
        if number % 50 == 0 {
            lag = lag.max(lag_ms(&sfo, "nyc"));
        }
    }
    assert!(lag_ms(&sfo, "ams") >= 4_000, "the frozen region is behind by as long as it is frozen");
    assert!(slowest < WRITE_WITHIN, "one of {number} writes took {slowest:?}");
    assert!(lag < LAG_MS_MAX, "nyc was {lag} ms behind");
    let written = u64::from(number - 100) * VALUE_BYTES as u64;
    let grown = sfo.resident_bytes().saturating_sub(memory);
    assert!(grown < written + GROWTH_BYTES_MAX, "{grown} bytes more for {written} that were written");
    ams.signal("CONT");
    wait_for("the region that was frozen to have everything", || {
        let has = |daemon: &Daemon| daemon.client().call(&["DBSIZE"]).unwrap() == Value::Integer(i64::from(number));
        (has(&ams) && has(&nyc) && lag_ms(&sfo, "ams") == 0).then_some(())
    });
}
