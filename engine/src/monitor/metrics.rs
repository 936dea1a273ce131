//! The metrics: one table a kind, from which `/metrics` and docs/METRICS.md are made. A new metric is one line here and
//! one there; a test compares them.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::control::status::{PeerStatus, Status, StatusBoard};
use crate::core::stages::Stage;
use crate::node::{CoreGauges, NodeFacts};
use crate::replication::catch_up::Progress;

/// How a metric behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only rises within a run. The name gets the suffix `_total`.
    Counter,
    /// Goes up and down.
    Gauge,
    /// The same, also below zero.
    SignedGauge,
}

/// One metric over a source of type `S`.
#[derive(Debug)]
pub struct Metric<S> {
    /// Name, without the prefix `godwit_` and the suffix of counters.
    pub name: &'static str,
    /// One sentence.
    pub help: &'static str,
    /// Counter or gauge.
    pub kind: Kind,
    read: fn(&S) -> u64,
}

const fn counter<S>(name: &'static str, help: &'static str, read: fn(&S) -> u64) -> Metric<S> {
    Metric { name, help, kind: Kind::Counter, read }
}

const fn gauge<S>(name: &'static str, help: &'static str, read: fn(&S) -> u64) -> Metric<S> {
    Metric { name, help, kind: Kind::Gauge, read }
}

/// Of a value in two's complement.
const fn signed_gauge<S>(name: &'static str, help: &'static str, read: fn(&S) -> u64) -> Metric<S> {
    Metric { name, help, kind: Kind::SignedGauge, read }
}

fn load(value: &AtomicU64) -> u64 {
    value.load(Ordering::Relaxed)
}

/// Metrics of one core; label `core`.
pub const CORE_METRICS: &[Metric<CoreGauges>] = &[
    gauge("keys", "Readable keys.", |core| load(&core.live_keys)),
    gauge("index_entries", "Index entries, tombstones included.", |core| load(&core.entries)),
    gauge("index_bytes", "Memory of the index in bytes.", |core| load(&core.index_bytes)),
    gauge("client_connections", "Open client connections.", |core| {
        u64::try_from(core.connections.load(Ordering::Relaxed)).unwrap_or(0)
    }),
    counter("commands", "Client commands run.", |core| load(&core.commands)),
    counter("protocol_errors", "Client connections closed because of bad input.", |core| load(&core.protocol_errors)),
    counter("records_originated", "Records written by clients of this node.", |core| load(&core.originated)),
    counter("records_followed", "Records of other nodes appended here.", |core| load(&core.followed)),
    counter("records_already_applied", "Records of other nodes that were here already.", |core| {
        load(&core.already_applied)
    }),
    counter("records_superseded", "Records of other nodes that lost against a newer one here.", |core| {
        load(&core.superseded)
    }),
    counter(
        "concurrent_overwrites",
        "Writes of other nodes that arrived after a later write of this node to the same key, which had not known them.",
        |core| load(&core.concurrent),
    ),
    counter("records_held_back", "Records held back because their version lies too far in the future.", |core| {
        load(&core.held_back)
    }),
    counter("records_forgotten", "Tombstones and expired records forgotten because every member holds that.", |core| {
        load(&core.forgotten)
    }),
    counter("syncs", "Group commits made durable.", |core| load(&core.syncs)),
    counter("log_durable_bytes", "Bytes of this run's log that are durable.", |core| load(&core.durable_lsn)),
    gauge("log_failed", "1 after a failed sync: nothing is acknowledged any more.", |core| load(&core.log_failed)),
    gauge("disk_full", "1 while no log segment can be prepared.", |core| load(&core.disk_full)),
    counter("segments_prepared", "New segment files made.", |core| load(&core.segments_prepared)),
    counter("segments_recycled", "Segment files used again.", |core| load(&core.segments_recycled)),
    counter("segments_removed", "Segments given up because nothing in them counted any more.", |core| {
        load(&core.segments_removed)
    }),
    gauge("live_bytes", "Bytes of records that count, tombstones included.", |core| load(&core.live_bytes)),
    gauge(
        "compactable_bytes",
        "Bytes of immutable segment files in which something counts, and of those behind them, which wait for them.",
        |core| load(&core.compactable_bytes),
    ),
    counter("compacted_segments", "Segments that compaction read to their end.", |core| load(&core.compacted_segments)),
    counter("compacted_records", "Records that compaction appended again.", |core| load(&core.compacted_records)),
    counter("compacted_bytes", "Bytes of records that compaction appended again.", |core| load(&core.compacted_bytes)),
    counter("compaction_nanoseconds", "Time of the core threads that compaction took.", |core| {
        load(&core.compaction_ns)
    }),
    counter("compaction_stopped", "Segments that could not be read back and keep their space.", |core| {
        load(&core.compaction_stopped)
    }),
    gauge("memory_bytes", "Bytes of memory that count against MEMORY_LIMIT; 0 without a limit.", |core| {
        load(&core.memory_bytes)
    }),
    gauge("mapped_bytes", "Bytes of segments in memory; 0 without a limit.", |core| load(&core.mapped_bytes)),
    gauge("fetched_bytes", "Bytes of records in memory whose segments are not.", |core| load(&core.fetched_bytes)),
    gauge("cold_segments", "Segments that are not in memory.", |core| load(&core.cold_segments)),
    gauge("pinned_bytes", "Bytes of segments that left memory while something of them was being sent.", |core| {
        load(&core.pinned_bytes)
    }),
    counter("slow_readers_closed", "Connections closed because their clients took large values too slowly.", |core| {
        load(&core.slow_readers_closed)
    }),
    counter("fetches", "Reads of records whose segments are not in memory.", |core| load(&core.fetches)),
    counter("unreadable_records", "Reads of such records that failed, or found damage.", |core| load(&core.unreadable)),
];

/// Latency of group commit by stage; labels `core`, `stage` and `quantile`.
pub const STAGE_LATENCY: (&str, &str) = (
    "commit_stage_nanoseconds",
    "Time of a group in one stage of its commit (staged, written, synced, woken) since the start; label quantile.",
);

/// How soon records of other regions become visible here; labels `region` and `quantile`.
pub const VISIBILITY: (&str, &str) = (
    "visibility_milliseconds",
    "Age of records of another region when they became visible here, by this node's clock, corrected by the measured skew of the origin's \
     where that is known: the oldest one of each claim, since the start; labels region (the origin's) and quantile.",
);

/// How many samples those quantiles rest on; label `region`.
pub const VISIBILITY_SAMPLES: (&str, &str) =
    ("visibility_samples", "Claims over which godwit_visibility_milliseconds was measured; label region.");

/// The quantiles that are shown, as labels and as fractions.
const QUANTILES: [(&str, f64); 5] = [("0.5", 0.5), ("0.99", 0.99), ("0.999", 0.999), ("0.9999", 0.9999), ("1", 1.0)];

fn catch_up(peer: &PeerStatus) -> Progress {
    peer.catch_up.unwrap_or_default()
}

/// Metrics of one configured peer; labels `peer` (its discovery address) and `region`.
pub const PEER_METRICS: &[Metric<PeerStatus>] = &[
    gauge("peer_discovery_up", "1 while the discovery link to the peer is up.", |peer| u64::from(peer.discovery_up)),
    gauge("peer_following", "1 while this node follows the peer's log.", |peer| u64::from(peer.following)),
    gauge("peer_followed", "1 while the peer follows this node's log.", |peer| u64::from(peer.followed)),
    gauge("peer_rtt_microseconds", "Smoothed round-trip time; 0 before the first measurement.", |peer| {
        peer.rtt_us.unwrap_or(0)
    }),
    signed_gauge(
        "peer_clock_offset_milliseconds",
        "The peer's physical clock minus this node's; 0 while it is not known.",
        |peer| peer.clock_offset_ms.unwrap_or(0).cast_unsigned(),
    ),
    gauge(
        "peer_clock_uncertainty_milliseconds",
        "How far the truth may be away from the clock offset: half of the shortest recent round trip; 0 while it is not known.",
        |peer| peer.clock_uncertainty_ms.unwrap_or(0),
    ),
    gauge(
        "peer_clock_alarm",
        "1 while the peer's clock stands more than 100 ms away from this node's, whatever the path does.",
        |peer| u64::from(peer.clock_alarm),
    ),
    gauge(
        "peer_lag_milliseconds",
        "Age of the oldest write of this node that the peer has not acknowledged as durable; 0 when it has all.",
        |peer| peer.lag_ms,
    ),
    gauge(
        "peer_unacknowledged_bytes",
        "Bytes of records of this run that are durable here and that the peer has not acknowledged; exact but for what is long ago.",
        |peer| peer.unacknowledged_bytes,
    ),
    gauge("peer_unacknowledged_records", "How many records those are.", |peer| peer.unacknowledged_records),
    counter("anti_entropy_comparisons", "Comparisons of this node with the peer that came to their end.", |peer| {
        peer.comparisons
    }),
    counter(
        "anti_entropy_keys_lacking",
        "Keys that the peer had and this node had lost, although it had said that it holds them.",
        |peer| peer.keys_lacking,
    ),
    counter("anti_entropy_keys_repaired", "Those that it fetched from the peer.", |peer| peer.keys_repaired),
    gauge(
        "anti_entropy_ended_timestamp_seconds",
        "When the last comparison with the peer ended, in seconds since 1970; 0 before the first one.",
        |peer| peer.compared_unix_ms / 1_000,
    ),
    counter(
        "peer_sent_records_bytes",
        "Bytes of records sent to the peer, as on the wire: packed where that gains, with the heads of their messages.",
        |peer| peer.sent_records_bytes,
    ),
    counter(
        "peer_sent_records_raw_bytes",
        "Bytes of the same records as they lie in the log, before packing and without those heads.",
        |peer| peer.sent_records_raw_bytes,
    ),
    counter("peer_sent_claims_bytes", "Bytes of claims sent to the peer.", |peer| peer.sent_claims_bytes),
    counter("peer_sent_heartbeats_bytes", "Bytes of heartbeats sent to the peer.", |peer| peer.sent_heartbeats_bytes),
    counter("peer_sent_other_bytes", "Bytes of everything else sent to the peer.", |peer| peer.sent_other_bytes),
    counter("peer_received_records_bytes", "Bytes of records received from the peer, as on the wire.", |peer| {
        peer.received_records_bytes
    }),
    counter("peer_received_records_raw_bytes", "Bytes of the same records, unpacked and without heads.", |peer| {
        peer.received_records_raw_bytes
    }),
    counter("peer_sent_bulk_bytes", "Bytes of records sent to the peer on bulk connections, of those above.", |peer| {
        peer.sent_bulk_bytes
    }),
    counter(
        "peer_received_bulk_bytes",
        "Bytes of records received from the peer on bulk connections, of those above.",
        |peer| peer.received_bulk_bytes,
    ),
    gauge("peer_catching_up", "1 while this node catches up with what the peer wrote earlier.", |peer| {
        u64::from(peer.catch_up.is_some())
    }),
    gauge(
        "peer_catch_up_bytes",
        "Bytes of records that came in the present catch-up, as they lie in the log; 0 while there is none, like those below.",
        |peer| catch_up(peer).bytes,
    ),
    gauge("peer_catch_up_records", "How many records those are.", |peer| catch_up(peer).records),
    gauge("peer_catch_up_bytes_per_second", "How fast they come, over the last seconds.", |peer| {
        catch_up(peer).bytes_per_second
    }),
    gauge("peer_catch_up_left_bytes", "Bytes of its log that the peer has still to read for it.", |peer| {
        catch_up(peer).left_bytes
    }),
    gauge("peer_catch_up_left_seconds", "How long that will take at the present pace; 0 before it is known.", |peer| {
        catch_up(peer).left_seconds.unwrap_or(0)
    }),
    gauge(
        "peer_catch_up_behind_milliseconds",
        "By how much what is held of the peer's log is older than where its live stream began.",
        |peer| catch_up(peer).behind_ms,
    ),
];

/// Metrics of the node as a whole.
pub const NODE_METRICS: &[Metric<Status>] = &[
    gauge(
        "ready",
        "1 once the log is open and while it works, unless this node was removed from the mesh or takes over what another one has.",
        |status| u64::from(status.ready),
    ),
    gauge("clock_stepped", "1 while the wall clock stands too far from physical time and is not followed.", |status| {
        u64::from(status.clock_stepped)
    }),
    gauge(
        "uncollected_milliseconds",
        "For how long something deleted or expired has been remembered because some member may not hold that; 0 if nothing is.",
        |status| status.uncollected_ms,
    ),
    gauge(
        "retained_bytes",
        "Bytes of log files in which nothing counts any more, kept because some member may lack what is in them.",
        |status| status.retained_bytes,
    ),
    gauge(
        "clock_held_back_milliseconds",
        "By how much this node takes the time for lower, because its clock is ahead of the median of the others'.",
        |status| status.clock_held_back_ms,
    ),
    counter("links_refused", "Connections of the mesh that were refused or closed for a reason.", |status| {
        status.refused
    }),
    gauge("members_joined", "Nodes that belong to the mesh, this one included.", |status| {
        status.members.iter().filter(|member| member.state == "joined").count() as u64
    }),
    gauge("members_removed", "Nodes that were removed from the mesh for good.", |status| {
        status.members.iter().filter(|member| member.state == "removed").count() as u64
    }),
    gauge("removed", "1 once this node was removed from the mesh.", |status| u64::from(status.removed)),
    gauge("bootstrapping", "1 while everything is taken over from another node.", |status| {
        u64::from(status.bootstrap.under_way)
    }),
    gauge("bootstrap_records", "Records that the last such takeover brought.", |status| status.bootstrap.records),
    gauge("bootstrap_bytes", "Their bytes.", |status| status.bootstrap.bytes),
    gauge("services_listed", "Service instances in the list of all regions.", |status| status.services.len() as u64),
];

/// The registry of a node.
#[must_use]
pub fn registry(facts: Arc<NodeFacts>, status: StatusBoard) -> Registry {
    let mut registry = Registry::with_prefix("godwit");
    registry.register_collector(Box::new(NodeCollector { facts, status }));
    registry
}

#[derive(Debug)]
struct NodeCollector {
    facts: Arc<NodeFacts>,
    status: StatusBoard,
}

impl Collector for NodeCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let status = self.status.read();
        let node = [(String::new(), &status)];
        encode_all(&mut encoder, NODE_METRICS, &node, |_| [None, None])?;
        let cores: Vec<_> =
            self.facts.gauges.iter().enumerate().map(|(core, gauges)| (core.to_string(), &**gauges)).collect();
        encode_all(&mut encoder, CORE_METRICS, &cores, |(core, _)| [Some(("core", core.as_str())), None])?;
        encode_stages(&mut encoder, &cores)?;
        encode_visibility(&mut encoder, &status)?;
        let peers: Vec<_> = status.peers.iter().map(|peer| (peer.address.clone(), peer)).collect();
        encode_all(&mut encoder, PEER_METRICS, &peers, |(address, peer)| {
            [Some(("peer", address.as_str())), Some(("region", peer.region.as_str()))]
        })
    }
}

fn encode_stages(encoder: &mut DescriptorEncoder<'_>, cores: &[(String, &CoreGauges)]) -> fmt::Result {
    let (name, help) = STAGE_LATENCY;
    let mut family = encoder.encode_descriptor(name, help, None, ConstGauge::new(0i64).metric_type())?;
    for (core, gauges) in cores {
        for stage in Stage::ALL {
            for (label, quantile) in QUANTILES {
                let labels = [("core", core.as_str()), ("stage", stage.name()), ("quantile", label)];
                let latency_ns = gauges.stages.quantile_ns(stage, quantile);
                let entry = family.encode_family(&labels)?;
                ConstGauge::new(i64::try_from(latency_ns).unwrap_or(i64::MAX)).encode(entry)?;
            }
        }
    }
    Ok(())
}

fn encode_visibility(encoder: &mut DescriptorEncoder<'_>, status: &Status) -> fmt::Result {
    let (name, help) = VISIBILITY;
    let mut family = encoder.encode_descriptor(name, help, None, ConstGauge::new(0i64).metric_type())?;
    for seen in &status.visibility {
        for (quantile, age_ms) in
            [("0.5", seen.p50_ms), ("0.99", seen.p99_ms), ("0.999", seen.p999_ms), ("1", seen.max_ms)]
        {
            let labels = [("region", seen.region.as_str()), ("quantile", quantile)];
            let entry = family.encode_family(&labels)?;
            ConstGauge::new(i64::try_from(age_ms).unwrap_or(i64::MAX)).encode(entry)?;
        }
    }
    let (name, help) = VISIBILITY_SAMPLES;
    let mut family = encoder.encode_descriptor(name, help, None, ConstCounter::new(0u64).metric_type())?;
    for seen in &status.visibility {
        ConstCounter::new(seen.samples).encode(family.encode_family(&[("region", seen.region.as_str())])?)?;
    }
    Ok(())
}

/// The labels of one source; at most two.
type Labels<'a> = [Option<(&'static str, &'a str)>; 2];

fn encode_all<'a, S>(
    encoder: &mut DescriptorEncoder<'_>,
    metrics: &[Metric<S>],
    sources: &'a [(String, &'a S)],
    labels: impl Fn(&'a (String, &'a S)) -> Labels<'a>,
) -> fmt::Result {
    for metric in metrics {
        let kind = match metric.kind {
            Kind::Counter => ConstCounter::new(0u64).metric_type(),
            Kind::Gauge | Kind::SignedGauge => ConstGauge::new(0i64).metric_type(),
        };
        let mut family = encoder.encode_descriptor(metric.name, metric.help, None, kind)?;
        for source in sources {
            let labels: Vec<(&str, &str)> = labels(source).into_iter().flatten().collect();
            let value = (metric.read)(source.1);
            let entry = family.encode_family(&labels)?;
            match metric.kind {
                Kind::Counter => ConstCounter::new(value).encode(entry)?,
                Kind::Gauge => ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)).encode(entry)?,
                Kind::SignedGauge => ConstGauge::new(value.cast_signed()).encode(entry)?,
            }
        }
    }
    Ok(())
}

/// Rows of docs/METRICS.md: full name, type, help.
#[must_use]
pub fn document_rows() -> Vec<String> {
    fn row<S>(metric: &Metric<S>) -> String {
        let (suffix, kind) = match metric.kind {
            Kind::Counter => ("_total", "counter"),
            Kind::Gauge | Kind::SignedGauge => ("", "gauge"),
        };
        format!("| `godwit_{}{suffix}` | {kind} | {} |", metric.name, metric.help)
    }
    let (name, help) = STAGE_LATENCY;
    let rows = NODE_METRICS.iter().map(row).chain(CORE_METRICS.iter().map(row));
    let rows = rows.chain([format!("| `godwit_{name}` | gauge | {help} |")]);
    let (name, help) = VISIBILITY;
    let rows = rows.chain([format!("| `godwit_{name}` | gauge | {help} |")]);
    let (name, help) = VISIBILITY_SAMPLES;
    let rows = rows.chain([format!("| `godwit_{name}_total` | counter | {help} |")]);
    rows.chain(PEER_METRICS.iter().map(row)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_lists_exactly_these_metrics() {
        let document = include_str!("../../../docs/METRICS.md");
        let listed: Vec<&str> = document.lines().filter(|line| line.starts_with("| `godwit_")).collect();
        assert_eq!(listed, document_rows(), "docs/METRICS.md and monitor/metrics.rs differ");
    }

    #[test]
    fn every_metric_is_encoded_with_its_labels() {
        let facts = NodeFacts {
            region: "sfo".into(),
            node: wal::NodeId(1),
            incarnation: wal::Incarnation(2),
            cores: 2,
            durability: crate::node::Durability::Fsync,
            io_backend: "sim".into(),
            storage_port: 0,
            started_unix_ms: 0,
            gauges: vec![Arc::default(), Arc::default()],
            slow_log: Default::default(),
            lost: Default::default(),
            holders: Default::default(),
            residency: Default::default(),
        };
        facts.gauges[1].commands.store(7, Ordering::Relaxed);
        let status = StatusBoard::default();
        let (address, region) = ("10.0.0.2:10200".to_owned(), "nyc".to_owned());
        let peer = PeerStatus { address, region, lag_ms: 5, clock_offset_ms: Some(-130), ..PeerStatus::default() };
        status.write(|status| status.peers.push(peer));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry(Arc::new(facts), status)).unwrap();
        for line in [
            "godwit_commands_total{core=\"1\"} 7",
            "godwit_peer_lag_milliseconds{peer=\"10.0.0.2:10200\",region=\"nyc\"} 5",
            "godwit_peer_clock_offset_milliseconds{peer=\"10.0.0.2:10200\",region=\"nyc\"} -130",
            "godwit_ready 0",
            "# EOF",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
    }
}
