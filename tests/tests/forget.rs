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

/// Who lacks something of what others may have forgotten is refused, and says so.
#[test]
fn an_empty_disk_cannot_join_those_who_have_forgotten_something() {
    let mut mesh = Mesh::collecting(8, [1, 1, 1]);
    mesh.run_ms(3_000);
    mesh.region("sfo").set_many(keys(5), 100);
    mesh.run_ms(1_000);
    delete_all(&mut mesh, "sfo", 5);
    assert_eq!(mesh.region("sfo").set("stays", 100), Outcome::Stored);
    mesh.run_ms(10_000);
    assert_eq!(entries(&mut mesh), [1, 1, 1]);
    mesh.region("ams").lose_power();
    mesh.region("ams").replace_disk();
    mesh.region("ams").start();
    _ = marks::take();
    mesh.run_ms(10_000);
    assert!(marks::take().contains(Mark::FollowerBelowForgotten));
    assert_eq!(mesh.region("ams").get("stays"), Outcome::Read(None));
    mesh.sound();
}
