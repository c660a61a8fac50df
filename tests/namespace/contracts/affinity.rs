//! Section 2.4: session affinity by client IP, its timeout, and its scope of one node.

mod timeout;

use std::net::SocketAddr;

use anyhow::{Context, Result};
use ropeway_tests::contracts::Path;
use ropeway_tests::expect;
use ropeway_tests::load::{self, TrafficEndpoint};
use ropeway_tests::peer::Protocol;
use ropeway_tests::pod::IpFamily;
use serde_json::{Value, json};

use super::expect::{every_protocol, expect_answers, expect_answers_on_all, expect_equal_halves, for_each_client};
use super::fixture::{
    ContractFixture, Target, Vip, first_target, other_node_port, ready, round_robin, service_with, target, targets,
    with_endpoints,
};
use super::observations::Observations;

#[test]
#[ignore = "needs root"]
fn section_2_4_session_affinity() {
    let fixture = ContractFixture::new();
    fixture.apply("affinity", &timeout::services(&fixture));
    fixture.check_cells("2.4.1", |path, family| {
        for_each_client(&fixture.clients(path), |from| same_server(from, &own_targets(path, 70, family)))
    });
    timeout::check(&fixture);
    per_node(&fixture);
    switched(&fixture);
    fixture.end();
}

fn sticky(name: &str, number: u16, seconds: Option<u32>) -> Value {
    let mut spec = vec![("sessionAffinity", json!("ClientIP"))];
    spec.extend(seconds.map(|s| ("sessionAffinityConfig", json!({"clientIP": {"timeoutSeconds": s}}))));
    service_with(name, number, &spec)
}

/// Returns the targets that one node serves for this path. For clients on the other node, its node
/// port replaces this node's.
fn own_targets(path: Path, number: u16, family: IpFamily) -> Vec<Target> {
    let mut targets = targets(path, number, family);
    if path == Path::OtherNode {
        let here = target(Vip::NodePort, number, family);
        for target in targets.iter_mut().filter(|target| target.tcp == here.tcp) {
            *target = other_node_port(number, family);
        }
    }
    targets
}

/// Expects that one server answers at all addresses. Affinity is that of a port of the Service, so
/// TCP and UDP may have different ones.
fn same_server(from: &dyn TrafficEndpoint, targets: &[Target]) -> Result<()> {
    let mut servers: [Option<String>; 2] = [None, None];
    for (address, protocol) in targets.iter().flat_map(|target| every_protocol(*target)) {
        let known = &mut servers[usize::from(protocol != Protocol::Tcp)];
        let server = match known {
            Some(server) => server.clone(),
            None => known.insert(only_server(from, address, protocol, 5)?).clone(),
        };
        expect_answers(from, address, protocol, 10, &[&server])?;
    }
    Ok(())
}

/// Returns the only server that answers.
fn only_server(from: &dyn TrafficEndpoint, target: SocketAddr, protocol: Protocol, count: u64) -> Result<String> {
    let report = load::send_requests(from, target, protocol, count)?;
    let one = report.ok == count && report.by_server.len() == 1;
    expect!(one, "{} to {target} {protocol:?}: answers from one server are expected: {report:?}", from.label());
    report.by_server.into_keys().next().context("no server has answered")
}

/// Makes each node remember another endpoint for the same client, by topology hints that are then
/// removed.
fn per_node(fixture: &ContractFixture) {
    let [here, there, _] = &fixture.web;
    let mut observations = Observations::new("2.4.3");
    let hint = |zone: &str| {
        let mut with = ready();
        with["hints"] = json!({"forZones": [{"name": zone}]});
        with
    };
    let on_each = |path, family| {
        for_each_client(&fixture.clients(path), |from| {
            let near = if path == Path::OtherNode {
                target(Vip::NodePort, 76, family)
            } else {
                first_target(path, 76, family)
            };
            let far =
                if path == Path::OtherNode { first_target(path, 76, family) } else { other_node_port(76, family) };
            expect_answers_on_all(from, &[near], 10, &["web-1"])?;
            expect_answers_on_all(from, &[far], 10, &["web-2"])
        })
    };
    for endpoints in [[(here, hint("a")), (there, hint("b"))], [(here, ready()), (there, ready())]] {
        fixture.apply("per-node", &with_endpoints(sticky("per-node", 76, None), &endpoints));
        observations.observe(on_each);
    }
    observations.record(fixture, "2.4.3");
}

fn switched(fixture: &ContractFixture) {
    let [here, there, _] = &fixture.web;
    let mut observations = Observations::new("2.4.4");
    for on in [false, true, false] {
        let kind = if on { "ClientIP" } else { "None" };
        let service = round_robin(service_with("switched", 77, &[("sessionAffinity", json!(kind))]));
        fixture.apply("switched", &with_endpoints(service, &[(here, ready()), (there, ready())]));
        observations.observe(|path, family| {
            for_each_client(&fixture.clients(path), |from| {
                let own = own_targets(path, 77, family);
                if on {
                    same_server(from, &own)
                } else {
                    own.into_iter().try_for_each(|one| expect_equal_halves(from, one, ["web-1", "web-2"]))
                }
            })
        });
    }
    observations.record(fixture, "2.4.4");
}
