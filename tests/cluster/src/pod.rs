//! Pods seen from the machine: their processes and networks, which can be entered without asking
//! the API server.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use ropeway_tests::load;
use serde_json::Value;

use super::layout::Layout;
use super::{enter, kube};

/// A running pod, as the API server lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pod {
    pub(super) name: String,
    pub(super) node: String,
    uid: String,
    /// The pod uses the node's network and has no address.
    of_host: bool,
    /// IP addresses in text form, sorted.
    pub(super) addresses: Vec<String>,
    /// The sum of the restarts of its containers.
    pub(super) restarts: u64,
}

/// Lists the pods that match a selector (arguments of `kubectl get pods`) and are not being
/// deleted.
pub(super) fn list(layout: &Layout, selector: &[&str]) -> Result<Vec<Pod>> {
    let text = kube::kubectl(layout, &[&["get", "pods", "-o", "json"], selector].concat())?;
    let list: Value = serde_json::from_str(&text).context("cannot parse the output of kubectl get pods")?;
    let items = list["items"].as_array().context("the output of kubectl get pods has no list `items`")?;
    Ok(items.iter().filter(|item| item["metadata"]["deletionTimestamp"].is_null()).map(read).collect())
}

fn read(item: &Value) -> Pod {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let each = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut addresses: Vec<_> = each(&item["status"]["podIPs"]).iter().map(|ip| text(&ip["ip"])).collect();
    addresses.sort();
    let starts = each(&item["status"]["containerStatuses"]);
    Pod {
        name: text(&item["metadata"]["name"]),
        node: text(&item["spec"]["nodeName"]),
        uid: text(&item["metadata"]["uid"]),
        of_host: item["spec"]["hostNetwork"].as_bool().unwrap_or_default(),
        addresses,
        restarts: starts.iter().filter_map(|status| status["restartCount"].as_u64()).sum(),
    }
}

impl Pod {
    /// Returns the machine's pid of one process of the pod.
    fn process(&self) -> Result<u32> {
        let mark = format!("/pod{}/", self.uid);
        process(|path| fs::read_to_string(path.join("cgroup")).is_ok_and(|text| text.contains(&mark)))
            .with_context(|| format!("pod {} has no process", self.name))
    }
}

impl load::TrafficEndpoint for Pod {
    /// Enters the pod's network and the node's cgroup, on which Services depend; everything else is
    /// the machine's.
    fn run(&self, program: &OsStr) -> Result<Command> {
        let mut command = enter::in_namespace(&self.node, "nsenter".as_ref())?;
        command.arg(format!("--net=/proc/{}/ns/net", self.process()?)).arg("--").arg(program);
        Ok(command)
    }

    fn label(&self) -> String {
        self.name.clone()
    }
}

/// Returns the machine's pid of a node's agent.
pub(super) fn agent(layout: &Layout, node: &str) -> Result<u32> {
    program(layout, node, "ropeway-agent")
}

/// Returns the pid of a program that uses the node's network.
pub(super) fn program(layout: &Layout, node: &str, name: &str) -> Result<u32> {
    let network = |path: &Path| fs::read_link(path.join("ns/net")).ok();
    let here = network(&Path::new("/proc").join(enter::init(layout, node)?.to_string()));
    let here = here.with_context(|| format!("cannot identify the network namespace of node {node}"))?;
    let is_it = |path: &Path| {
        fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim() == name)
            && network(path).as_ref() == Some(&here)
    };
    process(is_it).with_context(|| format!("no {name} runs on {node}"))
}

fn process(is_it: impl Fn(&Path) -> bool) -> Option<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path())));
    pids.filter(|(_, path)| is_it(path)).map(|(pid, _)| pid).min()
}

/// Runs `ropeway -o json` in the agent's container and parses its output. Uses no other node.
pub(super) fn ropeway(layout: &Layout, node: &str, arguments: &[&str]) -> Result<Value> {
    let agent = agent(layout, node)?.to_string();
    let mut command = Command::new("nsenter");
    command.args(["--target", &agent, "--mount", "--net", "--", "/ropeway", "-o", "json"]).args(arguments);
    serde_json::from_str(&toolbox::shell::output(&mut command)?).context("cannot parse the output of ropeway")
}

/// Returns the addresses of the node's pods in the maps of the kernel programs, sorted.
pub(super) fn wired(layout: &Layout, node: &str) -> Result<Vec<String>> {
    let view = ropeway(layout, node, &["pod", "list"])?;
    let pods = view["pods"].as_array().context("the output of ropeway has no list `pods`")?;
    let addresses = pods.iter().flat_map(|pod| pod["addresses"].as_array().cloned().unwrap_or_default());
    let mut addresses: Vec<_> = addresses.filter_map(|address| address.as_str().map(String::from)).collect();
    addresses.sort();
    Ok(addresses)
}

/// Returns the addresses in the plugin's store on the node's disk, sorted.
pub(super) fn held(layout: &Layout, node: &str) -> Result<Vec<String>> {
    let directory = layout.node_root(node).join("var/lib/ropeway/addresses/records");
    let mut addresses = Vec::new();
    for entry in fs::read_dir(&directory).with_context(|| format!("cannot list {}", directory.display()))? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("attachment-") {
            let text =
                fs::read_to_string(entry.path()).with_context(|| format!("cannot read {}", entry.path().display()))?;
            let record: Value = serde_json::from_str(text.lines().next().unwrap_or_default())
                .with_context(|| format!("cannot parse {}", entry.path().display()))?;
            let own = record["addresses"].as_array().context("an attachment record has no list `addresses`")?.clone();
            addresses.extend(own.iter().filter_map(|address| address.as_str().map(String::from)));
        }
    }
    addresses.sort();
    Ok(addresses)
}

/// Checks that the store, the maps and the API server have exactly the same addresses.
pub(super) fn agree(layout: &Layout, node: &str) -> Result<()> {
    let own = format!("--field-selector=spec.nodeName={node}");
    let pods = list(layout, &["-A", &own])?.into_iter().filter(|pod| !pod.of_host);
    let mut known: Vec<_> = pods.flat_map(|pod| pod.addresses).collect();
    known.sort();
    let (wired, held) = (wired(layout, node)?, held(layout, node)?);
    ensure!(held == known, "the store holds {held:?}, pods have {known:?}");
    ensure!(wired == known, "the programs know {wired:?}, pods have {known:?}");
    Ok(())
}
