//! The epoll sibling: mio for sockets, one disk thread for files. Held to correctness, not to speed.
//!
//! mio reports edges. What an edge announced is remembered per stream (`readable`, `writable`) until the call says
//! `WouldBlock`; whatever can move is in `work`, and `poll` blocks only when `work` is empty.

mod file;
mod socket;

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Registry, Token};
use socket2::SockRef;

use self::file::{DiskThread, Request};
use self::socket::{SendState, Stream};
use super::helper::{HelperHandle, HelperLink};
use super::lease::HeapPool;
use super::listen::Listening;
use super::os::{OsRandom, mono_now, wall_unix_ms};
use super::table::Table;
use super::{
    Completion, Full, Io, Listener, Mono, Op, OsFile, Outcome, ReactorConfig, Socket, StreamKind, Tag, Wait, Waker,
    cancelled, misuse, sockopt,
};

type Operation = Op<OsFile>;
type Done = Completion<OsFile>;

/// Events taken from the kernel per call.
const EVENTS_MAX: usize = 1024;
/// Connections accepted per listener and tick.
const ACCEPTS_PER_TICK_MAX: usize = 64;

const TOKEN_WAKE: Token = Token(usize::MAX);
/// Tokens from here on are listeners; keys of streams fit 32 bits.
const TOKEN_LISTENERS: usize = 1 << 32;

struct Listen {
    listener: TcpListener,
    /// Keeps the address registered as this process's own.
    listening: Listening,
    accept: Option<Tag>,
    readable: bool,
}

/// Something that may be able to move without waiting.
#[derive(Clone, Copy)]
enum Work {
    Stream(u32),
    Listener(usize),
}

/// A reactor over epoll. Thread-confined.
pub struct EpollIo {
    poll: Poll,
    events: Events,
    streams: Table<Stream>,
    listeners: Vec<Listen>,
    work: VecDeque<Work>,
    ready: VecDeque<Done>,
    /// Accepted operations without a terminal completion.
    in_flight: usize,
    ops_max: usize,
    receive_pool: HeapPool,
    disk: DiskThread,
    helper: HelperLink,
    random: OsRandom,
    waker: Waker,
}

impl EpollIo {
    /// A reactor; `helper` performs its file jobs.
    ///
    /// # Errors
    /// Those of epoll_create, eventfd and of starting the disk thread.
    pub fn new(config: ReactorConfig, helper: &HelperHandle) -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Waker::mio(Arc::new(mio::Waker::new(poll.registry(), TOKEN_WAKE)?));
        Ok(EpollIo {
            poll,
            events: Events::with_capacity(EVENTS_MAX),
            streams: Table::new(),
            listeners: Vec::new(),
            work: VecDeque::new(),
            ready: VecDeque::new(),
            in_flight: 0,
            ops_max: usize::try_from(config.operations_max).unwrap_or(usize::MAX),
            receive_pool: HeapPool::new(usize::from(config.receive_buffers)),
            disk: DiskThread::spawn(waker.clone())?,
            helper: HelperLink::new(helper.clone(), waker.clone()),
            random: OsRandom::new()?,
            waker,
        })
    }

    fn answer(&mut self, tag: Tag, result: io::Result<Outcome<OsFile>>) {
        self.ready.push_back(Completion::last(tag, result));
    }

    fn submit_accept(&mut self, listener: Listener, tag: Tag) {
        let index = listener.0 as usize;
        match self.listeners.get_mut(index) {
            None => self.answer(tag, Err(misuse("accept on an unknown listener"))),
            Some(listen) if listen.accept.is_some() => self.answer(tag, Err(misuse("this listener accepts already"))),
            Some(listen) => {
                listen.accept = Some(tag);
                self.work.push_back(Work::Listener(index));
            }
        }
    }

    fn submit_recv(&mut self, socket: Socket, tag: Tag) {
        match self.streams.get_mut(socket.0) {
            None => self.answer(tag, Err(misuse("receive on an unknown socket"))),
            Some(stream) if stream.recv.is_some() => self.answer(tag, Err(misuse("this socket receives already"))),
            Some(stream) => {
                stream.recv = Some(tag);
                self.work.push_back(Work::Stream(socket.0));
            }
        }
    }

    fn submit_send(&mut self, socket: Socket, runs: Vec<Bytes>, tag: Tag) {
        match self.streams.get_mut(socket.0) {
            None => self.answer(tag, Err(misuse("send on an unknown socket"))),
            Some(stream) if stream.send.is_some() => {
                self.answer(tag, Err(misuse("one send per socket is in flight at a time; wait for its completion")));
            }
            Some(stream) => {
                stream.send = Some(SendState::new(tag, runs));
                self.work.push_back(Work::Stream(socket.0));
            }
        }
    }

    fn submit_connect(&mut self, local: Option<IpAddr>, to: SocketAddr, kind: StreamKind, tag: Tag) {
        let started = start_connect(self.poll.registry(), &mut self.streams, local, to, kind, tag);
        if let Err(error) = started {
            self.answer(tag, Err(error));
        }
    }

    fn submit_close(&mut self, socket: Socket, tag: Tag) {
        let result = match self.streams.get(socket.0) {
            None => Err(misuse("close of an unknown socket")),
            Some(stream) if !stream.is_idle() => {
                Err(misuse("close with operations in flight; cancel them and wait first"))
            }
            Some(_) => match self.streams.remove(socket.0) {
                Some(mut stream) => self.poll.registry().deregister(&mut stream.stream).map(|()| Outcome::Done),
                None => unreachable!("just seen"),
            },
        };
        self.answer(tag, result);
    }

    fn submit_disk(&mut self, request: Request, tag: Tag) -> Result<(), (Operation, Full)> {
        self.disk.submit(request, tag).map_err(|request| {
            let op = match request {
                Request::Read { file, offset, len } => Op::Read { file, offset, len },
                Request::Write { file, offset, bytes, dsync } => Op::Write { file, offset, bytes, dsync },
                Request::Sync { file } => Op::Sync { file, range: None },
            };
            (op, Full)
        })
    }

    /// Remembers what the events announced; returns whether the waker fired.
    fn note_events(&mut self) -> bool {
        let mut woken = false;
        for event in &self.events {
            let token = event.token().0;
            if event.token() == TOKEN_WAKE {
                self.waker.clear();
                woken = true;
            } else if let Some(index) = token.checked_sub(TOKEN_LISTENERS) {
                if let Some(listen) = self.listeners.get_mut(index) {
                    listen.readable = true;
                    self.work.push_back(Work::Listener(index));
                }
            } else if let Ok(key) = u32::try_from(token)
                && let Some(stream) = self.streams.get_mut(key)
            {
                // An error is fetched by whichever call is made next.
                stream.readable |= event.is_readable() || event.is_read_closed() || event.is_error();
                stream.writable |= event.is_writable() || event.is_write_closed() || event.is_error();
                self.work.push_back(Work::Stream(key));
            }
        }
        woken
    }

    /// One bounded round over everything that may move.
    fn move_bytes(&mut self, out: &mut Vec<Done>) {
        for _ in 0..self.work.len() {
            let Some(work) = self.work.pop_front() else { return };
            let again = match work {
                Work::Stream(key) => self.move_stream(key, out),
                Work::Listener(index) => self.accept(index, out),
            };
            if again {
                self.work.push_back(work);
            }
        }
    }

    fn move_stream(&mut self, key: u32, out: &mut Vec<Done>) -> bool {
        let Some(stream) = self.streams.get_mut(key) else { return false };
        if let Some(tag) = stream.connecting {
            let Some(result) = stream.connected() else { return false };
            stream.connecting = None;
            let result = match result {
                Ok(()) => Ok(Outcome::Connected(Socket(key))),
                Err(error) => {
                    self.streams.remove(key);
                    Err(error)
                }
            };
            out.push(Completion::last(tag, result));
            return false;
        }
        let more_to_send = stream.transmit(out);
        stream.receive(&self.receive_pool, out) || more_to_send
    }

    fn accept(&mut self, index: usize, out: &mut Vec<Done>) -> bool {
        let Some(listen) = self.listeners.get_mut(index) else { return false };
        for _ in 0..ACCEPTS_PER_TICK_MAX {
            let Some(tag) = listen.accept else { return false };
            if !listen.readable {
                return false;
            }
            match listen.listener.accept() {
                Ok((stream, peer)) => match adopt(self.poll.registry(), &mut self.streams, stream, None) {
                    Ok(key) => {
                        let result = Ok(Outcome::Accepted(Socket(key), peer));
                        out.push(Completion { tag, result, more: true, buf: None });
                    }
                    Err(error) => {
                        listen.accept = None;
                        out.push(Completion::last(tag, Err(error)));
                    }
                },
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => listen.readable = false,
                Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted) => {
                }
                Err(error) => {
                    listen.accept = None;
                    out.push(Completion::last(tag, Err(error)));
                }
            }
        }
        true
    }
}

/// Registers a stream and stores it.
fn adopt(
    registry: &Registry,
    streams: &mut Table<Stream>,
    stream: TcpStream,
    connecting: Option<Tag>,
) -> io::Result<u32> {
    let key =
        streams.insert(Stream::new(stream, connecting)).map_err(|_| io::Error::from_raw_os_error(libc::EMFILE))?;
    let Some(stored) = streams.get_mut(key) else { unreachable!("just inserted") };
    let token = Token(key as usize);
    if let Err(error) = registry.register(&mut stored.stream, token, Interest::READABLE | Interest::WRITABLE) {
        streams.remove(key);
        return Err(error);
    }
    Ok(key)
}

fn start_connect(
    registry: &Registry,
    streams: &mut Table<Stream>,
    local: Option<IpAddr>,
    to: SocketAddr,
    kind: StreamKind,
    tag: Tag,
) -> io::Result<()> {
    let socket = sockopt::outgoing(local, to, kind)?;
    socket.set_nonblocking(true)?;
    match socket.connect(&to.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
        _ => {}
    }
    // If it is connected already, the registration reports it as writable.
    adopt(registry, streams, TcpStream::from_std(socket.into()), Some(tag)).map(|_| ())
}

impl Io for EpollIo {
    type File = OsFile;
    const SYNCS_RANGES: bool = false;

    fn now(&self) -> Mono {
        mono_now()
    }

    fn wall_unix_ms(&self) -> u64 {
        wall_unix_ms()
    }

    fn random(&mut self) -> u64 {
        self.random.draw()
    }

    fn listen(&mut self, addr: SocketAddr, kind: StreamKind, shared: bool) -> io::Result<Listener> {
        let id = u32::try_from(self.listeners.len()).map_err(io::Error::other)?;
        let listening = Listening::bind(addr, kind, shared)?;
        listening.socket.set_nonblocking(true)?;
        let mut listener = TcpListener::from_std(listening.socket.try_clone()?.into());
        let token = Token(TOKEN_LISTENERS + id as usize);
        self.poll.registry().register(&mut listener, token, Interest::READABLE)?;
        self.listeners.push(Listen { listener, listening, accept: None, readable: true });
        Ok(Listener(id))
    }

    fn local_addr(&self, listener: Listener) -> io::Result<SocketAddr> {
        let listen = self.listeners.get(listener.0 as usize);
        listen.map(|listen| listen.listening.addr).ok_or_else(|| misuse("unknown listener"))
    }

    fn submit(&mut self, op: Operation, tag: Tag) -> Result<(), (Operation, Full)> {
        if self.in_flight >= self.ops_max {
            return Err((op, Full));
        }
        match op {
            Op::Accept { listener } => self.submit_accept(listener, tag),
            Op::Recv { socket } => self.submit_recv(socket, tag),
            Op::Send { socket, runs } => self.submit_send(socket, runs, tag),
            Op::Connect { local, to, kind } => self.submit_connect(local, to, kind, tag),
            Op::Close { socket } => self.submit_close(socket, tag),
            Op::Read { file, offset, len } => self.submit_disk(Request::Read { file, offset, len }, tag)?,
            Op::Write { file, offset, bytes, dsync } => {
                self.submit_disk(Request::Write { file, offset, bytes, dsync }, tag)?;
            }
            Op::Sync { file, range: _ } => self.submit_disk(Request::Sync { file }, tag)?,
            Op::File(job) => self.helper.submit(job, tag).map_err(|job| (Op::File(job), Full))?,
        }
        self.in_flight += 1;
        Ok(())
    }

    fn give_way(&mut self, socket: Socket) {
        if let Some(stream) = self.streams.get(socket.0) {
            sockopt::give_way(&SockRef::from(&stream.stream));
        }
    }

    fn cancel(&mut self, tag: Tag) {
        // File work is not cancelled; it completes on its own.
        if let Some(listen) = self.listeners.iter_mut().find(|listen| listen.accept == Some(tag)) {
            listen.accept = None;
            return self.answer(tag, Err(cancelled()));
        }
        let found = self.streams.iter().find(|(_, stream)| {
            stream.recv == Some(tag)
                || stream.connecting == Some(tag)
                || stream.send.as_ref().is_some_and(|send| send.tag == tag)
        });
        let Some((key, _)) = found else { return };
        let Some(stream) = self.streams.get_mut(key) else { return };
        if stream.recv == Some(tag) {
            stream.recv = None;
        } else if stream.connecting == Some(tag) {
            self.streams.remove(key);
        } else {
            stream.send = None;
        }
        self.answer(tag, Err(cancelled()));
    }

    fn poll(&mut self, wait: Wait, out: &mut Vec<Done>) -> io::Result<()> {
        let before = out.len();
        out.extend(self.ready.drain(..));
        self.disk.drain(out);
        self.helper.drain(out);
        let pause = match wait {
            Wait::Until(deadline) if out.len() == before && self.work.is_empty() => deadline.since(mono_now()),
            _ => 0,
        };
        match self.poll.poll(&mut self.events, Some(Duration::from_nanos(pause))) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            Err(_) => self.events.clear(),
            Ok(()) => {}
        }
        let woken = self.note_events();
        self.move_bytes(out);
        if woken {
            self.disk.drain(out);
            self.helper.drain(out);
        }
        let ended = out.iter().skip(before).filter(|completion| !completion.more).count();
        self.in_flight -= ended;
        Ok(())
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }
}
