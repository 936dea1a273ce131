//! An open file of the operating system.

#![allow(clippy::disallowed_methods, reason = "the files of both back-ends")]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An open file and the path by which it was opened; clones share it.
#[derive(Clone, Debug)]
pub struct OsFile(Arc<Opened>);

#[derive(Debug)]
struct Opened {
    file: File,
    path: PathBuf,
}

impl OsFile {
    /// Wraps an open file.
    #[must_use]
    pub fn new(file: File, path: PathBuf) -> Self {
        OsFile(Arc::new(Opened { file, path }))
    }

    /// The file, for mapping it.
    #[must_use]
    pub fn as_file(&self) -> &File {
        &self.0.file
    }

    /// The path by which it was opened (a later rename does not change it).
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Length in bytes.
    ///
    /// # Errors
    /// Those of fstat.
    pub fn len(&self) -> io::Result<u64> {
        Ok(self.0.file.metadata()?.len())
    }

    /// Whether the file has no bytes.
    ///
    /// # Errors
    /// Those of fstat.
    pub fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// The same file opened once more, for reading and writing around the page cache: offsets, lengths and memory have to be
    /// aligned.
    ///
    /// # Errors
    /// Those of open; `EINVAL` where the file system has no direct I/O.
    pub fn open_direct(&self) -> io::Result<OsFile> {
        let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(self.link())?;
        Ok(OsFile::new(file, self.0.path.clone()))
    }

    /// The descriptor's own link, since the path may have been renamed.
    pub(crate) fn link(&self) -> String {
        format!("/proc/self/fd/{}", self.raw_fd())
    }

    pub(crate) fn raw_fd(&self) -> RawFd {
        self.0.file.as_raw_fd()
    }
}
