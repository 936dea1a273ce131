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
    /// What a clean stop noted for the next start.
    Checkpoint {
        /// Of which core.
        core: CoreId,
    },
    /// A segment or a checkpoint that was being prepared when the process ended: holds nothing, to be unlinked.
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

/// The name of a core's checkpoint: `core-003.checkpoint`.
#[must_use]
pub fn checkpoint_file_name(core: CoreId) -> String {
    format!("core-{:03}.checkpoint", core.0)
}

/// The name of a checkpoint while it is being written: `prepare-core-003.checkpoint.tmp`.
#[must_use]
pub fn temporary_checkpoint_file_name(core: CoreId) -> String {
    format!("prepare-core-{:03}.checkpoint.tmp", core.0)
}

/// What the file named `name` is. Only names exactly as this program writes them count.
#[must_use]
pub fn file_kind(name: &str) -> FileKind {
    let written_as = |prefix: &str, suffix: &str, write: fn(CoreId, SegmentNumber) -> String| {
        let (core, number) = name.strip_prefix(prefix)?.strip_suffix(suffix)?.split_once('-')?;
        let (core, number) = (CoreId(core.parse().ok()?), SegmentNumber(number.parse().ok()?));
        (write(core, number) == name).then_some((core, number))
    };
    let checkpoint_as = |prefix: &str, suffix: &str, write: fn(CoreId) -> String| {
        let core = CoreId(name.strip_prefix(prefix)?.strip_suffix(suffix)?.parse().ok()?);
        (write(core) == name).then_some(core)
    };
    let temporary = written_as("prepare-core-", ".tmp", temporary_file_name).is_some()
        || checkpoint_as("prepare-core-", ".checkpoint.tmp", temporary_checkpoint_file_name).is_some();
    if temporary {
        return FileKind::Temporary;
    }
    if let Some(core) = checkpoint_as("core-", ".checkpoint", checkpoint_file_name) {
        return FileKind::Checkpoint { core };
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
        assert_eq!(checkpoint_file_name(core), "core-003.checkpoint");
        assert_eq!(file_kind("core-003.checkpoint"), FileKind::Checkpoint { core });
        assert_eq!(file_kind(&temporary_checkpoint_file_name(core)), FileKind::Temporary);
        for name in ["core-3.checkpoint", "core-003.checkpoint.bak", "prepare-core-3.checkpoint.tmp"] {
            assert_eq!(file_kind(name), FileKind::Other, "{name}");
        }
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
