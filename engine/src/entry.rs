//! The daemon's command line, shared by `godwitd` and `godwit daemon`.

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

use signal_hook::consts::{SIGBUS, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::config::{Config, Surroundings, command, wants_check};
use crate::daemon::{self, EXIT_LOG_FAILED, StopFlag};

/// Exit code for a wrong setting or flag.
const EXIT_SETTING: u8 = 2;

/// A page of a mapped segment cannot be read from the disk, or not written for want of space on a file system that copies on
/// write. The thread that touched it repeats that for ever; nothing it does can be finished.
fn page_failed() -> ! {
    tracing::error!(
        "Input/output error: a page of the log cannot be read from the disk, or has no space on it; nothing more is \
         acknowledged. Check the disk, then restart: recovery names a damaged segment"
    );
    std::process::exit(i32::from(EXIT_LOG_FAILED))
}

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
    let stop = StopFlag::default();
    match Signals::new([SIGINT, SIGTERM, SIGBUS]) {
        Ok(mut signals) => {
            let stop = stop.clone();
            std::thread::spawn(move || {
                for signal in signals.forever() {
                    if signal == SIGBUS {
                        page_failed();
                    }
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
