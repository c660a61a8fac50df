//! Datagrams to the port of the tunnel: who may send them, and which packets may be in them.

use std::net::{IpAddr, SocketAddr};

use dataplane_common::types::event::DropReason;
use dataplane_common::types::pod::{Network, NodeConfig, TUNNEL_VNI, network_flags, node_features};

use super::martians::{KINDS, THIRD, ip, martians, with_networks};
use super::{
    FROM_A, FROM_UPLINK, FamilyAddresses, HOST, TUNNEL, at, config, expect, expect_drop, fragments, number, service,
};
use crate::frame::{Kind, frame, frame_of, with_extra_header};
use crate::testbed::Testbed;

/// Returns a VXLAN datagram (RFC 7348, section 5) with this frame in it.
pub(super) fn encapsulated((from, to): (SocketAddr, SocketAddr), network: u32, inner: &[u8]) -> Vec<u8> {
    let header = [&[8, 0, 0, 0][..], &(network << 8).to_be_bytes()].concat();
    frame_of(Kind::Udp, from, to, &[&header, inner].concat())
}

/// Whatever reaches the tunnel's port is unpacked by the host's stack, and its content believed.
pub(crate) fn tunnel_port_is_reached_by_nodes_alone<T: Testbed>(t: &mut T) {
    let families = with_networks(t);
    let features = node_features::NETWORKS;
    t.put_config(NodeConfig { features, tunnels: [TUNNEL, 0], tunnel_port: 4789, ..config(&families) });
    for net in families {
        let port = at(net.node, 4789);
        let gateway = if net.a.is_ipv4() { ip("169.254.1.1") } else { ip("fe80::1") };
        let group = if net.a.is_ipv4() { ip("224.0.0.1") } else { ip("ff02::1") };
        for to in [net.node, net.other, net.outside, gateway, group] {
            let f = frame(Kind::Udp, at(net.a, 40000), at(to, 4789));
            let (first, ..) = fragments(&f);
            expect_drop(t, FROM_A, f, DropReason::TunnelSender);
            expect_drop(t, FROM_A, first, DropReason::Spoofed);
        }
        expect_drop(t, FROM_UPLINK, frame(Kind::Udp, at(net.outside, 40000), port), DropReason::TunnelSender);
        let other_port = (at(net.outside, 40000), at(net.node, 4790));
        expect(t, FROM_UPLINK, Kind::Udp, other_port, HOST, other_port);
        let inner = frame(Kind::Syn, at(net.remote, 40000), at(net.a, 80));
        expect_encapsulated(t, net, &inner, None);
        expect(t, FROM_A, Kind::Syn, (at(net.a, 40000), port), HOST, (at(net.a, 40000), port));
        // A Service leads nobody there, neither by translation nor as the node.
        let (front, vip) = (at(net.node, 30080), at(net.vip, 80));
        for to in [net.other, net.node] {
            service(t, front, at(to, 4789));
            service(t, vip, at(to, 4789));
            for (hook, client, service) in [(FROM_UPLINK, net.outside, front), (FROM_A, net.a, vip)] {
                expect_drop(t, hook, frame(Kind::Udp, at(client, 40000), service), DropReason::TunnelSender);
                assert_eq!(t.flow(at(client, 40000), service, number(Kind::Udp)), None);
            }
        }
    }
}

/// Runs a datagram of the other node with this frame in the tunnel; expects that it is dropped for
/// this reason, or passes to the host's stack.
#[track_caller]
fn expect_encapsulated<T: Testbed>(t: &mut T, net: FamilyAddresses, inner: &[u8], reason: Option<DropReason>) {
    let outer = (at(net.other, 40000), at(net.node, 4789));
    for options in [0, 8] {
        let f = encapsulated(outer, TUNNEL_VNI, inner);
        let f = if options == 0 { f } else { with_extra_header(&f, 60, &[u8::from(net.a.is_ipv4()); 8]) };
        match reason {
            Some(reason) => expect_drop(t, FROM_UPLINK, f, reason),
            None => expect_passes(t, f),
        }
    }
    assert_eq!(t.flow(outer.0, outer.1, number(Kind::Udp)), None);
}

#[track_caller]
fn expect_passes<T: Testbed>(t: &mut T, mut f: Vec<u8>) {
    let before = f.clone();
    assert_eq!((t.run(FROM_UPLINK.0, FROM_UPLINK.1, &mut f), f), (HOST.0, before));
}

/// F3: a node that leads one range, or a process on it, sends with the addresses of others.
pub(crate) fn inner_source_in_the_tunnel_is_of_the_sending_node<T: Testbed>(t: &mut T) {
    let families = with_networks(t);
    let features = node_features::NETWORKS;
    t.put_config(NodeConfig { features, tunnels: [TUNNEL, 0], tunnel_port: 4789, ..config(&families) });
    let third = |v4: bool| ip(if v4 { "10.3.0.1" } else { "fd00:3::1" });
    for net in families {
        let third = third(net.a.is_ipv4());
        let bits = if net.a.is_ipv4() { 24 } else { 64 };
        t.put_network(third, bits, Network { oif: TUNNEL, flags: network_flags::REMOTE, node: THIRD });
    }
    for net in families {
        // The families of outer and inner packet are independent.
        for inner in families {
            let third = third(inner.a.is_ipv4());
            for kind in KINDS {
                let sent = |from: IpAddr| frame(kind, at(from, 40000), at(inner.a, 80));
                for source in [inner.remote, inner.other] {
                    expect_encapsulated(t, net, &sent(source), None);
                }
                // Without an address, as for duplicate address detection: the device of the tunnel
                // judges that.
                let silent = |source: &IpAddr| source.is_ipv4() || !source.is_unspecified();
                for source in [third, inner.outside].into_iter().chain(martians(&inner)).filter(silent) {
                    expect_encapsulated(t, net, &sent(source), Some(DropReason::Martian));
                }
            }
            let honest = frame(Kind::Udp, at(inner.remote, 40000), at(inner.a, 80));
            // Frames that nodes never send: not IP, or with a tag.
            for kind in [[8, 6], [0x81, 0], [0x88, 0xa8], [0, 60]] {
                let mut f = honest.clone();
                f[12..14].copy_from_slice(&kind);
                expect_encapsulated(t, net, &f, Some(DropReason::TunnelSender));
            }
            for length in [0, 13, 20, 25] {
                expect_encapsulated(t, net, &honest[..length], Some(DropReason::Malformed));
            }
            let outer = (at(net.other, 40000), at(net.node, 4789));
            // Another program's network at the same port.
            expect_passes(t, encapsulated(outer, TUNNEL_VNI + 1, &frame(Kind::Udp, at(third, 1), at(inner.a, 2))));
            // A first fragment holds all headers; without it the later ones are not reassembled.
            let [(first, later), (forged, _)] = [inner.remote, third].map(|source| {
                let (first, later, _) =
                    fragments(&encapsulated(outer, TUNNEL_VNI, &frame(Kind::Udp, at(source, 1), at(inner.a, 2))));
                (first, later)
            });
            let headers = first.len() - honest.len() + 25;
            expect_drop(t, FROM_UPLINK, first[..headers].to_vec(), DropReason::Malformed);
            expect_drop(t, FROM_UPLINK, forged, DropReason::Martian);
            expect_passes(t, first);
            expect_passes(t, later);
        }
    }
}
