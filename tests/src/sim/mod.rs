//! The simulator: three regions, their disks, clocks and network in one thread, from one seed.
//!
//! The nodes are the production state machines and loops ([`node`] assembles what the daemon assembles) over the
//! simulated reactor of `net`. Clients ([`client`]) are loops of their own that speak RESP and know only what a client
//! can know: acknowledged, refused, or unknown. The checkers ([`check`]) stand beside the nodes and know everything: they
//! read what each simulated device holds and compare it with what the nodes claim and what the clients were told.
//!
//! - [`mesh::Mesh`] is the world with its regions, in words that scenario tests read like prose in.
//! - [`run::run_seed`] is one random run: a safety phase with faults drawn from the seed, then healing and a liveness
//!   phase that has to converge within a bound of virtual time.

pub mod check;
pub mod client;
pub mod console;
pub mod converge;
mod draws;
pub mod faults;
pub mod health;
pub mod mesh;
pub mod minimise;
pub mod node;
pub mod plan;
pub mod plant;
pub mod reach;
pub mod run;
pub mod stops;
pub mod sweep;
pub mod tricks;
pub mod workload;
