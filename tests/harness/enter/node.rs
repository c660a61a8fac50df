//! The first process of a machine: makes its namespaces, mounts what it needs, and holds them until
//! it ends.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{pause, sethostname};

/// Options of `ropeway-peer node`.
#[derive(Args, Debug)]
pub struct NodeOptions {
    /// The cgroup directory that the namespace's root becomes
    #[arg(long)]
    cgroup: PathBuf,
    /// Name in the UTS namespace
    #[arg(long)]
    hostname: String,
    /// Forward packets, as a Kubernetes node must
    #[arg(long)]
    forward: bool,
    /// Outlive the process that started this one, and its standard input
    #[arg(long)]
    stay: bool,
}

/// Creates the machine, prints `ready` on standard output, and waits for the end of standard input.
///
/// # Errors
/// When a namespace or mount can't be made.
pub fn run(options: &NodeOptions) -> Result<()> {
    if !options.stay {
        prctl::set_pdeathsig(Signal::SIGKILL)?;
    }
    fs::write(options.cgroup.join("cgroup.procs"), "0")
        .with_context(|| format!("cannot enter cgroup {}", options.cgroup.display()))?;
    let all = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWCGROUP
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC;
    unshare(all).context("cannot make namespaces")?;
    sethostname(&options.hostname).context("cannot set the host name")?;
    mounts()?;
    sysctls(options.forward)?;
    println!("ready");
    std::io::stdout().flush()?;
    if options.stay {
        loop {
            pause();
        }
    }
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

/// Mounts the file systems of the machine: `/sys` for its interfaces, a bpffs for pins, `/run` and
/// `/var/lib`.
fn mounts() -> Result<()> {
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).context("cannot make / private")?;
    for (kind, place) in [
        ("sysfs", "/sys"),
        ("bpf", "/sys/fs/bpf"),
        ("cgroup2", "/sys/fs/cgroup"),
        ("tmpfs", "/run"),
        ("tmpfs", "/var/lib"),
    ] {
        mount(Some(kind), place, Some(kind), MsFlags::empty(), none)
            .with_context(|| format!("cannot mount {kind} on {place}"))?;
    }
    fs::create_dir("/run/netns").context("cannot create /run/netns")
}

/// Sets the sysctls of a machine: addresses are usable at once (no duplicate address detection),
/// and router advertisements are ignored.
fn sysctls(forward: bool) -> Result<()> {
    let always = [
        ("ipv6/conf/all/disable_ipv6", "0"),
        ("ipv6/conf/default/disable_ipv6", "0"),
        ("ipv6/conf/all/accept_dad", "0"),
        ("ipv6/conf/default/accept_dad", "0"),
        ("ipv6/conf/all/accept_ra", "0"),
        ("ipv6/conf/default/accept_ra", "0"),
        ("ipv4/conf/all/rp_filter", "0"),
        ("ipv4/conf/default/rp_filter", "0"),
    ];
    let forwarding = [("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")];
    // If bridges pass frames to the packet filter, frames on the common link must be excluded.
    let bridge =
        ["bridge/bridge-nf-call-iptables", "bridge/bridge-nf-call-ip6tables", "bridge/bridge-nf-call-arptables"];
    let bridge =
        bridge.into_iter().filter(|name| Path::new("/proc/sys/net").join(name).exists()).map(|name| (name, "0"));
    for (name, value) in always.into_iter().chain(forwarding.into_iter().filter(|_| forward)).chain(bridge) {
        let path = Path::new("/proc/sys/net").join(name);
        fs::write(&path, value).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
