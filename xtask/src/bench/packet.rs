//! `cargo xtask bench packet`: runs the program `packet-bench` of the packet tests on a fresh
//! object.

use anyhow::{Context, Result};

use crate::paths::Paths;
use crate::{build, setup, shell};

/// Name of the file with the figures, in `target`.
const FILE: &str = "bench-packet.json";

/// Builds and runs the benchmark.
pub(super) fn run(paths: &Paths) -> Result<()> {
    build::ebpf(paths, &setup::ebpf(paths)?)?;
    std::fs::create_dir_all(&paths.target).with_context(|| format!("cannot create {}", paths.target.display()))?;
    let mut cargo = shell::cargo(&paths.root);
    cargo.args(["run", "--release", "--locked", "--package", "packet-tests", "--bin", "packet-bench", "--"]);
    shell::run(cargo.arg(paths.target.join(FILE)))
}
