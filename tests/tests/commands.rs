//! Commands whose meaning is this node's own, or that involve every core: what Redis' suite and the comparison with a Redis do not
//! show.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tests::process::attack::connect;
use tests::process::{Client, Daemon, Value, wait_for};

const DAEMON: &str = env!("CARGO_BIN_EXE_daemon-under-test");

fn ok() -> Value {
    Value::Simple("OK".into())
}

fn bulk(text: impl AsRef<[u8]>) -> Value {
    Value::Bulk(text.as_ref().to_vec())
}

fn error(text: &str) -> Value {
    Value::Error(text.into())
}

fn started(cores: u16) -> Daemon {
    let mut daemon = Daemon::new(DAEMON);
    daemon.set("CORES", cores).start();
    daemon
}

fn ask(client: &mut Client, words: &[&str]) -> Value {
    client.call(words).unwrap()
}

/// The number in a reply.
fn number(client: &mut Client, words: &[&str]) -> i64 {
    match ask(client, words) {
        Value::Integer(number) => number,
        other => panic!("{words:?}: {other:?}"),
    }
}

/// The text in a reply.
fn text(client: &mut Client, words: &[&str]) -> String {
    match ask(client, words) {
        Value::Bulk(bytes) => String::from_utf8(bytes).unwrap(),
        other => panic!("{words:?}: {other:?}"),
    }
}

/// Sets `count` keys in pipelines.
fn fill(client: &mut Client, prefix: &str, count: usize) {
    for from in (0..count).step_by(1000) {
        let keys = from..count.min(from + 1000);
        keys.clone().for_each(|key| client.queue(&["SET", &format!("{prefix}{key}"), "v"]));
        client.flush().unwrap();
        keys.for_each(|_| assert_eq!(client.receive().unwrap(), ok()));
    }
}

fn names(value: Value) -> BTreeSet<Vec<u8>> {
    let Value::Array(names) = value else { panic!("no array: {value:?}") };
    let count = names.len();
    let set: BTreeSet<Vec<u8>> = names
        .into_iter()
        .map(|name| match name {
            Value::Bulk(name) => name,
            other => panic!("no name: {other:?}"),
        })
        .collect();
    assert_eq!(set.len(), count, "a key was listed twice");
    set
}

// ---- values --------------------------------------------------------------------------------------------------------

#[test]
fn a_part_that_would_grow_a_value_beyond_the_limit_costs_nothing() {
    let mut daemon = Daemon::new(DAEMON);
    daemon.set("VALUE_BYTES_MAX", "64KiB").start();
    let mut client = daemon.client();
    assert_eq!(ask(&mut client, &["SET", "k", "v", "EX", "1000"]), ok());
    let refused = error("ERR the value is larger than VALUE_BYTES_MAX");
    assert_eq!(ask(&mut client, &["SETRANGE", "k", "65536", "x"]), refused);
    assert_eq!(ask(&mut client, &["SETRANGE", "k", "400000000", "x"]), refused);
    assert_eq!(number(&mut client, &["SETRANGE", "k", "65535", "x"]), 65_536);
    assert_eq!(ask(&mut client, &["GETRANGE", "k", "0", "1"]), bulk("v\0"));
    assert!(number(&mut client, &["TTL", "k"]) > 900, "the expiry stays");
    daemon.kill9();
    daemon.start();
    assert_eq!(ask(&mut daemon.client(), &["GETRANGE", "k", "-2", "-1"]), bulk("\0x"));
}

#[test]
fn getex_changes_the_expiry_for_good() {
    let mut daemon = started(2);
    let mut client = daemon.client();
    for key in ["a", "b", "c", "d"] {
        assert_eq!(ask(&mut client, &["SET", key, "v", "EX", "1000"]), ok());
    }
    assert_eq!(text(&mut client, &["GETEX", "a", "PERSIST"]), "v");
    assert_eq!(text(&mut client, &["GETEX", "b", "EXAT", "4102444800"]), "v");
    assert_eq!(text(&mut client, &["GETEX", "c", "EXAT", "1"]), "v");
    assert_eq!(text(&mut client, &["GETEX", "d"]), "v");
    daemon.kill9();
    daemon.start();
    let mut client = daemon.client();
    assert_eq!(number(&mut client, &["TTL", "a"]), -1);
    assert_eq!(number(&mut client, &["EXPIRETIME", "b"]), 4_102_444_800);
    assert_eq!(number(&mut client, &["EXISTS", "c"]), 0, "an expiry in the past deletes");
    assert!((1..=1000).contains(&number(&mut client, &["TTL", "d"])));
}

#[test]
fn what_a_value_is_made_of() {
    let daemon = started(2);
    let mut client = daemon.client();
    for (value, encoding) in [("12", "int"), ("short", "embstr"), (&"x".repeat(45), "raw"), ("007", "embstr")] {
        assert_eq!(ask(&mut client, &["SET", "k", value]), ok());
        assert_eq!(text(&mut client, &["OBJECT", "ENCODING", "k"]), encoding, "{value}");
    }
    assert_eq!(number(&mut client, &["OBJECT", "REFCOUNT", "k"]), 1);
    assert!(number(&mut client, &["OBJECT", "IDLETIME", "k"]) < 20);
    assert_eq!(ask(&mut client, &["OBJECT", "ENCODING", "none"]), Value::Null);
    let small = number(&mut client, &["MEMORY", "USAGE", "k"]);
    ask(&mut client, &["SET", "k", &"x".repeat(1000)]);
    let large = number(&mut client, &["MEMORY", "USAGE", "k", "SAMPLES", "0"]);
    assert!((990..1010).contains(&(large - small)), "{small} {large}");
}

// ---- every core ----------------------------------------------------------------------------------------------------

#[test]
fn keys_lists_every_key_of_every_core_once_and_sees_what_came_before_it() {
    for cores in [1, 2, 3] {
        let daemon = started(cores);
        let mut client = daemon.client();
        fill(&mut client, "key:", 5000);
        ask(&mut client, &["DEL", "key:17"]);
        // Pipelined: the SET before it counts, the one after it does not.
        for command in
            [&["SET", "before", "v"][..], &["KEYS", "*"], &["SET", "after", "v"], &["DBSIZE"], &["KEYS", "key:1?"]]
        {
            client.queue(command);
        }
        client.flush().unwrap();
        assert_eq!(client.receive().unwrap(), ok());
        let all = names(client.receive().unwrap());
        assert_eq!(all.len(), 5000);
        assert!(all.contains(&b"before"[..]) && !all.contains(&b"after"[..]) && !all.contains(&b"key:17"[..]));
        assert_eq!(client.receive().unwrap(), ok());
        assert_eq!(client.receive().unwrap(), Value::Integer(5001));
        assert_eq!(names(client.receive().unwrap()).len(), 9, "key:10 to key:19 without key:17");
    }
}

#[test]
fn a_random_key_is_one_that_is_there() {
    let daemon = started(2);
    let mut client = daemon.client();
    assert_eq!(ask(&mut client, &["RANDOMKEY"]), Value::Null);
    fill(&mut client, "dead:", 3000);
    (0..3000).for_each(|key| client.queue(&["DEL", &format!("dead:{key}")]));
    client.flush().unwrap();
    (0..3000).for_each(|_| assert_eq!(client.receive().unwrap(), Value::Integer(1)));
    assert_eq!(ask(&mut client, &["RANDOMKEY"]), Value::Null, "tombstones are no keys");
    fill(&mut client, "alive:", 20);
    let seen: BTreeSet<String> = (0..1000).map(|_| text(&mut client, &["RANDOMKEY"])).collect();
    // Each is missed with a probability of e^-50 if they were equally likely; they are nearly.
    assert_eq!(seen.len(), 20, "{seen:?}");
    assert!(seen.iter().all(|key| key.starts_with("alive:")));
}

#[test]
fn a_flush_deletes_what_was_there_and_nothing_that_comes_after() {
    for cores in [1, 2] {
        let mut daemon = Daemon::new(DAEMON);
        // Small segments: the tombstones of long keys fill several, and the flush has to wait for new ones.
        daemon.set("CORES", cores).set("SEGMENT_BYTES", "1MiB").start();
        let mut client = daemon.client();
        let long = "k".repeat(200);
        fill(&mut client, &long, 10_000);
        for command in [&["FLUSHALL"][..], &["DBSIZE"], &["SET", &format!("{long}7"), "new"], &["KEYS", "*"]] {
            client.queue(command);
        }
        client.flush().unwrap();
        assert_eq!(client.receive().unwrap(), ok());
        assert_eq!(client.receive().unwrap(), Value::Integer(0));
        assert_eq!(client.receive().unwrap(), ok());
        assert_eq!(names(client.receive().unwrap()).len(), 1);
        daemon.kill9();
        daemon.start();
        let mut client = daemon.client();
        assert_eq!(number(&mut client, &["DBSIZE"]), 1, "answered is durable");
        assert_eq!(ask(&mut client, &["GET", &format!("{long}7")]), bulk("new"));
        assert!(daemon.logged("ERROR").is_empty(), "{:?}", daemon.logged("ERROR"));
    }
}

#[test]
fn other_clients_go_on_while_a_flush_or_a_listing_runs() {
    let daemon = started(1);
    let mut client = daemon.client();
    fill(&mut client, "key:", 200_000);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let other = scope.spawn(|| {
            let mut other = daemon.client();
            let (mut calls, mut slowest) = (0, Duration::ZERO);
            while !done.load(Ordering::Relaxed) {
                let began = Instant::now();
                assert_eq!(ask(&mut other, &["PING"]), Value::Simple("PONG".into()));
                slowest = slowest.max(began.elapsed());
                calls += 1;
            }
            (calls, slowest)
        });
        let began = Instant::now();
        assert_eq!(names(ask(&mut client, &["KEYS", "*"])).len(), 200_000);
        assert_eq!(ask(&mut client, &["FLUSHDB", "ASYNC"]), ok());
        let took = began.elapsed();
        done.store(true, Ordering::Relaxed);
        let (calls, slowest) = other.join().unwrap();
        eprintln!("{took:?}, meanwhile {calls} PINGs, the slowest {slowest:?}");
        // Run in one piece, each would let one PING through.
        assert!(calls > 20, "only {calls} PINGs in {took:?}");
    });
    assert_eq!(number(&mut client, &["DBSIZE"]), 0);
}

#[test]
fn a_flush_reaches_the_other_region() {
    let (mut sfo, mut nyc) = (Daemon::new(DAEMON), Daemon::new(DAEMON));
    let (at_sfo, at_nyc) = (sfo.at(sfo.ports().discovery), nyc.at(nyc.ports().discovery));
    sfo.set("REGION", "sfo").set("DISCOVERY_PEERS", at_nyc).start();
    nyc.set("REGION", "nyc").set("DISCOVERY_PEERS", at_sfo).start();
    let (mut here, mut there) = (sfo.client(), nyc.client());
    fill(&mut here, "from sfo:", 500);
    fill(&mut there, "from nyc:", 500);
    for client in [&mut here, &mut there] {
        wait_for("both regions to have all keys", || (number(client, &["DBSIZE"]) == 1000).then_some(()));
    }
    assert_eq!(ask(&mut here, &["FLUSHALL", "SYNC"]), ok());
    assert_eq!(number(&mut here, &["DBSIZE"]), 0);
    wait_for("the tombstones to arrive", || (number(&mut there, &["DBSIZE"]) == 0).then_some(()));
    assert_eq!(ask(&mut there, &["FLUSHALL", "now"]), error("ERR syntax error"));
}

#[test]
fn what_was_asked_before_the_end_of_the_stream_is_answered_also_behind_a_command_for_every_core() {
    let daemon = started(2);
    let mut stream = connect(daemon.at(daemon.ports().storage));
    stream.write_all(b"SET k v\r\nDBSIZE\r\nPING\r\nKEYS *\r\nFLUSHALL\r\nDBSIZE\r\nGET k\r\n").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "+OK\r\n:1\r\n+PONG\r\n*1\r\n$1\r\nk\r\n+OK\r\n:0\r\n$-1\r\n");
}

// ---- connections ---------------------------------------------------------------------------------------------------

#[test]
fn clients_of_all_cores_are_listed_and_can_be_killed() {
    let daemon = started(2);
    let mut clients: Vec<Client> = (0..8).map(|_| daemon.client()).collect();
    for (at, client) in clients.iter_mut().enumerate() {
        assert_eq!(ask(client, &["CLIENT", "SETNAME", &format!("client-{at}")]), ok());
    }
    let ids: Vec<i64> = clients.iter_mut().map(|client| number(client, &["CLIENT", "ID"])).collect();
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), 8, "ids are unique over the cores");
    let list = text(&mut clients[0], &["CLIENT", "LIST"]);
    assert_eq!(list.lines().count(), 8, "{list}");
    for (at, id) in ids.iter().enumerate() {
        let line = list.lines().find(|line| line.contains(&format!("name=client-{at} "))).unwrap();
        assert!(line.starts_with(&format!("id={id} addr=127.")) && line.contains(" resp=2"), "{line}");
    }
    let two = [ids[3].to_string(), ids[4].to_string()];
    assert_eq!(text(&mut clients[0], &["CLIENT", "LIST", "ID", &two[0], &two[1]]).lines().count(), 2);
    assert_eq!(text(&mut clients[0], &["CLIENT", "LIST", "TYPE", "pubsub"]), "");

    // By id, by address, and all but the one that asks.
    assert_eq!(number(&mut clients[0], &["CLIENT", "KILL", "ID", &two[0]]), 1);
    assert_eq!(number(&mut clients[0], &["CLIENT", "KILL", "ID", &two[0]]), 0);
    let line = list.lines().find(|line| line.contains("name=client-4 ")).unwrap();
    let addr = line.split(' ').find_map(|field| field.strip_prefix("addr=")).unwrap();
    assert_eq!(ask(&mut clients[0], &["CLIENT", "KILL", addr]), ok());
    assert_eq!(ask(&mut clients[0], &["CLIENT", "KILL", addr]), error("ERR No such client"));
    assert!(clients[3].call(&["PING"]).is_err() && clients[4].call(&["PING"]).is_err());
    assert_eq!(number(&mut clients[0], &["CLIENT", "KILL", "TYPE", "normal"]), 5);
    assert_eq!(text(&mut clients[0], &["CLIENT", "LIST"]).lines().count(), 1);
    // Itself: the answer comes first.
    assert_eq!(number(&mut clients[0], &["CLIENT", "KILL", "ID", &ids[0].to_string(), "SKIPME", "no"]), 1);
    assert!(clients[0].call(&["PING"]).is_err());
    let open = |core: u16| daemon.metric(&format!("godwit_client_connections{{core=\"{core}\"}}"));
    wait_for("the connections to be closed", || (open(0) + open(1) == 0).then_some(()));
}

#[test]
fn replies_that_nobody_wants_are_not_sent_and_their_commands_run() {
    let daemon = started(2);
    let mut client = daemon.client();
    for command in [
        &["CLIENT", "REPLY", "OFF"][..],
        // On either core, on both, and wrong ones.
        &["SET", "a", "1"],
        &["SET", "b", "1"],
        &["MSET", "a", "2", "b", "2", "c", "2"],
        &["FLUSHALL"],
        &["MSET", "d", "3", "e", "3"],
        &["DBSIZE"],
        &["KEYS", "*"],
        &["NOSUCH"],
        &["CLIENT", "REPLY", "nonsense"],
        &["CLIENT", "REPLY", "ON"],
        &["KEYS", "*"],
        &["CLIENT", "REPLY", "SKIP"],
        &["GET", "d"],
        &["GET", "e"],
    ] {
        client.queue(command);
    }
    client.flush().unwrap();
    assert_eq!(client.receive().unwrap(), ok());
    assert_eq!(names(client.receive().unwrap()).len(), 2);
    assert_eq!(client.receive().unwrap(), bulk("3"));
    assert_eq!(ask(&mut client, &["PING"]), Value::Simple("PONG".into()));
    client.queue(&["CLIENT", "REPLY", "OFF"]);
    assert_eq!(ask(&mut client, &["RESET"]), Value::Simple("RESET".into()), "which ends the silence");
}

// ---- the slow log --------------------------------------------------------------------------------------------------

#[test]
fn the_slow_log_has_what_took_longer_than_its_threshold() {
    let daemon = started(2);
    let mut client = daemon.client();
    assert_eq!(ask(&mut client, &["CLIENT", "SETNAME", "tester"]), ok());
    // One second: nothing is that slow.
    assert_eq!(ask(&mut client, &["CONFIG", "SET", "slowlog-log-slower-than", "1000000"]), ok());
    assert_eq!(ask(&mut client, &["SLOWLOG", "RESET"]), ok());
    ask(&mut client, &["SET", "k", "v"]);
    assert_eq!(number(&mut client, &["SLOWLOG", "LEN"]), 0);
    assert_eq!(ask(&mut client, &["CONFIG", "SET", "slowlog-log-slower-than", "0", "slowlog-max-len", "3"]), ok());
    for key in ["a", "b", "c", "d"] {
        ask(&mut client, &["SET", key, "v"]);
    }
    assert_eq!(ask(&mut client, &["CONFIG", "SET", "slowlog-log-slower-than", "-1"]), ok());
    ask(&mut client, &["SET", "e", "v"]);
    assert_eq!(number(&mut client, &["SLOWLOG", "LEN"]), 3);
    let Value::Array(entries) = ask(&mut client, &["SLOWLOG", "GET"]) else { panic!("no entries") };
    // The last one is the SET of "d": what turned the log off is not in it any more.
    let Value::Array(entry) = &entries[0] else { panic!("no entry") };
    assert_eq!(entry.len(), 6);
    assert_eq!(entry[3], Value::Array(vec![bulk("SET"), bulk("d"), bulk("v")]));
    assert!(matches!(&entry[4], Value::Bulk(addr) if addr.starts_with(b"127.")), "{entry:?}");
    assert_eq!(entry[5], bulk("tester"));
    assert_eq!(ask(&mut client, &["CONFIG", "SET", "slowlog-max-len", "5", "port", "1"]), {
        error("ERR CONFIG SET failed (possibly related to argument 'port') - can't set immutable config")
    });
    let settings = Value::Array(vec![bulk("slowlog-max-len"), bulk("3")]);
    assert_eq!(ask(&mut client, &["CONFIG", "GET", "slowlog-max-*"]), settings, "nothing was set");
}

#[test]
fn a_command_that_every_core_runs_is_slow_by_what_it_costs_a_core() {
    let daemon = started(2);
    let mut client = daemon.client();
    fill(&mut client, "key:", 50_000);
    assert_eq!(ask(&mut client, &["CONFIG", "SET", "slowlog-log-slower-than", "1000"]), ok());
    assert_eq!(ask(&mut client, &["SLOWLOG", "RESET"]), ok());
    // A pattern that takes long to refuse.
    assert_eq!(ask(&mut client, &["KEYS", &"*k".repeat(100)]), Value::Array(Vec::new()));
    let Value::Array(entries) = ask(&mut client, &["SLOWLOG", "GET", "-1"]) else { panic!("no entries") };
    let of_keys = entries.iter().filter(|entry| format!("{entry:?}").contains(&format!("{:?}", bulk("KEYS"))));
    assert_eq!(of_keys.count(), 2, "one for each core");
}
