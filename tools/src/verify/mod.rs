//! `godwit verify`: whether regions have the same values, and which keys differ if not.
//!
//! Each node sums its values up by leaf of the key's hash; where sums differ, what is there is compared one by one, and keys that differ are looked at
//! again until every node has what was seen, or holds its log up to there without having it, or the time is over. So writes that go
//! on meanwhile are no differences ([`engine::replication::compare`] says why). Memory is bounded: so many leaves at a time that about `BATCH_ENTRIES`
//! of each node are at hand.

mod node;
mod report;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use engine::monitor::http::StatusReply;
use engine::replication::compare::{self, Held, Outcome};
use net::wire::body::{Coverage, Entry};
use net::wire::limits::{INSPECT_LEAVES_MAX, LEAVES};

use self::node::{Node, Summed};
use self::report::{Difference, Report, Waiting};
use crate::members;

/// Entries of each node that are compared at a time, about.
const BATCH_ENTRIES: usize = 100_000;

/// What one request for keys may hold of them.
const LOOKUP_KEYS: usize = 1_000;
const LOOKUP_BYTES: usize = 60_000;

/// How long to wait before what is on its way is looked at again.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(200);

/// The services of a node by these names are at its discovery port.
const DISCOVERY_SERVICE: &str = "discovery";
const DISCOVERY_PORT: u16 = 10_200;

/// What to compare.
#[derive(Debug, Args)]
pub struct Options {
    /// Discovery addresses of the nodes to compare (BIND_HOST and DISCOVERY_PORT there; the port defaults to 10200). With none, the node at --admin
    /// and all its peers.
    #[arg(value_name = "IP[:PORT]", value_parser = parse_node)]
    nodes: Vec<SocketAddr>,
    /// Admin address of any node of the mesh (BIND_HOST and ADMIN_PORT there), which says where the others are.
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:10800")]
    admin: SocketAddr,
    /// How many keys that differ are named; the search ends with them.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    keys: u32,
    /// How long to wait for writes that one node has and another does not have yet, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    wait: u64,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

fn parse_node(text: &str) -> Result<SocketAddr, String> {
    let bare = text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, DISCOVERY_PORT));
    bare.or_else(|_| text.parse())
        .map_err(|_| format!("write an address such as 10.0.0.1 or 10.0.0.1:{DISCOVERY_PORT}"))
}

/// Why nothing could be said.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// Who else there is could not be asked.
    #[error(transparent)]
    Members(#[from] members::MembersError),
    /// A node does not say where it is.
    #[error(
        "the node at {0} does not list its own discovery address yet; try again in some seconds, or name the nodes"
    )]
    NotListed(SocketAddr),
    /// There are not two nodes.
    #[error("{0}; at least two nodes are needed for a comparison{1}")]
    TooFew(String, String),
    /// A node stopped answering.
    #[error(
        "{addr} does not answer as a godwit node: {reason}; is it up, and is this the address of its DISCOVERY_PORT?"
    )]
    Node {
        /// Which.
        addr: SocketAddr,
        /// What happened.
        reason: String,
    },
    /// The result cannot be printed.
    #[error("standard output: {0}")]
    Output(io::Error),
}

/// Compares, prints what came of it, and gives what to end with: 0 equal, 1 different, 2 could not tell.
pub fn main(options: &Options, out: &mut dyn io::Write, err: &mut dyn io::Write) -> ExitCode {
    let printed = run(options).and_then(|report| {
        report.print(options.json, out).map_err(VerifyError::Output)?;
        Ok(report.verdict().exit_code())
    });
    match printed {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            let _ = writeln!(err, "godwit verify: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(options: &Options) -> Result<Report, VerifyError> {
    let addresses = if options.nodes.is_empty() { addresses_at(options.admin)? } else { options.nodes.clone() };
    let mut search = Search::connect(&addresses)?;
    let coverages = search.look_at(&[])?.0;
    let clocks = || coverages.iter().map(|coverage| coverage.physical_ms);
    let (earliest_ms, latest_ms) = (clocks().min().unwrap_or(0), clocks().max().unwrap_or(0));
    let upto = wal::Version::new(earliest_ms.saturating_sub(wal::EPOCH_2020_UNIX_MS), u16::MAX, u16::MAX);
    let summed = search.sum_up(net::ids::Version(upto.0), latest_ms)?;
    let sums: Vec<&[u64]> = summed.iter().map(|summed| summed.sums.as_slice()).collect();
    let leaves = compare::differing_leaves(&sums);
    let mut report = Report::new(&search.addresses(), &summed, std::mem::take(&mut search.unreachable));
    report.leaves = leaves.len();
    search.search(&leaves, &summed, options, &mut report)?;
    Ok(report)
}

/// The nodes of the mesh, as the one whose admin port this is knows them.
fn addresses_at(admin: SocketAddr) -> Result<Vec<SocketAddr>, VerifyError> {
    let StatusReply { region, status, .. } = members::status(admin)?;
    let own = status.services.iter().find(|listed| listed.service == DISCOVERY_SERVICE && listed.region == region);
    let own = own.and_then(|listed| listed.address.parse().ok()).ok_or(VerifyError::NotListed(admin))?;
    let peers = status.peers.iter().filter_map(|peer| peer.address.parse().ok());
    Ok(std::iter::once(own).chain(peers).collect())
}

/// The nodes, and those that do not answer.
struct Search {
    nodes: Vec<Node>,
    unreachable: Vec<(SocketAddr, String)>,
}

/// A key of which nodes had different records, and the newest of them.
type Open = Entry;

impl Search {
    /// Meets all nodes that answer, each once.
    fn connect(addresses: &[SocketAddr]) -> Result<Search, VerifyError> {
        let mut search = Search { nodes: Vec::new(), unreachable: Vec::new() };
        let (mut ids, mut regions) = (Vec::new(), Vec::new());
        for addr in addresses {
            let mut node = Node::new(*addr);
            match node.ask_keys(&[]).and_then(|()| node.hear_keys(|_| ())) {
                Ok(coverage) if ids.contains(&coverage.node) => {}
                Ok(coverage) => {
                    ids.push(coverage.node);
                    regions.push(coverage.region);
                    search.nodes.push(node);
                }
                Err(reason) => search.unreachable.push((*addr, reason)),
            }
        }
        if search.nodes.len() < 2 {
            let found = match search.nodes.first() {
                Some(node) => format!("only {} answers", node.addr()),
                None => "no node answers".into(),
            };
            let others = search.unreachable.iter().map(|(addr, reason)| format!("; {addr}: {reason}"));
            return Err(VerifyError::TooFew(found, others.collect()));
        }
        search.nodes.iter_mut().for_each(|node| node.compare(&regions));
        Ok(search)
    }

    fn addresses(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(Node::addr).collect()
    }

    /// Asks all nodes at once, then takes their answers.
    fn all<T>(
        &mut self,
        ask: impl Fn(&mut Node) -> Result<(), String>,
        mut hear: impl FnMut(usize, &mut Node) -> Result<T, String>,
    ) -> Result<Vec<T>, VerifyError> {
        let failed = |node: &Node, reason| VerifyError::Node { addr: node.addr(), reason };
        for node in &mut self.nodes {
            ask(node).map_err(|reason| failed(node, reason))?;
        }
        let answers = self.nodes.iter_mut().enumerate();
        answers.map(|(at, node)| hear(at, node).map_err(|reason| failed(node, reason))).collect()
    }

    fn sum_up(&mut self, upto: net::ids::Version, expiry_above: u64) -> Result<Vec<Summed>, VerifyError> {
        self.all(|node| node.ask_sums(upto, expiry_above), |_, node| node.hear_sums())
    }

    /// What every node covers, and has of these keys then.
    fn look_at(&mut self, keys: &[Bytes]) -> Result<(Vec<Coverage>, Found), VerifyError> {
        let mut found = Found::new(self.nodes.len());
        let coverages =
            self.all(|node| node.ask_keys(keys), |at, node| node.hear_keys(|entry| found.take(at, entry)))?;
        Ok((coverages, found))
    }

    /// Compares one by one what is in these leaves.
    fn search(
        &mut self,
        leaves: &[u16],
        summed: &[Summed],
        options: &Options,
        report: &mut Report,
    ) -> Result<(), VerifyError> {
        let keys = summed.iter().map(|summed| summed.keys).max().unwrap_or(0);
        let mut per_leaf = usize::try_from(keys).unwrap_or(usize::MAX) / LEAVES + 1;
        let mut rest = leaves;
        while !rest.is_empty() {
            let (batch, later) = rest.split_at((BATCH_ENTRIES / per_leaf).clamp(1, INSPECT_LEAVES_MAX).min(rest.len()));
            rest = later;
            let mut found = Found::new(self.nodes.len());
            self.all(|_| Ok(()), |at, node| node.inspect(batch, |entry| found.take(at, entry)))?;
            // Tombstones are among them, which the sums say nothing of.
            per_leaf = per_leaf.max(found.by_key.len() / batch.len());
            self.settle(found.open(), options, report)?;
            if report.differences.len() >= options.keys as usize {
                report.is_complete &= rest.is_empty();
                return Ok(());
            }
        }
        Ok(())
    }

    /// Looks at keys again until it is clear what became of each, or the time is over.
    fn settle(&mut self, mut open: Vec<Open>, options: &Options, report: &mut Report) -> Result<(), VerifyError> {
        report.looked_at += open.len() as u64;
        let deadline = Instant::now() + Duration::from_secs(options.wait);
        loop {
            let mut waiting: Vec<(Open, Waiting)> = Vec::new();
            for chunk in chunks(&open) {
                let keys: Vec<Bytes> = chunk.iter().map(|wanted| wanted.key.clone()).collect();
                let (coverages, found) = self.look_at(&keys)?;
                let held: Vec<Held> = coverages.iter().map(Held::of).collect();
                for wanted in chunk {
                    let found = found.of(&wanted.key);
                    match compare::settle(wanted, &held, &found) {
                        Outcome::Settled => {}
                        Outcome::Lacking(lacking) => {
                            report.differences.push(Difference { key: wanted.key.clone(), lacking, found });
                        }
                        Outcome::OnItsWay(nodes) => waiting.push((
                            wanted.clone(),
                            Waiting { key: wanted.key.clone(), version: wanted.version, origin: wanted.origin, nodes },
                        )),
                    }
                    if report.differences.len() >= options.keys as usize {
                        report.is_complete = false;
                        return Ok(());
                    }
                }
            }
            if waiting.is_empty() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                report.waiting.extend(waiting.into_iter().map(|(_, waiting)| waiting));
                return Ok(());
            }
            open = waiting.into_iter().map(|(open, _)| open).collect();
            std::thread::sleep(LOOK_AGAIN_AFTER);
        }
    }
}

/// As many as one request may name; at least one.
fn chunks(open: &[Open]) -> Vec<&[Open]> {
    let (mut chunks, mut rest) = (Vec::new(), open);
    while !rest.is_empty() {
        let mut bytes = 0;
        let fits = rest.iter().take(LOOKUP_KEYS).take_while(|wanted| {
            bytes += 2 + wanted.key.len();
            bytes <= LOOKUP_BYTES
        });
        let (chunk, later) = rest.split_at(fits.count().max(1));
        chunks.push(chunk);
        rest = later;
    }
    chunks
}

/// What nodes have, by key.
struct Found {
    nodes: usize,
    by_key: HashMap<Bytes, Vec<Option<Entry>>>,
}

impl Found {
    fn new(nodes: usize) -> Found {
        Found { nodes, by_key: HashMap::new() }
    }

    fn take(&mut self, node: usize, entry: Entry) {
        let found = self.by_key.entry(entry.key.clone()).or_insert_with(|| vec![None; self.nodes]);
        found[node] = Some(entry);
    }

    fn of(&self, key: &Bytes) -> Vec<Option<Entry>> {
        self.by_key.get(key).cloned().unwrap_or_else(|| vec![None; self.nodes])
    }

    /// The keys of which nodes have different records, unless all of them are tombstones.
    fn open(self) -> Vec<Open> {
        let mut open: Vec<Open> = Vec::new();
        for found in self.by_key.into_values() {
            let has_value = found.iter().flatten().any(|entry| !entry.is_tombstone);
            match compare::newest(&found) {
                Some((newest, false)) if has_value => open.push(newest.clone()),
                _ => {}
            }
        }
        open.sort_unstable_by(|one, other| one.key.cmp(&other.key));
        open
    }
}

#[cfg(test)]
mod tests {
    use net::ids::{NodeId, Version};

    use super::*;

    fn entry(key: &[u8], version: u64) -> Entry {
        let key = Bytes::copy_from_slice(key);
        Entry { version: Version(version), origin: NodeId(1), crc: 0, is_tombstone: false, expiry: 0, key_hash: 0, key }
    }

    #[test]
    fn an_address_may_leave_the_port_out() {
        assert_eq!(parse_node("10.0.0.1"), Ok("10.0.0.1:10200".parse().unwrap()));
        assert_eq!(parse_node("fd00::1"), Ok("[fd00::1]:10200".parse().unwrap()));
        assert_eq!(parse_node("10.0.0.1:7"), Ok("10.0.0.1:7".parse().unwrap()));
        assert!(parse_node("nyc").unwrap_err().contains("such as 10.0.0.1"));
    }

    #[test]
    fn keys_are_asked_for_in_requests_that_fit() {
        let keys: Vec<Entry> = (0..5_000usize).map(|n| entry(&vec![b'k'; n * 13 % 65_536], 1)).collect();
        let chunks = chunks(&keys);
        assert_eq!(chunks.concat(), keys);
        for chunk in chunks {
            let bytes: usize = chunk.iter().map(|entry| 2 + entry.key.len()).sum();
            assert!((1..=LOOKUP_KEYS).contains(&chunk.len()) && (bytes <= LOOKUP_BYTES || chunk.len() == 1));
        }
    }

    #[test]
    fn only_what_differs_is_looked_at_again() {
        let mut found = Found::new(2);
        for node in 0..2 {
            found.take(node, entry(b"same", 5));
            found.take(node, entry(b"newer", 5 + node as u64));
        }
        found.take(0, entry(b"single", 7));
        found.take(1, Entry { is_tombstone: true, ..entry(b"collected", 7) });
        let open: Vec<(Bytes, Version)> = found.open().into_iter().map(|open| (open.key, open.version)).collect();
        assert_eq!(open, [(Bytes::from_static(b"newer"), Version(6)), (Bytes::from_static(b"single"), Version(7))]);
    }
}
