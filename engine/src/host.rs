//! What a loop runs on: a reactor and a way to map its files. Production and the simulator are two hosts.

use std::io;
use std::path::Path;

use net::reactor::Io;
use wal::{CommitPath, Mapping};

/// A reactor with its files and mappings.
pub trait Host: 'static {
    /// The reactor.
    type Io: Io<File = Self::File>;
    /// Its file handle.
    type File: Clone + std::fmt::Debug + Send + 'static;
    /// How its files are mapped.
    type Map: Mapping + Clone + std::fmt::Debug + Send + Sync + 'static;

    /// Maps `len` bytes of `file` for reading and writing.
    ///
    /// # Errors
    /// Those of mmap.
    fn map(file: &Self::File, len: u64) -> io::Result<Self::Map>;

    /// Maps `len` bytes of `file` so that stores stay in memory.
    ///
    /// # Errors
    /// Those of mmap.
    fn map_private(file: &Self::File, len: u64) -> io::Result<Self::Map>;

    /// Opens `file` once more, for writes around the page cache.
    ///
    /// # Errors
    /// Those of open; `EINVAL` where the file system has no direct I/O.
    fn open_direct(file: &Self::File) -> io::Result<Self::File>;
}

/// Maps a segment that a log will append to.
///
/// # Errors
/// Those of mmap.
pub(crate) fn map_segment<H: Host>(file: &H::File, len: u64, path: CommitPath) -> io::Result<H::Map> {
    match path {
        CommitPath::Mmap => H::map(file, len),
        CommitPath::Direct => H::map_private(file, len),
    }
}

/// Where the segments of a core lie.
#[must_use]
pub fn segment_path(data_dir: &Path, core: wal::CoreId, number: wal::SegmentNumber) -> std::path::PathBuf {
    data_dir.join(wal::segment_file_name(core, number))
}
