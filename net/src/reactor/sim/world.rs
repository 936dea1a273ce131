//! The simulated world: virtual time, its events, its nodes, and whose turn it is.

use std::cell::{RefCell, RefMut};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::IpAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::file::{DiskState, SimFile, Step};
use super::random::Random;
use super::socket::Network;
use super::{SimDisk, SimSocket};
use crate::reactor::lease::HeapPool;
use crate::reactor::table::Table;
use crate::reactor::{Completion, FileJob, Mono, Outcome, ReactorConfig, Tag, Waker};

/// Wall time at virtual time zero: 2026-01-01.
const WALL_START_UNIX_MS: u64 = 1_767_225_600_000;

/// A node of a world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeIndex(pub usize);

/// A loop of a world; never reused, so a restarted node has new ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LoopId(pub usize);

pub(super) enum Event {
    Syn(u64),
    ConnectRefused(u64),
    ConnectTimeout(u64),
    Established(u64),
    Arrive(u64, usize),
    Flush(u64, usize),
    Ack(u64, usize),
    Reset(u64, usize),
    UserTimeout(u64, usize, u64),
    Disk(usize, u64),
    JobStep(usize, u64),
}

/// File work of a loop that the disk is doing.
pub(super) enum DiskWork {
    Read {
        file: SimFile,
        offset: u64,
        len: u32,
    },
    /// Already in the page cache; `dsync` makes it durable at the end.
    Write {
        result: io::Result<()>,
        dsync: bool,
    },
    Sync,
}

pub(super) struct Node {
    pub(super) ips: Vec<IpAddr>,
    pub(super) up: bool,
    /// Counts deaths; work of an earlier life is ignored.
    pub(super) life: u64,
    pub(super) disk: DiskState,
    work: BTreeMap<u64, (usize, Tag, DiskWork)>,
    /// The helper thread's queue; the first is being done.
    jobs: VecDeque<(usize, Tag, FileJob<SimFile>)>,
    job_step: usize,
    /// Steps of jobs that were done in all lives.
    job_steps: u64,
    pub(super) wall_offset_ms: i64,
}

impl Node {
    pub(super) fn owns(&self, ip: IpAddr) -> bool {
        self.ips.contains(&ip) || ip.is_loopback()
    }
}

pub(super) struct Loop {
    pub(super) node: usize,
    pub(super) alive: bool,
    pub(super) waker: Waker,
    pub(super) completions: VecDeque<Completion<SimFile>>,
    /// Sockets with an armed receive and something to give it.
    pub(super) readable: VecDeque<u32>,
    pub(super) sockets: Table<SimSocket>,
    /// Indices into the world's listeners.
    pub(super) listeners: Vec<usize>,
    pub(super) wake_at: Option<u64>,
    pub(super) busy_until: u64,
    pub(super) in_flight: usize,
    pub(super) ops_max: usize,
    pub(super) pool: HeapPool,
}

pub(super) struct Inner {
    pub(super) now: u64,
    sequence: u64,
    events: BTreeMap<(u64, u64), Event>,
    pub(super) random: Random,
    pub(super) nodes: Vec<Node>,
    pub(super) loops: Vec<Loop>,
    pub(super) network: Network,
    trace: u64,
}

impl Inner {
    pub(super) fn schedule(&mut self, at: u64, event: Event) {
        self.sequence += 1;
        self.events.insert((at.max(self.now), self.sequence), event);
    }

    pub(super) fn complete(&mut self, home: usize, tag: Tag, result: io::Result<Outcome<SimFile>>) {
        if let Some(home) = self.loops.get_mut(home).filter(|home| home.alive) {
            home.completions.push_back(Completion::last(tag, result));
        }
    }

    /// Mixes one delivered event into the trace (FNV-1a).
    pub(super) fn trace(&mut self, words: &[u64]) {
        for byte in words.iter().flat_map(|word| word.to_le_bytes()) {
            self.trace = (self.trace ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    pub(super) fn wall_unix_ms(&self, node: usize) -> u64 {
        (WALL_START_UNIX_MS + self.now / 1_000_000).saturating_add_signed(self.nodes[node].wall_offset_ms)
    }

    fn sync_delay(&mut self) -> u64 {
        if self.random.chance(20_000) { 20_000_000 } else { self.random.between(50_000, 3_000_000) }
    }

    pub(super) fn start_disk(
        &mut self,
        home: usize,
        tag: Tag,
        work: DiskWork,
        sync_of: Option<(u64, Option<Range<u64>>)>,
    ) {
        let node = self.loops[home].node;
        self.sequence += 1;
        let id = self.sequence;
        let delay = match sync_of {
            Some((inode, range)) => {
                self.nodes[node].disk.start_sync(id, inode, range);
                self.sync_delay()
            }
            None => self.random.between(5_000, 300_000),
        };
        self.nodes[node].work.insert(id, (home, tag, work));
        self.schedule(self.now + delay, Event::Disk(node, id));
    }

    fn end_disk(&mut self, node: usize, id: u64) {
        let Some((home, tag, work)) = self.nodes[node].work.remove(&id) else { return };
        let disk = &mut self.nodes[node].disk;
        let result = match work {
            DiskWork::Read { file, offset, len } => {
                let bytes = DiskState::read(&file, offset, len as usize);
                if let Some(home) = self.loops.get_mut(home).filter(|home| home.alive) {
                    let buf = Some(crate::reactor::lease::HeapBuffer::adopt(&HeapPool::new(usize::MAX), bytes));
                    let result = Ok(Outcome::Data);
                    home.completions.push_back(Completion { tag, result, more: false, buf });
                }
                return;
            }
            DiskWork::Write { result: Ok(()), dsync: true } | DiskWork::Sync => disk.end_sync(id),
            DiskWork::Write { result, .. } => result,
        };
        self.complete(home, tag, result.map(|()| Outcome::Done));
    }

    /// Queues a job for the node's helper; hands it back when too many wait.
    pub(super) fn start_job(&mut self, home: usize, tag: Tag, job: FileJob<SimFile>) -> Result<(), FileJob<SimFile>> {
        const JOBS_MAX: usize = 256;
        let node = self.loops[home].node;
        if self.nodes[node].jobs.len() >= JOBS_MAX {
            return Err(job);
        }
        self.nodes[node].jobs.push_back((home, tag, job));
        if self.nodes[node].jobs.len() == 1 {
            self.schedule_job_step(node);
        }
        Ok(())
    }

    fn schedule_job_step(&mut self, node: usize) {
        let delay = match (self.nodes[node].jobs.front(), self.nodes[node].job_step) {
            (Some((_, _, FileJob::Prepare { .. })), 2) => self.sync_delay(),
            (_, 0) => self.random.between(5_000, 100_000),
            _ => self.random.between(50_000, 2_000_000),
        };
        let life = self.nodes[node].life;
        self.schedule(self.now + delay, Event::JobStep(node, life));
    }

    fn job_step(&mut self, index: usize, life: u64) {
        let node = &mut self.nodes[index];
        if node.life != life {
            return;
        }
        let Some((home, tag, job)) = node.jobs.front() else { return };
        let (home, tag) = (*home, *tag);
        node.job_steps += 1;
        match node.disk.job_step(job, node.job_step) {
            Step::Next => node.job_step += 1,
            Step::Done(result) => {
                node.jobs.pop_front();
                node.job_step = 0;
                self.complete(home, tag, result);
            }
        }
        if !self.nodes[index].jobs.is_empty() {
            self.schedule_job_step(index);
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Syn(id) => self.syn(id),
            Event::ConnectRefused(id) => self.end_attempt(id, io::ErrorKind::ConnectionRefused),
            Event::ConnectTimeout(id) => self.end_attempt(id, io::ErrorKind::TimedOut),
            Event::Established(id) => self.established(id),
            Event::Arrive(id, side) => self.arrive(id, side),
            Event::Flush(id, side) => self.flush(id, side),
            Event::Ack(id, side) => self.ack(id, side),
            Event::Reset(id, side) => self.reset_arrives(id, side),
            Event::UserTimeout(id, side, since) => self.user_timeout(id, side, since),
            Event::Disk(node, id) => self.end_disk(node, id),
            Event::JobStep(node, life) => self.job_step(node, life),
        }
    }

    /// When a loop's turn is, if ever.
    fn turn(&self, home: &Loop) -> Option<u64> {
        if !home.alive {
            return None;
        }
        let has_work = home.waker.is_pending() || !home.completions.is_empty() || !home.readable.is_empty();
        let at = if has_work { Some(self.now) } else { home.wake_at };
        at.map(|at| at.max(home.busy_until))
    }

    fn step(&mut self, limit: u64) -> Option<LoopId> {
        loop {
            let turns: Vec<(usize, u64)> =
                self.loops.iter().enumerate().filter_map(|(index, home)| Some((index, self.turn(home)?))).collect();
            let due: Vec<usize> = turns.iter().filter(|(_, at)| *at <= self.now).map(|(index, _)| *index).collect();
            if !due.is_empty() {
                return Some(LoopId(due[self.random.index(due.len())]));
            }
            let next_turn = turns.iter().map(|(_, at)| *at).min();
            let next_event = self.events.first_key_value().map(|((at, _), _)| *at);
            let next = match (next_turn, next_event) {
                (Some(turn), Some(event)) => turn.min(event),
                (Some(at), None) | (None, Some(at)) => at,
                (None, None) => return None,
            };
            if next > limit {
                self.now = self.now.max(limit);
                return None;
            }
            self.now = self.now.max(next);
            while let Some(entry) = self.events.first_entry() {
                if entry.key().0 > self.now {
                    break;
                }
                let event = entry.remove();
                self.happen(event);
            }
        }
    }

    fn end_loops(&mut self, index: usize, power: bool) {
        let dead: BTreeSet<usize> =
            (0..self.loops.len()).filter(|home| self.loops[*home].node == index && self.loops[*home].alive).collect();
        for home in &dead {
            let home = &mut self.loops[*home];
            home.alive = false;
            home.completions.clear();
            home.readable.clear();
        }
        let ips = self.nodes[index].ips.clone();
        self.nodes[index].life += 1;
        self.nodes[index].jobs.clear();
        self.nodes[index].job_step = 0;
        self.drop_loops(&dead, &ips, power);
    }
}

/// A simulated world; clones share it. Everything in it follows from the seed and the calls made.
#[derive(Clone)]
pub struct World(Rc<RefCell<Inner>>);

impl World {
    /// An empty world.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        World(Rc::new(RefCell::new(Inner {
            now: 1,
            sequence: 0,
            events: BTreeMap::new(),
            random: Random::new(seed),
            nodes: Vec::new(),
            loops: Vec::new(),
            network: Network::default(),
            trace: 0xcbf2_9ce4_8422_2325,
        })))
    }

    pub(super) fn inner(&self) -> RefMut<'_, Inner> {
        self.0.borrow_mut()
    }

    /// Adds a node with its addresses and an empty disk. It is up.
    #[must_use]
    pub fn add_node(&self, ips: &[IpAddr]) -> NodeIndex {
        let mut inner = self.inner();
        inner.nodes.push(Node {
            ips: ips.to_vec(),
            up: true,
            life: 0,
            disk: DiskState::default(),
            work: BTreeMap::new(),
            jobs: VecDeque::new(),
            job_step: 0,
            job_steps: 0,
            wall_offset_ms: 0,
        });
        NodeIndex(inner.nodes.len() - 1)
    }

    pub(super) fn add_loop(&self, node: NodeIndex, config: ReactorConfig) -> (LoopId, Random) {
        let mut inner = self.inner();
        if !inner.nodes[node.0].up {
            inner.nodes[node.0].up = true;
            let ips = inner.nodes[node.0].ips.clone();
            inner.node_is_up(&ips);
        }
        let now = inner.now;
        inner.loops.push(Loop {
            node: node.0,
            alive: true,
            waker: Waker::flag(),
            completions: VecDeque::new(),
            readable: VecDeque::new(),
            sockets: Table::new(),
            listeners: Vec::new(),
            wake_at: Some(now),
            busy_until: now,
            in_flight: 0,
            ops_max: usize::try_from(config.operations_max).unwrap_or(usize::MAX),
            pool: HeapPool::new(usize::from(config.receive_buffers)),
        });
        let seed = inner.random.next();
        (LoopId(inner.loops.len() - 1), Random::new(seed))
    }

    /// Virtual time.
    #[must_use]
    pub fn now(&self) -> Mono {
        Mono(self.inner().now)
    }

    /// Advances to the next moment at which a loop has something to do, and says which: run its tick (one `poll` and
    /// what follows from it). `None`: nothing will ever happen again.
    #[must_use]
    pub fn step(&self) -> Option<LoopId> {
        self.inner().step(u64::MAX)
    }

    /// As [`World::step`], but not past `limit`; then time is `limit` and the answer `None`.
    #[must_use]
    pub fn step_until(&self, limit: Mono) -> Option<LoopId> {
        self.inner().step(limit.0)
    }

    /// The node of a loop.
    #[must_use]
    pub fn node_of(&self, id: LoopId) -> NodeIndex {
        NodeIndex(self.inner().loops[id.0].node)
    }

    /// A random number below `bound` (not zero) from the world's seed, for the harness's own choices.
    #[must_use]
    pub fn random_below(&self, bound: u64) -> u64 {
        self.inner().random.below(bound)
    }

    /// One-way delay from `from` to `to`; jitter of up to a sixteenth is added.
    pub fn set_delay(&self, from: IpAddr, to: IpAddr, ns: u64) {
        self.inner().network.set_delay(from, to, ns);
    }

    /// Segments lost one way, in parts per million; each loss delays everything behind it by a retransmission.
    pub fn set_loss(&self, from: IpAddr, to: IpAddr, parts_per_million: u64) {
        self.inner().network.set_loss(from, to, parts_per_million);
    }

    /// Nothing arrives from `from` at `to` any more; bytes wait.
    pub fn cut(&self, from: IpAddr, to: IpAddr) {
        self.inner().cut(from, to);
    }

    /// Undoes `cut`; what waited arrives late, as TCP's retransmission timers have it.
    pub fn heal(&self, from: IpAddr, to: IpAddr) {
        self.inner().heal(from, to);
    }

    /// Resets one established stream, if there is any; returns whether.
    #[must_use]
    pub fn reset_random_stream(&self) -> bool {
        self.inner().reset_random_stream()
    }

    /// Payload bytes sent so far from one address to another.
    #[must_use]
    pub fn bytes_between(&self, from: IpAddr, to: IpAddr) -> u64 {
        self.inner().network.bytes_between(from, to)
    }

    /// Power loss: all loops of the node die, its sockets vanish without a word, its disk keeps any subset of what was
    /// not synced. The node is up again with its next loop.
    pub fn crash(&self, node: NodeIndex) {
        let mut inner = self.inner();
        let inner = &mut *inner;
        inner.end_loops(node.0, true);
        let state = &mut inner.nodes[node.0];
        state.up = false;
        state.work.clear();
        state.disk.crash(&mut inner.random);
    }

    /// kill -9: all loops of the node die, its kernel closes the sockets and keeps the page cache.
    pub fn kill(&self, node: NodeIndex) {
        let mut inner = self.inner();
        inner.end_loops(node.0, false);
        inner.nodes[node.0].disk.locks.clear();
    }

    /// The disk is replaced by an empty one (crash or kill the node first).
    pub fn wipe_disk(&self, node: NodeIndex) {
        self.inner().nodes[node.0].disk.wipe();
    }

    /// The next sync on this node fails with EIO, and what it should have written is not written by later ones.
    pub fn fail_next_sync(&self, node: NodeIndex) {
        self.inner().nodes[node.0].disk.arm_sync_failure();
    }

    /// How many system calls the node's file jobs have made so far, over all its lives.
    #[must_use]
    pub fn job_steps(&self, node: NodeIndex) -> u64 {
        self.inner().nodes[node.0].job_steps
    }

    /// Whether files can grow.
    pub fn set_disk_full(&self, node: NodeIndex, full: bool) {
        self.inner().nodes[node.0].disk.full = full;
    }

    /// Rot: flips the bits of `mask` in one byte of a file, on the device and in the page cache.
    ///
    /// # Errors
    /// If there is no such file or byte.
    pub fn rot(&self, node: NodeIndex, path: &Path, offset: usize, mask: u8) -> io::Result<()> {
        self.inner().nodes[node.0].disk.rot(path, offset, mask)
    }

    /// The node's disk, for start-up and for looking inside.
    #[must_use]
    pub fn disk(&self, node: NodeIndex) -> SimDisk {
        SimDisk::new(self.clone(), node)
    }

    /// The node's wall clock differs from virtual time by this much.
    pub fn set_wall_offset(&self, node: NodeIndex, ms: i64) {
        self.inner().nodes[node.0].wall_offset_ms = ms;
    }

    /// A hash over every completion delivered so far: equal for equal seeds and calls.
    #[must_use]
    pub fn trace_hash(&self) -> u64 {
        self.inner().trace
    }

    pub(super) fn take_lock(&self, node: NodeIndex, path: &Path) -> io::Result<u64> {
        let mut inner = self.inner();
        let state = &mut inner.nodes[node.0];
        if state.disk.locks.insert(path.to_owned()) { Ok(state.life) } else { Err(io::ErrorKind::WouldBlock.into()) }
    }

    pub(super) fn give_lock_up(&self, node: NodeIndex, path: &PathBuf, life: u64) {
        // During a crash the world is borrowed, and it clears the locks itself.
        if let Ok(mut inner) = self.0.try_borrow_mut() {
            let state = &mut inner.nodes[node.0];
            if state.life == life {
                state.disk.locks.remove(path);
            }
        }
    }
}

impl std::fmt::Debug for World {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("World")
    }
}
