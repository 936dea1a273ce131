//! The device floor: what the disk takes for the same bytes on a file of the same preparation, without any log.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use super::latency::Latency;
use super::prepare::{self, Preparation};

/// What direct writes are aligned to.
const ALIGN_BYTES: usize = 4096;
/// Bytes per write when the bandwidth is measured.
const SEQUENTIAL_WRITE_BYTES: usize = 1024 * 1024;
/// The first page of a segment is its header; the floor leaves it alone, too.
const HEAD_BYTES: u64 = 4096;

/// A way to make bytes durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum FloorKind {
    /// Buffered overwrite, then fdatasync.
    Sync,
    /// One write with O_DIRECT and O_DSYNC of the 4 KiB blocks that the bytes lie in.
    Direct,
}

impl FloorKind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            FloorKind::Sync => "fdatasync",
            FloorKind::Direct => "O_DIRECT+O_DSYNC",
        }
    }
}

/// What a window of the floor gave.
#[derive(Clone, Debug, Default)]
pub(crate) struct FloorWindow {
    pub(crate) latency: Latency,
    pub(crate) seconds: f64,
    pub(crate) bytes: u64,
}

/// A prepared file, written at queue depth one from front to back, and again.
#[derive(Debug)]
pub(crate) struct Floor {
    file: File,
    direct: Option<File>,
    len: u64,
    at: u64,
    /// More than any write, with room to begin at an aligned byte.
    room: Vec<u8>,
    path: PathBuf,
}

impl Floor {
    /// Prepares the file `name` in `directory`. It is removed when this is dropped.
    pub(crate) fn new(directory: &Path, name: &str, preparation: Preparation, len: u64) -> io::Result<Floor> {
        let path = directory.join(name);
        let file = prepare::prepare(preparation, &path, len, &[], None)?;
        let direct = OpenOptions::new().write(true).custom_flags(direct_flags()).open(&path).ok();
        Ok(Floor { file, direct, len, at: HEAD_BYTES, room: Vec::new(), path })
    }

    pub(crate) fn has_direct(&self) -> bool {
        self.direct.is_some()
    }

    /// Appends `bytes` bytes durably, one after the other, for `time`.
    pub(crate) fn window(
        &mut self,
        kind: FloorKind,
        bytes: usize,
        time: Duration,
        interrupted: &AtomicBool,
    ) -> io::Result<FloorWindow> {
        let bytes = bytes.clamp(1, usize::try_from(self.len - HEAD_BYTES).unwrap_or(usize::MAX) / 2);
        if self.room.len() < bytes + 3 * ALIGN_BYTES {
            self.room = vec![0x5a; bytes + 3 * ALIGN_BYTES];
        }
        let mut window = FloorWindow::default();
        let begin = Instant::now();
        while begin.elapsed() < time && !interrupted.load(Ordering::Relaxed) {
            if self.at + bytes as u64 > self.len {
                self.at = HEAD_BYTES;
            }
            let started = Instant::now();
            match kind {
                FloorKind::Sync => {
                    self.file.write_all_at(&self.room[..bytes], self.at)?;
                    self.file.sync_data()?;
                }
                FloorKind::Direct => self.write_direct(bytes)?,
            }
            window.latency.record_duration(started.elapsed());
            window.bytes += bytes as u64;
            self.at += bytes as u64;
        }
        window.seconds = begin.elapsed().as_secs_f64();
        Ok(window)
    }

    fn write_direct(&self, bytes: usize) -> io::Result<()> {
        let Some(direct) = &self.direct else { return Err(io::ErrorKind::Unsupported.into()) };
        let align = ALIGN_BYTES as u64;
        let start = self.at - self.at % align;
        let end = (self.at + bytes as u64).next_multiple_of(align);
        let len = usize::try_from(end - start).map_err(io::Error::other)?;
        direct.write_all_at(&self.room[aligned_start(&self.room)..][..len], start)
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn direct_flags() -> i32 {
    (OFlags::DIRECT | OFlags::DSYNC).bits().cast_signed()
}

/// The first byte of `room` that direct I/O may start at.
fn aligned_start(room: &[u8]) -> usize {
    room.as_ptr().align_offset(ALIGN_BYTES)
}

/// Bytes per second of writing `bytes` in order around the page cache and syncing once; buffered where there is no way around.
pub(crate) fn sequential_write(directory: &Path, bytes: u64) -> io::Result<f64> {
    let path = directory.join("sequential");
    let written = write_sequentially(&path, bytes);
    let removed = fs::remove_file(&path);
    let seconds = written?;
    removed?;
    #[expect(clippy::cast_precision_loss, reason = "a bandwidth")]
    Ok(bytes as f64 / seconds)
}

fn write_sequentially(path: &Path, bytes: u64) -> io::Result<f64> {
    // Allocated first, so that the blocks' allocation is not what is timed.
    drop(prepare::prepare(Preparation::ZerosLarge, path, bytes, &[], None)?);
    let mut options = OpenOptions::new();
    options.write(true);
    let file = options.clone().custom_flags(OFlags::DIRECT.bits().cast_signed()).open(path);
    let file = file.or_else(|_| options.open(path))?;
    let room = vec![0x5a; SEQUENTIAL_WRITE_BYTES + ALIGN_BYTES];
    let chunk = &room[aligned_start(&room)..][..SEQUENTIAL_WRITE_BYTES];
    let started = Instant::now();
    for at in 0..bytes / SEQUENTIAL_WRITE_BYTES as u64 {
        file.write_all_at(chunk, at * SEQUENTIAL_WRITE_BYTES as u64)?;
    }
    file.sync_data()?;
    Ok(started.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_counts_what_it_wrote_wraps_around_and_leaves_nothing() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut floor = Floor::new(directory.path(), "floor", Preparation::ZerosSmall, 64 * 1024).expect("prepared");
        let running = AtomicBool::new(false);
        let window = floor.window(FloorKind::Sync, 9_000, Duration::from_millis(50), &running).expect("a window");
        let count = window.latency.summary().count;
        assert!(count > 0 && window.bytes == count * 9_000 && window.seconds >= 0.05, "{window:?}");
        if floor.has_direct() {
            let window = floor.window(FloorKind::Direct, 200, Duration::from_millis(20), &running).expect("a window");
            assert!(window.bytes > 0);
        }
        assert_eq!(fs::metadata(directory.path().join("floor")).expect("there").len(), 64 * 1024);
        assert!(sequential_write(directory.path(), 4 << 20).expect("a bandwidth") > 0.0);
        drop(floor);
        assert_eq!(fs::read_dir(directory.path()).expect("a list").count(), 0);
    }

    #[test]
    fn an_interrupted_window_ends_at_once() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut floor = Floor::new(directory.path(), "floor", Preparation::Allocated, 64 * 1024).expect("prepared");
        let window = floor.window(FloorKind::Sync, 1, Duration::from_secs(60), &AtomicBool::new(true)).expect("ended");
        assert_eq!(window.bytes, 0);
    }
}
