//! Section 2.1: the Services, slices, endpoints and addresses that a proxy has to serve or ignore.

use anyhow::Result;
use ropeway_tests::contracts::Path;
use ropeway_tests::peer::Protocol;
use ropeway_tests::pod::IpFamily;
use serde_json::{Value, json};

use super::expect::{
    expect_answers, expect_answers_on_all, expect_equal_halves, expect_no_answer, expect_refusal, for_each_client,
};
use super::fixture::{
    ContractFixture, Target, Vip, address, endpoint, first_target, local, policies, ready, round_robin, service,
    service_with, slice, slices, target, targets,
};

#[test]
#[ignore = "needs root"]
fn section_2_1_object_selection() {
    let fixture = ContractFixture::new();
    objects_of_others(&fixture);
    external_names(&fixture);
    addresses(&fixture);
    families(&fixture);
    slices_as_they_are(&fixture);
    ready_as_given(&fixture);
    fixture.end();
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
            "addresses": [{"ip": never.address(IpFamily::V4).unwrap()}],
            "ports": [{"name": "http", "port": 8080}, {"name": "dns", "port": 8080, "protocol": "UDP"}],
        }],
    }));
    fixture.apply("objects", &objects);
    fixture.check_cells_in_parallel("2.1.1", |path, family| {
        for_each_client(&fixture.clients(path), |from| {
            expect_answers_on_all(from, &targets(path, 3, family), 12, &["web-1"])?;
            expect_refusal(from, &targets(path, 4, family))?;
            expect_no_answer(from, &targets(path, 1, family))?;
            expect_no_answer(from, &targets(path, 2, family)[1..])
        })
    });
}

fn external_names(fixture: &ContractFixture) {
    let apply = |spec: &[(&str, Value)]| {
        let mut objects = vec![service_with("name", 5, spec)];
        objects.extend(slices("name", &[(&fixture.web[0], ready())]));
        fixture.apply("name", &objects);
    };
    apply(&[]);
    let check = |wanted: bool| {
        move |path, family| {
            for_each_client(&fixture.clients(path), |from| {
                let targets = targets(path, 5, family);
                if wanted {
                    expect_answers_on_all(from, &targets, 2, &["web-1"])
                } else {
                    expect_no_answer(from, &targets)
                }
            })
        }
    };
    let before: Result<()> =
        Path::ALL.iter().flat_map(|path| IpFamily::BOTH.map(|f| (*path, f))).try_for_each(|(p, f)| check(true)(p, f));
    apply(&[("type", json!("ExternalName")), ("externalName", json!("example.com"))]);
    fixture.check_cells_in_parallel("2.1.2", |path, family| match &before {
        Ok(()) => check(false)(path, family),
        Err(error) => Err(anyhow::anyhow!("before the change to type ExternalName: {error:#}")),
    });
}

fn addresses(fixture: &ContractFixture) {
    let mut objects = vec![service("all", 6)];
    let proxied = IpFamily::BOTH.map(|family| json!({"ip": address(Vip::Balancer, 99, family), "ipMode": "Proxy"}));
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
            let balancer = target(Vip::Balancer, 6, family);
            let at = |port| std::net::SocketAddr::new(address(Vip::Balancer, 99, family), port);
            expect_no_answer(from, &[Target { tcp: at(balancer.tcp.port()), udp: at(balancer.udp.port()) }])
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
    fixture.check_cells_in_parallel("2.1.5", |path, family| {
        let (with, without) = if family == IpFamily::V4 { (9, 10) } else { (10, 9) };
        for_each_client(&fixture.clients(path), |from| {
            expect_answers_on_all(from, &targets(path, with, family), 5, &["web-1"])?;
            expect_refusal(from, &targets(path, without, family))
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
            targets(path, 11, family)
                .iter()
                .try_for_each(|target| expect_equal_halves(from, target.tcp, ["web-1", "web-2"]))?;
            // the other node has no local endpoint of this Service, so it uses the port of this one
            expect_answers(from, local(path, 12, family).tcp, Protocol::Tcp, 5, &["web-1"])?;
            Ok(())
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
            expect_equal_halves(from, first_target(path, 13, family).tcp, ["web-1", "web-2"])
        })
    });
}
