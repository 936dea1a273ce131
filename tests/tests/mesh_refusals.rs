//! A link that must not be: every peer that does not fit is told why and what to change, and the operator reads the same
//! line in the log.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use net::ids::{Incarnation, NodeId, RegionName, RequestId};
use net::wire::body::{Hello, Proof, Purpose, Refuse, RefuseCode};
use net::wire::frame::FrameReader;
use net::wire::message::Message;
use tests::process::attack::{Bystander, connect};
use tests::process::{Daemon, own_address, wait_for};

const DAEMON: &str = env!("CARGO_BIN_EXE_daemon-under-test");

/// A node of region `sfo` whose only peer is an address where nobody listens.
fn node_of_a_mesh() -> Daemon {
    let mut daemon = Daemon::new(DAEMON);
    daemon.set("REGION", "sfo").set("DISCOVERY_PEERS", SocketAddr::new(own_address().into(), 10_200)).start();
    daemon
}

fn own_node(daemon: &Daemon) -> NodeId {
    NodeId(u32::from_str_radix(daemon.status("node").as_str().unwrap(), 16).unwrap())
}

fn own_incarnation(daemon: &Daemon) -> Incarnation {
    Incarnation(u64::from_str_radix(daemon.status("incarnation").as_str().unwrap(), 16).unwrap())
}

/// What a fitting peer of region `nyc` would say.
fn hello(purpose: Purpose) -> Hello {
    Hello {
        protocol_min: 1,
        protocol_max: 1,
        node: NodeId(0x0bad_cafe),
        incarnation: Incarnation(1),
        purpose,
        record_format: wal::FORMAT_VERSION,
        value_bytes_max: 8 * 1024 * 1024,
        residency: 0,
        physical_ms: 1_700_000_000_000,
        advertised: "127.20.255.1:10200".parse().unwrap(),
        region: RegionName::parse("nyc").unwrap(),
        proof: Proof::default(),
        members: Vec::new(),
    }
}

/// Says hello and collects what comes until the node closes.
fn introduce(addr: SocketAddr, hello: Hello) -> Vec<Message> {
    let mut stream = connect(addr);
    say(&mut stream, hello);
    messages(&mut stream)
}

fn say(stream: &mut TcpStream, hello: Hello) {
    let mut bytes = Vec::new();
    Message::Hello(hello).encode(RequestId(0), &mut bytes).unwrap();
    stream.write_all(&bytes).unwrap();
}

fn messages(stream: &mut TcpStream) -> Vec<Message> {
    let (mut reader, mut messages) = (FrameReader::new(), Vec::new());
    let mut chunk = [0; 4096];
    loop {
        let read = stream.read(&mut chunk).expect("the node closes in time");
        if read == 0 {
            return messages;
        }
        reader.feed(&chunk[..read]);
        while let Some(frame) = reader.next().unwrap() {
            messages.push(Message::decode(&frame).unwrap());
        }
    }
}

fn refusal(messages: &[Message]) -> &Refuse {
    let refusals: Vec<&Refuse> = messages
        .iter()
        .filter_map(|message| if let Message::Refuse(refuse) = message { Some(refuse) } else { None })
        .collect();
    assert_eq!(refusals.len(), 1, "one refusal: {messages:?}");
    assert!(matches!(messages.last(), Some(Message::Refuse(_))), "nothing follows a refusal: {messages:?}");
    refusals[0]
}

/// Introduces `change`d hellos on both mesh ports and checks the refusal and its line in the log.
fn is_refused(daemon: &Daemon, code: RefuseCode, words: &[&str], change: impl Fn(&mut Hello)) {
    let ports = daemon.ports();
    for (port, purpose) in [(ports.discovery, Purpose::Discovery), (ports.replication, Purpose::Live)] {
        let mut hello = hello(purpose);
        change(&mut hello);
        let before = daemon.log().lines().count();
        let refused_before = daemon.metric("godwit_links_refused_total");
        let heard = introduce(daemon.at(port), hello);
        let refuse = refusal(&heard);
        assert_eq!(refuse.reason(), Some(code), "{purpose:?}: {}", refuse.text);
        for word in words {
            assert!(refuse.text.contains(word), "{purpose:?}: {:?} does not say {word:?}", refuse.text);
        }
        let log = wait_for("the refusal in the log", || {
            let log: Vec<String> = daemon.log().lines().skip(before).map(str::to_owned).collect();
            log.iter().any(|line| line.contains(&refuse.text)).then_some(log)
        });
        let warnings: Vec<&String> =
            log.iter().filter(|line| line.contains(" WARN ") || line.contains("ERROR")).collect();
        assert_eq!(warnings.len(), 1, "one line for the operator: {warnings:?}");
        wait_for("the refusal in the metrics", || {
            (daemon.metric("godwit_links_refused_total") == refused_before + 1).then_some(())
        });
    }
}

#[test]
fn a_peer_that_does_not_fit_is_told_what_to_change() {
    let daemon = node_of_a_mesh();
    let node = own_node(&daemon);
    let incarnation = own_incarnation(&daemon);
    let bystander = Bystander::beside(&daemon);
    is_refused(&daemon, RefuseCode::SameRegion, &["region sfo has this node", "its own REGION"], |hello| {
        hello.region = RegionName::parse("sfo").unwrap();
    });
    is_refused(&daemon, RefuseCode::Protocol, &["protocols 1 to 1 and 2 to 9", "upgrade the older node"], |hello| {
        (hello.protocol_min, hello.protocol_max) = (2, 9);
    });
    is_refused(&daemon, RefuseCode::NodeTwice, &[&node.to_string(), "empty data directory"], |hello| {
        hello.node = node;
    });
    is_refused(&daemon, RefuseCode::Myself, &["leads back to the node itself", "remove it from the peers"], |hello| {
        (hello.node, hello.incarnation) = (node, incarnation);
    });
    is_refused(&daemon, RefuseCode::MeshLimits, &["VALUE_BYTES_MAX differs", "make them equal"], |hello| {
        hello.value_bytes_max = 1024 * 1024;
    });
    is_refused(&daemon, RefuseCode::RecordFormat, &["record format differs", "make them equal"], |hello| {
        hello.record_format = wal::FORMAT_VERSION + 1;
    });
    is_refused(&daemon, RefuseCode::Residency, &["residency policy differs"], |hello| hello.residency = 7);
    is_refused(&daemon, RefuseCode::Proof, &["mesh proof kind differs"], |hello| {
        hello.proof = Proof { kind: 1, bytes: vec![1; 32] };
    });
    is_refused(&daemon, RefuseCode::Unexpected, &["check DISCOVERY_PORT and REPLICATION_PORT"], |hello| {
        hello.purpose = if hello.purpose == Purpose::Live { Purpose::Discovery } else { Purpose::Live };
    });
    bystander.was_not_disturbed();
}

#[test]
fn a_second_node_of_a_region_and_a_copied_node_are_refused_while_the_first_is_linked() {
    let daemon = node_of_a_mesh();
    // Two ways to the node that a link exists to: its replication port takes any fitting peer.
    let mut first = connect(daemon.at(daemon.ports().replication));
    say(&mut first, hello(Purpose::Live));
    wait_for("the first link", || daemon.logged("link up").len().eq(&1).then_some(()));
    let replication = daemon.at(daemon.ports().replication);

    let heard = introduce(replication, Hello { node: NodeId(7), ..hello(Purpose::Live) });
    assert_eq!(refusal(&heard).reason(), Some(RefuseCode::SameRegion));
    assert!(refusal(&heard).text.contains("stop one of them or rename its REGION"), "{heard:?}");

    let elsewhere = Hello { advertised: "127.20.255.9:10200".parse().unwrap(), ..hello(Purpose::Live) };
    let heard = introduce(replication, elsewhere);
    assert_eq!(refusal(&heard).reason(), Some(RefuseCode::NodeTwice));
    assert!(refusal(&heard).text.contains("give the copied one an empty data directory"), "{heard:?}");
}

#[test]
fn a_stranger_on_the_discovery_port_is_refused_although_it_fits() {
    let daemon = node_of_a_mesh();
    let heard = introduce(daemon.at(daemon.ports().discovery), hello(Purpose::Discovery));
    let refuse = refusal(&heard);
    assert_eq!(refuse.reason(), Some(RefuseCode::UnknownRegion));
    assert!(refuse.text.contains("DISCOVERY_PEERS"), "{}", refuse.text);
}

#[test]
fn a_node_without_peers_refuses_links_and_says_which_setting_is_missing() {
    let mut daemon = Daemon::new(DAEMON);
    daemon.start();
    is_refused(
        &daemon,
        RefuseCode::UnknownRegion,
        &["runs without DISCOVERY_PEERS", "addresses of all other regions"],
        |_| {},
    );
}

#[test]
fn a_frame_before_the_handshake_is_refused() {
    let daemon = node_of_a_mesh();
    let mut stream = connect(daemon.at(daemon.ports().replication));
    let mut bytes = Vec::new();
    Message::Credit(net::wire::body::Credit { upto: net::ids::StreamOffset(1) })
        .encode(RequestId(0), &mut bytes)
        .unwrap();
    stream.write_all(&bytes).unwrap();
    let heard = messages(&mut stream);
    assert_eq!(refusal(&heard).reason(), Some(RefuseCode::Unexpected));
    assert!(refusal(&heard).text.contains("say hello first"), "{heard:?}");
}
