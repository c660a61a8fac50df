//! Growth of maps under load: Maglev tables beyond their first size, and a cluster with thousands
//! of Services in one change. No connection may fail while maps are resized.

use std::net::IpAddr;
use std::time::Duration;

use ropeway_tests::cluster::{Cluster, Shape};
use ropeway_tests::load;
use ropeway_tests::manifest::{Endpoint, Port, service, slices};
use ropeway_tests::peer::Protocol;
use ropeway_tests::{manifest, view, wait};

use crate::fixture::{Fixture, TARGET, Traffic, endpoints};

/// Flag for Maglev tables of 65,537 slots. The map `slots` has 262,144 elements at first, room for
/// three such tables.
const SLOTS: &str = "--maglev-table-size=65537";
const PORTS: [Port<'static>; 1] = [Port::tcp("http", 80)];

fn cluster_ips(number: u8) -> [IpAddr; 2] {
    [IpAddr::from([10, 96, 1, number]), format!("fd00:10:96:1::{number}").parse().unwrap()]
}

#[test]
#[ignore = "needs root"]
fn maglev_map_is_resized_under_load() {
    let mut cluster = Cluster::network(Shape { nodes: 2, mtu: 1500 }).unwrap();
    cluster.start_agents_with(&[SLOTS]).unwrap();
    let fixture = Fixture::of(cluster, &[0, 1]);
    let traffic = Traffic::start(&fixture);
    let processes: Vec<_> = fixture.cluster.nodes.iter().map(|n| n.agent.as_ref().unwrap().id()).collect();
    // The array holds three of these tables, and a Service takes two.
    let endpoints = endpoints(&fixture.backends.iter().map(|pod| (pod, true)).collect::<Vec<_>>());
    for number in 1..=6 {
        let name = format!("more-{number}");
        let mut object = service(&name, &cluster_ips(number), &PORTS);
        object["metadata"]["annotations"] = serde_json::json!({"ropeway.dev/scheduler": "mh"});
        let mut objects = vec![object];
        objects.extend(slices(&name, &PORTS, TARGET, &endpoints));
        fixture.cluster.apply(&name, &objects).unwrap();
    }
    for number in 1..=6 {
        fixture.cluster.await_backends(&format!("default/more-{number}"), 2).unwrap();
        for ip in cluster_ips(number) {
            assert_eq!(
                load::send_requests(&fixture.client, (ip, 80).into(), Protocol::Tcp, 10).unwrap().ok,
                10,
                "{ip}"
            );
        }
    }
    for (node, process) in fixture.cluster.nodes.iter().zip(processes) {
        let status = view::json(&node.machine, &["status"]).unwrap();
        let slots = status["maps"].as_array().unwrap().iter().find(|m| m["name"] == "slots").unwrap();
        assert!(slots["maxEntries"].as_u64().unwrap() >= 12 * 65537, "the map has not grown: {slots}");
        assert_eq!(node.agent.as_ref().unwrap().id(), process, "the same process for those who started it");
    }
    traffic.end();
}

/// Report 35: two networks for each node, and some more than the tries once had room for.
#[test]
#[ignore = "needs root"]
fn networks_of_many_nodes_fit_and_a_restarted_agent_gets_ready() {
    let mut cluster = Cluster::start(Shape { nodes: 1, mtu: 1500 }).unwrap();
    let node = |n: u32| {
        let [_, _, high, low] = n.to_be_bytes();
        let range = std::net::Ipv4Addr::from_bits(0x0b00_0000 + (n << 8));
        manifest::node(&format!("m{n}"), &[IpAddr::from([172, 20 + high / 128, high, low])], &[format!("{range}/24")])
    };
    let others: Vec<_> = (0..8_300).map(node).collect();
    cluster.apply("others", &others).unwrap();
    let used = |cluster: &Cluster| {
        let status = view::json(&cluster.nodes[0].machine, &["status"]).unwrap();
        let map = status["maps"].as_array().unwrap().iter().find(|m| m["name"] == "networks4").unwrap();
        map["entries"].as_u64().unwrap()
    };
    wait::until_true("networks of all nodes", Duration::from_secs(90), || used(&cluster) > 16_600).unwrap();
    cluster.nodes[0].kill_agent().unwrap();
    cluster.nodes[0].start_agent(&[]).unwrap();
    cluster.nodes[0].await_agent().unwrap();
    assert!(used(&cluster) > 16_600);
}

/// Number of Services of the large cluster: enough that the map `backends` is resized once.
/// `ROPEWAY_SERVICES=50000` makes a quarter of a million endpoints.
const SERVICES: usize = 14_000;
/// Endpoints of each; one Service has [`MANY`].
const ENDPOINTS: usize = 5;
const MANY: usize = 20_000;
/// The usual number of endpoints in one `EndpointSlice`.
const SLICE: usize = 1_000;

#[test]
#[ignore = "needs root"]
fn large_cluster_is_programmed_in_one_batch() {
    let services = std::env::var("ROPEWAY_SERVICES").map_or(SERVICES, |n| n.parse().unwrap());
    let fixture = Fixture::new(Shape { nodes: 1, mtu: 1500 }, &[0]);
    let traffic = Traffic::start(&fixture);

    let ip = |first: u8, n: usize| IpAddr::from([first, (n >> 16) as u8, (n >> 8) as u8, n as u8]);
    let node = fixture.cluster.nodes[0].name();
    let endpoints = |first: usize, count: usize| -> Vec<_> {
        (first..first + count).map(|n| Endpoint::ready(ip(11, n), node)).collect()
    };
    let mut objects = Vec::new();
    for number in 0..services {
        let name = format!("s{number}");
        objects.push(service(&name, &[ip(96, number)], &PORTS));
        objects.extend(slices(&name, &PORTS, TARGET, &endpoints(number * ENDPOINTS, ENDPOINTS)));
    }
    objects.push(service("many", &[ip(97, 0)], &PORTS));
    for (number, first) in (0..MANY).step_by(SLICE).enumerate() {
        let mut parts = slices("many", &PORTS, TARGET, &endpoints(services * ENDPOINTS + first, SLICE));
        for part in &mut parts {
            part["metadata"]["name"] = format!("many-{number}").into();
        }
        objects.extend(parts);
    }
    fixture.cluster.apply("large", &objects).unwrap();
    let (node, all) = (&fixture.cluster.nodes[0], u32::try_from(services + MANY / SLICE).unwrap());
    wait::until_true("everything is in the tables", Duration::from_secs(120), || {
        node.metric("ropeway_endpoint_slices").is_ok_and(|slices| slices >= f64::from(all))
            && node.metric("ropeway_rejections").is_ok_and(|rejections| rejections < 0.5)
    })
    .unwrap();
    for service in ["many".to_owned(), format!("s{}", services - 1)] {
        let count = if service == "many" { MANY } else { ENDPOINTS };
        fixture.cluster.await_backends(&format!("default/{service}"), count).unwrap();
    }
    traffic.end();
}
