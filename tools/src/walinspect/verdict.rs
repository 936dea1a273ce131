//! What the segments of a directory mean, log by log: recovery's own table, with a class and the evidence for each finding.

use std::collections::BTreeMap;
use std::fmt;

use wal::recovery::{Finding as FileFinding, RecoveryError, Row, SegmentEvidence, SegmentScan, judge};
use wal::{CoreId, FrameError, Incarnation, Lsn, NodeId, SegmentHeaderError};

use super::error::{EXIT_REFUSED, EXIT_SOUND, EXIT_TORN};
use super::text;

/// What a finding is. Ordered by how bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Class {
    /// A log that ends where it was left.
    Sound,
    /// A log that ends at old bytes of a recycled file: the same as sound.
    Stale,
    /// A file without a frame: prepared, or left over.
    Unused,
    /// A log that a running daemon writes.
    Open,
    /// Bytes that no completed sync covered were lost; the next start cuts them.
    Torn,
    /// A file with durable frames is gone.
    Gap,
    /// Something stands in another place than it belongs.
    Misplaced,
    /// Two files claim one place.
    Duplicate,
    /// Another node's segment.
    Foreign,
    /// Written by a newer program.
    Newer,
    /// Something that was durable is damaged.
    Corrupt,
}

impl Class {
    pub(crate) fn label(self) -> &'static str {
        match self {
            Class::Sound => "sound",
            Class::Stale => "stale",
            Class::Unused => "unused",
            Class::Open => "open",
            Class::Torn => "torn",
            Class::Gap => "gap",
            Class::Misplaced => "misplaced",
            Class::Duplicate => "duplicate",
            Class::Foreign => "foreign",
            Class::Newer => "newer",
            Class::Corrupt => "corrupt",
        }
    }

    /// The exit code that it asks for.
    pub(crate) fn exit_code(self) -> u8 {
        match self {
            Class::Sound | Class::Stale | Class::Unused | Class::Open => EXIT_SOUND,
            Class::Torn => EXIT_TORN,
            _ => EXIT_REFUSED,
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.label())
    }
}

/// One log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct LogName {
    pub(crate) core: CoreId,
    pub(crate) incarnation: Incarnation,
}

/// Positions of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) from: Lsn,
    /// Exclusive.
    pub(crate) to: Lsn,
    /// File offset of `from`.
    pub(crate) offset: u64,
}

/// Something that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) class: Class,
    pub(crate) log: Option<LogName>,
    pub(crate) file: Option<String>,
    pub(crate) range: Option<Range>,
    /// Where behind the range's start an intact frame header stands: the damage ends there at the latest.
    pub(crate) resumes: Option<Lsn>,
    /// What shows it.
    pub(crate) evidence: String,
    /// What recovery would do at the next start; for those it refuses, why.
    pub(crate) action: Action,
}

/// What has to be done about a finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Nothing.
    Nothing,
    /// The next start of the node cuts the range and removes these files.
    Cut { removed: Vec<String> },
    /// The next start of the node removes the file.
    Remove,
    /// Fetch the range from a member that holds it.
    Refill,
    /// Restore this file from a backup, or fetch its positions from a member.
    Restore { name: String },
    /// Give the file the name that it belongs to.
    Rename { name: String },
    /// Take the file out of the directory.
    MoveAway,
    /// Use the program that wrote it.
    Upgrade,
}

/// A log, as far as it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LogVerdict {
    pub(crate) name: LogName,
    pub(crate) segments: usize,
    /// Exclusive end of what can be read without a gap.
    pub(crate) end: Lsn,
    pub(crate) class: Class,
}

/// What the files of a directory mean.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Judgement {
    pub(crate) logs: Vec<LogVerdict>,
    /// At least one per log; unused files and temporary ones as well.
    pub(crate) findings: Vec<Finding>,
}

impl Judgement {
    pub(crate) fn worst(&self) -> Class {
        self.findings.iter().map(|finding| finding.class).max().unwrap_or(Class::Sound)
    }

    /// Up to where a log can be read; `None` if nothing of it can.
    pub(crate) fn end_of(&self, incarnation: Incarnation, core: CoreId) -> Option<Lsn> {
        let log = self.logs.iter().find(|log| log.name == LogName { core, incarnation })?;
        Some(log.end)
    }
}

/// The node that most segments belong to, for a directory whose NODE file does not tell.
pub(crate) fn majority_node(scans: &[SegmentScan]) -> NodeId {
    let mut counts: BTreeMap<NodeId, usize> = BTreeMap::new();
    for segment in scans.iter().filter_map(SegmentScan::segment) {
        *counts.entry(segment.header().node).or_default() += 1;
    }
    counts.into_iter().max_by_key(|(_, count)| *count).map(|(node, _)| node).unwrap_or_default()
}

/// Judges the segments of `node`. With `daemon_runs`, the newest log of each core is being written.
pub(crate) fn judge_directory(node: NodeId, scans: &[SegmentScan], daemon_runs: bool) -> Judgement {
    let mut judgement = Judgement::default();
    let mut logs: BTreeMap<LogName, Vec<&SegmentScan>> = BTreeMap::new();
    let mut numbers: BTreeMap<(CoreId, u64), &str> = BTreeMap::new();
    let mut newest: BTreeMap<CoreId, (u64, LogName)> = BTreeMap::new();
    for scan in scans {
        let file = scan.file_name();
        let segment = match scan.finding() {
            FileFinding::Segment(segment) => segment,
            other => {
                judgement.findings.push(of_file(file, other));
                continue;
            }
        };
        let header = segment.header();
        if header.node != node {
            let error = RecoveryError::ForeignNode { file: file.to_owned(), found: header.node, expected: node };
            judgement.findings.push(whole_file(Class::Foreign, file, error.to_string(), Action::MoveAway));
            continue;
        }
        let name = LogName { core: header.core, incarnation: header.incarnation };
        if let Some(other) = numbers.insert((header.core, header.number.0), file) {
            let error = RecoveryError::Duplicate { file: file.to_owned(), other: other.to_owned() };
            judgement.findings.push(whole_file(Class::Duplicate, file, error.to_string(), Action::MoveAway));
            continue;
        }
        let last = newest.entry(header.core).or_insert((header.number.0, name));
        *last = (*last).max((header.number.0, name));
        logs.entry(name).or_default().push(scan);
    }
    for (name, scans) in logs {
        let written = daemon_runs && newest.get(&name.core).is_some_and(|(_, newest)| *newest == name);
        judge_log(node, name, &scans, written, &mut judgement);
    }
    judgement
}

/// A finding about a file as a whole.
pub(crate) fn whole_file(class: Class, file: &str, evidence: String, action: Action) -> Finding {
    Finding { class, log: None, file: Some(file.to_owned()), range: None, resumes: None, evidence, action }
}

fn of_file(file: &str, finding: FileFinding<'_>) -> Finding {
    match finding {
        FileFinding::Temporary => {
            let evidence = "left over from a preparation, or being prepared".to_owned();
            whole_file(Class::Unused, file, evidence, Action::Remove)
        }
        FileFinding::Misnamed(belongs) => {
            let error = RecoveryError::Misnamed { file: file.to_owned(), belongs: belongs.to_owned() };
            whole_file(Class::Misplaced, file, error.to_string(), Action::Rename { name: belongs.to_owned() })
        }
        FileFinding::Unusable(error) => {
            let (class, action) = match error {
                SegmentHeaderError::NewerFormat(_) => (Class::Newer, Action::Upgrade),
                _ => (Class::Corrupt, Action::Restore { name: file.to_owned() }),
            };
            whole_file(class, file, error.to_string(), action)
        }
        FileFinding::Segment(_) => whole_file(Class::Sound, file, String::new(), Action::Nothing),
    }
}

fn judge_log(node: NodeId, name: LogName, scans: &[&SegmentScan], written: bool, judgement: &mut Judgement) {
    let owned = scans.iter().map(|&scan| scan.clone()).collect();
    match judge(node, owned) {
        Ok(recovery) => {
            for log in &recovery.logs {
                let finding = of_end(name, scans, log, &recovery.recyclable, written);
                let (segments, class) = (log.segments.len(), finding.class);
                judgement.logs.push(LogVerdict { name, segments, end: log.end, class });
                judgement.findings.push(finding);
            }
            let what = if written { "prepared, not used yet" } else { "holds no frame of a log" };
            for file in recovery.recyclable {
                let action = if written { Action::Nothing } else { Action::Remove };
                let finding = whole_file(Class::Unused, &file, what.to_owned(), action);
                judgement.findings.push(Finding { log: Some(name), ..finding });
            }
        }
        Err(error) => {
            let finding = refused(name, scans, &error);
            let end = finding.range.map_or(Lsn(0), |range| range.from);
            judgement.logs.push(LogVerdict { name, segments: scans.len(), end, class: finding.class });
            let further = further(name, scans, &finding);
            judgement.findings.push(finding);
            judgement.findings.extend(further);
        }
    }
    for scan in scans {
        if scan.segment().is_some_and(SegmentEvidence::seal_is_damaged) {
            let evidence = "its seal block is damaged and is not used; the frames alone give the same end".to_owned();
            let finding = whole_file(Class::Stale, scan.file_name(), evidence, Action::Nothing);
            judgement.findings.push(Finding { log: Some(name), ..finding });
        }
    }
}

/// How a log ends that may be used.
fn of_end(
    name: LogName,
    scans: &[&SegmentScan],
    log: &wal::recovery::RecoveredLog,
    recyclable: &[String],
    written: bool,
) -> Finding {
    let stop = log.cut.map_or(log.end, |cut| cut.position);
    let at_end = holding(scans, stop);
    let file = log.segments.last().map(|segment| segment.file_name.clone());
    let torn = log.cut.map(|cut| format!("{} at {}: {}", log.row, cut.position, cut.reason));
    let (class, evidence) = match (log.row, torn) {
        (_, torn) if written => {
            let not_yet = torn.map_or_else(String::new, |_| ", behind it a frame that is not complete yet".to_owned());
            (Class::Open, format!("being written{not_yet}"))
        }
        (Row::TornTail, _) if at_end.is_some_and(|(_, segment)| is_old_payload(segment)) => (
            Class::Stale,
            format!("at {stop} no frame begins: old bytes of a recycled file, or a group that was lost whole"),
        ),
        (Row::TornTail, torn) => (Class::Torn, torn.unwrap_or_else(|| log.row.to_string())),
        (Row::RecycledBytes, _) => {
            let what =
                at_end.and_then(|(_, segment)| segment.stop()).map_or_else(String::new, |stop| format!(": {stop}"));
            (Class::Stale, format!("{} behind the end{what}", log.row))
        }
        (row, _) => (Class::Sound, row.to_string()),
    };
    let mut finding =
        Finding { class, log: Some(name), file, range: None, resumes: None, evidence, action: Action::Nothing };
    if class == Class::Torn {
        if let Some((file, segment)) = at_end {
            let header = segment.header();
            let to = header.base.plus(header.segment_bytes);
            finding.file = Some(file.to_owned());
            finding.range = Some(range_in(segment, stop, to));
            finding.resumes = segment.resumes_at();
        }
        finding.action = Action::Cut { removed: recyclable.to_vec() };
    }
    finding
}

/// Whether nothing of a group is to be seen behind the end: no header of this segment, but signs that the file was used before, or
/// that the log was sealed idle, as a clean stop does. Recovery calls it a torn tail as well and cuts it; whoever stopped a node
/// cleanly should not read that.
fn is_old_payload(segment: SegmentEvidence<'_>) -> bool {
    let sealed_idle = segment.last_frame().is_some_and(|last| last.records == 0 && last.durable == last.lsn);
    segment.stop() == Some(FrameError::Magic)
        && segment.resumes_at().is_none()
        && segment.durable_behind().is_none()
        && (segment.has_foreign_frames_behind() || sealed_idle)
}

fn range_in(segment: SegmentEvidence<'_>, from: Lsn, to: Lsn) -> Range {
    Range { from, to, offset: from.offset_from(segment.header().base).unwrap_or(0) }
}

/// The segment that a position lies in, or that it ends.
fn holding<'a>(scans: &[&'a SegmentScan], position: Lsn) -> Option<(&'a str, SegmentEvidence<'a>)> {
    let mut found = None;
    for &scan in scans {
        let Some(segment) = scan.segment() else { continue };
        let header = segment.header();
        if position.offset_from(header.base).is_some_and(|offset| offset <= header.segment_bytes)
            && found.is_none_or(|(_, other): (_, SegmentEvidence<'_>)| other.header().base <= header.base)
        {
            found = Some((scan.file_name(), segment));
        }
    }
    found
}

fn named<'a>(scans: &[&'a SegmentScan], file: &str) -> Option<SegmentEvidence<'a>> {
    scans.iter().find(|scan| scan.file_name() == file).and_then(|scan| scan.segment())
}

/// Why a log must not be used.
fn refused(name: LogName, scans: &[&SegmentScan], error: &RecoveryError) -> Finding {
    let evidence = error.to_string();
    let finding = |class, file: &str, action| Finding {
        class,
        log: Some(name),
        file: Some(file.to_owned()),
        range: None,
        resumes: None,
        evidence: evidence.clone(),
        action,
    };
    match error {
        RecoveryError::Corrupt { file, from, to, offset, reason } => {
            let class = if matches!(reason, FrameError::Misplaced(_)) { Class::Misplaced } else { Class::Corrupt };
            let mut finding = finding(class, file, Action::Refill);
            finding.range = Some(Range { from: *from, to: *to, offset: *offset });
            finding.resumes = named(scans, file).and_then(SegmentEvidence::resumes_at);
            finding
        }
        RecoveryError::MissingSegment { number, after, from, to, .. } => {
            let missing = wal::segment_file_name(name.core, *number);
            let mut finding = finding(Class::Gap, &missing, Action::Restore { name: missing.clone() });
            // No more is missing than up to the next file; the evidence may speak about positions far behind it.
            let next = named(scans, after).map_or(*to, |next| next.header().base);
            finding.range = Some(Range { from: *from, to: next.min(*to), offset: wal::SEGMENT_HEADER_BYTES as u64 });
            finding
        }
        RecoveryError::Unreadable { file, at, error } => {
            let newer = matches!(error, FrameError::Newer(_))
                || matches!(error, FrameError::Record { error, .. } if is_newer_record(error));
            let (class, action) =
                if newer { (Class::Newer, Action::Upgrade) } else { (Class::Corrupt, Action::Refill) };
            let mut finding = finding(class, file, action);
            if let Some(segment) = named(scans, file) {
                let header = segment.header();
                finding.range = Some(range_in(segment, *at, header.base.plus(header.segment_bytes)));
                finding.resumes = segment.resumes_at();
            }
            finding
        }
        RecoveryError::SealContradicts { file, .. } => {
            let mut finding = finding(Class::Corrupt, file, Action::Refill);
            if let Some(segment) = named(scans, file) {
                finding.range = Some(range_in(segment, segment.header().first_frame(), segment.end()));
            }
            finding
        }
        RecoveryError::Duplicate { file, .. } => finding(Class::Duplicate, file, Action::MoveAway),
        RecoveryError::ForeignNode { file, .. } => finding(Class::Foreign, file, Action::MoveAway),
        RecoveryError::Misnamed { file, belongs } => {
            finding(Class::Misplaced, file, Action::Rename { name: belongs.clone() })
        }
        RecoveryError::Header { file, .. } => finding(Class::Corrupt, file, Action::Restore { name: file.clone() }),
    }
}

/// What else is wrong in a refused log: recovery stops at the first problem, whoever repairs wants to know them all. A seal
/// says where its segment ends, and a header which segment comes before it.
fn further(name: LogName, scans: &[&SegmentScan], first: &Finding) -> Vec<Finding> {
    let mut segments: Vec<_> = scans.iter().filter_map(|scan| Some((scan.file_name(), scan.segment()?))).collect();
    segments.sort_by_key(|(_, segment)| segment.header().base);
    let mut findings = Vec::new();
    for (index, (file, segment)) in segments.iter().enumerate() {
        if let Some((before, previous)) = index.checked_sub(1).and_then(|index| segments.get(index))
            && segment.header().previous != Some(previous.header().link())
        {
            let missing = wal::segment_file_name(name.core, previous.header().number.next());
            let from = previous.end();
            let range = Range { from, to: segment.header().base, offset: wal::SEGMENT_HEADER_BYTES as u64 };
            let evidence = format!("{file} does not follow {before}");
            let action = Action::Restore { name: missing.clone() };
            findings.push(Finding { range: Some(range), ..whole_file(Class::Gap, &missing, evidence, action) });
        }
        if let Some(seal) = segment.seal().filter(|seal| seal.end > segment.end()) {
            let evidence = match segment.stop() {
                Some(stop) => format!("{file}: sealed up to {}, and at {}: {stop}", seal.end, segment.end()),
                None => format!("{file}: sealed up to {}, its frames end at {}", seal.end, segment.end()),
            };
            let class = match segment.stop() {
                Some(FrameError::Misplaced(_)) => Class::Misplaced,
                _ => Class::Corrupt,
            };
            let mut finding = whole_file(class, file, evidence, Action::Refill);
            finding.range = Some(range_in(*segment, segment.end(), seal.end));
            finding.resumes = segment.resumes_at();
            findings.push(finding);
        }
    }
    findings.retain(|finding| finding.file != first.file);
    findings.into_iter().map(|finding| Finding { log: Some(name), ..finding }).collect()
}

fn is_newer_record(error: &wal::RecordError) -> bool {
    matches!(error, wal::RecordError::NewerOp(_) | wal::RecordError::NewerFlags(_))
}

impl Range {
    pub(crate) fn describe(&self) -> String {
        let bytes = self.to.0.saturating_sub(self.from.0);
        format!("{} to {} ({}), file offset {}", self.from, self.to, text::bytes(bytes), self.offset)
    }
}
