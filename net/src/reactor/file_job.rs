//! The work of a [`FileJob`] as plain calls, shared by the helper thread and by start-up.

#![allow(clippy::disallowed_methods, reason = "what the helper thread does to files")]

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::{FileJob, OsFile, Outcome, misuse};

/// Bytes per write of zeros: one page, so that the cache holds small folios (FACTS: large ones make every sync write 1
/// MiB).
const ZERO_BYTES: usize = 4096;
/// Bytes of zeros per step; a step stays below about a millisecond, so that the helper's other work goes on between.
const STEP_BYTES: u64 = 1024 * 1024;
/// Bytes per step of reading a file into the page cache.
pub(crate) const WARM_BYTES: usize = 256 * 1024;
/// Most bytes of one bulk read; a caller that asks for more has lost count.
pub(crate) const BULK_BYTES_MAX: u32 = 64 * 1024 * 1024;

/// Does `job` to its end.
pub(crate) fn run(job: FileJob<OsFile>) -> io::Result<Outcome<OsFile>> {
    match job {
        FileJob::Prepare { path, len, head } => {
            let mut prepare = Prepare::start(path, len, head)?;
            loop {
                if let Some(file) = prepare.step()? {
                    return Ok(Outcome::Opened(file));
                }
            }
        }
        FileJob::Recycle { path, len, head } => recycle(path, len, &head),
        FileJob::Warm { file } => {
            let mut scratch = vec![0; WARM_BYTES];
            let mut at = 0;
            while let Some(next) = warm_step(&file, at, &mut scratch)? {
                at = next;
            }
            Ok(Outcome::Done)
        }
        FileJob::WriteSync { file, offset, bytes } => {
            file.as_file().write_all_at(&bytes, offset)?;
            file.as_file().sync_data()?;
            Ok(Outcome::Done)
        }
        FileJob::Rename { from, to } => {
            fs::rename(&from, &to)?;
            sync_directory_of(&to)?;
            Ok(Outcome::Done)
        }
        FileJob::Unlink { path } => {
            fs::remove_file(&path)?;
            sync_directory_of(&path)?;
            Ok(Outcome::Done)
        }
        FileJob::Open { path } => Ok(Outcome::Opened(OsFile::new(File::open(&path)?, path))),
        FileJob::ReadBulk { file, offset, len } => {
            check_bulk(len)?;
            read_bulk(file.as_file(), offset, len as usize).map(|bytes| Outcome::Bulk(bytes.into()))
        }
    }
}

fn recycle(path: PathBuf, len: u64, head: &[u8]) -> io::Result<Outcome<OsFile>> {
    let file = OpenOptions::new().read(true).write(true).open(&path)?;
    if file.metadata()?.len() != len || head.len() as u64 > len {
        return Err(misuse("a recycled file has the length of its next use"));
    }
    file.write_all_at(head, 0)?;
    file.sync_data()?;
    Ok(Outcome::Opened(OsFile::new(file, path)))
}

/// Reads the stretch at `at` into the page cache; where to go on, `None` at the end of the file.
pub(crate) fn warm_step(file: &OsFile, at: u64, scratch: &mut [u8]) -> io::Result<Option<u64>> {
    match file.as_file().read_at(scratch, at) {
        Ok(0) => Ok(None),
        Ok(step) => Ok(Some(at + step as u64)),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(Some(at)),
        Err(error) => Err(error),
    }
}

pub(crate) fn check_bulk(len: u32) -> io::Result<()> {
    if len > BULK_BYTES_MAX { Err(misuse("a bulk read asks for more than 64 MiB; read in parts")) } else { Ok(()) }
}

/// The pread twin of the tokio-uring bulk read; shorter only at the end of the file.
pub(crate) fn read_bulk(file: &File, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    let mut done = 0;
    while done < len {
        match file.read_at(&mut bytes[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(step) => done += step,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(done);
    Ok(bytes)
}

/// Makes the directory entries beside `path` durable.
pub(crate) fn sync_directory_of(path: &Path) -> io::Result<()> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(parent)?.sync_all()
}

/// Where overwriting copies (btrfs), zeros written beforehand reserve nothing, and a store into the mapping could find the disk
/// full. A new file can be excluded from that. Elsewhere there is nothing to do; where it fails, preparation goes on as before.
fn overwrite_in_place(file: &File) {
    const BTRFS: rustix::fs::FsWord = 0x9123_683e;
    if rustix::fs::fstatfs(file).is_ok_and(|stat| stat.f_type == BTRFS)
        && let Ok(flags) = rustix::fs::ioctl_getflags(file)
        && let Err(error) = rustix::fs::ioctl_setflags(file, flags | rustix::fs::IFlags::NOCOW)
    {
        tracing::warn!(%error, "a segment cannot be excluded from copying on write; a full disk may end the process");
    }
}

/// `FileJob::Prepare` in steps; unlinks the partial file unless it got to the end.
pub(crate) struct Prepare {
    file: Option<File>,
    path: PathBuf,
    len: u64,
    filled: u64,
    head: Bytes,
}

impl Prepare {
    pub(crate) fn start(path: PathBuf, len: u64, head: Bytes) -> io::Result<Self> {
        if !len.is_multiple_of(ZERO_BYTES as u64) || head.len() as u64 > len {
            return Err(misuse("a prepared file is a multiple of 4096 bytes and holds its head"));
        }
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        overwrite_in_place(&file);
        Ok(Prepare { file: Some(file), path, len, filled: 0, head })
    }

    /// Fills the next stretch; the file when it is complete and synced.
    pub(crate) fn step(&mut self) -> io::Result<Option<OsFile>> {
        let Some(file) = &self.file else { return Err(misuse("the file is prepared already")) };
        let stop = self.len.min(self.filled + STEP_BYTES);
        while self.filled < stop {
            file.write_all_at(&[0; ZERO_BYTES], self.filled)?;
            self.filled += ZERO_BYTES as u64;
        }
        if self.filled < self.len {
            return Ok(None);
        }
        file.write_all_at(&self.head, 0)?;
        file.sync_data()?;
        Ok(self.file.take().map(|file| OsFile::new(file, std::mem::take(&mut self.path))))
    }
}

impl Drop for Prepare {
    fn drop(&mut self) {
        if self.file.is_some()
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove a partly prepared file");
        }
    }
}
