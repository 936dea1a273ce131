//! From recovered logs to the stores' indexes, and to what start-up has to know of each run.

use std::collections::BTreeMap;

use net::reactor::disk::Disk;
use wal::planted::{self, Fault};
use wal::recovery::{RecoveredLog, RecoveredSegment};
use wal::{ControlRecord, FrameKind, Incarnation};

use super::retired::RetiredSegment;
use super::walk::{Walked, Walker};
use super::{Progress, Recovering, StartError, io_error};
use crate::host::Host;
use crate::replication::logs::SegmentRef;
use crate::storage::index::SegmentSlot;
use crate::storage::store::Store;

/// Segments that are walked before their records go to the stores: as many as there are threads at most. Each record in them takes 40
/// bytes of memory meanwhile.
const ROUND_SEGMENTS: usize = 8;

impl<H: Host, D: Disk<File = H::File>> Recovering<'_, H, D> {
    /// A round walks some segments at a time, then gives each store what is its own of them, all stores at a time. Oldest first: what
    /// a later record says about a key is then usually newer, merge order never matters, and of copies the later one counts.
    pub(super) fn index(
        &mut self,
        logs: &[RecoveredLog],
        files: &BTreeMap<String, H::File>,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<(), StartError> {
        let cores = self.settings.cores;
        let walker = Walker { node: self.node, secret: self.secret, cores, time: self.time };
        let segments: Vec<_> =
            logs.iter().flat_map(|log| log.segments.iter().map(move |segment| (log, segment))).collect();
        for (round, segments_of_round) in segments.chunks(ROUND_SEGMENTS).enumerate() {
            let mut found = Vec::new();
            for (_, segment) in segments_of_round {
                let path = self.path(&segment.file_name);
                let map = H::map(&files[&segment.file_name], segment.segment_bytes)
                    .map_err(io_error(&path, "cannot be mapped"))?;
                found.push((map, *segment));
            }
            let walked = self.disk.share_out(found.clone(), &|(map, segment)| walker.walk(&map, segment));
            let mut ready = Vec::new();
            for (((log, segment), (map, _)), walked) in segments_of_round.iter().zip(found).zip(walked) {
                let mut walked = walked?;
                let slots: Vec<_> = self.stores.iter_mut().map(|store| store.add_segment(None, map.clone())).collect();
                self.take(log, segment, &mut walked, &slots);
                ready.push((walked, slots));
            }
            let stores = (0..cores).zip(&mut self.stores).collect();
            let indexed = self.disk.share_out(stores, &|(core, store): (u16, &mut Store<H::Map>)| {
                ready.iter().try_for_each(|(walked, slots)| walked.index(core, store, slots[usize::from(core)]))
            });
            indexed.into_iter().collect::<Result<(), _>>()?;
            let done = round * ROUND_SEGMENTS + segments_of_round.len();
            progress(Progress::Indexing { done, segments: segments.len() });
        }
        Ok(())
    }

    /// What a segment of `log` says, but for its keys.
    fn take(&mut self, log: &RecoveredLog, segment: &RecoveredSegment, walked: &mut Walked, slots: &[SegmentSlot]) {
        let incarnation = log.incarnation;
        if !self.runs.contains_key(&incarnation.0) {
            self.order.push(incarnation.0);
        }
        let retired = RetiredSegment::new(log.core, segment, slots.to_vec());
        self.retired.entry(incarnation.0).or_default().push(retired);
        self.records += walked.records;
        self.floor = self.floor.max(walked.floor);
        self.reached = self.reached.max(walked.reached);
        self.held.extend(walked.held.iter().map(|held| {
            let core = usize::from(held.core);
            ((core, held.key), held.location(slots[core]))
        }));
        let run = self.runs.entry(incarnation.0).or_default();
        run.highest = run.highest.max(walked.originated);
        run.data |= walked.data;
        let core = run.cores.entry(log.core.0).or_default();
        core.end = log.end;
        core.segments.push(SegmentRef {
            core: log.core,
            number: segment.number,
            cookie: segment.cookie,
            base: segment.base,
            end: Some(segment.end),
        });
        let before = core.originated;
        core.marks.extend(walked.marks.iter().map(|(version, at)| (before.max(*version), *at)));
        core.originated = before.max(walked.originated);
        core.has_copies |= walked.has_copies;
        for (kind, control) in std::mem::take(&mut walked.controls) {
            self.take_control(incarnation, kind, control);
        }
    }

    /// A control record of this node's own: each kind counts only in the frames where it belongs.
    pub(super) fn take_control(&mut self, incarnation: Incarnation, kind: FrameKind, control: ControlRecord) {
        match (kind, control) {
            // A local one repeats it, for a log whose first segment is gone.
            (
                FrameKind::Originated | FrameKind::Local,
                ControlRecord::Open { node, incarnation: opened, first, cores },
            ) if node == self.node && opened == incarnation => {
                self.runs.entry(incarnation.0).or_default().first = Some((first, cores));
            }
            // How far a run before this one had got: the segments that say so may be gone.
            (FrameKind::Local, ControlRecord::Watermark { node, incarnation, version, .. }) if node == self.node => {
                let run = self.runs.entry(incarnation.0).or_default();
                run.highest = run.highest.max(version);
            }
            (FrameKind::Local, ControlRecord::Watermark { node, incarnation, version, rests_on, .. }) => {
                self.watermarks.push((node, incarnation, version, rests_on));
            }
            (FrameKind::Local, ControlRecord::ClockCeiling { .. }) if planted::is(Fault::ClockBelowCeiling) => {}
            (FrameKind::Local, ControlRecord::ClockCeiling { version }) => {
                self.reached = self.reached.max(version);
                let run = self.runs.entry(incarnation.0).or_default();
                run.highest = run.highest.max(version);
            }
            _ => {}
        }
    }
}
