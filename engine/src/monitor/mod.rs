//! The monitor: what a node shows of itself on its admin port. It observes and never steers.

pub mod conflicts;
pub mod http;
pub mod metrics;
pub mod starting;
