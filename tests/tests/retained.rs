//! What is kept on the disk for a member that is away is counted, said, and given up when it has come back.

use std::net::SocketAddr;

use tests::process::{Daemon, Value, wait_for};

const DAEMON: &str = env!("CARGO_BIN_EXE_daemon-under-test");

const KEYS: usize = 64;
const VALUE_BYTES: usize = 16 * 1024;

/// Writes each key so many times.
fn overwrite(daemon: &Daemon, times: usize) {
    let mut client = daemon.client();
    let value = vec![b'v'; VALUE_BYTES];
    for _ in 0..times {
        for key in 0..KEYS {
            client.queue(&[b"SET", format!("key:{key}").as_bytes(), &value]);
        }
        client.flush().unwrap();
        (0..KEYS).for_each(|_| assert_eq!(client.receive().unwrap(), Value::Simple("OK".into())));
    }
}

fn retained(daemon: &Daemon) -> u64 {
    daemon.metric("godwit_retained_bytes")
}

#[test]
fn files_of_an_earlier_run_are_kept_for_a_member_that_is_away_and_no_longer() {
    let mut daemons = ["sfo", "nyc"].map(|_| Daemon::new(DAEMON));
    let addresses: Vec<SocketAddr> = daemons.iter().map(|daemon| daemon.at(daemon.ports().discovery)).collect();
    for (at, daemon) in daemons.iter_mut().enumerate() {
        daemon.set("REGION", ["sfo", "nyc"][at]).set("DISCOVERY_PEERS", addresses[1 - at]).set("CORES", 1);
        daemon.set("SEGMENT_BYTES", "1MiB").set("WAL_RETAIN", "1MiB").start();
    }
    let [here, there] = &mut daemons;
    wait_for("the other region to follow", || {
        here.status("status")["peers"][0]["followed"].as_bool().unwrap().then_some(())
    });
    overwrite(here, 1);
    assert_eq!(retained(here), 0);
    assert!(there.terminate().success());
    // What this run writes now, nobody else has. The next one overwrites all of it.
    overwrite(here, 4);
    assert!(here.terminate().success());
    here.start();
    overwrite(here, 8);
    wait_for("files to be kept for the other region", || (retained(here) > 512 << 10).then_some(()));
    let said = wait_for("a line that says for whom", || {
        here.logged("files in which nothing counts any more are kept").first().cloned()
    });
    let members = here.status("status")["members"].clone();
    let other = members.as_array().unwrap().iter().find(|member| member["region"] == "nyc").unwrap();
    assert!(said.contains(other["node"].as_str().unwrap()), "{said} does not name {other}");
    there.start();
    wait_for("the files to go", || (retained(here) == 0).then_some(()));
    assert_eq!(there.client().call(&["DBSIZE"]).unwrap(), Value::Integer(KEYS.try_into().unwrap()));
}
