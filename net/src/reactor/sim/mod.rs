//! The simulated sibling: nodes, disks, clocks and a network in one thread, from one seed.
//!
//! A harness owns a [`World`] and one [`SimIo`] per loop, and runs `while let Some(id) = world.step() { tick(id) }`, a
//! tick being what a loop thread repeats: one `poll` and what follows from it. `poll` never blocks: where a thread
//! would sleep, the tick ends without anything, and `step` names the loop again when something happened or its
//! deadline passed.

mod file;
mod outage;
mod random;
mod socket;
#[cfg(test)]
mod tests;
mod world;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use self::file::{DiskState, Step};
use self::socket::SimListener;
use self::world::{DiskWork, Inner};
use super::disk::{Disk, DurableError};
use super::{
    Completion, FileJob, Full, Io, Lease, Listener, Mono, Op, Outcome, RECV_BUFFER_BYTES, ReactorConfig, Socket,
    StreamKind, Tag, Wait, Waker, cancelled, misuse,
};

pub use file::SimFile;
pub use random::Random;
pub use world::{LoopId, NodeIndex, World};

type Operation = Op<SimFile>;
type Done = Completion<SimFile>;

/// Leases per stream and tick, completions per tick; as in the siblings.
const LEASES_PER_TICK_MAX: usize = 8;
const COMPLETIONS_PER_POLL_MAX: usize = 256;
/// The longest that one tick takes, in virtual nanoseconds.
const TICK_NS_MAX: u64 = 5_000;

/// A stream as its loop sees it.
struct SimSocket {
    conn: u64,
    side: usize,
    recv: Option<Tag>,
}

/// One loop of a simulated node.
#[derive(Debug)]
pub struct SimIo {
    world: World,
    id: LoopId,
    random: Random,
    waker: Waker,
    slept: bool,
}

impl SimIo {
    /// A new loop of `node`, which is up from now on.
    #[must_use]
    pub fn new(world: &World, node: NodeIndex) -> Self {
        Self::with_config(world, node, ReactorConfig::default())
    }

    /// As [`SimIo::new`], with other sizes.
    #[must_use]
    pub fn with_config(world: &World, node: NodeIndex, config: ReactorConfig) -> Self {
        let (id, random) = world.add_loop(node, config);
        let waker = world.inner().loops[id.0].waker.clone();
        SimIo { world: world.clone(), id, random, waker, slept: false }
    }

    /// What [`World::step`] calls this loop.
    #[must_use]
    pub fn id(&self) -> LoopId {
        self.id
    }

    /// Whether the last `poll` found nothing where a thread would have gone on sleeping.
    #[must_use]
    pub fn slept(&self) -> bool {
        self.slept
    }
}

impl Inner {
    fn refuse(&mut self, home: usize, tag: Tag, rule: &'static str) {
        self.complete(home, tag, Err(misuse(rule)));
    }

    fn submit_accept(&mut self, home: usize, listener: Listener, tag: Tag) {
        let Some(index) = self.loops[home].listeners.get(listener.0 as usize).copied() else {
            return self.refuse(home, tag, "accept on an unknown listener");
        };
        if self.network.listeners[index].accept.is_some() {
            return self.refuse(home, tag, "this listener accepts already");
        }
        self.network.listeners[index].accept = Some(tag);
        self.accept_waiting(index);
    }

    fn submit_recv(&mut self, home: usize, socket: Socket, tag: Tag) {
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
            self.loops[home].readable.push_back(socket.0);
        }
    }

    fn submit_send(&mut self, home: usize, socket: Socket, runs: Vec<bytes::Bytes>, tag: Tag) {
        let Some(known) = self.loops[home].sockets.get(socket.0) else {
            return self.refuse(home, tag, "send on an unknown socket");
        };
        let (conn, side) = (known.conn, known.side);
        if self.is_sending(conn, side).is_some() {
            return self.refuse(home, tag, "one send per socket is in flight at a time; wait for its completion");
        }
        self.send(conn, side, home, tag, runs);
    }

    fn submit_close(&mut self, home: usize, socket: Socket, tag: Tag) {
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

    fn cancel(&mut self, home: usize, tag: Tag) {
        let listeners = self.loops[home].listeners.clone();
        if let Some(index) = listeners.into_iter().find(|index| self.network.listeners[*index].accept == Some(tag)) {
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
                }
                self.loops[home].readable.retain(|readable| *readable != key);
                self.complete(home, tag, Err(cancelled()));
            }
            None => {}
        }
    }

    /// Gives an armed receive what has arrived.
    fn receive(&mut self, home: usize, key: u32, out: &mut Vec<Done>) {
        let Some(socket) = self.loops[home].sockets.get_mut(key) else { return };
        let (conn_id, side) = (socket.conn, socket.side);
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
                self.loops[home].readable.push_back(key);
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

    fn listen(&mut self, home: usize, addr: SocketAddr, kind: StreamKind, shared: bool) -> io::Result<Listener> {
        let node = self.loops[home].node;
        if !addr.ip().is_unspecified() && !self.nodes[node].owns(addr.ip()) {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        }
        let mut addr = addr;
        if addr.port() == 0 {
            addr.set_port(self.network.fresh_port());
        }
        let taken = self.network.listeners.iter().any(|other| {
            other.alive && self.loops[other.home].node == node && other.addr == addr && !(shared && other.shared)
        });
        if taken {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let listener = SimListener {
            addr,
            home,
            shared,
            kind,
            accept: None,
            backlog: std::collections::VecDeque::new(),
            alive: true,
        };
        self.network.listeners.push(listener);
        let index = self.network.listeners.len() - 1;
        let listeners = &mut self.loops[home].listeners;
        listeners.push(index);
        u32::try_from(listeners.len() - 1).map(Listener).map_err(io::Error::other)
    }

    fn trace_completions(&mut self, home: usize, completions: &[Done]) {
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

impl Io for SimIo {
    type File = SimFile;
    const SYNCS_RANGES: bool = true;

    fn now(&self) -> Mono {
        self.world.now()
    }

    fn wall_unix_ms(&self) -> u64 {
        let inner = self.world.inner();
        inner.wall_unix_ms(inner.loops[self.id.0].node)
    }

    fn random(&mut self) -> u64 {
        self.random.next()
    }

    fn listen(&mut self, addr: SocketAddr, kind: StreamKind, shared: bool) -> io::Result<Listener> {
        self.world.inner().listen(self.id.0, addr, kind, shared)
    }

    fn local_addr(&self, listener: Listener) -> io::Result<SocketAddr> {
        let inner = self.world.inner();
        let index = inner.loops[self.id.0].listeners.get(listener.0 as usize);
        index.map(|index| inner.network.listeners[*index].addr).ok_or_else(|| misuse("unknown listener"))
    }

    fn submit(&mut self, op: Operation, tag: Tag) -> Result<(), (Operation, Full)> {
        let mut inner = self.world.inner();
        let home = self.id.0;
        if !inner.loops[home].alive {
            // A dead loop's last words reach nobody.
            return Ok(());
        }
        if inner.loops[home].in_flight >= inner.loops[home].ops_max {
            return Err((op, Full));
        }
        match op {
            Op::Accept { listener } => inner.submit_accept(home, listener, tag),
            Op::Recv { socket } => inner.submit_recv(home, socket, tag),
            Op::Send { socket, runs } => inner.submit_send(home, socket, runs, tag),
            Op::Connect { local, to, kind } => inner.connect(home, local, to, kind, tag),
            Op::Close { socket } => inner.submit_close(home, socket, tag),
            Op::Read { file, offset, len } => inner.start_disk(home, tag, DiskWork::Read { file, offset, len }, None),
            Op::Write { file, offset, bytes, dsync } => {
                let node = inner.loops[home].node;
                let result = inner.nodes[node].disk.write(&file, offset, &bytes);
                let range = offset..offset + bytes.len() as u64;
                let sync_of = (dsync && result.is_ok()).then_some((file.inode, Some(range)));
                inner.start_disk(home, tag, DiskWork::Write { result, dsync }, sync_of);
            }
            Op::Sync { file, range } => {
                inner.start_disk(home, tag, DiskWork::Sync, Some((file.inode, range)));
            }
            Op::File(job) => inner.start_job(home, tag, job).map_err(|job| (Op::File(job), Full))?,
        }
        inner.loops[home].in_flight += 1;
        Ok(())
    }

    fn cancel(&mut self, tag: Tag) {
        self.world.inner().cancel(self.id.0, tag);
    }

    fn poll(&mut self, wait: Wait, out: &mut Vec<Done>) -> io::Result<()> {
        let mut inner = self.world.inner();
        let inner = &mut *inner;
        let home = self.id.0;
        self.slept = false;
        if !inner.loops[home].alive {
            return Ok(());
        }
        let before = out.len();
        let woken = self.waker.clear();
        let count = inner.loops[home].completions.len().min(COMPLETIONS_PER_POLL_MAX);
        out.extend(inner.loops[home].completions.drain(..count));
        for _ in 0..inner.loops[home].readable.len() {
            if out.len() - before >= COMPLETIONS_PER_POLL_MAX {
                break;
            }
            let Some(key) = inner.loops[home].readable.pop_front() else { break };
            inner.receive(home, key, out);
        }
        inner.trace_completions(home, &out[before..]);
        let ended = out[before..].iter().filter(|completion| !completion.more).count();
        inner.loops[home].in_flight -= ended;
        let wake_at = match wait {
            Wait::Until(Mono(deadline)) if out.len() == before && !woken && deadline > inner.now => {
                self.slept = true;
                deadline
            }
            // The thread would run on, and poll again when it is through.
            _ => {
                inner.loops[home].busy_until = inner.now + inner.random.between(1_000, TICK_NS_MAX);
                inner.now
            }
        };
        inner.loops[home].wake_at = Some(wake_at);
        Ok(())
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }
}

/// A node's disk for start-up: everything happens at once.
#[derive(Clone, Debug)]
pub struct SimDisk {
    world: World,
    node: NodeIndex,
}

impl SimDisk {
    fn new(world: World, node: NodeIndex) -> Self {
        SimDisk { world, node }
    }

    fn with<R>(&self, action: impl FnOnce(&mut DiskState) -> R) -> R {
        action(&mut self.world.inner().nodes[self.node.0].disk)
    }
}

/// Held while the node runs.
#[derive(Debug)]
pub struct SimLock {
    world: World,
    node: NodeIndex,
    path: PathBuf,
    life: u64,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.world.give_lock_up(self.node, &self.path, self.life);
    }
}

impl Disk for SimDisk {
    type File = SimFile;
    type Lock = SimLock;

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.with(|disk| disk.create_directory(path));
        Ok(())
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        self.with(|disk| disk.list(directory))
    }

    fn open(&self, path: &Path) -> io::Result<SimFile> {
        self.with(|disk| disk.open(path))
    }

    fn len(&self, file: &SimFile) -> io::Result<u64> {
        Ok(self.with(|disk| disk.len(file)))
    }

    fn sync(&self, file: &SimFile) -> io::Result<()> {
        self.with(|disk| disk.sync_now(file.inode))
    }

    fn read_durable(&self, file: &SimFile, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        Ok(self.with(|disk| disk.read_durable(file, offset, len)))
    }

    fn each_durable<T: Send>(
        &self,
        files: &[SimFile],
        work: &(dyn Fn(usize, &[u8]) -> T + Sync),
    ) -> Vec<Result<T, DurableError>> {
        let one = |(index, file): (usize, &SimFile)| {
            self.sync(file).map_err(DurableError::Sync)?;
            let len = usize::try_from(self.len(file).map_err(DurableError::Read)?).expect("64-bit target");
            let bytes = self.read_durable(file, 0, len).map_err(DurableError::Read)?;
            Ok(work(index, &bytes))
        };
        files.iter().enumerate().map(one).collect()
    }

    fn run(&self, job: FileJob<SimFile>) -> io::Result<Outcome<SimFile>> {
        self.with(|disk| {
            let mut step = 0;
            loop {
                match disk.job_step(&job, step) {
                    Step::Next => step += 1,
                    Step::Done(result) => return result,
                }
            }
        })
    }

    fn lock(&self, path: &Path) -> io::Result<SimLock> {
        let life = self.world.take_lock(self.node, path)?;
        Ok(SimLock { world: self.world.clone(), node: self.node, path: path.to_owned(), life })
    }
}
