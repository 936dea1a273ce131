//! SIGBUS: a page of a mapped segment that the disk does not give.
//!
//! The thread that touched it cannot go on, and the process must say why it ends. Rust's own handler, which looks for stack
//! overflows, puts the default action back when it finds none: the next touch, at once, would end the process without a word. So
//! everything has to happen inside the handler.
//!
//! # Why this module needs unsafe code
//! Registering an action to be run inside a signal handler: it may do only what is async-signal-safe.
#![allow(unsafe_code)]

use std::io;

use signal_hook::consts::SIGBUS;
use signal_hook::low_level;

use crate::daemon::EXIT_LOG_FAILED;

/// Like a line of the log, which cannot be written here.
const LINE: &[u8] =
    b"ERROR engine: Input/output error: a page of the log cannot be read from the disk, or has no space on it; \
nothing more is acknowledged. Check the disk, then restart: recovery names a damaged segment\n";

/// Makes SIGBUS end the process with a line on standard error and the exit code of a failed log.
///
/// # Errors
/// Those of sigaction.
pub(crate) fn install() -> io::Result<()> {
    // SAFETY: the action makes two system calls, write and _exit. It takes no lock, allocates nothing and does not panic.
    unsafe { low_level::register(SIGBUS, end) }.map(|_| ())
}

fn end() {
    // Whether it could be written or not, the process ends.
    let _ = rustix::io::write(rustix::stdio::stderr(), LINE);
    low_level::exit(i32::from(EXIT_LOG_FAILED));
}
