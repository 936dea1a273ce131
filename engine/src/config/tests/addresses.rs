//! Binding and advertising.

use super::*;

fn bind(addresses: &str) -> Vec<&str> {
    vec!["--bind-host", addresses]
}

fn mesh_with<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&MESH[..], more].concat()
}

#[test]
fn loopback_is_added_unless_one_is_given() {
    let bound = |addresses: &str| droplet().load(&bind(addresses)).expect("allowed").bind_addresses;
    assert_eq!(bound("10.0.0.1"), [ip("10.0.0.1"), ip("127.0.0.1")]);
    assert_eq!(bound("127.10.0.1"), [ip("127.10.0.1")]);
    assert_eq!(bound("::1, fd00::1"), [ip("::1"), ip("fd00::1"), ip("127.0.0.1")]);
    assert_eq!(bound("::ffff:10.0.0.1"), [ip("10.0.0.1"), ip("127.0.0.1")]);
}

#[test]
fn public_addresses_are_refused_and_the_mesh_address_is_named() {
    for (address, reason) in [
        ("0.0.0.0", "listens on every interface"),
        ("::", "listens on every interface"),
        ("203.0.113.7", "belongs to eth0, which is no WireGuard or TUN interface"),
        ("10.0.0.9", "is no address of this machine"),
    ] {
        let refusal = droplet().refusal(&bind(address));
        assert!(refusal.starts_with(&format!("--bind-host: BIND_HOST={address}: {address} {reason}")), "{refusal}");
        assert!(refusal.contains("write BIND_HOST=10.0.0.1 (wg0)"), "{refusal}");
    }
    let mut bare = droplet();
    bare.interfaces.pop();
    assert!(bare.refusal(&bind("0.0.0.0")).contains("no WireGuard or TUN interface is up here: bring it up"));
    for bad in ["localhost", "10.0.0.1:10200", "10.0.0.1,,127.0.0.1", "10.0.0.1,10.0.0.1", "224.0.0.1", "fe80::1", ","]
    {
        droplet().refusal(&bind(bad));
    }
}

#[test]
fn tun_and_named_interfaces_may_be_bound() {
    let mut machine = droplet();
    machine.interfaces[2].kind = InterfaceKind::Tun;
    assert!(machine.load(&bind("10.0.0.1")).is_ok());
    machine.interfaces[2].kind = InterfaceKind::Other;
    assert!(machine.refusal(&bind("10.0.0.1")).contains("(MESH_INTERFACE=wg0 allows wg0"));
    assert!(machine.load(&["--bind-host", "10.0.0.1", "--mesh-interface", "wg0"]).is_ok());
    let refusal = machine.refusal(&["--mesh-interface", "wg1"]);
    assert!(refusal.ends_with("bring it up, or write one of lo, eth0, wg0"), "{refusal}");
}

#[test]
fn a_route_over_a_public_interface_is_not_bound_by_default() {
    let machine = Fake { route: Some("203.0.113.7"), ..droplet() };
    let refusal = machine.refusal(&MESH);
    assert!(refusal.contains("the route to 10.0.0.2 leaves by 203.0.113.7, but"), "{refusal}");
    assert!(refusal.contains("write BIND_HOST=10.0.0.1 (wg0)"), "{refusal}");
    let refusal = Fake { route: None, ..droplet() }.refusal(&MESH);
    assert!(refusal.contains("there is no route to the first peer 10.0.0.2 (Network is unreachable)"), "{refusal}");
}

#[test]
fn the_advertised_address_is_one_that_peers_can_use() {
    let config = droplet().load(&mesh_with(&["--bind-host", "fd00::1,10.0.0.1"])).expect("the routed one is bound");
    assert_eq!(config.advertise_address, ip("10.0.0.1"));
    let refusal = droplet().refusal(&mesh_with(&["--bind-host", "fd00::1"]));
    assert!(
        refusal.contains("leaves by 10.0.0.1, which is not in BIND_HOST; write ADVERTISE_HOST=fd00::1"),
        "{refusal}"
    );
    let config = droplet().load(&mesh_with(&["--bind-host", "fd00::1", "--advertise-host", "10.9.9.9"])).expect("NAT");
    assert_eq!(config.advertise_address, ip("10.9.9.9"));
    for unreachable in ["127.0.0.1", "0.0.0.0", "::"] {
        let refusal = droplet().refusal(&mesh_with(&["--advertise-host", unreachable]));
        assert!(refusal.contains(&format!("by {unreachable}; write ADVERTISE_HOST=10.0.0.1 (wg0)")), "{refusal}");
    }
    let refusal = droplet().refusal(&mesh_with(&["--bind-host", "127.0.0.1"]));
    assert!(refusal.contains("would listen on loopback only; write BIND_HOST=10.0.0.1 (wg0)"), "{refusal}");
}

#[test]
fn a_lab_node_advertises_its_own_loopback_address() {
    let lab = ["--region", "sfo", "--discovery-peers", "127.10.0.2", "--bind-host", "127.10.0.1"];
    let config = droplet().load(&lab).expect("loopback peers");
    assert_eq!((config.bind_addresses, config.advertise_address), (vec![ip("127.10.0.1")], ip("127.10.0.1")));
    // One remote peer is enough to make loopback wrong.
    let mixed = ["--region", "sfo", "--discovery-peers", "127.10.0.2,10.0.0.2", "--bind-host", "127.10.0.1"];
    assert!(droplet().refusal(&mixed).contains("would listen on loopback only"));
}

#[test]
fn peer_that_is_self_is_refused() {
    let with_peers = |peers: &'static str| ["--region", "sfo", "--discovery-peers", peers];
    let refusal = droplet().refusal(&with_peers("10.0.0.1,10.0.0.2"));
    assert!(refusal.ends_with("10.0.0.1:10200 is this node itself; write DISCOVERY_PEERS=10.0.0.2:10200"), "{refusal}");
    let refusal = droplet().refusal(&with_peers("10.0.0.2,127.0.0.1:10200"));
    assert!(refusal.contains("127.0.0.1:10200 is this node itself"), "{refusal}");
    let refusal = droplet().refusal(&mesh_with(&["--advertise-host", "10.0.0.3", "--discovery-port", "10201"]));
    assert!(refusal.contains("10.0.0.3:10201 is this node itself"), "{refusal}");
    // Two nodes on one host differ by port.
    assert!(droplet().load(&with_peers("10.0.0.2,10.0.0.1:11200")).is_ok());
}

#[test]
fn malformed_peers_say_what_to_write() {
    let refusal = |peers: &str| droplet().refusal(&["--region", "sfo", "--discovery-peers", peers]);
    assert!(refusal("10.0.0.2,,10.0.0.3,").contains("item 2 is empty; write 10.0.0.2,10.0.0.3"));
    assert!(refusal("10.0.0.2,10.0.0.2:10200").contains("10.0.0.2:10200 is given twice"));
    assert!(refusal("nyc.example:10200").contains("\"nyc.example\" is no IP address; write the peer's mesh address"));
    assert!(refusal("10.0.0.2:99999").contains("no valid port; write 10.0.0.2:10200"));
    assert!(refusal("10.0.0.2:0").contains("no valid port; write 10.0.0.2:10200"));
    assert!(refusal("[fd00::2").contains("is malformed; write [IPv6]:10200"));
    assert!(refusal("[fd00::2]x").contains("is malformed; write [IPv6]:10200"));
    assert!(refusal("[fd00::2]:").contains("no valid port; write [fd00::2]:10200"));
    assert!(refusal("0.0.0.0").contains("0.0.0.0 is no peer's address"));
    assert!(refusal("255.255.255.255").contains("is a multicast, broadcast or link-local address"));
    let config = droplet().load(&["--region", "sfo", "--discovery-peers", "fd00::2,[fd00::3]:1,[fd00::4],10.0.0.4:1"]);
    let peers: Vec<String> =
        config.map(|config| config.discovery_peers).expect("IPv6").iter().map(ToString::to_string).collect();
    assert_eq!(peers, ["[fd00::2]:10200", "[fd00::3]:1", "[fd00::4]:10200", "10.0.0.4:1"]);
}
