//! One region of the lab: its daemon process, its addresses, what it says of itself.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use engine::monitor::http::StatusReply;
use net::resp::BlockingClient;

use super::netns::{self, Namespace};
use super::{LabError, io_error};

/// Regions of the lab.
pub(crate) const COUNT: usize = 3;

/// San Francisco, New York, Amsterdam.
const NAMES: [&str; COUNT] = ["sfo", "nyc", "ams"];

/// One-way delays in milliseconds, by region: half of the round trips 74, 165 and 92 ms.
const ONE_WAY_MS: [[f64; COUNT]; COUNT] = [[0.0, 37.0, 82.5], [37.0, 0.0, 46.0], [82.5, 46.0, 0.0]];

const STORAGE_PORT: u16 = 10600;
const ADMIN_PORT: u16 = 10800;

/// Makes the daemon stop when its standard input ends, so that none outlives the lab. The daemon's command takes it off.
pub const WITH_PARENT_FLAG: &str = "--stop-with-parent";

/// How long a clean stop may take.
const STOP_WITHIN: Duration = Duration::from_secs(15);

/// How long a client of the lab waits for an answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// One region.
#[derive(Debug)]
pub(crate) struct Region {
    index: usize,
    /// Where its network stack is, if not this process's.
    namespace: Option<Namespace>,
    data: PathBuf,
    log: PathBuf,
    io_backend: String,
    child: Child,
    http: ureq::Agent,
}

/// The one-way delay between two regions, in milliseconds.
pub(crate) fn one_way_ms(from: usize, to: usize) -> f64 {
    ONE_WAY_MS[from][to]
}

/// A region's name.
pub(crate) fn name(index: usize) -> &'static str {
    NAMES[index]
}

/// A region's address on loopback, where regions share this machine's network stack.
fn loopback(index: usize) -> Ipv4Addr {
    let last = u8::try_from(index + 1).expect("three regions");
    Ipv4Addr::new(127, 10, 0, last)
}

impl Region {
    /// Starts the daemon of region `index` over `directory`/NAME, in `namespace` or on loopback.
    pub(crate) fn start(
        index: usize,
        namespace: Option<Namespace>,
        directory: &Path,
        io_backend: &str,
    ) -> Result<Region, LabError> {
        let data = directory.join(NAMES[index]);
        std::fs::create_dir_all(&data).map_err(io_error(format!("{} cannot be created", data.display())))?;
        let log = directory.join(format!("{}.log", NAMES[index]));
        let io_backend = io_backend.to_owned();
        let child = spawn(index, namespace.as_ref(), &data, &log, &io_backend)?;
        let config = ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(2))).build();
        Ok(Region { index, namespace, data, log, io_backend, child, http: config.into() })
    }

    /// Starts the daemon again over the same data.
    pub(crate) fn restart(&mut self) -> Result<(), LabError> {
        self.child = spawn(self.index, self.namespace.as_ref(), &self.data, &self.log, &self.io_backend)?;
        Ok(())
    }

    pub(crate) fn index(&self) -> usize {
        self.index
    }

    pub(crate) fn name(&self) -> &'static str {
        NAMES[self.index]
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where Redis clients connect.
    pub(crate) fn storage(&self) -> SocketAddr {
        SocketAddr::new(ip(self.index, self.namespace.as_ref()), STORAGE_PORT)
    }

    /// What has to stand before a command to run it beside the daemon.
    pub(crate) fn prefix(&self) -> String {
        self.namespace.as_ref().map_or_else(String::new, |namespace| format!("ip netns exec {} ", namespace.name()))
    }

    /// Runs `work` where the daemon's addresses are reached.
    fn beside<T: Send>(&self, work: impl FnOnce() -> std::io::Result<T> + Send) -> std::io::Result<T> {
        match &self.namespace {
            Some(namespace) => namespace.enter(work)?,
            None => work(),
        }
    }

    /// A new client connection.
    pub(crate) fn client(&self) -> Result<BlockingClient, LabError> {
        let what = format!("{} cannot be reached at {}", self.name(), self.storage());
        self.beside(|| BlockingClient::connect(self.storage(), ANSWER_WITHIN)).map_err(io_error(what))
    }

    /// What the daemon says of itself; `None` while it does not answer. Another process on its address is not it.
    pub(crate) fn status(&self) -> Option<StatusReply> {
        let url = format!("http://{}/api/status", SocketAddr::new(self.storage().ip(), ADMIN_PORT));
        let ask = || {
            let reply = self.http.get(&url).call().map_err(ureq::Error::into_io)?;
            reply.into_body().read_to_string().map_err(ureq::Error::into_io)
        };
        let text = self.beside(ask).ok()?;
        let reply: StatusReply = serde_json::from_str(&text).ok()?;
        (reply.pid == self.child.id()).then_some(reply)
    }

    /// Fails if the daemon has ended.
    pub(crate) fn check(&mut self) -> Result<(), LabError> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(self.ended(&status.to_string())),
            Err(error) => Err(self.ended(&error.to_string())),
        }
    }

    /// Whether a signal has ended the daemon.
    pub(crate) fn was_killed(&mut self) -> bool {
        let status = self.child.try_wait().ok().flatten();
        status.is_some_and(|status| std::os::unix::process::ExitStatusExt::signal(&status).is_some())
    }

    fn ended(&self, status: &str) -> LabError {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        LabError::DaemonEnded {
            region: self.name(),
            status: status.to_owned(),
            log: self.log.clone(),
            tail: lines[lines.len().saturating_sub(8)..].join("\n"),
        }
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) -> Result<(), LabError> {
        let what = format!("the daemon of {} cannot be killed", self.name());
        self.child.kill().and_then(|()| self.child.wait()).map(|_| ()).map_err(io_error(what))
    }

    /// Ends the daemon's standard input: it stops cleanly.
    pub(crate) fn ask_to_stop(&mut self) {
        drop(self.child.stdin.take());
    }

    pub(crate) fn wait_for_stop(&mut self) -> Result<(), LabError> {
        let end = Instant::now() + STOP_WITHIN;
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) if status.success() || self.was_killed() => return Ok(()),
                Ok(Some(status)) => return Err(self.ended(&status.to_string())),
                Ok(None) if Instant::now() < end => std::thread::sleep(Duration::from_millis(10)),
                Ok(None) => return Err(LabError::Failed(format!("{} did not stop in time", self.name()))),
                Err(error) => return Err(self.ended(&error.to_string())),
            }
        }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // After a clean stop there is nothing left to end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn ip(index: usize, namespace: Option<&Namespace>) -> IpAddr {
    if namespace.is_some() { netns::inner(index).into() } else { loopback(index).into() }
}

fn spawn(
    index: usize,
    namespace: Option<&Namespace>,
    data: &Path,
    log: &Path,
    io_backend: &str,
) -> Result<Child, LabError> {
    let executable = std::env::current_exe().map_err(io_error("this program's own file cannot be found"))?;
    let what = format!("{} cannot be written", log.display());
    let log = File::options().create(true).append(true).open(log).map_err(io_error(what))?;
    let others: Vec<usize> = (0..COUNT).filter(|other| *other != index).collect();
    let join = |show: &dyn Fn(usize) -> String| others.iter().map(|other| show(*other)).collect::<Vec<_>>().join(",");
    let ip = |index| ip(index, namespace);
    let mut settings = vec![
        ("--region", NAMES[index].to_owned()),
        ("--bind-host", ip(index).to_string()),
        ("--discovery-peers", join(&|other| ip(other).to_string())),
        ("--data-dir", data.display().to_string()),
        ("--cores", "1".to_owned()),
        ("--io-backend", io_backend.to_owned()),
    ];
    // Between namespaces the emulated WAN delays.
    if namespace.is_none() {
        settings.push(("--lab-link-delays", join(&|other| format!("{}={}", ip(other), ONE_WAY_MS[other][index]))));
    }
    let mut command = match namespace {
        Some(namespace) => namespace.command(executable)?,
        None => Command::new(executable),
    };
    command.args(["daemon", WITH_PARENT_FLAG]);
    for (flag, value) in settings {
        command.arg(flag).arg(value);
    }
    // The lab decides every setting; one from the environment would make its regions differ from what it says.
    command.env_clear().stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log);
    command.spawn().map_err(io_error(format!("the daemon of {} cannot be started", NAMES[index])))
}
