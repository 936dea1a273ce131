//! What replication costs on the wire for each byte of the log: values that cannot be packed, and values like those of a program.
#![allow(clippy::print_stdout, clippy::cast_precision_loss)]

use std::net::SocketAddr;

use tests::process::{Choices, Daemon, Value, backends, wait_for};

const DAEMON: &str = env!("CARGO_BIN_EXE_daemon-under-test");

/// Writes, and how many of them are under way at once.
const BUSY: (usize, usize) = (20_000, 200);
const QUIET: (usize, usize) = (1_000, 1);
const VALUE_BYTES: usize = 100;

/// Two regions; the second follows the first.
fn pair(backend: &str, compression: &str) -> [Daemon; 2] {
    let mut daemons = ["sfo", "nyc"].map(|_| Daemon::new(DAEMON));
    let addresses: Vec<SocketAddr> = daemons.iter().map(|daemon| daemon.at(daemon.ports().discovery)).collect();
    for (at, daemon) in daemons.iter_mut().enumerate() {
        daemon.set("REGION", ["sfo", "nyc"][at]).set("DISCOVERY_PEERS", addresses[1 - at]);
        daemon.set("IO_BACKEND", backend).set("COMPRESSION", compression).set("CORES", 1).start();
    }
    daemons
}

fn random_value(choices: &mut Choices) -> Vec<u8> {
    (0..VALUE_BYTES).map(|_| choices.draw().to_le_bytes()[0]).collect()
}

fn json_value(choices: &mut Choices) -> Vec<u8> {
    let name = ["Ada", "Grace", "Edsger", "Barbara", "Tony"][usize::try_from(choices.below(5)).unwrap()];
    let (id, cents, seen) = (choices.below(1_000_000), choices.below(10_000_000), choices.below(86_400));
    let active = choices.below(2) == 0;
    let head =
        format!(r#"{{"id":{id},"name":"{name}","balance":{cents},"active":{active},"last_seen":{seen},"note":""#);
    let filler = VALUE_BYTES - head.len() - 2;
    let note: String = "no note was left here so far".chars().cycle().take(filler).collect();
    format!(r#"{head}{note}"}}"#).into_bytes()
}

fn peer(daemon: &Daemon, field: &str) -> u64 {
    daemon.status("status")["peers"][0][field].as_u64().unwrap()
}

/// Writes values at the first region and waits until the second has them; bytes on the wire for each byte of the log.
fn wire_per_log_byte(
    [here, there]: &[Daemon; 2],
    (writes, pipeline): (usize, usize),
    value: impl Fn(&mut Choices) -> Vec<u8>,
) -> f64 {
    let mut choices = Choices::new(7);
    let mut client = here.client();
    wait_for("the other region to follow", || {
        here.status("status")["peers"][0]["followed"].as_bool().unwrap().then_some(())
    });
    for first in (0..writes).step_by(pipeline) {
        for number in first..first + pipeline {
            client.queue(&[b"SET", format!("user:{number:06}").as_bytes(), &value(&mut choices)]);
        }
        client.flush().unwrap();
        (0..pipeline).for_each(|_| assert!(matches!(client.receive().unwrap(), Value::Simple(_))));
    }
    wait_for("the other region to have all", || {
        let has = there.client().call(&["DBSIZE"]).unwrap();
        // What the status says may be a tenth of a second old: also that all is there that was sent.
        let sent = peer(here, "sent_records_raw_bytes");
        let idle = peer(here, "lag_ms") == 0
            && sent > (writes * VALUE_BYTES) as u64
            && sent == peer(there, "received_records_raw_bytes");
        (has == Value::Integer(writes.try_into().unwrap()) && idle).then_some(())
    });
    let (wire, raw) = (peer(here, "sent_records_bytes"), peer(here, "sent_records_raw_bytes"));
    let claims = peer(here, "sent_claims_bytes");
    assert_eq!(wire, peer(there, "received_records_bytes"), "what is sent is received");
    let (address, region) = (there.at(there.ports().discovery), "nyc");
    let labels = format!("{{peer=\"{address}\",region=\"{region}\"}}");
    assert_eq!(here.metric(&format!("godwit_peer_sent_records_raw_bytes_total{labels}")), raw);
    assert_eq!(here.metric(&format!("godwit_peer_sent_records_bytes_total{labels}")), wire);
    println!("{wire} bytes of records and {claims} of claims on the wire for {raw} of the log");
    (wire + claims) as f64 / raw as f64
}

#[test]
fn values_like_those_of_programs_take_little_on_the_wire_and_random_ones_no_more_than_they_are() {
    for backend in backends() {
        let json = wire_per_log_byte(&pair(backend, ""), BUSY, json_value);
        let random = wire_per_log_byte(&pair(backend, ""), BUSY, random_value);
        let unpacked = wire_per_log_byte(&pair(backend, "none"), BUSY, json_value);
        println!("{backend}: {json:.3} with values like JSON, {random:.3} with random ones, {unpacked:.3} not packed");
        assert!(json <= 0.6, "{json}");
        assert!(random <= 1.05, "{random}");
        assert!((1.0..=1.05).contains(&unpacked), "{unpacked}");
    }
}

#[test]
fn a_write_on_its_own_takes_little_more_than_it_is() {
    for backend in backends() {
        let json = wire_per_log_byte(&pair(backend, ""), QUIET, json_value);
        let random = wire_per_log_byte(&pair(backend, ""), QUIET, random_value);
        let unpacked = wire_per_log_byte(&pair(backend, "none"), QUIET, json_value);
        println!("{backend}: {json:.3} with values like JSON, {random:.3} with random ones, {unpacked:.3} not packed");
        // Forty bytes of heads for each batch, and two acknowledged writes may share one.
        assert!(json <= 0.7, "{json}");
        assert!(random <= 1.15, "{random}");
        assert!(unpacked <= 1.15, "{unpacked}");
    }
}
