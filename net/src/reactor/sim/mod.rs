//! The simulated sibling: nodes, disks, clocks and a network in one thread, from one seed.
//!
//! A harness owns a [`World`] and one [`SimIo`] per loop, and runs `while let Some(id) = world.step() { tick(id) }`, a
//! tick being what a loop thread repeats: one `poll` and what follows from it. `poll` never blocks: where a thread
//! would sleep, the tick ends without anything, and `step` names the loop again when something happened or its
//! deadline passed. Nothing goes wrong unless it is asked for.
//!
//! | what goes wrong | how it is asked for | what is seen |
//! |---|---|---|
//! | distance | `set_delay`, `set_jitter` | segments are late, streams stay in order |
//! | loss | `set_loss` | retransmissions delay what is behind them |
//! | duplication | `set_duplication` | a listener gets a half-open twin of a stream |
//! | one-way cut, black hole | `cut`, `heal` | nothing arrives; user timeouts; what waited arrives late |
//! | reset | `reset_random_stream` | an error at any byte; one end may learn it late |
//! | power loss | `crash` | sockets vanish; any subset of un-synced sectors and names survives; a new monotonic clock |
//! | kill -9 | `kill` | sockets are closed; the page cache stays |
//! | death between two effects | `arm_crash`, `take_crashed`, `disarm_crash` | as the harness goes on: `crash` or `kill` |
//! | SIGSTOP | `pause`, `resume` | silence, while the kernel acknowledges and the disk works |
//! | a thread that is not scheduled | `pause_loop` | the other loops go on |
//! | slow disk | `set_sync_delay` | late and stalled syncs |
//! | disk errors | `fail_next_sync`, `fail_next_write`, `fail_next_read` | EIO once; after a sync's, later syncs lie |
//! | full disk | `set_disk_full` | ENOSPC where a file would grow |
//! | write-back | `write_back` | an older content of a sector may be what a power cut leaves |
//! | rot | `rot`, `misplace` | a flipped byte, a sector over another, in both images |
//! | a new or an older disk | `wipe_disk`, `copy_disk`, `restore_disk` | what the image held |
//! | wall clock | `set_wall_offset`, `set_wall_drift` | jumps; runs fast or slow |
//! | monotonic clock | `set_mono_drift` | deadlines come early or late; nodes disagree about durations |
//!
//! [`World::now`] is the truth. A node's monotonic clock equals it until a drift is set or the node loses power, and its
//! loops know no other time. [`World::tap`] shows checkers what mesh streams carried.

mod clock;
mod connect;
mod device;
mod disk;
mod faults;
mod file;
mod link;
mod loops;
mod outage;
mod process;
mod random;
mod socket;
#[cfg(test)]
mod tests;
mod world;

use std::io;
use std::net::SocketAddr;

use self::process::DiskWork;
use self::world::TURN_NS_MIN;
use super::{Completion, Full, Io, Listener, Mono, Op, ReactorConfig, StreamKind, Tag, Wait, Waker, misuse};

pub use device::{DiskCopy, DiskImage, SECTOR_BYTES};
pub use disk::{SimDisk, SimLock};
pub use file::SimFile;
pub use link::Sent;
pub use process::SyncDelay;
pub use random::Random;
pub use world::{LoopId, NodeIndex, WALL_START_UNIX_MS, World, WorldStats};

type Operation = Op<SimFile>;
type Done = Completion<SimFile>;

/// Leases per stream and tick, completions per tick; as in the siblings.
const LEASES_PER_TICK_MAX: usize = 8;
const COMPLETIONS_PER_POLL_MAX: usize = 256;

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

impl Io for SimIo {
    type File = SimFile;
    const SYNCS_RANGES: bool = true;

    fn now(&self) -> Mono {
        let inner = self.world.inner();
        Mono(inner.node_now(inner.loops[self.id.0].node))
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
        let node = inner.loops[home].node;
        if !inner.loops[home].alive || inner.nodes[node].dying {
            // A dead loop's last words reach nobody.
            return Ok(());
        }
        if inner.loops[home].in_flight >= inner.loops[home].ops_max {
            return Err((op, Full));
        }
        if !inner.effect(node) {
            return Ok(());
        }
        match op {
            Op::Accept { listener } => inner.submit_accept(home, listener, tag),
            Op::Recv { socket } => inner.submit_recv(home, socket, tag),
            Op::Send { socket, runs } => inner.submit_send(home, socket, runs, tag),
            Op::Connect { local, to, kind } => inner.connect(home, local, to, kind, tag),
            Op::Close { socket } => inner.submit_close(home, socket, tag),
            Op::Read { file, offset, len } => inner.start_disk(home, tag, DiskWork::Read { file, offset, len }, None),
            Op::Write { file, offset, bytes, dsync } => inner.write(home, tag, (&file, offset), &bytes, dsync),
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
        let node = inner.loops[home].node;
        if !inner.loops[home].alive || inner.nodes[node].dying {
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
        let (now, node_now) = (inner.now, inner.node_now(node));
        let sleeps = match wait {
            Wait::Until(Mono(deadline)) if out.len() == before && !woken && deadline > node_now => Some(deadline),
            _ => None,
        };
        self.slept = sleeps.is_some();
        inner.loops[home].deadline = sleeps;
        let turn = &mut inner.turns[home];
        turn.wake_at = match sleeps {
            Some(deadline) => inner.nodes[node].mono.when(deadline),
            // The thread would run on, and poll again when it is through.
            None => {
                let through = now + inner.random.between(TURN_NS_MIN, inner.turn_ns_max);
                turn.busy_until = turn.busy_until.max(through);
                0
            }
        };
        Ok(())
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }
}
