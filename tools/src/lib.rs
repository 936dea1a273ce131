//! The operator's tools: the local lab behind `godwit lab`, `walinspect` and `walbench`.

pub mod lab;
pub mod walbench;
pub mod walinspect;
