//! Processes of a simulated node: what their kernel and their helper thread do for them, and how they end.

use std::collections::BTreeSet;
use std::io;
use std::ops::Range;

use super::file::{Caller, SimFile, Step};
use super::world::{Event, Inner};
use crate::reactor::lease::{HeapBuffer, HeapPool};
use crate::reactor::{Completion, FileJob, Outcome, Tag};

/// Jobs that wait for a node's helper thread, as in the real siblings.
const JOBS_MAX: usize = 256;

/// How long a node's syncs take, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncDelay {
    /// The shortest.
    pub min_ns: u64,
    /// The longest of an ordinary sync.
    pub max_ns: u64,
    /// How many of a million stall.
    pub stall_ppm: u64,
    /// How long a stalled one takes.
    pub stall_ns: u64,
}

impl Default for SyncDelay {
    /// A decent solid-state drive.
    fn default() -> Self {
        SyncDelay { min_ns: 50_000, max_ns: 3_000_000, stall_ppm: 20_000, stall_ns: 20_000_000 }
    }
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

impl Inner {
    fn sync_delay(&mut self, node: usize) -> u64 {
        let delay = self.nodes[node].sync_delay;
        if self.random.chance(delay.stall_ppm) {
            delay.stall_ns
        } else {
            self.random.between(delay.min_ns, delay.max_ns.max(delay.min_ns))
        }
    }

    pub(super) fn start_disk(
        &mut self,
        home: usize,
        tag: Tag,
        work: DiskWork,
        sync_of: Option<(u64, Option<Range<u64>>)>,
    ) {
        let node = self.loops[home].node;
        let id = self.fresh_sequence();
        let delay = match sync_of {
            Some((inode, range)) => {
                self.nodes[node].disk.start_sync(id, inode, range);
                self.sync_delay(node)
            }
            None => self.random.between(5_000, 300_000),
        };
        self.nodes[node].work.insert(id, (home, tag, work));
        self.schedule(self.now + delay, Event::Disk(node, id));
    }

    /// A write of a loop, direct or through the page cache.
    pub(super) fn write(&mut self, home: usize, tag: Tag, (file, offset): (&SimFile, u64), bytes: &[u8], dsync: bool) {
        let disk = &mut self.nodes[self.loops[home].node].disk;
        let result = disk.write(file, offset, bytes, Caller::Node, &mut self.random);
        let range = offset..offset + bytes.len() as u64;
        let sync_of = (dsync && result.is_ok()).then_some((file.inode, Some(range)));
        self.start_disk(home, tag, DiskWork::Write { result, dsync }, sync_of);
    }

    pub(super) fn end_disk(&mut self, node: usize, id: u64) {
        let Some((home, tag, work)) = self.nodes[node].work.remove(&id) else { return };
        let disk = &mut self.nodes[node].disk;
        let lasts = matches!(work, DiskWork::Sync | DiskWork::Write { dsync: true, .. });
        let result = match work {
            DiskWork::Read { file, offset, len } => match disk.read(&file, offset, len as usize, Caller::Node) {
                Ok(bytes) => return self.complete_read(home, tag, bytes),
                Err(error) => Err(error),
            },
            DiskWork::Write { result: Ok(()), dsync: true } | DiskWork::Sync => disk.end_sync(id),
            DiskWork::Write { result, .. } => result,
        };
        self.loops[home].sync_failed |= lasts && result.is_err();
        self.complete(home, tag, result.map(|()| Outcome::Done));
    }

    fn complete_read(&mut self, home: usize, tag: Tag, bytes: Vec<u8>) {
        let buf = Some(HeapBuffer::adopt(&HeapPool::new(usize::MAX), bytes));
        self.hand(home, Completion { tag, result: Ok(Outcome::Data), more: false, buf });
    }

    /// Queues a job for the node's helper; hands it back when too many wait.
    pub(super) fn start_job(&mut self, home: usize, tag: Tag, job: FileJob<SimFile>) -> Result<(), FileJob<SimFile>> {
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
        if self.nodes[node].paused {
            self.nodes[node].job_waits = true;
            return;
        }
        let delay = match (self.nodes[node].jobs.front(), self.nodes[node].job_step) {
            (Some((_, _, FileJob::Prepare { .. })), 2) => self.sync_delay(node),
            (_, 0) => self.random.between(5_000, 100_000),
            _ => self.random.between(50_000, 2_000_000),
        };
        let life = self.nodes[node].life;
        self.schedule(self.now + delay, Event::JobStep(node, life));
    }

    /// The system call that the helper thread is in comes to its end; in a stopped process, too.
    pub(super) fn job_step(&mut self, index: usize, life: u64) {
        if self.nodes[index].life != life || self.nodes[index].jobs.is_empty() || !self.effect(index) {
            return;
        }
        let node = &mut self.nodes[index];
        let Some((home, tag, job)) = node.jobs.front() else { return };
        let (home, tag) = (*home, *tag);
        node.job_steps += 1;
        match node.disk.job_step(job, node.job_step, Caller::Node, &mut self.random) {
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

    pub(super) fn resume(&mut self, node: usize) {
        self.nodes[node].paused = false;
        if std::mem::take(&mut self.nodes[node].job_waits) {
            self.schedule_job_step(node);
        }
    }

    /// The node is about to change something that outlives its processes or leaves them. False: they are dead, or die now
    /// (of [`super::World::arm_crash`]), and it does not happen.
    pub(super) fn effect(&mut self, node: usize) -> bool {
        let state = &mut self.nodes[node];
        if state.dying {
            return false;
        }
        match &mut state.effects_left {
            None => true,
            Some(0) => {
                state.effects_left = None;
                state.dying = true;
                state.disk.detach_mappings();
                self.crashed.push_back(node);
                false
            }
            Some(left) => {
                *left -= 1;
                true
            }
        }
    }

    /// All processes of a node end.
    pub(super) fn end_loops(&mut self, index: usize, power: bool) {
        let loops = &mut self.loops;
        let dead: BTreeSet<usize> = self.live.iter().copied().filter(|home| loops[*home].node == index).collect();
        self.live.retain(|home| !dead.contains(home));
        for home in &dead {
            let home = &mut loops[*home];
            home.alive = false;
            home.completions = std::collections::VecDeque::new();
            home.readable = std::collections::VecDeque::new();
        }
        let node = &mut self.nodes[index];
        node.life += 1;
        node.jobs.clear();
        node.job_step = 0;
        node.job_waits = false;
        node.paused = false;
        node.dying = false;
        node.effects_left = None;
        self.crashed.retain(|crashed| *crashed != index);
        self.drop_loops(index, &dead, power);
    }

    /// Power loss.
    pub(super) fn crash(&mut self, index: usize) {
        self.end_loops(index, true);
        let node = &mut self.nodes[index];
        node.up = false;
        node.work.clear();
        node.disk.crash(&mut self.random);
        node.mono.boot(self.now, &mut self.random);
    }
}
