//! Results as text for a person.

use comfy_table::{Table, presets};
use indicatif::{ProgressBar, ProgressStyle};

use super::environment::Environment;
use super::latency::{QUANTILES, Summary, human_ns, three_digits};
use super::options::Protocol;
use super::results::{CaseResult, FloorResult, NetResult, Report, StallResult, Target, Verdict};
use super::targets::interval;

/// A bar on standard error, drawn only where that is a terminal.
pub(crate) fn bar(message: &str, length: u64) -> ProgressBar {
    let bar = ProgressBar::new(length);
    if let Ok(style) = ProgressStyle::with_template("{msg:24} {bar:40} {percent:>3} % {eta}") {
        bar.set_style(style);
    }
    bar.with_message(message.to_owned())
}

/// Everything.
pub(crate) fn text(report: &Report) -> String {
    let mut text = report.environment.as_ref().map(environment).unwrap_or_default();
    if let [before, after] = report.sequential_write_bytes_per_s[..] {
        let show = |bytes_per_s: f64| three_digits(bytes_per_s / 1e6, "MB/s");
        text += &format!("sequential write: {} before, {} after\n", show(before), show(after));
    }
    for case in &report.cases {
        text += &format!("\n{}", self::case(case));
    }
    if !report.floors.is_empty() {
        text += &format!("\n{}", floors(&report.floors));
    }
    if !report.stalls.is_empty() {
        text += &format!("\n{}", stalls(&report.stalls));
    }
    if let Some(net) = &report.net {
        text += &self::net(net);
    }
    if !report.targets.is_empty() {
        text += &format!("\n{}", targets(&report.targets));
    }
    text
}

fn table(header: impl IntoIterator<Item = impl Into<String>>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header(header.into_iter().map(Into::into).collect::<Vec<String>>());
    table
}

/// A table of latencies: its first column is named `what`.
fn latencies(what: &str) -> Table {
    let names = QUANTILES.iter().map(|(name, _)| (*name).to_owned());
    table([what.to_owned(), "count".to_owned()].into_iter().chain(names).chain(["max".to_owned()]))
}

fn latency_row(name: &str, summary: &Summary) -> Vec<String> {
    let values = summary.row().map(human_ns);
    [name.to_owned(), summary.count.to_string()].into_iter().chain(values).collect()
}

fn environment(environment: &Environment) -> String {
    let unknown = || "unknown".to_owned();
    let mut text = format!(
        "{} × {}, Linux {}\n{} ({}) on {}, write cache: {}, journal: {}\n{} (io_uring: {})\n",
        environment.cpus,
        environment.cpu,
        environment.kernel,
        environment.file_system,
        environment.mount_options,
        environment.device.clone().unwrap_or_else(unknown),
        environment.write_cache.clone().unwrap_or_else(unknown),
        if environment.journal { "yes" } else { "none shown" },
        environment.io_backend,
        environment.io_uring,
    );
    if let Some(load) = environment.load_per_cpu.filter(|load| *load > 0.5) {
        text += &format!(
            "NOTE: {load:.1} runnable threads per CPU before the run: absolute numbers are about neighbours, too\n"
        );
    }
    text
}

fn case(case: &CaseResult) -> String {
    let rate = case.rate_per_s.map_or_else(
        || "closed loop".to_owned(),
        |rate| format!("open loop at {rate:.0}/s, {} arrivals missed", case.missed),
    );
    let group = if case.group_bytes == 0 { "no limit".to_owned() } else { format!("≤ {} bytes", case.group_bytes) };
    let mut text = format!(
        "{}: {} files, records of {} bytes, groups {group}, {} writers, {rate}\n",
        case.name,
        case.preparation.name(),
        case.record_bytes,
        case.writers
    );
    let mut table = latencies("latency");
    table.add_row(latency_row("log, service", &case.service));
    if let Some(response) = &case.response {
        table.add_row(latency_row("log, response", response));
    }
    table.add_row(latency_row(&format!("floor, fdatasync of {} bytes", case.floor_bytes), &case.floor_sync));
    if let Some(direct) = &case.floor_direct {
        table.add_row(latency_row("floor, O_DIRECT+O_DSYNC", direct));
    }
    for (name, stage) in [
        ("stage staged", &case.stages.staged),
        ("stage written", &case.stages.written),
        ("stage synced", &case.stages.synced),
        ("stage woken", &case.stages.woken),
    ] {
        table.add_row(latency_row(name, stage));
    }
    text += &format!("{table}\n");
    let ratio = |name: &str, found: Option<_>| found.map(|found| format!("{name} {}", interval(&found)));
    let ratios = [
        ratio("p50", case.ratios.p50),
        ratio("p99", case.ratios.p99),
        ratio("throughput", case.ratios.throughput.filter(|_| case.rate_per_s.is_none())),
    ];
    let ratios: Vec<String> = ratios.into_iter().flatten().collect();
    text += &format!("  log ÷ floor: {}\n", if ratios.is_empty() { "–".to_owned() } else { ratios.join(", ") });
    let per = |value: Option<f64>| value.map_or_else(|| "unknown".to_owned(), |value| format!("{value:.2}"));
    text += &format!(
        "  {:.0} records/s, {:.1} per commit, {} logged; device bytes per logged byte {} (this process {})\n",
        case.records_per_s,
        case.records_per_commit,
        three_digits(case.logged_bytes_per_s / 1e6, "MB/s"),
        per(case.device_bytes_per_logged_byte),
        per(case.process_bytes_per_logged_byte),
    );
    let count = |value: Option<u64>| value.map_or_else(|| "unknown".to_owned(), |value| value.to_string());
    text += &format!(
        "  per record: {:.0} ns CPU in the log's thread{}, {:.0} ns in the process, {} minor faults; journal commits: {}\n",
        case.thread_cpu_ns_per_record,
        if case.rate_per_s.is_some() { " (it polls for arrivals)" } else { "" },
        case.process_cpu_ns_per_record,
        case.minor_faults_per_record.map_or_else(|| "unknown".to_owned(), |faults| format!("{faults:.4}")),
        count(case.counters.journal_commits),
    );
    text
}

fn floors(floors: &[FloorResult]) -> String {
    let mut table = latencies("floor");
    let mut throughput = self::table(["floor", "MB/s", "device bytes per operation"]);
    for floor in floors {
        let name = format!("{} {} {} bytes", floor.preparation.name(), floor.kind.name(), floor.bytes);
        table.add_row(latency_row(&name, &floor.latency));
        let device =
            floor.device_bytes_per_operation.map_or_else(|| "unknown".to_owned(), |bytes| format!("{bytes:.0}"));
        throughput.add_row([name, format!("{:.2}", floor.bytes_per_s / 1e6), device]);
    }
    format!("{table}\n\n{throughput}\n")
}

fn stalls(stalls: &[StallResult]) -> String {
    let mut table = latencies("a store of 64 bytes");
    for stall in stalls {
        let beside = match (stall.mapping.name(), stall.while_committing) {
            (name, false) => format!("{name}, nothing beside it"),
            ("mmap", true) => format!("mmap, {} syncs beside it", stall.commits),
            (name, true) => format!("{name}, {} direct writes beside it", stall.commits),
        };
        table.add_row(latency_row(&beside, &stall.store));
    }
    format!("{table}\n")
}

fn net(net: &NetResult) -> String {
    let rate = net.rate_per_s.map_or_else(
        || "closed loop".to_owned(),
        |rate| format!("open loop at {rate:.0}/s, {} commands missed", net.missed),
    );
    let spoken = match net.protocol {
        Protocol::Resp => "RESP",
        Protocol::Native => "native protocol",
    };
    let mut text = format!(
        "{}: {} connections × {} outstanding, {} % GET, {} keys, values of {} bytes, {rate}, {}, {}\n",
        net.addr, net.connections, net.pipeline, net.get_percent, net.keys, net.value_bytes, spoken, net.io_backend
    );
    let mut table = latencies("latency");
    table.add_row(latency_row("service", &net.service));
    if let Some(response) = &net.response {
        table.add_row(latency_row("response", response));
    }
    for (name, summary) in [("GET", &net.get), ("SET", &net.set)] {
        if summary.count > 0 {
            table.add_row(latency_row(name, summary));
        }
    }
    text += &format!("{table}\n  {:.0} commands/s over {:.1} s", net.commands_per_s, net.seconds);
    if net.misses > 0 {
        text += &format!(", {} GETs found no key", net.misses);
    }
    text += "\n";
    if net.errors > 0 {
        let first = net.first_error.clone().unwrap_or_default();
        text += &format!("  {} error replies, the first: {first}\n", net.errors);
    }
    text
}

fn targets(targets: &[Target]) -> String {
    let mut table = table(["target", "path", "wanted", "found", "", "what bounds it"]);
    for target in targets {
        let verdict = match target.verdict {
            Verdict::Met => "met",
            Verdict::Missed => "MISSED",
            Verdict::Unclear => "unclear",
            Verdict::NotMeasured => "not measured",
        };
        table.add_row([
            target.name.clone(),
            target.commit.name().to_owned(),
            target.wanted.clone(),
            target.found.clone(),
            verdict.to_owned(),
            target.bound_by.clone(),
        ]);
    }
    format!("{table}\n")
}
