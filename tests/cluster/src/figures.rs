//! `figures`: measures on the cluster that is up the time until a pod is Ready, the time until a
//! new endpoint answers, and the memory of proxy and maps.

mod switch;

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;

use super::layout::Layout;
use super::peer::{self, Peer};
use super::settings::{AGNHOST, PEER_IMAGE};
use super::shape::{Node, Proxy, Shape};
use super::step::{Steps, wait_for};
use super::{addons, enter, kube, pod};
use toolbox::paths::Paths;
use toolbox::shell;

/// The number of pods that are started and of endpoints that are replaced, one after the other.
const TIMES: usize = 30;
const NAMESPACE: &str = "ropeway-figures";

/// Measures pod start, endpoint changes and memory, and prints the figures.
pub(super) fn run(
    workshop: &dyn super::Workshop,
    paths: &Paths,
    layout: &Layout,
    steps: &Steps,
    options: &Peer,
) -> Result<()> {
    let shape = Shape::require(layout)?;
    peer::bring(workshop, paths, layout, steps, &shape, options)?;
    steps.step("two servers and a client", || {
        kube::nodes_ready(layout, shape.all().len(), 60)?;
        kube::gone(layout, NAMESPACE)?;
        kube::apply(layout, &addons::template(layout, "figures.yaml")?.replace("{{peer}}", PEER_IMAGE))?;
        kube::rolled_out(layout, NAMESPACE, "statefulset/peer", 120)
    })?;
    println!("==> {TIMES} pods one after the other, {TIMES} times another endpoint");
    let outcome = pods(layout).and_then(|pods| Ok((pods, switch::times(layout)?)));
    kube::kubectl(layout, &["delete", "namespace", NAMESPACE, "--wait=false"])?;
    let (pods, switches) = outcome?;
    println!("proxy {:?}, network {:?}", shape.proxy, shape.cni);
    println!("pod made to Ready: {}", spread(pods));
    println!("endpoint replaced (request included) to the first answer of the new one: {}", spread(switches));
    for node in shape.all() {
        let mut parts = Vec::new();
        if shape.has_agents() {
            parts.push(format!("agent {} KiB resident", memory(layout, &node, "ropeway-agent")?));
            parts.push(format!("maps {} KiB", map_memory(&node)?));
        }
        if shape.proxy != Proxy::Ropeway {
            parts.push(format!("kube-proxy {} KiB resident", memory(layout, &node, "kube-proxy")?));
        }
        println!("{}: {}", node.name, parts.join(", "));
    }
    Ok(())
}

fn spread(mut times: Vec<Duration>) -> String {
    times.sort();
    let at = |percent: usize| times[(times.len() * percent).div_ceil(100) - 1].as_secs_f64() * 1000.0;
    format!("p50 {:.0} ms, p99 {:.0} ms of {}", at(50), at(99), times.len())
}

/// Measures the time from the request that creates a pod until it is Ready, for each pod.
fn pods(layout: &Layout) -> Result<Vec<Duration>> {
    wait_for("service account", 30, || kube::kubectl(layout, &["-n", NAMESPACE, "get", "serviceaccount", "default"]))?;
    let one = |number: usize| {
        let name = format!("pod-{number}");
        let begin = Instant::now();
        let image = format!("--image={AGNHOST}");
        kube::kubectl(layout, &["-n", NAMESPACE, "run", &name, &image, "--restart=Never", "--", "pause"])?;
        kube::kubectl(layout, &["-n", NAMESPACE, "wait", "--for=condition=Ready", "pod", &name, "--timeout=60s"])?;
        Ok(begin.elapsed())
    };
    (0..TIMES).map(one).collect()
}

/// Returns the resident memory of a program that has the node's network.
fn memory(layout: &Layout, node: &Node, program: &str) -> Result<u64> {
    let path = format!("/proc/{}/status", pod::program(layout, &node.name, program)?);
    let status = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let line =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")).with_context(|| format!("{path} has no VmRSS"))?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// Returns the memory of the node's pinned maps.
fn map_memory(node: &Node) -> Result<u64> {
    let script = "for map in /sys/fs/bpf/ropeway/*/maps/*; do bpftool -j map show pinned $map || exit 1; done";
    let text = shell::output(enter::in_node(&node.name, "sh".as_ref())?.args(["-c", script]))?;
    let maps = serde_json::Deserializer::from_str(&text).into_iter::<Value>();
    let bytes: u64 = maps.map(|map| Ok(map?["bytes_memlock"].as_u64().unwrap_or(0))).sum::<Result<u64>>()?;
    Ok(bytes / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_taken_from_sorted_times() {
        let times = [30, 10, 20].map(Duration::from_millis).to_vec();
        assert_eq!(spread(times), "p50 20 ms, p99 30 ms of 3");
    }
}
