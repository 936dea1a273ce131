//! What the kernel counts: the device, this process, this thread, the journal.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// Sectors of /sys/block/*/stat, whatever the device's own are.
const STAT_SECTOR_BYTES: u64 = 512;

/// Where the counters of one directory's device are.
#[derive(Clone, Debug)]
pub(crate) struct Sources {
    device_stat: Option<PathBuf>,
    journal_info: Option<PathBuf>,
}

/// Readings, or the difference of two. `None` where the system does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Counters {
    /// Written to the device, by anybody.
    pub(crate) device_bytes: Option<u64>,
    /// Caused to be written by this process, as accounted when pages are dirtied.
    pub(crate) process_bytes: Option<u64>,
    pub(crate) minor_faults: Option<u64>,
    pub(crate) major_faults: Option<u64>,
    pub(crate) journal_commits: Option<u64>,
    /// User and system time of the calling thread.
    pub(crate) thread_cpu_ns: u64,
    /// User and system time of the process, kernel workers included.
    pub(crate) process_cpu_ns: u64,
}

impl Sources {
    pub(crate) fn of(device: Option<&Path>) -> Sources {
        let name = device.and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
        Sources {
            device_stat: device.map(|device| device.join("stat")).filter(|path| path.exists()),
            journal_info: name.and_then(|name| journal_info(&name)),
        }
    }

    pub(crate) fn has_journal(&self) -> bool {
        self.journal_info.is_some()
    }

    /// Reads everything. The faults and the first CPU time are those of the calling thread.
    pub(crate) fn read(&self) -> Counters {
        let (minor_faults, major_faults) =
            fs::read_to_string("/proc/thread-self/stat").ok().and_then(|text| faults(&text)).unzip();
        let text = |path: &Option<PathBuf>| fs::read_to_string(path.as_ref()?).ok();
        Counters {
            device_bytes: text(&self.device_stat).and_then(|text| device_bytes(&text)),
            process_bytes: fs::read_to_string("/proc/self/io").ok().and_then(|text| process_bytes(&text)),
            minor_faults,
            major_faults,
            journal_commits: text(&self.journal_info).and_then(|text| first_number(&text)),
            thread_cpu_ns: cpu_ns(ClockId::ThreadCPUTime),
            process_cpu_ns: cpu_ns(ClockId::ProcessCPUTime),
        }
    }
}

impl Counters {
    /// What was counted since `earlier`.
    pub(crate) fn since(&self, earlier: &Counters) -> Counters {
        let difference = |now: Option<u64>, then: Option<u64>| Some(now?.saturating_sub(then?));
        Counters {
            device_bytes: difference(self.device_bytes, earlier.device_bytes),
            process_bytes: difference(self.process_bytes, earlier.process_bytes),
            minor_faults: difference(self.minor_faults, earlier.minor_faults),
            major_faults: difference(self.major_faults, earlier.major_faults),
            journal_commits: difference(self.journal_commits, earlier.journal_commits),
            thread_cpu_ns: self.thread_cpu_ns.saturating_sub(earlier.thread_cpu_ns),
            process_cpu_ns: self.process_cpu_ns.saturating_sub(earlier.process_cpu_ns),
        }
    }

    /// Adds another difference to this one; what one of them does not know, the sum does not.
    pub(crate) fn add(&mut self, other: &Counters) {
        let sum = |one: Option<u64>, two: Option<u64>| Some(one? + two?);
        *self = Counters {
            device_bytes: sum(self.device_bytes, other.device_bytes),
            process_bytes: sum(self.process_bytes, other.process_bytes),
            minor_faults: sum(self.minor_faults, other.minor_faults),
            major_faults: sum(self.major_faults, other.major_faults),
            journal_commits: sum(self.journal_commits, other.journal_commits),
            thread_cpu_ns: self.thread_cpu_ns + other.thread_cpu_ns,
            process_cpu_ns: self.process_cpu_ns + other.process_cpu_ns,
        };
    }

    /// The sum of no differences.
    pub(crate) fn zero() -> Counters {
        Counters {
            device_bytes: Some(0),
            process_bytes: Some(0),
            minor_faults: Some(0),
            major_faults: Some(0),
            journal_commits: Some(0),
            ..Counters::default()
        }
    }
}

/// The journal of a device (ext4, ocfs2), if it has one: `/proc/fs/jbd2/vda1-8/info`.
fn journal_info(device: &str) -> Option<PathBuf> {
    let entries = fs::read_dir("/proc/fs/jbd2").ok()?;
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let found = names.into_iter().find(|name| name.rsplit_once('-').is_some_and(|(of, _)| of == device))?;
    Some(Path::new("/proc/fs/jbd2").join(found).join("info"))
}

/// The seventh number: sectors written.
fn device_bytes(stat: &str) -> Option<u64> {
    stat.split_ascii_whitespace().nth(6)?.parse::<u64>().ok()?.checked_mul(STAT_SECTOR_BYTES)
}

fn process_bytes(io: &str) -> Option<u64> {
    io.lines().find_map(|line| line.strip_prefix("write_bytes: "))?.trim().parse().ok()
}

/// Minor and major faults. The command's name, in parentheses, may hold anything: count behind its last one.
fn faults(stat: &str) -> Option<(u64, u64)> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(7);
    let minor = fields.next()?.parse().ok()?;
    Some((minor, fields.nth(1)?.parse().ok()?))
}

/// `1234 transactions (…)`.
fn first_number(info: &str) -> Option<u64> {
    info.split_ascii_whitespace().next()?.parse().ok()
}

fn cpu_ns(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    let (seconds, nanos) = (u64::try_from(time.tv_sec).unwrap_or(0), u64::try_from(time.tv_nsec).unwrap_or(0));
    seconds.saturating_mul(1_000_000_000).saturating_add(nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_texts_are_read_and_others_refused() {
        let stat = " 1 2 3 4 50 6 1000 8 9 10 11 12 13 14 15 16 17\n";
        assert_eq!(device_bytes(stat), Some(512_000));
        assert_eq!(device_bytes("1 2"), None);
        assert_eq!(device_bytes(&format!("1 2 3 4 5 6 {}", u64::MAX)), None);
        assert_eq!(process_bytes("read_bytes: 1\nwrite_bytes: 4096\ncancelled_write_bytes: 0\n"), Some(4096));
        assert_eq!(process_bytes("write_bytes: many"), None);
        let thread = "12 (a ) name) R 1 2 3 4 5 6 777 8 99 10 11";
        assert_eq!(faults(thread), Some((777, 99)));
        assert_eq!(faults("12 (unfinished"), None);
        assert_eq!(first_number("42 transactions (41 requested), each up to 8192 blocks\n"), Some(42));
        assert_eq!(first_number(""), None);
    }

    #[test]
    fn a_thread_that_works_uses_time_and_a_sum_knows_only_what_all_parts_know() {
        let sources = Sources::of(None);
        let before = sources.read();
        let mut work = 0u64;
        while sources.read().thread_cpu_ns < before.thread_cpu_ns + 1_000_000 {
            work = work.wrapping_add(1);
        }
        let spent = sources.read().since(&before);
        assert!(work > 0 && spent.thread_cpu_ns >= 1_000_000 && spent.device_bytes.is_none(), "{spent:?}");
        let mut sum = Counters::zero();
        sum.add(&spent);
        assert_eq!((sum.thread_cpu_ns, sum.device_bytes), (spent.thread_cpu_ns, None));
    }
}
