//! Clocks.

use super::*;

#[test]
fn the_wall_clock_can_be_set_off() {
    let pair = Pair::new(10);
    let [a, b] = [&pair.loops[A], &pair.loops[B]];
    assert_eq!(a.wall_unix_ms(), b.wall_unix_ms());
    pair.world.set_wall_offset(pair.nodes[B], -3_600_000);
    assert_eq!(a.wall_unix_ms(), b.wall_unix_ms() + 3_600_000);
}

#[test]
fn a_drifting_wall_clock_does_not_jump() {
    let mut pair = Pair::new(50);
    pair.run_ms(1_000);
    let wrong = |pair: &Pair| {
        let [a, b] = [A, B].map(|side| i64::try_from(pair.loops[side].wall_unix_ms()).unwrap());
        b - a
    };
    pair.world.set_wall_drift(pair.nodes[B], 100_000);
    assert_eq!(wrong(&pair), 0, "it accumulates from now on");
    pair.run_ms(10_000);
    assert_eq!(wrong(&pair), 1_000);
    pair.world.set_wall_drift(pair.nodes[B], -50_000);
    assert_eq!(wrong(&pair), 1_000);
    pair.run_ms(10_000);
    assert_eq!(wrong(&pair), 500);
    pair.world.set_wall_drift(pair.nodes[B], 0);
    pair.world.set_wall_offset(pair.nodes[B], 7);
    pair.run_ms(10_000);
    assert_eq!(wrong(&pair), 507);
    assert_eq!(pair.loops[B].now(), pair.world.now(), "the monotonic clock is another one");
}

#[test]
fn a_loop_sleeps_in_its_nodes_own_time_and_does_not_spin() {
    for ppm in [-400_000, -333, 0, 77, 250_000] {
        let mut pair = Pair::new(51);
        pair.run_ms(50);
        pair.world.set_mono_drift(pair.nodes[A], ppm);
        let start = pair.loops[A].now();
        let begun = pair.world.now();
        assert_eq!(start, begun, "no jump");
        let turns = pair.world.stats().turns;
        for ms in 1..=100 {
            let deadline = start.plus_ms(10 * ms);
            let mut out = Vec::new();
            pair.loops[A].poll(Wait::Until(deadline), &mut out).unwrap();
            assert!(pair.loops[A].slept());
            assert_eq!(pair.world.step(), Some(pair.loops[A].id()));
            let now = pair.loops[A].now();
            assert!(now >= deadline && now.since(deadline) <= 2, "{now:?} {deadline:?}");
        }
        assert_eq!(pair.world.stats().turns, turns + 100, "one turn per deadline");
        let true_ns = i128::from(pair.world.now().since(begun));
        assert!((true_ns * i128::from(1_000_000 + ppm) / 1_000_000 - 1_000_000_000).abs() <= 2, "{ppm} {true_ns}");
    }
}

#[test]
fn a_new_drift_moves_deadlines_that_are_waited_for() {
    let mut pair = Pair::new(52);
    pair.run_ms(50);
    let begun = pair.world.now();
    pair.loops[A].poll(Wait::Until(begun.plus_ms(1_000)), &mut Vec::new()).unwrap();
    pair.world.set_mono_drift(pair.nodes[A], -500_000);
    assert_eq!(pair.world.step(), Some(pair.loops[A].id()));
    assert_eq!(pair.world.now().since(begun), 2_000 * MS);
    assert_eq!(pair.loops[A].now(), begun.plus_ms(1_000));
}

#[test]
fn the_monotonic_clock_starts_anew_with_the_machine_and_not_with_the_process() {
    let mut pair = Pair::new(53);
    pair.run_ms(60_000);
    let node = pair.nodes[A];
    pair.world.kill(node);
    pair.loops[A] = SimIo::new(&pair.world, node);
    assert_eq!(pair.loops[A].now(), pair.world.now());
    pair.world.crash(node);
    pair.loops[A] = SimIo::new(&pair.world, node);
    let booted = pair.world.node_now(node);
    assert!(booted.0 > 0 && booted < Mono(5_000 * MS + 1), "{booted:?}");
    assert_eq!(pair.loops[A].now(), booted);
    assert_eq!(pair.world.node_now(pair.nodes[B]), pair.world.now());
    pair.run_ms(1_000);
    assert_eq!(pair.loops[A].now(), booted.plus_ms(1_000));
}
