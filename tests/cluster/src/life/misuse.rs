//! Mistakes of operators. The agent reports each in one log line that says what to do, and
//! connections continue.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::fixture::Fixture;
use crate::step::wait_for;
use crate::{enter, kube, node, pod};
use toolbox::shell;

const SYSTEM: [&str; 2] = ["-n", "kube-system"];
/// Longer than two periods of the agent's readiness probe.
const PROBES: Duration = Duration::from_secs(12);
const DAEMONSET: &str = "daemonset/ropeway";

/// Removes the rule for endpoint slices from the role, and starts an agent.
pub(super) fn forbidden(fixture: &Fixture) -> Result<()> {
    let text = kube::kubectl(fixture.layout, &["get", "clusterrole", "ropeway", "-o", "json"])?;
    let mut role: Value = serde_json::from_str(&text)?;
    let rules = role["rules"].as_array().context("the role has no list `rules`")?.clone();
    let about = |rule: &Value| rule["resources"].to_string().contains("endpointslices");
    let fewer: Vec<_> = rules.iter().filter(|rule| !about(rule)).cloned().collect();
    ensure!(fewer.len() < rules.len(), "the role has no rule about EndpointSlices: {rules:?}");
    let set = |rules: &Value| {
        let patch = json!({"rules": rules}).to_string();
        kube::kubectl(fixture.layout, &["patch", "clusterrole", "ropeway", "--type=merge", "-p", &patch])
    };
    set(&json!(fewer))?;
    let outcome = fixture.steady(|| {
        let victim = fixture.victim()?.name;
        let old = agent(fixture, &victim)?;
        kube::kubectl(fixture.layout, &[&SYSTEM[..], &["delete", "pod", &old.name]].concat())?;
        says(fixture, &["cannot list resource \"endpointslices\"", "manifests/base/rbac.yaml"])?;
        ensure!(!is_ready(fixture, &victim)?, "the agent reports ready without the permission");
        Ok(())
    });
    role["rules"] = json!(rules);
    set(&role["rules"])?;
    wait_for("agents", 120, || kube::rolled_out(fixture.layout, "kube-system", DAEMONSET, 120))?;
    outcome?;
    fixture.guests_are_well()
}

/// Points the agents to an address without an API server.
pub(super) fn wrong_server(fixture: &Fixture) -> Result<()> {
    // Unused address of the nodes' network.
    let url = format!("https://{}.250:6443", fixture.victim()?.subnet.v4);
    with_setting(fixture, &format!("ROPEWAY_APISERVER={url}"), &[&url, "can't be reached", "check --apiserver"])
}

/// Gives the agents a kubeconfig that does not exist.
pub(super) fn wrong_kubeconfig(fixture: &Fixture) -> Result<()> {
    let file = "/etc/ropeway/nothing";
    with_setting(fixture, &format!("ROPEWAY_KUBECONFIG={file}"), &["--kubeconfig", file])
}

/// Lets the agents use pools while the API server lacks the custom resource definitions.
pub(super) fn missing_kinds(fixture: &Fixture, root: &Path) -> Result<()> {
    let kinds = kube::kubectl(fixture.layout, &["get", "crd", "-o", "name"])?;
    ensure!(!kinds.contains("ropeway.dev"), "Ropeway's kinds are there: install without --pools");
    let role = root.join("manifests/overlays/pools/rbac.yaml").display().to_string();
    let with = |verb| kube::kubectl(fixture.layout, &[&SYSTEM[..], &[verb, "-f", &role]].concat());
    with("apply")?;
    let words = ["has no IPPool (404", "apply the custom resource definitions"];
    let outcome = with_setting(fixture, "ROPEWAY_IPAM=pools", &words);
    with("delete")?;
    outcome
}

/// Gives all agents an invalid setting, and restores the old one.
fn with_setting(fixture: &Fixture, setting: &str, words: &[&str]) -> Result<()> {
    let agents = fixture.shape.all().len();
    let outcome = fixture.steady(|| {
        kube::kubectl(fixture.layout, &[&SYSTEM[..], &["set", "env", DAEMONSET, setting]].concat())?;
        says(fixture, words)?;
        // Long enough for several probes of the first agent, and for the replacement of the next
        // one.
        let start = Instant::now();
        while start.elapsed() < PROBES {
            let ready =
                fixture.shape.all().iter().map(|node| is_ready(fixture, &node.name)).collect::<Result<Vec<_>>>()?;
            let ready = ready.into_iter().filter(|ready| *ready).count();
            ensure!(ready + 1 == agents, "{ready} of {agents} agents are ready; all but one expected");
        }
        Ok(())
    });
    kube::kubectl(fixture.layout, &[&SYSTEM[..], &["rollout", "undo", DAEMONSET]].concat())?;
    wait_for("agents", 180, || kube::rolled_out(fixture.layout, "kube-system", DAEMONSET, 180))?;
    outcome?;
    fixture.guests_are_well()
}

/// Starts a second agent on a node.
pub(super) fn second_agent(fixture: &Fixture) -> Result<()> {
    let victim = fixture.victim()?.name;
    let agent = pod::agent(fixture.layout, &victim)?.to_string();
    let mut command = Command::new("nsenter");
    command.args(["--target", &agent, "--mount", "--net", "--", "/ropeway-agent"]);
    let output = command.args(["--config", "/etc/ropeway/config.yaml", "--node-name", &victim]).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success(), "the second agent ended without an error: {text}");
    ensure!(text.contains("another agent runs on this node"), "the second agent printed another error: {text:?}");
    ensure!(pod::agent(fixture.layout, &victim)?.to_string() == agent, "the first agent was restarted");
    fixture.guests_are_well()
}

/// Installs a CNI configuration that sorts before Ropeway's, and removes it again.
pub(super) fn rival(fixture: &Fixture) -> Result<()> {
    let victim = fixture.victim()?.name;
    let directory = node::inside(&fixture.layout.node_root(&victim), "/etc/cni/net.d".as_ref());
    let (own, other) = (directory.join("10-ropeway.conflist"), directory.join("05-other.conflist"));
    let before = fs::read_to_string(&own).with_context(|| format!("cannot read {}", own.display()))?;
    fs::write(&other, &before).with_context(|| format!("cannot write {}", other.display()))?;
    let named = says(fixture, &["05-other.conflist: the container runtime takes this CNI configuration"]);
    fs::remove_file(&other).with_context(|| format!("cannot remove {}", other.display()))?;
    named?;
    says(fixture, &["takes our CNI configuration again"])?;
    ensure!(fs::read_to_string(&own)? == before, "{} has changed", own.display());
    fixture.one_comes_and_goes()
}

/// Creates rules like those of kube-proxy's nftables mode, and starts the node's agent.
pub(super) fn leftovers(fixture: &Fixture) -> Result<()> {
    let victim = fixture.victim()?.name;
    let nft = |words: &str| shell::output(enter::in_node(&victim, "nft".as_ref())?.args(words.split(' ')));
    nft("add table ip kube-proxy")?;
    let outcome = fixture.steady(|| {
        nft("add chain ip kube-proxy services")?;
        kube::kubectl(fixture.layout, &[&SYSTEM[..], &["delete", "pod", &agent(fixture, &victim)?.name]].concat())?;
        says(fixture, &["kube-proxy has left rules (chain services of table kube-proxy)", "kube-proxy --cleanup"])
    });
    nft("delete table ip kube-proxy")?;
    outcome?;
    fixture.guests_are_well()
}

fn agent(fixture: &Fixture, node: &str) -> Result<pod::Pod> {
    let own = format!("--field-selector=spec.nodeName={node}");
    let label = ["-l", "app.kubernetes.io/name=ropeway", &own];
    pod::list(fixture.layout, &[&SYSTEM[..], &label].concat())?
        .pop()
        .with_context(|| format!("no agent runs on {node}"))
}

/// Returns true if the agent of a node reports ready.
fn is_ready(fixture: &Fixture, node: &str) -> Result<bool> {
    let path = "jsonpath={.status.conditions[?(@.type=='Ready')].status}";
    let name = agent(fixture, node)?.name;
    Ok(kube::kubectl(fixture.layout, &[&SYSTEM[..], &["get", "pod", &name, "-o", path]].concat())? == "True")
}

/// Waits until one line in the log of an agent has all these words.
fn says(fixture: &Fixture, words: &[&str]) -> Result<()> {
    let line = wait_for(&format!("a line with {words:?}"), 90, || {
        for pod in pod::list(fixture.layout, &[&SYSTEM[..], &["-l", "app.kubernetes.io/name=ropeway"]].concat())? {
            // The kubelet restarts an agent that exits; its message is in the log of the previous
            // container.
            for which in ["--previous=false", "--previous=true"] {
                let mut logs = kube::command(fixture.layout);
                let Ok(text) = shell::output(logs.args(SYSTEM).args(["logs", &pod.name, "--container=agent", which]))
                else {
                    continue;
                };
                if let Some(line) = text.lines().find(|line| words.iter().all(|word| line.contains(word))) {
                    return Ok(format!("{}: {line}", pod.node));
                }
            }
        }
        bail!("no log line has all of: {}", words.join(", "))
    })?;
    println!("    {line}");
    Ok(())
}
