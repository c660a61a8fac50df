//! The agent of a node, as a process that tests can kill and start again.
//!
//! [`crate::cluster::Node`] starts it. It reads manifests from a directory or from an API server,
//! and writes a log that errors quote.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::machine::Machine;
use crate::process::{self, Process};
use crate::{binaries, load, wait};

/// The address of `/healthz`.
pub const HEALTH: &str = "127.0.0.1:10256";
/// The address of `/metrics`.
pub const METRICS: &str = "127.0.0.1:10249";

/// The source of an agent's objects.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    /// A directory of manifests.
    Manifests(&'a Path),
    /// The API server of a kubeconfig.
    Kubernetes(&'a Path),
}

/// An agent process on a machine.
#[derive(Debug)]
pub struct Agent {
    machine: Machine,
    process: Process,
    log: PathBuf,
}

impl Agent {
    /// Starts an agent; it may not be ready yet.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start(machine: &Machine, source: Source<'_>, log: &Path, flags: &[&str]) -> Result<Self> {
        let mut command = machine.command_in("agent", None, binaries::find("ropeway-agent")?)?;
        match source {
            Source::Manifests(directory) => command.args(["--source", "manifests", "--manifests"]).arg(directory),
            Source::Kubernetes(kubeconfig) => command.args(["--source", "kubernetes", "--kubeconfig"]).arg(kubeconfig),
        };
        command.args(["--node-name", machine.name()]);
        command.args(flags).stdin(Stdio::null());
        process::log_to(&mut command, &log.to_path_buf())?;
        let process = Process::start(&format!("agent of {}", machine.name()), &mut command)?;
        Ok(Self { machine: machine.clone(), process, log: log.to_owned() })
    }

    /// Waits until `/healthz` reports that the agent is healthy and in sync.
    ///
    /// # Errors
    /// When it ends or takes too long; the error quotes its log.
    pub fn await_ready(&mut self) -> Result<()> {
        let outcome =
            wait::until(&format!("agent of {} is ready", self.machine.name()), Duration::from_secs(30), || {
                if let Some(status) = self.process.ended()? {
                    return Ok(Some(Err(status)));
                }
                load::fetch(&self.machine, address(HEALTH)?, "/healthz")?;
                load::fetch(&self.machine, address(METRICS)?, "/readyz")?;
                let for_plugin = self.machine.path("/var/lib/ropeway/node.json");
                ensure!(for_plugin.exists(), "/var/lib/ropeway/node.json does not exist yet");
                Ok(Some(Ok(())))
            });
        match outcome {
            Ok(Ok(())) => Ok(()),
            Ok(Err(status)) => bail!("agent of {} ended with {status}:\n{}", self.machine.name(), self.log_tail()),
            Err(error) => Err(error.context(self.log_tail())),
        }
    }

    /// Fetches `/metrics`.
    ///
    /// # Errors
    /// When it doesn't answer.
    pub fn metrics(&self) -> Result<String> {
        load::fetch(&self.machine, address(METRICS)?, "/metrics")
    }

    /// Returns the process id of the agent.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Kills the agent with SIGKILL.
    ///
    /// # Errors
    /// When it has ended before.
    pub fn kill(mut self) -> Result<()> {
        if let Some(status) = self.process.ended()? {
            bail!("agent of {} had ended already, with {status}:\n{}", self.machine.name(), self.log_tail());
        }
        self.process.kill()
    }

    /// Detaches the agent, so that it keeps running when this process ends.
    pub fn detach(self) {
        std::mem::forget(self.process);
    }

    /// Returns the log of all agents that ran on the machine so far.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Returns the last lines of the agent's log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let text = self.log();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

fn address(text: &str) -> Result<SocketAddr> {
    text.parse().with_context(|| format!("{text} is not a socket address"))
}
