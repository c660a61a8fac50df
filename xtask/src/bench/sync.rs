//! `cargo xtask bench sync`: 50,000 Services with 150,000 endpoints from decoded objects into real
//! maps, against a bare batch update of the same entries; single changes; the agent's memory. The
//! benchmark is `dataplane-user/benches/sync`.

use anyhow::{Result, ensure};

use crate::paths::Paths;
use crate::shell;

/// Name of the file with the figures, in `target`.
const FILE: &str = "bench-sync.json";

/// Builds and runs the benchmark.
///
/// # Errors
/// It does not build, this is not root, or one of its checks fails.
pub(crate) fn run(paths: &Paths) -> Result<()> {
    ensure!(shell::is_root(), "this benchmark makes BPF maps: run it as root");
    let file = paths.target.join(FILE);
    shell::step("building and running dataplane-user/benches/sync");
    let arguments = ["bench", "--quiet", "--package", "dataplane-user", "--bench", "sync", "--", "--json"];
    shell::run(shell::cargo(&paths.root).args(arguments).arg(&file))?;
    println!("details: {}", paths.short(&file));
    Ok(())
}
