//! The first sector of a segment: who it belongs to and where in its log it stands.

use std::mem::offset_of;

use bytes::Bytes;
use thiserror::Error;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Field, fields};
use crate::checksum::crc32c;
use crate::ids::{Cookie, CoreId, Incarnation, NodeId, SegmentLink, SegmentNumber};
use crate::limits::{SECTOR_BYTES, is_segment_size};
use crate::lsn::Lsn;

/// Bytes before the first frame: one page, holding the identity sector and the seal block.
pub const SEGMENT_HEADER_BYTES: usize = 4096;

/// The first eight bytes of a segment: "GODWITSG".
pub const SEGMENT_MAGIC: u64 = u64::from_le_bytes(*b"GODWITSG");

/// The version of everything inside a segment, records included.
pub const FORMAT_VERSION: u16 = 1;

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawSegmentHeader {
    magic: U64,
    header_crc: U32,
    format_version: U32,
    segment_bytes: U64,
    incarnation: U64,
    cookie: U64,
    number: U64,
    base_lsn: U64,
    previous_number: U64,
    previous_cookie: U64,
    node: U32,
    core: U16,
    reserved: U16,
}
const _: () = assert!(size_of::<RawSegmentHeader>() == 80);

/// What `header_crc` covers: from here to the end of the sector.
const CRC_START: usize = offset_of!(RawSegmentHeader, format_version);

/// The identity sector's fields.
pub const SEGMENT_FIELDS: &[Field] = fields!(RawSegmentHeader:
    magic, header_crc, format_version, segment_bytes, incarnation, cookie, number, base_lsn, previous_number,
    previous_cookie, node, core, reserved);

/// The identity of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Size of the file in bytes.
    pub segment_bytes: u64,
    /// Whose log.
    pub node: NodeId,
    /// Of which run.
    pub incarnation: Incarnation,
    /// Of which core.
    pub core: CoreId,
    /// Its number, at least 1.
    pub number: SegmentNumber,
    /// Drawn for this use of the file; not zero.
    pub cookie: Cookie,
    /// Position of the file's first byte in the log.
    pub base: Lsn,
    /// The segment before it in the same log; none for the first.
    pub previous: Option<SegmentLink>,
}

/// Why a file's first sector does not identify a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SegmentHeaderError {
    /// Shorter than a header page.
    #[error(
        "the file is shorter ({0} bytes) than a segment's header page; restore it or refill this node from a member"
    )]
    Short(usize),
    /// Another kind of file, or damaged at its start.
    #[error("the file does not begin with a segment's magic: damaged, or another kind of file; refill from a member")]
    Magic,
    /// The checksum does not match.
    #[error("the header's checksum does not match; the first sector is damaged, refill this node from a member")]
    Crc,
    /// Written by a newer version.
    #[error("written in format version {0}, this program reads up to {FORMAT_VERSION}; start the newer program")]
    NewerFormat(u32),
    /// Fields that this format does not allow together.
    #[error("the header holds a value this format does not allow ({0}); it was written by a faulty program")]
    Value(&'static str),
    /// The file's length is not what its header says.
    #[error("the file has {actual} bytes, its header says {expected}; it was cut or extended, restore it")]
    Size {
        /// Bytes by the header.
        expected: u64,
        /// Bytes in the file.
        actual: u64,
    },
}

impl SegmentHeader {
    /// The header page as it is prepared: identity, and no seal. [`SEGMENT_HEADER_BYTES`] long.
    ///
    /// # Panics
    /// If the fields break the format: a size outside the limits, a zero cookie or number, a base that is no multiple of the size.
    #[must_use]
    pub fn encode_page(&self) -> Bytes {
        if let Some(problem) = self.problem() {
            panic!("a segment header must be valid when it is written: {problem}");
        }
        let mut page = vec![0u8; SEGMENT_HEADER_BYTES];
        let mut raw = RawSegmentHeader {
            magic: U64::new(SEGMENT_MAGIC),
            header_crc: U32::ZERO,
            format_version: U32::new(u32::from(FORMAT_VERSION)),
            segment_bytes: U64::new(self.segment_bytes),
            incarnation: U64::new(self.incarnation.0),
            cookie: U64::new(self.cookie.0),
            number: U64::new(self.number.0),
            base_lsn: U64::new(self.base.0),
            previous_number: U64::new(self.previous.map_or(0, |link| link.number.0)),
            previous_cookie: U64::new(self.previous.map_or(0, |link| link.cookie.0)),
            node: U32::new(self.node.0),
            core: U16::new(self.core.0),
            reserved: U16::ZERO,
        };
        page[..size_of_val(&raw)].copy_from_slice(raw.as_bytes());
        raw.header_crc = U32::new(crc32c(&page[CRC_START..SECTOR_BYTES]));
        page[..size_of_val(&raw)].copy_from_slice(raw.as_bytes());
        Bytes::from(page)
    }

    /// Reads the identity from the start of a segment; `bytes` may end anywhere behind the header page.
    ///
    /// # Errors
    /// See [`SegmentHeaderError`].
    pub fn parse(bytes: &[u8]) -> Result<SegmentHeader, SegmentHeaderError> {
        let short = SegmentHeaderError::Short(bytes.len());
        let sector = &bytes.get(..SEGMENT_HEADER_BYTES).ok_or(short)?[..SECTOR_BYTES];
        let (raw, _) = RawSegmentHeader::ref_from_prefix(sector).map_err(|_| short)?;
        if raw.magic.get() != SEGMENT_MAGIC {
            return Err(SegmentHeaderError::Magic);
        }
        // Magic, crc and version keep their places in every version, so that an old program can say what it met.
        if raw.header_crc.get() != crc32c(&sector[CRC_START..]) {
            return Err(SegmentHeaderError::Crc);
        }
        match raw.format_version.get() {
            0 => return Err(SegmentHeaderError::Value("format version 0")),
            version if version == u32::from(FORMAT_VERSION) => {}
            newer => return Err(SegmentHeaderError::NewerFormat(newer)),
        }
        if raw.reserved.get() != 0 || sector[size_of::<RawSegmentHeader>()..].iter().any(|&byte| byte != 0) {
            return Err(SegmentHeaderError::Value("reserved bytes"));
        }
        let previous = match (raw.previous_number.get(), raw.previous_cookie.get()) {
            (0, 0) => None,
            (number, cookie) => Some(SegmentLink { number: SegmentNumber(number), cookie: Cookie(cookie) }),
        };
        let header = SegmentHeader {
            segment_bytes: raw.segment_bytes.get(),
            node: NodeId(raw.node.get()),
            incarnation: Incarnation(raw.incarnation.get()),
            core: CoreId(raw.core.get()),
            number: SegmentNumber(raw.number.get()),
            cookie: Cookie(raw.cookie.get()),
            base: Lsn(raw.base_lsn.get()),
            previous,
        };
        match header.problem() {
            Some(problem) => Err(SegmentHeaderError::Value(problem)),
            None => Ok(header),
        }
    }

    /// This segment, exactly.
    #[must_use]
    pub fn link(&self) -> SegmentLink {
        SegmentLink { number: self.number, cookie: self.cookie }
    }

    /// Position of the first frame.
    #[must_use]
    pub fn first_frame(&self) -> Lsn {
        self.base.plus(SEGMENT_HEADER_BYTES as u64)
    }

    fn problem(&self) -> Option<&'static str> {
        if !is_segment_size(self.segment_bytes) {
            return Some("segment bytes");
        }
        if self.cookie.0 == 0 || self.previous.is_some_and(|link| link.cookie.0 == 0) {
            return Some("cookie zero");
        }
        if self.number.0 == 0 || self.previous.is_some_and(|link| link.number.0 == 0 || link.number >= self.number) {
            return Some("segment number");
        }
        // A segment's positions must fit 64 bits, its end included.
        if !self.base.0.is_multiple_of(self.segment_bytes) || self.base.0.checked_add(self.segment_bytes).is_none() {
            return Some("base position");
        }
        if self.previous.is_none() != (self.base.0 == 0) {
            return Some("link to the previous segment");
        }
        None
    }
}
