//! What `--json` writes and `compare` reads. docs/WALBENCH.md describes every field; [`SCHEMA`] rises when one changes its
//! meaning.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::counters::Counters;
use super::environment::Environment;
use super::floor::FloorKind;
use super::latency::Summary;
use super::options::{CommitPath, Protocol};
use super::prepare::Preparation;
use super::statistics::Estimate;

/// The version of this layout.
pub(crate) const SCHEMA: u32 = 1;

/// A whole run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) schema: u32,
    pub(crate) tool: String,
    pub(crate) version: String,
    /// `log`, `floor` or `net`.
    pub(crate) command: String,
    pub(crate) started_unix_ms: u64,
    pub(crate) environment: Option<Environment>,
    /// Sequential writes around the page cache: one value from before, one from after the run.
    #[serde(default)]
    pub(crate) sequential_write_bytes_per_s: Vec<f64>,
    #[serde(default)]
    pub(crate) cases: Vec<CaseResult>,
    #[serde(default)]
    pub(crate) floors: Vec<FloorResult>,
    #[serde(default)]
    pub(crate) stalls: Vec<StallResult>,
    #[serde(default)]
    pub(crate) net: Option<NetResult>,
    #[serde(default)]
    pub(crate) targets: Vec<Target>,
}

/// One combination, measured in windows that alternate with the floor's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct CaseResult {
    pub(crate) name: String,
    pub(crate) commit: CommitPath,
    pub(crate) preparation: Preparation,
    pub(crate) record_bytes: u32,
    pub(crate) group_bytes: u64,
    pub(crate) writers: u32,
    pub(crate) rate_per_s: Option<f64>,
    /// What the floor wrote at a time: the log's bytes per commit in a first window.
    pub(crate) floor_bytes: u64,
    pub(crate) service: Summary,
    /// From the intended send time; only in an open loop.
    pub(crate) response: Option<Summary>,
    pub(crate) stages: StageSummaries,
    pub(crate) floor_sync: Summary,
    pub(crate) floor_direct: Option<Summary>,
    /// Log ÷ floor of the same commit path, per pair of windows.
    pub(crate) ratios: Ratios,
    pub(crate) records: u64,
    pub(crate) commits: u64,
    /// Log positions: records with padding, and frame headers.
    pub(crate) logged_bytes: u64,
    /// Of the log's windows.
    pub(crate) seconds: f64,
    pub(crate) records_per_s: f64,
    pub(crate) records_per_commit: f64,
    pub(crate) logged_bytes_per_s: f64,
    pub(crate) device_bytes_per_logged_byte: Option<f64>,
    pub(crate) process_bytes_per_logged_byte: Option<f64>,
    pub(crate) thread_cpu_ns_per_record: f64,
    pub(crate) process_cpu_ns_per_record: f64,
    pub(crate) minor_faults_per_record: Option<f64>,
    /// Arrivals that found no free writer before their window ended.
    pub(crate) missed: u64,
    /// Sums over the log's windows.
    pub(crate) counters: Counters,
    pub(crate) windows: Vec<Window>,
}

/// See [`super::driver::Stages`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct StageSummaries {
    pub(crate) staged: Summary,
    pub(crate) written: Summary,
    pub(crate) synced: Summary,
    pub(crate) woken: Summary,
}

/// Log ÷ floor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Ratios {
    pub(crate) p50: Option<Estimate>,
    pub(crate) p99: Option<Estimate>,
    pub(crate) throughput: Option<Estimate>,
}

/// What a window measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum WindowKind {
    Log,
    Sync,
    Direct,
    Net,
}

impl From<FloorKind> for WindowKind {
    fn from(kind: FloorKind) -> WindowKind {
        match kind {
            FloorKind::Sync => WindowKind::Sync,
            FloorKind::Direct => WindowKind::Direct,
        }
    }
}

/// The unit of comparison.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Window {
    pub(crate) kind: WindowKind,
    /// Windows of one round belong together.
    pub(crate) round: u32,
    pub(crate) seconds: f64,
    pub(crate) count: u64,
    pub(crate) bytes: u64,
    /// Of the response time where there is one.
    pub(crate) p50_ns: u64,
    pub(crate) p99_ns: u64,
    pub(crate) max_ns: u64,
}

/// One combination of `walbench floor`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct FloorResult {
    pub(crate) preparation: Preparation,
    pub(crate) bytes: u32,
    pub(crate) kind: FloorKind,
    pub(crate) latency: Summary,
    pub(crate) bytes_per_s: f64,
    pub(crate) device_bytes_per_operation: Option<f64>,
}

/// How long stores into a mapping waited.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct StallResult {
    pub(crate) mapping: CommitPath,
    /// Whether another thread synced (mmap) or wrote (direct) what was stored.
    pub(crate) while_committing: bool,
    pub(crate) store: Summary,
    pub(crate) commits: u64,
}

/// `walbench net`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct NetResult {
    pub(crate) addr: String,
    /// Results of earlier versions have none: they spoke RESP.
    #[serde(default)]
    pub(crate) protocol: Protocol,
    pub(crate) io_backend: String,
    pub(crate) connections: u32,
    pub(crate) pipeline: u32,
    pub(crate) get_percent: u32,
    pub(crate) keys: u32,
    pub(crate) value_bytes: u32,
    pub(crate) rate_per_s: Option<f64>,
    pub(crate) service: Summary,
    pub(crate) response: Option<Summary>,
    pub(crate) get: Summary,
    pub(crate) set: Summary,
    pub(crate) commands: u64,
    pub(crate) seconds: f64,
    pub(crate) commands_per_s: f64,
    /// Error replies.
    pub(crate) errors: u64,
    /// The first of them.
    pub(crate) first_error: Option<String>,
    /// GETs of keys that were not there.
    pub(crate) misses: u64,
    /// Commands that no connection had room for before the end.
    pub(crate) missed: u64,
    pub(crate) windows: Vec<Window>,
}

/// A number that the project wants, and whether it was reached here and now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Target {
    pub(crate) name: String,
    pub(crate) commit: CommitPath,
    pub(crate) wanted: String,
    pub(crate) found: String,
    pub(crate) verdict: Verdict,
    /// What the time or the bytes went into.
    pub(crate) bound_by: String,
}

/// Whether a target was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    Met,
    Missed,
    /// The interval lies on both sides of the limit: measure longer, or on a quieter machine.
    Unclear,
    NotMeasured,
}

impl Report {
    pub(crate) fn new(command: &str, environment: Option<Environment>) -> Report {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Report {
            schema: SCHEMA,
            tool: "walbench".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            command: command.to_owned(),
            started_unix_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
            environment,
            sequential_write_bytes_per_s: Vec::new(),
            cases: Vec::new(),
            floors: Vec::new(),
            stalls: Vec::new(),
            net: None,
            targets: Vec::new(),
        }
    }

    /// Reads what `--json` wrote. The error says which file and what to do.
    pub(crate) fn read(path: &Path) -> Result<Report, String> {
        let text = fs::read(path).map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
        let value: serde_json::Value = serde_json::from_slice(&text)
            .map_err(|error| format!("{} is no JSON: {error}; give files that --json wrote", path.display()))?;
        let schema = value.get("schema").and_then(serde_json::Value::as_u64);
        if value.get("tool").and_then(serde_json::Value::as_str) != Some("walbench") {
            return Err(format!("{} is no result of walbench; give files that --json wrote", path.display()));
        }
        if schema != Some(u64::from(SCHEMA)) {
            let found = schema.map_or_else(|| "no schema".to_owned(), |found| format!("schema {found}"));
            return Err(format!("{} has {found}, this program reads {SCHEMA}; measure again", path.display()));
        }
        serde_json::from_value(value)
            .map_err(|error| format!("{} is incomplete: {error}; measure again", path.display()))
    }
}
