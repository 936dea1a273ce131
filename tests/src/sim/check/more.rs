//! A reader of short batches from the protocol's description: the checkers' own, beside the one of the product.

use net::ids::{Class, LogId};
use net::wire::body::Claim;
use wal::Version;

use super::lz4;
use super::stream::Carried;

/// How far back a packed batch refers.
const WINDOW_BYTES: usize = 4096;

/// What one direction of a stream has carried, as far as short batches build on it.
#[derive(Debug, Default)]
pub struct Before {
    log: Option<LogId>,
    claimed: Option<u64>,
    /// Where the stream stands.
    offset: u64,
    window: Vec<u8>,
    version: u64,
}

impl Before {
    /// A batch in the long form.
    pub fn records(&mut self, log: LogId, flags: u16, offset: u64, bytes: u64) {
        if flags == 0 && self.log != Some(log) {
            (self.log, self.claimed) = (Some(log), None);
        }
        self.offset = offset + bytes;
    }

    /// A claim in the long form.
    pub fn claim(&mut self, claim: &Claim) {
        if self.log == Some(claim.log) {
            self.claimed = Some(claim.to.0);
        }
    }

    /// What a short batch carries, given its body.
    ///
    /// # Errors
    /// When it is none.
    pub fn more(&mut self, body: &[u8]) -> Result<Vec<Carried>, String> {
        let log = self.log.ok_or("a short batch without one before it")?;
        let (head, payload) = body.split_at_checked(8).ok_or("a short batch without its head")?;
        let claim_by = u64::from(u32::from_le_bytes([head[0], head[1], head[2], head[3]]));
        let raw = u64::from(u16::from_le_bytes([head[4], head[5]])) * 8;
        let records = match head[7] {
            0 => payload.to_vec(),
            1 => lz4::unpacked_behind(payload, &self.window)?,
            other => return Err(format!("a short batch with the unknown flags {other}")),
        };
        self.window.extend_from_slice(&records);
        self.window.drain(..self.window.len().saturating_sub(WINDOW_BYTES));
        let mut carried = vec![Carried::Records { log, offset: self.offset, bytes: raw, of_pass: false }];
        self.offset += raw;
        let (mut input, mut bytes) = (records.iter().copied(), 0);
        while input.len() > 0 {
            let (record, padded) = self.record(&mut input).ok_or("a short batch ends in the middle of a record")?;
            bytes += padded;
            carried.push(record);
        }
        if bytes != raw {
            return Err(format!("{bytes} bytes of records are announced as {raw}"));
        }
        if claim_by > 0 {
            let from = self.claimed.ok_or("a short claim without one before it")?;
            self.claimed = Some(from + claim_by);
            let (from, to) = (net::ids::Version(from), net::ids::Version(from + claim_by));
            carried.push(Carried::Claim(Claim { log, from, to, flags: 0, class: Class(0) }));
        }
        Ok(carried)
    }

    /// The next record, and how many bytes it has in a log.
    fn record(&mut self, input: &mut impl Iterator<Item = u8>) -> Option<(Carried, u64)> {
        let flags = input.next()? >> 4;
        let (key, value, step) = (number(input)?, number(input)?, number(input)?);
        let step = if step % 2 == 0 { step / 2 } else { !(step / 2) };
        self.version = self.version.wrapping_add(step);
        let mut crc = [0; 4];
        for byte in &mut crc {
            *byte = input.next()?;
        }
        let rest = key + value + if flags & 1 == 1 { 8 } else { 0 };
        for _ in 0..rest {
            input.next()?;
        }
        let record = Carried::Record { version: Version(self.version), crc: u32::from_le_bytes(crc) };
        Some((record, (32 + rest).next_multiple_of(8)))
    }
}

fn number(input: &mut impl Iterator<Item = u8>) -> Option<u64> {
    let (mut number, mut shift) = (0, 0);
    loop {
        let byte = input.next()?;
        number |= u64::from(byte & 127).checked_shl(shift)?;
        if byte < 128 {
            return Some(number);
        }
        shift += 7;
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use net::ids::{CoreIndex, Incarnation, NodeId, StreamOffset};
    use net::wire::Body;
    use net::wire::body::{Compression, RecordsHead};
    use net::wire::packing::Packer;

    use super::*;
    use engine::replication::brevity::Brevity;

    #[test]
    fn it_reads_what_the_product_shortens() {
        let log = LogId { node: NodeId(7), incarnation: Incarnation(8) };
        let head = |offset: u64, bytes: usize| RecordsHead {
            log,
            core: CoreIndex(0),
            flags: 0,
            stream_offset: StreamOffset(offset),
            count: 1,
            raw_bytes: bytes.try_into().unwrap(),
            compression: Compression::None,
        };
        let claim = |to: u64| {
            let (from, to) = (net::ids::Version(to - 5), net::ids::Version(to));
            Claim { log, from, to, flags: 0, class: Class(0) }
        };
        let (mut product, mut before, mut packer) = (Brevity::default(), Before::default(), Packer::default());
        product.records(&head(0, 800));
        before.records(log, 0, 0, 800);
        product.claim(&claim(100));
        before.claim(&claim(100));
        let mut offset = 800;
        for number in 1..200u64 {
            let record = wal::RecordDraft {
                version: Version(u64::MAX / number),
                origin: wal::NodeId(7),
                op: wal::RecordOp::Put,
                expiry: (number % 3 == 0).then_some(number << 40),
                key: format!("user:{number}").as_bytes(),
                value: &vec![7; usize::try_from(number * 3).unwrap()],
            }
            .to_vec();
            let crc = wal::RecordView::parse(&record).unwrap().0.crc();
            let len = record.len();
            let mut over = Some(claim(100 + 5 * number));
            let more =
                product.shorten(&head(offset, len), &[Bytes::from(record)], &mut over, Some(&mut packer)).unwrap();
            let mut body = Vec::new();
            more.encode(&mut body).unwrap();
            let carried = vec![
                Carried::Records { log, offset, bytes: len as u64, of_pass: false },
                Carried::Record { version: Version(u64::MAX / number), crc },
                Carried::Claim(claim(100 + 5 * number)),
            ];
            assert_eq!(before.more(&body), Ok(carried));
            offset += len as u64;
        }
    }
}
