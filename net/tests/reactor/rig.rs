//! Runs one reactor of each sibling, and drives it.

use std::collections::VecDeque;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use net::reactor::epoll::EpollIo;
use net::reactor::helper::Helper;
use net::reactor::sim::{SimIo, World};
use net::reactor::uring::UringIo;
use net::reactor::{
    Backend, Completion, FileJob, Io, Listener, Op, OsFile, Outcome, ReactorConfig, Socket, StreamKind, Tag, Wait,
};

pub(crate) trait Rig {
    type Io: Io;
    fn io(&mut self) -> &mut Self::Io;
    /// One poll; the simulator runs the world until this loop's turn.
    fn poll(&mut self, wait: Wait, out: &mut Vec<Completion<<Self::Io as Io>::File>>);
    fn path(&self, name: &str) -> PathBuf;
    /// An address of this machine, port 0.
    fn address(&self) -> SocketAddr;
    /// An address where nobody listens.
    fn deaf_address(&self) -> SocketAddr;
    fn is_threaded(&self) -> bool;
}

pub(crate) struct OsRig<I> {
    // Before the helper, whose thread ends with the last handle.
    io: I,
    _helper: Helper,
    directory: tempfile::TempDir,
}

pub(crate) struct UringRig;
pub(crate) struct EpollRig;

fn helper(backend: Backend) -> Helper {
    Helper::spawn(backend, || Box::pin(std::future::pending())).unwrap()
}

impl UringRig {
    pub(crate) fn start(config: ReactorConfig) -> Option<OsRig<UringIo>> {
        if let Err(refused) = net::reactor::uring::probe() {
            println!("SKIPPED: {refused}");
            return None;
        }
        let helper = helper(Backend::Uring);
        let io = UringIo::new(config, &helper.handle()).unwrap();
        Some(OsRig { io, _helper: helper, directory: tempfile::tempdir().unwrap() })
    }
}

impl EpollRig {
    pub(crate) fn start(config: ReactorConfig) -> OsRig<EpollIo> {
        let helper = helper(Backend::Epoll);
        let io = EpollIo::new(config, &helper.handle()).unwrap();
        OsRig { io, _helper: helper, directory: tempfile::tempdir().unwrap() }
    }
}

impl<I: Io<File = OsFile>> Rig for OsRig<I> {
    type Io = I;

    fn io(&mut self) -> &mut I {
        &mut self.io
    }

    fn poll(&mut self, wait: Wait, out: &mut Vec<Completion<OsFile>>) {
        self.io.poll(wait, out).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn address(&self) -> SocketAddr {
        "127.0.0.1:0".parse().unwrap()
    }

    fn deaf_address(&self) -> SocketAddr {
        // Bound a moment ago, hence free now, and not handed out again at once.
        TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
    }

    fn is_threaded(&self) -> bool {
        true
    }
}

pub(crate) struct SimRig {
    world: World,
    io: SimIo,
}

impl SimRig {
    pub(crate) fn start(config: ReactorConfig, seed: u64) -> SimRig {
        let world = World::new(seed);
        let node = world.add_node(&["10.0.0.1".parse().unwrap()]);
        let io = SimIo::with_config(&world, node, config);
        SimRig { world, io }
    }
}

impl Rig for SimRig {
    type Io = SimIo;

    fn io(&mut self) -> &mut SimIo {
        &mut self.io
    }

    fn poll(&mut self, wait: Wait, out: &mut Vec<Completion<<SimIo as Io>::File>>) {
        // A poll that would block ends a tick without anything; the loop's next turn comes when something happened.
        loop {
            let id = self.world.step().expect("this loop registered a deadline");
            assert_eq!(id, self.io.id());
            self.io.poll(wait, out).unwrap();
            if !self.io.slept() {
                return;
            }
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from("/data").join(name)
    }

    fn address(&self) -> SocketAddr {
        "10.0.0.1:0".parse().unwrap()
    }

    fn deaf_address(&self) -> SocketAddr {
        "10.0.0.1:9".parse().unwrap()
    }

    fn is_threaded(&self) -> bool {
        false
    }
}

type Done<R> = Completion<<<R as Rig>::Io as Io>::File>;
type FileOf<R> = <<R as Rig>::Io as Io>::File;

/// The longest any test waits for one completion.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Driver<R: Rig> {
    pub(crate) rig: R,
    /// Arrived and not asked for yet.
    seen: VecDeque<Done<R>>,
    pairs: u64,
}

impl<R: Rig> Driver<R> {
    pub(crate) fn new(rig: R) -> Self {
        Driver { rig, seen: VecDeque::new(), pairs: 0 }
    }

    pub(crate) fn submit(&mut self, op: Op<FileOf<R>>, tag: Tag) {
        self.rig.io().submit(op, tag).unwrap();
    }

    /// One poll of at most 100 ms, after what arrived earlier.
    pub(crate) fn tick(&mut self) -> Vec<Done<R>> {
        let mut out: Vec<_> = self.seen.drain(..).collect();
        let soon = self.rig.io().now().plus_ms(100);
        self.rig.poll(if out.is_empty() { Wait::Until(soon) } else { Wait::Now }, &mut out);
        out
    }

    /// The next completion with this tag.
    pub(crate) fn expect(&mut self, tag: Tag) -> Done<R> {
        let started = Instant::now();
        loop {
            if let Some(index) = self.seen.iter().position(|completion| completion.tag == tag) {
                return self.seen.remove(index).unwrap();
            }
            assert!(started.elapsed() < PATIENCE, "no completion of {tag:?}; others: {:?}", self.seen);
            let mut out = Vec::new();
            let soon = self.rig.io().now().plus_ms(100);
            self.rig.poll(Wait::Until(soon), &mut out);
            self.seen.extend(out);
        }
    }

    /// Lets what is going on settle, and asserts that nothing completes while nothing should.
    pub(crate) fn quiet(&mut self) {
        let until = self.rig.io().now().plus_ms(60);
        let mut out = Vec::new();
        while self.rig.io().now() < until {
            self.rig.poll(Wait::Until(until), &mut out);
        }
        assert!(out.is_empty(), "nothing should complete now: {out:?}");
    }

    pub(crate) fn listen(&mut self) -> (Listener, SocketAddr) {
        let address = self.rig.address();
        let listener = self.rig.io().listen(address, StreamKind::Client, false).unwrap();
        let address = self.rig.io().local_addr(listener).unwrap();
        (listener, address)
    }

    pub(crate) fn connected(&mut self, tag: Tag) -> Socket {
        match self.expect(tag) {
            Completion { result: Ok(Outcome::Connected(socket)), more: false, .. } => socket,
            other => panic!("not connected: {other:?}"),
        }
    }

    pub(crate) fn accepted(&mut self, tag: Tag) -> Socket {
        match self.expect(tag) {
            Completion { result: Ok(Outcome::Accepted(socket, peer)), more: true, .. } => {
                assert_ne!(peer.port(), 0);
                socket
            }
            other => panic!("not accepted: {other:?}"),
        }
    }

    /// Two ends of one stream.
    pub(crate) fn pair(&mut self) -> (Socket, Socket) {
        self.pairs += 1;
        let tag = 1_000_000 + 10 * self.pairs;
        let (listener, to) = self.listen();
        self.submit(Op::Accept { listener }, Tag(tag));
        let local = Some(to.ip());
        self.submit(Op::Connect { local, to, kind: StreamKind::Replication }, Tag(tag + 1));
        let near = self.connected(Tag(tag + 1));
        let far = self.accepted(Tag(tag));
        self.rig.io().cancel(Tag(tag));
        assert!(self.expect(Tag(tag)).is_cancelled());
        (near, far)
    }

    /// Receives exactly `len` bytes, dropping the leases at once.
    pub(crate) fn receive(&mut self, socket: Socket, tag: Tag, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len);
        self.submit(Op::Recv { socket }, tag);
        while bytes.len() < len {
            let completion = self.expect(tag);
            if !completion.is_out_of_buffers() {
                completion.result.as_ref().unwrap();
                bytes.extend_from_slice(&completion.buf.unwrap());
            }
            if !completion.more {
                self.submit(Op::Recv { socket }, tag);
            }
        }
        bytes
    }

    pub(crate) fn job(&mut self, job: FileJob<FileOf<R>>) -> std::io::Result<Outcome<FileOf<R>>> {
        self.submit(Op::File(job), Tag(2_000_000));
        let completion = self.expect(Tag(2_000_000));
        assert!(!completion.more);
        completion.result
    }

    pub(crate) fn opened(&mut self, job: FileJob<FileOf<R>>) -> FileOf<R> {
        match self.job(job) {
            Ok(Outcome::Opened(file)) => file,
            other => panic!("not opened: {other:?}"),
        }
    }

    pub(crate) fn prepare(&mut self, name: &str, len: u64) -> FileOf<R> {
        let path = self.rig.path(name);
        self.opened(FileJob::Prepare { path, len, head: Bytes::new() })
    }
}
