//! Clients that wait until other regions durably hold what they wrote, with real daemons: what they are told is true, they are told soon,
//! and a region that does not answer costs them no more than their deadline.

use std::io::Write;
use std::time::{Duration, Instant};

use tests::process::attack::connect;
use tests::process::mesh::mesh;
use tests::process::{Client, Daemon, Value, wait_for};

const DAEMON: &str = env!("CARGO_BIN_EXE_daemon-under-test");

fn number(client: &mut Client, words: &[&str]) -> i64 {
    match client.call(words).unwrap() {
        Value::Integer(number) => number,
        other => panic!("{words:?}: {other:?}"),
    }
}

fn numbers(client: &mut Client, words: &[&str]) -> Vec<i64> {
    let Value::Array(values) = client.call(words).unwrap() else { panic!("{words:?}") };
    let number = |value| if let Value::Integer(number) = value { number } else { panic!("{words:?}: {value:?}") };
    values.into_iter().map(number).collect()
}

fn set(client: &mut Client, key: &str, value: &str) {
    assert_eq!(client.call(&["SET", key, value]).unwrap(), Value::Simple("OK".into()));
}

fn get(daemon: &Daemon, key: &str) -> Value {
    daemon.client().call(&["GET", key]).unwrap()
}

#[test]
fn wait_says_how_many_nodes_hold_what_was_written_and_they_do() {
    for (cores, durability) in [("1", "fsync"), ("2", "fsync"), ("2", "os")] {
        let [sfo, mut nyc, mut ams] =
            mesh(DAEMON, ["sfo", "nyc", "ams"], &[("CORES", cores), ("DURABILITY", durability)]);
        let mut client = sfo.client();
        assert_eq!(number(&mut client, &["WAIT", "2", "0"]), 2, "it has written nothing");
        // Alone on its core, each of them: the other core has to say at once that it has nothing.
        let mut slowest = Duration::ZERO;
        for key in 0..40 {
            set(&mut client, &format!("key:{key}"), "v");
            let began = Instant::now();
            assert_eq!(number(&mut client, &["WAIT", "2", "10000"]), 2);
            slowest = slowest.max(began.elapsed());
            let expected = Value::Bulk(b"v".to_vec());
            assert_eq!(
                [get(&nyc, &format!("key:{key}")), get(&ams, &format!("key:{key}"))],
                [&expected; 2].map(Clone::clone)
            );
        }
        // No timer of the node is as short as its disk; the longest ones are a second.
        assert!(slowest < Duration::from_millis(900), "a write waited {slowest:?} for a region on the same machine");
        set(&mut client, "last", "v");
        assert_eq!(numbers(&mut client, &["WAITAOF", "1", "2", "10000"]), [1, 2]);
        // What they hold is on their disks.
        nyc.kill9();
        ams.kill9();
        nyc.start();
        ams.start();
        assert_eq!([get(&nyc, "last"), get(&ams, "last")], [(); 2].map(|()| Value::Bulk(b"v".to_vec())));
    }
}

#[test]
fn a_region_that_does_not_answer_costs_the_timeout_and_no_more() {
    let [sfo, nyc, ams] = mesh(DAEMON, ["sfo", "nyc", "ams"], &[("CORES", "2")]);
    let mut client = sfo.client();
    ams.pause();
    set(&mut client, "k", "1");
    assert_eq!(number(&mut client, &["WAIT", "1", "10000"]), 1);
    let began = Instant::now();
    assert_eq!(number(&mut client, &["WAIT", "2", "300"]), 1, "nyc has it");
    assert_eq!(numbers(&mut client, &["WAITAOF", "1", "2", "300"]), [1, 1]);
    assert!(began.elapsed() >= Duration::from_millis(600), "{:?}", began.elapsed());
    // What comes behind it waits, and only on that connection.
    client.queue(&["SET", "k", "2"]);
    client.queue(&["WAIT", "2", "400"]);
    client.queue(&["GET", "k"]);
    client.flush().unwrap();
    let began = Instant::now();
    let mut other = sfo.client();
    for _ in 0..20 {
        set(&mut other, "other", "v");
    }
    let undisturbed = began.elapsed();
    assert_eq!(client.receive().unwrap(), Value::Simple("OK".into()));
    assert_eq!(client.receive().unwrap(), Value::Integer(1));
    assert!(began.elapsed() >= Duration::from_millis(350), "{:?}", began.elapsed());
    assert!(undisturbed < Duration::from_millis(350), "others went on: {undisturbed:?}");
    assert_eq!(client.receive().unwrap(), Value::Bulk(b"2".to_vec()));
    // Without a timeout it waits until the region is back.
    client.queue(&["WAIT", "2", "0"]);
    client.flush().unwrap();
    ams.signal("CONT");
    assert_eq!(client.receive().unwrap(), Value::Integer(2));
    drop(nyc);
}

#[test]
fn commands_on_every_core_count_whoever_runs_them() {
    let [sfo, nyc] = mesh(DAEMON, ["sfo", "nyc"], &[("CORES", "2")]);
    let mut client = sfo.client();
    let nyc_holds = |client: &mut Client| assert_eq!(number(client, &["WAIT", "1", "10000"]), 1);
    let keys: Vec<String> = (0..20).map(|key| format!("many:{key}")).collect();
    let pairs: Vec<&str> = keys.iter().flat_map(|key| [key.as_str(), "v"]).collect();
    for (words, expected) in [(["MSET"].as_slice(), "OK"), (&["MSETNX"], "1")] {
        let words: Vec<&str> = words.iter().copied().chain(pairs.iter().copied()).collect();
        client.queue(&words);
        client.queue(&["WAIT", "1", "10000"]);
        client.flush().unwrap();
        let reply = client.receive().unwrap();
        assert!([Value::Simple(expected.into()), Value::Integer(1)].contains(&reply), "{reply:?}");
        assert_eq!(client.receive().unwrap(), Value::Integer(1));
        for key in &keys {
            assert_eq!(get(&nyc, key), Value::Bulk(b"v".to_vec()));
        }
        client.call(&["FLUSHALL"]).unwrap();
        nyc_holds(&mut client);
        assert_eq!(nyc.client().call(&["DBSIZE"]).unwrap(), Value::Integer(0));
    }
    // Without replies, too: what was not answered counts as well.
    client.queue(&["CLIENT", "REPLY", "OFF"]);
    for key in &keys {
        client.queue(&["SET", key, "silent"]);
    }
    client.queue(&["CLIENT", "REPLY", "ON"]);
    client.queue(&["WAIT", "1", "10000"]);
    client.flush().unwrap();
    assert_eq!(client.receive().unwrap(), Value::Simple("OK".into()));
    assert_eq!(client.receive().unwrap(), Value::Integer(1));
    for key in &keys {
        assert_eq!(get(&nyc, key), Value::Bulk(b"silent".to_vec()));
    }
}

#[test]
fn in_a_transaction_nobody_waits() {
    let [sfo, nyc] = mesh(DAEMON, ["sfo", "nyc"], &[("CORES", "2")]);
    let mut client = sfo.client();
    set(&mut client, "k", "1");
    assert_eq!(number(&mut client, &["WAIT", "1", "0"]), 1);
    nyc.pause();
    let began = Instant::now();
    let exec = |client: &mut Client, before: bool| {
        for words in [&["MULTI"][..], &["SET", "k", "2"], &["WAIT", "1", "0"], &["WAITAOF", "1", "1", "0"], &["EXEC"]] {
            client.queue(words);
        }
        client.flush().unwrap();
        let replies: Vec<Value> = (0..5).map(|_| client.receive().unwrap()).collect();
        let counted = i64::from(before);
        let both = Value::Array(vec![Value::Integer(1), Value::Integer(counted)]);
        let expected = Value::Array(vec![Value::Simple("OK".into()), Value::Integer(counted), both]);
        assert_eq!(replies[4], expected);
    };
    // What was written before the transaction counts, as in Redis.
    exec(&mut client, true);
    exec(&mut client, false);
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    nyc.signal("CONT");
}

#[test]
fn a_node_alone_waits_in_vain_but_knows_its_own_disk() {
    for (cores, durability) in [(1, "fsync"), (2, "os")] {
        let mut daemon = Daemon::new(DAEMON);
        daemon.set("CORES", cores).set("DURABILITY", durability).start();
        let mut client = daemon.client();
        for key in 0..10 {
            set(&mut client, &format!("k{key}"), "v");
            assert_eq!(number(&mut client, &["WAIT", "0", "0"]), 0);
            assert_eq!(numbers(&mut client, &["WAITAOF", "1", "0", "0"]), [1, 0]);
        }
        assert_eq!(number(&mut client, &["WAIT", "1", "50"]), 0);
        assert_eq!(numbers(&mut client, &["WAITAOF", "0", "1", "50"]), [1, 0]);
        daemon.kill9();
        daemon.start();
        assert_eq!(daemon.client().call(&["DBSIZE"]).unwrap(), Value::Integer(10));
    }
}

#[test]
fn who_goes_away_while_it_waits_leaves_nothing_behind() {
    let mut daemon = Daemon::new(DAEMON);
    daemon.set("CORES", 2).start();
    let open = |daemon: &Daemon| {
        (0..2).map(|core| daemon.metric(&format!("godwit_client_connections{{core=\"{core}\"}}"))).sum::<u64>()
    };
    for _ in 0..20 {
        let mut gone = connect(daemon.at(daemon.ports().storage));
        gone.write_all(b"SET k v\r\nWAIT 1 0\r\nPING\r\n").unwrap();
        drop(gone);
    }
    // It is told of its killer, too.
    let mut killed = connect(daemon.at(daemon.ports().storage));
    killed.write_all(b"CLIENT SETNAME killed\r\nWAIT 1 0\r\n").unwrap();
    let mut client = daemon.client();
    let id = wait_for("the one that waits", || {
        let Value::Bulk(list) = client.call(&["CLIENT", "LIST"]).unwrap() else { return None };
        let list = String::from_utf8(list).unwrap();
        let line = list.lines().find(|line| line.contains("name=killed") && line.contains("cmd=wait"))?;
        Some(line.split(' ').next()?.strip_prefix("id=")?.to_owned())
    });
    assert_eq!(number(&mut client, &["CLIENT", "KILL", "ID", &id]), 1);
    wait_for("all of them to be gone", || (open(&daemon) == 1).then_some(()));
    // A node that stops answers who waits, and does not wait for them.
    client.queue(&["WAIT", "1", "0"]);
    client.flush().unwrap();
    wait_for("the wait", || {
        let Value::Bulk(list) = daemon.client().call(&["CLIENT", "LIST"]).unwrap() else { return None };
        String::from_utf8(list).unwrap().contains("cmd=wait").then_some(())
    });
    assert_eq!(daemon.terminate().code(), Some(0));
    assert_eq!(client.receive().unwrap(), Value::Integer(0));
}

#[test]
fn a_removed_member_is_not_counted() {
    let [sfo, nyc, ams] = mesh(DAEMON, ["sfo", "nyc", "ams"], &[("CORES", "1")]);
    let mut client = sfo.client();
    set(&mut client, "k", "v");
    assert_eq!(number(&mut client, &["WAIT", "2", "0"]), 2);
    let id = u32::from_str_radix(ams.status("node").as_str().unwrap(), 16).unwrap();
    let mut bytes = Vec::new();
    let message = net::wire::Message::RemoveMember(net::wire::body::RemoveMember { node: net::ids::NodeId(id) });
    message.encode(net::ids::RequestId(1), &mut bytes).unwrap();
    let mut operator = connect(sfo.at(sfo.ports().discovery));
    operator.write_all(&bytes).unwrap();
    wait_for("the count without it", || (number(&mut client, &["WAIT", "0", "0"]) == 1).then_some(()));
    drop(nyc);
}
