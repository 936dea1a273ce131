//! Small real file systems: ext4 and btrfs in a file through a loop device, and memory.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use super::{SMALL, mount_point, unmount_when_idle};
use crate::process::finished;

/// How long mount and mkfs may take.
const TOOL_TIME_MAX: Duration = Duration::from_secs(20);

/// Kept so that the rest of the disk fills up sooner, and given back to free space.
const BALLAST: &str = "ballast";

/// A mounted file system of a few mebibytes.
#[derive(Debug)]
pub struct SmallDisk {
    directory: TempDir,
    mounted: PathBuf,
}

impl SmallDisk {
    /// ext4 with a journal, as `mkfs.ext4` makes it.
    ///
    /// # Errors
    /// If one of the tools fails or is not there.
    pub fn ext4(bytes: u64) -> io::Result<SmallDisk> {
        SmallDisk::in_file(bytes, "ext4", &["-q", "-F"])
    }

    /// btrfs, which writes no byte where it was. Takes 128 MiB at least.
    ///
    /// # Errors
    /// If one of the tools fails or is not there.
    pub fn btrfs(bytes: u64) -> io::Result<SmallDisk> {
        SmallDisk::in_file(bytes, "btrfs", &["-q", "-f", "--mixed"])
    }

    /// A file system in a sparse file. The loop device goes with the mount.
    fn in_file(bytes: u64, kind: &str, options: &[&str]) -> io::Result<SmallDisk> {
        let disk = SmallDisk::unmounted()?;
        let file = disk.directory.path().join("image");
        File::create(&file)?.set_len(bytes)?;
        run(Command::new(tool(&format!("mkfs.{kind}"))?).args(options).arg(&file))?;
        run(Command::new(tool("mount")?).args(["-t", kind, "-o", "loop"]).arg(&file).arg(&disk.mounted))?;
        Ok(disk)
    }

    /// Memory.
    ///
    /// # Errors
    /// If it cannot be mounted.
    pub fn tmpfs(bytes: u64) -> io::Result<SmallDisk> {
        let disk = SmallDisk::unmounted()?;
        let size = format!("size={bytes}");
        run(Command::new(tool("mount")?).args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&disk.mounted))?;
        Ok(disk)
    }

    fn unmounted() -> io::Result<SmallDisk> {
        let directory = mount_point()?;
        let mounted = directory.path().join(SMALL);
        fs::create_dir(&mounted)?;
        Ok(SmallDisk { directory, mounted })
    }

    /// A directory on it for a daemon, which makes it.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.mounted.join("data")
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(&self.mounted)?;
        Ok(stat.f_bavail * stat.f_frsize)
    }

    /// Takes all space but `spare` bytes away.
    ///
    /// # Errors
    /// Those of writing a file.
    pub fn fill(&self, spare: u64) -> io::Result<()> {
        let wanted = self.free_bytes()?.saturating_sub(spare);
        let file = File::create(self.mounted.join(BALLAST))?;
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, wanted)?;
        file.sync_all()
    }

    /// Gives it back.
    ///
    /// # Errors
    /// Those of removing the file.
    pub fn free(&self) -> io::Result<()> {
        fs::remove_file(self.mounted.join(BALLAST))
    }

    /// The device below it, such as `loop0`.
    ///
    /// # Errors
    /// If the kernel does not list it.
    pub fn device(&self) -> io::Result<String> {
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        let line = mounts.lines().find(|line| line.split(' ').nth(1).is_some_and(|at| Path::new(at) == self.mounted));
        let device = line.and_then(|line| line.split(' ').next()?.strip_prefix("/dev/"));
        device.map(str::to_owned).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Transactions that the journal has committed since it was mounted.
    ///
    /// # Errors
    /// If it has no journal.
    pub fn journal_commits(&self) -> io::Result<u64> {
        let info = fs::read_to_string(format!("/proc/fs/jbd2/{}-8/info", self.device()?))?;
        let count = info.split(' ').next().and_then(|count| count.parse().ok());
        count.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, info))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if let Err(error) = unmount_when_idle(&self.mounted)
            && error.kind() != io::ErrorKind::InvalidInput
        {
            eprintln!("{} was unmounted by force: {error}", self.mounted.display());
        }
    }
}

/// A program for administrators, which need not be in everybody's `PATH`.
fn tool(name: &str) -> io::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    let found = directories.map(|directory: PathBuf| directory.join(name)).find(|program| program.is_file());
    found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("{name} is not installed")))
}

fn run(command: &mut Command) -> io::Result<()> {
    let exit = finished(command, TOOL_TIME_MAX);
    if exit.status.success() { Ok(()) } else { Err(io::Error::other(format!("{command:?}: {}", exit.stderr.trim()))) }
}
