//! The numbers that the project wants of its log, and what bounds those that are missed.

use super::case::{ratio, to_f64};
use super::latency::human_ns;
use super::options::CommitPath;
use super::results::{CaseResult, Target, Verdict};
use super::statistics::Estimate;

/// Names of the cases behind the targets; the commit path stands before each.
pub(crate) const SINGLE: &str = "single";
pub(crate) const MANY: &str = "many";
pub(crate) const GROUP_16K: &str = "group-16k";
pub(crate) const GROUP_64K: &str = "group-64k";
pub(crate) const BELOW_KNEE: &str = "below-knee";

const SINGLE_P50_MAX: f64 = 1.15;
const KNEE_P99_MAX: f64 = 2.0;
const THROUGHPUT_MIN: f64 = 0.90;
const RECORDS_PER_COMMIT_MIN: f64 = 100.0;
const CPU_NS_MAX: f64 = 200.0;
const RECORDS_PER_GROUP_MIN: f64 = 64.0;
const DEVICE_16K_MAX: f64 = 1.30;
const DEVICE_64K_MAX: f64 = 1.10;
/// The journal commits every five seconds by itself, and for neighbours: far below one per sync is none of ours.
const JOURNAL_PER_COMMIT_MAX: f64 = 0.05;

/// Whether a number is to stay below or above its limit.
#[derive(Clone, Copy)]
enum Limit {
    Most(f64),
    Least(f64),
}

impl Limit {
    fn holds(self, value: f64) -> bool {
        match self {
            Limit::Most(most) => value <= most,
            Limit::Least(least) => value >= least,
        }
    }

    /// By both ends of what was found.
    fn judge(self, found: &Found) -> Verdict {
        match (self.holds(found.low), self.holds(found.high)) {
            (true, true) => Verdict::Met,
            (false, false) => Verdict::Missed,
            _ => Verdict::Unclear,
        }
    }

    fn text(self) -> String {
        match self {
            Limit::Most(most) => format!("≤ {most}"),
            Limit::Least(least) => format!("≥ {least}"),
        }
    }
}

/// A number, as far as it is known.
struct Found {
    low: f64,
    high: f64,
    text: String,
    bound_by: String,
}

impl Found {
    fn exactly(value: f64, text: String, bound_by: String) -> Found {
        Found { low: value, high: value, text, bound_by }
    }

    fn estimated(estimate: &Estimate, bound_by: String) -> Found {
        Found { low: estimate.low, high: estimate.high, text: interval(estimate), bound_by }
    }
}

/// Holds the cases against the targets.
pub(crate) fn judge(cases: &[CaseResult], commits: &[CommitPath], journal: bool) -> Vec<Target> {
    commits.iter().flat_map(|commit| for_path(cases, *commit, journal)).collect()
}

fn for_path(cases: &[CaseResult], commit: CommitPath, journal: bool) -> Vec<Target> {
    let case = |name: &str| cases.iter().find(|case| case.name == format!("{}-{name}", commit.name()));
    let mut targets = Vec::new();
    let mut add = |name: &str, limit: Limit, found: Option<Found>| {
        targets.push(match found {
            Some(found) => Target {
                name: name.to_owned(),
                commit,
                wanted: limit.text(),
                verdict: limit.judge(&found),
                found: found.text,
                bound_by: found.bound_by,
            },
            None => not_measured(name, commit, limit.text(), "the case was not measured"),
        });
    };
    add(
        "single writer, p50 ÷ floor's p50",
        Limit::Most(SINGLE_P50_MAX),
        case(SINGLE).and_then(|case| Some(Found::estimated(&case.ratios.p50?, where_time_goes(case)))),
    );
    add(
        "70 % of the knee, p99 ÷ floor's p99",
        Limit::Most(KNEE_P99_MAX),
        case(BELOW_KNEE).and_then(|case| {
            let rate = case.rate_per_s.unwrap_or(0.0);
            let bound_by = format!("{rate:.0} records/s; a record waits for the commit in flight, then for its own");
            Some(Found::estimated(&case.ratios.p99?, bound_by))
        }),
    );
    for (name, label) in
        [(GROUP_16K, "16 KiB groups, throughput ÷ floor's"), (GROUP_64K, "64 KiB groups, throughput ÷ floor's")]
    {
        add(
            label,
            Limit::Least(THROUGHPUT_MIN),
            case(name).and_then(|case| Some(Found::estimated(&case.ratios.throughput?, where_time_goes(case)))),
        );
    }
    add(
        "1,000 writers, records per commit",
        Limit::Least(RECORDS_PER_COMMIT_MIN),
        case(MANY).map(|case| {
            Found::exactly(case.records_per_commit, format!("{:.0}", case.records_per_commit), String::new())
        }),
    );
    add(
        "CPU per record, ns",
        Limit::Most(CPU_NS_MAX),
        case(MANY).filter(|case| case.records_per_commit >= RECORDS_PER_GROUP_MIN).map(|case| {
            let cpu_ns = case.thread_cpu_ns_per_record;
            let text = format!("{cpu_ns:.0} (process: {:.0})", case.process_cpu_ns_per_record);
            Found::exactly(cpu_ns, text, "the log's thread; the process adds kernel workers and spares".to_owned())
        }),
    );
    for (name, label, most) in [
        (GROUP_16K, "16 KiB groups, device bytes ÷ logged", DEVICE_16K_MAX),
        (GROUP_64K, "64 KiB groups, device bytes ÷ logged", DEVICE_64K_MAX),
    ] {
        add(label, Limit::Most(most), case(name).and_then(device_bytes));
    }
    let journal_name = "journal commits per commit";
    let limit = Limit::Most(JOURNAL_PER_COMMIT_MAX);
    match case(SINGLE).and_then(|case| case.counters.journal_commits.map(|commits| (case, commits))) {
        Some((case, commits)) if journal => {
            let found = ratio(commits, case.commits);
            let text = format!("{found:.4}");
            add(journal_name, limit, Some(Found::exactly(found, text, format!("{commits} in {:.1} s", case.seconds))));
        }
        _ => targets.push(not_measured(journal_name, commit, limit.text(), "this file system shows no journal")),
    }
    targets
}

fn not_measured(name: &str, commit: CommitPath, wanted: String, why: &str) -> Target {
    Target {
        name: name.to_owned(),
        commit,
        wanted,
        found: "–".to_owned(),
        verdict: Verdict::NotMeasured,
        bound_by: why.to_owned(),
    }
}

/// The device counts neighbours as well, the process counts pages when they become dirty: the truth lies between.
fn device_bytes(case: &CaseResult) -> Option<Found> {
    let bound_by = "whole 4 KiB blocks at both ends of a group".to_owned();
    let Some(device) = case.device_bytes_per_logged_byte else {
        let process = case.process_bytes_per_logged_byte?;
        return Some(Found::exactly(process, format!("{process:.2} (by the process)"), bound_by));
    };
    let low = case.process_bytes_per_logged_byte.map_or(device, |process| process.min(device));
    Some(Found { low, high: device, text: format!("{device:.2} (this process {low:.2})"), bound_by })
}

pub(crate) fn interval(estimate: &Estimate) -> String {
    format!("{:.2} ({:.2}–{:.2})", estimate.median, estimate.low, estimate.high)
}

/// The stages of a group against the floor of the same path.
fn where_time_goes(case: &CaseResult) -> String {
    let stages = &case.stages;
    let floor = match (case.commit, &case.floor_direct) {
        (CommitPath::Direct, Some(direct)) => direct.p50_ns,
        _ => case.floor_sync.p50_ns,
    };
    let hop = to_f64(stages.synced.p50_ns) / to_f64(floor.max(1));
    format!(
        "floor {}, submit → completion {} ({hop:.2} ×), sealing {}, waking {}",
        human_ns(floor),
        human_ns(stages.synced.p50_ns),
        human_ns(stages.written.p50_ns),
        human_ns(stages.woken.p50_ns)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_hold_at_their_edge_and_an_interval_across_them_is_unclear() {
        let judged =
            |limit: Limit, low, high| limit.judge(&Found { low, high, text: String::new(), bound_by: String::new() });
        assert_eq!(judged(Limit::Most(1.15), 1.0, 1.15), Verdict::Met);
        assert_eq!(judged(Limit::Most(1.15), 1.1, 1.2), Verdict::Unclear);
        assert_eq!(judged(Limit::Most(1.15), 1.16, 1.2), Verdict::Missed);
        assert_eq!(judged(Limit::Least(0.9), 0.9, 1.0), Verdict::Met);
        assert_eq!(judged(Limit::Least(0.9), 0.8, 0.89), Verdict::Missed);
    }

    #[test]
    fn what_was_not_measured_is_not_met() {
        let targets = judge(&[], &[CommitPath::Mmap, CommitPath::Direct], false);
        assert_eq!(targets.len(), 18);
        assert!(targets.iter().all(|target| target.verdict == Verdict::NotMeasured));
    }
}
