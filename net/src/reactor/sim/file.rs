//! The simulated disk of one node: what the page cache shows (live) and what the device holds (durable), per 512-byte
//! sector, and directory entries that are durable only after a directory sync.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::random::Random;
use crate::reactor::{FileJob, Outcome, file_job, misuse};

/// The unit that a power cut keeps or loses.
pub(super) const SECTOR_BYTES: usize = 512;

/// An open simulated file. Clones share it.
#[derive(Clone)]
pub struct SimFile {
    pub(super) inode: u64,
    live: Arc<Mutex<Vec<u8>>>,
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

fn lock(bytes: &Mutex<Vec<u8>>) -> MutexGuard<'_, Vec<u8>> {
    bytes.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Default)]
struct Inode {
    live: Arc<Mutex<Vec<u8>>>,
    durable: Vec<u8>,
    /// Sectors whose write-back failed, with their content then: the kernel calls them clean, later syncs skip them and
    /// succeed (FACTS), until they change again.
    lost: BTreeMap<usize, Vec<u8>>,
}

/// Sectors that differ from the device, and the length of the file.
pub(super) struct Dirty {
    inode: u64,
    sectors: Vec<(usize, Vec<u8>)>,
    len: usize,
}

enum DirectoryOp {
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

#[derive(Default)]
pub(super) struct DiskState {
    inodes: BTreeMap<u64, Inode>,
    next_inode: u64,
    entries: BTreeMap<PathBuf, u64>,
    durable_entries: BTreeMap<PathBuf, u64>,
    /// Not synced, oldest first, with the directory whose sync makes it durable.
    unsynced: Vec<(PathBuf, DirectoryOp)>,
    directories: BTreeSet<PathBuf>,
    pub(super) locks: BTreeSet<PathBuf>,
    pub(super) full: bool,
    fail_next_sync: bool,
    syncing: BTreeMap<u64, Dirty>,
}

fn parent(path: &Path) -> PathBuf {
    path.parent().unwrap_or(Path::new("")).to_owned()
}

/// The `index`-th sector of `bytes`, zeros beyond its end.
fn sector(bytes: &[u8], index: usize) -> &[u8] {
    let start = (index * SECTOR_BYTES).min(bytes.len());
    let end = (start + SECTOR_BYTES).min(bytes.len());
    &bytes[start..end]
}

fn same_sector(left: &[u8], right: &[u8]) -> bool {
    let common = left.len().min(right.len());
    left[..common] == right[..common]
        && left[common..].iter().all(|byte| *byte == 0)
        && right[common..].iter().all(|byte| *byte == 0)
}

fn put_sector(bytes: &mut [u8], index: usize, content: &[u8]) {
    let start = (index * SECTOR_BYTES).min(bytes.len());
    let end = (start + SECTOR_BYTES).min(bytes.len());
    let room = &mut bytes[start..end];
    room.fill(0);
    let len = room.len().min(content.len());
    room[..len].copy_from_slice(&content[..len]);
}

impl DiskState {
    pub(super) fn arm_sync_failure(&mut self) {
        self.fail_next_sync = true;
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
    pub(super) fn read(file: &SimFile, offset: u64, len: usize) -> Vec<u8> {
        slice(&lock(&file.live), offset, len).to_vec()
    }

    /// Bytes of the device.
    pub(super) fn read_durable(&self, file: &SimFile, offset: u64, len: usize) -> Vec<u8> {
        self.inodes.get(&file.inode).map_or_else(Vec::new, |inode| slice(&inode.durable, offset, len).to_vec())
    }

    /// Into the page cache.
    pub(super) fn write(&self, file: &SimFile, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let end = start.checked_add(bytes.len()).ok_or(io::ErrorKind::FileTooLarge)?;
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

    /// What a sync that starts now has to write. Outside the range nothing is, though a kernel writes whole pages.
    fn dirty(&self, inode_id: u64, range: Option<Range<u64>>) -> Dirty {
        let sector_bytes = SECTOR_BYTES as u64;
        let sectors = range.map_or(0..u64::MAX, |range| range.start / sector_bytes..range.end.div_ceil(sector_bytes));
        let Some(inode) = self.inodes.get(&inode_id) else {
            return Dirty { inode: inode_id, sectors: Vec::new(), len: 0 };
        };
        let live = lock(&inode.live);
        let sectors = (0..live.len().div_ceil(SECTOR_BYTES))
            .filter(|index| {
                let now = sector(&live, *index);
                sectors.contains(&(*index as u64))
                    && !same_sector(now, sector(&inode.durable, *index))
                    && inode.lost.get(index).is_none_or(|lost| !same_sector(lost, now))
            })
            .map(|index| (index, sector(&live, index).to_vec()))
            .collect();
        Dirty { inode: inode_id, sectors, len: live.len() }
    }

    /// Starts the sync `id`: what is live now in the range will be durable at its end.
    pub(super) fn start_sync(&mut self, id: u64, inode: u64, range: Option<Range<u64>>) {
        let dirty = self.dirty(inode, range);
        self.syncing.insert(id, dirty);
    }

    /// Ends the sync `id`.
    pub(super) fn end_sync(&mut self, id: u64) -> io::Result<()> {
        match self.syncing.remove(&id) {
            Some(dirty) => self.write_back(id, dirty),
            None => Ok(()),
        }
    }

    /// Writes what the sync `id` found dirty. A sync that began earlier and still runs (of a killed process, say) must not
    /// bring older bytes back afterwards.
    fn write_back(&mut self, id: u64, dirty: Dirty) -> io::Result<()> {
        let failed = std::mem::take(&mut self.fail_next_sync);
        let Some(inode) = self.inodes.get_mut(&dirty.inode) else { return Ok(()) };
        if failed {
            inode.lost.extend(dirty.sectors);
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        if inode.durable.len() < dirty.len {
            inode.durable.resize(dirty.len, 0);
        }
        for (index, content) in dirty.sectors {
            put_sector(&mut inode.durable, index, &content);
            inode.lost.remove(&index);
            for (_, earlier) in self.syncing.range_mut(..id).filter(|(_, earlier)| earlier.inode == dirty.inode) {
                earlier.sectors.retain(|(other, _)| *other != index);
            }
        }
        Ok(())
    }

    /// A whole sync at once.
    pub(super) fn sync_now(&mut self, inode: u64) -> io::Result<()> {
        let dirty = self.dirty(inode, None);
        self.write_back(u64::MAX, dirty)
    }

    fn sync_directory(&mut self, directory: &Path) {
        let (done, rest) = std::mem::take(&mut self.unsynced).into_iter().partition(|(of, _)| of == directory);
        self.unsynced = rest;
        let done: Vec<(PathBuf, DirectoryOp)> = done;
        for (_, op) in done {
            apply(&mut self.durable_entries, op);
        }
    }

    /// Step `step` of `job`; each is one system call or a stretch of equal ones, and a crash can fall between two.
    pub(super) fn job_step(&mut self, job: &FileJob<SimFile>, step: usize) -> Step {
        match self.try_job_step(job, step) {
            Ok(Some(outcome)) => Step::Done(Ok(outcome)),
            Ok(None) => Step::Next,
            Err(error) => Step::Done(Err(error)),
        }
    }

    fn try_job_step(&mut self, job: &FileJob<SimFile>, step: usize) -> io::Result<Option<Outcome<SimFile>>> {
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
                self.write(&file, 0, head)?;
            }
            (FileJob::Recycle { path, .. }, _) => {
                let file = self.open(path)?;
                self.sync_now(file.inode)?;
                return Ok(Some(Outcome::Opened(file)));
            }
            (FileJob::Warm { .. }, _) => return Ok(Some(Outcome::Done)),
            (FileJob::WriteSync { file, offset, bytes }, 0) => self.write(file, *offset, bytes)?,
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
                return Ok(Some(Outcome::Bulk(Bytes::from(Self::read(file, *offset, *len as usize)))));
            }
        }
        Ok(None)
    }

    fn unlink(&mut self, path: &Path) -> io::Result<()> {
        self.entries.remove(path).ok_or(io::ErrorKind::NotFound)?;
        self.unsynced.push((parent(path), DirectoryOp::Unlink(path.to_owned())));
        Ok(())
    }

    /// Power is lost: every un-synced directory operation and every un-synced sector independently survives or does
    /// not.
    pub(super) fn crash(&mut self, random: &mut Random) {
        for (_, op) in std::mem::take(&mut self.unsynced) {
            if random.coin() {
                apply(&mut self.durable_entries, op);
            }
        }
        self.entries = self.durable_entries.clone();
        self.locks.clear();
        self.fail_next_sync = false;
        let kept: BTreeSet<u64> = self.entries.values().copied().collect();
        self.inodes.retain(|id, _| kept.contains(id));
        let syncing = std::mem::take(&mut self.syncing);
        for (id, inode) in &mut self.inodes {
            // What was being written may have reached the device …
            for dirty in syncing.values().filter(|dirty| dirty.inode == *id) {
                keep_some(&mut inode.durable, &dirty.sectors, dirty.len, random);
            }
            // … and the kernel may have written back anything that it held, on its own.
            let live = lock(&inode.live).clone();
            let sectors: Vec<(usize, Vec<u8>)> = (0..live.len().div_ceil(SECTOR_BYTES))
                .map(|index| (index, sector(&live, index)))
                .filter(|(index, now)| inode.lost.get(index).is_none_or(|lost| !same_sector(lost, now)))
                .map(|(index, now)| (index, now.to_vec()))
                .collect();
            keep_some(&mut inode.durable, &sectors, live.len(), random);
            // Handles of the dead process keep the old bytes; nobody reads them again.
            inode.live = Arc::new(Mutex::new(inode.durable.clone()));
            inode.lost.clear();
        }
    }

    /// Everything is gone, as with a new disk.
    pub(super) fn wipe(&mut self) {
        *self = DiskState { next_inode: self.next_inode, ..DiskState::default() };
    }

    /// Rot: the bits of `mask` flip at `offset`, on the device and in the cache.
    pub(super) fn rot(&mut self, path: &Path, offset: usize, mask: u8) -> io::Result<()> {
        let file = self.open(path)?;
        let inode = self.inodes.get_mut(&file.inode).ok_or(io::ErrorKind::NotFound)?;
        for bytes in [&mut inode.durable, &mut *lock(&file.live)] {
            *bytes.get_mut(offset).ok_or(io::ErrorKind::UnexpectedEof)? ^= mask;
        }
        Ok(())
    }
}

fn slice(bytes: &[u8], offset: u64, len: usize) -> &[u8] {
    let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
    &bytes[start..start.saturating_add(len).min(bytes.len())]
}

fn apply(entries: &mut BTreeMap<PathBuf, u64>, op: DirectoryOp) {
    match op {
        DirectoryOp::Link(path, inode) => {
            entries.insert(path, inode);
        }
        DirectoryOp::Rename(from, to, inode) => {
            if entries.get(&from) == Some(&inode) {
                entries.remove(&from);
            }
            entries.insert(to, inode);
        }
        DirectoryOp::Unlink(path) => {
            entries.remove(&path);
        }
    }
}

/// Writes a random subset of `sectors`; the length grows with the first that needs it.
fn keep_some(durable: &mut Vec<u8>, sectors: &[(usize, Vec<u8>)], len: usize, random: &mut Random) {
    if durable.len() < len && random.coin() {
        durable.resize(len, 0);
    }
    for (index, content) in sectors {
        if !same_sector(sector(durable, *index), content) && random.coin() {
            let end = (index * SECTOR_BYTES + content.len()).min(len);
            if durable.len() < end {
                durable.resize(end, 0);
            }
            put_sector(durable, *index, content);
        }
    }
}
