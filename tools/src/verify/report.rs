//! What a comparison comes to, for people and as JSON.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;

use bytes::Bytes;
use engine::replication::compare;
use net::ids::{NodeId, RegionName, Version};
use net::wire::body::{Covered, Entry};
use serde_json::{Value, json};

use super::node::Summed;

/// Keys on their way that are named; the others are counted.
const WAITING_SHOWN: usize = 5;

/// Bytes of a key that people are shown.
const KEY_BYTES_SHOWN: usize = 200;

/// What is said in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Equal,
    Different,
    Unknown,
}

impl Verdict {
    pub(super) fn exit_code(self) -> u8 {
        match self {
            Verdict::Equal => 0,
            Verdict::Different => 1,
            Verdict::Unknown => 2,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Verdict::Equal => "equal",
            Verdict::Different => "different",
            Verdict::Unknown => "unknown",
        }
    }
}

/// One of the nodes that were compared.
#[derive(Clone, Debug)]
pub(super) struct Compared {
    pub(super) region: RegionName,
    pub(super) node: NodeId,
    pub(super) addr: SocketAddr,
    pub(super) keys: u64,
    pub(super) digest: u64,
}

/// A key that nodes do not agree on.
#[derive(Clone, Debug)]
pub(super) struct Difference {
    pub(super) key: Bytes,
    /// Nodes that hold the log of the newest record up to there, and do not have it.
    pub(super) lacking: BTreeSet<usize>,
    /// What each node has.
    pub(super) found: Vec<Option<Entry>>,
}

/// A write that had not reached all nodes when the time was over.
#[derive(Clone, Debug)]
pub(super) struct Waiting {
    pub(super) key: Bytes,
    pub(super) version: Version,
    pub(super) origin: NodeId,
    /// Where it is missing.
    pub(super) nodes: BTreeSet<usize>,
}

/// What came of it.
#[derive(Clone, Debug)]
pub(super) struct Report {
    pub(super) nodes: Vec<Compared>,
    pub(super) unreachable: Vec<(SocketAddr, String)>,
    /// What all nodes held before they were looked at.
    pub(super) covered: Vec<Covered>,
    /// Leaves whose sums differ.
    pub(super) leaves: usize,
    /// Keys that were compared one by one.
    pub(super) looked_at: u64,
    pub(super) differences: Vec<Difference>,
    /// There are no further differences.
    pub(super) is_complete: bool,
    pub(super) waiting: Vec<Waiting>,
}

impl Report {
    pub(super) fn new(addrs: &[SocketAddr], summed: &[Summed], unreachable: Vec<(SocketAddr, String)>) -> Report {
        let compared = |(addr, summed): (&SocketAddr, &Summed)| Compared {
            region: summed.coverage.region.clone(),
            node: summed.coverage.node,
            addr: *addr,
            keys: summed.keys,
            digest: compare::digest(&summed.sums),
        };
        let coverages: Vec<_> = summed.iter().map(|summed| &summed.coverage).collect();
        Report {
            nodes: addrs.iter().zip(summed).map(compared).collect(),
            unreachable,
            covered: compare::held_by_all(&coverages),
            leaves: 0,
            looked_at: 0,
            differences: Vec::new(),
            is_complete: true,
            waiting: Vec::new(),
        }
    }

    pub(super) fn verdict(&self) -> Verdict {
        match (self.differences.is_empty(), self.waiting.is_empty() && self.unreachable.is_empty()) {
            (false, _) => Verdict::Different,
            (true, true) => Verdict::Equal,
            (true, false) => Verdict::Unknown,
        }
    }

    pub(super) fn print(&self, as_json: bool, out: &mut dyn io::Write) -> io::Result<()> {
        if as_json {
            let text = serde_json::to_string_pretty(&self.json()).map_err(io::Error::other)?;
            return writeln!(out, "{text}");
        }
        out.write_all(self.text().as_bytes())
    }

    fn region(&self, node: usize) -> &str {
        self.nodes[node].region.as_str()
    }

    fn regions(&self, nodes: &BTreeSet<usize>) -> String {
        nodes.iter().map(|node| self.region(*node)).collect::<Vec<_>>().join(", ")
    }

    /// A node, by its region if it is among those that were compared.
    fn name(&self, node: NodeId) -> String {
        let known = self.nodes.iter().find(|compared| compared.node == node);
        known.map_or_else(|| format!("node {node}"), |compared| compared.region.to_string())
    }

    fn text(&self) -> String {
        let mut text = String::new();
        let count = self.nodes.len();
        for compared in &self.nodes {
            let Compared { region, node, addr, keys, digest } = compared;
            text += &format!("{region}  node {node} at {addr}: {keys} values, digest {digest:016x}\n");
        }
        for (addr, reason) in &self.unreachable {
            text += &format!("not compared: {addr}: {reason}\n");
        }
        for covered in &self.covered {
            let (name, run) = (self.name(covered.log.node), covered.log.incarnation.0);
            text += &format!("all hold the log of {name}, run {run:016x}, up to {}\n", wal::Version(covered.upto.0));
        }
        if self.looked_at > 0 {
            text += &format!("{} keys were compared one by one, and looked at again\n", self.looked_at);
        }
        for difference in &self.differences {
            let has =
                |node: usize| format!("{} has {}", self.region(node), self.shown(difference.found[node].as_ref()));
            let has: Vec<String> = (0..count).map(has).collect();
            text += &format!("key {}: {}\n", shown_key(&difference.key), has.join(", "));
        }
        for waiting in self.waiting.iter().take(WAITING_SHOWN) {
            let (version, origin) = (wal::Version(waiting.version.0), self.name(waiting.origin));
            let (key, regions) = (shown_key(&waiting.key), self.regions(&waiting.nodes));
            text += &format!("key {key}: {version} of {origin} has not reached {regions} yet\n");
        }
        let all = match count {
            2 => "both regions".to_owned(),
            _ => format!("all {count} regions"),
        };
        text += &match self.verdict() {
            Verdict::Equal => format!("equal: {all} have the same values\n"),
            Verdict::Different if self.is_complete => {
                format!("different: {} keys, in {} of 65536 parts\n", self.differences.len(), self.leaves)
            }
            Verdict::Different => {
                let (keys, leaves) = (self.differences.len(), self.leaves);
                format!(
                    "different: at least {keys} keys, in up to {leaves} of 65536 parts; --keys N names more of them\n"
                )
            }
            Verdict::Unknown if self.waiting.is_empty() => {
                format!("could not tell: {all} that answered have the same values, but not all answered\n")
            }
            Verdict::Unknown => {
                let writes = self.waiting.len();
                format!(
                    "could not tell: {writes} writes have not reached all regions; is a link down? --wait N waits longer\n"
                )
            }
        };
        text
    }

    fn shown(&self, entry: Option<&Entry>) -> String {
        let Some(entry) = entry else { return "nothing".into() };
        let (what, version) =
            (if entry.is_tombstone { "a deletion" } else { "a value" }, wal::Version(entry.version.0));
        format!("{what} of version {version} by {} (crc {:08x})", self.name(entry.origin), entry.crc)
    }

    fn json(&self) -> Value {
        let nodes = self.nodes.iter().map(|compared| {
            json!({
                "region": compared.region.as_str(), "node": compared.node.to_string(),
                "address": compared.addr.to_string(), "values": compared.keys,
                "digest": format!("{:016x}", compared.digest),
            })
        });
        let covered = self.covered.iter().map(|covered| {
            let run = format!("{:016x}", covered.log.incarnation.0);
            json!({ "node": covered.log.node.to_string(), "run": run, "upto": covered.upto.0 })
        });
        let has = |(node, entry): (usize, &Option<Entry>)| {
            let region = self.region(node);
            match entry {
                None => json!({ "region": region, "has": "nothing" }),
                Some(entry) => json!({
                    "region": region, "has": if entry.is_tombstone { "deletion" } else { "value" },
                    "version": entry.version.0, "origin": entry.origin.to_string(), "crc": entry.crc,
                    "expiry": entry.expiry,
                }),
            }
        };
        let differences = self.differences.iter().map(|difference| {
            let found: Vec<Value> = difference.found.iter().enumerate().map(has).collect();
            let lacking: Vec<&str> = difference.lacking.iter().map(|node| self.region(*node)).collect();
            json!({ "key": whole_key(&difference.key), "lacking": lacking, "found": found })
        });
        let waiting = self.waiting.iter().map(|waiting| {
            let missing: Vec<&str> = waiting.nodes.iter().map(|node| self.region(*node)).collect();
            json!({ "key": whole_key(&waiting.key), "version": waiting.version.0, "origin": waiting.origin.to_string(), "missing_in": missing })
        });
        let unreachable =
            self.unreachable.iter().map(|(addr, reason)| json!({ "address": addr.to_string(), "reason": reason }));
        json!({
            "verdict": self.verdict().name(),
            "regions": nodes.collect::<Vec<_>>(),
            "unreachable": unreachable.collect::<Vec<_>>(),
            "covered": covered.collect::<Vec<_>>(),
            "compared_one_by_one": self.looked_at,
            "differences": differences.collect::<Vec<_>>(),
            "differences_complete": self.is_complete,
            "on_their_way": waiting.collect::<Vec<_>>(),
        })
    }
}

/// As a quoted string, with escapes for what is not printable; invertible.
fn whole_key(key: &[u8]) -> String {
    key.escape_ascii().to_string()
}

fn shown_key(key: &[u8]) -> String {
    match key.get(..KEY_BYTES_SHOWN) {
        Some(start) if key.len() > KEY_BYTES_SHOWN => format!("\"{}\"… ({} bytes)", start.escape_ascii(), key.len()),
        _ => format!("\"{}\"", key.escape_ascii()),
    }
}
