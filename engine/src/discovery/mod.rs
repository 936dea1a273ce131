//! Discovery: who offers which service where. State machines only; the driver owns sockets and clocks.
//!
//! - [`registry`]: the instances of one source (this node, or one peer) and their lives.
//! - [`address`]: which addresses may cross regions, and how ours are rewritten.
//! - [`peer`]: what is owed to one peer and expected from it.
//! - [`federation`]: the local registry, all peers, and the lists that clients ask for.
//!
//! Discovery gives addresses and liveness, never membership: nothing here may touch replication cursors.
//!
//! # Bounds
//! With the default time to live of 15 s, refreshed every 5 s, counted from an instance's last refresh:
//! - gone in its own region after 16 s, in every region whose link works one message later;
//! - gone everywhere within 22 s plus one message, even if its whole region fell silent with it;
//! - never gone by two lost refreshes, nor by two lost exchanges between regions (either costs at most 15 s plus a late
//!   timer, which is what the two grace times cover).

pub mod address;
pub mod federation;
pub mod limits;
pub mod peer;
pub mod registry;

#[cfg(test)]
mod tests;

pub use federation::{Effect, Federation, Listing, RegisterError, Settings};
pub use peer::{PeerIndex, PeerStatus};
