//! What the log of a node says as a whole: the newest record of every key, and the newest control records. Kept in memory: about
//! 150 bytes and the key, for each key.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use wal::recovery::{SegmentEvidence, SegmentScan};
use wal::{
    ControlRecord, CoreId, FrameKind, Incarnation, NodeId, RecordOp, SegmentNumber, Version, padded_record_bytes,
};

use super::error::InspectError;
use super::load::Loaded;
use super::read::Contents;
use super::segment::{PlacedRecord, frames_of};

/// A log outside its node: one run of it.
pub(crate) type RunName = (NodeId, Incarnation);

/// The newest record of a key. Equal versions are told apart by the crc; records equal in both are taken for the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Newest {
    pub(crate) version: Version,
    pub(crate) crc: u32,
    pub(crate) origin: NodeId,
    pub(crate) is_put: bool,
    pub(crate) expiry: Option<u64>,
    /// Bytes that the record occupies in its segment.
    pub(crate) bytes: u64,
    /// Index into [`Snapshot::segments`].
    pub(crate) segment: usize,
}

/// What the newest record of a key makes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum KeyState {
    Live,
    Tombstone,
    Expired,
}

impl Newest {
    pub(crate) fn state(&self, now_unix_ms: u64) -> KeyState {
        match (self.is_put, self.expiry) {
            (false, _) => KeyState::Tombstone,
            (true, Some(expiry)) if expiry <= now_unix_ms => KeyState::Expired,
            (true, _) => KeyState::Live,
        }
    }

    fn rank(&self) -> (Version, u32) {
        (self.version, self.crc)
    }
}

/// A control record and where it lies.
#[derive(Clone, Debug)]
pub(crate) struct Control {
    pub(crate) record: ControlRecord,
    pub(crate) segment: usize,
}

/// A segment and what was counted in it.
#[derive(Clone, Debug)]
pub(crate) struct SegmentFacts {
    pub(crate) name: String,
    pub(crate) core: CoreId,
    pub(crate) number: SegmentNumber,
    pub(crate) incarnation: Incarnation,
    pub(crate) sealed: bool,
    pub(crate) records: u64,
    pub(crate) record_bytes: u64,
    /// The highest version that this node originated in it.
    pub(crate) originated_max: Option<Version>,
}

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) loaded: Loaded,
    pub(crate) keys: HashMap<Vec<u8>, Newest>,
    pub(crate) controls: Vec<Control>,
    pub(crate) segments: Vec<SegmentFacts>,
}

/// Collects a [`Snapshot`].
#[derive(Debug, Default)]
pub(crate) struct Collector {
    keys: HashMap<Vec<u8>, Newest>,
    controls: Vec<Control>,
    segments: Vec<SegmentFacts>,
}

impl Collector {
    pub(crate) fn keys(&self) -> &HashMap<Vec<u8>, Newest> {
        &self.keys
    }

    pub(crate) fn segment(&mut self, contents: &Contents<'_>) {
        let Some(segment) = contents.scan.segment() else { return };
        self.segments.push(facts(&contents.scan, segment));
        for frame in frames_of(contents.bytes, segment) {
            frame.records().for_each(|record| self.record(&record));
        }
    }

    fn record(&mut self, placed: &PlacedRecord<'_>) {
        let Some(index) = self.segments.len().checked_sub(1) else { return };
        let record = &placed.record;
        let bytes = padded_record_bytes(record.bytes.len()) as u64;
        let facts = &mut self.segments[index];
        facts.records += 1;
        facts.record_bytes += bytes;
        if placed.frame.kind() == FrameKind::Originated {
            facts.originated_max = facts.originated_max.max(Some(record.version));
        }
        if record.op == RecordOp::Control {
            if let Ok(record) = ControlRecord::decode(record.key, record.value) {
                self.controls.push(Control { record, segment: index });
            }
            return;
        }
        let found = Newest {
            version: record.version,
            crc: record.original_crc(),
            origin: record.origin,
            is_put: record.op == RecordOp::Put,
            expiry: record.expiry,
            bytes,
            segment: index,
        };
        match self.keys.get_mut(record.key) {
            Some(newest) if newest.rank() >= found.rank() => {}
            Some(newest) => *newest = found,
            None => {
                self.keys.insert(record.key.to_vec(), found);
            }
        }
    }
}

fn facts(scan: &SegmentScan, segment: SegmentEvidence<'_>) -> SegmentFacts {
    let header = segment.header();
    SegmentFacts {
        name: scan.file_name().to_owned(),
        core: header.core,
        number: header.number,
        incarnation: header.incarnation,
        sealed: segment.seal().is_some(),
        records: 0,
        record_bytes: 0,
        originated_max: None,
    }
}

impl Snapshot {
    pub(crate) fn load(path: &Path) -> Result<Snapshot, InspectError> {
        let mut collector = Collector::default();
        let loaded = Loaded::each(path, |contents| {
            collector.segment(contents);
            Ok(())
        })?;
        let Collector { keys, controls, segments } = collector;
        Ok(Snapshot { loaded, keys, controls, segments })
    }

    /// How far this node holds each log that it follows, by the newest watermark whose positions were all found, with the index
    /// of its control record.
    pub(crate) fn watermarks(&self) -> BTreeMap<RunName, (Version, usize)> {
        let mut newest: BTreeMap<RunName, (Version, usize)> = BTreeMap::new();
        for (index, control) in self.controls.iter().enumerate() {
            let ControlRecord::Watermark { node, incarnation, version, rests_on, .. } = &control.record else {
                continue;
            };
            let holds = rests_on.iter().all(|(incarnation, core, lsn)| {
                self.loaded.judgement.end_of(*incarnation, *core).is_some_and(|end| end >= *lsn)
            });
            let name = (*node, *incarnation);
            if holds && newest.get(&name).is_none_or(|(known, _)| version >= known) {
                newest.insert(name, (*version, index));
            }
        }
        newest
    }

    /// Where each run begins, as far as `open` records here tell.
    pub(crate) fn opened(&self) -> BTreeMap<RunName, Version> {
        let mut opened = BTreeMap::new();
        for control in &self.controls {
            if let ControlRecord::Open { node, incarnation, first, .. } = &control.record {
                opened.insert((*node, *incarnation), *first);
            }
        }
        opened
    }
}
