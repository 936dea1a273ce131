//! Leaves faults out of a failing run until every one that is left is needed: delta debugging (Zeller and Hildebrandt,
//! "Simplifying and Isolating Failure-Inducing Input", 2002, algorithm ddmin).

use super::plan::Plan;
use super::run::{Report, run_plan};

/// A failing run is tried again at most this often.
const RUNS_MAX: usize = 400;

/// What is left of a failing run.
#[derive(Debug)]
pub struct Minimal {
    /// Places in the plan's list of faults.
    pub kept: Vec<usize>,
    /// The run with only these.
    pub report: Report,
    /// How many runs it took.
    pub runs: usize,
}

/// Finds a short list of faults with which `plan` violates `checker`.
#[must_use]
pub fn minimise(plan: &Plan, checker: &str) -> Option<Minimal> {
    let mut kept: Vec<usize> = (0..plan.faults.len()).collect();
    let fails = |kept: &[usize]| {
        let report = run_plan(&plan.keeping(kept));
        report.violation.as_ref().is_some_and(|violation| violation.checker == checker).then_some(report)
    };
    let mut runs = 2;
    let mut report = fails(&kept)?;
    if let Some(quiet) = fails(&[]) {
        return Some(Minimal { kept: Vec::new(), report: quiet, runs });
    }
    let mut parts = 2;
    'shrink: while kept.len() >= 2 {
        let len = kept.len().div_ceil(parts);
        for start in (0..kept.len()).step_by(len) {
            let end = (start + len).min(kept.len());
            let rest: Vec<usize> = kept[..start].iter().chain(&kept[end..]).copied().collect();
            if runs == RUNS_MAX {
                break 'shrink;
            }
            runs += 1;
            if let Some(smaller) = fails(&rest) {
                (kept, report) = (rest, smaller);
                parts = (parts - 1).max(2);
                continue 'shrink;
            }
        }
        if parts >= kept.len() {
            break;
        }
        parts = (2 * parts).min(kept.len());
    }
    Some(Minimal { kept, report, runs })
}
