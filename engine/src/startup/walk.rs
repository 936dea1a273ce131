//! One segment, read for the index while it is verified: what its records say, sorted by the core and the part of the index that has
//! each key. Segments may be walked at the same time, for a walk changes nothing: what it found is put together afterwards, in
//! the segments' order.

use std::path::PathBuf;

use wal::planted::{self, Fault};
use wal::recovery::{SegmentScan, Visit, scan_and_visit};
use wal::{ControlRecord, FrameKind, FrameView, Lsn, Mapping, NodeId, RecordOp, RecordView, Version};

use super::StartError;
use crate::clock::{Time, is_far_future};
use crate::replication::logs::MARK_EVERY_BYTES;
use crate::replication::residency::Allowed;
use crate::shard::HeldKey;
use crate::storage::index::{Index, Location, SegmentSlot};
use crate::storage::store::{Facts, Store};
use crate::storage::{KeyHash, NodeSecret};

const _: () = assert!(size_of::<Entry>() == 40);

/// For so many records of one table room is made before they come. More come only if there are more than a hundred million keys, or if
/// most are of the same key.
const ROOM_AT_A_TIME: usize = 1000;

/// What a walk has to know of the node.
#[derive(Clone, Debug)]
pub(super) struct Walker {
    pub(super) node: NodeId,
    pub(super) secret: NodeSecret,
    /// Of this run.
    pub(super) cores: u16,
    /// What is in the far future of it is held back.
    pub(super) time: Time,
    /// Groups of tables of each index, as a power of two: those of a group are filled together, so that they stay in the processor's
    /// caches meanwhile.
    pub(super) group_bits: u32,
    /// The directory, and what must be all that is in it, where that is not certain.
    pub(super) may_hold: Option<(PathBuf, Allowed)>,
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
    /// By core of this run.
    entries: Vec<Grouped>,
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
    /// Why it cannot be used, if it turns out to belong to a log.
    pub(super) unusable: Option<StartError>,
}

/// Records of one core.
#[derive(Debug, Default)]
struct Grouped {
    /// By group of tables; in each of them in the order of the log.
    entries: Vec<Entry>,
    /// Where each group ends.
    ends: Vec<usize>,
    /// Some stand for records of this node.
    stand_for_own: bool,
}

/// A segment that is being walked.
struct Walk<'a> {
    walker: &'a Walker,
    name: &'a str,
    walked: Walked,
    /// By core, in the order of the log.
    entries: Vec<Vec<Entry>>,
}

impl Walker {
    /// Verifies and reads the segment file `name`, which is `bytes`.
    pub(super) fn walk(&self, name: &str, bytes: &[u8]) -> (SegmentScan, Walked) {
        let cores = usize::from(self.cores);
        let mut walk = Walk {
            walker: self,
            name,
            walked: Walked {
                entries: Vec::new(),
                held: Vec::new(),
                controls: Vec::new(),
                marks: Vec::new(),
                originated: Version::ZERO,
                data: false,
                has_copies: false,
                floor: Version::ZERO,
                reached: Version::ZERO,
                records: 0,
                unusable: None,
            },
            entries: vec![Vec::new(); cores],
        };
        walk.walked.entries.resize_with(cores, Grouped::default);
        let scan = scan_and_visit(name, bytes, &mut walk);
        let mut walked = walk.walked;
        for (grouped, entries) in walked.entries.iter_mut().zip(walk.entries) {
            grouped.group(&entries, self.group_bits);
        }
        (scan, walked)
    }
}

impl Visit for Walk<'_> {
    fn frame(&mut self, frame: &FrameView<'_>) {
        // Whatever was shown lies in or below a group whose frames were sealed at this time.
        if !planted::is(Fault::ClockBelowCeiling) {
            self.walked.reached = self.walked.reached.max(frame.hlc());
        }
        self.walked.mark(frame.lsn());
        self.walked.has_copies |= frame.kind() == FrameKind::Compacted;
    }

    fn record(&mut self, kind: FrameKind, record: &RecordView<'_>, offset: usize) {
        let Walk { walker, name, walked, entries } = self;
        walked.records += 1;
        let far_future = is_far_future(record.version, walker.time);
        let is_own = kind == FrameKind::Originated || kind == FrameKind::Compacted && record.origin == walker.node;
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
                match ControlRecord::decode(record.key, record.value) {
                    Ok(control) => walked.controls.push((kind, control)),
                    Err(error) => {
                        let unusable = || StartError::Record(format!("{name}, byte {offset}: {error}"));
                        walked.unusable.get_or_insert_with(unusable);
                    }
                }
            }
            return;
        }
        if let Some((directory, may_hold)) = &walker.may_hold
            && !may_hold.may_hold(record.key)
        {
            let key = record.key.to_vec();
            let refused =
                || StartError::Residency { directory: directory.clone(), prefix: may_hold.refused_prefix(&key) };
            walked.unusable.get_or_insert_with(refused);
        }
        if record.op == RecordOp::Delete && planted::is(Fault::TombstonesForgotten) {
            return;
        }
        let hash = walker.secret.hash(record.key);
        let (core, offset, len) = (hash.core(walker.cores), narrow(offset), narrow(record.bytes.len()));
        // What this node acknowledged is never held back, whatever its clock says now.
        if far_future && !is_own {
            walked.held.push(Held { core, key: HeldKey::of(record, hash), offset, len });
            return;
        }
        walked.entries[usize::from(core)].stand_for_own |= kind == FrameKind::Compacted && !is_own;
        entries[usize::from(core)].push(Entry {
            hash,
            version: record.version,
            expiry_unix_ms: record.expiry.unwrap_or(0),
            offset,
            len,
            origin: record.origin,
            put: record.op == RecordOp::Put,
            expires: record.expiry.is_some(),
            is_copy: kind.is_compacted(),
        });
    }
}

impl Walked {
    fn mark(&mut self, at: Lsn) {
        if self.marks.last().is_none_or(|(_, last)| at.0 >= last.0 + MARK_EVERY_BYTES) {
            self.marks.push((self.originated, at));
        }
    }

    /// Gives part number `part`, of `2^part_bits`, of the store of `core` the records of its keys that stand in `segments`, which it
    /// knows by these slots.
    pub(super) fn index<M: Mapping>(
        segments: &[(&Walked, SegmentSlot)],
        core: usize,
        (part, part_bits): (usize, u32),
        store: &mut Store<M>,
        secret: NodeSecret,
    ) {
        let Some((first, _)) = segments.first() else { return };
        for (walked, slot) in segments {
            if walked.entries[core].stand_for_own {
                store.stands_for_own(*slot);
            }
        }
        let groups = first.entries[core].ends.len() >> part_bits;
        for group in part * groups..(part + 1) * groups {
            let entries = segments.iter().flat_map(|(walked, _)| walked.entries[core].of_group(group));
            store.expect(entries.map(|entry| entry.hash.0), ROOM_AT_A_TIME);
            for (walked, slot) in segments {
                for entry in walked.entries[core].of_group(group) {
                    store.recovered(secret, entry.hash, entry.location(*slot), entry.facts(), entry.is_copy);
                }
            }
        }
    }

    /// The records have been indexed: they are needed no more.
    pub(super) fn forget_records(&mut self) {
        self.entries = Vec::new();
    }
}

impl Grouped {
    fn of_group(&self, group: usize) -> &[Entry] {
        let start = group.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.entries[start..self.ends[group]]
    }

    /// Takes in records that are in the order of the log.
    fn group(&mut self, records: &[Entry], group_bits: u32) {
        let Some(first) = records.first() else {
            self.ends = vec![0; 1 << group_bits];
            return;
        };
        let mut next = vec![0usize; 1 << group_bits];
        let group_of = |entry: &Entry| Index::part_of(entry.hash.0, group_bits);
        for entry in records {
            next[group_of(entry)] += 1;
        }
        let mut start = 0;
        for count in &mut next {
            start += std::mem::replace(count, start);
        }
        self.entries = vec![*first; records.len()];
        for entry in records {
            let at = &mut next[group_of(entry)];
            self.entries[*at] = *entry;
            *at += 1;
        }
        self.ends = next;
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

fn narrow(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("a segment's bytes are counted in 32 bits")
}
