//! A simulated node's disk as start-up and checkers reach it: everything happens at once.

use std::io;
use std::path::{Path, PathBuf};

use super::file::{Caller, DiskState, SimFile, Step};
use super::world::{NodeIndex, World};
use crate::reactor::disk::{Disk, DurableError};
use crate::reactor::{FileJob, Outcome};

/// A node's disk: [`World::disk`] for looking inside, [`World::startup_disk`] for the node's own start-up.
#[derive(Clone, Debug)]
pub struct SimDisk {
    world: World,
    node: NodeIndex,
    caller: Caller,
}

/// The error of whatever a killed process still calls.
fn killed() -> io::Error {
    io::Error::new(io::ErrorKind::Interrupted, "the process was killed here")
}

impl SimDisk {
    pub(super) fn new(world: World, node: NodeIndex, caller: Caller) -> Self {
        SimDisk { world, node, caller }
    }

    /// Looks without changing anything; a killed process cannot even do that.
    fn look<R>(&self, action: impl FnOnce(&mut DiskState) -> io::Result<R>) -> io::Result<R> {
        let mut inner = self.world.inner();
        let node = &mut inner.nodes[self.node.0];
        if self.caller == Caller::Node && node.dying {
            return Err(killed());
        }
        action(&mut node.disk)
    }

    /// Changes or syncs something: an effect, if this is the node's own handle.
    fn change<R>(&self, action: impl FnOnce(&mut DiskState) -> io::Result<R>) -> io::Result<R> {
        let mut inner = self.world.inner();
        if self.caller == Caller::Node && !inner.effect(self.node.0) {
            return Err(killed());
        }
        action(&mut inner.nodes[self.node.0].disk)
    }
}

impl SimDisk {
    /// As [`Disk::read_durable`], but the bytes are only lent. `action` must not use the world.
    ///
    /// # Errors
    /// Those of a read.
    pub fn with_durable<R>(
        &self,
        file: &SimFile,
        offset: u64,
        len: usize,
        action: impl FnOnce(&[u8]) -> R,
    ) -> io::Result<R> {
        self.look(|disk| disk.read_durable(file, offset, len, self.caller).map(action))
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
        self.change(|disk| {
            disk.create_directory(path);
            Ok(())
        })
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        self.look(|disk| disk.list(directory))
    }

    fn open(&self, path: &Path) -> io::Result<SimFile> {
        self.look(|disk| disk.open(path))
    }

    fn len(&self, file: &SimFile) -> io::Result<u64> {
        self.look(|disk| Ok(disk.len(file)))
    }

    fn sync(&self, file: &SimFile) -> io::Result<()> {
        self.change(|disk| disk.sync_now(file.inode))
    }

    fn read_durable(&self, file: &SimFile, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        self.with_durable(file, offset, len, <[u8]>::to_vec)
    }

    fn each_durable<T: Send>(
        &self,
        files: &[SimFile],
        work: &(dyn Fn(usize, &[u8]) -> T + Sync),
        then: &mut dyn FnMut(usize, Result<T, DurableError>),
    ) {
        let one = |index: usize, file: &SimFile| {
            self.sync(file).map_err(DurableError::Sync)?;
            let len = usize::try_from(self.len(file).map_err(DurableError::Read)?).expect("64-bit target");
            self.with_durable(file, 0, len, |bytes| work(index, bytes)).map_err(DurableError::Read)
        };
        files.iter().enumerate().for_each(|(index, file)| then(index, one(index, file)));
    }

    fn each_durable_head<T: Send>(
        &self,
        files: &[SimFile],
        len: usize,
        work: &(dyn Fn(usize, &[u8], u64) -> T + Sync),
    ) -> Vec<Result<T, DurableError>> {
        let one = |(index, file): (usize, &SimFile)| {
            self.sync(file).map_err(DurableError::Sync)?;
            let file_bytes = self.len(file).map_err(DurableError::Read)?;
            self.with_durable(file, 0, len, |head| work(index, head, file_bytes)).map_err(DurableError::Read)
        };
        files.iter().enumerate().map(one).collect()
    }

    fn share_out<I: Send, T: Send>(&self, items: Vec<I>, work: &(dyn Fn(I) -> T + Sync)) -> Vec<T> {
        items.into_iter().map(work).collect()
    }

    fn run(&self, job: FileJob<SimFile>) -> io::Result<Outcome<SimFile>> {
        for step in 0.. {
            let mut inner = self.world.inner();
            let inner = &mut *inner;
            if self.caller == Caller::Node && !inner.effect(self.node.0) {
                return Err(killed());
            }
            let disk = &mut inner.nodes[self.node.0].disk;
            if let Step::Done(result) = disk.job_step(&job, step, self.caller, &mut inner.random) {
                return result;
            }
        }
        unreachable!("every job has a last step")
    }

    fn lock(&self, path: &Path) -> io::Result<SimLock> {
        self.look(|_| Ok(()))?;
        let life = self.world.take_lock(self.node, path)?;
        Ok(SimLock { world: self.world.clone(), node: self.node, path: path.to_owned(), life })
    }
}
