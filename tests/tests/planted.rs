//! A harness that never fails proves nothing: each planted fault must be caught, and the same runs without it must hold.
//!
//! `RUSTFLAGS="--cfg planted" CARGO_TARGET_DIR=target/planted cargo test --release -p godwit-tests --test planted -- --nocapture`
//! says by which checker. With `FIRST_SEEDS=all`, or names of faults with commas between them, it also looks for the seeds of the
//! table from 1 on: for a simulator that draws its faults differently. A single run by hand: `… --bin sim -- --planted NAME --seed N`.
#![cfg(planted)]
#![allow(clippy::print_stdout)]

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use tests::sim::check::Violation;
use tests::sim::mesh::Mesh;
use tests::sim::run::run_seed;
use tests::sim::workload::Command;
use wal::planted::{Fault, set};

/// A fault that needs more seeds than this is not found in a normal run.
const SEEDS_MAX: u64 = 200;

/// Seeds that must hold when nothing is planted.
const SOUND_SEEDS: u64 = 50;

/// What shows a fault.
#[derive(Clone, Copy, Debug)]
enum Run {
    /// The random run of this seed.
    Seed(u64),
    /// Writes to the same keys by two nodes that can give equal versions: among random nodes one pair in 2048 can.
    Ties,
    /// A node that followed a fast one and promised what it had seen restarts with its clock set back: in random runs all clocks stand
    /// close together.
    SetBack,
}

use Run::{Seed, SetBack, Ties};

/// Each fault with a run that notices it: the first seed from 1 on, of which the test prints the present one if that has changed.
const CAUGHT: &[(Fault, Run)] = &[
    (Fault::StaleFrameAfterCut, Seed(19)),
    (Fault::AckBeforeSync, Seed(1)),
    (Fault::RetryFailedSync, Seed(13)),
    (Fault::FullDiskAcknowledged, Seed(22)),
    (Fault::AnswerBeforeOtherCore, Seed(1)),
    (Fault::ReadUndurable, Seed(1)),
    (Fault::UseBeforeNamed, Seed(43)),
    (Fault::RecycleBeforeRename, Seed(1)),
    (Fault::RepeatNothing, Seed(8)),
    (Fault::StaleCheckpointBelieved, Seed(1)),
    (Fault::CheckpointUnverified, Seed(604)),
    (Fault::CheckpointForgetsHeld, Seed(184)),
    (Fault::CheckpointForgetsCeiling, Seed(56)),
    (Fault::TombstoneDroppedInCompaction, Seed(1)),
    (Fault::RemoveBeforeReplaced, Seed(40)),
    (Fault::WinnersNotCopied, Seed(35)),
    (Fault::CopiesNotSent, Seed(1)),
    (Fault::PassClaimsItsEnd, Seed(13)),
    (Fault::TokenNotAwaited, Seed(28)),
    (Fault::LaterArrivalWinsTie, Ties),
    (Fault::EqualVersionIsSame, Ties),
    (Fault::ExpiredOnArrivalDropped, Seed(3)),
    (Fault::TombstoneOfNothingDropped, Seed(10)),
    (Fault::TombstonesForgotten, Seed(1)),
    (Fault::BuriedDugUp, Seed(141)),
    (Fault::ForgottenBeforeOthers, Seed(5)),
    (Fault::CoveredApplied, Seed(5)),
    (Fault::FarFutureBelieved, Seed(26)),
    (Fault::SteppedClockFollowed, Seed(2)),
    (Fault::HeldBackClockSteps, Seed(20)),
    (Fault::IncarnationCounted, Seed(1)),
    (Fault::ClockBelowCeiling, SetBack),
    (Fault::ShipBeforeDurable, Seed(1)),
    (Fault::PromiseBeforeSync, Seed(1)),
    (Fault::ClaimOfBusiestCore, Seed(1)),
    (Fault::FollowedShipped, Seed(1)),
    (Fault::NoOriginFilter, Seed(2)),
    (Fault::ClaimBeforeSlowestCore, Seed(1)),
    (Fault::HaveItBeforeSync, Seed(1)),
    (Fault::ResidencyIgnored, Seed(3)),
    (Fault::PassWithoutCover, Seed(3)),
    (Fault::JudgeIgnoresCoverage, Seed(1)),
    (Fault::BacklogForgotten, Seed(1)),
    (Fault::WatchIgnored, Seed(54)),
    (Fault::CoresNotHeld, Seed(31)),
    (Fault::BatchInSeveralFrames, Seed(27)),
    (Fault::LoopbackForwarded, Seed(1)),
    (Fault::OneLostRefreshExpires, Seed(2)),
];

/// What a scenario of `rare.rs` or `forget.rs` notices, and its name there: `each_scenario_fails_with_the_fault_it_is_there_for` holds it to that.
const BY_SCENARIO: &[(Fault, &str)] = &[
    (Fault::CutAtFirstBadFrame, "damage_to_what_was_durable_is_refused_until_it_is_repaired"),
    (Fault::EntriesNeverExpire, "a_region_that_stays_away_is_gone_from_the_lists"),
    (Fault::WideningKeepsClaims, "a_region_that_is_let_in_gets_what_was_written_before"),
    (
        Fault::JudgeIgnoresFloor,
        "what_was_deleted_and_forgotten_is_not_fetched_from_a_node_that_has_it_again, of repair.rs",
    ),
    (Fault::SweepSkipped, "an_old_disk_brings_nothing_back_that_was_forgotten"),
    (Fault::BootstrapCutShort, "an_old_disk_brings_nothing_back_that_was_forgotten"),
    (Fault::BootstrapUnsifted, "an_old_disk_brings_nothing_back_that_was_forgotten"),
];

/// What no checker can see yet, and why not.
const NOT_YET_CAUGHT: &[(Fault, &str)] = &[
    (Fault::WatermarkRestsOnNothing, "needs a disk that loses what was durable"),
    (Fault::RemoteEntriesForwarded, "its receiver refuses what is forwarded; needs a checker of what is sent"),
    (Fault::AnyAddressAccepted, "needs a peer that registers addresses it must not, and a checker of lists"),
    (
        Fault::PassOfOneOrigin,
        "among three regions the source's own stream brings what it originated before the pass ends; needs a fourth",
    ),
    (
        Fault::ClaimBeforeReplaced,
        "claims wait for compaction's copies where most logs lose their beginning; needs a scenario without any",
    ),
];

fn play(fault: Option<Fault>, run: Run) -> Option<Violation> {
    set(fault);
    let violation = match run {
        Seed(seed) => run_seed(seed).violation,
        Ties => ties(),
        SetBack => set_back(),
    };
    set(None);
    violation
}

fn ties() -> Option<Violation> {
    let mut mesh = Mesh::with_node_ids(3, [0x0000_0001, 0x0000_0800, 0x0000_0bad]);
    mesh.run_ms(2_000);
    for number in 0..200 {
        for region in ["sfo", "nyc"] {
            let key = format!("tied:{number}").into_bytes();
            mesh.region(region).post([Command::Set { key: key.into(), filler: 20, px: None }]);
        }
        mesh.run_ms(7);
    }
    // It says what was violated by a panic; here it is asked for.
    let _ = catch_unwind(AssertUnwindSafe(|| mesh.converged()));
    mesh.violation().cloned()
}

fn set_back() -> Option<Violation> {
    let mut mesh = Mesh::down(3, [2, 2, 2]);
    mesh.set_clock(1, 400);
    mesh.start_all();
    mesh.run_ms(2_000);
    mesh.region("nyc").set("fast", 100);
    mesh.run_ms(100);
    mesh.region("sfo").kill();
    mesh.set_clock(0, -400);
    mesh.region("sfo").start();
    mesh.run_ms(1_000);
    mesh.violation().cloned()
}

/// Runs `work` on each item, on all CPUs; a fault is planted on one thread.
fn on_all_cpus<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(items.len());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let result = work(item);
                    done.lock().expect("no thread panics with it").push(result);
                }
            });
        }
    });
    done.into_inner().expect("no thread panics with it")
}

#[test]
fn every_fault_has_one_row() {
    let others = BY_SCENARIO.iter().chain(NOT_YET_CAUGHT).map(|(fault, _)| *fault);
    let listed: Vec<Fault> = CAUGHT.iter().map(|(fault, _)| *fault).chain(others).collect();
    let distinct: BTreeSet<Fault> = listed.iter().copied().collect();
    assert_eq!(distinct, Fault::ALL.iter().copied().collect(), "the tables name every fault");
    assert_eq!(listed.len(), distinct.len(), "and none twice");
}

#[test]
fn each_planted_fault_is_caught_and_the_same_run_without_it_holds() {
    let failures = on_all_cpus(CAUGHT, |(fault, run)| {
        let notices = |run: Run| Some((run, play(Some(*fault), run)?));
        // Where worlds are drawn differently by now, another seed does it.
        let Some((run, violation)) = notices(*run).or_else(|| (1..=SEEDS_MAX).map(Seed).find_map(notices)) else {
            return Some(format!("{fault} is not noticed by {run:?} nor within {SEEDS_MAX} seeds"));
        };
        println!("(Fault::{fault:?}, {run:?}), // {violation}");
        let sound = play(None, run)?;
        Some(format!("{run:?} fails without {fault}: {sound}"))
    });
    let failures: Vec<String> = failures.into_iter().flatten().collect();
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn a_planted_build_without_a_fault_holds() {
    let seeds: Vec<u64> = (1..=SOUND_SEEDS).collect();
    let failures = on_all_cpus(&seeds, |seed| Some((*seed, play(None, Seed(*seed))?)));
    let failures: Vec<_> = failures.into_iter().flatten().collect();
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn first_seeds_are_looked_for_on_demand() {
    let Ok(names) = std::env::var("FIRST_SEEDS") else { return };
    let faults: Vec<Fault> = match names.as_str() {
        "all" => Fault::ALL.to_vec(),
        names => names.split(',').map(|name| name.parse().expect("a fault")).collect(),
    };
    on_all_cpus(&faults, |fault| {
        let caught = |seed| Some((seed, play(Some(*fault), Seed(seed))?));
        match (1..=SEEDS_MAX).find_map(caught) {
            Some((seed, violation)) => println!("(Fault::{fault:?}, Seed({seed})), // {violation}"),
            None => println!("(Fault::{fault:?}, not within {SEEDS_MAX} seeds)"),
        }
    });
}
