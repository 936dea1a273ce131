//! What was deleted, or has expired, is forgotten once every member holds that: not earlier, and for good.

use tests::sim::mesh::{Mesh, REGIONS};
use tests::sim::workload::Outcome;
use wal::marks::{self, Mark};

fn keys(count: usize) -> impl Iterator<Item = String> {
    (0..count).map(|n| format!("key:{n}"))
}

fn delete_all(mesh: &mut Mesh, region: &str, count: usize) {
    for key in keys(count) {
        assert_eq!(mesh.region(region).del(&key), Outcome::Deleted(true));
    }
}

/// Index entries of each region.
fn entries(mesh: &mut Mesh) -> Vec<usize> {
    REGIONS.iter().map(|region| mesh.region(region).entries()).collect()
}

#[test]
fn tombstones_go_when_everybody_holds_them_and_links_fall_silent() {
    for seed in 1..=4 {
        let mut mesh = Mesh::collecting(seed, [2, 1, 3]);
        mesh.run_ms(3_000);
        mesh.region("sfo").set_many(keys(40), 100);
        mesh.run_ms(1_000);
        delete_all(&mut mesh, "ams", 40);
        assert_eq!(mesh.region("nyc").set("stays", 100), Outcome::Stored);
        mesh.run_ms(10_000);
        assert_eq!(entries(&mut mesh), [1, 1, 1], "seed {seed}");
        mesh.converged();
    }
}

/// `delete_while_peer_down_stays_deleted`, with tombstones that could have gone.
#[test]
fn a_region_that_is_away_keeps_tombstones_and_brings_nothing_back() {
    for (seed, is_cut) in [(5, true), (6, false)] {
        let mut mesh = Mesh::collecting(seed, [2, 2, 2]);
        mesh.run_ms(3_000);
        mesh.region("sfo").set_many(keys(20), 100);
        mesh.run_ms(2_000);
        if is_cut {
            mesh.region("ams").cut_off();
        } else {
            mesh.region("ams").lose_power();
        }
        delete_all(&mut mesh, "nyc", 20);
        mesh.run_ms(60_000);
        for region in ["sfo", "nyc"] {
            assert_eq!(mesh.region(region).entries(), 20, "{region} remembers");
        }
        if is_cut {
            mesh.heal();
        } else {
            mesh.region("ams").start();
        }
        mesh.run_ms(20_000);
        assert_eq!(entries(&mut mesh), [0, 0, 0]);
        assert_eq!(mesh.region("ams").get("key:7"), Outcome::Read(None));
        mesh.converged();
    }
}

/// A tombstone whose key has an older record in a file of an earlier run has to stay: a start without a checkpoint finds that record.
#[test]
fn what_was_written_before_a_restart_is_not_dug_up_by_the_next_one() {
    let mut mesh = Mesh::collecting(7, [2, 2, 2]);
    mesh.run_ms(3_000);
    mesh.region("sfo").set_many(keys(20), 100);
    // It keeps the files of the run in which it was written.
    mesh.region("sfo").set_many((0..20).map(|n| format!("stays:{n}")), 100);
    mesh.run_ms(2_000);
    mesh.region("nyc").lose_power();
    mesh.region("nyc").start();
    mesh.run_ms(5_000);
    _ = marks::take();
    delete_all(&mut mesh, "nyc", 20);
    mesh.region("nyc").set_many((0..20).map(|n| format!("young:{n}")), 100);
    mesh.run_ms(2_000);
    for n in 0..20 {
        assert_eq!(mesh.region("nyc").del(&format!("young:{n}")), Outcome::Deleted(true));
    }
    mesh.run_ms(10_000);
    assert_eq!(entries(&mut mesh), [20, 40, 20], "of keys that are younger than the run nothing is left");
    assert!(marks::take().contains(Mark::TombstoneKeptForOldRun));
    mesh.region("nyc").lose_power();
    mesh.region("nyc").start();
    mesh.run_ms(5_000);
    for key in ["key:3", "young:3"] {
        assert_eq!(mesh.region("nyc").get(key), Outcome::Read(None), "{key}");
    }
    mesh.converged();
}

/// Three regions with `stays` and these keys, of which all have forgotten the deletion.
fn after_forgetting(seed: u64, keys_deleted: usize, before: impl FnOnce(&mut Mesh)) -> Mesh {
    let mut mesh = Mesh::collecting(seed, [1, 2, 3]);
    // What is behind they send slowly.
    for region in ["sfo", "nyc"] {
        mesh.region(region).set_flow(false, 400_000);
        mesh.region(region).lose_power();
        mesh.region(region).start();
    }
    mesh.run_ms(3_000);
    mesh.region("sfo").set_many(keys(keys_deleted), 100);
    mesh.run_ms(2_000);
    before(&mut mesh);
    delete_all(&mut mesh, "sfo", keys_deleted);
    assert_eq!(mesh.region("sfo").set("stays", 100), Outcome::Stored);
    mesh.run_ms(10_000);
    assert_eq!(entries(&mut mesh), [1, 1, 1]);
    _ = marks::take();
    mesh
}

/// Who lacks something of what others may have forgotten takes over everything.
#[test]
fn an_empty_disk_joins_those_who_have_forgotten_something() {
    let mut mesh = after_forgetting(8, 5, |_| {});
    mesh.region("ams").lose_power();
    mesh.region("ams").replace_disk();
    mesh.region("ams").start();
    mesh.run_ms(10_000);
    let reached = marks::take();
    assert!(reached.contains(Mark::FollowerBelowForgotten) && reached.contains(Mark::BootstrapEnded));
    assert!(!reached.contains(Mark::DeadSwept), "there was nothing to drop");
    assert!(matches!(mesh.region("ams").get("stays"), Outcome::Read(Some(_))));
    assert_eq!(entries(&mut mesh), [1, 1, 1]);
    let status = mesh.region("ams").status();
    assert!(status.ready && !status.bootstrap.under_way && status.bootstrap.records > 0);
    // It follows and is followed like every other one.
    assert_eq!(mesh.region("ams").set("young", 100), Outcome::Stored);
    assert_eq!(mesh.region("nyc").del("stays"), Outcome::Deleted(true));
    mesh.run_ms(5_000);
    for region in REGIONS {
        assert!(matches!(mesh.region(region).get("young"), Outcome::Read(Some(_))), "{region}");
        assert_eq!(mesh.region(region).get("stays"), Outcome::Read(None), "{region}");
    }
    mesh.sound();
}

/// Much to take over, which takes a while.
fn fill(mesh: &mut Mesh) {
    mesh.region("nyc").set_many((0..600).map(|n| format!("stays:{n}")), 3_000);
    mesh.run_ms(10_000);
}

/// Runs until the node of a region has taken over so many records.
fn run_to_records(mesh: &mut Mesh, region: &str, records: u64) {
    for _ in 0..2_000 {
        if mesh.region(region).status().bootstrap.records >= records {
            return;
        }
        mesh.run_ms(5);
    }
    mesh.sound();
    panic!("{region} got {:?}", mesh.region(region).status().bootstrap);
}

/// The disk of a region from before deletions that all have forgotten by now; in every second run its power is cut in the middle.
#[test]
fn an_old_disk_brings_nothing_back_that_was_forgotten() {
    for (seed, is_cut) in [(9, false), (10, true), (11, false), (12, true)] {
        let mut copy = None;
        let mut mesh = after_forgetting(seed, 40, |mesh| copy = Some(mesh.copy_disk(2)));
        if is_cut {
            fill(&mut mesh);
        }
        mesh.region("ams").lose_power();
        mesh.restore_disk(2, &copy.unwrap());
        mesh.region("ams").start();
        if is_cut {
            run_to_records(&mut mesh, "ams", 100);
            mesh.region("ams").lose_power();
            mesh.region("ams").start();
        }
        mesh.run_ms(20_000);
        mesh.sound();
        for region in REGIONS {
            for key in keys(40) {
                assert_eq!(mesh.region(region).get(&key), Outcome::Read(None), "{key} in {region}, seed {seed}");
            }
            assert!(matches!(mesh.region(region).get("stays"), Outcome::Read(Some(_))), "{region}, seed {seed}");
        }
        let reached = marks::take();
        assert!(reached.contains(Mark::BootstrapEnded) && reached.contains(Mark::DeadSwept), "seed {seed}");
        mesh.sound();
    }
}

#[test]
fn a_bootstrap_survives_the_end_of_its_source_and_of_its_follower() {
    for (seed, who_dies) in [(14, "sfo"), (15, "nyc"), (16, "ams")] {
        let mut mesh = after_forgetting(seed, 20, |_| {});
        fill(&mut mesh);
        mesh.region("ams").lose_power();
        mesh.region("ams").replace_disk();
        mesh.region("ams").start();
        run_to_records(&mut mesh, "ams", 100);
        let status = mesh.region("ams").status();
        assert!(!status.ready && status.bootstrap.under_way, "it is in the middle");
        mesh.region(who_dies).lose_power();
        mesh.run_ms(1_000);
        if who_dies == "ams" {
            mesh.region("ams").start();
        }
        mesh.run_ms(60_000);
        mesh.sound();
        assert!(mesh.region("ams").status().ready, "seed {seed}: {:?}", mesh.region("ams").status().bootstrap);
        for n in 0..600 {
            let found = mesh.region("ams").get(&format!("stays:{n}"));
            assert!(matches!(found, Outcome::Read(Some(_))), "stays:{n}, seed {seed}");
        }
        if who_dies != "ams" {
            mesh.region(who_dies).start();
        }
        mesh.run_ms(10_000);
        assert!(marks::take().contains(Mark::BootstrapEnded));
        mesh.sound();
    }
}

/// A scenario that holds with a fault planted shows nothing.
#[cfg(planted)]
#[test]
fn each_scenario_fails_with_the_fault_it_is_there_for() {
    use wal::planted::{Fault, set};

    for fault in [Fault::SweepSkipped, Fault::BootstrapCutShort, Fault::BootstrapUnsifted] {
        set(Some(fault));
        let failed = std::panic::catch_unwind(an_old_disk_brings_nothing_back_that_was_forgotten).is_err();
        set(None);
        assert!(failed, "{fault} is not noticed");
    }
    _ = marks::take();
    an_old_disk_brings_nothing_back_that_was_forgotten();
}
