//! What this machine's network looks like: its interfaces and the address by which a peer is reached.
//!
//! `unsafe` because the kernel's list of addresses is only to be had from libc's `getifaddrs`, a linked list of C
//! structures; nothing else in the configuration needs it, and no pointer leaves this file.

#![allow(clippy::disallowed_methods, reason = "lists the machine's interfaces")]
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::ptr;

/// What decides whether an interface may carry unauthenticated traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InterfaceKind {
    /// Only this machine.
    Loopback,
    /// WireGuard in the kernel.
    WireGuard,
    /// A TUN device: WireGuard in user space and other layer-3 tunnels.
    Tun,
    /// Anything else; it may be public.
    Other,
}

/// One interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name, such as `wg0`.
    pub name: String,
    /// Its addresses, in the kernel's order.
    pub addresses: Vec<IpAddr>,
    /// What it is.
    pub kind: InterfaceKind,
}

/// Where the list of interfaces comes from.
pub trait Interfaces {
    /// All interfaces that have addresses.
    ///
    /// # Errors
    /// When the kernel does not tell.
    fn list(&self) -> io::Result<Vec<Interface>>;
}

/// Where routes come from.
pub trait Routes {
    /// This machine's address in packets to `peer`.
    ///
    /// # Errors
    /// When there is no route.
    fn local_address_to(&self, peer: SocketAddr) -> io::Result<IpAddr>;
}

/// This machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct Machine;

impl Routes for Machine {
    /// Connecting a UDP socket sends nothing; it makes the kernel choose the route.
    fn local_address_to(&self, peer: SocketAddr) -> io::Result<IpAddr> {
        let any: IpAddr = if peer.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect(peer)?;
        Ok(socket.local_addr()?.ip())
    }
}

impl Interfaces for Machine {
    fn list(&self) -> io::Result<Vec<Interface>> {
        let list = AddressList::read()?;
        let mut interfaces: Vec<Interface> = Vec::new();
        for (name, flags, address) in list.entries() {
            if let Some(known) = interfaces.iter_mut().find(|interface| interface.name == name) {
                known.addresses.push(address);
            } else {
                let kind = kind_of(&name, flags);
                interfaces.push(Interface { name, addresses: vec![address], kind });
            }
        }
        Ok(interfaces)
    }
}

fn kind_of(name: &str, flags: libc::c_uint) -> InterfaceKind {
    if flags & libc::IFF_LOOPBACK.cast_unsigned() != 0 {
        return InterfaceKind::Loopback;
    }
    let directory = Path::new("/sys/class/net").join(name);
    let read = |file: &str| std::fs::read_to_string(directory.join(file)).unwrap_or_default();
    if read("uevent").lines().any(|line| line == "DEVTYPE=wireguard") {
        return InterfaceKind::WireGuard;
    }
    // IFF_TUN = 1 (layer 3); IFF_TAP = 2 is an Ethernet, usually a bridge's port, and no tunnel by itself.
    let flags = read("tun_flags");
    match u32::from_str_radix(flags.trim().trim_start_matches("0x"), 16) {
        Ok(flags) if flags & 1 != 0 => InterfaceKind::Tun,
        _ => InterfaceKind::Other,
    }
}

/// The list that `getifaddrs` allocated; freed when dropped.
struct AddressList {
    head: *mut libc::ifaddrs,
}

impl AddressList {
    fn read() -> io::Result<AddressList> {
        let mut head: *mut libc::ifaddrs = ptr::null_mut();
        // SAFETY: `head` is a valid place for one pointer; on success it receives a list that Drop frees once.
        let result = unsafe { libc::getifaddrs(&raw mut head) };
        if result == 0 { Ok(AddressList { head }) } else { Err(io::Error::last_os_error()) }
    }

    /// Name, flags and address of each entry that has an IP address.
    fn entries(&self) -> Vec<(String, libc::c_uint, IpAddr)> {
        let mut found = Vec::new();
        let mut next: *const libc::ifaddrs = self.head;
        // SAFETY: each pointer is null or an entry of the list, which lives as long as `self`.
        while let Some(entry) = unsafe { next.as_ref() } {
            next = entry.ifa_next;
            let Some(address) = address_of(entry) else { continue };
            if entry.ifa_name.is_null() {
                continue;
            }
            // SAFETY: the name of an entry is a NUL-terminated string in the same allocation.
            let name = unsafe { CStr::from_ptr(entry.ifa_name) };
            found.push((name.to_string_lossy().into_owned(), entry.ifa_flags, address));
        }
        found
    }
}

fn address_of(entry: &libc::ifaddrs) -> Option<IpAddr> {
    // SAFETY: the address is null (a device without one) or points to a sockaddr that lives as long as the entry.
    let family = unsafe { entry.ifa_addr.as_ref() }?.sa_family;
    match libc::c_int::from(family) {
        libc::AF_INET => {
            // SAFETY: the family says that this sockaddr is a sockaddr_in; unaligned because C only promises a sockaddr.
            let inet = unsafe { entry.ifa_addr.cast::<libc::sockaddr_in>().read_unaligned() };
            Some(Ipv4Addr::from(u32::from_be(inet.sin_addr.s_addr)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: the family says that this sockaddr is a sockaddr_in6; unaligned as above.
            let inet = unsafe { entry.ifa_addr.cast::<libc::sockaddr_in6>().read_unaligned() };
            Some(Ipv6Addr::from(inet.sin6_addr.s6_addr).into())
        }
        _ => None,
    }
}

impl Drop for AddressList {
    fn drop(&mut self) {
        // SAFETY: `head` came from getifaddrs and is freed only here.
        unsafe { libc::freeifaddrs(self.head) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_a_loopback_interface_and_routes_to_it() {
        let interfaces = Machine.list().expect("getifaddrs");
        let localhost = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let holds_it = |interface: &&Interface| interface.addresses.contains(&localhost);
        let loopback = interfaces.iter().find(holds_it).expect("127.0.0.1 is up");
        assert_eq!(loopback.kind, InterfaceKind::Loopback);
        let peer = SocketAddr::new(localhost, 10_200);
        assert_eq!(Machine.local_address_to(peer).expect("a route"), localhost);
    }
}
