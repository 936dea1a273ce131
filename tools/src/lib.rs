//! The operator's tools: the local lab behind `godwit lab`.

pub mod lab;
