//! A harness that never fails proves nothing: each planted fault must be caught, and the same runs without it must hold.
//!
//! `cargo test -p godwit-tests --features planted --test planted -- --nocapture` says by which seed and checker.
#![cfg(feature = "planted")]
#![allow(clippy::print_stdout)]

use tests::sim::run::{Report, run_seed};
use wal::planted::{Fault, set};

/// A fault that needs more seeds than this is not found in a normal run.
const SEEDS_MAX: u64 = 200;

fn run_with(fault: Option<Fault>, seed: u64) -> Report {
    set(fault);
    let report = run_seed(seed);
    set(None);
    report
}

/// Tries seeds from `first` on; where an earlier one would need many runs, `first` is one that was found to notice.
fn is_caught(fault: Fault, first: u64) {
    for seed in first..first + SEEDS_MAX {
        let report = run_with(Some(fault), seed);
        let Some(violation) = report.violation else { continue };
        println!("{fault:?} is caught by seed {seed}: {violation}");
        let sound = run_with(None, seed);
        assert!(sound.violation.is_none(), "seed {seed} fails without {fault:?}: {:?}", sound.violation);
        return;
    }
    panic!("{SEEDS_MAX} seeds did not notice {fault:?}");
}

#[test]
fn a_stale_frame_after_a_cut_is_caught() {
    is_caught(Fault::StaleFrameAfterCut, 19);
}

#[test]
fn a_claim_before_the_slowest_core_is_caught() {
    is_caught(Fault::ClaimBeforeSlowestCore, 1);
}

#[test]
fn having_it_before_the_sync_is_caught() {
    is_caught(Fault::HaveItBeforeSync, 1);
}

#[test]
fn giving_a_segment_up_before_its_replacement_is_durable_is_caught() {
    is_caught(Fault::RemoveBeforeReplaced, 153);
}

#[test]
fn giving_the_newest_watermark_up_is_caught() {
    is_caught(Fault::RepeatNothing, 12);
}

#[test]
fn using_a_file_again_under_its_old_name_is_caught() {
    is_caught(Fault::RecycleBeforeRename, 4);
}

#[test]
fn claiming_before_what_superseded_a_removed_segment_is_there_is_caught() {
    is_caught(Fault::ClaimBeforeReplaced, 53);
}
