//! Who belongs to the mesh: the table that every node has, what a removal does, and what survives a restart.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use net::ids::{NodeId, RequestId};
use net::wire::body::{ErrorCode, RemoveMember};
use net::wire::frame::FrameReader;
use net::wire::message::Message;
use tests::process::attack::connect;
use tests::process::{Daemon, Value, wait_for};

const DAEMON: &str = env!("CARGO_BIN_EXE_daemon-under-test");

/// Nodes of a mesh, each the peer of all others.
fn mesh<const N: usize>(regions: [&str; N]) -> [Daemon; N] {
    let mut daemons = regions.map(|_| Daemon::new(DAEMON));
    let addresses: Vec<SocketAddr> = daemons.iter().map(|daemon| daemon.at(daemon.ports().discovery)).collect();
    for (at, daemon) in daemons.iter_mut().enumerate() {
        let others = addresses.iter().enumerate().filter(|(other, _)| *other != at);
        let others: Vec<String> = others.map(|(_, address)| address.to_string()).collect();
        daemon.set("REGION", regions[at]).set("DISCOVERY_PEERS", others.join(","));
        daemon.set("SEGMENT_BYTES", "1MiB").start();
    }
    daemons
}

fn id(daemon: &Daemon) -> NodeId {
    NodeId(u32::from_str_radix(daemon.status("node").as_str().unwrap(), 16).unwrap())
}

/// Region and state of every row, ordered.
fn table(daemon: &Daemon) -> Vec<(String, String)> {
    let text = |row: &serde_json::Value, field: &str| row[field].as_str().unwrap().to_owned();
    let members = daemon.status("status")["members"].clone();
    let rows = members.as_array().unwrap().iter().map(|row| (text(row, "region"), text(row, "state")));
    let mut rows: Vec<_> = rows.collect();
    rows.sort();
    rows
}

fn wait_for_table(daemon: &Daemon, rows: &[(&str, &str)]) {
    let rows: Vec<(String, String)> = rows.iter().map(|(r, s)| ((*r).to_owned(), (*s).to_owned())).collect();
    wait_for(&format!("the table {rows:?}"), || (table(daemon) == rows).then_some(()));
}

/// Until the node is not ready because it was removed.
fn wait_for_removal(daemon: &Daemon) {
    wait_for("the removed node to know", || {
        let (status, text) = daemon.http("/readyz").ok()?;
        (status == 503 && text.contains("was removed from the mesh")).then_some(())
    });
}

fn answer(stream: &mut TcpStream) -> Message {
    let (mut reader, mut chunk) = (FrameReader::new(), [0; 1024]);
    loop {
        if let Some(frame) = reader.next().unwrap() {
            return Message::decode(&frame).unwrap();
        }
        let read = stream.read(&mut chunk).expect("an answer in time");
        assert!(read > 0, "an answer before the end");
        reader.feed(&chunk[..read]);
    }
}

/// What the node says to an operator who removes `node`.
fn remove(daemon: &Daemon, node: NodeId) -> Result<(), (Option<ErrorCode>, String)> {
    let mut stream = connect(daemon.at(daemon.ports().discovery));
    let mut bytes = Vec::new();
    Message::RemoveMember(RemoveMember { node }).encode(RequestId(3), &mut bytes).unwrap();
    stream.write_all(&bytes).unwrap();
    match answer(&mut stream) {
        Message::Ok(_) => Ok(()),
        Message::Error(failed) => Err((failed.reason(), failed.text)),
        message => panic!("{message:?}"),
    }
}

const ALL: [(&str, &str); 3] = [("ams", "joined"), ("nyc", "joined"), ("sfo", "joined")];
const WITHOUT_AMS: [(&str, &str); 3] = [("ams", "removed"), ("nyc", "joined"), ("sfo", "joined")];

#[test]
fn a_node_that_was_removed_while_it_was_down_is_refused_and_says_so() {
    let [mut sfo, mut nyc, mut ams] = mesh(["sfo", "nyc", "ams"]);
    for daemon in [&sfo, &nyc, &ams] {
        wait_for_table(daemon, &ALL);
    }
    let (own, gone) = (id(&sfo), id(&ams));
    assert!(ams.client().call(&["SET", "key", "value"]).is_ok());
    wait_for("the write at the others", || {
        let has = |daemon: &Daemon| daemon.client().call(&["GET", "key"]).unwrap() == Value::Bulk(b"value".to_vec());
        (has(&sfo) && has(&nyc)).then_some(())
    });
    assert!(ams.terminate().success());
    // What is known survives both a kill and a stop, without the others.
    sfo.kill9();
    assert!(nyc.terminate().success());
    sfo.start();
    wait_for_table(&sfo, &ALL);

    let (code, text) = remove(&sfo, own).unwrap_err();
    assert_eq!(code, Some(ErrorCode::Invalid));
    assert!(text.contains("is this node itself"), "{text}");
    let (code, text) = remove(&sfo, NodeId(gone.0 ^ 1)).unwrap_err();
    assert_eq!(code, Some(ErrorCode::NotFound));
    assert!(text.contains("no member of the mesh"), "{text}");
    assert_eq!(remove(&sfo, gone), Ok(()));
    assert_eq!(remove(&sfo, gone), Ok(()), "twice is once");
    // The answer said that it is durable.
    sfo.kill9();
    sfo.start();
    wait_for_table(&sfo, &WITHOUT_AMS);
    assert_eq!((sfo.metric("godwit_members_joined"), sfo.metric("godwit_members_removed")), (2, 1));
    // Who was down learns it from the handshake.
    nyc.start();
    wait_for_table(&nyc, &WITHOUT_AMS);

    // The node itself knows nothing of it yet.
    ams.spawn();
    wait_for_removal(&ams);
    let words = ["was removed from the mesh", "empty its DATA_DIR"];
    let logged = |daemon: &Daemon| daemon.logged(words[0]).iter().any(|line| line.contains(words[1]));
    wait_for("both sides to log it", || (logged(&ams) && (logged(&sfo) || logged(&nyc))).then_some(()));
    let (status, text) = ams.http("/readyz").unwrap();
    assert_eq!(status, 503);
    assert!(words.iter().all(|word| text.contains(word)), "{text}");
    let mut client = ams.client();
    assert_eq!(client.call(&["GET", "key"]).unwrap(), Value::Bulk(b"value".to_vec()), "it serves what it has");
    let Value::Error(error) = client.call(&["SET", "key", "other"]).unwrap() else { panic!("a write was taken") };
    assert!(error.contains("was removed from the mesh"), "{error}");
    assert!(matches!(client.call(&["DEL", "key"]).unwrap(), Value::Error(_)));
    // It knows it by itself the next time.
    assert!(ams.terminate().success());
    assert!(sfo.terminate().success());
    assert!(nyc.terminate().success());
    ams.spawn();
    wait_for_removal(&ams);
}

#[test]
fn a_removal_reaches_everybody_at_once_and_a_wiped_node_joins_anew() {
    let [sfo, nyc, mut ams] = mesh(["sfo", "nyc", "ams"]);
    for daemon in [&sfo, &nyc, &ams] {
        wait_for_table(daemon, &ALL);
    }
    let gone = id(&ams);
    assert_eq!(remove(&nyc, gone), Ok(()));
    for daemon in [&sfo, &nyc, &ams] {
        wait_for_table(daemon, &WITHOUT_AMS);
    }
    wait_for_removal(&ams);
    assert_eq!(ams.metric("godwit_removed"), 1);
    wait_for("its links to be closed", || {
        let peers = |daemon: &Daemon| daemon.status("status")["members"].as_array().unwrap().clone();
        let closed = |daemon: &Daemon| peers(daemon).iter().all(|m| m["state"] == "joined" || m["connected"] == false);
        (closed(&sfo) && closed(&nyc)).then_some(())
    });
    let (code, text) = remove(&ams, id(&sfo)).unwrap_err();
    assert_eq!(code, Some(ErrorCode::Invalid), "{text}");

    assert!(ams.terminate().success());
    std::fs::remove_dir_all(ams.data_dir()).unwrap();
    ams.start();
    assert_ne!(id(&ams), gone);
    let anew = [("ams", "joined"), ("ams", "removed"), ("nyc", "joined"), ("sfo", "joined")];
    for daemon in [&sfo, &nyc, &ams] {
        wait_for_table(daemon, &anew);
    }
    assert!(sfo.client().call(&["SET", "key", "value"]).is_ok());
    wait_for("a write to arrive there", || {
        (ams.client().call(&["GET", "key"]).unwrap() == Value::Bulk(b"value".to_vec())).then_some(())
    });
}

/// Segments of earlier runs stay for a region that was away, whose members may not have all of them, until it is removed.
#[test]
fn what_is_kept_for_a_node_goes_when_it_is_removed() {
    let [mut sfo, nyc, mut ams] = mesh(["sfo", "nyc", "ams"]);
    for daemon in [&sfo, &nyc, &ams] {
        wait_for_table(daemon, &ALL);
    }
    let gone = id(&ams);
    assert!(ams.terminate().success());
    let write = |daemon: &Daemon, value: u8| {
        let (mut client, value) = (daemon.client(), vec![value; 16 * 1024]);
        for key in 0..200 {
            let key = format!("key:{key}");
            let stored = client.call(&[b"SET", key.as_bytes(), &value]).unwrap();
            assert_eq!(stored, Value::Simple("OK".into()));
        }
        value
    };
    let arrives = |value: Vec<u8>| {
        let last = Value::Bulk(value);
        wait_for("the last write at nyc", || (nyc.client().call(&["GET", "key:199"]).unwrap() == last).then_some(()));
    };
    assert!(sfo.terminate().success());
    sfo.start();
    arrives(write(&sfo, b'a'));
    assert!(sfo.terminate().success());
    let of_earlier_runs = segments(&sfo);
    sfo.start();
    // Nothing of the earlier runs counts any more.
    arrives(write(&sfo, b'b'));
    let left = |daemon: &Daemon| segments(daemon).intersection(&of_earlier_runs).count();
    assert!(left(&sfo) > 1, "all of it is kept for ams");
    assert_eq!(remove(&nyc, gone), Ok(()));
    wait_for("the segments of earlier runs to go", || (left(&sfo) == 0).then_some(()));
}

fn segments(daemon: &Daemon) -> BTreeSet<String> {
    let names = std::fs::read_dir(daemon.data_dir()).unwrap().map(|entry| entry.unwrap().file_name());
    let names = names.map(|name| name.into_string().unwrap());
    names.filter(|name| matches!(wal::file_kind(name), wal::FileKind::Segment { .. })).collect()
}
