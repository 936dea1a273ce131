//! Front ends: what clients speak to this node.

pub mod replies;
pub mod resp;
