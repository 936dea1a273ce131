//! `Records` (source → follower): records as they lie on the origin's disk.
//!
//! Rules:
//! - A 40-byte head, then the payload: whole records, each padded to 8 bytes, opaque here. The header's body checksum
//!   covers the head only; each record carries its own, from the origin's disk to ours. The payload starts 8-aligned.
//! - `stream_offset` counts payload bytes before packing since the stream opened, this payload excluded; the source sends
//!   only while offset < credit.
//! - Records may come in any order and any number of copies; only claims are ordered.
//! - `raw_bytes` is the payload's size before packing. As it is, it equals the payload's; packed it is larger, by no more than
//!   lz4 can ([`LZ4_RATIO_MAX`]), so that a few bytes never claim much memory.
//! - EAGER is reserved: a receiver of this version refuses it.

use bytes::{BufMut, Bytes};

use super::Body;
use crate::ids::{CoreIndex, LogId, RequestId, StreamOffset};
use crate::wire::codec::{Reader, codes, put_log};
use crate::wire::error::{DecodeError, EncodeError};
use crate::wire::frame::seal;
use crate::wire::header::HEADER_BYTES;
use crate::wire::limits::{RECORD_ALIGN_BYTES, RECORDS_PAYLOAD_BYTES_MAX};
use crate::wire::opcode::Opcode;
use crate::wire::packing::{UnpackError, unpack};

/// Bytes before the payload.
pub const HEAD_BYTES: usize = 40;
/// Reserved: written at the source but not yet synced (in-region streams only).
pub const EAGER: u16 = 1;
/// Part of a pass: records of any origin that the follower did not hold when it asked, of which the source holds a log that it did not
/// originate.
pub const PASS: u16 = 2;
/// Copies that compaction made, of records that are gone where they stood: some are other nodes' records, which superseded one of
/// this log.
pub const COPIES: u16 = 4;
/// What a `Fetch` asked for: no part of any stream, of any origin.
pub const REPAIR: u16 = 8;
/// With [`PASS`]: part of a bootstrap, which sends everything.
pub const BOOTSTRAP: u16 = 16;
/// Flags this version speaks.
const KNOWN: u16 = PASS | COPIES | REPAIR | BOOTSTRAP;

/// More bytes than one byte of an lz4 block can stand for: each that lengthens a copy stands for at most 255.
pub const LZ4_RATIO_MAX: usize = 255;

codes! {
    /// How the payload is packed.
    Compression: u8 {
        /// Verbatim.
        None = 0,
        /// One lz4 block.
        Lz4 = 1,
    }
}

/// What describes a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordsHead {
    /// The log the records are streamed from; in a pass, the source's running one.
    pub log: LogId,
    /// The source's core that holds them.
    pub core: CoreIndex,
    /// [`COPIES`], [`PASS`] or [`REPAIR`]; [`EAGER`] in later versions.
    pub flags: u16,
    /// Payload bytes before packing that were sent before.
    pub stream_offset: StreamOffset,
    /// Records in the payload.
    pub count: u32,
    /// Payload bytes before packing.
    pub raw_bytes: u32,
    /// How the payload is packed.
    pub compression: Compression,
}

/// Records with their head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Records {
    /// What describes the payload.
    pub head: RecordsHead,
    /// Whole records, padded to 8 bytes each, packed as the head says.
    pub payload: Bytes,
}

impl Records {
    /// The records as they lie on the origin's disk. Takes no more memory than the head says, and never more than a batch has.
    ///
    /// # Errors
    /// When the payload is not what the head says.
    pub fn unpacked(&self) -> Result<Bytes, UnpackError> {
        let contradicts = |(field, value)| UnpackError(format!("{value} is no valid {field} for it"));
        self.head.check(self.payload.len()).map_err(contradicts)?;
        match self.head.compression {
            Compression::None => Ok(self.payload.clone()),
            Compression::Lz4 => unpack(&self.payload, self.head.raw_bytes as usize),
        }
    }
}

impl RecordsHead {
    /// Header and head of a frame whose payload the caller sends as further runs, uncopied: 72 bytes.
    ///
    /// # Errors
    /// `BodyTooLarge`, `Value` when the payload does not fit the head.
    pub fn encode_frame_head(&self, request_id: RequestId, payload_bytes: usize) -> Result<Vec<u8>, EncodeError> {
        let mut out = vec![0; HEADER_BYTES];
        self.encode_head(payload_bytes, &mut out)?;
        let header = seal(Opcode::Records, request_id, &out[HEADER_BYTES..], HEAD_BYTES + payload_bytes)?;
        out[..HEADER_BYTES].copy_from_slice(&header.to_bytes());
        Ok(out)
    }

    fn encode_head(&self, payload_bytes: usize, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        self.check(payload_bytes).map_err(|(field, value)| EncodeError::Value { field, value })?;
        put_log(out, self.log);
        out.put_u16_le(self.core.0);
        out.put_u16_le(self.flags);
        out.put_u64_le(self.stream_offset.0);
        out.put_u32_le(self.count);
        out.put_u32_le(self.raw_bytes);
        out.put_u8(self.compression.code());
        out.extend_from_slice(&[0; 7]);
        Ok(())
    }

    /// What both sides hold the head to, given the payload it describes.
    fn check(&self, payload_bytes: usize) -> Result<(), (&'static str, u64)> {
        let raw_bytes = usize::try_from(self.raw_bytes).unwrap_or(usize::MAX);
        if self.flags & !KNOWN != 0 {
            return Err(("records flags", self.flags.into()));
        }
        let agree = match self.compression {
            Compression::None => raw_bytes == payload_bytes,
            Compression::Lz4 => raw_bytes > payload_bytes && raw_bytes / LZ4_RATIO_MAX <= payload_bytes,
        };
        let sized = agree && raw_bytes.is_multiple_of(RECORD_ALIGN_BYTES) && raw_bytes <= RECORDS_PAYLOAD_BYTES_MAX;
        if !sized {
            return Err(("records raw bytes", self.raw_bytes.into()));
        }
        if self.count == 0 || usize::try_from(self.count).unwrap_or(usize::MAX) > raw_bytes / RECORD_ALIGN_BYTES {
            return Err(("record count", self.count.into()));
        }
        Ok(())
    }
}

impl Body for Records {
    const OPCODE: Opcode = Opcode::Records;

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        self.head.encode_head(self.payload.len(), out)?;
        out.extend_from_slice(&self.payload);
        Ok(())
    }

    fn read(reader: &mut Reader<'_>) -> Result<Records, DecodeError> {
        let log = reader.log()?;
        let core = CoreIndex(reader.u16()?);
        let flags = reader.flags("records flags", KNOWN)?;
        let stream_offset = StreamOffset(reader.u64()?);
        let count = reader.u32()?;
        let raw_bytes = reader.u32()?;
        let packed = reader.u8()?;
        let compression =
            Compression::from_code(packed).ok_or(DecodeError::Value { field: "compression", value: packed.into() })?;
        if reader.array::<7>()? != [0; 7] {
            return Err(DecodeError::Value { field: "records reserved bytes", value: 1 });
        }
        let head = RecordsHead { log, core, flags, stream_offset, count, raw_bytes, compression };
        let payload = reader.rest();
        head.check(payload.len()).map_err(|(field, value)| DecodeError::Value { field, value })?;
        Ok(Records { head, payload })
    }
}
