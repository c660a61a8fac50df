//! 2.3, second half: who reaches which addresses and ports.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, ensure};
use ropeway_tests::contracts::Path;
use ropeway_tests::load::{self, Place};
use ropeway_tests::pod::Family;
use ropeway_tests::process::Process;
use ropeway_tests::view;
use serde_json::{Value, json};

use super::expect::{all_answered, each, refused, silent, unserved};
use super::world::{Target, Vip, World, address, backed, far_port, ready, service, service_with, target, targets};

/// A port that no Service has.
const OTHER: u16 = 9999;
/// Where the health check of the Service without node ports is.
const CHECK: u16 = 32059;

#[test]
fn section_2_3_reach() {
    let world = World::new();
    let [here, there, _] = &world.web;
    let far = |zone: &str| {
        let mut with = ready();
        with["hints"] = json!({"forZones": [{"name": zone}]});
        with
    };
    let objects = [
        backed(service("web", 50), &[(here, ready()), (there, ready())]),
        backed(service("balanced", 51), &[(here, ready())]),
        backed(service("on-link", 53), &[(here, ready())]),
        backed(service("elsewhere", 60), &[(here, far("c")), (there, far("d"))]),
        backed(without_node_ports(), &[(here, ready())]),
        backed(ranged("open", 54, &everybody(&world)), &[(here, ready())]),
        backed(ranged("closed", 55, &["192.0.2.0/24".to_owned(), " 2001:db8:99::/64 ".to_owned()]), &[(here, ready())]),
        backed(ranged("closed-four", 56, &["192.0.2.0/24".to_owned()]), &[(here, ready())]),
        backed(ranged("closed-six", 57, &["2001:db8:99::/64".to_owned()]), &[(here, ready())]),
    ];
    world.apply("reach", &objects.concat());
    world.every("2.3.8", |path, family| {
        let target = target(Vip::Cluster, 50, family);
        each(&world.clients(path), |from| all_answered(from, &[target], 40, &["web-1", "web-2"]))
    });
    let gateway = gateway(&world);
    world.each("2.3.9", |path, family| each(&world.clients(path), |from| nowhere(&world, from, path, family)));
    world.every("2.3.10", |path, family| each(&world.clients(path), |from| left_alone(&world, from, path, family)));
    drop(gateway);
    world.every("2.3.11", |path, family| each(&world.clients(path), |from| source_ranges(from, path, family)));
    world.every("2.3.12", |path, family| {
        each(&world.clients(path), |from| {
            all_answered(from, &[target(Vip::Balancer, 59, family)], 5, &["web-1"])?;
            let health = load::fetch(from, world.node().port(family, CHECK), "/")?;
            ensure!(health.contains(r#""serviceProxyHealthy":true"#), "{health}");
            unserved(from, &[target(Vip::NodePort, 59, family)])
        })
    });
    node_port_addresses(&world);
    world.every("2.3.14", |path, family| {
        each(&world.clients(path), |from| {
            // a process has the other node's port as anybody has it
            all_answered(from, &[far_port(50, family), target(Vip::NodePort, 50, family)], 40, &["web-1", "web-2"])?;
            all_answered(from, &targets(path, 60, family)[..1], 40, &["web-1", "web-2"])
        })
    });
    world.end();
}

/// Every client of every path, with spaces around.
fn everybody(world: &World) -> Vec<String> {
    let clients = Path::ALL.into_iter().flat_map(|path| world.clients(path));
    let addresses = clients.flat_map(|client| Family::BOTH.map(|family| client.address(family)));
    addresses.map(|address| format!(" {address}/{} ", if address.is_ipv4() { 32 } else { 128 })).collect()
}

fn ranged(name: &str, number: u16, ranges: &[String]) -> Value {
    service_with(name, number, &[("loadBalancerSourceRanges", json!(ranges))])
}

fn without_node_ports() -> Value {
    let spec = [
        ("allocateLoadBalancerNodePorts", json!(false)),
        ("externalTrafficPolicy", json!("Local")),
        ("healthCheckNodePort", json!(CHECK)),
    ];
    let mut service = service_with("bare", 59, &spec);
    for port in service["spec"]["ports"].as_array_mut().unwrap() {
        port.as_object_mut().unwrap().remove("nodePort");
    }
    service
}

/// An address of the Services' range that no Service has, and one of another range: the machine that is everybody's gateway has both (and a
/// cluster IP), so whoever lets such a packet out is answered.
fn unallocated(family: Family) -> [IpAddr; 2] {
    match family {
        Family::V4 => ["10.96.200.1", "192.0.2.1"],
        Family::V6 => ["fd00:10:96::c801", "2001:db8:2::1"],
    }
    .map(|text| text.parse().unwrap())
}

fn gateway(world: &World) -> Vec<Process> {
    let client = &world.cluster.client;
    let [first, second] = &world.cluster.nodes[..] else { panic!("two nodes") };
    let mut servers = Vec::new();
    for family in Family::BOTH {
        let (length, nodad) = if family == Family::V4 { (32, "") } else { (128, "nodad") };
        let own =
            unallocated(family).into_iter().chain([Vip::Cluster, Vip::Balancer].map(|vip| address(vip, 51, family)));
        for ip in own {
            client.ip(&[format!("address add {ip}/{length} dev lo {nodad}")]).unwrap();
            servers.push(load::serve_at(client, "gateway", &[80, 53, OTHER], Some(ip)).unwrap());
        }
        // one more load-balancer IP is the other node's, which the first one forwards to
        let far = address(Vip::Balancer, 50, family);
        second.space.ip(&[format!("address add {far}/{length} dev lo {nodad}")]).unwrap();
        first.space.ip(&[format!("route add {far}/{length} via {}", second.address(family))]).unwrap();
        servers.push(load::serve_at(&second.space, "far", &[OTHER], Some(far)).unwrap());
        // and one is asked for on the link
        client.ip(&[format!("route add {}/{length} dev eth0", address(Vip::Balancer, 53, family))]).unwrap();
    }
    world.settle();
    servers
}

fn at(ip: IpAddr, tcp: u16, udp: u16) -> Target {
    Target { tcp: SocketAddr::new(ip, tcp), udp: SocketAddr::new(ip, udp) }
}

fn nowhere(world: &World, from: &dyn Place, path: Path, family: Family) -> Result<()> {
    let shared = if path == Path::Outside { 50 } else { 51 };
    refused(from, &[at(address(Vip::Cluster, shared, family), OTHER, OTHER)])?;
    let [unallocated, other] = unallocated(family);
    if path == Path::Outside {
        let before = view::drops(&world.node().space, "unallocated_address")?;
        let ip = if family == Family::V4 { "10.96.200.2" } else { "fd00:10:96::c802" };
        silent(from, &[at(ip.parse()?, 80, 53)])?;
        let dropped = view::drops(&world.node().space, "unallocated_address")? - before;
        ensure!(dropped >= 3, "only {dropped} packets were dropped");
        return Ok(());
    }
    all_answered(from, &[at(other, 80, 53)], 1, &["gateway"])?;
    unserved(from, &[at(unallocated, 80, 53)])
}

fn left_alone(world: &World, from: &dyn Place, path: Path, family: Family) -> Result<()> {
    if path != Path::Outside {
        let ip = address(Vip::Balancer, 51, family);
        all_answered(from, &[target(Vip::Balancer, 51, family)], 3, &["web-1"])?;
        return all_answered(from, &[at(ip, OTHER, OTHER)], 3, &["gateway"]);
    }
    let ip = address(Vip::Balancer, 50, family);
    all_answered(from, &[target(Vip::Balancer, 50, family)], 40, &["web-1", "web-2"])?;
    all_answered(from, &[at(ip, OTHER, OTHER)], 3, &["far"])?;
    // nobody says on the link that it has the address
    let ip = address(Vip::Balancer, 53, family);
    unserved(from, &[target(Vip::Balancer, 53, family)])?;
    let neighbours = world.cluster.client.output(&["ip", "neigh", "show", &ip.to_string()])?;
    ensure!(!neighbours.trim().is_empty() && !neighbours.contains("lladdr"), "{ip}: {neighbours}");
    Ok(())
}

fn source_ranges(from: &dyn Place, path: Path, family: Family) -> Result<()> {
    let balancer = |number| [target(Vip::Balancer, number, family)];
    all_answered(from, &balancer(54), 3, &["web-1"])?;
    unserved(from, &balancer(55))?;
    let (open, closed) = if family == Family::V4 { (57, 56) } else { (56, 57) };
    all_answered(from, &balancer(open), 3, &["web-1"])?;
    unserved(from, &balancer(closed))?;
    let others: Vec<_> = targets(path, 55, family).into_iter().filter(|t| t.tcp != balancer(55)[0].tcp).collect();
    all_answered(from, &others, 3, &["web-1"])
}

fn node_port_addresses(world: &World) {
    let second = |family| match family {
        Family::V4 => "192.168.50.111".parse::<IpAddr>().unwrap(),
        Family::V6 => "fd00:50::111".parse().unwrap(),
    };
    // not to be used as a source
    let lines = Family::BOTH.map(|family| {
        let (length, nodad) = if family == Family::V4 { (24, "") } else { (64, "nodad") };
        format!("address add {}/{length} dev eth0 preferred_lft 0 {nodad}", second(family))
    });
    world.node().space.ip(&lines).unwrap();
    world.settle();
    let listening = world.node().space.output(&["ss", "-Hltun"]).unwrap();
    world.every("2.3.13", |path, family| {
        each(&world.clients(path), |from| {
            let primary = target(Vip::NodePort, 50, family);
            all_answered(from, &[primary], 40, &["web-1", "web-2"])?;
            unserved(from, &[at(second(family), primary.tcp.port(), primary.udp.port())])?;
            ensure!(!listening.contains(&format!(":{}", primary.tcp.port())), "somebody listens: {listening}");
            Ok(())
        })
    });
}
