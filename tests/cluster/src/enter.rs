//! Enters the cgroups and namespaces of a node.
//!
//! A process can only move itself, so each function returns a command that re-executes xtask,
//! enters the node and then executes the wanted program.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};

use super::layout::Layout;
use super::network::namespace_path;
use super::{cgroups, daemon};

/// The part of a node that a program enters.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Depth {
    /// Its cgroups and its network only
    Network,
    /// All namespaces of the node
    Node,
    /// The network; creates the other namespaces, for the first process of a node
    New,
}

/// Options of the hidden command `cluster-enter`, which enters a node.
#[derive(Args)]
pub(crate) struct Options {
    #[arg(value_enum)]
    depth: Depth,
    node: String,
    #[arg(trailing_var_arg = true, required = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

/// Returns a command that runs `program` in the cgroups and the network of a node or of the fabric.
pub(super) fn in_namespace(name: &str, program: &Path) -> Result<Command> {
    enter("network", name, program)
}

/// Returns a command that runs `program` in all namespaces of a node.
pub(super) fn in_node(name: &str, program: &Path) -> Result<Command> {
    enter("node", name, program)
}

/// Returns a command that starts a node: `program` becomes its first process.
pub(super) fn new_node(name: &str, program: &Path) -> Result<Command> {
    enter("new", name, program)
}

fn enter(depth: &str, name: &str, program: &Path) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe().context("cannot find the path of xtask")?);
    command.args(["cluster", "enter", depth, name]).arg(program);
    Ok(command)
}

/// Runs the hidden command. Returns only if it failed.
pub(super) fn run(layout: &Layout, options: &Options) -> Result<()> {
    let name = &options.node;
    cgroups::make(name)?;
    cgroups::join(name)?;
    let mut command = Command::new("nsenter");
    match options.depth {
        Depth::Network | Depth::New => command.arg(format!("--net={}", namespace_path(name).display())),
        Depth::Node => {
            let pid = init(layout, name)?;
            command.args(["--target", &pid.to_string(), "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup"])
        }
    };
    command.arg("--");
    if options.depth == Depth::New {
        // The first process dies with unshare, and all others die with the first process: a power
        // cut.
        let flags = ["--mount", "--propagation=private", "--uts", "--ipc", "--pid", "--cgroup"];
        command.arg("unshare").args(flags).args(["--fork", "--kill-child=KILL", "--"]);
    }
    Err(command.args(&options.command).exec()).context("cannot start nsenter")
}

/// Returns the host's pid of the node's first process.
pub(super) fn init(layout: &Layout, node: &str) -> Result<i32> {
    daemon::find(layout, &format!("node-{node}")).with_context(|| format!("node {node} does not run"))?.child()
}
