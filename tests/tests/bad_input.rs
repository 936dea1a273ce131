//! Bytes from strangers on every port: each gets one error or the end of its connection, the process stays small, and an
//! ordinary client beside them notices nothing.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use net::ids::RequestId;
use net::wire::body::RefuseCode;
use net::wire::frame::FrameReader;
use net::wire::header::{HEADER_BYTES, Header, MAGIC};
use net::wire::message::Message;
use net::wire::opcode::Opcode;
use tests::process::attack::{Answer, Bystander, connect, send, send_and_stay};
use tests::process::{Choices, Client, Daemon, PATIENCE, Value, wait_for};

const DAEMON: &str = env!("CARGO_BIN_EXE_daemon-under-test");

/// What the process may grow by, whatever strangers send.
const GROWTH_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// What the logs of two cores may have opened meanwhile.
const LOG_FILES_MAX: usize = 4;

/// What speaks on a port.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Language {
    Wire,
    Resp,
    Http,
}

fn started() -> Daemon {
    let mut daemon = Daemon::new(DAEMON);
    daemon.set("CORES", 2).start();
    daemon
}

/// Every port that is served. (The cache's is not yet.)
fn ports(daemon: &Daemon) -> [(SocketAddr, Language); 4] {
    let ports = daemon.ports();
    [
        (daemon.at(ports.discovery), Language::Wire),
        (daemon.at(ports.replication), Language::Wire),
        (daemon.at(ports.storage), Language::Resp),
        (daemon.at(ports.admin), Language::Http),
    ]
}

/// Runs `attack` beside an ordinary client; afterwards the process is as small as before and has closed everything.
fn is_harmless(daemon: &mut Daemon, attack: impl FnOnce(&Daemon)) {
    let (memory, files) = (daemon.resident_bytes(), daemon.open_files());
    let bystander = Bystander::beside(daemon);
    attack(daemon);
    bystander.was_not_disturbed();
    assert_eq!(daemon.ended(), None, "the daemon runs");
    let grown = daemon.resident_bytes().saturating_sub(memory);
    assert!(grown < GROWTH_BYTES_MAX, "the daemon grew by {grown} bytes");
    wait_for("every connection to be closed", || (daemon.open_files() <= files + LOG_FILES_MAX).then_some(()));
    assert!(daemon.logged("ERROR").is_empty(), "{:?}", daemon.logged("ERROR"));
    assert!(daemon.logged("panicked").is_empty(), "{:?}", daemon.logged("panicked"));
}

/// The refusals in an answer of the wire protocol; nothing else may be in it.
fn refusals(answer: &Answer) -> Vec<(Option<RefuseCode>, String)> {
    let mut reader = FrameReader::new();
    reader.feed(&answer.bytes);
    let mut refusals = Vec::new();
    while let Some(frame) = reader.next().expect("frames") {
        match Message::decode(&frame).expect("a message") {
            Message::Refuse(refuse) => refusals.push((refuse.reason(), refuse.text)),
            other => panic!("a stranger was told {other:?}"),
        }
    }
    refusals
}

/// One error or nothing, then the end.
fn is_one_error_at_most(answer: &Answer, language: Language, what: &str) {
    assert!(answer.closed, "{what} on {language:?}: the connection stays open after {:?}", answer.text());
    match language {
        Language::Wire => assert!(refusals(answer).len() <= 1, "{what}: {:?}", refusals(answer)),
        // The first byte says what a client of the store speaks.
        Language::Resp if answer.bytes.first() == Some(&MAGIC) => {
            assert!(refusals(answer).len() == 1, "{what}: {:?}", refusals(answer));
        }
        Language::Resp => {
            let text = answer.text();
            assert!(text.lines().all(|line| line.starts_with("-ERR ")), "{what}: {text:?}");
            assert!(text.lines().count() <= 1, "{what}: {text:?}");
        }
        Language::Http => {
            let text = answer.text();
            assert!(text.is_empty() || text.starts_with("HTTP/1.1 4"), "{what}: {text:?}");
        }
    }
}

/// Bytes without a line end, so that a port of lines has at most one thing to say to them.
fn garbage(seed: u64, len: usize) -> Vec<u8> {
    let mut choices = Choices::new(seed);
    std::iter::repeat_with(|| choices.draw().to_le_bytes()).flatten().filter(|byte| *byte != b'\n').take(len).collect()
}

/// The beginning of a TLS 1.2 handshake: record header, ClientHello with a random, no session, one cipher.
fn client_hello() -> Vec<u8> {
    let mut body = vec![0x03, 0x03];
    body.extend_from_slice(&garbage(7, 32));
    body.extend_from_slice(&[0, 0, 2, 0xc0, 0x2f, 1, 0, 0, 0]);
    let len = u8::try_from(body.len()).unwrap();
    [&[0x16, 0x03, 0x01, 0, len + 4, 0x01, 0, 0, len][..], &body].concat()
}

/// A frame header that announces 2 GiB, its own checksum right or wrong.
fn huge_frame(sound: bool) -> Vec<u8> {
    let header = Header { opcode: Opcode::Records, request_id: RequestId(0), body_bytes: 2_147_483_647, body_crc: 0 };
    let mut bytes = header.to_bytes();
    if !sound {
        bytes[HEADER_BYTES - 1] ^= 1;
    }
    [&bytes[..], &garbage(3, 4096)].concat()
}

#[test]
fn foreign_protocols_get_one_error_or_the_end() {
    let mut daemon = started();
    is_harmless(&mut daemon, |daemon| {
        let http = b"GET / HTTP/1.1\r\nHost: example.org\r\nX-Header: value\r\n\r\n".to_vec();
        let post = b"POST /run HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nFLUSHALL\r\n".to_vec();
        let foreign = [
            ("garbage", garbage(1, 4096)),
            ("much garbage", garbage(2, 1024 * 1024)),
            ("HTTP", http.clone()),
            ("HTTP POST", post),
            ("TLS", client_hello()),
            ("zeros", vec![0; 4096]),
            ("a RESP bulk of 2 GiB", b"*2\r\n$3\r\nGET\r\n$2147483647\r\n".to_vec()),
            ("2147483647 RESP arguments", b"*2147483647\r\n$1\r\na\r\n".to_vec()),
            ("a negative RESP bulk", b"*1\r\n$-5\r\n".to_vec()),
            ("a RESP length without an end", [b"*1\r\n$".to_vec(), vec![b'1'; 100_000]].concat()),
            ("a frame of 2 GiB", huge_frame(true)),
            ("a damaged frame header", huge_frame(false)),
        ];
        for (what, bytes) in &foreign {
            for (addr, language) in ports(daemon) {
                let at_home = language == Language::Http && what.starts_with("HTTP");
                let answer = send(addr, bytes);
                if at_home {
                    assert!(answer.text().starts_with("HTTP/1.1 4"), "{what}: {:?}", answer.text());
                } else {
                    is_one_error_at_most(&answer, language, what);
                }
            }
        }
    });
}

#[test]
fn a_length_of_2_gib_is_refused_at_once_and_by_name() {
    let mut daemon = started();
    is_harmless(&mut daemon, |daemon| {
        // The streams stay open: it is the daemon that ends them, without waiting for what was announced.
        let storage = daemon.at(daemon.ports().storage);
        for (bytes, expected) in [
            (&b"*2147483647\r\n"[..], "-ERR Protocol error: invalid multibulk length\r\n"),
            (b"*2\r\n$3\r\nGET\r\n$2147483647\r\n", "-ERR Protocol error: invalid bulk length\r\n"),
            (b"*1\r\nPING\r\n", "-ERR Protocol error: expected '$', got 'P'\r\n"),
        ] {
            let answer = send_and_stay(storage, bytes);
            assert_eq!((answer.text().as_str(), answer.closed), (expected, true));
        }
        for (bytes, words) in [(huge_frame(true), "exceeds the 65536 allowed"), (huge_frame(false), "header checksum")]
        {
            let answer = send_and_stay(storage, &bytes);
            let told = refusals(&answer);
            assert!(answer.closed && told.len() == 1 && told[0].1.contains(words), "{told:?}");
        }
        for port in [daemon.ports().discovery, daemon.ports().replication] {
            for (bytes, words) in [
                (huge_frame(true), "body of 2147483647 bytes exceeds the 65536 allowed for Records"),
                (huge_frame(false), "header checksum is"),
                (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "HTTP"),
                (client_hello(), "TLS"),
                (b"*1\r\n$4\r\nPING\r\n".to_vec(), "Redis"),
            ] {
                let answer = send_and_stay(daemon.at(port), &bytes);
                assert!(answer.closed, "{words}");
                let told = refusals(&answer);
                assert_eq!(told.len(), 1, "{words}: {told:?}");
                assert_eq!(told[0].0, Some(RefuseCode::Protocol), "{told:?}");
                assert!(told[0].1.contains(words), "{told:?} does not say {words:?}");
                assert!(!daemon.logged(&told[0].1).is_empty(), "the operator reads it, too");
            }
        }
    });
}

#[test]
fn an_http_request_on_the_storage_port_is_closed_without_an_answer() {
    let daemon = started();
    let storage = daemon.at(daemon.ports().storage);
    for request in [
        &b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..],
        b"POST / HTTP/1.1\r\n\r\nSET stolen 1\r\n",
        b"Host: x\r\nSET stolen 1\r\n",
    ] {
        let answer = send_and_stay(storage, request);
        assert_eq!((answer.text().as_str(), answer.closed), ("", true));
    }
    assert_eq!(daemon.client().call(&["EXISTS", "stolen"]).unwrap(), Value::Integer(0));
}

#[test]
fn half_frames_hold_nobody_up() {
    let mut daemon = started();
    is_harmless(&mut daemon, |daemon| {
        let halves = |language| match language {
            Language::Wire => vec![vec![0xc7], huge_frame(true)[..HEADER_BYTES - 1].to_vec()],
            Language::Resp => vec![
                b"*2\r\n$3\r\nGE".to_vec(),
                b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$300000\r\nabc".to_vec(),
                b"PI".to_vec(),
                vec![0xc7],
                huge_frame(true)[..HEADER_BYTES - 1].to_vec(),
            ],
            Language::Http => vec![b"GET /metr".to_vec()],
        };
        let mut open = Vec::new();
        for (addr, language) in ports(daemon) {
            for half in halves(language) {
                for _ in 0..20 {
                    let mut stream = connect(addr);
                    stream.write_all(&half).unwrap();
                    open.push(stream);
                }
                // Half a frame and the end of the stream: no answer but an error.
                is_one_error_at_most(&send(addr, &half), language, "half a frame");
            }
        }
        // The peers' port does not wait for ever for somebody to introduce himself.
        let answer = send_and_stay(daemon.at(daemon.ports().replication), &[0xc7]);
        assert!(answer.closed && answer.bytes.is_empty(), "{answer:?}");
        assert_eq!(daemon.client().call(&["EXISTS", "k"]).unwrap(), Value::Integer(0), "half a SET is none");
    });
}

#[test]
fn one_byte_at_a_time_is_harmless() {
    let mut daemon = started();
    is_harmless(&mut daemon, |daemon| {
        let slow = |addr: SocketAddr, bytes: Vec<u8>| {
            let mut stream = connect(addr);
            for byte in bytes {
                if stream.write_all(&[byte]).is_err() {
                    break;
                }
                thread::sleep(Duration::from_millis(20));
            }
            stream
        };
        thread::scope(|scope| {
            for (addr, language) in ports(daemon) {
                for copy in 0..3 {
                    scope.spawn(move || {
                        let bytes = match language {
                            Language::Wire => huge_frame(true)[..HEADER_BYTES].to_vec(),
                            Language::Resp => {
                                let value = format!("{copy}{}", "v".repeat(60));
                                let mut bytes = Vec::new();
                                net::resp::encode_command(&["SET", &format!("slow:{copy}"), &value], &mut bytes);
                                bytes
                            }
                            Language::Http => b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".to_vec(),
                        };
                        let mut stream = slow(addr, bytes);
                        let mut answer = [0; 12];
                        match language {
                            // What the slow peer says in the end is judged as if it had come at once.
                            Language::Wire => assert!(matches!(stream.read(&mut answer), Ok(1..) | Err(_))),
                            Language::Resp => {
                                stream.read_exact(&mut answer[..5]).unwrap();
                                assert_eq!(&answer[..5], b"+OK\r\n");
                            }
                            Language::Http => {
                                stream.read_exact(&mut answer).unwrap();
                                assert_eq!(&answer, b"HTTP/1.1 200");
                            }
                        }
                    });
                }
            }
        });
        assert_eq!(daemon.client().call(&["STRLEN", "slow:2"]).unwrap(), Value::Integer(61));
    });
}

#[test]
fn a_storm_of_connections_that_close_at_once_leaves_nothing_behind() {
    let mut daemon = started();
    is_harmless(&mut daemon, |daemon| {
        for (addr, _) in ports(daemon) {
            for turn in 0..500 {
                let mut stream = connect(addr);
                if turn % 3 == 0 {
                    // Some say half a word first, so that the end comes with bytes unread.
                    let _ = stream.write_all(b"*1\r\n$4\r\nPI");
                }
            }
        }
        let mut client = daemon.client();
        wait_for("the connections to be forgotten", || {
            let Ok(Value::Bulk(info)) = client.call(&["INFO", "clients"]) else { panic!("INFO fails") };
            // This client and the bystander.
            String::from_utf8_lossy(&info).contains("connected_clients:2\r\n").then_some(())
        });
    });
}

#[test]
fn a_client_that_never_reads_is_held_to_a_bound() {
    let mut daemon = started();
    let value = vec![b'v'; 64 * 1024];
    assert_eq!(daemon.client().call(&[&b"SET"[..], b"k", &value]).unwrap(), Value::Simple("OK".into()));
    is_harmless(&mut daemon, |daemon| {
        let mut streams: Vec<TcpStream> = (0..4).map(|_| connect(daemon.at(daemon.ports().storage))).collect();
        // One request alone can ask for more than this process may grow by.
        let mut many = connect(daemon.at(daemon.ports().storage));
        let words: Vec<&str> = std::iter::once("MGET").chain(std::iter::repeat_n("k", 10_000)).collect();
        let mut request = Vec::new();
        net::resp::encode_command(&words, &mut request);
        many.write_all(&request).unwrap();
        for stream in &mut streams {
            // Ten million answers of 64 KiB are asked for; the daemon must stop to read long before it owes them.
            stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
            let requests = b"GET k\r\n".repeat(10_000);
            let stopped = (0..1_000).find_map(|_| stream.write_all(&requests).err());
            assert!(stopped.is_some(), "70 MB of requests were taken from a client that reads nothing");
        }
    });
}

#[test]
fn running_out_of_descriptors_neither_spins_nor_ends_the_daemon() {
    for backend in tests::process::backends() {
        let mut daemon = Daemon::new(DAEMON);
        daemon.set("IO_BACKEND", backend).launched_by(["/bin/sh", "-c", "ulimit -n 80 && exec \"$0\" \"$@\""]).start();
        let mut client = daemon.client();
        let addr = daemon.at(daemon.ports().storage);
        let streams: Vec<TcpStream> = (0..120).map(|_| connect(addr)).collect();
        let lines = daemon.log().lines().count();
        let used = cpu_ticks(&daemon);
        let until = Instant::now() + Duration::from_secs(1);
        while Instant::now() < until {
            assert_eq!(client.call(&["PING"]).unwrap(), Value::Simple("PONG".into()), "who is in stays in");
            thread::sleep(Duration::from_millis(20));
        }
        let logged = daemon.log().lines().count() - lines;
        assert!(logged < 50, "{backend}: {logged} lines in a second");
        let used = cpu_ticks(&daemon) - used;
        assert!(used < 50, "{backend}: {used} of 100 ticks of a CPU were spent on refusing");
        drop(streams);
        wait_for("new connections to be served again", || {
            let mut late = Client::connect(addr, PATIENCE).ok()?;
            (late.call(&["PING"]).ok()? == Value::Simple("PONG".into())).then_some(())
        });
    }
}

/// CPU time of the process in ticks of 10 ms.
fn cpu_ticks(daemon: &Daemon) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", daemon.pid())).unwrap();
    let after_name = stat.rsplit(") ").next().unwrap();
    let fields: Vec<&str> = after_name.split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}
