//! `up`: from nothing, or from wherever it stopped, to a cluster.

use std::fs;

use anyhow::{Result, bail};

use super::Workshop;
use super::layout::Place;
use super::shape::{Cni, Node, Proxy, Shape};
use super::step::Steps;
use super::tools::Set;
use super::{addons, control, images, kube, machine, network, node, pki, reference, tools};

/// Programs and images.
pub(super) fn prepare(workshop: &dyn Workshop, place: &Place, steps: &Steps, sets: &[Set]) -> Result<()> {
    workshop.install_packages()?;
    tools::build(place, sets)?;
    images::make(place, steps)
}

/// The cluster. With Ropeway as its network the nodes stay `NotReady` until `install`.
pub(super) fn run(workshop: &dyn Workshop, place: &Place, steps: &Steps, shape: &Shape) -> Result<()> {
    shape.check()?;
    if let Some(present) = Shape::read(place)?
        && present != *shape
    {
        bail!("a cluster of another shape is up ({present:?}): `cargo xtask cluster down` first");
    }
    prepare(workshop, place, steps, &tools::sets(shape))?;
    fs::create_dir_all(place.run())?;
    shape.write(place)?;
    steps.step("network fabric", || {
        machine::prepare(place)?;
        network::fabric()?;
        network::upstream_dns(place)?;
        network::plug(&Node::control_plane())
    })?;
    steps.step("certificates", || pki::make(place, shape))?;
    steps.step("control plane", || control::start(place))?;
    steps.step("nodes", || shape.all().iter().try_for_each(|n| node::start(place, n)))?;
    steps.step("nodes' registration", || shape.all().iter().try_for_each(|n| node::registered(place, n)))?;
    match shape.proxy {
        Proxy::Ropeway => {}
        Proxy::KubeProxyIptables => steps.step("kube-proxy", || reference::kube_proxy(place, shape, "iptables"))?,
        Proxy::KubeProxyNftables => steps.step("kube-proxy", || reference::kube_proxy(place, shape, "nftables"))?,
    }
    steps.step("manifests of DNS and metrics", || addons::apply(place))?;
    if shape.cni == Cni::Reference {
        steps.step("reference network", || reference::network(place, shape))?;
    } else if shape.proxy != Proxy::Ropeway {
        steps.step("masquerading", || reference::masquerading(place, shape))?;
    }
    if shape.has_agents() {
        println!("the cluster is not complete yet: `cargo xtask cluster install` is next");
        return Ok(());
    }
    ready(place, steps, shape)
}

/// Waits until everything works that every cluster has.
pub(super) fn ready(place: &Place, steps: &Steps, shape: &Shape) -> Result<()> {
    let count = shape.all().len();
    steps.step("all nodes Ready", || kube::nodes_ready(place, count, 180))?;
    steps.step("DNS ready", || addons::dns_ready(place))?;
    steps.step("metrics ready", || addons::metrics_ready(place, count))
}
