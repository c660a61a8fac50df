//! A machine of a test: its namespaces and cgroup, and commands that run in it.
//!
//! Nodes, the client outside and the common link are machines. `ropeway-peer node` creates the
//! namespaces and holds them; `ropeway-peer in` enters them. This process never enters a namespace
//! itself, because it has several threads.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result, bail};

use crate::binaries;
use crate::process::{self, Process};
use crate::run::{Directories, Run};

/// Options of a machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct MachineOptions {
    /// Turns on IP forwarding.
    pub forward: bool,
    /// Keeps the machine when this process ends.
    pub stay: bool,
}

/// The namespaces of one machine, held by a process in them.
///
/// Clones refer to the same machine, which ends when the last of them is dropped or its run ends.
#[derive(Clone, Debug)]
pub struct Machine {
    name: String,
    cgroup: PathBuf,
    pid: u32,
    stay: bool,
    // Keeps the machine's namespaces; killed with the machine.
    _holder: Option<Arc<Process>>,
}

impl Machine {
    /// Creates a machine in a run.
    ///
    /// # Errors
    /// When the process is not root.
    pub fn make(run: &Run, name: &str, kind: MachineOptions) -> Result<Self> {
        let cgroup = run.cgroup().join(name);
        fs::create_dir(&cgroup).with_context(|| format!("cannot create {}", cgroup.display()))?;
        let mut command = Command::new(binaries::find("ropeway-peer")?);
        command.args(["node", "--hostname", name, "--cgroup"]).arg(&cgroup);
        if kind.forward {
            command.arg("--forward");
        }
        if kind.stay {
            command.arg("--stay").stdin(Stdio::null());
        } else {
            command.stdin(Stdio::piped());
        }
        let mut holder = Process::start(name, command.stdout(Stdio::piped()))?;
        let stdout = holder.child().stdout.take().context("standard output of the machine's holder is not a pipe")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        if line != "ready\n" {
            bail!("{name}: the namespaces could not be made");
        }
        let pid = holder.id();
        let holder = if kind.stay {
            std::mem::forget(holder); // it outlives this process by intention
            None
        } else {
            Some(Arc::new(holder))
        };
        let machine = Self { name: name.to_owned(), cgroup, pid, stay: kind.stay, _holder: holder };
        machine.ip(&["link set lo up"])?;
        Ok(machine)
    }

    /// Opens a machine of a kept run.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn find(directories: &Directories, name: &str) -> Result<Self> {
        let cgroup = directories.cgroup.join(name);
        // Only the holder is in the machine's cgroup; all other processes are in cgroups below it.
        let holders =
            fs::read_to_string(cgroup.join("cgroup.procs")).with_context(|| format!("no machine {name} exists"))?;
        let pid = holders.lines().next().and_then(|line| line.parse().ok());
        let pid = pid.with_context(|| format!("no process holds the namespaces of machine {name}"))?;
        Ok(Self { name: name.to_owned(), cgroup, pid, stay: true, _holder: None })
    }

    /// Returns the host name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the pid of the process that holds the namespaces.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Returns the machine's cgroup directory, as seen from the host.
    #[must_use]
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// Returns the host's path to a file inside the machine.
    #[must_use]
    pub fn path(&self, inside: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{inside}", self.pid))
    }

    /// Returns a command that runs inside as a program of the host, in the cgroup `host`.
    ///
    /// # Errors
    /// When the cgroup can't be made.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Result<Command> {
        self.command_in("host", None, program)
    }

    /// Returns a command that runs in a cgroup below the machine's and, if named, in a network
    /// namespace of the machine.
    ///
    /// # Errors
    /// When the cgroup can't be made.
    pub fn command_in(&self, cgroup: &str, netns: Option<&str>, program: impl AsRef<OsStr>) -> Result<Command> {
        self.command_at(&self.cgroup.join(cgroup), netns, program)
    }

    /// Returns a command like [`Machine::command_in`], for any cgroup directory.
    ///
    /// # Errors
    /// When the cgroup can't be made.
    pub fn command_at(&self, cgroup: &Path, netns: Option<&str>, program: impl AsRef<OsStr>) -> Result<Command> {
        fs::create_dir_all(cgroup).with_context(|| format!("cannot create {}", cgroup.display()))?;
        let mut command = Command::new(binaries::find("ropeway-peer")?);
        command.args(["in", "--pid", &self.pid.to_string(), "--cgroup"]).arg(cgroup);
        if let Some(netns) = netns {
            command.args(["--netns", netns]);
        }
        if self.stay {
            command.arg("--stay");
        }
        command.arg("--").arg(program);
        Ok(command)
    }

    /// Runs `ip` with several commands at once.
    ///
    /// # Errors
    /// When one of them fails; those before it stay done.
    pub fn ip(&self, lines: &[impl AsRef<str>]) -> Result<()> {
        self.ip_in(None, lines)
    }

    /// Runs [`Machine::ip`] in a network namespace of the machine.
    ///
    /// # Errors
    /// When one of the commands fails.
    pub fn ip_in(&self, netns: Option<&str>, lines: &[impl AsRef<str>]) -> Result<()> {
        let text = lines.iter().map(AsRef::as_ref).collect::<Vec<_>>().join("\n");
        let mut command = self.command_in("host", netns, "ip")?;
        command.args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().context("cannot start ip")?;
        child.stdin.take().context("standard input of ip is not a pipe")?.write_all(text.as_bytes())?;
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!("ip failed on {}: {}, commands:\n{text}", self.name, String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }

    /// Runs a program of the system inside and returns what it printed.
    ///
    /// # Errors
    /// When it fails.
    pub fn output(&self, words: &[&str]) -> Result<String> {
        let (program, arguments) = words.split_first().context("no program to run is named")?;
        process::output(&format!("{}: {}", self.name, words.join(" ")), self.command(program)?.args(arguments))
    }
}
