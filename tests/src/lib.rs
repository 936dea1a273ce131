//! Tests of the whole: the simulator, and a harness around real processes.

pub mod process;
pub mod sim;
