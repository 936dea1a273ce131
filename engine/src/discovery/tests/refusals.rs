//! What a node does not take from a peer or an instance, and how lost frames are repaired.

use net::ids::{Incarnation, NodeId, RegionName, Sequence};
use net::reactor::Mono;
use net::wire::Message;
use net::wire::body::federated_register::SnapshotPart;
use net::wire::body::{EntryState, ErrorCode, FederatedAck, FederatedEntry, FederatedRegister, RefusedCode};

use super::super::limits::ENTRIES_PER_SOURCE_MAX;
use super::super::registry::AnnounceError;
use super::super::{Effect, Federation, PeerIndex, RegisterError};
use super::mesh::{AMS, Mesh, NYC, SFO, address, key, peer_index, region, register, settings};

const FROM_NYC: PeerIndex = PeerIndex(0);

fn ms(ms: u64) -> Mono {
    Mono(0).plus_ms(ms)
}

/// The node of sfo, linked to nyc and ams.
fn sfo() -> Federation {
    let mut node = Federation::new(settings(SFO, 1), ms(0));
    node.on_peer_up(FROM_NYC, region(NYC), NodeId(2), Incarnation(1), ms(0));
    node.on_peer_up(PeerIndex(1), region(AMS), NodeId(3), Incarnation(1), ms(0));
    node
}

fn message(sequence: u64, addresses: &[&str]) -> FederatedRegister {
    let entry = |(index, text): (usize, &&str)| FederatedEntry {
        key: key(index, 1),
        address: address(text),
        ttl_ms_left: 15_000,
        metadata: Vec::new(),
    };
    FederatedRegister {
        node: NodeId(2),
        incarnation: Incarnation(1),
        sequence: Sequence(sequence),
        snapshot: None,
        region: region(NYC),
        entries: addresses.iter().enumerate().map(entry).collect(),
        deregistered: Vec::new(),
    }
}

fn snapshot(sequence: u64, addresses: &[&str], first: bool, last: bool) -> FederatedRegister {
    FederatedRegister { snapshot: Some(SnapshotPart { first, last }), ..message(sequence, addresses) }
}

fn listed(node: &Federation, now: Mono) -> Vec<String> {
    node.list(None, false, now).entries.iter().map(|entry| entry.address.to_string()).collect()
}

#[test]
fn foreign_loopback_and_wildcard_addresses_from_a_peer_are_refused() {
    let mut node = sfo();
    let sent = [
        "10.0.0.2:80",
        "127.0.0.1:80",
        "[::ffff:127.0.0.1]:80",
        "0.0.0.0:80",
        "239.0.0.1:80",
        "10.0.0.1:80",
        "10.0.0.3:80",
        "10.0.0.22:80",
    ];
    let ack = node.on_federated_register(FROM_NYC, &message(1, &sent), ms(1));
    let codes: Vec<_> = ack.refused.iter().map(|refused| (refused.key.instance.0, refused.reason().unwrap())).collect();
    let expected = [
        (1, RefusedCode::Loopback),
        (2, RefusedCode::Loopback),
        (3, RefusedCode::Unusable),
        (4, RefusedCode::Unusable),
        (5, RefusedCode::Own),
        (6, RefusedCode::ForeignRegion),
    ];
    assert_eq!(codes, expected);
    assert_eq!(ack.refused_count, 6);
    assert!(ack.refused.iter().all(|refused| !refused.text.is_empty()));
    assert_eq!(listed(&node, ms(1)), ["10.0.0.2:80", "10.0.0.22:80"]);
}

#[test]
fn the_host_of_a_peer_that_never_linked_is_foreign_too() {
    let mut node = Federation::new(settings(SFO, 1), ms(0));
    node.on_peer_up(FROM_NYC, region(NYC), NodeId(2), Incarnation(1), ms(0));
    let ack = node.on_federated_register(FROM_NYC, &message(1, &["10.0.0.3:80"]), ms(1));
    assert_eq!(ack.refused[0].reason(), Some(RefusedCode::ForeignRegion));
}

#[test]
fn a_peer_cannot_speak_for_another_region_or_node() {
    let mut node = sfo();
    let mut as_ams = message(1, &["10.0.0.22:80"]);
    as_ams.region = region(AMS);
    let mut as_other = message(1, &["10.0.0.22:80"]);
    as_other.node = NodeId(3);
    for impostor in [as_ams, as_other] {
        let ack = node.on_federated_register(FROM_NYC, &impostor, ms(1));
        assert_eq!(ack.refused[0].reason(), Some(RefusedCode::Identity));
        assert!(listed(&node, ms(1)).is_empty());
    }
    let stranger = node.on_federated_register(PeerIndex(7), &message(1, &["10.0.0.22:80"]), ms(1));
    assert_eq!(stranger.refused[0].reason(), Some(RefusedCode::Identity));
    node.on_peer_down(FROM_NYC, ms(2));
    let unlinked = node.on_federated_register(FROM_NYC, &message(1, &["10.0.0.22:80"]), ms(2));
    assert_eq!(unlinked.refused[0].reason(), Some(RefusedCode::Identity));
}

#[test]
fn a_gap_asks_for_a_snapshot_and_a_repeated_frame_changes_nothing() {
    let mut node = sfo();
    assert!(!node.on_federated_register(FROM_NYC, &message(1, &["10.0.0.2:80"]), ms(1)).want_full);
    let old = node.on_federated_register(FROM_NYC, &message(1, &["10.0.0.2:81"]), ms(2));
    assert!(!old.want_full);
    assert_eq!(listed(&node, ms(2)), ["10.0.0.2:80"]);
    assert!(node.on_federated_register(FROM_NYC, &message(3, &["10.0.0.2:82"]), ms(3)).want_full);
    let repair = node.on_federated_register(FROM_NYC, &snapshot(9, &["10.0.0.2:83"], true, true), ms(4));
    assert!(!repair.want_full);
    assert_eq!(listed(&node, ms(4)), ["10.0.0.2:83"]);
}

#[test]
fn a_snapshot_removes_what_no_part_named_and_only_when_it_is_whole() {
    let mut node = sfo();
    let three = ["10.0.0.2:80", "10.0.0.2:81", "10.0.0.2:82"];
    node.on_federated_register(FROM_NYC, &message(1, &three), ms(1));
    node.on_federated_register(FROM_NYC, &snapshot(2, &three[..1], true, false), ms(2));
    assert_eq!(listed(&node, ms(2)).len(), 3);
    // Its second part is lost: the last part proves nothing.
    let torn = node.on_federated_register(FROM_NYC, &snapshot(4, &[], false, true), ms(3));
    assert!(torn.want_full);
    assert_eq!(listed(&node, ms(3)).len(), 3);
    node.on_federated_register(FROM_NYC, &snapshot(5, &three[..1], true, false), ms(4));
    node.on_federated_register(FROM_NYC, &snapshot(6, &[], false, true), ms(4));
    assert_eq!(listed(&node, ms(4)), ["10.0.0.2:80"]);
    // What the source takes back is listed again, in the same epoch.
    node.on_federated_register(FROM_NYC, &message(7, &three[..2]), ms(5));
    assert_eq!(listed(&node, ms(5)).len(), 2);
}

#[test]
fn a_peer_that_always_wants_a_snapshot_gets_one_per_second_at_most() {
    let mut node = sfo();
    let mut sent = 0;
    for at in 0..10_000 {
        for effect in node.tick(ms(at)) {
            if let Effect::SendFederated { peer: FROM_NYC, message } = effect {
                sent += 1;
                let ack = FederatedAck { sequence: message.sequence, want_full: true, ..FederatedAck::default() };
                node.on_ack(FROM_NYC, ack, ms(at));
            }
        }
    }
    assert_eq!(sent, 10);
}

#[test]
fn changes_are_not_poured_into_a_black_hole() {
    let mut node = sfo();
    let (mut sent, mut reset_at) = (0, None);
    for at in (0..20_000).step_by(100) {
        node.register_local(register(1, at + 1), ms(at)).unwrap();
        for effect in node.tick(ms(at)) {
            match effect {
                Effect::SendFederated { peer: FROM_NYC, .. } => sent += 1,
                Effect::ResetLink { peer: FROM_NYC, .. } => reset_at = reset_at.or(Some(at)),
                _ => {}
            }
        }
    }
    assert_eq!(sent, 3, "three exchanges and no push");
    assert_eq!(reset_at, Some(11_000));
}

#[test]
fn acknowledgements_of_frames_never_sent_are_no_sign_of_life() {
    let mut node = sfo();
    let mut resets = 0;
    for at in (0..20_000).step_by(100) {
        let effects = node.tick(ms(at));
        resets += effects.iter().filter(|effect| matches!(effect, Effect::ResetLink { peer: FROM_NYC, .. })).count();
        node.on_ack(FROM_NYC, FederatedAck { sequence: Sequence(u64::MAX), ..FederatedAck::default() }, ms(at));
    }
    assert_eq!(resets, 1);
}

#[test]
fn registrations_that_cannot_be_reached_or_kept_are_refused_with_a_code() {
    let mut node = sfo();
    let refused = |node: &mut Federation, change: &dyn Fn(&mut net::wire::body::Register)| {
        let mut candidate = register(1, 5);
        change(&mut candidate);
        node.register_local(candidate, ms(1)).map_err(|error| (error.to_failed().reason().unwrap(), error))
    };
    let port = refused(&mut node, &|r| r.address.set_port(0)).unwrap_err();
    assert_eq!(port.0, ErrorCode::Address);
    let foreign = refused(&mut node, &|r| r.address = address("10.0.0.2:80")).unwrap_err();
    assert_eq!(foreign, (ErrorCode::Address, RegisterError::ForeignRegion(address("10.0.0.2:80"))));
    assert_eq!(refused(&mut node, &|r| r.ttl_ms = 0).unwrap_err().0, ErrorCode::Invalid);
    assert_eq!(refused(&mut node, &|r| r.ttl_ms = u32::MAX).unwrap_err().0, ErrorCode::Invalid);
    assert_eq!(refused(&mut node, &|r| r.metadata = vec![0; 257]).unwrap_err().0, ErrorCode::Invalid);
    assert!(refused(&mut node, &|_| ()).is_ok());
    assert_eq!(refused(&mut node, &|r| r.key.epoch.0 = 4).unwrap_err().0, ErrorCode::StaleEpoch);
    node.deregister_local(&key(1, 5), ms(2));
    let left = refused(&mut node, &|_| ()).unwrap_err();
    assert_eq!(left, (ErrorCode::StaleEpoch, RegisterError::Registry(AnnounceError::Left)));
}

#[test]
fn a_full_registry_crosses_in_frames_that_fit_and_lists_in_several_replies() {
    let mut mesh = Mesh::settled();
    let now = mesh.now();
    for instance in 10..10 + ENTRIES_PER_SOURCE_MAX - 1 {
        let mut long = register(instance, 1);
        long.ttl_ms = 600_000;
        long.metadata = vec![7; 256];
        mesh.nodes[SFO].register_local(long, now).unwrap();
    }
    mesh.run_ms(6_000, |_| ());
    let listing = mesh.nodes[NYC].list(None, false, mesh.now());
    assert_eq!(listing.entries.len(), ENTRIES_PER_SOURCE_MAX + 2);
    assert!(listing.entries.iter().all(|entry| entry.state == EntryState::Alive));
    assert_eq!(mesh.nodes[SFO].peer_status().map(|status| status.refused_count).sum::<u32>(), 0);

    let replies = listing.clone().into_replies();
    assert!(replies.len() > 10);
    let mut entries = Vec::new();
    for (index, reply) in replies.iter().enumerate() {
        assert_eq!(reply.more, index + 1 < replies.len());
        Message::ListReply(reply.clone()).encode(net::ids::RequestId(1), &mut Vec::new()).unwrap();
        entries.extend(reply.entries.clone());
    }
    assert_eq!(entries, listing.entries);
}

#[test]
fn an_empty_list_is_one_empty_reply() {
    let node = Federation::new(settings(SFO, 1), ms(0));
    let replies = node.list(None, false, ms(0)).into_replies();
    assert_eq!(replies.len(), 1);
    assert!(replies[0].learning && !replies[0].more && replies[0].entries.is_empty());
}

#[test]
fn neighbours_of_the_same_region_are_local() {
    let mut node = Federation::new(settings(SFO, 1), ms(0));
    node.on_peer_up(FROM_NYC, RegionName::parse("sfo").unwrap(), NodeId(2), Incarnation(1), ms(0));
    let neighbour = FederatedRegister { region: region(SFO), ..message(1, &["10.0.0.2:80"]) };
    node.on_federated_register(FROM_NYC, &neighbour, ms(1));
    assert_eq!(node.list_local(None, false, ms(1)).entries.len(), 1);
    assert_eq!(peer_index(SFO, NYC), FROM_NYC);
}
