//! `godwit`: the operator's command. `godwit daemon` is the same daemon as `godwitd`, so that the lab needs one binary.

use std::ffi::OsString;
use std::io::{Read as _, Write as _};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tools::lab;

/// Runs and looks after Godwit, the per-region daemon of a geo-replicated store.
#[derive(Debug, Parser)]
#[command(name = "godwit", version)]
struct Godwit {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Three regions on this machine: real daemons with the delays of real cables between them, on 127.10.0.1-3 or, with
    /// --netns, on network stacks of their own.
    Lab(lab::Options),
    /// Run one node in the foreground; takes the flags of godwitd (see `godwit daemon --help`).
    #[command(disable_help_flag = true)]
    Daemon {
        /// Flags of the daemon.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
}

fn main() -> ExitCode {
    match Godwit::parse().command {
        Command::Lab(options) => match lab::run(&options) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                let _ = writeln!(std::io::stderr(), "godwit lab: {error}");
                ExitCode::FAILURE
            }
        },
        Command::Daemon { mut args } => {
            let before = args.len();
            args.retain(|arg| arg != lab::WITH_PARENT_FLAG);
            if args.len() < before {
                stop_with_parent();
            }
            args.insert(0, "godwit daemon".into());
            engine::entry::main("godwit daemon", args)
        }
    }
}

/// The parent holds the other end of our standard input: when it is gone, however it ended, so are we.
fn stop_with_parent() {
    std::thread::spawn(|| {
        let mut stdin = std::io::stdin();
        let mut byte = [0];
        while matches!(stdin.read(&mut byte), Ok(1..)) {}
        let _ = signal_hook::low_level::raise(signal_hook::consts::SIGTERM);
    });
}
