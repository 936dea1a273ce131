//! The disk's side of FUSE: each request of the kernel becomes a step of the [`Image`], unless a fault comes first.

use std::ffi::OsStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, KernelConfig,
    LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry,
    ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};

use super::faults::Faults;
use super::image::Image;

/// Nobody but the kernel changes this disk, so it may remember names and attributes.
const REMEMBERED: Duration = Duration::from_secs(3600);

/// Largest write request.
const WRITE_BYTES_MAX: u32 = 1024 * 1024;

/// A short write takes this much: neither a sector nor a page.
const SHORT_WRITE_BYTES: usize = 1000;

/// What `df` says the disk's size is, in blocks of 4 KiB.
const BLOCKS: u64 = 256 * 1024;

/// Bytes, names and faults, shared by the mounted file system and the test.
#[derive(Clone, Debug)]
pub(super) struct Shared(Arc<Mutex<State>>);

#[derive(Debug)]
pub(super) struct State {
    pub(super) image: Image,
    pub(super) faults: Faults,
}

impl Shared {
    pub(super) fn new() -> Shared {
        Shared(Arc::new(Mutex::new(State { image: Image::new(), faults: Faults::default() })))
    }

    /// Held for one step at a time: nothing under it waits, so the kernel is never kept waiting for long.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A mounted disk.
#[derive(Debug)]
pub(super) struct Served(pub(super) Shared);

/// FUSE drops a file's pages from the cache when it is opened anew, unless told to keep them, as real disks do.
const KEEP_CACHE: FopenFlags = FopenFlags::FOPEN_KEEP_CACHE;

impl State {
    /// Refuses changes while the power is off, and growth while the disk is full.
    fn may_change(&mut self, grows: bool) -> Result<(), Errno> {
        if self.faults.frozen {
            return Err(Errno::EIO);
        }
        if self.faults.full && grows {
            self.faults.seen.refused_for_space += 1;
            return Err(Errno::ENOSPC);
        }
        Ok(())
    }

    fn io_error<T>(&mut self) -> Result<T, Errno> {
        self.faults.seen.io_errors += 1;
        Err(Errno::EIO)
    }

    fn write(&mut self, inode: u64, offset: usize, bytes: &[u8], from_cache: bool) -> Result<usize, Errno> {
        self.may_change(offset + bytes.len() > self.image.len(inode)?)?;
        if self.faults.writes_fail {
            return self.io_error();
        }
        // The kernel does not look at the length of a write from its cache.
        let cut = self.faults.writes_are_short && !from_cache && bytes.len() > SHORT_WRITE_BYTES;
        let taken = if cut { SHORT_WRITE_BYTES } else { bytes.len() };
        self.faults.seen.short_writes += u64::from(cut);
        if from_cache {
            self.faults.mapped_writes.insert(inode);
            if self.faults.lost.contains(&inode) {
                return Ok(taken);
            }
        }
        self.image.write(inode, offset, &bytes[..taken])?;
        Ok(taken)
    }

    fn read(&mut self, inode: u64, offset: u64, len: u32, direct: bool) -> Result<&[u8], Errno> {
        let bad = self.faults.bad.as_ref().is_some_and(|(where_, bytes)| {
            *where_ == inode && bytes.start < offset + u64::from(len) && offset < bytes.end
        });
        if bad {
            return self.io_error();
        }
        self.faults.seen.direct_reads += u64::from(direct);
        self.image.read(inode, to_usize(offset), len as usize)
    }

    fn sync(&mut self, inode: u64) -> Result<(), Errno> {
        self.may_change(false)?;
        if self.faults.mapped_writes.remove(&inode) && self.faults.syncs_to_fail > 0 {
            self.faults.syncs_to_fail -= 1;
            // The worst that a disk may do: what it had accepted is gone, and the next sync will know nothing of it. A page
            // that was written to again meanwhile would bring back what it held before, so that is gone too.
            self.image.lose_unsynced(inode)?;
            self.faults.lost.insert(inode);
            return self.io_error();
        }
        self.image.sync(inode)?;
        self.faults.seen.syncs += 1;
        Ok(())
    }

    fn sync_directory(&mut self, inode: u64) -> Result<(), Errno> {
        self.may_change(false)?;
        if self.faults.directory_syncs_to_fail > 0 {
            self.faults.directory_syncs_to_fail -= 1;
            return self.io_error();
        }
        self.image.sync_directory(inode)
    }

    fn rename(&mut self, directory: u64, from: &OsStr, to: &OsStr) -> Result<(), Errno> {
        self.may_change(false)?;
        if self.faults.renames_to_fail > 0 {
            self.faults.renames_to_fail -= 1;
            self.faults.seen.refused_for_space += 1;
            return Err(Errno::ENOSPC);
        }
        self.image.rename(directory, from, to)
    }

    fn add(&mut self, parent: u64, name: &OsStr, mode: u32, kind: FileType) -> Result<FileAttr, Errno> {
        self.may_change(true)?;
        let mode = permissions(mode);
        let inode = match kind {
            FileType::Directory => self.image.add_directory(parent, name, mode)?,
            _ => self.image.add_file(parent, name, mode)?,
        };
        self.image.attributes(inode)
    }

    fn set(&mut self, inode: u64, mode: Option<u32>, size: Option<u64>) -> Result<FileAttr, Errno> {
        if let Some(mode) = mode {
            self.may_change(false)?;
            self.image.set_mode(inode, permissions(mode))?;
        }
        if let Some(size) = size {
            let size = to_usize(size);
            self.may_change(size > self.image.len(inode)?)?;
            self.image.resize(inode, size)?;
        }
        self.image.attributes(inode)
    }
}

fn permissions(mode: u32) -> u16 {
    u16::try_from(mode & 0o7777).expect("twelve bits")
}

fn to_usize(offset: u64) -> usize {
    usize::try_from(offset).expect("64-bit target")
}

/// Answers with the attributes or the error.
fn entry(reply: ReplyEntry, result: Result<FileAttr, Errno>) {
    match result {
        Ok(attributes) => reply.entry(&REMEMBERED, &attributes, Generation(0)),
        Err(error) => reply.error(error),
    }
}

fn attributes(reply: ReplyAttr, result: Result<FileAttr, Errno>) {
    match result {
        Ok(attributes) => reply.attr(&REMEMBERED, &attributes),
        Err(error) => reply.error(error),
    }
}

fn done(reply: ReplyEmpty, result: Result<(), Errno>) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}

impl Filesystem for Served {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // What it cannot have it does without.
        let _ = config.set_max_write(WRITE_BYTES_MAX);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let state = self.0.lock();
        entry(reply, state.image.lookup(parent.0, name).and_then(|inode| state.image.attributes(inode)));
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        attributes(reply, self.0.lock().image.attributes(inode.0));
    }

    fn setattr(
        &self,
        _: &Request,
        inode: INodeNo,
        mode: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        attributes(reply, self.0.lock().set(inode.0, mode, size));
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        entry(reply, self.0.lock().add(parent.0, name, mode & !umask, FileType::Directory));
    }

    fn create(&self, _: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, _: i32, reply: ReplyCreate) {
        match self.0.lock().add(parent.0, name, mode & !umask, FileType::RegularFile) {
            Ok(attributes) => {
                reply.created(&REMEMBERED, &attributes, Generation(0), FileHandle(0), KEEP_CACHE);
            }
            Err(error) => reply.error(error),
        }
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let mut state = self.0.lock();
        let removed = state.may_change(false).and_then(|()| state.image.remove(parent.0, name, FileType::RegularFile));
        done(reply, removed);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let mut state = self.0.lock();
        let removed = state.may_change(false).and_then(|()| state.image.remove(parent.0, name, FileType::Directory));
        done(reply, removed);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if parent != new_parent || !flags.is_empty() {
            // Names that change together belong to one directory's journal.
            reply.error(Errno::EXDEV);
            return;
        }
        done(reply, self.0.lock().rename(parent.0, name, new_name));
    }

    fn open(&self, _: &Request, inode: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.0.lock().image.len(inode.0) {
            Ok(_) => reply.opened(FileHandle(0), KEEP_CACHE),
            Err(error) => reply.error(error),
        }
    }

    fn read(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.0.lock().read(inode.0, offset, size, flags.0 & libc::O_DIRECT != 0) {
            Ok(bytes) => reply.data(bytes),
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        bytes: &[u8],
        kind: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let from_cache = kind.contains(WriteFlags::FUSE_WRITE_CACHE);
        match self.0.lock().write(inode.0, to_usize(offset), bytes, from_cache) {
            Ok(taken) => reply.written(u32::try_from(taken).expect("at most one request")),
            Err(error) => reply.error(error),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, inode: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        done(reply, self.0.lock().sync(inode.0));
    }

    fn fsyncdir(&self, _: &Request, inode: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        done(reply, self.0.lock().sync_directory(inode.0));
    }

    fn readdir(&self, _: &Request, inode: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        match self.0.lock().image.list(inode.0) {
            Ok(names) => {
                for ((name, inode, kind), next) in names.into_iter().zip(1..).skip(to_usize(offset)) {
                    if reply.add(INodeNo(inode), next, kind, name) {
                        break;
                    }
                }
                reply.ok();
            }
            Err(error) => reply.error(error),
        }
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let free = if self.0.lock().faults.full { 0 } else { BLOCKS / 2 };
        reply.statfs(BLOCKS, free, free, 1024, 512, 4096, 255, 4096);
    }

    fn fallocate(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        len: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        if mode != 0 {
            reply.error(Errno::EOPNOTSUPP);
            return;
        }
        let mut state = self.0.lock();
        let end = to_usize(offset + len);
        let grown = state.image.len(inode.0).and_then(|have| {
            state.may_change(end > have)?;
            if end > have { state.image.resize(inode.0, end) } else { Ok(()) }
        });
        done(reply, grown);
    }
}
