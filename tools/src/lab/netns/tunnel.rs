//! WireGuard in user space between the namespaces: one daemon, one interface and one key per region.

use std::fs::File;
use std::net::UdpSocket;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::super::{LabError, io_error, region};
use super::namespace::{Namespace, program_file, run};
use super::{inner, outer};

/// Where WireGuard listens, on the outer addresses.
const PORT: u16 = 51820;

/// What the outer packet of 1500 bytes leaves.
const MTU: u16 = 1420;

/// Where daemons in user space have their sockets, by interface.
pub(super) const SOCKETS: &str = "/var/run/wireguard";

/// How long a daemon may take to make its interface.
const START_WITHIN: Duration = Duration::from_secs(10);

/// How long all handshakes may take: some attempts, 5 s apart.
const SHAKE_WITHIN: Duration = Duration::from_secs(20);

/// A port where nobody listens (RFC 863).
const DISCARD: u16 = 9;

/// The WireGuard daemon of a region. Dropping it ends the daemon and takes the interface away.
#[derive(Debug)]
pub(super) struct WireGuard {
    region: usize,
    interface: String,
    log: PathBuf,
    child: Child,
}

/// The name of an interface: no two labs share one, because the daemons' sockets share a directory.
pub(super) fn interface(owner: u32, region: &str) -> String {
    format!("gw{owner}{region}")
}

/// Starts a daemon in each namespace and makes them peers of each other.
pub(super) fn start(owner: u32, namespaces: &[Namespace], directory: &Path) -> Result<Vec<WireGuard>, LabError> {
    let missing = |_| {
        let how = "install them (Debian: apt-get install wireguard-go wireguard-tools), or take --tunnel none";
        LabError::Failed(format!("wireguard-go and wg are not both here; {how}"))
    };
    let daemon = program_file("wireguard-go").map_err(missing)?;
    let wg = program_file("wg").map_err(missing)?;
    let keys = (0..namespaces.len()).map(|_| Key::new(&wg)).collect::<Result<Vec<_>, _>>()?;
    let mut started = Vec::new();
    for (index, namespace) in namespaces.iter().enumerate() {
        let interface = interface(owner, region::name(index));
        let log = directory.join(format!("wireguard-{}.log", region::name(index)));
        let child = spawn(namespace, &daemon, &interface, &log)?;
        started.push(WireGuard { region: index, interface, log, child });
    }
    // They start side by side.
    for (wireguard, namespace) in started.iter_mut().zip(namespaces) {
        wireguard.wait_until_started()?;
        let interface = &wireguard.interface;
        run(
            namespace.command(&wg)?.args(["setconf", interface, "/dev/stdin"]),
            &configuration(&keys, wireguard.region),
        )?;
        namespace.configure(&[
            format!("addr add {}/24 dev {interface}", inner(wireguard.region)),
            format!("link set {interface} mtu {MTU} up"),
        ])?;
    }
    shake_hands(&wg, &started, namespaces)?;
    Ok(started)
}

/// Makes one end of each pair open the tunnel. Two that begin at once discard each other's answer, because each has
/// forgotten its own beginning by then; WireGuard tries again after 5 s, which nobody has to wait for here.
fn shake_hands(wg: &Path, started: &[WireGuard], namespaces: &[Namespace]) -> Result<(), LabError> {
    for (source, namespace) in namespaces.iter().enumerate() {
        let send = || {
            let socket = UdpSocket::bind((inner(source), 0))?;
            (source + 1..namespaces.len()).try_for_each(|peer| socket.send_to(b"", (inner(peer), DISCARD)).map(|_| ()))
        };
        namespace.enter(send).and_then(|sent| sent).map_err(io_error("nothing can be sent through WireGuard"))?;
    }
    let end = Instant::now() + SHAKE_WITHIN;
    for (wireguard, namespace) in started.iter().zip(namespaces) {
        loop {
            // A line per peer: its key, and when the last handshake was.
            let times = run(namespace.command(wg)?.args(["show", &wireguard.interface, "latest-handshakes"]), "")?;
            if times.lines().all(|line| !line.ends_with("\t0")) {
                break;
            }
            if Instant::now() > end {
                let name = region::name(wireguard.region);
                let log = wireguard.log.display();
                return Err(LabError::Failed(format!("WireGuard of {name} reaches not all peers; its log is {log}")));
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
    Ok(())
}

fn spawn(namespace: &Namespace, daemon: &Path, interface: &str, log: &Path) -> Result<Child, LabError> {
    let what = format!("{} cannot be written", log.display());
    let output = File::options().create(true).append(true).open(log).map_err(io_error(&what))?;
    let errors = output.try_clone().map_err(io_error(&what))?;
    let mut command = namespace.command(daemon)?;
    command.args(["-f", interface]).env("LOG_LEVEL", "error");
    // Not in the terminal's group: Ctrl-C is for the lab, which ends the daemon when the regions have stopped.
    command.process_group(0).stdin(Stdio::null()).stdout(output).stderr(errors);
    command.spawn().map_err(io_error(format!("{} cannot be started", daemon.display())))
}

/// A key pair as `wg` writes it, in base64.
struct Key {
    private: String,
    public: String,
}

impl Key {
    fn new(wg: &Path) -> Result<Key, LabError> {
        let private = run(Command::new(wg).arg("genkey"), "")?;
        let public = run(Command::new(wg).arg("pubkey"), &private)?;
        Ok(Key { private: private.trim().to_owned(), public: public.trim().to_owned() })
    }
}

/// The configuration of one region's interface.
fn configuration(keys: &[Key], region: usize) -> String {
    let mut text = format!("[Interface]\nPrivateKey = {}\nListenPort = {PORT}\n", keys[region].private);
    for (peer, key) in keys.iter().enumerate().filter(|(peer, _)| *peer != region) {
        text += &format!(
            "[Peer]\nPublicKey = {}\nAllowedIPs = {}/32\nEndpoint = {}:{PORT}\n",
            key.public,
            inner(peer),
            outer(peer)
        );
    }
    text
}

impl WireGuard {
    fn socket(&self) -> PathBuf {
        Path::new(SOCKETS).join(format!("{}.sock", self.interface))
    }

    fn wait_until_started(&mut self) -> Result<(), LabError> {
        let end = Instant::now() + START_WITHIN;
        while !self.socket().exists() {
            self.check()?;
            if Instant::now() > end {
                let log = self.log.display();
                return Err(LabError::Failed(format!("wireguard-go made no interface in time; its log is {log}")));
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Fails if the daemon has ended.
    pub(super) fn check(&mut self) -> Result<(), LabError> {
        let Some(status) = self.child.try_wait().map_err(io_error("wireguard-go cannot be watched"))? else {
            return Ok(());
        };
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let name = region::name(self.region);
        Err(LabError::Failed(format!("wireguard-go of {name} ended ({status}):\n{}", log.trim_end())))
    }
}

impl Drop for WireGuard {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(self.socket());
    }
}
