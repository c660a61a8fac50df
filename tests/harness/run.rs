//! One run of the harness: owns the cgroup directory of all its processes and the temporary
//! directory of all its files.
//!
//! Both are named `rw-<process id>-<start time of that process>`, so that a later run recognizes
//! leftovers of dead processes, even if their id is in use again.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, Once, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::wait;

const PREFIX: &str = "rw-";

/// Number of runs that this process has begun.
static COUNT: AtomicU32 = AtomicU32::new(0);

/// Runs of this process, which Ctrl-C has to remove.
static LIVE: Mutex<Vec<Directories>> = Mutex::new(Vec::new());

/// The directories of one run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directories {
    /// The cgroup2 directory above every process of the run.
    pub cgroup: PathBuf,
    /// Temporary directory for manifests and logs.
    pub files: PathBuf,
}

/// A run; dropping it ends all its processes, and with them every namespace, link and pin that it
/// made.
#[derive(Debug)]
pub struct Run {
    directories: Directories,
    keep: bool,
}

impl Run {
    /// Starts a new run, after removing the leftovers of dead runs.
    ///
    /// # Errors
    /// When the process is not root, or no cgroup2 hierarchy is mounted.
    pub fn start() -> Result<Self> {
        Self::begin(&format!("{PREFIX}{}", identity(std::process::id())?))
    }

    /// Starts a named run that outlives this process, to be inspected.
    ///
    /// # Errors
    /// When [`Run::start`] would fail, or a run of that name exists.
    pub fn start_kept(name: &str) -> Result<Self> {
        let mut run = Self::begin(name)?;
        run.keep = true;
        Ok(run)
    }

    fn begin(name: &str) -> Result<Self> {
        clean_up_on_signals()?;
        sweep()?;
        let directories = if name.starts_with(PREFIX) {
            let number = COUNT.fetch_add(1, Ordering::Relaxed);
            of(&format!("{name}-{number}"))?
        } else {
            of(name)?
        };
        lock().push(directories.clone());
        let run = Self { directories, keep: false };
        for directory in [&run.directories.cgroup, &run.directories.files] {
            fs::create_dir(directory).with_context(|| format!("cannot create {}", directory.display()))?;
        }
        Ok(run)
    }

    /// Returns the cgroup directory above all processes.
    #[must_use]
    pub fn cgroup(&self) -> &Path {
        &self.directories.cgroup
    }

    /// Returns the directory for files.
    #[must_use]
    pub fn files(&self) -> &Path {
        &self.directories.files
    }

    /// Removes everything; returns an error if that fails.
    ///
    /// # Errors
    /// When a process does not end or a directory stays.
    pub fn end(mut self) -> Result<()> {
        self.keep = true; // not again on drop
        self.unregister();
        remove(&self.directories)
    }

    fn unregister(&self) {
        lock().retain(|d| *d != self.directories);
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.unregister();
        if self.keep {
            return;
        }
        if let Err(error) = remove(&self.directories) {
            eprintln!("harness: cannot remove the run: {error:#}");
        }
    }
}

/// Removes a kept run by name; `false`: there was none.
///
/// # Errors
/// When something of it stays.
pub fn remove_kept(name: &str) -> Result<bool> {
    let directories = of(name)?;
    let there = directories.cgroup.exists() || directories.files.exists();
    remove(&directories)?;
    Ok(there)
}

/// Returns the kept run of that name, if there is one.
///
/// # Errors
/// Without a cgroup2 hierarchy.
pub fn kept(name: &str) -> Result<Option<Directories>> {
    let directories = of(name)?;
    Ok(directories.cgroup.exists().then_some(directories))
}

/// Removes the leftovers of runs whose process has died.
///
/// # Errors
/// When something of them stays.
pub fn sweep() -> Result<()> {
    for parent in [hierarchy()?, std::env::temp_dir()] {
        for entry in fs::read_dir(&parent).with_context(|| format!("cannot list {}", parent.display()))? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if is_left_over(&name, |pid| identity(pid).ok()) {
                remove(&of(&name)?)?;
            }
        }
    }
    Ok(())
}

/// Returns true if a directory of this name belongs to a process that has ended.
fn is_left_over(name: &str, identity: impl Fn(u32) -> Option<String>) -> bool {
    let Some(rest) = name.strip_prefix(PREFIX) else { return false };
    let parts: Vec<_> = rest.split('-').collect();
    let [pid, start, number] = parts[..] else { return false };
    let (Ok(pid), Ok(_), Ok(_)) = (pid.parse::<u32>(), start.parse::<u64>(), number.parse::<u32>()) else {
        return false;
    };
    identity(pid).is_none_or(|alive| alive != format!("{pid}-{start}"))
}

/// Returns a process's id and start time, which no other process will ever have together.
fn identity(pid: u32) -> Result<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name of the program, in parentheses, can contain anything: count from its end. Start time
    // is field 22.
    let after = text.rsplit_once(')').context("cannot parse /proc/PID/stat: it has no name")?.1;
    let start = after.split_whitespace().nth(19).context("cannot parse /proc/PID/stat: it has too few fields")?;
    Ok(format!("{pid}-{start}"))
}

fn of(name: &str) -> Result<Directories> {
    Ok(Directories { cgroup: hierarchy()?.join(name), files: std::env::temp_dir().join(name) })
}

/// Returns the mount point of the cgroup2 hierarchy.
fn hierarchy() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("cannot read /proc/self/mounts")?;
    let found = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let place = fields.nth(1)?;
        (fields.next()? == "cgroup2").then(|| PathBuf::from(place))
    });
    found.context("no cgroup2 hierarchy is mounted (usual places: /sys/fs/cgroup, /sys/fs/cgroup/unified)")
}

fn remove(directories: &Directories) -> Result<()> {
    kill(&directories.cgroup)?;
    remove_cgroups(&directories.cgroup)?;
    match fs::remove_dir_all(&directories.files) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", directories.files.display()))
        }
        _ => Ok(()),
    }
}

/// Ends every process in a cgroup and below it, and waits until they are gone.
///
/// # Errors
/// When the kernel refuses or one stays.
pub fn kill(cgroup: &Path) -> Result<()> {
    if !cgroup.exists() {
        return Ok(());
    }
    fs::write(cgroup.join("cgroup.kill"), "1")
        .with_context(|| format!("cannot write {}", cgroup.join("cgroup.kill").display()))?;
    let events = cgroup.join("cgroup.events");
    wait::until_true(&format!("processes in {} end", cgroup.display()), Duration::from_secs(10), || {
        fs::read_to_string(&events).is_ok_and(|text| text.contains("populated 0"))
    })
}

/// Removes a cgroup directory without processes, and all below it.
///
/// # Errors
/// When one of them is in use.
pub fn remove_cgroups(directory: &Path) -> Result<()> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => bail!("{}: {error}", directory.display()),
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_cgroups(&entry.path())?;
        }
    }
    wait::until(&format!("{} can be removed", directory.display()), Duration::from_secs(5), || {
        fs::remove_dir(directory).map(Some).map_err(Into::into)
    })
}

fn lock() -> std::sync::MutexGuard<'static, Vec<Directories>> {
    LIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn clean_up_on_signals() -> Result<()> {
    static ONCE: Once = Once::new();
    let mut outcome = Ok(());
    ONCE.call_once(|| {
        outcome = ctrlc::set_handler(|| {
            eprintln!("harness: interrupted, removing the run");
            for directories in lock().drain(..) {
                if let Err(error) = remove(&directories) {
                    eprintln!("harness: cannot remove the run: {error:#}");
                }
            }
            std::process::exit(130);
        });
    });
    outcome.context("cannot install the handler of SIGINT and SIGTERM")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_runs_of_dead_processes_are_removed() {
        let alive = |pid: u32| (pid == 7).then(|| "7-100".to_owned());
        assert!(!is_left_over("rw-7-100-0", alive));
        assert!(is_left_over("rw-7-99-0", alive), "the id is used again");
        assert!(is_left_over("rw-8-100-0", alive));
        for foreign in ["rw-demo", "rw-8", "rw-8-x-0", "other-8-100-0", "rw-8-100-0-1"] {
            assert!(!is_left_over(foreign, alive), "{foreign}");
        }
    }

    #[test]
    fn process_identity_includes_start_time() {
        let own = std::process::id();
        assert!(identity(own).unwrap().starts_with(&format!("{own}-")));
    }
}
