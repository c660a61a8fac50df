//! The add-ons of every cluster: DNS and metrics.

use std::fs;

use anyhow::{Context, Result, ensure};

use super::kube;
use super::layout::Layout;
use super::settings::{AGNHOST, COREDNS, DNS_SERVICE, DOMAIN, METRICS_SERVER, NEAR};
use super::step::wait_for;

/// Applies the manifests of both.
pub(super) fn apply(layout: &Layout) -> Result<()> {
    for name in ["coredns.yaml", "metrics-server.yaml"] {
        kube::apply(layout, &template(layout, name)?).with_context(|| format!("cannot apply template {name}"))?;
    }
    Ok(())
}

/// Returns a manifest of tests/cluster/templates with this cluster's values.
pub(super) fn template(layout: &Layout, name: &str) -> Result<String> {
    let path = layout.template(name);
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(fill(&text))
}

fn fill(text: &str) -> String {
    let values = [
        ("{{domain}}", DOMAIN),
        ("{{dns4}}", DNS_SERVICE[0]),
        ("{{dns6}}", DNS_SERVICE[1]),
        ("{{upstream}}", &NEAR.gateway4()),
        ("{{coredns}}", COREDNS),
        ("{{agnhost}}", AGNHOST),
        ("{{metrics-server}}", METRICS_SERVER),
    ];
    values.iter().fold(text.to_owned(), |text, (name, value)| text.replace(name, value))
}

/// Waits until DNS is served.
pub(super) fn dns_ready(layout: &Layout) -> Result<()> {
    kube::rolled_out(layout, "kube-system", "deployment/coredns", 180)
}

/// Waits until the API server gets metrics from the metrics server.
pub(super) fn metrics_ready(layout: &Layout, nodes: usize) -> Result<()> {
    kube::rolled_out(layout, "kube-system", "deployment/metrics-server", 180)?;
    wait_for("kubectl top nodes", 120, || {
        let lines = kube::kubectl(layout, &["top", "nodes", "--no-headers"])?.lines().count();
        ensure!(lines == nodes, "kubectl top lists {lines} nodes, {nodes} expected");
        Ok(())
    })
}
