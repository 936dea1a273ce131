//! `diff`: two nodes' logs, key by key and log by log.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Serialize;
use wal::{NodeId, Version};

use super::cli::DiffArgs;
use super::error::InspectError;
use super::load::Loaded;
use super::note;
use super::output::{Output, Rows};
use super::snapshot::{KeyState, Newest, RunName, Snapshot};
use super::text;

/// Why the side that is behind does not have a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    /// Its watermark of the record's log stands below the record.
    Behind(RunName, Version),
    /// It has no watermark of the record's log.
    NeverTold(RunName),
    /// It is the origin.
    OwnLost(Option<RunName>),
    /// Its watermark covers the record.
    Diverged(RunName, Version),
    /// No `open` record tells which log it is.
    UnknownLog,
}

impl Reason {
    fn label(self) -> &'static str {
        match self {
            Reason::Behind(..) => "behind",
            Reason::NeverTold(_) => "never-told",
            Reason::OwnLost(_) => "own-lost",
            Reason::Diverged(..) => "diverged",
            Reason::UnknownLog => "unknown-log",
        }
    }

    fn run(self) -> Option<RunName> {
        match self {
            Reason::Behind(run, _) | Reason::NeverTold(run) | Reason::Diverged(run, _) => Some(run),
            Reason::OwnLost(run) => run,
            Reason::UnknownLog => None,
        }
    }

    fn watermark(self) -> Option<Version> {
        match self {
            Reason::Behind(_, version) | Reason::Diverged(_, version) => Some(version),
            _ => None,
        }
    }

    fn describe(self) -> String {
        let log = self.run().map_or_else(String::new, |(node, run)| format!(" log {node}/{run}"));
        let upto = self.watermark().map_or_else(String::new, |version| format!(" held to {}", text::version(version)));
        format!("{}{log}{upto}", self.label())
    }
}

#[derive(Serialize)]
struct SideJson {
    state: &'static str,
    version: Option<String>,
    origin: Option<String>,
}

#[derive(Serialize)]
struct KeyJson {
    key: String,
    left: SideJson,
    right: SideJson,
    ahead: &'static str,
    reason: &'static str,
    log_node: Option<String>,
    log_incarnation: Option<String>,
    watermark: Option<String>,
}

#[derive(Serialize)]
struct LogJson {
    log_node: String,
    log_incarnation: String,
    left: Option<String>,
    right: Option<String>,
    ahead: &'static str,
    ahead_ms: u64,
}

#[derive(Serialize)]
struct SummaryJson {
    left_node: String,
    right_node: String,
    left_keys: usize,
    right_keys: usize,
    same: usize,
    differ: usize,
    left_ahead: usize,
    right_ahead: usize,
    shown: usize,
    by_reason: BTreeMap<&'static str, usize>,
}

/// One node, and what it holds of every log.
struct Side {
    snapshot: Snapshot,
    node: NodeId,
    held: BTreeMap<RunName, Version>,
}

impl Side {
    fn load(path: &Path) -> Result<Side, InspectError> {
        let snapshot = Snapshot::load(path)?;
        let node = snapshot.loaded.node;
        let mut held: BTreeMap<RunName, Version> =
            snapshot.watermarks().into_iter().map(|(run, (version, _))| (run, version)).collect();
        // Of its own logs a node holds what is in them.
        for facts in &snapshot.segments {
            if let Some(max) = facts.originated_max {
                let own = held.entry((node, facts.incarnation)).or_default();
                *own = (*own).max(max);
            }
        }
        Ok(Side { snapshot, node, held })
    }
}

/// Compares, and shows at most `args.limit` keys.
pub(crate) fn run(args: &DiffArgs, now_unix_ms: u64, output: &mut Output) -> Result<(Loaded, Loaded), InspectError> {
    let (left, right) = (Side::load(&args.left)?, Side::load(&args.right)?);
    let mut opened: BTreeMap<NodeId, BTreeMap<Version, RunName>> = BTreeMap::new();
    for (run, first) in left.snapshot.opened().into_iter().chain(right.snapshot.opened()) {
        opened.entry(run.0).or_default().insert(first, run);
    }
    show_logs(&left, &right, output)?;
    output.next_table()?;

    let prefix = args.prefix.as_ref().map_or(&[][..], |prefix| &prefix.0);
    let union: BTreeSet<&Vec<u8>> = left.snapshot.keys.keys().chain(right.snapshot.keys.keys()).collect();
    let mut summary = SummaryJson {
        left_node: left.node.to_string(),
        right_node: right.node.to_string(),
        left_keys: left.snapshot.keys.len(),
        right_keys: right.snapshot.keys.len(),
        same: 0,
        differ: 0,
        left_ahead: 0,
        right_ahead: 0,
        shown: 0,
        by_reason: BTreeMap::new(),
    };
    let mut rows = Rows::new("Keys", &["key", "left", "right", "ahead", "why the other is not"], &[]);
    for key in union.into_iter().filter(|key| key.starts_with(prefix)) {
        let (of_left, of_right) = (left.snapshot.keys.get(key), right.snapshot.keys.get(key));
        let rank = |newest: Option<&Newest>| newest.map(|newest| (newest.version, newest.crc));
        let left_ahead = match rank(of_left).cmp(&rank(of_right)) {
            Ordering::Equal => {
                summary.same += 1;
                continue;
            }
            order => order.is_gt(),
        };
        let (newer, behind) = if left_ahead { (of_left, &right) } else { (of_right, &left) };
        let Some(newer) = newer else { continue };
        let reason = why(newer, behind, &opened);
        summary.differ += 1;
        *(if left_ahead { &mut summary.left_ahead } else { &mut summary.right_ahead }) += 1;
        *summary.by_reason.entry(reason.label()).or_default() += 1;
        if summary.shown == args.limit {
            continue;
        }
        summary.shown += 1;
        let ahead = if left_ahead { "left" } else { "right" };
        if output.is_json() {
            let run = reason.run();
            let line = KeyJson {
                key: text::percent_encode(key),
                left: side_json(of_left, now_unix_ms),
                right: side_json(of_right, now_unix_ms),
                ahead,
                reason: reason.label(),
                log_node: run.map(|(node, _)| node.to_string()),
                log_incarnation: run.map(|(_, incarnation)| incarnation.to_string()),
                watermark: reason.watermark().map(hex),
            };
            output.json("key", &line)?;
        } else {
            rows.push(vec![
                text::percent_encode(key),
                side_text(of_left, now_unix_ms),
                side_text(of_right, now_unix_ms),
                ahead.to_owned(),
                reason.describe(),
            ]);
        }
    }
    output.table(&rows)?;
    finish(&summary, output)?;
    Ok((left.snapshot.loaded, right.snapshot.loaded))
}

fn finish(summary: &SummaryJson, output: &mut Output) -> Result<(), InspectError> {
    if output.is_json() {
        output.json("summary", summary)?;
        return output.flush();
    }
    output.flush()?;
    let reasons: Vec<String> = summary.by_reason.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    let reasons = if reasons.is_empty() { String::new() } else { format!(": {}", reasons.join(", ")) };
    let SummaryJson { same, differ, left_ahead, right_ahead, .. } = summary;
    note(&format!(
        "{same} keys are the same, {differ} differ (left is ahead in {left_ahead}, right in {right_ahead}){reasons}"
    ));
    if summary.shown < summary.differ {
        note(&format!("only {} of them are shown; see --limit", summary.shown));
    }
    Ok(())
}

/// Why `behind` does not have `newer`.
fn why(newer: &Newest, behind: &Side, opened: &BTreeMap<NodeId, BTreeMap<Version, RunName>>) -> Reason {
    // The runs of one node are disjoint intervals of versions.
    let run = opened.get(&newer.origin).and_then(|runs| runs.range(..=newer.version).next_back());
    let run = run.map(|(_, run)| *run);
    if newer.origin == behind.node {
        return Reason::OwnLost(run);
    }
    let Some(run) = run else { return Reason::UnknownLog };
    match behind.held.get(&run) {
        None => Reason::NeverTold(run),
        Some(&held) if held < newer.version => Reason::Behind(run, held),
        Some(&held) => Reason::Diverged(run, held),
    }
}

fn hex(version: Version) -> String {
    format!("{:#018x}", version.0)
}

fn state(newest: Option<&Newest>, now_unix_ms: u64) -> &'static str {
    match newest.map(|newest| newest.state(now_unix_ms)) {
        None => "absent",
        Some(KeyState::Live) => "live",
        Some(KeyState::Tombstone) => "tombstone",
        Some(KeyState::Expired) => "expired",
    }
}

fn side_json(newest: Option<&Newest>, now_unix_ms: u64) -> SideJson {
    SideJson {
        state: state(newest, now_unix_ms),
        version: newest.map(|newest| hex(newest.version)),
        origin: newest.map(|newest| newest.origin.to_string()),
    }
}

fn side_text(newest: Option<&Newest>, now_unix_ms: u64) -> String {
    let version = newest.map_or_else(String::new, |newest| format!(" {}", text::version(newest.version)));
    format!("{}{version}", state(newest, now_unix_ms))
}

/// How far each side holds each log.
fn show_logs(left: &Side, right: &Side, output: &mut Output) -> Result<(), InspectError> {
    let runs: BTreeSet<&RunName> = left.held.keys().chain(right.held.keys()).collect();
    let mut rows = Rows::new("Logs", &["log", "left holds", "right holds", "ahead", "by ms"], &[4]);
    for run in runs {
        let (of_left, of_right) = (left.held.get(run).copied(), right.held.get(run).copied());
        // A claim may reach beyond the last record of a log, and nobody is ahead of whom a log belongs to.
        let owner_is = |side: &Side, other: &Side| side.node == run.0 && other.node != run.0;
        let ahead = match of_left.cmp(&of_right) {
            Ordering::Less if !owner_is(left, right) => "right",
            Ordering::Greater if !owner_is(right, left) => "left",
            _ => "-",
        };
        let ms = |version: Option<Version>| version.unwrap_or_default().ms();
        let by_ms = if ahead != "-" && of_left.is_some() && of_right.is_some() {
            ms(of_left).abs_diff(ms(of_right))
        } else {
            0
        };
        if output.is_json() {
            let line = LogJson {
                log_node: run.0.to_string(),
                log_incarnation: run.1.to_string(),
                left: of_left.map(hex),
                right: of_right.map(hex),
                ahead,
                ahead_ms: by_ms,
            };
            output.json("log", &line)?;
            continue;
        }
        let shown = |version: Option<Version>| version.map_or_else(|| "-".to_owned(), text::version);
        rows.push(vec![
            format!("{}/{}", run.0, run.1),
            shown(of_left),
            shown(of_right),
            ahead.to_owned(),
            by_ms.to_string(),
        ]);
    }
    output.table(&rows)
}
