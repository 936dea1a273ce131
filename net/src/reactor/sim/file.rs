//! The simulated disk of one node: what the page cache shows (live) and what the device holds (durable), per 512-byte
//! sector, and directory entries that are durable only after a directory sync.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::device::Sectors;
use super::random::Random;
use crate::reactor::{FileJob, Outcome, file_job, misuse};

/// An open simulated file. Clones share it.
#[derive(Clone)]
pub struct SimFile {
    pub(super) inode: u64,
    pub(super) live: Arc<Mutex<Vec<u8>>>,
}

impl SimFile {
    /// The bytes as the page cache holds them: what a mapping of the file reads and writes. Its length never changes
    /// under a mapping.
    #[must_use]
    pub fn live(&self) -> Arc<Mutex<Vec<u8>>> {
        Arc::clone(&self.live)
    }
}

impl std::fmt::Debug for SimFile {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "SimFile({})", self.inode)
    }
}

pub(super) fn lock(bytes: &Mutex<Vec<u8>>) -> MutexGuard<'_, Vec<u8>> {
    bytes.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Default)]
pub(super) struct Inode {
    pub(super) live: Arc<Mutex<Vec<u8>>>,
    pub(super) durable: Vec<u8>,
    /// Sectors whose write-back failed, with their content then: the kernel calls them clean, later syncs skip them and
    /// succeed (FACTS), until they change again.
    pub(super) lost: BTreeMap<usize, Vec<u8>>,
}

pub(super) enum DirectoryOp {
    Link(PathBuf, u64),
    Rename(PathBuf, PathBuf, u64),
    Unlink(PathBuf),
}

/// What a step of a job led to.
pub(super) enum Step {
    /// Another step follows.
    Next,
    /// The job is over.
    Done(io::Result<Outcome<SimFile>>),
}

/// Who asks. Armed read and write errors are for the node alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Caller {
    Node,
    Observer,
}

#[derive(Default)]
pub(super) struct DiskState {
    pub(super) inodes: BTreeMap<u64, Inode>,
    pub(super) next_inode: u64,
    pub(super) entries: BTreeMap<PathBuf, u64>,
    pub(super) durable_entries: BTreeMap<PathBuf, u64>,
    /// Not synced, oldest first, with the directory whose sync makes it durable.
    pub(super) unsynced: Vec<(PathBuf, DirectoryOp)>,
    pub(super) directories: BTreeSet<PathBuf>,
    pub(super) locks: BTreeSet<PathBuf>,
    pub(super) full: bool,
    pub(super) fail_next_sync: bool,
    pub(super) fail_next_write: bool,
    pub(super) fail_next_read: bool,
    pub(super) syncing: BTreeMap<u64, Sectors>,
}

fn parent(path: &Path) -> PathBuf {
    path.parent().unwrap_or(Path::new("")).to_owned()
}

fn eio() -> io::Error {
    io::Error::from_raw_os_error(libc::EIO)
}

impl DiskState {
    /// No error is armed any more.
    pub(super) fn disarm(&mut self) {
        self.fail_next_sync = false;
        self.fail_next_write = false;
        self.fail_next_read = false;
    }

    fn handle(&self, inode: u64) -> io::Result<SimFile> {
        let live = Arc::clone(&self.inodes.get(&inode).ok_or(io::ErrorKind::NotFound)?.live);
        Ok(SimFile { inode, live })
    }

    pub(super) fn open(&self, path: &Path) -> io::Result<SimFile> {
        self.handle(*self.entries.get(path).ok_or(io::ErrorKind::NotFound)?)
    }

    pub(super) fn create_directory(&mut self, path: &Path) {
        self.directories.extend(path.ancestors().map(Path::to_owned));
    }

    pub(super) fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        let files = self.entries.keys().filter(|path| path.parent() == Some(directory));
        let names: Vec<String> = files.filter_map(|path| path.file_name()?.to_str().map(str::to_owned)).collect();
        if names.is_empty() && !self.directories.contains(directory) {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(names)
    }

    pub(super) fn len(&self, file: &SimFile) -> u64 {
        lock(&file.live).len() as u64
    }

    /// Bytes of the page cache; shorter only at the end of the file.
    pub(super) fn read(&mut self, file: &SimFile, offset: u64, len: usize, caller: Caller) -> io::Result<Vec<u8>> {
        self.try_to_read(caller)?;
        Ok(slice(&lock(&file.live), offset, len).to_vec())
    }

    /// Bytes of the device.
    pub(super) fn read_durable(
        &mut self,
        file: &SimFile,
        offset: u64,
        len: usize,
        caller: Caller,
    ) -> io::Result<&[u8]> {
        self.try_to_read(caller)?;
        Ok(self.inodes.get(&file.inode).map_or(&[], |inode| slice(&inode.durable, offset, len)))
    }

    fn try_to_read(&mut self, caller: Caller) -> io::Result<()> {
        if caller == Caller::Node && std::mem::take(&mut self.fail_next_read) { Err(eio()) } else { Ok(()) }
    }

    /// Into the page cache.
    pub(super) fn write(
        &mut self,
        file: &SimFile,
        offset: u64,
        bytes: &[u8],
        caller: Caller,
        random: &mut Random,
    ) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let end = start.checked_add(bytes.len()).ok_or(io::ErrorKind::FileTooLarge)?;
        if caller == Caller::Node && std::mem::take(&mut self.fail_next_write) {
            self.fail_write(file, start, bytes, random);
            return Err(eio());
        }
        let mut live = lock(&file.live);
        if end > live.len() {
            if self.full {
                return Err(io::Error::from_raw_os_error(libc::ENOSPC));
            }
            live.resize(end, 0);
        }
        live[start..end].copy_from_slice(bytes);
        Ok(())
    }

    fn sync_directory(&mut self, directory: &Path) {
        let (done, rest) = std::mem::take(&mut self.unsynced).into_iter().partition(|(of, _)| of == directory);
        self.unsynced = rest;
        let done: Vec<(PathBuf, DirectoryOp)> = done;
        for (_, op) in done {
            op.apply(&mut self.durable_entries);
        }
    }

    /// Step `step` of `job`; each is one system call or a stretch of equal ones, and a crash can fall between two.
    pub(super) fn job_step(
        &mut self,
        job: &FileJob<SimFile>,
        step: usize,
        caller: Caller,
        random: &mut Random,
    ) -> Step {
        match self.try_job_step(job, step, caller, random) {
            Ok(Some(outcome)) => Step::Done(Ok(outcome)),
            Ok(None) => Step::Next,
            Err(error) => Step::Done(Err(error)),
        }
    }

    fn try_job_step(
        &mut self,
        job: &FileJob<SimFile>,
        step: usize,
        caller: Caller,
        random: &mut Random,
    ) -> io::Result<Option<Outcome<SimFile>>> {
        match (job, step) {
            (FileJob::Prepare { path, len, head }, 0) => {
                if !len.is_multiple_of(4096) || head.len() as u64 > *len {
                    return Err(misuse("a prepared file is a multiple of 4096 bytes and holds its head"));
                }
                if self.entries.contains_key(path) {
                    return Err(io::ErrorKind::AlreadyExists.into());
                }
                self.next_inode += 1;
                self.inodes.insert(self.next_inode, Inode::default());
                self.entries.insert(path.clone(), self.next_inode);
                self.unsynced.push((parent(path), DirectoryOp::Link(path.clone(), self.next_inode)));
            }
            (FileJob::Prepare { path, len, head }, 1) => {
                if self.full {
                    self.unlink(path)?;
                    return Err(io::Error::from_raw_os_error(libc::ENOSPC));
                }
                let file = self.open(path)?;
                if let Err(error) = self.write(&file, 0, &[], caller, random) {
                    self.unlink(path)?;
                    return Err(error);
                }
                let mut live = lock(&file.live);
                live.resize(usize::try_from(*len).map_err(|_| io::ErrorKind::FileTooLarge)?, 0);
                live[..head.len()].copy_from_slice(head);
            }
            (FileJob::Prepare { path, .. }, _) => {
                let file = self.open(path)?;
                if let Err(error) = self.sync_now(file.inode) {
                    self.unlink(path)?;
                    return Err(error);
                }
                return Ok(Some(Outcome::Opened(file)));
            }
            (FileJob::Recycle { path, len, head }, 0) => {
                let file = self.open(path)?;
                if self.len(&file) != *len || head.len() as u64 > *len {
                    return Err(misuse("a recycled file has the length of its next use"));
                }
                self.write(&file, 0, head, caller, random)?;
            }
            (FileJob::Recycle { path, .. }, _) => {
                let file = self.open(path)?;
                self.sync_now(file.inode)?;
                return Ok(Some(Outcome::Opened(file)));
            }
            (FileJob::Warm { .. }, _) => return Ok(Some(Outcome::Done)),
            (FileJob::WriteSync { file, offset, bytes }, 0) => self.write(file, *offset, bytes, caller, random)?,
            (FileJob::WriteSync { file, .. }, _) => {
                self.sync_now(file.inode)?;
                return Ok(Some(Outcome::Done));
            }
            (FileJob::Rename { from, to }, 0) => {
                let inode = self.entries.remove(from).ok_or(io::ErrorKind::NotFound)?;
                self.entries.insert(to.clone(), inode);
                self.unsynced.push((parent(to), DirectoryOp::Rename(from.clone(), to.clone(), inode)));
            }
            (FileJob::Unlink { path }, 0) => self.unlink(path)?,
            (FileJob::Rename { to: path, .. } | FileJob::Unlink { path }, _) => {
                self.sync_directory(&parent(path));
                return Ok(Some(Outcome::Done));
            }
            (FileJob::Open { path }, _) => return Ok(Some(Outcome::Opened(self.open(path)?))),
            (FileJob::ReadBulk { file, offset, len }, _) => {
                file_job::check_bulk(*len)?;
                let bytes = self.read(file, *offset, *len as usize, caller)?;
                return Ok(Some(Outcome::Bulk(Bytes::from(bytes))));
            }
        }
        Ok(None)
    }

    fn unlink(&mut self, path: &Path) -> io::Result<()> {
        self.entries.remove(path).ok_or(io::ErrorKind::NotFound)?;
        self.unsynced.push((parent(path), DirectoryOp::Unlink(path.to_owned())));
        Ok(())
    }

    /// Everything is gone, as with a new disk.
    pub(super) fn wipe(&mut self) {
        *self = DiskState { next_inode: self.next_inode, ..DiskState::default() };
    }
}

fn slice(bytes: &[u8], offset: u64, len: usize) -> &[u8] {
    let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
    &bytes[start..start.saturating_add(len).min(bytes.len())]
}
