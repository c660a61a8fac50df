//! Every command that a person or CI runs: `cargo xtask --help`.
//!
//! Each command installs the tools that it needs, prints each action before it runs, and ends with
//! an exit status that scripts can rely on. Nothing here is part of a node's programs.

mod bench;
mod build;
mod demo;
mod fuzz;
mod image;
mod lint;
mod setup;
mod test;
mod vm;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use toolbox::{paths, shell};

use crate::paths::Paths;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Builds, tests, shows and measures Ropeway")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Check for the tools that the other commands need; on Debian as root, install what is missing
    Setup,
    /// Build the eBPF object and all binaries (release, into target/release)
    Build,
    /// Show three nodes, a Service and traffic on every path while an endpoint and the agents are
    /// removed (as root)
    Demo(demo::Options),
    /// Check format, lints, licences, spelling, layers and comments
    Lint(lint::Options),
    /// Run all tests, level by level (as root)
    Test(test::Options),
    /// Run the tests `fuzz_*` of parsers and decoders for a while, with a new seed
    Fuzz(fuzz::Options),
    /// Run packet and namespace tests on Debian's kernel in an emulated machine
    Vm(vm::Options),
    /// Measure (as root)
    Bench(bench::Options),
    /// Write the image as an OCI archive
    Image(image::Options),
    /// Run a real Kubernetes with several nodes on this machine (as root)
    Cluster(test_cluster::Options),
}

fn main() -> ExitCode {
    let paths = match Paths::find(env!("CARGO_MANIFEST_DIR")) {
        Ok(paths) => paths,
        Err(error) => return fail(&error),
    };
    let outcome = match Cli::parse().command {
        Command::Setup => setup::everything(&paths),
        Command::Build => build::all(&paths).map(|_| ()),
        Command::Demo(options) => demo::run(&paths, &options),
        Command::Lint(options) => lint::run(&paths, &options),
        Command::Test(options) => test::run(&paths, &options),
        Command::Fuzz(options) => fuzz::run(&paths, &options),
        Command::Vm(options) => vm::run(&paths, &options),
        Command::Bench(options) => bench::run(&paths, &options),
        Command::Image(options) => image::run(&paths, &options),
        Command::Cluster(options) => test_cluster::run(&paths, &Workshop(&paths), options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

/// Builds and installs for the test cluster, whose crate cannot use this one.
struct Workshop<'a>(&'a Paths);

impl test_cluster::Workshop for Workshop<'_> {
    fn install_packages(&self) -> Result<()> {
        setup::packages(&[setup::Need::Cluster])
    }

    fn build_binaries(&self) -> Result<()> {
        build::all(self.0).map(drop)
    }
}

fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("xtask: {error:#}");
    ExitCode::FAILURE
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn command_line_is_valid() {
        super::Cli::command().debug_assert();
    }
}
