//! Nodes with real traffic. Needs root and the built binaries: `cargo xtask test --level namespace`.
#![cfg(test)]

mod harness;
