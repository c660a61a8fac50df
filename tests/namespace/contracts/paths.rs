//! The clients of the columns: that each of them takes its path, by its sockets or by packets.

use std::net::SocketAddr;

use ropeway_tests::contracts::{Path, all_cells};
use ropeway_tests::load::TrafficEndpoint;
use ropeway_tests::peer::Protocol;
use ropeway_tests::pod::IpFamily;

use super::counters::translations;
use super::expect::expect_answers;
use super::fixture::{ContractFixture, Vip, first_target, ready, service, target, with_endpoints};

/// Connections to each target.
const COUNT: u64 = 4;

#[test]
#[ignore = "needs root"]
fn clients_of_each_column_take_its_path() {
    let fixture = ContractFixture::new();
    fixture.apply("web", &with_endpoints(service("web", 1), &[(&fixture.web[0], ready())]));
    let counts = |from: &dyn TrafficEndpoint, target: SocketAddr| {
        let before = translations(&fixture).unwrap();
        expect_answers(from, target, Protocol::Tcp, COUNT, &["web-1"]).unwrap();
        let after = translations(&fixture).unwrap();
        [after[0] - before[0], after[1] - before[1]]
    };
    for (path, family) in all_cells() {
        for from in fixture.clients(path) {
            let counted = counts(&from, first_target(path, 1, family).tcp);
            let by_packets = path == Path::Outside || from.label().ends_with("without socket hooks");
            let expected = if by_packets { [0, COUNT] } else { [COUNT, 0] };
            assert_eq!(counted, expected, "{path} {family:?} {}: by sockets, by packets", from.label());
        }
    }
    for family in IpFamily::BOTH {
        let counted = counts(&fixture.cluster.nodes[1].machine, target(Vip::NodePort, 1, family).tcp);
        assert_eq!(counted, [0, COUNT], "{family:?}, other node to the first node's port");
    }
    fixture.end();
}
