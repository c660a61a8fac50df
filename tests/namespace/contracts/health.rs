//! Section 2.5: health endpoints, health check node ports, and the metrics that dashboards of
//! kube-proxy use.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ropeway_tests::contracts::Path;
use ropeway_tests::expect;
use ropeway_tests::load::{self, TrafficEndpoint};
use ropeway_tests::peer::Protocol;
use ropeway_tests::pod::{IpFamily, Pod};
use ropeway_tests::wait;
use serde_json::{Value, json};

use super::expect::for_each_client;
use super::fixture::{ContractFixture, endpoint, policies, ready, service_with, slice, terminating};
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
    let is_checked = |counts: [u64; 2]| {
        let fixture = &fixture;
        move |path, family| {
            for_each_client(&fixture.clients(path), |from| {
                let count = counts[usize::from(family == IpFamily::V6)];
                let wanted = if count == 0 { 503 } else { 200 };
                let body = status(from, fixture.node().port(family, CHECK), "/", wanted)?;
                let service = body["service"] == json!({"namespace": "default", "name": "checked"});
                expect!(
                    service && body["localEndpoints"] == count && body["serviceProxyHealthy"] == true,
                    "{count} local endpoints are expected at the health check port: {body}"
                );
                Ok(())
            })
        }
    };
    let mut endpoints = Vec::new();
    for (change, counts) in local_endpoints(&fixture) {
        endpoints.extend(change);
        let spec = [&policies("Local")[1..], &[("healthCheckNodePort", json!(CHECK))]].concat();
        fixture.apply("checked", &[vec![service_with("checked", 80, &spec)], endpoints.clone()].concat());
        check.observe(is_checked(counts));
    }

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
        check.observe(is_checked([3, 2]));
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
            expect!(missing.is_empty(), "missing metrics: {missing:?}");
            Ok(())
        })
    });
    fixture.end();
}

/// Returns slices that are added one after the other, and the number of ready local endpoints of
/// each family after that. Nothing is sent to the endpoints, so most of them are addresses only.
fn local_endpoints(fixture: &ContractFixture) -> Vec<(Vec<Value>, [u64; 2])> {
    let [here, there, _] = &fixture.web;
    let of = |pod: &Pod, part: &str, with: &Value| {
        IpFamily::BOTH.map(|family| slice("checked", part, family, &[endpoint(pod, family, with)])).to_vec()
    };
    let at = |part: &str, family, addresses: &[&str], with: &Value| {
        let one = |address: &&str| {
            let mut endpoint = with.clone();
            endpoint["addresses"] = json!([address]);
            endpoint["nodeName"] = json!(fixture.node().name());
            endpoint
        };
        vec![slice("checked", part, family, &addresses.iter().map(one).collect::<Vec<_>>())]
    };
    let unready = json!({"conditions": {"ready": false, "serving": false, "terminating": false}});
    vec![
        (of(there, "remote", &ready()), [0, 0]),
        (at("leaving", IpFamily::V4, &["10.244.1.200"], &terminating()), [0, 0]),
        (at("unready", IpFamily::V6, &["fd00:10:244:1::c8"], &unready), [0, 0]),
        (of(here, "first", &ready()), [1, 1]),
        (at("more", IpFamily::V4, &["10.244.1.201", "10.244.1.202"], &ready()), [3, 1]),
        (at("more", IpFamily::V6, &["fd00:10:244:1::c9"], &ready()), [3, 2]),
        // an endpoint that moves between slices is in both of them for a while
        (of(here, "second", &ready()), [3, 2]),
    ]
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
    expect!(has(&body, "lastUpdated") && has(&body, "currentTime"), "/healthz lacks a time: {body}");
    expect!(body["nodeEligible"] == (healthz == 200), "/healthz contradicts its status {healthz}: {body}");
    let body = status(from, server, "/livez", 200)?;
    expect!(
        has(&body, "lastUpdated") && has(&body, "currentTime") && body["nodeEligible"].is_null(),
        "/livez has other fields than expected: {body}"
    );
    Ok(())
}

fn expect_healthy(from: &dyn TrafficEndpoint, server: SocketAddr) -> Result<()> {
    let body = status(from, server, "/livez", 200)?;
    expect!(body["currentTime"].is_string(), "/livez lacks currentTime: {body}");
    Ok(())
}

fn for_the_node(fixture: &ContractFixture, from: &dyn TrafficEndpoint, path: Path, family: IpFamily) -> Result<()> {
    let loopback = SocketAddr::from(([127, 0, 0, 1], METRICS));
    if path == Path::Node {
        let get = |what| load::fetch(from, loopback, what);
        expect!(get("/proxyMode")? == "ropeway", "/proxyMode does not answer ropeway");
        expect!(get("/metrics")?.contains("# TYPE "), "/metrics lists no metric");
        let healthz: Value = serde_json::from_str(&get("/healthz")?)?;
        expect!(healthz["lastUpdated"].is_string(), "/healthz lacks lastUpdated: {healthz}");
        let configz: Value = serde_json::from_str(&get("/configz")?)?;
        expect!(configz["ropeway.config"]["nodeName"] == "n1", "/configz is not of n1: {configz}");
        return Ok(());
    }
    // the other port of this agent answers, so the address is right
    expect_healthy(from, fixture.node().port(family, HEALTH))?;
    // the other node's agent listens on the same loopback address
    let own = (path != Path::OtherNode).then_some(loopback);
    for target in own.into_iter().chain([fixture.node().port(family, METRICS)]) {
        let report = load::send_requests(from, target, Protocol::Tcp, 1)?;
        expect!(report.errors.get("ECONNREFUSED") == Some(&1), "{target} did not refuse {}: {report:?}", from.label());
    }
    Ok(())
}
