//! `godwitd`: the daemon of one region.

use std::process::ExitCode;

fn main() -> ExitCode {
    engine::entry::main("godwitd", std::env::args_os())
}
