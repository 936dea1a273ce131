//! The options of real sockets as the kernel has them, on both real back-ends, for streams of each kind that were dialled and
//! accepted.
//!
//! The reactor shows its descriptors to nobody. The test finds a stream among its process's own by the stream's addresses, and
//! gets a copy of it.
#![allow(missing_docs, clippy::print_stdout)]

#[path = "reactor/rig.rs"]
#[allow(dead_code, reason = "shared with the conformance suite")]
mod rig;

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Duration;

use net::reactor::{Io, Op, OsFile, ReactorConfig, StreamKind, Tag};
use rig::{Driver, EpollRig, Rig, UringRig};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use socket2::SockRef;

const KINDS: [StreamKind; 3] = [StreamKind::Client, StreamKind::Discovery, StreamKind::Replication];

/// A copy of this process's stream from `local` to `peer`.
fn stream(local: SocketAddr, peer: SocketAddr) -> OwnedFd {
    let myself = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
    for entry in std::fs::read_dir("/proc/self/fd").unwrap() {
        let number: i32 = entry.unwrap().file_name().to_str().unwrap().parse().unwrap();
        // The directory's own descriptor is gone by now, and others may be.
        let Ok(copy) = pidfd_getfd(&myself, number, PidfdGetfdFlags::empty()) else { continue };
        let socket = SockRef::from(&copy);
        let is_at = |found: std::io::Result<socket2::SockAddr>, wanted| {
            found.ok().and_then(|found| found.as_socket()) == Some(wanted)
        };
        if is_at(socket.local_addr(), local) && is_at(socket.peer_addr(), peer) {
            return copy;
        }
    }
    panic!("this process has no stream from {local} to {peer}");
}

fn offers_bbr() -> bool {
    std::fs::read_to_string("/proc/sys/net/ipv4/tcp_available_congestion_control").unwrap().contains("bbr")
}

/// What a loopback stream has that nobody set anything on.
struct Untouched {
    send_bytes: usize,
    receive_bytes: usize,
    congestion: Vec<u8>,
}

fn untouched() -> (Untouched, Untouched) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let dialled = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (accepted, _) = listener.accept().unwrap();
    let of = |stream: &TcpStream| {
        let socket = SockRef::from(stream);
        Untouched {
            send_bytes: socket.send_buffer_size().unwrap(),
            receive_bytes: socket.recv_buffer_size().unwrap(),
            congestion: socket.tcp_congestion().unwrap(),
        }
    };
    (of(&dialled), of(&accepted))
}

/// The kernel pads the name with zeros.
fn name(congestion: &[u8]) -> &str {
    std::str::from_utf8(congestion).unwrap().trim_end_matches('\0')
}

fn check(fd: &OwnedFd, kind: StreamKind, untouched: &Untouched) {
    let socket = SockRef::from(fd);
    assert!(socket.tcp_nodelay().unwrap(), "{kind:?}");
    assert_eq!(socket.send_buffer_size().unwrap(), untouched.send_bytes, "{kind:?}: its send buffer was set");
    assert_eq!(socket.recv_buffer_size().unwrap(), untouched.receive_bytes, "{kind:?}: its receive buffer was set");
    let congestion = socket.tcp_congestion().unwrap();
    if kind == StreamKind::Client {
        assert_eq!(name(&congestion), name(&untouched.congestion));
        assert!(!socket.keepalive().unwrap());
        assert_eq!(socket.tcp_user_timeout().unwrap(), None);
        return;
    }
    let expected = if offers_bbr() { "bbr" } else { name(&untouched.congestion) };
    assert_eq!(name(&congestion), expected, "{kind:?}");
    let unsent_bytes = if kind == StreamKind::Discovery { 16 * 1024 } else { 256 * 1024 };
    assert_eq!(socket.tcp_notsent_lowat().unwrap(), unsent_bytes, "{kind:?}");
    assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(10)), "{kind:?}");
    assert!(socket.keepalive().unwrap(), "{kind:?}");
    assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(5), "{kind:?}");
    assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(5), "{kind:?}");
    assert_eq!(socket.tcp_keepalive_retries().unwrap(), 3, "{kind:?}");
}

fn dialled_and_accepted_streams_have_the_options_of_their_kind<R: Rig>(driver: &mut Driver<R>)
where
    R::Io: Io<File = OsFile>,
{
    let (as_dialled, as_accepted) = untouched();
    for (number, kind) in (0u64..).zip(KINDS) {
        let far = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = far.local_addr().unwrap();
        driver.submit(Op::Connect { local: None, to, kind }, Tag(10 + number));
        driver.connected(Tag(10 + number));
        let (_far_end, from) = far.accept().unwrap();
        check(&stream(from, to), kind, &as_dialled);

        let listener = driver.rig.io().listen("127.0.0.1:0".parse().unwrap(), kind, false).unwrap();
        let at = driver.rig.io().local_addr(listener).unwrap();
        driver.submit(Op::Accept { listener }, Tag(20 + number));
        let near_end = TcpStream::connect(at).unwrap();
        let accepted = driver.accepted(Tag(20 + number));
        let fd = stream(at, near_end.local_addr().unwrap());
        check(&fd, kind, &as_accepted);
        assert_eq!(SockRef::from(&fd).tos_v4().unwrap(), 0);
        driver.rig.io().give_way(accepted);
        assert_eq!(SockRef::from(&fd).tos_v4().unwrap(), 0x20, "{kind:?}: it does not give way");
    }
}

#[test]
fn options_on_uring() {
    if let Some(rig) = UringRig::start(ReactorConfig::default()) {
        dialled_and_accepted_streams_have_the_options_of_their_kind(&mut Driver::new(rig));
    }
}

#[test]
fn options_on_epoll() {
    dialled_and_accepted_streams_have_the_options_of_their_kind(&mut Driver::new(EpollRig::start(
        ReactorConfig::default(),
    )));
}
