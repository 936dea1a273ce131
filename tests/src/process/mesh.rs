//! Several daemons that are each other's peers.

use std::net::SocketAddr;

use super::{Daemon, wait_for};

/// Nodes in these regions with these settings, each the peer of all others, once each follows every other and has said how far.
///
/// # Panics
/// If they do not come up in time.
#[must_use]
pub fn mesh<const N: usize>(binary: &str, regions: [&str; N], settings: &[(&'static str, &str)]) -> [Daemon; N] {
    let mut daemons = regions.map(|_| Daemon::new(binary));
    let addresses: Vec<SocketAddr> = daemons.iter().map(|daemon| daemon.at(daemon.ports().discovery)).collect();
    for (at, daemon) in daemons.iter_mut().enumerate() {
        let others = addresses.iter().enumerate().filter(|(other, _)| *other != at);
        let others: Vec<String> = others.map(|(_, address)| address.to_string()).collect();
        daemon.set("REGION", regions[at]).set("DISCOVERY_PEERS", others.join(",")).set("SEGMENT_BYTES", "1MiB");
        for (key, value) in settings {
            daemon.set(key, value);
        }
        daemon.start();
    }
    for daemon in &daemons {
        wait_for("every region to follow every other", || {
            let peers = daemon.status("status")["peers"].clone();
            let follows = |peer: &&serde_json::Value| {
                peer["followed"] == true && peer["following"] == true && peer["acknowledged"] != 0
            };
            (peers.as_array()?.iter().filter(follows).count() == N - 1).then_some(())
        });
    }
    daemons
}
