//! Blocking file access for start-up, before any loop runs: recovery reads whole segments and repairs names.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;

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

/// The real disk.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsDisk;

/// Held while the process owns a data directory; the kernel frees it with the process at the latest.
#[derive(Debug)]
pub struct OsLock(#[expect(dead_code, reason = "closing it gives the lock up")] File);

/// Alignment that direct reads need at most (devices with 4 KiB sectors).
const DIRECT_ALIGN: usize = 4096;
/// Bytes per direct read.
const DIRECT_BYTES: usize = 1024 * 1024;

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
        // The descriptor's own link, since the path may have been renamed.
        let link = format!("/proc/self/fd/{}", file.as_file().as_raw_fd());
        let direct = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(link);
        match direct.and_then(|direct| read_direct(&direct, offset, len)) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                file_job::read_bulk(file.as_file(), offset, len)
            }
            result => result,
        }
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

/// Aligned reads through an aligned buffer that cover `offset..offset + len`.
fn read_direct(file: &File, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    // A vector is aligned to its element only: room to start at an aligned byte.
    let mut room = vec![0u8; DIRECT_BYTES + DIRECT_ALIGN];
    let start = room.as_ptr().align_offset(DIRECT_ALIGN);
    let buffer = &mut room[start..start + DIRECT_BYTES];
    let mut bytes = Vec::with_capacity(len);
    let mut at = offset - offset % DIRECT_ALIGN as u64;
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
        if step < DIRECT_BYTES {
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
