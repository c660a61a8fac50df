//! Events of a node: power cuts, deletion, and the end of its kubelet or container runtime.

use anyhow::{Context, Result, ensure};

use super::fixture::Fixture;
use crate::step::wait_for;
use crate::{enter, kube, network, node};
use toolbox::shell;

/// Kills kubelet or container runtime; the node's first process restarts it.
pub(super) fn program(fixture: &Fixture, program: &str) -> Result<()> {
    let victim = fixture.victim()?.name;
    let pid = || shell::output(enter::in_node(&victim, "cat".as_ref())?.arg(format!("/run/{program}.pid")));
    let before = (fixture.pods("guest")?, pid()?);
    fixture.steady(|| {
        shell::output(enter::in_node(&victim, "kill".as_ref())?.args(["-KILL", before.1.trim()]))?;
        wait_for(&format!("another {program}"), 30, || {
            ensure!(pid()? != before.1, "{program} is still process {}", before.1.trim());
            Ok(())
        })?;
        fixture.one_comes_and_goes()?;
        kube::nodes_ready(fixture.layout, fixture.shape.all().len(), 120)
    })?;
    fixture.ready()?;
    let after = fixture.pods("guest")?;
    ensure!(after == before.0, "guest pods have changed: {:?} before, {after:?} after", before.0);
    fixture.guests_are_well()
}

/// Cuts the power of a node, and restores it when the other nodes have noticed.
pub(super) fn reboot(fixture: &Fixture) -> Result<()> {
    let (layout, victim) = (fixture.layout, fixture.victim()?);
    let restarts =
        |fixture: &Fixture| Ok::<u64, anyhow::Error>(fixture.pods("guest")?.iter().map(|pod| pod.restarts).sum());
    let (count, before) = (fixture.pods("guest")?.len() as u64, restarts(fixture)?);
    fixture.steady(|| {
        node::cut_power(layout, &victim)?;
        wait_for(&format!("{} not Ready", victim.name), 120, || {
            ensure!(ready(fixture, &victim.name)? != "True", "{} is still Ready", victim.name);
            Ok(())
        })?;
        node::start(layout, &victim)?;
        kube::nodes_ready(layout, fixture.shape.all().len(), 180)?;
        // The API server's pod status is from before the cut until the kubelet has updated it.
        wait_for("all guests started again", 180, || {
            let now = restarts(fixture)?;
            ensure!(now >= before + count, "{} of {count} containers have started again", now - before);
            Ok(())
        })?;
        fixture.ready()
    })?;
    fixture.guests_are_well()
}

/// Deletes a node while it has no power, and lets it register again.
pub(super) fn renumber(fixture: &Fixture) -> Result<()> {
    let (layout, victim, witness) = (fixture.layout, fixture.victim()?, fixture.witness()?);
    let old = kube::pod_ranges(layout, &victim.name)?;
    fixture.steady(|| {
        node::cut_power(layout, &victim)?;
        kube::kubectl(layout, &["delete", "node", &victim.name])?;
        node::start(layout, &victim)?;
        node::registered(layout, &victim)?;
        let new = kube::pod_ranges(layout, &victim.name)?;
        ensure!(new.iter().all(|range| !old.contains(range)), "the node has kept a pod range: {new:?}");
        kube::nodes_ready(layout, fixture.shape.all().len(), 180)?;
        // Until the pods of the deleted node are collected, they are listed as if they ran.
        wait_for("all guests in the new ranges", 240, || {
            let guests = fixture.pods("guest")?;
            let start = prefix(&new[0])?;
            let there = guests.iter().filter(|pod| pod.addresses.iter().any(|a| a.starts_with(&start))).count();
            ensure!(
                there == guests.len() && there > 0,
                "{there} of {} guest pods have an address in {}",
                guests.len(),
                new[0]
            );
            Ok(())
        })?;
        fixture.ready()
    })?;
    let new = kube::pod_ranges(layout, &victim.name)?;
    wait_for("routes of the witness", 30, || {
        let net = network::namespace(&witness.name);
        let show =
            |family: &str| shell::output(std::process::Command::new("ip").args(["-n", &net, family, "route", "show"]));
        let routes = show("-4")? + &show("-6")?;
        for range in &new {
            ensure!(routes.contains(range.as_str()), "{} has no route to the new range {range}", witness.name);
        }
        for range in &old {
            ensure!(!routes.contains(range.as_str()), "{} still has a route to the old range {range}", witness.name);
        }
        Ok(())
    })?;
    fixture.guests_are_well()
}

/// Returns the common start of the addresses of an IPv4 /24, such as `10.244.1.`.
fn prefix(range: &str) -> Result<String> {
    let (network, _) = range.split_once(".0/24").with_context(|| format!("{range} is not an IPv4 /24"))?;
    Ok(format!("{network}."))
}

fn ready(fixture: &Fixture, node: &str) -> Result<String> {
    let path = "jsonpath={.status.conditions[?(@.type=='Ready')].status}";
    kube::kubectl(fixture.layout, &["get", "node", node, "-o", path])
}
