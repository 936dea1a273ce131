//! From segments to the stores' indexes, and to what start-up has to know of each run.

use std::sync::atomic::{AtomicU64, Ordering};

use net::reactor::disk::{Disk, DurableError};
use wal::marks::{Mark, reach};
use wal::planted::{self, Fault};
use wal::recovery::{RecoveredLog, RecoveredSegment, Recovery, SegmentScan, judge};
use wal::{ControlRecord, FrameKind, Incarnation, Lsn};

use super::checkpoint::Files;
use super::retired::RetiredSegment;
use super::walk::{Walked, Walker};
use super::{Progress, Recovering, StartError, io_error};
use crate::host::Host;
use crate::replication::logs::SegmentRef;
use crate::replication::members::from_record;
use crate::storage::index::SegmentSlot;
use crate::storage::store::Store;

/// Parts of each store, as a power of two: so many threads may fill one at a time.
const PART_BITS: u32 = 4;

/// Groups of tables of each index, as a power of two: with ten million keys, those of a group take 200 KiB.
const GROUP_BITS: u32 = 10;

/// So many records, of one segment or several, are given to the stores at a time: enough that each table that comes into the
/// processor's caches gets many. They take 80 MB meanwhile.
const BATCH_RECORDS: u64 = 2_000_000;

/// Fewer records are not worth other threads.
const SHARED_RECORDS_MIN: u64 = 20_000;

/// What the segments say, read once.
pub(super) struct Pass<M> {
    pub(super) scans: Vec<SegmentScan>,
    /// Those that have frames, in the order in which they were indexed.
    indexed: Vec<Indexed>,
    /// How many of them were given to the stores.
    given: usize,
    /// Records of the others.
    waiting: u64,
    /// By core, in parts.
    stores: Vec<Vec<Store<M>>>,
    part_bits: u32,
    pub(super) bytes: u64,
}

/// A segment whose records the stores are given.
struct Indexed {
    file_name: String,
    /// Exclusive end of its frames.
    end: Lsn,
    walked: Walked,
    slot: SegmentSlot,
}

impl<M> Pass<M> {
    /// Whether the stores were given what the logs hold, and nothing else, in its order.
    pub(super) fn is_of(&self, recovery: &Recovery) -> bool {
        let kept = recovery.logs.iter().flat_map(|log| &log.segments).map(|segment| (&segment.file_name, segment.end));
        kept.eq(self.indexed.iter().map(|indexed| (&indexed.file_name, indexed.end)))
    }
}

impl<H: Host, D: Disk<File = H::File>> Recovering<'_, H, D> {
    /// Makes the files durable, verifies them, and gives their records to stores, each store in parts and all parts at a time, while the
    /// next files are read. Oldest first: what a later record says about a key is then usually newer, merge order never matters, and
    /// of copies the later one counts.
    pub(super) fn pass(
        &self,
        names: &[&String],
        files: &Files<H::File>,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<Pass<H::Map>, StartError> {
        let (node, table_bits) = (self.node, self.settings.index_table_bits);
        let (part_bits, group_bits) = (PART_BITS.min(table_bits), GROUP_BITS.min(table_bits));
        let may_hold = self.may_hold_less.then(|| (self.settings.data_dir.clone(), self.settings.may_hold.clone()));
        let (secret, cores, time) = (self.secret, self.settings.cores, self.time);
        let walker = Walker { node, secret, cores, time, group_bits, may_hold };
        let parts = || (0..1 << part_bits).map(|part| Store::part(table_bits, node, part_bits, part)).collect();
        let stores = (0..self.settings.cores).map(|_| parts()).collect();
        let (scans, indexed) = (Vec::new(), Vec::new());
        let mut pass = Pass { scans, indexed, given: 0, waiting: 0, stores, part_bits, bytes: 0 };
        let handles: Vec<H::File> = names.iter().map(|name| files[*name].clone()).collect();
        let bytes_read = AtomicU64::new(0);
        let walk = |index: usize, bytes: &[u8]| {
            bytes_read.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            walker.walk(names[index], bytes)
        };
        let mut failed = None;
        // A killed process's last frames may exist only in memory: they are made durable, then the disk is trusted.
        self.disk.each_durable(&handles, &walk, &mut |index, walked| {
            if failed.is_none() {
                failed = self.take_walked(names[index], &handles[index], walked, &mut pass).err();
                progress(Progress::Reading { done: index + 1, segments: names.len() });
            }
        });
        self.give_to_stores(&mut pass);
        pass.bytes = bytes_read.into_inner();
        failed.map_or(Ok(pass), Err)
    }

    /// Takes in what was found in a file.
    fn take_walked(
        &self,
        name: &str,
        file: &H::File,
        walked: Result<(SegmentScan, Walked), DurableError>,
        pass: &mut Pass<H::Map>,
    ) -> Result<(), StartError> {
        let path = self.path(name);
        let (scan, walked) = walked.map_err(|error| match error {
            DurableError::Sync(source) => {
                io_error(&path, "cannot be synced (start again; if that repeats, the disk is failing)")(source)
            }
            DurableError::Read(source) => io_error(&path, "cannot be read")(source),
        })?;
        if let (Some(end), Some(file_bytes)) = (scan.frames_end(), scan.segment_bytes()) {
            let map = H::map(file, file_bytes).map_err(io_error(&path, "cannot be mapped"))?;
            let mut slot = SegmentSlot(0);
            for store in pass.stores.iter_mut().flatten() {
                slot = store.add_segment(None, map.clone());
            }
            pass.waiting += walked.records;
            pass.indexed.push(Indexed { file_name: name.to_owned(), end, walked, slot });
        }
        pass.scans.push(scan);
        if pass.waiting >= BATCH_RECORDS {
            self.give_to_stores(pass);
        }
        Ok(())
    }

    /// Gives the records that wait to the stores.
    fn give_to_stores(&self, pass: &mut Pass<H::Map>) {
        let Pass { indexed, given, waiting, stores, part_bits, .. } = pass;
        let (batch, secret) = (&mut indexed[*given..], self.secret);
        let stores = stores.iter_mut().enumerate();
        let parts = stores.flat_map(|(core, stores)| (0..).zip(stores).map(move |(part, store)| (core, part, store)));
        let index = |(core, part, store): (usize, usize, &mut Store<H::Map>)| {
            let segments: Vec<_> = batch.iter().map(|indexed| (&indexed.walked, indexed.slot)).collect();
            Walked::index(&segments, core, (part, *part_bits), store, secret);
        };
        if *waiting < SHARED_RECORDS_MIN {
            parts.for_each(index);
        } else {
            self.disk.share_out(parts.collect(), &index);
        }
        batch.iter_mut().for_each(|indexed| indexed.walked.forget_records());
        (*given, *waiting) = (indexed.len(), 0);
    }

    /// Reads and judges the segments `names`, whose stores then hold what the logs do.
    pub(super) fn read_and_judge(
        &self,
        names: &[&String],
        files: &Files<H::File>,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<(Recovery, Pass<H::Map>), StartError> {
        let mut pass = self.pass(names, files, progress)?;
        progress(Progress::Read { segments: names.len(), bytes: pass.bytes });
        let recovery = judge(self.node, std::mem::take(&mut pass.scans))?;
        if pass.is_of(&recovery) {
            return Ok((recovery, pass));
        }
        // Frames that do not count are rare: they stand in segments behind a cut.
        reach(Mark::SegmentsReadAgain);
        let kept: Vec<&String> =
            recovery.logs.iter().flat_map(|log| &log.segments).map(|kept| &kept.file_name).collect();
        let again = self.pass(&kept, files, progress)?;
        if again.is_of(&recovery) {
            return Ok((recovery, again));
        }
        Err(StartError::Record("the segments changed while they were read; does another program write to them?".into()))
    }

    /// Takes in what was found.
    pub(super) fn take_pass(&mut self, logs: &[RecoveredLog], pass: Pass<H::Map>) -> Result<(), StartError> {
        self.stores = pass.stores.into_iter().map(Store::joined).collect();
        let kept = logs.iter().flat_map(|log| log.segments.iter().map(move |segment| (log, segment)));
        for ((log, segment), indexed) in kept.zip(pass.indexed) {
            self.take(log, segment, indexed.walked, indexed.slot)?;
        }
        Ok(())
    }

    /// What a segment of `log` says, but for its keys.
    fn take(
        &mut self,
        log: &RecoveredLog,
        segment: &RecoveredSegment,
        walked: Walked,
        slot: SegmentSlot,
    ) -> Result<(), StartError> {
        if let Some(error) = walked.unusable {
            return Err(error);
        }
        let incarnation = log.incarnation;
        if !self.runs.contains_key(&incarnation.0) {
            self.order.push(incarnation.0);
        }
        let slots = vec![slot; self.stores.len()];
        self.retired.entry(incarnation.0).or_default().push(RetiredSegment::new(log.core, segment, slots));
        self.records += walked.records;
        self.floor = self.floor.max(walked.floor);
        self.reached = self.reached.max(walked.reached);
        self.held.extend(walked.held.iter().map(|held| ((usize::from(held.core), held.key), held.location(slot))));
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
        for (kind, control) in walked.controls {
            self.take_control(incarnation, kind, control);
        }
        Ok(())
    }

    /// A control record of this node's own: each kind counts only in the frames where it belongs.
    pub(super) fn take_control(&mut self, incarnation: Incarnation, kind: FrameKind, control: ControlRecord) {
        let run = incarnation;
        match (kind, control) {
            // A local one repeats it, for a log whose first segment is gone.
            (
                FrameKind::Originated | FrameKind::Local,
                ControlRecord::Open { node, incarnation: opened, first, cores },
            ) if node == self.node && opened == incarnation => {
                self.runs.entry(incarnation.0).or_default().first = Some((first, cores));
            }
            // Another node's log exists.
            (FrameKind::Local, ControlRecord::Open { node, incarnation, first, cores }) if node != self.node => {
                self.known.insert((node, incarnation), (first, cores));
            }
            // How far a run before this one had got: the segments that say so may be gone.
            (FrameKind::Local, ControlRecord::Watermark { node, incarnation, version, .. }) if node == self.node => {
                let run = self.runs.entry(incarnation.0).or_default();
                run.highest = run.highest.max(version);
            }
            (FrameKind::Local, ControlRecord::Watermark { node, incarnation, version, rests_on, .. }) => {
                self.watermarks.push((run, (node, incarnation, version, rests_on)));
            }
            (FrameKind::Local, record @ ControlRecord::Membership { .. }) => {
                // A name that is none was never accepted from anyone.
                self.members.extend(from_record(&record));
            }
            (FrameKind::Local, record @ (ControlRecord::Forgotten { .. } | ControlRecord::Bootstrap { .. })) => {
                self.forgotten.learn(&record);
                if let ControlRecord::Forgotten { held, .. } | ControlRecord::Bootstrap { held, .. } = record {
                    let upto = self.held_upto.entry(run).or_default();
                    *upto = held.max(*upto);
                }
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
