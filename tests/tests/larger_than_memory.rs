//! More data than memory, and what a real daemon does then: answers everything, keeps within `MEMORY_LIMIT`, and lets nobody hold
//! what should leave.

use std::io::Write;

use tests::process::{Client, Daemon, Value, backends, wait_for};

const DAEMON: &str = env!("CARGO_BIN_EXE_daemon-under-test");

const MIB: usize = 1 << 20;

/// The least that a node of one core with the smallest segments takes: the core may count 10 MiB.
const LIMIT_MIB: usize = 34;

/// Bytes of a value, and how many of them: 48 MB.
const VALUE_BYTES: usize = 8_000;
const KEYS: usize = 6_000;

fn key(number: usize) -> String {
    format!("key:{number}")
}

fn value(number: usize, round: usize) -> String {
    let mut text = format!("{number}-{round}-");
    text.extend(std::iter::repeat_n(char::from(b'a' + u8::try_from(number % 26).unwrap()), VALUE_BYTES - text.len()));
    text
}

fn fill(client: &mut Client, keys: impl Iterator<Item = usize>, round: usize) {
    for number in keys {
        let reply = client.call(&["SET", &key(number), &value(number, round)]).unwrap();
        assert_eq!(reply, Value::Simple("OK".into()));
    }
}

fn is_there(client: &mut Client, number: usize, round: usize) {
    let reply = client.call(&["GET", &key(number)]).unwrap();
    assert!(reply == Value::Bulk(value(number, round).into_bytes()), "{} differs", key(number));
}

fn small(cores: usize) -> Daemon {
    let mut daemon = Daemon::new(DAEMON);
    let limit = LIMIT_MIB + (cores - 1) * 18;
    daemon.set("CORES", cores).set("SEGMENT_BYTES", "1MiB").set("MEMORY_LIMIT", format!("{limit}MiB"));
    daemon.set("DURABILITY", "os");
    daemon
}

fn metric(daemon: &Daemon, name: &str, cores: usize) -> u64 {
    (0..cores).map(|core| daemon.metric(&format!("{name}{{core=\"{core}\"}}"))).sum()
}

#[test]
fn everything_is_answered_and_the_limit_is_kept() {
    for (backend, cores) in backends().into_iter().zip([1, 2].into_iter().cycle()) {
        let mut daemon = small(cores);
        daemon.set("IO_BACKEND", backend).start();
        let mut client = daemon.client();
        fill(&mut client, 0..KEYS, 0);
        // Overwritten and deleted keys must be looked at, too, wherever they lie.
        fill(&mut client, (0..KEYS).step_by(3), 1);
        for number in (0..KEYS).step_by(6) {
            assert_eq!(client.call(&["DEL", &key(number)]).unwrap(), Value::Integer(1));
        }
        let check = |daemon: &Daemon| {
            let mut client = daemon.client();
            for number in (0..KEYS).rev() {
                match (number % 6, number % 3) {
                    (0, _) => assert_eq!(client.call(&["GET", &key(number)]).unwrap(), Value::Null),
                    (_, 0) => is_there(&mut client, number, 1),
                    _ => is_there(&mut client, number, 0),
                }
            }
            assert!(metric(daemon, "godwit_cold_segments", cores) > 30, "most of the data is not in memory");
            assert!(metric(daemon, "godwit_fetches_total", cores) > 1_000);
            let limit = (LIMIT_MIB + (cores - 1) * 18) * MIB;
            let resident = daemon.resident_bytes();
            assert!(resident <= limit as u64 * 105 / 100, "{resident} bytes are resident of {limit} ({backend})");
        };
        check(&daemon);
        daemon.kill9();
        daemon.start();
        check(&daemon);
    }
}

#[test]
fn commands_on_many_keys_and_walks_find_what_is_not_in_memory() {
    for cores in [1, 2] {
        let mut daemon = small(cores);
        daemon.start();
        let mut client = daemon.client();
        fill(&mut client, 0..KEYS, 0);
        let names: Vec<String> = (0..200).map(|number| key(number * 7)).collect();
        let mget: Vec<&str> = std::iter::once("MGET").chain(names.iter().map(String::as_str)).collect();
        let Value::Array(values) = client.call(&mget).unwrap() else { panic!("MGET gives an array") };
        for (number, found) in values.into_iter().enumerate() {
            assert!(found == Value::Bulk(value(number * 7, 0).into_bytes()), "{}", key(number * 7));
        }
        let Value::Array(keys) = client.call(&["KEYS", "*"]).unwrap() else { panic!("KEYS gives an array") };
        assert_eq!(keys.len(), KEYS);
        // A transaction over keys that are not in memory, watched and renamed.
        for command in
            [&["WATCH", &key(1), &key(2)][..], &["MULTI"], &["APPEND", &key(1), "x"], &["RENAME", &key(2), &key(3)]]
        {
            client.call(command).unwrap();
        }
        let exec = client.call(&["EXEC"]).unwrap();
        let len = i64::try_from(VALUE_BYTES + 1).unwrap();
        assert_eq!(exec, Value::Array(vec![Value::Integer(len), Value::Simple("OK".into())]));
        assert!(client.call(&["GET", &key(3)]).unwrap() == Value::Bulk(value(2, 0).into_bytes()));
        assert_eq!(client.call(&["FLUSHALL"]).unwrap(), Value::Simple("OK".into()));
        assert_eq!(client.call(&["DBSIZE"]).unwrap(), Value::Integer(0));
    }
}

#[test]
fn a_client_that_does_not_read_large_values_is_closed_and_holds_nothing() {
    const LARGE: usize = 200 * 1024;
    let mut daemon = small(1);
    daemon.start();
    let mut client = daemon.client();
    let large = "v".repeat(LARGE);
    for number in 0..20 {
        client.call(&["SET", &format!("large:{number}"), &large]).unwrap();
    }
    // More than sockets buffer: the rest stays with the node.
    let mut lazy = std::net::TcpStream::connect(daemon.at(daemon.ports().storage)).unwrap();
    for round in 0..20 {
        let number = round % 20;
        lazy.write_all(format!("GET large:{number}\r\n").repeat(10).as_bytes()).unwrap();
    }

    // What the values stand in has to leave, and is held.
    fill(&mut client, 0..3_000, 0);
    wait_for("the slow client to be closed", || {
        (metric(&daemon, "godwit_slow_readers_closed_total", 1) == 1).then_some(())
    });
    wait_for("what it held to be free", || (metric(&daemon, "godwit_pinned_bytes", 1) == 0).then_some(()));
    assert_eq!(client.call(&["GET", "large:7"]).unwrap(), Value::Bulk(large.into_bytes()));
    drop(lazy);
}

#[test]
fn a_client_that_does_not_read_can_be_killed() {
    let mut daemon = small(1);
    daemon.start();
    let mut client = daemon.client();
    client.call(&["SET", "large", &"v".repeat(200 * 1024)]).unwrap();
    let mut lazy = std::net::TcpStream::connect(daemon.at(daemon.ports().storage)).unwrap();
    let addr = format!(" addr={} ", lazy.local_addr().unwrap());
    // More than sockets buffer: a send is under way for as long as nobody reads.
    lazy.write_all("GET large\r\n".repeat(200).as_bytes()).unwrap();
    let mut is_listed = || {
        let Value::Bulk(list) = client.call(&["CLIENT", "LIST"]).unwrap() else { panic!("a list") };
        String::from_utf8(list)
            .unwrap()
            .lines()
            .any(|line| format!("{line} ").contains(&addr) && line.contains("cmd=get"))
    };
    wait_for("the client to have asked", || is_listed().then_some(()));
    let mut other = daemon.client();
    assert_eq!(
        other.call(&["CLIENT", "KILL", "ADDR", addr.trim().trim_start_matches("addr=")]).unwrap(),
        Value::Integer(1)
    );
    wait_for("it to be gone", || (!is_listed()).then_some(()));
}

#[test]
fn a_limit_that_is_too_small_is_refused_with_what_to_write() {
    let mut daemon = Daemon::new(DAEMON);
    daemon.set("CORES", 2).set("SEGMENT_BYTES", "1MiB").set("MEMORY_LIMIT", "20MiB");
    let exit = daemon.run_to_its_end(&[]);
    let line = exit.one_line();
    for word in ["MEMORY_LIMIT=20MiB", "CORES=2", "52MiB"] {
        assert!(line.contains(word), "{line:?} does not say {word:?}");
    }
}
