//! Section 2.2: choice of endpoints. Fallback to terminating ones, topology hints, even
//! distribution, and connections of endpoints that leave.

use std::collections::BTreeMap;

use anyhow::Result;
use ropeway_tests::contracts::{Path, Rule};
use ropeway_tests::expect;
use ropeway_tests::load::{self, PersistentLoad, TrafficEndpoint};
use ropeway_tests::peer::{PersistentLoadReport, Protocol, SPREAD};
use ropeway_tests::pod::{IpFamily, Pod};
use serde_json::{Value, json};

use super::expect::{expect_answers, expect_answers_on_all, expect_direct_answers, for_each_client};
use super::fixture::{
    ContractFixture, Target, first_target, local, policies, ready, service, service_with, targets, terminating,
    with_endpoints,
};
use super::observations::Observations;

#[test]
#[ignore = "needs root"]
fn section_2_2_endpoint_choice() {
    let fixture = ContractFixture::new();
    fallbacks(&fixture);
    topology(&fixture);
    connections(&fixture);
    fixture.end();
}

fn hinted(mut with: Value, hints: Value) -> Value {
    with["hints"] = hints;
    with
}

fn zone(name: &str) -> Value {
    json!({"forZones": [{"name": name}]})
}

fn fallbacks(fixture: &ContractFixture) {
    let [first, second, never] = &fixture.web;
    let gone = json!({"conditions": {"ready": false, "serving": false, "terminating": true}});
    let far = hinted(terminating(), zone("b"));
    let objects = [
        with_endpoints(service("ready", 20), &[(first, ready()), (second, terminating())]),
        with_endpoints(service("leaving", 21), &[(first, far), (never, gone)]),
        with_endpoints(service_with("local", 22, &policies("Local")), &[(first, terminating()), (second, ready())]),
    ];
    fixture.apply("fallbacks", &objects.concat());
    fixture.check_cells_in_parallel("2.2.1", |path, family| {
        for_each_client(&fixture.clients(path), |from| {
            expect_direct_answers(from, never, family)?;
            expect_answers_on_all(from, &targets(path, 20, family), 12, &["web-1"])?;
            expect_answers_on_all(from, &targets(path, 21, family), 12, &["web-1"])?;
            expect_answers_on_all(from, &[local(path, 22, family)], 12, &["web-1"])
        })
    });
}

fn topology(fixture: &ContractFixture) {
    let [first, second, _] = &fixture.web;
    let node = |name: &str| json!({"forNodes": [{"name": name}]});
    let to = |hints: Value| hinted(ready(), hints);
    let objects = [
        with_endpoints(service("zones", 23), &[(first, to(zone("a"))), (second, to(zone("b")))]),
        with_endpoints(service("partly", 24), &[(first, to(zone("a"))), (second, ready())]),
        with_endpoints(service("nodes", 25), &[(first, to(node("n2"))), (second, to(node("n1")))]),
        with_endpoints(
            service_with("here", 26, &policies("Local")),
            &[(first, to(zone("b"))), (second, to(zone("a")))],
        ),
    ];
    fixture.apply("topology", &objects.concat());
    fixture.check_cells("2.2.2", |path, family| {
        // the other node is in the other zone and chooses for the Services of its clients
        let [here, there] = if path == Path::OtherNode { ["web-2", "web-1"] } else { ["web-1", "web-2"] };
        for_each_client(&fixture.clients(path), |from| {
            expect_answers_on_all(from, &[first_target(path, 23, family)], 12, &[here])?;
            expect_answers_on_all(from, &[first_target(path, 24, family)], 40, &["web-1", "web-2"])?;
            expect_answers_on_all(from, &[first_target(path, 25, family)], 12, &[there])?;
            expect_answers_on_all(from, &[local(path, 26, family)], 12, &["web-1"])
        })
    });
}

/// Expects that two servers have equal chances.
fn expect_even_spread(from: &dyn TrafficEndpoint, target: Target) -> Result<()> {
    for (address, protocol) in [(target.tcp, Protocol::Tcp), (target.udp, Protocol::Udp)] {
        let report = expect_answers(from, address, protocol, SPREAD, &["web-1", "web-2"])?;
        expect!(report.is_even(), "{} to {address} {protocol:?}: an even spread is expected: {report:?}", from.label());
    }
    Ok(())
}

/// Checks that connections of every client stay open while the second endpoint is removed.
fn connections(fixture: &ContractFixture) {
    let [first, second, _] = &fixture.web;
    let apply = |endpoints: &[(&Pod, Value)]| fixture.apply("held", &with_endpoints(service("held", 27), endpoints));
    apply(&[(first, ready()), (second, ready())]);
    let mut spread = Observations::new("2.2.3");
    let mut leaving = Observations::new("2.2.4");
    spread.observe(|path, family| {
        let target = first_target(path, 27, family);
        for_each_client(&fixture.clients(path), |from| expect_even_spread(from, target))
    });
    let hold = |(path, family): (Path, IpFamily)| {
        let target = first_target(path, 27, family).tcp;
        let clients = fixture.clients(path);
        let held = clients.iter().map(|from| PersistentLoad::open(from, target, 16)).collect::<Result<Vec<_>>>();
        ((path, family), held)
    };
    let held: Vec<_> = Rule::of("2.2.3").unwrap().cells().into_iter().map(hold).collect();

    let only_first = |path, family| {
        for_each_client(&fixture.clients(path), |from| {
            let Target { tcp, udp } = first_target(path, 27, family);
            // another port of the Service has no effect on it
            load::send_requests(from, udp, Protocol::Udp, 1)?;
            expect_answers(from, tcp, Protocol::Tcp, 20, &["web-1"]).map(drop)
        })
    };
    for endpoints in [&[(first, ready()), (second, terminating())][..], &[(first, ready())]] {
        apply(endpoints);
        spread.observe(only_first);
        leaving.observe(only_first);
    }
    let release =
        |loads: Vec<PersistentLoad>| loads.into_iter().map(PersistentLoad::release).collect::<Result<Vec<_>>>();
    let reports: BTreeMap<_, _> = held.into_iter().map(|(cell, loads)| (cell, loads.and_then(release))).collect();
    let copy = |error: &anyhow::Error| anyhow::anyhow!("{error:#}");
    spread.observe(|path, family| reports[&(path, family)].as_ref().map_err(copy)?.iter().try_for_each(kept));
    leaving.observe(|path, family| {
        reports[&(path, family)].as_ref().map_err(copy)?.iter().try_for_each(|report| {
            kept(report)?;
            let on_leaving = report.requests.by_server.get("web-2").copied().unwrap_or_default();
            expect!(on_leaving > 0, "no connection was on the removed endpoint: {report:?}");
            Ok(())
        })
    });
    spread.record(fixture, "2.2.3");
    leaving.record(fixture, "2.2.4");
}

/// Expects that no connection was lost and that each was used.
fn kept(report: &PersistentLoadReport) -> Result<()> {
    expect!(report.lost.is_empty() && report.requests.failed == 0, "connections were lost: {report:?}");
    expect!(report.fewest > 0, "a connection was not used: {report:?}");
    Ok(())
}
