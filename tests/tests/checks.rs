//! The checkers are at work: scenarios in which each sees what it is there for. That each can fail is shown by its unit tests and
//! by the planted faults (`planted.rs`).

use tests::sim::check::backlog::Backlog;
use tests::sim::mesh::Mesh;
use tests::sim::workload::Outcome;

fn keys(name: &str, count: usize) -> Vec<String> {
    (0..count).map(|index| format!("{name}:{index}")).collect()
}

fn all_stored(outcomes: &[Outcome]) -> bool {
    outcomes.iter().all(|outcome| *outcome == Outcome::Stored)
}

#[test]
fn what_leaves_is_seen() {
    let mut mesh = Mesh::new(41);
    assert!(all_stored(&mesh.region("sfo").set_many(keys("k", 200), 500)));
    mesh.converged();
    let leaves = &mesh.checks().leaves;
    // Each record goes to two regions.
    assert!(leaves.records >= 400, "{} records", leaves.records);
    assert!(leaves.claims >= 10, "{} claims and watermarks", leaves.claims);
}

/// A black-holed peer at full write rate: what its source holds for it stays within the budget, and the backlog is on the disk, where
/// it is found once the peer is back.
#[test]
fn a_black_holed_peer_costs_bounded_memory() {
    let mut mesh = Mesh::with_cores(42, [1, 1, 1]);
    mesh.run_ms(1_000);
    mesh.cut_one_way("sfo", "ams");
    for round in 0..25 {
        assert!(all_stored(&mesh.region("sfo").set_many(keys(&format!("r{round}"), 100), 12_000)));
    }
    let Backlog { largest } = mesh.checks().backlog;
    // 30 MB were written: more than all budgets together.
    assert!(largest.in_hand_bytes > 7 << 20, "the budget was not reached: {largest:?}");
    // The batch that is stuck is with the kernel; behind it wait only heartbeats.
    assert!(largest.queue_bytes > 0, "{largest:?}");
    mesh.heal();
    mesh.converged();
}

#[test]
fn a_full_disk_and_its_end_are_seen() {
    let mut mesh = Mesh::with_cores(43, [1, 1, 1]);
    assert_eq!(mesh.region("nyc").set("k", 100), Outcome::Stored);
    mesh.region("nyc").set_disk_full(true);
    mesh.region("nyc").set_many(keys("fill", 60), 8_000);
    assert!(matches!(mesh.region("nyc").get("k"), Outcome::Read(Some(_))));
    mesh.region("nyc").set_disk_full(false);
    mesh.run_ms(tests::sim::check::room::RESUME_MS_MAX);
    assert!(all_stored(&mesh.region("nyc").set_many(keys("after", 60), 8_000)));
    mesh.converged();
    let room = &mesh.checks().room;
    assert!(room.refused > 0 && room.read > 0, "{room:?}");
}

#[test]
fn the_end_of_a_run_whose_sync_failed_is_seen() {
    for seed in 44..50 {
        let mut mesh = Mesh::new(seed);
        mesh.run_ms(1_000);
        mesh.region("sfo").fail_next_sync();
        mesh.region("sfo").set_many(keys("lost", 20), 100);
        assert!(!mesh.region("sfo").is_up());
        assert_eq!(mesh.checks().sync_failures.ended, 1);
        mesh.region("sfo").start();
        mesh.converged();
    }
}

/// A node that followed a fast one restarts with its clock set back: it begins above what it promised.
#[test]
fn a_clock_set_back_over_a_restart_gives_no_version_twice() {
    let mut mesh = Mesh::down(3, [2, 2, 2]);
    mesh.set_clock(1, 400);
    mesh.start_all();
    mesh.run_ms(2_000);
    assert_eq!(mesh.region("nyc").set("fast", 100), Outcome::Stored);
    mesh.run_ms(100);
    mesh.region("sfo").kill();
    mesh.set_clock(0, -400);
    mesh.region("sfo").start();
    mesh.run_ms(1_000);
    assert_eq!(mesh.region("sfo").set("slow", 100), Outcome::Stored);
    mesh.sound();
}
