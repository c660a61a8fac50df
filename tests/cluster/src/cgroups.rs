//! One cgroup for each node, in every hierarchy of the machine.
//!
//! A node's processes see its cgroup as the root. Every process of the cluster is in one of these
//! cgroups, so `down` also finds processes without a pid file. Sets no limits.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::settings::PREFIX;
use super::step::wait_for;

/// A mounted cgroup hierarchy, of version 1 or 2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hierarchy {
    /// The directory at which the hierarchy is mounted.
    pub(super) mount: PathBuf,
    /// The file system type, `cgroup` or `cgroup2`.
    pub(super) kind: String,
    /// Controllers or name, as the mount option that asks for them; empty for cgroup2.
    pub(super) options: String,
}

/// Lists the hierarchies of this machine.
pub(super) fn hierarchies() -> Result<Vec<Hierarchy>> {
    let all = parse(&fs::read_to_string("/proc/self/mounts").context("cannot read /proc/self/mounts")?);
    ensure!(all.iter().any(|h| h.kind == "cgroup2"), "no cgroup2 hierarchy is mounted; Services need one");
    ensure!(
        all.iter().any(|h| h.kind == "cgroup"),
        "this machine has cgroup version 2 only; the test-bed knows machines with both versions (boot with \
         systemd.unified_cgroup_hierarchy=0)"
    );
    Ok(all)
}

fn parse(mounts: &str) -> Vec<Hierarchy> {
    let general = ["rw", "ro", "relatime", "nosuid", "nodev", "noexec", "xattr", "nsdelegate", "memory_recursiveprot"];
    let lines = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let ours = lines.filter(|f| f.len() > 3 && (f[2] == "cgroup" || f[2] == "cgroup2"));
    ours.map(|f| {
        let specific: Vec<_> =
            f[3].split(',').filter(|o| !general.contains(o) && !o.contains("release_agent")).collect();
        let named = specific.iter().any(|o| o.starts_with("name="));
        let options = if named { format!("none,{}", specific.join(",")) } else { specific.join(",") };
        let v1 = f[2] == "cgroup";
        Hierarchy { mount: f[1].into(), kind: f[2].into(), options: if v1 { options } else { String::new() } }
    })
    .collect()
}

/// Makes the node's cgroups.
pub(super) fn make(node: &str) -> Result<()> {
    for hierarchy in hierarchies()? {
        let mut dir = hierarchy.mount.clone();
        for part in [PREFIX, node] {
            let parent = dir.clone();
            dir.push(part);
            fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
            // A cpuset takes no process before it has processors and memory.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                if hierarchy.kind == "cgroup" && dir.join(file).exists() {
                    let value = fs::read_to_string(parent.join(file))?;
                    fs::write(dir.join(file), value.trim())
                        .with_context(|| format!("cannot write {}", dir.display()))?;
                }
            }
        }
    }
    Ok(())
}

/// Puts this process, and what it starts from now on, into the node's cgroups.
pub(super) fn join(node: &str) -> Result<()> {
    for hierarchy in hierarchies()? {
        let file = hierarchy.mount.join(PREFIX).join(node).join("cgroup.procs");
        fs::write(&file, "0").with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

/// Kills all processes in the cgroups of all nodes, and removes the cgroups.
pub(super) fn remove() -> Result<()> {
    remove_at(Path::new(PREFIX))
}

/// Kills all processes in the cgroups of one node, and removes the cgroups.
pub(super) fn remove_of(node: &str) -> Result<()> {
    remove_at(&Path::new(PREFIX).join(node))
}

fn remove_at(path: &Path) -> Result<()> {
    wait_for(&format!("removal of cgroup {}", path.display()), 20, || {
        for hierarchy in hierarchies()? {
            let top = hierarchy.mount.join(path);
            if top.exists() {
                kill_all(&top)?;
                remove_tree(&top)?;
            }
        }
        Ok(())
    })
}

/// Lists the test-bed's cgroups.
pub(super) fn left() -> Vec<PathBuf> {
    let all = hierarchies().unwrap_or_default();
    all.into_iter().map(|h| h.mount.join(PREFIX)).filter(|path| path.exists()).collect()
}

fn kill_all(dir: &Path) -> Result<()> {
    for pid in fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default().lines() {
        let Some(pid) = pid.parse().ok().and_then(Pid::from_raw) else { continue };
        match kill_process(pid, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(e) => bail!("process {} in {}: {e}", pid.as_raw_nonzero(), dir.display()),
        }
    }
    for_each_child(dir, kill_all)
}

fn remove_tree(dir: &Path) -> Result<()> {
    for_each_child(dir, remove_tree)?;
    fs::remove_dir(dir).with_context(|| format!("cannot remove {}", dir.display()))
}

fn for_each_child(dir: &Path, mut action: impl FnMut(&Path) -> Result<()>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            action(&entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_options_select_the_same_cgroup_hierarchy() {
        let mounts = "cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,nosuid,relatime,cpu,cpuacct 0 0\n\
                      cgroup /sys/fs/cgroup/systemd cgroup rw,relatime,xattr,release_agent=/x,name=systemd 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime,nsdelegate 0 0\n\
                      proc /proc proc rw 0 0\n";
        let found: Vec<_> = parse(mounts).into_iter().map(|h| (h.kind, h.options)).collect();
        let expected = [("cgroup", "cpu,cpuacct"), ("cgroup", "none,name=systemd"), ("cgroup2", "")];
        assert_eq!(found, expected.map(|(kind, options)| (kind.into(), options.into())));
    }
}
