//! The operator's tools: the local lab behind `godwit lab`, the members of a mesh, `walinspect` and `walbench`.

pub mod lab;
pub mod members;
pub mod walbench;
pub mod walinspect;
