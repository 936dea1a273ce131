//! Godwit's own protocol on the storage port of real daemons, through the typed client and frame by frame.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use net::client::{
    Answer, Client, ClientError, Condition, ConnectOptions, ErrorCode, Item, PutOptions, Version, Written,
};
use net::ids::RequestId;
use net::wire::body::{ClientHello, Get, Put, RefuseCode, Value, Wait};
use net::wire::header::{HEADER_BYTES, Header, crc32c};
use net::wire::limits::CONTROL_BODY_BYTES_MAX;
use net::wire::samples::samples;
use net::wire::{FrameReader, Message, Opcode};
use tests::process::attack::{Bystander, connect};
use tests::process::{Daemon, PATIENCE, Value as Reply, backends, wait_for};

#[path = "../../net/examples/store.rs"]
mod store;

const DAEMON: &str = env!("CARGO_BIN_EXE_daemon-under-test");

const MIB: usize = 1024 * 1024;

fn started(cores: u16) -> Daemon {
    let mut daemon = Daemon::new(DAEMON);
    daemon.set("CORES", cores).start();
    daemon
}

fn client(daemon: &Daemon) -> Client {
    let options = ConnectOptions { timeout: PATIENCE, name: "native-test".to_owned() };
    Client::connect_with(daemon.at(daemon.ports().storage), &options).expect("the storage port")
}

/// Runs `test` on a node of one core and on one of two, where about half of the keys are another core's.
fn on_one_core_and_two(test: impl Fn(&mut Daemon)) {
    for cores in [1, 2] {
        let mut daemon = started(cores);
        test(&mut daemon);
        assert!(daemon.logged("panicked").is_empty(), "{:?}", daemon.logged("panicked"));
        assert_eq!(daemon.terminate().code(), Some(0));
        assert!(daemon.logged("ERROR").is_empty(), "{:?}", daemon.logged("ERROR"));
    }
}

/// Names that are spread over the cores.
fn keys(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("key:{number}")).collect()
}

fn value_of(item: Option<Item>) -> Option<Vec<u8>> {
    item.map(|item| item.value.to_vec())
}

fn version_of(written: &Written) -> Version {
    match written {
        Written::Written { version } => *version,
        other => panic!("{other:?}"),
    }
}

/// A counter of a node of two cores.
fn counted(daemon: &Daemon, name: &str) -> u64 {
    (0..2).map(|core| daemon.metric(&format!("{name}{{core=\"{core}\"}}"))).sum()
}

fn failed(error: ClientError) -> ErrorCode {
    match error {
        ClientError::Failed(failed) => failed.reason().expect("a code that is known here"),
        other => panic!("{other}"),
    }
}

#[test]
fn the_example_in_the_readme_runs() {
    on_one_core_and_two(|daemon| {
        let addr = daemon.at(daemon.ports().storage).to_string();
        store::tour(&addr).expect("the tour");
        assert_eq!(daemon.client().call(&["DBSIZE"]).unwrap(), Reply::Integer(0), "it cleans up");
    });
}

#[test]
fn every_verb_does_what_it_says() {
    for backend in backends() {
        let mut daemon = Daemon::new(DAEMON);
        daemon.set("CORES", 2).set("IO_BACKEND", backend).set("REGION", "ams").start();
        let mut store = client(&daemon);
        let node = store.node().clone();
        assert_eq!((node.protocol, node.cores, node.value_bytes_max), (1, 2, 8 << 20));
        assert_eq!(node.region.as_str(), "ams");
        assert_eq!(daemon.status("node"), node.log.node.to_string());
        for key in keys(20) {
            assert_eq!(store.get(&key).unwrap(), None);
            assert!(!store.delete(&key).unwrap());
            let first = store.put(&key, "one").unwrap();
            let item = store.get(&key).unwrap().expect("it was written");
            assert_eq!(item, Item { version: first, expiry_ms: 0, value: "one".into() });
            let second = store.put(&key, "").unwrap();
            assert!(second > first && first > Version(0));
            assert_eq!(value_of(store.get(&key).unwrap()), Some(Vec::new()), "an empty value is a value");
            assert!(store.delete(&key).unwrap());
            assert_eq!(store.get(&key).unwrap(), None);
            assert_eq!(store.increment(&key, 5).unwrap().value, 5);
            let counted = store.increment(&key, -7).unwrap();
            let item = store.get(&key).unwrap().expect("a number");
            assert_eq!((&item.value[..], item.version, counted.value), (&b"-2"[..], counted.version, -2));
            store.put(&key, "9223372036854775807").unwrap();
            assert_eq!(failed(store.increment(&key, 1).unwrap_err()), ErrorCode::NotANumber);
            store.put(&key, "no number").unwrap();
            assert_eq!(failed(store.increment(&key, 1).unwrap_err()), ErrorCode::NotANumber);
        }
        let mut wanted = keys(22);
        wanted.reverse();
        let found: Vec<_> = store.get_many(&wanted).unwrap().into_iter().map(value_of).collect();
        let expected: Vec<_> = (0..22).map(|at| (at >= 2).then(|| b"no number".to_vec())).collect();
        assert_eq!(found, expected);
        assert_eq!(daemon.terminate().code(), Some(0));
    }
}

#[test]
fn a_write_takes_place_exactly_if_its_condition_holds() {
    on_one_core_and_two(|daemon| {
        let mut store = client(daemon);
        for key in keys(6) {
            let was = |store: &mut Client| store.put(&key, "old").unwrap();
            let put = |store: &mut Client, condition: Condition| {
                store.put_with(&key, "new", PutOptions::default().only_if(condition)).unwrap()
            };
            let (old, other) = (Condition::IfValue("old".into()), Condition::IfValue("other".into()));
            // Nothing is there.
            for (condition, holds) in [
                (Condition::Always, true),
                (Condition::IfAbsent, true),
                (Condition::IfPresent, false),
                (Condition::IfVersion(Version(0)), true),
                (Condition::IfVersion(Version(1)), false),
                (old.clone(), false),
            ] {
                let written = put(&mut store, condition.clone());
                let deleted = store.delete(&key).unwrap();
                assert_eq!(deleted, holds, "{condition:?}: {written:?}");
                assert_eq!(matches!(written, Written::Refused { present: None }), !holds, "{written:?}");
                let expected = if holds { Written::Nothing } else { Written::Refused { present: None } };
                assert_eq!(store.delete_if(&key, condition).unwrap(), expected);
            }
            // Something is there.
            let version = was(&mut store);
            let present = store.get(&key).unwrap();
            let refused = Written::Refused { present: present.clone() };
            for condition in [
                Condition::IfAbsent,
                Condition::IfVersion(Version(0)),
                Condition::IfVersion(Version(version.0 + 1)),
                other,
            ] {
                assert_eq!(put(&mut store, condition.clone()), refused, "{condition:?}");
                assert_eq!(store.delete_if(&key, condition).unwrap(), refused);
                assert_eq!(store.get(&key).unwrap(), present, "nothing was written");
            }
            for condition in [Condition::Always, Condition::IfPresent, old] {
                was(&mut store);
                let written = version_of(&put(&mut store, condition.clone()));
                assert_eq!(store.get(&key).unwrap().map(|item| item.version), Some(written), "{condition:?}");
                was(&mut store);
                version_of(&store.delete_if(&key, condition).unwrap());
                assert_eq!(store.get(&key).unwrap(), None);
            }
            // A version holds for one write only, whatever the value.
            let version = was(&mut store);
            let first = version_of(&put(&mut store, Condition::IfVersion(version)));
            let second = put(&mut store, Condition::IfVersion(version));
            assert!(matches!(second, Written::Refused { present: Some(item) } if item.version == first));
            version_of(&store.delete_if(&key, Condition::IfVersion(first)).unwrap());
        }
    });
}

#[test]
fn keys_expire_when_they_should() {
    on_one_core_and_two(|daemon| {
        let (mut store, mut redis) = (client(daemon), daemon.client());
        let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis();
        let now = u64::try_from(now).unwrap();
        for key in keys(4) {
            let at = now + 600_000;
            store.put_with(&key, "1", PutOptions::default().expires_at_unix_ms(at)).unwrap();
            assert_eq!(store.get(&key).unwrap().unwrap().expiry_ms, at);
            assert_eq!(redis.call(&["PEXPIRETIME", &key]).unwrap(), Reply::Integer(i64::try_from(at).unwrap()));
            store.increment(&key, 1).unwrap();
            assert_eq!(store.get(&key).unwrap().unwrap().expiry_ms, at, "a count keeps its expiry");
            store.put(&key, "1").unwrap();
            assert_eq!(store.get(&key).unwrap().unwrap().expiry_ms, 0, "a put without an expiry ends it");
            store.put_with(&key, "1", PutOptions::default().expires_at_unix_ms(1)).unwrap();
            assert_eq!(store.get(&key).unwrap(), None, "it was over before it began");
            let absent = PutOptions::default().only_if(Condition::IfAbsent);
            version_of(&store.put_with(&key, "2", absent).unwrap());
        }
    });
}

#[test]
fn redis_clients_and_native_ones_see_one_store() {
    on_one_core_and_two(|daemon| {
        let (mut store, mut redis) = (client(daemon), daemon.client());
        for key in keys(20) {
            redis.call(&["SET", &key, "10"]).unwrap();
            let version = store.get(&key).unwrap().unwrap().version;
            assert_eq!(store.increment(&key, 5).unwrap().value, 15);
            assert_eq!(redis.call(&["INCR", &key]).unwrap(), Reply::Integer(16));
            let stale = PutOptions::default().only_if(Condition::IfVersion(version));
            assert!(matches!(store.put_with(&key, "x", stale).unwrap(), Written::Refused { present: Some(_) }));
            store.put(&key, "from here").unwrap();
            assert_eq!(redis.call(&["GET", &key]).unwrap(), Reply::Bulk(b"from here".to_vec()));
            assert_eq!(redis.call(&["DEL", &key]).unwrap(), Reply::Integer(1));
            assert_eq!(store.get(&key).unwrap(), None);
        }
    });
}

#[test]
fn transactions_of_redis_clients_exclude_native_writes() {
    const ROUNDS: i64 = 300;
    let daemon = started(2);
    let (mut store, mut redis) = (client(&daemon), daemon.client());
    // Of both cores, so that transactions hold both.
    let names = keys(4);
    let counting = thread::spawn({
        let names = names.clone();
        move || {
            for _ in 0..ROUNDS {
                let mut pipeline = store.pipeline();
                names.iter().for_each(|name| _ = pipeline.increment(name, 1));
                let answers = pipeline.run().unwrap();
                assert!(answers.iter().all(|answer| matches!(answer, Answer::Incremented(_))), "{answers:?}");
            }
        }
    });
    for _ in 0..ROUNDS {
        redis.queue(&["MULTI"]);
        names.iter().for_each(|name| redis.queue(&["INCR", name]));
        redis.queue(&["EXEC"]);
        redis.flush().unwrap();
        let replies: Vec<Reply> = (0..names.len() + 2).map(|_| redis.receive().unwrap()).collect();
        assert!(matches!(replies.last(), Some(Reply::Array(counts)) if counts.len() == names.len()), "{replies:?}");
    }
    counting.join().unwrap();
    for name in &names {
        let expected = (2 * ROUNDS).to_string().into_bytes();
        assert_eq!(redis.call(&["GET", name]).unwrap(), Reply::Bulk(expected));
    }
}

#[test]
fn pipelined_requests_are_answered_in_their_order() {
    on_one_core_and_two(|daemon| {
        let mut store = client(daemon);
        let names = keys(3000);
        let mut pipeline = store.pipeline();
        for name in &names {
            pipeline.put(name, name).get(name).increment(name, 1);
        }
        let answers = pipeline.run().unwrap();
        assert_eq!(answers.len(), 3 * names.len());
        for (answers, name) in answers.chunks(3).zip(&names) {
            let [Answer::Written(written), Answer::Value(Some(item)), Answer::Failed(failed)] = answers else {
                panic!("{name}: {answers:?}");
            };
            assert_eq!((version_of(written), name.as_bytes()), (item.version, &item.value[..]));
            assert_eq!(failed.reason(), Some(ErrorCode::NotANumber));
        }
        let found: Vec<_> = store.get_many(&names).unwrap().into_iter().map(value_of).collect();
        assert_eq!(found, names.iter().map(|name| Some(name.clone().into_bytes())).collect::<Vec<_>>());
    });
}

#[test]
fn every_key_is_found_by_scanning_whatever_its_core() {
    on_one_core_and_two(|daemon| {
        let mut store = client(daemon);
        let mut names: Vec<Vec<u8>> = keys(500).into_iter().map(String::into_bytes).collect();
        // Long keys, so that an answer spans frames.
        names.extend((0..20).map(|at| [format!("key:long:{at}:").into_bytes(), vec![b'x'; 20_000]].concat()));
        let mut pipeline = store.pipeline();
        names.iter().for_each(|name| _ = pipeline.put(name, "v"));
        pipeline.put("other", "v");
        pipeline.run().unwrap();
        for count in [1, 7, 1024] {
            let (mut found, mut cursor) = (Vec::new(), 0);
            loop {
                let scanned = store.scan(cursor, count, "key:").unwrap();
                found.extend(scanned.keys.into_iter().map(|key| key.to_vec()));
                cursor = scanned.cursor;
                if cursor == 0 {
                    break;
                }
            }
            found.sort();
            names.sort();
            assert_eq!(found, names, "count {count}: nothing is written meanwhile, so each comes once");
        }
        assert_eq!(failed(store.scan(99 << 48, 1, "").unwrap_err()), ErrorCode::Invalid);
        assert!(matches!(store.scan(0, 0, "").unwrap_err(), ClientError::Unsendable(_)));
        assert!(store.get("other").unwrap().is_some(), "the connection goes on");
    });
}

#[test]
fn the_largest_values_travel_and_larger_ones_are_refused() {
    on_one_core_and_two(|daemon| {
        let mut store = client(daemon);
        let largest: Vec<u8> = (0..8 * MIB).map(|at| u8::try_from(at % 251).unwrap()).collect();
        let names = keys(6);
        for name in &names {
            store.put(name, &largest).unwrap();
            let item = store.get(name).unwrap().unwrap();
            assert!(item.value == largest, "{name}");
            let refused = store.put_with(name, "x", PutOptions::default().only_if(Condition::IfAbsent)).unwrap();
            assert!(matches!(refused, Written::Refused { present: Some(there) } if there == item));
            // A value that is as large and expected to be there.
            let same = PutOptions::default().only_if(Condition::IfValue(item.value));
            version_of(&store.put_with(name, &largest, same).unwrap());
        }
        let found = store.get_many(&names).unwrap();
        assert!(found.iter().all(|item| item.as_ref().is_some_and(|item| item.value == largest)));
        let mut pipeline = store.pipeline();
        names.iter().for_each(|name| _ = pipeline.get(name).put(name, &largest));
        let answers = pipeline.run().unwrap();
        assert!(!answers.iter().any(|answer| matches!(answer, Answer::Failed(_))));
        assert!(matches!(store.put("x", vec![0; 8 * MIB + 1]).unwrap_err(), ClientError::Unsendable(_)));
        assert!(matches!(store.put(vec![b'k'; 65_536], "").unwrap_err(), ClientError::Unsendable(_)));
        store.put(vec![b'k'; 65_535], "the longest key").unwrap();
    });
}

#[test]
fn a_value_above_the_nodes_own_limit_is_an_error_and_the_connection_goes_on() {
    let mut daemon = Daemon::new(DAEMON);
    daemon.set("CORES", 2).set("VALUE_BYTES_MAX", "64KiB").start();
    let mut store = client(&daemon);
    assert_eq!(store.node().value_bytes_max, 64 * 1024);
    for key in keys(4) {
        assert_eq!(failed(store.put(&key, vec![0; 64 * 1024 + 1]).unwrap_err()), ErrorCode::Invalid);
        store.put(&key, vec![0; 64 * 1024]).unwrap();
    }
}

#[test]
fn clients_are_listed_and_can_be_ended() {
    let daemon = started(2);
    let (mut store, mut redis) = (client(&daemon), daemon.client());
    store.put("a", "b").unwrap();
    let id = store.node().connection.to_string();
    let Reply::Bulk(list) = redis.call(&["CLIENT", "LIST", "ID", &id]).unwrap() else { panic!("a list") };
    let line = String::from_utf8(list).unwrap();
    assert!(line.contains(" name=native-test ") && line.contains(" cmd=set ") && line.ends_with(" resp=0\n"), "{line}");
    let commands = counted(&daemon, "godwit_commands_total");
    store.get("a").unwrap();
    wait_for("the command to be counted", || (counted(&daemon, "godwit_commands_total") > commands).then_some(()));
    assert_eq!(redis.call(&["CLIENT", "KILL", "ID", &id]).unwrap(), Reply::Integer(1));
    let ended = store.get("a").unwrap_err();
    assert!(ended.ends_connection() && ended.is_unknown(), "{ended}");
    assert!(matches!(store.get("a").unwrap_err(), ClientError::Ended));
}

#[test]
fn what_is_slow_is_logged_as_the_command_that_it_is() {
    let daemon = started(1);
    let (mut store, mut redis) = (client(&daemon), daemon.client());
    redis.call(&["CONFIG", "SET", "slowlog-log-slower-than", "0"]).unwrap();
    store.put("slow:key", "value").unwrap();
    store.increment("slow:count", 3).unwrap();
    store.scan(0, 10, "").unwrap();
    let log = format!("{:?}", redis.call(&["SLOWLOG", "GET", "10"]).unwrap());
    let bulk = |text: &str| format!("{:?}", Reply::Bulk(text.as_bytes().to_vec()));
    for words in [&["set", "slow:key", "value"][..], &["incrby", "slow:count", "3"], &["scan", "0"]] {
        let entry = words.iter().map(|word| bulk(word)).collect::<Vec<_>>().join(", ");
        assert!(log.contains(&entry), "{entry} in {log}");
    }
}

// ---- frame by frame ----------------------------------------------------------------------------------------------------

fn frame(id: u32, message: &Message) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.encode(RequestId(id), &mut bytes).unwrap();
    bytes
}

fn hello() -> Vec<u8> {
    frame(0, &Message::ClientHello(ClientHello::new("")))
}

fn get(id: u32, key: &str) -> Vec<u8> {
    frame(id, &Message::Get(Get { key: key.to_owned().into() }))
}

/// Everything that the node says to `bytes` until it closes; it is the one that does.
fn answers_to(daemon: &Daemon, bytes: &[u8], half_closed: bool) -> Vec<(u32, Message)> {
    let mut stream = connect(daemon.at(daemon.ports().storage));
    // A node that has heard enough may close before it has everything.
    let _ = stream.write_all(bytes);
    if half_closed {
        let _ = stream.shutdown(Shutdown::Write);
    }
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(read) => answer.extend_from_slice(&chunk[..read]),
            // A reset, with our bytes unread.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
            Err(error) => panic!("the node neither closed nor reset the connection: {error}"),
        }
    }
    decoded(&answer)
}

fn decoded(bytes: &[u8]) -> Vec<(u32, Message)> {
    let mut reader = FrameReader::new();
    reader.admit_values();
    reader.feed(bytes);
    let next =
        || reader.next().expect("frames").map(|frame| (frame.header.request_id.0, Message::decode(&frame).unwrap()));
    std::iter::from_fn(next).collect()
}

/// A frame with sound checksums and some bytes of its header replaced.
fn sealed(at: usize, bytes: &[u8], body: &[u8]) -> Vec<u8> {
    let header = Header {
        opcode: Opcode::Get,
        request_id: RequestId(1),
        body_bytes: u32::try_from(body.len()).unwrap(),
        body_crc: crc32c(body),
    };
    let mut header = header.to_bytes();
    header[at..at + bytes.len()].copy_from_slice(bytes);
    let crc = crc32c(&header[..HEADER_BYTES - 4]);
    header[HEADER_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
    [&header[..], body].concat()
}

#[test]
fn what_is_no_request_is_refused_behind_the_answers_that_are_owed() {
    let daemon = started(2);
    let bystander = Bystander::beside(&daemon);
    let body = &get(1, "k")[HEADER_BYTES..];
    let sample = |opcode| samples().unwrap().into_iter().find(|sample| sample.message.opcode() == opcode).unwrap();
    let of_sample = |opcode| frame(1, &sample(opcode).message);
    let mut damaged = get(1, "k");
    damaged[HEADER_BYTES + 2] ^= 1;
    let mut damaged_header = get(1, "k");
    damaged_header[HEADER_BYTES - 1] ^= 1;
    let put_bytes = u32::try_from(17 * MIB).unwrap().to_le_bytes();
    let cases: [(&str, Vec<u8>, RefuseCode, &str); 14] = [
        ("a newer frame", sealed(1, &[9], body), RefuseCode::Protocol, "protocol version 9"),
        ("an unknown opcode", sealed(2, &[0x7f, 0x03], body), RefuseCode::Protocol, "opcode 0x037f"),
        ("flags", sealed(4, &[1], body), RefuseCode::Protocol, "reserved header bits"),
        ("a damaged header", damaged_header, RefuseCode::Protocol, "header checksum"),
        ("a damaged body", damaged, RefuseCode::Protocol, "Get checksum"),
        ("no magic", b"*1\r\n$4\r\nPING\r\n".repeat(9), RefuseCode::Protocol, "Redis"),
        ("a body of 17 MiB", sealed(8, &put_bytes, body), RefuseCode::Protocol, "exceeds"),
        ("bytes that follow", sealed(0, &[0xc7], &[body, b"x"].concat()), RefuseCode::Protocol, "1 bytes follow"),
        ("a short body", sealed(0, &[0xc7], &body[..2]), RefuseCode::Protocol, "ends early"),
        ("an answer", of_sample(Opcode::Value), RefuseCode::Unexpected, "Value came where a request is due"),
        ("a second handshake", hello(), RefuseCode::Unexpected, "ClientHello came"),
        ("a node's handshake", of_sample(Opcode::Hello), RefuseCode::Unexpected, "Hello came"),
        ("records", of_sample(Opcode::Records), RefuseCode::Unexpected, "Records came"),
        ("discovery", of_sample(Opcode::List), RefuseCode::Unexpected, "List came"),
    ];
    for (what, bytes, code, words) in cases {
        let owed = [hello(), get(7, "nothing:1"), get(8, "nothing:2"), get(9, "nothing:3")].concat();
        // Whatever comes behind is not run.
        let behind = frame(3, &put_of("not:run"));
        let answers = answers_to(&daemon, &[owed, bytes, behind].concat(), true);
        let ids: Vec<u32> = answers.iter().map(|(id, _)| *id).collect();
        assert_eq!(ids, [0, 7, 8, 9, 0], "{what}: {answers:?}");
        assert!(answers[1..4].iter().all(|(_, answer)| *answer == Message::Value(Value { item: None })), "{what}");
        is_refusal(&answers[4].1, code, words);
    }
    bystander.was_not_disturbed();
    assert_eq!(daemon.client().call(&["EXISTS", "not:run"]).unwrap(), Reply::Integer(0));
    let errors = counted(&daemon, "godwit_protocol_errors_total");
    assert_eq!(errors, 14, "each is counted");
    assert!(daemon.logged("panicked").is_empty());
}

fn put_of(key: &str) -> Message {
    Message::Put(Put {
        wait: Wait::default(),
        expiry_ms: 0,
        condition: Condition::Always,
        key: key.to_owned().into(),
        value: "v".into(),
    })
}

fn is_refusal(message: &Message, code: RefuseCode, words: &str) {
    let Message::Refuse(refuse) = message else { panic!("{message:?}") };
    assert_eq!(refuse.reason(), Some(code), "{refuse:?}");
    assert!(refuse.text.contains(words), "{refuse:?} does not say {words:?}");
}

#[test]
fn nothing_is_answered_before_the_handshake() {
    let daemon = started(1);
    let only_refusal = |bytes: &[u8], code, words: &str| {
        // Open and half-closed streams alike: it is the node that ends them.
        for half_closed in [false, true] {
            let answers = answers_to(&daemon, bytes, half_closed);
            assert_eq!(answers.len(), 1, "{words}: {answers:?}");
            is_refusal(&answers[0].1, code, words);
        }
    };
    only_refusal(&[get(1, "k"), put_frame()].concat(), RefuseCode::Unexpected, "Get came where ClientHello is due");
    let newer = ClientHello { protocol_min: 2, protocol_max: 9, name: String::new() };
    let newer = frame(0, &Message::ClientHello(newer));
    only_refusal(&[newer.clone(), newer, put_frame()].concat(), RefuseCode::Protocol, "speaks protocols 2 to 9");
    // A stranger cannot make the node wait for much.
    let announced = u32::try_from(CONTROL_BODY_BYTES_MAX + 1).unwrap();
    let large = Header { opcode: Opcode::Put, request_id: RequestId(1), body_bytes: announced, body_crc: 0 };
    only_refusal(&large.to_bytes(), RefuseCode::Protocol, "exceeds the 65536 allowed");
    assert_eq!(daemon.client().call(&["DBSIZE"]).unwrap(), Reply::Integer(0), "nothing was run");
}

fn put_frame() -> Vec<u8> {
    frame(2, &put_of("k"))
}

#[test]
fn requests_are_understood_however_their_bytes_arrive() {
    let daemon = started(2);
    let requests: Vec<u8> =
        [hello()].into_iter().chain((1..50).map(|id| get(id, &format!("k:{id}")))).flatten().collect();
    let mut stream = connect(daemon.at(daemon.ports().storage));
    stream.set_nodelay(true).unwrap();
    for piece in requests.chunks(7) {
        stream.write_all(piece).unwrap();
    }
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let ids: Vec<u32> = decoded(&answer).into_iter().map(|(id, _)| id).collect();
    assert_eq!(ids, (0..50).collect::<Vec<_>>());
}

#[test]
fn a_client_that_never_reads_is_held_to_a_bound() {
    let daemon = started(2);
    let mut store = client(&daemon);
    for key in keys(4) {
        store.put(&key, vec![b'v'; 64 * 1024]).unwrap();
    }
    let before = daemon.resident_bytes();
    let mut stream = connect(daemon.at(daemon.ports().storage));
    stream.write_all(&hello()).unwrap();
    stream.set_write_timeout(Some(std::time::Duration::from_millis(500))).unwrap();
    let requests: Vec<u8> = (1..5000).flat_map(|id| get(id, &format!("key:{}", id % 4))).collect();
    let stopped = (0..1_000).find_map(|_| stream.write_all(&requests).err());
    assert!(stopped.is_some(), "200 MB of requests were taken from a client that reads nothing");
    let grown = daemon.resident_bytes().saturating_sub(before);
    assert!(grown < 64 * 1024 * 1024, "the daemon grew by {grown} bytes");
    assert!(store.get("key:1").unwrap().is_some(), "others are served");
}

#[test]
fn what_was_acknowledged_survives_a_kill_in_the_middle_of_a_pipeline() {
    const KILLS: usize = 5;
    let mut daemon = started(2);
    let names = keys(8);
    // Of each key: increments that were acknowledged, and that were sent.
    let mut counts = vec![(0_i64, 0_i64); names.len()];
    let mut unknown = 0;
    for _ in 0..KILLS {
        let (mut store, working) = (client(&daemon), AtomicBool::new(false));
        thread::scope(|scope| {
            let (names, counts, working) = (&names, &mut counts, &working);
            let worker = scope.spawn(move || {
                loop {
                    let mut pipeline = store.pipeline();
                    for (name, count) in names.iter().zip(counts.iter_mut()) {
                        (0..50).for_each(|_| _ = pipeline.increment(name, 1));
                        count.1 += 50;
                    }
                    match pipeline.run() {
                        Ok(answers) => {
                            assert!(answers.iter().all(|answer| matches!(answer, Answer::Incremented(_))));
                            counts.iter_mut().for_each(|count| count.0 += 50);
                            working.store(true, Ordering::Relaxed);
                        }
                        Err(error) => return error,
                    }
                }
            });
            wait_for("the first pipeline", || working.load(Ordering::Relaxed).then_some(()));
            daemon.kill9();
            let error = worker.join().unwrap();
            assert!(error.ends_connection(), "{error}");
        });
        daemon.start();
        let mut store = client(&daemon);
        for (name, count) in names.iter().zip(&mut counts) {
            let found = store.increment(name, 0).unwrap().value;
            assert!((count.0..=count.1).contains(&found), "{name}: {found} of {count:?}");
            unknown += count.1 - count.0;
            *count = (found, found);
        }
    }
    assert!(unknown > 0, "no kill ever hit a pipeline: this test tests nothing");
    assert!(daemon.logged("ERROR").is_empty(), "{:?}", daemon.logged("ERROR"));
}

#[test]
fn a_port_that_speaks_something_else_is_named() {
    let daemon = started(1);
    let options = ConnectOptions { timeout: PATIENCE, ..ConnectOptions::default() };
    let admin = Client::connect_with(daemon.at(daemon.ports().admin), &options).unwrap_err();
    assert!(matches!(admin, ClientError::Unreadable(_) | ClientError::Broken(_)), "{admin}");
    let peers = Client::connect_with(daemon.at(daemon.ports().replication), &options).unwrap_err();
    assert!(matches!(&peers, ClientError::Refused(refuse) if !refuse.text.is_empty()), "{peers}");
    let nobody = TcpStream::connect(daemon.at(daemon.ports().cache)).is_err();
    let error = Client::connect_with(daemon.at(daemon.ports().cache), &options).unwrap_err();
    assert!(nobody && matches!(error, ClientError::Connect(_)), "{error}");
}
