//! Frames in and out of byte streams.

use bytes::{Bytes, BytesMut};

use super::body::Body;
use super::error::{EncodeError, WireError};
use super::header::{HEADER_BYTES, Header, check_magic, crc32c, crc32c_of_parts};
use super::limits::{CONTROL_BODY_BYTES_MAX, FEED_BYTES_MAX};
use super::opcode::Opcode;
use crate::ids::RequestId;

/// One frame whose header and guarded body bytes were verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Checked.
    pub header: Header,
    /// Checked against the header's checksum, as far as that covers it ([`Opcode::guarded_bytes`]).
    pub body: Bytes,
}

/// Cuts a byte stream into frames. Push-based: feed what arrived, then take frames until there is none.
///
/// Invariant: `buffer` starts at a frame boundary, or behind the header in `header`. It never holds more than the
/// current frame plus [`FEED_BYTES_MAX`]. After an error the reader stays in that error: boundaries are lost.
#[derive(Debug)]
pub struct FrameReader {
    buffer: BytesMut,
    header: Option<Header>,
    body_bytes_max: usize,
    failed: Option<WireError>,
}

impl Default for FrameReader {
    fn default() -> FrameReader {
        FrameReader::new()
    }
}

impl FrameReader {
    /// A reader for a peer that is not yet admitted: bodies up to [`CONTROL_BODY_BYTES_MAX`] only, so that a stranger
    /// cannot make this node hold more.
    #[must_use]
    pub fn new() -> FrameReader {
        FrameReader { buffer: BytesMut::new(), header: None, body_bytes_max: CONTROL_BODY_BYTES_MAX, failed: None }
    }

    /// The handshake is done and this link carries records: each opcode's own limit applies from here on.
    pub fn admit_records(&mut self) {
        self.body_bytes_max = Opcode::Records.body_bytes_max();
    }

    /// The handshake is done and this connection carries a client's requests or their answers: each opcode's own limit
    /// applies from here on.
    pub fn admit_values(&mut self) {
        self.body_bytes_max = Opcode::Put.body_bytes_max();
    }

    /// Takes over received bytes. Call [`FrameReader::next`] until `None` after each feed.
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.failed.is_some() {
            return;
        }
        if self.buffer.len() + bytes.len() > HEADER_BYTES + self.body_bytes_max + FEED_BYTES_MAX {
            self.fail(WireError::Flooded);
            return;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame, or `None` until more is fed.
    ///
    /// # Errors
    /// When the stream cannot go on; the same error from then on.
    #[expect(clippy::should_implement_trait, reason = "an iterator could not say that more bytes are needed")]
    pub fn next(&mut self) -> Result<Option<Frame>, WireError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        self.cut().inspect_err(|error| self.fail(error.clone()))
    }

    /// Bytes held, for budgets.
    #[must_use]
    pub fn buffered_bytes(&self) -> usize {
        self.buffer.len()
    }

    fn cut(&mut self) -> Result<Option<Frame>, WireError> {
        let header = match self.header {
            Some(header) => header,
            None => match self.cut_header()? {
                Some(header) => header,
                None => return Ok(None),
            },
        };
        let body_bytes = body_len(&header);
        if self.buffer.len() < body_bytes {
            self.header = Some(header);
            return Ok(None);
        }
        self.header = None;
        verified(header, self.buffer.split_to(body_bytes).freeze()).map(Some)
    }

    fn cut_header(&mut self) -> Result<Option<Header>, WireError> {
        if let Some(&first) = self.buffer.first() {
            check_magic(first)?;
        }
        let Some(bytes) = self.buffer.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let header = Header::parse(bytes)?;
        let len = believed_len(&header, self.body_bytes_max)?;
        drop(self.buffer.split_to(HEADER_BYTES));
        // The length is checked and bounded: one allocation for the body instead of doubling into it.
        self.buffer.reserve(len.saturating_sub(self.buffer.len()));
        Ok(Some(header))
    }

    fn fail(&mut self, error: WireError) {
        self.failed = Some(error);
        self.buffer = BytesMut::new();
    }
}

/// What [`cut_frame`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cut {
    /// The first frame, which is out of the input.
    Frame(Frame),
    /// It needs so many bytes, more than there are.
    Wants(usize),
}

/// Cuts the first frame out of input that the caller holds and bounds; bodies up to `body_bytes_max`. Nothing but the
/// caller's input is kept, so that its size is all there is to account for. After an error boundaries are lost.
///
/// # Errors
/// When the stream cannot go on.
pub fn cut_frame(input: &mut BytesMut, body_bytes_max: usize) -> Result<Cut, WireError> {
    if let Some(&first) = input.first() {
        check_magic(first)?;
    }
    let Some(bytes) = input.first_chunk::<HEADER_BYTES>() else { return Ok(Cut::Wants(HEADER_BYTES)) };
    let header = Header::parse(bytes)?;
    let frame_bytes = HEADER_BYTES + believed_len(&header, body_bytes_max)?;
    if input.len() < frame_bytes {
        return Ok(Cut::Wants(frame_bytes));
    }
    let frame = input.split_to(frame_bytes).freeze();
    verified(header, frame.slice(HEADER_BYTES..)).map(Cut::Frame)
}

/// The length of the body, if its opcode and the receiver allow it.
fn believed_len(header: &Header, body_bytes_max: usize) -> Result<usize, WireError> {
    let (opcode, len) = (header.opcode, body_len(header));
    let (min, max) = (opcode.body_bytes_min(), opcode.body_bytes_max().min(body_bytes_max));
    if len > max {
        return Err(WireError::BodyTooLarge { opcode: opcode.name(), len, max });
    }
    if len < min {
        return Err(WireError::BodyTooShort { opcode: opcode.name(), len, min });
    }
    Ok(len)
}

fn verified(header: Header, body: Bytes) -> Result<Frame, WireError> {
    let expected = crc32c(&body[..header.opcode.guarded_bytes(body.len())]);
    if header.body_crc != expected {
        return Err(WireError::BodyCrc { opcode: header.opcode.name(), found: header.body_crc, expected });
    }
    Ok(Frame { header, body })
}

fn body_len(header: &Header) -> usize {
    // A length beyond the address space would fail every limit; saturating keeps that true.
    usize::try_from(header.body_bytes).unwrap_or(usize::MAX)
}

/// Appends one frame whose body `write` appends. On an error `out` is as before.
///
/// # Errors
/// Those of `write`, and `BodyTooLarge`.
pub fn encode_frame(
    opcode: Opcode,
    request_id: RequestId,
    out: &mut Vec<u8>,
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), EncodeError>,
) -> Result<(), EncodeError> {
    let start = out.len();
    let written = encode_at(opcode, request_id, out, start, write);
    if written.is_err() {
        out.truncate(start);
    }
    written
}

/// Appends `body` as one frame. On an error `out` is as before.
///
/// # Errors
/// When a field is longer than the peer accepts.
pub fn encode_body<B: Body>(body: &B, request_id: RequestId, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    encode_frame(B::OPCODE, request_id, out, |out| body.encode(out))
}

/// Appends a frame without its end: `write` appends the body up to `tail`, whose bytes the caller sends as they are. On an
/// error `out` is as before.
///
/// # Errors
/// Those of `write`, and `BodyTooLarge`.
pub fn encode_frame_head(
    opcode: Opcode,
    request_id: RequestId,
    out: &mut Vec<u8>,
    tail: &[u8],
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), EncodeError>,
) -> Result<(), EncodeError> {
    let start = out.len();
    out.resize(start + HEADER_BYTES, 0);
    let header = write(out).and_then(|()| {
        let head = &out[start + HEADER_BYTES..];
        let body_bytes = checked_len(opcode, head.len() + tail.len())?;
        let guarded = opcode.guarded_bytes(head.len() + tail.len());
        let (head, tail) = (&head[..guarded.min(head.len())], &tail[..guarded.saturating_sub(head.len())]);
        Ok(Header { opcode, request_id, body_bytes, body_crc: crc32c_of_parts(&[head, tail]) })
    });
    match header {
        Ok(header) => out[start..start + HEADER_BYTES].copy_from_slice(&header.to_bytes()),
        Err(_) => out.truncate(start),
    }
    header.map(|_| ())
}

fn encode_at(
    opcode: Opcode,
    request_id: RequestId,
    out: &mut Vec<u8>,
    start: usize,
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), EncodeError>,
) -> Result<(), EncodeError> {
    out.resize(start + HEADER_BYTES, 0);
    write(out)?;
    let body = &out[start + HEADER_BYTES..];
    let header = seal(opcode, request_id, body, body.len())?;
    out[start..start + HEADER_BYTES].copy_from_slice(&header.to_bytes());
    Ok(())
}

/// The header of a body of `body_bytes` of which at least the guarded part is given.
pub(super) fn seal(
    opcode: Opcode,
    request_id: RequestId,
    guarded: &[u8],
    body_bytes: usize,
) -> Result<Header, EncodeError> {
    let short = checked_len(opcode, body_bytes)?;
    let body_crc = crc32c(&guarded[..opcode.guarded_bytes(guarded.len())]);
    Ok(Header { opcode, request_id, body_bytes: short, body_crc })
}

fn checked_len(opcode: Opcode, body_bytes: usize) -> Result<u32, EncodeError> {
    let max = opcode.body_bytes_max();
    match u32::try_from(body_bytes) {
        Ok(short) if body_bytes <= max => Ok(short),
        _ => Err(EncodeError::BodyTooLarge { opcode: opcode.name(), len: body_bytes, max }),
    }
}
