//! Real daemon processes for tests: start, wait until ready, talk to, stop in every way, look at from outside.
//!
//! Each [`Daemon`] has a directory and a loopback address of its own, so tests run side by side. All waits are for a
//! condition and end after [`PATIENCE`]. What a daemon logged is shown when the test that owns it fails.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

pub mod attack;
pub mod mesh;
pub mod model;
pub mod redis;
pub mod wiretap;

pub use net::resp::{BlockingClient as Client, Value};

/// How long anything may take that normally takes milliseconds: generous, because test machines are small and shared.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Pause between two looks at a condition.
const GLANCE: Duration = Duration::from_millis(5);

/// Lines of a log that a failed test shows.
const LOG_LINES_SHOWN: usize = 60;

/// Looks until `found` gives something.
///
/// # Panics
/// After [`PATIENCE`], naming `what`.
pub fn wait_for<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {} s for {what}", PATIENCE.as_secs());
        thread::sleep(GLANCE);
    }
}

/// The ports of one daemon.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ports {
    /// `DISCOVERY_PORT`.
    pub discovery: u16,
    /// `REPLICATION_PORT`.
    pub replication: u16,
    /// `STORAGE_PORT`.
    pub storage: u16,
    /// `CACHE_PORT`.
    pub cache: u16,
    /// `ADMIN_PORT`.
    pub admin: u16,
}

impl Ports {
    /// Ports that nobody listens on at `host`. Every daemon has its own host, so nobody takes them before it does.
    fn free_at(host: Ipv4Addr) -> io::Result<Ports> {
        let listeners = (0..5).map(|_| TcpListener::bind((host, 0))).collect::<io::Result<Vec<_>>>()?;
        let mut ports = listeners.iter().map(|listener| listener.local_addr().map(|addr| addr.port()));
        let mut next = || ports.next().unwrap_or_else(|| Err(io::ErrorKind::NotFound.into()));
        Ok(Ports { discovery: next()?, replication: next()?, storage: next()?, cache: next()?, admin: next()? })
    }
}

/// A loopback address that no other daemon of this machine's tests uses: the process chooses the network, a counter the
/// host.
#[must_use]
pub fn own_address() -> Ipv4Addr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [.., network] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 20, network, NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A name for the reactors that work on this machine, `epoll` last.
#[must_use]
pub fn backends() -> Vec<&'static str> {
    match net::reactor::uring::probe() {
        Ok(()) => vec!["uring", "epoll"],
        Err(refused) => {
            eprintln!("SKIPPED: the tests over io_uring, which does not work here: {refused}");
            vec!["epoll"]
        }
    }
}

/// How a process ended.
#[derive(Clone, Debug)]
pub struct Exit {
    /// Its status.
    pub status: ExitStatus,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

impl Exit {
    /// The only line of standard error.
    ///
    /// # Panics
    /// If there is not exactly one.
    #[must_use]
    pub fn one_line(&self) -> &str {
        let lines: Vec<&str> = self.stderr.lines().collect();
        assert_eq!(lines.len(), 1, "one line was expected:\n{}", self.stderr);
        lines[0]
    }
}

/// One daemon: its settings, its directory, and its process while it runs.
#[derive(Debug)]
pub struct Daemon {
    binary: PathBuf,
    directory: TempDir,
    host: Ipv4Addr,
    ports: Ports,
    settings: BTreeMap<&'static str, String>,
    launcher: Vec<OsString>,
    child: Option<Child>,
}

impl Daemon {
    /// A daemon that is not started yet, on an address, on ports and in a directory of its own. `binary` is
    /// `env!("CARGO_BIN_EXE_daemon-under-test")`, which cargo gives to integration tests only.
    ///
    /// # Panics
    /// If there is no directory or no port to be had.
    #[must_use]
    pub fn new(binary: &str) -> Daemon {
        let host = own_address();
        let directory = tempfile::Builder::new().prefix("godwit-test-").tempdir().expect("a temporary directory");
        let data_dir = directory.path().join("data").display().to_string();
        let settings = [("DATA_DIR", data_dir), ("CORES", "1".to_owned())].into_iter().collect();
        let ports = Ports::default();
        let mut daemon =
            Daemon { binary: binary.into(), directory, host, ports, settings, launcher: Vec::new(), child: None };
        daemon.move_to(host);
        daemon
    }

    /// It listens at this host from the next start on, on ports that nobody has there.
    pub fn move_to(&mut self, host: Ipv4Addr) -> &mut Daemon {
        let ports = Ports::free_at(host).unwrap_or_else(|error| panic!("no ports at {host}: {error}"));
        (self.host, self.ports) = (host, ports);
        self.set("BIND_HOST", host).set("DISCOVERY_PORT", ports.discovery).set("REPLICATION_PORT", ports.replication);
        self.set("STORAGE_PORT", ports.storage).set("CACHE_PORT", ports.cache).set("ADMIN_PORT", ports.admin)
    }

    /// Adds or replaces a setting; an empty value removes it. Holds from the next start on.
    pub fn set(&mut self, key: &'static str, value: impl ToString) -> &mut Daemon {
        match value.to_string() {
            value if value.is_empty() => self.settings.remove(key),
            value => self.settings.insert(key, value),
        };
        self
    }

    /// Starts the daemon through `launcher`, which must become it by exec.
    pub fn launched_by(&mut self, launcher: impl IntoIterator<Item = impl Into<OsString>>) -> &mut Daemon {
        self.launcher = launcher.into_iter().map(Into::into).collect();
        self
    }

    /// The address on which every port listens.
    #[must_use]
    pub fn host(&self) -> Ipv4Addr {
        self.host
    }

    /// The ports.
    #[must_use]
    pub fn ports(&self) -> Ports {
        self.ports
    }

    /// The address of one port.
    #[must_use]
    pub fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.host), port)
    }

    /// A place for files of the test, outside the data directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// `DATA_DIR`.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn log_path(&self) -> PathBuf {
        self.directory.path().join("daemon.log")
    }

    /// All that was logged since the test began, over all starts.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read(self.log_path()).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// The logged lines that contain `text`.
    #[must_use]
    pub fn logged(&self, text: &str) -> Vec<String> {
        self.log().lines().filter(|line| line.contains(text)).map(str::to_owned).collect()
    }

    /// The command that starts it: a clean environment with nothing but the settings, and what a launcher needs to be found.
    fn command(&self) -> Command {
        let mut words = self.launcher.iter().cloned().chain([self.binary.clone().into_os_string()]);
        let mut command = Command::new(words.next().expect("at least the binary"));
        command.args(words).env_clear().envs(&self.settings).env("RUST_BACKTRACE", "1").stdin(Stdio::null());
        for inherited in ["PATH", "HOME", "TMPDIR"] {
            if let Some(value) = std::env::var_os(inherited) {
                command.env(inherited, value);
            }
        }
        command.current_dir(self.directory.path());
        command
    }

    /// Starts the process and waits until it says that it is ready.
    ///
    /// # Panics
    /// If it ends instead, or is not ready in time.
    pub fn start(&mut self) -> &mut Daemon {
        self.spawn();
        wait_for("the daemon to be ready", || {
            if let Some(status) = self.ended() {
                panic!("the daemon ended at its start with {status}");
            }
            self.is_ready().then_some(())
        });
        self
    }

    /// Starts the process and waits for nothing.
    ///
    /// # Panics
    /// If it runs already or cannot be started.
    pub fn spawn(&mut self) -> &mut Daemon {
        assert!(self.child.is_none(), "the daemon runs already");
        let open = OpenOptions::new().create(true).append(true).open(self.log_path());
        let log = open.expect("the log file in the temporary directory");
        let child = self.command().stdout(Stdio::null()).stderr(log).spawn();
        self.child = Some(child.unwrap_or_else(|error| panic!("{} does not start: {error}", self.binary.display())));
        self
    }

    /// Runs it with further arguments, expecting that it ends by itself; its output is not part of [`Daemon::log`].
    ///
    /// # Panics
    /// If it does not end in time.
    #[must_use]
    pub fn run_to_its_end(&self, args: &[&str]) -> Exit {
        let mut command = self.command();
        command.args(args);
        finished(&mut command, PATIENCE)
    }

    /// Whether the admin port answers `/readyz` with 200.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.http("/readyz").is_ok_and(|(status, _)| status == 200)
    }

    /// One request to the admin port: status and body.
    ///
    /// # Errors
    /// Those of the stream, `InvalidData` for an answer that is not HTTP.
    pub fn http(&self, path: &str) -> io::Result<(u16, String)> {
        http(self.at(self.ports.admin), path)
    }

    /// One value out of `/api/status`.
    ///
    /// # Panics
    /// If the admin port does not answer, or not with JSON.
    #[must_use]
    pub fn status(&self, field: &str) -> serde_json::Value {
        let (_, body) = self.http("/api/status").expect("the admin port");
        let status: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        status[field].clone()
    }

    /// One sample of `/metrics`, its labels included in `name`.
    ///
    /// # Panics
    /// If there is no such sample.
    #[must_use]
    pub fn metric(&self, name: &str) -> u64 {
        let (_, text) = self.http("/metrics").expect("the admin port");
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no metric {name} in\n{text}"))
    }

    /// A connection to the storage port.
    ///
    /// # Panics
    /// If it is refused.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::connect(self.at(self.ports.storage), PATIENCE).expect("the storage port")
    }

    /// The process.
    ///
    /// # Panics
    /// If it does not run.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("a running daemon").id()
    }

    /// Its status if it has ended by itself.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.as_mut()?.try_wait().expect("its own child")
    }

    /// SIGKILL, at once and without a chance to do anything more. Its ports are free afterwards: the kernel ends what
    /// io_uring still does on a listener a moment after the process is gone.
    ///
    /// # Panics
    /// If it does not run.
    pub fn kill9(&mut self) {
        let mut child = self.child.take().expect("a running daemon");
        child.kill().expect("its own child");
        child.wait().expect("its own child");
        for port in [self.ports.discovery, self.ports.replication, self.ports.storage] {
            wait_for("the ports to be free", || TcpListener::bind(self.at(port)).ok());
        }
    }

    /// SIGTERM, and the status it ends with.
    ///
    /// # Panics
    /// If it does not end in time.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal("TERM");
        self.wait_for_end()
    }

    /// Waits until it has ended.
    ///
    /// # Panics
    /// If it does not end in time.
    pub fn wait_for_end(&mut self) -> ExitStatus {
        let status = wait_for("the daemon to end", || self.ended());
        self.child = None;
        status
    }

    /// Sends a signal by name, such as `STOP` or `CONT`.
    ///
    /// # Panics
    /// If it does not run.
    pub fn signal(&self, name: &str) {
        // The shell's own kill: there on every system, and no unsafe code here.
        let status =
            Command::new("/bin/sh").args(["-c", "kill -s \"$0\" \"$1\"", name, &self.pid().to_string()]).status();
        assert!(status.expect("/bin/sh").success(), "signal {name} could not be sent");
    }

    /// SIGSTOP, and waits until every thread has stopped: the signal is only on its way when it was sent.
    ///
    /// # Panics
    /// If it does not run or does not stop.
    pub fn pause(&self) {
        self.signal("STOP");
        wait_for("every thread to stop", || {
            let tasks = fs::read_dir(format!("/proc/{}/task", self.pid())).ok()?;
            let is_stopped = |task: io::Result<fs::DirEntry>| {
                let stat = fs::read_to_string(task.ok()?.path().join("stat")).ok()?;
                // The state stands behind the name, which may hold anything.
                stat.rsplit_once(") ").map(|(_, rest)| rest.starts_with('T'))
            };
            tasks.map(is_stopped).all(|stopped| stopped == Some(true)).then_some(())
        });
    }

    /// Resident memory in bytes.
    ///
    /// # Panics
    /// If it does not run.
    #[must_use]
    pub fn resident_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("a running daemon");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
        let kib = line.trim().trim_end_matches("kB").trim().parse::<u64>().expect("a number");
        kib * 1024
    }

    /// Descriptors that the process has open.
    ///
    /// # Panics
    /// If it does not run.
    #[must_use]
    pub fn open_files(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("a running daemon").count()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let shown = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
            eprintln!("--- end of the log of {} ---\n{}\n---", self.host, shown.join("\n"));
        }
    }
}

/// One GET over a connection of its own.
///
/// # Errors
/// Those of the stream, `InvalidData` for an answer that is not HTTP.
pub fn http(addr: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&addr, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let invalid = || io::Error::new(io::ErrorKind::InvalidData, "no HTTP answer");
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(invalid)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(invalid)?;
    Ok((status, body.to_owned()))
}

/// Runs a command to its end with its output kept; kills it after `patience`.
///
/// # Panics
/// If it does not start, or does not end in time.
pub fn finished(command: &mut Command, patience: Duration) -> Exit {
    // Files instead of pipes: nothing has to be read while it runs.
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (out, err) = (directory.path().join("out"), directory.path().join("err"));
    let file = |path: &Path| File::create(path).expect("a file in the temporary directory");
    command.stdin(Stdio::null()).stdout(file(&out)).stderr(file(&err));
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
    let text = |path: &Path| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
    let deadline = Instant::now() + patience;
    loop {
        if let Some(status) = child.try_wait().expect("its own child") {
            return Exit { status, stdout: text(&out), stderr: text(&err) };
        }
        if Instant::now() >= deadline {
            let _ = child.kill();
            let _ = child.wait();
            panic!("{command:?} did not end in {} s:\n{}{}", patience.as_secs(), text(&out), text(&err));
        }
        thread::sleep(GLANCE);
    }
}

/// What a test has to do when a program that it needs is not there: fail if `GODWIT_REQUIRE_CLIENTS=1`, else say loudly
/// that nothing was tested.
///
/// # Panics
/// If `GODWIT_REQUIRE_CLIENTS=1`.
pub fn skip(program: &str) {
    let text = format!("{program} is not installed; run .ci/packages");
    assert!(std::env::var_os("GODWIT_REQUIRE_CLIENTS").is_none_or(|value| value != "1"), "{text}");
    eprintln!("SKIPPED: {text}");
}

/// Whether a program is found by its name.
#[must_use]
pub fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

/// A small generator of reproducible choices (SplitMix64); the seed of a failed test is printed by the test.
#[derive(Clone, Debug)]
pub struct Choices(u64);

impl Choices {
    /// From a seed.
    #[must_use]
    pub fn new(seed: u64) -> Choices {
        Choices(seed)
    }

    /// The seed of the environment (`GODWIT_SEED`), or one drawn from the clock.
    #[must_use]
    pub fn seed() -> u64 {
        let given = std::env::var("GODWIT_SEED").ok().and_then(|text| text.parse().ok());
        let clock =
            || std::time::UNIX_EPOCH.elapsed().map_or(1, |since| u64::from(since.subsec_nanos()) + since.as_secs());
        given.unwrap_or_else(clock)
    }

    /// 64 bits.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.draw() % end
    }
}
