//! Rule 2.1.3: an agent writes nothing before it has both Services and EndpointSlices. The API
//! server of this test answers one of the two lists, then the other.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::Path as FilePath;
use std::time::Duration;

use anyhow::{Context, Result};
use ropeway_tests::cluster::Node;
use ropeway_tests::contracts::{Path, Rule};
use ropeway_tests::expect;
use ropeway_tests::load::{self, RequestLoad, TrafficEndpoint};
use ropeway_tests::peer::Protocol;
use ropeway_tests::pod::IpFamily;
use ropeway_tests::wait;
use serde_json::{Value, json};

use super::expect::{expect_answers_on_all, for_each_client};
use super::fixture::{ContractFixture, FLAGS, ready, service, targets, with_endpoints};
use super::observations::Observations;

const API: &str = "127.0.0.1:8001";

/// The restarted agents find an API server that returns only one of the two lists at first.
#[test]
#[ignore = "needs root"]
fn rule_2_1_3_no_writes_before_sync() {
    let mut fixture = ContractFixture::new();
    let mut objects = with_endpoints(service("web", 14), &[(&fixture.web[0], ready()), (&fixture.web[1], ready())]);
    fixture.apply("web", &objects);
    let lists = fixture.cluster.files().join("lists");
    fs::create_dir(&lists).unwrap();
    let list = |name: &str, items: &[Value]| {
        let list = json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items});
        let fresh = lists.join("fresh");
        fs::write(&fresh, list.to_string()).unwrap();
        fs::rename(fresh, lists.join(format!("{name}.json"))).unwrap();
    };
    list("nodes", &fixture.node_objects());
    list("pods", &[]);
    list("servicecidrs", &[]);
    let kubeconfig = kubeconfig(&lists);
    let address: SocketAddr = API.parse().unwrap();
    let servers: Vec<_> =
        fixture.cluster.nodes.iter().map(|node| load::serve_api(&node.machine, address, &lists).unwrap()).collect();

    let mut observations = Observations::new("2.1.3");
    let mut reports = BTreeMap::new();
    for (known, missing, added) in [("services", "endpointslices", 15), ("endpointslices", "services", 16)] {
        // a change, so that a complete agent has something to write
        objects.extend(with_endpoints(service(&format!("added-{added}"), added), &[(&fixture.web[0], ready())]));
        let of = |name: &str| {
            let is_listed = |object: &&Value| (object["kind"] == "Service") == (name == "services");
            objects.iter().filter(is_listed).cloned().collect::<Vec<_>>()
        };
        list(known, &of(known));
        fs::remove_file(lists.join(format!("{missing}.json"))).ok();
        let loads = loads(&fixture);
        for node in &mut fixture.cluster.nodes {
            for name in [known, missing] {
                fs::remove_file(lists.join(format!("{name}.requested"))).ok();
            }
            node.kill_agent().unwrap();
            node.start_agent_of(&kubeconfig, &FLAGS).unwrap();
            wait::until_true("the agent requests both lists", Duration::from_secs(20), || {
                [known, missing].iter().all(|name| lists.join(format!("{name}.requested")).exists())
            })
            .unwrap();
        }
        let gauge = if known == "services" { "ropeway_services" } else { "ropeway_endpoint_slices" };
        for node in &fixture.cluster.nodes {
            wait::until_true("the agent has taken in the known list", Duration::from_secs(10), || {
                node.metric(gauge).is_ok_and(|count| count.to_string() == of(known).len().to_string())
            })
            .unwrap();
        }
        let operations = |nodes: &[Node]| -> Result<Vec<f64>> {
            nodes.iter().map(|node| node.metric("ropeway_map_operations_total")).collect()
        };
        let unwritten = operations(&fixture.cluster.nodes);
        observations.observe(|path, family| {
            let unwritten = unwritten.as_ref().map_err(|error| anyhow::anyhow!("{error:#}"))?;
            expect!(
                unwritten.iter().all(|count| *count == 0.0),
                "the agents have written before they had the list of {missing}; writes per node: {unwritten:?}"
            );
            served(&fixture, path, family).with_context(|| format!("the list of {missing} is still missing"))
        });
        list(missing, &of(missing));
        for node in &mut fixture.cluster.nodes {
            node.await_agent().unwrap();
        }
        let written = operations(&fixture.cluster.nodes);
        observations.observe(|path, family| {
            let written = written.as_ref().map_err(|error| anyhow::anyhow!("{error:#}"))?;
            expect!(written.iter().all(|count| *count > 0.0), "the agents have written nothing: {written:?}");
            for_each_client(&fixture.clients(path), |from| {
                expect_answers_on_all(from, &targets(path, added, family), 2, &["web-1"])
            })?;
            served(&fixture, path, family)
        });
        for (cell, loads) in loads {
            reports.insert(cell, loads.into_iter().map(RequestLoad::stop).collect::<Result<Vec<_>>>());
        }
        observations.observe(|path, family| {
            let all = reports[&(path, family)].as_ref().map_err(|error| anyhow::anyhow!("{error:#}"))?;
            expect!(
                all.iter().all(|report| report.failed == 0 && report.ok > 10),
                "requests failed while the list of {missing} was missing: {all:?}"
            );
            Ok(())
        });
    }
    observations.record(&fixture, "2.1.3");
    drop(servers);
    fixture.end();
}

fn served(fixture: &ContractFixture, path: Path, family: IpFamily) -> Result<()> {
    for_each_client(&fixture.clients(path), |from| {
        expect_answers_on_all(from, &targets(path, 14, family), 30, &["web-1", "web-2"])
    })
}

type Loads = Vec<((Path, IpFamily), Vec<RequestLoad>)>;

fn loads(fixture: &ContractFixture) -> Loads {
    let start = |(path, family)| {
        let target = targets(path, 14, family)[0].tcp;
        let start = |from: &dyn TrafficEndpoint| RequestLoad::start(from, target, Protocol::Tcp, 20).unwrap();
        ((path, family), fixture.clients(path).iter().map(|from| start(from)).collect())
    };
    Rule::of("2.1.3").unwrap().selected_cells().into_iter().map(start).collect()
}

fn kubeconfig(beside: &FilePath) -> std::path::PathBuf {
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "test",
        "clusters": [{"name": "test", "cluster": {"server": format!("http://{API}")}}],
        "users": [{"name": "test", "user": {}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
    });
    let path = beside.join("kubeconfig");
    fs::write(&path, config.to_string()).unwrap();
    path
}
