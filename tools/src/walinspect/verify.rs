//! `verify`: every byte that counts, by several threads.

use std::path::Path;
use std::thread::available_parallelism;
use std::time::Instant;

use serde::Serialize;

use super::cli::VerifyArgs;
use super::directory::{DataDirectory, Lock};
use super::error::{InspectError, io_error};
use super::load::{Loaded, each_file};
use super::note;
use super::output::{Output, Rows};
use super::read::Source;
use super::text;
use super::verdict::{Class, Finding};

/// More reads at once than this gain nothing on one disk, and each takes a segment of memory.
const THREADS_MAX: usize = 16;

#[derive(Serialize)]
pub(crate) struct FindingJson<'a> {
    class: Class,
    core: Option<u16>,
    incarnation: Option<String>,
    file: Option<&'a str>,
    from_lsn: Option<u64>,
    to_lsn: Option<u64>,
    file_offset: Option<u64>,
    resumes_lsn: Option<u64>,
    evidence: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    plan: Option<&'a str>,
}

impl<'a> FindingJson<'a> {
    pub(crate) fn new(finding: &'a Finding, plan: Option<&'a str>) -> FindingJson<'a> {
        FindingJson {
            class: finding.class,
            core: finding.log.map(|log| log.core.0),
            incarnation: finding.log.map(|log| log.incarnation.to_string()),
            file: finding.file.as_deref(),
            from_lsn: finding.range.map(|range| range.from.0),
            to_lsn: finding.range.map(|range| range.to.0),
            file_offset: finding.range.map(|range| range.offset),
            resumes_lsn: finding.resumes.map(|lsn| lsn.0),
            evidence: &finding.evidence,
            plan,
        }
    }
}

#[derive(Serialize)]
struct SummaryJson {
    verdict: Class,
    exit_code: u8,
    node: String,
    daemon_pid: Option<u32>,
    segments: usize,
    records: u64,
    bytes: u64,
    seconds: f64,
    bytes_per_second: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    raw_bytes_per_second: Option<u64>,
}

/// Verifies, and returns the exit code.
pub(crate) fn run(args: &VerifyArgs, output: &mut Output) -> Result<u8, InspectError> {
    let threads = args.threads.map_or_else(default_threads, Into::into);
    let before = args.measure.then(|| raw_read(&args.dir, threads)).transpose()?;
    let start = Instant::now();
    let mut loaded = Loaded::parallel(&args.dir, threads)?;
    let identity = loaded.identity_finding();
    loaded.judgement.findings.extend(identity);
    let seconds = start.elapsed().as_secs_f64();
    let after = args.measure.then(|| raw_read(&args.dir, threads)).transpose()?;
    // A disk that is shared does not keep its speed: the mean of both sides is the nearest to what was there in between.
    let raw = before.zip(after).map(|((bytes, before), (_, after))| per_second(2 * bytes, before + after));
    show(&loaded, output)?;

    let speed = per_second(loaded.bytes, seconds);
    let verdict = loaded.judgement.worst();
    let records = loaded.scans.iter().filter_map(|scan| scan.segment()).map(|segment| segment.records()).sum();
    if output.is_json() {
        let daemon_pid = match loaded.directory.lock {
            Lock::Held(pid) => Some(pid),
            Lock::NotSeen => None,
        };
        let summary = SummaryJson {
            verdict,
            exit_code: verdict.exit_code(),
            node: loaded.node.to_string(),
            daemon_pid,
            segments: loaded.scans.len(),
            records,
            bytes: loaded.bytes,
            seconds,
            bytes_per_second: speed,
            raw_bytes_per_second: raw,
        };
        output.json("summary", &summary)?;
    } else {
        output.flush()?;
        note(&format!(
            "{}: node {}, {} files, {records} records, {} in {seconds:.2} s ({}/s){}",
            headline(verdict),
            loaded.node,
            loaded.scans.len(),
            text::bytes(loaded.bytes),
            text::bytes(speed),
            match loaded.directory.lock {
                Lock::Held(pid) => format!("; process {pid} has the directory"),
                Lock::NotSeen => String::new(),
            }
        ));
        if let Some(raw) = raw {
            note(&format!("only reading: {}/s; verified at {} % of that", text::bytes(raw), text::percent(speed, raw)));
        }
    }
    Ok(verdict.exit_code())
}

fn headline(verdict: Class) -> &'static str {
    match verdict {
        Class::Sound | Class::Stale | Class::Unused => "sound",
        Class::Open => "sound, and being written",
        Class::Torn => "torn tail: the next start cuts it, nothing acknowledged is lost",
        _ => "a node refuses to start from these files; see `walinspect repair --dry-run`",
    }
}

fn show(loaded: &Loaded, output: &mut Output) -> Result<(), InspectError> {
    let header = ["class", "core", "incarnation", "file", "from", "to", "offset", "evidence"];
    let mut rows = Rows::new("", &header, &[1, 4, 5, 6]);
    for finding in &loaded.judgement.findings {
        if output.is_json() {
            output.json("finding", &FindingJson::new(finding, None))?;
            continue;
        }
        let resumes =
            finding.resumes.map_or_else(String::new, |lsn| format!("; an intact frame header stands at {lsn}"));
        rows.push(vec![
            finding.class.to_string(),
            optional(finding.log.map(|log| log.core)),
            optional(finding.log.map(|log| log.incarnation)),
            optional(finding.file.as_deref()),
            optional(finding.range.map(|range| range.from)),
            optional(finding.range.map(|range| range.to)),
            optional(finding.range.map(|range| range.offset)),
            format!("{}{resumes}", finding.evidence),
        ]);
    }
    if rows.is_empty() { Ok(()) } else { output.table(&rows) }
}

/// What a table shows where there is nothing.
pub(crate) fn optional<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

fn default_threads() -> usize {
    available_parallelism().map_or(2, |cpus| cpus.get() * 2).min(THREADS_MAX)
}

fn per_second(bytes: u64, seconds: f64) -> u64 {
    // Speeds are far below where a float loses integers.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
    let speed = (bytes as f64 / seconds.max(1e-9)) as u64;
    speed
}

/// Reads every file the way that verifying does, and looks at nothing but the header page.
/// Returns bytes and seconds.
fn raw_read(path: &Path, threads: usize) -> Result<(u64, f64), InspectError> {
    let directory = DataDirectory::open(path)?;
    let how = if directory.lock.is_held() { Source::Live } else { Source::Disk };
    let start = Instant::now();
    let bytes = each_file(&directory, threads, |reader, file| {
        let path = directory.file(&file.name);
        let read = reader.read(&path, how).map_err(io_error(&path, "cannot be read"))?;
        Ok(read.map_or(0, |bytes| bytes.len() as u64))
    })?;
    Ok((bytes, start.elapsed().as_secs_f64()))
}
