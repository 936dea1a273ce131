//! Reading frames and records from bytes of a segment: for recovery, the tailer and tools.

use crate::checksum::crc32c;
use crate::format::{FRAME_HEADER_BYTES, FrameError, FrameHeader, FrameKind, RecordError, RecordView, frame_bytes};
use crate::ids::Cookie;
use crate::limits::FRAME_ALIGN_BYTES;
use crate::lsn::Lsn;
use crate::planted;
use crate::version::Version;

/// A frame whose header and payload checksums were verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameView<'a> {
    header: FrameHeader,
    payload: &'a [u8],
}

impl<'a> FrameView<'a> {
    /// Reads the frame at the start of `bytes`, which should stand at `lsn` in the segment with `cookie`. The records are not
    /// looked at.
    ///
    /// # Errors
    /// See [`FrameError`]; [`FrameError::Incomplete`] if `bytes` end before the frame does.
    pub fn parse(bytes: &'a [u8], lsn: Lsn, cookie: Cookie) -> Result<FrameView<'a>, FrameError> {
        let header = FrameHeader::parse(bytes, lsn, cookie)?;
        let payload_end = FRAME_HEADER_BYTES + header.payload_len as usize;
        let total = frame_bytes(header.payload_len as usize);
        let frame = bytes.get(..total).ok_or(FrameError::Incomplete { needed: total, available: bytes.len() })?;
        let payload = &frame[FRAME_HEADER_BYTES..payload_end];
        if crc32c(payload) != header.payload_crc {
            return Err(FrameError::PayloadCrc);
        }
        if frame[payload_end..].iter().any(|&byte| byte != 0) {
            return Err(FrameError::Padding);
        }
        Ok(FrameView { header, payload })
    }

    /// Its header.
    #[must_use]
    pub fn header(&self) -> &FrameHeader {
        &self.header
    }

    /// Position of its first byte.
    #[must_use]
    pub fn lsn(&self) -> Lsn {
        self.header.lsn
    }

    /// Its exclusive end, padding included.
    #[must_use]
    pub fn end(&self) -> Lsn {
        self.header.end()
    }

    /// The core's clock when it was sealed.
    #[must_use]
    pub fn hlc(&self) -> Version {
        self.header.hlc
    }

    /// Whose records it holds.
    #[must_use]
    pub fn kind(&self) -> FrameKind {
        self.header.kind
    }

    /// How many records it holds; may be 0.
    #[must_use]
    pub fn records_count(&self) -> u32 {
        self.header.records
    }

    /// Its records, each padded to 8 bytes.
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// Whether the log goes on in the next segment.
    #[must_use]
    pub fn is_last_of_segment(&self) -> bool {
        self.header.flags.ends_segment()
    }

    /// Its records, each verified.
    #[must_use]
    pub fn records(&self) -> Records<'a> {
        Records { payload: self.payload, position: 0, failed: false }
    }

    /// Verifies every record and their number.
    ///
    /// # Errors
    /// [`FrameError::Record`] or [`FrameError::RecordCount`].
    pub fn verify_records(&self) -> Result<(), FrameError> {
        let mut found = 0;
        for record in self.records() {
            record.map_err(|error| FrameError::Record { index: found, error })?;
            found += 1;
        }
        let expected = self.header.records;
        if found == expected { Ok(()) } else { Err(FrameError::RecordCount { expected, found }) }
    }
}

/// The records of a frame. Ends after the first error.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    payload: &'a [u8],
    position: usize,
    failed: bool,
}

impl Records<'_> {
    /// Offset of the next record in the payload, in bytes: asked before each `next`, it says where that record lies.
    #[must_use]
    pub fn position(&self) -> usize {
        self.position
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<RecordView<'a>, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = &self.payload[self.position..];
        if rest.is_empty() || self.failed {
            return None;
        }
        let parsed = RecordView::parse(rest).and_then(|(record, padded)| {
            if padded > rest.len() {
                return Err(RecordError::Incomplete { needed: padded, available: rest.len() });
            }
            Ok((record, padded))
        });
        match parsed {
            Ok((record, padded)) => {
                self.position += padded;
                Some(Ok(record))
            }
            Err(error) => {
                self.failed = true;
                Some(Err(error))
            }
        }
    }
}

/// The frames in `bytes`, which begin with a frame at position `lsn` of the segment with `cookie`.
///
/// The iterator ends after the frame that ends its segment, where the bytes end (possibly inside a frame: see
/// [`Frames::consumed`]), and after the first error. Consecutive frames have to continue each other.
#[must_use]
pub fn frames(bytes: &[u8], lsn: Lsn, cookie: Cookie) -> Frames<'_> {
    Frames { bytes, lsn, cookie, consumed: 0, needed: None, previous: None, segment_ended: false, failed: false }
}

/// See [`frames`].
#[derive(Clone, Debug)]
pub struct Frames<'a> {
    bytes: &'a [u8],
    lsn: Lsn,
    cookie: Cookie,
    consumed: usize,
    needed: Option<usize>,
    previous: Option<u32>,
    segment_ended: bool,
    failed: bool,
}

impl Frames<'_> {
    /// Also requires the first frame to continue a frame with this header crc.
    #[must_use]
    pub fn continuing(mut self, previous_header_crc: u32) -> Self {
        self.previous = Some(previous_header_crc);
        self
    }

    /// Bytes of whole frames that were returned: where to go on with more bytes.
    #[must_use]
    pub fn consumed(&self) -> usize {
        self.consumed
    }

    /// Bytes, from [`Frames::consumed`] on, that the frame needs which the bytes at hand cut off.
    #[must_use]
    pub fn needed(&self) -> Option<usize> {
        self.needed
    }

    /// Whether the last frame returned was the segment's last.
    #[must_use]
    pub fn segment_ended(&self) -> bool {
        self.segment_ended
    }

    /// The header crc that the next frame must name.
    #[must_use]
    pub fn previous_header_crc(&self) -> Option<u32> {
        self.previous
    }
}

impl<'a> Frames<'a> {
    fn parse_next(&mut self) -> Result<FrameView<'a>, FrameError> {
        let parse = |at: usize| FrameView::parse(&self.bytes[at..], self.lsn.plus(at as u64), self.cookie);
        let parsed = parse(self.consumed);
        if parsed.is_err() && planted::is(planted::Fault::StaleFrameAfterCut) {
            let mut later = (self.consumed..self.bytes.len()).step_by(FRAME_ALIGN_BYTES);
            if let Some((at, frame)) = later.find_map(|at| Some((at, parse(at).ok()?))) {
                self.consumed = at;
                self.previous = None;
                return Ok(frame);
            }
        }
        parsed
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Result<FrameView<'a>, FrameError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.segment_ended || self.failed || self.consumed == self.bytes.len() {
            return None;
        }
        match self.parse_next() {
            Ok(frame) => {
                let found = frame.header.previous_header_crc;
                if let Some(expected) = self.previous.filter(|&expected| expected != found) {
                    self.failed = true;
                    return Some(Err(FrameError::Chain { expected, found }));
                }
                self.previous = Some(frame.header.header_crc);
                self.segment_ended = frame.header.flags.ends_segment();
                self.consumed += frame_bytes(frame.payload.len());
                Some(Ok(frame))
            }
            Err(FrameError::Incomplete { needed, .. }) => {
                self.failed = true;
                self.needed = Some(needed);
                None
            }
            Err(error) => {
                self.failed = true;
                Some(Err(error))
            }
        }
    }
}

/// Every place in `bytes` where the header of a frame of this segment stands intact, whatever lies between: evidence, not data.
/// Headers that only a newer version understands come as errors.
pub(crate) fn intact_headers(
    bytes: &[u8],
    lsn: Lsn,
    cookie: Cookie,
) -> impl Iterator<Item = (Lsn, Result<FrameHeader, FrameError>)> {
    (0..bytes.len()).step_by(FRAME_ALIGN_BYTES).filter_map(move |offset| {
        let at = lsn.plus(offset as u64);
        match FrameHeader::parse(&bytes[offset..], at, cookie) {
            Ok(header) => Some((at, Ok(header))),
            Err(error) if error.is_intact() => Some((at, Err(error))),
            Err(_) => None,
        }
    })
}
