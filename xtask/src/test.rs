//! `cargo xtask test [FILTER]`: all tests, in four levels, the cheapest first.
//!
//! 1. host: unit and property tests, which anyone can run with plain `cargo test`;
//! 2. packet: the real programs, run by the kernel on packets made here;
//! 3. namespace: several nodes with real traffic;
//! 4. plugin: the CNI plugin as a black box.
//!
//! The third level records the outcome of the rules of a service proxy. The matrix of these
//! outcomes is compared with docs/service-matrix.md.
//!
//! `cargo xtask test mutants` tests the tests of the first level. `cargo xtask test hostile` runs
//! those of hostile pods, neighbours and tenants alone, and checks docs/hostile-matrix.md.
//!
//! All but the first need root, and fail without it: a skipped level would prove nothing.

mod contracts;
mod copy;
mod hostile;
mod mutants;
mod page;
mod sabotage;
mod traces;

use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand, ValueEnum};

use crate::paths::Paths;
use crate::setup::{self, Need};
use crate::{build, shell};
use contracts::Contracts;
use traces::Traces;

/// Options of `cargo xtask test`.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Options {
    #[command(subcommand)]
    what: Option<What>,
    /// Only tests whose name contains this
    filter: Option<String>,
    /// Only this level (again for several)
    #[arg(long, value_enum)]
    level: Vec<Level>,
    /// Write docs/service-matrix.md from the records of this run instead of comparing them
    #[arg(long)]
    write: bool,
    /// With the filter `contracts`: break each rule in a copy of the source, and expect a failure
    #[arg(long, conflicts_with_all = ["write", "level"], requires = "filter")]
    sabotage: bool,
    /// Break only this rule, such as 2.3.4
    #[arg(long, value_name = "NUMBER", requires = "sabotage")]
    rule: Option<String>,
}

#[derive(Subcommand)]
enum What {
    /// Change the source in one place at a time, and expect a host test to fail
    Mutants(mutants::Options),
    /// Run the tests of hostile pods, neighbours and tenants, and check docs/hostile-matrix.md
    Hostile(hostile::Options),
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, ValueEnum)]
enum Level {
    Host,
    Packet,
    Namespace,
    Plugin,
}

impl Level {
    const ALL: [Self; 4] = [Self::Host, Self::Packet, Self::Namespace, Self::Plugin];

    fn title(self) -> &'static str {
        match self {
            Self::Host => "host: unit and property tests",
            Self::Packet => "packet: the kernel programs on made packets",
            Self::Namespace => "namespace: nodes with real traffic",
            Self::Plugin => "plugin: the CNI plugin as a black box",
        }
    }

    /// Calls of `cargo test`: what to build, and flags for the tests.
    fn calls(self) -> &'static [(&'static [&'static str], &'static [&'static str])] {
        match self {
            // The packages that need no root are the workspace's default members.
            Self::Host => &[(&[], &[]), (&["--package", "packet-tests", "--test", "packet"], &[])],
            Self::Packet => &[
                (&["--package", "packet-tests", "--test", "packet"], &["--include-ignored", "--nocapture"]),
                (&["--package", "dataplane-host", "--package", "dataplane-user"], &["--ignored"]),
            ],
            // One at a time: some tests count or time the work of a whole node.
            Self::Namespace => {
                &[(&["--package", "ropeway-tests", "--test", "namespace"], &["--ignored", "--test-threads=1"])]
            }
            Self::Plugin => &[(&["--package", "cni-plugin"], &["--ignored"])],
        }
    }

    /// Returns the tests of this level that cannot run on this machine: a part of their names, and
    /// the reason. They are left out, and the summary names them.
    fn left_out(self) -> Option<(&'static str, &'static str)> {
        let has_client = std::env::var_os("ROPEWAY_CNITOOL").is_some()
            || ["cnitool", "go"].iter().any(|program| shell::which(program).is_some());
        (self == Self::Plugin && !has_client)
            .then_some(("reference_client", "needs Go, cnitool, or its path in ROPEWAY_CNITOOL"))
    }
}

/// Builds, then runs all levels in order, even if one fails.
pub(crate) fn run(paths: &Paths, options: &Options) -> Result<()> {
    match &options.what {
        Some(What::Mutants(options)) => return mutants::run(paths, options),
        Some(What::Hostile(options)) => return hostile::run(paths, options),
        None => {}
    }
    if options.sabotage {
        if options.filter.as_deref() != Some("contracts") {
            bail!("only the contract has patches: cargo xtask test contracts --sabotage");
        }
        return sabotage::run(paths, options.rule.as_deref());
    }
    let levels: Vec<_> =
        Level::ALL.into_iter().filter(|level| options.level.is_empty() || options.level.contains(level)).collect();
    if levels != [Level::Host] {
        if !shell::is_root() {
            bail!("these tests need root; without it: cargo xtask test --level host");
        }
        setup::packages(&[Need::Network])?;
        if levels.contains(&Level::Plugin) {
            setup::packages(&[Need::ReferencePlugins])?;
        }
        build::for_tests(paths)?;
    }
    let filter = options.filter.as_deref();
    let contracts = (levels.contains(&Level::Namespace) && Contracts::are_complete(filter))
        .then(|| Contracts::start(paths, options.write))
        .transpose()?;
    if options.write && contracts.is_none() {
        bail!("only a run of all rules can write the matrix: cargo xtask test contracts --write");
    }
    let traces = Traces::before()?;
    let mut summary = Vec::new();
    for (number, level) in levels.iter().enumerate() {
        shell::step(&format!("level {} of {}: {}", number + 1, levels.len(), level.title()));
        let start = Instant::now();
        let outcome = execute(paths, *level, filter, contracts.as_ref());
        if let Err(error) = &outcome {
            eprintln!("{error:#}");
        }
        summary.push((level, outcome.is_ok(), start.elapsed()));
    }
    let clean = traces.check();
    let held = contracts.map_or(Ok(()), |contracts| contracts.check());
    for (level, passed, time) in &summary {
        println!("{} {:<50} {:>6.1} s", if *passed { "pass" } else { "FAIL" }, level.title(), time.as_secs_f64());
        if let Some((tests, reason)) = level.left_out() {
            println!("not run: {tests}*: {reason}");
        }
    }
    if !summary.iter().all(|(_, passed, _)| *passed) {
        if let Err(error) = held {
            eprintln!("{error:#}");
        }
        bail!("tests failed");
    }
    clean.and(held)
}

fn execute(paths: &Paths, level: Level, filter: Option<&str>, contracts: Option<&Contracts>) -> Result<()> {
    for (selection, flags) in level.calls() {
        let mut cargo = shell::cargo(&paths.root);
        // The error message is complete; the stack below it is the test runner's.
        cargo.env("RUST_LIB_BACKTRACE", "0");
        if level != Level::Host {
            cargo.env("ROPEWAY_BIN_DIR", paths.demo_binaries());
        }
        if let Some(contracts) = contracts {
            cargo.env(ropeway_tests::contracts::VARIABLE, &contracts.records);
        }
        cargo.args(["test", "--quiet", "--locked"]).args(*selection).arg("--").args(*flags).args(filter);
        if let Some((tests, _)) = level.left_out() {
            cargo.args(["--skip", tests]);
        }
        shell::run(&mut cargo).with_context(|| format!("tests of level {} failed", level.title()))?;
    }
    Ok(())
}
