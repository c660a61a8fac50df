//! `cargo xtask lint`: everything about the source that a machine can judge.
//!
//! First the checks of this folder, which take no time, then format, clippy, spelling and licences. All of them run, even
//! when an early one fails; the command fails if any did.

mod layers;
mod source;

use std::process::Command;

use anyhow::{Result, bail};

use crate::paths::Paths;
use crate::setup::{self, Need, Tool, Toolchain};
use crate::shell;

/// Runs every check.
pub(crate) fn run(paths: &Paths) -> Result<()> {
    let checks: [(&str, Check); 7] = [
        ("rules of the house: file length, unsafe, module headers", source::check),
        ("direction of dependencies", layers::check),
        ("format", format),
        ("clippy, host crates", clippy_host),
        ("clippy, kernel programs", clippy_ebpf),
        ("spelling", spelling),
        ("licences, sources and versions of dependencies", dependencies),
    ];
    let mut failed = Vec::new();
    for (name, check) in checks {
        shell::step(&format!("lint: {name}"));
        if let Err(error) = check(paths) {
            eprintln!("{error:#}");
            failed.push(name);
        }
    }
    println!("lint: {} passed, {} failed", checks.len() - failed.len(), failed.len());
    if failed.is_empty() { Ok(()) } else { bail!("lint failed: {}", failed.join("; ")) }
}

type Check = fn(&Paths) -> Result<()>;

fn format(paths: &Paths) -> Result<()> {
    component("rustfmt", "cargo-fmt")?;
    shell::run(shell::cargo(&paths.root).args(["fmt", "--all", "--check"]))?;
    let mut cargo = shell::cargo(&paths.ebpf_crate());
    shell::run(cargo.args(["fmt", "--all", "--check"]))
}

fn clippy_host(paths: &Paths) -> Result<()> {
    component("clippy", "cargo-clippy")?;
    let mut cargo = shell::cargo(&paths.root);
    cargo.args(["clippy", "--quiet", "--locked", "--workspace", "--all-targets", "--all-features"]);
    shell::run(cargo.args(["--", "-D", "warnings"]))
}

fn clippy_ebpf(paths: &Paths) -> Result<()> {
    let toolchain = setup::ebpf(paths)?;
    if toolchain == Toolchain::Debian {
        setup::packages(&[Need::DebianClippy])?;
    }
    let mut cargo = toolchain.cargo(&paths.ebpf_crate(), &paths.tools())?;
    shell::run(cargo.args(["clippy", "--quiet", "--locked", "--release", "--", "-D", "warnings"]))
}

fn spelling(paths: &Paths) -> Result<()> {
    let typos = Tool::Typos.ensure(paths)?;
    shell::run(Command::new(typos).current_dir(&paths.root))
}

/// Licences, sources and duplicates need no network. The list of known weaknesses does: `cargo deny check advisories`.
fn dependencies(paths: &Paths) -> Result<()> {
    let deny = Tool::CargoDeny.ensure(paths)?;
    for directory in [&paths.root, &paths.ebpf_crate()] {
        let mut command = Command::new(&deny);
        shell::clean(&mut command);
        command
            .current_dir(directory)
            .args(["--locked", "--log-level", "error", "--config"])
            .arg(paths.root.join("deny.toml"));
        shell::run(command.args(["check", "--hide-inclusion-graph", "licenses", "sources", "bans"]))?;
    }
    Ok(())
}

/// Makes sure that a component of the tool chain is there.
fn component(name: &str, program: &str) -> Result<()> {
    let there = || shell::output(Command::new(program).arg("--version")).is_ok();
    if there() {
        return Ok(());
    }
    shell::step(&format!("adding the component {name} to the tool chain"));
    if shell::which("rustup").is_none()
        || shell::run(Command::new("rustup").args(["component", "add", name])).is_err()
        || !there()
    {
        bail!("missing: {name} of the Rust tool chain (rustup component add {name})");
    }
    Ok(())
}
