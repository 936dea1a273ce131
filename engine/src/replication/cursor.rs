//! A cursor: where one follower stands in one core's part of a log, and what was taken from there and is still to be sent.

use std::collections::VecDeque;

use bytes::Bytes;
use wal::{Lsn, RecordError, RecordView, Version};

use super::BATCH_BYTES;
use super::logs::CoreLog;
use super::send::ReadRequest;

/// Whole records of one frame, at most a batch of them.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) bytes: Bytes,
    pub(super) records: u32,
    /// With a frame's last piece, the highest version in it: a core's versions rise, so everything ≤ it has been sent. The
    /// frame's clock would say too much: all frames of one group carry the same, and the rest of the group may be
    /// behind a batch, a read or a segment that is not durable yet.
    pub(super) reaches: Option<Version>,
    /// They are copies that compaction made.
    pub(super) copies: bool,
}

/// How far one core's part of a log was sent to one follower.
#[derive(Debug, Default)]
pub(super) struct Cursor {
    /// The next frame to take.
    pub(super) next: Lsn,
    /// Every originated version ≤ this was handed to the connection.
    pub(super) shipped: Version,
    pub(super) pieces: VecDeque<Piece>,
    /// Length of the next bulk read.
    pub(super) read_bytes: u32,
    /// Base of the segment whose last frame was read: what is left of the file is not the log.
    pub(super) finished: Option<Lsn>,
    /// The follower began behind what was removed, or skipped it: it is sent the copies, which only the files have, until none is left.
    pub(super) wants_copies: bool,
    /// `next` was reached over frames in memory, so that it need not be where a frame begins: it may be the end of a segment.
    pub(super) from_memory: bool,
}

impl Cursor {
    /// Whether copies that the follower has to be sent stand further up in the log.
    pub(super) fn owes_copies(&self, log: &CoreLog) -> bool {
        self.wants_copies && (self.next < log.copies.upto.min(log.durable) || !self.pieces.is_empty())
    }

    /// Whether the follower needs nothing more from here: it gets what is above `upto` elsewhere.
    pub(super) fn is_done(&self, log: &CoreLog, upto: Version) -> bool {
        self.shipped >= upto && !self.owes_copies(log)
    }

    /// About how many bytes of the log are left to be read for a follower that needs it `upto` a version.
    pub(super) fn left(&self, log: &CoreLog, upto: Version) -> u64 {
        let copies = if self.owes_copies(log) { log.copies.upto.min(log.durable) } else { Lsn(0) };
        let rest = if self.shipped >= upto { Lsn(0) } else { log.end_for(upto) };
        copies.max(rest).0.saturating_sub(self.next.max(log.begin()).0)
    }

    /// The read that goes on from here; `None` while there is something to send, or everything up to `upto` is sent or in memory.
    pub(super) fn wanted(&mut self, log: &CoreLog, upto: Version) -> Option<ReadRequest> {
        self.wants_copies = self.owes_copies(log);
        let in_hand = !self.wants_copies && log.recent_from(self.next).is_some();
        if !self.pieces.is_empty() || self.next >= log.durable || in_hand || self.is_done(log, upto) {
            return None;
        }
        if std::mem::take(&mut self.from_memory) {
            self.next = log.start_for(self.shipped);
        }
        loop {
            let (at, segment) = log.segment_at(self.next)?;
            self.next = self.next.max(segment.base.plus(wal::SEGMENT_HEADER_BYTES as u64));
            let next_base = log.segments.get(at + 1).map(|next| next.base);
            let end = segment.end.or(next_base).unwrap_or(log.durable).min(log.durable);
            if self.next < end && self.finished != Some(segment.base) {
                let left = end.0 - self.next.0;
                let len = u32::try_from(left.min(u64::from(self.read_bytes))).unwrap_or(u32::MAX);
                return Some(ReadRequest { segment, offset: self.next.0 - segment.base.0, len });
            }
            // Nothing more in this segment. The next one is announced before anything in it is durable.
            self.next = next_base.unwrap_or(log.durable);
            if self.next >= log.durable {
                return None;
            }
        }
    }
}

/// The highest version in an originated frame's payload: that of its last record.
pub(super) fn highest_version(payload: &[u8]) -> Result<Version, RecordError> {
    let (mut at, mut highest) = (0, Version::ZERO);
    while at < payload.len() {
        let (record, len) = RecordView::parse_trusted_prefix(&payload[at..])?;
        highest = highest.max(record.version);
        at += len;
    }
    Ok(highest)
}

/// Cuts a frame's payload into pieces of at most a batch, at record boundaries.
pub(super) fn split(
    payload: &Bytes,
    records: u32,
    reaches: Option<Version>,
    copies: bool,
    pieces: &mut VecDeque<Piece>,
) {
    if payload.len() <= BATCH_BYTES {
        pieces.push_back(Piece { bytes: payload.clone(), records, reaches, copies });
        return;
    }
    let (mut start, mut at, mut count) = (0, 0, 0);
    while at < payload.len() {
        let len = wal::padded_record_len(&payload[at..]).unwrap_or(payload.len() - at).min(payload.len() - at);
        if at > start && at + len - start > BATCH_BYTES {
            pieces.push_back(Piece { bytes: payload.slice(start..at), records: count, reaches: None, copies });
            (start, count) = (at, 0);
        }
        at += len.max(1);
        count += 1;
    }
    pieces.push_back(Piece { bytes: payload.slice(start..), records: count, reaches, copies });
}
