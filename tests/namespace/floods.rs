//! More new flows from one pod than the flow table holds: connections of others hold.

use ropeway_tests::cluster::{Cluster, Shape};
use ropeway_tests::load::{self, PersistentLoad};
use ropeway_tests::peer::Protocol;
use ropeway_tests::pod::IpFamily;
use ropeway_tests::view;

use crate::fixture::{DNS, Fixture, HTTP, cluster_ip};

/// A table of 4,096 connections, of which those beyond the budgets of pods take 512.
const SMALL_TABLE: [&str; 1] = ["--max-flows=8192"];
/// Two and a half times the table.
const FLOOD: u64 = 10_000;
const HELD: usize = 20;

/// The flood is questions by connected UDP sockets, which no hook translates. Nearly all are
/// answered: a flow of the flood lasts until 512 newer ones have come.
#[test]
#[ignore = "needs root"]
fn flood_of_a_pod_ends_no_connection_of_others() {
    let mut cluster = Cluster::network(Shape { nodes: 1, mtu: 1500 }).unwrap();
    cluster.start_agents_with(&SMALL_TABLE).unwrap();
    let mut fixture = Fixture::of(cluster, &[0]);
    for is_alive in [true, false] {
        if !is_alive {
            fixture.cluster.nodes[0].kill_agent().unwrap();
        }
        for family in IpFamily::BOTH {
            let node = &fixture.cluster.nodes[0];
            let front = node.port(family, HTTP.node_port);
            let held = PersistentLoad::open(&fixture.cluster.client, front, HELD).unwrap();
            let before = view::events(&node.machine, "surplus_flow").unwrap();
            let target = (cluster_ip(family), DNS.port).into();
            let flags = ["--parallel=4"];
            let report =
                load::send_requests_with(&fixture.client, target, Protocol::UdpConnected, FLOOD, &flags).unwrap();
            assert!(report.ok > FLOOD * 9 / 10, "{family:?}, agent {is_alive}: {report:?}");
            let surplus = view::events(&node.machine, "surplus_flow").unwrap() - before;
            assert!(surplus > FLOOD / 2, "{family:?}, agent {is_alive}: {surplus} flows were surplus");
            let report = held.release().unwrap();
            assert_eq!((report.established, report.lost.len()), (HELD as u64, 0), "{family:?}: {report:?}");
        }
    }
}
