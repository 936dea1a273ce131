//! `walbench compare A B`: is B slower than A, beyond the noise of both?

use comfy_table::{Table, presets};

use super::case::{per_second, to_f64};
use super::environment::Environment;
use super::options::{CommitPath, CompareOptions};
use super::results::{CaseResult, Report, Window, WindowKind};
use super::statistics::{self, Estimate};

/// Floors whose medians differ by more than this factor do not compare.
const FLOORS_APART: f64 = 3.0;

/// One metric of one case, a value per window.
struct Series {
    case: String,
    metric: &'static str,
    /// Whether more is worse.
    latency: bool,
    /// A ratio to the floor of its round, or all there is: to be judged on any machine.
    judged: bool,
    values: Vec<f64>,
}

/// How B stands to A in one metric.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) case: String,
    pub(crate) metric: &'static str,
    pub(crate) before: f64,
    pub(crate) after: f64,
    /// How many times slower, with its interval; below 1 is faster.
    pub(crate) slower: Estimate,
    pub(crate) judged: bool,
}

impl Change {
    /// Whether the whole interval lies beyond the threshold.
    pub(crate) fn is_regression(&self, threshold_percent: f64) -> bool {
        self.judged && self.slower.low > 1.0 + threshold_percent / 100.0
    }
}

/// Compares what both results have in common. The error says what is missing.
pub(crate) fn compare(a: &Report, b: &Report, options: &CompareOptions) -> Result<Vec<Change>, String> {
    let after = series(b);
    let unlike = unlike_floors(a, b);
    let mut changes = Vec::new();
    for before in series(a) {
        let Some(after) = after.iter().find(|after| after.case == before.case && after.metric == before.metric) else {
            continue;
        };
        let (from, to) = (&before.values, &after.values);
        let slower = if before.latency {
            statistics::ratio(from, to, options.seed)
        } else {
            statistics::ratio(to, from, options.seed)
        };
        if let (Some(slower), Some(from), Some(to)) = (slower, statistics::median(from), statistics::median(to)) {
            let judged = (before.judged && !unlike.contains(&before.case)) || options.absolute;
            changes.push(Change { case: before.case, metric: before.metric, before: from, after: to, slower, judged });
        }
    }
    if changes.is_empty() {
        return Err("the two results have no case in common; measure the same cases twice".to_owned());
    }
    if changes.iter().all(|change| !change.judged) {
        return Err(format!(
            "the device was more than {FLOORS_APART:.0} times slower in one of the two results: ratios to it do not compare; measure again"
        ));
    }
    Ok(changes)
}

/// Cases in whose two measurements the floors themselves are far apart: a slow device, or a CPU that is not to be had, hides the
/// log's own share.
pub(crate) fn unlike_floors(a: &Report, b: &Report) -> Vec<String> {
    let floor = |case: &CaseResult| {
        let floors = case.windows.iter().filter(|window| window.kind == floor_of(case) && window.count > 0);
        statistics::median(&floors.map(|window| to_f64(window.p50_ns)).collect::<Vec<_>>())
    };
    let is_unlike = |case: &&CaseResult| {
        let other = b.cases.iter().find(|other| other.name == case.name);
        let pair = floor(case).zip(other.and_then(floor));
        pair.is_some_and(|(a, b)| a.max(b) > FLOORS_APART * a.min(b))
    };
    a.cases.iter().filter(is_unlike).map(|case| case.name.clone()).collect()
}

fn floor_of(case: &CaseResult) -> WindowKind {
    match (case.commit, case.floor_direct) {
        (CommitPath::Direct, Some(_)) => WindowKind::Direct,
        _ => WindowKind::Sync,
    }
}

fn series(report: &Report) -> Vec<Series> {
    let mut found: Vec<Series> = report.cases.iter().flat_map(of_case).collect();
    if let Some(net) = &report.net {
        found.extend(absolute("net", &net.windows, WindowKind::Net, true));
    }
    found
}

fn of_case(case: &CaseResult) -> Vec<Series> {
    let floor = floor_of(case);
    let pairs: Vec<(&Window, &Window)> = case
        .windows
        .iter()
        .filter(|window| window.kind == WindowKind::Log && window.count > 0)
        .filter_map(|log| {
            let mut floors = case.windows.iter().filter(|window| window.kind == floor && window.count > 0);
            Some((log, floors.find(|window| window.round == log.round)?))
        })
        .collect();
    let over_floor = |metric, latency, value: &dyn Fn(&Window) -> f64| Series {
        case: case.name.clone(),
        metric,
        latency,
        judged: true,
        values: pairs.iter().map(|(log, floor)| value(log) / value(floor)).filter(|value| value.is_finite()).collect(),
    };
    let mut found = vec![
        over_floor("p50 ÷ floor", true, &|window| to_f64(window.p50_ns)),
        over_floor("p99 ÷ floor", true, &|window| to_f64(window.p99_ns)),
    ];
    if case.rate_per_s.is_none() {
        found.push(over_floor("bytes/s ÷ floor", false, &|window| per_second(window.bytes, window.seconds)));
    }
    found.extend(absolute(&case.name, &case.windows, WindowKind::Log, false));
    found
}

fn absolute(case: &str, windows: &[Window], kind: WindowKind, judged: bool) -> Vec<Series> {
    let of = |metric, latency, value: &dyn Fn(&Window) -> f64| Series {
        case: case.to_owned(),
        metric,
        latency,
        judged,
        values: windows.iter().filter(|window| window.kind == kind && window.count > 0).map(value).collect(),
    };
    vec![
        of("p50, ns", true, &|window| to_f64(window.p50_ns)),
        of("p99, ns", true, &|window| to_f64(window.p99_ns)),
        of("per second", false, &|window| per_second(window.count, window.seconds)),
    ]
}

/// What differs between the machines: then only ratios to the floor say something.
pub(crate) fn differences(a: &Report, b: &Report) -> Vec<String> {
    let (Some(a), Some(b)) = (&a.environment, &b.environment) else { return Vec::new() };
    let facts = |of: &Environment| {
        let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "unknown".to_owned());
        [
            ("kernel", of.kernel.clone()),
            ("CPU", of.cpu.clone()),
            ("CPUs", of.cpus.to_string()),
            ("file system", of.file_system.clone()),
            ("mount options", of.mount_options.clone()),
            ("journal", of.journal.to_string()),
            ("write cache", or_none(&of.write_cache)),
            ("I/O backend", of.io_backend.clone()),
        ]
    };
    let pairs = facts(a).into_iter().zip(facts(b));
    pairs.filter(|(a, b)| a.1 != b.1).map(|(a, b)| format!("{}: {} / {}", a.0, a.1, b.1)).collect()
}

/// The changes as a table.
pub(crate) fn table(changes: &[Change], threshold_percent: f64) -> String {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header(["case", "metric", "A", "B", "B slower by", "95 %", "verdict"]);
    for change in changes {
        let percent = |value: f64| format!("{:+.1} %", (value - 1.0) * 100.0);
        let verdict = if change.is_regression(threshold_percent) {
            "REGRESSION"
        } else if !change.judged {
            "not judged"
        } else if change.slower.high < 1.0 {
            "faster"
        } else if change.slower.low > 1.0 {
            "slower, within the threshold"
        } else {
            "no difference shown"
        };
        let number = |value: f64| if value < 100.0 { format!("{value:.3}") } else { format!("{value:.0}") };
        table.add_row([
            change.case.clone(),
            change.metric.to_owned(),
            number(change.before),
            number(change.after),
            percent(change.slower.median),
            format!("{} … {}", percent(change.slower.low), percent(change.slower.high)),
            verdict.to_owned(),
        ]);
    }
    table.to_string()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::walbench::counters::Counters;
    use crate::walbench::latency::Summary;
    use crate::walbench::prepare::Preparation;
    use crate::walbench::results::{Ratios, StageSummaries};

    /// A result whose log takes `log_ns` and whose floor takes `floor_ns`, with a little noise.
    pub(crate) fn report(log_ns: u64, floor_ns: u64) -> Report {
        let mut windows = Vec::new();
        for round in 0..12 {
            let noise = u64::from(round) * 7 % 5;
            for (kind, nanos) in [(WindowKind::Sync, floor_ns), (WindowKind::Log, log_ns)] {
                let p50_ns = nanos + noise;
                let count = 1_000_000_000 / p50_ns;
                let (bytes, p99_ns) = (count * 100, 3 * p50_ns);
                windows.push(Window { kind, round, seconds: 1.0, count, bytes, p50_ns, p99_ns, max_ns: p99_ns });
            }
        }
        let case = CaseResult {
            name: "mmap-single".to_owned(),
            commit: CommitPath::Mmap,
            preparation: Preparation::Recycled,
            record_bytes: 128,
            group_bytes: 0,
            writers: 1,
            rate_per_s: None,
            floor_bytes: 192,
            service: Summary::default(),
            response: None,
            stages: StageSummaries::default(),
            floor_sync: Summary::default(),
            floor_direct: None,
            ratios: Ratios::default(),
            records: 1,
            commits: 1,
            logged_bytes: 1,
            seconds: 1.0,
            records_per_s: 1.0,
            records_per_commit: 1.0,
            logged_bytes_per_s: 1.0,
            device_bytes_per_logged_byte: None,
            process_bytes_per_logged_byte: None,
            thread_cpu_ns_per_record: 0.0,
            process_cpu_ns_per_record: 0.0,
            minor_faults_per_record: None,
            missed: 0,
            counters: Counters::default(),
            windows,
        };
        Report { cases: vec![case], ..Report::new("log", None) }
    }

    fn options(absolute: bool) -> CompareOptions {
        CompareOptions { a: "a".into(), b: "b".into(), threshold: 5.0, absolute, seed: 1 }
    }

    fn regressions(a: &Report, b: &Report, absolute: bool) -> usize {
        let changes = compare(a, b, &options(absolute)).expect("comparable");
        changes.iter().filter(|change| change.is_regression(5.0)).count()
    }

    #[test]
    fn the_same_result_is_no_regression() {
        let a = report(200_000, 180_000);
        assert_eq!(regressions(&a, &a, true), 0);
        assert!(differences(&a, &a).is_empty());
    }

    #[test]
    fn a_slower_log_is_one_and_a_slower_device_is_not() {
        let a = report(200_000, 180_000);
        assert_eq!(
            regressions(&a, &report(240_000, 180_000), false),
            3,
            "p50, p99 and throughput, each over the floor"
        );
        assert_eq!(regressions(&a, &report(400_000, 360_000), false), 0);
        assert_eq!(regressions(&a, &report(400_000, 360_000), true), 3, "absolutely it is slower");
        assert_eq!(regressions(&a, &report(205_000, 180_000), true), 0, "2.5 % is within the threshold");
        assert_eq!(regressions(&report(240_000, 180_000), &a, true), 0, "faster is fine");
    }

    #[test]
    fn a_device_that_is_not_the_same_any_more_is_no_measure() {
        let (a, b) = (report(200_000, 180_000), report(4_000_000, 3_990_000));
        assert!(compare(&a, &b, &options(false)).expect_err("unlike").contains("measure again"));
        assert!(compare(&b, &a, &options(false)).is_err(), "nor does it pass the other way round");
        assert_eq!(unlike_floors(&a, &b), ["mmap-single"]);
    }

    #[test]
    fn results_without_a_common_case_are_refused() {
        let a = report(200_000, 180_000);
        let mut b = a.clone();
        b.cases[0].name = "other".to_owned();
        assert!(compare(&a, &b, &options(false)).expect_err("nothing in common").contains("no case in common"));
    }
}
