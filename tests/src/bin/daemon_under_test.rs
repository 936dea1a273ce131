//! The daemon as process tests start it; see this crate's Cargo.toml.

use std::process::ExitCode;

fn main() -> ExitCode {
    engine::entry::main("daemon-under-test", std::env::args_os())
}
