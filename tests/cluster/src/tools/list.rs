//! The list of built programs and their modules.

use super::Set;

/// Programs that one call of Go builds together.
pub(super) struct Batch {
    pub(super) set: Set,
    /// The module in tests/cluster/tools.
    pub(super) module: &'static str,
    pub(super) kind: Kind,
    pub(super) programs: &'static [Program],
}

/// A program of a batch.
pub(super) struct Program {
    /// Path in the cache.
    pub(super) name: &'static str,
    pub(super) package: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Plain,
    /// The program reports its version, which the linker sets.
    Kubernetes,
    /// A test program, built by `go test -c`.
    Test,
    /// Links libseccomp through cgo.
    Runc,
}

const fn program(name: &'static str, package: &'static str) -> Program {
    Program { name, package }
}

/// All batches, the slowest one first.
pub(super) const BATCHES: &[Batch] = &[
    Batch {
        set: Set::Cluster,
        module: "kubernetes",
        kind: Kind::Kubernetes,
        programs: &[
            program("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
            program("kube-controller-manager", "k8s.io/kubernetes/cmd/kube-controller-manager"),
            program("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler"),
            program("kubelet", "k8s.io/kubernetes/cmd/kubelet"),
            program("kubectl", "k8s.io/kubernetes/cmd/kubectl"),
            program("agnhost", "k8s.io/kubernetes/test/images/agnhost"),
            program("regression-issue-74839", "k8s.io/kubernetes/test/images/regression-issue-74839"),
        ],
    },
    Batch {
        set: Set::KubeProxy,
        module: "kubernetes",
        kind: Kind::Kubernetes,
        programs: &[program("kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy")],
    },
    Batch {
        set: Set::Tests,
        module: "kubernetes",
        kind: Kind::Test,
        programs: &[program("e2e.test", "k8s.io/kubernetes/test/e2e")],
    },
    Batch {
        set: Set::Tests,
        module: "kubernetes",
        kind: Kind::Plain,
        programs: &[program("ginkgo", "github.com/onsi/ginkgo/v2/ginkgo")],
    },
    Batch {
        set: Set::Cluster,
        module: "containerd",
        kind: Kind::Plain,
        programs: &[
            program("containerd", "github.com/containerd/containerd/v2/cmd/containerd"),
            program("containerd-shim-runc-v2", "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2"),
            program("ctr", "github.com/containerd/containerd/v2/cmd/ctr"),
        ],
    },
    Batch {
        set: Set::Cluster,
        module: "etcd",
        kind: Kind::Plain,
        programs: &[program("etcd", "go.etcd.io/etcd/server/v3")],
    },
    Batch {
        set: Set::Cluster,
        module: "metrics-server",
        kind: Kind::Plain,
        programs: &[program("metrics-server", "sigs.k8s.io/metrics-server/cmd/metrics-server")],
    },
    Batch {
        set: Set::Cluster,
        module: "coredns",
        kind: Kind::Plain,
        programs: &[program("coredns", "github.com/coredns/coredns")],
    },
    Batch {
        set: Set::Cluster,
        module: "runc",
        kind: Kind::Runc,
        programs: &[program("runc", "github.com/opencontainers/runc")],
    },
    Batch {
        set: Set::Cluster,
        module: "cni",
        kind: Kind::Plain,
        programs: &[program("cni/loopback", "github.com/containernetworking/plugins/plugins/main/loopback")],
    },
    Batch {
        set: Set::ReferencePlugins,
        module: "cni",
        kind: Kind::Plain,
        programs: &[
            program("cni/ptp", "github.com/containernetworking/plugins/plugins/main/ptp"),
            program("cni/host-local", "github.com/containernetworking/plugins/plugins/ipam/host-local"),
            program("cni/portmap", "github.com/containernetworking/plugins/plugins/meta/portmap"),
        ],
    },
];
