//! More connections than there are ports for source translation.
//!
//! The backend is on another node, so that each connection by a node port takes a port of the node.

use std::time::Duration;

use ropeway_tests::cluster::Shape;
use ropeway_tests::load;
use ropeway_tests::manifest::{Port, service, slices};
use ropeway_tests::peer::Protocol;
use ropeway_tests::pod::IpFamily;
use ropeway_tests::{view, wait};

use crate::fixture::{Fixture, TARGET, cluster_ip, endpoints};

/// Two ports with the same backend: the client has not enough ports of its own for one.
const PORTS: [Port<'static>; 2] =
    [Port::tcp("one", 80).with_node_port(30080), Port::tcp("two", 81).with_node_port(30081)];
/// Connections by each of them. Together more than the 25,904 ports.
const EACH: u64 = 15_000;
/// At most 2,000 connections a second: a port comes back six seconds after its connection has
/// closed.
const LOAD: [&str; 2] = ["--parallel=4", "--rate=500"];

/// Nobody but the packet path takes back ports, because the agent is dead.
#[test]
#[ignore = "needs root"]
fn connections_beyond_the_port_pool_succeed_without_agent() {
    let mut fixture = Fixture::new(Shape { nodes: 2, mtu: 1500 }, &[1]);
    let ips = IpFamily::BOTH.map(cluster_ip);
    let backend = endpoints(&[(&fixture.backends[0], true)]);
    let objects = [vec![service("web", &ips, &PORTS)], slices("web", &PORTS, TARGET, &backend)].concat();
    fixture.cluster.apply("web", &objects).unwrap();
    let node = &mut fixture.cluster.nodes[0];
    wait::until_true("both ports are served", Duration::from_secs(10), || {
        let served = |port| load::send_requests(&fixture.client, node.port(IpFamily::V4, port), Protocol::Tcp, 1);
        PORTS.iter().all(|port| served(port.node_port).is_ok_and(|report| report.ok == 1))
    })
    .unwrap();
    node.kill_agent().unwrap();
    for port in PORTS {
        let target = node.port(IpFamily::V4, port.node_port);
        let report = load::send_requests_with(&fixture.cluster.client, target, Protocol::Tcp, EACH, &LOAD).unwrap();
        assert_eq!((report.ok, report.failed), (EACH, 0), "{}: {report:?}", port.name);
    }
    assert_eq!(view::drops(&node.machine, "snat_ports_exhausted").unwrap(), 0);
}
