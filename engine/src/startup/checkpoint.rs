//! A start from the checkpoint of the last stop, if there is one that fits the directory in every respect.
//!
//! Every file of it is verified, every segment's header and seal, and the last frames of each log. The rest of the logs is not
//! read. Whatever does not fit is said in the report, and the logs are read as if there were no checkpoint: it only ever
//! saves time.
//!
//! No checkpoint outlives the next start: it is removed, durably, before that run makes its first file. And one that somebody put
//! back would not fit: the run that came after it has segments, which it does not name.

mod fit;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use net::reactor::disk::Disk;
use net::reactor::{FileJob, Outcome};
use wal::marks::{Mark, reach};
use wal::planted::{self, Fault};
use wal::{ControlRecord, CoreId, FileKind, FrameKind, Incarnation, Mapping, RecordView};

use super::retired::RetiredSegment;
use super::{Progress, Recovering, StartError};
use crate::checkpoint::{
    Blocks, Content, CoreFacts, Damaged, FileHeader, HEADER_BYTES, HeldRecord, Loading, TableBits,
};
use crate::clock::earliest_unix_ms;
use crate::host::Host;
use crate::replication::logs::SegmentRef;
use crate::shard::{HeldKey, SegmentId};
use crate::storage::index::SegmentSlot;
use crate::storage::store::{KnownSegments, Store};

use fit::{FittingLog, FittingSegments, KeptSegment};

/// Why a checkpoint is not used.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ignored {
    /// Its files are not those of all cores.
    #[error("{0}")]
    Cores(String),
    /// A file of it.
    #[error("{0}: {1}")]
    File(String, String),
    /// The directory holds other segments.
    #[error("{0}")]
    Segments(String),
    /// A segment is not as it was.
    #[error("{0}: {1}")]
    Segment(String, String),
    /// Keys had expired that have not when this run begins.
    #[error("it was written {0} ms later than the time at which this run begins")]
    Later(u64),
}

impl Ignored {
    fn mark(&self) -> Mark {
        match self {
            Ignored::Cores(_) => Mark::CheckpointOfOtherCores,
            Ignored::File(..) => Mark::CheckpointDamaged,
            Ignored::Segments(_) => Mark::CheckpointOfOtherSegments,
            Ignored::Segment(..) => Mark::CheckpointSegmentChanged,
            Ignored::Later(_) => Mark::CheckpointFromLater,
        }
    }
}

/// Every segment file of the directory, by its name.
pub(super) type Files<F> = BTreeMap<String, F>;

/// A checkpoint that fits.
struct Fitting<M> {
    /// The run that wrote it.
    incarnation: Incarnation,
    /// By core of this run.
    facts: Vec<CoreFacts>,
    stores: Vec<Store<M>>,
    /// By core and age.
    logs: Vec<FittingLog<M>>,
    /// Segments that hold nothing of a log.
    unused: Vec<String>,
    bytes: u64,
}

impl<H: Host, D: Disk<File = H::File>> Recovering<'_, H, D> {
    /// Starts from the checkpoint among `names`; whether there is one that can be used.
    pub(super) fn read_checkpoint(
        &mut self,
        names: &[String],
        files: &Files<H::File>,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<bool, StartError> {
        let written = checkpoints(names);
        if written.is_empty() {
            return Ok(false);
        }
        match self.fit_checkpoint(&written, files, progress) {
            Ok(fitting) => {
                reach(Mark::CheckpointUsed);
                self.take_checkpoint(fitting)?;
                progress(Progress::Indexed { records: self.records });
                Ok(true)
            }
            Err(ignored) => {
                reach(ignored.mark());
                self.report.push(format!("the checkpoint is not used, the logs are read: {ignored}"));
                Ok(false)
            }
        }
    }

    /// Removes the files of a checkpoint, durably: what this run writes is not in them.
    pub(super) fn remove_checkpoints(&self, names: &[String]) -> Result<(), StartError> {
        if planted::is(Fault::StaleCheckpointBelieved) {
            return Ok(());
        }
        checkpoints(names).into_iter().try_for_each(|core| self.unlink(&wal::checkpoint_file_name(core)))
    }

    fn fit_checkpoint(
        &self,
        written: &BTreeSet<CoreId>,
        files: &Files<H::File>,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<Fitting<H::Map>, Ignored> {
        let (incarnation, bytes, contents) = self.load(written, progress)?;
        let reached = contents.iter().map(|content| content.facts.reached()).max().unwrap_or_default();
        let begins = self.time.unix_ms.max(earliest_unix_ms(reached)).max(reached.unix_ms());
        let expired = contents.iter().map(|content| content.facts.store.expired_through_unix_ms).max().unwrap_or(0);
        if expired > begins {
            return Err(Ignored::Later(expired - begins));
        }
        let facts: Vec<&CoreFacts> = contents.iter().map(|content| &content.facts).collect();
        let FittingSegments { logs, unused } = self.fit_segments(incarnation, &facts, files)?;
        let (mut stores, mut facts) = (Vec::new(), Vec::new());
        for (core, content) in (0..).map(CoreId).zip(contents) {
            let store = self.store(core, &content, &logs).ok_or_else(|| {
                Ignored::File(wal::checkpoint_file_name(core), "its parts contradict one another".into())
            });
            let Content { facts: core_facts, expiring, index } = content;
            let segments = store?;
            let store = Store::restored(self.node, index, core_facts.store, expiring, segments).ok_or_else(|| {
                Ignored::File(wal::checkpoint_file_name(core), "its counts contradict one another".into())
            })?;
            stores.push(store);
            facts.push(core_facts);
        }
        Ok(Fitting { incarnation, facts, stores, logs, unused, bytes })
    }

    /// Reads the files of all cores, a block of each at a time: the run that wrote them, their bytes, and what they hold.
    fn load(
        &self,
        written: &BTreeSet<CoreId>,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<(Incarnation, u64, Vec<Content>), Ignored> {
        let cores: BTreeSet<CoreId> = (0..self.settings.cores).map(CoreId).collect();
        if *written != cores {
            let text = format!("it is of {} cores, this run has {}", written.len(), cores.len());
            return Err(Ignored::Cores(text));
        }
        let mut open = Vec::new();
        for core in cores {
            let name = wal::checkpoint_file_name(core);
            let opened = self.open_checkpoint(core, &name);
            open.push(opened.map_err(|why| Ignored::File(name, why))?);
        }
        let incarnation = open[0].header.incarnation;
        if let Some(other) = open.iter().find(|file| file.header.incarnation != incarnation) {
            return Err(Ignored::Cores(format!(
                "core {} wrote its part in another run than core 0",
                other.header.core
            )));
        }
        let bytes: u64 = open.iter().map(|file| file.header.file_bytes).sum();
        let blocks: u32 = open.iter().map(|file| file.header.blocks).sum();
        let mut done = 0;
        loop {
            let mut round = Vec::new();
            for file in &mut open {
                if let Some((at, len)) = file.blocks.wanted() {
                    let block = self.read_cached(&file.file, at, len).map_err(|why| file.ignored(&why))?;
                    round.push((file, block));
                }
            }
            if round.is_empty() {
                break;
            }
            done += round.len();
            let taken = self.disk.share_out(round, &|(file, block): (&mut Open<H::File>, Bytes)| {
                let taken = file.blocks.take(&block).and_then(|payload| file.loading.take(payload));
                taken.map_err(|damaged| file.ignored(&damaged))
            });
            taken.into_iter().collect::<Result<(), Ignored>>()?;
            progress(Progress::Loading { done, blocks: blocks as usize });
        }
        let mut contents = Vec::new();
        for file in open {
            let core = file.header.core;
            let damaged = |damaged: Damaged| Ignored::File(wal::checkpoint_file_name(core), damaged.to_string());
            contents.push(file.loading.finish().map_err(damaged)?);
        }
        Ok((incarnation, bytes, contents))
    }

    fn open_checkpoint(&self, core: CoreId, name: &str) -> Result<Open<H::File>, String> {
        let file = self.disk.open(&self.path(name)).map_err(|error| error.to_string())?;
        let file_bytes = self.disk.len(&file).map_err(|error| error.to_string())?;
        let page = self.read_cached(&file, 0, HEADER_BYTES)?;
        let header = FileHeader::parse(&page).map_err(|damaged| damaged.to_string())?;
        if (header.node, header.core, header.cores) != (self.node, core, self.settings.cores) {
            return Err(format!("it is of core {} of {} of node {:08x}", header.core, header.cores, header.node.0));
        }
        if header.table_bits != TableBits(self.settings.index_table_bits) {
            return Err("its index has another number of tables".into());
        }
        let blocks = Blocks::new(header, file_bytes).map_err(|damaged| damaged.to_string())?;
        let loading = Loading::new(&header);
        Ok(Open { file, header, blocks, loading })
    }

    /// Through the page cache: a checksum covers every byte, and says of whichever bytes there are that they are the right ones.
    fn read_cached(&self, file: &H::File, offset: u64, len: usize) -> Result<Bytes, String> {
        let len = u32::try_from(len).map_err(|error| error.to_string())?;
        match self.disk.run(FileJob::ReadBulk { file: file.clone(), offset, len }) {
            Ok(Outcome::Bulk(bytes)) => Ok(bytes),
            Ok(other) => Err(format!("a read gave {other:?}")),
            Err(error) => Err(error.to_string()),
        }
    }

    /// The segments of a core's store by slot, if they fit what it says of them.
    fn store(&self, core: CoreId, content: &Content, logs: &[FittingLog<H::Map>]) -> Option<KnownSegments<H::Map>> {
        let facts = &content.facts;
        let maps: BTreeMap<SegmentId, &KeptSegment<H::Map>> =
            logs.iter().flat_map(|log| log.segments.iter().map(|kept| (kept.id(log.core), kept))).collect();
        let slots = facts.segments.iter().map(|segment| segment.slot.0 as usize + 1).max().unwrap_or(0);
        let mut segments: KnownSegments<H::Map> = Vec::new();
        segments.resize_with(slots, || None);
        for segment in &facts.segments {
            match maps.get(&segment.id) {
                Some(kept) => segments[segment.slot.0 as usize] = Some((kept.map.clone(), segment.counts)),
                // Nothing of a log lies in it.
                None if segment.counts.entries == 0 => {}
                None => return None,
            }
        }
        // They are read once they are due, or copied: like everything that is read without a look at its checksum they have to be
        // what they were.
        let is_there = |held: &HeldRecord| {
            let Some(Some((map, _))) = segments.get(held.location.segment.0 as usize) else { return false };
            let range = held.location.offset as usize..map.len();
            map.with(range, |bytes| {
                let record = RecordView::parse(bytes).ok().map(|(record, _)| record);
                record.is_some_and(|record| {
                    let hash = self.secret.hash(record.key);
                    hash.core(self.settings.cores) == core.0 && HeldKey::of(&record, hash) == held.key
                })
            })
        };
        facts.held.iter().all(is_there).then_some(segments)
    }

    /// Begins where the checkpoint ends.
    fn take_checkpoint(&mut self, fitting: Fitting<H::Map>) -> Result<(), StartError> {
        let Fitting { incarnation, facts, stores, logs, unused, bytes } = fitting;
        self.stores = stores;
        let (segments, entries) = (
            logs.iter().map(|log| log.segments.len()).sum::<usize>(),
            facts.iter().map(|facts| facts.store.entries).sum::<u64>(),
        );
        let mut slots: Vec<BTreeMap<SegmentId, SegmentSlot>> = facts
            .iter()
            .map(|facts| facts.segments.iter().map(|segment| (segment.id, segment.slot)).collect())
            .collect();
        for log in &logs {
            self.take_log(log, &mut slots);
        }
        for (core, facts) in facts.into_iter().enumerate() {
            self.take_core(core, incarnation, facts);
        }
        self.report
            .push(format!("started from the checkpoint: {entries} keys in {segments} segments, {bytes} bytes read"));
        for name in &unused {
            self.unlink(name)?;
        }
        Ok(())
    }

    fn take_log(&mut self, log: &FittingLog<H::Map>, slots: &mut [BTreeMap<SegmentId, SegmentSlot>]) {
        let incarnation = log.incarnation;
        if !self.runs.contains_key(&incarnation.0) {
            self.order.push(incarnation.0);
        }
        self.ends.insert((incarnation, log.core), log.end);
        let run = self.runs.entry(incarnation.0).or_default();
        let core = run.cores.entry(log.core.0).or_default();
        core.end = log.end;
        for kept in &log.segments {
            let id = kept.id(log.core);
            core.segments.push(SegmentRef {
                core: log.core,
                number: kept.number,
                cookie: kept.cookie,
                base: kept.base,
                end: Some(kept.end),
            });
            // A core knows nothing of what the others wrote in the run that stopped.
            let by_core = self.stores.iter_mut().zip(&mut *slots);
            let by_core = by_core
                .map(|(store, slots)| *slots.entry(id).or_insert_with(|| store.add_segment(None, kept.map.clone())));
            let slots = by_core.collect();
            self.records += kept.records;
            let retired = RetiredSegment {
                id,
                cookie: kept.cookie,
                base: kept.base,
                end: kept.end,
                file_bytes: kept.file_bytes,
                slots,
            };
            self.retired.entry(incarnation.0).or_default().push(retired);
        }
    }

    fn take_core(&mut self, core: usize, incarnation: Incarnation, facts: CoreFacts) {
        if !planted::is(Fault::CheckpointForgetsCeiling) {
            self.floor = self.floor.max(facts.clock);
            self.reached = self.reached.max(facts.reached());
        }
        for held in &facts.held {
            if !planted::is(Fault::CheckpointForgetsHeld) {
                self.held.insert((core, held.key), held.location);
            }
            // It is counted again when it is held again.
            let padded_len = wal::padded_record_bytes(held.location.len_max as usize);
            self.stores[core].unpin(held.location.segment, padded_len);
        }
        for old in facts.old_runs {
            // Nothing is left of a run that has no segments.
            let Some(run) = self.runs.get_mut(&old.incarnation.0) else { continue };
            run.first = Some((old.first, u16::try_from(old.cores.len()).unwrap_or(u16::MAX)));
            run.highest = run.highest.max(old.end);
            run.data = true;
            for (log, found) in old.cores.into_iter().enumerate() {
                let log = u16::try_from(log).ok().and_then(|log| run.cores.get_mut(&log));
                if let Some(log) = log {
                    log.marks = found.marks;
                    log.has_copies = found.has_copies;
                }
            }
        }
        let run = self.runs.entry(incarnation.0).or_default();
        run.highest = run.highest.max(facts.originated);
        run.data |= facts.data;
        let number = u16::try_from(core).unwrap_or(u16::MAX);
        if let Some(log) = run.cores.get_mut(&number) {
            log.marks = facts.marks;
            log.has_copies = facts.has_copies;
        }
        for control in facts.controls {
            if !(planted::is(Fault::CheckpointForgetsCeiling) && matches!(control, ControlRecord::ClockCeiling { .. }))
            {
                self.take_control(incarnation, FrameKind::Local, control);
            }
        }
    }
}

impl CoreFacts {
    /// Where the core's clock was at least.
    fn reached(&self) -> wal::Version {
        let ceiling = |control: &ControlRecord| match control {
            ControlRecord::ClockCeiling { version } => Some(*version),
            _ => None,
        };
        self.controls.iter().filter_map(ceiling).max().unwrap_or_default().max(self.clock)
    }
}

/// A file that is being read.
struct Open<F> {
    file: F,
    header: FileHeader,
    blocks: Blocks,
    loading: Loading,
}

impl<F> Open<F> {
    fn ignored(&self, why: &impl std::fmt::Display) -> Ignored {
        Ignored::File(wal::checkpoint_file_name(self.header.core), why.to_string())
    }
}

/// The cores that wrote a checkpoint.
fn checkpoints(names: &[String]) -> BTreeSet<CoreId> {
    let core = |name: &String| match wal::file_kind(name) {
        FileKind::Checkpoint { core } => Some(core),
        _ => None,
    };
    names.iter().filter_map(core).collect()
}
