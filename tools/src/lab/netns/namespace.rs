//! Network namespaces: made and removed with `ip`, entered by a thread of this process.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::super::{LabError, io_error};

/// Where `ip` keeps the names of namespaces.
pub(super) const NAMES: &str = "/run/netns";

/// A network namespace by its name; it need not exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// The namespace of this name.
    #[must_use]
    pub fn named(name: String) -> Namespace {
        Namespace { name }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether there is a namespace of this name.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.path().exists()
    }

    fn path(&self) -> PathBuf {
        Path::new(NAMES).join(&self.name)
    }

    /// Runs `work` in the namespace: sockets and devices that it opens belong there for good, whoever uses them.
    ///
    /// # Errors
    /// If the namespace is not there or this process may not enter it.
    ///
    /// # Panics
    /// If `work` does.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        let file = File::open(self.path())?;
        // A thread of its own, so that nobody has to find the way back.
        let inside = || {
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok(work())
        };
        thread::scope(|scope| scope.spawn(inside).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    }

    /// A command that runs in the namespace, with its own view of `/sys`.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Result<Command, LabError> {
        let mut command = Command::new(program_file("ip")?);
        command.args(["netns", "exec", &self.name]).arg(program);
        Ok(command)
    }

    /// Runs lines of `ip -batch` in the namespace.
    pub(super) fn configure(&self, lines: &[String]) -> Result<(), LabError> {
        run(Command::new(program_file("ip")?).args(["-n", &self.name, "-batch", "-"]), &lines.join("\n")).map(|_| ())
    }

    /// Ends the processes in it and removes it.
    pub(super) fn remove(&self) -> Result<(), LabError> {
        let ip = program_file("ip")?;
        let inside = run(Command::new(&ip).args(["netns", "pids", &self.name]), "")?;
        for process in inside.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)) {
            // It may have ended by itself.
            let _ = kill_process(process, Signal::KILL);
        }
        run(Command::new(&ip).args(["netns", "del", &self.name]), "").map(|_| ())
    }
}

/// A namespace that this process has made. Dropping it removes it.
#[derive(Debug)]
pub(super) struct Made(pub(super) Namespace);

impl Made {
    /// Makes a namespace in which only loopback is up.
    pub(super) fn new(name: String) -> Result<Made, LabError> {
        run(Command::new(program_file("ip")?).args(["netns", "add", &name]), "")?;
        let made = Made(Namespace::named(name));
        made.0.configure(&["link set lo up".to_owned()])?;
        Ok(made)
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        // What cannot be removed now is removed at the next start of a lab.
        let _ = self.0.remove();
    }
}

/// The file of a program that root runs, also where the path has no `sbin`.
pub(super) fn program_file(name: &str) -> Result<PathBuf, LabError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into(), "/usr/bin".into()]);
    let found = directories.map(|directory| directory.join(name)).find(|file| file.is_file());
    found.ok_or_else(|| LabError::Failed(format!("the program {name} is not installed")))
}

/// Runs a command with this input; returns its output, or fails with what it complained about.
pub(super) fn run(command: &mut Command, input: &str) -> Result<String, LabError> {
    let what = format!("{command:?}");
    // Not in the terminal's group: Ctrl-C is for the lab, which then needs these commands.
    command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(io_error(&what))?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that ends early says why below.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(io_error(&what))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    Err(LabError::Failed(format!("{what} failed ({}): {}", output.status, complaint.trim_end())))
}
