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
#[test]
fn a_region_whose_clock_comes_right_again_is_as_before() {
    let mut mesh = mesh_with_data(4);
    mesh.region("ams").kill();
    mesh.set_clock(2, -HOUR_MS);
    // Nobody counts how long it is down: its time goes on where it ended, behind the others'.
    mesh.run_ms(10_000);
    mesh.region("ams").start();
    everything_is_there(&mut mesh, "ams");
    mesh.run_ms(2_000);
    assert_eq!(mesh.region("sfo").set("sfo:11", 30), Outcome::Stored);
    assert_eq!(mesh.region("ams").set("ams:11", 30), Outcome::Stored);
    let written = mesh.region("sfo").get("sfo:11");
    mesh.run_ms(3_000);
    assert_ne!(mesh.region("ams").get("sfo:11"), written, "ten seconds ahead of what ams takes for the present");
    mesh.step_clock(2, 0);
    // An idle core looks at its clock once a second.
    mesh.run_ms(1_100);
    assert_eq!(mesh.region("ams").get("sfo:11"), written, "it is due");
    shown_everywhere(&mut mesh, "sfo");
    shown_everywhere(&mut mesh, "ams");
    writes_go_on(&mut mesh, "ams");
    mesh.converged();
}

#[test]
fn a_mesh_that_starts_an_hour_back_goes_on() {
    let mut mesh = mesh_with_data(5);
    for (region, name) in REGIONS.iter().enumerate() {
        mesh.region(name).lose_power();
        mesh.set_clock(region, -HOUR_MS);
    }
    for name in REGIONS {
        mesh.region(name).start();
    }
    for name in REGIONS {
        everything_is_there(&mut mesh, name);
        writes_go_on(&mut mesh, name);
    }
    mesh.run_ms(2_000);
    for name in REGIONS {
        shown_everywhere(&mut mesh, name);
    }
    mesh.converged();
    // Once more, and then every clock is set right.
    for name in REGIONS {
        mesh.region(name).kill();
        mesh.region(name).start();
    }
    mesh.run_ms(5_000);
    for region in 0..REGIONS.len() {
        mesh.step_clock(region, 0);
    }
    mesh.run_ms(2_000);
    for name in REGIONS {
        shown_everywhere(&mut mesh, name);
    }
    mesh.converged();
}

#[test]
fn expiry_goes_by_the_time_that_went_on() {
    let mut mesh = mesh_with_data(6);
    assert_eq!(mesh.region("ams").set_px("short", 10, 1_000), Outcome::Stored);
    assert_eq!(mesh.region("sfo").set_px("long", 10, 60_000), Outcome::Stored);
    mesh.run_ms(2_000);
    // The clock's ceiling passes the expiry with what is written after it.
    assert_eq!(mesh.region("ams").get("short"), Outcome::Read(None));
    assert_eq!(mesh.region("ams").set("ams:11", 10), Outcome::Stored);
    mesh.region("ams").kill();
    mesh.set_clock(2, -HOUR_MS);
    mesh.region("ams").start();
    assert_eq!(mesh.region("ams").get("short"), Outcome::Read(None), "what has expired stays so");
    assert!(matches!(mesh.region("ams").get("long"), Outcome::Read(Some(_))));
    assert_eq!(mesh.region("ams").set_px("new", 10, 5_000), Outcome::Stored);
    mesh.run_ms(4_000);
    for name in ["ams", "nyc"] {
        assert!(matches!(mesh.region(name).get("new"), Outcome::Read(Some(_))), "{name}: not yet");
    }
    mesh.run_ms(4_000);
    for name in REGIONS {
        assert_eq!(mesh.region(name).get("new"), Outcome::Read(None), "{name}: by now");
    }
    mesh.run_ms(60_000);
    for name in REGIONS {
        assert_eq!(mesh.region(name).get("long"), Outcome::Read(None), "{name}: by now");
    }
    mesh.converged();
}

/// Clocks ahead at a start: the node's own records lie in the others' future, and nothing in its log says that they should not.
fn starts_ahead(seed: u64, ahead_ms: i64) -> Mesh {
    let mut mesh = mesh_with_data(seed);
    mesh.region("ams").kill();
    mesh.set_clock(2, ahead_ms);
    mesh.region("ams").start();
    everything_is_there(&mut mesh, "ams");
    writes_go_on(&mut mesh, "ams");
    assert_eq!(mesh.region("ams").set("future", 30), Outcome::Stored);
    mesh.run_ms(5_000);
    everything_is_there(&mut mesh, "sfo");
    assert_eq!(
        mesh.region("sfo").get("future"),
        Outcome::Read(None),
        "an hour ahead of what sfo takes for the present"
    );
    // The clock is right again. The node cannot know whether it is now or was then: it stays where it was.
    mesh.region("ams").kill();
    mesh.set_clock(2, 0);
    mesh.region("ams").start();
    everything_is_there(&mut mesh, "ams");
    writes_go_on(&mut mesh, "ams");
    assert!(matches!(mesh.region("ams").get("future"), Outcome::Read(Some(_))));
    // Those who hold its records back go on doing so.
    mesh.region("nyc").lose_power();
    mesh.region("nyc").start();
    everything_is_there(&mut mesh, "nyc");
    assert_eq!(mesh.region("nyc").get("future"), Outcome::Read(None));
    // What others write reaches it at once.
    shown_everywhere(&mut mesh, "sfo");
    mesh.run_ms(2_000);
    assert_eq!(mesh.lagging(), None, "what is held back is claimed all the same");
    mesh.sound();
    mesh
}

#[test]
fn what_a_node_wrote_an_hour_ahead_is_shown_when_it_is_due() {
    let mut mesh = starts_ahead(7, HOUR_MS);
    mesh.run_ms(HOUR_MS.unsigned_abs() - 60_000);
    assert_eq!(mesh.region("sfo").get("future"), Outcome::Read(None), "not yet");
    mesh.run_ms(120_000);
    for name in REGIONS {
        assert!(matches!(mesh.region(name).get("future"), Outcome::Read(Some(_))), "{name}: due");
    }
    mesh.converged();
}

#[test]
fn a_node_that_is_stopped_for_as_long_as_it_was_ahead_is_as_before() {
    let mut mesh = starts_ahead(8, 60_000);
    mesh.region("ams").kill();
    mesh.run_ms(90_000);
    mesh.region("ams").start();
    mesh.run_ms(2_000);
    for name in REGIONS {
        shown_everywhere(&mut mesh, name);
    }
    mesh.converged();
}

#[test]
fn ten_years_ahead_at_a_start_lose_nothing() {
    let mut mesh = starts_ahead(9, 315_000_000_000);
    mesh.region("ams").kill();
    mesh.region("ams").start();
    everything_is_there(&mut mesh, "ams");
    writes_go_on(&mut mesh, "ams");
    mesh.sound();
}
