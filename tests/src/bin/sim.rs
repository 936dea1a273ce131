//! Runs the simulator by hand: `cargo run --release --bin sim -- --seed 7 --verbose`, `… -- --seeds 1..2001 --jobs 2`.

use std::io::{IsTerminal, Write};
use std::ops::Range;
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use clap::Parser;
use tests::sim::minimise::minimise;
use tests::sim::plan::Plan;
use tests::sim::plant::plant;
use tests::sim::reach;
use tests::sim::run::{Report, run_plan};
use tests::sim::sweep::{Totals, sweep};
use wal::marks::Mark;
use wal::planted::Fault;

/// How often the progress line is written.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);
/// … where nobody can overwrite it.
const PROGRESS_EVERY_IN_A_FILE: Duration = Duration::from_secs(20);

/// Three regions, their disks, clocks and network in one thread, from one seed.
///
/// One seed is about 60 simulated seconds: faults and clients, then healing, and the regions have to become equal. Exit code 1: a
/// checker found something; 2: the arguments make no sense.
#[derive(Debug, Parser)]
#[command(name = "sim", version)]
struct Args {
    /// Replay one seed.
    #[arg(long, conflicts_with_all = ["seeds", "fresh"], required_unless_present_any = ["seeds", "fresh"])]
    seed: Option<u64>,
    /// Replay it with only these faults of its list, by number: 3,7,12 (or none).
    #[arg(long, requires = "seed", value_parser = parse_faults)]
    faults: Option<Kept>,
    /// Also say what the seed decided and what happened.
    #[arg(long, requires = "seed")]
    verbose: bool,
    /// Run a range of seeds: 1..2001 is 1 to 2000.
    #[arg(long, value_parser = parse_range)]
    seeds: Option<Range<u64>>,
    /// Run this many seeds from a place that nobody has seen before.
    #[arg(long, conflicts_with = "seeds")]
    fresh: Option<u64>,
    /// On so many threads.
    #[arg(long, default_value_t = 1, conflicts_with = "seed")]
    jobs: usize,
    /// Do not look for a shorter list of faults when a seed fails.
    #[arg(long)]
    keep_all: bool,
    /// Say which rare branches of the product were reached, by how many seeds and by which first.
    #[arg(long)]
    marks: bool,
    /// Fail if a branch was not reached that a sweep of 200 seeds has to reach.
    #[arg(long, conflicts_with = "seed")]
    require_marks: bool,
    /// Plant a deliberate fault, by name: a wrong one lists them all.
    #[arg(long, value_name = "NAME")]
    planted: Option<Fault>,
}

/// Places in a plan's list of faults.
#[derive(Clone, Debug)]
struct Kept(Vec<usize>);

fn parse_faults(text: &str) -> Result<Kept, String> {
    if text == "none" {
        return Ok(Kept(Vec::new()));
    }
    let parse = |part: &str| part.parse::<usize>().map_err(|_| format!("{part:?} is not a fault's number"));
    text.split(',').map(parse).collect::<Result<_, _>>().map(Kept)
}

fn parse_range(text: &str) -> Result<Range<u64>, String> {
    let (first, end) = text.split_once("..").ok_or("write A..B, as in 1..2001")?;
    let number = |part: &str| part.parse::<u64>().map_err(|_| format!("{part:?} is not a seed"));
    let range = number(first)?..number(end)?;
    if range.is_empty() { Err("the range is empty: A..B is A up to, not including, B".to_owned()) } else { Ok(range) }
}

fn show(out: &mut impl Write, report: &Report) -> std::io::Result<()> {
    let outcome = if report.violation.is_some() { "VIOLATED" } else { "holds" };
    writeln!(
        out,
        "seed {} {outcome}: trace {:016x}, {} faults, {} operations ({} acknowledged, {} unknown, {} refused), {} records, \
         {}/{} segments given up/reused, {} simulated ms, {} events",
        report.seed,
        report.trace_hash,
        report.faults,
        report.operations(),
        report.acknowledged,
        report.unknown,
        report.refused,
        report.records,
        report.segments.0,
        report.segments.1,
        report.virtual_ms,
        report.steps,
    )?;
    if let Some(violation) = &report.violation {
        writeln!(out, "seed {} violates {violation}", report.seed)?;
    }
    out.flush()
}

/// What of the code the failure belongs to.
fn commit() -> String {
    let git = |args: &[&str]| {
        let output = Command::new("git").args(args).current_dir(env!("CARGO_MANIFEST_DIR")).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    match (git(&["rev-parse", "HEAD"]), git(&["status", "--porcelain", "--untracked-files=no"])) {
        (Some(head), Some(changes)) if changes.is_empty() => head,
        (Some(head), _) => format!("{head} with uncommitted changes"),
        (None, _) => "an unknown commit".to_owned(),
    }
}

/// Tells a failure: its story, and the shortest list of faults that was found for it.
fn explain(out: &mut impl Write, args: &Args, plan: &Plan, report: &Report) -> std::io::Result<()> {
    let Some(violation) = &report.violation else { return Ok(()) };
    let minimal = if args.keep_all || args.faults.is_some() { None } else { minimise(plan, violation.checker) };
    let story = minimal.as_ref().map_or(&report.story, |minimal| &minimal.report.story);
    for line in story {
        writeln!(out, "{line}")?;
    }
    show(out, report)?;
    writeln!(out, "at commit {}", commit())?;
    let Some(minimal) = minimal else { return out.flush() };
    if let Some(violation) = &minimal.report.violation {
        let (kept, all) = (minimal.kept.len(), plan.faults.len());
        writeln!(out, "{kept} of {all} faults are enough ({} runs), and give {violation}", minimal.runs)?;
    }
    for index in &minimal.kept {
        writeln!(out, "  fault {index}: {}", plan.faults[*index])?;
    }
    let numbers: Vec<String> = minimal.kept.iter().map(usize::to_string).collect();
    let numbers = if numbers.is_empty() { "none".to_owned() } else { numbers.join(",") };
    let planted = args.planted.map_or_else(String::new, |fault| format!(" --planted {fault}"));
    writeln!(
        out,
        "replay: cargo run --release --bin sim -- --seed {} --faults {numbers}{planted} --verbose",
        plan.seed
    )?;
    out.flush()
}

fn replay(out: &mut impl Write, args: &Args, seed: u64) -> std::io::Result<bool> {
    let mut plan = Plan::draw(seed);
    if let Some(Kept(kept)) = &args.faults {
        plan = plan.keeping(kept);
    }
    let report = run_plan(&plan);
    if args.verbose {
        writeln!(out, "{plan:#?}")?;
        for line in &report.story {
            writeln!(out, "{line}")?;
        }
    }
    if report.violation.is_some() && !args.verbose {
        explain(out, args, &plan, &report)?;
    } else {
        show(out, &report)?;
    }
    if args.marks {
        writeln!(out, "reached: {}", list(report.marks.iter()))?;
    }
    Ok(report.violation.is_none())
}

/// Writes a line about how far a sweep is, now and then.
#[derive(Debug)]
struct Progress {
    began: Instant,
    all: u64,
    last: Mutex<Instant>,
}

impl Progress {
    fn new(all: u64) -> Progress {
        Progress { began: Instant::now(), all, last: Mutex::new(Instant::now()) }
    }

    fn tell(&self, totals: &Totals) {
        let mut last = self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let terminal = std::io::stderr().is_terminal();
        let every = if terminal { PROGRESS_EVERY } else { PROGRESS_EVERY_IN_A_FILE };
        if last.elapsed() < every {
            return;
        }
        *last = Instant::now();
        let line = self.line(totals);
        let mut out = std::io::stderr().lock();
        // A progress line that cannot be written harms nobody.
        let _ = if terminal { write!(out, "\r{line}   ") } else { writeln!(out, "{line}") };
        let _ = out.flush();
    }

    fn line(&self, totals: &Totals) -> String {
        format!(
            "{} of {} seeds in {:.1} s: {:.0} ms each, {} operations, {} faults, {:.0} simulated s per s and thread, {:.0} events/s",
            totals.seeds,
            self.all,
            self.began.elapsed().as_secs_f64(),
            1000.0 * totals.busy.as_secs_f64() / f64::from(u32::try_from(totals.seeds.max(1)).unwrap_or(u32::MAX)),
            totals.operations,
            totals.faults,
            totals.speed(),
            totals.steps_per_second(),
        )
    }
}

fn sweep_all(out: &mut impl Write, args: &Args, seeds: Range<u64>) -> std::io::Result<bool> {
    let progress = Progress::new(seeds.end - seeds.start);
    let totals = sweep(seeds, args.jobs, args.planted, |totals| progress.tell(totals));
    if std::io::stderr().is_terminal() {
        eprintln!();
    }
    writeln!(out, "{}", progress.line(&totals))?;
    if let Some(report) = &totals.failure {
        explain(out, args, &Plan::draw(report.seed), report)?;
    }
    let all_reached = show_marks(out, args, &totals)?;
    Ok(totals.failure.is_none() && all_reached)
}

/// Says which marks were reached; whether all were that have to be.
fn show_marks(out: &mut impl Write, args: &Args, totals: &Totals) -> std::io::Result<bool> {
    if args.marks {
        for (mark, reached) in &totals.marks {
            writeln!(out, "  {:32} {:6} seeds, first {}", mark.name(), reached.seeds, reached.first)?;
        }
    }
    let never = totals.missing(Mark::ALL);
    writeln!(out, "{} of {} marks reached; never: {}", totals.marks.len(), Mark::ALL.len(), list(never))?;
    let missing = totals.missing(reach::EXPECTED);
    // A sweep that ended early has reached less.
    if !args.require_marks || missing.is_empty() || totals.failure.is_some() {
        return Ok(true);
    }
    writeln!(out, "not reached, but a sweep of {} seeds has to: {}", reach::SEEDS_MIN, list(missing))?;
    Ok(false)
}

fn list(marks: impl IntoIterator<Item = Mark>) -> String {
    let names: Vec<&str> = marks.into_iter().map(Mark::name).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// A place in the seeds that depends on the moment.
fn somewhere() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    // Microseconds: far from the small numbers that people type, and ranges of different runs do not meet.
    u64::try_from(now.as_micros()).unwrap_or(u64::MAX / 2)
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Err(error) = plant(args.planted) {
        eprintln!("error: {error}");
        return ExitCode::from(2);
    }
    let mut out = std::io::stdout().lock();
    let result = match (args.seed, args.seeds.clone(), args.fresh) {
        (Some(seed), ..) => replay(&mut out, &args, seed),
        (_, Some(seeds), _) => sweep_all(&mut out, &args, seeds),
        (_, _, fresh) => {
            let first = somewhere();
            let seeds = first..first + fresh.unwrap_or(1);
            eprintln!("seeds {}..{}", seeds.start, seeds.end);
            sweep_all(&mut out, &args, seeds)
        }
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) | Err(_) => ExitCode::from(1),
    }
}
