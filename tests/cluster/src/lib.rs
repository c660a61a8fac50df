//! `cargo xtask cluster`: builds, starts, checks and removes a real Kubernetes cluster on this
//! machine.
//!
//! Every Kubernetes program is upstream's, built from its Go module. A node is a set of namespaces
//! with a container runtime, a kubelet and cgroups; a bridge in a namespace is their network. All
//! state is in tests/cluster/{cache,run} and in namespaces and cgroups named `rw-cluster*`.
//!
//! `settings` has every constant, `layout` every path, `shape` the nodes. The rest is in the order
//! of `up`: `tools`, `images`, `machine`, `network`, `pki`, `control`, `node`, `reference`,
//! `addons`.
#![forbid(unsafe_code)]

mod addons;
mod cgroups;
mod check;
mod conformance;
mod control;
mod daemon;
mod down;
mod enter;
mod figures;
mod images;
mod install;
mod junit;
mod kube;
mod layout;
mod life;
mod machine;
mod network;
mod node;
mod node_init;
mod peer;
mod pki;
mod pod;
mod proxy_rules;
mod reference;
mod rootfs;
mod settings;
mod shape;
mod smoke;
mod status;
mod step;
mod tools;
mod up;

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::Path;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};

use layout::Layout;
use shape::Shape;
use step::Steps;
use toolbox::paths::Paths;
use toolbox::shell;

/// Options of `cargo xtask cluster`.
#[derive(Args)]
pub struct Options {
    #[command(subcommand)]
    command: Command,
}

/// Steps of preparing a cluster that are implemented by its caller: building and installing.
pub trait Workshop {
    /// Installs the system packages of a cluster's nodes, or names the missing ones.
    ///
    /// # Errors
    /// When a package is missing and cannot be installed.
    fn install_packages(&self) -> Result<()>;

    /// Builds the release binaries of this checkout.
    ///
    /// # Errors
    /// When the build fails.
    fn build_binaries(&self) -> Result<()>;
}

#[derive(Subcommand)]
enum Command {
    /// Build what a cluster and upstream's tests need (the first time: tens of minutes) without
    /// starting anything
    Prepare(Shape),
    /// Start a cluster, or continue an interrupted start
    Up(Shape),
    /// Show nodes and processes of the cluster
    Status,
    /// Run kubectl against the cluster
    Kubectl {
        /// Arguments of kubectl
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Run a program inside a node
    Exec {
        /// Name of the node: cp, n1, n2, ...
        node: String,
        /// The program and its arguments
        #[arg(trailing_var_arg = true, required = true, allow_hyphen_values = true)]
        command: Vec<OsString>,
    },
    /// Build Ropeway's image and install it with the manifests
    Install(install::Options),
    /// Check in a minute or two whether the cluster works
    Smoke,
    /// Let nodes and programs of the cluster end and start while connections are counted
    Life(life::Options),
    /// Run upstream's end-to-end tests
    Conformance(conformance::Options),
    /// Measure what the network costs
    Figures(peer::Peer),
    /// Stop everything and remove it
    Down {
        /// Remove logs and results too
        #[arg(long)]
        purge: bool,
    },
    #[command(hide = true)]
    Enter(enter::Options),
    #[command(hide = true)]
    NodeInit {
        /// The node that this process becomes
        node: String,
    },
}

/// Runs one command.
///
/// # Errors
/// When the command fails; not being root is one of the reasons.
pub fn run(paths: &Paths, workshop: &dyn Workshop, options: Options) -> Result<()> {
    shell::require_root("cargo xtask cluster")?;
    let (layout, steps) = (Layout::new(paths), Steps::new());
    match options.command {
        Command::Prepare(shape) => {
            let mut sets = tools::sets(&shape);
            sets.push(tools::Set::Tests);
            up::prepare(workshop, &layout, &steps, &sets)
        }
        Command::Up(shape) => up::run(workshop, &layout, &steps, &shape),
        Command::Status => status::run(&layout),
        Command::Kubectl { arguments } => {
            Shape::require(&layout)?;
            Err(kube::command(&layout).args(arguments).exec()).context("cannot start kubectl")
        }
        Command::Exec { node, command } => {
            Shape::require(&layout)?;
            let (program, arguments) = command.split_first().context("no program to run is named")?;
            Err(enter::in_node(&node, Path::new(program))?.args(arguments).exec()).context("cannot enter the node")
        }
        Command::Install(options) => install::run(workshop, paths, &layout, &steps, &options),
        Command::Smoke => smoke::run(&layout, &steps),
        Command::Life(options) => life::run(workshop, paths, &layout, &steps, &options),
        Command::Conformance(options) => conformance::run(&layout, &options),
        Command::Figures(options) => figures::run(workshop, paths, &layout, &steps, &options),
        Command::Down { purge } => down::run(&layout, &steps, purge),
        Command::Enter(options) => enter::run(&layout, &options),
        Command::NodeInit { node } => node_init::run(&layout, &node),
    }
}
