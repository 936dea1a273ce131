//! `retention`: what keeps each segment from being removed.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;
use wal::{ControlRecord, CoreId, NodeId, Version};

use super::cli::RetentionArgs;
use super::error::InspectError;
use super::load::Loaded;
use super::note;
use super::output::{Output, Rows};
use super::snapshot::{KeyState, RunName, SegmentFacts, Snapshot};
use super::text;

/// What one segment holds that is needed.
#[derive(Clone, Debug, Default)]
struct Pins {
    live: u64,
    live_bytes: u64,
    tombstones: u64,
    expired: u64,
    watermarks: u64,
    ceilings: u64,
    opens: u64,
    memberships: u64,
    /// It belongs to the newest run of its core.
    newest_run: bool,
}

impl Pins {
    fn names(&self) -> Vec<&'static str> {
        let pins = [
            ("live", self.live),
            ("tombstones", self.tombstones),
            ("expired", self.expired),
            ("watermark", self.watermarks),
            ("ceiling", self.ceilings),
            ("open", self.opens),
            ("membership", self.memberships),
            ("newest-run", u64::from(self.newest_run)),
        ];
        pins.into_iter().filter(|(_, count)| *count > 0).map(|(name, _)| name).collect()
    }
}

/// How a member stands to a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Passage {
    /// Nothing in it was originated here.
    NothingToPass,
    /// Its watermark covers all that was.
    Passed,
    /// Its watermark stands here.
    Behind(Version),
    /// It has no watermark of the log.
    NeverTold,
}

impl Passage {
    fn describe(self) -> String {
        match self {
            Passage::NothingToPass => "nothing to pass".to_owned(),
            Passage::Passed => "passed".to_owned(),
            Passage::Behind(version) => format!("behind: {}", text::version(version)),
            Passage::NeverTold => "never told".to_owned(),
        }
    }

    fn label(self) -> &'static str {
        match self {
            Passage::NothingToPass => "nothing-to-pass",
            Passage::Passed => "passed",
            Passage::Behind(_) => "behind",
            Passage::NeverTold => "never-told",
        }
    }
}

struct Peer {
    node: NodeId,
    held: BTreeMap<RunName, Version>,
}

#[derive(Serialize)]
struct PeerJson {
    node: String,
    passage: &'static str,
    watermark: Option<String>,
}

#[derive(Serialize)]
struct SegmentJson<'a> {
    file: &'a str,
    core: u16,
    segment: u64,
    incarnation: String,
    sealed: bool,
    pinned_by: Vec<&'static str>,
    records: u64,
    record_bytes: u64,
    live: u64,
    live_bytes: u64,
    tombstones: u64,
    expired: u64,
    watermarks: u64,
    ceilings: u64,
    opens: u64,
    memberships: u64,
    originated_version_max: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    peers: Vec<PeerJson>,
}

/// Shows who pins what.
pub(crate) fn run(args: &RetentionArgs, now_unix_ms: u64, output: &mut Output) -> Result<Loaded, InspectError> {
    let snapshot = Snapshot::load(&args.dir)?;
    let peers = args.peer.iter().map(|path| load_peer(path)).collect::<Result<Vec<_>, _>>()?;
    let node = snapshot.loaded.node;
    if let Some((path, _)) = args.peer.iter().zip(&peers).find(|(_, peer)| peer.node == node) {
        return Err(InspectError::Usage(format!("{} belongs to the same node; give a member's", path.display())));
    }
    let pins = pins(&snapshot, now_unix_ms);
    let header =
        ["file", "sealed", "records", "live", "live %", "tombstones", "expired", "pinned by", "passed by peers"];
    let mut rows = Rows::new("", &header, &[2, 3, 4, 5, 6]);
    let mut free = 0;
    for (facts, pins) in snapshot.segments.iter().zip(&pins) {
        let passages: Vec<(NodeId, Passage)> =
            peers.iter().map(|peer| (peer.node, passage(node, facts, peer))).collect();
        let names = pins.names();
        free += u64::from(names.is_empty());
        if output.is_json() {
            output.json("segment", &json(facts, pins, names, &passages))?;
            continue;
        }
        let passed: Vec<String> =
            passages.iter().map(|(node, passage)| format!("{node} {}", passage.describe())).collect();
        rows.push(vec![
            facts.name.clone(),
            if facts.sealed { "yes" } else { "no" }.to_owned(),
            facts.records.to_string(),
            pins.live.to_string(),
            text::percent(pins.live_bytes, facts.record_bytes),
            pins.tombstones.to_string(),
            pins.expired.to_string(),
            if names.is_empty() { "nothing".to_owned() } else { names.join(" ") },
            if passed.is_empty() { "-".to_owned() } else { passed.join("; ") },
        ]);
    }
    output.table(&rows)?;
    output.flush()?;
    if !output.is_json() {
        note(&format!("{free} of {} segments are pinned by nothing in this log", snapshot.segments.len()));
    }
    Ok(snapshot.loaded)
}

fn load_peer(path: &Path) -> Result<Peer, InspectError> {
    let snapshot = Snapshot::load(path)?;
    let held = snapshot.watermarks().into_iter().map(|(run, (version, _))| (run, version)).collect();
    Ok(Peer { node: snapshot.loaded.node, held })
}

fn passage(node: NodeId, facts: &SegmentFacts, peer: &Peer) -> Passage {
    let Some(max) = facts.originated_max else { return Passage::NothingToPass };
    match peer.held.get(&(node, facts.incarnation)) {
        None => Passage::NeverTold,
        Some(&held) if held >= max => Passage::Passed,
        Some(&held) => Passage::Behind(held),
    }
}

/// What each segment holds that nothing newer replaces.
fn pins(snapshot: &Snapshot, now_unix_ms: u64) -> Vec<Pins> {
    let mut pins = vec![Pins::default(); snapshot.segments.len()];
    for newest in snapshot.keys.values() {
        let Some(pins) = pins.get_mut(newest.segment) else { continue };
        match newest.state(now_unix_ms) {
            KeyState::Live => {
                pins.live += 1;
                pins.live_bytes += newest.bytes;
            }
            KeyState::Tombstone => pins.tombstones += 1,
            KeyState::Expired => pins.expired += 1,
        }
    }
    for (_, control) in snapshot.watermarks().into_values() {
        if let Some(pins) = snapshot.controls.get(control).and_then(|control| pins.get_mut(control.segment)) {
            pins.watermarks += 1;
        }
    }
    pin_controls(snapshot, &mut pins);
    let mut newest: BTreeMap<CoreId, &SegmentFacts> = BTreeMap::new();
    for facts in &snapshot.segments {
        let last = newest.entry(facts.core).or_insert(facts);
        if facts.number > last.number {
            *last = facts;
        }
    }
    for (facts, pins) in snapshot.segments.iter().zip(&mut pins) {
        pins.newest_run = newest.get(&facts.core).is_some_and(|last| last.incarnation == facts.incarnation);
    }
    pins
}

fn pin_controls(snapshot: &Snapshot, pins: &mut [Pins]) {
    // A ceiling holds for its core; only the highest counts.
    let mut ceilings: BTreeMap<CoreId, (Version, usize)> = BTreeMap::new();
    let mut members: BTreeMap<NodeId, (Version, usize)> = BTreeMap::new();
    // Later segments of a core repeat what earlier ones said; the last copy is the one that is needed.
    let mut opens: BTreeMap<(RunName, CoreId), usize> = BTreeMap::new();
    for control in &snapshot.controls {
        match &control.record {
            ControlRecord::ClockCeiling { version } => {
                if let Some(facts) = snapshot.segments.get(control.segment) {
                    raise(&mut ceilings, facts.core, *version, control.segment);
                }
            }
            ControlRecord::Membership { node, at, .. } => raise(&mut members, *node, *at, control.segment),
            ControlRecord::Open { node, incarnation, .. } => {
                if let Some(facts) = snapshot.segments.get(control.segment) {
                    opens.insert(((*node, *incarnation), facts.core), control.segment);
                }
            }
            ControlRecord::Watermark { .. }
            | ControlRecord::Close { .. }
            | ControlRecord::Forgotten { .. }
            | ControlRecord::Bootstrap { .. } => {}
        }
    }
    for control in &snapshot.controls {
        if let ControlRecord::Close { node, incarnation, .. } = &control.record {
            opens.retain(|(run, _), _| *run != (*node, *incarnation));
        }
    }
    let mut count = |segment: usize, which: fn(&mut Pins) -> &mut u64| {
        if let Some(pins) = pins.get_mut(segment) {
            *which(pins) += 1;
        }
    };
    ceilings.into_values().for_each(|(_, segment)| count(segment, |pins| &mut pins.ceilings));
    members.into_values().for_each(|(_, segment)| count(segment, |pins| &mut pins.memberships));
    opens.into_values().for_each(|segment| count(segment, |pins| &mut pins.opens));
}

fn raise<K: Ord>(newest: &mut BTreeMap<K, (Version, usize)>, key: K, version: Version, segment: usize) {
    let known = newest.entry(key).or_insert((version, segment));
    if version >= known.0 {
        *known = (version, segment);
    }
}

fn json<'a>(
    facts: &'a SegmentFacts,
    pins: &Pins,
    pinned_by: Vec<&'static str>,
    passages: &[(NodeId, Passage)],
) -> SegmentJson<'a> {
    let hex = |version: Version| format!("{:#018x}", version.0);
    let peers = passages.iter().map(|(node, passage)| PeerJson {
        node: node.to_string(),
        passage: passage.label(),
        watermark: if let Passage::Behind(version) = passage { Some(hex(*version)) } else { None },
    });
    SegmentJson {
        file: &facts.name,
        core: facts.core.0,
        segment: facts.number.0,
        incarnation: facts.incarnation.to_string(),
        sealed: facts.sealed,
        pinned_by,
        records: facts.records,
        record_bytes: facts.record_bytes,
        live: pins.live,
        live_bytes: pins.live_bytes,
        tombstones: pins.tombstones,
        expired: pins.expired,
        watermarks: pins.watermarks,
        ceilings: pins.ceilings,
        opens: pins.opens,
        memberships: pins.memberships,
        originated_version_max: facts.originated_max.map(hex),
        peers: peers.collect(),
    }
}
