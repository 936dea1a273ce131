//! What a disk is told to do wrong.

use std::collections::BTreeSet;
use std::ops::Range;

/// The faults in force, and what came of them.
#[derive(Debug, Default)]
pub(super) struct Faults {
    /// Syncs that fail from now on, of files that were written through a mapping.
    pub(super) syncs_to_fail: u32,
    /// Renames that fail from now on, with ENOSPC.
    pub(super) renames_to_fail: u32,
    /// Syncs of directories that fail from now on.
    pub(super) directory_syncs_to_fail: u32,
    /// Files that were written through a mapping since their last sync.
    pub(super) mapped_writes: BTreeSet<u64>,
    /// Files of which a sync failed: what the page cache writes to them is accepted and gone.
    pub(super) lost: BTreeSet<u64>,
    /// Every write fails with EIO, those from the page cache as well.
    pub(super) writes_fail: bool,
    /// Writes by a system call take only part of the bytes.
    pub(super) writes_are_short: bool,
    /// Nothing may grow.
    pub(super) full: bool,
    /// Reads of these bytes of this inode fail with EIO.
    pub(super) bad: Option<(u64, Range<u64>)>,
    /// The power is off: nothing changes any more.
    pub(super) frozen: bool,
    /// What happened so far.
    pub(super) seen: Seen,
}

/// Counts since the disk was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Syncs of files that succeeded.
    pub syncs: u64,
    /// Requests that failed with EIO because a test asked for it.
    pub io_errors: u64,
    /// Requests that failed with ENOSPC.
    pub refused_for_space: u64,
    /// Writes that were cut short.
    pub short_writes: u64,
    /// Reads around the page cache.
    pub direct_reads: u64,
}
