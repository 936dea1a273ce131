//! `walbench`: the log measured against the disk it lies on, and a node against its clients.
//!
//! A number of a disk benchmark means nothing by itself on a machine that has neighbours. So the log and the *device floor*
//! (the same bytes made durable without a log) take turns in short windows, in one run, on files prepared alike, and what is
//! printed is the ratio. docs/WALBENCH.md explains every number.

mod case;
mod compare;
mod counters;
mod crash;
mod driver;
mod environment;
mod export;
mod floor;
mod index;
mod latency;
mod load;
mod net;
mod options;
mod outputs;
mod prepare;
mod report;
mod results;
mod stall;
mod statistics;
mod suite;
mod svg;
mod targets;

use std::ffi::OsString;
use std::fmt::Display;
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ::net::reactor::OsRandom;
use clap::Parser;
use signal_hook::consts::{SIGINT, SIGTERM};

use self::case::per_second;
use self::counters::Sources;
use self::environment::{Environment, device_of};
use self::floor::{Floor, FloorKind};
use self::options::{Command, CompareOptions, CrashOptions, FloorOptions, LogOptions, NetOptions, Options};
use self::results::{FloorResult, Report};

/// `compare` found B slower than A.
const EXIT_REGRESSION: u8 = 3;
/// As a shell reports a process ended by Ctrl-C.
const EXIT_INTERRUPTED: u8 = 130;
/// Size of the file that `walbench floor` writes into.
const FLOOR_FILE_BYTES: u64 = 16 << 20;

/// What can go wrong. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BenchError {
    /// The system refused something.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// The reactor that was asked for does not work here.
    #[error("--io-backend uring: {0}; use --io-backend epoll")]
    Backend(String),
    /// The command line asks for what there is not.
    #[error("{0}")]
    Usage(String),
    /// Something that must hold did not.
    #[error("{0}")]
    Failed(String),
    /// Ctrl-C.
    #[error("interrupted; what was made is removed")]
    Interrupted,
}

pub(crate) fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> BenchError {
    let what = what.into();
    move |source| match source.kind() {
        io::ErrorKind::Interrupted => BenchError::Interrupted,
        _ => BenchError::Io { what, source },
    }
}

/// The program.
pub fn main() -> ExitCode {
    let options = Options::parse_from(spelled(std::env::args_os()));
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        if signal_hook::flag::register(signal, Arc::clone(&interrupted)).is_err() {
            complain(&"signals cannot be handled");
            return ExitCode::FAILURE;
        }
    }
    match run(&options.command, &interrupted) {
        Ok(code) => code,
        Err(BenchError::Interrupted) => {
            complain(&BenchError::Interrupted);
            ExitCode::from(EXIT_INTERRUPTED)
        }
        Err(error @ BenchError::Usage(_)) => {
            complain(&error);
            ExitCode::from(2)
        }
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

/// `--compare` and `--crash` are other spellings of the subcommands.
fn spelled(args: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut args: Vec<OsString> = args.collect();
    if let Some(first) = args.get_mut(1)
        && (*first == "--compare" || *first == "--crash")
    {
        *first = first.to_string_lossy().trim_start_matches('-').to_owned().into();
    }
    args
}

fn run(command: &Command, interrupted: &AtomicBool) -> Result<ExitCode, BenchError> {
    match command {
        Command::Log(options) => log(options, interrupted),
        Command::Floor(options) => floor(options, interrupted),
        Command::Net(options) => load(options, interrupted),
        Command::Compare(options) => compare(options),
        Command::Crash(options) => crash(options, interrupted),
        Command::CrashChild(options) => crash::run_child(options).map(|()| ExitCode::SUCCESS),
    }
}

fn log(options: &LogOptions, interrupted: &AtomicBool) -> Result<ExitCode, BenchError> {
    outputs::check(&options.outputs)?;
    let run = suite::run(options, interrupted)?;
    let named = |run: &case::CaseRun| outputs::Named {
        name: run.result.name.clone(),
        histograms: run.histograms.clone(),
        intervals: run.intervals.clone(),
    };
    outputs::write(&options.outputs, &run.report, &run.runs.iter().map(named).collect::<Vec<_>>())?;
    Ok(ExitCode::SUCCESS)
}

fn load(options: &NetOptions, interrupted: &AtomicBool) -> Result<ExitCode, BenchError> {
    outputs::check(&options.outputs)?;
    let run = net::run(options, interrupted)?;
    let report = Report { net: Some(run.result), ..Report::new("net", None) };
    let named = outputs::Named { name: "net".to_owned(), histograms: run.histograms, intervals: run.intervals };
    outputs::write(&options.outputs, &report, &[named])?;
    Ok(ExitCode::SUCCESS)
}

fn floor(options: &FloorOptions, interrupted: &AtomicBool) -> Result<ExitCode, BenchError> {
    outputs::check(&options.outputs)?;
    let directory = suite::scratch(&options.dir)?;
    let sources = Sources::of(device_of(directory.path()).as_deref());
    let mut report = Report::new("floor", Some(Environment::of(directory.path(), "none", "not used".to_owned())));
    let mut named = Vec::new();
    let failed = || io_error("the floor cannot be measured");
    let time = Duration::from_secs_f64(options.seconds);
    if options.stall {
        for preparation in &options.prepare[..1] {
            report.stalls = stall::run(directory.path(), *preparation, time, interrupted).map_err(failed())?;
        }
    } else {
        let sequential = || floor::sequential_write(directory.path(), suite::SEQUENTIAL_BYTES).map_err(failed());
        report.sequential_write_bytes_per_s.push(sequential()?);
        for preparation in &options.prepare {
            let made = Floor::new(directory.path(), "floor", *preparation, FLOOR_FILE_BYTES);
            let mut file = made.map_err(failed())?;
            for bytes in &options.bytes {
                for kind in [FloorKind::Sync, FloorKind::Direct] {
                    if kind == FloorKind::Direct && !file.has_direct() {
                        continue;
                    }
                    let before = sources.read();
                    let window = file.window(kind, *bytes as usize, time, interrupted).map_err(failed())?;
                    if interrupted.load(Ordering::Relaxed) {
                        return Err(BenchError::Interrupted);
                    }
                    let written = sources.read().since(&before).device_bytes;
                    let latency = window.latency.summary();
                    report.floors.push(FloorResult {
                        preparation: *preparation,
                        bytes: *bytes,
                        kind,
                        latency,
                        bytes_per_s: per_second(window.bytes, window.seconds),
                        device_bytes_per_operation: written.map(|bytes| case::ratio(bytes, latency.count)),
                    });
                    let name = match kind {
                        FloorKind::Sync => "fdatasync",
                        FloorKind::Direct => "direct",
                    };
                    named.push(outputs::Named {
                        name: format!("{}-{name}-{bytes}", preparation.name()),
                        intervals: vec![(0.0, window.seconds, window.latency.clone())],
                        histograms: vec![("service", window.latency)],
                    });
                }
            }
        }
        report.sequential_write_bytes_per_s.push(sequential()?);
    }
    directory.close().map_err(io_error("the scratch directory cannot be removed"))?;
    outputs::write(&options.outputs, &report, &named)?;
    Ok(ExitCode::SUCCESS)
}

fn compare(options: &CompareOptions) -> Result<ExitCode, BenchError> {
    let a = Report::read(&options.a).map_err(BenchError::Usage)?;
    let b = Report::read(&options.b).map_err(BenchError::Usage)?;
    let changes = compare::compare(&a, &b, options).map_err(BenchError::Usage)?;
    let mut text = String::new();
    for difference in compare::differences(&a, &b) {
        text += &format!("NOTE: measured on different systems: {difference}\n");
    }
    for case in compare::unlike_floors(&a, &b) {
        text += &format!("NOTE: {case}: the floors are far apart, so that its ratios are not judged; measure again\n");
    }
    text += &compare::table(&changes, options.threshold);
    let regressions = changes.iter().filter(|change| change.is_regression(options.threshold)).count();
    text += &match regressions {
        0 => format!("\nno regression beyond {} %\n", options.threshold),
        count => format!("\n{count} regressions beyond {} %\n", options.threshold),
    };
    say(&text);
    Ok(if regressions == 0 { ExitCode::SUCCESS } else { ExitCode::from(EXIT_REGRESSION) })
}

fn crash(options: &CrashOptions, interrupted: &AtomicBool) -> Result<ExitCode, BenchError> {
    let seed = match options.seed {
        Some(seed) => seed,
        None => OsRandom::new().map_err(io_error("no random seed can be drawn; give one with --seed"))?.draw(),
    };
    let mut rounds = 0;
    crash::run(options, seed, interrupted, &mut |round| {
        rounds += 1;
        say(&format!(
            "kill {rounds}: {} on {} files, {} acknowledged, {} recovered from {} segments, end: {}\n",
            round.commit.name(),
            round.preparation.name(),
            round.acknowledged,
            round.recovered,
            round.segments,
            round.row
        ));
    })
    .map_err(|error| match error {
        BenchError::Failed(what) => BenchError::Failed(format!("{what}; again with --seed {seed}")),
        other => other,
    })?;
    say(&format!("{rounds} kills: every acknowledged record was there, and nothing else (seed {seed})\n"));
    Ok(ExitCode::SUCCESS)
}

/// To standard output; a reader that is gone is no error.
fn say(text: &str) {
    let _ = io::stdout().write_all(text.as_bytes());
}

fn complain(error: &impl Display) {
    let _ = writeln!(io::stderr(), "walbench: {error}");
}

/// A directory beside this test's program: /tmp may be memory, which has no device and no direct I/O.
#[cfg(test)]
pub(crate) fn disk_directory() -> tempfile::TempDir {
    let program = std::env::current_exe().expect("a test is a file");
    tempfile::tempdir_in(program.parent().expect("in a directory")).expect("a directory")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound_and_the_other_spellings_are_understood() {
        Options::command().debug_assert();
        let parse = |args: &[&str]| Options::try_parse_from(spelled(args.iter().map(OsString::from)));
        assert!(matches!(parse(&["walbench", "--compare", "a", "b"]).expect("parsed").command, Command::Compare(_)));
        assert!(matches!(parse(&["walbench", "--crash", "--rounds", "2"]).expect("parsed").command, Command::Crash(_)));
        for wrong in [
            &["walbench", "log", "--rate", "0"][..],
            &["walbench", "log", "--commit", "paper"],
            &["walbench", "log", "--record", "8"],
            &["walbench", "log", "--segment-bytes", "3000000"],
            &["walbench", "compare", "a"],
        ] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
