//! What can be wrong with bytes from a peer, and with what we would send.

use std::fmt;

use thiserror::Error;

use super::header::HEADER_BYTES;
use super::limits::{FEED_BYTES_MAX, PROTOCOL_VERSION, PROTOCOL_VERSION_MIN};
use crate::ids::NameError;

/// Who else may be talking to this port, judged by the first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Foreign {
    /// A capital letter: HTTP verbs, SSH banners, inline Redis commands.
    Text,
    /// A TLS handshake record.
    Tls,
    /// A RESP type byte.
    Resp,
    /// None of these.
    Unknown,
}

impl Foreign {
    /// Judges the first byte of a connection or frame.
    #[must_use]
    pub fn of(first: u8) -> Foreign {
        match first {
            b'A'..=b'Z' => Foreign::Text,
            0x16 => Foreign::Tls,
            b'*' | b'$' | b'+' | b'-' | b':' => Foreign::Resp,
            _ => Foreign::Unknown,
        }
    }
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Foreign::Text => "a text protocol such as HTTP speaks here; point it at the admin port",
            Foreign::Tls => "TLS speaks here; connect without it, the mesh tunnel encrypts",
            Foreign::Resp => "a Redis client speaks here; point it at the storage or cache port",
            Foreign::Unknown => "check the port on the other side, or the stream has lost its frame boundaries",
        })
    }
}

/// A stream of frames that cannot go on. Every one of them closes the connection.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum WireError {
    /// The first byte is not the magic.
    #[error("a frame starts with 0xc7, not {first:#04x}: {foreign}")]
    Magic {
        /// What came instead.
        first: u8,
        /// Who that may be.
        foreign: Foreign,
    },
    /// The header does not match its checksum.
    #[error("header checksum is {found:#010x}, expected {expected:#010x}: bytes were damaged in transit; reconnect")]
    HeaderCrc {
        /// In the header.
        found: u32,
        /// Computed.
        expected: u32,
    },
    /// A protocol version this source does not speak.
    #[error(
        "protocol version {version} is not spoken here, {PROTOCOL_VERSION_MIN} to {PROTOCOL_VERSION} are; \
         upgrade the older side"
    )]
    Protocol {
        /// What the frame declares.
        version: u8,
    },
    /// A reserved field is not zero.
    #[error("reserved header bits are set (flags {flags:#06x}): a newer version sent this; upgrade this node")]
    Reserved {
        /// The flags field.
        flags: u16,
    },
    /// An opcode this source does not know.
    #[error("opcode {code:#06x} is unknown here: a newer version sent this; upgrade this node")]
    Opcode {
        /// What the frame declares.
        code: u16,
    },
    /// A body longer than its opcode allows here.
    #[error("body of {len} bytes exceeds the {max} allowed for {opcode}; the peer is faulty or not yet admitted")]
    BodyTooLarge {
        /// Name of the opcode.
        opcode: &'static str,
        /// Declared body bytes.
        len: usize,
        /// Allowed body bytes.
        max: usize,
    },
    /// A body shorter than its fixed part.
    #[error("body of {len} bytes is shorter than the {min} that {opcode} needs; the peer is faulty")]
    BodyTooShort {
        /// Name of the opcode.
        opcode: &'static str,
        /// Declared body bytes.
        len: usize,
        /// Needed body bytes.
        min: usize,
    },
    /// The body does not match its checksum.
    #[error("{opcode} checksum is {found:#010x}, expected {expected:#010x}: bytes were damaged in transit; reconnect")]
    BodyCrc {
        /// Name of the opcode.
        opcode: &'static str,
        /// In the header.
        found: u32,
        /// Computed.
        expected: u32,
    },
    /// More was fed than the reader may hold.
    #[error("more than {FEED_BYTES_MAX} bytes wait behind the current frame; take frames out before feeding more")]
    Flooded,
    /// The body does not decode.
    #[error("{opcode}: {error}")]
    Body {
        /// Name of the opcode.
        opcode: &'static str,
        /// What is wrong.
        error: DecodeError,
    },
}

/// A body that does not decode. Its checksum held, so the sender wrote it so: the versions differ or it is faulty.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// The body ends inside a field.
    #[error("body ends early: {needed} bytes needed, {left} left; upgrade the older side")]
    Short {
        /// Bytes the field needs.
        needed: usize,
        /// Bytes there are.
        left: usize,
    },
    /// Bytes after the last field.
    #[error("{left} bytes follow the last field; upgrade the older side")]
    Trailing {
        /// How many.
        left: usize,
    },
    /// A list longer than allowed.
    #[error("{count} {field} exceed the {max} allowed; reduce them at the sender")]
    TooMany {
        /// The list.
        field: &'static str,
        /// Declared items.
        count: usize,
        /// Allowed items.
        max: usize,
    },
    /// A string longer than allowed.
    #[error("{field} of {len} bytes exceeds the {max} allowed; shorten it at the sender")]
    TooLong {
        /// The string.
        field: &'static str,
        /// Declared bytes.
        len: usize,
        /// Allowed bytes.
        max: usize,
    },
    /// A string that is not UTF-8.
    #[error("{field} is not UTF-8; correct it at the sender")]
    Utf8 {
        /// The string.
        field: &'static str,
    },
    /// A name outside its alphabet.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A value outside its range.
    #[error("{field} has the unknown value {value}; upgrade this node or correct the sender")]
    Value {
        /// The field.
        field: &'static str,
        /// What it holds.
        value: u64,
    },
    /// Unknown or reserved flags.
    #[error("{field} {flags:#06x} has bits this version does not speak; upgrade this node")]
    Flags {
        /// The field.
        field: &'static str,
        /// What it holds.
        flags: u16,
    },
}

/// A body that must not be sent. Nothing was appended.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum EncodeError {
    /// A list longer than the peer accepts.
    #[error("{count} {field} exceed the {max} of one frame; split them")]
    TooMany {
        /// The list.
        field: &'static str,
        /// Items given.
        count: usize,
        /// Allowed items.
        max: usize,
    },
    /// A string longer than the peer accepts.
    #[error("{field} of {len} bytes exceeds the {max} allowed; shorten it")]
    TooLong {
        /// The string.
        field: &'static str,
        /// Bytes given.
        len: usize,
        /// Allowed bytes.
        max: usize,
    },
    /// A body longer than the peer accepts.
    #[error("{opcode} body of {len} bytes exceeds the {max} of one frame; split it")]
    BodyTooLarge {
        /// Name of the opcode.
        opcode: &'static str,
        /// Bytes given.
        len: usize,
        /// Allowed bytes.
        max: usize,
    },
    /// Fields that contradict each other.
    #[error("{field} is {value}, which the receiver refuses; this is a fault of the caller")]
    Value {
        /// The field.
        field: &'static str,
        /// What it holds.
        value: u64,
    },
}

const _: () = assert!(HEADER_BYTES <= FEED_BYTES_MAX);
