//! What a harness can do to a world; the table of faults stands in [`super`].

use std::io;
use std::net::IpAddr;
use std::path::Path;

use super::device::{DiskCopy, DiskImage};
use super::link::Sent;
use super::process::SyncDelay;
use super::world::{LoopId, NodeIndex, World};
use crate::reactor::Mono;

/// The network.
impl World {
    /// One-way delay from `from` to `to`; jitter of up to a sixteenth is added.
    pub fn set_delay(&self, from: IpAddr, to: IpAddr, ns: u64) {
        let links = &mut self.inner().network.links;
        let link = links.between(from, to);
        links.set_delay(link, ns);
    }

    /// Up to `ns` more per segment, drawn uniformly. Streams stay in order, so one late segment makes those behind it late.
    pub fn set_jitter(&self, from: IpAddr, to: IpAddr, ns: u64) {
        let links = &mut self.inner().network.links;
        let link = links.between(from, to);
        links.set_jitter(link, ns);
    }

    /// Segments lost one way, in parts per million; each loss delays everything behind it by a retransmission. Loss alone
    /// ends no stream.
    ///
    /// # Panics
    /// Above 400,000.
    pub fn set_loss(&self, from: IpAddr, to: IpAddr, parts_per_million: u64) {
        let links = &mut self.inner().network.links;
        let link = links.between(from, to);
        links.set_loss(link, parts_per_million);
    }

    /// Packets that arrive twice, in parts per million, everywhere. Inside a TCP stream nobody sees that. What can be seen is
    /// a duplicated SYN: the listener gets a second, half-open stream whose client does not know it. It is accepted;
    /// whatever the server sends over it is answered with a RST; otherwise it is silent.
    pub fn set_duplication(&self, parts_per_million: u64) {
        self.inner().network.duplication = parts_per_million;
    }

    /// Nothing arrives from `from` at `to` any more, be it SYN, data, acknowledgement, FIN or RST. Data waits; a mesh stream
    /// whose data or acknowledgements do not get through for ten seconds (TCP_USER_TIMEOUT) ends with `TimedOut`.
    pub fn cut(&self, from: IpAddr, to: IpAddr) {
        let mut inner = self.inner();
        let link = inner.network.links.between(from, to);
        inner.cut(link);
    }

    /// Undoes `cut`; what waited arrives late, as TCP's retransmission timers have it.
    pub fn heal(&self, from: IpAddr, to: IpAddr) {
        let mut inner = self.inner();
        let link = inner.network.links.between(from, to);
        inner.heal(link);
    }

    /// Resets one established stream, if there is any; returns whether. It may happen at any byte: before the error, an end
    /// receives a random part of what was under way to it. Both ends learn it at once, or one does and the other a trip
    /// later, or only when it sends next.
    #[must_use]
    pub fn reset_random_stream(&self) -> bool {
        self.inner().reset_random_stream()
    }

    /// When the last of what is under way on any stream arrives, now at the earliest: a segment that was lost several times holds up
    /// those behind it, also when its link has been healed since.
    #[must_use]
    pub fn last_arrival(&self) -> Mono {
        let inner = self.inner();
        let ends = inner.network.conns.values().flat_map(|conn| &conn.ends);
        Mono(ends.map(|end| end.out.last_at).fold(inner.now, u64::max))
    }

    /// Payload bytes sent so far from one address to another.
    #[must_use]
    pub fn bytes_between(&self, from: IpAddr, to: IpAddr) -> u64 {
        let links = &mut self.inner().network.links;
        let link = links.between(from, to);
        links.get(link).bytes
    }

    /// From now on, what mesh streams send is recorded for [`World::tap`], or no longer.
    pub fn set_tap(&self, on: bool) {
        self.inner().network.tap = on.then(Vec::new);
    }

    /// What was sent over streams of kind `Mesh` since the last call.
    #[must_use]
    pub fn tap(&self) -> Vec<Sent> {
        self.inner().network.tap.as_mut().map(std::mem::take).unwrap_or_default()
    }
}

/// Machines and their processes.
impl World {
    /// Power loss: all loops of the node die, its sockets vanish without a word, its disk keeps any subset of what was
    /// not synced. The node is up again with its next loop, and its monotonic clock starts anew.
    pub fn crash(&self, node: NodeIndex) {
        self.inner().crash(node.0);
    }

    /// kill -9: all loops of the node die, its kernel closes the sockets and keeps the page cache.
    pub fn kill(&self, node: NodeIndex) {
        let mut inner = self.inner();
        inner.end_loops(node.0, false);
        inner.nodes[node.0].disk.locks.clear();
    }

    /// SIGSTOP: the node's loops have no turns, and its helper thread begins no system call. Its kernel goes on: streams
    /// accept and acknowledge up to their buffers, disk work completes.
    pub fn pause(&self, node: NodeIndex) {
        self.inner().nodes[node.0].paused = true;
    }

    /// SIGCONT: what completed meanwhile is there, and timers fire late. A killed or crashed node is not paused any more.
    pub fn resume(&self, node: NodeIndex) {
        self.inner().resume(node.0);
    }

    /// One thread is not scheduled until this (true) time.
    pub fn pause_loop(&self, id: LoopId, until: Mono) {
        let turn = &mut self.inner().turns[id.0];
        turn.busy_until = turn.busy_until.max(until.0);
    }

    /// The node's processes die right before their effect number `effects` (from 1) from now. An effect is one `submit` of a
    /// loop, one step of a file job, or one call that changes or syncs something on [`World::startup_disk`]. In that
    /// moment its loops are dead, in the middle of their turn: what they submit goes nowhere, what they store through their
    /// mappings is not seen, and calls of the start-up disk fail with `Interrupted`. [`World::take_crashed`] tells; then
    /// call [`World::crash`] or [`World::kill`]. Either disarms what has not struck yet.
    pub fn arm_crash(&self, node: NodeIndex, effects: u64) {
        self.inner().nodes[node.0].effects_left = Some(effects.saturating_sub(1));
    }

    /// Undoes [`World::arm_crash`], if it has not struck yet.
    pub fn disarm_crash(&self, node: NodeIndex) {
        self.inner().nodes[node.0].effects_left = None;
    }

    /// A node whose processes died of an armed crash, each once. Ask after every turn, at the end
    /// of every `step_until`, and after a start.
    #[must_use]
    pub fn take_crashed(&self) -> Option<NodeIndex> {
        self.inner().crashed.pop_front().map(NodeIndex)
    }
}

/// Disks.
impl World {
    /// The disk is replaced by an empty one (crash or kill the node first).
    pub fn wipe_disk(&self, node: NodeIndex) {
        self.inner().nodes[node.0].disk.wipe();
    }

    /// A copy of the disk's contents.
    #[must_use]
    pub fn copy_disk(&self, node: NodeIndex, what: DiskCopy) -> DiskImage {
        let mut inner = self.inner();
        let inner = &mut *inner;
        inner.nodes[node.0].disk.copy(what, &mut inner.random)
    }

    /// The disk is replaced by one with these contents, all durable (crash or kill the node first).
    pub fn restore_disk(&self, node: NodeIndex, image: &DiskImage) {
        self.inner().nodes[node.0].disk.restore(image);
    }

    /// How long syncs of this node take from now on.
    pub fn set_sync_delay(&self, node: NodeIndex, delay: SyncDelay) {
        self.inner().nodes[node.0].sync_delay = delay;
    }

    /// The next sync on this node fails with EIO, and what it should have written is not written by later ones.
    pub fn fail_next_sync(&self, node: NodeIndex) {
        self.inner().nodes[node.0].disk.fail_next_sync = true;
    }

    /// The next write of the node (an `Op::Write`, or that of a file job) fails with EIO. Nothing or some of its sectors
    /// reach the device.
    pub fn fail_next_write(&self, node: NodeIndex) {
        self.inner().nodes[node.0].disk.fail_next_write = true;
    }

    /// The next read of the node (`Op::Read`, `ReadBulk`, `read_durable` of its start-up) fails with EIO.
    pub fn fail_next_read(&self, node: NodeIndex) {
        self.inner().nodes[node.0].disk.fail_next_read = true;
    }

    /// The kernel writes some of the un-synced sectors back now and tells nobody, so that an older content of a sector can
    /// be what survives a later power cut.
    pub fn write_back(&self, node: NodeIndex) {
        let mut inner = self.inner();
        let inner = &mut *inner;
        inner.nodes[node.0].disk.write_back(&mut inner.random);
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

    /// What the device holds of one 512-byte sector ends up over another, on the device and in the page cache.
    ///
    /// # Errors
    /// If there is no such file or (whole) sector.
    pub fn misplace(
        &self,
        node: NodeIndex,
        from_path: &Path,
        from_sector: usize,
        to_path: &Path,
        to_sector: usize,
    ) -> io::Result<()> {
        self.inner().nodes[node.0].disk.misplace((from_path, from_sector), (to_path, to_sector))
    }
}

/// Clocks.
impl World {
    /// The node's wall clock differs from virtual time by this much, plus what it drifted.
    pub fn set_wall_offset(&self, node: NodeIndex, ms: i64) {
        self.inner().nodes[node.0].wall_offset_ms = ms;
    }

    /// The node's wall clock runs fast (or slow) by so many parts per million, at most half. It does not jump; what
    /// accumulated under earlier rates stays.
    pub fn set_wall_drift(&self, node: NodeIndex, parts_per_million: i64) {
        let mut inner = self.inner();
        let now = inner.now;
        inner.nodes[node.0].wall.set_drift(now, parts_per_million);
    }

    /// As [`World::set_wall_drift`], for the node's monotonic clock and hence for its deadlines. The rate outlives restarts.
    pub fn set_mono_drift(&self, node: NodeIndex, parts_per_million: i64) {
        self.inner().set_mono_drift(node.0, parts_per_million);
    }
}
