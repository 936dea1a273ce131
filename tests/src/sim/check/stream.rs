//! What mesh streams carry, read from the bytes as they are sent: the checkers' own eyes on the wire, beside the decoder of the
//! product. One pass over the bytes as they come, in any pieces: headers and short bodies are gathered in a small buffer, the
//! rest of a record is stepped over, so that the cost is by record and not by byte.

use bytes::Bytes;
use net::ids::LogId;
use net::wire::body::{Backlog, Body, Bootstrap, Claim, Credit, Follow, Logs, Watermarks, records};
use net::wire::header::{HEADER_BYTES, Header};
use net::wire::opcode::Opcode;
use wal::Version;

use super::more::Before;
use super::{Violation, lz4};

/// Messages are what the protocol says.
pub const WIRE: &str = "streams carry messages";

/// Bytes of a record that say which it is: length, checksum, version.
const RECORD_NAME_BYTES: usize = 16;
const _: () = assert!(RECORD_NAME_BYTES <= wal::RECORD_HEADER_BYTES);

/// What a stream carried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Carried {
    /// Records follow.
    Records {
        /// The log that they are streamed from.
        log: LogId,
        /// Payload bytes that the stream says to have carried before.
        offset: u64,
        /// Their bytes.
        bytes: u64,
        /// They are part of a pass.
        of_pass: bool,
    },
    /// The name of one record.
    Record {
        /// Its version.
        version: Version,
        /// Its checksum, which covers key, origin and value.
        crc: u32,
    },
    /// A source's claim.
    Claim(Claim),
    /// A follower's vector.
    Watermarks(Watermarks),
    /// The logs that a source has, its own first.
    Logs(Logs),
    /// What a source does not stream on its live connection.
    Backlog(Backlog),
    /// A follower's wish.
    Follow(Follow),
    /// How far the source may send.
    Credit(Credit),
    /// What either side says of a bootstrap.
    Bootstrap(Bootstrap),
}

/// What the gathered bytes will be.
#[derive(Clone, Copy, Debug)]
enum Part {
    Header,
    RecordsHead {
        payload: usize,
    },
    /// A payload that is packed.
    Packed {
        len: usize,
        raw: usize,
    },
    Record {
        left: usize,
    },
    Body {
        opcode: Opcode,
        len: usize,
    },
}

/// One direction of a stream.
#[derive(Debug)]
pub struct Decoder {
    part: Part,
    gathered: Vec<u8>,
    before: Before,
    /// Bytes that nobody looks at, before `part`.
    skip: usize,
}

impl Default for Decoder {
    fn default() -> Decoder {
        Decoder { part: Part::Header, gathered: Vec::new(), before: Before::default(), skip: 0 }
    }
}

impl Decoder {
    /// Takes the next bytes and says what they complete.
    ///
    /// # Errors
    /// Those of `hear`; [`WIRE`].
    pub fn feed(
        &mut self,
        bytes: &[u8],
        mut hear: impl FnMut(Carried) -> Result<(), Violation>,
    ) -> Result<(), Violation> {
        self.take(bytes, &mut hear)
    }

    fn take(
        &mut self,
        mut bytes: &[u8],
        hear: &mut dyn FnMut(Carried) -> Result<(), Violation>,
    ) -> Result<(), Violation> {
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            let wanted = match self.part {
                Part::Header => HEADER_BYTES,
                Part::RecordsHead { .. } => records::HEAD_BYTES,
                Part::Record { .. } => RECORD_NAME_BYTES,
                Part::Body { len, .. } | Part::Packed { len, .. } => len,
            };
            let taken = (wanted - self.gathered.len()).min(bytes.len());
            self.gathered.extend_from_slice(&bytes[..taken]);
            bytes = &bytes[taken..];
            if self.skip > 0 || self.gathered.len() < wanted {
                return Ok(());
            }
            if let Part::Packed { raw, .. } = self.part {
                let records = lz4::unpacked(&self.gathered, raw).map_err(|text| Violation::new(WIRE, text))?;
                self.gathered.clear();
                self.part = Part::Record { left: records.len() };
                self.take(&records, hear)?;
                continue;
            }
            if let Part::Body { opcode: Opcode::More, .. } = self.part {
                let carried = self.before.more(&self.gathered).map_err(|text| Violation::new(WIRE, text))?;
                self.gathered.clear();
                self.part = Part::Header;
                carried.into_iter().try_for_each(&mut *hear)?;
                continue;
            }
            let carried = self.understand().map_err(|text| Violation::new(WIRE, text))?;
            self.gathered.clear();
            if let Some(carried) = carried {
                hear(carried)?;
            }
        }
    }

    /// The gathered bytes are whole.
    fn understand(&mut self) -> Result<Option<Carried>, String> {
        let text = |error: &dyn std::fmt::Display| format!("a stream carries what is no message: {error}");
        match self.part {
            Part::Header => {
                let header: &[u8; HEADER_BYTES] = self.gathered.first_chunk().ok_or("a header is whole")?;
                let header = Header::parse(header).map_err(|error| text(&error))?;
                let len = usize::try_from(header.body_bytes).map_err(|error| text(&error))?;
                match header.opcode {
                    Opcode::Records if len >= records::HEAD_BYTES => {
                        self.part = Part::RecordsHead { payload: len - records::HEAD_BYTES };
                    }
                    Opcode::Claim
                    | Opcode::More
                    | Opcode::Watermarks
                    | Opcode::Follow
                    | Opcode::Credit
                    | Opcode::Backlog
                    | Opcode::Logs
                    | Opcode::Bootstrap => {
                        self.part = Part::Body { opcode: header.opcode, len };
                    }
                    _ => self.skip = len,
                }
                Ok(None)
            }
            Part::RecordsHead { payload } => {
                let head = &self.gathered;
                let log = LogId {
                    node: net::ids::NodeId(u32_at(head, 0)),
                    incarnation: net::ids::Incarnation(u64_at(head, 4)),
                };
                let raw = u32_at(head, 28) as usize;
                self.part = match head[32] {
                    0 if raw != payload => return Err(format!("{payload} bytes of records are announced as {raw}")),
                    0 => Part::Record { left: payload },
                    1 => Part::Packed { len: payload, raw },
                    other => return Err(format!("records are packed in the unknown way {other}")),
                };
                if raw == 0 {
                    return Err("a batch without records".into());
                }
                let (flags, offset) = (u16::from_le_bytes([head[14], head[15]]), u64_at(head, 16));
                // What was asked for because it was lost is no part of the stream; its records are looked at all the same.
                if flags == records::REPAIR {
                    return Ok(None);
                }
                let of_pass = flags & records::PASS != 0;
                self.before.records(log, flags, offset, raw as u64);
                Ok(Some(Carried::Records { log, offset, bytes: raw as u64, of_pass }))
            }
            Part::Record { left } => {
                let record = &self.gathered;
                let len = u32_at(record, 0) as usize;
                let padded = len.next_multiple_of(wal::limits::RECORD_ALIGN_BYTES);
                if len < wal::RECORD_HEADER_BYTES || padded > left {
                    return Err(text(&format_args!("a record of {len} bytes in {left}")));
                }
                self.skip = padded - RECORD_NAME_BYTES;
                self.part = if padded < left { Part::Record { left: left - padded } } else { Part::Header };
                Ok(Some(Carried::Record { version: Version(u64_at(record, 8)), crc: u32_at(record, 4) }))
            }
            Part::Packed { .. } => Err("a packed payload is taken as a whole".into()),
            Part::Body { opcode, .. } => {
                self.part = Part::Header;
                let body = Bytes::copy_from_slice(&self.gathered);
                let carried = match opcode {
                    Opcode::Claim => Claim::decode(&body).map(|claim| {
                        self.before.claim(&claim);
                        Carried::Claim(claim)
                    }),
                    Opcode::Watermarks => Watermarks::decode(&body).map(Carried::Watermarks),
                    Opcode::Logs => Logs::decode(&body).map(Carried::Logs),
                    Opcode::Backlog => Backlog::decode(&body).map(Carried::Backlog),
                    Opcode::Follow => Follow::decode(&body).map(Carried::Follow),
                    Opcode::Bootstrap => Bootstrap::decode(&body).map(Carried::Bootstrap),
                    _ => Credit::decode(&body).map(Carried::Credit),
                };
                carried.map(Some).map_err(|error| text(&error))
            }
        }
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..].first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes[at..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}
