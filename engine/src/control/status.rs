//! What the control thread shows to the monitor; refreshed by it, read by anyone. As JSON it is `/api/status`.

#![allow(clippy::disallowed_methods, reason = "the status board's age; no loop reads it")]

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::replication::catch_up::Progress;
use crate::replication::visibility::VisibilityStatus;

/// What a node that was removed from the mesh says of itself.
pub const REMOVED: &str = "this node was removed from the mesh: it serves reads of what it has, takes no writes, and no peer \
    speaks to it; to join again as a new node, stop it and empty its DATA_DIR";

/// What a node says of itself while it takes over everything that another one has.
pub const BOOTSTRAPPING: &str = "this node takes over everything that another region has, because the others may have forgotten deletions that \
    it never heard of: what it shows may have been deleted, or is missing yet";

/// One peer of the mesh, as this node sees it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct PeerStatus {
    /// The peer's region; empty before the first handshake.
    pub region: String,
    /// Its node id.
    pub node: u32,
    /// Its discovery address.
    pub address: String,
    /// Whether its discovery link is up.
    pub discovery_up: bool,
    /// Whether this node follows it at present, on a live connection.
    pub following: bool,
    /// Whether it follows this node at present, on a live connection.
    pub followed: bool,
    /// Smoothed round-trip time in microseconds.
    pub rtt_us: Option<u64>,
    /// The peer's physical clock minus this node's in milliseconds, while it is known.
    pub clock_offset_ms: Option<i64>,
    /// How far the truth may be away from that, in milliseconds: half the round trip it was measured over.
    pub clock_uncertainty_ms: Option<u64>,
    /// Whether the peer's clock stands too far away, whatever the path does.
    pub clock_alarm: bool,
    /// Milliseconds by which what the peer acknowledged lies behind what this node has complete; 0 when equal.
    pub lag_ms: u64,
    /// Bytes of records of this node's current log that are durable here and that the peer has not acknowledged.
    #[serde(default)]
    pub unacknowledged_bytes: u64,
    /// How many records those are.
    #[serde(default)]
    pub unacknowledged_records: u64,
    /// The version up to which the peer acknowledged this node's current log.
    pub acknowledged: u64,
    /// The highest version of the peer's logs that this node holds.
    pub held: u64,
    /// Comparisons of this node with the peer that came to their end.
    #[serde(default)]
    pub comparisons: u64,
    /// Keys that they showed this node had lost.
    #[serde(default)]
    pub keys_lacking: u64,
    /// Those that it fetched from the peer.
    #[serde(default)]
    pub keys_repaired: u64,
    /// When the last of them ended, in milliseconds since 1970; 0 before the first one.
    #[serde(default)]
    pub compared_unix_ms: u64,
    /// Bytes of records sent to the peer, as they went over the wire, with the heads of their messages.
    pub sent_records_bytes: u64,
    /// Bytes of the same records before they were packed, without those heads.
    #[serde(default)]
    pub sent_records_raw_bytes: u64,
    /// Bytes of claims sent.
    pub sent_claims_bytes: u64,
    /// Bytes of heartbeats sent.
    pub sent_heartbeats_bytes: u64,
    /// Bytes of other messages sent.
    pub sent_other_bytes: u64,
    /// Bytes of records received, as they came over the wire, with the heads of their messages.
    pub received_records_bytes: u64,
    /// Bytes of the same records once unpacked, without those heads.
    #[serde(default)]
    pub received_records_raw_bytes: u64,
    /// Of the bytes of records sent, those that went over bulk connections.
    #[serde(default)]
    pub sent_bulk_bytes: u64,
    /// Of the bytes of records received, those that came over bulk connections.
    #[serde(default)]
    pub received_bulk_bytes: u64,
    /// How far this node has caught up with the peer, while it does.
    #[serde(default)]
    pub catch_up: Option<Progress>,
}

/// One row of the member table, as this node sees it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct MemberStatus {
    /// Its id, eight hexadecimal digits.
    pub node: String,
    /// Its region.
    pub region: String,
    /// joined or removed.
    pub state: String,
    /// Whether it is this node itself.
    pub myself: bool,
    /// Whether a link to it is up.
    pub connected: bool,
    /// The version up to which it acknowledged this node's current log; 0 if nothing was heard in this run.
    pub acknowledged: u64,
    /// How far this node has caught up with it, while it does.
    #[serde(default)]
    pub catch_up: Option<Progress>,
}

/// What is taken over from another node, because others may have forgotten what this one lacks.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct BootstrapStatus {
    /// Whether that is under way: what is here may have been deleted, and is not all.
    pub under_way: bool,
    /// The region that it comes, or came, from; empty while none is found.
    pub from: String,
    /// Records that came.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Records that were dropped since the source did not have them any more.
    pub dropped: u64,
}

/// One listed service instance.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// The service.
    pub service: String,
    /// Its region.
    pub region: String,
    /// Where.
    pub address: String,
    /// alive, suspect or gone.
    pub state: String,
}

/// The node, as the monitor shows it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Status {
    /// Every core has opened its log and the control thread runs.
    pub ready: bool,
    /// Why the node no longer acknowledges writes, if so.
    pub failed: Option<String>,
    /// The node's own claim: every version ≤ this that it originated is durable.
    pub complete: u64,
    /// Whether the wall clock has stepped away.
    pub clock_stepped: bool,
    /// Up to where every member holds everything, as a version, as far as somebody waited for that.
    pub stable_cut: u64,
    /// For how long, in milliseconds, something that was deleted or has expired has been remembered because some member may not
    /// hold that; 0 if nothing is.
    pub uncollected_ms: u64,
    /// Bytes of log files in which nothing counts any more, kept because some member may lack what is in them.
    #[serde(default)]
    pub retained_bytes: u64,
    /// By how much this node lowers what it takes for the time, because its clock is ahead of the others', in milliseconds.
    pub clock_held_back_ms: u64,
    /// Whether this node was removed from the mesh.
    pub removed: bool,
    /// The last bootstrap.
    #[serde(default)]
    pub bootstrap: BootstrapStatus,
    /// Who belongs to the mesh, and who was removed.
    pub members: Vec<MemberStatus>,
    /// How soon other regions' records became visible here.
    #[serde(default)]
    pub visibility: Vec<VisibilityStatus>,
    /// The configured peers.
    pub peers: Vec<PeerStatus>,
    /// What `list` gives.
    pub services: Vec<ServiceStatus>,
    /// Connections that were refused, with the last reason.
    pub refused: u64,
    /// The last refusal's text.
    pub last_refusal: String,
}

/// The shared board.
#[derive(Clone, Debug, Default)]
pub struct StatusBoard(Arc<Mutex<(Status, Option<Instant>)>>);

impl StatusBoard {
    /// A copy of the present state.
    #[must_use]
    pub fn read(&self) -> Status {
        self.lock().0.clone()
    }

    /// How long ago the state was last changed; `None` before the first time.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        self.lock().1.map(|at| at.elapsed())
    }

    /// Changes the state.
    pub fn write(&self, change: impl FnOnce(&mut Status)) {
        let mut board = self.lock();
        change(&mut board.0);
        board.1 = Some(Instant::now());
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, (Status, Option<Instant>)> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
