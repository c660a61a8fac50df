//! The fabric (a network namespace with a bridge for each subnet: switch, router and the network
//! outside) and the nodes' namespaces that are plugged into it. The machine's own namespace gets no
//! device, route or rule.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::layout::Layout;
use super::settings::{FAR, NEAR, PREFIX};
use super::shape::Node;
use super::step::wait_for;
use super::{daemon, enter};
use toolbox::shell;

/// Name of the fabric, used like a node name.
pub(super) const FABRIC: &str = "fabric";

/// Returns the namespace's name of a node or of the fabric.
pub(super) fn namespace(name: &str) -> String {
    format!("{PREFIX}-{name}")
}

/// Returns the file by which `ip netns` names the namespace.
pub(super) fn namespace_path(name: &str) -> PathBuf {
    Path::new("/run/netns").join(namespace(name))
}

/// Creates the namespace, bridges and addresses of the fabric.
pub(super) fn fabric() -> Result<()> {
    if namespace_path(FABRIC).exists() {
        return Ok(());
    }
    add_namespace(FABRIC)?;
    for subnet in [NEAR, FAR] {
        let bridge = subnet.bridge;
        ip(FABRIC, &format!("link add {bridge} type bridge"))?;
        ip(FABRIC, &format!("link set {bridge} up"))?;
        ip(FABRIC, &format!("address add {}/24 dev {bridge}", subnet.gateway4()))?;
        ip(FABRIC, &format!("address add {}/64 dev {bridge} nodad", subnet.gateway6()))?;
    }
    let on = ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"];
    // Bridged packets would run through the packet filter as well.
    let off = ["iptables", "ip6tables", "arptables"].map(|f| format!("net/bridge/bridge-nf-call-{f}"));
    for (sysctl, value) in on.map(|s| (s.to_owned(), "1")).into_iter().chain(off.map(|s| (s, "0"))) {
        set(FABRIC, &sysctl, value)?;
    }
    Ok(())
}

/// Starts a stand-in for upstream DNS that answers every query at once with an empty reply, so that
/// no client waits for a timeout.
pub(super) fn upstream_dns(layout: &Layout) -> Result<()> {
    let file = layout.run().join("upstream.Corefile");
    let bind = [NEAR, FAR].map(|s| format!("{} {}", s.gateway4(), s.gateway6())).join(" ");
    fs::write(&file, format!(".:53 {{\n bind {bind}\n template IN ANY . {{\n  rcode NXDOMAIN\n }}\n errors\n}}\n"))?;
    let mut command = enter::in_namespace(FABRIC, &layout.bin("coredns"))?;
    daemon::start(layout, "upstream-dns", command.arg("-conf").arg(file))
}

/// Creates a node's namespace with its uplink `eth0`.
pub(super) fn plug(node: &Node) -> Result<()> {
    let name = &node.name;
    if namespace_path(name).exists() {
        return Ok(());
    }
    add_namespace(name)?;
    let port = format!("to-{name}");
    ip(FABRIC, &format!("link add {port} type veth peer name eth0 netns {}", namespace(name)))?;
    ip(FABRIC, &format!("link set {port} master {} up", node.subnet.bridge))?;
    // The MAC is the same after a power cut, so the neighbour entries of other nodes stay valid.
    ip(name, &format!("link set eth0 address {} up", node.mac()))?;
    ip(name, &format!("address add {}/24 dev eth0", node.v4()))?;
    ip(name, &format!("address add {}/64 dev eth0 nodad", node.v6()))?;
    ip(name, &format!("route add default via {}", node.subnet.gateway4()))?;
    ip(name, &format!("-6 route add default via {}", node.subnet.gateway6()))?;
    set(name, "net/ipv4/ip_forward", "1")?;
    set(name, "net/ipv6/conf/all/forwarding", "1")?;
    set(name, "net/ipv4/ping_group_range", "0 2147483647")?;
    for scope in ["all", "default", "eth0"] {
        set(name, &format!("net/ipv4/conf/{scope}/rp_filter"), "0")?;
    }
    Ok(())
}

/// Deletes a node's namespace and every device in it, as a power cut does. No process may be left
/// in it.
pub(super) fn unplug(node: &Node) -> Result<()> {
    let (name, port) = (namespace(&node.name), format!("to-{}", node.name));
    if namespace_path(&node.name).exists() {
        shell::run(Command::new("ip").args(["netns", "delete", &name]))?;
    }
    // The kernel deletes devices later than the namespace, and until then a new link cannot have
    // the name. A socket with unsent data keeps the namespace, for up to 100 seconds if the peer
    // does not answer (net.ipv4.tcp_orphan_retries).
    wait_for(&format!("removal of device {port}"), 150, || {
        let links = shell::output(Command::new("ip").args(["-n", &namespace(FABRIC), "-o", "link", "show"]))?;
        ensure!(!links.contains(&format!(" {port}@")), "device {port} still exists");
        Ok(())
    })
}

/// Removes every namespace of the test-bed.
pub(super) fn remove() -> Result<()> {
    for name in left() {
        shell::run(Command::new("ip").args(["netns", "delete", &name]))?;
    }
    Ok(())
}

/// Lists the namespaces of the test-bed.
pub(super) fn left() -> Vec<String> {
    let entries = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.starts_with(&format!("{PREFIX}-"))).collect()
}

fn add_namespace(name: &str) -> Result<()> {
    shell::run(Command::new("ip").args(["netns", "add", &namespace(name)]))?;
    ip(name, "link set lo up")
}

/// Runs `ip` in a namespace; no argument may contain a blank.
pub(super) fn ip(name: &str, arguments: &str) -> Result<()> {
    shell::run(Command::new("ip").args(["-n", &namespace(name)]).args(arguments.split(' ')))
}

/// Sets a sysctl of a namespace. Uses nsenter, because `ip netns exec` would mount another /sys.
fn set(name: &str, sysctl: &str, value: &str) -> Result<()> {
    let net = format!("--net={}", namespace_path(name).display());
    let key = sysctl.replace('/', ".");
    shell::output(Command::new("nsenter").arg(net).args(["sysctl", "-qw", &format!("{key}={value}")]))
        .map(|_| ())
        .with_context(|| format!("cannot set sysctl {key} of {name}"))
}
