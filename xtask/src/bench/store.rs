//! `cargo xtask bench store`: durable allocation and release of addresses. The benchmark is
//! `dataplane-host/benches/store`.

use anyhow::Result;

use super::record::{self, Figure};
use crate::paths::Paths;
use crate::{build, shell};

/// Name of the file with the figures, in `target`.
const FILE: &str = "bench-store.json";

/// Builds and runs the benchmark, with its files on the disk of the checkout. Returns its figures.
///
/// # Errors
/// It does not build, the checkout is not on a disk, or one of its checks fails.
pub(crate) fn run(paths: &Paths) -> Result<Vec<Figure>> {
    let file = paths.target.join(FILE);
    shell::step("building and running dataplane-host/benches/store");
    let mut cargo = shell::cargo(&paths.root);
    cargo.args(["bench", "--quiet", "--locked", "--target", build::HOST, "--package", "dataplane-host"]);
    cargo.args(["--bench", "store", "--", "--directory"]).arg(&paths.target).arg("--json").arg(&file);
    shell::run(&mut cargo)?;
    record::of_file(&file)
}
