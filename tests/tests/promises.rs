//! Scenarios for what holds while nothing is broken: discovery lists the living, regions lag within the bound.

use net::reactor::sim::Random;
use tests::sim::mesh::{Mesh, REGIONS};
use tests::sim::workload::{Key, Mix, Outcome};

#[test]
fn a_node_that_restarts_with_an_earlier_clock_is_listed() {
    // A machine whose clock was ahead and was set right while the node was down: its new run must not look like an old one.
    for step_ms in [100, 3_600_000] {
        let mut mesh = Mesh::new(1);
        mesh.links_are_whole();
        mesh.run_ms(10_000);
        mesh.region("ams").kill();
        mesh.set_clock(2, -step_ms);
        mesh.region("ams").start();
        mesh.run_ms(60_000);
        mesh.sound();
        assert!(mesh.listed() > 100);
    }
}

#[test]
fn the_dead_are_gone_and_come_back() {
    let mut mesh = Mesh::new(2);
    mesh.links_are_whole();
    mesh.run_ms(10_000);
    mesh.region("nyc").lose_power();
    mesh.run_ms(40_000);
    mesh.region("nyc").start();
    mesh.run_ms(50_000);
    mesh.sound();
}

#[test]
fn regions_lag_within_the_bound_while_connected() {
    let mut lag_ns = 0;
    for seed in 1..=5 {
        let mut mesh = Mesh::new(seed);
        mesh.run_ms(5_000);
        mesh.settle();
        let mut random = Random::new(seed);
        let mix = Mix {
            hot_percent: 95,
            own_percent: 10,
            read_percent: 50,
            ..Mix::draw_for(&mut || random.next(), 1_000, 30_000)
        };
        for region in 0..REGIONS.len() {
            mesh.add_mix(region, mix, 4);
        }
        mesh.run_ms(20_000);
        mesh.sound();
        let staleness = &mesh.checks().ledger.staleness;
        assert!(staleness.checked > 50, "only {} reads were held to something", staleness.checked);
        lag_ns = lag_ns.max(staleness.largest_ns);
    }
    // No region sees another's write before light could bring it.
    assert!(lag_ns > 82_500_000, "the largest lag was {lag_ns} ns");
}

#[test]
fn a_region_that_lags_is_found() {
    let mut mesh = Mesh::new(3);
    mesh.run_ms(5_000);
    // Whoever says that nothing is broken while a link is cut is found out.
    mesh.settle();
    // Writes count from when everything that is on its way now has arrived.
    mesh.run_ms(200);
    mesh.cut_one_way("sfo", "ams");
    assert_eq!(mesh.region("sfo").set("hot:0", 10), Outcome::Stored);
    mesh.run_ms(1_500);
    let read = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| mesh.region("ams").get("hot:0")));
    assert!(read.is_err());
    assert_eq!(mesh.violation().map(|violation| violation.checker), Some(tests::sim::check::staleness::STALENESS));
}

#[test]
fn private_keys_stay_registers_over_kills_and_power_losses() {
    let mut mesh = Mesh::new(4);
    for round in 0..12 {
        let key = format!("own:0:{}", round % 2);
        let stored = mesh.region("sfo").set_many(vec![key.clone(); 20], 300);
        assert!(stored.iter().all(|outcome| *outcome == Outcome::Stored));
        if round % 2 == 0 {
            mesh.region("sfo").kill();
        } else {
            mesh.region("sfo").lose_power();
        }
        mesh.region("sfo").start();
        assert!(matches!(mesh.region("sfo").get(&key), Outcome::Read(Some(_))));
    }
    mesh.converged();
    assert_eq!(Key::from("own:0:1").owner(), Some(0));
    let privates = &mesh.checks().ledger.privates;
    assert!(privates.checked > 240 && privates.undecided == 0, "{} calls", privates.checked);
}
