//! The control plane: etcd, API server, controller manager and scheduler as processes in the namespace of node cp.
//!
//! They are in that node's cgroup too: so they reach Services by the same socket programs as any process of a node.

use std::fs;

use anyhow::{Context, Result};

use super::layout::Place;
use super::settings::{API_PORT, CONTROL_PLANE, POD_RANGES, SERVICE_RANGES};
use super::shape::Node;
use super::step::wait_for;
use super::{daemon, enter, kube};

/// Starts what does not run, and waits until the API server is ready. The others need it at once.
pub(super) fn start(place: &Place) -> Result<()> {
    fs::create_dir_all(place.run().join("etcd"))?;
    daemon(place, "etcd", &etcd(place))?;
    daemon(place, "kube-apiserver", &api_server(place))?;
    wait_for("the API server's /readyz", 120, || {
        daemon::find(place, "kube-apiserver")
            .with_context(|| format!("it has ended: see {}", place.log("kube-apiserver").display()))?;
        kube::kubectl(place, &["get", "--raw", "/readyz"]).map(drop)
    })?;
    daemon(place, "kube-controller-manager", &controller_manager(place))?;
    daemon(place, "kube-scheduler", &scheduler(place))
}

fn daemon(place: &Place, name: &str, arguments: &[String]) -> Result<()> {
    daemon::start(place, name, enter::in_namespace(CONTROL_PLANE, &place.bin(name))?.args(arguments))
}

fn etcd(place: &Place) -> Vec<String> {
    let (client, peer) = ("http://127.0.0.1:2379", "http://127.0.0.1:2380");
    vec![
        format!("--data-dir={}", place.run().join("etcd").display()),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=default={peer}"),
        // A cluster that lives for minutes needs no disk that keeps its word.
        "--unsafe-no-fsync".into(),
        "--log-level=warn".into(),
    ]
}

fn api_server(place: &Place) -> Vec<String> {
    let pki = |name: &str| place.pki(name).display().to_string();
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

fn controller_manager(place: &Place) -> Vec<String> {
    let pki = |name: &str| place.pki(name).display().to_string();
    let mut arguments = identity(place, "kube-controller-manager");
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

fn scheduler(place: &Place) -> Vec<String> {
    identity(place, "kube-scheduler")
}

/// What all clients of the API server are told.
fn identity(place: &Place, name: &str) -> Vec<String> {
    let file = place.kubeconfig(name).display().to_string();
    let flags = ["kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig"];
    let mut arguments: Vec<_> = flags.iter().map(|flag| format!("--{flag}={file}")).collect();
    arguments.extend(["--leader-elect=false".into(), "--bind-address=127.0.0.1".into()]);
    arguments
}
