//! `godwit lab --netns` as its users run it: real daemons on network stacks of their own, links cut and healed from
//! outside.
//!
//! It takes root, `ip` and `/dev/net/tun`, and for tunnels wireguard-go and `wg`. Where something is missing a test says
//! so and passes, unless `GODWIT_REQUIRE_NETNS=1`. All waits are for a condition and bounded.

mod support;

use std::fs::{self, File};
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use net::resp::{BlockingClient, Value};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tools::lab::netns::{self, Namespace};

use self::support::{GLANCE, PATIENCE, wait_for};

/// How long a write must stay away while a region is cut off: a dozen times the way that it would take.
const STAYS_AWAY: Duration = Duration::from_secs(1);

/// From sfo to ams.
const ONE_WAY: Duration = Duration::from_micros(82_500);

/// Whether labs can run here; if not, says so, or fails if `GODWIT_REQUIRE_NETNS=1`.
fn can_run(tunnel: &str) -> bool {
    static PROBED: OnceLock<Result<(), String>> = OnceLock::new();
    let probed = PROBED.get_or_init(|| netns::probe().map_err(|error| error.to_string()));
    let tunnels = ["wireguard-go", "wg"].map(is_installed) == [true; 2] || tunnel == "none";
    let missing = match probed {
        Err(error) => error.as_str(),
        Ok(()) if !tunnels => "wireguard-go and wg are not both installed; run .ci/packages",
        Ok(()) => return true,
    };
    let text = format!("no lab with network stacks: {missing}");
    assert!(std::env::var_os("GODWIT_REQUIRE_NETNS").is_none_or(|value| value != "1"), "{text}");
    eprintln!("SKIPPED: {text}");
    false
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

/// A lab as its own process.
struct Lab {
    child: Child,
    directory: PathBuf,
    scratch: TempDir,
}

impl Lab {
    fn start(tunnel: &str) -> Lab {
        let scratch = TempDir::new().expect("a directory");
        let directory = scratch.path().join("lab");
        let open = |name: &str| File::create(scratch.path().join(name)).expect("a file");
        let child = Command::new(env!("CARGO_BIN_EXE_godwit"))
            .args(["lab", "--netns", "--tunnel", tunnel, "--dir"])
            .arg(&directory)
            .stdin(Stdio::piped())
            .stdout(open("out"))
            .stderr(open("err"))
            .spawn()
            .expect("godwit starts");
        Lab { child, directory, scratch }
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.scratch.path().join(name)).expect("text")
    }

    /// Waits until the lab has said this.
    fn says(&mut self, text: &str) {
        wait_for(&format!("the lab to say {text:?}"), || {
            let ended = self.child.try_wait().expect("a child");
            assert!(ended.is_none(), "the lab ended: {}{}", self.read("out"), self.read("err"));
            self.read("out").contains(text).then_some(())
        });
    }

    fn wait_until_up(&mut self) {
        self.says("Three regions are up");
    }

    fn namespace(&self, region: &str) -> Namespace {
        Namespace::named(format!("godwit-{}-{region}", self.child.id()))
    }

    fn namespaces(&self) -> [Namespace; 3] {
        ["sfo", "nyc", "ams"].map(|region| self.namespace(region))
    }

    fn client(&self, region: &str) -> BlockingClient {
        let connect = || BlockingClient::connect(storage(region), PATIENCE);
        self.namespace(region).enter(connect).expect("its namespace").expect("a client")
    }

    /// Whether a connection from one region to another is established.
    fn reaches(&self, source: &str, target: &str) -> bool {
        let connect = || TcpStream::connect_timeout(&storage(target), STAYS_AWAY).is_ok();
        self.namespace(source).enter(connect).expect("its namespace")
    }

    /// A command from another terminal.
    fn command(&self, command: &str) -> Output {
        let mut godwit = Command::new(env!("CARGO_BIN_EXE_godwit"));
        godwit.args(["lab", "--dir"]).arg(&self.directory).args(command.split(' ')).output().expect("godwit runs")
    }

    /// The answer to a command from another terminal.
    fn done(&self, command: &str) -> String {
        let output = self.command(command);
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }

    /// A command on its standard input.
    fn type_line(&mut self, line: &str) {
        let stdin = self.child.stdin.as_mut().expect("a pipe");
        writeln!(stdin, "{line}").expect("a line");
    }

    fn kill(&mut self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("a signal");
    }

    /// Ctrl-C, and that nothing is left.
    fn stop(mut self) {
        self.kill(Signal::INT);
        let status = wait_for("the lab to stop", || self.child.try_wait().expect("a child"));
        assert!(status.success(), "{status}: {}", self.read("err"));
        assert_eq!(self.read("err"), "");
        assert!(self.namespaces().iter().all(|namespace| !namespace.exists()), "a namespace is left");
        assert_eq!(sockets(self.child.id()), Vec::<PathBuf>::new());
        assert!(!self.directory.join("control.sock").exists());
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // The lab of a test that failed may take everything away; if it does not, the next lab removes it.
        let end = Instant::now() + PATIENCE;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < end {
            self.kill(Signal::TERM);
            thread::sleep(GLANCE);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn storage(region: &str) -> SocketAddr {
    let last = match region {
        "sfo" => 1,
        "nyc" => 2,
        _ => 3,
    };
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)), 10600)
}

/// The sockets of a lab's WireGuard daemons.
fn sockets(lab: u32) -> Vec<PathBuf> {
    let entries = fs::read_dir(Path::new("/var/run/wireguard")).into_iter().flatten().flatten();
    let prefix = format!("gw{lab}");
    let of_lab = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix));
    entries.map(|entry| entry.path()).filter(of_lab).collect()
}

fn set(client: &mut BlockingClient, key: &str) {
    assert_eq!(client.call(&["SET", key, "here"]).expect("an answer"), Value::Simple("OK".into()));
}

fn has(client: &mut BlockingClient, key: &str) -> bool {
    match client.call(&["GET", key]).expect("an answer") {
        Value::Null => false,
        value => {
            assert_eq!(value, Value::Bulk(b"here".to_vec()));
            true
        }
    }
}

fn wait_until_seen(client: &mut BlockingClient, key: &str) {
    wait_for(&format!("{key} to be seen"), || has(client, key).then_some(()));
}

fn a_region_is_cut_off_and_comes_back(tunnel: &str) {
    if !can_run(tunnel) {
        return;
    }
    let mut lab = Lab::start(tunnel);
    lab.wait_until_up();
    let [mut sfo, mut nyc, mut ams] = ["sfo", "nyc", "ams"].map(|region| lab.client(region));

    let written = Instant::now();
    set(&mut sfo, "before");
    wait_until_seen(&mut ams, "before");
    assert!(written.elapsed() >= ONE_WAY, "seen after {:?}", written.elapsed());

    // One link: the others are not touched.
    let answer = lab.done("cut sfo ams");
    assert!(answer.contains("sfo → ams  CUT") && answer.contains("ams → sfo  CUT"), "{answer}");
    assert!(!lab.reaches("sfo", "ams"), "the cut link carries packets");
    assert!(lab.reaches("nyc", "ams") && lab.reaches("sfo", "nyc"), "another link is cut, too");

    // The third region hands on what the cut link does not carry.
    set(&mut sfo, "around");
    wait_until_seen(&mut ams, "around");
    assert!(lab.done("links").contains("sfo → ams  CUT"));

    // All links of a region: whatever way a write could take, it stays away, and nobody is held up.
    lab.type_line("cut ams");
    lab.says("nyc → ams  CUT");
    set(&mut sfo, "meanwhile");
    set(&mut ams, "in the dark");
    wait_until_seen(&mut nyc, "meanwhile");
    let until = Instant::now() + STAYS_AWAY;
    while Instant::now() < until {
        assert!(!has(&mut ams, "meanwhile"), "ams is cut off and has it");
        assert!(!has(&mut sfo, "in the dark"), "ams is cut off and sfo has it");
        thread::sleep(GLANCE);
    }

    assert!(!lab.done("heal").contains("CUT"));
    wait_until_seen(&mut ams, "meanwhile");
    wait_until_seen(&mut sfo, "in the dark");

    // A bad link is slower, not broken.
    assert!(lab.done("loss sfo ams 0.5").contains("loss 0.5 %"));
    assert!(lab.done("rate sfo ams 100 --one-way").contains("100 Mbit/s, buffer 2000 kB"));
    set(&mut sfo, "over a bad link");
    wait_until_seen(&mut ams, "over a bad link");

    lab.type_line("cut sfo lhr");
    lab.says("lhr");
    let refused = lab.command("cut sfo sfo");
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("no link to itself"));
    lab.stop();
}

#[test]
fn a_region_is_cut_off_and_comes_back_over_wireguard() {
    a_region_is_cut_off_and_comes_back("wireguard");
}

#[test]
fn a_region_is_cut_off_and_comes_back_without_a_tunnel() {
    a_region_is_cut_off_and_comes_back("none");
}

#[test]
fn labs_stay_apart_and_remove_what_a_killed_one_left() {
    // Tunnels, where they can be had, leave more behind.
    let tunnel = if is_installed("wireguard-go") && is_installed("wg") { "wireguard" } else { "none" };
    if !can_run(tunnel) {
        return;
    }
    let mut killed = Lab::start(tunnel);
    let mut other = Lab::start("none");
    killed.wait_until_up();
    other.wait_until_up();
    set(&mut killed.client("sfo"), "in one lab");
    wait_until_seen(&mut killed.client("nyc"), "in one lab");
    assert!(!has(&mut other.client("sfo"), "in one lab"), "two labs share a region");

    killed.kill(Signal::KILL);
    killed.child.wait().expect("a child");
    assert!(!killed.command("links").status.success(), "nobody answers for it");
    let mut next = Lab::start("none");
    next.wait_until_up();
    assert!(killed.namespaces().iter().all(|namespace| !namespace.exists()), "a namespace is left");
    assert_eq!(sockets(killed.child.id()), Vec::<PathBuf>::new());

    // The one that runs is nobody's leftover.
    set(&mut other.client("sfo"), "afterwards");
    wait_until_seen(&mut other.client("ams"), "afterwards");
    next.stop();
    other.stop();
}

#[test]
fn a_command_without_a_lab_says_so() {
    let nowhere = TempDir::new().expect("a directory");
    let mut godwit = Command::new(env!("CARGO_BIN_EXE_godwit"));
    let output = godwit.args(["lab", "--dir"]).arg(nowhere.path()).arg("heal").output().expect("godwit runs");
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8_lossy(&output.stderr);
    // Those who are not root hear that first.
    let expected = if rustix::process::geteuid().is_root() { "no lab with --netns answers at" } else { "root only" };
    assert!(error.contains(expected), "{error}");
}
