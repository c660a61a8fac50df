//! Failover of connected UDP sockets of the node whose backend has ended.
//!
//! On the model only: `BPF_PROG_TEST_RUN` has no such socket. The namespace tests cover the kernel.

use std::net::SocketAddr;

use dataplane_common::types::event::DropReason;
use dataplane_common::types::service::{FrontendKey, backend_state, proto};

use super::{
    BOTH_SETS, FROM_B, FROM_UPLINK, HOST, Net, OUT, POD_B, TO_B, UPLINK, at, backend, expect, expect_drop, frontend,
    node, service,
};
use crate::frame::{Kind, frame};
use crate::model::Model;
use crate::world::{Hook, World};

const OUT_OF_THE_NODE: (Hook, u32) = (Hook::ToUplink, UPLINK);
const INTO_A_POD: (Hook, u32) = (Hook::ToPod, POD_B);

const SOCKET: u64 = 9;
/// Id of the backend to which the socket was connected.
const ID: u32 = 7;
const GENERATION: u32 = 4;

/// Connects a socket of the node to a remote backend of `vip` that has ended since. Returns the
/// socket's address and the backend's.
fn connected(w: &mut Model, net: &Net, vip: SocketAddr) -> (SocketAddr, SocketAddr) {
    let (own, dead) = (at(net.node, 40000), at(net.remote, 8080));
    w.put_backend(ID, backend(dead, 0, GENERATION + 1));
    w.connect(SOCKET, dead, vip, (ID, GENERATION));
    w.set_socket(SOCKET);
    (own, dead)
}

#[test]
fn host_connected_udp_leaves_a_removed_backend() {
    let w = &mut Model::default();
    for net in node(w) {
        let (vip, here) = (at(net.vip, 80), at(net.b, 8080));
        service(w, vip, here);
        let (own, dead) = connected(w, &net, vip);
        for hook in [OUT_OF_THE_NODE, OUT_OF_THE_NODE, INTO_A_POD] {
            expect(w, hook, Kind::Udp, (own, dead), TO_B, (own, here));
            assert_eq!(w.is_queued(), Some(true), "bpf_redirect_peer works at ingress only");
        }
        expect(w, FROM_B, Kind::Udp, (here, own), HOST, (dead, own));
        // The second backend ends too.
        let (id, there) = (if vip.is_ipv4() { 1 } else { 2 }, at(net.other, 8080));
        w.put_backend(id, backend(there, BOTH_SETS | backend_state::REMOTE, 2));
        expect(w, OUT_OF_THE_NODE, Kind::Udp, (own, dead), OUT, (own, there));
        expect(w, FROM_UPLINK, Kind::Udp, (there, own), HOST, (dead, own));
    }
}

#[test]
fn host_connected_udp_stays_with_a_serving_backend() {
    let w = &mut Model::default();
    for net in node(w) {
        let vip = at(net.vip, 80);
        service(w, vip, at(net.b, 8080));
        let (own, to) = connected(w, &net, vip);
        for state in [BOTH_SETS, backend_state::SERVING | backend_state::TERMINATING] {
            w.put_backend(ID, backend(to, state, GENERATION));
            expect(w, OUT_OF_THE_NODE, Kind::Udp, (own, to), HOST, (own, to));
        }
        // Terminating, and no longer serving.
        w.put_backend(ID, backend(to, backend_state::LISTED | backend_state::TERMINATING, GENERATION));
        expect(w, OUT_OF_THE_NODE, Kind::Udp, (own, to), TO_B, (own, at(net.b, 8080)));
    }
}

#[test]
fn host_other_traffic_to_a_removed_backend_is_not_translated() {
    let w = &mut Model::default();
    for net in node(w) {
        let vip = at(net.vip, 80);
        service(w, vip, at(net.b, 8080));
        let (own, dead) = connected(w, &net, vip);
        // The same socket with TCP or to another port, and other sockets.
        expect(w, OUT_OF_THE_NODE, Kind::Syn, (own, dead), HOST, (own, dead));
        expect(w, OUT_OF_THE_NODE, Kind::Udp, (own, at(net.remote, 8081)), HOST, (own, at(net.remote, 8081)));
        for socket in [0, SOCKET + 1] {
            w.set_socket(socket);
            expect(w, OUT_OF_THE_NODE, Kind::Udp, (own, dead), HOST, (own, dead));
        }
    }
}

#[test]
fn host_connected_udp_without_a_backend_is_dropped() {
    let w = &mut Model::default();
    for net in node(w) {
        let (own, dead) = connected(w, &net, at(net.free_vip, 80));
        expect_drop(w, OUT_OF_THE_NODE, frame(Kind::Udp, own, dead), DropReason::NoFrontend);
        let vip = at(net.vip, 80);
        connected(w, &net, vip);
        w.put_frontend(FrontendKey { addr: vip.ip(), port: vip.port(), proto: proto::UDP, pad: 0 }, frontend(1, 0));
        expect_drop(w, OUT_OF_THE_NODE, frame(Kind::Udp, own, dead), DropReason::NoBackend);
        // A backend on the node itself: a packet at egress cannot be delivered to the host.
        service(w, vip, at(net.node, 8080));
        expect_drop(w, OUT_OF_THE_NODE, frame(Kind::Udp, own, dead), DropReason::NoBackend);
    }
}
