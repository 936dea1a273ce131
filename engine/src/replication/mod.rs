//! Replication as state machines: a log followed from a position that is a claim (DESIGN §1).
//!
//! Files are verbs of the dataflow: [`logs`] keeps what this node can send, [`send`] streams it to one follower,
//! [`receive`] takes a stream in and turns claims into [`watermarks`]. [`members`] says who takes part,
//! and [`cut`] up to where all of them hold everything.
//!
//! A node streams its own logs, current and retired, and only it does. What it holds of other nodes' logs, which it [knows](known),
//! it hands on in a [`pass`] to a follower that cannot reach them. What two nodes have is summed up by a [`survey`]
//! and [compared](compare); [`entropy`] does that without being asked, and `repair` takes in what was lacking.
//! Who lacks what others may have forgotten takes over everything in a [`bootstrap`].

mod backlog;
pub mod bootstrap;
pub mod brevity;
pub mod catch_up;
pub mod compare;
pub mod coverage;
mod cursor;
pub mod cut;
pub mod entropy;
pub mod holders;
pub mod known;
pub mod lag;
pub mod logs;
pub mod members;
pub mod pace;
pub mod pass;
pub mod receive;
mod repair;
pub mod residency;
pub mod send;
pub mod survey;
pub mod visibility;
pub mod watermarks;

use net::ids::{Incarnation, LogId, NodeId, Version};

/// Payload bytes of one message, unless a single record is larger.
pub const BATCH_BYTES: usize = 256 * 1024;

/// How many payload bytes a source may be ahead of what the follower appended. At 165 ms this carries 100 MB/s.
pub const WINDOW_BYTES: u64 = 16 * 1024 * 1024;

/// The wire's name for a log of the log crate.
#[must_use]
pub fn log_id(node: wal::NodeId, incarnation: wal::Incarnation) -> LogId {
    LogId { node: NodeId(node.0), incarnation: Incarnation(incarnation.0) }
}

/// The wire's version for one of the log crate.
#[must_use]
pub fn to_wire(version: wal::Version) -> Version {
    Version(version.0)
}

/// The log crate's version for one of the wire.
#[must_use]
pub fn from_wire(version: Version) -> wal::Version {
    wal::Version(version.0)
}
