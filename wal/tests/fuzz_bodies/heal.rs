//! Makes lengths and checksums fit, so that what lies under them is looked at.

use wal::limits::{FRAME_ALIGN_BYTES, SECTOR_BYTES};
use wal::{
    Cookie, FRAME_FIELDS, FRAME_HEADER_BYTES, FRAME_MAGIC, Lsn, RECORD_FIELDS, RECORD_HEADER_BYTES, SEAL_ENTRIES_MAX,
    SEAL_ENTRY_FIELDS, SEAL_FIELDS, SEAL_HEADER_BYTES, SEAL_OFFSET, SEGMENT_FIELDS, SEGMENT_HEADER_BYTES, crc32c,
    frame_bytes, padded_record_bytes,
};

type Fields = &'static [(&'static str, usize, usize)];

/// Offset and size of a field.
fn field(fields: Fields, name: &str) -> (usize, usize) {
    let (_, offset, size) = fields.iter().find(|(found, _, _)| *found == name).expect("a field of the format");
    (*offset, *size)
}

fn load(bytes: &[u8], fields: Fields, name: &str) -> u64 {
    let (offset, size) = field(fields, name);
    let mut value = [0; 8];
    value[..size].copy_from_slice(&bytes[offset..offset + size]);
    u64::from_le_bytes(value)
}

fn store(bytes: &mut [u8], fields: Fields, name: &str, value: u64) {
    let (offset, size) = field(fields, name);
    bytes[offset..offset + size].copy_from_slice(&value.to_le_bytes()[..size]);
}

fn load_len(bytes: &[u8], fields: Fields, name: &str) -> usize {
    usize::try_from(load(bytes, fields, name)).expect("a length has at most 32 bits")
}

/// Stores the checksum of everything behind it, up to `end`.
fn store_crc(bytes: &mut [u8], fields: Fields, name: &str, end: usize) {
    let (offset, size) = field(fields, name);
    let crc = crc32c(&bytes[offset + size..end]);
    store(bytes, fields, name, crc.into());
}

/// Makes the start of `bytes` a record as far as lengths and checksum go. Its padded length; `None` if nothing fits.
pub(super) fn heal_record(bytes: &mut [u8]) -> Option<usize> {
    if bytes.len() < RECORD_HEADER_BYTES {
        return None;
    }
    let mut len = load_len(bytes, RECORD_FIELDS, "len");
    // What would be left over is no record: it goes to this one.
    let left = bytes.len().saturating_sub(padded_record_bytes(len));
    if !(RECORD_HEADER_BYTES..=bytes.len()).contains(&len) || (1..RECORD_HEADER_BYTES).contains(&left) {
        len = bytes.len();
        store(bytes, RECORD_FIELDS, "len", len as u64);
    }
    store_crc(bytes, RECORD_FIELDS, "crc", len);
    let padded = padded_record_bytes(len);
    let end = padded.min(bytes.len());
    bytes[len..end].fill(0);
    Some(padded)
}

/// What is healed of a frame, besides its magic, place and header checksum.
#[derive(Clone, Copy)]
pub(super) struct Healing {
    records: bool,
    payload: bool,
    fields: bool,
    chain: bool,
}

impl From<u8> for Healing {
    fn from(bits: u8) -> Self {
        Healing { records: bits & 1 == 0, payload: bits & 2 == 0, fields: bits & 4 == 0, chain: bits & 8 == 0 }
    }
}

/// Makes frames of `bytes`, one behind the other, until a zero stands where the next one would begin.
pub(super) fn heal_frames(bytes: &mut [u8], lsn: Lsn, cookie: Cookie, healing: Healing) {
    let mut at = 0;
    let mut previous = 0;
    while let Some(rest) = bytes.get_mut(at..).filter(|rest| rest.len() >= FRAME_HEADER_BYTES && rest[0] != 0) {
        let room = rest.len() / FRAME_ALIGN_BYTES * FRAME_ALIGN_BYTES - FRAME_HEADER_BYTES;
        let mut payload_len = load_len(rest, FRAME_FIELDS, "payload_len");
        if healing.fields {
            payload_len = payload_len.min(room) / 8 * 8;
        }
        let mut records = load(rest, FRAME_FIELDS, "record_count");
        if let Some(payload) = rest.get_mut(FRAME_HEADER_BYTES..).and_then(|body| body.get_mut(..payload_len)) {
            if healing.records {
                records = heal_records(payload);
            }
            let crc = crc32c(payload);
            if healing.payload {
                store(rest, FRAME_FIELDS, "payload_crc", crc.into());
                let end = frame_bytes(payload_len).min(rest.len());
                rest[FRAME_HEADER_BYTES + payload_len..end].fill(0);
            }
        }
        let place = lsn.plus(at as u64).0;
        if healing.fields {
            let kind = 1 + load(rest, FRAME_FIELDS, "kind") % 3;
            let flags = load(rest, FRAME_FIELDS, "flags") & 1;
            let durable = load(rest, FRAME_FIELDS, "durable_lsn").min(place);
            let values = [("kind", kind), ("flags", flags), ("durable_lsn", durable), ("reserved", 0)];
            for (name, value) in values.into_iter().chain([("reserved_tail", 0)]) {
                store(rest, FRAME_FIELDS, name, value);
            }
            store(rest, FRAME_FIELDS, "payload_len", payload_len as u64);
            store(rest, FRAME_FIELDS, "record_count", records);
        }
        if healing.chain {
            store(rest, FRAME_FIELDS, "previous_header_crc", previous);
        }
        store(rest, FRAME_FIELDS, "magic", FRAME_MAGIC.into());
        store(rest, FRAME_FIELDS, "lsn", place);
        store(rest, FRAME_FIELDS, "cookie", cookie.0);
        store_crc(rest, FRAME_FIELDS, "header_crc", FRAME_HEADER_BYTES);
        previous = load(rest, FRAME_FIELDS, "header_crc");
        at += frame_bytes(payload_len);
    }
}

/// Makes records of the whole payload; their number.
fn heal_records(payload: &mut [u8]) -> u64 {
    let (mut at, mut records) = (0, 0);
    while let Some(rest) = payload.get_mut(at..).filter(|rest| !rest.is_empty()) {
        let Some(padded) = heal_record(rest) else { break };
        at += padded;
        records += 1;
    }
    records
}

/// Overwrites a byte of the frame header at `at`; its checksum fits afterwards.
pub(super) fn forge_frame(file: &mut [u8], at: usize, byte: usize, value: u8) {
    let Some(header) = file.get_mut(at..).and_then(|rest| rest.get_mut(..FRAME_HEADER_BYTES)) else { return };
    let (covered, _) = field(FRAME_FIELDS, "lsn");
    header[covered + byte % (FRAME_HEADER_BYTES - covered)] = value;
    store_crc(header, FRAME_FIELDS, "header_crc", FRAME_HEADER_BYTES);
}

/// Overwrites a byte of the seal block; its checksum fits afterwards.
pub(super) fn forge_seal(file: &mut [u8], byte: usize, value: u8) {
    let start = usize::try_from(SEAL_OFFSET).expect("inside the header page");
    let Some(block) = file.get_mut(start..SEGMENT_HEADER_BYTES) else { return };
    let (covered, _) = field(SEAL_FIELDS, "flags");
    let entry = SEAL_ENTRY_FIELDS.iter().map(|(_, _, size)| size).sum::<usize>();
    block[covered + byte % (SEAL_HEADER_BYTES + entry - covered)] = value;
    let entries = load_len(block, SEAL_FIELDS, "entry_count").min(SEAL_ENTRIES_MAX);
    store_crc(block, SEAL_FIELDS, "seal_crc", SEAL_HEADER_BYTES + entries * entry);
}

/// Overwrites a byte of the segment header; its checksum fits afterwards.
pub(super) fn forge_header(file: &mut [u8], byte: usize, value: u8) {
    let Some(sector) = file.get_mut(..SECTOR_BYTES) else { return };
    let (covered, _) = field(SEGMENT_FIELDS, "format_version");
    let end = SEGMENT_FIELDS.iter().map(|(_, offset, size)| offset + size).max().expect("fields");
    sector[covered + byte % (end - covered)] = value;
    store_crc(sector, SEGMENT_FIELDS, "header_crc", SECTOR_BYTES);
}
