//! Blocking file access for start-up, before any loop runs: recovery reads whole segments and repairs names.

#![allow(
    clippy::disallowed_methods,
    reason = "the disk that start-up reads, behind a trait that the simulator implements"
)]

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;

use super::{FileJob, OsFile, Outcome, file_job};

/// The disk at start-up; implemented by [`OsDisk`] and [`super::sim::SimDisk`].
pub trait Disk {
    /// Handle of an open file, the same type as the reactor's.
    type File: Clone + std::fmt::Debug + 'static;
    /// Held while the process owns a data directory.
    type Lock: std::fmt::Debug + 'static;

    /// Creates a directory and its missing parents (mode 0700), durably.
    ///
    /// # Errors
    /// Those of mkdir and of syncing the parent.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Names of the files in a directory, sorted.
    ///
    /// # Errors
    /// If it cannot be read, or a name is not UTF-8.
    fn list(&self, directory: &Path) -> io::Result<Vec<String>>;
    /// Opens an existing file for reading and writing.
    ///
    /// # Errors
    /// Those of open.
    fn open(&self, path: &Path) -> io::Result<Self::File>;
    /// Length in bytes.
    ///
    /// # Errors
    /// Those of fstat.
    fn len(&self, file: &Self::File) -> io::Result<u64>;
    /// fdatasync.
    ///
    /// # Errors
    /// A failure is final: what was written since the last success may be lost although reads show it.
    fn sync(&self, file: &Self::File) -> io::Result<()>;
    /// Reads what the device holds, around the page cache; shorter than `len` only at the end of the file. Where the
    /// file system has no direct reads, what the cache holds.
    ///
    /// # Errors
    /// Those of open and read.
    fn read_durable(&self, file: &Self::File, offset: u64, len: usize) -> io::Result<Vec<u8>>;
    /// Makes each file durable as the cache shows it, and gives `work` its index and everything the device holds of it, as
    /// [`Disk::read_durable`] reads. Several files at a time, each in memory of its own, on one thread more than there are CPUs, up to eight.
    /// Meanwhile the caller's thread gives `then` what was made of each file, in the files' order; no file is begun while that is so
    /// many files behind. The simulator takes one file after the other, on its own thread.
    fn each_durable<T: Send>(
        &self,
        files: &[Self::File],
        work: &(dyn Fn(usize, &[u8]) -> T + Sync),
        then: &mut dyn FnMut(usize, Result<T, DurableError>),
    );
    /// Makes each file durable as the cache shows it, and gives `work` its index, what the device holds of its first `len` bytes, and
    /// its length; what was made of each, in the files' order.
    fn each_durable_head<T: Send>(
        &self,
        files: &[Self::File],
        len: usize,
        work: &(dyn Fn(usize, &[u8], u64) -> T + Sync),
    ) -> Vec<Result<T, DurableError>>;
    /// Gives each of `items` to `work`, on as many threads as there are CPUs, up to eight; what it made of them, in their order. The
    /// simulator takes one item after the other, on its own thread.
    fn share_out<I: Send, T: Send>(&self, items: Vec<I>, work: &(dyn Fn(I) -> T + Sync)) -> Vec<T>;
    /// Does a file job here and now.
    ///
    /// # Errors
    /// Those of the job.
    fn run(&self, job: FileJob<Self::File>) -> io::Result<Outcome<Self::File>>;
    /// Takes the lock file `path`, creating it.
    ///
    /// # Errors
    /// `WouldBlock` if another process (or node) holds it.
    fn lock(&self, path: &Path) -> io::Result<Self::Lock>;
}

/// Which step of [`Disk::each_durable`] failed.
#[derive(Debug, thiserror::Error)]
pub enum DurableError {
    /// fdatasync.
    #[error("cannot be synced: {0}")]
    Sync(io::Error),
    /// Length or contents.
    #[error("cannot be read: {0}")]
    Read(io::Error),
}

/// The real disk.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsDisk;

/// Held while the process owns a data directory; the kernel frees it with the process at the latest.
#[derive(Debug)]
pub struct OsLock(#[expect(dead_code, reason = "closing it gives the lock up")] File);

/// Alignment that direct reads need at most (devices with 4 KiB sectors).
const DIRECT_ALIGN: usize = 4096;
/// Threads that work at a time: enough for any one disk, and each may hold a file in memory.
const THREADS_MAX: usize = 8;
/// Files under way for each thread that reads: one that is read, one that waits for its turn.
const FILES_PER_READER: usize = 2;
/// Bytes per direct read.
const DIRECT_BYTES: usize = 4 * 1024 * 1024;

impl Disk for OsDisk {
    type File = OsFile;
    type Lock = OsLock;

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        if path.is_dir() {
            return Ok(());
        }
        // Each new name is synced in its parent, from the top.
        let missing: Vec<&Path> =
            path.ancestors().take_while(|ancestor| !ancestor.as_os_str().is_empty() && !ancestor.exists()).collect();
        for directory in missing.into_iter().rev() {
            match DirBuilder::new().mode(0o700).create(directory) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => file_job::sync_directory_of(directory)?,
            }
        }
        if path.is_dir() { Ok(()) } else { Err(io::ErrorKind::NotADirectory.into()) }
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                let name = entry.file_name().into_string();
                names.push(name.map_err(|name| {
                    io::Error::new(io::ErrorKind::InvalidData, format!("file name {name:?} is not UTF-8; move it away"))
                })?);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn open(&self, path: &Path) -> io::Result<OsFile> {
        Ok(OsFile::new(OpenOptions::new().read(true).write(true).open(path)?, path.to_owned()))
    }

    fn len(&self, file: &OsFile) -> io::Result<u64> {
        file.len()
    }

    fn sync(&self, file: &OsFile) -> io::Result<()> {
        file.as_file().sync_data()
    }

    fn read_durable(&self, file: &OsFile, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        match open_for_direct_reads(file).and_then(|direct| read_direct(&direct, offset, len)) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                file_job::read_bulk(file.as_file(), offset, len)
            }
            result => result,
        }
    }

    fn each_durable<T: Send>(
        &self,
        files: &[OsFile],
        work: &(dyn Fn(usize, &[u8]) -> T + Sync),
        then: &mut dyn FnMut(usize, Result<T, DurableError>),
    ) {
        // One more than there are CPUs: some wait for the device.
        let readers = THREADS_MAX.min(threads(files.len()) + 1).min(files.len());
        let read = |index: usize, memory: &mut Vec<u8>| {
            self.sync(&files[index]).map_err(DurableError::Sync)?;
            let range = read_whole(&files[index], memory).map_err(DurableError::Read)?;
            Ok(work(index, &memory[range]))
        };
        let (give, take) = mpsc::channel();
        let take = Mutex::new(take);
        let (made, ready) = mpsc::channel();
        thread::scope(|scope| {
            for _ in 0..readers {
                let (made, read, take) = (made.clone(), &read, &take);
                scope.spawn(move || {
                    let mut memory = Vec::new();
                    loop {
                        // Nothing can panic while the lock is held, which is given up before the file is read. Whoever gives files is
                        // gone once all were taken, or has panicked.
                        let taken = take.lock().unwrap_or_else(PoisonError::into_inner).recv();
                        let Ok(index) = taken else { return };
                        let result = panic::catch_unwind(AssertUnwindSafe(|| read(index, &mut memory)));
                        if made.send((index, result)).is_err() {
                            return;
                        }
                    }
                });
            }
            // Owned here, so that readers end however this ends.
            let (give, ready) = (give, ready);
            let mut begun = 0..files.len();
            let mut begin_next = || begun.next().is_none_or(|index| give.send(index).is_ok());
            (0..readers * FILES_PER_READER).for_each(|_| assert!(begin_next(), "readers wait for files"));
            let mut waiting = BTreeMap::new();
            for index in 0..files.len() {
                let result = loop {
                    if let Some(result) = waiting.remove(&index) {
                        break result;
                    }
                    let (other, result) = ready.recv().expect("a reader ends when nothing is given any more");
                    match result {
                        Ok(result) => waiting.insert(other, result),
                        Err(payload) => panic::resume_unwind(payload),
                    };
                };
                assert!(begin_next(), "readers wait for files");
                then(index, result);
            }
        });
    }

    fn each_durable_head<T: Send>(
        &self,
        files: &[OsFile],
        len: usize,
        work: &(dyn Fn(usize, &[u8], u64) -> T + Sync),
    ) -> Vec<Result<T, DurableError>> {
        self.share_out((0..files.len()).collect(), &|index| {
            let file = &files[index];
            self.sync(file).map_err(DurableError::Sync)?;
            let head = self.read_durable(file, 0, len).map_err(DurableError::Read)?;
            let file_bytes = self.len(file).map_err(DurableError::Read)?;
            Ok(work(index, &head, file_bytes))
        })
    }

    fn share_out<I: Send, T: Send>(&self, items: Vec<I>, work: &(dyn Fn(I) -> T + Sync)) -> Vec<T> {
        let count = items.len();
        let items = Mutex::new(items.into_iter().enumerate());
        on_threads(count, &|| {
            let mut done = Vec::new();
            loop {
                // Nothing can panic while the lock is held.
                let taken = items.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some((index, item)) = taken else { return done };
                done.push((index, work(item)));
            }
        })
    }

    fn run(&self, job: FileJob<OsFile>) -> io::Result<Outcome<OsFile>> {
        file_job::run(job)
    }

    fn lock(&self, path: &Path) -> io::Result<OsLock> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(OsLock(file)),
            Err(fs::TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }
}

/// How many work at a time on so many pieces.
fn threads(pieces: usize) -> usize {
    thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX).min(pieces)
}

/// Runs `take_turns`, which does some of `count` pieces of work until none is left, on several threads, this one among them. All
/// results, in the order of their numbers.
fn on_threads<T: Send>(count: usize, take_turns: &(dyn Fn() -> Vec<(usize, T)> + Sync)) -> Vec<T> {
    let threads = threads(count);
    let mut done = thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(take_turns)).collect();
        let mut done = take_turns();
        for other in others {
            match other.join() {
                Ok(more) => done.extend(more),
                Err(payload) => panic::resume_unwind(payload),
            }
        }
        done
    });
    done.sort_unstable_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, result)| result).collect()
}

fn open_for_direct_reads(file: &OsFile) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(file.link())
}

/// Everything the device holds of `file`, into `memory`; where in it. Where the file system has no direct reads, what the
/// cache holds.
fn read_whole(file: &OsFile, memory: &mut Vec<u8>) -> io::Result<Range<usize>> {
    let len = usize::try_from(file.len()?).map_err(io::Error::other)?;
    let aligned = len.next_multiple_of(DIRECT_ALIGN);
    if memory.len() < aligned + DIRECT_ALIGN {
        *memory = vec![0; aligned + DIRECT_ALIGN];
    }
    let start = memory.as_ptr().align_offset(DIRECT_ALIGN);
    let room = &mut memory[start..start + aligned];
    // Where the file system has no direct reads, opening says so, or the first read does. A later refusal is an error: the
    // cache must not be trusted because one read came up short.
    let direct = open_for_direct_reads(file).and_then(|direct| {
        let probe = room.len().min(DIRECT_ALIGN);
        read_some(&direct, &mut room[..probe], 0).map(|_| direct)
    });
    let done = match direct {
        Ok(direct) => fill(&direct, room, len)?,
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => fill(file.as_file(), room, len)?,
        Err(error) => return Err(error),
    };
    if done < len {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(start..start + len)
}

/// Reads into `room` until `len` bytes are there or the file ends.
fn fill(file: &File, room: &mut [u8], len: usize) -> io::Result<usize> {
    let mut done = 0;
    while done < len {
        // Large enough for the device's bandwidth, small enough to leave it to others now and then.
        let step = room.len().min(done + DIRECT_BYTES);
        match read_some(file, &mut room[done..step], done as u64)? {
            0 => break,
            read => done += read,
        }
    }
    Ok(done)
}

fn read_some(file: &File, room: &mut [u8], at: u64) -> io::Result<usize> {
    loop {
        match file.read_at(room, at) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Aligned reads through an aligned buffer that cover `offset..offset + len`.
fn read_direct(file: &File, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    // A vector is aligned to its element only: room to start at an aligned byte.
    let mut at = offset - offset % DIRECT_ALIGN as u64;
    let covering = usize::try_from(offset - at).map_err(io::Error::other)?.saturating_add(len);
    let buffer_bytes = covering.min(DIRECT_BYTES).next_multiple_of(DIRECT_ALIGN);
    let mut room = vec![0u8; buffer_bytes + DIRECT_ALIGN];
    let start = room.as_ptr().align_offset(DIRECT_ALIGN);
    let buffer = &mut room[start..start + buffer_bytes];
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        let step = match file.read_at(buffer, at) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            result => result?,
        };
        let wanted = offset + bytes.len() as u64;
        let skip = usize::try_from(wanted - at).map_err(io::Error::other)?;
        if step <= skip {
            break;
        }
        let take = (step - skip).min(len - bytes.len());
        bytes.extend_from_slice(&buffer[skip..skip + take]);
        if step < buffer_bytes {
            // Only the last read of a file is short.
            break;
        }
        at += step as u64;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn durable_reads_give_any_range_whatever_its_alignment() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let bytes: Vec<u8> = (0..3_000_000u32).map(|at| at.to_le_bytes()[0] ^ at.to_le_bytes()[1]).collect();
        fs::write(&path, &bytes).unwrap();
        let file = OsDisk.open(&path).unwrap();
        OsDisk.sync(&file).unwrap();
        assert_eq!(OsDisk.len(&file).unwrap(), 3_000_000);
        for (offset, len) in [(0, 0), (0, 1), (1, 511), (4095, 2), (4096, 4096), (777, 2_500_000), (0, 3_000_000)] {
            let got = OsDisk.read_durable(&file, offset as u64, len).unwrap();
            assert!(got == bytes[offset..offset + len], "{offset} {len}");
        }
        assert_eq!(OsDisk.read_durable(&file, 2_999_990, 100).unwrap(), &bytes[2_999_990..]);
        assert!(OsDisk.read_durable(&file, 3_000_000, 100).unwrap().is_empty());
        assert!(OsDisk.read_durable(&file, 1 << 40, 100).unwrap().is_empty());
    }

    #[test]
    fn whole_files_come_in_order_whoever_reads_them_and_a_missing_one_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let files: Vec<OsFile> = (0..9usize)
            .map(|number| {
                let path = directory.path().join(number.to_string());
                fs::write(&path, vec![u8::try_from(number).unwrap(); 1_300_000 * number + number]).unwrap();
                OsDisk.open(&path).unwrap()
            })
            .collect();
        let work = |index: usize, bytes: &[u8]| {
            assert!(bytes.iter().all(|byte| usize::from(*byte) == index));
            (index, bytes.len())
        };
        let mut found = Vec::new();
        OsDisk.each_durable(&files, &work, &mut |index, made| found.push((index, made.unwrap())));
        assert_eq!(found, (0..9).map(|number| (number, (number, 1_300_000 * number + number))).collect::<Vec<_>>());
        OsDisk.each_durable(&[], &work, &mut |_, _| panic!("there is none"));
        let heads = OsDisk.each_durable_head(&files, 4096, &|index, head, file_bytes| (index, head.len(), file_bytes));
        let heads: Vec<_> = heads.into_iter().map(Result::unwrap).collect();
        let expected = (0..9usize).map(|number| {
            let len = 1_300_000 * number + number;
            (number, len.min(4096), len as u64)
        });
        assert_eq!(heads, expected.collect::<Vec<_>>());
    }

    #[test]
    fn files_are_worked_on_at_the_same_time() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, b"file").unwrap();
        let files = vec![OsDisk.open(&path).unwrap(); 2];
        let (tell, told) = mpsc::channel();
        let told = Mutex::new(told);
        // The first one waits for what the second one says.
        let work = |index: usize, _: &[u8]| match index {
            0 => told.lock().unwrap().recv_timeout(std::time::Duration::from_secs(60)).is_ok(),
            _ => tell.send(()).is_ok(),
        };
        let mut found = Vec::new();
        OsDisk.each_durable(&files, &work, &mut |_, made| found.push(made.unwrap()));
        assert_eq!(found, [true, true]);
    }

    #[test]
    fn whoever_reads_files_ends_when_somebody_panics() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, b"file").unwrap();
        let files = vec![OsDisk.open(&path).unwrap(); 50];
        let of_work = panic::catch_unwind(AssertUnwindSafe(|| {
            OsDisk.each_durable(&files, &|index, _| assert!(index != 20), &mut |_, _| ());
        }));
        assert!(of_work.is_err());
        let of_then = panic::catch_unwind(AssertUnwindSafe(|| {
            OsDisk.each_durable(&files, &|_, _| (), &mut |index, _| assert!(index != 20));
        }));
        assert!(of_then.is_err());
    }

    #[test]
    fn every_item_is_shared_out_once_and_the_results_keep_their_order() {
        let mut counts = vec![0u32; 1000];
        let found = OsDisk.share_out(counts.iter_mut().enumerate().collect(), &|(number, count)| {
            *count += 1;
            number
        });
        assert_eq!(found, (0..1000).collect::<Vec<_>>());
        assert!(counts.iter().all(|count| *count == 1));
        assert!(OsDisk.share_out(Vec::<u8>::new(), &|item| item).is_empty());
    }

    #[test]
    fn a_durable_read_follows_a_renamed_file() {
        let directory = tempfile::tempdir().unwrap();
        let (from, to) = (directory.path().join("a"), directory.path().join("b"));
        let job = FileJob::Prepare { path: from.clone(), len: 8192, head: Bytes::from_static(b"head") };
        let Ok(Outcome::Opened(file)) = OsDisk.run(job) else { panic!("not prepared") };
        OsDisk.run(FileJob::Rename { from, to }).unwrap();
        assert_eq!(OsDisk.read_durable(&file, 0, 5).unwrap(), b"head\0");
        assert_eq!(OsDisk.list(directory.path()).unwrap(), ["b"]);
    }

    #[test]
    fn directories_are_private_and_a_lock_is_exclusive() {
        use std::os::unix::fs::PermissionsExt;

        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/b/c");
        OsDisk.create_dir_all(&path).unwrap();
        OsDisk.create_dir_all(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        let lock = OsDisk.lock(&path.join("lock")).unwrap();
        assert_eq!(OsDisk.lock(&path.join("lock")).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(lock);
        OsDisk.lock(&path.join("lock")).unwrap();
        assert!(OsDisk.list(&directory.path().join("none")).is_err());
    }

    #[test]
    fn a_partly_prepared_file_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let mut prepare = file_job::Prepare::start(path.clone(), 8 << 20, Bytes::new()).unwrap();
        assert!(prepare.step().unwrap().is_none());
        drop(prepare);
        assert!(!path.exists());
    }
}
