//! What every loop of a node may know about the node: identity, settings that clients can ask for, shared gauges.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use wal::{Incarnation, NodeId};

use crate::core::stages::StageLatencies;
use crate::frontend::resp::slow_log::SlowLog;
use crate::replication::holders::Holders;
use crate::replication::residency::Residency;
use crate::shard::LostBoard;

/// The Redis version whose behaviour the RESP front end follows; what INFO and HELLO tell clients.
pub const REDIS_COMPATIBLE_VERSION: &str = "7.0.15";

/// This software's version.
pub const GODWIT_VERSION: &str = env!("CARGO_PKG_VERSION");

/// When a reply may leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// After fdatasync.
    Fsync,
    /// Once the bytes are in the mapping; a background sync follows within 100 ms.
    Os,
}

/// Gauges of one core, written by it once per tick, read by anyone.
#[derive(Debug, Default)]
pub struct CoreGauges {
    /// Readable keys.
    pub live_keys: AtomicU64,
    /// Index entries, tombstones included.
    pub entries: AtomicU64,
    /// Index memory in bytes.
    pub index_bytes: AtomicU64,
    /// Open client connections.
    pub connections: AtomicI64,
    /// Commands run.
    pub commands: AtomicU64,
    /// Records originated.
    pub originated: AtomicU64,
    /// Records of other nodes appended.
    pub followed: AtomicU64,
    /// Records of other nodes that were here already.
    pub already_applied: AtomicU64,
    /// Records of other nodes that lost against newer ones.
    pub superseded: AtomicU64,
    /// Records of other nodes that lost against records of this node which did not know them.
    pub concurrent: AtomicU64,
    /// Records held back because their version lies in the far future.
    pub held_back: AtomicU64,
    /// Tombstones and expired records that were forgotten.
    pub forgotten: AtomicU64,
    /// Group commits.
    pub syncs: AtomicU64,
    /// Durable log bytes of this run.
    pub durable_lsn: AtomicU64,
    /// Connections closed because of bad input.
    pub protocol_errors: AtomicU64,
    /// 1 after a failed sync.
    pub log_failed: AtomicU64,
    /// 1 while no segment can be prepared.
    pub disk_full: AtomicU64,
    /// New segment files made.
    pub segments_prepared: AtomicU64,
    /// Segment files used again.
    pub segments_recycled: AtomicU64,
    /// Segments given up because nothing in them counted any more.
    pub segments_removed: AtomicU64,
    /// Bytes of records that count.
    pub live_bytes: AtomicU64,
    /// Bytes of immutable segment files in which something counts, and of those behind them, which wait for them.
    pub compactable_bytes: AtomicU64,
    /// Segments that compaction read to their end.
    pub compacted_segments: AtomicU64,
    /// Records that compaction appended again.
    pub compacted_records: AtomicU64,
    /// Their bytes.
    pub compacted_bytes: AtomicU64,
    /// Nanoseconds of the core's time that compaction took.
    pub compaction_ns: AtomicU64,
    /// Segments that could not be read back.
    pub compaction_stopped: AtomicU64,
    /// Bytes of memory that count against the limit; zero without a limit, as the next four are.
    pub memory_bytes: AtomicU64,
    /// Bytes of segments in memory.
    pub mapped_bytes: AtomicU64,
    /// Bytes of fetched records in memory.
    pub fetched_bytes: AtomicU64,
    /// Segments that are not in memory.
    pub cold_segments: AtomicU64,
    /// Bytes of segments that left memory while something of them was being sent.
    pub pinned_bytes: AtomicU64,
    /// Reads of records that were not in memory.
    pub fetches: AtomicU64,
    /// Connections closed because their clients took large values too slowly.
    pub slow_readers_closed: AtomicU64,
    /// Records that could not be read.
    pub unreadable: AtomicU64,
    /// Latencies of group commit.
    pub stages: StageLatencies,
}

/// Facts about the node; shared by all its loops.
#[derive(Debug)]
pub struct NodeFacts {
    /// The region's name.
    pub region: String,
    /// This node.
    pub node: NodeId,
    /// This run.
    pub incarnation: Incarnation,
    /// Number of core threads.
    pub cores: u16,
    /// Reply policy.
    pub durability: Durability,
    /// The reactor in use, and why if it is a fallback.
    pub io_backend: String,
    /// TCP port of the storage service.
    pub storage_port: u16,
    /// Start of this run in milliseconds since 1970, by physical time: it never stands below this.
    pub started_unix_ms: u64,
    /// Gauges by core.
    pub gauges: Vec<Arc<CoreGauges>>,
    /// Commands that took long.
    pub slow_log: SlowLog,
    /// The latest writes of other nodes that lost against writes of this node which did not know them.
    pub lost: LostBoard,
    /// Which other nodes hold how much of what is written here.
    pub holders: Holders,
    /// Which keys may be where.
    pub residency: Residency,
}

impl NodeFacts {
    /// The sum of one gauge over the cores.
    #[must_use]
    pub fn sum(&self, gauge: impl Fn(&CoreGauges) -> &AtomicU64) -> u64 {
        self.gauges.iter().map(|core| gauge(core).load(Ordering::Relaxed)).sum()
    }

    /// Open client connections.
    #[must_use]
    pub fn connections(&self) -> i64 {
        self.gauges.iter().map(|core| core.connections.load(Ordering::Relaxed)).sum()
    }
}
