//! Group commit: sealing frames, one sync at a time, and the seals of finished segments.

use std::ops::Range;

use bytes::Bytes;

use super::{ClosedFrame, Commit, CommitPath, FrameRef, LiveSegment, Log, Sealed, SyncRequest, narrow};
use crate::checksum::crc32c;
use crate::format::{FRAME_HEADER_BYTES, FrameFlags, FrameHeader, SealBlock, frame_bytes, round_up};
use crate::ids::{SegmentLink, SegmentNumber};
use crate::limits::DIRECT_ALIGN_BYTES;
use crate::lsn::Lsn;
use crate::map::Mapping;
use crate::version::Version;

impl<M: Mapping> LiveSegment<M> {
    /// File offsets of what is sealed and not durable.
    fn undurable(&self) -> Range<u64> {
        let offset_of = |position: Lsn| position.offset_from(self.segment.base).expect("a position of this segment");
        offset_of(self.synced)..offset_of(self.written)
    }

    /// A copy of what is sealed and not durable, widened to what direct I/O can write. What lies behind the sealed end in the last
    /// block may be part of the next group: without a header it is nothing yet, as with a mapping that is synced.
    fn write(&self, request: SyncRequest, segment_bytes: usize) -> Commit {
        let Range { start, end } = self.undurable();
        let inside = |offset: u64| usize::try_from(offset).expect("an offset inside a segment");
        let start = inside(start) / DIRECT_ALIGN_BYTES * DIRECT_ALIGN_BYTES;
        let end = round_up(inside(end), DIRECT_ALIGN_BYTES).min(segment_bytes);
        let bytes = self.segment.map.with(start..end, aligned_copy);
        Commit::Write { request, offset: start as u64, bytes }
    }
}

/// A copy that begins at a multiple of [`DIRECT_ALIGN_BYTES`] in memory.
fn aligned_copy(bytes: &[u8]) -> Bytes {
    let mut room: Vec<u8> = Vec::with_capacity(bytes.len() + DIRECT_ALIGN_BYTES);
    let start = room.as_ptr().align_offset(DIRECT_ALIGN_BYTES);
    // Within its capacity a vector does not move, and as `Bytes` it keeps its allocation.
    room.resize(start, 0);
    room.extend_from_slice(bytes);
    Bytes::from(room).slice(start..)
}

impl<M: Mapping> Log<M> {
    /// Seals the group: gives its frames their headers, so that they can be recovered, and moves *written* to *staged*. `hlc` is
    /// the core's clock. `None` if nothing was appended since the last group.
    pub fn seal_group(&mut self, hlc: Version) -> Option<Sealed> {
        if self.dead {
            return None;
        }
        self.close_frame(FrameFlags::NONE);
        if self.closed.is_empty() {
            return None;
        }
        self.idle_sealed = false;
        Some(self.seal_closed(hlc))
    }

    /// Seals a quiet log: an empty frame declares everything before it durable, so that later damage there is not taken for a
    /// torn tail. Returns whether such a frame was written; it needs a sync like any other.
    ///
    /// Does nothing while something is not durable, when the log is empty, or when it is sealed so already.
    pub fn seal_idle(&mut self, hlc: Version) -> bool {
        let nothing_to_declare = self.previous_header_crc == 0 || self.idle_sealed;
        if self.dead || nothing_to_declare || self.durable != self.staged() {
            return false;
        }
        // The last 64 bytes are kept for a frame that ends the segment: when only they are left, this is that frame.
        if self.tail + 2 * FRAME_HEADER_BYTES <= self.segment_bytes {
            self.close_empty_frame(FrameFlags::NONE);
        } else {
            self.close_empty_frame(FrameFlags::END_OF_SEGMENT);
            self.current.end = Some(self.staged());
        }
        self.seal_closed(hlc);
        self.idle_sealed = true;
        true
    }

    fn seal_closed(&mut self, hlc: Version) -> Sealed {
        let from = self.written;
        let mut closed = std::mem::take(&mut self.closed);
        for frame in closed.drain(..) {
            self.seal_frame(&frame, hlc);
        }
        self.closed = closed;
        assert!(self.written == self.staged() && from < self.written, "a sealed group reaches the staged end");
        self.assert_order();
        Sealed { from, upto: self.written }
    }

    fn seal_frame(&mut self, frame: &ClosedFrame, hlc: Version) {
        let live =
            self.retiring.iter_mut().find(|live| live.segment.number == frame.segment).unwrap_or(&mut self.current);
        assert_eq!(live.segment.number, frame.segment, "a frame's segment is kept until it is synced");
        let map = &live.segment.map;
        let payload_start = frame.offset + FRAME_HEADER_BYTES;
        let payload_end = payload_start + frame.payload_len;
        let total = frame_bytes(frame.payload_len);
        let frame_end = frame.offset + total;
        let mut header = FrameHeader {
            header_crc: 0,
            lsn: live.segment.base.plus(frame.offset as u64),
            cookie: live.segment.cookie,
            durable: self.durable,
            hlc,
            payload_len: narrow(frame.payload_len),
            payload_crc: map.with(payload_start..payload_end, crc32c),
            records: frame.records,
            kind: frame.kind,
            flags: frame.flags,
            previous_header_crc: self.previous_header_crc,
        };
        // A recycled file may hold old bytes where the padding goes.
        map.store_with(payload_end, frame_end - payload_end, |padding| padding.fill(0));
        map.store(frame.offset, &header.encode());

        self.previous_header_crc = header.header_crc;
        live.last_header_crc = header.header_crc;
        live.written = header.end();
        self.written = header.end();
        self.frames.push(FrameRef {
            kind: frame.kind,
            segment: frame.segment,
            offset: narrow(frame.offset),
            payload_len: header.payload_len,
            total_len: narrow(total),
            lsn: header.lsn,
            end: header.end(),
            hlc,
            records: frame.records,
            max_version: frame.max_version,
        });
    }

    /// What to do for the next group; `None` while something is in flight or when everything sealed is durable. Segments are
    /// committed in order, so that durable is always a prefix.
    pub fn next_commit(&mut self) -> Option<Commit> {
        if self.dead || self.in_flight.is_some() {
            return None;
        }
        let live = self.retiring.iter().chain([&self.current]).find(|live| live.written > live.synced)?;
        let request = SyncRequest { segment: live.segment.number, upto: live.written };
        let commit = match self.path {
            CommitPath::Mmap => Commit::Sync { request, range: live.undurable() },
            CommitPath::Direct => live.write(request, self.segment_bytes),
        };
        self.in_flight = Some(request);
        Some(commit)
    }

    /// The sync or write in flight succeeded: everything up to its end is durable.
    ///
    /// # Panics
    /// If nothing is in flight.
    pub fn sync_done(&mut self) {
        let request = self.in_flight.take().expect("a sync was requested before it is done");
        let live =
            self.retiring.iter_mut().find(|live| live.segment.number == request.segment).unwrap_or(&mut self.current);
        assert_eq!(live.segment.number, request.segment, "a segment is kept until it is synced");
        live.synced = request.upto;
        assert!(request.upto > self.durable, "durable only moves forward");
        self.durable = request.upto;
        self.assert_order();
        self.retire_synced();
    }

    /// The sync or write in flight failed. The log is dead from now on: the kernel may have dropped the dirty pages, so that a second sync
    /// would succeed without the bytes being on disk.
    pub fn sync_failed(&mut self) {
        self.in_flight = None;
        self.dead = true;
    }

    /// The frames sealed since the last call, in order, empty ones included. They are not durable before [`Log::durable`] has
    /// reached their end.
    pub fn take_sealed_frames(&mut self) -> Vec<FrameRef> {
        std::mem::take(&mut self.frames)
    }

    /// Seal blocks of segments that are complete and durable, to be written at [`SEAL_OFFSET`](crate::SEAL_OFFSET) and synced.
    /// Nothing depends on it at once: recovery makes up for a lost one.
    pub fn take_seals(&mut self) -> Vec<(SegmentNumber, Bytes)> {
        std::mem::take(&mut self.seals)
    }

    /// Ends the log: nothing is appended any more, and the last segment is sealed like those before it. Only of a log that is durable
    /// throughout; whether it is.
    pub fn close(&mut self) -> bool {
        if self.dead || self.in_flight.is_some() || self.durable != self.staged() || !self.retiring.is_empty() {
            return false;
        }
        self.dead = true;
        if self.current.last_header_crc != 0 && self.current.written == self.current.synced {
            let seal = self.seal_of(&self.current);
            self.seals.push((self.current.segment.number, seal.encode()));
        }
        true
    }

    /// Lets go of ended segments that are synced throughout.
    pub(super) fn retire_synced(&mut self) {
        while let Some(live) = self.retiring.front()
            && live.end == Some(live.synced)
        {
            let seal = self.seal_of(live);
            self.seals.push((live.segment.number, seal.encode()));
            self.retiring.pop_front();
        }
    }

    fn seal_of(&self, live: &LiveSegment<M>) -> SealBlock {
        assert!(live.written == live.synced && live.synced <= self.durable, "only durable segments are sealed");
        SealBlock {
            segment: SegmentLink { number: live.segment.number, cookie: live.segment.cookie },
            end: live.synced,
            durable: self.durable,
            records: live.tally.records(),
            last_header_crc: live.last_header_crc,
            origins: live.tally.origins(),
        }
    }

    fn assert_order(&self) {
        assert!(self.durable <= self.written && self.written <= self.staged(), "durable ≤ written ≤ staged");
    }
}
