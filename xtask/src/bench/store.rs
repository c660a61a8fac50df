//! `cargo xtask bench store`: durable allocation and release of addresses. The benchmark is
//! `dataplane-host/benches/store`.

use anyhow::Result;

use crate::paths::Paths;
use crate::shell;

/// Builds and runs the benchmark, with its files on the disk of the checkout.
///
/// # Errors
/// It does not build, or one of its checks fails.
pub(crate) fn run(paths: &Paths) -> Result<()> {
    shell::step("building and running dataplane-host/benches/store");
    let arguments = ["bench", "--quiet", "--package", "dataplane-host", "--bench", "store", "--", "--directory"];
    shell::run(shell::cargo(&paths.root).args(arguments).arg(&paths.target))
}
