//! How a file came to be before the log (or the floor) writes into it: the dimension that decides the price of a sync.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use bytes::Bytes;
use clap::ValueEnum;
use net::reactor::{OsFile, Waker};
use rustix::fs::{FallocateFlags, fallocate};
use serde::{Deserialize, Serialize};

const SMALL_WRITE_BYTES: usize = 4096;
const LARGE_WRITE_BYTES: usize = 1024 * 1024;
/// What old files hold: anything but zeros.
const OLD_BYTE: u8 = 0xa5;

/// How a file is prepared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub(crate) enum Preparation {
    /// Zeros by buffered writes of 4 KiB, synced: what production does for a new segment.
    #[value(name = "zeros4k")]
    #[serde(rename = "zeros4k")]
    ZerosSmall,
    /// Zeros by buffered writes of 1 MiB: large folios in the page cache.
    #[value(name = "zeros1m")]
    #[serde(rename = "zeros1m")]
    ZerosLarge,
    /// Allocated, not written: unwritten extents.
    #[value(name = "fallocate")]
    #[serde(rename = "fallocate")]
    Allocated,
    /// Written before, with a new header page: a segment that is used again.
    #[value(name = "recycled")]
    #[serde(rename = "recycled")]
    Recycled,
}

impl Preparation {
    /// As on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Preparation::ZerosSmall => "zeros4k",
            Preparation::ZerosLarge => "zeros1m",
            Preparation::Allocated => "fallocate",
            Preparation::Recycled => "recycled",
        }
    }
}

/// Creates `path` with `len` bytes and `head` at its start, durably. `old` is a file to be used again, renamed to `path`.
pub(crate) fn prepare(
    preparation: Preparation,
    path: &Path,
    len: u64,
    head: &[u8],
    old: Option<&Path>,
) -> io::Result<File> {
    if let (Preparation::Recycled, Some(old)) = (preparation, old) {
        std::fs::rename(old, path)?;
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        file.write_all_at(head, 0)?;
        file.sync_data()?;
        return Ok(file);
    }
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
    match preparation {
        Preparation::ZerosSmall => fill(&file, len, &[0; SMALL_WRITE_BYTES])?,
        Preparation::ZerosLarge => fill(&file, len, &vec![0; LARGE_WRITE_BYTES])?,
        Preparation::Allocated => fallocate(&file, FallocateFlags::empty(), 0, len)?,
        Preparation::Recycled => fill(&file, len, &[OLD_BYTE; SMALL_WRITE_BYTES])?,
    }
    file.write_all_at(head, 0)?;
    file.sync_data()?;
    Ok(file)
}

fn fill(file: &File, len: u64, bytes: &[u8]) -> io::Result<()> {
    let mut done = 0;
    while done < len {
        let step = usize::try_from(len - done).map_or(bytes.len(), |rest| rest.min(bytes.len()));
        file.write_all_at(&bytes[..step], done)?;
        done += step as u64;
    }
    Ok(())
}

/// A file to prepare.
pub(crate) struct Order {
    pub(crate) preparation: Preparation,
    pub(crate) path: PathBuf,
    pub(crate) len: u64,
    pub(crate) head: Bytes,
}

/// A thread for preparations that production's helper thread does not know.
#[derive(Debug)]
pub(crate) struct Preparer {
    /// `None` only while dropping.
    orders: Option<mpsc::Sender<Order>>,
    results: mpsc::Receiver<io::Result<OsFile>>,
    thread: Option<JoinHandle<()>>,
}

impl Preparer {
    /// Starts it; `waker` tells the log's thread of each file.
    pub(crate) fn spawn(waker: Waker) -> io::Result<Preparer> {
        let (orders, queue) = mpsc::channel::<Order>();
        let (answer, results) = mpsc::channel();
        let thread = thread::Builder::new().name("preparer".into()).spawn(move || {
            for Order { preparation, path, len, head } in queue {
                let prepared = prepare(preparation, &path, len, &head, None);
                if answer.send(prepared.map(|file| OsFile::new(file, path))).is_err() {
                    return;
                }
                waker.wake();
            }
        })?;
        Ok(Preparer { orders: Some(orders), results, thread: Some(thread) })
    }

    pub(crate) fn order(&self, order: Order) -> io::Result<()> {
        let sent = self.orders.as_ref().map(|orders| orders.send(order));
        if matches!(sent, Some(Ok(()))) { Ok(()) } else { Err(io::Error::other("the preparing thread ended")) }
    }

    /// A file that became ready.
    pub(crate) fn ready(&self) -> Option<io::Result<OsFile>> {
        self.results.try_recv().ok()
    }
}

impl Drop for Preparer {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preparation_gives_a_file_of_its_size_with_its_head() {
        let directory = tempfile::tempdir().expect("a directory");
        for preparation in Preparation::value_variants() {
            let path = directory.path().join(preparation.name());
            prepare(*preparation, &path, 3 << 20, b"head", None).expect("prepared");
            let bytes = std::fs::read(&path).expect("read");
            assert_eq!(bytes.len(), 3 << 20);
            assert_eq!(&bytes[..4], b"head");
            let rest = if *preparation == Preparation::Recycled { OLD_BYTE } else { 0 };
            assert!(bytes[4..].iter().all(|byte| *byte == rest), "{preparation:?}");
        }
    }

    #[test]
    fn an_old_file_keeps_its_bytes_behind_the_new_head() {
        let directory = tempfile::tempdir().expect("a directory");
        let (old, new) = (directory.path().join("old"), directory.path().join("new"));
        std::fs::write(&old, vec![7; 8192]).expect("old");
        prepare(Preparation::Recycled, &new, 8192, b"head", Some(&old)).expect("prepared");
        let bytes = std::fs::read(&new).expect("read");
        assert!(bytes.starts_with(b"head") && bytes[4..].iter().all(|byte| *byte == 7) && !old.exists());
    }
}
