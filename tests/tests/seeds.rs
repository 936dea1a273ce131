//! Seeds that found something, by what they found. They hold now. A change of what worlds draw makes others of them: the scenarios
//! that were written for the same faults stay.

use tests::sim::run::run_seed;

fn holds(seed: u64) {
    let report = run_seed(seed);
    assert!(report.violation.is_none(), "seed {seed}: {:?}\n{}", report.violation, report.story.join("\n"));
}

#[test]
fn seed_515_a_run_that_died_while_it_started_had_moved_the_clock() {
    holds(515);
}

#[test]
fn seed_907_a_record_that_was_due_but_still_held_was_appended_again() {
    holds(907);
}

#[test]
fn seed_384_a_transaction_that_only_reads_was_refused_on_a_full_disk() {
    holds(384);
}

#[test]
fn seed_531_a_log_without_its_beginning_was_read_from_behind_the_copies() {
    holds(531);
}
