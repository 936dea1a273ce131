//! Loops of a simulated node: what they submit, cancel and receive.

use std::io;

use super::world::Inner;
use super::{Done, LEASES_PER_TICK_MAX};
use crate::reactor::{Completion, Lease, Listener, Outcome, RECV_BUFFER_BYTES, Socket, Tag, cancelled, misuse};

/// A stream as its loop sees it.
pub(super) struct SimSocket {
    pub(super) conn: u64,
    pub(super) side: usize,
    pub(super) recv: Option<Tag>,
    /// Among its loop's readable ones.
    pub(super) is_queued: bool,
}

impl Inner {
    fn refuse(&mut self, home: usize, tag: Tag, rule: &'static str) {
        self.complete(home, tag, Err(misuse(rule)));
    }

    pub(super) fn submit_accept(&mut self, home: usize, listener: Listener, tag: Tag) {
        let Some(index) = self.loops[home].listeners.get(listener.0 as usize).copied() else {
            return self.refuse(home, tag, "accept on an unknown listener");
        };
        if self.network.listeners[index].accept.is_some() {
            return self.refuse(home, tag, "this listener accepts already");
        }
        self.network.listeners[index].accept = Some(tag);
        self.accept_waiting(index);
    }

    pub(super) fn submit_recv(&mut self, home: usize, socket: Socket, tag: Tag) {
        let (conn, side) = match self.loops[home].sockets.get_mut(socket.0) {
            None => return self.refuse(home, tag, "receive on an unknown socket"),
            Some(known) if known.recv.is_some() => return self.refuse(home, tag, "this socket receives already"),
            Some(known) => {
                known.recv = Some(tag);
                (known.conn, known.side)
            }
        };
        let end = self.network.conns.get(&conn).map(|conn| &conn.ends[side]);
        if end.is_none_or(|end| !end.inbox.is_empty() || end.eof || end.error.is_some()) {
            self.make_readable(home, socket.0);
        }
    }

    /// A socket has something for its receive.
    pub(super) fn make_readable(&mut self, index: usize, key: u32) {
        let home = &mut self.loops[index];
        if let Some(socket) = home.sockets.get_mut(key)
            && !std::mem::replace(&mut socket.is_queued, true)
        {
            home.readable.push_back(key);
            self.turns[index].wake_at = 0;
        }
    }

    pub(super) fn submit_send(&mut self, home: usize, socket: Socket, runs: Vec<bytes::Bytes>, tag: Tag) {
        let Some(known) = self.loops[home].sockets.get(socket.0) else {
            return self.refuse(home, tag, "send on an unknown socket");
        };
        let (conn, side) = (known.conn, known.side);
        if self.is_sending(conn, side).is_some() {
            return self.refuse(home, tag, "one send per socket is in flight at a time; wait for its completion");
        }
        self.send(conn, side, home, tag, runs);
    }

    pub(super) fn submit_close(&mut self, home: usize, socket: Socket, tag: Tag) {
        let Some(known) = self.loops[home].sockets.get(socket.0) else {
            return self.refuse(home, tag, "close of an unknown socket");
        };
        let (conn, side) = (known.conn, known.side);
        if known.recv.is_some() || self.is_sending(conn, side).is_some() {
            return self.refuse(home, tag, "close with operations in flight; cancel them and wait first");
        }
        self.loops[home].sockets.remove(socket.0);
        self.hang_up(conn, side, false);
        self.complete(home, tag, Ok(Outcome::Done));
    }

    pub(super) fn cancel(&mut self, home: usize, tag: Tag) {
        let known = &self.loops[home].listeners;
        if let Some(index) = known.iter().copied().find(|index| self.network.listeners[*index].accept == Some(tag)) {
            self.network.listeners[index].accept = None;
            return self.complete(home, tag, Err(cancelled()));
        }
        let attempt = self.network.attempts.iter().find(|(_, attempt)| attempt.home == home && attempt.tag == tag);
        if let Some(id) = attempt.map(|(id, _)| *id) {
            self.network.attempts.remove(&id);
            return self.complete(home, tag, Err(cancelled()));
        }
        let found = self.loops[home].sockets.iter().find_map(|(key, socket)| {
            let sends = self.is_sending(socket.conn, socket.side) == Some(tag);
            (socket.recv == Some(tag) || sends).then_some((key, socket.conn, socket.side, sends))
        });
        match found {
            Some((_, conn, side, true)) => self.cancel_send(conn, side, home),
            Some((key, ..)) => {
                if let Some(socket) = self.loops[home].sockets.get_mut(key) {
                    socket.recv = None;
                    socket.is_queued = false;
                }
                self.loops[home].readable.retain(|readable| *readable != key);
                self.complete(home, tag, Err(cancelled()));
            }
            None => {}
        }
    }

    /// Gives an armed receive what has arrived.
    pub(super) fn receive(&mut self, home: usize, key: u32, out: &mut Vec<Done>) {
        let Some(socket) = self.loops[home].sockets.get_mut(key) else { return };
        let (conn_id, side) = (socket.conn, socket.side);
        socket.is_queued = false;
        let Some(tag) = socket.recv else { return };
        let mut taken = 0;
        let mut last = None;
        for turn in 0.. {
            let Some(end) = self.network.conns.get_mut(&conn_id).map(|conn| &mut conn.ends[side]) else {
                last = Some(Err(io::ErrorKind::ConnectionReset.into()));
                break;
            };
            let Some(front) = end.inbox.front_mut() else {
                if let Some(kind) = end.error {
                    last = Some(Err(kind.into()));
                } else if end.eof {
                    last = Some(Ok(Lease::empty()));
                }
                break;
            };
            if turn == LEASES_PER_TICK_MAX {
                self.make_readable(home, key);
                break;
            }
            let Some(mut buffer) = self.loops[home].pool.take(RECV_BUFFER_BYTES) else {
                last = Some(Err(io::Error::from_raw_os_error(libc::ENOBUFS)));
                break;
            };
            let bytes = front.split_to(front.len().min(RECV_BUFFER_BYTES));
            if front.is_empty() {
                end.inbox.pop_front();
            }
            buffer.room()[..bytes.len()].copy_from_slice(&bytes);
            taken += bytes.len();
            let buf = Some(buffer.into_lease(bytes.len()));
            out.push(Completion { tag, result: Ok(Outcome::Data), more: true, buf });
        }
        if taken > 0 {
            self.taken(conn_id, side, taken);
        }
        if let Some(last) = last {
            if let Some(socket) = self.loops[home].sockets.get_mut(key) {
                socket.recv = None;
            }
            out.push(match last {
                Ok(lease) => Completion { tag, result: Ok(Outcome::Data), more: false, buf: Some(lease) },
                Err(error) => Completion::last(tag, Err(error)),
            });
        }
    }

    pub(super) fn trace_completions(&mut self, home: usize, completions: &[Done]) {
        for completion in completions {
            let kind = match &completion.result {
                Ok(Outcome::Done) => 1,
                Ok(Outcome::Accepted(..)) => 2,
                Ok(Outcome::Connected(_)) => 3,
                Ok(Outcome::Data) => 4,
                Ok(Outcome::Opened(_)) => 5,
                Ok(Outcome::Bulk(_)) => 6,
                Err(_) => 7,
            };
            let len = completion.buf.as_ref().map_or(0, |buf| buf.len()) as u64;
            self.trace(&[self.now, home as u64, completion.tag.0, kind, len]);
        }
    }
}
