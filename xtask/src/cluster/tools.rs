//! The programs of a cluster, unmodified, built from their Go modules. A go.mod in tests/cluster/tools pins each.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::place::Place;
use super::settings::{KUBERNETES, RUNC};
use super::step::Steps;
use crate::shell;

/// One program.
struct Tool {
    /// Its name in the cache.
    name: &'static str,
    /// The module in tests/cluster/tools.
    module: &'static str,
    package: &'static str,
    kind: Kind,
}

#[derive(PartialEq, Eq)]
enum Kind {
    Plain,
    /// Carries the version that it reports.
    Kubernetes,
    /// A test program.
    Test,
    /// Links libseccomp.
    Runc,
}

const fn tool(name: &'static str, module: &'static str, package: &'static str) -> Tool {
    Tool { name, module, package, kind: Kind::Plain }
}

const fn kubernetes(name: &'static str, package: &'static str) -> Tool {
    Tool { name, module: "kubernetes", package, kind: Kind::Kubernetes }
}

const TOOLS: &[Tool] = &[
    kubernetes("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
    kubernetes("kube-controller-manager", "k8s.io/kubernetes/cmd/kube-controller-manager"),
    kubernetes("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler"),
    kubernetes("kubelet", "k8s.io/kubernetes/cmd/kubelet"),
    kubernetes("kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy"),
    kubernetes("kubectl", "k8s.io/kubernetes/cmd/kubectl"),
    kubernetes("agnhost", "k8s.io/kubernetes/test/images/agnhost"),
    kubernetes("regression-issue-74839", "k8s.io/kubernetes/test/images/regression-issue-74839"),
    kubernetes("ginkgo", "github.com/onsi/ginkgo/v2/ginkgo"),
    Tool { name: "e2e.test", module: "kubernetes", package: "k8s.io/kubernetes/test/e2e", kind: Kind::Test },
    tool("etcd", "etcd", "go.etcd.io/etcd/server/v3"),
    tool("containerd", "containerd", "github.com/containerd/containerd/v2/cmd/containerd"),
    tool("containerd-shim-runc-v2", "containerd", "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2"),
    tool("ctr", "containerd", "github.com/containerd/containerd/v2/cmd/ctr"),
    Tool { name: "runc", module: "runc", package: "github.com/opencontainers/runc", kind: Kind::Runc },
    tool("cni/ptp", "cni", "github.com/containernetworking/plugins/plugins/main/ptp"),
    tool("cni/bridge", "cni", "github.com/containernetworking/plugins/plugins/main/bridge"),
    tool("cni/loopback", "cni", "github.com/containernetworking/plugins/plugins/main/loopback"),
    tool("cni/host-local", "cni", "github.com/containernetworking/plugins/plugins/ipam/host-local"),
    tool("cni/portmap", "cni", "github.com/containernetworking/plugins/plugins/meta/portmap"),
    tool("coredns", "coredns", "github.com/coredns/coredns"),
    tool("metrics-server", "metrics-server", "sigs.k8s.io/metrics-server/cmd/metrics-server"),
];

/// Builds what is missing or older than its go.mod.
pub(super) fn build(place: &Place, steps: &Steps) -> Result<()> {
    let missing: Vec<_> = TOOLS.iter().filter(|tool| !tool.is_current(place)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if shell::which("go").is_none() {
        bail!("the test-bed builds Kubernetes from source: install Go 1.26 or later and have `go` in PATH");
    }
    for tool in missing {
        steps.step(&format!("building {}", tool.name), || tool.build(place))?;
    }
    Ok(())
}

impl Tool {
    fn is_current(&self, place: &Place) -> bool {
        let changed = |path| fs::metadata(path).and_then(|m| m.modified()).ok();
        let built = changed(place.bin(self.name));
        built.is_some() && built >= changed(place.tools().join(self.module).join("go.mod"))
    }

    fn build(&self, place: &Place) -> Result<()> {
        // Beside its name first: an interrupted build must not look like a finished one.
        let fresh = place.bin(&format!("{}.new", self.name));
        let mut go = Command::new("go");
        go.current_dir(place.tools().join(self.module));
        go.env("GOTOOLCHAIN", "local").env("GOFLAGS", "-buildvcs=false -trimpath");
        go.env("CGO_ENABLED", if self.kind == Kind::Runc { "1" } else { "0" });
        match self.kind {
            Kind::Test => go.args(["test", "-c"]),
            Kind::Runc => go.args(["build", "-tags", "seccomp"]),
            Kind::Plain | Kind::Kubernetes => go.arg("build"),
        };
        go.arg("-ldflags").arg(self.linker_flags()).arg("-o").arg(&fresh).arg(self.package);
        shell::output(&mut go)?;
        fs::rename(&fresh, place.bin(self.name)).with_context(|| format!("{}", fresh.display()))?;
        Ok(())
    }

    fn linker_flags(&self) -> String {
        let version = "k8s.io/component-base/version";
        match self.kind {
            Kind::Plain => "-s -w".into(),
            Kind::Runc => format!("-s -w -X main.version={RUNC}"),
            Kind::Kubernetes | Kind::Test => {
                let parts: Vec<_> = KUBERNETES.trim_start_matches('v').split('.').collect();
                let (major, minor) = (parts.first().unwrap_or(&""), parts.get(1).unwrap_or(&""));
                format!(
                    "-s -w -X {version}.gitVersion={KUBERNETES} -X {version}.gitMajor={major} -X {version}.gitMinor={minor} \
                     -X {version}.gitTreeState=clean"
                )
            }
        }
    }
}

/// The source of Kubernetes, for the files that its tests and images read.
pub(super) fn kubernetes_source(place: &Place) -> Result<std::path::PathBuf> {
    let mut go = Command::new("go");
    go.current_dir(place.tools().join("kubernetes")).env("GOFLAGS", "");
    let path = shell::output(go.args(["list", "-m", "-f", "{{.Dir}}", "k8s.io/kubernetes"]))?;
    Ok(path.trim().into())
}
