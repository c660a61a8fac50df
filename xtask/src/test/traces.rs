//! Finds leftovers of tests on the machine by a comparison before and after a run.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
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
    pub(super) fn before() -> Result<Self> {
        Ok(Self { before: all()? })
    }

    /// Fails if there are new objects. Objects that are being removed get a moment.
    pub(super) fn check(&self) -> Result<()> {
        wait::until("tests leave nothing behind", Duration::from_secs(10), || {
            let left: Vec<_> = all()?.difference(&self.before).cloned().collect();
            if left.is_empty() { Ok(Some(())) } else { bail!("left behind: {}", left.join("; ")) }
        })
    }
}

/// Types of programs that only Ropeway attaches on a machine without another network plugin.
/// systemd loads programs of other types for its units at any time.
const PROGRAMS: [&str; 2] = ["sched_cls", "cgroup_sock_addr"];

/// Settings that the agent writes on its node.
const SYSCTLS: [&str; 4] = [
    "/proc/sys/net/ipv4/ip_forward",
    "/proc/sys/net/ipv4/conf",
    "/proc/sys/net/ipv6/conf",
    "/proc/sys/kernel/unprivileged_bpf_disabled",
];

/// Lists links, routes, rules, qdiscs, packet filters, listening sockets, programs, sysctls, named
/// namespaces, pins, cgroups, files and processes.
fn all() -> Result<BTreeSet<String>> {
    let mut all = BTreeSet::new();
    for (kind, command) in [
        ("link", "ip -brief link | cut -d' ' -f1"),
        ("route", "ip route show table all proto 82"),
        ("route", "ip -6 route show table all proto 82"),
        ("rule", "ip rule"),
        ("rule", "ip -6 rule"),
        ("qdisc", "tc qdisc show"),
        // iptables writes nftables, unless it is the legacy one.
        ("nftables", "nft --stateless list ruleset"),
        ("iptables-legacy", "cat /proc/net/ip_tables_names /proc/net/ip6_tables_names 2>/dev/null || true"),
        ("socket", "ss -HltunxO | grep -E 'ropeway|rw-|:(10249|10256|4789) ' || true"),
    ] {
        let text = shell::output(Command::new("sh").args(["-c", command]))?;
        all.extend(text.lines().map(|line| format!("{kind} {}", line.trim())));
    }
    all.extend(programs()?);
    for path in SYSCTLS {
        sysctls(Path::new(path), &mut all);
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
    Ok(all)
}

/// Lists loaded eBPF programs by id, type and name.
fn programs() -> Result<Vec<String>> {
    let text = shell::output(Command::new("bpftool").args(["--json", "prog", "show"]))?;
    let programs: Vec<serde_json::Value> = serde_json::from_str(&text).context("bpftool prog show")?;
    let ours = programs.iter().filter(|program| PROGRAMS.iter().any(|kind| program["type"] == *kind));
    Ok(ours.map(|p| format!("program {} {} {}", p["id"], p["type"], p["name"])).collect())
}

/// Adds the values of the settings at or below `path` that can be read.
fn sysctls(path: &Path, all: &mut BTreeSet<String>) {
    if path.is_dir() {
        for name in names(path) {
            sysctls(&path.join(name), all);
        }
    } else if let Ok(value) = std::fs::read_to_string(path) {
        all.insert(format!("sysctl {} = {}", path.display(), value.trim()));
    }
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
