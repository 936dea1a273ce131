//! The engine: what a node does with its log, its network and its clients.
//!
//! State machines ([`shard`], [`replication`], [`discovery`], [`clock`], [`storage`]) do no I/O: they take an event and the
//! time and give effects. Drivers ([`core`], [`control`]) perform them through a reactor, which production and the
//! simulator provide through [`host::Host`]. [`startup`] and [`daemon`] put a node together.

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

mod bus_error;
pub mod checkpoint;
pub mod clock;
pub mod config;
pub mod control;
pub mod core;
pub mod daemon;
pub mod discovery;
pub mod entry;
pub mod frontend;
pub mod host;
pub mod mailbox;
pub mod messages;
pub mod monitor;
pub mod node;
pub mod replication;
pub mod shard;
pub mod startup;
pub mod storage;
