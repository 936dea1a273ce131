//! Which addresses this node listens on and which one its peers are told.
//!
//! Until clients can prove who they are, the address is the only guard: a node listens on loopback and on the mesh, never
//! on an interface that may be public, and each refusal names what to write instead.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::interfaces::{Interface, InterfaceKind, Routes};
use super::values::{Problem, host, items, push_unique};

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// What this machine offers.
pub(super) struct Network<'a> {
    pub interfaces: &'a [Interface],
    /// `MESH_INTERFACE`.
    pub mesh: Option<&'a str>,
    pub routes: &'a dyn Routes,
}

/// An address and, if it was not given, how it was found.
pub(super) struct Derived<T> {
    pub value: T,
    pub because: Option<String>,
}

impl Network<'_> {
    /// `BIND_HOST` as given.
    pub(super) fn bind_given(&self, text: &str) -> Result<Vec<IpAddr>, Problem> {
        let mut addresses = Vec::new();
        for item in items(text)? {
            let ip = host(item)?;
            self.check_bind(ip)?;
            push_unique(&mut addresses, ip)?;
        }
        Ok(with_loopback(addresses))
    }

    /// `BIND_HOST` when it is not given.
    pub(super) fn bind_derived(&self, peers: &[SocketAddr]) -> Result<Derived<Vec<IpAddr>>, Problem> {
        let Some(&first) = peers.first() else {
            return Ok(Derived { value: vec![LOCALHOST], because: None });
        };
        let ip = self.route_to(first)?;
        self.check_bind(ip).map_err(|problem| format!("the route to {} leaves by {ip}, but {problem}", first.ip()))?;
        Ok(Derived { value: with_loopback(vec![ip]), because: Some(format!("route to {}", first.ip())) })
    }

    /// `ADVERTISE_HOST`, given or not, for a node that listens on `bind`.
    pub(super) fn advertise(
        &self,
        given: Option<&str>,
        bind: &[IpAddr],
        peers: &[SocketAddr],
    ) -> Result<Derived<IpAddr>, Problem> {
        let remote_peer = peers.iter().find(|peer| !peer.ip().is_loopback());
        if let Some(text) = given {
            let ip = host(text)?;
            if ip.is_unspecified() || (ip.is_loopback() && remote_peer.is_some()) {
                let instead = self.mesh_advice("ADVERTISE_HOST");
                return Err(format!("no other machine reaches this one by {ip}; {instead}"));
            }
            return Ok(Derived { value: ip, because: None });
        }
        let Some(&first) = peers.first() else {
            return Ok(Derived { value: bind.first().copied().unwrap_or(LOCALHOST), because: None });
        };
        let because = Some(format!("route to {}", first.ip()));
        let routed = self.route_to(first)?;
        if remote_peer.is_none() {
            // The lab: every route within 127.0.0.0/8 leaves by 127.0.0.1, which says nothing about who this node is.
            let own = bind.iter().copied().find(IpAddr::is_loopback).unwrap_or(routed);
            return Ok(Derived { value: own, because: Some("first loopback address of BIND_HOST".into()) });
        }
        let reachable: Vec<String> = bind.iter().filter(|ip| !ip.is_loopback()).map(ToString::to_string).collect();
        if bind.contains(&routed) && !routed.is_loopback() {
            Ok(Derived { value: routed, because })
        } else if let Some(reachable) = reachable.first() {
            Err(format!(
                "cannot be derived: the route to {} leaves by {routed}, which is not in BIND_HOST; \
                 write ADVERTISE_HOST={reachable} if the peers reach this node there",
                first.ip()
            ))
        } else {
            Err(only_loopback(&self.mesh_advice("BIND_HOST")))
        }
    }

    /// Refuses a node that its peers cannot reach.
    pub(super) fn check_reachable(&self, bind: &[IpAddr], peers: &[SocketAddr]) -> Result<(), Problem> {
        let remote_peer = peers.iter().any(|peer| !peer.ip().is_loopback());
        if remote_peer && bind.iter().all(IpAddr::is_loopback) {
            return Err(only_loopback(&self.mesh_advice("BIND_HOST")));
        }
        Ok(())
    }

    /// `MESH_INTERFACE` must exist, or it guards nothing.
    pub(super) fn check_mesh(&self, name: &str) -> Result<(), Problem> {
        if self.interfaces.iter().any(|interface| interface.name == name) {
            return Ok(());
        }
        let names: Vec<&str> = self.interfaces.iter().map(|interface| interface.name.as_str()).collect();
        Err(format!("no interface {name:?} has an address here; bring it up, or write one of {}", names.join(", ")))
    }

    fn route_to(&self, peer: SocketAddr) -> Result<IpAddr, Problem> {
        self.routes.local_address_to(peer).map(|ip| ip.to_canonical()).map_err(|error| {
            format!(
                "cannot be derived: there is no route to the first peer {} ({error}); bring the mesh up, or {}",
                peer.ip(),
                self.mesh_advice("BIND_HOST")
            )
        })
    }

    /// Whether the node may listen on `ip`.
    fn check_bind(&self, ip: IpAddr) -> Result<(), Problem> {
        if ip.is_loopback() {
            return Ok(());
        }
        let advice = || self.mesh_advice("BIND_HOST");
        if ip.is_unspecified() {
            return Err(format!("{ip} listens on every interface, public ones too; {}", advice()));
        }
        let Some(interface) = self.interfaces.iter().find(|interface| interface.addresses.contains(&ip)) else {
            return Err(format!("{ip} is no address of this machine; {}", advice()));
        };
        if self.is_mesh(interface) {
            return Ok(());
        }
        let (name, advice) = (&interface.name, advice());
        Err(format!(
            "{ip} belongs to {name}, which is no WireGuard or TUN interface; {advice} \
             (MESH_INTERFACE={name} allows {name}, if it is a private network)"
        ))
    }

    fn is_mesh(&self, interface: &Interface) -> bool {
        matches!(interface.kind, InterfaceKind::WireGuard | InterfaceKind::Tun)
            || self.mesh == Some(interface.name.as_str())
    }

    /// What to write instead, by what this machine has.
    fn mesh_advice(&self, key: &str) -> String {
        let usable = |ip: &&IpAddr| host(&ip.to_string()).is_ok_and(|ip| !ip.is_loopback());
        let found = self
            .interfaces
            .iter()
            .filter(|interface| self.is_mesh(interface))
            .find_map(|interface| interface.addresses.iter().find(usable).map(|ip| (ip, &interface.name)));
        match found {
            Some((ip, name)) => format!("write {key}={ip} ({name})"),
            None => format!(
                "no WireGuard or TUN interface is up here: bring it up and write {key}=<its address>, \
                 or name a private interface with MESH_INTERFACE"
            ),
        }
    }
}

fn only_loopback(advice: &str) -> Problem {
    format!("the peers are on other machines but this node would listen on loopback only; {advice}")
}

/// Local clients always find the node on 127.0.0.1, unless the operator chose another loopback address (the lab).
fn with_loopback(mut addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    let has_one = addresses.iter().any(|ip| matches!(ip, IpAddr::V4(v4) if v4.is_loopback()));
    if !has_one {
        addresses.push(LOCALHOST);
    }
    addresses
}
