//! Section 2.5: health endpoints, health check node ports, and the metrics that dashboards of
//! kube-proxy use.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use ropeway_tests::contracts::Path;
use ropeway_tests::load::{self, TrafficEndpoint};
use ropeway_tests::peer::Protocol;
use ropeway_tests::pod::{IpFamily, Pod};
use ropeway_tests::wait;
use serde_json::{Value, json};

use super::expect::for_each_client;
use super::fixture::{ContractFixture, policies, ready, service_with, terminating, with_endpoints};
use super::observations::Observations;

const HEALTH: u16 = 10256;
const METRICS: u16 = 10249;
const CHECK: u16 = 32080;

/// Metrics that dashboards and alerts of kube-proxy use.
const NAMES: [&str; 11] = [
    "kubeproxy_sync_proxy_rules_duration_seconds_bucket{",
    "kubeproxy_network_programming_duration_seconds_bucket{",
    "kubeproxy_sync_proxy_rules_last_timestamp_seconds ",
    "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds ",
    "kubeproxy_sync_proxy_rules_endpoint_changes_pending ",
    "kubeproxy_sync_proxy_rules_endpoint_changes_total ",
    "kubeproxy_sync_proxy_rules_service_changes_pending ",
    "kubeproxy_sync_proxy_rules_service_changes_total ",
    "kubeproxy_sync_proxy_rules_no_local_endpoints_total{",
    "kubeproxy_proxy_healthz_total{code=\"200\"} ",
    "kubeproxy_proxy_livez_total{code=\"200\"} ",
];

#[test]
#[ignore = "needs root"]
fn section_2_5_health_and_metrics() {
    let fixture = ContractFixture::new();
    let mut healthz = Observations::new("2.5.1");
    let mut check = Observations::new("2.5.2");
    let [here, there, _] = &fixture.web;
    let balance = |endpoints: &[(&Pod, Value)]| {
        let spec = [&policies("Local")[1..], &[("healthCheckNodePort", json!(CHECK))]].concat();
        fixture.apply("checked", &with_endpoints(service_with("checked", 80, &spec), endpoints));
    };
    let is_checked = |wanted: u16, has_local: bool| {
        let fixture = &fixture;
        move |path, family| {
            for_each_client(&fixture.clients(path), |from| {
                let body = status(from, fixture.node().port(family, CHECK), "/", wanted)?;
                let service = body["service"] == json!({"namespace": "default", "name": "checked"});
                let local = body["localEndpoints"].as_u64().context("the answer has no number `localEndpoints`")?;
                ensure!(
                    service && local == u64::from(has_local) && body["serviceProxyHealthy"] == true,
                    "the health check port answers {body}"
                );
                Ok(())
            })
        }
    };
    balance(&[(there, ready())]);
    check.observe(is_checked(503, false));
    balance(&[(here, terminating()), (there, ready())]);
    check.observe(is_checked(503, false));
    balance(&[(here, ready()), (there, ready())]);
    check.observe(is_checked(200, true));

    let is_well = |healthz: u16| {
        let fixture = &fixture;
        move |path, family| for_each_client(&fixture.clients(path), |from| health(fixture, from, family, healthz))
    };
    healthz.observe(is_well(200));
    let taint = |node: &mut Value| {
        node["spec"]["taints"] = json!([{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]);
    };
    let deleted = |node: &mut Value| node["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    for (leaves, wanted) in [(&taint as &dyn Fn(&mut Value), 503), (&|_| {}, 200), (&deleted, 503), (&|_| {}, 200)] {
        let mut nodes = fixture.node_objects();
        leaves(&mut nodes[0]);
        fixture.apply("nodes", &nodes);
        let on_node = &fixture.node().machine;
        wait::until("the node's state is known", Duration::from_secs(5), || {
            status(on_node, fixture.node().port(IpFamily::V4, HEALTH), "/healthz", wanted).map(Some)
        })
        .unwrap();
        healthz.observe(is_well(wanted));
        // this endpoint does not report whether the node is being drained
        check.observe(is_checked(200, true));
    }
    healthz.record(&fixture, "2.5.1");
    check.record(&fixture, "2.5.2");
    fixture.check_cells_in_parallel("2.5.3", |path, family| {
        for_each_client(&fixture.clients(path), |from| for_the_node(&fixture, from, path, family))
    });
    fixture.check_cells("2.5.4", |path, _| {
        for_each_client(&fixture.clients(path), |from| {
            let text = load::fetch(from, SocketAddr::from(([127, 0, 0, 1], METRICS)), "/metrics")?;
            let missing: Vec<_> = NAMES.iter().filter(|name| !text.lines().any(|l| l.starts_with(**name))).collect();
            ensure!(missing.is_empty(), "missing metrics: {missing:?}");
            Ok(())
        })
    });
    fixture.end();
}

/// Returns the JSON of an answer with this status.
fn status(from: &(impl TrafficEndpoint + ?Sized), server: SocketAddr, path: &str, wanted: u16) -> Result<Value> {
    let text = match load::fetch(from, server, path) {
        Ok(body) if wanted == 200 => body,
        Ok(body) => bail!("200 instead of {wanted}: {body}"),
        Err(error) => {
            let error = format!("{error:#}");
            let (_, body) = error.split_once(&format!(" {wanted} ")).with_context(|| error.clone())?;
            body.split_once(": ").with_context(|| error.clone())?.1.to_owned()
        }
    };
    serde_json::from_str(&text).with_context(|| format!("the answer is not JSON: {text}"))
}

fn health(fixture: &ContractFixture, from: &dyn TrafficEndpoint, family: IpFamily, healthz: u16) -> Result<()> {
    let server = fixture.node().port(family, HEALTH);
    let body = status(from, server, "/healthz", healthz)?;
    let has = |body: &Value, field: &str| body[field].as_str().is_some_and(|time| time.ends_with('Z'));
    ensure!(has(&body, "lastUpdated") && has(&body, "currentTime"), "/healthz lacks a time: {body}");
    ensure!(body["nodeEligible"] == (healthz == 200), "/healthz contradicts its status {healthz}: {body}");
    let body = status(from, server, "/livez", 200)?;
    ensure!(
        has(&body, "lastUpdated") && has(&body, "currentTime") && body["nodeEligible"].is_null(),
        "/livez has other fields than expected: {body}"
    );
    Ok(())
}

fn for_the_node(fixture: &ContractFixture, from: &dyn TrafficEndpoint, path: Path, family: IpFamily) -> Result<()> {
    let loopback = SocketAddr::from(([127, 0, 0, 1], METRICS));
    if path == Path::Node {
        let get = |what| load::fetch(from, loopback, what);
        ensure!(get("/proxyMode")? == "ropeway", "/proxyMode does not answer ropeway");
        ensure!(get("/metrics")?.contains("# TYPE "), "/metrics lists no metric");
        let healthz: Value = serde_json::from_str(&get("/healthz")?)?;
        ensure!(healthz["lastUpdated"].is_string(), "/healthz lacks lastUpdated: {healthz}");
        let configz: Value = serde_json::from_str(&get("/configz")?)?;
        ensure!(configz["ropeway.config"]["nodeName"] == "n1", "/configz is not of n1: {configz}");
        return Ok(());
    }
    // the other node's agent listens on the same loopback address
    let own = (path != Path::OtherNode).then_some(loopback);
    for target in own.into_iter().chain([fixture.node().port(family, METRICS)]) {
        let report = load::send_requests(from, target, Protocol::Tcp, 1)?;
        ensure!(report.errors.get("ECONNREFUSED") == Some(&1), "{target} did not refuse {}: {report:?}", from.label());
    }
    Ok(())
}
