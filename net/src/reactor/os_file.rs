//! An open file of the operating system.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
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

    pub(crate) fn raw_fd(&self) -> RawFd {
        self.0.file.as_raw_fd()
    }
}
