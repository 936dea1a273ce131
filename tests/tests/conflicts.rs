//! Regions that write one key at the same time: the later version wins everywhere, and the node that wrote it keeps what lost. In the
//! simulator, under the eyes of all checkers.

use engine::shard::LostWrite;
use tests::sim::mesh::{Mesh, REGIONS};
use tests::sim::workload::Outcome;

fn counted(mesh: &mut Mesh) -> usize {
    REGIONS.iter().map(|name| mesh.region(name).lost_writes().len()).sum()
}

fn value(mesh: &mut Mesh, region: &str, key: &str) -> Vec<u8> {
    match mesh.region(region).get(key) {
        Outcome::Read(Some(value)) => value,
        outcome => panic!("{region} reads {outcome:?} for {key}"),
    }
}

#[test]
fn what_lost_against_a_concurrent_write_is_kept_where_that_was_written() {
    for seed in 1..=5 {
        let mut mesh = Mesh::new(seed);
        mesh.run_ms(2_000);
        // One after the other: each knows the one before.
        for name in REGIONS {
            assert_eq!(mesh.region(name).set("turns", 50), Outcome::Stored);
            mesh.run_ms(500);
        }
        assert_eq!(counted(&mut mesh), 0);
        // Within the time that it takes to tell each other.
        assert_eq!(mesh.region("sfo").set("both", 50), Outcome::Stored);
        let lost = value(&mut mesh, "sfo", "both");
        assert_eq!(mesh.region("nyc").set("both", 50), Outcome::Stored);
        let won = value(&mut mesh, "nyc", "both");
        mesh.converged();
        assert_eq!((value(&mut mesh, "sfo", "both"), value(&mut mesh, "ams", "both")), (won.clone(), won));
        let kept: Vec<LostWrite> = mesh.region("nyc").lost_writes();
        assert_eq!(kept.len(), 1);
        assert_eq!((&kept[0].key[..], kept[0].value.as_deref()), (&b"both"[..], Some(&lost[..])));
        assert_eq!(kept[0].origin.0, mesh.region("sfo").node_id().0);
        assert_eq!(counted(&mut mesh), 1, "nobody else counts it");
        // What is sent again is known by now.
        mesh.region("nyc").cut_off();
        mesh.run_ms(6_000);
        mesh.heal();
        mesh.region("sfo").kill();
        mesh.region("sfo").start();
        mesh.converged();
        assert_eq!(counted(&mut mesh), 1);
    }
}

#[test]
fn an_outage_makes_conflicts_of_what_both_sides_wrote() {
    let mut mesh = Mesh::new(7);
    mesh.run_ms(2_000);
    mesh.region("ams").cut_off();
    mesh.run_ms(4_000);
    let keys = || (0..30).map(|number| format!("k:{number}"));
    assert!(mesh.region("sfo").set_many(keys(), 50).iter().all(|outcome| *outcome == Outcome::Stored));
    mesh.run_ms(1_000);
    assert!(mesh.region("ams").set_many(keys(), 50).iter().all(|outcome| *outcome == Outcome::Stored));
    mesh.heal();
    mesh.converged();
    let kept = mesh.region("ams").lost_writes();
    assert_eq!((kept.len(), counted(&mut mesh)), (30, 30));
    let origin = mesh.region("sfo").node_id().0;
    assert!(kept.iter().all(|lost| lost.origin.0 == origin && lost.winner.ms() > lost.version.ms()));
}
