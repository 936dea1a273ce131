//! Valid logs, written by [`Log`] as an input says.

use std::collections::BTreeMap;

use wal::{
    Cookie, CoreId, FrameKind, Incarnation, Log, LogIdentity, Lsn, Mapping, MemoryMap, NextSegment, NodeId,
    RecordDraft, RecordOp, SEAL_OFFSET, SEGMENT_BYTES_MIN, SEGMENT_HEADER_BYTES, Segment, SegmentHeader, SegmentNumber,
    Version, segment_file_name,
};

use super::input::Input;

pub(super) const NODE: NodeId = NodeId(0x0a00_0001);

/// File name → contents.
pub(super) type Files = BTreeMap<String, Vec<u8>>;

/// What was appended to a log: each record padded, with its segment, in order.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) incarnation: Incarnation,
    pub(super) core: CoreId,
    pub(super) records: Vec<(SegmentNumber, Vec<u8>)>,
    /// How many of them stand in sealed frames.
    pub(super) sealed: usize,
}

/// Every use of a file has another cookie.
fn cookie_of(run: Incarnation, core: CoreId, number: SegmentNumber) -> Cookie {
    Cookie((run.0 ^ u64::from(core.0) << 48).wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(number.0 << 1) | 1)
}

/// A log that is being written.
pub(super) struct Writer {
    identity: LogIdentity,
    segment_bytes: u64,
    /// What the files held before they became segments; repeated, if it is shorter.
    old: Vec<u8>,
    log: Log<MemoryMap>,
    maps: BTreeMap<SegmentNumber, MemoryMap>,
    ms: u64,
    written: Written,
}

impl Writer {
    pub(super) fn new(incarnation: Incarnation, core: CoreId, first: u64, segment_bytes: u64, old: Vec<u8>) -> Writer {
        let identity = LogIdentity { node: NODE, incarnation, core };
        let plan = NextSegment { number: SegmentNumber(first), base: Lsn(0), previous: None };
        let segment = prepare(identity, plan, segment_bytes, &old);
        let maps = BTreeMap::from([(plan.number, segment.map.clone())]);
        let log = Log::new(identity, segment_bytes, segment);
        let written = Written { incarnation, core, records: Vec::new(), sealed: 0 };
        Writer { identity, segment_bytes, old, log, maps, ms: first * 1000, written }
    }

    /// One step of a log's life.
    pub(super) fn step(&mut self, input: &mut Input<'_>) {
        match input.below(8) {
            0..4 => self.put(input, 4),
            4 => self.put(input, 40),
            5 => self.seal(),
            6 => self.sync(),
            _ => {
                self.log.seal_idle(Version::new(self.ms, 0, 7));
                self.sync();
            }
        }
    }

    fn put(&mut self, input: &mut Input<'_>, scale: usize) {
        let kind = [FrameKind::Originated, FrameKind::Followed, FrameKind::Local][input.below(3)];
        let (origin, shape) = (u32::from(input.byte()), input.byte());
        let value = vec![shape; usize::from(input.byte()) * scale];
        self.ms += 1;
        let key = self.ms.to_le_bytes();
        let draft = RecordDraft {
            version: Version::new(self.ms, 0, 7),
            origin: NodeId(NODE.0 + origin),
            op: if shape % 4 == 0 { RecordOp::Delete } else { RecordOp::Put },
            expiry: (shape % 3 == 0).then_some(self.ms),
            key: &key[..usize::from(shape % 9)],
            value: &value,
        };
        let placement = self.log.append_draft(kind, &draft).or_else(|_| {
            let plan = self.log.next_segment_plan();
            let segment = prepare(self.identity, plan, self.segment_bytes, &self.old);
            self.maps.insert(plan.number, segment.map.clone());
            self.log.supply(segment);
            self.log.append_draft(kind, &draft)
        });
        // A record may be too large for the smallest segment: then only a segment was prepared ahead of need.
        if let Ok(placement) = placement {
            self.written.records.push((placement.segment, draft.to_vec()));
        }
    }

    fn seal(&mut self) {
        self.log.seal_group(Version::new(self.ms, 0, 7));
        self.written.sealed = self.written.records.len();
    }

    fn sync(&mut self) {
        self.seal();
        while self.log.next_commit().is_some() {
            self.log.sync_done();
        }
        let at = usize::try_from(SEAL_OFFSET).expect("inside the header page");
        for (number, block) in self.log.take_seals() {
            self.maps[&number].store(at, &block);
        }
    }

    /// The files as a killed process leaves them, and what is in them.
    pub(super) fn finish(self, files: &mut Files) -> Written {
        for (number, map) in &self.maps {
            files.insert(segment_file_name(self.identity.core, *number), map.to_vec());
        }
        self.written
    }

    pub(super) fn last_number(&self) -> u64 {
        self.maps.last_key_value().map_or(0, |(number, _)| number.0)
    }
}

fn prepare(identity: LogIdentity, plan: NextSegment, segment_bytes: u64, old: &[u8]) -> Segment<MemoryMap> {
    let cookie = cookie_of(identity.incarnation, identity.core, plan.number);
    let header = SegmentHeader {
        segment_bytes,
        node: identity.node,
        incarnation: identity.incarnation,
        core: identity.core,
        number: plan.number,
        cookie,
        base: plan.base,
        previous: plan.previous,
    };
    let len = usize::try_from(segment_bytes).expect("small");
    let mut contents = header.encode_page().to_vec();
    contents.extend(old.iter().copied().cycle().take(len - SEGMENT_HEADER_BYTES));
    contents.resize(len, 0);
    Segment { number: plan.number, cookie, base: plan.base, map: MemoryMap::from(contents) }
}

/// Up to three logs on two cores, and what stands in them.
pub(super) fn write_logs(input: &mut Input<'_>) -> (Files, Vec<Written>) {
    let mut files = Files::new();
    let mut written = Vec::new();
    let mut next_numbers = [1; 2];
    let mut old = Vec::new();
    for run in 0..=input.below(3) {
        let core = input.below(2);
        let segment_bytes = u64::from(SEGMENT_BYTES_MIN) * (1 + input.below(2) as u64);
        let recycled = if input.below(2) == 1 { std::mem::take(&mut old) } else { Vec::new() };
        let incarnation = Incarnation(0x1122_3344_5566_0000 + run as u64);
        let core_id = CoreId(u16::try_from(core).expect("two cores"));
        let mut writer = Writer::new(incarnation, core_id, next_numbers[core], segment_bytes, recycled);
        for _ in 0..input.below(64) {
            writer.step(input);
        }
        next_numbers[core] = writer.last_number() + 1;
        let last = segment_file_name(core_id, SegmentNumber(writer.last_number()));
        written.push(writer.finish(&mut files));
        old = files[&last][SEGMENT_HEADER_BYTES..].to_vec();
    }
    (files, written)
}
