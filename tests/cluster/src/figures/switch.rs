//! Measures how long it takes until a client reaches the new endpoint of a changed slice.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ropeway_tests::load::RequestLoad;
use serde_json::{Value, json};

use super::{NAMESPACE, TIMES};
use crate::kube;
use crate::layout::Layout;
use crate::network::{FABRIC, namespace_path};
use crate::pki::{self, ADMIN};
use crate::pod::{self, Pod};
use toolbox::shell;

/// Measures the time from the request that changes the slice until a client that sends requests
/// continuously gets an answer of the new endpoint. The request's time is included.
pub(super) fn times(layout: &Layout) -> Result<Vec<Duration>> {
    let mut peers = pod::list(layout, &["-n", NAMESPACE, "-l", "app=peer"])?;
    peers.sort_by(|a, b| a.name.cmp(&b.name));
    let [one, other, client] = &peers[..] else { anyhow::bail!("{} peer pods run, 3 expected", peers.len()) };
    let path = "jsonpath={.spec.clusterIP}";
    let ip = kube::kubectl(layout, &["-n", NAMESPACE, "get", "service", "switch", "-o", path])?;
    let target = (ip.parse::<std::net::IpAddr>().with_context(|| format!("{ip} is not an IP address"))?, 80).into();
    kube::apply(layout, &slice(one)?.to_string())?;
    RequestLoad::until(client, target, &one.name)?.stop()?;
    let mut times = Vec::new();
    for turn in 0..TIMES {
        let next = if turn % 2 == 0 { other } else { one };
        let load = RequestLoad::until(client, target, &next.name)?;
        let begin = Instant::now();
        patch(layout, &json!({"endpoints": slice(next)?["endpoints"]}))?;
        let report = load.stop()?;
        times.push(begin.elapsed());
        ensure!(report.failed == 0, "{} requests failed during the change: {:?}", report.failed, report.errors);
    }
    Ok(times)
}

fn slice(pod: &Pod) -> Result<Value> {
    let address = pod.addresses.iter().find(|address| !address.contains(':'));
    let address = address.with_context(|| format!("{} has no IPv4 address", pod.name))?;
    Ok(json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "switch", "namespace": NAMESPACE, "labels": {"kubernetes.io/service-name": "switch"}},
        "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
        "endpoints": [{"addresses": [address], "conditions": {"ready": true}, "nodeName": pod.node}],
    }))
}

/// Patches the slice without kubectl, because kubectl's start would dominate the time.
fn patch(layout: &Layout, body: &Value) -> Result<()> {
    let mut curl = Command::new("nsenter");
    curl.arg(format!("--net={}", namespace_path(FABRIC).display())).args(["curl", "-sS", "--fail", "-X", "PATCH"]);
    curl.args(["-H", "Content-Type: application/merge-patch+json", "-d", &body.to_string(), "--cacert"]);
    curl.arg(layout.pki("ca.crt")).arg("--cert").arg(layout.pki(&format!("client-{ADMIN}.crt")));
    curl.arg("--key").arg(layout.pki(&format!("client-{ADMIN}.key")));
    let server = pki::api_server();
    curl.arg(format!("{server}/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices/switch"));
    shell::output(&mut curl).map(drop)
}
