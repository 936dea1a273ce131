//! How much memory a node may take: what is written, or half of what the machine or the control group gives.

use std::path::Path;

use super::Surroundings;

/// What a process takes besides what its cores count: code, stacks, receive buffers, the allocator's slack. Measured, see
/// docs/MEASUREMENTS.md.
const PROCESS_BYTES: u64 = 16 << 20;
const CORE_BYTES: u64 = 8 << 20;

/// The least index, buffers and fetched records with which a core is of use.
const CORE_BYTES_MIN: u64 = 8 << 20;

/// What each core may count against a limit of `limit` bytes.
pub(super) fn of_each_core(limit: u64, cores: u16) -> u64 {
    (limit.saturating_sub(PROCESS_BYTES) / u64::from(cores)).saturating_sub(CORE_BYTES)
}

/// The smallest limit that leaves each core the segment it appends to and a little more.
pub(super) fn least(cores: u16, segment_bytes: u32) -> u64 {
    PROCESS_BYTES + u64::from(cores) * (CORE_BYTES + CORE_BYTES_MIN + 2 * u64::from(segment_bytes))
}

/// Half of the memory that this process can have, and where that was read; `None` where the system does not say.
pub(super) fn half_of_machine(around: &Surroundings<'_>) -> Option<(u64, &'static str)> {
    let machine = total(&read(around, "/proc/meminfo")?)?;
    let groups = read(around, "/proc/self/cgroup").unwrap_or_default();
    // The unified hierarchy has one line, `0::/path`; every group above may have a bound, too.
    let path = groups.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/").to_owned();
    let group = Path::new(&path).ancestors().filter_map(|group| {
        let file = format!("/sys/fs/cgroup{}/memory.max", group.display());
        read(around, &file)?.trim().parse::<u64>().ok()
    });
    match group.min() {
        Some(group) if group < machine => Some((group / 2, "half of the control group's memory.max")),
        _ => Some((machine / 2, "half of the machine's memory")),
    }
}

fn read(around: &Surroundings<'_>, path: &str) -> Option<String> {
    String::from_utf8((around.read_file)(Path::new(path)).ok()?).ok()
}

/// The bytes of `MemTotal`.
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}
