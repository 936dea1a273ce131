//! What the tests share: a log over files of a simulated disk, and recovery of such files.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use wal::limits::{DIRECT_ALIGN_BYTES, SECTOR_BYTES};
use wal::recovery::{Recovery, RecoveryError, judge, scan_segment};
use wal::{
    AppendError, Commit, CommitPath, Cookie, CoreId, FrameHeader, FrameKind, FrameRef, FrameView, Incarnation, Log,
    LogIdentity, Lsn, Mapping, MemoryMap, NodeId, Placement, RecordDraft, RecordOp, SEAL_OFFSET, SEGMENT_HEADER_BYTES,
    Sealed, Segment, SegmentHeader, SegmentLink, SegmentNumber, SyncRequest, Version, crc32c, frames,
    segment_file_name,
};

pub(crate) const NODE: NodeId = NodeId(0x0a00_0001);
pub(crate) const PEER: NodeId = NodeId(0x0a00_0002);
pub(crate) const RUN: Incarnation = Incarnation(0x1122_3344_5566_7788);
pub(crate) const CORE: CoreId = CoreId(0);

/// The smallest segment: 64 places of 64 bytes behind the header page.
pub(crate) const SEGMENT_BYTES: u64 = 8192;

/// Where the first frame of a segment stands in its file.
pub(crate) const BODY: usize = SEGMENT_HEADER_BYTES;

/// File name → contents.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

/// One sector's bytes.
type Sector = [u8; SECTOR_BYTES];

pub(crate) fn name_of(number: u64) -> String {
    segment_file_name(CORE, SegmentNumber(number))
}

/// Every use of a file draws a new cookie; the tests need the same ones each time.
pub(crate) fn cookie_of(run: Incarnation, number: SegmentNumber) -> Cookie {
    Cookie((run.0 ^ 0x5eed_c00c_1e00_0000).wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(number.0) | 1)
}

pub(crate) fn version(ms: u64) -> Version {
    Version::new(ms, 0, 7)
}

pub(crate) fn draft<'a>(ms: u64, key: &'a [u8], value: &'a [u8]) -> RecordDraft<'a> {
    RecordDraft { version: version(ms), origin: NODE, op: RecordOp::Put, expiry: None, key, value }
}

/// A file as a running process sees it and as the disk holds it.
#[derive(Debug)]
pub(crate) struct SimFile {
    memory: Arc<Mutex<Vec<u8>>>,
    durable: Vec<u8>,
    /// By sector, what it held since it was durable last, oldest first: any of them may reach the disk unasked.
    unsynced: BTreeMap<usize, Vec<Sector>>,
}

impl SimFile {
    fn new(contents: Vec<u8>) -> SimFile {
        SimFile { durable: contents.clone(), memory: Arc::new(Mutex::new(contents)), unsynced: BTreeMap::new() }
    }

    pub(crate) fn live(&self) -> Vec<u8> {
        self.memory.lock().expect("no test panics while it holds this").clone()
    }

    fn observe(&mut self) {
        let live = self.live();
        for (sector, bytes) in live.chunks_exact(SECTOR_BYTES).enumerate() {
            let known = self.unsynced.get(&sector).and_then(|held| held.last());
            let durable = &self.durable[sector * SECTOR_BYTES..][..SECTOR_BYTES];
            if known.map_or(durable, |held| held.as_slice()) != bytes {
                let bytes: Sector = bytes.try_into().expect("an exact chunk");
                self.unsynced.entry(sector).or_default().push(bytes);
            }
        }
    }
}

/// What a sync covers: by sector, how many of its unsynced contents existed when it began.
type Covered = BTreeMap<usize, usize>;

/// A log, its files, and what was appended to it.
#[derive(Debug)]
pub(crate) struct TestLog {
    pub(crate) log: Log<MemoryMap>,
    pub(crate) run: Incarnation,
    pub(crate) files: BTreeMap<SegmentNumber, SimFile>,
    /// Every record appended, padded, with its exclusive end.
    pub(crate) appended: Vec<(Vec<u8>, Lsn)>,
    /// Every frame sealed.
    pub(crate) frames: Vec<FrameRef>,
    /// Segments whose seals were handed out.
    pub(crate) seals: Vec<SegmentNumber>,
    in_flight: Option<(SyncRequest, Covered)>,
    old: fn(usize) -> Vec<u8>,
    path: CommitPath,
    pub(crate) ms: u64,
}

impl TestLog {
    pub(crate) fn new() -> TestLog {
        TestLog::on(RUN, 1, |len| vec![0; len])
    }

    /// The log of `run` from segment `first` on, in files that held `old` before.
    pub(crate) fn on(run: Incarnation, first: u64, old: fn(usize) -> Vec<u8>) -> TestLog {
        TestLog::on_path(run, first, old, CommitPath::Mmap)
    }

    pub(crate) fn on_path(run: Incarnation, first: u64, old: fn(usize) -> Vec<u8>, path: CommitPath) -> TestLog {
        let identity = LogIdentity { node: NODE, incarnation: run, core: CORE };
        let (mut segment, file) = prepare(run, SegmentNumber(first), Lsn(0), None, old);
        if path == CommitPath::Direct {
            segment.map = MemoryMap::from(segment.map.to_vec());
        }
        TestLog {
            log: Log::with_commit_path(identity, SEGMENT_BYTES, segment, path),
            path,
            run,
            files: BTreeMap::from([(SegmentNumber(first), file)]),
            appended: Vec::new(),
            frames: Vec::new(),
            seals: Vec::new(),
            in_flight: None,
            old,
            ms: 1000,
        }
    }

    pub(crate) fn supply(&mut self) {
        let plan = self.log.next_segment_plan();
        let (mut segment, file) = prepare(self.run, plan.number, plan.base, plan.previous, self.old);
        if self.path == CommitPath::Direct {
            segment.map = MemoryMap::from(segment.map.to_vec());
        }
        self.files.insert(plan.number, file);
        self.log.supply(segment);
    }

    /// Appends a record with a value of `len` bytes; a next segment is supplied when it is needed.
    pub(crate) fn put(&mut self, kind: FrameKind, len: usize) -> Placement {
        self.try_put(kind, len).unwrap_or_else(|error| {
            assert_eq!(error, AppendError::NoSegment);
            self.supply();
            self.try_put(kind, len).expect("a segment is ready and the value is small")
        })
    }

    pub(crate) fn try_put(&mut self, kind: FrameKind, len: usize) -> Result<Placement, AppendError> {
        let key = format!("key {}", self.appended.len());
        let value: Vec<u8> = (0..len).map(|at| u8::try_from(at % 251).expect("below 251")).collect();
        let origin = if kind == FrameKind::Followed { PEER } else { NODE };
        let draft = RecordDraft { origin, ..draft(self.ms + 1, key.as_bytes(), &value) };
        let placement = self.log.append_draft(kind, &draft)?;
        self.ms += 1;
        self.appended.push((draft.to_vec(), placement.end));
        self.observe();
        Ok(placement)
    }

    pub(crate) fn seal(&mut self) -> Option<Sealed> {
        let sealed = self.log.seal_group(version(self.ms));
        self.frames.extend(self.log.take_sealed_frames());
        self.observe();
        sealed
    }

    pub(crate) fn start_sync(&mut self) -> Option<SyncRequest> {
        let commit = self.log.next_commit()?;
        let request = commit.request();
        let file = self.files.get_mut(&request.segment).expect("the file of a segment");
        if let Commit::Write { offset, bytes, .. } = &commit {
            // Any of its sectors may reach the disk before it completes, in any order.
            assert!(offset.is_multiple_of(DIRECT_ALIGN_BYTES as u64) && bytes.len().is_multiple_of(DIRECT_ALIGN_BYTES));
            assert_eq!(bytes.as_ptr().align_offset(DIRECT_ALIGN_BYTES), 0, "direct I/O needs aligned memory");
            let at = usize::try_from(*offset).expect("small");
            file.memory.lock().expect("see live()")[at..at + bytes.len()].copy_from_slice(bytes);
            file.observe();
        }
        // Nothing outside the range of a sync has to reach the disk.
        let sectors = match &commit {
            Commit::Sync { range, .. } => range.start / SECTOR_BYTES as u64..range.end.div_ceil(SECTOR_BYTES as u64),
            Commit::Write { .. } => 0..u64::MAX,
        };
        let in_range = file.unsynced.iter().filter(|(sector, _)| sectors.contains(&(**sector as u64)));
        let covered = in_range.map(|(sector, held)| (*sector, held.len())).collect();
        self.in_flight = Some((request, covered));
        Some(request)
    }

    /// The sync in flight, if there is one, succeeds; seals that it made possible are written and not synced.
    pub(crate) fn finish_sync(&mut self) -> bool {
        let Some((request, covered)) = self.in_flight.take() else { return false };
        let file = self.files.get_mut(&request.segment).expect("the file of a segment");
        for (sector, count) in covered {
            let held = file.unsynced.get_mut(&sector).expect("only a sync removes contents");
            let synced = held.drain(..count).next_back().expect("counted when the sync began");
            file.durable[sector * SECTOR_BYTES..][..SECTOR_BYTES].copy_from_slice(&synced);
            if held.is_empty() {
                file.unsynced.remove(&sector);
            }
        }
        self.log.sync_done();
        self.write_seals();
        true
    }

    pub(crate) fn write_seals(&mut self) {
        for (number, block) in self.log.take_seals() {
            let at = usize::try_from(SEAL_OFFSET).expect("small");
            self.files[&number].memory.lock().expect("see live()")[at..at + block.len()].copy_from_slice(&block);
            self.seals.push(number);
        }
        self.observe();
    }

    /// Syncs until everything sealed is durable.
    pub(crate) fn sync(&mut self) {
        self.finish_sync();
        while self.start_sync().is_some() {
            self.finish_sync();
        }
    }

    /// Group commit: seal and sync.
    pub(crate) fn commit(&mut self) {
        self.seal();
        self.sync();
    }

    pub(crate) fn seal_idle(&mut self) -> bool {
        let sealed = self.log.seal_idle(version(self.ms));
        self.frames.extend(self.log.take_sealed_frames());
        self.observe();
        sealed
    }

    /// Seals the quiet log and syncs that.
    pub(crate) fn idle(&mut self) -> bool {
        let sealed = self.seal_idle();
        self.sync();
        sealed
    }

    fn observe(&mut self) {
        self.files.values_mut().for_each(SimFile::observe);
    }

    /// Kill -9: all that was stored is there.
    pub(crate) fn live(&self) -> Files {
        self.files.iter().map(|(number, file)| (segment_file_name(CORE, *number), file.live())).collect()
    }

    /// Power loss at its worst: only what syncs covered is there.
    pub(crate) fn durable(&self) -> Files {
        self.files.iter().map(|(number, file)| (segment_file_name(CORE, *number), file.durable.clone())).collect()
    }

    /// Every unsynced sector: its file, its number there, and the contents it may have instead of the durable one.
    pub(crate) fn unsynced(&self) -> Vec<(String, usize, Vec<Sector>)> {
        let of = |(number, file): (&SegmentNumber, &SimFile)| {
            let name = segment_file_name(CORE, *number);
            file.unsynced.iter().map(|(sector, held)| (name.clone(), *sector, held.clone())).collect::<Vec<_>>()
        };
        self.files.iter().flat_map(of).collect()
    }

    /// The records appended, without positions.
    pub(crate) fn records(&self) -> Vec<Vec<u8>> {
        self.appended.iter().map(|(record, _)| record.clone()).collect()
    }

    /// The header of a sealed frame, as it lies in its file.
    pub(crate) fn header(&self, frame: &FrameRef) -> FrameHeader {
        let bytes = &self.files[&frame.segment].live()[offset(frame)..];
        *FrameView::parse(bytes, frame.lsn, cookie_of(self.run, frame.segment)).expect("a sealed frame").header()
    }

    /// Durable, written, staged: in the order in which they must stand.
    pub(crate) fn positions(&self) -> [Lsn; 3] {
        [self.log.durable(), self.log.written(), self.log.staged()]
    }

    /// How many of them are acknowledged: durable by what the log says.
    pub(crate) fn acknowledged(&self) -> usize {
        self.appended.iter().filter(|(_, end)| *end <= self.log.durable()).count()
    }
}

/// A prepared segment and its file, whose body holds what it held before.
pub(crate) fn prepare(
    run: Incarnation,
    number: SegmentNumber,
    base: Lsn,
    previous: Option<SegmentLink>,
    old: fn(usize) -> Vec<u8>,
) -> (Segment<MemoryMap>, SimFile) {
    let cookie = cookie_of(run, number);
    let header = SegmentHeader {
        segment_bytes: SEGMENT_BYTES,
        node: NODE,
        incarnation: run,
        core: CORE,
        number,
        cookie,
        base,
        previous,
    };
    let mut contents = header.encode_page().to_vec();
    contents.extend(old(usize::try_from(SEGMENT_BYTES).expect("small") - BODY));
    let file = SimFile::new(contents);
    let map = MemoryMap::shared(Arc::clone(&file.memory));
    (Segment { number, cookie, base, map }, file)
}

pub(crate) fn recover(files: &Files) -> Result<Recovery, RecoveryError> {
    judge(NODE, files.iter().map(|(name, bytes)| scan_segment(name, bytes)).collect())
}

/// The records of all recovered logs in order, padded, read as the engine reads them: up to the end of each segment.
pub(crate) fn recovered_records(files: &Files, recovery: &Recovery) -> Vec<Vec<u8>> {
    let mut records = Vec::new();
    for segment in recovery.logs.iter().flat_map(|log| &log.segments) {
        let end = usize::try_from(segment.end.0 - segment.base.0).expect("small");
        let body = &files[&segment.file_name][BODY..end];
        for frame in frames(body, segment.base.plus(BODY as u64), segment.cookie) {
            let frame = frame.expect("recovered bytes hold whole frames");
            for record in frame.records() {
                let record = record.expect("recovered frames hold whole records");
                let mut bytes = record.bytes.to_vec();
                bytes.resize(record.padded_len(), 0);
                records.push(bytes);
            }
        }
    }
    records
}

/// What the caller of recovery does: writes the seals and unlinks what holds nothing.
pub(crate) fn apply(files: &mut Files, recovery: &Recovery) {
    for segment in recovery.logs.iter().flat_map(|log| &log.segments) {
        if let Some(block) = segment.seal_block() {
            write_seal(files.get_mut(&segment.file_name).expect("a recovered file"), &block);
        }
    }
    for name in &recovery.recyclable {
        files.remove(name).expect("a recyclable file");
    }
}

pub(crate) fn write_seal(file: &mut [u8], block: &[u8]) {
    let at = usize::try_from(SEAL_OFFSET).expect("small");
    file[at..at + block.len()].copy_from_slice(block);
}

/// Changes the frame's header and makes its checksum valid again.
pub(crate) fn rewrite(file: &mut [u8], at: usize, change: impl FnOnce(&mut [u8])) {
    change(&mut file[at..at + 64]);
    let crc = crc32c(&file[at + 8..at + 64]);
    file[at + 4..at + 8].copy_from_slice(&crc.to_le_bytes());
}

/// The file offset at which the frame stands.
pub(crate) fn offset(frame: &FrameRef) -> usize {
    usize::try_from(frame.offset).expect("small")
}

/// A small generator of numbers (splitmix64), so that a failure repeats.
pub(crate) struct Seeded(pub(crate) u64);

impl Seeded {
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % bound as u64).expect("below a usize")
    }
}

/// Bytes of a file that another log used before: whole frames of it, under another cookie.
pub(crate) fn recycled(len: usize) -> Vec<u8> {
    let mut other = TestLog::on(Incarnation(0x0bad), 1, |len| vec![0; len]);
    while other.log.room() > 600 {
        other.put(FrameKind::Originated, 150);
        other.seal();
    }
    let body = other.files[&SegmentNumber(1)].live()[BODY..].to_vec();
    assert!(body.len() == len && body.iter().filter(|&&byte| byte != 0).count() > len / 2);
    body
}

/// Whether the mapping is all zeros from `offset` on.
pub(crate) fn is_blank_from(map: &MemoryMap, offset: usize) -> bool {
    map.with(offset..map.len(), |bytes| bytes.iter().all(|&byte| byte == 0))
}
