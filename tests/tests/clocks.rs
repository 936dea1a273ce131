//! Wall clocks that are wrong at a start. A node may find its clock an hour back (a dead battery, a restored virtual machine) or
//! ahead: what it showed or acknowledged before stays visible, and its versions go on rising.

use tests::sim::mesh::{Mesh, REGIONS};
use tests::sim::workload::Outcome;

const HOUR_MS: i64 = 3_600_000;

/// Writes, overwrites and deletes in every region, and waits until every region has everything.
fn mesh_with_data(seed: u64) -> Mesh {
    let mut mesh = Mesh::new(seed);
    mesh.run_ms(2_000);
    for name in REGIONS {
        for number in 0..20 {
            assert_eq!(mesh.region(name).set(&format!("{name}:{number}"), 50), Outcome::Stored);
        }
    }
    mesh.run_ms(1_000);
    for (name, other) in [("sfo", "nyc"), ("nyc", "ams"), ("ams", "sfo")] {
        for number in 0..5 {
            // Some by their origin, some by another region.
            assert_eq!(mesh.region(name).del(&format!("{name}:{number}")), Outcome::Deleted(true));
            let key = format!("{name}:{}", number + 5);
            assert_eq!(mesh.region(other).del(&key), Outcome::Deleted(true));
        }
    }
    mesh.converged();
    mesh
}

/// Every key, as [`mesh_with_data`] left it, read in one region.
fn everything_is_there(mesh: &mut Mesh, region: &str) {
    for name in REGIONS {
        for number in 0..20 {
            let read = mesh.region(region).get(&format!("{name}:{number}"));
            let there = matches!(read, Outcome::Read(Some(_)));
            assert!(there == (number >= 10), "{region} reads {read:?} for {name}:{number}");
            assert!(there || read == Outcome::Read(None), "{region} reads {read:?} for {name}:{number}");
        }
    }
}

/// More writes than the logic of one millisecond gives versions, in place of what is there.
fn writes_go_on(mesh: &mut Mesh, region: &str) {
    let keys = (0..9_000).map(|number| format!("{region}:{}", 10 + number % 10));
    let stored = mesh.region(region).set_many(keys, 10);
    assert!(stored.iter().all(|outcome| *outcome == Outcome::Stored), "{region} does not acknowledge");
}

/// A write in one region is shown in the others.
fn shown_everywhere(mesh: &mut Mesh, region: &str) {
    let key = format!("{region}:17");
    assert_eq!(mesh.region(region).set(&key, 30), Outcome::Stored);
    let written = mesh.region(region).get(&key);
    mesh.run_ms(600);
    for other in REGIONS {
        assert_eq!(mesh.region(other).get(&key), written, "in {other}");
    }
}

#[test]
fn a_node_that_starts_an_hour_back_shows_what_it_showed() {
    for seed in 1..=3 {
        let mut mesh = mesh_with_data(seed);
        mesh.region("ams").kill();
        mesh.set_clock(2, -HOUR_MS);
        mesh.region("ams").start();
        everything_is_there(&mut mesh, "ams");
        writes_go_on(&mut mesh, "ams");
        shown_everywhere(&mut mesh, "ams");
        mesh.converged();
    }
}
