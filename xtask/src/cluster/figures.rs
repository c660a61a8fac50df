//! `figures`: what the network costs, measured on the cluster that is up.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;

use super::place::Place;
use super::settings::AGNHOST;
use super::shape::{Cni, Node, Proxy, Shape};
use super::step::wait_for;
use super::{enter, kube};
use crate::shell;

/// How many pods are made, one after the other.
const PODS: usize = 30;
const NAMESPACE: &str = "ropeway-figures";

/// Measures and prints.
pub(super) fn run(place: &Place) -> Result<()> {
    let shape = Shape::require(place)?;
    kube::nodes_ready(place, shape.all().len(), 60)?;
    kube::kubectl(place, &["create", "namespace", NAMESPACE])?;
    let outcome = pods(place);
    kube::kubectl(place, &["delete", "namespace", NAMESPACE, "--wait=false"])?;
    let mut times = outcome?;
    times.sort();
    let at = |percent: usize| times[(times.len() * percent).div_ceil(100) - 1].as_secs_f64();
    println!("pod made to Ready, {PODS} pods: p50 {:.2} s, p99 {:.2} s", at(50), at(99));
    if shape.proxy == Proxy::Ropeway || shape.cni == Cni::Ropeway {
        for node in shape.all() {
            let (agent, maps) = (agent_memory(place, &node)?, map_memory(&node)?);
            println!("{}: agent {agent} KiB resident, maps {maps} KiB", node.name);
        }
    }
    Ok(())
}

/// The time from the request to make a pod until it is Ready, for each.
fn pods(place: &Place) -> Result<Vec<Duration>> {
    wait_for("service account", 30, || kube::kubectl(place, &["-n", NAMESPACE, "get", "serviceaccount", "default"]))?;
    let one = |number: usize| {
        let name = format!("pod-{number}");
        let begin = Instant::now();
        let image = format!("--image={AGNHOST}");
        kube::kubectl(place, &["-n", NAMESPACE, "run", &name, &image, "--restart=Never", "--", "pause"])?;
        kube::kubectl(place, &["-n", NAMESPACE, "wait", "--for=condition=Ready", "pod", &name, "--timeout=60s"])?;
        Ok(begin.elapsed())
    };
    (0..PODS).map(one).collect()
}

/// The resident memory of the node's agent.
fn agent_memory(place: &Place, node: &Node) -> Result<u64> {
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/net")).ok();
    let here = namespace(&enter::init(place, &node.name)?.to_string()).context("the node's network")?;
    for entry in fs::read_dir("/proc")?.flatten() {
        let pid = entry.file_name().to_string_lossy().into_owned();
        let is_agent = fs::read_to_string(entry.path().join("comm")).is_ok_and(|name| name.trim() == "ropeway-agent");
        if is_agent && namespace(&pid).as_ref() == Some(&here) {
            let status = fs::read_to_string(entry.path().join("status"))?;
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
            return Ok(line.trim().trim_end_matches(" kB").parse()?);
        }
    }
    anyhow::bail!("no agent runs on {}", node.name)
}

/// The memory of the node's pinned maps.
fn map_memory(node: &Node) -> Result<u64> {
    let script = "for map in /sys/fs/bpf/ropeway/*/maps/*; do bpftool -j map show pinned $map || exit 1; done";
    let text = shell::output(enter::in_node(&node.name, "sh".as_ref())?.args(["-c", script]))?;
    let maps = serde_json::Deserializer::from_str(&text).into_iter::<Value>();
    let bytes: u64 = maps.map(|map| Ok(map?["bytes_memlock"].as_u64().unwrap_or(0))).sum::<Result<u64>>()?;
    Ok(bytes / 1024)
}
