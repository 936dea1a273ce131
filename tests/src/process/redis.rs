//! A Redis to compare with, and what `.ci/packages` fetched for tests of clients.

use std::fs::File;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::{own_address, wait_for};

/// Where .ci/packages puts what does not come from Debian's packages.
#[must_use]
pub fn clients() -> PathBuf {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/clients");
    std::env::var_os("GODWIT_CLIENTS_DIR").map_or_else(default, PathBuf::from)
}

/// A Redis without persistence, on an address of its own, that ends with the test.
#[derive(Debug)]
pub struct Redis {
    child: Child,
    addr: SocketAddr,
    _directory: tempfile::TempDir,
}

impl Redis {
    /// Starts `redis-server` and waits until it listens.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start() -> Redis {
        let host = IpAddr::from(own_address());
        let free = TcpListener::bind((host, 0)).expect("a free port");
        let addr = free.local_addr().expect("the port is bound");
        drop(free);
        let directory = tempfile::tempdir().expect("a temporary directory");
        let log = File::create(directory.path().join("log")).expect("a file in the temporary directory");
        let (host, port) = (addr.ip().to_string(), addr.port().to_string());
        let settings = ["--bind", &host, "--port", &port, "--save", "", "--appendonly", "no", "--databases", "1"];
        let mut command = Command::new("redis-server");
        command.args(settings).current_dir(directory.path()).stdin(Stdio::null()).stdout(log);
        let child = command.spawn().unwrap_or_else(|error| panic!("redis-server does not start: {error}"));
        let redis = Redis { child, addr, _directory: directory };
        wait_for("Redis to listen", || TcpStream::connect(addr).ok());
        redis
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
