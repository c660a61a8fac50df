//! The constants of the test cluster: numbers, names and versions.
//!
//! All other modules of the crate read them from here. Addresses follow one plan: the last byte of
//! a node's address is its number plus `FIRST_HOST`, in each subnet.

/// Prefix of names outside the test-bed's directory: network namespaces and cgroups.
pub(super) const PREFIX: &str = "rw-cluster";

/// Version of the Kubernetes modules; the go.mod of tests/cluster/tools/kubernetes says the same.
pub(super) const KUBERNETES: &str = "v1.37.2";
/// Versions that names of images carry.
pub(super) const COREDNS: &str = "v1.15.0";
pub(super) const METRICS_SERVER: &str = "v0.9.0";
pub(super) const RUNC: &str = "1.5.2";

/// Name of the control plane's node.
pub(super) const CONTROL_PLANE: &str = "cp";
/// Last byte of the control plane's addresses; workers have the next ones.
pub(super) const FIRST_HOST: usize = 10;
/// Largest number of nodes, by the address plan and the size of a small machine.
pub(super) const MAX_NODES: usize = 20;

/// One switched network of nodes. The fabric has `.1` and `::1`: gateway, outside host and upstream
/// DNS.
#[derive(Clone, Copy)]
pub(super) struct Subnet {
    /// Name of its bridge in the fabric.
    pub(super) bridge: &'static str,
    /// First three bytes of its IPv4 addresses.
    pub(super) v4: &'static str,
    /// First 64 bits of its IPv6 addresses, with the colons that follow.
    pub(super) v6: &'static str,
}

/// The subnet of the nodes, and that of the node behind a router.
pub(super) const NEAR: Subnet = Subnet { bridge: "br0", v4: "192.168.50", v6: "fd00:50::" };
pub(super) const FAR: Subnet = Subnet { bridge: "br1", v4: "192.168.51", v6: "fd00:51::" };

/// Ranges of the cluster, IPv4 first.
pub(super) const SERVICE_RANGES: [&str; 2] = ["10.96.0.0/16", "fd00:96::/112"];
pub(super) const POD_RANGES: [&str; 2] = ["10.244.0.0/16", "fd00:10:244::/56"];
/// First addresses of the service ranges: the Service `kubernetes`.
pub(super) const KUBERNETES_SERVICE: [&str; 2] = ["10.96.0.1", "fd00:96::1"];
/// The cluster's DNS Service.
pub(super) const DNS_SERVICE: [&str; 2] = ["10.96.0.10", "fd00:96::a"];
pub(super) const DOMAIN: &str = "cluster.local";
pub(super) const API_PORT: u16 = 6443;

/// The image of every pod's first container.
pub(super) const PAUSE_IMAGE: &str = "registry.k8s.io/pause:3.10.2";
/// The registry that upstream's tests name in their images.
pub(super) const TEST_IMAGES: &str = "registry.k8s.io/e2e-test-images";
/// The image of the smoke checks: it has every client that they need.
pub(super) const AGNHOST: &str = "registry.k8s.io/e2e-test-images/agnhost:2.66.1";
/// The name under which the image of Ropeway is loaded into the nodes.
pub(super) const ROPEWAY_IMAGE: &str = "ropeway.local/ropeway:test";
/// The name of the image with the peer of this project's own tests.
pub(super) const PEER_IMAGE: &str = "ropeway.local/peer:test";

/// Sysctls of the whole machine that the test-bed or a kubelet changes; `down` puts the former
/// values back.
pub(super) const MACHINE_SYSCTLS: &[&str] = &[
    "kernel/panic",
    "kernel/panic_on_oops",
    "vm/overcommit_memory",
    "fs/inotify/max_user_instances",
    "fs/inotify/max_user_watches",
];
/// Values that several kubelets on one kernel need.
pub(super) const RAISED_SYSCTLS: &[(&str, &str)] =
    &[("fs/inotify/max_user_instances", "2048"), ("fs/inotify/max_user_watches", "1048576")];
