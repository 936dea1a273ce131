//! Restarts of a real daemon: a clean one begins at the checkpoint, every other one reads the logs, and both serve the same.

use std::fs;
use std::time::Duration;

use tests::process::{Daemon, Value, backends, wait_for};

const DAEMON: &str = env!("CARGO_BIN_EXE_daemon-under-test");

const KEYS: usize = 2_000;

fn fill(daemon: &Daemon, value: &str) {
    let mut client = daemon.client();
    for key in 0..KEYS {
        client.queue(&["SET".to_owned(), format!("key:{key}"), format!("{value}:{key}")]);
    }
    client.flush().expect("a connection");
    for _ in 0..KEYS {
        assert_eq!(client.receive().expect("an answer"), Value::Simple("OK".into()));
    }
}

fn check(daemon: &Daemon, value: &str) {
    let mut client = daemon.client();
    for key in 0..KEYS {
        client.queue(&["GET".to_owned(), format!("key:{key}")]);
    }
    client.flush().expect("a connection");
    for key in 0..KEYS {
        assert_eq!(client.receive().expect("an answer"), Value::Bulk(format!("{value}:{key}").into()), "key:{key}");
    }
    let keys = client.call(&["DBSIZE"]).expect("an answer");
    assert_eq!(keys, Value::Integer(i64::try_from(KEYS).unwrap()));
}

fn checkpoints(daemon: &Daemon) -> usize {
    let names = fs::read_dir(daemon.data_dir()).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter(|name| matches!(wal::file_kind(&name.to_string_lossy()), wal::FileKind::Checkpoint { .. })).count()
}

/// How often starts said so, since the beginning.
fn used(daemon: &Daemon) -> usize {
    daemon.logged("started from the checkpoint").len()
}

#[test]
fn a_clean_restart_begins_at_the_checkpoint_and_a_kill_reads_the_logs() {
    for backend in backends() {
        for (durability, path) in [("fsync", "mmap"), ("os", "mmap"), ("fsync", "direct")] {
            let mut daemon = Daemon::new(DAEMON);
            daemon.set("CORES", 2).set("IO_BACKEND", backend).set("DURABILITY", durability).set("COMMIT_PATH", path);
            daemon.start();
            fill(&daemon, "first");
            assert!(daemon.terminate().success());
            assert_eq!(checkpoints(&daemon), 2, "one for each core");
            daemon.start();
            assert_eq!((used(&daemon), checkpoints(&daemon)), (1, 0));
            check(&daemon, "first");
            fill(&daemon, "second");
            daemon.kill9();
            assert_eq!(checkpoints(&daemon), 0);
            daemon.start();
            assert_eq!(used(&daemon), 1, "what a killed run leaves is read");
            check(&daemon, "second");
            assert!(daemon.terminate().success());
            daemon.start();
            assert_eq!(used(&daemon), 2);
            check(&daemon, "second");
            assert_eq!(daemon.logged("ERROR"), [""; 0]);
        }
    }
}

#[test]
fn another_number_of_cores_reads_the_logs() {
    let mut daemon = Daemon::new(DAEMON);
    daemon.set("CORES", 1).start();
    fill(&daemon, "value");
    for cores in [2, 1, 3] {
        assert!(daemon.terminate().success());
        daemon.set("CORES", cores).start();
        check(&daemon, "value");
    }
    assert_eq!(used(&daemon), 0);
    let said = daemon.logged("the checkpoint is not used");
    assert_eq!(said.len(), 3, "{said:#?}");
    assert!(said.iter().all(|line| line.contains("this run has")), "{said:#?}");
}

#[test]
fn a_node_whose_clients_never_pause_stops_with_a_checkpoint() {
    let mut daemon = Daemon::new(DAEMON);
    daemon.set("CORES", 2).start();
    let addr = daemon.at(daemon.ports().storage);
    let busy: Vec<_> = (0..4)
        .map(|number| {
            std::thread::spawn(move || {
                let mut client = tests::process::Client::connect(addr, Duration::from_secs(20)).expect("a connection");
                let mut done: u64 = 0;
                while client.call(&["SET".to_owned(), format!("busy:{number}"), done.to_string()]).is_ok() {
                    done += 1;
                }
                // The last one that was answered; the one after it may have happened.
                (number, done)
            })
        })
        .collect();
    wait_for("all clients to be busy", || {
        let originated = |core| daemon.metric(&format!("godwit_records_originated_total{{core=\"{core}\"}}"));
        (originated(0) + originated(1) > 200).then_some(())
    });
    assert!(daemon.terminate().success());
    let written: Vec<(u32, u64)> = busy.into_iter().map(|thread| thread.join().expect("no panic")).collect();
    assert_eq!(checkpoints(&daemon), 2);
    daemon.start();
    assert_eq!(used(&daemon), 1);
    let mut client = daemon.client();
    for (number, done) in written {
        let found = client.call(&["GET".to_owned(), format!("busy:{number}")]);
        let Ok(Value::Bulk(found)) = found else { panic!("{found:?}") };
        let found: u64 = String::from_utf8_lossy(&found).parse().expect("a number");
        assert!(found + 1 >= done, "{found} is there, {} was acknowledged", done - 1);
    }
}
