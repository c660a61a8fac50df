//! The control plane: etcd, API server, controller manager and scheduler as processes in the
//! namespace of node cp.
//!
//! They are also in that node's cgroup, so they use Services through the same socket hooks as any
//! process of a node.

use std::fs;

use anyhow::{Context, Result};

use super::layout::Layout;
use super::settings::{API_PORT, CONTROL_PLANE, POD_RANGES, SERVICE_RANGES};
use super::shape::Node;
use super::step::wait_for;
use super::{daemon, enter, kube};

/// Starts the programs that do not run, and waits until the API server is ready, because the others
/// need it at once.
pub(super) fn start(layout: &Layout) -> Result<()> {
    fs::create_dir_all(layout.run().join("etcd"))?;
    daemon(layout, "etcd", &etcd(layout))?;
    daemon(layout, "kube-apiserver", &api_server(layout))?;
    wait_for("the API server's /readyz", 120, || {
        daemon::find(layout, "kube-apiserver")
            .with_context(|| format!("kube-apiserver has ended: see {}", layout.log("kube-apiserver").display()))?;
        kube::kubectl(layout, &["get", "--raw", "/readyz"]).map(drop)
    })?;
    daemon(layout, "kube-controller-manager", &controller_manager(layout))?;
    daemon(layout, "kube-scheduler", &scheduler(layout))
}

fn daemon(layout: &Layout, name: &str, arguments: &[String]) -> Result<()> {
    daemon::start(layout, name, enter::in_namespace(CONTROL_PLANE, &layout.bin(name))?.args(arguments))
}

fn etcd(layout: &Layout) -> Vec<String> {
    let (client, peer) = ("http://127.0.0.1:2379", "http://127.0.0.1:2380");
    vec![
        format!("--data-dir={}", layout.run().join("etcd").display()),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=default={peer}"),
        // A cluster that exists for minutes needs no durable writes.
        "--unsafe-no-fsync".into(),
        "--log-level=warn".into(),
    ]
}

fn api_server(layout: &Layout) -> Vec<String> {
    let pki = |name: &str| layout.pki(name).display().to_string();
    vec![
        "--etcd-servers=http://127.0.0.1:2379".into(),
        format!("--advertise-address={}", Node::control_plane().v4()),
        "--bind-address=::".into(),
        format!("--secure-port={API_PORT}"),
        format!("--service-cluster-ip-range={}", SERVICE_RANGES.join(",")),
        "--authorization-mode=Node,RBAC".into(),
        "--enable-admission-plugins=NodeRestriction".into(),
        "--allow-privileged=true".into(),
        format!("--client-ca-file={}", pki("ca.crt")),
        format!("--tls-cert-file={}", pki("apiserver.crt")),
        format!("--tls-private-key-file={}", pki("apiserver.key")),
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local".into(),
        format!("--service-account-signing-key-file={}", pki("service-accounts.key")),
        format!("--service-account-key-file={}", pki("service-accounts.pub")),
        format!("--kubelet-client-certificate={}", pki("apiserver-kubelet-client.crt")),
        format!("--kubelet-client-key={}", pki("apiserver-kubelet-client.key")),
        format!("--kubelet-certificate-authority={}", pki("ca.crt")),
        "--kubelet-preferred-address-types=InternalIP".into(),
        format!("--requestheader-client-ca-file={}", pki("front-proxy-ca.crt")),
        "--requestheader-allowed-names=front-proxy-client".into(),
        "--requestheader-extra-headers-prefix=X-Remote-Extra-".into(),
        "--requestheader-group-headers=X-Remote-Group".into(),
        "--requestheader-username-headers=X-Remote-User".into(),
        format!("--proxy-client-cert-file={}", pki("front-proxy-client.crt")),
        format!("--proxy-client-key-file={}", pki("front-proxy-client.key")),
    ]
}

fn controller_manager(layout: &Layout) -> Vec<String> {
    let pki = |name: &str| layout.pki(name).display().to_string();
    let mut arguments = identity(layout, "kube-controller-manager");
    arguments.extend([
        "--allocate-node-cidrs=true".into(),
        format!("--cluster-cidr={}", POD_RANGES.join(",")),
        "--node-cidr-mask-size-ipv4=24".into(),
        "--node-cidr-mask-size-ipv6=64".into(),
        format!("--service-cluster-ip-range={}", SERVICE_RANGES.join(",")),
        format!("--root-ca-file={}", pki("ca.crt")),
        format!("--service-account-private-key-file={}", pki("service-accounts.key")),
        "--use-service-account-credentials=true".into(),
        format!("--cluster-signing-cert-file={}", pki("ca.crt")),
        format!("--cluster-signing-key-file={}", pki("ca.key")),
        format!("--requestheader-client-ca-file={}", pki("front-proxy-ca.crt")),
    ]);
    arguments
}

fn scheduler(layout: &Layout) -> Vec<String> {
    identity(layout, "kube-scheduler")
}

/// Returns the client certificate flags that all clients of the API server share.
fn identity(layout: &Layout, name: &str) -> Vec<String> {
    let file = layout.kubeconfig(name).display().to_string();
    let flags = ["kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig"];
    let mut arguments: Vec<_> = flags.iter().map(|flag| format!("--{flag}={file}")).collect();
    arguments.extend(["--leader-elect=false".into(), "--bind-address=127.0.0.1".into()]);
    arguments
}
