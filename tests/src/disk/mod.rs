//! Disks that fail: a file system over FUSE that loses power, returns errors and fills up when a test says so, and small
//! real ones.
//!
//! They need root, `/dev/fuse`, `mount` and `mkfs.ext4`. Where something is missing a test says so and passes, unless
//! `GODWIT_REQUIRE_DISKS=1`. A disk is unmounted when it is dropped; declare it before the daemon that uses it. Mounts of a
//! test process that was killed are swept by the next one.

use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fuser::{BackgroundSession, Config, INodeNo, MountOption};
use rustix::mount::{UnmountFlags, unmount};
use tempfile::TempDir;

use crate::process::{Choices, Daemon};

mod faults;
mod image;
mod serve;
mod small;

pub use faults::Seen;
pub use image::Survival;
pub use small::SmallDisk;

use serve::{Served, Shared, State};

/// First part of the names of all mount points; the process id follows.
const PREFIX: &str = "godwit-disk-";

/// Where a [`SmallDisk`] is mounted, below its mount point.
const SMALL: &str = "disk";

/// How long a dead daemon may keep its file system busy.
const BUSY_MAX: Duration = Duration::from_secs(10);

/// The disk, or what a test has to do without it: fail if `GODWIT_REQUIRE_DISKS=1`, else say loudly that nothing was tested.
///
/// # Panics
/// If there is no disk and `GODWIT_REQUIRE_DISKS=1`.
pub fn or_skip<T>(disk: io::Result<T>) -> Option<T> {
    disk.map_err(|error| {
        let text = format!("no disk to test with: {error}; it takes root, /dev/fuse, mount and mkfs.ext4");
        assert!(std::env::var_os("GODWIT_REQUIRE_DISKS").is_none_or(|value| value != "1"), "{text}");
        eprintln!("SKIPPED: {text}");
    })
    .ok()
}

/// A new directory that something can be mounted on.
fn mount_point() -> io::Result<TempDir> {
    if !rustix::process::geteuid().is_root() {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "only root may mount"));
    }
    sweep();
    tempfile::Builder::new().prefix(&format!("{PREFIX}{}-", std::process::id())).tempdir()
}

/// Takes away what test processes left that were killed. Several may do so at once: whoever comes second finds nothing.
fn sweep() {
    for entry in fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split('-').next()?.parse::<u32>().ok());
        if owner.is_none_or(|process| Path::new(&format!("/proc/{process}")).exists()) {
            continue;
        }
        let free =
            [entry.path(), entry.path().join(SMALL)].iter().all(|path| match unmount(path, UnmountFlags::DETACH) {
                Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => true,
                Err(_) => false,
            });
        if free {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Unmounts, waiting for the last user to let go; by force at the end.
fn unmount_when_idle(path: &Path) -> io::Result<()> {
    let deadline = Instant::now() + BUSY_MAX;
    loop {
        match unmount(path, UnmountFlags::empty()) {
            Ok(()) => return Ok(()),
            Err(rustix::io::Errno::BUSY) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(2)),
            Err(error) => {
                let _ = unmount(path, UnmountFlags::DETACH);
                return Err(error.into());
            }
        }
    }
}

/// A disk of its own kind: in memory, mounted through FUSE, and at the mercy of the test.
#[derive(Debug)]
pub struct FailingDisk {
    directory: TempDir,
    shared: Shared,
    session: Option<BackgroundSession>,
}

impl FailingDisk {
    /// An empty disk whose page cache behaves like a real disk's: it keeps what was written, whatever became of it.
    ///
    /// # Errors
    /// If this process may not mount, or there is no FUSE.
    pub fn mount() -> io::Result<FailingDisk> {
        let mut disk = FailingDisk { directory: mount_point()?, shared: Shared::new(), session: None };
        disk.attach()?;
        Ok(disk)
    }

    fn attach(&mut self) -> io::Result<()> {
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("godwit-disk".into()), MountOption::DefaultPermissions];
        self.session = Some(fuser::spawn_mount(Served(self.shared.clone()), self.directory.path(), &config)?);
        Ok(())
    }

    fn detach(&mut self) -> io::Result<()> {
        let Some(session) = self.session.take() else { return Ok(()) };
        unmount_when_idle(self.directory.path())?;
        session.join()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.shared.lock()
    }

    /// A directory on it for a daemon, which makes it.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// What happened on it so far.
    #[must_use]
    pub fn seen(&self) -> Seen {
        self.state().faults.seen
    }

    /// The next `count` syncs of files that were written through a mapping fail with EIO, and what they were to make durable
    /// is gone, as is what the page cache writes to those files until the disk [works again](Self::work_again): the syncs
    /// after them succeed, and the page cache shows bytes that the disk does not have.
    pub fn fail_syncs(&self, count: u32) {
        self.state().faults.syncs_to_fail = count;
    }

    /// The next `count` renames find no room in the directory.
    pub fn fail_renames(&self, count: u32) {
        self.state().faults.renames_to_fail = count;
    }

    /// The next `count` syncs of directories fail with EIO.
    pub fn fail_directory_syncs(&self, count: u32) {
        self.state().faults.directory_syncs_to_fail = count;
    }

    /// Writes fail with EIO, those from the page cache as well, until the disk [works again](Self::work_again).
    pub fn fail_writes(&self) {
        self.state().faults.writes_fail = true;
    }

    /// Syncs and writes do what they say.
    pub fn work_again(&self) {
        let faults = &mut self.state().faults;
        (faults.syncs_to_fail, faults.writes_fail) = (0, false);
        faults.lost.clear();
    }

    /// Whether a write by a system call takes only part of the bytes.
    pub fn short_writes(&self, short: bool) {
        self.state().faults.writes_are_short = short;
    }

    /// Whether there is room for new names and longer files.
    pub fn full(&self, full: bool) {
        self.state().faults.full = full;
    }

    /// Bytes of a file that cannot be read any more; those that the page cache has are forgotten.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn damage(&self, path: &Path, bytes: Range<u64>) {
        let inode = self.inode(path);
        self.state().faults.bad = Some((inode, bytes));
        let notifier = self.session.as_ref().expect("a mounted disk").notifier();
        // Without the lock: the kernel may have to read and write to forget.
        notifier.inval_inode(INodeNo(inode), 0, 0).expect("an inode that the kernel knows");
    }

    /// Everything can be read again.
    pub fn heal(&self) {
        self.state().faults.bad = None;
    }

    /// The bytes that the disk gives for a file, around the page cache.
    ///
    /// # Panics
    /// If there is no such file.
    #[must_use]
    pub fn bytes(&self, path: &Path) -> Vec<u8> {
        let inode = self.inode(path);
        self.state().image.read(inode, 0, usize::MAX).expect("a file").to_vec()
    }

    fn inode(&self, path: &Path) -> u64 {
        let inside = path.strip_prefix(self.directory.path()).expect("a path on this disk");
        self.state().image.find(inside).unwrap_or_else(|error| panic!("{}: {error:?}", path.display()))
    }

    /// The power goes while `daemon` works, and comes back: the page cache is gone, and of what was not synced a part.
    ///
    /// # Panics
    /// If the disk cannot be mounted again.
    pub fn power_cut(&mut self, daemon: &mut Daemon, survival: Survival, choices: &mut Choices) {
        daemon.kill9();
        // What the page cache still holds must not reach the disk on the way out.
        self.state().faults.frozen = true;
        self.detach().expect("nobody uses the disk");
        let mut state = self.state();
        state.image.power_cut(survival, choices);
        state.faults.frozen = false;
        drop(state);
        self.attach().expect("it was mounted before");
    }
}

impl Drop for FailingDisk {
    fn drop(&mut self) {
        if let Err(error) = self.detach() {
            eprintln!("{} was unmounted by force: {error}", self.directory.path().display());
        }
    }
}
