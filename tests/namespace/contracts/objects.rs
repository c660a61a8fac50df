//! Section 2.1: the Services, slices, endpoints and addresses that a proxy has to serve or ignore.

use anyhow::Result;
use ropeway_tests::contracts::Path;
use ropeway_tests::load::TrafficEndpoint;
use ropeway_tests::pod::IpFamily;
use serde_json::{Value, json};

use super::counters::{expect_dropped, expect_rejected};
use super::expect::{expect_answers_on_all, expect_direct_answers, expect_equal_halves, for_each_client};
use super::fixture::{
    ContractFixture, EXTERNAL, STRANGER, Vip, address, endpoint, first_target, local, policies, ready, round_robin,
    service, service_with, slice, slices, target, targets,
};
use super::observations::Observations;

#[test]
#[ignore = "needs root"]
fn section_2_1_object_selection() {
    let fixture = ContractFixture::new();
    let _strangers = fixture.strangers(&[1, 2, 5, PROXIED]);
    objects_of_others(&fixture);
    external_names(&fixture);
    addresses(&fixture);
    families(&fixture);
    slices_as_they_are(&fixture);
    ready_as_given(&fixture);
    fixture.end();
}

/// The number of load-balancer IPs whose mode is Proxy.
const PROXIED: u16 = 99;

/// Expects that the external addresses and node ports of a Service are not served: servers that
/// belong to no Service answer there.
fn expect_untouched(from: &dyn TrafficEndpoint, number: u16, family: IpFamily) -> Result<()> {
    let targets = EXTERNAL.map(|vip| target(vip, number, family));
    expect_answers_on_all(from, &targets, 2, &[STRANGER])
}

/// Expects that no Service has this cluster IP, on paths that lead to cluster IPs.
fn expect_unallocated(
    fixture: &ContractFixture,
    from: &dyn TrafficEndpoint,
    path: Path,
    number: u16,
    family: IpFamily,
) -> Result<()> {
    if path == Path::Outside {
        return Ok(());
    }
    expect_dropped(fixture, from, "unallocated_address", &[target(Vip::Cluster, number, family)])
}

fn labelled(mut object: Value, label: &str, value: &str) -> Value {
    object["metadata"]["labels"][label] = json!(value);
    object
}

fn objects_of_others(fixture: &ContractFixture) {
    const PROXY: &str = "service.kubernetes.io/service-proxy-name";
    let [web, _, never] = &fixture.web;
    let mut objects = vec![labelled(service("proxied", 1), PROXY, "other")];
    objects.extend(slices("proxied", &[(never, ready())]));
    objects.push(service_with("headless", 2, &[("clusterIP", json!("None")), ("clusterIPs", json!(["None"]))]));
    objects.extend(slices("headless", &[(never, ready())]));
    objects.push(service("web", 3));
    objects.extend(slices("web", &[(web, ready())]));
    for family in IpFamily::BOTH {
        let stranger = [endpoint(never, family, &ready())];
        let headless = slice("web", "headless", family, &stranger);
        objects.push(labelled(headless, "service.kubernetes.io/headless", ""));
        objects.push(labelled(slice("web", "proxied", family, &stranger), PROXY, "other"));
    }
    objects.push(service("old", 4));
    objects.push(json!({
        "apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "old", "namespace": "default"},
        "subsets": [{
            "addresses": IpFamily::BOTH.map(|family| json!({"ip": never.address(family).unwrap()})),
            "ports": [{"name": "http", "port": 8080}, {"name": "dns", "port": 8080, "protocol": "UDP"}],
        }],
    }));
    fixture.apply("objects", &objects);
    fixture.check_cells("2.1.1", |path, family| {
        for_each_client(&fixture.clients(path), |from| {
            expect_direct_answers(from, never, family)?;
            expect_answers_on_all(from, &targets(path, 3, family), 12, &["web-1"])?;
            expect_rejected(fixture, from, &targets(path, 4, family))?;
            expect_unallocated(fixture, from, path, 1, family)?;
            // a headless Service has no cluster IP
            [1, 2].into_iter().try_for_each(|number| expect_untouched(from, number, family))
        })
    });
}

fn external_names(fixture: &ContractFixture) {
    let apply = |spec: &[(&str, Value)]| {
        let mut objects = vec![service_with("name", 5, spec)];
        objects.extend(slices("name", &[(&fixture.web[0], ready())]));
        fixture.apply("name", &objects);
    };
    let mut observations = Observations::new("2.1.2");
    apply(&[]);
    observations.observe(|path, family| {
        for_each_client(&fixture.clients(path), |from| {
            expect_answers_on_all(from, &targets(path, 5, family), 2, &["web-1"])
        })
    });
    apply(&[("type", json!("ExternalName")), ("externalName", json!("example.com"))]);
    observations.observe(|path, family| {
        for_each_client(&fixture.clients(path), |from| {
            expect_untouched(from, 5, family)?;
            expect_unallocated(fixture, from, path, 5, family)
        })
    });
    observations.record(fixture, "2.1.2");
}

fn addresses(fixture: &ContractFixture) {
    let mut objects = vec![service("all", 6)];
    let proxied =
        IpFamily::BOTH.map(|family| json!({"ip": address(Vip::Balancer, PROXIED, family), "ipMode": "Proxy"}));
    let ingress = objects[0]["status"]["loadBalancer"]["ingress"].as_array_mut().unwrap();
    ingress[0]["ipMode"] = json!("VIP");
    ingress.extend(proxied);
    objects.extend(slices("all", &[(&fixture.web[0], ready())]));
    // a single-family Service with external addresses of both families
    for (family, name, number) in [(IpFamily::V4, "four", 7), (IpFamily::V6, "six", 8)] {
        let ip = address(Vip::Cluster, number, family);
        objects.push(service_with(name, number, &[("clusterIP", json!(ip)), ("clusterIPs", json!([ip]))]));
        objects.push(slice(name, "a", family, &[endpoint(&fixture.web[0], family, &ready())]));
    }
    fixture.apply("addresses", &objects);
    fixture.check_cells_in_parallel("2.1.4", |path, family| {
        let single = if family == IpFamily::V4 { 7 } else { 8 };
        for_each_client(&fixture.clients(path), |from| {
            expect_answers_on_all(from, &targets(path, 6, family), 5, &["web-1"])?;
            expect_answers_on_all(from, &targets(path, single, family), 5, &["web-1"])?;
            expect_answers_on_all(from, &[target(Vip::Balancer, PROXIED, family)], 2, &[STRANGER])
        })
    });
}

fn families(fixture: &ContractFixture) {
    let mut objects = Vec::new();
    for (family, name, number) in [(IpFamily::V4, "only-four", 9), (IpFamily::V6, "only-six", 10)] {
        objects.push(service(name, number));
        objects.push(slice(name, "a", family, &[endpoint(&fixture.web[0], family, &ready())]));
    }
    fixture.apply("families", &objects);
    fixture.check_cells("2.1.5", |path, family| {
        let (with, without) = if family == IpFamily::V4 { (9, 10) } else { (10, 9) };
        for_each_client(&fixture.clients(path), |from| {
            expect_answers_on_all(from, &targets(path, with, family), 5, &["web-1"])?;
            expect_rejected(fixture, from, &targets(path, without, family))
        })
    });
}

fn slices_as_they_are(fixture: &ContractFixture) {
    let [first, second, never] = &fixture.web;
    let mut objects = vec![round_robin(service("odd", 11)), service_with("local", 12, &policies("Local"))];
    for family in IpFamily::BOTH {
        let other = if family == IpFamily::V4 { IpFamily::V6 } else { IpFamily::V4 };
        let addresses = [first, never].map(|pod| pod.address(family).unwrap());
        objects.push(slice(
            "odd",
            "a",
            family,
            &[
                endpoint(first, family, &json!({"addresses": addresses})),
                endpoint(second, family, &json!({"conditions": {"ready": true}})),
                endpoint(never, family, &json!({"conditions": {"ready": false}})),
            ],
        ));
        objects.push(slice("odd", "twin", family, &[endpoint(first, family, &ready())]));
        objects.push(slice("odd", "stranger", family, &[endpoint(never, other, &ready())]));
        for (part, port) in [("without", Value::Null), ("zero", json!(0))] {
            let mut slice = slice("odd", part, family, &[endpoint(never, family, &ready())]);
            for number in 0..2 {
                slice["ports"][number]["port"] = port.clone();
            }
            objects.push(slice);
        }
        // one of the two equal endpoints has no node name
        objects.push(slice("local", "a", family, &[endpoint(first, family, &json!({"nodeName": null}))]));
        objects.push(slice("local", "b", family, &[endpoint(first, family, &ready())]));
    }
    fixture.apply("odd", &objects);
    fixture.check_cells("2.1.6", |path, family| {
        for_each_client(&fixture.clients(path), |from| {
            expect_direct_answers(from, never, family)?;
            let targets = targets(path, 11, family);
            targets.into_iter().try_for_each(|target| expect_equal_halves(from, target, ["web-1", "web-2"]))?;
            // the other node has no local endpoint of this Service, so it uses the port of this one
            expect_answers_on_all(from, &[local(path, 12, family)], 5, &["web-1"])
        })
    });
}

fn ready_as_given(fixture: &ContractFixture) {
    let published = json!({"conditions": {"ready": true, "serving": false, "terminating": true}});
    let mut objects = vec![round_robin(service("published", 13))];
    objects.extend(slices("published", &[(&fixture.web[0], published), (&fixture.web[1], ready())]));
    fixture.apply("published", &objects);
    fixture.check_cells("2.1.7", |path, family| {
        for_each_client(&fixture.clients(path), |from| {
            expect_equal_halves(from, first_target(path, 13, family), ["web-1", "web-2"])
        })
    });
}
