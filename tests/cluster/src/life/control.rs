//! Events of the control programs: agents, API server and etcd end, start and lose state.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::fixture::Fixture;
use crate::network::namespace_path;
use crate::settings::{CONTROL_PLANE, PEER_IMAGE};
use crate::step::wait_for;
use crate::{control, daemon, kube, node, pod};
use toolbox::shell;

/// New connections a second on each of two paths while agents are deleted.
const BUSY: u32 = 250;

/// Deletes all agents, three times.
pub(super) fn agents(fixture: &Fixture) -> Result<()> {
    fixture.under(BUSY, || {
        for _ in 0..3 {
            let selector = ["-n", "kube-system", "delete", "pods", "-l", "app.kubernetes.io/name=ropeway"];
            kube::kubectl(fixture.layout, &selector)?;
            wait_for("agents", 120, || kube::rolled_out(fixture.layout, "kube-system", "daemonset/ropeway", 120))?;
        }
        Ok(())
    })?;
    fixture.guests_are_well()
}

/// Kills the API server, and meanwhile lets a kubelet start and stop a static pod as often as time
/// permits.
pub(super) fn absent(fixture: &Fixture, seconds: u64) -> Result<()> {
    let (layout, victim) = (fixture.layout, fixture.victim()?.name);
    let file = node::inside(&layout.node_root(&victim), node::STATIC_PODS.as_ref()).join("life.json");
    let (before, held) = (pod::wired(layout, &victim)?, pod::held(layout, &victim)?);
    // Queries of the API server are made while it is running.
    let client = fixture.client(&fixture.witness()?)?;
    let mut rounds = 0;
    fixture.steady(|| {
        daemon::kill(layout, "kube-apiserver")?;
        let end = Instant::now() + Duration::from_secs(seconds);
        let outcome = loop {
            let name = format!("life-{rounds}");
            let round = fs::write(&file, static_pod(&name).to_string())
                .with_context(|| format!("cannot write {}", file.display()))
                .and_then(|()| added(fixture, &client, &victim, &before, &name));
            let removed = fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()));
            let round = round.and(removed).and_then(|()| {
                wait_for(&format!("DEL of {name}"), 60, || {
                    let (wired, kept) = (pod::wired(layout, &victim)?, pod::held(layout, &victim)?);
                    ensure!(wired == before, "the maps have the pods {wired:?}, {before:?} expected");
                    ensure!(kept == held, "the store has the addresses {kept:?}, {held:?} expected");
                    Ok(())
                })
            });
            rounds += 1;
            if round.is_err() || Instant::now() >= end {
                break round;
            }
        };
        control::start(layout)?;
        outcome
    })?;
    println!("    {rounds} pods came and went without an API server");
    kube::nodes_ready(layout, fixture.shape.all().len(), 120)?;
    let names = fixture.servers(4)?;
    fixture.answered_by(&names)?;
    let names = fixture.servers(3)?;
    fixture.answered_by(&names)?;
    fixture.guests_are_well()
}

/// Waits until the kubelet has created the pod and the client has its answer.
fn added(fixture: &Fixture, client: &pod::Pod, node: &str, before: &[String], name: &str) -> Result<()> {
    use ropeway_tests::{load, peer::Protocol};
    let addresses = wait_for(&format!("ADD of {name}"), 60, || {
        let now = pod::wired(fixture.layout, node)?;
        let new: Vec<_> = now.into_iter().filter(|address| !before.contains(address)).collect();
        ensure!(new.len() == 2, "two new addresses expected, found {new:?}");
        Ok(new)
    })?;
    for address in addresses {
        let target = (address.parse::<std::net::IpAddr>()?, 8080).into();
        wait_for(&format!("an answer of {name} at {target}"), 30, || {
            let report = load::send_requests(client, target, Protocol::Tcp, 5)?;
            ensure!(report.by_server.get(name) == Some(&5), "{name} did not answer all 5 requests: {report:?}");
            Ok(())
        })?;
    }
    Ok(())
}

fn static_pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [{
            "name": "peer", "image": PEER_IMAGE, "args": ["serve", format!("--id={name}"), "--port=8080"],
        }]},
    })
}

/// Stops an agent, changes Services, compacts etcd and restarts the API server, then continues the
/// agent: its watch has to start from a new list.
pub(super) fn compaction(fixture: &Fixture) -> Result<()> {
    let witness = fixture.witness()?.name;
    let agent = pod::agent(fixture.layout, &witness)?;
    let signal = |signal| {
        let pid = i32::try_from(agent).ok().and_then(Pid::from_raw).context("the agent's pid is out of range")?;
        kill_process(pid, signal).with_context(|| format!("cannot send a signal to the agent, process {agent}"))
    };
    fixture.steady(|| {
        signal(Signal::STOP)?;
        let missed = miss_changes(fixture);
        signal(Signal::CONT)?;
        fixture.answered_by(&missed?)
    })?;
    ensure!(pod::agent(fixture.layout, &witness)? == agent, "the agent was restarted");
    let names = fixture.servers(3)?;
    fixture.answered_by(&names)
}

fn miss_changes(fixture: &Fixture) -> Result<Vec<String>> {
    let names = fixture.servers(4)?;
    daemon::kill(fixture.layout, "kube-apiserver")?;
    let status = etcd("maintenance/status", &json!({}))?;
    let revision = status["header"]["revision"].as_str().context("etcd names no revision")?;
    etcd("kv/compaction", &json!({"revision": revision, "physical": true}))?;
    control::start(fixture.layout)?;
    Ok(names)
}

/// Calls etcd's API.
fn etcd(call: &str, body: &Value) -> Result<Value> {
    let mut curl = Command::new("nsenter");
    curl.arg(format!("--net={}", namespace_path(CONTROL_PLANE).display())).args(["curl", "-sS", "--fail", "-d"]);
    let text = shell::output(curl.arg(body.to_string()).arg(format!("http://127.0.0.1:2379/v3/{call}")))?;
    serde_json::from_str(&text).with_context(|| format!("cannot parse etcd's answer to {call}"))
}
