//! A region that was away for long: what it lacks comes on a connection of its own, and what is written meanwhile does not wait for it.

use std::time::{Duration, Instant};

use tests::process::mesh::mesh;
use tests::process::{Daemon, Value, wait_for};
use tests::sim::mesh::Mesh;
use tests::sim::workload::Outcome;

const DAEMON: &str = env!("CARGO_BIN_EXE_daemon-under-test");

const VALUE_BYTES: usize = 10_000;

/// More than a source keeps in memory (8 MiB for each core).
const WRITTEN_BYTES: u64 = 40_000_000;

/// A write of the source is to be seen in this time while the catch-up goes on for seconds. The machine is shared.
const SEEN_WITHIN: Duration = Duration::from_secs(2);

fn write(daemon: &Daemon, name: &str, count: usize) {
    let mut client = daemon.client();
    let value = vec![b'v'; VALUE_BYTES];
    for key in 0..count {
        let answer = client.call(&[b"SET".as_slice(), format!("{name}:{key}").as_bytes(), &value]);
        assert_eq!(answer.unwrap(), Value::Simple("OK".into()));
    }
}

fn peer(daemon: &Daemon, region: &str) -> serde_json::Value {
    let peers = daemon.status("status")["peers"].clone();
    peers.as_array().unwrap().iter().find(|peer| peer["region"] == region).cloned().unwrap_or_default()
}

fn number(peer: &serde_json::Value, field: &str) -> u64 {
    peer[field].as_u64().unwrap_or_else(|| panic!("{field} in {peer}"))
}

#[test]
fn what_is_written_is_seen_while_what_was_missed_is_still_on_its_way() {
    // What lies in files comes at four megabytes a second: eight seconds of it.
    let settings = [("CORES", "1"), ("CATCH_UP_RATE", "4MiB"), ("COMPRESSION", "none")];
    let [mut sfo, mut nyc] = mesh(DAEMON, ["sfo", "nyc"], &settings);
    write(&sfo, "first", 10);
    let follows = |here: &Daemon, there: &str| {
        wait_for("a region to follow", || peer(here, there)["following"].as_bool()?.then_some(()));
    };
    follows(&nyc, "sfo");
    follows(&sfo, "nyc");
    wait_for("nyc to have it", || (number(&peer(&sfo, "nyc"), "lag_ms") == 0).then_some(()));
    assert_eq!(number(&peer(&nyc, "sfo"), "received_bulk_bytes"), 0, "what is written comes on the live connection");
    nyc.kill9();
    let missed = usize::try_from(WRITTEN_BYTES).unwrap() / VALUE_BYTES;
    write(&sfo, "missed", missed);
    nyc.start();
    let catch_up = wait_for("nyc to catch up, at a known pace", || {
        let catch_up = peer(&nyc, "sfo")["catch_up"].clone();
        catch_up["left_seconds"].as_u64().map(|_| catch_up)
    });
    assert!(
        number(&catch_up, "left_bytes") < WRITTEN_BYTES * 2 && number(&catch_up, "bytes_per_second") > 0,
        "{catch_up}"
    );
    let live = |peer: &serde_json::Value| number(peer, "received_records_bytes") - number(peer, "received_bulk_bytes");
    let (mut writer, mut reader) = (sfo.client(), nyc.client());
    let mut seen = 0;
    loop {
        let key = format!("now:{seen}");
        assert_eq!(writer.call(&["SET", &key, "v"]).unwrap(), Value::Simple("OK".into()));
        let began = Instant::now();
        while reader.call(&["GET", &key]).unwrap() == Value::Null {
            assert!(began.elapsed() < SEEN_WITHIN, "write {seen} is not seen");
        }
        if peer(&nyc, "sfo")["catch_up"].is_null() {
            break;
        }
        seen += 1;
    }
    assert!(seen >= 20, "{seen} writes were seen before what was missed had come");
    wait_for("nyc to have everything", || (number(&peer(&sfo, "nyc"), "lag_ms") == 0).then_some(()));
    let keys = i64::try_from(10 + missed + seen + 1).unwrap();
    assert_eq!(reader.call(&["DBSIZE"]).unwrap(), Value::Integer(keys));
    let after = peer(&nyc, "sfo");
    let bulk = number(&after, "received_bulk_bytes");
    assert!((WRITTEN_BYTES..WRITTEN_BYTES * 11 / 10).contains(&bulk), "{bulk} bytes came in bulk");
    assert!(live(&after) < WRITTEN_BYTES / 10, "{} bytes came live", live(&after));
    assert_eq!(number(&peer(&sfo, "nyc"), "sent_bulk_bytes"), bulk);
    assert_eq!(nyc.logged("caught up with a source").len(), 1, "{}", nyc.log());
    // The bulk connection is closed, and a short absence needs none.
    write(&sfo, "last", 20);
    nyc.kill9();
    write(&sfo, "later", 20);
    nyc.start();
    wait_for("nyc to have everything", || {
        (nyc.client().call(&["DBSIZE"]).ok()? == Value::Integer(keys + 40)).then_some(())
    });
    follows(&nyc, "sfo");
    assert_eq!(number(&peer(&nyc, "sfo"), "received_bulk_bytes"), 0, "counted from its start on");
    sfo.terminate();
}

#[test]
fn a_catch_up_whose_connections_break_goes_on_where_it_stood() {
    let mut mesh = Mesh::new(8);
    mesh.run_ms(2_000);
    for region in ["sfo", "nyc", "ams"] {
        // From its next start on.
        mesh.region(region).set_flow(false, 500_000);
        mesh.region(region).set_bulk_bytes_min(10_000);
        mesh.region(region).stop();
        mesh.region(region).start();
    }
    mesh.run_ms(3_000);
    mesh.region("ams").kill();
    let keys: Vec<String> = (0..300).map(|key| format!("key:{key}")).collect();
    for some in keys.chunks(50) {
        let outcomes = mesh.region("sfo").set_many(some.iter().cloned(), 10_000);
        assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Stored));
    }
    // What it wrote is only in files now.
    mesh.region("sfo").stop();
    mesh.region("sfo").start();
    mesh.run_ms(2_000);
    let before = mesh.bytes_between("sfo", "ams");
    mesh.region("ams").start();
    mesh.run_ms(4_000);
    let came = mesh.bytes_between("sfo", "ams") - before;
    assert!((500_000..2_500_000).contains(&came), "{came} bytes: it is in the middle");
    assert!(mesh.region("sfo").set("now", 100) == Outcome::Stored);
    mesh.run_ms(1_000);
    assert!(matches!(mesh.region("ams").get("now"), Outcome::Read(Some(_))), "what is written does not wait");
    let at_cut = mesh.bytes_between("sfo", "ams");
    mesh.region("ams").cut_off();
    mesh.run_ms(6_000);
    // It goes on sending until it notices.
    let in_vain = mesh.bytes_between("sfo", "ams") - at_cut;
    mesh.heal();
    mesh.run_ms(20_000);
    assert!(matches!(mesh.region("ams").get("key:299"), Outcome::Read(Some(_))));
    let through = mesh.bytes_between("sfo", "ams") - before - in_vain;
    assert!(
        (3_000_000..3_400_000).contains(&through),
        "{through} bytes for three million: what was on its way comes again"
    );
    mesh.converged();
}
