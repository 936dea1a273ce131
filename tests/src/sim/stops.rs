//! Clean stops: a node is asked to end, ends by itself, and what it left is played with before it starts again.

use net::reactor::disk::Disk;
use net::reactor::sim::{Random, SimDisk};
use net::reactor::{FileJob, Outcome};
use wal::FileKind;

use super::mesh::{Checkpoint, Mesh};
use super::node::data_dir;
use super::plan::{CheckpointFate, Death};

impl Mesh {
    /// Asks a node to stop; its process ends as `death` says once it has.
    pub(crate) fn ask_to_stop(&mut self, index: usize, death: Death) {
        if let Some(node) = &mut self.nodes[index].node {
            node.control.stop_cores();
            self.nodes[index].stopping = Some(death);
        }
    }

    /// Ends the process of a node that was asked to stop and has.
    pub(crate) fn end_if_stopped(&mut self, index: usize) {
        let state = &self.nodes[index];
        let Some(death) = state.stopping else { return };
        if !state.node.as_ref().is_some_and(super::node::Node::has_stopped) {
            return;
        }
        self.tell(&format!("{} has stopped", self.nodes[index].name));
        let left = checkpoint(&self.world.disk(self.machine(index)));
        let [_, last] = &mut self.nodes[index].checkpoints;
        let before = std::mem::replace(last, left);
        self.nodes[index].checkpoints[0] = before;
        self.stop(index, death);
    }

    /// Plays a trick on the checkpoint of a node that is down.
    pub(crate) fn change_checkpoint(&mut self, index: usize, fate: CheckpointFate) {
        let disk = self.world.disk(self.machine(index));
        let files = checkpoint(&disk);
        let pick = |pick: u64| usize::try_from(pick).unwrap_or(0) % files.len().max(1);
        match fate {
            CheckpointFate::Kept => {}
            CheckpointFate::Rotten(at) => {
                let Some((name, bytes)) = files.get(pick(at)) else { return };
                let offset = Random::new(at).index(bytes.len());
                // More often where there is something.
                let offset = if at % 4 == 0 { offset } else { 4096 + offset % (bytes.len() - 4096).max(1) };
                let path = data_dir().join(name);
                let rotten = self.world.rot(self.machine(index), &path, offset.min(bytes.len() - 1), 1 << (at % 8));
                if rotten.is_ok() {
                    self.tell(&format!("a bit of byte {offset} of {name} flips"));
                }
            }
            CheckpointFate::Stale => {
                let stale = self.nodes[index].checkpoints[0].clone();
                if !stale.is_empty() {
                    self.remove_checkpoint(index);
                    stale.iter().for_each(|(name, bytes)| write(&disk, name, bytes));
                    self.tell("somebody puts an earlier checkpoint back");
                }
            }
            CheckpointFate::Cut(at) => {
                if let Some((name, _)) = files.get(pick(at)) {
                    unlink(&disk, name);
                    self.tell(&format!("somebody removes {name}"));
                }
            }
        }
    }

    /// Takes the checkpoint of a node that is down away.
    pub(crate) fn remove_checkpoint(&mut self, index: usize) {
        let disk = self.world.disk(self.machine(index));
        checkpoint(&disk).iter().for_each(|(name, _)| unlink(&disk, name));
    }
}

/// The files of the checkpoint on a disk.
fn checkpoint(disk: &SimDisk) -> Checkpoint {
    let names = disk.list(data_dir()).unwrap_or_default();
    let names = names.into_iter().filter(|name| matches!(wal::file_kind(name), FileKind::Checkpoint { .. }));
    let contents = names.filter_map(|name| {
        let file = disk.open(&data_dir().join(&name)).ok()?;
        let len = usize::try_from(disk.len(&file).ok()?).ok()?;
        Some((name, disk.read_durable(&file, 0, len).ok()?))
    });
    contents.collect()
}

fn unlink(disk: &SimDisk, name: &str) {
    disk.run(FileJob::Unlink { path: data_dir().join(name) }).expect("the file was just listed");
}

fn write(disk: &SimDisk, name: &str, bytes: &[u8]) {
    let (head, rest) = bytes.split_at(bytes.len().min(4096));
    let job = FileJob::Prepare { path: data_dir().join(name), len: 4096, head: head.to_vec().into() };
    let Ok(Outcome::Opened(file)) = disk.run(job) else { return };
    if !rest.is_empty() {
        let job = FileJob::WriteSync { file, offset: 4096, bytes: rest.to_vec().into() };
        disk.run(job).expect("a disk that is not the node's has room");
    }
}
