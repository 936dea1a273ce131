//! How long a store into a segment keeps its core waiting while the segment is being made durable.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use wal::{MappedFile, Mapping};

use super::latency::Latency;
use super::options::CommitPath;
use super::prepare::{self, Preparation};
use super::results::StallResult;

const FILE_BYTES: u64 = 32 << 20;
const STORE_BYTES: usize = 64;
/// Between two stores.
const PAUSE: Duration = Duration::from_micros(10);
const PAGE_BYTES: usize = 4096;
/// Pages are made present this far ahead, as by the log's driver.
const POPULATE_BYTES: usize = 1024 * 1024;
/// Windows per kind.
const ROUNDS: u32 = 4;

/// Measures both kinds of mapping with and without commits beside them, in alternating windows.
pub(crate) fn run(
    directory: &Path,
    preparation: Preparation,
    time: Duration,
    interrupted: &AtomicBool,
) -> io::Result<Vec<StallResult>> {
    let kinds = [CommitPath::Mmap, CommitPath::Direct].map(|mapping| [(mapping, false), (mapping, true)]);
    let mut found: Vec<(CommitPath, bool, Latency, u64)> =
        kinds.into_iter().flatten().map(|(mapping, busy)| (mapping, busy, Latency::default(), 0)).collect();
    for _ in 0..ROUNDS {
        for (mapping, busy, latency, commits) in &mut found {
            if interrupted.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let path = directory.join("stall");
            let outcome = window(&path, preparation, *mapping, *busy, time / ROUNDS, latency);
            fs::remove_file(&path)?;
            *commits += outcome?;
        }
    }
    let result = |(mapping, while_committing, latency, commits): (CommitPath, bool, Latency, u64)| StallResult {
        mapping,
        while_committing,
        store: latency.summary(),
        commits,
    };
    Ok(found.into_iter().map(result).collect())
}

/// Stores for `time`; how many commits completed beside it.
fn window(
    path: &Path,
    preparation: Preparation,
    mapping: CommitPath,
    busy: bool,
    time: Duration,
    latency: &mut Latency,
) -> io::Result<u64> {
    let file = prepare::prepare(preparation, path, FILE_BYTES, &[], None)?;
    let len = usize::try_from(FILE_BYTES).map_err(io::Error::other)?;
    let map = match mapping {
        CommitPath::Mmap => MappedFile::map(&file, len)?,
        CommitPath::Direct => MappedFile::map_private(&file, len)?,
    };
    let flags = (OFlags::DIRECT | OFlags::DSYNC).bits().cast_signed();
    let direct = match mapping {
        CommitPath::Mmap => None,
        CommitPath::Direct => Some(OpenOptions::new().write(true).custom_flags(flags).open(path)?),
    };
    let over = AtomicBool::new(false);
    let stored = AtomicUsize::new(0);
    thread::scope(|scope| {
        let committer = scope.spawn(|| -> io::Result<u64> {
            let room = vec![0x5a; 2 * PAGE_BYTES];
            let page = &room[room.as_ptr().align_offset(PAGE_BYTES)..][..PAGE_BYTES];
            let mut commits = 0;
            while busy && !over.load(Ordering::Relaxed) {
                match &direct {
                    // The page that was stored to last, as the log's direct path writes it.
                    Some(direct) => {
                        let at = stored.load(Ordering::Relaxed) / PAGE_BYTES * PAGE_BYTES;
                        direct.write_all_at(page, at as u64)?;
                    }
                    None => file.sync_data()?,
                }
                commits += 1;
            }
            Ok(commits)
        });
        store(&map, time, &stored, latency);
        over.store(true, Ordering::Relaxed);
        committer.join().map_err(|_| io::Error::other("the committing thread panicked"))?
    })
}

fn store(map: &MappedFile, time: Duration, stored: &AtomicUsize, latency: &mut Latency) {
    let (mut at, mut populated) = (PAGE_BYTES, 0);
    let begin = Instant::now();
    while begin.elapsed() < time && at + STORE_BYTES <= map.len() {
        if populated < (at + POPULATE_BYTES / 2).min(map.len()) {
            let end = (at + POPULATE_BYTES).min(map.len());
            // The committing thread syncs the whole file, as epoll's disk thread does.
            map.populate(populated..end, wal::Populate::Reading);
            populated = end;
        }
        let started = Instant::now();
        map.store(at, &[0x5a; STORE_BYTES]);
        let done = Instant::now();
        latency.record_duration(done - started);
        at += STORE_BYTES;
        stored.store(at, Ordering::Relaxed);
        while done.elapsed() < PAUSE {
            std::hint::spin_loop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stores_are_timed_with_and_without_commits() {
        let directory = tempfile::tempdir().expect("a directory");
        let running = AtomicBool::new(false);
        let time = Duration::from_millis(80);
        let found = match run(directory.path(), Preparation::ZerosSmall, time, &running) {
            // No direct I/O where the temporary files are.
            Err(error) if error.raw_os_error() == Some(22) => return,
            found => found.expect("measured"),
        };
        assert_eq!(found.len(), 4);
        for result in &found {
            assert!(result.store.count > 100, "{result:?}");
            assert_eq!(result.commits > 0, result.while_committing, "{result:?}");
        }
        assert_eq!(fs::read_dir(directory.path()).expect("a list").count(), 0);
    }
}
