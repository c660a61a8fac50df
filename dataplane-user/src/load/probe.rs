//! Probes the kernel for the features that Ropeway needs.
//!
//! `gather` asks the kernel: a program that only calls one helper either loads or does not. `check`
//! is pure and turns the answers into an error message. The version number only appears in that
//! message and decides nothing, because distributions backport features to older kernels.

use std::path::{Path, PathBuf};

use aya::programs::{ProgramError, ProgramType};
use aya::sys::{BpfHelper, is_helper_supported};

use super::LoadError;
use super::mounts::{self, Mount};

/// The oldest kernel release that has all needed features.
pub const MINIMUM_KERNEL: &str = "6.1";

const NEEDED: &[(ProgramType, BpfHelper, &str)] = &[
    (ProgramType::SchedClassifier, BpfHelper::BPF_FUNC_redirect_neigh, "bpf_redirect_neigh in tc programs"),
    (ProgramType::SchedClassifier, BpfHelper::BPF_FUNC_redirect_peer, "bpf_redirect_peer in tc programs"),
    (ProgramType::SchedClassifier, BpfHelper::BPF_FUNC_jiffies64, "bpf_jiffies64 in tc programs"),
    (
        ProgramType::CgroupSockAddr,
        BpfHelper::BPF_FUNC_get_netns_cookie,
        "bpf_get_netns_cookie in cgroup socket programs",
    ),
    (
        ProgramType::CgroupSockAddr,
        BpfHelper::BPF_FUNC_get_socket_cookie,
        "bpf_get_socket_cookie in cgroup socket programs",
    ),
    (ProgramType::CgroupSockAddr, BpfHelper::BPF_FUNC_set_retval, "bpf_set_retval in cgroup socket programs"),
    (ProgramType::CgroupSock, BpfHelper::BPF_FUNC_sk_storage_get, "bpf_sk_storage_get in cgroup socket programs"),
];

/// The features and mounts that were found on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelFacts {
    /// Release of the running kernel, such as `6.1.0`.
    pub kernel: String,
    /// Descriptions of the features that it lacks.
    pub missing: Vec<&'static str>,
    /// All mounted file systems.
    pub mounts: Vec<Mount>,
}

impl KernelFacts {
    /// Probes the running kernel.
    ///
    /// # Errors
    /// bpf(2) is not permitted, a probe failed, or `/proc` can't be read.
    pub fn gather() -> Result<Self, LoadError> {
        let read =
            |path: &str| std::fs::read_to_string(path).map_err(|source| LoadError::File { path: path.into(), source });
        let kernel = read("/proc/sys/kernel/osrelease")?.trim().to_owned();
        let mounts = mounts::parse(&read("/proc/self/mountinfo")?);
        let mut missing = Vec::new();
        for &(program, helper, name) in NEEDED {
            match is_helper_supported(program, helper) {
                Ok(true) => {}
                Ok(false) => missing.push(name),
                // Without the capability every probe fails, which says nothing about the feature.
                Err(e) if is_permission(&e) => return Err(LoadError::NotPermitted),
                Err(source) => return Err(LoadError::Probe { feature: name, source: Box::new(source) }),
            }
        }
        Ok(Self { kernel, missing, mounts })
    }

    /// Checks that the agent can run here and returns the cgroup to attach to.
    ///
    /// # Errors
    /// The kernel lacks a feature, `pin_root` is not in a bpf file system, or no cgroup2 file
    /// system is where it is expected.
    pub fn check(&self, pin_root: &Path, cgroup_root: Option<&Path>) -> Result<PathBuf, LoadError> {
        if !self.missing.is_empty() {
            return Err(LoadError::MissingFeatures { kernel: self.kernel.clone(), missing: self.missing.join(", ") });
        }
        if mounts::mount_of(&self.mounts, pin_root).is_none_or(|m| m.kind != "bpf") {
            return Err(LoadError::NoBpfFs { pin_root: pin_root.into() });
        }
        let Some(root) = cgroup_root.or_else(|| mounts::cgroup2(&self.mounts)) else {
            return Err(LoadError::NoCgroup2);
        };
        match mounts::mount_of(&self.mounts, root) {
            Some(m) if m.kind == "cgroup2" => Ok(root.into()),
            _ => Err(LoadError::NotCgroup2 { path: root.into() }),
        }
    }
}

fn is_permission(error: &ProgramError) -> bool {
    let io = match error {
        ProgramError::SyscallError(e) => &e.io_error,
        ProgramError::LoadError { io_error, .. } => io_error,
        _ => return false,
    };
    io.kind() == std::io::ErrorKind::PermissionDenied
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> KernelFacts {
        let mount = |point: &str, kind: &str| Mount { point: point.into(), kind: kind.into() };
        let mounts = vec![mount("/", "ext4"), mount("/sys/fs/bpf", "bpf"), mount("/sys/fs/cgroup", "cgroup2")];
        KernelFacts { kernel: "6.18.0".into(), missing: vec![], mounts }
    }

    fn message(facts: &KernelFacts, pin_root: &str, cgroup: Option<&str>) -> String {
        facts.check(Path::new(pin_root), cgroup.map(Path::new)).unwrap_err().to_string()
    }

    #[test]
    fn complete_kernel_passes() {
        let root = facts().check(Path::new("/sys/fs/bpf/ropeway"), None).unwrap();
        assert_eq!(root, Path::new("/sys/fs/cgroup"));
        let node = Path::new("/sys/fs/cgroup/node1");
        assert_eq!(facts().check(Path::new("/sys/fs/bpf/x"), Some(node)).unwrap(), node);
    }

    #[test]
    fn missing_features_are_named() {
        let old = KernelFacts {
            kernel: "5.15.0-91".into(),
            missing: vec!["bpf_set_retval in cgroup socket programs"],
            ..facts()
        };
        let expected = "Linux 5.15.0-91 lacks bpf_set_retval in cgroup socket programs; Ropeway needs Linux 6.1 or later with BPF, \
                        BPF_SYSCALL, CGROUP_BPF, NET_CLS_BPF and NET_CLS_ACT";
        assert_eq!(message(&old, "/sys/fs/bpf/ropeway", None), expected);
    }

    #[test]
    fn missing_mounts_are_named() {
        let f = facts();
        assert!(message(&f, "/run/pins", None).starts_with("--pin-root /run/pins: not in a bpf file system"));
        assert_eq!(
            message(&f, "/sys/fs/bpf/ropeway", Some("/tmp")),
            "--cgroup-root /tmp: not in a cgroup file system of version 2"
        );
        let none = KernelFacts { mounts: f.mounts[..2].to_vec(), ..f };
        assert!(message(&none, "/sys/fs/bpf/ropeway", None).contains("no cgroup file system of version 2"));
    }
}
