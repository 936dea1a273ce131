//! What each kind of operation asks of the kernel.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd};

use bytes::Bytes;
use io_uring::{opcode, types};

use super::file::{ReadState, WriteState, sync_entry};
use super::socket::SendState;
use super::{ConnectState, Kind, Operation, UringIo, buffers};
use crate::reactor::{Completion, Full, Listener, Op, OsFile, Outcome, Socket, StreamKind, Tag, misuse, sockopt};

type Submitted = Result<(), (Operation, Full)>;

impl UringIo {
    pub(super) fn submit_accept(&mut self, listener: Listener, tag: Tag) -> Submitted {
        let Some(listening) = self.listeners.get(listener.0 as usize) else {
            return self.refuse(tag, misuse("accept on an unknown listener"));
        };
        let fd = types::Fd(listening.socket.as_raw_fd());
        let started = self.start(tag, Kind::Accept, |_| opcode::AcceptMulti::new(fd).flags(libc::SOCK_CLOEXEC).build());
        match started {
            Ok(key) => {
                self.cancellable.insert(tag, key);
                Ok(())
            }
            Err(_) => Err((Op::Accept { listener }, Full)),
        }
    }

    pub(super) fn submit_recv(&mut self, socket: Socket, tag: Tag) -> Submitted {
        let Some(stream) = self.sockets.get(socket.0) else {
            return self.refuse(tag, misuse("receive on an unknown socket"));
        };
        let fd = types::Fd(stream.fd.as_raw_fd());
        match self.start(tag, Kind::Recv(socket), |_| opcode::RecvMulti::new(fd, buffers::GROUP).build()) {
            Ok(key) => {
                self.cancellable.insert(tag, key);
                self.count_in(socket);
                Ok(())
            }
            Err(_) => Err((Op::Recv { socket }, Full)),
        }
    }

    pub(super) fn submit_send(&mut self, socket: Socket, runs: Vec<Bytes>, tag: Tag) -> Submitted {
        let fd = match self.sockets.get(socket.0) {
            None => return self.refuse(tag, misuse("send on an unknown socket")),
            Some(stream) if stream.sending => {
                return self.refuse(tag, misuse("one send per socket is in flight at a time; wait for its completion"));
            }
            Some(stream) => stream.fd.as_raw_fd(),
        };
        if runs.iter().all(Bytes::is_empty) {
            self.ready.push_back(Completion::last(tag, Ok(Outcome::Done)));
            return Ok(());
        }
        let mut state = self.send_states.pop().unwrap_or_else(SendState::new);
        state.start(runs);
        let started = self.start(tag, Kind::Send(socket, state), |kind| match kind {
            Kind::Send(_, state) => state.entry(fd),
            _ => unreachable!("the kind just given"),
        });
        match started {
            Ok(_) => {
                self.count_in(socket);
                if let Some(stream) = self.sockets.get_mut(socket.0) {
                    stream.sending = true;
                }
                Ok(())
            }
            Err(Kind::Send(_, mut state)) => {
                let runs = state.finish();
                self.send_states.push(state);
                Err((Op::Send { socket, runs }, Full))
            }
            Err(_) => unreachable!("the kind just given"),
        }
    }

    pub(super) fn submit_connect(
        &mut self,
        local: Option<IpAddr>,
        to: SocketAddr,
        kind: StreamKind,
        tag: Tag,
    ) -> Submitted {
        let fd = match sockopt::outgoing(local, to, kind) {
            Ok(socket) => OwnedFd::from(socket),
            Err(error) => return self.refuse(tag, error),
        };
        let state = Box::new(ConnectState { fd, addr: to.into() });
        let started = self.start(tag, Kind::Connect(state), |kind| match kind {
            Kind::Connect(state) => {
                opcode::Connect::new(types::Fd(state.fd.as_raw_fd()), state.addr.as_ptr().cast(), state.addr.len())
                    .build()
            }
            _ => unreachable!("the kind just given"),
        });
        match started {
            Ok(key) => {
                self.cancellable.insert(tag, key);
                Ok(())
            }
            Err(_) => Err((Op::Connect { local, to, kind }, Full)),
        }
    }

    pub(super) fn submit_close(&mut self, socket: Socket, tag: Tag) -> Submitted {
        let fd = match self.sockets.get(socket.0) {
            None => return self.refuse(tag, misuse("close of an unknown socket")),
            Some(stream) if stream.in_flight > 0 => {
                return self.refuse(tag, misuse("close with operations in flight; cancel them and wait first"));
            }
            Some(stream) => types::Fd(stream.fd.as_raw_fd()),
        };
        if self.start(tag, Kind::Close, |_| opcode::Close::new(fd).build()).is_err() {
            return Err((Op::Close { socket }, Full));
        }
        if let Some(stream) = self.sockets.remove(socket.0) {
            // The queued request closes it.
            let _ = stream.fd.into_raw_fd();
        }
        Ok(())
    }

    pub(super) fn submit_read(&mut self, file: OsFile, offset: u64, len: u32, tag: Tag) -> Submitted {
        let want = len as usize;
        let Some(buffer) = self.reads.take(want) else { return Err((Op::Read { file, offset, len }, Full)) };
        let started =
            self.start(tag, Kind::Read(ReadState { file, offset, want, done: 0, buffer }), |kind| match kind {
                Kind::Read(state) => state.entry(),
                _ => unreachable!("the kind just given"),
            });
        match started {
            Ok(_) => Ok(()),
            Err(Kind::Read(state)) => Err((Op::Read { file: state.file, offset, len }, Full)),
            Err(_) => unreachable!("the kind just given"),
        }
    }

    pub(super) fn submit_write(&mut self, state: WriteState, tag: Tag) -> Submitted {
        let started = self.start(tag, Kind::Write(state), |kind| match kind {
            Kind::Write(state) => state.entry(),
            _ => unreachable!("the kind just given"),
        });
        match started {
            Ok(_) => Ok(()),
            Err(Kind::Write(WriteState { file, offset, bytes, dsync, .. })) => {
                Err((Op::Write { file, offset, bytes, dsync }, Full))
            }
            Err(_) => unreachable!("the kind just given"),
        }
    }

    pub(super) fn submit_sync(&mut self, file: OsFile, range: Option<Range<u64>>, tag: Tag) -> Submitted {
        let entry = sync_entry(&file, range.as_ref());
        match self.start(tag, Kind::Sync(file), |_| entry) {
            Ok(_) => Ok(()),
            Err(Kind::Sync(file)) => Err((Op::Sync { file, range }, Full)),
            Err(_) => unreachable!("the kind just given"),
        }
    }

    fn count_in(&mut self, socket: Socket) {
        if let Some(stream) = self.sockets.get_mut(socket.0) {
            stream.in_flight += 1;
        }
    }
}
