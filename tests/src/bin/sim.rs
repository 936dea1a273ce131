//! Runs the simulator by hand.

fn main() {}
