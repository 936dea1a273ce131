//! A run of records of one origin in fewer bytes, for links between regions. What follows from the rest is left out: the hash of the key,
//! the origin, the length, the padding. Nothing else is: the checksum travels, so that a record that was put together again is
//! verified like any other.
//!
//! Of each record, one after the other:
//!
//! | bytes | what |
//! |---|---|
//! | 1 | op in the low four bits, flags in the high ones |
//! | 1 to 3 | length of the key |
//! | 1 to 5 | length of the value |
//! | 1 to 10 | the version, less that of the record before it, zigzag: 0, -1, 1, -2 are 0, 1, 2, 3 |
//! | 4 | the checksum |
//! | 8 | the expiry, with its flag |
//! | | key and value |
//!
//! Lengths and versions are numbers of seven bits a byte, the lowest first, each byte but the last with its highest bit set.

use super::record::{
    EXPIRY_BYTES, RECORD_HEADER_BYTES, RecordFlags, RecordView, key_hash, padded_record_bytes, put_together,
};
use crate::ids::NodeId;
use crate::version::Version;

/// Why bytes are no records in the brief form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BriefError {
    /// They end in the middle of one.
    #[error("the records end in the middle of one")]
    Incomplete,
    /// A number has more bits than a version.
    #[error("a number in the head of a record is too long")]
    Number,
    /// Ops and flags are numbers below 16 that a record can have, and a length is one that it can have.
    #[error("the head of a record is impossible")]
    Head,
    /// More bytes than were announced.
    #[error("the records take more than the announced {0} bytes")]
    Room(usize),
}

/// One direction of a connection: both ends go along.
#[derive(Clone, Copy, Debug, Default)]
pub struct Brief {
    last: Version,
}

impl Brief {
    /// The brief form of a run of whole records with their padding; `None`, and nothing is remembered, if one of them is not of
    /// `origin` or is not what this version writes.
    #[must_use]
    pub fn shorten(&mut self, origin: NodeId, run: &[u8]) -> Option<Vec<u8>> {
        let mut out = Vec::with_capacity(run.len());
        let (mut at, mut last) = (0, self.last);
        while at < run.len() {
            let (record, len) = RecordView::parse_trusted_prefix(&run[at..]).ok()?;
            let (op, flags) = (record.op as u8, record.flags.0);
            if record.origin != origin || record.key_hash != key_hash(record.key) || op > 15 || flags > 15 {
                return None;
            }
            out.push(op | flags << 4);
            put_number(&mut out, record.key.len() as u64);
            put_number(&mut out, record.value.len() as u64);
            let step = record.version.0.wrapping_sub(last.0).cast_signed();
            put_number(&mut out, ((step << 1) ^ (step >> 63)).cast_unsigned());
            out.extend_from_slice(&record.crc().to_le_bytes());
            out.extend_from_slice(&record.bytes[RECORD_HEADER_BYTES..]);
            last = record.version;
            at += len;
        }
        self.last = last;
        (at == run.len()).then_some(out)
    }

    /// The records as they were, `raw_bytes` with their padding, and how many. Their checksums are not verified.
    ///
    /// # Errors
    /// See [`BriefError`]; what such bytes hold is never believed, and never takes more memory than announced.
    pub fn lengthen(
        &mut self,
        origin: NodeId,
        mut brief: &[u8],
        raw_bytes: usize,
    ) -> Result<(Vec<u8>, u32), BriefError> {
        let mut out = Vec::with_capacity(raw_bytes);
        let mut count = 0;
        while let Some((&kind, rest)) = brief.split_first() {
            brief = rest;
            let key_len = u16::try_from(number(&mut brief)?).map_err(|_| BriefError::Head)?;
            let value_len = usize::try_from(number(&mut brief)?).map_err(|_| BriefError::Head)?;
            let step = number(&mut brief)?;
            let step = (step >> 1) ^ (step & 1).wrapping_neg();
            let (crc, rest) = brief.split_first_chunk::<4>().ok_or(BriefError::Incomplete)?;
            let flags = RecordFlags(kind >> 4);
            let expiry = if flags.contains(RecordFlags::EXPIRY) { EXPIRY_BYTES } else { 0 };
            let body = value_len.checked_add(expiry + usize::from(key_len)).ok_or(BriefError::Head)?;
            let (body, rest) = rest.split_at_checked(body).ok_or(BriefError::Incomplete)?;
            brief = rest;
            let padded = padded_record_bytes(RECORD_HEADER_BYTES + body.len());
            if out.len() + padded > raw_bytes {
                return Err(BriefError::Room(raw_bytes));
            }
            self.last = Version(self.last.0.wrapping_add(step));
            let hash = key_hash(&body[expiry..][..key_len.into()]);
            put_together(&mut out, u32::from_le_bytes(*crc), self.last, hash, origin, kind & 15, flags, key_len, body);
            count += 1;
        }
        if out.len() == raw_bytes { Ok((out, count)) } else { Err(BriefError::Incomplete) }
    }
}

fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number > 0x7f {
        out.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    out.push(number.to_le_bytes()[0]);
}

fn number(bytes: &mut &[u8]) -> Result<u64, BriefError> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first().ok_or(BriefError::Incomplete)?;
        *bytes = rest;
        let bits = u64::from(byte & 0x7f);
        if bits << shift >> shift != bits {
            return Err(BriefError::Number);
        }
        number |= bits << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(BriefError::Number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{RecordDraft, RecordOp};

    const ORIGIN: NodeId = NodeId(7);

    fn draft<'a>(version: u64, key: &'a [u8], value: &'a [u8]) -> RecordDraft<'a> {
        RecordDraft { version: Version(version), origin: ORIGIN, op: RecordOp::Put, expiry: None, key, value }
    }

    fn runs() -> Vec<Vec<u8>> {
        let long = vec![7; 3_000];
        let expiring = RecordDraft { expiry: Some(1_800_000_000_000), ..draft(1 << 62, b"session", &long[..200]) };
        let stub = RecordView::parse_trusted(&expiring.to_vec()).unwrap().stub().unwrap();
        let deleted = RecordDraft { op: RecordOp::Delete, ..draft((1 << 62) + (1 << 22), b"user:1", b"") };
        vec![
            draft(1 << 62, b"user:1", b"a value").to_vec(),
            [draft(3, b"", b"").to_vec(), draft(u64::MAX, &long, &long).to_vec(), draft(1, b"k", &long).to_vec()]
                .concat(),
            [expiring.to_vec(), stub, deleted.to_vec()].concat(),
        ]
    }

    #[test]
    fn records_come_back_byte_for_byte() {
        let (mut here, mut there) = (Brief::default(), Brief::default());
        for (run, count) in runs().into_iter().zip([1, 3, 3]) {
            let brief = here.shorten(ORIGIN, &run).unwrap();
            assert!(brief.len() + 16 * count as usize <= run.len(), "{} of {}", brief.len(), run.len());
            assert_eq!(there.lengthen(ORIGIN, &brief, run.len()), Ok((run, count)));
        }
    }

    #[test]
    fn a_usual_record_has_a_head_of_eleven_bytes() {
        let mut here = Brief::default();
        let first = draft(1 << 62, b"user:000001", &[1; 100]).to_vec();
        here.shorten(ORIGIN, &first).unwrap();
        // A millisecond later.
        let second = draft((1 << 62) + (1 << 22), b"user:000002", &[2; 100]).to_vec();
        assert_eq!(here.shorten(ORIGIN, &second).unwrap().len(), 11 + 11 + 100);
    }

    #[test]
    fn what_would_not_come_back_has_no_brief_form() {
        let good = draft(9, b"k", b"v").to_vec();
        let mut here = Brief::default();
        assert_eq!(here.shorten(NodeId(8), &good), None);
        let mut other_hash = good.clone();
        other_hash[16] ^= 1;
        assert_eq!(here.shorten(ORIGIN, &other_hash), None);
        assert_eq!(here.shorten(ORIGIN, &good[..20]), None);
        // Nothing of it is remembered.
        assert_eq!(here.shorten(ORIGIN, &good), Brief::default().shorten(ORIGIN, &good));
    }

    #[test]
    fn bytes_that_are_no_records_are_refused() {
        for run in runs() {
            let brief = Brief::default().shorten(ORIGIN, &run).unwrap();
            for cut in 1..brief.len() {
                assert!(Brief::default().lengthen(ORIGIN, &brief[..cut], run.len()).is_err(), "{cut}");
            }
            for raw_bytes in [0, run.len() - 8, run.len() + 8] {
                assert!(Brief::default().lengthen(ORIGIN, &brief, raw_bytes).is_err(), "{raw_bytes}");
            }
        }
        let huge = [0x01, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, 0, 0, 0, 0, 0];
        assert_eq!(Brief::default().lengthen(ORIGIN, &huge, 64), Err(BriefError::Head));
        let endless = [[0x01, 1].as_slice(), &[0xff; 20]].concat();
        assert_eq!(Brief::default().lengthen(ORIGIN, &endless, 64), Err(BriefError::Number));
        let mut state = 1u64;
        for _ in 0..if cfg!(miri) { 100 } else { 20_000 } {
            let bytes: Vec<u8> = (0..40)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    state.to_be_bytes()[0] & 0x8f
                })
                .collect();
            // Nothing is promised but that nobody panics, and that it has the announced length.
            if let Ok((run, _)) = Brief::default().lengthen(ORIGIN, &bytes, 64) {
                assert_eq!(run.len(), 64);
            }
        }
    }
}
