//! net

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

pub mod client;
pub mod ids;
pub mod limits;
pub mod reactor;
pub mod resp;
pub mod token;
pub mod wire;
