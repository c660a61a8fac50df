//! Addresses that a Service and a node have in common: external and load-balancer addresses that
//! are a node's, and cluster IPs that a device of the node carries.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use ropeway_tests::cluster::{Cluster, Shape};
use ropeway_tests::load::{self, TrafficEndpoint};
use ropeway_tests::manifest::{service, slices};
use ropeway_tests::peer::Protocol;
use ropeway_tests::pod::IpFamily;
use ropeway_tests::wait;
use serde_json::json;

use crate::contracts::expect::expect_error;
use crate::fixture::{Fixture, PORTS, TARGET, cluster_ip, endpoints};
use crate::host_device::RANGES;

/// Longer than the node's task needs to notice a change of an address or of a listening socket.
const SOON: Duration = Duration::from_secs(5);
/// The agent notices a new address of a device within this time.
const NOTICED: Duration = Duration::from_secs(2);

fn set_up() -> Fixture {
    let mut cluster = Cluster::network(Shape { nodes: 2, mtu: 1500 }).unwrap();
    cluster.start_agents_with(&[RANGES]).unwrap();
    Fixture::of(cluster, &[0, 1])
}

/// Applies the Service with external IPs and addresses of its load balancer.
fn expose(fixture: &Fixture, external: &[IpAddr], balancer: &[IpAddr]) {
    let mut web = service("web", &IpFamily::BOTH.map(cluster_ip), &PORTS);
    web["spec"]["type"] = json!("LoadBalancer");
    web["spec"]["externalIPs"] = json!(external);
    let ingress: Vec<_> = balancer.iter().map(|ip| json!({"ip": ip})).collect();
    web["status"] = json!({"loadBalancer": {"ingress": ingress}});
    let pods: Vec<_> = fixture.backends.iter().map(|pod| (pod, true)).collect();
    let mut objects = vec![web];
    objects.extend(slices("web", &PORTS, TARGET, &endpoints(&pods)));
    fixture.cluster.apply("web", &objects).unwrap();
}

/// Expects that both backends, and no other server, answer at the Service's ports.
fn served(from: &dyn TrafficEndpoint, address: IpAddr) -> Result<()> {
    for (port, protocol) in [(80, Protocol::Tcp), (53, Protocol::UdpConnected)] {
        let report = load::send_requests(from, SocketAddr::new(address, port), protocol, 24)?;
        let right = report.failed == 0 && report.by_server.keys().eq(["web-1", "web-2"]);
        ensure!(right, "{} to {address} port {port} {protocol:?}: {report:?}", from.label());
    }
    Ok(())
}

/// Waits until the Service answers these clients at an address.
fn await_served(clients: &[&dyn TrafficEndpoint], address: IpAddr, what: &str) {
    wait::until(what, SOON, || clients.iter().try_for_each(|from| served(*from, address)).map(Some)).unwrap();
}

/// Expects the Service at an address for all of these clients, and expects it to stay there for
/// longer than the agent needs to notice a change.
fn stays_served(clients: &[&dyn TrafficEndpoint], address: IpAddr, what: &str) {
    await_served(clients, address, what);
    let start = Instant::now();
    while start.elapsed() < NOTICED {
        clients.iter().try_for_each(|from| served(*from, address)).unwrap();
    }
}

/// Report 1: in all three forms.
#[test]
#[ignore = "needs root"]
fn address_of_a_node_serves_the_ports_of_a_service_and_of_the_node() {
    let fixture = set_up();
    let [n1, n2] = [0, 1].map(|n: usize| &fixture.cluster.nodes[n]);
    let client = &fixture.cluster.client;
    let clients: [&dyn TrafficEndpoint; 4] = [client, &fixture.client, &n1.machine, &n2.machine];
    let ssh = load::serve(&n1.machine, "own", &[2222]).unwrap();
    let others_are_the_nodes = |address: IpAddr| {
        for from in clients {
            let report = load::send_requests(from, SocketAddr::new(address, 2222), Protocol::Tcp, 5).unwrap();
            assert_eq!(report.by_server.get("own"), Some(&5), "{} to {address}: {report:?}", from.label());
            expect_error(from, SocketAddr::new(address, 81), Protocol::Tcp, "ECONNREFUSED").unwrap();
        }
    };
    let own = IpFamily::BOTH.map(|family| n1.address(family));
    // The external IPs are the node's own address; the load balancer reports it, as k3s does.
    for (external, balancer) in [(&own[..], &[][..]), (&[][..], &own[..])] {
        expose(&fixture, external, balancer);
        for address in own {
            stays_served(&clients, address, "at the node's own address");
            others_are_the_nodes(address);
            assert!(load::echo(client, address, 64).is_ok(), "ping {address}");
        }
    }
    // A load balancer assigns its address to a device of a node, as kube-vip and keepalived do.
    let assigned = ["192.168.50.200", "fd00:50::200"].map(|a| a.parse::<IpAddr>().unwrap());
    expose(&fixture, &[], &assigned);
    for (address, via, length) in [(assigned[0], own[0], 32), (assigned[1], own[1], 128)] {
        client.ip(&[format!("route add {address} via {via}")]).unwrap();
        n2.machine.ip(&[format!("route add {address} via {via}")]).unwrap();
        for device in ["eth0", "lo"] {
            // Deprecated, as keepalived adds them, so that it is no source of the node's packets.
            let nodad = if address.is_ipv6() { "nodad preferred_lft 0" } else { "" };
            n1.machine.ip(&[format!("address add {address}/{length} dev {device} {nodad}")]).unwrap();
            stays_served(&clients, address, device);
            others_are_the_nodes(address);
            n1.machine.ip(&[format!("address del {address}/{length} dev {device}")]).unwrap();
        }
        await_served(&[client], address, "on no device");
    }
    drop(ssh);
}

/// Report 6. The driver for dummy devices is not in every kernel; a bridge is as good.
#[test]
#[ignore = "needs root"]
fn cluster_ips_on_a_device_stay_served() {
    let fixture = set_up();
    let node = &fixture.cluster.nodes[0];
    let client = &fixture.cluster.client;
    let clients: [&dyn TrafficEndpoint; 4] =
        [&fixture.client, &node.machine, &fixture.cluster.nodes[1].machine, client];
    for device in ["kube-ipvs0", "other0"] {
        node.machine.ip(&[format!("link add {device} type bridge")]).unwrap();
        for family in IpFamily::BOTH {
            let (address, length) = (cluster_ip(family), if family == IpFamily::V4 { 32 } else { 128 });
            client.ip(&[format!("route replace {address} via {}", node.address(family))]).unwrap();
            // Deprecated, so that the node does not prefer it as the source of its own packets.
            let nodad = if family == IpFamily::V6 { "nodad preferred_lft 0" } else { "" };
            node.machine.ip(&[format!("address add {address}/{length} dev {device} {nodad}")]).unwrap();
            stays_served(&clients, address, device);
            for from in clients {
                expect_error(from, SocketAddr::new(address, 81), Protocol::Tcp, "ECONNREFUSED").unwrap();
            }
        }
        node.machine.ip(&[format!("link del {device}")]).unwrap();
    }
}

/// Report 37: the cache binds the cluster IP on a device of its own.
#[test]
#[ignore = "needs root"]
fn dns_cache_of_the_node_precedes_the_service_while_it_listens() {
    let fixture = set_up();
    let [n1, n2] = [0, 1].map(|n: usize| &fixture.cluster.nodes[n]);
    let of_n2 = n2.pod("other").unwrap();
    let address = cluster_ip(IpFamily::V4);
    let target = SocketAddr::new(address, 53);
    let cached = |from: &dyn TrafficEndpoint| {
        [Protocol::Udp, Protocol::UdpConnected, Protocol::Tcp].into_iter().all(|protocol| {
            let report = load::send_requests(from, target, protocol, 12).unwrap();
            report.failed == 0 && report.by_server.keys().eq(["cache"])
        })
    };
    let of_n1: [&dyn TrafficEndpoint; 2] = [&fixture.client, &n1.machine];
    for _ in 0..2 {
        n1.machine
            .ip(&["link add nodelocaldns type bridge".to_owned(), format!("address add {address}/32 dev nodelocaldns")])
            .unwrap();
        let mut cache = load::serve_at(&n1.machine, "cache", &[53], &[address]).unwrap();
        for from in of_n1 {
            wait::until_true("the cache answers", SOON, || cached(from)).unwrap();
        }
        for from in [&of_n2 as &dyn TrafficEndpoint, &n2.machine] {
            served(from, address).unwrap();
        }
        // It ends without removing its device, as when it runs out of memory.
        cache.kill().unwrap();
        await_served(&of_n1, address, "the Service answers without the cache");
        let cache = load::serve_at(&n1.machine, "cache", &[53], &[address]).unwrap();
        wait::until_true("the cache is back", SOON, || of_n1.into_iter().all(cached)).unwrap();
        n1.machine.ip(&["link del nodelocaldns"]).unwrap();
        await_served(&of_n1, address, "the Service answers without the device");
        drop(cache);
    }
}
