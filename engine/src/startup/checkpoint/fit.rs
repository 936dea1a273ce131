//! Whether a directory holds exactly the segments that a checkpoint names, each as it was left.

use std::collections::{BTreeMap, BTreeSet};

use net::reactor::disk::{Disk, DurableError};
use wal::planted::{self, Fault};
use wal::recovery::{Tail, look_at_tail};
use wal::{
    Cookie, CoreId, FRAME_HEADER_BYTES, FileKind, Incarnation, Lsn, SEGMENT_HEADER_BYTES, SealBlock, SealState,
    SegmentHeader, SegmentNumber,
};

use super::{Files, Ignored};
use crate::checkpoint::{CoreFacts, SegmentFacts};
use crate::host::Host;
use crate::shard::SegmentId;
use crate::startup::Recovering;

/// The last bytes of a log that are read at first; doubled until a frame begins in them.
const TAIL_BYTES: u64 = 64 * 1024;

/// What the segments of a directory are.
pub(super) struct FittingSegments<M> {
    /// By core and age.
    pub(super) logs: Vec<FittingLog<M>>,
    /// The names of segments that hold nothing of a log.
    pub(super) unused: Vec<String>,
}

/// A log of which the checkpoint holds the contents.
pub(super) struct FittingLog<M> {
    pub(super) incarnation: Incarnation,
    pub(super) core: CoreId,
    /// Exclusive end of its last frame.
    pub(super) end: Lsn,
    /// Oldest first; at least one.
    pub(super) segments: Vec<KeptSegment<M>>,
}

/// A segment that holds some of a log.
pub(super) struct KeptSegment<M> {
    pub(super) number: SegmentNumber,
    pub(super) cookie: Cookie,
    pub(super) base: Lsn,
    pub(super) end: Lsn,
    pub(super) file_bytes: u64,
    pub(super) records: u64,
    pub(super) map: M,
}

impl<M> KeptSegment<M> {
    /// Its name in the log of `core`.
    pub(super) fn id(&self, core: CoreId) -> SegmentId {
        SegmentId { core, number: self.number }
    }
}

/// A segment's first page.
type Head = (SegmentHeader, Option<SealBlock>);

fn name(id: SegmentId) -> String {
    wal::segment_file_name(id.core, id.number)
}

fn changed(id: SegmentId, what: impl Into<String>) -> Ignored {
    Ignored::Segment(name(id), what.into())
}

impl<H: Host, D: Disk<File = H::File>> Recovering<'_, H, D> {
    /// What the segments are, if they are those that the run `incarnation` named in `facts`.
    pub(super) fn fit_segments(
        &self,
        incarnation: Incarnation,
        facts: &[&CoreFacts],
        files: &Files<H::File>,
    ) -> Result<FittingSegments<H::Map>, Ignored> {
        let named = named_segments(facts)?;
        same_names(&named, files)?;
        let heads = self.heads(&named, files)?;
        let mut unused = Vec::new();
        let mut logs: BTreeMap<(CoreId, Incarnation), Vec<&SegmentFacts>> = BTreeMap::new();
        for segment in named.values() {
            logs.entry((segment.id.core, segment.incarnation)).or_default().push(segment);
        }
        let mut fitting = Vec::new();
        for ((core, of_run), mut segments) in logs {
            // By position; a log's segments are numbered in that order.
            segments.sort_by_key(|segment| segment.base);
            let end = (of_run == incarnation).then(|| facts.get(usize::from(core.0)).map_or(Lsn(0), |facts| facts.end));
            let holds_frames =
                |segment: &&SegmentFacts| end.is_none_or(|end| segment.base.plus(SEGMENT_HEADER_BYTES as u64) < end);
            let (kept, spare): (Vec<_>, Vec<_>) = segments.into_iter().partition(holds_frames);
            let spare = spare.iter().map(|segment: &&SegmentFacts| name(segment.id));
            unused.extend(spare.filter(|name| files.contains_key(name)));
            if let Some(log) = self.fit_log((of_run, core), end, &kept, &heads, files)? {
                fitting.push(log);
            }
        }
        fitting.sort_by_key(|log| (log.core, log.segments[0].number));
        Ok(FittingSegments { logs: fitting, unused })
    }

    /// The first page of every segment, verified.
    fn heads(
        &self,
        named: &BTreeMap<SegmentId, SegmentFacts>,
        files: &Files<H::File>,
    ) -> Result<BTreeMap<SegmentId, Head>, Ignored> {
        let (segments, handles): (Vec<&SegmentFacts>, Vec<H::File>) =
            named.values().filter_map(|segment| Some((segment, files.get(&name(segment.id))?.clone()))).unzip();
        let node = self.node;
        let look = |index: usize, page: &[u8], file_bytes: u64| look_at_head(node, segments[index], page, file_bytes);
        let found = self.disk.each_durable_head(&handles, SEGMENT_HEADER_BYTES, &look);
        let heads = segments.iter().zip(found).map(|(segment, head)| {
            let head = head.map_err(|error: DurableError| changed(segment.id, error.to_string()))?;
            Ok((segment.id, head.map_err(|what| changed(segment.id, what))?))
        });
        heads.collect()
    }

    fn fit_log(
        &self,
        (incarnation, core): (Incarnation, CoreId),
        end: Option<Lsn>,
        segments: &[&SegmentFacts],
        heads: &BTreeMap<SegmentId, Head>,
        files: &Files<H::File>,
    ) -> Result<Option<FittingLog<H::Map>>, Ignored> {
        let mut kept: Vec<KeptSegment<H::Map>> = Vec::new();
        let mut before: Option<&SegmentHeader> = None;
        for segment in segments {
            let Some((header, seal)) = heads.get(&segment.id) else { continue };
            let seal = seal.as_ref().ok_or_else(|| changed(segment.id, "it is not sealed"))?;
            let continues = |before: &SegmentHeader| {
                header.previous == Some(before.link()) && header.base == before.base.plus(before.segment_bytes)
            };
            if !before.is_none_or(continues) {
                return Err(changed(segment.id, "it does not continue the segment before it"));
            }
            before = Some(header);
            let file = &files[&name(segment.id)];
            let map = H::map(file, segment.file_bytes).map_err(|error| changed(segment.id, error.to_string()))?;
            kept.push(KeptSegment {
                number: segment.id.number,
                cookie: segment.cookie,
                base: segment.base,
                end: seal.end,
                file_bytes: segment.file_bytes,
                records: seal.records,
                map,
            });
        }
        let Some((last, Some((_, Some(seal))))) = segments.last().map(|last| (last.id, heads.get(&last.id))) else {
            return Ok(None);
        };
        if end.is_some_and(|end| end != seal.end) {
            return Err(changed(last, "it does not end where it did"));
        }
        self.fit_tail(last, segments[segments.len() - 1], seal, &files[&name(last)])?;
        Ok(Some(FittingLog { incarnation, core, end: seal.end, segments: kept }))
    }

    /// Reads the last frames of a log back from the device.
    fn fit_tail(&self, id: SegmentId, segment: &SegmentFacts, seal: &SealBlock, file: &H::File) -> Result<(), Ignored> {
        let first = segment.base.plus(SEGMENT_HEADER_BYTES as u64);
        let mut wanted = TAIL_BYTES;
        loop {
            let start =
                Lsn(seal.end.0.saturating_sub(wanted).max(first.0) / FRAME_HEADER_BYTES as u64
                    * FRAME_HEADER_BYTES as u64);
            let len = usize::try_from(seal.end.0 - start.0).unwrap_or(usize::MAX);
            let bytes = self.disk.read_durable(file, start.0 - segment.base.0, len);
            let bytes = bytes.map_err(|error| changed(id, error.to_string()))?;
            match look_at_tail(&bytes, start, segment.cookie, seal) {
                Tail::Whole => return Ok(()),
                Tail::Longer if start > first => wanted *= 2,
                Tail::Longer | Tail::Damaged => return Err(changed(id, "its last frames are damaged")),
            }
        }
    }
}

/// Every segment that some core names; what several say of one is the same.
fn named_segments(facts: &[&CoreFacts]) -> Result<BTreeMap<SegmentId, SegmentFacts>, Ignored> {
    let mut named: BTreeMap<SegmentId, SegmentFacts> = BTreeMap::new();
    let identity = |segment: &SegmentFacts| (segment.incarnation, segment.cookie, segment.base, segment.file_bytes);
    for segment in facts.iter().flat_map(|facts| &facts.segments) {
        let known = named.entry(segment.id).or_insert(*segment);
        if identity(known) != identity(segment) {
            return Err(Ignored::Segments(format!("two cores knew {} by different names", name(segment.id))));
        }
    }
    Ok(named)
}

/// Whether the directory holds these segments and no others.
fn same_names<F>(named: &BTreeMap<SegmentId, SegmentFacts>, files: &Files<F>) -> Result<(), Ignored> {
    let there: BTreeSet<SegmentId> = files
        .keys()
        .filter_map(|name| match wal::file_kind(name) {
            FileKind::Segment { core, number } => Some(SegmentId { core, number }),
            _ => None,
        })
        .collect();
    if planted::is(Fault::StaleCheckpointBelieved) {
        return Ok(());
    }
    if let Some(gone) = named.keys().find(|id| !there.contains(id)) {
        return Err(Ignored::Segments(format!("{} is gone since", name(*gone))));
    }
    match there.iter().find(|id| !named.contains_key(id)) {
        Some(new) => Err(Ignored::Segments(format!("{} is newer", name(*new)))),
        None => Ok(()),
    }
}

fn look_at_head(
    node: wal::NodeId,
    segment: &SegmentFacts,
    page: &[u8],
    file_bytes: u64,
) -> Result<(SegmentHeader, Option<SealBlock>), String> {
    let header = SegmentHeader::parse(page).map_err(|error| error.to_string())?;
    let found = (header.node, header.core, header.number, header.incarnation, header.cookie, header.base);
    let id = segment.id;
    if found != (node, id.core, id.number, segment.incarnation, segment.cookie, segment.base) {
        return Err("it is another segment than it was".into());
    }
    if file_bytes != segment.file_bytes || header.segment_bytes != segment.file_bytes {
        return Err("it is longer or shorter than it was".into());
    }
    let inside = |seal: &SealBlock| {
        let first = header.first_frame();
        seal.end > first && seal.end <= header.base.plus(header.segment_bytes)
    };
    match SealBlock::read(page, header.link()) {
        SealState::Valid(seal) if inside(&seal) => Ok((header, Some(seal))),
        SealState::Absent => Ok((header, None)),
        SealState::Valid(_) | SealState::Damaged => Err("its seal is damaged".into()),
    }
}
