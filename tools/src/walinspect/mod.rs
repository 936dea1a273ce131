//! `walinspect`: looks into the logs of a node, offline or beside the running daemon. Strictly read-only: files are opened for
//! reading, no lock is taken, nothing is created.
//!
//! What a byte means only `wal` knows; this says it to people and to other programs. docs/WALINSPECT.md describes the output.

mod cli;
mod cut;
mod diff;
mod directory;
mod dump;
mod error;
mod filter;
mod follow;
mod fuzz;
mod history;
mod load;
mod ls;
mod output;
mod read;
mod repair;
mod retention;
mod segment;
mod show;
mod snapshot;
mod stats;
mod text;
mod verdict;
mod verify;

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{CommandFactory, Parser};

use cli::{Cli, Command};
pub use error::InspectError;
use error::{EXIT_FAILED, EXIT_REFUSED, EXIT_SOUND};
pub use fuzz::inspect_bytes;
use load::Loaded;
use output::Output;

/// Runs the command line `args`, the program's name included.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are answers; 2 has another meaning here than clap's.
            let code = if error.use_stderr() { EXIT_FAILED } else { EXIT_SOUND };
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    let mut output = Output::standard(cli.json);
    let outcome = run(&cli, &mut output).and_then(|code| output.flush().map(|()| code));
    match outcome {
        Ok(code) => ExitCode::from(code),
        // Whoever read the output has seen enough.
        Err(InspectError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            note(&error.to_string());
            ExitCode::from(EXIT_FAILED)
        }
    }
}

/// A remark to the operator, beside the output.
fn note(text: &str) {
    let _ = writeln!(io::stderr(), "walinspect: {text}");
}

fn run(cli: &Cli, output: &mut Output) -> Result<u8, InspectError> {
    match &cli.command {
        Command::Ls(args) => ls::run(&args.dir, output).map(|()| EXIT_SOUND),
        Command::Dump(args) if args.follow => follow::run(args, cli.json, output, note).map(|()| EXIT_SOUND),
        Command::Dump(args) => {
            let (loaded, remarks) = dump::run(args, cli.json, output)?;
            output.flush()?;
            remarks.iter().for_each(|remark| note(remark));
            Ok(incomplete(&loaded))
        }
        Command::Verify(args) => verify::run(args, output),
        Command::Stats(args) => stats::run(&args.dir, args.at.unwrap_or_else(now_unix_ms), output).map(|l| finish(&l)),
        Command::History(args) => history::run(args, output).map(|loaded| finish(&loaded)),
        Command::Diff(args) => {
            let (left, right) = diff::run(args, args.at.unwrap_or_else(now_unix_ms), output)?;
            Ok(finish(&left).max(finish(&right)))
        }
        Command::Retention(args) => {
            retention::run(args, args.at.unwrap_or_else(now_unix_ms), output).map(|loaded| finish(&loaded))
        }
        Command::Repair(args) => repair::run(args, output),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "walinspect", &mut script);
            output.text(&script).map(|()| EXIT_SOUND)
        }
        Command::Man { command } => manual(command.as_deref(), output).map(|()| EXIT_SOUND),
    }
}

fn manual(command: Option<&str>, output: &mut Output) -> Result<(), InspectError> {
    let mut root = Cli::command();
    root.build();
    let page = match command {
        None => root,
        Some(name) => {
            let found = root.find_subcommand(name).cloned();
            let found =
                found.ok_or_else(|| InspectError::Usage(format!("there is no command '{name}'; see --help")))?;
            found.display_name(format!("walinspect-{name}"))
        }
    };
    let mut text = Vec::new();
    clap_mangen::Man::new(page).render(&mut text).map_err(InspectError::Output)?;
    output.text(&text)
}

/// Says what was found to be wrong; the code is that of [`incomplete`].
fn finish(loaded: &Loaded) -> u8 {
    loaded.remarks().iter().for_each(|remark| note(remark));
    incomplete(loaded)
}

/// A torn tail was never acknowledged: what was shown without it is complete. Anything worse is not.
fn incomplete(loaded: &Loaded) -> u8 {
    if loaded.judgement.worst().exit_code() == EXIT_REFUSED { EXIT_REFUSED } else { EXIT_SOUND }
}

/// Expiries are wall times.
fn now_unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
