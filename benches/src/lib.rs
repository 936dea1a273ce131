//! What the micro-benchmarks measure: groups of records going into a log, with and without an index over them.

use std::collections::VecDeque;
use std::io;

use engine::clock::Time;
use engine::shard::{Shard, ShardIdentity, ShardSettings, WriteError};
use engine::storage::NodeSecret;
use engine::storage::store::Store;
use net::reactor::Mono;
use wal::{
    AppendError, CommitPath, Cookie, CoreId, EPOCH_2020_UNIX_MS, FrameKind, Incarnation, Log, LogIdentity, Lsn,
    MappedFile, Mapping, MemoryMap, NextSegment, NodeId, Populate, RecordDraft, RecordOp, SEGMENT_HEADER_BYTES,
    Segment, SegmentHeader, SegmentNumber, Version,
};

/// Records in a group: what one commit covers when a server is busy.
pub const GROUP_RECORDS: usize = 64;

/// Size of the segments that are appended to. Small enough for memory, large enough that a change of segments is rare.
pub const SEGMENT_BYTES: usize = 16 * 1024 * 1024;

/// Keys of the store, each overwritten in turn; fewer where the records are large.
const KEYS_MAX: usize = 100_000;

/// Segments that take turns. The newest records of all keys fill half of them, so that none is overwritten before its key is.
const SEGMENTS: usize = 4;

const NODE: NodeId = NodeId(9);
const RUN: Incarnation = Incarnation(1);
const CORE: CoreId = CoreId(0);
const KEY: &[u8; 16] = b"user:00000000042";

/// A value that makes a record of `record_bytes` with a key of 16 bytes.
///
/// # Panics
/// If the record is too short for the key.
#[must_use]
pub fn value_of_record(record_bytes: usize) -> Vec<u8> {
    vec![b'v'; record_bytes.checked_sub(wal::RECORD_HEADER_BYTES + KEY.len()).expect("room for the key")]
}

/// Memory for [`Appender`] and [`Writer`], with every page present.
#[must_use]
pub fn memory() -> Vec<MemoryMap> {
    (0..SEGMENTS).map(|_| MemoryMap::from(vec![1; SEGMENT_BYTES])).collect()
}

/// Mapped temporary files for [`Appender`] and [`Writer`], allocated and with every page present. They are never synced.
///
/// # Errors
/// Those of the file system.
pub fn mapped_files() -> io::Result<Vec<MappedFile>> {
    let map = |_| {
        let mut file = tempfile::tempfile()?;
        io::Write::write_all(&mut file, &vec![1; SEGMENT_BYTES])?;
        let map = MappedFile::map(&file, SEGMENT_BYTES)?;
        map.populate(0..SEGMENT_BYTES, Populate::Reading);
        Ok(map)
    };
    (0..SEGMENTS).map(map).collect()
}

/// Hands out the same few mappings again and again, as recycled files.
#[derive(Debug)]
struct Ring<M>(VecDeque<M>);

impl<M: Mapping> Ring<M> {
    fn segment(&mut self, plan: NextSegment) -> Segment<M> {
        self.0.rotate_left(1);
        Segment { number: plan.number, cookie: Cookie(plan.number.0), base: plan.base, map: self.0[0].clone() }
    }

    fn first(&mut self) -> Segment<M> {
        self.segment(NextSegment { number: SegmentNumber(1), base: Lsn(0), previous: None })
    }
}

/// A log that is appended to for ever.
#[derive(Debug)]
pub struct Appender<M: Mapping> {
    log: Log<M>,
    ring: Ring<M>,
    version: u64,
}

impl<M: Mapping> Appender<M> {
    /// A log over these mappings, each of [`SEGMENT_BYTES`].
    #[must_use]
    pub fn new(maps: Vec<M>) -> Self {
        let mut ring = Ring(maps.into());
        let identity = LogIdentity { node: NODE, incarnation: RUN, core: CORE };
        Appender { log: Log::new(identity, SEGMENT_BYTES as u64, ring.first()), ring, version: 1 }
    }

    /// Appends [`GROUP_RECORDS`] records with this value, seals them, and treats them as synced. Returns the durable position.
    ///
    /// # Panics
    /// If the value is too large for a segment.
    pub fn group(&mut self, value: &[u8]) -> Lsn {
        for _ in 0..GROUP_RECORDS {
            self.version += 1;
            let version = Version(self.version);
            let draft = RecordDraft { version, origin: NODE, op: RecordOp::Put, expiry: None, key: KEY, value };
            if self.log.append_draft(FrameKind::Originated, &draft) == Err(AppendError::NoSegment) {
                self.log.supply(self.ring.segment(self.log.next_segment_plan()));
                self.log.append_draft(FrameKind::Originated, &draft).expect("a segment is ready");
            }
        }
        self.log.seal_group(Version(self.version)).expect("a group was appended");
        while self.log.next_commit().is_some() {
            self.log.sync_done();
        }
        drop((self.log.take_sealed_frames(), self.log.take_seals()));
        self.log.durable()
    }
}

/// A shard that is written to for ever: clock, log, index.
#[derive(Debug)]
pub struct Writer<M: Mapping> {
    shard: Shard<M>,
    ring: Ring<M>,
    keys: Vec<[u8; 16]>,
    next: usize,
    ms: u64,
}

const SECRET: NodeSecret = NodeSecret(7);

impl<M: Mapping> Writer<M> {
    /// A shard over these mappings, each of [`SEGMENT_BYTES`], in which every key was written once.
    ///
    /// # Panics
    /// If the first writes find no room.
    #[must_use]
    pub fn new(maps: Vec<M>, value: &[u8]) -> Self {
        let mut ring = Ring(maps.into());
        let identity = ShardIdentity { node: NODE, incarnation: RUN, core: CORE, secret: SECRET };
        let first = ring.first();
        let settings = ShardSettings {
            segment_bytes: SEGMENT_BYTES as u64,
            value_bytes_max: 64 * 1024,
            commit_path: CommitPath::Mmap,
            cores: 1,
        };
        let shard = Shard::new(identity, settings, first, Store::new(10, NODE), Version::ZERO);
        let key = |number| format!("user:{number:011}").into_bytes().try_into().expect("16 bytes");
        let record_bytes = wal::padded_record_bytes(wal::RECORD_HEADER_BYTES + KEY.len() + value.len());
        let count = KEYS_MAX.min(SEGMENTS / 2 * SEGMENT_BYTES / record_bytes);
        let mut writer = Writer { shard, ring, keys: (0..count).map(key).collect(), next: 0, ms: EPOCH_2020_UNIX_MS };
        for _ in 0..count.div_ceil(GROUP_RECORDS) {
            writer.group(value);
        }
        writer
    }

    /// Overwrites [`GROUP_RECORDS`] keys with this value, seals them, and treats them as synced.
    ///
    /// # Panics
    /// If the value is too large for a segment.
    pub fn group(&mut self, value: &[u8]) -> Lsn {
        // Two thousand writes fit the version's counter in a millisecond.
        self.ms += 1;
        let time = Time { mono: Mono(1), unix_ms: self.ms };
        for _ in 0..GROUP_RECORDS {
            let key = &self.keys[self.next];
            self.next = (self.next + 1) % self.keys.len();
            let hash = SECRET.hash(key);
            if self.shard.put(hash, key, value, None, time) == Err(WriteError::NoSegment) {
                self.shard.supply(self.ring.segment(self.shard.log().next_segment_plan()));
                self.shard.put(hash, key, value, None, time).expect("a segment is ready");
            }
        }
        // The record that raises the clock's ceiling may find the segment full: the next group will have a segment.
        let _ = self.shard.seal_group();
        while self.shard.next_commit().is_some() {
            self.shard.sync_done();
        }
        self.shard.log_mut().take_seals();
        self.shard.log().durable()
    }
}

/// A segment of `segment_bytes` full of records, as a file holds it, with its name.
///
/// # Panics
/// If the format has no segments of that size.
#[must_use]
pub fn full_segment(segment_bytes: usize, value: &[u8]) -> (String, SegmentHeader, Vec<u8>) {
    let header = SegmentHeader {
        segment_bytes: segment_bytes as u64,
        node: NODE,
        incarnation: RUN,
        core: CORE,
        number: SegmentNumber(1),
        cookie: Cookie(1),
        base: Lsn(0),
        previous: None,
    };
    let map = MemoryMap::new(segment_bytes);
    map.store(0, &header.encode_page());
    let segment = Segment { number: header.number, cookie: header.cookie, base: header.base, map: map.clone() };
    let mut log = Log::new(LogIdentity { node: NODE, incarnation: RUN, core: CORE }, header.segment_bytes, segment);
    let mut version = 0;
    loop {
        version += 1;
        let draft =
            RecordDraft { version: Version(version), origin: NODE, op: RecordOp::Put, expiry: None, key: KEY, value };
        if log.append_draft(FrameKind::Originated, &draft).is_err() {
            break;
        }
        if version % GROUP_RECORDS as u64 == 0 {
            log.seal_group(Version(version));
        }
    }
    log.seal_group(Version(version));
    let mut bytes = map.to_vec();
    assert!(bytes.len() > SEGMENT_HEADER_BYTES);
    bytes.truncate(segment_bytes);
    (wal::segment_file_name(CORE, header.number), header, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_go_on_over_the_end_of_the_last_segment() {
        let value = value_of_record(1024);
        let mut appender = Appender::new(memory());
        let mut writer = Writer::new(memory(), &value);
        let (mut appended, mut written) = (Lsn(0), Lsn(0));
        let groups = SEGMENTS * SEGMENT_BYTES / (GROUP_RECORDS * 1024) + 10;
        for _ in 0..groups {
            let before = (appended, written);
            (appended, written) = (appender.group(&value), writer.group(&value));
            assert!(appended > before.0 && written > before.1, "every group becomes durable");
        }
        let end = Lsn((SEGMENTS * SEGMENT_BYTES) as u64);
        assert!(appended > end && written > end, "mappings were used twice");
    }
}
