//! Runs a program inside a machine, in a cgroup of it and, for pods, in a network namespace below
//! it.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;
use nix::sched::{CloneFlags, setns};
use nix::sys::prctl;
use nix::sys::signal::Signal;

/// The program and the machine to run it in.
#[derive(Args, Debug)]
pub struct Inside {
    /// Pid of the first process of the machine
    #[arg(long)]
    pid: u32,
    /// cgroup directory to enter
    #[arg(long)]
    cgroup: PathBuf,
    /// A network namespace by its path inside the machine; without it the machine's own
    #[arg(long)]
    netns: Option<PathBuf>,
    /// Outlive the process that started this one
    #[arg(long)]
    stay: bool,
    /// The program and its arguments
    #[arg(trailing_var_arg = true, required = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

/// Enters the machine and executes the program.
///
/// # Errors
/// When there is no such place or no such program; otherwise it does not return.
pub fn run(inside: &Inside) -> Result<()> {
    if !inside.stay {
        prctl::set_pdeathsig(Signal::SIGKILL)?;
    }
    fs::write(inside.cgroup.join("cgroup.procs"), "0")
        .with_context(|| format!("cannot enter cgroup {}", inside.cgroup.display()))?;
    // All files are opened before any namespace is entered: the paths are those of the host.
    let open = |name: &str| {
        let path = format!("/proc/{}/ns/{name}", inside.pid);
        File::open(&path).with_context(|| format!("cannot open {path}"))
    };
    let namespaces = [
        (open("cgroup")?, CloneFlags::CLONE_NEWCGROUP),
        (open("ipc")?, CloneFlags::CLONE_NEWIPC),
        (open("uts")?, CloneFlags::CLONE_NEWUTS),
        (open("net")?, CloneFlags::CLONE_NEWNET),
        (open("mnt")?, CloneFlags::CLONE_NEWNS),
    ];
    for (file, kind) in &namespaces {
        setns(file, *kind).with_context(|| format!("cannot enter the {kind:?} of process {}", inside.pid))?;
    }
    if let Some(path) = &inside.netns {
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        setns(&file, CloneFlags::CLONE_NEWNET).with_context(|| format!("cannot enter {}", path.display()))?;
    }
    let Some((program, arguments)) = inside.command.split_first() else { bail!("no program to run is named") };
    let error = Command::new(program).args(arguments).exec();
    Err(error).with_context(|| format!("cannot start {}", program.display()))
}
