//! Anti-entropy: nodes compare themselves with each other, and fetch what they lost. What is on its way, superseded or deleted stays as it is.

use tests::sim::mesh::Mesh;
use tests::sim::workload::Outcome;
use wal::marks::{self, Mark};

const SFO: usize = 0;
const NYC: usize = 1;
const AMS: usize = 2;

fn keys(name: &str, count: usize) -> impl Iterator<Item = String> {
    (0..count).map(move |n| format!("{name}:{n}"))
}

/// Three regions that compare themselves every two seconds, some hundred keys, deletions among them.
fn mesh(seed: u64) -> Mesh {
    let mut mesh = Mesh::down(seed, [2, 1, 3]);
    mesh.compare_every(2_000);
    mesh.start_all();
    mesh.run_ms(3_000);
    mesh.region("sfo").set_many(keys("sfo", 300), 100);
    mesh.region("nyc").set_many(keys("nyc", 100), 2_000);
    mesh.run_ms(1_000);
    assert_eq!(mesh.region("ams").del("sfo:7"), Outcome::Deleted(true));
    mesh.run_ms(4_000);
    mesh
}

#[test]
fn what_a_node_lost_is_fetched_from_a_peer() {
    let mut mesh = mesh(31);
    _ = marks::take();
    for key in ["sfo:1", "sfo:2", "nyc:3"] {
        mesh.lose(AMS, key);
    }
    // Without its tombstone, and with one more of another node.
    mesh.lose(NYC, "sfo:250");
    assert_eq!(mesh.region("ams").get("sfo:1"), Outcome::Read(None));
    mesh.run_ms(5_000);
    let reached = marks::take();
    assert!(reached.contains(Mark::LostRecordRepaired) && reached.contains(Mark::ComparedByKey));
    let (nyc, ams) = (mesh.compared(NYC), mesh.compared(AMS));
    assert_eq!((ams.lacking, ams.repaired, nyc.lacking, nyc.repaired), (3, 3, 1, 1));
    assert_eq!(mesh.compared(SFO).lacking, 0);
    let repaired: u64 = mesh.region("ams").status().peers.iter().map(|peer| peer.keys_repaired).sum();
    assert_eq!(repaired, 3, "its monitor shows them");
    assert!(matches!(mesh.region("ams").get("sfo:1"), Outcome::Read(Some(_))));
    mesh.converged();
    let again = mesh.compared(AMS);
    assert_eq!(again.repaired, 3, "once");
    assert!(again.comparisons > ams.comparisons);
}

#[test]
fn regions_that_are_equal_fetch_nothing_and_say_little() {
    let mut mesh = mesh(32);
    mesh.converged();
    let before = (mesh.compared(SFO).comparisons, mesh.bytes_between("nyc", "sfo"));
    mesh.run_ms(20_000);
    let after = (mesh.compared(SFO).comparisons, mesh.bytes_between("nyc", "sfo"));
    assert!(after.0 >= before.0 + 8, "{before:?} {after:?}");
    // Twenty seconds of heartbeats, ten answers, ten questions.
    assert!(after.1 - before.1 < 20 * 1_000 + 11 * 10_240, "{before:?} {after:?}");
    for node in [SFO, NYC, AMS] {
        assert_eq!(mesh.compared(node).lacking, 0);
    }
}

/// A cut link: what one end has the other one lacks, and its coverage says why.
#[test]
fn what_is_on_its_way_is_not_fetched() {
    let mut mesh = mesh(33);
    mesh.cut_one_way("sfo", "ams");
    for round in 0..20 {
        mesh.region("sfo").set_many(keys(&format!("late:{round}"), 20), 100);
        mesh.region("nyc").set_many(keys(&format!("sooner:{round}"), 20), 100);
        mesh.run_ms(200);
    }
    mesh.heal();
    mesh.converged();
    for node in [SFO, NYC, AMS] {
        assert_eq!(mesh.compared(node).lacking, 0);
    }
}

/// A node that brings an old value up again, whatever the reason, does not bring it back to those who have forgotten that it was deleted.
#[test]
fn what_was_deleted_and_forgotten_is_not_fetched_from_a_node_that_has_it_again() {
    let mut mesh = Mesh::collecting(34, [2, 2, 2]);
    mesh.compare_every(1_000);
    for region in ["sfo", "nyc", "ams"] {
        mesh.region(region).kill();
        mesh.region(region).start();
    }
    mesh.run_ms(3_000);
    mesh.region("sfo").set_many(keys("gone", 20), 100);
    assert_eq!(mesh.region("sfo").set("stays", 100), Outcome::Stored);
    mesh.run_ms(2_000);
    let old = mesh.record(NYC, "gone:3");
    for key in keys("gone", 20) {
        assert_eq!(mesh.region("ams").del(&key), Outcome::Deleted(true));
    }
    mesh.run_ms(10_000);
    for region in ["sfo", "nyc", "ams"] {
        assert_eq!(mesh.region(region).entries(), 1, "{region} has forgotten them");
    }
    mesh.dig_up(NYC, &old);
    mesh.run_ms(5_000);
    assert_eq!(mesh.region("nyc").entries(), 2);
    for (node, region) in [(SFO, "sfo"), (AMS, "ams")] {
        assert!(mesh.compared(node).comparisons > 0);
        assert_eq!((mesh.compared(node).lacking, mesh.region(region).entries()), (0, 1), "{region}");
    }
    mesh.sound();
}

#[cfg(planted)]
#[test]
fn the_judge_is_noticed_if_it_ignores_coverage_or_the_floor() {
    use wal::planted::{Fault, set};

    let table: [(Fault, fn()); 2] = [
        (Fault::JudgeIgnoresCoverage, what_is_on_its_way_is_not_fetched),
        (Fault::JudgeIgnoresFloor, what_was_deleted_and_forgotten_is_not_fetched_from_a_node_that_has_it_again),
    ];
    for (fault, scenario) in table {
        set(Some(fault));
        let failed = std::panic::catch_unwind(scenario).is_err();
        set(None);
        assert!(failed, "{fault} is not noticed");
        let _ = marks::take();
        scenario();
    }
}
