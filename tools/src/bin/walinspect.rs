//! `walinspect`: looks into the logs of a Godwit node. Everything is in [`tools::walinspect`].

use std::process::ExitCode;

fn main() -> ExitCode {
    tools::walinspect::main(std::env::args_os())
}
