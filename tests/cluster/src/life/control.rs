//! What happens to the programs that say what is to be done: agents, API server, etcd.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::fixture::Scene;
use crate::network::namespace_path;
use crate::settings::{CONTROL_PLANE, PEER_IMAGE};
use crate::step::wait_for;
use crate::{control, daemon, kube, node, pod};
use toolbox::shell;

/// New connections a second on each of two ways while agents go.
const BUSY: u32 = 250;

/// All agents are deleted, three times.
pub(super) fn agents(scene: &Scene) -> Result<()> {
    scene.under(BUSY, || {
        for _ in 0..3 {
            let selector = ["-n", "kube-system", "delete", "pods", "-l", "app.kubernetes.io/name=ropeway"];
            kube::kubectl(scene.place, &selector)?;
            wait_for("agents", 120, || kube::rolled_out(scene.place, "kube-system", "daemonset/ropeway", 120))?;
        }
        Ok(())
    })?;
    scene.guests_are_well()
}

/// The API server is killed; a kubelet is given a pod and loses it again, as often as there is time.
pub(super) fn absent(scene: &Scene, seconds: u64) -> Result<()> {
    let (place, victim) = (scene.place, scene.victim()?.name);
    let file = node::inside(&place.node_root(&victim), node::STATIC_PODS.as_ref()).join("life.json");
    let (before, held) = (pod::wired(place, &victim)?, pod::held(place, &victim)?);
    // What is asked of the API server is asked while it is there.
    let client = scene.client(&scene.witness()?)?;
    let mut rounds = 0;
    scene.steady(|| {
        daemon::kill(place, "kube-apiserver")?;
        let end = Instant::now() + Duration::from_secs(seconds);
        let outcome = loop {
            let name = format!("life-{rounds}");
            let round = fs::write(&file, static_pod(&name).to_string())
                .with_context(|| format!("{}", file.display()))
                .and_then(|()| added(scene, &client, &victim, &before, &name));
            let removed = fs::remove_file(&file).with_context(|| format!("{}", file.display()));
            let round = round.and(removed).and_then(|()| {
                wait_for(&format!("DEL of {name}"), 60, || {
                    let (wired, kept) = (pod::wired(place, &victim)?, pod::held(place, &victim)?);
                    ensure!(wired == before, "the programs know {wired:?}, not {before:?}");
                    ensure!(kept == held, "the store holds {kept:?}, not {held:?}");
                    Ok(())
                })
            });
            rounds += 1;
            if round.is_err() || Instant::now() >= end {
                break round;
            }
        };
        control::start(place)?;
        outcome
    })?;
    println!("    {rounds} pods came and went without an API server");
    kube::nodes_ready(place, scene.shape.all().len(), 120)?;
    let names = scene.servers(4)?;
    scene.answered_by(&names)?;
    let names = scene.servers(3)?;
    scene.answered_by(&names)?;
    scene.guests_are_well()
}

/// Waits until the kubelet has made the pod and the client has its answer.
fn added(scene: &Scene, client: &pod::Pod, node: &str, before: &[String], name: &str) -> Result<()> {
    use ropeway_tests::{load, peer::Protocol};
    let addresses = wait_for(&format!("ADD of {name}"), 60, || {
        let now = pod::wired(scene.place, node)?;
        let new: Vec<_> = now.into_iter().filter(|address| !before.contains(address)).collect();
        ensure!(new.len() == 2, "new addresses: {new:?}");
        Ok(new)
    })?;
    for address in addresses {
        let target = (address.parse::<std::net::IpAddr>()?, 8080).into();
        wait_for(&format!("an answer of {name} at {target}"), 30, || {
            let report = load::ask(client, target, Protocol::Tcp, 5)?;
            ensure!(report.by_server.get(name) == Some(&5), "{:?}, {:?}", report.by_server, report.errors);
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

/// An agent is stopped; Services change, etcd forgets the way there, the API server starts anew; the agent goes on.
pub(super) fn compaction(scene: &Scene) -> Result<()> {
    let witness = scene.witness()?.name;
    let agent = pod::agent(scene.place, &witness)?;
    let signal = |signal| {
        let pid = i32::try_from(agent).ok().and_then(Pid::from_raw).context("an agent's pid")?;
        kill_process(pid, signal).with_context(|| format!("signal to the agent, process {agent}"))
    };
    scene.steady(|| {
        signal(Signal::STOP)?;
        let missed = miss_changes(scene);
        signal(Signal::CONT)?;
        scene.answered_by(&missed?)
    })?;
    ensure!(pod::agent(scene.place, &witness)? == agent, "the agent was started anew");
    let names = scene.servers(3)?;
    scene.answered_by(&names)
}

fn miss_changes(scene: &Scene) -> Result<Vec<String>> {
    let names = scene.servers(4)?;
    daemon::kill(scene.place, "kube-apiserver")?;
    let status = etcd("maintenance/status", &json!({}))?;
    let revision = status["header"]["revision"].as_str().context("etcd names no revision")?;
    etcd("kv/compaction", &json!({"revision": revision, "physical": true}))?;
    control::start(scene.place)?;
    Ok(names)
}

/// A call of etcd's API.
fn etcd(call: &str, body: &Value) -> Result<Value> {
    let mut curl = Command::new("nsenter");
    curl.arg(format!("--net={}", namespace_path(CONTROL_PLANE).display())).args(["curl", "-sS", "--fail", "-d"]);
    let text = shell::output(curl.arg(body.to_string()).arg(format!("http://127.0.0.1:2379/v3/{call}")))?;
    serde_json::from_str(&text).with_context(|| format!("etcd's answer to {call}"))
}
