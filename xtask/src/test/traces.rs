//! Finds leftovers of tests on the machine by a comparison before and after a run.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};
use ropeway_tests::wait;

use crate::shell;

/// Name prefixes of a test cluster, a benchmark and a kept demo, which may run at the same time.
const FOREIGN: [&str; 3] = ["rw-cluster", "rw-bench", "ropeway-demo"];

/// Kernel objects of the machine that only tests change during a run.
#[derive(Debug)]
pub(super) struct Traces {
    before: BTreeSet<String>,
}

impl Traces {
    /// Lists the present objects.
    pub(super) fn before() -> Self {
        Self { before: all() }
    }

    /// Fails if there are new objects. Objects that are being removed get a moment.
    pub(super) fn check(&self) -> Result<()> {
        wait::until("tests leave nothing behind", Duration::from_secs(10), || {
            let left: Vec<_> = all().difference(&self.before).cloned().collect();
            if left.is_empty() { Ok(Some(())) } else { bail!("left behind: {}", left.join("; ")) }
        })
    }
}

/// Lists links, routes, named namespaces, pins, cgroups, files and processes.
fn all() -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for (kind, arguments) in [
        ("link", &["-brief", "link"][..]),
        ("route", &["route", "show", "table", "all", "proto", "82"]),
        ("route", &["-6", "route", "show", "table", "all", "proto", "82"]),
    ] {
        let text = shell::output(Command::new("ip").args(arguments)).unwrap_or_default();
        let first = |line: &str| line.split_whitespace().next().unwrap_or_default().to_owned();
        all.extend(text.lines().map(|line| format!("{kind} {}", first(line))));
    }
    for (kind, directory) in [
        ("namespace", "/run/netns"),
        ("pin", "/sys/fs/bpf"),
        ("cgroup", "/sys/fs/cgroup"),
        ("cgroup", "/sys/fs/cgroup/unified"),
        ("state", "/var/lib"),
    ] {
        let found = names(Path::new(directory)).into_iter().filter(|name| !FOREIGN.iter().any(|f| name.starts_with(f)));
        all.extend(found.map(|name| format!("{kind} {name}")));
    }
    let ours = names(&std::env::temp_dir()).into_iter().filter(|name| name.starts_with("rw-"));
    all.extend(ours.map(|name| format!("directory {name}")));
    all.extend(processes());
    all
}

/// Lists running programs of this project.
fn processes() -> Vec<String> {
    let of = |id: String| {
        let name = std::fs::read_to_string(format!("/proc/{id}/comm")).ok()?;
        let name = name.trim();
        let number: u32 = id.parse().ok()?;
        let cgroups = std::fs::read_to_string(format!("/proc/{id}/cgroup")).ok()?;
        let foreign = FOREIGN.iter().any(|f| cgroups.contains(&format!("0::/{f}")));
        (name.starts_with("ropeway") && !foreign).then(|| format!("process {number} {name}"))
    };
    names(Path::new("/proc")).into_iter().filter_map(of).collect()
}

fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}
