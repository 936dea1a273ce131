//! The log: segments, frames and records on disk, appending, reading and recovering them.
//!
//! This crate performs no I/O: [`Log`] says what to sync and which seal to write, recovery judges bytes that somebody else
//! read. docs/WAL_FORMAT.md describes every byte.

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

mod appender;
mod checksum;
pub mod directory;
mod format;
mod ids;
pub mod limits;
mod lsn;
mod map;
pub mod marks;
mod named;
pub mod planted;
mod reader;
pub mod recovery;
pub mod retention;
mod version;

pub use appender::{
    AppendError, Commit, CommitPath, FrameRef, Log, LogIdentity, NextSegment, Placement, Sealed, Segment, SyncRequest,
};
pub use checksum::crc32c;
pub use directory::{
    FileKind, checkpoint_file_name, file_kind, segment_file_name, temporary_checkpoint_file_name, temporary_file_name,
};
pub use format::*;
pub use ids::{Cookie, CoreId, Incarnation, NodeId, SegmentLink, SegmentNumber};
pub use limits::{SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN};
pub use lsn::Lsn;
pub use map::{MappedFile, Mapping, MemoryMap, Populate};
pub use reader::{FrameView, Frames, Records, frames};
pub use version::{EPOCH_2020_UNIX_MS, Version};
