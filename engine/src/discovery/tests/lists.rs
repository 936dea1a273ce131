//! Expiry, loss, cuts and restarts.

use net::wire::Message;
use net::wire::body::EntryState;

use super::super::limits::{EXCHANGE_MS, REDIAL_MS_MAX};
use super::mesh::{AMS, DELAY_MS, Mesh, NYC, SFO, STEP_MS, address, key, others, region, register};

/// The bounds that the module states, from an instance's last refresh.
const GONE_LINKED_MS: u64 = 16_000 + DELAY_MS + 2 * STEP_MS;
const GONE_ANYHOW_MS: u64 = 22_000 + DELAY_MS + 2 * STEP_MS;

#[test]
fn every_region_lists_all_and_list_local_only_its_own() {
    let mesh = Mesh::settled();
    for node in [SFO, NYC, AMS] {
        let all = mesh.nodes[node].list(Some(&key(0, 1).service), false, mesh.now());
        assert!(!all.learning);
        assert_eq!(all.entries.len(), 3);
        for other in others(node) {
            let entry = all.entries.iter().find(|entry| entry.region == region(other)).unwrap();
            let stamped = address(&format!("10.0.0.{}:10700", other + 1));
            assert_eq!((entry.address, entry.state), (stamped, EntryState::Alive));
        }
        let local = mesh.nodes[node].list_local(None, false, mesh.now());
        assert_eq!(local.entries.len(), 1);
        assert_eq!(local.entries[0].region, region(node));
        assert_eq!(local.entries[0].address, address("127.0.0.1:10700"));
    }
}

#[test]
fn black_holed_region_does_not_separate_the_others() {
    let mut mesh = Mesh::settled();
    mesh.cut_off(AMS);
    let last_refresh_ms = mesh.refreshed_ms[AMS];
    mesh.run_ms(120_000, |mesh| {
        for (node, other) in [(SFO, NYC), (NYC, SFO)] {
            assert_eq!(mesh.state(node, other), Some(EntryState::Alive), "at {} ms", mesh.now_ms);
            if mesh.now_ms > last_refresh_ms + GONE_ANYHOW_MS {
                assert!(!mesh.lists(node, AMS), "at {} ms", mesh.now_ms);
            }
        }
        assert_eq!(mesh.state(AMS, AMS), Some(EntryState::Alive));
    });
    // The healthy pair exchanged on time all along, and the hole was not filled.
    let sent = |from, to| mesh.sent.iter().filter(|(at, f, t, _)| *at > 25_000 && (*f, *t) == (from, to)).count();
    assert!(sent(SFO, NYC) >= 2 * 23, "{} messages", sent(SFO, NYC));
    assert!(sent(SFO, AMS) <= 4, "{} messages into the hole", sent(SFO, AMS));

    mesh.cuts.clear();
    mesh.run_ms(REDIAL_MS_MAX + EXCHANGE_MS, |_| ());
    for node in [SFO, NYC, AMS] {
        for of in [SFO, NYC, AMS] {
            assert_eq!(mesh.state(node, of), Some(EntryState::Alive), "{node} lists {of} after healing");
        }
    }
}

#[test]
fn two_lost_exchanges_expire_nothing() {
    // Every phase of the cut against the exchanges, and of the exchanges against the refreshes: what an exchange
    // forwards is up to one refresh interval old.
    let phases = (0..EXCHANGE_MS).step_by(500);
    for (phase_ms, refresh_ms) in phases.clone().flat_map(|phase| phases.clone().map(move |refresh| (phase, refresh))) {
        let mut mesh = Mesh::settled();
        mesh.refreshed_ms = [mesh.now_ms + refresh_ms - EXCHANGE_MS; 3];
        mesh.run_ms(2 * EXCHANGE_MS + phase_ms, |_| ());
        mesh.cuts.extend([(SFO, NYC), (NYC, SFO)]);
        let seen = |mesh: &mut Mesh| {
            assert!(mesh.lists(NYC, SFO) && mesh.lists(SFO, NYC), "phases {phase_ms}, {refresh_ms} ms")
        };
        mesh.run_ms(2 * EXCHANGE_MS, seen);
        mesh.cuts.clear();
        mesh.run_ms(3 * EXCHANGE_MS, seen);
        assert_eq!(mesh.state(NYC, SFO), Some(EntryState::Alive));
        assert!(mesh.resets.is_empty(), "two misses are weather: {:?}", mesh.resets);
    }
}

#[test]
fn two_lost_refreshes_expire_nothing() {
    let mut mesh = Mesh::settled();
    let last_ms = mesh.refreshed_ms[SFO];
    mesh.silent.insert(SFO);
    // The third comes three intervals after the last that arrived, and late.
    let late_ms = last_ms + 15_900 - mesh.now_ms;
    mesh.run_ms(late_ms, |mesh| assert!(mesh.lists(SFO, SFO) && mesh.lists(NYC, SFO) && mesh.lists(AMS, SFO)));
    mesh.silent.clear();
    mesh.run_ms(20_000, |mesh| assert!(mesh.lists(SFO, SFO) && mesh.lists(NYC, SFO) && mesh.lists(AMS, SFO)));
    assert_eq!(mesh.state(NYC, SFO), Some(EntryState::Alive));
}

#[test]
fn a_dead_service_is_gone_everywhere_within_the_bound_and_not_before_its_time() {
    let mut mesh = Mesh::settled();
    mesh.silent.insert(SFO);
    let last_ms = mesh.refreshed_ms[SFO];
    mesh.run_ms(25_000, |mesh| {
        for node in [SFO, NYC, AMS] {
            if mesh.now_ms <= last_ms + 15_000 {
                assert!(mesh.lists(node, SFO), "node {node} at {} ms", mesh.now_ms - last_ms);
            }
            if mesh.now_ms > last_ms + GONE_LINKED_MS {
                assert!(!mesh.lists(node, SFO), "node {node} at {} ms", mesh.now_ms - last_ms);
            }
        }
    });
    assert_eq!(mesh.state(NYC, SFO), Some(EntryState::Gone), "remembered for those who ask why");
    mesh.run_ms(61_000, |_| ());
    assert_eq!(mesh.state(NYC, SFO), None);
}

#[test]
fn remaining_time_to_live_does_not_add_up() {
    // The service dies; its region falls silent just before it would have said so.
    for silent_after_ms in (0..16_000).step_by(500) {
        let mut mesh = Mesh::settled();
        mesh.silent.insert(SFO);
        let last_ms = mesh.refreshed_ms[SFO];
        while mesh.now_ms < last_ms + silent_after_ms {
            mesh.step();
        }
        mesh.cut_off(SFO);
        mesh.run_ms(last_ms + GONE_ANYHOW_MS - mesh.now_ms + STEP_MS, |_| ());
        for node in [SFO, NYC, AMS] {
            assert!(!mesh.lists(node, SFO), "node {node}, silent after {silent_after_ms} ms");
        }
    }
}

#[test]
fn changes_are_pushed_at_once() {
    let mut mesh = Mesh::settled();
    while mesh.now_ms % EXCHANGE_MS != 2_000 {
        mesh.step();
    }
    let now = mesh.now();
    let mut newcomer = register(9, 7);
    newcomer.key.service = net::ids::ServiceName::parse("queue").unwrap();
    mesh.nodes[SFO].register_local(newcomer.clone(), now).unwrap();
    let queue = |mesh: &Mesh| mesh.nodes[NYC].list(Some(&newcomer.key.service), false, mesh.now()).entries;
    mesh.run_ms(DELAY_MS + STEP_MS, |_| ());
    assert_eq!(queue(&mesh).len(), 1);

    let now = mesh.now();
    mesh.nodes[SFO].deregister_local(&newcomer.key, now);
    // The first push may still be unacknowledged: one more round trip.
    mesh.run_ms(3 * DELAY_MS + STEP_MS, |_| ());
    assert_eq!(queue(&mesh), []);
}

#[test]
fn only_local_entries_are_forwarded() {
    let mesh = Mesh::settled();
    let mut seen = 0;
    for (_, from, _, message) in &mesh.sent {
        if let Message::FederatedRegister(message) = message {
            assert_eq!(message.region, region(*from));
            for entry in &message.entries {
                assert_eq!(entry.key, key(*from, 1));
                assert_eq!(entry.address, address(&format!("10.0.0.{}:10700", from + 1)));
                seen += 1;
            }
        }
    }
    assert!(seen >= 3 * 2 * 4, "{seen} entries were forwarded");
}

#[test]
fn link_loss_marks_suspect_and_deletes_nothing() {
    let mut mesh = Mesh::settled();
    mesh.cut_off(AMS);
    mesh.restart(AMS);
    mesh.step();
    for node in [SFO, NYC] {
        assert_eq!(mesh.state(node, AMS), Some(EntryState::Suspect));
        assert!(mesh.lists(node, AMS));
    }
}

#[test]
fn a_peer_that_goes_over_to_another_link_alone_is_heard_as_before() {
    let mut mesh = Mesh::settled();
    for _ in 0..3 {
        mesh.run_ms(27_000, |mesh| assert!(mesh.lists(SFO, NYC) && mesh.lists(NYC, SFO), "at {} ms", mesh.now_ms));
        mesh.change_link(NYC, SFO);
    }
    mesh.run_ms(27_000, |mesh| assert!(mesh.lists(SFO, NYC) && mesh.lists(NYC, SFO), "at {} ms", mesh.now_ms));
}

#[test]
fn a_silent_peer_becomes_suspect_without_a_word_from_its_link() {
    let mut mesh = Mesh::settled();
    mesh.cut_off(AMS);
    mesh.run_ms(11_500, |_| ());
    assert_eq!(mesh.state(SFO, AMS), Some(EntryState::Suspect));
}

#[test]
fn a_restart_is_unknown_and_not_empty() {
    let mut mesh = Mesh::settled();
    mesh.silent.insert(SFO);
    mesh.restart(SFO);
    // Linked again, with nothing registered yet: peers must not take that for departures.
    mesh.run_ms(4_000, |mesh| {
        assert!(mesh.lists(NYC, SFO) && mesh.lists(AMS, SFO), "at {} ms", mesh.now_ms);
        assert!(mesh.nodes[SFO].list_local(None, false, mesh.now()).learning);
    });
    mesh.silent.clear();
    mesh.run_ms(5_000, |mesh| assert!(mesh.lists(NYC, SFO)));
    assert_eq!(mesh.state(NYC, SFO), Some(EntryState::Alive));
    mesh.run_ms(15_000, |_| ());
    assert!(!mesh.nodes[SFO].list(None, false, mesh.now()).learning);
}

#[test]
fn what_never_returns_after_a_restart_expires() {
    let mut mesh = Mesh::settled();
    let last_ms = mesh.refreshed_ms[SFO];
    mesh.silent.insert(SFO);
    mesh.restart(SFO);
    mesh.run_ms(last_ms + GONE_ANYHOW_MS - mesh.now_ms, |_| ());
    assert!(!mesh.lists(NYC, SFO) && !mesh.lists(AMS, SFO));
}

#[test]
fn a_dead_link_is_given_up_after_three_misses_with_growing_waits() {
    let mut mesh = Mesh::settled();
    // One way only: the dialling succeeds, nothing arrives, nothing is acknowledged.
    mesh.swallow.insert((SFO, AMS));
    mesh.run_ms(120_000, |_| ());
    let waits: Vec<u64> = mesh.resets.iter().filter(|(_, node, ..)| *node == SFO).map(|(.., wait)| *wait).collect();
    assert_eq!(waits[..6], [1_000, 2_000, 4_000, 8_000, 16_000, 30_000]);
    let first_ms = mesh.resets[0].0;
    assert!((10_000..=17_000).contains(&(first_ms - 25_000)), "given up after {} ms", first_ms - 25_000);
    mesh.swallow.clear();
    mesh.run_ms(2 * EXCHANGE_MS, |_| ());
    let status = mesh.nodes[SFO].peer_status().nth(1).unwrap();
    assert_eq!((status.linked, status.missed, status.resets), (true, 0, 0));
}
