//! Listening sockets of both real siblings.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::{StreamKind, sockopt};

/// Connections the kernel holds that were not accepted yet; it lowers this to `somaxconn`.
const BACKLOG: i32 = 4096;

/// Addresses that loops of this process share, and how many do.
fn shared_addresses() -> MutexGuard<'static, HashMap<SocketAddr, usize>> {
    static SHARED: OnceLock<Mutex<HashMap<SocketAddr, usize>>> = OnceLock::new();
    SHARED.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner)
}

/// A listening socket and its bound address. Accepted streams inherit the options.
pub(crate) struct Listening {
    pub(crate) socket: Socket,
    pub(crate) addr: SocketAddr,
    shared: bool,
}

impl Listening {
    pub(crate) fn bind(addr: SocketAddr, kind: StreamKind, shared: bool) -> io::Result<Self> {
        let mut addresses = shared_addresses();
        if shared && !addresses.contains_key(&addr) && addr.port() != 0 {
            // With SO_REUSEPORT a second daemon would be let in and take half of the connections. The first loop finds
            // out.
            open(addr, kind, false)?;
        }
        let socket = open(addr, kind, shared)?;
        let addr = socket.local_addr()?.as_socket().ok_or_else(|| io::Error::other("listener without an address"))?;
        if shared {
            *addresses.entry(addr).or_default() += 1;
        }
        Ok(Listening { socket, addr, shared })
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        if self.shared {
            let mut addresses = shared_addresses();
            if let Some(count) = addresses.get_mut(&self.addr) {
                *count -= 1;
                if *count == 0 {
                    addresses.remove(&self.addr);
                }
            }
        }
    }
}

fn open(addr: SocketAddr, kind: StreamKind, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // A restart must not wait for the last run's TIME_WAIT; a live listener still conflicts.
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    sockopt::apply(&SockRef::from(&socket), kind)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}
