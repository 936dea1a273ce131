//! What the doctor looks at: files below /proc/sys, limits, io_uring, and what the node on this host says of its peers.

use std::fs;
use std::net::SocketAddr;

use engine::monitor::http::StatusReply;

use crate::members;

/// The three numbers of `tcp_rmem` and `tcp_wmem`: least, at first, most; in bytes.
pub type Buffer = [u64; 3];

/// All of it; `None` is what could not be read.
#[derive(Clone, Debug)]
pub struct Facts {
    /// `net.ipv4.tcp_rmem`.
    pub tcp_rmem: Option<Buffer>,
    /// `net.ipv4.tcp_wmem`.
    pub tcp_wmem: Option<Buffer>,
    /// `net.ipv4.tcp_slow_start_after_idle`.
    pub slow_start_after_idle: Option<u64>,
    /// `net.ipv4.tcp_mtu_probing`.
    pub mtu_probing: Option<u64>,
    /// `net.ipv4.tcp_available_congestion_control`.
    pub congestion_available: Option<Vec<String>>,
    /// `net.ipv4.tcp_allowed_congestion_control`: what a process without privileges may choose.
    pub congestion_allowed: Option<Vec<String>>,
    /// `kernel.io_uring_disabled`.
    pub io_uring_disabled: Option<u64>,
    /// Why io_uring does not work for this user here; `None` if it does.
    pub io_uring_refused: Option<String>,
    /// Files that the node, or this process, may open.
    pub open_files: Option<Limit>,
    /// Bytes that it may lock in memory.
    pub locked_bytes: Option<Limit>,
    /// The node on this host, or why there is none.
    pub node: Result<Node, String>,
}

/// A limit of a process: soft and hard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// What holds now; `u64::MAX` is no limit.
    pub soft: u64,
    /// What it may be raised to.
    pub hard: u64,
}

/// What a running node says.
#[derive(Clone, Debug, Default)]
pub struct Node {
    /// Its region.
    pub region: String,
    /// `uring` or `epoll`.
    pub io_backend: String,
    /// Its peers.
    pub peers: Vec<Peer>,
}

/// A peer of the node.
#[derive(Clone, Debug, Default)]
pub struct Peer {
    /// Its region, or its address if it never said hello.
    pub name: String,
    /// The measured round-trip time in microseconds.
    pub rtt_us: Option<u64>,
}

impl Facts {
    /// Reads everything. Nothing is changed.
    #[must_use]
    pub fn gather(admin: SocketAddr) -> Facts {
        let reply = members::status(admin).map_err(|error| error.to_string());
        // The node's own limits if it is a process of this host, else those that it would inherit from here.
        let limits = reply.as_ref().ok().and_then(|reply| limits_of_node(reply.pid));
        let limits = limits.or_else(|| fs::read_to_string("/proc/self/limits").ok());
        let limit = |name: &str| limits.as_deref().and_then(|text| limit(text, name));
        Facts {
            tcp_rmem: sysctl("net/ipv4/tcp_rmem").and_then(|text| buffer(&text)),
            tcp_wmem: sysctl("net/ipv4/tcp_wmem").and_then(|text| buffer(&text)),
            slow_start_after_idle: number("net/ipv4/tcp_slow_start_after_idle"),
            mtu_probing: number("net/ipv4/tcp_mtu_probing"),
            congestion_available: words("net/ipv4/tcp_available_congestion_control"),
            congestion_allowed: words("net/ipv4/tcp_allowed_congestion_control"),
            io_uring_disabled: number("kernel/io_uring_disabled"),
            io_uring_refused: net::reactor::uring::probe().err().map(|refused| refused.to_string()),
            open_files: limit("Max open files"),
            locked_bytes: limit("Max locked memory"),
            node: reply.map(node),
        }
    }
}

fn sysctl(path: &str) -> Option<String> {
    fs::read_to_string(format!("/proc/sys/{path}")).ok()
}

fn number(path: &str) -> Option<u64> {
    sysctl(path)?.trim().parse().ok()
}

fn words(path: &str) -> Option<Vec<String>> {
    Some(sysctl(path)?.split_whitespace().map(str::to_owned).collect())
}

fn buffer(text: &str) -> Option<Buffer> {
    let numbers: Vec<u64> = text.split_whitespace().map_while(|word| word.parse().ok()).collect();
    numbers.try_into().ok()
}

/// One row of `/proc/PID/limits`: name, soft, hard, unit.
fn limit(text: &str, name: &str) -> Option<Limit> {
    let row = text.lines().find_map(|line| line.strip_prefix(name))?;
    let mut words = row.split_whitespace();
    let mut next = || match words.next()? {
        "unlimited" => Some(u64::MAX),
        word => word.parse().ok(),
    };
    Some(Limit { soft: next()?, hard: next()? })
}

/// The limits of the process with the node's number, if it is one: a node on another host has a number that means nothing here.
fn limits_of_node(pid: u32) -> Option<String> {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    if !name.starts_with("godwit") {
        return None;
    }
    fs::read_to_string(format!("/proc/{pid}/limits")).ok()
}

fn node(reply: StatusReply) -> Node {
    let peers = reply.status.peers.into_iter().map(|peer| Peer {
        name: if peer.region.is_empty() { peer.address } else { peer.region },
        rtt_us: peer.rtt_us,
    });
    Node { region: reply.region, io_backend: reply.io_backend, peers: peers.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_and_buffers_are_read_as_the_kernel_writes_them() {
        let text = "Limit                     Soft Limit           Hard Limit           Units     \n\
                    Max open files            1024                 1048576              files     \n\
                    Max locked memory         unlimited            unlimited            bytes     \n";
        assert_eq!(limit(text, "Max open files"), Some(Limit { soft: 1024, hard: 1_048_576 }));
        assert_eq!(limit(text, "Max locked memory"), Some(Limit { soft: u64::MAX, hard: u64::MAX }));
        assert_eq!(limit(text, "Max stack size"), None);
        assert_eq!(buffer("4096\t131072\t6291456\n"), Some([4096, 131_072, 6_291_456]));
        assert_eq!(buffer("4096 131072"), None);
        assert_eq!(buffer("a b c"), None);
    }

    #[test]
    fn this_host_can_be_looked_at_without_a_node() {
        let facts = Facts::gather("127.21.255.254:1".parse().unwrap());
        assert!(facts.tcp_wmem.is_some() && facts.congestion_available.is_some() && facts.open_files.is_some());
        assert!(facts.node.unwrap_err().contains("127.21.255.254:1"));
    }
}
