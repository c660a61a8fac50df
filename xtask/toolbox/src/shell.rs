//! Runs other programs: prints each command, and names the attempt in errors.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// Interval of progress messages.
const SIGN_OF_LIFE: Duration = Duration::from_secs(5);

/// True while [`report_time`] prints, so that a step inside another one prints no second clock.
static REPORTING: AtomicBool = AtomicBool::new(false);

/// Prints the next action.
pub fn step(what: &str) {
    println!("==> {what}");
}

/// Runs a command that shows its own output; an exit status other than 0 is an error.
pub fn run(command: &mut Command) -> Result<()> {
    let name = describe(command);
    let status = command.status().with_context(|| format!("cannot start `{name}`"))?;
    if !status.success() {
        bail!("`{name}` failed: {status}");
    }
    Ok(())
}

/// Runs a command like [`run`], with progress messages while it is silent.
pub fn run_long(command: &mut Command) -> Result<()> {
    with_signs_of_life(|| run(command))
}

/// Runs `work` and prints the elapsed time every five seconds.
pub fn with_signs_of_life<T>(work: impl FnOnce() -> T) -> T {
    report_time(None, work)
}

/// Runs `work` and prints the elapsed time beside the expected one every five seconds.
pub fn with_estimate<T>(expected: Duration, work: impl FnOnce() -> T) -> T {
    report_time(Some(expected), work)
}

fn report_time<T>(expected: Option<Duration>, work: impl FnOnce() -> T) -> T {
    if REPORTING.swap(true, Ordering::Relaxed) {
        return work(); // a caller reports already
    }
    let (done, wait) = std::sync::mpsc::channel::<()>();
    let start = Instant::now();
    let whole = expected.map_or_else(String::new, |time| format!(" of about {} s", time.as_secs()));
    let result = std::thread::scope(|scope| {
        scope.spawn(move || {
            while wait.recv_timeout(SIGN_OF_LIFE) == Err(RecvTimeoutError::Timeout) {
                println!("    ... {} s{whole}", start.elapsed().as_secs());
            }
        });
        let result = work();
        drop(done);
        result
    });
    REPORTING.store(false, Ordering::Relaxed);
    result
}

/// Runs a command and returns what it printed; an exit status other than 0 is an error that quotes
/// stderr.
pub fn output(command: &mut Command) -> Result<String> {
    let name = describe(command);
    let Output { status, stdout, stderr } = command.output().with_context(|| format!("cannot start `{name}`"))?;
    if !status.success() {
        bail!("`{name}` failed: {status}: {}", String::from_utf8_lossy(&stderr).trim());
    }
    String::from_utf8(stdout).with_context(|| format!("`{name}` printed something that is not UTF-8"))
}

/// Returns a cargo command without the variables that cargo and rustup set for xtask.
#[must_use]
pub fn cargo(root: &Path) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root);
    clean(&mut command);
    command
}

/// Removes the variables that cargo set for the crate xtask: they would invalidate the cache of
/// another build.
pub fn clean(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") || text == "CARGO_BIN_NAME" {
            command.env_remove(&name);
        }
    }
}

/// Finds a program in PATH, and in the folders of root's tools even if PATH lacks them.
#[must_use]
pub fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
}

/// Fails when this process is not root; `what` is the subject of the message.
pub fn require_root(what: &str) -> Result<()> {
    ensure!(is_root(), "{what} needs root: it makes network namespaces and cgroups and loads eBPF programs");
    Ok(())
}

/// Tests for effective user id 0.
#[must_use]
pub fn is_root() -> bool {
    std::fs::read_to_string("/proc/self/status").is_ok_and(|status| {
        status
            .lines()
            .filter_map(|line| line.strip_prefix("Uid:"))
            .any(|ids| ids.split_whitespace().nth(1) == Some("0"))
    })
}

/// Prepends a folder to a command's PATH.
pub fn path_first(directories: &[&Path]) -> Result<std::ffi::OsString> {
    let rest = std::env::var_os("PATH").unwrap_or_default();
    let all = directories.iter().map(|d| d.to_path_buf()).chain(std::env::split_paths(&rest));
    std::env::join_paths(all).context("a folder's name does not fit into PATH")
}

fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}
