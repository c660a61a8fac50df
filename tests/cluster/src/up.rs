//! `up`: starts a cluster, or continues an interrupted start.

use std::fs;

use anyhow::{Result, bail};

use super::Workshop;
use super::layout::Layout;
use super::shape::{Cni, Node, Proxy, Shape};
use super::step::Steps;
use super::tools::Set;
use super::{addons, control, images, kube, machine, network, node, pki, reference, tools};

/// Builds programs and images.
pub(super) fn prepare(workshop: &dyn Workshop, layout: &Layout, steps: &Steps, sets: &[Set]) -> Result<()> {
    workshop.install_packages()?;
    tools::build(layout, sets)?;
    images::make(layout, steps)
}

/// Starts the cluster. With Ropeway as its network the nodes stay `NotReady` until `install`.
pub(super) fn run(workshop: &dyn Workshop, layout: &Layout, steps: &Steps, shape: &Shape) -> Result<()> {
    shape.check()?;
    if let Some(present) = Shape::read(layout)?
        && present != *shape
    {
        bail!("a cluster of another shape is up ({present:?}): `cargo xtask cluster down` first");
    }
    prepare(workshop, layout, steps, &tools::sets(shape))?;
    fs::create_dir_all(layout.run())?;
    shape.write(layout)?;
    steps.step("network fabric", || {
        machine::prepare(layout)?;
        network::fabric()?;
        network::upstream_dns(layout)?;
        network::plug(&Node::control_plane())
    })?;
    steps.step("certificates", || pki::make(layout, shape))?;
    steps.step("control plane", || control::start(layout))?;
    steps.step("nodes", || shape.all().iter().try_for_each(|n| node::start(layout, n)))?;
    steps.step("nodes' registration", || shape.all().iter().try_for_each(|n| node::registered(layout, n)))?;
    match shape.proxy {
        Proxy::Ropeway => {}
        Proxy::KubeProxyIptables => steps.step("kube-proxy", || reference::kube_proxy(layout, shape, "iptables"))?,
        Proxy::KubeProxyNftables => steps.step("kube-proxy", || reference::kube_proxy(layout, shape, "nftables"))?,
    }
    steps.step("manifests of DNS and metrics", || addons::apply(layout))?;
    if shape.cni == Cni::Reference {
        steps.step("reference network", || reference::network(layout, shape))?;
    } else if shape.proxy != Proxy::Ropeway {
        steps.step("masquerading", || reference::masquerading(layout, shape))?;
    }
    if shape.has_agents() {
        println!("the cluster is not complete yet: `cargo xtask cluster install` is next");
        return Ok(());
    }
    ready(layout, steps, shape)
}

/// Waits until the functions that every cluster has are working.
pub(super) fn ready(layout: &Layout, steps: &Steps, shape: &Shape) -> Result<()> {
    let count = shape.all().len();
    steps.step("all nodes Ready", || kube::nodes_ready(layout, count, 180))?;
    steps.step("DNS ready", || addons::dns_ready(layout))?;
    steps.step("metrics ready", || addons::metrics_ready(layout, count))
}
