//! What a node's device holds, read by the checkers' own eyes: no frame iterator, no recovery, no index of the engine.

use net::reactor::disk::Disk;
use net::reactor::sim::{SimDisk, SimFile};
use wal::{
    ControlRecord, Cookie, CoreId, EPOCH_2020_UNIX_MS, FileKind, FrameKind, FrameView, Lsn, NodeId, RecordOp,
    SealBlock, SealState, SegmentHeader, SegmentNumber, Version,
};

use crate::sim::node::data_dir;
use crate::sim::workload::writer_of;

/// One record, without its value.
#[derive(Clone, Debug, Eq)]
pub struct Record {
    /// Its place in the order of all writes.
    pub version: Version,
    /// Breaks ties: of the record as it was written.
    pub crc: u32,
    /// Of the record as it lies here: another one if its value was dropped after expiry.
    pub stored_crc: u32,
    /// What it does.
    pub op: RecordOp,
    /// Who wrote it.
    pub origin: NodeId,
    /// Milliseconds since 1970.
    pub expiry: Option<u64>,
    /// Its key.
    pub key: Vec<u8>,
    /// CRC-32C of its value.
    pub value_crc: u32,
    /// The client's operation that its value names.
    pub writer: Option<u64>,
}

/// A record whose value was dropped after expiry is the same record.
impl PartialEq for Record {
    fn eq(&self, other: &Record) -> bool {
        (&self.key, self.rank()) == (&other.key, other.rank())
    }
}

impl Record {
    /// A copy of the facts of a record in memory.
    #[must_use]
    pub fn of(view: &wal::RecordView<'_>) -> Record {
        Record {
            version: view.version,
            crc: view.original_crc(),
            stored_crc: view.crc(),
            op: view.op,
            origin: view.origin,
            expiry: view.expiry,
            key: view.key.to_vec(),
            value_crc: wal::crc32c(view.value),
            writer: writer_of(view.value),
        }
    }

    /// Its place in the merge order.
    #[must_use]
    pub fn rank(&self) -> (Version, u32) {
        (self.version, self.crc)
    }

    /// When nobody can read it any more, as a version; `None` if it does not die.
    #[must_use]
    pub fn dead_at(&self) -> Option<Version> {
        let expired = self.expiry.map(|expiry| Version::new(expiry.saturating_sub(EPOCH_2020_UNIX_MS), 0x7ff, 0x7ff));
        match self.op {
            RecordOp::Delete => Some(self.version),
            RecordOp::Put => expired.map(|expired| expired.max(self.version)),
            _ => None,
        }
    }

    /// Whether it is one node's word to itself or to others, not a key's.
    #[must_use]
    pub fn is_control(&self) -> bool {
        self.op == RecordOp::Control
    }
}

/// One frame.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Whose records.
    pub kind: FrameKind,
    /// Exclusive end.
    pub end: Lsn,
    /// The log was durable up to here when the frame was sealed.
    pub durable: Lsn,
    /// The core's clock when it was sealed, or a ceiling of it that the frame holds.
    pub hlc: Version,
    /// Whether the log goes on in the next segment.
    pub ends_segment: bool,
    /// Its records.
    pub records: Vec<Record>,
}

fn frame(bytes: &[u8], lsn: Lsn, cookie: Cookie) -> Result<Frame, String> {
    let view = FrameView::parse(bytes, lsn, cookie).map_err(|error| error.to_string())?;
    let (mut records, mut hlc) = (Vec::new(), view.header().hlc);
    for record in view.records() {
        let record = record.map_err(|error| error.to_string())?;
        // A run that died early may have left nothing else of its clock.
        if record.op == RecordOp::Control
            && let Ok(ControlRecord::ClockCeiling { version }) = ControlRecord::decode(record.key, record.value)
        {
            hlc = hlc.max(version);
        }
        records.push(Record::of(&record));
    }
    Ok(Frame {
        kind: view.kind(),
        end: view.end(),
        durable: view.header().durable,
        hlc,
        ends_segment: view.is_last_of_segment(),
        records,
    })
}

fn open(disk: &SimDisk, name: &str) -> Result<SimFile, String> {
    disk.open(&data_dir().join(name)).map_err(|error| format!("{name}: {error}"))
}

/// Looks at bytes of the device.
fn look<R>(
    disk: &SimDisk,
    file: &SimFile,
    offset: u64,
    len: u64,
    action: impl FnOnce(&[u8]) -> Result<R, String>,
) -> Result<R, String> {
    let len = usize::try_from(len).map_err(|error| error.to_string())?;
    disk.with_durable(file, offset, len, action).map_err(|error| error.to_string())?
}

/// A segment as the device holds it, up to its seal or its first invalid frame.
#[derive(Clone, Debug)]
pub struct Segment {
    /// Its header.
    pub header: SegmentHeader,
    /// Its frames.
    pub frames: Vec<Frame>,
}

/// All segments of a node's device, oldest first by core and number.
///
/// # Errors
/// If a segment's header does not parse.
pub fn segments(disk: &SimDisk) -> Result<Vec<Segment>, String> {
    let mut found = Vec::new();
    for name in names(disk)? {
        let read = |bytes: &[u8]| segment(bytes).map_err(|error| format!("{name}: {error}"));
        found.push(look_at_all(disk, &name, read)?);
    }
    found.sort_by_key(|segment| (segment.header.core, segment.header.number));
    Ok(found)
}

/// The file names of the segments.
fn names(disk: &SimDisk) -> Result<Vec<String>, String> {
    let mut names = disk.list(data_dir()).map_err(|error| error.to_string())?;
    names.retain(|name| matches!(wal::file_kind(name), FileKind::Segment { .. }));
    Ok(names)
}

fn look_at_all<R>(disk: &SimDisk, name: &str, action: impl FnOnce(&[u8]) -> Result<R, String>) -> Result<R, String> {
    let file = open(disk, name)?;
    let len = disk.len(&file).map_err(|error| error.to_string())?;
    look(disk, &file, 0, len, action)
}

fn segment(bytes: &[u8]) -> Result<Segment, String> {
    let header = SegmentHeader::parse(bytes).map_err(|error| error.to_string())?;
    let end = match SealBlock::read(bytes, header.link()) {
        SealState::Valid(seal) => seal.end,
        _ => header.base.plus(header.segment_bytes),
    };
    let mut frames = Vec::new();
    let mut next = header.first_frame();
    while next < end {
        let offset = usize::try_from(next.0 - header.base.0).map_err(|error| error.to_string())?;
        let Ok(frame) = frame(&bytes[offset..], next, header.cookie) else { break };
        next = frame.end;
        let last = frame.ends_segment;
        frames.push(frame);
        if last {
            break;
        }
    }
    Ok(Segment { header, frames })
}

/// Whether a node's device holds anything that tells a later run of an earlier one.
#[must_use]
pub fn any_frame(disk: &SimDisk) -> bool {
    let begins = |bytes: &[u8]| {
        let header = SegmentHeader::parse(bytes).map_err(|error| error.to_string())?;
        let offset = usize::try_from(header.first_frame().0 - header.base.0).map_err(|error| error.to_string())?;
        frame(&bytes[offset..], header.first_frame(), header.cookie)
    };
    names(disk).is_ok_and(|names| names.iter().any(|name| look_at_all(disk, name, begins).is_ok()))
}

/// Reads one core's running log behind its durable position, from the device.
#[derive(Clone, Debug)]
pub struct Tail {
    core: CoreId,
    number: SegmentNumber,
    cookie: Cookie,
    base: Lsn,
    segment_bytes: u64,
    file: SimFile,
    next: Lsn,
    ended: bool,
}

impl Tail {
    /// At the first frame of a segment.
    ///
    /// # Errors
    /// If the device does not hold its header.
    pub fn new(disk: &SimDisk, core: CoreId, number: SegmentNumber) -> Result<Tail, String> {
        let name = wal::segment_file_name(core, number);
        let file = open(disk, &name)?;
        let header = look(disk, &file, 0, wal::SEGMENT_HEADER_BYTES as u64, |page| {
            SegmentHeader::parse(page).map_err(|error| format!("{name}: {error}"))
        })?;
        Ok(Tail {
            core,
            number,
            cookie: header.cookie,
            base: header.base,
            segment_bytes: header.segment_bytes,
            file,
            next: header.first_frame(),
            ended: false,
        })
    }

    /// What was read so far.
    #[must_use]
    pub fn end(&self) -> Lsn {
        self.next
    }

    /// The frames up to `durable` that were not read yet.
    ///
    /// # Errors
    /// If the device does not hold what the node calls durable.
    pub fn read_to(&mut self, disk: &SimDisk, durable: Lsn) -> Result<Vec<Frame>, String> {
        let mut frames = Vec::new();
        while self.next < durable {
            if self.ended {
                *self = Tail::new(disk, self.core, self.number.next())?;
                continue;
            }
            let end = durable.min(self.base.plus(self.segment_bytes));
            let file = self.file.clone();
            look(disk, &file, self.next.0 - self.base.0, end.0 - self.next.0, |bytes| {
                let mut at = 0;
                while at < bytes.len() && !self.ended {
                    let frame = self.frame(&bytes[at..], durable)?;
                    at += usize::try_from(frame.end.0 - self.next.0).map_err(|error| error.to_string())?;
                    self.next = frame.end;
                    self.ended = frame.ends_segment;
                    frames.push(frame);
                }
                Ok(())
            })?;
        }
        Ok(frames)
    }

    fn frame(&self, bytes: &[u8], durable: Lsn) -> Result<Frame, String> {
        frame(bytes, self.next, self.cookie).map_err(|error| {
            format!(
                "core {} calls its log durable up to {durable}, but at {} of segment {} the device holds: {error}",
                self.core, self.next, self.number
            )
        })
    }
}
