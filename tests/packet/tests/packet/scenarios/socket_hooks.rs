//! The socket hooks on the model: what a socket remembers, and for how long.
//!
//! On the model only: `BPF_PROG_TEST_RUN` has no sockets. The namespace tests cover the kernel; the
//! tests in `dataplane-common/src/path/socket/tests.rs` cover the choice without a memory.

use dataplane_common::types::address::{V4, V6};
use dataplane_common::types::pod::{NodeConfig, PodNetns};
use dataplane_common::types::service::{Frontend, FrontendKey, backend_state, proto};

use super::backend_removal::DRAINING;
use super::{BOTH_SETS, FROM_A, FamilyAddresses, POD_A, POD_B, TO_B, at, backend, config, expect, frontend, node};
use crate::frame::Kind;
use crate::model::{Connected, Model, Socket, Table};
use crate::testbed::{Testbed, octets};

const NODE_NETNS: u64 = 7;
const POD_NETNS: u64 = 8;
/// Timeout of the affinity, ticks.
const AFFINITY: u32 = 20;

/// A datagram socket of the node that is not connected.
const DATAGRAMS: Socket = Socket { cookie: 5, netns_cookie: NODE_NETNS, proto: proto::UDP, unconnected: true };
/// A stream socket of pod A.
const STREAM: Socket = Socket { cookie: 6, netns_cookie: POD_NETNS, proto: proto::TCP, unconnected: false };

/// Fills a node whose sockets and pod A the hooks know. Each family has a Service with two backends
/// and one slot, which leads to the first.
fn with_sockets(t: &mut Model, affinity_ticks: u32) -> [FamilyAddresses; 2] {
    let families = node(t);
    t.put_config(NodeConfig { netns_cookie: NODE_NETNS, ..config(&families) });
    let [v4, v6] = families;
    let (addr4, addr6) = (octets::<V4>(v4.a), octets::<V6>(v6.a));
    t.put_pod_netns(POD_NETNS, PodNetns { addr4, addr6, ifindex: POD_A });
    for net in families {
        let id = first_id(&net);
        for n in 0..2 {
            t.put_backend(id + n, backend(at(net.b, 8000 + n as u16), BOTH_SETS, 1));
        }
        t.put_slot(id, id);
        for proto in [proto::TCP, proto::UDP] {
            let front = Frontend { affinity_ticks, service_port: id, ..frontend(id, 1) };
            t.put_frontend(FrontendKey { addr: net.vip, port: 80, proto, pad: 0 }, front);
        }
    }
    families
}

fn first_id(net: &FamilyAddresses) -> u32 {
    if net.vip.is_ipv4() { 21 } else { 31 }
}

#[test]
fn host_unconnected_socket_stays_with_its_backend_while_that_takes_connections() {
    let t = &mut Model::default();
    for net in with_sockets(t, 0) {
        let (id, vip) = (first_id(&net), at(net.vip, 80));
        let [one, two] = [8000, 8001].map(|port| at(net.b, port));
        assert_eq!(t.connect(DATAGRAMS, vip), Connected::To(one));
        t.put_slot(id, id + 1);
        for _ in 0..3 {
            // No clock ends it.
            t.advance(1_000_000);
            assert_eq!(t.connect(DATAGRAMS, vip), Connected::To(one));
        }
        assert_eq!(t.connect(Socket { cookie: 50, ..DATAGRAMS }, vip), Connected::To(two), "another socket");
        assert_eq!((t.shown(5, one), t.shown(50, two)), (vip, vip));
        assert_eq!(t.shown(5, two), two, "the socket has sent nothing there");
    }
}

#[test]
fn host_unconnected_socket_leaves_a_backend_that_has_ended() {
    let t = &mut Model::default();
    for net in with_sockets(t, 0) {
        let (id, vip) = (first_id(&net), at(net.vip, 80));
        let [one, two, elsewhere] = [at(net.b, 8000), at(net.b, 8001), at(net.remote, 9)];
        for (cookie, (state, generation, at)) in (100..).zip([
            (DRAINING, 1, one),
            // Weight 0, and an endpoint of clients outside only.
            (backend_state::LISTED | backend_state::SERVING, 1, one),
            (backend_state::LISTED | backend_state::SERVING | backend_state::EXTERNAL, 1, one),
            // Ended; and its id in use for another Service.
            (0, 2, one),
            (BOTH_SETS, 2, elsewhere),
        ]) {
            t.put_backend(id, backend(one, BOTH_SETS, 1));
            t.put_slot(id, id);
            let socket = Socket { cookie, ..DATAGRAMS };
            assert_eq!(t.connect(socket, vip), Connected::To(one));
            t.put_slot(id, id + 1);
            t.put_backend(id, backend(at, state, generation));
            for _ in 0..2 {
                assert_eq!(t.connect(socket, vip), Connected::To(two), "state {state:#x}, generation {generation}");
            }
            assert_eq!(t.shown(cookie, two), vip);
        }
    }
}

/// Without the entry of its backend, a socket would see answers from an address that it does not
/// know. The packet path takes over.
#[test]
fn host_full_socket_table_leaves_the_address_unchanged() {
    let t = &mut Model::default();
    for net in with_sockets(t, 0) {
        let (vip, one) = (at(net.vip, 80), at(net.b, 8000));
        for (cookie, unconnected, room, connected) in [
            (200, false, 0, Connected::Unchanged),
            (201, false, 1, Connected::To(one)),
            (202, true, 0, Connected::Unchanged),
            (203, true, 1, Connected::Unchanged),
            (204, true, 2, Connected::To(one)),
        ] {
            t.limit(Table::SockPeers, Some(room));
            let socket = Socket { cookie, unconnected, ..DATAGRAMS };
            assert_eq!(t.connect(socket, vip), connected, "room for {room}");
        }
        // A host port needs one entry.
        let (front, pod) = (at(net.node, 8000), at(net.b, 80));
        t.put_host_port(FrontendKey { addr: net.node, port: 8000, proto: proto::UDP, pad: 0 }, pod, POD_B);
        for (cookie, room, connected) in [(210, 0, Connected::Unchanged), (211, 1, Connected::To(pod))] {
            t.limit(Table::SockPeers, Some(room));
            assert_eq!(t.connect(Socket { cookie, ..DATAGRAMS }, front), connected, "room for {room}");
        }
        t.limit(Table::SockPeers, None);
    }
}

/// A pod is one client, whether a hook or a packet program chooses.
#[test]
fn host_sockets_and_packets_of_a_pod_share_their_affinity() {
    let t = &mut Model::default();
    for net in with_sockets(t, AFFINITY) {
        let (id, vip) = (first_id(&net), at(net.vip, 80));
        let [one, two] = [8000, 8001].map(|port| at(net.b, port));
        assert_eq!(t.connect(STREAM, vip), Connected::To(one));
        t.put_slot(id, id + 1);
        t.advance(AFFINITY - 1);
        let client = at(net.a, 40000);
        expect(t, FROM_A, Kind::Syn, (client, vip), TO_B, (client, one));
        t.advance(AFFINITY - 1);
        assert_eq!(t.connect(STREAM, vip), Connected::To(one));
        t.advance(AFFINITY);
        assert_eq!(t.connect(STREAM, vip), Connected::To(two));
        let client = at(net.a, 40001);
        t.put_slot(id, id);
        expect(t, FROM_A, Kind::Syn, (client, vip), TO_B, (client, two));
    }
}

#[test]
fn host_socket_affinity_leaves_a_backend_without_new_connections() {
    let t = &mut Model::default();
    for net in with_sockets(t, AFFINITY) {
        let (id, vip) = (first_id(&net), at(net.vip, 80));
        let [one, two] = [8000, 8001].map(|port| at(net.b, port));
        assert_eq!(t.connect(STREAM, vip), Connected::To(one));
        t.put_slot(id, id + 1);
        // The table of the other side does not count for a pod.
        t.put_backend(id, backend(one, backend_state::EXTERNAL | backend_state::SERVING, 1));
        assert_eq!(t.connect(STREAM, vip), Connected::To(two));
    }
}
