//! Sets the sysctls that forwarding of pods' packets needs.
//!
//! Called at each refresh with the uplinks. Only wrong values are written, and none is ever
//! restored, because other programs may rely on it too. In a container `/proc/sys` is often
//! read-only: then the operator must set them, and the message says which.

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
    // Strict filtering (1) drops replies of Services, which come from addresses that have no route.
    // The kernel uses the larger of the device's value and the value of `all`; 2 is loose, 0 is
    // off.
    for device in uplinks {
        let path = format!("net/ipv4/conf/{device}/rp_filter");
        let strict = is(&path, "1") || (is("net/ipv4/conf/all/rp_filter", "1") && !is(&path, "2"));
        if strict {
            let why = "strict reverse-path filtering drops the replies of Services";
            wanted.push(Setting { path, value: "2", why });
        }
    }
    wanted
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
        assert!(names(&["eth0"], &[("net/ipv6/conf/all/forwarding", "1"), ra]).is_empty(), "it forwards already");
        let (all, eth0) = ("net/ipv4/conf/all/rp_filter", "net/ipv4/conf/eth0/rp_filter");
        assert_eq!(names(&["eth0"], &[(all, "0"), (eth0, "1")]), [format!("{eth0}=2")]);
        assert_eq!(names(&["eth0"], &[(all, "1"), (eth0, "0")]), [format!("{eth0}=2")]);
        assert!(names(&["eth0"], &[(all, "1"), (eth0, "2")]).is_empty());
        assert!(names(&["eth0"], &[(all, "2"), (eth0, "0")]).is_empty());
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
