//! godwit
fn main() {}
