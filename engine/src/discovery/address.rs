//! Which addresses may cross regions.

use std::net::{IpAddr, SocketAddr};

use net::wire::body::RefusedCode;
use wal::planted::{self, Fault};

/// Why an address cannot be used by another host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// Only this host reaches it.
    Loopback,
    /// Any host of its own: the wildcard.
    Wildcard,
    /// Multicast, broadcast, link-local, or port 0: no host in particular.
    NoHost,
}

/// Judges an address as another host would use it. IPv4 addresses mapped into IPv6 are judged as IPv4.
///
/// # Errors
/// When another host cannot use it.
pub fn check(address: SocketAddr) -> Result<(), Unusable> {
    let ip = address.ip().to_canonical();
    let no_host = match ip {
        IpAddr::V4(v4) => v4.is_multicast() || v4.is_broadcast() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_multicast() || v6.is_unicast_link_local(),
    };
    if no_host || address.port() == 0 {
        Err(Unusable::NoHost)
    } else if ip.is_unspecified() {
        Err(Unusable::Wildcard)
    } else if ip.is_loopback() {
        Err(Unusable::Loopback)
    } else {
        Ok(())
    }
}

/// What peers are told for a local instance: loopback and wildcard hosts become the node's advertised address.
#[must_use]
pub fn for_peers(address: SocketAddr, advertise: IpAddr) -> SocketAddr {
    match check(address) {
        Err(Unusable::Loopback) if planted::is(Fault::LoopbackForwarded) => address,
        Err(Unusable::Loopback | Unusable::Wildcard) => SocketAddr::new(advertise, address.port()),
        _ => SocketAddr::new(address.ip().to_canonical(), address.port()),
    }
}

/// Judges an address that a peer forwarded. `foreign` says whether an IP belongs to another region than the peer's.
///
/// # Errors
/// The code and the line for the peer's operator.
pub fn from_peer(
    address: SocketAddr,
    own: IpAddr,
    foreign: impl FnOnce(IpAddr) -> bool,
) -> Result<(), (RefusedCode, String)> {
    if planted::is(Fault::AnyAddressAccepted) {
        return Ok(());
    }
    let (ip, own) = (address.ip().to_canonical(), own.to_canonical());
    match check(address) {
        Err(Unusable::Wildcard | Unusable::NoHost) => {
            let text = format!("{address} names no host that could be reached; register the instance's own address");
            return Err((RefusedCode::Unusable, text));
        }
        // A mesh on loopback addresses is the lab; there they are ordinary addresses.
        Err(Unusable::Loopback) if !own.is_loopback() => {
            let text = format!("{address} is the receiver's own host; set ADVERTISE_HOST to the mesh address");
            return Err((RefusedCode::Loopback, text));
        }
        Ok(()) | Err(Unusable::Loopback) => {}
    }
    if ip == own {
        return Err((RefusedCode::Own, format!("{address} belongs to the receiver; correct the registration")));
    }
    if foreign(ip) {
        return Err((
            RefusedCode::ForeignRegion,
            format!("{address} belongs to another region; correct the registration"),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn refused(text: &str, own: &str) -> Option<RefusedCode> {
        from_peer(address(text), ip(own), |candidate| candidate == ip("10.0.0.3")).err().map(|(code, _)| code)
    }

    #[test]
    fn loopback_and_wildcard_hosts_become_the_advertised_address() {
        let told = |text: &str| for_peers(address(text), ip("10.0.0.1"));
        for local in ["127.0.0.1:80", "127.9.9.9:80", "0.0.0.0:80", "[::]:80", "[::1]:80", "[::ffff:127.0.0.1]:80"] {
            assert_eq!(told(local), address("10.0.0.1:80"), "{local}");
        }
        assert_eq!(told("10.0.0.77:80"), address("10.0.0.77:80"));
        assert_eq!(told("[::ffff:10.0.0.77]:80"), address("10.0.0.77:80"));
    }

    #[test]
    fn addresses_a_peer_must_not_send_are_refused_with_their_reason() {
        for (text, code) in [
            ("127.0.0.1:80", RefusedCode::Loopback),
            ("[::1]:80", RefusedCode::Loopback),
            ("[::ffff:127.0.0.1]:80", RefusedCode::Loopback),
            ("0.0.0.0:80", RefusedCode::Unusable),
            ("[::]:80", RefusedCode::Unusable),
            ("[::ffff:0.0.0.0]:80", RefusedCode::Unusable),
            ("224.0.0.1:80", RefusedCode::Unusable),
            ("[ff02::1]:80", RefusedCode::Unusable),
            ("[fe80::1]:80", RefusedCode::Unusable),
            ("169.254.1.1:80", RefusedCode::Unusable),
            ("255.255.255.255:80", RefusedCode::Unusable),
            ("10.0.0.2:0", RefusedCode::Unusable),
            ("10.0.0.1:80", RefusedCode::Own),
            ("[::ffff:10.0.0.1]:80", RefusedCode::Own),
            ("10.0.0.3:80", RefusedCode::ForeignRegion),
            ("[::ffff:10.0.0.3]:80", RefusedCode::ForeignRegion),
        ] {
            assert_eq!(refused(text, "10.0.0.1"), Some(code), "{text}");
        }
        assert_eq!(refused("10.0.0.2:80", "10.0.0.1"), None);
        assert_eq!(refused("[fd00::2]:80", "10.0.0.1"), None);
    }

    #[test]
    fn a_mesh_on_loopback_accepts_loopback_but_not_its_own_address_nor_wildcards() {
        assert_eq!(refused("127.10.0.2:80", "127.10.0.1"), None);
        assert_eq!(refused("127.10.0.1:80", "127.10.0.1"), Some(RefusedCode::Own));
        assert_eq!(refused("0.0.0.0:80", "127.10.0.1"), Some(RefusedCode::Unusable));
    }
}
