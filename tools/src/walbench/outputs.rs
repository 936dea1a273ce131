//! Where results go: tables on standard output, files by request.

use std::fs;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use super::export::{self, Interval};
use super::latency::Latency;
use super::options::Outputs;
use super::results::Report;
use super::{BenchError, io_error, report, say, svg};

/// The histograms of one case.
#[derive(Debug)]
pub(crate) struct Named {
    pub(crate) name: String,
    pub(crate) histograms: Vec<(&'static str, Latency)>,
    /// Start and length in seconds, and what was counted then.
    pub(crate) intervals: Vec<(f64, f64, Latency)>,
}

/// Says before a run, and not after it, that a file cannot be written.
pub(crate) fn check(outputs: &Outputs) -> Result<(), BenchError> {
    let files =
        [&outputs.json, &outputs.hlog, &outputs.svg].into_iter().flatten().filter(|path| *path != Path::new("-"));
    for file in files {
        let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if !parent.is_dir() || file.is_dir() {
            return Err(BenchError::Usage(format!("{} cannot be written: name a file in a directory", file.display())));
        }
    }
    Ok(())
}

/// Shows the report and writes what was asked for.
pub(crate) fn write(outputs: &Outputs, report: &Report, cases: &[Named]) -> Result<(), BenchError> {
    let json = outputs.json.as_deref();
    if let Some(path) = json {
        let mut text = serde_json::to_string_pretty(report)
            .map_err(|error| BenchError::Failed(format!("the result cannot be written as JSON: {error}")))?;
        text.push('\n');
        if path == Path::new("-") { say(&text) } else { store(path, text.as_bytes())? }
    }
    if json != Some(Path::new("-")) {
        say(&report::text(report));
    }
    if let Some(directory) = &outputs.hgrm {
        let made = fs::create_dir_all(directory);
        made.map_err(io_error(format!("{} cannot be created", directory.display())))?;
        for case in cases {
            for (name, latency) in &case.histograms {
                store(&directory.join(format!("{}-{name}.hgrm", case.name)), export::hgrm(latency).as_bytes())?;
            }
        }
    }
    if let Some(path) = &outputs.hlog {
        let intervals = cases.iter().flat_map(|case| {
            case.intervals.iter().map(|(start_s, seconds, latency)| Interval {
                tag: &case.name,
                start_s: *start_s,
                seconds: *seconds,
                latency,
            })
        });
        let begin = UNIX_EPOCH + Duration::from_millis(report.started_unix_ms);
        let bytes = export::hlog(begin, &intervals.collect::<Vec<_>>());
        store(path, &bytes.map_err(io_error("the interval log cannot be made"))?)?;
    }
    if let Some(path) = &outputs.svg {
        let curves: Vec<(String, &Latency)> = cases.iter().flat_map(curves).collect();
        let drawn = svg::draw("latency by percentile", &curves);
        let drawn = drawn.map_err(|error| BenchError::Failed(format!("the picture cannot be drawn: {error}")))?;
        store(path, drawn.as_bytes())?;
    }
    Ok(())
}

/// What is drawn of a case: what its users see, and the floors.
fn curves(case: &Named) -> Vec<(String, &Latency)> {
    let has_response = case.histograms.iter().any(|(name, _)| *name == "response");
    let shown = |name: &str| match name {
        "service" => !has_response,
        "response" => true,
        name => name.starts_with("floor-"),
    };
    let chosen = case.histograms.iter().filter(|(name, latency)| shown(name) && !latency.histogram().is_empty());
    chosen.map(|(name, latency)| (format!("{} {name}", case.name), latency)).collect()
}

fn store(path: &Path, bytes: &[u8]) -> Result<(), BenchError> {
    fs::write(path, bytes).map_err(io_error(format!("{} cannot be written", path.display())))
}
