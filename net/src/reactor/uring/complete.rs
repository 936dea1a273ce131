//! What each kind of completion means.
//!
//! Unsafe: descriptors and buffers change hands by being named in a completion.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use io_uring::cqueue;
use socket2::SockRef;

use super::file::ReadState;
use super::socket::SendState;
use super::{
    COMPLETIONS_PER_POLL_MAX, InFlight, Kind, SEND_STATES_MAX, Socket, USER_DATA_IGNORED, USER_DATA_WAKE, UringIo,
};
use crate::reactor::{Completion, Lease, OsFile, Outcome, Tag, cancelled};

type Done = Completion<OsFile>;

impl UringIo {
    /// Takes a bounded number of completions from the ring; returns whether the waker fired.
    pub(super) fn complete(&mut self, out: &mut Vec<Done>) -> bool {
        let mut completed = std::mem::take(&mut self.completed);
        completed.extend(self.ring.completion().take(COMPLETIONS_PER_POLL_MAX));
        let mut woken = false;
        for entry in completed.drain(..) {
            match entry.user_data() {
                USER_DATA_WAKE => {
                    self.wake_armed = false;
                    self.waker.clear();
                    woken = true;
                }
                USER_DATA_IGNORED => self.ignored -= 1,
                key => {
                    if let Ok(key) = u32::try_from(key) {
                        self.complete_one(key, &entry, out);
                    }
                }
            }
        }
        self.completed = completed;
        woken
    }

    fn complete_one(&mut self, key: u32, entry: &cqueue::Entry, out: &mut Vec<Done>) {
        let result = usize::try_from(entry.result()).map_err(|_| io::Error::from_raw_os_error(-entry.result()));
        let more = cqueue::more(entry.flags());
        let Some(operation) = self.ops.get_mut(key) else { return };
        let tag = operation.tag;
        match &mut operation.kind {
            Kind::Accept => {
                self.accepted(tag, result, more, out);
                if !more {
                    self.end_cancellable(key, tag);
                }
            }
            &mut Kind::Recv(socket) => {
                out.push(self.received(tag, result, entry.flags(), more));
                if !more {
                    self.end_cancellable(key, tag);
                    self.count_out(socket);
                }
            }
            &mut Kind::Send(socket, _) => self.sent(key, socket, result, out),
            Kind::Connect(_) => {
                self.cancellable.remove(&tag);
                let Some(InFlight { kind: Kind::Connect(state), .. }) = self.ops.remove(key) else { return };
                let result = result.and_then(|_| self.adopt(state.fd)).map(Outcome::Connected);
                out.push(Completion::last(tag, result));
            }
            Kind::Read(_) => self.read(key, result, out),
            Kind::Write(_) => self.wrote(key, result, out),
            Kind::Close | Kind::Sync(_) => {
                self.ops.remove(key);
                out.push(Completion::last(tag, result.map(|_| Outcome::Done)));
            }
        }
    }

    fn end_cancellable(&mut self, key: u32, tag: Tag) {
        self.ops.remove(key);
        if self.cancellable.get(&tag) == Some(&key) {
            self.cancellable.remove(&tag);
        }
    }

    fn count_out(&mut self, socket: Socket) {
        if let Some(stream) = self.sockets.get_mut(socket.0) {
            stream.in_flight -= 1;
        }
    }

    fn accepted(&mut self, tag: Tag, result: io::Result<usize>, more: bool, out: &mut Vec<Done>) {
        let result = result.and_then(|fd| {
            let fd = i32::try_from(fd).map_err(io::Error::other)?;
            // SAFETY: the kernel created this descriptor for us; nobody else owns it.
            let fd = unsafe { OwnedFd::from_raw_fd(fd) };
            let peer = SockRef::from(&fd).peer_addr()?.as_socket();
            let peer = peer.ok_or_else(|| io::Error::from(io::ErrorKind::ConnectionAborted))?;
            Ok(Outcome::Accepted(self.adopt(fd)?, peer))
        });
        // A peer that is gone already is nobody's concern while the accept goes on.
        if result.is_ok() || !more {
            out.push(Completion { tag, result, more, buf: None });
        }
    }

    fn received(&mut self, tag: Tag, result: io::Result<usize>, flags: u32, more: bool) -> Done {
        let lease = match (&result, cqueue::buffer_select(flags)) {
            // SAFETY: this completion names the buffer, and each completion is handled once.
            (Ok(len), Some(id)) => unsafe { Lease::ring(self.buffers.lease(id, *len)) },
            // SAFETY: as above; it goes back at once.
            (Err(_), Some(id)) => unsafe { Lease::ring(self.buffers.lease(id, 0)) },
            (_, None) => Lease::empty(),
        };
        match result {
            Ok(_) => Completion { tag, result: Ok(Outcome::Data), more, buf: Some(lease) },
            Err(error) => Completion { tag, result: Err(error), more, buf: None },
        }
    }

    fn sent(&mut self, key: u32, socket: Socket, result: io::Result<usize>, out: &mut Vec<Done>) {
        let Some(operation) = self.ops.get_mut(key) else { return };
        let tag = operation.tag;
        let Kind::Send(_, state) = &mut operation.kind else { return };
        let result = match result {
            Ok(bytes) if state.advance(bytes) => Ok(Outcome::Done),
            Ok(_) if operation.cancelled => Err(cancelled()),
            Ok(0) => Err(io::ErrorKind::WriteZero.into()),
            Err(error) if error.raw_os_error() == Some(libc::EINTR) && operation.cancelled => Err(cancelled()),
            Err(error) if !matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN)) => Err(error),
            // Short: the rest follows.
            Ok(_) | Err(_) => match self.sockets.get(socket.0) {
                Some(stream) => {
                    let entry = state.entry(stream.fd.as_raw_fd()).user_data(u64::from(key));
                    if self.push(&entry) {
                        return;
                    }
                    Err(io::Error::from_raw_os_error(libc::EBUSY))
                }
                None => Err(io::ErrorKind::NotConnected.into()),
            },
        };
        if let Some(InFlight { kind: Kind::Send(_, mut state), .. }) = self.ops.remove(key) {
            self.recycle(&mut state);
            if self.send_states.len() < SEND_STATES_MAX {
                self.send_states.push(state);
            }
        }
        if let Some(stream) = self.sockets.get_mut(socket.0) {
            stream.in_flight -= 1;
            stream.sending = false;
        }
        out.push(Completion::last(tag, result));
    }

    fn recycle(&self, state: &mut SendState) {
        drop(state.finish());
    }

    fn read(&mut self, key: u32, result: io::Result<usize>, out: &mut Vec<Done>) {
        let Some(operation) = self.ops.get_mut(key) else { return };
        let tag = operation.tag;
        let Kind::Read(state) = &mut operation.kind else { return };
        let result = match result {
            Ok(bytes) => {
                state.done += bytes;
                if bytes > 0 && state.done < state.want {
                    if operation.cancelled {
                        Err(cancelled())
                    } else {
                        let entry = state.entry().user_data(u64::from(key));
                        if self.push(&entry) {
                            return;
                        }
                        Err(io::Error::from_raw_os_error(libc::EBUSY))
                    }
                } else {
                    Ok(())
                }
            }
            Err(error) => Err(error),
        };
        let Some(InFlight { kind: Kind::Read(ReadState { buffer, done, .. }), .. }) = self.ops.remove(key) else {
            return;
        };
        out.push(match result {
            Ok(()) => Completion { tag, result: Ok(Outcome::Data), more: false, buf: Some(buffer.into_lease(done)) },
            Err(error) => Completion::last(tag, Err(error)),
        });
    }

    fn wrote(&mut self, key: u32, result: io::Result<usize>, out: &mut Vec<Done>) {
        let Some(operation) = self.ops.get_mut(key) else { return };
        let tag = operation.tag;
        let Kind::Write(state) = &mut operation.kind else { return };
        let result = match result {
            Ok(bytes) => {
                state.done += bytes;
                if state.done == state.bytes.len() {
                    Ok(Outcome::Done)
                } else if bytes == 0 {
                    Err(io::ErrorKind::WriteZero.into())
                } else if operation.cancelled {
                    Err(cancelled())
                } else {
                    let entry = state.entry().user_data(u64::from(key));
                    if self.push(&entry) {
                        return;
                    }
                    Err(io::Error::from_raw_os_error(libc::EBUSY))
                }
            }
            Err(error) => Err(error),
        };
        self.ops.remove(key);
        out.push(Completion::last(tag, result));
    }
}
