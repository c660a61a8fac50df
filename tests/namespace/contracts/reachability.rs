//! Section 2.3, second half: addresses and ports that are reachable from each path, source ranges,
//! and addresses that belong to no Service.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use ropeway_tests::contracts::Path;
use ropeway_tests::expect;
use ropeway_tests::load::{self, TrafficEndpoint};
use ropeway_tests::peer::Protocol;
use ropeway_tests::pod::IpFamily;
use ropeway_tests::process::Process;
use serde_json::{Value, json};

use super::counters::{expect_dropped, expect_rejected};
use super::expect::{expect_answers_on_all, expect_errors, for_each_client};
use super::fixture::{
    ContractFixture, STRANGER, Target, Vip, address, other_node_port, ready, service, service_with, target, targets,
    with_endpoints,
};
use super::observations::Observations;

/// A port without a Service.
const OTHER: u16 = 9999;
/// The health check node port of the Service without node ports.
const CHECK: u16 = 32059;

#[test]
#[ignore = "needs root"]
fn section_2_3_reachability() {
    let fixture = ContractFixture::new();
    let [here, there, _] = &fixture.web;
    let far = |zone: &str| {
        let mut with = ready();
        with["hints"] = json!({"forZones": [{"name": zone}]});
        with
    };
    let objects = [
        with_endpoints(service("web", 50), &[(here, ready()), (there, ready())]),
        with_endpoints(service("balanced", 51), &[(here, ready())]),
        with_endpoints(service("on-link", 53), &[(here, ready())]),
        with_endpoints(service("elsewhere", 60), &[(here, far("c")), (there, far("d"))]),
        with_endpoints(ranged("open", 54, &all_clients(&fixture)), &[(here, ready())]),
        with_endpoints(
            ranged("closed", 55, &["192.0.2.0/24".to_owned(), " 2001:db8:99::/64 ".to_owned()]),
            &[(here, ready())],
        ),
        with_endpoints(ranged("closed-four", 56, &["192.0.2.0/24".to_owned()]), &[(here, ready())]),
        with_endpoints(ranged("closed-six", 57, &["2001:db8:99::/64".to_owned()]), &[(here, ready())]),
    ];
    fixture.apply("reach", &objects.concat());
    fixture.check_cells_in_parallel("2.3.8", |path, family| {
        let target = target(Vip::Cluster, 50, family);
        for_each_client(&fixture.clients(path), |from| expect_answers_on_all(from, &[target], 40, &["web-1", "web-2"]))
    });
    let gateway = gateway(&fixture);
    fixture.check_cells("2.3.9", |path, family| {
        for_each_client(&fixture.clients(path), |from| nowhere(&fixture, from, path, family))
    });
    fixture.check_cells_in_parallel("2.3.10", |path, family| {
        for_each_client(&fixture.clients(path), |from| left_alone(&fixture, from, path, family))
    });
    drop(gateway);
    fixture.check_cells("2.3.11", |path, family| {
        for_each_client(&fixture.clients(path), |from| source_ranges(&fixture, from, path, family))
    });
    without_node_ports(&fixture);
    node_port_addresses(&fixture);
    fixture.check_cells_in_parallel("2.3.14", |path, family| {
        for_each_client(&fixture.clients(path), |from| {
            // a process reaches the other node's port like any other client
            expect_answers_on_all(
                from,
                &[other_node_port(50, family), target(Vip::NodePort, 50, family)],
                40,
                &["web-1", "web-2"],
            )?;
            expect_answers_on_all(from, &targets(path, 60, family)[..1], 40, &["web-1", "web-2"])
        })
    });
    fixture.end();
}

/// Returns the addresses of all clients, with blanks around them.
fn all_clients(fixture: &ContractFixture) -> Vec<String> {
    let clients = Path::ALL.into_iter().flat_map(|path| fixture.clients(path));
    let addresses = clients.flat_map(|client| IpFamily::BOTH.map(|family| client.address(family)));
    addresses.map(|address| format!(" {address}/{} ", if address.is_ipv4() { 32 } else { 128 })).collect()
}

fn ranged(name: &str, number: u16, ranges: &[String]) -> Value {
    service_with(name, number, &[("loadBalancerSourceRanges", json!(ranges))])
}

/// Takes the node ports from a Service, so that other servers can have them.
fn without_node_ports(fixture: &ContractFixture) {
    let mut observations = Observations::new("2.3.12");
    let _stranger = load::serve(&fixture.node().machine, STRANGER, &[30059, 31059]).unwrap();
    let spec = [("externalTrafficPolicy", json!("Local")), ("healthCheckNodePort", json!(CHECK))];
    for allocated in [true, false] {
        let mut service = service_with("bare", 59, &spec);
        if !allocated {
            service["spec"]["allocateLoadBalancerNodePorts"] = json!(false);
            for port in service["spec"]["ports"].as_array_mut().unwrap() {
                port.as_object_mut().unwrap().remove("nodePort");
            }
        }
        fixture.apply("bare", &with_endpoints(service, &[(&fixture.web[0], ready())]));
        observations.observe_in_parallel(|path, family| {
            for_each_client(&fixture.clients(path), |from| {
                let at_node_port = if allocated { "web-1" } else { STRANGER };
                expect_answers_on_all(from, &[target(Vip::NodePort, 59, family)], 5, &[at_node_port])?;
                expect_answers_on_all(from, &[target(Vip::Balancer, 59, family)], 5, &["web-1"])?;
                let health = load::fetch(from, fixture.node().port(family, CHECK), "/")?;
                expect!(
                    health.contains(r#""serviceProxyHealthy":true"#),
                    "the Service is not reported healthy: {health}"
                );
                Ok(())
            })
        });
    }
    observations.record(fixture, "2.3.12");
}

/// Returns an unallocated address in the range of cluster IPs and an address of another range. The
/// default gateway has both addresses (and a cluster IP), so it would answer a packet that leaves a
/// node.
fn unallocated(family: IpFamily) -> [IpAddr; 2] {
    match family {
        IpFamily::V4 => ["10.96.200.1", "192.0.2.1"],
        IpFamily::V6 => ["fd00:10:96::c801", "2001:db8:2::1"],
    }
    .map(|text| text.parse().unwrap())
}

fn gateway(fixture: &ContractFixture) -> Vec<Process> {
    let client = &fixture.cluster.client;
    let [first, second] = &fixture.cluster.nodes[..] else { panic!("two nodes") };
    let mut servers = Vec::new();
    for family in IpFamily::BOTH {
        let (length, nodad) = if family == IpFamily::V4 { (32, "") } else { (128, "nodad") };
        let own =
            unallocated(family).into_iter().chain([Vip::Cluster, Vip::Balancer].map(|vip| address(vip, 51, family)));
        for ip in own {
            client.ip(&[format!("address add {ip}/{length} dev lo {nodad}")]).unwrap();
            servers.push(load::serve_at(client, "gateway", &[80, 53, OTHER], &[ip]).unwrap());
        }
        // another load-balancer IP belongs to the other node, and the first one forwards to it
        let far = address(Vip::Balancer, 50, family);
        second.machine.ip(&[format!("address add {far}/{length} dev lo {nodad}")]).unwrap();
        first.machine.ip(&[format!("route add {far}/{length} via {}", second.address(family))]).unwrap();
        servers.push(load::serve_at(&second.machine, "far", &[OTHER], &[far]).unwrap());
        // and one is resolved by ARP on the link
        client.ip(&[format!("route add {}/{length} dev eth0", address(Vip::Balancer, 53, family))]).unwrap();
    }
    fixture.settle();
    servers
}

fn at(ip: IpAddr, tcp: u16, udp: u16) -> Target {
    Target { tcp: SocketAddr::new(ip, tcp), udp: SocketAddr::new(ip, udp) }
}

fn nowhere(fixture: &ContractFixture, from: &dyn TrafficEndpoint, path: Path, family: IpFamily) -> Result<()> {
    let shared = if path == Path::Outside { 50 } else { 51 };
    expect_rejected(fixture, from, &[at(address(Vip::Cluster, shared, family), OTHER, OTHER)])?;
    let [unallocated, other] = unallocated(family);
    if path == Path::Outside {
        // the client itself has the other address
        let ip = if family == IpFamily::V4 { "10.96.200.2" } else { "fd00:10:96::c802" };
        return expect_dropped(fixture, from, "unallocated_address", &[at(ip.parse()?, 80, 53)]);
    }
    expect_answers_on_all(from, &[at(other, 80, 53)], 1, &["gateway"])?;
    expect_dropped(fixture, from, "unallocated_address", &[at(unallocated, 80, 53)])
}

fn left_alone(fixture: &ContractFixture, from: &dyn TrafficEndpoint, path: Path, family: IpFamily) -> Result<()> {
    if path != Path::Outside {
        let ip = address(Vip::Balancer, 51, family);
        expect_answers_on_all(from, &[target(Vip::Balancer, 51, family)], 3, &["web-1"])?;
        return expect_answers_on_all(from, &[at(ip, OTHER, OTHER)], 3, &["gateway"]);
    }
    let ip = address(Vip::Balancer, 50, family);
    expect_answers_on_all(from, &[target(Vip::Balancer, 50, family)], 40, &["web-1", "web-2"])?;
    expect_answers_on_all(from, &[at(ip, OTHER, OTHER)], 3, &["far"])?;
    // no machine on the link answers ARP or NDP for the address
    let ip = address(Vip::Balancer, 53, family);
    let Target { tcp, udp } = target(Vip::Balancer, 53, family);
    let unreachable = ["EHOSTUNREACH", "timeout"];
    expect_errors(from, &[(tcp, Protocol::Tcp, &unreachable), (udp, Protocol::Udp, &unreachable)])?;
    expect!(!has_neighbour(fixture, ip)?, "{ip} is resolved on the link");
    let node = fixture.node().address(family);
    expect!(has_neighbour(fixture, node)?, "{node} is not resolved on the link, so nothing is");
    Ok(())
}

/// Returns true if the client has resolved an address of its link, and false if it has tried.
fn has_neighbour(fixture: &ContractFixture, ip: IpAddr) -> Result<bool> {
    let neighbours = fixture.cluster.client.output(&["ip", "neigh", "show", &ip.to_string()])?;
    expect!(!neighbours.trim().is_empty(), "{ip} was not asked for");
    Ok(neighbours.contains("lladdr"))
}

fn source_ranges(fixture: &ContractFixture, from: &dyn TrafficEndpoint, path: Path, family: IpFamily) -> Result<()> {
    let balancer = |number| [target(Vip::Balancer, number, family)];
    let closed_to = |number| match path {
        // the hooks of a node refuse its own sockets
        Path::Node | Path::OtherNode => expect_rejected(fixture, from, &balancer(number)),
        Path::Pod | Path::Outside => expect_dropped(fixture, from, "source_range", &balancer(number)),
    };
    expect_answers_on_all(from, &balancer(54), 3, &["web-1"])?;
    closed_to(55)?;
    let (open, closed) = if family == IpFamily::V4 { (57, 56) } else { (56, 57) };
    expect_answers_on_all(from, &balancer(open), 3, &["web-1"])?;
    closed_to(closed)?;
    let others: Vec<_> = targets(path, 55, family).into_iter().filter(|t| t.tcp != balancer(55)[0].tcp).collect();
    expect_answers_on_all(from, &others, 3, &["web-1"])
}

fn node_port_addresses(fixture: &ContractFixture) {
    let second = |family| match family {
        IpFamily::V4 => "192.168.50.111".parse::<IpAddr>().unwrap(),
        IpFamily::V6 => "fd00:50::111".parse().unwrap(),
    };
    // must not be used as a source address
    let lines = IpFamily::BOTH.map(|family| {
        let (length, nodad) = if family == IpFamily::V4 { (24, "") } else { (64, "nodad") };
        format!("address add {}/{length} dev eth0 preferred_lft 0 {nodad}", second(family))
    });
    fixture.node().machine.ip(&lines).unwrap();
    fixture.settle();
    let listening = fixture.node().machine.output(&["ss", "-Hltun"]).unwrap();
    let primary = target(Vip::NodePort, 50, IpFamily::V4);
    let ports = [primary.tcp.port(), primary.udp.port()];
    let serve = |family| load::serve_at(&fixture.node().machine, STRANGER, &ports, &[second(family)]).unwrap();
    let _strangers = IpFamily::BOTH.map(serve);
    fixture.check_cells_in_parallel("2.3.13", |path, family| {
        for_each_client(&fixture.clients(path), |from| {
            let primary = target(Vip::NodePort, 50, family);
            expect_answers_on_all(from, &[primary], 40, &["web-1", "web-2"])?;
            expect_answers_on_all(from, &[at(second(family), ports[0], ports[1])], 3, &[STRANGER])?;
            let is_free = ports.iter().all(|port| !listening.contains(&format!(":{port} ")));
            expect!(is_free && listening.contains(":10256 "), "a socket listens on the node port: {listening}");
            Ok(())
        })
    });
}
