//! Finds the mounted bpf and cgroup2 file systems in `/proc/self/mountinfo` (proc(5)).
//!
//! Used by the kernel probe, which reads the file. This module only parses text, so that the tests
//! need no mounts.

use std::path::{Path, PathBuf};

/// A mounted file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Absolute path of the mount point.
    pub point: PathBuf,
    /// File system type, such as `bpf` or `cgroup2`.
    pub kind: String,
}

/// Parses the text of `mountinfo` and skips malformed lines.
#[must_use]
pub fn parse(mountinfo: &str) -> Vec<Mount> {
    let line = |line: &str| {
        // A hyphen ends the optional fields. The mount point is field 5, the type follows the
        // hyphen.
        let (left, right) = line.split_once(" - ")?;
        let point = unescape(left.split(' ').nth(4)?).into();
        Some(Mount { point, kind: right.split(' ').next()?.to_owned() })
    };
    mountinfo.lines().filter_map(line).collect()
}

/// Returns the mount that contains `path`: the one with the longest matching mount point.
///
/// Of several mounts on the same point it returns the last, which hides the others.
#[must_use]
pub fn mount_of<'a>(mounts: &'a [Mount], path: &Path) -> Option<&'a Mount> {
    mounts.iter().filter(|m| path.starts_with(&m.point)).max_by_key(|m| m.point.as_os_str().len())
}

/// Returns the root of the cgroup2 hierarchy, preferring the two usual places.
#[must_use]
pub fn cgroup2(mounts: &[Mount]) -> Option<&Path> {
    ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        .into_iter()
        .map(Path::new)
        .find(|p| mount_of(mounts, p).is_some_and(|m| m.point == *p && m.kind == "cgroup2"))
        .or_else(|| mounts.iter().find(|m| m.kind == "cgroup2").map(|m| m.point.as_path()))
}

/// Decodes octal escapes: mountinfo writes spaces, tabs, newlines and backslashes as `\ooo`.
fn unescape(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        if let Some(byte) = part.get(..3).and_then(|octal| u8::from_str_radix(octal, 8).ok()) {
            out.push(byte.into());
            out.push_str(&part[3..]);
        } else {
            out.push('\\');
            out.push_str(part);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
22 1 0:20 / /sys rw,nosuid - sysfs sysfs rw
23 22 0:21 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755
24 23 0:22 / /sys/fs/cgroup/unified rw shared:10 - cgroup2 cgroup2 rw
25 22 0:23 / /sys/fs/bpf rw shared:11 master:3 - bpf bpf rw,mode=700
26 1 0:24 / /mnt/with\\040space rw - tmpfs tmpfs rw
not a line";

    #[test]
    fn mount_of_a_path_is_found() {
        let mounts = parse(HYBRID);
        assert_eq!(mounts.len(), 5);
        let kind = |p: &str| mount_of(&mounts, Path::new(p)).map(|m| m.kind.clone());
        assert_eq!(kind("/sys/fs/bpf/ropeway").as_deref(), Some("bpf"));
        assert_eq!(kind("/sys/fs/bpfx").as_deref(), Some("sysfs"));
        assert_eq!(kind("/home"), None);
        assert_eq!(mounts[4].point, Path::new("/mnt/with space"));
    }

    #[test]
    fn cgroup_root_is_found_in_mounts() {
        assert_eq!(cgroup2(&parse(HYBRID)), Some(Path::new("/sys/fs/cgroup/unified")));
        let unified = "30 22 0:21 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw";
        assert_eq!(cgroup2(&parse(unified)), Some(Path::new("/sys/fs/cgroup")));
        let elsewhere = "30 22 0:21 / /cg rw - cgroup2 cgroup2 rw";
        assert_eq!(cgroup2(&parse(elsewhere)), Some(Path::new("/cg")));
        assert_eq!(cgroup2(&[]), None);
        let hidden = format!("{unified}\n31 22 0:29 / /sys/fs/cgroup rw - tmpfs tmpfs rw");
        assert_eq!(cgroup2(&parse(&hidden)), Some(Path::new("/sys/fs/cgroup")), "the last resort is any cgroup2");
    }
}
