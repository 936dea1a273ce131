//! One stream under epoll: what is armed on it, and the non-blocking calls that move its bytes.

use std::io::{self, IoSlice, Read, Write};

use bytes::Bytes;
use mio::net::TcpStream;

use crate::reactor::lease::HeapPool;
use crate::reactor::{Completion, Lease, OsFile, Outcome, RECV_BUFFER_BYTES, Tag};

/// Leases one stream fills per tick, so that a fast one does not starve the others.
const LEASES_PER_TICK_MAX: usize = 8;
/// Runs per system call.
const SLICES_MAX: usize = 64;
/// Bytes one stream sends per tick.
const SEND_BYTES_PER_TICK_MAX: usize = 1024 * 1024;

/// A stream, connecting or connected.
pub(super) struct Stream {
    pub(super) stream: TcpStream,
    /// Set by an edge, cleared by `WouldBlock`.
    pub(super) readable: bool,
    pub(super) writable: bool,
    pub(super) connecting: Option<Tag>,
    pub(super) recv: Option<Tag>,
    pub(super) send: Option<SendState>,
}

/// A send in progress.
pub(super) struct SendState {
    pub(super) tag: Tag,
    runs: Vec<Bytes>,
    next: usize,
    offset: usize,
}

impl SendState {
    pub(super) fn new(tag: Tag, runs: Vec<Bytes>) -> Self {
        SendState { tag, runs, next: 0, offset: 0 }
    }

    fn advance(&mut self, mut bytes: usize) {
        while let Some(run) = self.runs.get(self.next) {
            let step = bytes.min(run.len() - self.offset);
            self.offset += step;
            bytes -= step;
            if self.offset < run.len() {
                return;
            }
            self.next += 1;
            self.offset = 0;
        }
    }
}

impl Stream {
    pub(super) fn new(stream: TcpStream, connecting: Option<Tag>) -> Self {
        // An accepted stream is tried before its first edge.
        let ready = connecting.is_none();
        Stream { stream, readable: ready, writable: ready, connecting, recv: None, send: None }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.connecting.is_none() && self.recv.is_none() && self.send.is_none()
    }

    /// Whether the connection attempt is decided; `None` while it is not.
    pub(super) fn connected(&self) -> Option<io::Result<()>> {
        match self.stream.take_error() {
            Ok(Some(error)) | Err(error) => return Some(Err(error)),
            Ok(None) => {}
        }
        match self.stream.peer_addr() {
            Ok(_) => Some(Ok(())),
            Err(error) if error.kind() == io::ErrorKind::NotConnected => None,
            Err(error) => Some(Err(error)),
        }
    }

    /// Fills leases while there is something to read; returns whether there may be more for the next tick.
    pub(super) fn receive(&mut self, pool: &HeapPool, out: &mut Vec<Completion<OsFile>>) -> bool {
        let Some(tag) = self.recv else { return false };
        for _ in 0..LEASES_PER_TICK_MAX {
            if !self.readable {
                return false;
            }
            let Some(mut buffer) = pool.take(RECV_BUFFER_BYTES) else {
                self.recv = None;
                out.push(Completion::last(tag, Err(io::Error::from_raw_os_error(libc::ENOBUFS))));
                return false;
            };
            match self.stream.read(&mut buffer.room()[..RECV_BUFFER_BYTES]) {
                Ok(0) => {
                    self.recv = None;
                    let buf = Some(Lease::empty());
                    out.push(Completion { tag, result: Ok(Outcome::Data), more: false, buf });
                    return false;
                }
                Ok(len) => {
                    let buf = Some(buffer.into_lease(len));
                    out.push(Completion { tag, result: Ok(Outcome::Data), more: true, buf });
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.readable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.recv = None;
                    out.push(Completion::last(tag, Err(error)));
                    return false;
                }
            }
        }
        true
    }

    /// Sends while the kernel takes it; returns whether there is more to send in the next tick.
    pub(super) fn transmit(&mut self, out: &mut Vec<Completion<OsFile>>) -> bool {
        let Some(send) = &mut self.send else { return false };
        let mut sent = 0;
        let result = loop {
            if send.next == send.runs.len() {
                break Ok(Outcome::Done);
            }
            if !self.writable {
                return false;
            }
            if sent >= SEND_BYTES_PER_TICK_MAX {
                return true;
            }
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let mut used = 0;
            let mut offset = send.offset;
            for (slice, run) in slices.iter_mut().zip(&send.runs[send.next..]) {
                *slice = IoSlice::new(&run[offset..]);
                offset = 0;
                used += 1;
            }
            match self.stream.write_vectored(&slices[..used]) {
                // Only empty runs are sent as nothing.
                Ok(0) if slices[..used].iter().any(|slice| !slice.is_empty()) => {
                    break Err(io::ErrorKind::WriteZero.into());
                }
                Ok(bytes) => {
                    sent += bytes;
                    send.advance(bytes);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Err(error),
            }
        };
        out.push(Completion::last(send.tag, result));
        self.send = None;
        false
    }
}
