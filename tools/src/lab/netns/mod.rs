//! Regions with network stacks of their own: a namespace each, WireGuard in user space between them, and an emulated
//! WAN with the mesh's delays below it. Needs root.
//!
//! Each region has an outer address on the WAN and an inner one in the tunnel; daemons know only the inner ones.
//! Without a tunnel the inner address is on the WAN itself. A namespace has no other interface than these and loopback,
//! so that no packet leaves it.

mod claim;
mod control;
mod link;
mod namespace;
mod tunnel;
mod wan;

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::mpsc::{self, Receiver};
use std::thread;

use clap::ValueEnum;

use super::command::Action;
use super::{LabError, region};
pub(super) use control::send;
pub use namespace::Namespace;

/// What is between the emulated WAN and the regions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Tunnel {
    /// WireGuard in user space, by wireguard-go
    Wireguard,
    /// Nothing: plain routing
    None,
}

/// The network of a lab. Dropping it takes everything away; regions end before.
#[derive(Debug)]
pub(crate) struct Network {
    wan: wan::Wan,
    _control: control::Control,
    tunnels: Vec<tunnel::WireGuard>,
    // Dropped after what lives in them.
    namespaces: Vec<namespace::Made>,
    // Last: until then another lab must not take these for leftovers.
    _claim: claim::Claim,
}

/// A region's address in the tunnel.
pub(crate) fn inner(region: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, last_byte(region))
}

/// A region's address on the WAN below the tunnel, from the range for measurements (RFC 2544).
fn outer(region: usize) -> Ipv4Addr {
    Ipv4Addr::new(198, 18, 0, last_byte(region))
}

fn last_byte(region: usize) -> u8 {
    u8::try_from(region + 1).expect("three regions")
}

impl Network {
    /// Builds the network, and listens for commands in `directory`. What a killed lab left is removed first.
    pub(super) fn start(directory: &Path, temporary: bool, tunnel: Tunnel) -> Result<Network, LabError> {
        require_root(FOR_ROOT)?;
        // Other processes have other working directories.
        let directory = std::path::absolute(directory).map_err(super::io_error("the lab's directory has no path"))?;
        std::fs::create_dir_all(&directory)
            .map_err(super::io_error(format!("{} cannot be created", directory.display())))?;
        let owner = std::process::id();
        let claim = claim::Claim::take(&directory, temporary)?;
        let made = (0..region::COUNT).map(|index| {
            let name = claim::namespace_name(owner, region::name(index));
            namespace::Made::new(name)
        });
        let namespaces = made.collect::<Result<Vec<_>, _>>()?;
        let names: Vec<Namespace> = namespaces.iter().map(|made| made.0.clone()).collect();
        let wan = wan::Wan::start(&names)?;
        for (index, namespace) in names.iter().enumerate() {
            let address = if tunnel == Tunnel::None { inner(index) } else { outer(index) };
            namespace.configure(&[
                format!("addr add {address}/24 dev {}", wan::DEVICE),
                // Room for what a sender gives at once; the emulated buffers are the ones that drop.
                format!("link set {} mtu 1500 txqueuelen 10000 up", wan::DEVICE),
            ])?;
        }
        let tunnels = match tunnel {
            Tunnel::Wireguard => tunnel::start(owner, &names, &directory)?,
            Tunnel::None => Vec::new(),
        };
        let control = control::Control::listen(&directory, wan.controls())?;
        Ok(Network { wan, _control: control, tunnels, namespaces, _claim: claim })
    }

    /// The namespace of a region.
    pub(crate) fn namespace(&self, region: usize) -> Namespace {
        self.namespaces[region].0.clone()
    }

    /// Fails if a part of it has ended.
    pub(crate) fn check(&mut self) -> Result<(), LabError> {
        if !self.wan.is_running() {
            return Err(LabError::Failed("the emulated WAN ended: a TUN device failed".into()));
        }
        self.tunnels.iter_mut().try_for_each(tunnel::WireGuard::check)
    }

    /// Answers to the lines of standard input, each a command; ends when that does.
    pub(super) fn answers(&self) -> Result<Receiver<String>, LabError> {
        let controls = self.wan.controls();
        let (sender, receiver) = mpsc::channel();
        let answer_all = move || {
            for line in std::io::stdin().lines().map_while(Result::ok) {
                let empty = line.trim().is_empty();
                let done = || Action::parse(&line).and_then(|action| controls.apply(&action));
                let answer = if empty { String::new() } else { done().unwrap_or_else(|error| error) };
                if sender.send(answer).is_err() {
                    return;
                }
            }
        };
        let thread = thread::Builder::new().name("stdin".into()).spawn(answer_all);
        thread.map_err(super::io_error("no thread for standard input"))?;
        Ok(receiver)
    }
}

/// What those are told who may not build a network.
const FOR_ROOT: &str = "--netns makes network namespaces, which takes root; without it the lab needs no rights";

fn require_root(refusal: &str) -> Result<(), LabError> {
    if rustix::process::geteuid().is_root() { Ok(()) } else { Err(LabError::Failed(refusal.into())) }
}

/// Whether this process can make a lab's network at all, tunnel aside: root, `ip`, namespaces and TUN devices.
///
/// # Errors
/// What is missing.
pub fn probe() -> Result<(), LabError> {
    require_root(FOR_ROOT)?;
    let directory = std::env::temp_dir();
    let _claim = claim::Claim::take(&directory, false)?;
    let made = namespace::Made::new(claim::namespace_name(std::process::id(), "probe"))?;
    wan::Wan::start(std::slice::from_ref(&made.0)).map(|_| ())
}
