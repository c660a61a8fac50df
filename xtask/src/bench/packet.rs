//! `cargo xtask bench packet`: runs the program `packet-bench` of the packet tests on a fresh
//! object.

use anyhow::{Context, Result};

use super::record::{self, Figure};
use crate::paths::Paths;
use crate::{build, setup, shell};

/// Name of the file with the figures, in `target`.
const FILE: &str = "bench-packet.json";

/// Builds and runs the benchmark. Returns its figures.
pub(super) fn run(paths: &Paths) -> Result<Vec<Figure>> {
    build::ebpf(paths, &setup::ebpf(paths)?)?;
    std::fs::create_dir_all(&paths.target).with_context(|| format!("cannot create {}", paths.target.display()))?;
    let file = paths.target.join(FILE);
    let mut cargo = shell::cargo(&paths.root);
    cargo.args(["run", "--release", "--locked", "--target", build::HOST, "--package", "packet-tests"]);
    shell::run(cargo.args(["--bin", "packet-bench", "--"]).arg(&file))?;
    record::of_file(&file)
}
