//! A node with several ways out: replies, moved clients and routes of the host's stack.

use std::net::IpAddr;

use dataplane_common::types::pod::{MasqueradeSource, NodeConfig, node_features};
use dataplane_common::types::service::backend_state;

use super::{
    BOTH_SETS, DIALOGUES, FROM_A, FROM_B, FROM_UPLINK, HOST, OUT, SECOND_UPLINK, TO_A, TO_B, TUNNEL, UPLINK, at,
    backend, config, expect, node, service,
};
use crate::frame::{Kind, frame, verify};
use crate::model::Model;
use crate::testbed::{Action, Hook, Testbed, octets};

const FROM_SECOND: (Hook, u32) = (Hook::FromUplink, SECOND_UPLINK);
const SECOND: (Action, u32) = (Action::Redirect, SECOND_UPLINK);

pub(crate) fn reply_leaves_by_the_uplink_of_the_request<T: Testbed>(t: &mut T) {
    for net in node(t) {
        let (front, to) = (at(net.node, 30080), at(net.b, 8080));
        service(t, front, to);
        for (first, reply) in DIALOGUES {
            for (port, there, back) in [(50000, FROM_UPLINK, OUT), (50001, FROM_SECOND, SECOND)] {
                let client = at(net.outside, port);
                expect(t, there, first, (client, front), TO_B, (client, to));
                expect(t, FROM_B, reply, (to, client), back, (front, client));
            }
        }
    }
}

/// A client's packets may come by another uplink than before: the flow is not bound to one.
pub(crate) fn client_can_move_to_another_uplink<T: Testbed>(t: &mut T) {
    for net in node(t) {
        let (front, to, client) = (at(net.node, 30080), at(net.b, 8080), at(net.outside, 50000));
        service(t, front, to);
        for (first, reply) in DIALOGUES {
            let next = if first == Kind::Syn { Kind::Ack } else { first };
            expect(t, FROM_UPLINK, first, (client, front), TO_B, (client, to));
            expect(t, FROM_SECOND, next, (client, front), TO_B, (client, to));
            expect(t, FROM_B, reply, (to, client), OUT, (front, client));
        }
        // A pod's packets are bound to its device.
        let (vip, pod) = (at(net.vip, 80), at(net.a, 40000));
        service(t, vip, to);
        expect(t, FROM_A, Kind::Syn, (pod, vip), TO_B, (pod, to));
        let mut f = frame(Kind::Ack, pod, vip);
        assert_eq!(t.run(FROM_SECOND.0, FROM_SECOND.1, &mut f), Action::Drop);
    }
}

pub(crate) fn reply_to_a_masqueraded_pod_may_arrive_by_another_uplink<T: Testbed>(t: &mut T) {
    let families = node(t);
    t.put_config(NodeConfig { features: node_features::NETWORKS | node_features::MASQUERADE, ..config(&families) });
    for net in families {
        let (client, world) = (at(net.a, 40000), at(net.outside, 443));
        for (first, reply) in DIALOGUES {
            let mut f = frame(first, client, world);
            assert_eq!(t.run(FROM_A.0, FROM_A.1, &mut f), Action::Redirect);
            let from = verify(&f, 0).0;
            expect(t, FROM_SECOND, reply, (world, from), TO_A, (world, client));
        }
    }
}

/// Without a default device the host's stack routes. It would drop an IPv4 packet that arrives with
/// the node's own address as its source, so that one is redirected to the device of its route.
#[test]
fn host_route_decides_the_device_of_masqueraded_ipv4() {
    let t = &mut Model::default();
    let families = node(t);
    t.put_config(NodeConfig { uplink: 0, ..config(&families) });
    for net in families {
        let (front, to, client) = (at(net.node, 30080), at(net.remote, 8080), at(net.outside, 50000));
        service(t, front, to);
        t.put_route(net.remote, SECOND_UPLINK);
        for (first, reply) in DIALOGUES {
            let mut f = frame(first, client, front);
            let action = t.run(FROM_UPLINK.0, FROM_UPLINK.1, &mut f);
            let (from, dst) = verify(&f, 0);
            assert_eq!((from.ip(), dst), (net.node, to));
            let routed =
                if net.node.is_ipv4() { (Action::Redirect, Some(SECOND_UPLINK)) } else { (Action::Pass, None) };
            assert_eq!((action, t.target()), routed);
            expect(t, FROM_SECOND, reply, (to, from), OUT, (front, client));
        }
        // A pod keeps its address, so the host's stack routes its packets.
        let (vip, pod) = (at(net.vip, 80), at(net.a, 40000));
        service(t, vip, to);
        expect(t, FROM_A, Kind::Udp, (pod, vip), HOST, (pod, to));
    }
}

/// Two uplinks with an address each: what leaves by one has that one's address, and the tunnel has
/// the node's.
#[test]
fn masqueraded_ipv4_packet_has_the_address_of_its_device() {
    let t = &mut Model::default();
    let families = node(t);
    let features = node_features::NETWORKS | node_features::MASQUERADE;
    t.put_config(NodeConfig { uplink: 0, features, ..config(&families) });
    let [net, _] = families;
    let second = IpAddr::from([198, 51, 100, 9]);
    t.put_masquerade_source(SECOND_UPLINK, MasqueradeSource { addr4: octets(second), ..Default::default() });
    let world = at(net.outside, 443);
    for (device, address) in [(UPLINK, net.node), (SECOND_UPLINK, second), (TUNNEL, net.node)] {
        t.put_route(net.outside, device);
        for (port, (first, reply)) in (device * 10..).zip(DIALOGUES) {
            let client = at(net.a, 41000 + u16::try_from(port).unwrap());
            let mut f = frame(first, client, world);
            assert_eq!((t.run(FROM_A.0, FROM_A.1, &mut f), t.target()), (Action::Redirect, Some(device)));
            let from = verify(&f, 0).0;
            assert_eq!(from.ip(), address, "by device {device}");
            expect(t, FROM_SECOND, reply, (world, from), TO_A, (world, client));
        }
    }
}

/// A connected socket whose backend has ended: its datagram has passed the host's stack already.
#[test]
fn host_failover_leaves_by_the_route_to_the_backend() {
    const SOCKET: u64 = 9;
    let t = &mut Model::default();
    let families = node(t);
    t.put_config(NodeConfig { uplink: 0, ..config(&families) });
    for net in families {
        let (vip, own, dead, here) = (at(net.vip, 80), at(net.node, 40000), at(net.remote, 8080), at(net.other, 8080));
        service(t, vip, here);
        t.put_backend(if vip.is_ipv4() { 1 } else { 2 }, backend(here, BOTH_SETS | backend_state::REMOTE, 1));
        t.put_backend(7, backend(dead, 0, 5));
        t.put_sock_peer(SOCKET, dead, vip, (7, 4));
        t.put_route(net.other, SECOND_UPLINK);
        t.set_socket(SOCKET);
        expect(t, (Hook::ToUplink, UPLINK), Kind::Udp, (own, dead), SECOND, (own, here));
        t.set_socket(0);
        expect(t, FROM_SECOND, Kind::Udp, (here, own), HOST, (dead, own));
    }
}
