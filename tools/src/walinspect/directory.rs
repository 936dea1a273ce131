//! A data directory seen from outside: its files, its owner, and whether a daemon has it. Nothing is opened for writing, no
//! lock is taken, nothing is created.

use std::fs::{self, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use engine::startup::parse_identity;
use wal::{CoreId, FileKind, NodeId, SegmentNumber, file_kind};

use super::error::{InspectError, io_error};

const IDENTITY_FILE: &str = "NODE";
const LOCK_FILE: &str = "LOCK";

/// More than any identity file has.
const IDENTITY_BYTES_MAX: u64 = 4096;

/// A file named like a segment.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SegmentFile {
    pub(crate) core: CoreId,
    pub(crate) number: SegmentNumber,
    pub(crate) name: String,
}

/// Whether a process has the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lock {
    /// This process holds LOCK.
    Held(u32),
    /// No holder is visible: there is none, or it lives in another container.
    NotSeen,
}

impl Lock {
    pub(crate) fn is_held(self) -> bool {
        matches!(self, Lock::Held(_))
    }
}

/// A data directory.
#[derive(Clone, Debug)]
pub(crate) struct DataDirectory {
    pub(crate) path: PathBuf,
    /// By core and number.
    pub(crate) segments: Vec<SegmentFile>,
    /// Left over from preparations, or being prepared.
    pub(crate) temporary: Vec<String>,
    /// Checkpoints of the last stop. Their contents are the node's own business.
    pub(crate) checkpoints: usize,
    /// By the NODE file; `None` if it is missing or damaged.
    pub(crate) node: Option<NodeId>,
    pub(crate) lock: Lock,
}

impl DataDirectory {
    /// Lists it.
    pub(crate) fn open(path: &Path) -> Result<DataDirectory, InspectError> {
        let metadata = fs::metadata(path).map_err(io_error(path, "cannot be read"))?;
        if !metadata.is_dir() {
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            return Err(InspectError::Usage(format!(
                "{} is a file; give the data directory, such as {}",
                path.display(),
                parent.display()
            )));
        }
        let Listing { segments, temporary, checkpoints } = list(path)?;
        let identity = path.join(IDENTITY_FILE);
        let node = match fs::File::open(&identity) {
            Ok(file) => {
                let mut text = Vec::new();
                let read = file.take(IDENTITY_BYTES_MAX).read_to_end(&mut text);
                read.map_err(io_error(&identity, "cannot be read"))?;
                parse_identity(&text).map(|(node, _)| node)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if segments.is_empty() && temporary.is_empty() {
                    return Err(InspectError::Usage(format!(
                        "{} holds neither a NODE file nor segments; give the DATA_DIR of a node",
                        path.display()
                    )));
                }
                None
            }
            Err(error) => return Err(io_error(&identity, "cannot be read")(error)),
        };
        let lock = lock_of(&path.join(LOCK_FILE));
        Ok(DataDirectory { path: path.to_owned(), segments, temporary, checkpoints, node, lock })
    }

    /// Lists its segments again.
    pub(crate) fn list_again(&self) -> Result<Vec<SegmentFile>, InspectError> {
        list(&self.path).map(|listing| listing.segments)
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

/// What lies in a directory.
#[derive(Default)]
struct Listing {
    segments: Vec<SegmentFile>,
    temporary: Vec<String>,
    checkpoints: usize,
}

fn list(path: &Path) -> Result<Listing, InspectError> {
    let mut listing = Listing::default();
    for entry in fs::read_dir(path).map_err(io_error(path, "cannot be listed"))? {
        let entry = entry.map_err(io_error(path, "cannot be listed"))?;
        // A name that is not UTF-8 is none of this program's.
        let Ok(name) = entry.file_name().into_string() else { continue };
        match file_kind(&name) {
            FileKind::Segment { core, number } => listing.segments.push(SegmentFile { core, number, name }),
            FileKind::Temporary => listing.temporary.push(name),
            FileKind::Checkpoint { .. } => listing.checkpoints += 1,
            FileKind::Other => {}
        }
    }
    listing.segments.sort();
    listing.temporary.sort();
    Ok(listing)
}

/// Who holds the lock file, by the kernel's list: asking by taking it, even for a moment, could make a daemon fail to start.
fn lock_of(path: &Path) -> Lock {
    let Ok(metadata) = fs::metadata(path) else { return Lock::NotSeen };
    let Ok(locks) = fs::read_to_string("/proc/locks") else { return Lock::NotSeen };
    locks
        .lines()
        .filter_map(parse_lock)
        .find(|lock| lock.is_on(&metadata))
        .map_or(Lock::NotSeen, |lock| Lock::Held(lock.pid))
}

/// A line of `/proc/locks`.
#[derive(Debug, PartialEq, Eq)]
struct HeldLock {
    pid: u32,
    major: u32,
    minor: u32,
    inode: u64,
}

/// `1: FLOCK  ADVISORY  WRITE 1234 fe:00:5678 0 EOF`; a waiting one has `->` behind its number.
fn parse_lock(line: &str) -> Option<HeldLock> {
    let mut words = line.split_whitespace().skip(1);
    if (words.next()?, words.next()?, words.next()?) != ("FLOCK", "ADVISORY", "WRITE") {
        return None;
    }
    let pid = words.next()?.parse().ok()?;
    let mut place = words.next()?.split(':');
    let (major, minor) = (place.next()?, place.next()?);
    Some(HeldLock {
        pid,
        major: u32::from_str_radix(major, 16).ok()?,
        minor: u32::from_str_radix(minor, 16).ok()?,
        inode: place.next()?.parse().ok()?,
    })
}

impl HeldLock {
    fn is_on(&self, file: &Metadata) -> bool {
        if self.inode != file.ino() {
            return false;
        }
        let device = file.dev();
        if (self.major, self.minor) == (rustix::fs::major(device), rustix::fs::minor(device)) {
            return true;
        }
        // Some file systems list another device than stat gives: then the holder's open files tell.
        let Ok(open) = fs::read_dir(format!("/proc/{}/fd", self.pid)) else { return false };
        open.flatten()
            .filter_map(|entry| fs::metadata(entry.path()).ok())
            .any(|found| (found.dev(), found.ino()) == (file.dev(), file.ino()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_kernels_list_of_locks() {
        let lock = parse_lock("1: FLOCK  ADVISORY  WRITE 1234 fe:0a:5678 0 EOF");
        assert_eq!(lock, Some(HeldLock { pid: 1234, major: 0xfe, minor: 0x0a, inode: 5678 }));
        for other in
            ["1: POSIX  ADVISORY  WRITE 1234 fe:00:5678 0 EOF", "1: -> FLOCK  ADVISORY  WRITE 1 fe:00:5 0 EOF", "", "x"]
        {
            assert_eq!(parse_lock(other), None, "{other}");
        }
    }

    #[test]
    fn a_lock_that_this_process_holds_is_seen_and_none_is_not() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join(LOCK_FILE);
        assert_eq!(lock_of(&path), Lock::NotSeen);
        let file = fs::File::create(&path).expect("a file");
        assert_eq!(lock_of(&path), Lock::NotSeen);
        file.try_lock().expect("nobody else has it");
        assert_eq!(lock_of(&path), Lock::Held(std::process::id()));
    }
}
