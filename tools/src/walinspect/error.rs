//! What can go wrong besides the log itself, and what the process's exit codes mean.

use std::io;
use std::path::{Path, PathBuf};

/// Nothing durable is damaged or missing.
pub(crate) const EXIT_SOUND: u8 = 0;
/// Wrong arguments, or the files cannot be read.
pub(crate) const EXIT_FAILED: u8 = 1;
/// A torn tail and nothing worse: the next start of the node cuts it.
pub(crate) const EXIT_TORN: u8 = 2;
/// Something durable is damaged, missing, foreign or written by a newer program: the node refuses to start.
pub(crate) const EXIT_REFUSED: u8 = 3;

/// Why an inspection did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// The system refused something.
    #[error("{}: {what}: {source}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// Something was asked for that there is not.
    #[error("{0}")]
    Usage(String),
    /// Standard output does not take more.
    #[error("standard output cannot be written: {0}")]
    Output(io::Error),
}

pub(crate) fn io_error(path: &Path, what: &'static str) -> impl FnOnce(io::Error) -> InspectError {
    let path = path.to_owned();
    move |source| InspectError::Io { path, what, source }
}
