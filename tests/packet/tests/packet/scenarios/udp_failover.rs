//! Failover of connected UDP sockets of the node whose backend has ended.
//!
//! On the model only: `BPF_PROG_TEST_RUN` has no such socket. The namespace tests cover the kernel.

use std::net::SocketAddr;

use dataplane_common::types::event::DropReason;
use dataplane_common::types::service::{FrontendKey, backend_state, proto};

use super::{
    BOTH_SETS, FROM_B, FROM_UPLINK, FamilyAddresses, HOST, OUT, POD_B, TO_B, UPLINK, at, backend, expect, expect_drop,
    frontend, node, service,
};
use crate::frame::{Kind, frame};
use crate::model::Model;
use crate::testbed::{Hook, Testbed};

const OUT_OF_THE_NODE: (Hook, u32) = (Hook::ToUplink, UPLINK);
const INTO_A_POD: (Hook, u32) = (Hook::ToPod, POD_B);

const SOCKET: u64 = 9;
/// Id of the backend to which the socket was connected.
const ID: u32 = 7;
const GENERATION: u32 = 4;

/// Connects a socket of the node to a remote backend of `vip` that has ended since. Returns the
/// socket's address and the backend's.
fn connected(t: &mut Model, net: &FamilyAddresses, vip: SocketAddr) -> (SocketAddr, SocketAddr) {
    let (own, dead) = (at(net.node, 40000), at(net.remote, 8080));
    t.put_backend(ID, backend(dead, 0, GENERATION + 1));
    t.put_sock_peer(SOCKET, dead, vip, (ID, GENERATION));
    t.set_socket(SOCKET);
    (own, dead)
}

#[test]
fn host_connected_udp_leaves_a_removed_backend() {
    let t = &mut Model::default();
    for net in node(t) {
        let (vip, here) = (at(net.vip, 80), at(net.b, 8080));
        service(t, vip, here);
        let (own, dead) = connected(t, &net, vip);
        for hook in [OUT_OF_THE_NODE, OUT_OF_THE_NODE, INTO_A_POD] {
            expect(t, hook, Kind::Udp, (own, dead), TO_B, (own, here));
            assert_eq!(t.is_queued(), Some(true), "bpf_redirect_peer works at ingress only");
        }
        expect(t, FROM_B, Kind::Udp, (here, own), HOST, (dead, own));
        // The second backend ends too.
        let (id, there) = (if vip.is_ipv4() { 1 } else { 2 }, at(net.other, 8080));
        t.put_backend(id, backend(there, BOTH_SETS | backend_state::REMOTE, 2));
        expect(t, OUT_OF_THE_NODE, Kind::Udp, (own, dead), OUT, (own, there));
        expect(t, FROM_UPLINK, Kind::Udp, (there, own), HOST, (dead, own));
    }
}

#[test]
fn host_connected_udp_stays_with_a_serving_backend() {
    let t = &mut Model::default();
    for net in node(t) {
        let vip = at(net.vip, 80);
        service(t, vip, at(net.b, 8080));
        let (own, to) = connected(t, &net, vip);
        for state in [BOTH_SETS, backend_state::SERVING | backend_state::TERMINATING] {
            t.put_backend(ID, backend(to, state, GENERATION));
            expect(t, OUT_OF_THE_NODE, Kind::Udp, (own, to), HOST, (own, to));
        }
        // Terminating, and no longer serving.
        t.put_backend(ID, backend(to, backend_state::LISTED | backend_state::TERMINATING, GENERATION));
        expect(t, OUT_OF_THE_NODE, Kind::Udp, (own, to), TO_B, (own, at(net.b, 8080)));
    }
}

#[test]
fn host_other_traffic_to_a_removed_backend_is_not_translated() {
    let t = &mut Model::default();
    for net in node(t) {
        let vip = at(net.vip, 80);
        service(t, vip, at(net.b, 8080));
        let (own, dead) = connected(t, &net, vip);
        // The same socket with TCP or to another port, and other sockets.
        expect(t, OUT_OF_THE_NODE, Kind::Syn, (own, dead), HOST, (own, dead));
        expect(t, OUT_OF_THE_NODE, Kind::Udp, (own, at(net.remote, 8081)), HOST, (own, at(net.remote, 8081)));
        for socket in [0, SOCKET + 1] {
            t.set_socket(socket);
            expect(t, OUT_OF_THE_NODE, Kind::Udp, (own, dead), HOST, (own, dead));
        }
    }
}

#[test]
fn host_connected_udp_without_a_backend_is_dropped() {
    let t = &mut Model::default();
    for net in node(t) {
        let (own, dead) = connected(t, &net, at(net.free_vip, 80));
        expect_drop(t, OUT_OF_THE_NODE, frame(Kind::Udp, own, dead), DropReason::NoFrontend);
        let vip = at(net.vip, 80);
        connected(t, &net, vip);
        t.put_frontend(FrontendKey { addr: vip.ip(), port: vip.port(), proto: proto::UDP, pad: 0 }, frontend(1, 0));
        expect_drop(t, OUT_OF_THE_NODE, frame(Kind::Udp, own, dead), DropReason::NoBackend);
        // A backend on the node itself: a packet at egress cannot be delivered to the host.
        service(t, vip, at(net.node, 8080));
        expect_drop(t, OUT_OF_THE_NODE, frame(Kind::Udp, own, dead), DropReason::NoBackend);
    }
}
