//! The operator's tools: the local lab behind `godwit lab`, and `walinspect`.

pub mod lab;
pub mod walinspect;
