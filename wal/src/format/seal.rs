//! The seal block: written once into the header page when a segment is complete. It fixes the segment's end.

use std::mem::offset_of;

use bytes::Bytes;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Field, SEGMENT_HEADER_BYTES, fields, round_up};
use crate::checksum::crc32c;
use crate::ids::{Cookie, NodeId, SegmentLink, SegmentNumber};
use crate::limits::SECTOR_BYTES;
use crate::lsn::Lsn;
use crate::version::Version;

/// File offset of the seal block. A sector of its own: writing it never touches the identity.
pub const SEAL_OFFSET: u64 = SECTOR_BYTES as u64;

/// The first eight bytes of a seal block: "GODWITSL".
pub const SEAL_MAGIC: u64 = u64::from_le_bytes(*b"GODWITSL");

/// Room for the seal block: the rest of the header page.
pub const SEAL_BYTES_MAX: usize = SEGMENT_HEADER_BYTES - SECTOR_BYTES;

/// Bytes before the entries.
pub const SEAL_HEADER_BYTES: usize = size_of::<RawSeal>();

/// How many origins a seal block can list.
pub const SEAL_ENTRIES_MAX: usize = (SEAL_BYTES_MAX - SEAL_HEADER_BYTES) / size_of::<RawEntry>();

/// More origins than entries: the list is empty and the versions in the segment are unknown.
const FLAG_OVERFLOW: u16 = 1;

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawSeal {
    magic: U64,
    seal_crc: U32,
    flags: U16,
    entry_count: U16,
    number: U64,
    cookie: U64,
    end_lsn: U64,
    durable_lsn: U64,
    record_count: U64,
    last_header_crc: U32,
    reserved: U32,
}
const _: () = assert!(size_of::<RawSeal>() == 64);

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawEntry {
    origin: U32,
    reserved: U32,
    version_min: U64,
    version_max: U64,
}
const _: () = assert!(size_of::<RawEntry>() == 24);
const _: () = assert!(SEAL_ENTRIES_MAX >= 64 && SEAL_ENTRIES_MAX <= u16::MAX as usize);

/// What `seal_crc` covers: from here to the end of the last entry.
const CRC_START: usize = offset_of!(RawSeal, flags);

/// The seal block's fields, offsets from its own start.
pub const SEAL_FIELDS: &[Field] = fields!(RawSeal:
    magic, seal_crc, flags, entry_count, number, cookie, end_lsn, durable_lsn, record_count, last_header_crc, reserved);

/// The fields of one entry, offsets from its own start.
pub const SEAL_ENTRY_FIELDS: &[Field] = fields!(RawEntry: origin, reserved, version_min, version_max);

/// The versions of one origin in a segment, of records that travel (all kinds but 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OriginRange {
    /// Whose records.
    pub origin: NodeId,
    /// Lowest version.
    pub min: Version,
    /// Highest version.
    pub max: Version,
}

/// What a seal block says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealBlock {
    /// The segment it belongs to; a seal that names another one is left over from an earlier use of the file.
    pub segment: SegmentLink,
    /// Exclusive end of the segment's last frame.
    pub end: Lsn,
    /// The log was durable up to here when the seal was made; at least `end`.
    pub durable: Lsn,
    /// Records in the segment, of all kinds.
    pub records: u64,
    /// `header_crc` of the last frame up to `end`: what the first frame of the next segment chains to. 0 if there is none.
    pub last_header_crc: u32,
    /// Version ranges per origin; `None` if there were more origins than entries.
    pub origins: Option<Vec<OriginRange>>,
}

/// What lies where a seal block belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SealState {
    /// Nothing: the segment was not sealed.
    Absent,
    /// Something that is no seal of this segment: torn while it was written, rotted, or left over. Never trusted.
    Damaged,
    /// A valid seal of this segment.
    Valid(SealBlock),
}

impl SealBlock {
    /// The bytes to write at [`SEAL_OFFSET`]: whole sectors.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let entries: &[OriginRange] = match &self.origins {
            Some(origins) if origins.len() <= SEAL_ENTRIES_MAX => origins,
            _ => &[],
        };
        let overflow = self.origins.as_ref().is_none_or(|origins| origins.len() > SEAL_ENTRIES_MAX);
        let len = SEAL_HEADER_BYTES + size_of_val_of_entries(entries.len());
        let mut block = vec![0u8; round_up(len, SECTOR_BYTES)];
        for (index, range) in entries.iter().enumerate() {
            let raw = RawEntry {
                origin: U32::new(range.origin.0),
                reserved: U32::ZERO,
                version_min: U64::new(range.min.0),
                version_max: U64::new(range.max.0),
            };
            let at = SEAL_HEADER_BYTES + size_of_val_of_entries(index);
            block[at..at + size_of::<RawEntry>()].copy_from_slice(raw.as_bytes());
        }
        let mut raw = RawSeal {
            magic: U64::new(SEAL_MAGIC),
            seal_crc: U32::ZERO,
            flags: U16::new(if overflow { FLAG_OVERFLOW } else { 0 }),
            entry_count: U16::new(u16::try_from(entries.len()).expect("bounded by SEAL_ENTRIES_MAX")),
            number: U64::new(self.segment.number.0),
            cookie: U64::new(self.segment.cookie.0),
            end_lsn: U64::new(self.end.0),
            durable_lsn: U64::new(self.durable.0),
            record_count: U64::new(self.records),
            last_header_crc: U32::new(self.last_header_crc),
            reserved: U32::ZERO,
        };
        block[..SEAL_HEADER_BYTES].copy_from_slice(raw.as_bytes());
        raw.seal_crc = U32::new(crc32c(&block[CRC_START..len]));
        block[..SEAL_HEADER_BYTES].copy_from_slice(raw.as_bytes());
        Bytes::from(block)
    }

    /// Reads the seal block of `segment` from its header page (or anything longer).
    #[must_use]
    pub fn read(page: &[u8], segment: SegmentLink) -> SealState {
        let Some(area) = page.get(SECTOR_BYTES..SEGMENT_HEADER_BYTES) else { return SealState::Absent };
        if area.iter().all(|&byte| byte == 0) {
            return SealState::Absent;
        }
        match SealBlock::parse(area) {
            Some(seal) if seal.segment == segment => SealState::Valid(seal),
            _ => SealState::Damaged,
        }
    }

    fn parse(area: &[u8]) -> Option<SealBlock> {
        let (raw, _) = RawSeal::ref_from_prefix(area).ok()?;
        let entry_count = usize::from(raw.entry_count.get());
        if raw.magic.get() != SEAL_MAGIC || entry_count > SEAL_ENTRIES_MAX {
            return None;
        }
        let len = SEAL_HEADER_BYTES + size_of_val_of_entries(entry_count);
        if raw.seal_crc.get() != crc32c(area.get(CRC_START..len)?) {
            return None;
        }
        let overflow = match raw.flags.get() {
            0 => false,
            FLAG_OVERFLOW => true,
            _ => return None,
        };
        let entries = area.get(SEAL_HEADER_BYTES..len)?.chunks_exact(size_of::<RawEntry>());
        let origins = entries
            .map(|bytes| {
                let raw = RawEntry::ref_from_bytes(bytes).ok()?;
                Some(OriginRange {
                    origin: NodeId(raw.origin.get()),
                    min: Version(raw.version_min.get()),
                    max: Version(raw.version_max.get()),
                })
            })
            .collect::<Option<Vec<_>>>()?;
        let segment = SegmentLink { number: SegmentNumber(raw.number.get()), cookie: Cookie(raw.cookie.get()) };
        Some(SealBlock {
            segment,
            end: Lsn(raw.end_lsn.get()),
            durable: Lsn(raw.durable_lsn.get()),
            records: raw.record_count.get(),
            last_header_crc: raw.last_header_crc.get(),
            origins: (!overflow).then_some(origins),
        })
    }
}

const fn size_of_val_of_entries(count: usize) -> usize {
    count * size_of::<RawEntry>()
}
