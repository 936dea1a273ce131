//! The admin port while a start reads the log, and after.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use engine::control::status::StatusBoard;
use engine::monitor::http::{Monitor, serve};
use engine::node::NodeFacts;
use engine::startup::Progress;

/// Status and body.
fn get(addr: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(addr).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

#[test]
fn a_start_is_alive_and_says_how_far_it_is_until_the_node_runs() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let monitor = Monitor::default();
    let router = monitor.router();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(serve(vec![listener], router, std::future::pending::<()>()));
    });
    assert_eq!(get(addr, "/readyz"), (503, "recovering\n".to_owned()));
    monitor.start().tell(Progress::Reading { done: 300, segments: 812 }, Duration::ZERO);
    let so_far = (503, "recovering: 36 % of 812 segments read\n".to_owned());
    for path in ["/readyz", "/metrics", "/api/status", "/api/conflicts"] {
        assert_eq!(get(addr, path), so_far, "{path}");
    }
    assert_eq!(get(addr, "/livez"), (200, "ok\n".to_owned()));

    let status = StatusBoard::default();
    let facts = NodeFacts {
        region: "here".to_owned(),
        node: wal::NodeId(1),
        incarnation: wal::Incarnation(2),
        cores: 1,
        durability: engine::node::Durability::Fsync,
        io_backend: "epoll".to_owned(),
        storage_port: 1,
        started_unix_ms: 1,
        gauges: vec![Arc::default()],
        slow_log: Default::default(),
        lost: Default::default(),
        holders: Default::default(),
        residency: Default::default(),
    };
    monitor.run(Arc::new(facts), status.clone());
    assert_eq!(get(addr, "/readyz"), (503, "the log is not open yet\n".to_owned()));
    status.write(|status| status.ready = true);
    assert_eq!(get(addr, "/readyz"), (200, "ok\n".to_owned()));
    let (code, metrics) = get(addr, "/metrics");
    assert!(code == 200 && metrics.contains("godwit_ready 1"), "{code} {metrics}");
    assert_eq!(get(addr, "/api/status").0, 200);
    let (code, conflicts) = get(addr, "/api/conflicts");
    assert!(code == 200 && conflicts.contains("\"conflicts\":[]"), "{code} {conflicts}");
}
