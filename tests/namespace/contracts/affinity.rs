//! Section 2.4: session affinity by client IP, its timeout, and its scope of one node.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ropeway_tests::contracts::{Path, Rule};
use ropeway_tests::load::{self, RequestLoad, TrafficEndpoint};
use ropeway_tests::peer::Protocol;
use ropeway_tests::pod::{IpFamily, Pod};
use ropeway_tests::view;
use serde_json::{Value, json};

use super::expect::{expect_answers, expect_equal_halves, for_each_client};
use super::fixture::{
    ContractFixture, Target, Vip, first_target, other_node_port, ready, round_robin, service_with, target, targets,
    with_endpoints,
};
use super::observations::Observations;

/// Timeout in seconds; the load's rate leaves no client idle that long.
const TIMEOUT: u32 = 4;
const SHORT: Duration = Duration::from_millis(2500);

#[test]
#[ignore = "needs root"]
fn section_2_4_session_affinity() {
    let fixture = ContractFixture::new();
    let [here, there, _] = &fixture.web;
    let both = || [(here, ready()), (there, ready())];
    let objects = [
        with_endpoints(sticky("sticky", 70, None), &both()),
        with_endpoints(sticky("default", 72, Some(10_800)), &both()),
        with_endpoints(sticky("used", 73, Some(TIMEOUT)), &both()),
        with_endpoints(sticky("idle", 74, Some(1)), &both()),
    ];
    fixture.apply("affinity", &objects.concat());
    fixture.check_cells("2.4.1", |path, family| {
        for_each_client(&fixture.clients(path), |from| {
            let targets = own_targets(path, 70, family);
            let server = server(from, targets[0], 5)?;
            for target in targets {
                expect_answers(from, target.tcp, Protocol::Tcp, 10, &[&server])?;
            }
            Ok(())
        })
    });
    lasting(&fixture);
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

/// Returns the only server that answers.
fn server(from: &dyn TrafficEndpoint, target: Target, count: u64) -> Result<String> {
    let report = load::send_requests(from, target.tcp, Protocol::Tcp, count)?;
    let one = report.ok == count && report.by_server.len() == 1;
    ensure!(one, "{} to {}: answers from one server are expected: {report:?}", from.label(), target.tcp);
    report.by_server.into_keys().next().context("no server has answered")
}

fn lasting(fixture: &ContractFixture) {
    let [here, there, _] = &fixture.web;
    let mut observations = Observations::new("2.4.2");
    // the default timeout
    let ticks = |service: &str| {
        let all = view::json(&fixture.node().machine, &["service", "list", service]).unwrap();
        all["frontends"][0]["affinityTicks"].as_u64().unwrap()
    };
    let (unset, default) = (ticks("default/sticky"), ticks("default/default"));
    observations.observe(|_, _| {
        ensure!(
            unset == default && default > 0,
            "affinity timeout is {unset} ticks if unset and {default} with the API's default"
        );
        Ok(())
    });
    // in use for longer than the timeout: still the same server
    let cells = Rule::of("2.4.2").unwrap().cells();
    let start_load = |(path, family): &(Path, IpFamily)| {
        let target = first_target(*path, 73, *family).tcp;
        let loads: Vec<_> = fixture
            .clients(*path)
            .iter()
            .map(|from| RequestLoad::start(from, target, Protocol::Tcp, 10).unwrap())
            .collect();
        (*path, *family, loads)
    };
    let loads: Vec<_> = cells.iter().map(start_load).collect();
    pause(Duration::from_secs(u64::from(TIMEOUT) + 2));
    let mut reports = BTreeMap::new();
    for (path, family, loads) in loads {
        let all: Result<Vec<_>> = loads.into_iter().map(RequestLoad::stop).collect();
        reports.insert((path, family), all);
    }
    observations.observe(|path, family| {
        let reports = reports[&(path, family)].as_ref().map_err(|error| anyhow::anyhow!("{error:#}"))?;
        let one = reports.iter().all(|report| report.failed == 0 && report.ok > 10 && report.by_server.len() == 1);
        ensure!(one, "the affinity is in use, so answers from one server are expected: {reports:?}");
        Ok(())
    });
    expires(fixture, &mut observations);
    // the endpoint is removed and added again
    let apply = |endpoints: &[(&Pod, Value)]| {
        fixture.apply("affinity-70", &with_endpoints(sticky("moved", 75, None), endpoints));
    };
    for (now, wanted) in
        [(vec![here], "web-1"), (vec![here, there], "web-1"), (vec![there], "web-2"), (vec![here, there], "web-2")]
    {
        apply(&now.iter().map(|pod| (*pod, ready())).collect::<Vec<_>>());
        observations.observe(|path, family| {
            for_each_client(&fixture.clients(path), |from| {
                expect_answers(from, first_target(path, 75, family).tcp, Protocol::Tcp, 10, &[wanted]).map(|_| ())
            })
        });
    }
    observations.record(fixture, "2.4.2");
}

/// Checks that an affinity expires: a client that has been idle for longer than the timeout gets a
/// random endpoint, so after some tries another one. All clients wait at the same time.
fn expires(fixture: &ContractFixture, observations: &mut Observations) {
    let mut first: BTreeMap<(Path, IpFamily, String), String> = BTreeMap::new();
    for round in 0..20 {
        if round > 0 {
            pause(SHORT);
        }
        for (path, family) in Rule::of("2.4.2").unwrap().cells() {
            for from in fixture.clients(path) {
                let Ok(now) = server(&from, first_target(path, 74, family), 1) else { continue };
                let key = (path, family, from.label());
                match first.get(&key) {
                    None if round == 0 => drop(first.insert(key, now)),
                    Some(before) if *before != now => drop(first.remove(&key)),
                    _ => {}
                }
            }
        }
        if first.is_empty() {
            break;
        }
    }
    observations.observe(|path, family| {
        let same: Vec<_> = first.keys().filter(|(p, f, _)| (*p, *f) == (path, family)).collect();
        ensure!(
            same.is_empty(),
            "affinity has not expired: after 20 times the timeout the server is still the same for {same:?}"
        );
        Ok(())
    });
}

/// Sleeps for the affinity timeout, which is what the test measures; there is no condition to wait
/// for.
fn pause(time: Duration) {
    let end = std::time::Instant::now() + time;
    while let Some(left) = end.checked_duration_since(std::time::Instant::now()) {
        std::thread::park_timeout(left);
    }
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
            expect_answers(from, near.tcp, Protocol::Tcp, 10, &["web-1"])?;
            expect_answers(from, far.tcp, Protocol::Tcp, 10, &["web-2"]).map(|_| ())
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
                own.into_iter().try_for_each(|one| {
                    if on {
                        server(from, one, 10).map(|_| ())
                    } else {
                        expect_equal_halves(from, one.tcp, ["web-1", "web-2"])
                    }
                })
            })
        });
    }
    observations.record(fixture, "2.4.4");
}
