//! Creates a node, starts it and cuts its power. Owns the node's directory, which is `/` inside the
//! node, and its configuration files.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::json;

use super::layout::Layout;
use super::settings::{DNS_SERVICE, DOMAIN, PAUSE_IMAGE};
use super::shape::Node;
use super::step::wait_for;
use super::{cgroups, daemon, enter, kube, network};
use toolbox::shell;

/// Directories of a node that must exist before anything runs.
const DIRECTORIES: &[&str] = &[
    "dev",
    "proc",
    "sys",
    "run",
    "tmp",
    "root",
    "usr",
    "etc/cni/net.d",
    "etc/kubernetes/manifests",
    "opt/cni/bin",
    "var/tmp",
    "var/lib/kubelet",
    "var/lib/containerd",
    "var/log/pods",
    "var/log/containers",
];
/// Files of the machine's /etc that a node gets as copies.
const ETC: &[&str] = &[
    "passwd",
    "group",
    "nsswitch.conf",
    "protocols",
    "services",
    "ld.so.cache",
    "alternatives",
    "iproute2",
    "os-release",
];
/// The configuration files inside the node.
pub(super) const CONTAINERD_CONFIG: &str = "/etc/containerd.toml";
pub(super) const KUBELET_CONFIG: &str = "/etc/kubernetes/kubelet.json";
/// Directory of static pods, which a kubelet runs without an API server.
pub(super) const STATIC_PODS: &str = "/etc/kubernetes/manifests";
/// The node's flags for its kubelet, one a line.
pub(super) const KUBELET_FLAGS: &str = "/etc/kubernetes/kubelet.flags";

/// Starts the node unless it is running.
pub(super) fn start(layout: &Layout, node: &Node) -> Result<()> {
    let name = format!("node-{}", node.name);
    if daemon::find(layout, &name).is_some() {
        return Ok(());
    }
    cgroups::make(&node.name)?;
    network::plug(node)?;
    prepare(layout, node).with_context(|| format!("cannot prepare {}", layout.node(&node.name).display()))?;
    let this = std::env::current_exe()?;
    let mut command = enter::new_node(&node.name, &this)?;
    daemon::start(layout, &name, command.args(["cluster", "node-init", &node.name]))?;
    wait_for(&format!("first process of node {}", node.name), 20, || enter::init(layout, &node.name).map(|_| ()))
}

/// Cuts the node's power: no process, cgroup, device or mount of it is left, only its disk.
pub(super) fn cut_power(layout: &Layout, node: &Node) -> Result<()> {
    daemon::kill(layout, &format!("node-{}", node.name))?;
    cgroups::remove_of(&node.name)?;
    network::unplug(node)
}

/// Waits until the node's kubelet has registered it and it has its pod ranges.
pub(super) fn registered(layout: &Layout, node: &Node) -> Result<()> {
    wait_for(&format!("registration of node {}", node.name), 120, || kube::pod_ranges(layout, &node.name).map(|_| ()))?;
    if node.is_control_plane() {
        // A kubelet may not give itself this label. It must be set before the node is Ready:
        // programs that count nodes by the label look again only at that change.
        let label = "node-role.kubernetes.io/control-plane=";
        kube::kubectl(layout, &["label", "node", &node.name, "--overwrite", label])?;
    }
    Ok(())
}

/// Creates everything that the node's first process mounts or reads.
fn prepare(layout: &Layout, node: &Node) -> Result<()> {
    let root = layout.node_root(&node.name);
    for directory in DIRECTORIES {
        fs::create_dir_all(root.join(directory))?;
    }
    for own in shared_directories(layout) {
        fs::create_dir_all(inside(&root, &own))?;
    }
    for link in ["bin", "sbin", "lib", "lib64"] {
        if Path::new("/usr").join(link).exists() && !is_there(&root.join(link)) {
            symlink(format!("usr/{link}"), root.join(link))?;
        }
    }
    for name in
        ETC.iter().filter(|name| Path::new("/etc").join(name).exists() && !is_there(&root.join("etc").join(name)))
    {
        shell::run(Command::new("cp").arg("-a").arg(Path::new("/etc").join(name)).arg(root.join("etc")))?;
    }
    shell::run(Command::new("cp").arg("-r").arg(layout.bin("cni/.")).arg(root.join("opt/cni/bin")))?;
    seed(layout, &root.join("var/lib/containerd"))?;
    let name = &node.name;
    let etc = |file: &str, text: String| fs::write(root.join("etc").join(file), text);
    etc("hostname", format!("{name}\n"))?;
    etc("hosts", format!("127.0.0.1 localhost\n::1 localhost\n{} {name}\n{} {name}\n", node.v4(), node.v6()))?;
    etc("resolv.conf", format!("nameserver {}\n", node.subnet.gateway4()))?;
    let file = |path: &str| inside(&root, Path::new(path));
    fs::write(file(CONTAINERD_CONFIG), containerd(layout))?;
    fs::write(file(KUBELET_CONFIG), serde_json::to_vec_pretty(&kubelet(layout, node))?)?;
    fs::write(file(KUBELET_FLAGS), kubelet_flags(layout, node).join("\n"))?;
    Ok(())
}

/// Returns true if the path exists, also as a dangling link to a file that only a running node has.
fn is_there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

/// Returns the directories of the test-bed that a node sees under the same paths.
pub(super) fn shared_directories(layout: &Layout) -> Vec<PathBuf> {
    vec![layout.cache().join("bin"), layout.run().join("pki"), layout.run().join("kubeconfig")]
}

/// Returns the machine's path of a file of the node.
pub(super) fn inside(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// Gives the node all images: layers as hard links, because they are never written, and databases
/// as copies.
fn seed(layout: &Layout, to: &Path) -> Result<()> {
    if to.join("io.containerd.metadata.v1.bolt").exists() {
        return Ok(());
    }
    shell::run(Command::new("cp").arg("-al").arg(layout.seed().join(".")).arg(to))?;
    for file in databases(&layout.seed())? {
        let copy = to.join(file.strip_prefix(layout.seed())?);
        fs::remove_file(&copy)?;
        fs::copy(&file, &copy)?;
    }
    Ok(())
}

fn databases(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        // Layers have databases too (of packages): only the runtime's own are next to its
        // directories.
        if entry.file_type()?.is_dir() && entry.file_name() != "snapshots" {
            found.extend(databases(&entry.path())?);
        } else if entry.path().extension().is_some_and(|e| e == "db") {
            found.push(entry.path());
        }
    }
    Ok(found)
}

fn containerd(layout: &Layout) -> String {
    let runc = layout.bin("runc");
    // Lowering oom_score_adj needs CAP_SYS_RESOURCE, which many test machines do not have.
    format!(
        r#"version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins.'io.containerd.cri.v1.images']
  snapshotter = "overlayfs"
  [plugins.'io.containerd.cri.v1.images'.pinned_images]
    sandbox = "{PAUSE_IMAGE}"
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ["/opt/cni/bin"]
    conf_dir = "/etc/cni/net.d"
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
      BinaryName = "{}"
      SystemdCgroup = false
"#,
        runc.display()
    )
}

fn kubelet(layout: &Layout, node: &Node) -> serde_json::Value {
    let pki = |name: &str| layout.pki(name).display().to_string();
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "failCgroupV1": false,
        "cgroupDriver": "cgroupfs",
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": pki("ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": pki(&format!("kubelet-{}.crt", node.name)),
        "tlsPrivateKeyFile": pki(&format!("kubelet-{}.key", node.name)),
        "clusterDNS": [DNS_SERVICE[0]],
        "clusterDomain": DOMAIN,
        "resolvConf": "/etc/resolv.conf",
        "staticPodPath": STATIC_PODS,
        "failSwapOn": false,
        "protectKernelDefaults": false,
        "nodeStatusUpdateFrequency": "5s",
        "serializeImagePulls": false,
        // Images can't be pulled again: no registry.
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "imageMaximumGCAge": "0s",
        "evictionHard": {
            "memory.available": "200Mi", "nodefs.available": "1%", "nodefs.inodesFree": "1%", "imagefs.available": "1%",
        },
    })
}

fn kubelet_flags(layout: &Layout, node: &Node) -> Vec<String> {
    let mut flags = vec![
        format!("--config={KUBELET_CONFIG}"),
        format!("--kubeconfig={}", layout.kubeconfig(&format!("node-{}", node.name)).display()),
        format!("--node-ip={},{}", node.v4(), node.v6()),
        format!("--hostname-override={}", node.name),
    ];
    flags.push(if node.is_control_plane() {
        "--register-with-taints=node-role.kubernetes.io/control-plane=:NoSchedule".into()
    } else {
        format!("--node-labels=topology.kubernetes.io/region=r1,topology.kubernetes.io/zone={}", node.zone())
    });
    flags
}
