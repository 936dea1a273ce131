//! `stats`: how full, how large, how often.

use std::collections::BTreeMap;
use std::path::Path;

use hdrhistogram::Histogram;
use serde::Serialize;
use wal::{NodeId, RecordOp, Version};

use super::error::InspectError;
use super::load::Loaded;
use super::output::{Output, Rows};
use super::read::Contents;
use super::segment::{PlacedFrame, PlacedRecord, frames_of};
use super::snapshot::{Collector, KeyState, Newest};
use super::text;
use super::verdict::LogName;

/// Values that are counted by their size, with three significant digits.
#[derive(Debug)]
struct Sizes(Histogram<u64>);

#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Summary {
    p50: u64,
    p99: u64,
    max: u64,
}

impl Default for Sizes {
    fn default() -> Self {
        Sizes(Histogram::new(3).expect("three digits are allowed"))
    }
}

impl Sizes {
    fn count(&mut self, value: u64) {
        // It grows as it must; only a value that no counter could hold is refused.
        let _ = self.0.record(value);
    }

    fn summary(&self) -> Summary {
        if self.0.is_empty() {
            return Summary::default();
        }
        Summary { p50: self.0.value_at_quantile(0.5), p99: self.0.value_at_quantile(0.99), max: self.0.max() }
    }
}

/// One log's frames.
#[derive(Debug, Default)]
struct LogCounts {
    segments: u64,
    segment_bytes: u64,
    frames: u64,
    empty_frames: u64,
    groups: u64,
    records: u64,
    record_bytes: u64,
    frame_bytes: u64,
    group_records: Sizes,
    group_bytes: Sizes,
    gap_ms: Sizes,
    open_group: Option<Group>,
    last_hlc: Option<Version>,
}

/// Consecutive frames of one clock: what one commit left.
#[derive(Clone, Copy, Debug)]
struct Group {
    hlc: Version,
    records: u64,
    bytes: u64,
}

impl LogCounts {
    fn frame(&mut self, placed: &PlacedFrame<'_>) {
        let header = placed.frame.header();
        self.frames += 1;
        self.records += u64::from(header.records);
        self.record_bytes += u64::from(header.payload_len);
        self.frame_bytes += header.total_bytes();
        if header.records == 0 {
            self.empty_frames += 1;
            return;
        }
        let (records, bytes) = (u64::from(header.records), header.total_bytes());
        match &mut self.open_group {
            Some(group) if group.hlc == header.hlc => {
                group.records += records;
                group.bytes += bytes;
            }
            _ => {
                self.close_group();
                self.open_group = Some(Group { hlc: header.hlc, records, bytes });
            }
        }
    }

    fn close_group(&mut self) {
        let Some(group) = self.open_group.take() else { return };
        self.groups += 1;
        self.group_records.count(group.records);
        self.group_bytes.count(group.bytes);
        if let Some(last) = self.last_hlc {
            self.gap_ms.count(group.hlc.ms().saturating_sub(last.ms()));
        }
        self.last_hlc = Some(group.hlc);
    }
}

/// One origin's records.
#[derive(Debug, Default)]
struct OriginCounts {
    puts: u64,
    deletes: u64,
    controls: u64,
    bytes: u64,
    min: Option<Version>,
    max: Option<Version>,
    live: u64,
    live_bytes: u64,
}

impl OriginCounts {
    fn record(&mut self, placed: &PlacedRecord<'_>) {
        let record = &placed.record;
        match record.op {
            RecordOp::Put => self.puts += 1,
            RecordOp::Delete => self.deletes += 1,
            RecordOp::Control => self.controls += 1,
        }
        self.bytes += record.padded_len() as u64;
        self.min = Some(self.min.map_or(record.version, |min| min.min(record.version)));
        self.max = self.max.max(Some(record.version));
    }
}

/// Everything that is counted frame by frame.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    logs: BTreeMap<LogName, LogCounts>,
    origins: BTreeMap<NodeId, OriginCounts>,
}

impl Counts {
    pub(crate) fn segment(&mut self, contents: &Contents<'_>) {
        let Some(segment) = contents.scan.segment() else { return };
        let header = segment.header();
        let name = LogName { core: header.core, incarnation: header.incarnation };
        if segment.first_frame().is_none() {
            return;
        }
        let log = self.logs.entry(name).or_default();
        log.segments += 1;
        log.segment_bytes += header.segment_bytes;
        for frame in frames_of(contents.bytes, segment) {
            log.frame(&frame);
            for record in frame.records() {
                self.origins.entry(record.record.origin).or_default().record(&record);
            }
        }
    }

    fn close(&mut self, keys: &[&Newest], now_unix_ms: u64) {
        self.logs.values_mut().for_each(LogCounts::close_group);
        for newest in keys.iter().filter(|newest| newest.state(now_unix_ms) == KeyState::Live) {
            let origin = self.origins.entry(newest.origin).or_default();
            origin.live += 1;
            origin.live_bytes += newest.bytes;
        }
    }
}

#[derive(Serialize)]
struct LogJson {
    core: u16,
    incarnation: String,
    segments: u64,
    segment_bytes: u64,
    frames: u64,
    empty_frames: u64,
    groups: u64,
    records: u64,
    record_bytes: u64,
    frame_bytes: u64,
    group_records: Summary,
    group_bytes: Summary,
    gap_ms: Summary,
}

#[derive(Serialize)]
struct OriginJson {
    origin: String,
    puts: u64,
    deletes: u64,
    controls: u64,
    record_bytes: u64,
    live_records: u64,
    live_bytes: u64,
    version_min: Option<String>,
    version_max: Option<String>,
}

#[derive(Serialize)]
struct TotalJson {
    keys: u64,
    live: u64,
    tombstones: u64,
    expired: u64,
    record_bytes: u64,
    live_bytes: u64,
    segment_bytes: u64,
}

/// Counts what `path` holds, seen at `now_unix_ms`.
pub(crate) fn run(path: &Path, now_unix_ms: u64, output: &mut Output) -> Result<Loaded, InspectError> {
    let mut counts = Counts::default();
    let mut collector = Collector::default();
    let loaded = Loaded::each(path, |contents| {
        counts.segment(contents);
        collector.segment(contents);
        Ok(())
    })?;
    let keys: Vec<&Newest> = collector.keys().values().collect();
    counts.close(&keys, now_unix_ms);
    let count = |state| keys.iter().filter(|key| key.state(now_unix_ms) == state).count() as u64;
    let total = TotalJson {
        keys: keys.len() as u64,
        live: count(KeyState::Live),
        tombstones: count(KeyState::Tombstone),
        expired: count(KeyState::Expired),
        record_bytes: counts.logs.values().map(|log| log.record_bytes).sum(),
        live_bytes: counts.origins.values().map(|origin| origin.live_bytes).sum(),
        segment_bytes: counts.logs.values().map(|log| log.segment_bytes).sum(),
    };
    if output.is_json() {
        counts.json(output)?;
        output.json("total", &total)?;
    } else {
        output.table(&counts.log_rows())?;
        output.next_table()?;
        output.table(&counts.origin_rows())?;
        output.next_table()?;
        output.table(&total.rows())?;
    }
    output.flush()?;
    Ok(loaded)
}

impl Counts {
    fn json(&self, output: &mut Output) -> Result<(), InspectError> {
        for (name, log) in &self.logs {
            let line = LogJson {
                core: name.core.0,
                incarnation: name.incarnation.to_string(),
                segments: log.segments,
                segment_bytes: log.segment_bytes,
                frames: log.frames,
                empty_frames: log.empty_frames,
                groups: log.groups,
                records: log.records,
                record_bytes: log.record_bytes,
                frame_bytes: log.frame_bytes,
                group_records: log.group_records.summary(),
                group_bytes: log.group_bytes.summary(),
                gap_ms: log.gap_ms.summary(),
            };
            output.json("log", &line)?;
        }
        for (origin, counts) in &self.origins {
            let hex = |version: Option<Version>| version.map(|version| format!("{:#018x}", version.0));
            let line = OriginJson {
                origin: origin.to_string(),
                puts: counts.puts,
                deletes: counts.deletes,
                controls: counts.controls,
                record_bytes: counts.bytes,
                live_records: counts.live,
                live_bytes: counts.live_bytes,
                version_min: hex(counts.min),
                version_max: hex(counts.max),
            };
            output.json("origin", &line)?;
        }
        Ok(())
    }

    fn log_rows(&self) -> Rows {
        let header = [
            "core",
            "incarnation",
            "segments",
            "frames",
            "empty",
            "groups",
            "records",
            "record bytes",
            "frame overhead %",
            "records/group p50 p99 max",
            "bytes/group p50 p99 max",
            "gap ms p50 p99 max",
        ];
        let mut rows = Rows::new("Logs", &header, &[0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
        for (name, log) in &self.logs {
            rows.push(vec![
                name.core.to_string(),
                name.incarnation.to_string(),
                log.segments.to_string(),
                log.frames.to_string(),
                log.empty_frames.to_string(),
                log.groups.to_string(),
                log.records.to_string(),
                log.record_bytes.to_string(),
                text::percent(log.frame_bytes - log.record_bytes, log.record_bytes),
                three(log.group_records.summary()),
                three(log.group_bytes.summary()),
                three(log.gap_ms.summary()),
            ]);
        }
        rows
    }

    fn origin_rows(&self) -> Rows {
        let header = [
            "origin",
            "puts",
            "deletes",
            "controls",
            "record bytes",
            "live",
            "live %",
            "first version",
            "last version",
        ];
        let mut rows = Rows::new("Origins", &header, &[1, 2, 3, 4, 5, 6]);
        for (origin, counts) in &self.origins {
            let shown = |version: Option<Version>| version.map_or_else(|| "-".to_owned(), text::version);
            rows.push(vec![
                origin.to_string(),
                counts.puts.to_string(),
                counts.deletes.to_string(),
                counts.controls.to_string(),
                counts.bytes.to_string(),
                counts.live.to_string(),
                text::percent(counts.live_bytes, counts.bytes),
                shown(counts.min),
                shown(counts.max),
            ]);
        }
        rows
    }
}

impl TotalJson {
    fn rows(&self) -> Rows {
        let header = ["keys", "live", "tombstones", "expired", "record bytes", "live bytes", "live %", "disk bytes"];
        let mut rows = Rows::new("Keys", &header, &[0, 1, 2, 3, 4, 5, 6, 7]);
        rows.push(vec![
            self.keys.to_string(),
            self.live.to_string(),
            self.tombstones.to_string(),
            self.expired.to_string(),
            self.record_bytes.to_string(),
            self.live_bytes.to_string(),
            text::percent(self.live_bytes, self.record_bytes),
            self.segment_bytes.to_string(),
        ]);
        rows
    }
}

fn three(summary: Summary) -> String {
    format!("{} {} {}", summary.p50, summary.p99, summary.max)
}
