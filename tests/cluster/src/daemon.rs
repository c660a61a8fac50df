//! Long-running processes of a cluster, by name: started once, found again, ended by pid.
//!
//! The kernel reuses pids, so the start time of the process is stored next to its pid.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::layout::Layout;
use super::step::wait_for;

/// A process as recorded in its pid file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Process {
    pid: i32,
    started: u64,
}

/// Starts `command` under a name, unless it runs; its output goes to the log of that name.
pub(super) fn start(layout: &Layout, name: &str, command: &mut Command) -> Result<()> {
    if find(layout, name).is_some() {
        return Ok(());
    }
    let (log, pid) = (layout.log(name), layout.pid(name));
    for path in [&log, &pid] {
        fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))?;
    }
    let out = File::options()
        .create(true)
        .append(true)
        .open(&log)
        .with_context(|| format!("cannot open {}", log.display()))?;
    let child = command
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out)
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot start {name} ({})", command.get_program().display()))?;
    let process = Process::seen(i32::try_from(child.id())?)
        .with_context(|| format!("{name} ended immediately after its start"))?;
    fs::write(&pid, format!("{} {}", process.pid, process.started))
        .with_context(|| format!("cannot write {}", pid.display()))
}

/// Returns the process of that name, if it runs.
pub(super) fn find(layout: &Layout, name: &str) -> Option<Process> {
    let text = fs::read_to_string(layout.pid(name)).ok()?;
    let (pid, started) = text.trim().split_once(' ')?;
    let process = Process { pid: pid.parse().ok()?, started: started.parse().ok()? };
    process.lives().then_some(process)
}

/// Lists the names of all processes that were started and not forgotten.
pub(super) fn names(layout: &Layout) -> Vec<String> {
    let entries = fs::read_dir(layout.run().join("pid")).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.filter_map(|e| e.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// Kills a process and waits until it has ended.
pub(super) fn kill(layout: &Layout, name: &str) -> Result<()> {
    if let Some(process) = find(layout, name) {
        process.signal(Signal::KILL)?;
        wait_for(&format!("end of {name}"), 20, || {
            ensure!(!process.lives(), "{name} is still running");
            Ok(())
        })?;
    }
    match fs::remove_file(layout.pid(name)) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("cannot remove the pid file of {name}"))
        }
        _ => Ok(()),
    }
}

impl Process {
    /// Returns a process that exists now; zombies do not count.
    fn seen(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The program's name, in parentheses, may hold anything; state is the first field behind
        // it, start the 20th.
        let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        (*fields.first()? != "Z").then_some(())?;
        Some(Self { pid, started: fields.get(19)?.parse().ok()? })
    }

    pub(super) fn pid(self) -> i32 {
        self.pid
    }

    fn lives(self) -> bool {
        Self::seen(self.pid) == Some(self)
    }

    fn signal(self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(self.pid).context("the pid file names process 0")?;
        match kill_process(pid, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(e) => Err(e).with_context(|| format!("cannot kill process {}", self.pid)),
        }
    }

    /// Returns the only child: the program that `unshare --fork` runs.
    pub(super) fn child(self) -> Result<i32> {
        let children = fs::read_dir("/proc")?.flatten().filter_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            let parent: i32 = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
            (parent == self.pid).then_some(pid)
        });
        children.min().with_context(|| format!("process {} has no child yet", self.pid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_is_identified_by_pid_and_start_time() {
        let own = Process::seen(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(own.lives());
        assert!(!Process { started: own.started + 1, ..own }.lives());
    }
}
