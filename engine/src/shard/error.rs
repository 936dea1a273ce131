//! Why a shard does not take a write.

use super::batch::BATCH_KEYS_MAX;

/// Why a write was not taken. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// The next segment is being prepared: try again after it was supplied.
    #[error("the next log segment is being prepared")]
    NoSegment,
    /// The clock ran too far ahead of physical time: try again a millisecond later.
    #[error("the clock is ahead of physical time")]
    Throttled,
    /// No segment can be prepared.
    #[error("the disk is full: writes are refused until space is freed, reads go on")]
    DiskFull,
    /// No segment can be prepared, and not for want of space.
    #[error("no log segment can be prepared (the node's log says why): writes are refused until one can, reads go on")]
    DiskFailing,
    /// Too large for a record.
    #[error("the value is larger than VALUE_BYTES_MAX")]
    TooLarge,
    /// More than one segment holds, or more keys than are written in one go.
    #[error("the transaction writes more than one log segment, or more than {BATCH_KEYS_MAX} keys of one core")]
    BatchTooLarge,
    /// A transaction holds this core: try again when it is over.
    #[error("a transaction holds the core")]
    Held,
    /// A record that has to be looked at is being read from the disk: try again when it is there.
    #[error("a record is being read from the disk")]
    NotInMemory,
    /// A record that has to be looked at cannot be read from the disk.
    #[error("a record of this key cannot be read from the disk (the node's log says why); check the disk")]
    Unreadable,
    /// The node was removed from the mesh.
    #[error("this node was removed from the mesh and takes no writes, reads go on; write to another node")]
    Removed,
    /// A sync failed; nothing is acknowledged any more.
    #[error("the log failed; this node no longer acknowledges writes")]
    LogFailed,
}

impl WriteError {
    /// Whether the write will succeed later by itself.
    #[must_use]
    pub fn is_transient(self) -> bool {
        matches!(self, WriteError::NoSegment | WriteError::Throttled | WriteError::Held | WriteError::NotInMemory)
    }

    /// Whether it will succeed once somebody helped the disk.
    #[must_use]
    pub fn is_disk(self) -> bool {
        matches!(self, WriteError::DiskFull | WriteError::DiskFailing | WriteError::Unreadable)
    }
}

/// Why no segment can be prepared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskTrouble {
    /// There is no space.
    Full,
    /// Anything else.
    Failing,
}
