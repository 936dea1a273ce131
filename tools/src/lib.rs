//! The operator's tools: the local lab behind `godwit lab`, the members of a mesh and whether its regions are equal, conflicts between
//! regions, what a host allows (`godwit doctor`), `walinspect` and `walbench`.

pub mod conflicts;
pub mod doctor;
pub mod lab;
pub mod members;
pub mod repair;
pub mod verify;
pub mod walbench;
pub mod walinspect;
