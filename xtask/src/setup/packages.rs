//! Debian packages: the contents of each need, how to detect and how to install them.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::shell;

/// A need of a command beyond Rust.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Need {
    /// A Rust compiler that can build for the kernel, where rustup has none.
    DebianRust,
    /// Clippy of that compiler.
    DebianClippy,
    /// Packages for building the linker of the kernel programs.
    Linker,
    /// Tools to create and inspect namespaces and links, and to kill processes at a chosen system
    /// call.
    Network,
    /// An emulated machine with Debian's kernel.
    Machine,
    /// The reference plugins, which benchmarks compare with and tests chain with ours, and the
    /// programs that they call.
    ReferencePlugins,
    /// Packages for a cluster's nodes, for building its container runtime, and for its images.
    Cluster,
}

impl Need {
    /// All needs except the compiler, which [`super::toolchain`] chooses.
    pub(crate) const ALL: &[Self] = &[Self::Linker, Self::Network, Self::Machine, Self::ReferencePlugins];

    /// Returns the Debian packages, each with a file or program whose presence shows that it is
    /// installed.
    fn packages(self) -> &'static [(&'static str, Probe)] {
        use Probe::{File, Program};
        match self {
            Self::DebianRust => &[
                ("rustc-web", File("/usr/lib/rustlib/x86_64-unknown-linux-gnu/lib")),
                ("cargo-web", File("/usr/bin/cargo")),
                ("rust-web-src", File("/usr/lib/rustlib/src/rust/library/core/Cargo.toml")),
            ],
            Self::DebianClippy => &[("rust-web-clippy", File("/usr/bin/clippy-driver"))],
            Self::Linker => &[
                ("llvm-22-dev", File("/usr/lib/llvm-22/bin/llvm-config")),
                ("libpolly-22-dev", File("/usr/lib/llvm-22/lib/libPolly.a")),
                ("zlib1g-dev", File("/usr/include/zlib.h")),
                ("libzstd-dev", File("/usr/include/zstd.h")),
            ],
            Self::Network => &[
                ("iproute2", Program("ip")),
                ("bpftool", Program("bpftool")),
                ("strace", Program("strace")),
                ("nftables", Program("nft")),
            ],
            Self::Machine => {
                &[("qemu-system-x86", Program("qemu-system-x86_64")), ("busybox-static", Program("busybox"))]
            }
            Self::Cluster => &[
                ("gcc", Program("gcc")),
                ("pkg-config", Program("pkg-config")),
                ("libseccomp-dev", File("/usr/include/seccomp.h")),
                ("mmdebstrap", Program("mmdebstrap")),
                ("iproute2", Program("ip")),
                ("iptables", Program("iptables")),
                ("nftables", Program("nft")),
                ("conntrack", Program("conntrack")),
                ("socat", Program("socat")),
            ],
            Self::ReferencePlugins => {
                &[("containernetworking-plugins", File("/usr/lib/cni/ptp")), ("iptables", Program("iptables"))]
            }
        }
    }
}

#[derive(Clone, Copy)]
enum Probe {
    File(&'static str),
    Program(&'static str),
}

impl Probe {
    fn found(self) -> bool {
        match self {
            Self::File(path) => Path::new(path).exists(),
            Self::Program(name) => shell::which(name).is_some(),
        }
    }
}

/// Returns the Debian packages that are missing for these needs.
pub(super) fn missing(needs: &[Need]) -> Vec<&'static str> {
    let all = needs.iter().flat_map(|need| need.packages());
    all.filter(|(_, probe)| !probe.found()).map(|(package, _)| *package).collect()
}

/// Installs missing packages, or returns an error that names them.
pub(super) fn ensure(needs: &[Need]) -> Result<()> {
    let packages = missing(needs);
    if packages.is_empty() {
        return Ok(());
    }
    let list = packages.join(" ");
    if !Path::new("/etc/debian_version").exists() {
        bail!("missing: {list}: these are names of Debian packages; install those of your system");
    }
    if !shell::is_root() {
        bail!("missing: {list}; as root: apt-get install {list}");
    }
    shell::step(&format!("installing Debian packages: {list}"));
    apt(&["update", "-qq"])?;
    apt(&[&["install", "-qq", "--yes", "--no-install-recommends"], &packages[..]].concat())?;
    let still = missing(needs);
    if !still.is_empty() {
        bail!("apt-get has installed {list}, but these are still missing: {}", still.join(" "));
    }
    Ok(())
}

fn apt(arguments: &[&str]) -> Result<()> {
    let mut command = Command::new("apt-get");
    command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
    // Its output is shown only if it fails.
    shell::with_signs_of_life(|| shell::output(&mut command)).map(|_| ())
}
