//! Ropeway.
fn main() {}
