//! Frames: what one group commit leaves in the log, one per run of records of one kind.

use std::mem::offset_of;

use thiserror::Error;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Field, RecordError, fields, round_up};
use crate::checksum::crc32c;
use crate::ids::Cookie;
use crate::limits::FRAME_ALIGN_BYTES;
use crate::lsn::Lsn;
use crate::version::Version;

/// Bytes before a frame's payload.
pub const FRAME_HEADER_BYTES: usize = size_of::<RawFrameHeader>();

/// The first four bytes of a frame: "GWFR".
pub const FRAME_MAGIC: u32 = u32::from_le_bytes(*b"GWFR");

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawFrameHeader {
    magic: U32,
    header_crc: U32,
    lsn: U64,
    cookie: U64,
    durable_lsn: U64,
    hlc: U64,
    payload_len: U32,
    payload_crc: U32,
    record_count: U32,
    kind: u8,
    flags: u8,
    reserved: U16,
    previous_header_crc: U32,
    reserved_tail: U32,
}
const _: () = assert!(size_of::<RawFrameHeader>() == 64);

/// What `header_crc` covers: from here to the end of the header.
const CRC_START: usize = offset_of!(RawFrameHeader, lsn);

/// The header's fields.
pub const FRAME_FIELDS: &[Field] = fields!(RawFrameHeader:
    magic, header_crc, lsn, cookie, durable_lsn, hlc, payload_len, payload_crc, record_count, kind, flags, reserved,
    previous_header_crc, reserved_tail);

/// Whose records a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum FrameKind {
    /// Written by this node's clients; streamed to members as this node's log.
    Originated = 1,
    /// Received from other nodes, verbatim.
    Followed = 2,
    /// Control records that never leave this node, and empty frames.
    Local = 3,
    /// Moved here by compaction, verbatim: records of this node's logs, and records of others that superseded one. Not part of
    /// the live stream; for members that begin behind what was removed.
    Compacted = 4,
    /// Received from other nodes, and moved here by compaction, verbatim.
    CompactedFollowed = 5,
}

impl FrameKind {
    /// Whether it holds copies that compaction made.
    #[must_use]
    pub fn is_compacted(self) -> bool {
        matches!(self, FrameKind::Compacted | FrameKind::CompactedFollowed)
    }

    fn parse(byte: u8) -> Option<FrameKind> {
        match byte {
            1 => Some(FrameKind::Originated),
            2 => Some(FrameKind::Followed),
            3 => Some(FrameKind::Local),
            4 => Some(FrameKind::Compacted),
            5 => Some(FrameKind::CompactedFollowed),
            _ => None,
        }
    }
}

/// Bits of a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameFlags(pub u8);

impl FrameFlags {
    /// No bit.
    pub const NONE: FrameFlags = FrameFlags(0);
    /// The next frame of the log is the first one of the next segment.
    pub const END_OF_SEGMENT: FrameFlags = FrameFlags(1);

    /// Whether the log goes on in the next segment.
    #[must_use]
    pub fn ends_segment(self) -> bool {
        self.0 & FrameFlags::END_OF_SEGMENT.0 != 0
    }
}

/// A frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// Its own crc: what the next frame chains to.
    pub header_crc: u32,
    /// Position of its first byte.
    pub lsn: Lsn,
    /// The cookie of its segment.
    pub cookie: Cookie,
    /// The log was durable up to here (exclusive) when the frame was sealed.
    pub durable: Lsn,
    /// The core's clock when the frame was sealed.
    pub hlc: Version,
    /// Bytes of records; a multiple of 8. Zero padding to 64 follows.
    pub payload_len: u32,
    /// crc32c of the payload.
    pub payload_crc: u32,
    /// Records in the payload.
    pub records: u32,
    /// Whose records.
    pub kind: FrameKind,
    /// Bits.
    pub flags: FrameFlags,
    /// `header_crc` of the frame before it in the log, 0 for the first; the chain goes on across segments.
    pub previous_header_crc: u32,
}

/// Why there is no frame at a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    /// The bytes at hand end before the frame does.
    #[error("the frame needs {needed} bytes, {available} are at hand; read on")]
    Incomplete {
        /// Bytes from the frame's start.
        needed: usize,
        /// Bytes present.
        available: usize,
    },
    /// 64 zero bytes: nothing was ever written here.
    #[error("nothing was written here")]
    Blank,
    /// Not the start of a frame.
    #[error("no frame begins here")]
    Magic,
    /// The header's checksum does not match.
    #[error("the frame header's checksum does not match")]
    HeaderCrc,
    /// A valid frame of an earlier use of this file.
    #[error("a frame of an earlier use of this file (cookie {:#018x})", .0.0)]
    ForeignCookie(Cookie),
    /// A valid frame of another place.
    #[error("a frame that belongs at {0}: a misplaced write")]
    Misplaced(Lsn),
    /// It does not continue the frame before it.
    #[error("the frame does not continue its predecessor (chained to {found:#010x}, expected {expected:#010x})")]
    Chain {
        /// crc of the predecessor.
        expected: u32,
        /// What the frame names.
        found: u32,
    },
    /// A kind, flag or reserved field that this version does not know.
    #[error("a newer version wrote this frame ({0}); start the newer program")]
    Newer(&'static str),
    /// Fields that contradict each other under a valid checksum.
    #[error("the frame header contradicts itself ({0}); it was written by a faulty program")]
    Value(&'static str),
    /// The payload's checksum does not match.
    #[error("the frame's payload checksum does not match")]
    PayloadCrc,
    /// The padding behind the payload is not zero.
    #[error("the padding behind the payload is not zero")]
    Padding,
    /// A record inside a valid frame is not acceptable.
    #[error("record {index} of the frame: {error}")]
    Record {
        /// Which record of the frame, from 0.
        index: u32,
        /// What is wrong with it.
        error: RecordError,
    },
    /// The payload does not hold as many records as the header says.
    #[error("the frame holds {found} records, its header says {expected}; it was written by a faulty program")]
    RecordCount {
        /// By the header.
        expected: u32,
        /// In the payload.
        found: u32,
    },
}

impl FrameError {
    /// Whether the bytes are as they were written and simply not acceptable here: such a frame is refused, never cut away.
    #[must_use]
    pub fn is_intact(&self) -> bool {
        matches!(
            self,
            FrameError::Newer(_)
                | FrameError::Value(_)
                | FrameError::Chain { .. }
                | FrameError::Record { .. }
                | FrameError::RecordCount { .. }
        )
    }
}

impl FrameHeader {
    /// The header's bytes. Fills in [`FrameHeader::header_crc`].
    pub fn encode(&mut self) -> [u8; FRAME_HEADER_BYTES] {
        let mut raw = RawFrameHeader {
            magic: U32::new(FRAME_MAGIC),
            header_crc: U32::ZERO,
            lsn: U64::new(self.lsn.0),
            cookie: U64::new(self.cookie.0),
            durable_lsn: U64::new(self.durable.0),
            hlc: U64::new(self.hlc.0),
            payload_len: U32::new(self.payload_len),
            payload_crc: U32::new(self.payload_crc),
            record_count: U32::new(self.records),
            kind: self.kind as u8,
            flags: self.flags.0,
            reserved: U16::ZERO,
            previous_header_crc: U32::new(self.previous_header_crc),
            reserved_tail: U32::ZERO,
        };
        self.header_crc = crc32c(&raw.as_bytes()[CRC_START..]);
        raw.header_crc = U32::new(self.header_crc);
        zerocopy::transmute!(raw)
    }

    /// Reads the header of the frame that should begin at `lsn` in the segment with `cookie`. The payload is not looked at.
    ///
    /// # Errors
    /// See [`FrameError`].
    pub fn parse(bytes: &[u8], lsn: Lsn, cookie: Cookie) -> Result<FrameHeader, FrameError> {
        let Ok((raw, _)) = RawFrameHeader::ref_from_prefix(bytes) else {
            return Err(FrameError::Incomplete { needed: FRAME_HEADER_BYTES, available: bytes.len() });
        };
        if raw.magic.get() != FRAME_MAGIC {
            let blank = raw.as_bytes().iter().all(|&byte| byte == 0);
            return Err(if blank { FrameError::Blank } else { FrameError::Magic });
        }
        if raw.header_crc.get() != crc32c(&raw.as_bytes()[CRC_START..]) {
            return Err(FrameError::HeaderCrc);
        }
        // The cookie first: in another use of the file the position may well be the same.
        if raw.cookie.get() != cookie.0 {
            return Err(FrameError::ForeignCookie(Cookie(raw.cookie.get())));
        }
        if raw.lsn.get() != lsn.0 {
            return Err(FrameError::Misplaced(Lsn(raw.lsn.get())));
        }
        let kind = FrameKind::parse(raw.kind).ok_or(FrameError::Newer("frame kind"))?;
        if raw.flags & !FrameFlags::END_OF_SEGMENT.0 != 0 {
            return Err(FrameError::Newer("frame flags"));
        }
        if raw.reserved.get() != 0 || raw.reserved_tail.get() != 0 {
            return Err(FrameError::Newer("reserved frame fields"));
        }
        if raw.durable_lsn.get() > lsn.0 {
            return Err(FrameError::Value("durable beyond itself"));
        }
        if (raw.payload_len.get() == 0) != (raw.record_count.get() == 0) {
            return Err(FrameError::Value("payload length against record count"));
        }
        Ok(FrameHeader {
            header_crc: raw.header_crc.get(),
            lsn,
            cookie,
            durable: Lsn(raw.durable_lsn.get()),
            hlc: Version(raw.hlc.get()),
            payload_len: raw.payload_len.get(),
            payload_crc: raw.payload_crc.get(),
            records: raw.record_count.get(),
            kind,
            flags: FrameFlags(raw.flags),
            previous_header_crc: raw.previous_header_crc.get(),
        })
    }

    /// Bytes of the whole frame: header, payload, padding.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        frame_bytes(self.payload_len as usize) as u64
    }

    /// The exclusive end of the frame; the next one begins here unless it ends the segment.
    #[must_use]
    pub fn end(&self) -> Lsn {
        self.lsn.plus(self.total_bytes())
    }
}

/// Bytes that a frame with `payload_len` bytes of records occupies.
#[must_use]
pub const fn frame_bytes(payload_len: usize) -> usize {
    round_up(FRAME_HEADER_BYTES + payload_len, FRAME_ALIGN_BYTES)
}
