//! The typed client against nodes that misbehave; a thread plays each.
#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bytes::Bytes;
use net::client::{
    Answer, Client, ClientError, ConnectOptions, ErrorCode, Failed, Incremented, Item, Version, Written,
};
use net::ids::RequestId;
use net::wire::body::{Keys, Refuse, RefuseCode, Value};
use net::wire::samples::samples;
use net::wire::{FrameReader, Message};

/// A node that gives `answers` in turn: each is called with the id and the request, and what it returns is sent.
fn node(answers: Vec<fn(RequestId, Message) -> Vec<u8>>) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let thread = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let (mut reader, mut chunk) = (FrameReader::new(), vec![0; 4096]);
        reader.admit_values();
        for answer in answers {
            let frame = loop {
                if let Some(frame) = reader.next().unwrap() {
                    break frame;
                }
                let read = stream.read(&mut chunk).unwrap();
                assert!(read > 0, "the client left early");
                reader.feed(&chunk[..read]);
            };
            let message = Message::decode(&frame).unwrap();
            stream.write_all(&answer(frame.header.request_id, message)).unwrap();
        }
        // Whatever else comes is read and not answered, until the client leaves.
        while matches!(stream.read(&mut chunk), Ok(1..)) {}
    });
    (addr, thread)
}

fn frame(id: RequestId, message: &Message) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.encode(id, &mut bytes).unwrap();
    bytes
}

/// What a good node says first.
fn welcome(id: RequestId, hello: Message) -> Vec<u8> {
    assert!(matches!(hello, Message::ClientHello(_)), "{hello:?}");
    let messages = samples().unwrap().into_iter().map(|sample| sample.message);
    let ack = messages.into_iter().find(|message| matches!(message, Message::ClientHelloAck(_)));
    frame(id, &ack.unwrap())
}

fn nothing(id: RequestId, _: Message) -> Vec<u8> {
    frame(id, &Message::Value(Value { item: None }))
}

fn full(id: RequestId, _: Message) -> Vec<u8> {
    frame(id, &Message::Error(Failed::new(ErrorCode::CannotWrite, "the disk is full")))
}

fn silence(_: RequestId, _: Message) -> Vec<u8> {
    Vec::new()
}

fn connect(addr: SocketAddr) -> Client {
    let options = ConnectOptions { timeout: Duration::from_secs(20), name: "test".to_owned() };
    Client::connect_with(addr, &options).unwrap()
}

/// The connection is of no more use.
fn is_over(client: &mut Client) {
    assert!(matches!(client.get("k"), Err(ClientError::Ended)));
    assert!(matches!(client.pipeline().get("k").run(), Err(ClientError::Ended)));
}

#[test]
fn an_error_is_that_of_one_request_and_the_connection_goes_on() {
    let (addr, node) = node(vec![welcome, full, nothing, full, nothing, nothing, full]);
    let mut client = connect(addr);
    let error = client.put("k", "v").unwrap_err();
    assert!(
        matches!(&error, ClientError::Failed(failed) if failed.reason() == Some(ErrorCode::CannotWrite)),
        "{error}"
    );
    assert_eq!(error.to_string(), "the node answers: the disk is full");
    assert!(!error.ends_connection() && !error.is_unknown());
    assert_eq!(client.get("k").unwrap(), None);
    let answers = client.pipeline().put("k", "v").get("k").run().unwrap();
    assert!(matches!(&answers[..], [Answer::Failed(_), Answer::Value(None)]), "{answers:?}");
    assert_eq!(client.get("k").unwrap(), None);
    assert!(matches!(client.increment("k", 1), Err(ClientError::Failed(_))));
    drop(client);
    node.join().unwrap();
}

#[test]
fn what_does_not_fit_is_not_sent() {
    let (addr, node) = node(vec![welcome, nothing]);
    let mut client = connect(addr);
    let key = vec![b'k'; 65_536];
    let unsendable = |error: ClientError| assert!(matches!(error, ClientError::Unsendable(_)), "{error}");
    unsendable(client.get(&key).unwrap_err());
    unsendable(client.get_many(&[&key]).unwrap_err());
    unsendable(client.put("k", vec![0; 8 * 1024 * 1024 + 1]).unwrap_err());
    unsendable(client.pipeline().get("k").get(&key).run().unwrap_err());
    assert_eq!(client.get("k").unwrap(), None, "this is the first request that the node sees");
    drop(client);
    node.join().unwrap();
}

#[test]
fn an_answer_to_something_else_ends_the_connection() {
    let other_id = |id: RequestId, message| nothing(RequestId(id.0 + 1), message);
    let other_kind = |id, _| frame(id, &Message::Written(Written::Nothing));
    for answer in [other_id as fn(RequestId, Message) -> Vec<u8>, other_kind] {
        let (addr, node) = node(vec![welcome, answer]);
        let mut client = connect(addr);
        let error = client.get("k").unwrap_err();
        assert!(matches!(error, ClientError::Unexpected("Value" | "Written")), "{error}");
        assert!(error.ends_connection() && error.is_unknown());
        is_over(&mut client);
        drop(client);
        node.join().unwrap();
    }
}

#[test]
fn a_node_that_closes_says_why_if_it_can() {
    let refuse = |_, _| frame(RequestId(0), &Message::Refuse(Refuse::new(RefuseCode::NotReady, "try again later")));
    let (addr, refusing) = node(vec![refuse]);
    let error = Client::connect(addr).unwrap_err();
    assert_eq!(error.to_string(), "the node closed the connection: try again later");
    refusing.join().unwrap();

    let (addr, refusing) = node(vec![welcome, refuse]);
    let mut client = connect(addr);
    assert!(matches!(client.get("k").unwrap_err(), ClientError::Refused(refuse) if refuse.text == "try again later"));
    is_over(&mut client);
    drop(client);
    refusing.join().unwrap();

    // It ends in the middle of an answer.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let ending = thread::spawn(move || {
        let (mut stream, _): (TcpStream, _) = listener.accept().unwrap();
        let mut chunk = [0; 4096];
        assert!(stream.read(&mut chunk).unwrap() > 0);
        let hello = Message::ClientHello(net::wire::body::ClientHello::new(""));
        stream.write_all(&welcome(RequestId(0), hello)).unwrap();
        assert!(stream.read(&mut chunk).unwrap() > 0);
        stream.write_all(&[0xc7, 1]).unwrap();
    });
    let mut client = connect(addr);
    let error = client.get("k").unwrap_err();
    assert!(matches!(error, ClientError::Broken(_)) && error.is_unknown(), "{error}");
    is_over(&mut client);
    ending.join().unwrap();
}

#[test]
fn a_node_that_does_not_answer_is_not_waited_for() {
    let (addr, silent) = node(vec![welcome, silence]);
    let options = ConnectOptions { timeout: Duration::from_millis(50), ..ConnectOptions::default() };
    let mut client = Client::connect_with(addr, &options).unwrap();
    let error = client.put("k", "v").unwrap_err();
    assert!(matches!(error, ClientError::TimedOut) && error.is_unknown() && error.ends_connection(), "{error}");
    is_over(&mut client);
    drop(client);
    silent.join().unwrap();
}

#[test]
fn other_protocols_and_damage_are_named() {
    let redis = |_, _| b"-ERR unknown command\r\n".to_vec();
    let (addr, other) = node(vec![redis]);
    let error = Client::connect(addr).unwrap_err();
    assert!(matches!(error, ClientError::Unreadable(_)), "{error}");
    assert!(error.to_string().contains("is this a node's STORAGE_PORT?"), "{error}");
    other.join().unwrap();

    let damaged = |id, message| {
        let mut bytes = nothing(id, message);
        *bytes.last_mut().unwrap() ^= 1;
        bytes
    };
    let (addr, other) = node(vec![welcome, damaged]);
    let mut client = connect(addr);
    assert!(matches!(client.get("k").unwrap_err(), ClientError::Unreadable(_)));
    is_over(&mut client);
    drop(client);
    other.join().unwrap();
}

#[test]
fn an_error_among_many_values_leaves_the_connection_in_step() {
    let mixed = |id: RequestId, message: Message| {
        assert!(matches!(message, Message::GetMany(_)));
        let found = Item { version: Version(3), expiry_ms: 0, value: Bytes::from_static(b"v") };
        let found = Message::Value(Value { item: Some(found) });
        [frame(id, &found), full(id, found.clone()), frame(id, &found)].concat()
    };
    let (addr, node) = node(vec![welcome, mixed, nothing]);
    let mut client = connect(addr);
    assert!(matches!(client.get_many(&["a", "b", "c"]), Err(ClientError::Failed(_))));
    assert_eq!(client.get("k").unwrap(), None);
    assert!(client.get_many::<&str>(&[]).unwrap().is_empty(), "nothing is asked for nothing");
    drop(client);
    node.join().unwrap();
}

#[test]
fn a_long_answer_to_a_scan_is_put_together() {
    let pieces = |id: RequestId, _: Message| {
        let keys = |more, key: &'static str| Keys { more, cursor: 7, keys: vec![key.into()] };
        let frames = [keys(true, "a"), keys(true, "b"), keys(false, "c")];
        frames.into_iter().flat_map(|keys| frame(id, &Message::Keys(keys))).collect()
    };
    let counted = |id: RequestId, _: Message| {
        frame(id, &Message::Incremented(Incremented { version: Version(9), value: i64::MIN }))
    };
    let (addr, node) = node(vec![welcome, pieces, counted]);
    let mut client = connect(addr);
    let scanned = client.scan(0, 3, "").unwrap();
    assert_eq!((scanned.cursor, scanned.keys), (7, vec!["a".into(), "b".into(), "c".into()]));
    assert_eq!(client.increment("k", -1).unwrap().value, i64::MIN);
    drop(client);
    node.join().unwrap();
}
