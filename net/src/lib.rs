//! net

pub mod ids;
pub mod limits;
pub mod reactor;
pub mod resp;
pub mod wire;
