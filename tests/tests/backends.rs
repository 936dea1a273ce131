//! Both reactors serve the same; where io_uring is refused the daemon says so and uses the other one.

use tests::process::{Client, Daemon, Value, backends, is_installed, skip};

const DAEMON: &str = env!("CARGO_BIN_EXE_daemon-under-test");

fn ok() -> Value {
    Value::Simple("OK".into())
}

fn bulk(text: &str) -> Value {
    Value::Bulk(text.as_bytes().to_vec())
}

/// A little of everything, over one connection.
fn serves_commands(client: &mut Client) {
    for (command, expected) in [
        (&["PING"][..], Value::Simple("PONG".into())),
        (&["SET", "k", "v"], ok()),
        (&["GET", "k"], bulk("v")),
        (&["MSET", "a", "1", "b", "2", "c", "3"], ok()),
        (&["MGET", "a", "none", "c"], Value::Array(vec![bulk("1"), Value::Null, bulk("3")])),
        (&["INCR", "a"], Value::Integer(2)),
        (&["DEL", "a", "b", "none"], Value::Integer(2)),
        (&["EXISTS", "a", "c", "k"], Value::Integer(2)),
        (&["SET", "k", "w", "NX"], Value::Null),
        (&["EXPIRE", "k", "100"], Value::Integer(1)),
        (&["TTL", "k"], Value::Integer(100)),
        (&["DBSIZE"], Value::Integer(2)),
        (&["NOPE"], Value::Error("ERR unknown command 'NOPE', with args beginning with: ".into())),
    ] {
        assert_eq!(client.call(command).unwrap(), expected, "{command:?}");
    }
    for turn in 0..200 {
        client.queue(&["SET", &format!("p{turn}"), &"v".repeat(turn * 200)]);
        client.queue(&["STRLEN", &format!("p{turn}")]);
    }
    client.flush().unwrap();
    for turn in 0..200 {
        assert_eq!(client.receive().unwrap(), ok());
        assert_eq!(client.receive().unwrap(), Value::Integer(turn * 200));
    }
}

#[test]
fn the_same_commands_are_served_over_each_reactor_on_one_core_and_on_several() {
    for backend in backends() {
        for cores in [1, 3] {
            let mut daemon = Daemon::new(DAEMON);
            daemon.set("IO_BACKEND", backend).set("CORES", cores).start();
            assert_eq!(daemon.status("io_backend"), backend);
            assert_eq!(daemon.status("cores"), cores);
            serves_commands(&mut daemon.client());
            daemon.kill9();
            daemon.start();
            assert_eq!(daemon.client().call(&["DBSIZE"]).unwrap(), Value::Integer(202));
            assert_eq!(daemon.terminate().code(), Some(0), "{backend} on {cores}");
        }
    }
}

#[test]
fn a_daemon_that_says_it_is_ready_serves_although_nobody_has_written_yet() {
    for backend in backends() {
        for cores in [1, 2, 1, 2] {
            let mut daemon = Daemon::new(DAEMON);
            daemon.set("IO_BACKEND", backend).set("CORES", cores);
            for _ in 0..3 {
                daemon.start();
                assert_eq!(daemon.client().call(&["PING"]).unwrap(), Value::Simple("PONG".into()));
                daemon.kill9();
            }
        }
    }
}

#[test]
fn without_being_told_the_daemon_uses_io_uring_where_it_works() {
    let mut daemon = Daemon::new(DAEMON);
    daemon.start();
    assert_eq!(daemon.status("io_backend"), backends()[0]);
    assert_eq!(daemon.logged("io_uring is refused here").is_empty(), backends().len() == 2);
}

#[test]
fn a_log_written_over_one_reactor_is_read_over_the_other() {
    let mut daemon = Daemon::new(DAEMON);
    for (turn, backend) in backends().into_iter().chain(backends()).enumerate() {
        daemon.set("IO_BACKEND", backend).start();
        let mut client = daemon.client();
        assert_eq!(client.call(&["INCR", "starts"]).unwrap(), Value::Integer(i64::try_from(turn).unwrap() + 1));
        daemon.kill9();
    }
}

/// Runs `test` with a daemon to which the kernel refuses io_uring by EPERM, and one by ENOSYS.
fn where_io_uring_is_refused(test: impl Fn(&mut Daemon)) {
    if !is_installed("python3") {
        skip("python3");
        return;
    }
    for errno in [libc::EPERM, libc::ENOSYS] {
        let mut daemon = Daemon::new(DAEMON);
        let launcher = include_str!("../src/process/without_io_uring.py");
        daemon.launched_by(["python3", "-c", launcher, &errno.to_string()]);
        test(&mut daemon);
    }
}

#[test]
fn where_io_uring_is_refused_the_daemon_says_so_and_serves_over_epoll() {
    where_io_uring_is_refused(|daemon| {
        daemon.set("CORES", 2).start();
        let lines = daemon.logged("io_uring is refused here; using epoll");
        assert_eq!(lines.len(), 1, "{}", daemon.log());
        assert!(lines[0].contains(" WARN ") && lines[0].contains("ring set-up"), "{}", lines[0]);
        assert_eq!(daemon.status("io_backend"), "epoll");
        serves_commands(&mut daemon.client());
        assert_eq!(daemon.terminate().code(), Some(0));
    });
}

#[test]
fn where_io_uring_is_refused_asking_for_it_is_an_error() {
    where_io_uring_is_refused(|daemon| {
        let exit = daemon.set("IO_BACKEND", "uring").run_to_its_end(&[]);
        assert_eq!(exit.status.code(), Some(1), "{}", exit.stderr);
        let line = exit.one_line();
        assert!(line.contains("ERROR"), "{line}");
        assert!(line.contains("IO_BACKEND=uring, but io_uring does not work here"), "{line}");
        assert!(line.contains("set IO_BACKEND=auto or epoll"), "{line}");
        assert!(!daemon.data_dir().exists(), "a daemon that does not start leaves no directory");
    });
}
