//! Recovery of what a killed process left, as a node does it at its start, and the comparison with what was written.

use std::path::Path;

use net::reactor::disk::{Disk, OsDisk};
use wal::recovery::{RecoveredSegment, judge, scan_segment};
use wal::{FileKind, Lsn, SEGMENT_HEADER_BYTES, frames};

use super::child::value;
use crate::walbench::driver::IDENTITY;

/// What was recovered.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) records: u64,
    pub(super) segments: usize,
    pub(super) row: &'static str,
}

/// Recovers the log in `directory` and checks that it is records 0, 1, 2, … exactly as written. The error says what is not.
pub(super) fn verify(directory: &Path) -> Result<Found, String> {
    let failed = |what: &'static str| move |error| format!("{what}: {error}");
    let names = OsDisk.list(directory).map_err(failed("the directory cannot be listed"))?;
    let names: Vec<String> = names
        .into_iter()
        .filter(|name| matches!(wal::file_kind(name), FileKind::Segment { .. } | FileKind::Temporary))
        .collect();
    let opened: Result<Vec<_>, _> = names.iter().map(|name| OsDisk.open(&directory.join(name))).collect();
    let files = opened.map_err(failed("a segment cannot be opened"))?;
    let mut scans = Vec::new();
    let scan = |index: usize, bytes: &[u8]| scan_segment(&names[index], bytes);
    OsDisk.each_durable(&files, &scan, &mut |_, scan| scans.push(scan));
    let scans: Result<Vec<_>, _> = scans.into_iter().collect();
    let scans = scans.map_err(|error| format!("a segment {error}"))?;
    let recovery = judge(IDENTITY.node, scans).map_err(|error| format!("recovery refuses: {error}"))?;
    let log = match &recovery.logs[..] {
        [] => return Ok(Found { records: 0, segments: 0, row: "nothing" }),
        [log] => log,
        logs => return Err(format!("{} logs were recovered where one was written", logs.len())),
    };
    let mut next = 0;
    for segment in &log.segments {
        check(directory, segment, &mut next)?;
    }
    Ok(Found { records: next, segments: log.segments.len(), row: log.row.label() })
}

fn check(directory: &Path, segment: &RecoveredSegment, next: &mut u64) -> Result<(), String> {
    let name = &segment.file_name;
    let file = OsDisk.open(&directory.join(name)).map_err(|error| format!("{name} cannot be opened: {error}"))?;
    let len = usize::try_from(segment.end.0 - segment.base.0).map_err(|error| format!("{name}: {error}"))?;
    let bytes = OsDisk.read_durable(&file, 0, len).map_err(|error| format!("{name} cannot be read: {error}"))?;
    let body = bytes.get(SEGMENT_HEADER_BYTES..).unwrap_or(&[]);
    let first = Lsn(segment.base.0 + SEGMENT_HEADER_BYTES as u64);
    for frame in frames(body, first, segment.cookie) {
        let frame = frame.map_err(|error| format!("{name}: a recovered frame does not parse: {error}"))?;
        for record in frame.records() {
            let record = record.map_err(|error| format!("{name}: a recovered record does not parse: {error}"))?;
            if record.key != next.to_le_bytes() || record.value != value(*next) {
                return Err(format!("{name}: record {next} is missing, or is not what was written"));
            }
            *next += 1;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use net::reactor::Backend;
    use net::reactor::epoll::EpollIo;

    use super::*;
    use crate::walbench::disk_directory;
    use crate::walbench::driver::{Driver, LogSettings};
    use crate::walbench::options::CommitPath;
    use crate::walbench::prepare::Preparation;

    /// A log of records with these numbers and the values that belong to them.
    fn write(directory: &Path, commit: CommitPath, numbers: &[u64]) {
        let settings = LogSettings {
            directory: directory.to_owned(),
            backend: Backend::Epoll,
            commit,
            preparation: Preparation::Recycled,
            segment_bytes: 1 << 20,
            index: false,
            keep: true,
        };
        let mut driver = Driver::<EpollIo>::start(&settings).expect("a log");
        for number in numbers {
            let bytes = value(*number);
            while driver.append(driver.now(), &number.to_le_bytes(), &bytes).expect("appended").is_none() {
                driver.settle().expect("a spare");
            }
        }
        driver.stop().expect("stopped");
    }

    #[test]
    fn a_whole_log_is_found_over_its_rotations_on_both_paths() {
        for commit in [CommitPath::Mmap, CommitPath::Direct] {
            let directory = disk_directory();
            write(directory.path(), commit, &(0..5000).collect::<Vec<_>>());
            let found = verify(directory.path()).expect("as written");
            assert_eq!((found.records, found.segments), (5000, 4), "{commit:?}");
        }
    }

    #[test]
    fn a_missing_a_repeated_and_a_foreign_record_are_noticed() {
        for numbers in [&[0, 1, 3][..], &[0, 1, 1], &[1, 2]] {
            let directory = disk_directory();
            write(directory.path(), CommitPath::Mmap, numbers);
            let error = verify(directory.path()).expect_err("not as written");
            assert!(error.contains("is missing, or is not what was written"), "{error}");
        }
    }

    #[test]
    fn damage_is_noticed() {
        let directory = disk_directory();
        write(directory.path(), CommitPath::Mmap, &(0..2000).collect::<Vec<_>>());
        // In the middle of the first segment, which is followed by durable ones.
        let path = directory.path().join(wal::segment_file_name(IDENTITY.core, wal::SegmentNumber(1)));
        let mut bytes = std::fs::read(&path).expect("a segment");
        bytes[500_000] ^= 1;
        std::fs::write(&path, bytes).expect("damaged");
        assert!(verify(directory.path()).expect_err("damaged").contains("recovery refuses"));
    }
}
