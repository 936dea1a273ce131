//! One node from outside: settings that are refused, limits, expiry, large values, several addresses.

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use tests::process::attack::{connect, send};
use tests::process::{Client, Daemon, PATIENCE, Value, own_address, wait_for};

const DAEMON: &str = env!("CARGO_BIN_EXE_daemon-under-test");

/// The exit code of a wrong setting.
const WRONG_SETTING: i32 = 2;

fn ok() -> Value {
    Value::Simple("OK".into())
}

fn bulk(text: impl AsRef<[u8]>) -> Value {
    Value::Bulk(text.as_ref().to_vec())
}

// ---- settings ------------------------------------------------------------------------------------------------------

/// The daemon says `words` in one line and does not start, with and without `--check`.
fn is_refused(daemon: &Daemon, args: &[&str], words: &[&str]) {
    for check in [&[][..], &["--check"]] {
        let exit = daemon.run_to_its_end(&[args, check].concat());
        let line = exit.one_line();
        for word in words {
            assert!(line.contains(word), "{args:?}: {line:?} does not say {word:?}");
        }
        assert_eq!(exit.status.code(), Some(WRONG_SETTING), "{line}");
        assert_eq!(exit.stdout, "", "{args:?}: nothing is printed beside the error");
    }
    assert!(!daemon.data_dir().exists(), "a daemon that does not start leaves no directory");
}

#[test]
fn a_node_that_is_its_own_peer_is_refused() {
    let mut daemon = Daemon::new(DAEMON);
    let (own, other) = (daemon.at(daemon.ports().discovery).to_string(), "127.20.255.2:10200");
    daemon.set("REGION", "sfo").set("DISCOVERY_PEERS", &own);
    is_refused(&daemon, &[], &["environment: DISCOVERY_PEERS=", &own, "is this node itself"]);
    daemon.set("DISCOVERY_PEERS", format!("{own},{other}"));
    let instead = format!("write DISCOVERY_PEERS={other}");
    is_refused(&daemon, &[], &["is this node itself", &instead]);
}

#[test]
fn malformed_and_duplicate_peers_are_refused_with_what_to_write() {
    let mut daemon = Daemon::new(DAEMON);
    daemon.set("REGION", "sfo");
    for (peers, words) in [
        ("127.20.255.2,127.20.255.2:10200", ["127.20.255.2:10200 is given twice", "remove one"]),
        ("127.20.255.2:x", ["\"127.20.255.2:x\" has no valid port", "write 127.20.255.2:10200"]),
        ("127.20.255.2:0", ["has no valid port", "write 127.20.255.2:10200"]),
        ("nyc.example", ["\"nyc.example\" is no IP address", "such as 10.0.0.2:10200"]),
        ("127.20.255.2,,127.20.255.3", ["item 2 is empty", "write 127.20.255.2,127.20.255.3"]),
        ("[fd00::2", ["malformed", "write [IPv6]:10200"]),
        ("0.0.0.0", ["0.0.0.0 is no peer's address", "write the peer's mesh address"]),
    ] {
        is_refused(
            &daemon,
            &["--discovery-peers", peers],
            &["--discovery-peers: DISCOVERY_PEERS=", words[0], words[1]],
        );
    }
}

#[test]
fn a_wildcard_to_listen_on_is_refused() {
    let daemon = Daemon::new(DAEMON);
    for wildcard in ["0.0.0.0", "::"] {
        let words = ["--bind-host: BIND_HOST=", "listens on every interface, public ones too", "write BIND_HOST="];
        is_refused(&daemon, &["--bind-host", wildcard], &words);
    }
}

#[test]
fn peers_without_a_region_are_refused() {
    let daemon = Daemon::new(DAEMON);
    let words = ["REGION", "DISCOVERY_PEERS is set", "write REGION=sfo"];
    is_refused(&daemon, &["--discovery-peers", "127.20.255.2"], &words);
}

#[test]
fn an_unknown_setting_is_refused_with_the_one_that_was_meant() {
    let daemon = Daemon::new(DAEMON);
    let file = daemon.directory().join("region.env");
    let path = file.display().to_string();
    fs::write(&file, "# a region\nREGION=sfo\nSTORAGE_PROT=1\n").unwrap();
    let place = format!("{path}:3:");
    is_refused(
        &daemon,
        &["--env-file", &path],
        &[&place, "unknown setting STORAGE_PROT", "did you mean STORAGE_PORT?"],
    );

    let exit = daemon.run_to_its_end(&["--storage-prot", "1"]);
    assert_eq!(exit.status.code(), Some(WRONG_SETTING));
    assert_eq!(exit.stderr.lines().next(), Some("error: unexpected argument '--storage-prot' found"));
    assert!(exit.stderr.contains("a similar argument exists: '--storage-port'"), "{}", exit.stderr);
}

#[test]
fn check_prints_every_value_with_its_origin_and_starts_nothing() {
    let daemon = Daemon::new(DAEMON);
    let file = daemon.directory().join("region.env");
    fs::write(&file, "REGION=sfo\n").unwrap();
    let exit = daemon.run_to_its_end(&["--check", "--durability", "os", "--env-file", &file.display().to_string()]);
    assert_eq!((exit.status.code(), exit.stderr.as_str()), (Some(0), ""));
    let row = |key: &str| -> Vec<String> {
        let line =
            exit.stdout.lines().find(|line| line.starts_with(&format!("{key} "))).unwrap_or_else(|| panic!("no {key}"));
        line.split_whitespace().map(str::to_owned).collect()
    };
    assert_eq!(row("REGION")[1..], ["sfo", &format!("{}:1", file.display())]);
    assert_eq!(row("DURABILITY")[1..], ["os", "--durability"]);
    assert_eq!(row("STORAGE_PORT")[1..], [daemon.ports().storage.to_string().as_str(), "environment"]);
    assert_eq!(row("VALUE_BYTES_MAX")[1..], ["8388608", "default"]);
    assert!(!daemon.data_dir().exists());
}

#[test]
fn a_port_that_is_taken_is_an_error_that_names_it() {
    let mut first = Daemon::new(DAEMON);
    first.start();
    let mut second = Daemon::new(DAEMON);
    let port = first.ports().admin;
    let exit = second.move_to(first.host()).set("ADMIN_PORT", port).run_to_its_end(&[]);
    assert_eq!(exit.status.code(), Some(1), "{}", exit.stderr);
    let errors: Vec<&str> = exit.stderr.lines().filter(|line| line.contains("ERROR")).collect();
    assert_eq!(errors.len(), 1, "{}", exit.stderr);
    let expected = format!("cannot listen on {}:{port} for the admin port", first.host());
    assert!(errors[0].contains(&expected), "{}", errors[0]);
}

#[test]
fn a_paused_daemon_goes_on_where_it_was() {
    let mut daemon = Daemon::new(DAEMON);
    daemon.start();
    let mut client = daemon.client();
    assert_eq!(client.call(&["INCR", "n"]).unwrap(), Value::Integer(1));
    daemon.pause();
    client.queue(&["INCR", "n"]);
    client.flush().unwrap();
    // A connection of its own: the kernel takes it in, but nobody answers.
    let mut waiting = connect(daemon.at(daemon.ports().storage));
    waiting.write_all(b"INCR n\r\n").unwrap();
    waiting.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!(waiting.read(&mut [0; 1]).is_err(), "a stopped process does not answer");
    daemon.signal("CONT");
    let first = client.receive().unwrap();
    waiting.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut answer = [0; 4];
    waiting.read_exact(&mut answer).unwrap();
    let second = if first == Value::Integer(2) { b":3\r\n" } else { b":2\r\n" };
    assert_eq!(&answer, second, "each increment counted once");
    assert_eq!(client.call(&["GET", "n"]).unwrap(), bulk("3"));
}

#[test]
fn a_node_listens_on_all_of_its_addresses_and_on_no_other() {
    let mut daemon = Daemon::new(DAEMON);
    let (host, second, other) = (daemon.host(), own_address(), own_address());
    daemon.set("BIND_HOST", format!("{host},{second}")).start();
    let port = daemon.ports().storage;
    for (host, value) in [(host, "first"), (second, "second")] {
        let mut client = Client::connect((host, port).into(), PATIENCE).unwrap();
        assert_eq!(client.call(&["SET", "where", value]).unwrap(), ok());
        assert_eq!(daemon.client().call(&["GET", "where"]).unwrap(), bulk(value));
    }
    let refused = Client::connect((other, port).into(), PATIENCE).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
}

// ---- values --------------------------------------------------------------------------------------------------------

#[test]
fn an_expired_key_is_gone_and_stays_away_after_a_restart() {
    let mut daemon = Daemon::new(DAEMON);
    daemon.set("CORES", 2).start();
    let mut client = daemon.client();
    let began = Instant::now();
    assert_eq!(client.call(&["SET", "short", "v", "PX", "300"]).unwrap(), ok());
    assert_eq!(client.call(&["SET", "long", "v", "PX", "600000"]).unwrap(), ok());
    assert_eq!(client.call(&["SET", "plain", "v"]).unwrap(), ok());
    assert_eq!(client.call(&["SET", "over", "old"]).unwrap(), ok());
    assert_eq!(client.call(&["SET", "over", "new", "PX", "300"]).unwrap(), ok());
    if began.elapsed() < Duration::from_millis(200) {
        assert_eq!(client.call(&["GET", "short"]).unwrap(), bulk("v"));
    }
    wait_for("the key to expire", || (client.call(&["GET", "short"]).unwrap() == Value::Null).then_some(()));
    wait_for("the key to expire", || (client.call(&["GET", "over"]).unwrap() == Value::Null).then_some(()));
    // The clock of the node has milliseconds, and the key was set a little after `began`.
    assert!(began.elapsed() >= Duration::from_millis(299), "gone too early: {:?}", began.elapsed());
    for round in 0..2 {
        assert_eq!(client.call(&["PTTL", "short"]).unwrap(), Value::Integer(-2));
        assert_eq!(client.call(&["EXISTS", "short", "over", "long", "plain"]).unwrap(), Value::Integer(2));
        assert_eq!(client.call(&["DBSIZE"]).unwrap(), Value::Integer(2), "round {round}");
        assert_eq!(client.call(&["GET", "over"]).unwrap(), Value::Null, "the predecessor must not come back");
        let Value::Integer(left) = client.call(&["PTTL", "long"]).unwrap() else { panic!("no number") };
        assert!((500_000..600_000).contains(&left), "{left}");
        if round == 0 {
            daemon.kill9();
            daemon.start();
            client = daemon.client();
        }
    }
}

#[test]
fn a_value_beyond_the_limit_is_refused_and_the_connection_goes_on() {
    let mut daemon = Daemon::new(DAEMON);
    daemon.set("VALUE_BYTES_MAX", "64KiB").start();
    let mut client = daemon.client();
    let (largest, too_large) = (vec![b'x'; 64 * 1024], vec![b'x'; 64 * 1024 + 1]);
    let refused = Value::Error("ERR the value is larger than VALUE_BYTES_MAX".into());
    assert_eq!(client.call(&[&b"SET"[..], b"k", &largest]).unwrap(), ok());
    assert_eq!(client.call(&[&b"SET"[..], b"k", &too_large]).unwrap(), refused);
    assert_eq!(client.call(&["APPEND", "k", "y"]).unwrap(), refused, "growing beyond it is refused, too");
    assert_eq!(client.call(&["GET", "k"]).unwrap(), bulk(&largest), "a refused write changes nothing");
    assert_eq!(client.call(&[&b"SET"[..], b"other", &too_large]).unwrap(), refused);
    assert_eq!(client.call(&["EXISTS", "other"]).unwrap(), Value::Integer(0));
    // Far beyond it the bytes are not even taken: one error, then the end of the connection.
    let mut far_too_large = Vec::new();
    net::resp::encode_command(&[&b"SET"[..], b"k", &vec![b'x'; 1024 * 1024]], &mut far_too_large);
    let answer = send(daemon.at(daemon.ports().storage), &far_too_large);
    assert_eq!((answer.text().as_str(), answer.closed), ("-ERR Protocol error: invalid bulk length\r\n", true));
    assert_eq!(client.call(&["STRLEN", "k"]).unwrap(), Value::Integer(64 * 1024));
}

#[test]
fn keys_have_at_most_65535_bytes() {
    let mut daemon = Daemon::new(DAEMON);
    daemon.start();
    let mut client = daemon.client();
    let longest = "k".repeat(65_535);
    assert_eq!(client.call(&["SET", &longest, "v"]).unwrap(), ok());
    assert_eq!(client.call(&["GET", &longest]).unwrap(), bulk("v"));
    let refused = Value::Error("ERR the key is longer than 65535 bytes".into());
    for command in [&["GET"][..], &["SET", "v"]] {
        let mut words = vec![command[0].to_owned(), format!("{longest}k")];
        words.extend(command[1..].iter().map(|word| (*word).to_owned()));
        assert_eq!(client.call(&words).unwrap(), refused);
    }
}

#[test]
fn a_value_of_4_mebibytes_round_trips_from_every_core_and_over_a_restart() {
    let mut daemon = Daemon::new(DAEMON);
    daemon.set("CORES", 2).start();
    let value =
        |seed: usize| -> Vec<u8> { (0..4 * 1024 * 1024).map(|at| ((at * 31 + seed) >> 3).to_le_bytes()[0]).collect() };
    // Four keys and four connections: each core owns some, and some are asked for on the other core.
    for key in 0..4 {
        let mut client = daemon.client();
        assert_eq!(client.call(&[b"SET".to_vec(), format!("large:{key}").into_bytes(), value(key)]).unwrap(), ok());
    }
    for round in 0..2 {
        for key in 0..4 {
            let mut client = daemon.client();
            let found = client.call(&["GET", &format!("large:{key}")]).unwrap();
            assert!(found == bulk(value(key)), "large:{key} came back with other bytes");
        }
        let mut client = daemon.client();
        let found = client.call(&["MGET", "large:0", "large:1", "none"]).unwrap();
        assert!(found == Value::Array(vec![bulk(value(0)), bulk(value(1)), Value::Null]), "MGET gave other bytes");
        if round == 0 {
            daemon.kill9();
            daemon.start();
        }
    }
}

// ---- commands over several keys ------------------------------------------------------------------------------------

#[test]
fn an_mset_larger_than_a_log_segment_succeeds() {
    for cores in [1, 2] {
        let mut daemon = Daemon::new(DAEMON);
        daemon.set("SEGMENT_BYTES", "1MiB").set("CORES", cores).start();
        let mut client = daemon.client();
        let mut words = vec![b"MSET".to_vec()];
        for key in 0..16_u8 {
            words.push(vec![b'k', b'a' + key]);
            words.push(vec![key; 200 * 1024]);
        }
        assert_eq!(client.call(&words).unwrap(), ok());
        for pair in words[1..].chunks(2) {
            assert!(client.call(&[&b"GET"[..], &pair[0]]).unwrap() == bulk(&pair[1]), "{:?}", pair[0]);
        }
        let originated: u64 =
            (0..cores).map(|core| daemon.metric(&format!("godwit_records_originated_total{{core=\"{core}\"}}"))).sum();
        assert_eq!(originated, 16, "each key is written once");
    }
}

#[test]
fn del_counts_every_key_once_also_when_the_log_turns_over_in_the_middle() {
    let mut daemon = Daemon::new(DAEMON);
    daemon.set("SEGMENT_BYTES", "1MiB").start();
    let mut client = daemon.client();
    // Long keys make large tombstones: 30 of them fill a segment.
    let keys: Vec<String> = (0..40).map(|key| format!("{key:02}{}", "k".repeat(30_000))).collect();
    for _ in 0..3 {
        for key in &keys {
            client.queue(&["SET", key, "v"]);
        }
        client.flush().unwrap();
        keys.iter().for_each(|_| assert_eq!(client.receive().unwrap(), ok()));
        let command: Vec<&str> = std::iter::once("DEL").chain(keys.iter().map(String::as_str)).collect();
        assert_eq!(client.call(&command).unwrap(), Value::Integer(40));
        assert_eq!(client.call(&["DBSIZE"]).unwrap(), Value::Integer(0));
    }
}

#[test]
fn what_was_asked_before_the_end_of_the_stream_is_answered_also_when_the_log_turns_over() {
    let mut daemon = Daemon::new(DAEMON);
    daemon.set("SEGMENT_BYTES", "1MiB").start();
    for _ in 0..5 {
        let mut stream = connect(daemon.at(daemon.ports().storage));
        let mut bytes = Vec::new();
        for key in 0..8 {
            net::resp::encode_command(&[b"SET".to_vec(), vec![b'k', b'0' + key], vec![b'v'; 200 * 1024]], &mut bytes);
        }
        bytes.extend_from_slice(b"PING\r\n");
        stream.write_all(&bytes).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, format!("{}+PONG\r\n", "+OK\r\n".repeat(8)));
    }
}

#[test]
fn a_port_that_a_thread_cannot_have_is_named_too() {
    let mut first = Daemon::new(DAEMON);
    first.start();
    for (key, port, what) in [
        ("DISCOVERY_PORT", first.ports().discovery, "discovery"),
        ("REPLICATION_PORT", first.ports().replication, "replication"),
        ("STORAGE_PORT", first.ports().storage, "storage"),
    ] {
        for cores in [1, 2] {
            let mut second = Daemon::new(DAEMON);
            let began = Instant::now();
            let exit = second.move_to(first.host()).set(key, port).set("CORES", cores).run_to_its_end(&[]);
            assert!(began.elapsed() < Duration::from_secs(5), "{key}: {:?}", began.elapsed());
            assert_eq!(exit.status.code(), Some(1), "{}", exit.stderr);
            let errors: Vec<&str> = exit.stderr.lines().filter(|line| line.contains("ERROR")).collect();
            assert_eq!(errors.len(), 1, "{}", exit.stderr);
            let expected = format!("cannot listen on {}:{port} for {what}", first.host());
            assert!(errors[0].contains(&expected), "{}", errors[0]);
        }
    }
}

// ---- the admin port ------------------------------------------------------------------------------------------------

#[test]
fn half_requests_hold_the_admin_port_only_for_a_while_and_the_store_not_at_all() {
    /// Connections that the admin port has at once.
    const AT_ONCE: usize = 64;
    let mut daemon = Daemon::new(DAEMON);
    daemon.start();
    let files = daemon.open_files();
    let admin = daemon.at(daemon.ports().admin);
    let began = Instant::now();
    // Fewer than the limit and the kernel's backlog take together, so that no connect waits.
    let mut idle: Vec<_> = (0..180)
        .map(|_| {
            let mut stream = connect(admin);
            stream.write_all(b"GET /livez HT").unwrap();
            stream
        })
        .collect();
    assert_eq!(daemon.client().call(&["PING"]).unwrap(), Value::Simple("PONG".into()));
    assert!(daemon.open_files() <= files + AT_ONCE + 4, "connections beyond the limit wait outside the process");

    // The first one is ended although it is never finished; the others go away.
    assert!(matches!(idle[0].read(&mut [0; 256]), Ok(0) | Err(_)));
    assert!(began.elapsed() > Duration::from_secs(8), "half a request has some time");
    drop(idle);
    assert_eq!(daemon.http("/livez").unwrap(), (200, "ok\n".to_owned()));
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
}
