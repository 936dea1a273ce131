//! Transactions over several cores where something is in their way: no segment, a full disk, a failed sync, a loss of power.
//! `tests::sim::check::teams` looks at every answer meanwhile.

use tests::sim::mesh::Mesh;
use tests::sim::workload::{Command, Key, Outcome, TeamWay};
use wal::marks::{self, Mark, MarkSet};

/// Enough keys that some lie on each core.
const KEYS: u64 = 4;

fn keys(team: u64) -> Vec<Key> {
    (0..KEYS).map(|number| Key::of_team(0, team, number)).collect()
}

fn write(team: u64, filler: usize) -> Command {
    let way = if filler.is_multiple_of(2) { TeamWay::Set } else { TeamWay::Copy };
    Command::SetTeam { keys: keys(team), filler, way }
}

fn read(team: u64) -> Command {
    Command::GetTeam { keys: keys(team) }
}

/// Whether all keys hold one value.
fn is_one_value(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::ReadMany(values) if values[0].is_some() && values.iter().all(|value| *value == values[0]))
}

#[test]
fn a_transaction_that_waits_for_a_segment_keeps_its_cores_until_it_is_written() {
    let mut reached = MarkSet::default();
    for seed in 1..40 {
        let mut mesh = Mesh::new(seed);
        // About one segment each.
        let outcomes = mesh
            .region("sfo")
            .ask((0..40).flat_map(|at| [write(at % 3, 12_000 + usize::try_from(at % 2).unwrap()), read(at % 3)]));
        for pair in outcomes.chunks(2) {
            assert!(pair[0] == Outcome::Stored && is_one_value(&pair[1]), "{pair:?}");
        }
        mesh.converged();
        mesh.sound();
        reached = reached.union(marks::take());
        if reached.contains(Mark::HoldStalled) {
            return;
        }
    }
    panic!("no part of a transaction had to wait, only {reached:?}");
}

#[test]
fn on_a_full_disk_a_transaction_is_refused_as_a_whole_and_reads_go_on() {
    let mut mesh = Mesh::new(7);
    assert_eq!(mesh.region("sfo").ask([write(0, 100)]), [Outcome::Stored]);
    mesh.region("sfo").set_disk_full(true);
    let refusal = "EXECABORT Transaction discarded because: the disk is full";
    let mut refused = 0;
    for _ in 0..40 {
        let outcomes = mesh.region("sfo").ask([write(0, 9_000), read(0)]);
        refused += usize::from(matches!(&outcomes[0], Outcome::Refused(text) if text.starts_with(refusal)));
        assert!(is_one_value(&outcomes[1]), "{outcomes:?}");
        mesh.sound();
    }
    assert!(refused > 10, "{refused} of 40 were refused");
    mesh.region("sfo").set_disk_full(false);
    mesh.run_ms(3_000);
    assert_eq!(mesh.region("sfo").ask([write(0, 9_000)]), [Outcome::Stored]);
    mesh.converged();
    mesh.sound();
}

#[test]
fn a_node_whose_log_fails_or_that_loses_power_among_transactions_serves_them_again() {
    for seed in 1..20u64 {
        let mut mesh = Mesh::with_cores(seed, [3, 2, 2]);
        mesh.region("sfo")
            .post((0..60).flat_map(|at| [write(at % 2, 300 + usize::try_from(at / 2 % 2).unwrap()), read(at % 2)]));
        mesh.run_ms(1 + seed);
        if seed % 2 == 0 {
            mesh.region("sfo").fail_next_sync();
            mesh.run_ms(500);
        }
        mesh.region("sfo").lose_power();
        mesh.region("sfo").start();
        mesh.run_ms(1_000);
        mesh.sound();
        // What is there now may be torn between cores, and is no more after a write.
        let outcomes = mesh.region("sfo").ask([read(0), read(1), write(0, 50), write(1, 50), read(0), read(1)]);
        assert!(is_one_value(&outcomes[4]) && is_one_value(&outcomes[5]), "{outcomes:?}");
        mesh.converged();
        mesh.sound();
    }
}
