//! One segment, read for the index: what its records say, sorted by the core that owns each key. Segments may be walked at the same
//! time, for a walk changes nothing: what it found is put together afterwards, in the segments' order.

use bytes::Bytes;
use wal::planted::{self, Fault};
use wal::recovery::RecoveredSegment;
use wal::{ControlRecord, FrameKind, Lsn, Mapping, NodeId, RecordOp, RecordView, SEGMENT_HEADER_BYTES, Version};

use super::StartError;
use crate::clock::{Time, is_far_future};
use crate::replication::logs::MARK_EVERY_BYTES;
use crate::shard::HeldKey;
use crate::storage::index::{Location, SegmentSlot};
use crate::storage::store::{Facts, Store, Verdict};
use crate::storage::{KeyHash, NodeSecret};

const _: () = assert!(size_of::<Entry>() == 40);

/// What a walk has to know of the node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Walker {
    pub(super) node: NodeId,
    pub(super) secret: NodeSecret,
    /// Of this run.
    pub(super) cores: u16,
    /// What is in the far future of it is held back.
    pub(super) time: Time,
}

/// A record that a store is to judge. One of them for each record is in memory until its segment is indexed.
#[derive(Clone, Copy, Debug)]
struct Entry {
    hash: KeyHash,
    version: Version,
    expiry_unix_ms: u64,
    /// In the segment, in bytes.
    offset: u32,
    /// Without padding, in bytes.
    len: u32,
    origin: NodeId,
    put: bool,
    expires: bool,
    /// Stands in a frame that compaction made.
    is_copy: bool,
    stands_for_own: bool,
}

/// A record that is held back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    pub(super) core: u16,
    pub(super) key: HeldKey,
    offset: u32,
    len: u32,
}

/// What a segment says.
#[derive(Debug)]
pub(super) struct Walked {
    /// The segment behind its header, for keys that have to be compared.
    bytes: Bytes,
    /// By core of this run; those of one key in the order of the log.
    entries: Vec<Vec<Entry>>,
    pub(super) held: Vec<Held>,
    /// Those of this node's own frames, in the order of the log.
    pub(super) controls: Vec<(FrameKind, ControlRecord)>,
    /// Places to start reading, each with the highest version that this segment originates before it.
    pub(super) marks: Vec<(Version, Lsn)>,
    /// The highest version that it originates.
    pub(super) originated: Version,
    /// This node originated something in it that followers must have.
    pub(super) data: bool,
    pub(super) has_copies: bool,
    /// Above or equal to every version in it that is not in the far future.
    pub(super) floor: Version,
    /// Where this node's clock was at least.
    pub(super) reached: Version,
    pub(super) records: u64,
}

impl Walker {
    /// Reads the segment in `map` up to its end, and verifies the frames once more: these are the bytes that will be served.
    pub(super) fn walk<M: Mapping>(&self, map: &M, segment: &RecoveredSegment) -> Result<Walked, StartError> {
        let unusable = |error: &dyn std::fmt::Display| StartError::Record(format!("{}: {error}", segment.file_name));
        let used = usize::try_from(segment.end.0 - segment.base.0).expect("64-bit target");
        let bytes = map.bytes(SEGMENT_HEADER_BYTES..used.max(SEGMENT_HEADER_BYTES));
        let mut walked = Walked::new(bytes.clone(), self.cores);
        let start = Lsn(segment.base.0 + SEGMENT_HEADER_BYTES as u64);
        for frame in wal::frames(&bytes, start, segment.cookie) {
            let frame = frame.map_err(|error| unusable(&error))?;
            // Whatever was shown lies in or below a group whose frames were sealed at this time.
            if !planted::is(Fault::ClockBelowCeiling) {
                walked.reached = walked.reached.max(frame.hlc());
            }
            walked.mark(frame.lsn());
            walked.has_copies |= frame.kind() == FrameKind::Compacted;
            let payload = frame.payload();
            let payload_at = SEGMENT_HEADER_BYTES + (payload.as_ptr() as usize - bytes.as_ptr() as usize);
            let mut at = 0;
            while at < payload.len() {
                let (record, len) =
                    RecordView::parse_trusted_prefix(&payload[at..]).map_err(|error| unusable(&error))?;
                self.take(&mut walked, frame.kind(), &record, narrow(payload_at + at))?;
                at += len;
            }
        }
        for entries in &mut walked.entries {
            sort(entries);
        }
        Ok(walked)
    }

    fn take(
        &self,
        walked: &mut Walked,
        kind: FrameKind,
        record: &RecordView<'_>,
        offset: u32,
    ) -> Result<(), StartError> {
        walked.records += 1;
        let far_future = is_far_future(record.version, self.time);
        let is_own = kind == FrameKind::Originated || kind == FrameKind::Compacted && record.origin == self.node;
        if is_own {
            if kind == FrameKind::Originated {
                walked.originated = walked.originated.max(record.version);
            }
            walked.data |= record.op != RecordOp::Control;
            walked.reached = walked.reached.max(record.version);
        }
        if !far_future {
            walked.floor = walked.floor.max(record.version);
        }
        if record.op == RecordOp::Control {
            // What another node's log says of itself changes nothing here, and may be of a kind that only its program knows.
            if kind != FrameKind::Followed {
                let control = ControlRecord::decode(record.key, record.value)
                    .map_err(|error| StartError::Record(error.to_string()))?;
                walked.controls.push((kind, control));
            }
            return Ok(());
        }
        if record.op == RecordOp::Delete && planted::is(Fault::TombstonesForgotten) {
            return Ok(());
        }
        let hash = self.secret.hash(record.key);
        let (core, len) = (hash.core(self.cores), narrow(record.bytes.len()));
        // What this node acknowledged is never held back, whatever its clock says now.
        if far_future && !is_own {
            walked.held.push(Held { core, key: HeldKey::of(record, hash), offset, len });
            return Ok(());
        }
        walked.entries[usize::from(core)].push(Entry {
            hash,
            version: record.version,
            expiry_unix_ms: record.expiry.unwrap_or(0),
            offset,
            len,
            origin: record.origin,
            put: record.op == RecordOp::Put,
            expires: record.expiry.is_some(),
            is_copy: kind.is_compacted(),
            stands_for_own: kind == FrameKind::Compacted && !is_own,
        });
        Ok(())
    }
}

impl Walked {
    fn new(bytes: Bytes, cores: u16) -> Walked {
        Walked {
            bytes,
            entries: vec![Vec::new(); usize::from(cores)],
            held: Vec::new(),
            controls: Vec::new(),
            marks: Vec::new(),
            originated: Version::ZERO,
            data: false,
            has_copies: false,
            floor: Version::ZERO,
            reached: Version::ZERO,
            records: 0,
        }
    }

    fn mark(&mut self, at: Lsn) {
        if self.marks.last().is_none_or(|(_, last)| at.0 >= last.0 + MARK_EVERY_BYTES) {
            self.marks.push((self.originated, at));
        }
    }

    /// Gives the store of `core` the records of its keys; it knows this segment as `slot`.
    pub(super) fn index<M: Mapping>(
        &self,
        core: u16,
        store: &mut Store<M>,
        slot: SegmentSlot,
    ) -> Result<(), StartError> {
        for entry in &self.entries[usize::from(core)] {
            if entry.stands_for_own {
                store.stands_for_own(slot);
            }
            let location = entry.location(slot);
            // Most keys are new: their records need not be looked at again.
            if store.lacks(entry.hash) {
                store.install(entry.hash, Verdict::First, location, entry.facts());
                continue;
            }
            let record = self.record(entry)?;
            match store.judge(entry.hash, &record) {
                // A copy: the later one counts, so that the segment it was made of can go.
                Verdict::Same if entry.is_copy => store.moved_to(entry.hash, &record, location),
                verdict => store.install(entry.hash, verdict, location, entry.facts()),
            }
        }
        Ok(())
    }

    fn record(&self, entry: &Entry) -> Result<RecordView<'_>, StartError> {
        let bytes = &self.bytes[entry.offset as usize - SEGMENT_HEADER_BYTES..];
        RecordView::parse_trusted(bytes).map_err(|error| StartError::Record(error.to_string()))
    }
}

impl Entry {
    fn location(&self, segment: SegmentSlot) -> Location {
        Location { segment, offset: self.offset, len_max: self.len }
    }

    fn facts(&self) -> Facts {
        Facts {
            version: self.version,
            origin: self.origin,
            put: self.put,
            expiry: self.expires.then_some(self.expiry_unix_ms),
            padded_len: self.len.next_multiple_of(8),
        }
    }
}

impl Held {
    pub(super) fn location(&self, segment: SegmentSlot) -> Location {
        Location { segment, offset: self.offset, len_max: self.len }
    }
}

/// Puts records in the order of the index's tables: a store that took them as they come would wait for memory at each of them.
/// Records that stand for others count from where they stand: where there are some, all keep their places.
fn sort(entries: &mut [Entry]) {
    if !entries.iter().any(|entry| entry.stands_for_own) {
        entries.sort_unstable_by_key(|entry| (entry.hash.0, entry.offset));
    }
}

fn narrow(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("a segment's bytes are counted in 32 bits")
}
