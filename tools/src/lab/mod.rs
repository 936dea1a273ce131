//! The lab: three regions on this machine, as real daemon processes with real distances between them.
//!
//! Each region is this very binary, re-executed as `godwit daemon`, on an address of its own in 127/8. The one-way delays
//! are applied by the receiving side of every link between regions (`LAB_LINK_DELAYS`), discovery included.
//!
//! With `--netns` each region has a network stack of its own instead ([`netns`]), and its links can be cut, made lossy
//! and slowed down while it runs ([`command`]).

pub mod command;
mod demo;
pub mod netns;
mod region;
mod report;
mod table;
mod visibility;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use netns::{Network, Tunnel};
use region::Region;
pub use region::WITH_PARENT_FLAG;

/// How long the regions have to find and follow each other.
const FORM_WITHIN: Duration = Duration::from_secs(30);

/// How long a region that was killed stays dark.
pub(crate) const DARK_FOR: Duration = Duration::from_secs(10);

/// How often the table is refreshed.
const REFRESH: Duration = Duration::from_secs(1);

/// What `godwit lab` takes.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// Run unattended: write, kill, restart, compare; exit 0 only if everything held
    #[arg(long)]
    demo: bool,
    /// Give each region a network stack of its own, with WireGuard and an emulated WAN between them; takes root
    #[arg(long)]
    netns: bool,
    /// What connects the network stacks
    #[arg(long, value_name = "TUNNEL", default_value = "wireguard", requires = "netns")]
    tunnel: Tunnel,
    /// Keep the data here instead of in a temporary directory; with a command: the directory of the lab that it is for
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Keys that the demo writes in the first region, 1000 to 1000000
    #[arg(long, value_name = "COUNT", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1_000..=1_000_000))]
    keys: u32,
    /// How sockets and files are driven, for all regions
    #[arg(long, value_name = "BACKEND", default_value = "auto", value_parser = ["auto", "uring", "epoll"])]
    io_backend: String,
    #[command(subcommand)]
    action: Option<command::Action>,
}

/// What can go wrong in the lab. Each says where to look.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// The system refused something.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// A daemon ended that should run.
    #[error("the daemon of {region} ended ({status}); the end of its log, {}:\n{tail}", log.display())]
    DaemonEnded {
        /// Which.
        region: &'static str,
        /// How.
        status: String,
        /// Its log.
        log: PathBuf,
        /// The log's last lines.
        tail: String,
    },
    /// Something that must hold did not.
    #[error("{0}")]
    Failed(String),
    /// Ctrl-C.
    #[error("interrupted")]
    Interrupted,
}

fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> LabError {
    let what = what.into();
    move |source| LabError::Io { what, source }
}

/// The three regions, running.
#[derive(Debug)]
pub(crate) struct Lab {
    regions: Vec<Region>,
    /// What joins them, unless that is loopback. Dropped after the regions.
    network: Option<Network>,
    interrupted: Arc<AtomicBool>,
    /// Removed when the lab ends.
    _temporary: Option<tempfile::TempDir>,
}

/// Runs the lab until Ctrl-C, or through the demo; or sends a command to the lab that runs.
///
/// # Errors
/// See [`LabError`].
pub fn run(options: &Options) -> Result<(), LabError> {
    if let Some(action) = &options.action {
        if options.demo || options.netns {
            return Err(LabError::Failed(
                "a command is for a lab that runs: give no --demo and no --netns with it".into(),
            ));
        }
        table::print(netns::send(options.dir.as_deref(), action)?.trim_end());
        return Ok(());
    }
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&interrupted)).map_err(io_error("signals cannot be handled"))?;
    }
    let (directory, temporary) = match &options.dir {
        Some(directory) => (directory.clone(), None),
        None => {
            let made = tempfile::Builder::new().prefix("godwit-lab-").tempdir();
            let made = made.map_err(io_error("no temporary directory can be made; give one with --dir"))?;
            (made.path().to_owned(), Some(made))
        }
    };
    let network =
        if options.netns { Some(Network::start(&directory, temporary.is_some(), options.tunnel)?) } else { None };
    let mut lab = Lab { regions: Vec::new(), network, interrupted, _temporary: temporary };
    for index in 0..region::COUNT {
        let namespace = lab.network.as_ref().map(|network| network.namespace(index));
        lab.regions.push(Region::start(index, namespace, &directory, &options.io_backend)?);
    }
    lab.wait_until_formed()?;
    let outcome = if options.demo { demo::run(&mut lab, options.keys) } else { lab.watch() };
    let stopped = lab.stop();
    match outcome {
        Err(LabError::Interrupted) if !options.demo => stopped,
        Err(error) => Err(error),
        Ok(()) => stopped,
    }
}

impl Lab {
    /// Waits until every region follows every other.
    fn wait_until_formed(&mut self) -> Result<(), LabError> {
        let what = format!("the regions did not find each other within {} s", FORM_WITHIN.as_secs());
        self.wait_for(FORM_WITHIN, &what, |lab| {
            lab.regions.iter().all(|region| {
                region.status().is_some_and(|reply| {
                    let peers = &reply.status.peers;
                    reply.status.ready
                        && peers.len() + 1 == region::COUNT
                        && peers.iter().all(|peer| peer.following && peer.followed && peer.discovery_up)
                })
            })
        })
    }

    /// Polls `condition` for at most `limit`.
    fn wait_for(
        &mut self,
        limit: Duration,
        what: &str,
        mut condition: impl FnMut(&Lab) -> bool,
    ) -> Result<(), LabError> {
        let end = Instant::now() + limit;
        loop {
            // First of all: a region that has ended makes nothing true.
            self.check()?;
            if condition(self) {
                return Ok(());
            }
            if Instant::now() > end {
                return Err(LabError::Failed(what.to_owned()));
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Fails when a daemon has ended by itself or Ctrl-C was pressed.
    fn check(&mut self) -> Result<(), LabError> {
        if self.interrupted.load(Ordering::Relaxed) {
            return Err(LabError::Interrupted);
        }
        self.check_network()?;
        self.regions.iter_mut().try_for_each(Region::check)
    }

    fn check_network(&mut self) -> Result<(), LabError> {
        self.network.as_mut().map_or(Ok(()), Network::check)
    }

    /// Shows the live table until Ctrl-C. A region that was killed is started again after a while.
    fn watch(&mut self) -> Result<(), LabError> {
        table::introduce(&self.regions, self.network.is_some());
        let answers = self.network.as_ref().map(Network::answers).transpose()?;
        let mut screen = table::Screen::default();
        let mut dark: [Option<Instant>; region::COUNT] = [None; region::COUNT];
        loop {
            if self.interrupted.load(Ordering::Relaxed) {
                return Err(LabError::Interrupted);
            }
            self.check_network()?;
            for (region, since) in self.regions.iter_mut().zip(&mut dark) {
                if !region.was_killed() {
                    region.check()?;
                } else if since.get_or_insert_with(Instant::now).elapsed() > DARK_FOR {
                    region.restart()?;
                    *since = None;
                }
            }
            screen.draw(&self.regions);
            let end = Instant::now() + REFRESH;
            while Instant::now() < end && !self.interrupted.load(Ordering::Relaxed) {
                for answer in answers.iter().flat_map(Receiver::try_iter) {
                    screen.show(&answer);
                }
                thread::sleep(Duration::from_millis(50));
            }
        }
    }

    fn stop(&mut self) -> Result<(), LabError> {
        // All at once, then wait: a clean stop seals and syncs.
        self.regions.iter_mut().for_each(Region::ask_to_stop);
        self.regions.iter_mut().try_for_each(Region::wait_for_stop)
    }
}
