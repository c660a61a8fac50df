//! What happens to a node and to the programs that run on it.

use anyhow::{Context, Result, ensure};

use super::fixture::Scene;
use crate::step::wait_for;
use crate::{enter, kube, network, node};
use toolbox::shell;

/// Kubelet or container runtime is killed; the node's first process starts it again.
pub(super) fn program(scene: &Scene, program: &str) -> Result<()> {
    let victim = scene.victim()?.name;
    let pid = || shell::output(enter::in_node(&victim, "cat".as_ref())?.arg(format!("/run/{program}.pid")));
    let before = (scene.pods("guest")?, pid()?);
    scene.steady(|| {
        shell::output(enter::in_node(&victim, "kill".as_ref())?.args(["-KILL", before.1.trim()]))?;
        wait_for(&format!("another {program}"), 30, || {
            ensure!(pid()? != before.1, "it is process {}", before.1);
            Ok(())
        })?;
        scene.one_comes_and_goes()?;
        kube::nodes_ready(scene.place, scene.shape.all().len(), 120)
    })?;
    scene.ready()?;
    let after = scene.pods("guest")?;
    ensure!(after == before.0, "guests were {:?}, are {after:?}", before.0);
    scene.guests_are_well()
}

/// The power of a node is cut, and is back when the others have noticed.
pub(super) fn reboot(scene: &Scene) -> Result<()> {
    let (place, victim) = (scene.place, scene.victim()?);
    let restarts = |scene: &Scene| Ok::<u64, anyhow::Error>(scene.pods("guest")?.iter().map(|pod| pod.restarts).sum());
    let (count, before) = (scene.pods("guest")?.len() as u64, restarts(scene)?);
    scene.steady(|| {
        node::cut_power(place, &victim)?;
        wait_for(&format!("{} not Ready", victim.name), 120, || {
            ensure!(ready(scene, &victim.name)? != "True", "it is");
            Ok(())
        })?;
        node::start(place, &victim)?;
        kube::nodes_ready(place, scene.shape.all().len(), 180)?;
        // What the API server says of the pods is from before the cut until kubelet has looked.
        wait_for("all guests started again", 180, || {
            let now = restarts(scene)?;
            ensure!(now >= before + count, "{} of {count}", now - before);
            Ok(())
        })?;
        scene.ready()
    })?;
    scene.guests_are_well()
}

/// A node is deleted while it has no power, and registers anew.
pub(super) fn renumber(scene: &Scene) -> Result<()> {
    let (place, victim, witness) = (scene.place, scene.victim()?, scene.witness()?);
    let old = kube::pod_ranges(place, &victim.name)?;
    scene.steady(|| {
        node::cut_power(place, &victim)?;
        kube::kubectl(place, &["delete", "node", &victim.name])?;
        node::start(place, &victim)?;
        node::registered(place, &victim)?;
        let new = kube::pod_ranges(place, &victim.name)?;
        ensure!(new.iter().all(|range| !old.contains(range)), "the ranges are {new:?}, as before");
        kube::nodes_ready(place, scene.shape.all().len(), 180)?;
        // Until the pods of the deleted node are collected, they are listed as if they ran.
        wait_for("all guests in the new ranges", 240, || {
            let guests = scene.pods("guest")?;
            let start = prefix(&new[0])?;
            let there = guests.iter().filter(|pod| pod.addresses.iter().any(|a| a.starts_with(&start))).count();
            ensure!(there == guests.len() && there > 0, "{there} of {}", guests.len());
            Ok(())
        })?;
        scene.ready()
    })?;
    let new = kube::pod_ranges(place, &victim.name)?;
    wait_for("routes of the witness", 30, || {
        let net = network::namespace(&witness.name);
        let show =
            |family: &str| shell::output(std::process::Command::new("ip").args(["-n", &net, family, "route", "show"]));
        let routes = show("-4")? + &show("-6")?;
        for range in &new {
            ensure!(routes.contains(range.as_str()), "none to {range}");
        }
        for range in &old {
            ensure!(!routes.contains(range.as_str()), "one to {range}, which nobody has any longer");
        }
        Ok(())
    })?;
    scene.guests_are_well()
}

/// What the addresses of an IPv4 range with 24 bits start with.
fn prefix(range: &str) -> Result<String> {
    let (network, _) = range.split_once(".0/24").with_context(|| format!("{range}: no /24"))?;
    Ok(format!("{network}."))
}

fn ready(scene: &Scene, node: &str) -> Result<String> {
    let path = "jsonpath={.status.conditions[?(@.type=='Ready')].status}";
    kube::kubectl(scene.place, &["get", "node", node, "-o", path])
}
