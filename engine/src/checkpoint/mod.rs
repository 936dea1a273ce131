//! Checkpoints: what a clean stop notes, so that the next start need not read the logs.
//!
//! Each core writes a file of its own once its log has ended: what walking the logs would find for it. The file is a header page
//! and blocks, each with a checksum of its own; the blocks carry a stream of pieces. docs/CHECKPOINT_FORMAT.md has every byte.
//!
//! A checkpoint is only ever a shortcut. One that does not fit the directory in every respect is ignored, and the logs are read.

mod facts;
mod format;
mod read;
mod write;

pub use facts::{CoreFacts, HeldRecord, OldRunFacts, OldRunLog, SegmentFacts};
pub use format::{BLOCK_BYTES_MAX, Damaged, FORMAT_VERSION, FileHeader, HEADER_BYTES, TableBits};
pub use read::{Blocks, Content, Loading};
pub use write::{Job, Writer};
