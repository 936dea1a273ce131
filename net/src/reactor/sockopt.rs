//! Socket options by kind of stream, for both real siblings. FACTS: never SO_SNDBUF or SO_RCVBUF, they end autotuning.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use super::StreamKind;

/// A mesh peer that acknowledges nothing for this long is given up; our own heartbeats judge long before.
const MESH_USER_TIMEOUT: Duration = Duration::from_secs(10);
/// Idle time before the first keepalive probe on a mesh stream, and between probes.
const MESH_KEEPALIVE: Duration = Duration::from_secs(5);
/// Idle probes that go unanswered before a mesh stream is given up; [`MESH_USER_TIMEOUT`] may end it earlier.
const MESH_KEEPALIVE_PROBES: u32 = 3;
/// Bytes that a stream of discovery holds unsent in the kernel. They are few, so that what matters now is not behind much else.
const DISCOVERY_NOTSENT_LOWAT_BYTES: u32 = 16 * 1024;
/// The same for replication: a batch. A send completes only when less is left, so that the sender can still choose what goes
/// next, and yet the kernel never runs dry while the loop is busy.
const REPLICATION_NOTSENT_LOWAT_BYTES: u32 = 256 * 1024;

/// What [`StreamKind`] asks of TCP_NOTSENT_LOWAT; `None` for clients, which are near.
fn notsent_lowat(kind: StreamKind) -> Option<u32> {
    match kind {
        StreamKind::Client => None,
        StreamKind::Discovery => Some(DISCOVERY_NOTSENT_LOWAT_BYTES),
        StreamKind::Replication => Some(REPLICATION_NOTSENT_LOWAT_BYTES),
    }
}

/// Sets the options of `kind`. On a listener they are inherited by the accepted streams.
///
/// # Errors
/// If TCP_NODELAY or one of the mesh options is refused; bbr is optional (the host's own choice stays).
pub fn apply(socket: &SockRef<'_>, kind: StreamKind) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    if let Some(bytes) = notsent_lowat(kind) {
        // Not every kernel has the module, nor every host allows it; `godwit doctor` has the price of not having it.
        let _ = socket.set_tcp_congestion(b"bbr");
        socket.set_tcp_keepalive(
            &TcpKeepalive::new()
                .with_time(MESH_KEEPALIVE)
                .with_interval(MESH_KEEPALIVE)
                .with_retries(MESH_KEEPALIVE_PROBES),
        )?;
        socket.set_tcp_user_timeout(Some(MESH_USER_TIMEOUT))?;
        socket.set_tcp_notsent_lowat(bytes)?;
    }
    Ok(())
}

/// CS1, "lower effort" (RFC 3662), in the byte that carries it.
const LOWER_EFFORT_TOS: u32 = 8 << 2;

/// Marks what is sent on a stream as what may wait. A path that does not look at that, or a kernel that does not take it, costs nothing.
pub(crate) fn give_way(socket: &SockRef<'_>) {
    let is_v6 = socket.domain().is_ok_and(|domain| domain == Domain::IPV6);
    let _ = if is_v6 { socket.set_tclass_v6(LOWER_EFFORT_TOS) } else { socket.set_tos_v4(LOWER_EFFORT_TOS) };
}

/// A new stream socket (close-on-exec, blocking) with the options of `kind`, bound to `local` if given.
pub(crate) fn outgoing(local: Option<IpAddr>, to: SocketAddr, kind: StreamKind) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    apply(&SockRef::from(&socket), kind)?;
    if let Some(ip) = local {
        socket.bind(&SocketAddr::new(ip, 0).into())?;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outgoing_streams_bind_the_source_address() {
        let to: SocketAddr = "127.0.0.1:9".parse().unwrap();
        let socket = outgoing(Some("127.0.0.9".parse().unwrap()), to, StreamKind::Replication).unwrap();
        assert_eq!(socket.local_addr().unwrap().as_socket().unwrap().ip(), "127.0.0.9".parse::<IpAddr>().unwrap());
    }
}
