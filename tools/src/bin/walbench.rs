//! `walbench`: what the disk can do, what the log makes of it, and what a node makes of that.

use std::process::ExitCode;

fn main() -> ExitCode {
    tools::walbench::main()
}
