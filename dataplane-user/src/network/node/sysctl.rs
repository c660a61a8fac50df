//! Sets the sysctls that forwarding of pods' packets and the safety of the programs need.
//!
//! Called at each refresh with the uplinks; `ropeway status` shows the same list. Only wrong values
//! are written, and none is ever restored, because other programs may rely on it too. In a
//! container `/proc/sys` is often read-only, and `kernel.*` needs `CAP_SYS_ADMIN`: then the
//! operator must set them, and the message says which.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// One setting below `/proc/sys`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// File name relative to `/proc/sys`.
    pub path: String,
    /// Required value.
    pub value: &'static str,
    /// Effect of another value, for the log.
    pub why: &'static str,
}

/// Returns the settings to write, in order; `read` returns the present value of a setting.
#[must_use]
pub fn needed(uplinks: &[String], read: impl Fn(&str) -> Option<String>) -> Vec<Setting> {
    let is = |path: &str, value: &str| read(path).is_some_and(|v| v.trim() == value);
    let mut wanted = Vec::new();
    for (path, value) in [("net/ipv4/ip_forward", "1"), ("net/ipv6/conf/all/forwarding", "1")] {
        // A kernel without IPv6 has no such file.
        if read(path).is_some() && !is(path, value) {
            let why = "without forwarding the host stack drops the packets of pods";
            wanted.push(Setting { path: path.into(), value, why });
        }
    }
    // With forwarding on, the kernel accepts router advertisements only if accept_ra is 2; with 1
    // the node would lose a default route that it has learned from them. So this comes first.
    if wanted.iter().any(|s: &Setting| s.path.starts_with("net/ipv6")) {
        for device in uplinks {
            let path = format!("net/ipv6/conf/{device}/accept_ra");
            if is(&path, "1") {
                let why = "a node that forwards takes router advertisements only with 2";
                wanted.insert(0, Setting { path, value: "2", why });
            }
        }
    }
    // Strict filtering (1) drops what the programs leave to the host's stack and what arrives by
    // another device than that of the route to its source. The kernel uses the larger of the
    // device's value and the value of `all`; 2 is loose, 0 is off.
    for device in uplinks {
        let path = format!("net/ipv4/conf/{device}/rp_filter");
        let strict = is(&path, "1") || (is("net/ipv4/conf/all/rp_filter", "1") && !is(&path, "2"));
        if strict {
            let why = "1 drops packets to the node itself that arrive by another device than that of the route to \
                       their source, as there can be with several network cards or a tunnel";
            wanted.push(Setting { path, value: "2", why });
        }
    }
    // With 0, any local user may load programs and probe the verifier and the CPU with them. Both
    // 1 and 2 forbid it; 1 holds until the next boot (Documentation/admin-guide/sysctl/kernel.rst).
    if is(UNPRIVILEGED_BPF, "0") {
        let why = "with 0 every local user may load BPF programs";
        wanted.push(Setting { path: UNPRIVILEGED_BPF.into(), value: "1", why });
    }
    wanted
}

/// The sysctl that forbids bpf(2) to users without capabilities.
const UNPRIVILEGED_BPF: &str = "kernel/unprivileged_bpf_disabled";

impl Setting {
    /// Returns the name as sysctl(8) takes it. A dot of a device's name becomes a slash there.
    #[must_use]
    pub fn name(&self) -> String {
        let swap = |c| match c {
            '/' => '.',
            '.' => '/',
            other => other,
        };
        self.path.chars().map(swap).collect()
    }
}

/// The write errors that the log has, so that each is logged once and not at every refresh.
#[derive(Debug, Default)]
pub struct ReportedErrors(BTreeSet<String>);

impl ReportedErrors {
    /// Returns those of `errors` that the last call did not get. An error that has ended in between
    /// is new when it comes back.
    pub fn new_ones(&mut self, errors: &[SysctlError]) -> Vec<String> {
        let present: BTreeSet<String> = errors.iter().map(ToString::to_string).collect();
        let new = present.difference(&self.0).cloned().collect();
        self.0 = present;
        new
    }
}

/// Error of writing a setting.
#[derive(Debug, thiserror::Error)]
#[error("{} must be {value} ({why}) but can't be written: {source}", path.display())]
pub struct SysctlError {
    path: PathBuf,
    value: &'static str,
    why: &'static str,
    source: std::io::Error,
}

/// Writes the needed settings; returns those that were written and the errors.
#[must_use]
pub fn apply(root: &Path, uplinks: &[String]) -> (Vec<Setting>, Vec<SysctlError>) {
    let read = |path: &str| fs::read_to_string(root.join(path)).ok();
    let (mut done, mut failed) = (Vec::new(), Vec::new());
    for setting in needed(uplinks, read) {
        let path = root.join(&setting.path);
        match fs::write(&path, setting.value) {
            Ok(()) => done.push(setting),
            Err(source) => failed.push(SysctlError { path, value: setting.value, why: setting.why, source }),
        }
    }
    (done, failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(uplinks: &[&str], present: &[(&str, &str)]) -> Vec<String> {
        let read = |path: &str| present.iter().find(|(p, _)| *p == path).map(|(_, v)| format!("{v}\n"));
        let uplinks: Vec<_> = uplinks.iter().map(|u| (*u).to_owned()).collect();
        needed(&uplinks, read).into_iter().map(|s| format!("{}={}", s.path, s.value)).collect()
    }

    #[test]
    fn only_wrong_values_are_written() {
        let off = [("net/ipv4/ip_forward", "0"), ("net/ipv6/conf/all/forwarding", "0")];
        assert_eq!(names(&[], &off), ["net/ipv4/ip_forward=1", "net/ipv6/conf/all/forwarding=1"]);
        assert!(names(&["eth0"], &[("net/ipv4/ip_forward", "1")]).is_empty(), "no IPv6, no filter");
        let ra = ("net/ipv6/conf/eth0/accept_ra", "1");
        let both = ["net/ipv6/conf/eth0/accept_ra=2", "net/ipv6/conf/all/forwarding=1"];
        assert_eq!(names(&["eth0"], &[off[1], ra]), both);
        assert!(
            names(&["eth0"], &[("net/ipv6/conf/all/forwarding", "1"), ra]).is_empty(),
            "the kernel forwards already"
        );
        let (all, eth0) = ("net/ipv4/conf/all/rp_filter", "net/ipv4/conf/eth0/rp_filter");
        assert_eq!(names(&["eth0"], &[(all, "0"), (eth0, "1")]), [format!("{eth0}=2")]);
        assert_eq!(names(&["eth0"], &[(all, "1"), (eth0, "0")]), [format!("{eth0}=2")]);
        assert!(names(&["eth0"], &[(all, "1"), (eth0, "2")]).is_empty());
        assert!(names(&["eth0"], &[(all, "2"), (eth0, "0")]).is_empty());
    }

    #[test]
    fn unprivileged_bpf_is_switched_off_where_it_is_on() {
        let at = |value| names(&[], &[("kernel/unprivileged_bpf_disabled", value)]);
        assert_eq!(at("0"), ["kernel/unprivileged_bpf_disabled=1"]);
        assert!(at("1").is_empty() && at("2").is_empty() && names(&[], &[]).is_empty());
    }

    #[test]
    fn unwritable_setting_is_reported_once() {
        let error = |path: &str| SysctlError {
            path: path.into(),
            value: "1",
            why: "of a reason",
            source: std::io::ErrorKind::ReadOnlyFilesystem.into(),
        };
        let mut reported = ReportedErrors::default();
        assert_eq!(reported.new_ones(&[error("a"), error("b")]).len(), 2);
        assert!(reported.new_ones(&[error("b"), error("a")]).is_empty());
        let new = reported.new_ones(&[error("b"), error("c")]);
        assert!(new.len() == 1 && new[0].starts_with("c must be 1 (of a reason) but can't be written"), "{new:?}");
        assert_eq!(reported.new_ones(&[error("a"), error("c")]).len(), 1, "it had ended and is back");
    }

    #[test]
    fn sysctl_names_have_dots() {
        let name = |path: &str| Setting { path: path.into(), value: "1", why: "" }.name();
        assert_eq!(name("net/ipv4/conf/eth0.5/rp_filter"), "net.ipv4.conf.eth0/5.rp_filter");
        assert_eq!(name("kernel/unprivileged_bpf_disabled"), "kernel.unprivileged_bpf_disabled");
    }

    #[test]
    fn unwritable_settings_are_reported() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("net/ipv4/ip_forward");
        fs::create_dir_all(&file).unwrap();
        assert!(apply(root.path(), &[]).1.is_empty(), "unreadable is not there");
        fs::remove_dir(&file).unwrap();
        fs::write(&file, "0").unwrap();
        assert_eq!(apply(root.path(), &[]).0.len(), 1);
        assert_eq!(fs::read_to_string(&file).unwrap(), "1");
        assert!(apply(root.path(), &[]).0.is_empty());
    }
}
