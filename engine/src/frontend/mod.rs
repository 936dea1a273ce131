//! Front ends: what clients speak to this node.

pub mod native;
pub mod replies;
pub mod resp;
pub mod seen;
