//! `walbench crash`: a process writes through the log and says what is durable; it is killed; what it said must be there.

mod child;
mod verify;

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

pub(crate) use child::run as run_child;

use super::options::{CommitPath, CrashOptions, WantedBackend};
use super::prepare::Preparation;
use super::statistics::SplitMix;
use super::{BenchError, io_error, suite};

/// The longest a process lives after its first acknowledgement.
const LIFE_MS_MAX: usize = 250;

/// What one round found.
#[derive(Debug)]
pub(crate) struct Round {
    pub(crate) commit: CommitPath,
    pub(crate) preparation: Preparation,
    pub(crate) acknowledged: u64,
    pub(crate) recovered: u64,
    pub(crate) segments: usize,
    /// How recovery understood the end of the log.
    pub(crate) row: &'static str,
}

/// Kills and verifies. Each round is told to `tell`.
pub(crate) fn run(
    options: &CrashOptions,
    seed: u64,
    interrupted: &AtomicBool,
    tell: &mut dyn FnMut(&Round),
) -> Result<(), BenchError> {
    suite::backend(options.io_backend)?;
    let mut random = SplitMix(seed);
    for round in 0..options.rounds {
        for commit in &options.commit {
            if interrupted.load(Ordering::Relaxed) {
                return Err(BenchError::Interrupted);
            }
            let preparation = if round % 2 == 0 { Preparation::Recycled } else { Preparation::ZerosSmall };
            let life = Duration::from_millis(random.below(LIFE_MS_MAX) as u64);
            tell(&one(options, *commit, preparation, life)?);
        }
    }
    Ok(())
}

fn one(
    options: &CrashOptions,
    commit: CommitPath,
    preparation: Preparation,
    life: Duration,
) -> Result<Round, BenchError> {
    let directory = suite::scratch(&options.dir)?;
    let program = std::env::current_exe().map_err(io_error("this program's own file cannot be found"))?;
    let backend = match options.io_backend {
        WantedBackend::Auto => "auto",
        WantedBackend::Uring => "uring",
        WantedBackend::Epoll => "epoll",
    };
    let mut child = Command::new(program)
        .arg("crash-child")
        .arg("--dir")
        .arg(directory.path())
        .args(["--commit", commit.name(), "--prepare", preparation.name(), "--io-backend", backend])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(io_error("the writing process cannot be started"))?;
    let heard = child.stdout.take().map(|stdout| listen(BufReader::new(stdout), life, || child.kill()));
    // Also when listening failed: no process is left behind.
    let _ = child.kill();
    let status = child.wait().map_err(io_error("the writing process cannot be awaited"))?;
    let acknowledged = match heard {
        Some(Ok(Some(acknowledged))) => acknowledged,
        Some(Err(error)) => return Err(io_error("the writing process cannot be heard")(error)),
        Some(Ok(None)) | None => {
            return Err(BenchError::Failed(format!("the writing process ended ({status}) before it wrote anything")));
        }
    };
    let found = verify::verify(directory.path()).map_err(|error| {
        BenchError::Failed(format!("{} path: {error} (acknowledged: {acknowledged})", commit.name()))
    })?;
    if found.records < acknowledged {
        return Err(BenchError::Failed(format!(
            "{} path: {acknowledged} records were acknowledged, {} were recovered",
            commit.name(),
            found.records
        )));
    }
    fs::remove_dir_all(directory.path()).map_err(io_error("the scratch directory cannot be removed"))?;
    Ok(Round { commit, preparation, acknowledged, recovered: found.records, segments: found.segments, row: found.row })
}

/// Reads acknowledgements, kills after `life` from the first, and reads on to the end: what was said before the kill counts.
/// `None` if nothing was said.
fn listen(
    mut output: impl BufRead,
    life: Duration,
    kill: impl FnOnce() -> std::io::Result<()> + Send,
) -> std::io::Result<Option<u64>> {
    let mut line = String::new();
    let mut last = None;
    let mut kill = Some(kill);
    thread::scope(|scope| {
        loop {
            line.clear();
            output.read_line(&mut line)?;
            // A line without an end was not said.
            let Some(number) = line.strip_suffix('\n') else { break };
            last = Some(number.parse().map_err(std::io::Error::other)?);
            if let Some(kill) = kill.take() {
                scope.spawn(move || {
                    thread::sleep(life);
                    kill()
                });
            }
        }
        Ok(last)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_lines_count() {
        let heard = listen(&b"1\n20\n300"[..], Duration::ZERO, || Ok(())).expect("heard");
        assert_eq!(heard, Some(20));
        assert_eq!(listen(&b""[..], Duration::ZERO, || Ok(())).expect("heard"), None);
        assert!(listen(&b"one\n"[..], Duration::ZERO, || Ok(())).is_err());
    }
}
