//! `cargo xtask bench sync`: 50,000 Services with 150,000 endpoints from decoded objects into real
//! maps, against the cheapest way to write the same entries; single changes; the memory of an agent
//! that has them from an API server. The benchmark is `dataplane-user/benches/sync`.

use anyhow::{Result, ensure};

use super::record::{self, Figure};
use crate::paths::Paths;
use crate::{build, setup, shell};

/// Name of the file with the figures, in `target`.
const FILE: &str = "bench-sync.json";

/// Builds and runs the benchmark. Returns its figures.
///
/// # Errors
/// It does not build, this is not root, or one of its checks fails.
pub(crate) fn run(paths: &Paths) -> Result<Vec<Figure>> {
    ensure!(shell::is_root(), "this benchmark makes BPF maps: run it as root");
    build::ebpf(paths, &setup::ebpf(paths)?)?;
    let file = paths.target.join(FILE);
    shell::step("building and running dataplane-user/benches/sync");
    let mut cargo = shell::cargo(&paths.root);
    cargo.args(["bench", "--quiet", "--locked", "--target", build::HOST, "--package", "dataplane-user"]);
    cargo.args(["--bench", "sync", "--", "--json"]).arg(&file);
    shell::run(build::linked_statically(&mut cargo, paths))?;
    println!("details: {}", paths.short(&file));
    record::of_file(&file)
}
