//! Clocks that stand apart while their nodes run: each measures how far, says so, and the one that is ahead of the others' holds
//! itself back. Nothing acknowledged is lost meanwhile. In the simulator, under the eyes of all checkers.

use engine::clock::skew::AHEAD_OF_MEDIAN_MS_MAX;
use engine::control::status::PeerStatus;
use tests::sim::mesh::{Mesh, REGIONS};
use tests::sim::workload::Outcome;

/// Half of the longest round trip between regions, and a few milliseconds of the loops: nobody knows the others' clocks better.
const UNCERTAIN_MS: i64 = 90;

/// Three regions whose wall clocks stand this far from the truth, in the order of [`REGIONS`].
fn started(seed: u64, offsets_ms: [i64; 3]) -> Mesh {
    let mut mesh = Mesh::down(seed, [2, 2, 2]);
    for (region, offset_ms) in offsets_ms.into_iter().enumerate() {
        mesh.set_clock(region, offset_ms);
    }
    mesh.start_all();
    mesh.run_ms(2_000);
    mesh
}

/// What `region` shows of `other`.
fn peer(mesh: &mut Mesh, region: &str, other: &str) -> PeerStatus {
    let peers = mesh.region(region).status().peers;
    peers.into_iter().find(|peer| peer.region == other).expect("they have met")
}

fn held_back_ms(mesh: &mut Mesh, region: &str) -> u64 {
    mesh.region(region).status().clock_held_back_ms
}

/// Far more writes than the logic of a few milliseconds gives versions.
fn writes_go_on(mesh: &mut Mesh, region: &str) {
    let keys = (0..9_000).map(|number| format!("{region}:{}", number % 500));
    let stored = mesh.region(region).set_many(keys, 10);
    assert!(stored.iter().all(|outcome| *outcome == Outcome::Stored), "{region} does not acknowledge");
}

/// Every key that [`writes_go_on`] wrote is there in every region.
fn nothing_is_lost(mesh: &mut Mesh) {
    for name in REGIONS {
        for number in 0..500 {
            let read = mesh.region(name).get(&format!("sfo:{number}"));
            assert!(matches!(read, Outcome::Read(Some(_))), "{name} reads {read:?} for sfo:{number}");
        }
    }
}

/// The bound that a node ahead keeps in the end, against a median that stands right.
fn is_within_bound(ahead_ms: i64) -> bool {
    let bound_ms = AHEAD_OF_MEDIAN_MS_MAX.cast_signed();
    (bound_ms - 5..=bound_ms + UNCERTAIN_MS).contains(&ahead_ms)
}

/// But for rounding to milliseconds.
fn is_about(ahead_ms: i64, expected_ms: i64) -> bool {
    (ahead_ms - expected_ms).abs() <= 2
}

#[test]
fn a_region_two_seconds_ahead_comes_back_while_another_is_two_seconds_behind() {
    for seed in 1..=3 {
        let mut mesh = started(seed, [2_000, 0, -2_000]);
        writes_go_on(&mut mesh, "sfo");
        // The same keys in every region: the later version wins, whoever's it is.
        for name in REGIONS {
            assert_eq!(mesh.region(name).set("sfo:0", 40), Outcome::Stored);
            assert_eq!(mesh.region(name).set_px("lease", 10, 1_000), Outcome::Stored);
        }
        for (one, other, apart_ms) in [("sfo", "nyc", -2_000), ("nyc", "ams", -2_000), ("ams", "sfo", 4_000)] {
            let peer = peer(&mut mesh, one, other);
            let offset_ms = peer.clock_offset_ms.expect("they have heartbeats");
            assert!((offset_ms - apart_ms).abs() <= UNCERTAIN_MS, "{one} takes {other} for {offset_ms} ms ahead");
            assert!(peer.clock_alarm);
        }
        // It goes at half speed: twice what it has to lose.
        mesh.run_ms(4_000);
        writes_go_on(&mut mesh, "sfo");
        let ahead_ms = mesh.region("sfo").ahead_ms();
        assert!(is_within_bound(ahead_ms), "sfo is {ahead_ms} ms ahead");
        for name in ["nyc", "ams"] {
            assert_eq!(held_back_ms(&mut mesh, name), 0, "{name} is not ahead of the median");
        }
        // And so do its versions: what it writes now is due elsewhere at once.
        assert_eq!(mesh.region("sfo").set("sfo:1", 33), Outcome::Stored);
        let written = mesh.region("sfo").get("sfo:1");
        mesh.run_ms(300);
        assert_eq!(mesh.region("nyc").get("sfo:1"), written);
        mesh.converged();
        nothing_is_lost(&mut mesh);
        for name in REGIONS {
            assert_eq!(mesh.region(name).get("lease"), Outcome::Read(None), "{name}");
        }
    }
}

#[test]
fn what_a_node_that_held_itself_back_wrote_binds_its_next_run_no_further() {
    let mut mesh = started(4, [60_000, 0, 0]);
    // A minute takes two: until then its records wait elsewhere, and nothing is lost.
    writes_go_on(&mut mesh, "sfo");
    mesh.run_ms(121_000);
    let ahead_ms = mesh.region("sfo").ahead_ms();
    assert!(is_within_bound(ahead_ms), "sfo is {ahead_ms} ms ahead");
    mesh.converged();
    nothing_is_lost(&mut mesh);
    mesh.region("sfo").kill();
    mesh.set_clock(0, 0);
    mesh.region("sfo").start();
    mesh.run_ms(1_000);
    let ahead_ms = mesh.region("sfo").ahead_ms();
    assert!((-2..200).contains(&ahead_ms), "its wall clock is right now, and it is {ahead_ms} ms ahead");
    assert!(!mesh.region("sfo").status().clock_stepped);
    writes_go_on(&mut mesh, "sfo");
    mesh.converged();
}

#[test]
fn of_two_clocks_nobody_knows_which_is_wrong() {
    let mut mesh = Mesh::down(5, [2, 2, 2]);
    mesh.set_clock(0, 2_000);
    for name in ["sfo", "nyc"] {
        mesh.region(name).start();
    }
    mesh.run_ms(4_000);
    assert!(peer(&mut mesh, "sfo", "nyc").clock_alarm && peer(&mut mesh, "nyc", "sfo").clock_alarm);
    assert_eq!(held_back_ms(&mut mesh, "sfo"), 0);
    assert!(is_about(mesh.region("sfo").ahead_ms(), 2_000));
    writes_go_on(&mut mesh, "sfo");
    // A third one decides, and the node stays where it is when it loses sight of the others.
    mesh.region("ams").start();
    mesh.run_ms(8_000);
    let ahead_ms = mesh.region("sfo").ahead_ms();
    assert!(is_within_bound(ahead_ms), "sfo is {ahead_ms} ms ahead");
    mesh.region("sfo").cut_off();
    mesh.run_ms(20_000);
    writes_go_on(&mut mesh, "sfo");
    assert_eq!(peer(&mut mesh, "sfo", "nyc").clock_offset_ms, None, "not known any more");
    assert!(!peer(&mut mesh, "sfo", "nyc").clock_alarm);
    let ahead_ms = mesh.region("sfo").ahead_ms();
    assert!(is_within_bound(ahead_ms), "sfo is {ahead_ms} ms ahead");
    mesh.heal();
    mesh.converged();
    nothing_is_lost(&mut mesh);
}

#[test]
fn a_clock_that_is_set_right_ends_the_alarm_and_what_is_held_back() {
    let mut mesh = started(6, [0, 480, 0]);
    mesh.run_ms(1_000);
    assert!(peer(&mut mesh, "sfo", "nyc").clock_alarm && peer(&mut mesh, "nyc", "ams").clock_alarm);
    assert!(!peer(&mut mesh, "sfo", "ams").clock_alarm);
    assert!((100..=230).contains(&held_back_ms(&mut mesh, "nyc")), "{}", held_back_ms(&mut mesh, "nyc"));
    mesh.step_clock(1, 0);
    // A clock follows so little by little, 1 ms in 64 or more.
    mesh.run_ms(480 * 128 + 5_000);
    for (one, other) in [("sfo", "nyc"), ("nyc", "ams"), ("nyc", "sfo")] {
        let peer = peer(&mut mesh, one, other);
        assert!(!peer.clock_alarm && peer.clock_offset_ms.is_some_and(|ms| ms.abs() <= 5), "{peer:?}");
    }
    assert_eq!(held_back_ms(&mut mesh, "nyc"), 0);
    assert!(is_about(mesh.region("nyc").ahead_ms(), 0));
    writes_go_on(&mut mesh, "nyc");
    mesh.converged();
}
