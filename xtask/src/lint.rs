//! `cargo xtask lint`: everything about the source that a machine can check.
//!
//! First the checks of this folder, which take no time, then format, clippy, spelling and licences.
//! All of them run, even when an early one fails; the command fails if any did. With `--figures` it
//! prints figures of the text instead, which fail nothing.

mod claims;
mod columns;
mod figures;
mod files;
mod layers;
mod rooms;
mod source;

use std::process::Command;

use anyhow::{Result, bail};
use clap::Args;

use crate::paths::Paths;
use crate::setup::{self, Need, Tool, Toolchain};
use crate::shell;

/// Options of `cargo xtask lint`.
#[derive(Args)]
pub(crate) struct Options {
    /// Print figures of the product's source (lengths, comments, names) and check nothing
    #[arg(long)]
    figures: bool,
}

/// Runs every check, or prints the figures.
pub(crate) fn run(paths: &Paths, options: &Options) -> Result<()> {
    if options.figures {
        return figures::print(paths);
    }
    let checks: [(&str, Check); 11] = [
        ("file length, unsafe code, module headers", source::check),
        ("columns of comments and Markdown", columns::check),
        ("measured figures in Markdown", claims::figures),
        ("tests and commands that SPECIFICATION.md names", claims::evidence),
        ("dependencies between crates", layers::check),
        ("dependencies between the rooms of a crate", rooms::check),
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

/// Checks licences, sources and duplicates of dependencies, which needs no network. Known
/// vulnerabilities are not checked, because their list does: `cargo deny check advisories`.
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

/// Adds a component to the tool chain if it is missing.
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
