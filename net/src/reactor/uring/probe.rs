//! Whether this kernel, container and user may use io_uring as the reactor needs it: by doing it once.
//!
//! Opcode probes are not enough (multishot receive is a flag, FACTS); EPERM and ENOSYS both mean refused.

#![allow(clippy::disallowed_methods, reason = "a back-end")]

use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{Kind, UringIo};
use crate::reactor::{Io, Op, OsFile, Outcome, ReactorConfig, Socket, Tag, Wait};

/// io_uring cannot be used here.
#[derive(Debug, thiserror::Error)]
#[error("io_uring is refused at \"{step}\": {source}; use epoll instead (IO_BACKEND=epoll)")]
pub struct Refused {
    /// What was tried.
    pub step: &'static str,
    /// The kernel's answer.
    pub source: io::Error,
}

/// The longest a self-test step may take; it takes microseconds on a machine that answers at all.
const PATIENCE: Duration = Duration::from_secs(5);

/// Creates a ring with the reactor's flags and a buffer ring, receives over a socket pair, writes and syncs a file.
///
/// # Errors
/// [`Refused`], whatever the reason was.
pub fn probe() -> Result<(), Refused> {
    let at = |step| move |source| Refused { step, source };
    let config = ReactorConfig { receive_buffers: 8, operations_max: 64 };
    let mut io = UringIo::without_helper(config).map_err(at("ring set-up"))?;
    idle(&mut io).map_err(at("waiting for a deadline"))?;
    let (near, mut far) = UnixStream::pair().map_err(at("socket pair"))?;
    let socket = io.adopt(near.into()).map_err(at("socket pair"))?;
    receive_twice(&mut io, socket, &mut far).map_err(at("multishot receive into provided buffers"))?;
    send_once(&mut io, socket, &mut far).map_err(at("send"))?;
    sync_once(&mut io).map_err(at("write and sync"))
}

/// Nothing may end a wait before its deadline: a kernel that answers the waker's read at once would keep the loop
/// busy. (A signal may, once or twice.)
fn idle(io: &mut UringIo) -> io::Result<()> {
    for _ in 0..3 {
        let deadline = io.now().plus_ms(2);
        io.poll(Wait::Until(deadline), &mut Vec::new())?;
        if io.now() >= deadline {
            return Ok(());
        }
    }
    Err(io::Error::other("the wait ended early"))
}

fn expect(io: &mut UringIo, tag: Tag) -> io::Result<(Outcome<OsFile>, bool, Vec<u8>)> {
    let started = Instant::now();
    let mut out = Vec::new();
    while started.elapsed() < PATIENCE {
        let soon = io.now().plus_ms(100);
        io.poll(Wait::Until(soon), &mut out)?;
        for completion in out.drain(..) {
            if completion.tag == tag {
                let bytes = completion.buf.map(|buf| buf.to_vec()).unwrap_or_default();
                return Ok((completion.result?, completion.more, bytes));
            }
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}

fn receive_twice(io: &mut UringIo, socket: Socket, far: &mut UnixStream) -> io::Result<()> {
    io.submit(Op::Recv { socket }, Tag(1)).map_err(|_| io::Error::other("queue full"))?;
    for bytes in [b"one", b"two"] {
        far.write_all(bytes)?;
        let (_, more, got) = expect(io, Tag(1))?;
        if !more || got != bytes {
            return Err(io::Error::other("the multishot receive did not go on"));
        }
    }
    io.cancel(Tag(1));
    match expect(io, Tag(1)) {
        Err(error) if error.raw_os_error() == Some(libc::ECANCELED) => Ok(()),
        Err(error) => Err(error),
        Ok(_) => Err(io::Error::other("the cancelled receive did not end")),
    }
}

fn send_once(io: &mut UringIo, socket: Socket, far: &mut UnixStream) -> io::Result<()> {
    let runs = vec![Bytes::from_static(b"to"), Bytes::from_static(b"gether")];
    io.submit(Op::Send { socket, runs }, Tag(2)).map_err(|_| io::Error::other("queue full"))?;
    expect(io, Tag(2))?;
    let mut got = [0; 8];
    io::Read::read_exact(far, &mut got)?;
    if &got == b"together" { Ok(()) } else { Err(io::Error::other("sent bytes differ")) }
}

fn sync_once(io: &mut UringIo) -> io::Result<()> {
    // Anonymous: this must not depend on a writable directory.
    let file = io.anonymous_file()?;
    debug_assert!(file.raw_fd() >= 0 && file.as_file().as_raw_fd() == file.raw_fd());
    let write = Op::Write { file: file.clone(), offset: 0, bytes: Bytes::from_static(b"x"), dsync: true };
    io.submit(write, Tag(3)).map_err(|_| io::Error::other("queue full"))?;
    expect(io, Tag(3))?;
    io.submit(Op::Sync { file, range: Some(0..1000) }, Tag(4)).map_err(|_| io::Error::other("queue full"))?;
    expect(io, Tag(4)).map(|_| ())
}

const _: () = assert!(size_of::<Kind>() <= 96, "operations stay small: they are moved on every submission");
