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
/// Bytes a mesh stream holds unsent in the kernel: a send completes only when they are few, so that the sender can
/// still choose what goes next. 128–256 KiB on bulk streams.
const MESH_NOTSENT_LOWAT_BYTES: u32 = 128 * 1024;

/// Sets the options of `kind`. On a listener they are inherited by the accepted streams.
///
/// # Errors
/// If TCP_NODELAY or one of the mesh options is refused; bbr is optional (cubic stays).
pub fn apply(socket: &SockRef<'_>, kind: StreamKind) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    if kind == StreamKind::Mesh {
        // Not every kernel has the module; FACTS has the price of not having it.
        let _ = socket.set_tcp_congestion(b"bbr");
        socket.set_tcp_keepalive(
            &TcpKeepalive::new().with_time(MESH_KEEPALIVE).with_interval(MESH_KEEPALIVE).with_retries(3),
        )?;
        socket.set_tcp_user_timeout(Some(MESH_USER_TIMEOUT))?;
        socket.set_tcp_notsent_lowat(MESH_NOTSENT_LOWAT_BYTES)?;
    }
    Ok(())
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
    fn accepted_streams_inherit_the_options_of_the_listener() {
        for kind in [StreamKind::Client, StreamKind::Mesh] {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            apply(&SockRef::from(&listener), kind).unwrap();
            let _client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (accepted, _) = listener.accept().unwrap();
            let accepted = SockRef::from(&accepted);
            assert!(accepted.tcp_nodelay().unwrap());
            if kind == StreamKind::Mesh {
                assert_eq!(accepted.tcp_notsent_lowat().unwrap(), MESH_NOTSENT_LOWAT_BYTES);
                assert_eq!(accepted.tcp_user_timeout().unwrap(), Some(MESH_USER_TIMEOUT));
                assert!(accepted.keepalive().unwrap());
            }
        }
    }

    #[test]
    fn outgoing_streams_bind_the_source_address() {
        let to: SocketAddr = "127.0.0.1:9".parse().unwrap();
        let socket = outgoing(Some("127.0.0.9".parse().unwrap()), to, StreamKind::Mesh).unwrap();
        assert_eq!(socket.local_addr().unwrap().as_socket().unwrap().ip(), "127.0.0.9".parse::<IpAddr>().unwrap());
    }
}
