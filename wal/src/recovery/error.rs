//! Why a node must not start from these files.

use thiserror::Error;

use crate::format::{FrameError, SegmentHeaderError};
use crate::ids::{NodeId, SegmentNumber};
use crate::lsn::Lsn;

/// Why recovery refuses. No file was changed, and none should be: they are needed for repair.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RecoveryError {
    /// A file named like a segment has no usable header.
    #[error("{file}: {error}")]
    Header {
        /// Which file.
        file: String,
        /// What is wrong with it.
        error: SegmentHeaderError,
    },
    /// A file holds another segment than its name says.
    #[error("{file} holds what belongs into {belongs}: files were renamed or overwritten; restore both names")]
    Misnamed {
        /// Which file.
        file: String,
        /// The name by its header.
        belongs: String,
    },
    /// A segment of another node.
    #[error("{file} belongs to node {found}, this is node {expected}; move it to the data directory it came from")]
    ForeignNode {
        /// Which file.
        file: String,
        /// By its header.
        found: NodeId,
        /// This node.
        expected: NodeId,
    },
    /// Two files for one place.
    #[error("{file} and {other} claim the same place in one log; remove the copy")]
    Duplicate {
        /// Which file.
        file: String,
        /// The other one.
        other: String,
    },
    /// A segment between others, or behind the last one, is missing although what it held was durable.
    #[error(
        "segment {number} is missing between {before} and {after}, and positions {from} to {to} were durable; restore the \
         file, or wipe this node and refill it from a member"
    )]
    MissingSegment {
        /// The file before the gap.
        before: String,
        /// The file behind the gap; "the end of the log" if there is none.
        after: String,
        /// The first missing number.
        number: SegmentNumber,
        /// Where the gap begins.
        from: Lsn,
        /// Durable at least up to here.
        to: Lsn,
    },
    /// Bytes that were durable are damaged.
    #[error(
        "{file}: positions {from} to {to} (file offset {offset}) were durable and are damaged: {reason}; this is no torn tail \
         and nothing was cut; repair the range from a member, or wipe this node and refill it"
    )]
    Corrupt {
        /// Which file.
        file: String,
        /// The first damaged position.
        from: Lsn,
        /// Durable at least up to here.
        to: Lsn,
        /// Offset of `from` in the file, in bytes.
        offset: u64,
        /// What stands there.
        reason: FrameError,
    },
    /// Bytes that are as they were written, which this program must not read.
    #[error("{file}: at position {at}: {error}")]
    Unreadable {
        /// Which file.
        file: String,
        /// Where.
        at: Lsn,
        /// What stands there.
        error: FrameError,
    },
    /// The segment's seal contradicts its frames.
    #[error(
        "{file}: its seal says {seal}, its frames say {frames}; one of them is damaged, refill this node from a member"
    )]
    SealContradicts {
        /// Which file.
        file: String,
        /// By the seal.
        seal: String,
        /// By the frames.
        frames: String,
    },
}
