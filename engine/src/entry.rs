//! The daemon's command line, shared by `godwitd` and `godwit daemon`.

#![allow(clippy::disallowed_methods, reason = "a process")]

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::bus_error;
use crate::config::{Config, Surroundings, command, wants_check};
use crate::daemon::{self, StopFlag};

/// Exit code for a wrong setting or flag.
const EXIT_SETTING: u8 = 2;

/// Parses, checks, runs until SIGINT or SIGTERM. Logs go to stderr.
#[must_use]
pub fn main(name: &'static str, args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let matches = match command(name).try_get_matches_from(args) {
        Ok(matches) => matches,
        Err(error) => {
            let code = if error.use_stderr() { EXIT_SETTING } else { 0 };
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    let config = match Config::load(&matches, &Surroundings::of_this_process()) {
        Ok(config) => config,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "{name}: {error}");
            return ExitCode::from(EXIT_SETTING);
        }
    };
    if wants_check(&matches) {
        let _ = write!(std::io::stdout(), "{}", config.check_report());
        return ExitCode::SUCCESS;
    }
    tracing_subscriber::fmt()
        .with_max_level(config.log_level)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .init();
    if let Err(error) = bus_error::install() {
        tracing::warn!(%error, "SIGBUS is not handled; a bad sector will end the process without a word");
    }
    let stop = StopFlag::default();
    match Signals::new([SIGINT, SIGTERM]) {
        Ok(mut signals) => {
            let stop = stop.clone();
            std::thread::spawn(move || {
                for _ in signals.forever() {
                    stop.stop();
                }
            });
        }
        Err(error) => tracing::warn!(%error, "signals are not handled; a stop will look like a crash, which is safe"),
    }
    match daemon::run(&config, &stop) {
        Ok(()) => {
            tracing::info!("stopped");
            ExitCode::SUCCESS
        }
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::from(error.exit_code())
        }
    }
}
