//! File names of a data directory.

use crate::ids::{CoreId, SegmentNumber};

/// What a file in the data directory is, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A segment.
    Segment {
        /// Of which core's logs.
        core: CoreId,
        /// Its number.
        number: SegmentNumber,
    },
    /// A segment that was being prepared when the process ended: holds nothing, to be unlinked.
    Temporary,
    /// Something else; not touched.
    Other,
}

/// The name of a segment: `core-003-0000000042.wal`.
#[must_use]
pub fn segment_file_name(core: CoreId, number: SegmentNumber) -> String {
    format!("core-{:03}-{:010}.wal", core.0, number.0)
}

/// The name of a segment while it is being prepared: `prepare-core-003-0000000042.tmp`.
#[must_use]
pub fn temporary_file_name(core: CoreId, number: SegmentNumber) -> String {
    format!("prepare-core-{:03}-{:010}.tmp", core.0, number.0)
}

/// What the file named `name` is. Only names exactly as this program writes them count.
#[must_use]
pub fn file_kind(name: &str) -> FileKind {
    let written_as = |prefix: &str, suffix: &str, write: fn(CoreId, SegmentNumber) -> String| {
        let (core, number) = name.strip_prefix(prefix)?.strip_suffix(suffix)?.split_once('-')?;
        let (core, number) = (CoreId(core.parse().ok()?), SegmentNumber(number.parse().ok()?));
        (write(core, number) == name).then_some((core, number))
    };
    if written_as("prepare-core-", ".tmp", temporary_file_name).is_some() {
        return FileKind::Temporary;
    }
    match written_as("core-", ".wal", segment_file_name) {
        Some((core, number)) => FileKind::Segment { core, number },
        None => FileKind::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back_and_near_misses_are_other_files() {
        let (core, number) = (CoreId(3), SegmentNumber(42));
        assert_eq!(segment_file_name(core, number), "core-003-0000000042.wal");
        assert_eq!(file_kind("core-003-0000000042.wal"), FileKind::Segment { core, number });
        let large = SegmentNumber(123_456_789_012);
        assert_eq!(
            file_kind(&segment_file_name(CoreId(1234), large)),
            FileKind::Segment { core: CoreId(1234), number: large }
        );
        assert_eq!(file_kind(&temporary_file_name(core, number)), FileKind::Temporary);
        for name in ["core-3-42.wal", "core-003-+000000042.wal", "core-003-0000000042.wal.bak", "lock", ""] {
            assert_eq!(file_kind(name), FileKind::Other, "{name}");
        }
    }

    #[test]
    fn a_file_that_this_program_did_not_prepare_is_never_taken_for_a_leftover() {
        for name in ["prepare-notes.tmp", "prepare-.tmp", "prepare-core-3-42.tmp", "prepare-core-003-0000000042.wal"] {
            assert_eq!(file_kind(name), FileKind::Other, "{name}");
        }
    }
}
