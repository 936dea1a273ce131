//! Records: what travels, byte-identical, from the origin's disk to the remote disk under one checksum.

use std::mem::offset_of;

use thiserror::Error;
use xxhash_rust::xxh3::xxh3_64;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Field, fields, round_up};
use crate::checksum::crc32c;
use crate::ids::NodeId;
use crate::limits::RECORD_ALIGN_BYTES;
use crate::version::Version;

/// Bytes before a record's expiry or key.
pub const RECORD_HEADER_BYTES: usize = size_of::<RawRecordHeader>();

/// Bytes of the expiry, where there is one.
pub(super) const EXPIRY_BYTES: usize = 8;

/// Bytes of a stub's value: the crc of the record whose place it takes.
const STUB_VALUE_BYTES: usize = 4;

/// Flags that this version understands.
const FLAGS_KNOWN: u8 = RecordFlags::EXPIRY.0 | RecordFlags::STUB.0;

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawRecordHeader {
    len: U32,
    crc: U32,
    version: U64,
    key_hash: U64,
    origin: U32,
    op: u8,
    flags: u8,
    key_len: U16,
}
const _: () = assert!(size_of::<RawRecordHeader>() == 32);

/// What `crc` covers: from here to `len`.
const CRC_START: usize = offset_of!(RawRecordHeader, version);

/// The header's fields.
pub const RECORD_FIELDS: &[Field] = fields!(RawRecordHeader: len, crc, version, key_hash, origin, op, flags, key_len);

/// What a record does. Numbers are for ever: 4 (counter), 5 (chunk) and 6 (set-expiry) are reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum RecordOp {
    /// The key has this value.
    Put = 1,
    /// The key is absent: a tombstone.
    Delete = 2,
    /// Something the nodes tell each other or themselves; see [`super::ControlRecord`].
    Control = 3,
}

/// Bits of a record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecordFlags(pub u8);

impl RecordFlags {
    /// An 8-byte expiry follows the header.
    pub const EXPIRY: RecordFlags = RecordFlags(1);
    /// The value was dropped after expiry, and the original's crc stands in its place: four bytes. Only with EXPIRY, on a put.
    pub const STUB: RecordFlags = RecordFlags(2);

    /// Whether all bits of `other` are set.
    #[must_use]
    pub fn contains(self, other: RecordFlags) -> bool {
        self.0 & other.0 == other.0
    }
}

/// Why bytes are not an acceptable record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RecordError {
    /// The bytes end before the record does.
    #[error("the record needs {needed} bytes, {available} are at hand; read on or ask again")]
    Incomplete {
        /// Bytes from the record's start.
        needed: usize,
        /// Bytes present.
        available: usize,
    },
    /// The length is below the smallest record.
    #[error("a record length of {0} bytes is impossible; the bytes are damaged")]
    Length(u32),
    /// The checksum does not match.
    #[error("the record's checksum does not match (stored {stored:#010x}, computed {computed:#010x})")]
    Crc {
        /// In the record.
        stored: u32,
        /// Of the bytes.
        computed: u32,
    },
    /// An op of a newer version.
    #[error("op {0} was written by a newer version; start the newer program")]
    NewerOp(u8),
    /// Flags of a newer version.
    #[error("record flags {0:#04x} were written by a newer version; start the newer program")]
    NewerFlags(u8),
    /// Expiry, key and what its flags ask for do not fit into the length.
    #[error("what the header announces does not fit into {len} bytes; the record was written by a faulty program")]
    Layout {
        /// The record's length.
        len: u32,
    },
    /// The padding to 8 is not zero.
    #[error("the padding behind the record is not zero")]
    Padding,
}

/// A record, borrowed from where it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordView<'a> {
    /// Its place in the order of all writes.
    pub version: Version,
    /// The node that originated it.
    pub origin: NodeId,
    /// What it does.
    pub op: RecordOp,
    /// Its bits.
    pub flags: RecordFlags,
    /// XXH3-64 of the key; placement and digests only.
    pub key_hash: u64,
    /// Milliseconds since 1970 from which on it reads as absent.
    pub expiry: Option<u64>,
    /// The key.
    pub key: &'a [u8],
    /// The value.
    pub value: &'a [u8],
    /// The whole record as on disk, without padding.
    pub bytes: &'a [u8],
}

impl<'a> RecordView<'a> {
    /// Reads and verifies the record at the start of `bytes`. Also returns its padded length, which may exceed `bytes` when
    /// they end with the record.
    ///
    /// # Errors
    /// See [`RecordError`].
    pub fn parse(bytes: &'a [u8]) -> Result<(RecordView<'a>, usize), RecordError> {
        let (raw, record) = split(bytes)?;
        let (stored, computed) = (raw.crc.get(), crc32c(&record[CRC_START..]));
        if stored != computed {
            return Err(RecordError::Crc { stored, computed });
        }
        let padded = padded_record_bytes(record.len());
        let padding = &bytes[record.len()..padded.min(bytes.len())];
        if padding.iter().any(|&byte| byte != 0) {
            return Err(RecordError::Padding);
        }
        Ok((view(raw, record)?, padded))
    }

    /// Reads the record at the start of `bytes` that this node verified before: bounds are checked, the checksum is not.
    ///
    /// # Errors
    /// See [`RecordError`].
    #[inline]
    pub fn parse_trusted(bytes: &'a [u8]) -> Result<RecordView<'a>, RecordError> {
        let (raw, record) = split(bytes)?;
        view(raw, record)
    }

    /// Like [`RecordView::parse_trusted`], with the padded length, for walking a run of records. The padded length may exceed
    /// `bytes` when they end with the record.
    ///
    /// # Errors
    /// See [`RecordError`].
    pub fn parse_trusted_prefix(bytes: &'a [u8]) -> Result<(RecordView<'a>, usize), RecordError> {
        let (raw, record) = split(bytes)?;
        Ok((view(raw, record)?, padded_record_bytes(record.len())))
    }

    /// The checksum stored in the record: with the bytes, what tells two records of equal version apart.
    #[must_use]
    pub fn crc(&self) -> u32 {
        let at = offset_of!(RawRecordHeader, crc);
        self.bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_le_bytes)
    }

    /// Whether its value was dropped after expiry.
    #[must_use]
    pub fn is_stub(&self) -> bool {
        self.flags.contains(RecordFlags::STUB)
    }

    /// The checksum of the record as it was written: a stub names that of the record whose place it takes, and counts as the same.
    #[must_use]
    pub fn original_crc(&self) -> u32 {
        match self.value.first_chunk::<STUB_VALUE_BYTES>() {
            Some(crc) if self.is_stub() => u32::from_le_bytes(*crc),
            _ => self.crc(),
        }
    }

    /// The record that takes its place once it has expired, with its padding; `None` if that would not be smaller, or if it has no
    /// expiry.
    #[must_use]
    pub fn stub(&self) -> Option<Vec<u8>> {
        if self.op != RecordOp::Put || self.expiry.is_none() || self.is_stub() {
            return None;
        }
        let len = self.bytes.len() - self.value.len() + STUB_VALUE_BYTES;
        if padded_record_bytes(len) >= self.padded_len() {
            return None;
        }
        let mut stub = vec![0; padded_record_bytes(len)];
        stub[..len - STUB_VALUE_BYTES].copy_from_slice(&self.bytes[..len - STUB_VALUE_BYTES]);
        stub[len - STUB_VALUE_BYTES..len].copy_from_slice(&self.crc().to_le_bytes());
        stub[..4].copy_from_slice(&u32::try_from(len).ok()?.to_le_bytes());
        stub[offset_of!(RawRecordHeader, flags)] |= RecordFlags::STUB.0;
        let crc = crc32c(&stub[CRC_START..len]);
        let at = offset_of!(RawRecordHeader, crc);
        stub[at..at + 4].copy_from_slice(&crc.to_le_bytes());
        Some(stub)
    }

    /// Bytes it occupies in a log.
    #[must_use]
    pub fn padded_len(&self) -> usize {
        padded_record_bytes(self.bytes.len())
    }
}

#[inline]
fn split(bytes: &[u8]) -> Result<(&RawRecordHeader, &[u8]), RecordError> {
    let Ok((raw, _)) = RawRecordHeader::ref_from_prefix(bytes) else {
        return Err(RecordError::Incomplete { needed: RECORD_HEADER_BYTES, available: bytes.len() });
    };
    let len = raw.len.get() as usize;
    if len < RECORD_HEADER_BYTES {
        return Err(RecordError::Length(raw.len.get()));
    }
    let record = bytes.get(..len).ok_or(RecordError::Incomplete { needed: len, available: bytes.len() })?;
    Ok((raw, record))
}

#[inline]
fn view<'a>(raw: &RawRecordHeader, record: &'a [u8]) -> Result<RecordView<'a>, RecordError> {
    let op = match raw.op {
        1 => RecordOp::Put,
        2 => RecordOp::Delete,
        3 => RecordOp::Control,
        newer => return Err(RecordError::NewerOp(newer)),
    };
    if raw.flags & !FLAGS_KNOWN != 0 {
        return Err(RecordError::NewerFlags(raw.flags));
    }
    let layout = RecordError::Layout { len: raw.len.get() };
    let mut rest = &record[RECORD_HEADER_BYTES..];
    let mut expiry = None;
    if raw.flags & RecordFlags::EXPIRY.0 != 0 {
        let (bytes, after) = rest.split_first_chunk::<EXPIRY_BYTES>().ok_or(layout)?;
        expiry = Some(u64::from_le_bytes(*bytes));
        rest = after;
    }
    let (key, value) = rest.split_at_checked(usize::from(raw.key_len.get())).ok_or(layout)?;
    let is_stub = raw.flags & RecordFlags::STUB.0 != 0;
    if is_stub && (op != RecordOp::Put || expiry.is_none() || value.len() != STUB_VALUE_BYTES) {
        return Err(layout);
    }
    Ok(RecordView {
        version: Version(raw.version.get()),
        origin: NodeId(raw.origin.get()),
        op,
        flags: RecordFlags(raw.flags),
        key_hash: raw.key_hash.get(),
        expiry,
        key,
        value,
        bytes: record,
    })
}

/// What the appender has to know of a record it copies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RecordFacts {
    pub(crate) len: usize,
    pub(crate) version: Version,
    pub(crate) origin: NodeId,
}

/// The facts of the record at the start of `bytes`, which the caller has parsed before.
#[inline]
pub(crate) fn record_facts(bytes: &[u8]) -> Option<RecordFacts> {
    let (raw, record) = split(bytes).ok()?;
    Some(RecordFacts { len: record.len(), version: Version(raw.version.get()), origin: NodeId(raw.origin.get()) })
}

/// The padded length of the record at the start of `bytes`, by its length field alone. `None` if that field is cut off or
/// below the smallest record; the result may exceed `bytes`.
#[must_use]
pub fn padded_record_len(bytes: &[u8]) -> Option<usize> {
    let (len, _) = bytes.split_first_chunk::<4>()?;
    let len = u32::from_le_bytes(*len) as usize;
    (len >= RECORD_HEADER_BYTES).then(|| padded_record_bytes(len))
}

/// A record about to be written.
#[derive(Clone, Copy, Debug)]
pub struct RecordDraft<'a> {
    /// Its place in the order of all writes.
    pub version: Version,
    /// The node that originates it.
    pub origin: NodeId,
    /// What it does.
    pub op: RecordOp,
    /// Milliseconds since 1970 from which on it reads as absent.
    pub expiry: Option<u64>,
    /// The key, at most 65,535 bytes.
    pub key: &'a [u8],
    /// The value.
    pub value: &'a [u8],
}

impl RecordDraft<'_> {
    /// Length in bytes, header included, without padding.
    #[must_use]
    #[inline]
    pub fn unpadded_len(&self) -> usize {
        let expiry = if self.expiry.is_some() { EXPIRY_BYTES } else { 0 };
        RECORD_HEADER_BYTES + expiry + self.key.len() + self.value.len()
    }

    /// Bytes it will occupy in a log.
    #[must_use]
    #[inline]
    pub fn padded_len(&self) -> usize {
        padded_record_bytes(self.unpadded_len())
    }

    /// Whether key and record are short enough to be written at all.
    #[must_use]
    #[inline]
    pub fn fits(&self) -> bool {
        u16::try_from(self.key.len()).is_ok() && u32::try_from(self.padded_len()).is_ok()
    }

    /// Writes the record, padding included.
    ///
    /// # Panics
    /// If `target` is not exactly [`RecordDraft::padded_len`] bytes long, or the draft does not [`fit`](RecordDraft::fits).
    #[inline]
    pub fn encode_into(&self, target: &mut [u8]) {
        let len = self.unpadded_len();
        assert_eq!(target.len(), padded_record_bytes(len), "a record is encoded into exactly its padded length");
        let (record, padding) = target.split_at_mut(len);
        padding.fill(0);
        let raw = RawRecordHeader {
            len: U32::new(u32::try_from(len).expect("checked by fits()")),
            crc: U32::ZERO,
            version: U64::new(self.version.0),
            key_hash: U64::new(key_hash(self.key)),
            origin: U32::new(self.origin.0),
            op: self.op as u8,
            flags: if self.expiry.is_some() { RecordFlags::EXPIRY.0 } else { 0 },
            key_len: U16::new(u16::try_from(self.key.len()).expect("checked by fits()")),
        };
        let (header, mut rest) = record.split_at_mut(RECORD_HEADER_BYTES);
        header.copy_from_slice(raw.as_bytes());
        if let Some(expiry) = self.expiry {
            let (target, after) = rest.split_at_mut(EXPIRY_BYTES);
            target.copy_from_slice(&expiry.to_le_bytes());
            rest = after;
        }
        let (key, value) = rest.split_at_mut(self.key.len());
        key.copy_from_slice(self.key);
        value.copy_from_slice(self.value);
        let crc = crc32c(&record[CRC_START..]);
        let at = offset_of!(RawRecordHeader, crc);
        record[at..at + 4].copy_from_slice(&crc.to_le_bytes());
    }

    /// The record with its padding.
    ///
    /// # Panics
    /// If the draft does not [`fit`](RecordDraft::fits).
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.padded_len()];
        self.encode_into(&mut bytes);
        bytes
    }
}

/// Appends the record that has these fields, with its padding; `body` is what follows its header.
#[expect(clippy::too_many_arguments, reason = "they are the header's fields")]
pub(super) fn put_together(
    out: &mut Vec<u8>,
    crc: u32,
    version: Version,
    key_hash: u64,
    origin: NodeId,
    op: u8,
    flags: RecordFlags,
    key_len: u16,
    body: &[u8],
) {
    let start = out.len();
    let len = RECORD_HEADER_BYTES + body.len();
    let raw = RawRecordHeader {
        len: U32::new(u32::try_from(len).unwrap_or(u32::MAX)),
        crc: U32::new(crc),
        version: U64::new(version.0),
        key_hash: U64::new(key_hash),
        origin: U32::new(origin.0),
        op,
        flags: flags.0,
        key_len: U16::new(key_len),
    };
    out.extend_from_slice(raw.as_bytes());
    out.extend_from_slice(body);
    out.resize(start + padded_record_bytes(len), 0);
}

/// The hash of a key that travels in its records: XXH3-64 with seed 0.
#[must_use]
#[inline]
pub fn key_hash(key: &[u8]) -> u64 {
    xxh3_64(key)
}

/// Bytes that a record of `len` bytes occupies in a log.
#[must_use]
#[inline]
pub const fn padded_record_bytes(len: usize) -> usize {
    round_up(len, RECORD_ALIGN_BYTES)
}
