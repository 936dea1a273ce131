//! Writes of Godwit's own protocol that wait until other regions durably hold them, on real daemons.

use std::io::Write;
use std::net::Shutdown;
use std::time::{Duration, Instant};

use net::client::{Client, Condition, ConnectOptions, Elsewhere, ErrorCode, Held, PutOptions, Written};
use net::ids::RequestId;
use net::wire::body::{ClientHello, Delete, Put, Wait};
use net::wire::{FrameReader, Message};
use tests::process::attack::connect;
use tests::process::mesh::mesh;
use tests::process::{Daemon, PATIENCE, Value};

const DAEMON: &str = env!("CARGO_BIN_EXE_daemon-under-test");

const SOON: Duration = Duration::from_secs(10);
const SHORT: Duration = Duration::from_millis(200);

fn client(daemon: &Daemon) -> Client {
    let options = ConnectOptions { timeout: Duration::from_millis(900), name: "held-test".to_owned() };
    Client::connect_with(daemon.at(daemon.ports().storage), &options).expect("the storage port")
}

fn regions(held: &Held) -> Vec<&str> {
    let mut regions: Vec<&str> = held.holders.iter().map(|holder| holder.region.as_str()).collect();
    regions.sort_unstable();
    assert_eq!(regions.len(), usize::from(held.count));
    regions
}

fn get(daemon: &Daemon, key: &str) -> Value {
    daemon.client().call(&["GET", key]).unwrap()
}

fn bulk(text: &str) -> Value {
    Value::Bulk(text.as_bytes().to_vec())
}

#[test]
fn a_write_says_who_holds_it_and_they_do_after_a_crash() {
    let [sfo, mut nyc, mut ams] = mesh(DAEMON, ["sfo", "nyc", "ams"], &[("CORES", "2")]);
    let mut store = client(&sfo);
    // Some keys are another core's.
    for key in 0..10 {
        let key = format!("key:{key}");
        let mut held = store.held(Elsewhere::in_all_regions(SOON));
        let (written, who) = held.put_with(&key, "v", PutOptions::default()).unwrap();
        assert!(matches!(written, Written::Written { .. }));
        assert_eq!((who.as_ref().unwrap().reached, regions(who.as_ref().unwrap())), (true, vec!["ams", "nyc"]));
        assert_eq!([get(&nyc, &key), get(&ams, &key)], [bulk("v"), bulk("v")]);
    }
    let mut one = store.held(Elsewhere::in_regions(1, SOON));
    let (incremented, who) = one.increment("count", 7).unwrap();
    assert_eq!((incremented.value, who.reached), (7, true));
    let holder = regions(&who)[0].to_owned();
    let (written, who) = store.held(Elsewhere::in_all_regions(SOON)).delete_if("key:0", Condition::Always).unwrap();
    assert!(matches!(written, Written::Written { .. }) && who.unwrap().reached);
    nyc.kill9();
    ams.kill9();
    nyc.start();
    ams.start();
    for daemon in [&nyc, &ams] {
        assert_eq!([get(daemon, "key:0"), get(daemon, "key:1")], [Value::Null, bulk("v")]);
    }
    assert_eq!(get(if holder == "nyc" { &nyc } else { &ams }, "count"), bulk("7"));
}

#[test]
fn when_the_deadline_passes_the_write_stands_and_says_who_has_it() {
    let [sfo, nyc, ams] = mesh(DAEMON, ["sfo", "nyc", "ams"], &[("CORES", "2")]);
    let mut store = client(&sfo);
    ams.pause();
    for key in 0..4 {
        let key = format!("key:{key}");
        let (_, who) = store.held(Elsewhere::in_regions(1, SOON)).put_with(&key, "1", PutOptions::default()).unwrap();
        assert_eq!((who.as_ref().unwrap().reached, regions(who.as_ref().unwrap())), (true, vec!["nyc"]));
        let began = Instant::now();
        let (written, who) =
            store.held(Elsewhere::in_all_regions(SHORT)).put_with(&key, "2", PutOptions::default()).unwrap();
        assert!(began.elapsed() >= SHORT, "{:?}", began.elapsed());
        assert!(matches!(written, Written::Written { .. }));
        assert_eq!((who.as_ref().unwrap().reached, regions(who.as_ref().unwrap())), (false, vec!["nyc"]));
        assert_eq!(get(&sfo, &key), bulk("2"), "it stands");
    }
    // A deadline beyond the client's own patience.
    let (_, who) = store
        .held(Elsewhere::in_regions(9, Duration::from_millis(1200)))
        .put_with("k", "v", PutOptions::default())
        .unwrap();
    assert!(!who.unwrap().reached, "there are no nine regions");
    ams.signal("CONT");
    let (_, who) = store.held(Elsewhere::in_all_regions(SOON)).put_with("k", "w", PutOptions::default()).unwrap();
    assert!(who.unwrap().reached);
    assert_eq!(get(&ams, "key:3"), bulk("2"), "it has come since");
    drop(nyc);
}

#[test]
fn what_writes_nothing_waits_for_nobody() {
    let [sfo, nyc] = mesh(DAEMON, ["sfo", "nyc"], &[("CORES", "2")]);
    let mut store = client(&sfo);
    for key in 0..4 {
        store.put(format!("key:{key}"), "v").unwrap();
    }
    nyc.pause();
    let began = Instant::now();
    for key in 0..4 {
        let mut held = store.held(Elsewhere::in_all_regions(SOON));
        let options = PutOptions::default().only_if(Condition::IfAbsent);
        let (written, who) = held.put_with(format!("key:{key}"), "w", options).unwrap();
        assert!(matches!(written, Written::Refused { present: Some(_) }) && who.is_none());
        let (written, who) = held.delete_if(format!("none:{key}"), Condition::Always).unwrap();
        assert!(written == Written::Nothing && who.is_none());
        let failed = held.increment(format!("key:{key}"), 1).unwrap_err();
        assert!(failed.to_string().contains("not an integer"), "{failed}");
        assert_eq!(store.get(format!("key:{key}")).unwrap().unwrap().value, "v", "the connection goes on");
    }
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    nyc.signal("CONT");
}

fn frame(id: u32, message: &Message) -> Vec<u8> {
    let mut out = Vec::new();
    message.encode(RequestId(id), &mut out).unwrap();
    out
}

fn put(id: u32, key: String, wait: Wait) -> Vec<u8> {
    let (expiry_ms, condition) = (0, Condition::Always);
    frame(id, &Message::Put(Put { wait, expiry_ms, condition, key: key.into(), value: "v".into() }))
}

/// All answers up to the end, which the client announces at once or after so many.
fn answers(daemon: &Daemon, requests: &[u8], count: usize) -> Vec<(u32, Message)> {
    let mut stream = connect(daemon.at(daemon.ports().storage));
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&frame(0, &Message::ClientHello(ClientHello::new("held")))).unwrap();
    stream.write_all(requests).unwrap();
    if count == 0 {
        stream.shutdown(Shutdown::Write).unwrap();
    }
    let (mut reader, mut answers, mut chunk) = (FrameReader::new(), Vec::new(), [0; 4096]);
    loop {
        while let Some(frame) = reader.next().unwrap() {
            answers.push((frame.header.request_id.0, Message::decode(&frame).unwrap()));
        }
        if count > 0 && answers.len() > count {
            return answers.split_off(1);
        }
        let read = std::io::Read::read(&mut stream, &mut chunk).expect("an answer in time");
        if read == 0 {
            return answers.split_off(1);
        }
        reader.feed(&chunk[..read]);
    }
}

#[test]
fn waits_of_one_connection_run_side_by_side_and_are_answered_in_order() {
    let [sfo, nyc] = mesh(DAEMON, ["sfo", "nyc"], &[("CORES", "2")]);
    nyc.pause();
    let wait = Wait { regions: 1, deadline_ms: 400 };
    let requests: Vec<u8> = (1..=50).flat_map(|id| put(id, format!("k:{id}"), wait)).collect();
    let began = Instant::now();
    let late = answers(&sfo, &requests, 100);
    let elapsed = began.elapsed();
    assert!(
        elapsed >= Duration::from_millis(400) && elapsed < Duration::from_secs(10),
        "one deadline for all: {elapsed:?}"
    );
    let ids: Vec<u32> = late.iter().map(|(id, _)| *id).collect();
    assert_eq!(ids, (1..=50).flat_map(|id| [id, id]).collect::<Vec<_>>());
    for pair in late.chunks(2) {
        assert!(matches!(pair[0].1, Message::Written(Written::Written { .. })), "{pair:?}");
        assert!(matches!(pair[1].1, Message::Held(Held { reached: false, count: 0, .. })), "{pair:?}");
    }
    // Whoever closes its side is not waited for, and hears how far it was.
    let patient = Wait { regions: 1, deadline_ms: u32::MAX };
    let began = Instant::now();
    let ended = answers(&sfo, &put(1, "k".into(), patient), 0);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert!(matches!(ended[1].1, Message::Held(Held { reached: false, .. })), "{ended:?}");
    nyc.signal("CONT");
}

#[test]
fn a_wait_that_asks_for_nothing_sound_is_an_error_and_nothing_is_written() {
    let mut daemon = Daemon::new(DAEMON);
    daemon.set("CORES", 2).start();
    let mut requests = Vec::new();
    let unsound = [Wait { regions: 1, deadline_ms: 0 }, Wait { regions: 0, deadline_ms: 1 }];
    for (id, wait) in (1..).zip(unsound) {
        requests.extend(put(id, format!("k:{id}"), wait));
        let (condition, key) = (Condition::Always, format!("k:{id}").into());
        requests.extend(frame(id, &Message::Delete(Delete { wait, condition, key })));
    }
    for (_, answer) in answers(&daemon, &requests, 4) {
        let Message::Error(failed) = answer else { panic!("{answer:?}") };
        assert_eq!(failed.reason(), Some(ErrorCode::Invalid));
        assert!(failed.text.contains("nothing was written"), "{failed:?}");
    }
    assert_eq!(daemon.client().call(&["DBSIZE"]).unwrap(), Value::Integer(0));
    // There is no other region: all of none hold it.
    let all = answers(&daemon, &put(1, "k".into(), Wait { regions: Wait::ALL_REGIONS, deadline_ms: 10_000 }), 2);
    assert!(matches!(all[1].1, Message::Held(Held { reached: true, count: 0, .. })), "{all:?}");
    assert_eq!(daemon.terminate().code(), Some(0));
}
