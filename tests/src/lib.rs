//! Tests of the whole: the simulator, and a harness around real processes.

pub mod disk;
pub mod process;
pub mod sim;
