//! The simulated world: virtual time, its events, its nodes and loops, and whose turn it is.

use std::cell::{RefCell, RefMut};
use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::clock::Clock;
use super::disk::SimDisk;
use super::file::{Caller, DiskState, SimFile};
use super::loops::SimSocket;
use super::process::{DiskWork, SyncDelay};
use super::random::Random;
use super::socket::Network;
use crate::reactor::lease::HeapPool;
use crate::reactor::table::Table;
use crate::reactor::{Completion, FileJob, Mono, Outcome, ReactorConfig, Tag, Wait, Waker};

/// Wall time at virtual time zero: 2026-01-01.
pub const WALL_START_UNIX_MS: u64 = 1_767_225_600_000;

/// The shortest and, unless a world says otherwise, the longest that one turn of a loop takes, in virtual nanoseconds.
pub(super) const TURN_NS_MIN: u64 = 1_000;
const TURN_NS_MAX: u64 = 5_000;

/// A node of a world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeIndex(pub usize);

/// A loop of a world; never reused, so a restarted node has new ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LoopId(pub usize);

/// How much has happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorldStats {
    /// Arrivals, acknowledgements, ends of disk work, and the like.
    pub events: u64,
    /// Turns that loops were given.
    pub turns: u64,
}

pub(super) enum Event {
    Syn(u64),
    Stray(u64),
    ConnectRefused(u64),
    ConnectTimeout(u64),
    Established(u64),
    Arrive(u64, usize),
    Flush(u64, usize),
    Ack(u64, usize),
    Reset(u64, usize),
    UserTimeout(u64, usize, u64),
    AckTimeout(u64, usize, u64),
    Disk(usize, u64),
    JobStep(usize, u64),
}

/// An event and its place in the order of all: by time, then by age.
struct Scheduled {
    at: u64,
    sequence: u64,
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}

pub(super) struct Node {
    pub(super) ips: Vec<IpAddr>,
    pub(super) up: bool,
    /// Counts deaths; work of an earlier life is ignored.
    pub(super) life: u64,
    /// Its processes are stopped.
    pub(super) paused: bool,
    /// Its processes are dead, and the harness does not know yet.
    pub(super) dying: bool,
    /// Effects that still happen before its processes die.
    pub(super) effects_left: Option<u64>,
    pub(super) disk: DiskState,
    pub(super) sync_delay: SyncDelay,
    pub(super) work: BTreeMap<u64, (usize, Tag, DiskWork)>,
    /// The helper thread's queue; the first is being done.
    pub(super) jobs: VecDeque<(usize, Tag, FileJob<SimFile>)>,
    pub(super) job_step: usize,
    /// The helper thread is stopped between two steps.
    pub(super) job_waits: bool,
    /// Steps of jobs that were done in all lives.
    pub(super) job_steps: u64,
    pub(super) mono: Clock,
    pub(super) wall: Clock,
    pub(super) wall_offset_ms: i64,
}

impl Node {
    pub(super) fn owns(&self, ip: IpAddr) -> bool {
        self.ips.contains(&ip) || ip.is_loopback()
    }
}

impl Loop {
    pub(super) fn has_work(&self) -> bool {
        !self.completions.is_empty() || !self.readable.is_empty()
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
    /// What it sleeps for, in its node's time.
    pub(super) deadline: Option<u64>,
    pub(super) in_flight: usize,
    pub(super) ops_max: usize,
    /// A sync, or a write that was to be durable, failed.
    pub(super) sync_failed: bool,
    pub(super) pool: HeapPool,
}

/// When a loop's next turn is, apart from what is looked at for each of them in every step.
pub(super) struct Turn {
    node: usize,
    waker: Waker,
    /// When it wants to run; 0 if there is something for it, `u64::MAX` is never.
    pub(super) wake_at: u64,
    pub(super) busy_until: u64,
}

pub(super) struct Inner {
    pub(super) now: u64,
    sequence: u64,
    events: BinaryHeap<Reverse<Scheduled>>,
    pub(super) random: Random,
    pub(super) nodes: Vec<Node>,
    pub(super) loops: Vec<Loop>,
    /// By loop.
    pub(super) turns: Vec<Turn>,
    /// Loops that are alive, ascending.
    pub(super) live: Vec<usize>,
    /// Room for [`Inner::step`].
    due: Vec<usize>,
    pub(super) network: Network,
    /// Nodes whose processes died of an armed crash.
    pub(super) crashed: VecDeque<usize>,
    pub(super) turn_ns_max: u64,
    stats: WorldStats,
    trace: u64,
}

impl Inner {
    pub(super) fn schedule(&mut self, at: u64, event: Event) {
        let sequence = self.fresh_sequence();
        self.events.push(Reverse(Scheduled { at: at.max(self.now), sequence, event }));
    }

    pub(super) fn fresh_sequence(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    pub(super) fn complete(&mut self, home: usize, tag: Tag, result: io::Result<Outcome<SimFile>>) {
        self.hand(home, Completion::last(tag, result));
    }

    /// Gives a loop a completion, unless it is dead.
    pub(super) fn hand(&mut self, index: usize, completion: Completion<SimFile>) {
        if let Some(home) = self.loops.get_mut(index).filter(|home| home.alive) {
            home.completions.push_back(completion);
            self.turns[index].wake_at = 0;
        }
    }

    /// Mixes a delivered event into the trace, a word at a time: multiply, fold the high bits back (as in `wyhash`).
    pub(super) fn trace(&mut self, words: &[u64]) {
        for word in words {
            let mixed = (self.trace ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            self.trace = mixed ^ (mixed >> 32);
        }
    }

    pub(super) fn node_now(&self, node: usize) -> u64 {
        self.nodes[node].mono.at(self.now)
    }

    pub(super) fn wall_unix_ms(&self, node: usize) -> u64 {
        let node = &self.nodes[node];
        (WALL_START_UNIX_MS + node.wall.at(self.now) / 1_000_000).saturating_add_signed(node.wall_offset_ms)
    }

    pub(super) fn set_mono_drift(&mut self, node: usize, ppm: i64) {
        self.nodes[node].mono.set_drift(self.now, ppm);
        for index in &self.live {
            let home = &mut self.loops[*index];
            if home.node == node
                && let Some(deadline) = home.deadline
            {
                let turn = &mut self.turns[*index];
                if turn.wake_at != 0 {
                    turn.wake_at = self.nodes[node].mono.when(deadline);
                }
            }
        }
    }

    fn sleep(&mut self, home: usize, wait: Wait) {
        let node = self.loops[home].node;
        let deadline = match wait {
            Wait::Until(Mono(deadline)) if deadline > self.node_now(node) => Some(deadline),
            _ => None,
        };
        self.loops[home].deadline = deadline;
        self.turns[home].wake_at = match deadline {
            Some(deadline) if !self.loops[home].has_work() => self.nodes[node].mono.when(deadline),
            _ => 0,
        };
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Syn(id) => self.syn(id),
            Event::Stray(id) => self.stray(id),
            Event::ConnectRefused(id) => self.refused(id),
            Event::ConnectTimeout(id) => self.end_attempt(id, io::ErrorKind::TimedOut),
            Event::Established(id) => self.established(id),
            Event::Arrive(id, side) => self.arrive(id, side),
            Event::Flush(id, side) => self.flush(id, side),
            Event::Ack(id, side) => self.ack(id, side),
            Event::Reset(id, side) => self.reset_arrives(id, side),
            Event::UserTimeout(id, side, since) => self.user_timeout(id, side, since),
            Event::AckTimeout(id, side, since) => self.ack_timeout(id, side, since),
            Event::Disk(node, id) => self.end_disk(node, id),
            Event::JobStep(node, life) => self.job_step(node, life),
        }
    }

    /// When a loop's turn is; `u64::MAX` is never.
    fn turn(&self, index: usize) -> u64 {
        let turn = &self.turns[index];
        let node = &self.nodes[turn.node];
        if node.paused || node.dying {
            return u64::MAX;
        }
        let wake_at = if turn.waker.is_pending() { 0 } else { turn.wake_at };
        wake_at.max(turn.busy_until)
    }

    fn step(&mut self, limit: u64) -> Option<LoopId> {
        loop {
            let mut due = std::mem::take(&mut self.due);
            due.clear();
            let mut next = u64::MAX;
            for index in &self.live {
                let at = self.turn(*index);
                if at <= self.now {
                    due.push(*index);
                }
                next = next.min(at);
            }
            let chosen = match due.len() {
                0 => None,
                1 => Some(due[0]),
                several => Some(due[self.random.index(several)]),
            };
            self.due = due;
            if let Some(index) = chosen {
                self.stats.turns += 1;
                return Some(LoopId(index));
            }
            if let Some(Reverse(first)) = self.events.peek() {
                next = next.min(first.at);
            }
            if next > limit || next == u64::MAX {
                if limit < u64::MAX {
                    self.now = self.now.max(limit);
                }
                return None;
            }
            self.now = self.now.max(next);
            while self.events.peek().is_some_and(|Reverse(first)| first.at <= self.now) {
                let Some(Reverse(first)) = self.events.pop() else { break };
                self.stats.events += 1;
                self.happen(first.event);
            }
        }
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
            events: BinaryHeap::new(),
            random: Random::new(seed),
            nodes: Vec::new(),
            loops: Vec::new(),
            turns: Vec::new(),
            live: Vec::new(),
            due: Vec::new(),
            network: Network::default(),
            crashed: VecDeque::new(),
            turn_ns_max: TURN_NS_MAX,
            stats: WorldStats::default(),
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
        let index = inner.nodes.len();
        for ip in ips {
            inner.network.owners.entry(*ip).or_insert(index);
        }
        inner.nodes.push(Node {
            ips: ips.to_vec(),
            up: true,
            life: 0,
            paused: false,
            dying: false,
            effects_left: None,
            disk: DiskState::default(),
            sync_delay: SyncDelay::default(),
            work: BTreeMap::new(),
            jobs: VecDeque::new(),
            job_step: 0,
            job_waits: false,
            job_steps: 0,
            mono: Clock::truthful(),
            wall: Clock::truthful(),
            wall_offset_ms: 0,
        });
        NodeIndex(index)
    }

    pub(super) fn add_loop(&self, node: NodeIndex, config: ReactorConfig) -> (LoopId, Random) {
        let mut inner = self.inner();
        if !inner.nodes[node.0].up {
            inner.nodes[node.0].up = true;
            inner.node_is_up(node.0);
        }
        let now = inner.now;
        let index = inner.loops.len();
        inner.loops.push(Loop {
            node: node.0,
            alive: true,
            waker: Waker::flag(),
            completions: VecDeque::new(),
            readable: VecDeque::new(),
            sockets: Table::new(),
            listeners: Vec::new(),
            deadline: None,
            in_flight: 0,
            sync_failed: false,
            ops_max: usize::try_from(config.operations_max).unwrap_or(usize::MAX),
            pool: HeapPool::new(usize::from(config.receive_buffers)),
        });
        let waker = inner.loops[index].waker.clone();
        inner.turns.push(Turn { node: node.0, waker, wake_at: now, busy_until: now });
        inner.live.push(index);
        let seed = inner.random.next();
        (LoopId(index), Random::new(seed))
    }

    /// What a node's wall clock shows, in milliseconds since 1970.
    #[must_use]
    pub fn wall_unix_ms(&self, node: NodeIndex) -> u64 {
        self.inner().wall_unix_ms(node.0)
    }

    /// True virtual time; the clocks of nodes may differ from it ([`World::node_now`]).
    #[must_use]
    pub fn now(&self) -> Mono {
        Mono(self.inner().now)
    }

    /// What the node's monotonic clock shows: what [`crate::reactor::Io::now`] says on its loops.
    #[must_use]
    pub fn node_now(&self, node: NodeIndex) -> Mono {
        Mono(self.inner().node_now(node.0))
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

    /// The loop has ended its turn and its thread would block for `wait`: its next turn comes with an event, a wake-up or the
    /// deadline. A loop of which nobody says so polls once more, and finds nothing.
    pub fn sleep(&self, id: LoopId, wait: Wait) {
        self.inner().sleep(id.0, wait);
    }

    /// The longest that a turn takes from now on, in virtual nanoseconds. What arrives meanwhile is met by one turn.
    pub fn set_turn_ns_max(&self, ns: u64) {
        self.inner().turn_ns_max = ns.max(TURN_NS_MIN);
    }

    /// The node of a loop.
    #[must_use]
    pub fn node_of(&self, id: LoopId) -> NodeIndex {
        NodeIndex(self.inner().loops[id.0].node)
    }

    /// Whether a sync of this loop, or a write of it that was to be durable, failed.
    #[must_use]
    pub fn sync_failed(&self, id: LoopId) -> bool {
        self.inner().loops[id.0].sync_failed
    }

    /// A random number below `bound` (not zero) from the world's seed, for the harness's own choices.
    #[must_use]
    pub fn random_below(&self, bound: u64) -> u64 {
        self.inner().random.below(bound)
    }

    /// How much has happened so far.
    #[must_use]
    pub fn stats(&self) -> WorldStats {
        self.inner().stats
    }

    /// A hash over every completion delivered so far: equal for equal seeds and calls.
    #[must_use]
    pub fn trace_hash(&self) -> u64 {
        self.inner().trace
    }

    /// How many system calls the node's file jobs have made so far, over all its lives.
    #[must_use]
    pub fn job_steps(&self, node: NodeIndex) -> u64 {
        self.inner().nodes[node.0].job_steps
    }

    /// The node's disk, for looking inside and for preparing it: no effect of the node, and none of its armed read and write
    /// errors.
    #[must_use]
    pub fn disk(&self, node: NodeIndex) -> SimDisk {
        SimDisk::new(self.clone(), node, Caller::Observer)
    }

    /// The node's disk as its own processes use it while they start: every change and sync is an effect that
    /// [`World::arm_crash`] counts, and armed errors strike.
    #[must_use]
    pub fn startup_disk(&self, node: NodeIndex) -> SimDisk {
        SimDisk::new(self.clone(), node, Caller::Node)
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
