//! Reads, writes and syncs of files in flight.

use std::ops::Range;

use io_uring::squeue::Entry;
use io_uring::{opcode, types};

use bytes::Bytes;

use crate::reactor::OsFile;
use crate::reactor::lease::HeapBuffer;

/// A read until `want` bytes or the end of the file.
pub(crate) struct ReadState {
    pub(crate) file: OsFile,
    pub(crate) offset: u64,
    pub(crate) want: usize,
    pub(crate) done: usize,
    pub(crate) buffer: HeapBuffer,
}

impl ReadState {
    /// The request for what is missing; points into the buffer's heap block, which does not move.
    pub(crate) fn entry(&mut self) -> Entry {
        let room = &mut self.buffer.room()[self.done..self.want];
        let len = u32::try_from(room.len()).unwrap_or(u32::MAX);
        opcode::Read::new(types::Fd(self.file.raw_fd()), room.as_mut_ptr(), len)
            .offset(self.offset + self.done as u64)
            .build()
    }
}

/// A write of all of `bytes`.
pub(crate) struct WriteState {
    pub(crate) file: OsFile,
    pub(crate) offset: u64,
    pub(crate) bytes: Bytes,
    pub(crate) done: usize,
    pub(crate) dsync: bool,
}

impl WriteState {
    /// The request for what is missing; points into `bytes`, which does not move.
    pub(crate) fn entry(&self) -> Entry {
        let rest = &self.bytes[self.done..];
        let len = u32::try_from(rest.len()).unwrap_or(u32::MAX);
        opcode::Write::new(types::Fd(self.file.raw_fd()), rest.as_ptr(), len)
            .offset(self.offset + self.done as u64)
            .rw_flags(if self.dsync { libc::RWF_DSYNC } else { 0 })
            .build()
    }
}

/// fdatasync of a range, or of the whole file (offset and length zero, see FACTS).
pub(crate) fn sync_entry(file: &OsFile, range: Option<&Range<u64>>) -> Entry {
    let sync = opcode::Fsync::new(types::Fd(file.raw_fd())).flags(types::FsyncFlags::DATASYNC);
    // The kernel takes `offset + len` for the last byte. A length of zero would mean something else.
    let last = range.map(|range| (range.start, range.end.saturating_sub(range.start).saturating_sub(1)));
    match last.and_then(|(start, len)| Some((start, u32::try_from(len).ok().filter(|len| *len > 0)?))) {
        Some((start, len)) => sync.offset(start).len(len).build(),
        None => sync.build(),
    }
}
