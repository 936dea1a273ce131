//! `godwit`: the operator's command. `godwit daemon` is the same daemon as `godwitd`, so that the lab needs one binary.

use std::ffi::OsString;
use std::io::{Read as _, Write as _};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tools::{conflicts, doctor, lab, members, repair, verify};

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
    /// List the nodes of the mesh, removed ones included, as one of them sees it.
    Members(members::ListOptions),
    /// Change who belongs to the mesh.
    #[command(subcommand)]
    Member(members::MemberCommand),
    /// Say what this host allows a node that talks to other regions, and what to change: buffers for the round-trip time of each
    /// peer, congestion control, limits, io_uring.
    Doctor(doctor::Options),
    /// List the latest writes of other regions that lost against later ones of a node which did not know them.
    Conflicts(conflicts::ConflictsOptions),
    /// Compare what the regions have: whether they are equal, and which keys differ if not. Ends with 0 if they are equal, 1 if they differ, 2 if
    /// that cannot be told.
    Verify(verify::Options),
    /// Have the node of this host compare itself with every peer now and fetch what it lost. Ends with 1 if something is left to do.
    Repair(repair::Options),
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
        Command::Lab(options) => exit("lab", lab::run(&options)),
        Command::Members(options) => exit("members", members::list(&options, &mut std::io::stdout())),
        Command::Member(command) => exit("member", members::change(&command, &mut std::io::stdout())),
        Command::Doctor(options) => exit("doctor", doctor::run(&options, &mut std::io::stdout())),
        Command::Conflicts(options) => exit("conflicts", conflicts::list(&options, &mut std::io::stdout())),
        Command::Verify(options) => verify::main(&options, &mut std::io::stdout(), &mut std::io::stderr()),
        Command::Repair(options) => exit("repair", repair::run(&options, &mut std::io::stdout())),
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

/// What the process ends with; errors are one line.
fn exit(command: &str, outcome: Result<(), impl std::fmt::Display>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "godwit {command}: {error}");
            ExitCode::FAILURE
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
