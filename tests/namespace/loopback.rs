//! Node ports at 127.0.0.1 and `::1`. Processes of the node reach them; pods and neighbours of the
//! node do not.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ropeway_tests::cluster::Shape;
use ropeway_tests::load::{self, TrafficEndpoint};
use ropeway_tests::peer::Protocol;
use ropeway_tests::pod::IpFamily;

use crate::fixture::{DNS, Fixture, HTTP};

/// The protocols of upstream's tests of local node ports, and UDP.
const PROTOCOLS: [Protocol; 4] = [Protocol::Tcp, Protocol::Http, Protocol::Udp, Protocol::UdpConnected];

const fn loopback(family: IpFamily) -> IpAddr {
    match family {
        IpFamily::V4 => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpFamily::V6 => IpAddr::V6(Ipv6Addr::LOCALHOST),
    }
}

fn node_port(at: IpAddr, protocol: Protocol) -> SocketAddr {
    let udp = matches!(protocol, Protocol::Udp | Protocol::UdpConnected);
    SocketAddr::new(at, if udp { DNS.node_port } else { HTTP.node_port })
}

fn refused(from: &dyn TrafficEndpoint, target: SocketAddr, protocol: Protocol) {
    let report = load::send_requests_with(from, target, protocol, 3, &["--timeout=300"]).unwrap();
    assert_eq!((report.ok, report.failed), (0, 3), "{} to {target} {protocol:?}: {report:?}", from.label());
}

#[test]
#[ignore = "needs root"]
fn node_processes_reach_node_ports_on_loopback() {
    let fixture = Fixture::new(Shape { nodes: 2, mtu: 1500 }, &[0]);
    let [near, far] = &fixture.cluster.nodes[..] else { panic!("two nodes") };
    let backend = &fixture.backends[0];
    for family in IpFamily::BOTH {
        for protocol in PROTOCOLS {
            let target = node_port(loopback(family), protocol);
            // with a local and with a remote backend: a packet with a loopback source could not
            // leave the node
            for node in [near, far] {
                let report = load::send_requests(&node.machine, target, protocol, 20).unwrap();
                let context = format!("{} to {target} {protocol:?}: {report:?}", node.name());
                assert_eq!((report.ok, report.failed), (20, 0), "{context}");
                let strange = |client: &&IpAddr| client.is_loopback() || fixture.client.addresses().contains(*client);
                assert_eq!(report.seen_as.iter().find(strange), None, "{context}");
            }
            // pods have a separate loopback, also on the backend's node
            refused(&fixture.client, target, protocol);
            refused(backend, target, protocol);
        }
    }
    // a server in the pod at the same address and port is reached there
    let server = load::serve_at(&fixture.client, "own", &[HTTP.node_port], &[loopback(IpFamily::V4)]).unwrap();
    let own = load::send_requests(&fixture.client, node_port(loopback(IpFamily::V4), Protocol::Tcp), Protocol::Tcp, 5)
        .unwrap();
    assert_eq!(own.by_server.get("own"), Some(&5), "{own:?}");
    drop(server);

    fixture.apply(&[]);
    fixture.cluster.await_backends("default/web", 0).unwrap();
    for family in IpFamily::BOTH {
        let report =
            load::send_requests(&near.machine, node_port(loopback(family), Protocol::Tcp), Protocol::Tcp, 3).unwrap();
        assert_eq!(report.errors.get("ECONNREFUSED"), Some(&3), "without backends: {report:?}");
    }
}

/// Guards against CVE-2020-8558: neighbours of a node could reach ports on its loopback addresses.
#[test]
#[ignore = "needs root"]
fn neighbours_cannot_reach_node_ports_on_loopback() {
    let fixture = Fixture::new(Shape { nodes: 1, mtu: 1500 }, &[0]);
    let node = &fixture.cluster.nodes[0];
    let client = &fixture.cluster.client;
    let via = node.address(IpFamily::V4);
    // the neighbour routes the loopback network to the link, so that its packets reach the node
    client.ip(&["addr del 127.0.0.1/8 dev lo", "rule add pref 1 to 127.0.0.1 lookup 100", "rule del pref 0"]).unwrap();
    client.ip(&[&format!("route add 127.0.0.1 via {via} table 100"), "rule add pref 9 lookup local"]).unwrap();
    let device = client.output(&["ip", "route", "get", &via.to_string()]).unwrap();
    let (_, after) = device.split_once(" dev ").unwrap();
    let device = after.split(' ').next().unwrap();
    client.output(&["sysctl", "-w", &format!("net.ipv4.conf.{device}.route_localnet=1")]).unwrap();
    let reached = load::send_requests(client, node.port(IpFamily::V4, HTTP.node_port), Protocol::Tcp, 3).unwrap();
    assert_eq!(reached.ok, 3, "the neighbour is well otherwise: {reached:?}");
    for protocol in PROTOCOLS {
        refused(client, node_port(loopback(IpFamily::V4), protocol), protocol);
    }
}
