//! Runs the simulator by hand: `cargo run -p godwit-tests --bin sim -- --seed 7 --verbose`.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use tests::sim::run::{Report, run_seed};

/// Three regions, their disks, clocks and network in one thread, from one seed.
#[derive(Debug, Parser)]
#[command(name = "sim")]
struct Args {
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many seeds to run, counting up.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// Also say what happened in each run.
    #[arg(long)]
    verbose: bool,
}

fn show(out: &mut impl Write, report: &Report, verbose: bool) -> std::io::Result<()> {
    let story: &[String] = if verbose || report.violation.is_some() { &report.story } else { &[] };
    for line in story {
        writeln!(out, "{line}")?;
    }
    let outcome = if report.violation.is_some() { "VIOLATED" } else { "holds" };
    writeln!(
        out,
        "seed {} {outcome}: trace {:016x}, {} faults, {} acknowledged, {} unknown, {} refused, {} records, {}/{} segments \
         given up/reused, {} virtual ms",
        report.seed,
        report.trace_hash,
        report.faults,
        report.acknowledged,
        report.unknown,
        report.refused,
        report.records,
        report.segments.0,
        report.segments.1,
        report.virtual_ms,
    )?;
    if let Some(violation) = &report.violation {
        writeln!(out, "seed {} violates {violation}", report.seed)?;
    }
    out.flush()
}

fn main() -> ExitCode {
    let args = Args::parse();
    let mut out = std::io::stdout().lock();
    let mut sound = true;
    for seed in args.seed..args.seed.saturating_add(args.seeds) {
        let report = run_seed(seed);
        sound &= report.violation.is_none();
        if show(&mut out, &report, args.verbose).is_err() {
            return ExitCode::FAILURE;
        }
    }
    if sound { ExitCode::SUCCESS } else { ExitCode::from(1) }
}
