//! `walbench log`: which cases, in which order, and what becomes of them.

use std::io;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use net::reactor::epoll::EpollIo;
use net::reactor::uring::UringIo;
use net::reactor::{Backend, choose_backend};

use super::case::{self, CaseRun, CaseSettings, Place};
use super::counters::Sources;
use super::environment::{Environment, device_of};
use super::load::LoadSettings;
use super::options::{CommitPath, LogOptions, WantedBackend};
use super::prepare::Preparation;
use super::results::Report;
use super::{BenchError, floor, io_error, report, targets};
use engine::daemon::OsIo;

/// Bytes written to learn the sequential bandwidth.
pub(crate) const SEQUENTIAL_BYTES: u64 = 64 << 20;
/// Writers of an open loop that was given none: enough that the rate, not they, limits it.
const OPEN_WRITERS: u32 = 20_000;
/// Records where throughput is held against the disk's: large enough that bytes, and not appends, are what it is about.
const GROUPED_RECORD_BYTES: u32 = 1024;
/// How far below the knee latency is judged.
const BELOW_KNEE: f64 = 0.7;

/// Everything of a run: the report, and the histograms behind its cases.
#[derive(Debug)]
pub(crate) struct SuiteRun {
    pub(crate) report: Report,
    pub(crate) runs: Vec<CaseRun>,
}

/// The reactor to use, and what is said of io_uring in the fingerprint.
pub(crate) fn backend(wanted: WantedBackend) -> Result<(Backend, String), BenchError> {
    let (backend, refused) = choose_backend(wanted.into());
    match refused {
        Some(refused) if wanted == WantedBackend::Uring => Err(BenchError::Backend(refused)),
        Some(refused) => Ok((backend, refused)),
        None if wanted == WantedBackend::Epoll => Ok((
            backend,
            net::reactor::uring::probe().map_or_else(|refused| refused.to_string(), |()| "works".to_owned()),
        )),
        None => Ok((backend, "works".to_owned())),
    }
}

pub(crate) fn backend_name(backend: Backend) -> &'static str {
    match backend {
        Backend::Uring => "uring",
        Backend::Epoll => "epoll",
    }
}

/// A directory for one run below `parent`, removed when it is dropped.
pub(crate) fn scratch(parent: &Path) -> Result<tempfile::TempDir, BenchError> {
    let made = tempfile::Builder::new().prefix("walbench-").tempdir_in(parent);
    made.map_err(io_error(format!("nothing can be made in {} (see --dir)", parent.display())))
}

/// Runs what the options ask for.
pub(crate) fn run(options: &LogOptions, interrupted: &AtomicBool) -> Result<SuiteRun, BenchError> {
    let (backend, io_uring) = backend(options.io_backend)?;
    match backend {
        Backend::Uring => run_on::<UringIo>(options, backend, io_uring, interrupted),
        Backend::Epoll => run_on::<EpollIo>(options, backend, io_uring, interrupted),
    }
}

fn run_on<I: OsIo>(
    options: &LogOptions,
    backend: Backend,
    io_uring: String,
    interrupted: &AtomicBool,
) -> Result<SuiteRun, BenchError> {
    let directory = scratch(&options.dir)?;
    if let Some(cpu) = options.cpu {
        pin(cpu)?;
    }
    let sources = Sources::of(device_of(directory.path()).as_deref());
    let environment = Environment::of(directory.path(), backend_name(backend), io_uring);
    let mut report = Report::new("log", Some(environment));
    let plan = plan(options);
    let bar = progress(options, &plan);
    let tick = || bar.inc(1);
    let started = Instant::now();
    let place = Place { directory: directory.path(), backend, sources: &sources, interrupted, started, tick: &tick };
    let sequential = || {
        let measured = floor::sequential_write(directory.path(), SEQUENTIAL_BYTES);
        measured.map_err(io_error("the sequential bandwidth cannot be measured"))
    };
    report.sequential_write_bytes_per_s.push(sequential()?);
    let mut runs = Vec::new();
    for mut settings in plan.iter().cloned() {
        bar.set_message(settings.name.clone());
        let failed = |what: &str| io_error(format!("{}: {what}", settings.name));
        if settings.load.rate == Some(AT_KNEE) {
            let knee = case::knee::<I>(&settings, &place).map_err(failed("the search for the knee failed"))?;
            let Some(knee) = knee else { continue };
            settings.load.rate = Some(knee * BELOW_KNEE);
        }
        let failed = io_error(format!("{}: the log cannot be measured", settings.name));
        runs.push(case::run::<I>(&settings, &place).map_err(failed)?);
    }
    report.sequential_write_bytes_per_s.push(sequential()?);
    bar.finish_and_clear();
    report.cases = runs.iter().map(|run| run.result.clone()).collect();
    if !is_matrix(options) {
        report.targets = targets::judge(&report.cases, &options.commit, sources.has_journal());
    }
    directory.close().map_err(io_error("the scratch directory cannot be removed"))?;
    Ok(SuiteRun { report, runs })
}

/// Stands for a rate that is found by a search first.
const AT_KNEE: f64 = f64::INFINITY;

/// Whether the lists are to be combined, instead of measuring the targets.
fn is_matrix(options: &LogOptions) -> bool {
    options.matrix
        || options.rate.is_some()
        || !options.writers.is_empty()
        || !options.group.is_empty()
        || options.record.len() > 1
        || options.prepare.len() > 1
}

fn plan(options: &LogOptions) -> Vec<CaseSettings> {
    if is_matrix(options) { matrix(options) } else { for_targets(options) }
}

fn settings(
    options: &LogOptions,
    name: String,
    commit: CommitPath,
    preparation: Preparation,
    load: LoadSettings,
) -> CaseSettings {
    CaseSettings {
        name,
        commit,
        preparation,
        load,
        index: !options.no_index,
        time: Duration::from_secs_f64(options.seconds),
        window: Duration::from_millis(options.window),
    }
}

/// What the project's targets are about.
fn for_targets(options: &LogOptions) -> Vec<CaseSettings> {
    let preparation = options.prepare.first().copied().unwrap_or(Preparation::Recycled);
    let record_bytes = options.record.first().copied().unwrap_or(128);
    let load =
        LoadSettings { record_bytes, group_bytes: 0, writers: 1, rate: None, segment_bytes: options.segment_bytes };
    // While one group is written the next is gathered: twice as many writers as a group has records.
    let grouped = |group_bytes: u64| {
        let records = group_bytes / u64::from(GROUPED_RECORD_BYTES);
        let writers = u32::try_from(2 * records).unwrap_or(u32::MAX).max(2);
        LoadSettings { record_bytes: GROUPED_RECORD_BYTES, group_bytes, writers, ..load }
    };
    let mut cases = Vec::new();
    for commit in &options.commit {
        for (name, load) in [
            (targets::SINGLE, load),
            (targets::MANY, LoadSettings { writers: 1000, ..load }),
            (targets::GROUP_16K, grouped(16 * 1024)),
            (targets::GROUP_64K, grouped(64 * 1024)),
            (targets::BELOW_KNEE, LoadSettings { writers: OPEN_WRITERS, rate: Some(AT_KNEE), ..load }),
        ] {
            cases.push(settings(options, format!("{}-{name}", commit.name()), *commit, preparation, load));
        }
    }
    cases
}

fn matrix(options: &LogOptions) -> Vec<CaseSettings> {
    let or = |given: &[Preparation], default: &[Preparation]| {
        if given.is_empty() { default.to_vec() } else { given.to_vec() }
    };
    let wide: &[Preparation] = &[Preparation::ZerosSmall, Preparation::Recycled];
    let preparations = or(&options.prepare, if options.matrix { wide } else { &wide[1..] });
    let groups = if options.group.is_empty() { vec![0] } else { options.group.clone() };
    let writers = match (&options.writers[..], options.rate) {
        ([], None) => vec![1, 1000],
        ([], Some(_)) => vec![OPEN_WRITERS],
        (given, _) => given.to_vec(),
    };
    let mut cases = Vec::new();
    for commit in &options.commit {
        for preparation in &preparations {
            for record_bytes in &options.record {
                for group_bytes in &groups {
                    for writers in &writers {
                        let load = LoadSettings {
                            record_bytes: *record_bytes,
                            group_bytes: *group_bytes,
                            writers: *writers,
                            rate: options.rate,
                            segment_bytes: options.segment_bytes,
                        };
                        let name = format!(
                            "{}-{}-r{record_bytes}-g{group_bytes}-w{writers}",
                            commit.name(),
                            preparation.name()
                        );
                        cases.push(settings(options, name, *commit, *preparation, load));
                    }
                }
            }
        }
    }
    cases
}

fn progress(options: &LogOptions, plan: &[CaseSettings]) -> ProgressBar {
    let rounds = case::rounds(Duration::from_secs_f64(options.seconds), Duration::from_millis(options.window));
    let searches = plan.iter().filter(|case| case.load.rate == Some(AT_KNEE)).count() * 7;
    // Three kinds of windows a round.
    report::bar("", plan.len() as u64 * 3 * u64::from(rounds) + searches as u64)
}

fn pin(cpu: usize) -> Result<(), BenchError> {
    let known = std::fs::read_to_string("/proc/cpuinfo").map_or(0, |text| text.matches("processor").count());
    if cpu >= known.max(1) {
        return Err(BenchError::Usage(format!("--cpu {cpu}: this machine has the CPUs 0 to {}", known.max(1) - 1)));
    }
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    let pinned = rustix::thread::sched_setaffinity(None, &set).map_err(io::Error::from);
    pinned.map_err(io_error(format!("the thread cannot be pinned to CPU {cpu}")))
}
