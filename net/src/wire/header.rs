//! The 32 bytes before every body.
//!
//! The first byte, the size and the place of the header checksum are the same in every protocol version, so that any
//! version can tell a damaged header from a newer one. The checksum is verified before any other field is believed.

use std::mem::offset_of;

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::error::{Foreign, WireError};
use super::limits::{PROTOCOL_VERSION, PROTOCOL_VERSION_MIN};
use super::opcode::Opcode;
use crate::ids::RequestId;

/// First byte of every frame: no ASCII, no TLS record type, no RESP type byte, not UTF-8 on its own.
pub const MAGIC: u8 = 0xC7;
/// Size of the header.
pub const HEADER_BYTES: usize = size_of::<HeaderBytes>();

/// The header as it travels.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct HeaderBytes {
    /// [`MAGIC`].
    pub magic: u8,
    /// Protocol version of this frame.
    pub protocol: u8,
    /// [`Opcode`].
    pub opcode: U16,
    /// None yet; must be 0.
    pub flags: U16,
    /// Must be 0.
    pub reserved: U16,
    /// Bytes that follow this header.
    pub body_bytes: U32,
    /// Pairs an answer with its request; 0 where unused.
    pub request_id: U32,
    /// crc32c of the guarded part of the body ([`Opcode::guarded_bytes`]).
    pub body_crc: U32,
    /// Must be 0.
    pub reserved_tail: U64,
    /// crc32c of the bytes before this field.
    pub header_crc: U32,
}

const _: () = assert!(HEADER_BYTES == 32);
const _: () = assert!(offset_of!(HeaderBytes, header_crc) + size_of::<U32>() == HEADER_BYTES);

/// Name, offset and size in bytes of each field, for the document's test.
pub const FIELDS: &[(&str, usize, usize)] = &[
    ("magic", offset_of!(HeaderBytes, magic), 1),
    ("protocol", offset_of!(HeaderBytes, protocol), 1),
    ("opcode", offset_of!(HeaderBytes, opcode), 2),
    ("flags", offset_of!(HeaderBytes, flags), 2),
    ("reserved", offset_of!(HeaderBytes, reserved), 2),
    ("body_bytes", offset_of!(HeaderBytes, body_bytes), 4),
    ("request_id", offset_of!(HeaderBytes, request_id), 4),
    ("body_crc", offset_of!(HeaderBytes, body_crc), 4),
    ("reserved_tail", offset_of!(HeaderBytes, reserved_tail), 8),
    ("header_crc", offset_of!(HeaderBytes, header_crc), 4),
];

/// The one checksum of the wire: crc32c (Castagnoli), as in the log.
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

/// [`crc32c`] of the parts one after the other.
#[must_use]
pub fn crc32c_of_parts(parts: &[&[u8]]) -> u32 {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    parts.iter().for_each(|part| digest.update(part));
    // The algorithm has 32 bits; the crate has one type for all widths.
    u32::try_from(digest.finalize()).unwrap_or(u32::MAX)
}

/// A header that was checked, or is about to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the body is.
    pub opcode: Opcode,
    /// Pairs an answer with its request; 0 where unused.
    pub request_id: RequestId,
    /// Bytes that follow.
    pub body_bytes: u32,
    /// crc32c of the guarded part of the body.
    pub body_crc: u32,
}

impl Header {
    /// The bytes to send.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; HEADER_BYTES] {
        let mut raw = HeaderBytes {
            magic: MAGIC,
            protocol: PROTOCOL_VERSION,
            opcode: self.opcode.code().into(),
            flags: 0.into(),
            reserved: 0.into(),
            body_bytes: self.body_bytes.into(),
            request_id: self.request_id.0.into(),
            body_crc: self.body_crc.into(),
            reserved_tail: 0.into(),
            header_crc: 0.into(),
        };
        raw.header_crc = crc32c(&raw.as_bytes()[..offset_of!(HeaderBytes, header_crc)]).into();
        zerocopy::transmute!(raw)
    }

    /// Checks received bytes: magic, checksum, version, reserved bits, opcode, in this order. The body length is
    /// believed only after the checksum; its limit is the caller's.
    ///
    /// # Errors
    /// `Magic`, `HeaderCrc`, `Protocol`, `Reserved`, `Opcode`.
    pub fn parse(bytes: &[u8; HEADER_BYTES]) -> Result<Header, WireError> {
        check_magic(bytes[0])?;
        let raw: HeaderBytes = zerocopy::transmute!(*bytes);
        let expected = crc32c(&bytes[..offset_of!(HeaderBytes, header_crc)]);
        if raw.header_crc.get() != expected {
            return Err(WireError::HeaderCrc { found: raw.header_crc.get(), expected });
        }
        if !(PROTOCOL_VERSION_MIN..=PROTOCOL_VERSION).contains(&raw.protocol) {
            return Err(WireError::Protocol { version: raw.protocol });
        }
        if raw.flags.get() != 0 || raw.reserved.get() != 0 || raw.reserved_tail.get() != 0 {
            return Err(WireError::Reserved { flags: raw.flags.get() });
        }
        let code = raw.opcode.get();
        let opcode = Opcode::from_code(code).ok_or(WireError::Opcode { code })?;
        Ok(Header {
            opcode,
            request_id: RequestId(raw.request_id.get()),
            body_bytes: raw.body_bytes.get(),
            body_crc: raw.body_crc.get(),
        })
    }
}

/// Judges the first byte alone, so that a stranger is named at once instead of awaited for 31 more bytes.
///
/// # Errors
/// `Magic`.
pub fn check_magic(first: u8) -> Result<(), WireError> {
    if first == MAGIC { Ok(()) } else { Err(WireError::Magic { first, foreign: Foreign::of(first) }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resealed(change: impl FnOnce(&mut HeaderBytes)) -> [u8; HEADER_BYTES] {
        let header = Header { opcode: Opcode::Credit, request_id: RequestId(7), body_bytes: 8, body_crc: 0x1234 };
        let mut raw: HeaderBytes = zerocopy::transmute!(header.to_bytes());
        change(&mut raw);
        raw.header_crc = crc32c(&raw.as_bytes()[..HEADER_BYTES - 4]).into();
        zerocopy::transmute!(raw)
    }

    #[test]
    fn the_checksum_is_castagnoli() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c_of_parts(&[b"1234", b"", b"56789"]), 0xe306_9283);
        assert_eq!(crc32c_of_parts(&[]), crc32c(b""));
    }

    #[test]
    fn a_sound_header_of_another_version_is_told_from_a_damaged_one() {
        assert_eq!(Header::parse(&resealed(|raw| raw.protocol = 9)), Err(WireError::Protocol { version: 9 }));
        assert_eq!(Header::parse(&resealed(|raw| raw.protocol = 0)), Err(WireError::Protocol { version: 0 }));
        assert_eq!(Header::parse(&resealed(|raw| raw.flags = 1.into())), Err(WireError::Reserved { flags: 1 }));
        assert_eq!(Header::parse(&resealed(|raw| raw.reserved = 1.into())), Err(WireError::Reserved { flags: 0 }));
        assert_eq!(Header::parse(&resealed(|raw| raw.reserved_tail = 1.into())), Err(WireError::Reserved { flags: 0 }));
        let unknown = Header::parse(&resealed(|raw| raw.opcode = 0x0401.into()));
        assert_eq!(unknown, Err(WireError::Opcode { code: 0x0401 }));
        assert!(Header::parse(&resealed(|_| ())).is_ok());
    }
}
