//! What was measured on: enough that two results can be told to be comparable, or not.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{major, minor, statvfs};
use serde::{Deserialize, Serialize};

use super::counters::Sources;

/// The fingerprint, as in the JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Environment {
    pub(crate) kernel: String,
    pub(crate) cpu: String,
    pub(crate) cpus: usize,
    pub(crate) file_system: String,
    pub(crate) mount_options: String,
    /// Whether the kernel shows a journal for this device.
    pub(crate) journal: bool,
    pub(crate) device: Option<String>,
    /// `write back` (a flush costs) or `write through`.
    pub(crate) write_cache: Option<String>,
    pub(crate) scheduler: Option<String>,
    pub(crate) free_bytes: Option<u64>,
    /// Which reactor drove the log.
    pub(crate) io_backend: String,
    /// Whether io_uring passed its self-test; else why not.
    pub(crate) io_uring: String,
    /// Runnable threads per CPU over the last minute, before the run: above 0.5 or so the numbers are about neighbours.
    pub(crate) load_per_cpu: Option<f64>,
}

/// Where the device of `directory` is described; `None` for file systems without one.
pub(crate) fn device_of(directory: &Path) -> Option<PathBuf> {
    let device = fs::metadata(directory).ok()?.dev();
    let link = PathBuf::from(format!("/sys/dev/block/{}:{}", major(device), minor(device)));
    fs::canonicalize(link).ok()
}

impl Environment {
    pub(crate) fn of(directory: &Path, io_backend: &str, io_uring: String) -> Environment {
        let line = |path: &str| fs::read_to_string(path).map(|text| text.trim().to_owned()).ok();
        let device = device_of(directory);
        let queue = |file: &str| {
            let device = device.as_ref()?;
            // A partition has its queue one level up.
            let places = [device.join("queue").join(file), device.parent()?.join("queue").join(file)];
            places.iter().find_map(|path| fs::read_to_string(path).ok()).map(|text| text.trim().to_owned())
        };
        let (file_system, mount_options) = line("/proc/self/mounts")
            .and_then(|mounts| mount_of(&mounts, &fs::canonicalize(directory).ok()?))
            .unwrap_or_else(|| ("unknown".to_owned(), String::new()));
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        Environment {
            kernel: line("/proc/sys/kernel/osrelease").unwrap_or_else(|| "unknown".to_owned()),
            cpu: line("/proc/cpuinfo").and_then(|text| cpu_model(&text)).unwrap_or_else(|| "unknown".to_owned()),
            cpus,
            file_system,
            mount_options,
            journal: Sources::of(device.as_deref()).has_journal(),
            device: device.as_ref().and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned())),
            write_cache: queue("write_cache"),
            scheduler: queue("scheduler"),
            free_bytes: statvfs(directory).ok().map(|stat| stat.f_bavail.saturating_mul(stat.f_frsize)),
            io_backend: io_backend.to_owned(),
            io_uring,
            #[expect(clippy::cast_precision_loss, reason = "a count of CPUs")]
            load_per_cpu: line("/proc/loadavg")
                .and_then(|text| text.split(' ').next()?.parse::<f64>().ok())
                .map(|load| load / cpus as f64),
        }
    }
}

/// Type and options of the file system that holds `path`: the last mount of the longest mount point above it.
fn mount_of(mounts: &str, path: &Path) -> Option<(String, String)> {
    let entries = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let point = fields.next()?.replace("\\040", " ");
        let (kind, options) = (fields.next()?, fields.next()?);
        path.starts_with(&point).then(|| (point.len(), kind.to_owned(), options.to_owned()))
    });
    // `max_by_key` keeps the last of equals, which hides the ones below it.
    entries.max_by_key(|(depth, ..)| *depth).map(|(_, kind, options)| (kind, options))
}

fn cpu_model(cpuinfo: &str) -> Option<String> {
    let named = ["model name", "Model", "CPU part"];
    let line = named.iter().find_map(|name| cpuinfo.lines().find(|line| line.starts_with(name)))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deepest_and_latest_mount_counts() {
        let mounts = "/dev/vda / ext4 rw,relatime 0 0\ntmpfs /tmp tmpfs rw 0 0\n/dev/vdb /tmp/my\\040disk xfs rw,noatime 0 0\n\
                      /dev/vdc /tmp/my\\040disk ext4 rw,data=ordered 0 0\nbroken\n";
        let found = |path: &str| mount_of(mounts, Path::new(path)).expect("a mount");
        assert_eq!(found("/var/lib"), ("ext4".to_owned(), "rw,relatime".to_owned()));
        assert_eq!(found("/tmp/x").0, "tmpfs");
        assert_eq!(found("/tmpfile").0, "ext4");
        assert_eq!(found("/tmp/my disk/log"), ("ext4".to_owned(), "rw,data=ordered".to_owned()));
    }

    #[test]
    fn a_fingerprint_is_made_of_any_directory() {
        let directory = tempfile::tempdir().expect("a directory");
        let environment = Environment::of(directory.path(), "epoll", "not tried".to_owned());
        assert!(environment.cpus >= 1 && environment.kernel != "unknown", "{environment:?}");
        assert_ne!(environment.file_system, "unknown");
        assert!(environment.free_bytes.is_some());
        assert_eq!(cpu_model("processor : 0\nmodel name\t: Fast 9000\n").as_deref(), Some("Fast 9000"));
    }
}
