//! Many seeds on several processors: the sum of what they showed, and the first one that fails.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use wal::marks::Mark;
use wal::planted::Fault;

use super::plant::plant;
use super::run::{Report, run_seed};

/// The seeds that reached a mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reached {
    /// How many.
    pub seeds: u64,
    /// The lowest of them.
    pub first: u64,
}

/// What seeds showed together.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// Seeds that ran.
    pub seeds: u64,
    /// Operations that clients began.
    pub operations: u64,
    /// Faults.
    pub faults: u64,
    /// Virtual milliseconds.
    pub virtual_ms: u64,
    /// Events of the world and turns of loops.
    pub steps: u64,
    /// Processor time of the runs.
    pub busy: Duration,
    /// The marks that some seed reached.
    pub marks: BTreeMap<Mark, Reached>,
    /// The failing run with the lowest seed.
    pub failure: Option<Report>,
}

impl Totals {
    fn add(&mut self, report: Report, busy: Duration) {
        self.seeds += 1;
        self.operations += report.operations();
        self.faults += report.faults;
        self.virtual_ms += report.virtual_ms;
        self.steps += report.steps;
        self.busy += busy;
        for mark in report.marks.iter() {
            let reached = self.marks.entry(mark).or_insert(Reached { seeds: 0, first: report.seed });
            reached.seeds += 1;
            reached.first = reached.first.min(report.seed);
        }
        let is_first = self.failure.as_ref().is_none_or(|failure| report.seed < failure.seed);
        if report.violation.is_some() && is_first {
            self.failure = Some(report);
        }
    }

    /// Those of `marks` that no seed reached.
    pub fn missing(&self, marks: &[Mark]) -> Vec<Mark> {
        marks.iter().copied().filter(|mark| !self.marks.contains_key(mark)).collect()
    }

    /// Simulated seconds by second of one processor.
    #[must_use]
    pub fn speed(&self) -> f64 {
        Duration::from_millis(self.virtual_ms).as_secs_f64() / self.busy.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// Events and turns by second of one processor.
    #[must_use]
    pub fn steps_per_second(&self) -> f64 {
        Duration::from_secs(self.steps).as_secs_f64() / self.busy.as_secs_f64().max(f64::MIN_POSITIVE)
    }
}

/// Runs `seeds`, with `fault` planted, on `jobs` threads until all have run or one fails; `progress` is called after each. Seeds
/// below a failing one are still run, so that the same sweep names the same seed on any number of threads.
///
/// # Panics
/// If a fault is to be planted and this build has none ([`super::plant`]).
pub fn sweep(seeds: Range<u64>, jobs: usize, fault: Option<Fault>, progress: impl Fn(&Totals) + Sync) -> Totals {
    let next = AtomicU64::new(seeds.start);
    let failed = AtomicBool::new(false);
    let totals = Mutex::new(Totals::default());
    let work = || {
        plant(fault).expect("the caller asks for faults of this build only");
        while !failed.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return;
            }
            let began = Instant::now();
            let report = run_seed(seed);
            if report.violation.is_some() {
                failed.store(true, Ordering::Relaxed);
            }
            let mut totals = totals.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            totals.add(report, began.elapsed());
            progress(&totals);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(work);
        }
    });
    totals.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
}
