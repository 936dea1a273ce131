//! Sessions that move between regions with a token, with real daemons: they are shown nothing older than what they saw, are told what a region
//! lacks, and write above what they saw.

use std::io::Write;
use std::time::{Duration, Instant};

use net::client::{Client as Native, ClientError, ErrorCode, Session};
use net::token::Token;
use tests::process::attack::connect;
use tests::process::mesh::mesh;
use tests::process::{Client, Daemon, Value, wait_for};

const DAEMON: &str = env!("CARGO_BIN_EXE_daemon-under-test");

fn ok() -> Value {
    Value::Simple("OK".into())
}

fn bulk(text: &str) -> Value {
    Value::Bulk(text.as_bytes().to_vec())
}

fn begin(daemon: &Daemon) -> Client {
    let mut client = daemon.client();
    assert_eq!(client.call(&["GODWIT.SESSION", "BEGIN"]).unwrap(), ok());
    client
}

fn token(client: &mut Client) -> String {
    match client.call(&["GODWIT.SESSION", "TOKEN"]).unwrap() {
        Value::Bulk(token) => String::from_utf8(token).unwrap(),
        other => panic!("{other:?}"),
    }
}

/// A connection to `daemon` that goes on with a session there.
fn after(daemon: &Daemon, token: &str) -> Client {
    let mut client = daemon.client();
    assert_eq!(client.call(&["GODWIT.SESSION", "AFTER", token, "20000"]).unwrap(), ok());
    client
}

fn error(value: Value) -> String {
    if let Value::Error(text) = value { text } else { panic!("{value:?}") }
}

fn native(daemon: &Daemon) -> Native {
    Native::connect(daemon.at(daemon.ports().storage)).unwrap()
}

#[test]
fn a_session_takes_what_it_wrote_and_read_from_region_to_region() {
    for cores in ["1", "3"] {
        let daemons = mesh(DAEMON, ["sfo", "nyc", "ams"], &[("CORES", cores)]);
        let mut client = begin(&daemons[0]);
        for step in 0..60 {
            let (key, value) = (format!("key:{}", step % 7), format!("value {step}"));
            assert_eq!(client.call(&["SET", &key, &value]).unwrap(), ok());
            // At once, with one hop after the other.
            client = after(&daemons[(step + 1) % 3], &token(&mut client));
            assert_eq!(client.call(&["GET", &key]).unwrap(), bulk(&value), "step {step}");
        }
        // What another session wrote counts once it was read, in whatever way, and that there is nothing any more, too.
        let commands: [&[&str]; 7] = [
            &["GET", "read"],
            &["MGET", "nothing", "read", "key:1"],
            &["STRLEN", "read"],
            &["KEYS", "re*d"],
            &["SCAN", "0", "COUNT", "1000"],
            &["EXISTS", "key:1", "read"],
            &["COPY", "read", "copy", "REPLACE"],
        ];
        for (step, command) in commands.into_iter().enumerate() {
            let writer = &daemons[step % 3];
            assert_eq!(writer.client().call(&["SET", "read", &format!("{step}")]).unwrap(), ok());
            let mut reader = begin(writer);
            reader.call(command).unwrap();
            let seen = token(&mut reader);
            let mut other = after(&daemons[(step + 1) % 3], &seen);
            assert_eq!(other.call(&["GET", "read"]).unwrap(), bulk(&format!("{step}")), "{command:?}");
        }
        for (step, transaction) in [&["GET", "gone"][..], &["MGET", "gone", "key:1", "key:2"]].into_iter().enumerate() {
            let (here, there) = (&daemons[step], &daemons[step + 1]);
            assert_eq!(here.client().call(&["SET", "gone", "1"]).unwrap(), ok());
            let mut reader = begin(here);
            assert_eq!(reader.call(&["DEL", "gone"]).unwrap(), Value::Integer(1));
            let mut reader = begin(here);
            assert_eq!(reader.call(&["MULTI"]).unwrap(), ok());
            reader.call(transaction).unwrap();
            reader.call(&["EXEC"]).unwrap();
            let mut other = after(there, &token(&mut reader));
            assert_eq!(other.call(&["GET", "gone"]).unwrap(), Value::Null, "{transaction:?}");
        }
    }
}

#[test]
fn a_region_that_was_cut_off_says_what_it_lacks_and_goes_on_once_it_has_it() {
    let [mut sfo, mut nyc, mut ams] = mesh(DAEMON, ["sfo", "nyc", "ams"], &[("CORES", "2")]);
    let mut client = begin(&sfo);
    assert_eq!(client.call(&["SET", "k", "early"]).unwrap(), ok());
    let early = token(&mut client);
    drop(after(&nyc, &early));
    drop(after(&ams, &early));
    nyc.kill9();
    ams.kill9();
    assert_eq!(client.call(&["SET", "k", "late"]).unwrap(), ok());
    let late = token(&mut client);
    let mut here = native(&sfo);
    let mut session = Session::default();
    session.enter(&mut here, Duration::from_secs(1)).unwrap();
    here.put("n", "late").unwrap();
    session.collect(&mut here).unwrap();
    // Nobody else has it, and its own region cannot be reached.
    sfo.pause();
    nyc.start();
    ams.start();
    let mut waiting = nyc.client();
    let began = Instant::now();
    let text = error(waiting.call(&["GODWIT.SESSION", "AFTER", &late, "400"]).unwrap());
    assert!(began.elapsed() >= Duration::from_millis(400), "{:?}", began.elapsed());
    assert!(text.starts_with("NOTCOVERED ") && text.contains("(sfo)"), "{text}");
    assert_eq!(waiting.call(&["GET", "k"]).unwrap(), bulk("early"), "the connection goes on, outside the session");
    assert!(error(waiting.call(&["GODWIT.SESSION", "TOKEN"]).unwrap()).contains("in no session"));
    let mut there = native(&ams);
    match session.enter(&mut there, Duration::from_millis(300)) {
        Err(ClientError::Failed(failed)) if failed.reason() == Some(ErrorCode::NotCovered) => {
            assert!(failed.text.contains("(sfo)"), "{}", failed.text);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(there.get("n").unwrap(), None);
    // What it does have it says at once. Who waits holds up nobody else.
    let mut own = begin(&nyc);
    assert_eq!(own.call(&["SET", "own", "1"]).unwrap(), ok());
    drop(after(&nyc, &token(&mut own)));
    waiting.queue(&["GODWIT.SESSION", "AFTER", &late, "60000"]);
    waiting.queue(&["GET", "k"]);
    waiting.flush().unwrap();
    assert_eq!(nyc.client().call(&["GET", "k"]).unwrap(), bulk("early"));
    sfo.signal("CONT");
    assert_eq!(waiting.receive().unwrap(), ok());
    assert_eq!(waiting.receive().unwrap(), bulk("late"));
    session.enter(&mut there, Duration::from_secs(20)).unwrap();
    assert_eq!(there.get("n").unwrap().map(|item| item.value.to_vec()), Some(b"late".to_vec()));
    for daemon in [&mut sfo, &mut nyc, &mut ams] {
        assert!(daemon.logged("panicked").is_empty(), "{:?}", daemon.logged("panicked"));
        assert_eq!(daemon.terminate().code(), Some(0));
    }
}

#[test]
fn writes_of_a_session_are_above_all_that_it_saw() {
    let daemons = mesh(DAEMON, ["sfo", "nyc"], &[("CORES", "4")]);
    let mut session = Session::default();
    let mut highest = 0;
    for step in 0..40 {
        let mut client = native(&daemons[step % 2]);
        session.enter(&mut client, Duration::from_secs(20)).unwrap();
        // Whatever core it falls to, with whatever clock.
        let version = client.put(format!("key:{step}"), "v").unwrap().0;
        assert!(version > highest, "step {step}");
        session.collect(&mut client).unwrap();
        highest = session.token().highest().0;
        assert_eq!(highest, version);
        assert_eq!(
            client.get(format!("key:{}", step / 2)).unwrap().map(|item| item.value.to_vec()),
            Some(b"v".to_vec())
        );
    }
}

#[test]
fn what_is_no_token_or_names_what_nobody_wrote_is_refused() {
    let [sfo, nyc] = mesh(DAEMON, ["sfo", "nyc"], &[]);
    let mut client = sfo.client();
    let mut after = |words: &[&str]| {
        let words: Vec<&str> = ["GODWIT.SESSION", "AFTER"].iter().chain(words).copied().collect();
        error(client.call(&words).unwrap())
    };
    for bad in ["", "x", "0100", &"00".repeat(5_000)] {
        let text = after(&[bad]);
        assert!(text.starts_with("ERR this is no session token"), "{text}");
    }
    let own = u32::from_str_radix(sfo.status("node").as_str().unwrap(), 16).unwrap();
    let other = u32::from_str_radix(nyc.status("node").as_str().unwrap(), 16).unwrap();
    let of = |node: u32, version: u64| {
        let mut token = Token::default();
        token.note(net::ids::NodeId(node), net::ids::Version(version));
        token.to_string()
    };
    let now = sfo.status("status")["complete"].as_u64().unwrap();
    // Ten years ahead, from this node, from the other one, from one that is no member.
    let far = now + (315_000_000_000 << 22);
    for node in [own, other, own ^ other ^ 1] {
        let text = after(&[&of(node, far), "200"]);
        assert!(text.starts_with("NOTCOVERED "), "{text}");
    }
    for timeout in ["0", "-1", "x", "600001"] {
        let text = after(&[&of(other, 1), timeout]);
        assert!(text.starts_with("ERR timeout must be between 1 and 600000"), "{text}");
    }
    // No clock has moved.
    let mut native = native(&sfo);
    let version = native.put("k", "v").unwrap().0;
    assert!(version < now + (60_000 << 22), "{version} after {now}");
    let text = error(client.call(&["GODWIT.SESSION", "TOKEN"]).unwrap());
    assert!(text.contains("in no session"), "{text}");
    client.call(&["MULTI"]).unwrap();
    let text = error(client.call(&["GODWIT.SESSION", "BEGIN"]).unwrap());
    assert!(text.contains("not allowed inside a transaction"), "{text}");
    drop(nyc);
}

#[test]
fn who_goes_away_while_its_session_waits_leaves_nothing_behind() {
    let [sfo, nyc] = mesh(DAEMON, ["sfo", "nyc"], &[("CORES", "1")]);
    let mut token = Token::default();
    token.note(net::ids::NodeId(7), net::ids::Version(7));
    for _ in 0..50 {
        let mut stream = connect(sfo.at(sfo.ports().storage));
        write!(stream, "GODWIT.SESSION AFTER {token} 600000\r\n").unwrap();
    }
    wait_for("the connections to end", || (sfo.metric("godwit_client_connections{core=\"0\"}") == 0).then_some(()));
    drop(nyc);
}
