//! Sets up what Ropeway is compared with: the reference plugins with static routes, and upstream's
//! kube-proxy.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::layout::Layout;
use super::network::{self, FABRIC, namespace_path};
use super::node::inside;
use super::settings::{FAR, NEAR, POD_RANGES};
use super::shape::{Node, Shape};
use super::{daemon, enter, kube};

/// Configures a pod network with the reference plugins on all nodes.
pub(super) fn network(layout: &Layout, shape: &Shape) -> Result<()> {
    for node in shape.all() {
        let ranges = kube::pod_ranges(layout, &node.name)?;
        for other in shape.all().iter().filter(|other| other.name != node.name) {
            // The other node's address, or the router before it.
            let direct = other.subnet.bridge == node.subnet.bridge;
            let via = if direct { [node.v4(), node.v6()] } else { [other.subnet.gateway4(), other.subnet.gateway6()] };
            routes(&other.name, &ranges, &via)?;
        }
        routes(FABRIC, &ranges, &[node.v4(), node.v6()])?;
        let directory = inside(&layout.node_root(&node.name), "/etc/cni/net.d".as_ref());
        let fresh = directory.join(".10-reference");
        fs::write(&fresh, serde_json::to_vec_pretty(&conflist(&ranges))?)?;
        fs::rename(&fresh, directory.join("10-reference.conflist"))?;
    }
    masquerading(layout, shape)
}

/// Masquerades the traffic of pods that leaves the cluster, on all nodes.
pub(super) fn masquerading(layout: &Layout, shape: &Shape) -> Result<()> {
    shape.all().iter().try_for_each(|node| masquerade(node, &kube::pod_ranges(layout, &node.name)?))
}

fn routes(at: &str, [four, six]: &[String; 2], [via4, via6]: &[String; 2]) -> Result<()> {
    network::ip(at, &format!("route replace {four} via {via4}"))?;
    network::ip(at, &format!("-6 route replace {six} via {via6}"))
}

fn conflist([four, six]: &[String; 2]) -> Value {
    json!({
        "cniVersion": "1.0.0", "name": "reference", "plugins": [
            {"type": "ptp", "mtu": 1500, "ipMasq": false, "ipam": {
                "type": "host-local", "dataDir": "/run/cni-addresses",
                "ranges": [[{"subnet": four}], [{"subnet": six}]],
                "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
            }},
            {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true},
        ],
    })
}

fn masquerade(node: &Node, [four, six]: &[String; 2]) -> Result<()> {
    let [pods4, pods6] = POD_RANGES;
    let (near, far) = (NEAR, FAR);
    let rules = format!(
        "table inet reference\ndelete table inet reference\ntable inet reference {{\n chain out {{\n\
         type nat hook postrouting priority 110;\n\
         ip saddr {four} ip daddr {{ {}, {} }} masquerade\n\
         ip saddr {four} ip daddr != {{ {pods4}, {}.0/24, {}.0/24 }} masquerade\n\
         ip6 saddr {six} ip6 daddr {{ {}, {} }} masquerade\n\
         ip6 saddr {six} ip6 daddr != {{ {pods6}, {}/64, {}/64 }} masquerade\n }}\n}}\n",
        near.gateway4(),
        far.gateway4(),
        near.v4,
        far.v4,
        near.gateway6(),
        far.gateway6(),
        near.v6,
        far.v6,
    );
    let mut nft = Command::new("nsenter");
    nft.arg(format!("--net={}", namespace_path(&node.name).display())).args(["nft", "-f", "-"]);
    let mut child = nft.stdin(Stdio::piped()).spawn().context("cannot start nft")?;
    child.stdin.take().context("nft has no input")?.write_all(rules.as_bytes())?;
    let status = child.wait()?;
    if !status.success() {
        bail!("nft failed on node {}: {status}", node.name);
    }
    Ok(())
}

/// Starts kube-proxy on all nodes.
pub(super) fn kube_proxy(layout: &Layout, shape: &Shape, mode: &str) -> Result<()> {
    for node in shape.all() {
        let config = json!({
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration",
            "mode": mode, "hostnameOverride": node.name, "clusterCIDR": POD_RANGES.join(","),
            "detectLocalMode": "ClusterCIDR",
            "clientConnection": {"kubeconfig": layout.kubeconfig("kube-proxy")},
            // These sysctls are global and cannot be set from a node.
            "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        });
        let path = "/etc/kubernetes/kube-proxy.json";
        fs::write(inside(&layout.node_root(&node.name), path.as_ref()), serde_json::to_vec_pretty(&config)?)?;
        let mut command = enter::in_node(&node.name, &layout.bin("kube-proxy"))?;
        command.arg(format!("--config={path}"));
        daemon::start(layout, &format!("kube-proxy-{}", node.name), &mut command)?;
    }
    Ok(())
}
