//! Section 2.3, first half: Services without endpoints, traffic policies, and source address
//! translation.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Result, ensure};
use ropeway_tests::cluster::Node;
use ropeway_tests::contracts::Path;
use ropeway_tests::expect;
use ropeway_tests::load::{BypassSocketHooks, TrafficEndpoint};
use ropeway_tests::peer::Protocol;
use ropeway_tests::pod::{IpFamily, Pod};
use ropeway_tests::view;
use serde_json::Value;

use super::counters::{expect_dropped, expect_rejected};
use super::expect::{every_protocol, expect_answers, expect_answers_on_all, for_each_client};
use super::fixture::{
    Client, ContractFixture, EXTERNAL, Target, Vip, other_node_port, policies, ready, service, service_with, target,
    targets, with_endpoints,
};
use super::observations::Observations;

#[test]
#[ignore = "needs root"]
fn section_2_3_traffic_policies() {
    let fixture = ContractFixture::new();
    let [here, there, _] = &fixture.web;
    let local = |name, number| service_with(name, number, &policies("Local"));
    let empty = |endpoints: &[(&Pod, Value)]| fixture.apply("empty", &with_endpoints(service("empty", 40), endpoints));
    let objects = [
        with_endpoints(local("there", 41), &[(there, ready())]),
        with_endpoints(local("here", 42), &[(here, ready())]),
        with_endpoints(local("both", 43), &[(here, ready()), (there, ready())]),
        with_endpoints(service("hairpin", 44), &[(here, ready())]),
        with_endpoints(service("remote", 45), &[(there, ready())]),
        with_endpoints(local("unreached", 46), &[(there, ready())]),
    ];
    fixture.apply("policies", &objects.concat());
    let mut without_endpoints = Observations::new("2.3.1");
    empty(&[]);
    without_endpoints.observe(|path, family| {
        for_each_client(&fixture.clients(path), |from| expect_rejected(&fixture, from, &targets(path, 40, family)))
    });
    empty(&[(here, ready())]);
    without_endpoints.observe(|path, family| {
        for_each_client(&fixture.clients(path), |from| {
            expect_answers_on_all(from, &targets(path, 40, family), 1, &["web-1"])
        })
    });
    without_endpoints.record(&fixture, "2.3.1");
    fixture.check_cells("2.3.2", |path, family| {
        for_each_client(&fixture.clients(path), |from| {
            expect_dropped(&fixture, from, "no_backend", &external(path, 41, family))?;
            // the node with the endpoint serves the same client
            expect_answers_on_all(from, &[other_node_port(41, family)], 3, &["web-2"])
        })
    });
    fixture.check_cells("2.3.3", |path, family| {
        let (elsewhere, server, with_endpoint) = match path {
            Path::OtherNode => (42, "web-1", Path::Node),
            _ => (41, "web-2", Path::OtherNode),
        };
        let cluster_ip = [target(Vip::Cluster, elsewhere, family)];
        for_each_client(&fixture.clients(path), |from| expect_dropped(&fixture, from, "no_backend", &cluster_ip))?;
        // clients on the node with the endpoint are served at the same address
        for_each_client(&fixture.clients(with_endpoint), |from| expect_answers_on_all(from, &cluster_ip, 3, &[server]))
    });
    fixture.check_cells_in_parallel("2.3.4", |path, family| {
        let (elsewhere, server) = if path == Path::OtherNode { (42, "web-1") } else { (41, "web-2") };
        let node_port = match path {
            Path::OtherNode => other_node_port(elsewhere, family),
            _ => target(Vip::NodePort, elsewhere, family),
        };
        let external = [target(Vip::External, elsewhere, family), target(Vip::Balancer, elsewhere, family), node_port];
        for_each_client(&fixture.clients(path), |from| keeps_source(from, &external, family, &[server]))
    });
    fixture.check_cells("2.3.5", |path, family| {
        for_each_client(&fixture.clients(path), |from| unreached(&fixture, from, path, family))
    });
    fixture.check_cells_in_parallel("2.3.6", |path, family| {
        // clients in the cluster reach all endpoints at external addresses (2.3.4)
        let servers = if matches!(path, Path::Pod | Path::Node) { &["web-1", "web-2"][..] } else { &["web-1"] };
        for_each_client(&fixture.clients(path), |from| keeps_source(from, &external(path, 43, family), family, servers))
    });
    fixture.check_cells_in_parallel("2.3.7", |path, family| translated(&fixture, path, family));
    fixture.end();
}

/// Returns the external addresses at which this node's policy holds. The other node applies its own
/// policy, except for node ports.
fn external(path: Path, number: u16, family: IpFamily) -> Vec<Target> {
    let kinds = if path == Path::OtherNode { &[Vip::NodePort][..] } else { &EXTERNAL };
    kinds.iter().map(|vip| target(*vip, number, family)).collect()
}

/// Expects that exactly these servers answer, and that they see the client's address.
fn keeps_source(from: &Client<'_>, targets: &[Target], family: IpFamily, servers: &[&str]) -> Result<()> {
    // by chance, one of two servers is left out once in half a million times
    let count = if servers.len() > 1 { 20 } else { 10 };
    for (target, protocol) in targets.iter().flat_map(|target| every_protocol(*target)) {
        let report = expect_answers(from, target, protocol, count, servers)?;
        expect!(
            report.seen_as.iter().eq([&from.address(family)]),
            "{} to {target} {protocol:?}: the servers should see {}: {report:?}",
            from.label(),
            from.address(family)
        );
    }
    Ok(())
}

/// Returns the number of connections that a node has forwarded to the endpoints of a Service.
fn connections(node: &Node, service: &str) -> Result<u64> {
    let all = view::json(&node.machine, &["service", "list", service])?;
    let frontends = all["frontends"].as_array().map(Vec::as_slice).unwrap_or_default();
    ensure!(!frontends.is_empty(), "Service {service} has no frontends: {all}");
    let backends = frontends.iter().filter_map(|frontend| frontend["backends"].as_array()).flatten();
    Ok(backends.filter_map(|backend: &Value| backend["connections"].as_u64()).sum())
}

fn unreached(fixture: &ContractFixture, from: &dyn TrafficEndpoint, path: Path, family: IpFamily) -> Result<()> {
    expect_dropped(fixture, from, "no_backend", &external(path, 46, family))?;
    // the node with the endpoint forwards the same client's connections, and counts them
    let [here, there] = &fixture.cluster.nodes[..] else { panic!("two nodes") };
    let before = connections(there, "default/unreached")?;
    expect_answers_on_all(from, &[other_node_port(46, family)], 3, &["web-2"])?;
    let counted = connections(there, "default/unreached")? - before;
    expect!(counted >= 3, "{} has counted {counted} of 9 connections", there.name());
    let count = connections(here, "default/unreached")?;
    expect!(count == 0, "{} has forwarded {count} connections, none expected", here.name());
    Ok(())
}

const fn loopback(family: IpFamily) -> IpAddr {
    match family {
        IpFamily::V4 => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpFamily::V6 => IpAddr::V6(Ipv6Addr::LOCALHOST),
    }
}

fn translated(fixture: &ContractFixture, path: Path, family: IpFamily) -> Result<()> {
    let node_address = fixture.node().address(family);
    let mut node_port = target(Vip::NodePort, 45, family);
    match path {
        Path::Pod => {
            let pod = &fixture.web[0];
            let by_packets = BypassSocketHooks::of_pod(pod, &fixture.cluster.fabric);
            for from in [pod as &dyn TrafficEndpoint, &by_packets] {
                expect_answers_on_all(from, &targets(path, 44, family), 5, &["web-1"])?;
            }
            // the node's source address brings the replies back; with the client's address the
            // server would reply untranslated
            let report =
                expect_answers(&by_packets, target(Vip::Cluster, 44, family).tcp, Protocol::Tcp, 5, &["web-1"])?;
            expect!(report.seen_as.iter().eq([&node_address]), "the server should see {node_address}: {report:?}");
        }
        Path::Node => {
            node_port.tcp.set_ip(loopback(family));
            node_port.udp.set_ip(loopback(family));
            for (target, protocol) in every_protocol(node_port) {
                let report = expect_answers(&fixture.node().machine, target, protocol, 5, &["web-2"])?;
                expect!(
                    report.seen_as.iter().eq([&node_address]),
                    "{target}: the server should see {node_address}: {report:?}"
                );
            }
        }
        Path::OtherNode | Path::Outside => for_each_client(&fixture.clients(path), |from| {
            for (target, protocol) in every_protocol(node_port) {
                let report = expect_answers(from, target, protocol, 5, &["web-2"])?;
                expect!(
                    report.seen_as.iter().eq([&node_address]),
                    "{target}: the server should see {node_address}: {report:?}"
                );
            }
            Ok(())
        })?,
    }
    Ok(())
}
