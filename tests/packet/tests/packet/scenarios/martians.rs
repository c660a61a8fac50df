//! Addresses that a packet cannot have where it arrived: sources from outside that are this node's,
//! its pods' or its Services', or that belong to another direction; loopback destinations.

use std::net::{IpAddr, SocketAddr};

use dataplane_common::types::event::DropReason;
use dataplane_common::types::pod::{AddressInfo, Network, NodeConfig, address_kind, network_flags, node_features};

use super::flow_ownership::translated_port;
use super::{
    BOTH_SETS, FROM_A, FROM_UPLINK, FamilyAddresses, HOST, TO_A, TO_B, TUNNEL, UPLINK, at, backend, config, expect,
    expect_drop, node, number, service,
};
use crate::frame::{Kind, frame, icmp_error};
use crate::testbed::{Action, Hook, Testbed};

const FROM_TUNNEL: (Hook, u32) = (Hook::FromUplink, TUNNEL);
pub(super) const KINDS: [Kind; 5] = [Kind::Syn, Kind::Ack, Kind::Rst, Kind::Udp, Kind::Sctp];

/// Number of the other node, and of a third one.
const OTHER: u32 = 12;
pub(super) const THIRD: u32 = 13;

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Fills a node with a range of Services, its own range of pods, and a remote range and a remote
/// node behind the tunnel.
pub(super) fn with_networks<T: Testbed>(t: &mut T) -> [FamilyAddresses; 2] {
    let families = node(t);
    t.put_config(NodeConfig { features: node_features::NETWORKS, tunnels: [TUNNEL, 0], ..config(&families) });
    for net in families {
        let [pods, services, host] = if net.a.is_ipv4() { [24, 16, 32] } else { [64, 112, 128] };
        let keep = network_flags::KEEP_SOURCE;
        t.put_network(
            net.a,
            pods,
            Network { oif: 0, flags: keep | network_flags::OWN | network_flags::LOCAL, node: 0 },
        );
        t.put_network(net.vip, services, Network { oif: 0, flags: network_flags::SERVICE, node: 0 });
        t.put_network(net.remote, pods, Network { oif: TUNNEL, flags: keep | network_flags::REMOTE, node: OTHER });
        t.put_network(net.other, host, Network { oif: TUNNEL, flags: keep | network_flags::NODE, node: OTHER });
    }
    families
}

/// Addresses that no packet from outside has as its source.
pub(super) fn martians(net: &FamilyAddresses) -> Vec<IpAddr> {
    let free = if net.a.is_ipv4() { ip("10.1.0.77") } else { ip("fd00:1::77") };
    let special: &[&str] = if net.a.is_ipv4() {
        &["0.0.0.0", "0.1.2.3", "127.0.0.1", "127.9.9.9", "224.0.0.1", "239.1.1.1", "255.255.255.255"]
    } else {
        &["::", "::1", "::10.1.0.2", "::ffff:10.1.0.2", "ff02::1", "ff0e::7"]
    };
    let own = [net.a, net.b, net.node, net.vip, net.free_vip, free];
    own.into_iter().chain(special.iter().map(|text| ip(text))).collect()
}

/// Expects that packets from `source` are dropped and open no flow, whatever they are sent to.
#[track_caller]
fn expect_martian<T: Testbed>(t: &mut T, hook: (Hook, u32), source: IpAddr, targets: &[SocketAddr]) {
    for target in targets {
        for kind in KINDS {
            let from = at(source, 40000);
            expect_drop(t, hook, frame(kind, from, *target), DropReason::Martian);
            assert_eq!(t.flow(from, *target, number(kind)), None, "{kind:?} {from} -> {target}");
        }
    }
}

pub(crate) fn source_of_this_node_is_not_believed_from_outside<T: Testbed>(t: &mut T) {
    for net in with_networks(t) {
        let (port, vip, to) = (at(net.node, 30080), at(net.vip, 80), at(net.b, 8080));
        service(t, port, to);
        service(t, vip, to);
        for source in martians(&net) {
            for hook in [FROM_UPLINK, FROM_TUNNEL] {
                expect_martian(t, hook, source, &[port, vip, to, at(net.node, 9), at(net.outside, 9)]);
            }
        }
        // The same packets from where they belong.
        expect(t, FROM_UPLINK, Kind::Syn, (at(net.outside, 50000), port), TO_B, (at(net.outside, 50000), to));
        expect(t, FROM_A, Kind::Syn, (at(net.a, 40000), vip), TO_B, (at(net.a, 40000), to));
    }
}

pub(crate) fn remote_pods_are_believed_from_their_direction_alone<T: Testbed>(t: &mut T) {
    for net in with_networks(t) {
        let (port, to) = (at(net.node, 30080), at(net.b, 8080));
        service(t, port, to);
        let unknown = if net.a.is_ipv4() { ip("10.3.0.1") } else { ip("fd00:3::1") };
        expect_martian(t, FROM_UPLINK, net.remote, &[port, to]);
        for source in [net.outside, unknown] {
            expect_martian(t, FROM_TUNNEL, source, &[port, to]);
        }
        // A remote pod, and a remote node, whose own packets to the node take no tunnel.
        for (hook, source) in [(FROM_TUNNEL, net.remote), (FROM_TUNNEL, net.other), (FROM_UPLINK, net.other)] {
            let from = at(source, if hook == FROM_UPLINK { 40001 } else { 40000 });
            for kind in [Kind::Syn, Kind::Udp] {
                expect(t, hook, kind, (from, to), TO_B, (from, to));
                // By the node port with another source port, apart from their direct connections.
                translated_port(t, hook, frame(kind, from, port), (from, to));
            }
        }
        // Remote pods reach further addresses of the node without the tunnel.
        let host = at(net.node, 10250);
        expect(t, FROM_UPLINK, Kind::Syn, (at(net.remote, 1), host), HOST, (at(net.remote, 1), host));
        // Neighbour discovery in the tunnel.
        if net.a.is_ipv6() {
            for to in [host, at(ip("fe80::11"), 1)] {
                let pair = (at(ip("fe80::12"), 1), to);
                expect(t, FROM_TUNNEL, Kind::Udp, pair, HOST, pair);
            }
            expect_martian(t, FROM_TUNNEL, ip("fe80::12"), &[port, to]);
        }
        // Pods of a node whose range is not known yet come by an uplink.
        expect(t, FROM_UPLINK, Kind::Syn, (at(unknown, 1), to), TO_B, (at(unknown, 1), to));
    }
}

/// A tenant names external addresses, so their owners must be believed as other machines are.
pub(crate) fn owner_of_an_external_address_is_believed<T: Testbed>(t: &mut T) {
    for net in node(t) {
        let external = AddressInfo { ifindex: 0, kind: address_kind::EXTERNAL, flags: 0, mac: [0; 6] };
        t.put_addr(net.outside, external);
        let (from, to) = (at(net.outside, 40000), at(net.b, 8080));
        expect(t, FROM_UPLINK, Kind::Syn, (from, to), TO_B, (from, to));
    }
}

/// A machine without an address asks for one, and the host's stack judges what goes to groups.
pub(crate) fn packets_to_groups_pass_to_the_host_stack<T: Testbed>(t: &mut T) {
    for net in with_networks(t) {
        let [none, groups] = if net.a.is_ipv4() {
            ["0.0.0.0", "255.255.255.255 224.0.0.18"]
        } else {
            ["::", "ff02::1:ff00:11 ff02::16"]
        };
        for group in groups.split(' ') {
            for source in [ip(none), net.node, net.outside] {
                let pair = (at(source, 68), at(ip(group), 67));
                expect(t, FROM_UPLINK, Kind::Udp, pair, HOST, pair);
            }
        }
    }
}

/// Replies of the node itself come through its stack, so that a packet from outside with the node's
/// address does not match their flow.
pub(crate) fn reply_flow_of_the_node_is_not_matched_from_outside<T: Testbed>(t: &mut T) {
    for net in node(t) {
        let (front, to, client) = (at(net.node, 30080), at(net.node, 8080), at(net.outside, 50000));
        service(t, front, to);
        let id = if front.is_ipv4() { 1 } else { 2 };
        t.put_backend(id, backend(to, BOTH_SETS, 1));
        expect(t, FROM_UPLINK, Kind::Syn, (client, front), HOST, (client, to));
        for kind in [Kind::SynAck, Kind::Ack, Kind::Rst] {
            expect_drop(t, FROM_UPLINK, frame(kind, to, client), DropReason::Martian);
        }
        expect(t, (Hook::ToUplink, UPLINK), Kind::SynAck, (to, client), HOST, (front, client));
    }
}

pub(crate) fn icmp_error_with_a_martian_source_is_not_translated<T: Testbed>(t: &mut T) {
    for net in node(t) {
        let (vip, to, client) = (at(net.vip, 80), at(net.remote, 8080), at(net.a, 40000));
        service(t, vip, to);
        expect(t, FROM_A, Kind::Syn, (client, vip), (Action::Redirect, UPLINK), (client, to));
        let sent = frame(Kind::Syn, client, to);
        for source in [net.b, net.node, net.vip] {
            expect_drop(t, FROM_UPLINK, icmp_error(source, net.a, &sent), DropReason::Martian);
        }
        let mut honest = icmp_error(net.outside, net.a, &sent);
        assert_eq!(t.run(FROM_UPLINK.0, FROM_UPLINK.1, &mut honest), TO_A.0);
    }
}

/// Node ports are also served at loopback addresses, for the node's own processes.
pub(crate) fn loopback_destination_is_dropped_at_every_device<T: Testbed>(t: &mut T) {
    for net in with_networks(t) {
        let internal: &[&str] =
            if net.a.is_ipv4() { &["127.0.0.1", "127.9.9.9"] } else { &["::1", "::ffff:127.0.0.1", "::ffff:10.1.0.3"] };
        for loopback in internal {
            let front = at(ip(loopback), 30080);
            service(t, front, at(net.b, 8080));
            for (hook, source) in [(FROM_UPLINK, net.outside), (FROM_TUNNEL, net.remote), (FROM_A, net.a)] {
                expect_martian(t, hook, source, &[front, at(front.ip(), 9)]);
            }
        }
    }
}

/// A promiscuous device, a flood of unknown unicast, a broadcast: the host's stack drops or takes
/// such frames and forwards none.
pub(crate) fn frame_for_another_machine_is_neither_served_nor_answered<T: Testbed>(t: &mut T) {
    for net in node(t) {
        let (port, vip, to, client) = (at(net.node, 30080), at(net.vip, 80), at(net.b, 8080), at(net.outside, 50000));
        service(t, port, to);
        service(t, vip, to);
        // Also a packet of a flow.
        expect(t, FROM_UPLINK, Kind::Syn, (client, port), TO_B, (client, to));
        for mac in [[2, 0, 0, 0, 0, 9], [0xff; 6], [0x33, 0x33, 0, 0, 0, 1]] {
            for target in [port, vip, to, at(net.vip, 81), at(net.free_vip, 1)] {
                for kind in KINDS {
                    let mut f = frame(kind, client, target);
                    f[..6].copy_from_slice(&mac);
                    let before = f.clone();
                    assert_eq!(
                        (t.run(FROM_UPLINK.0, FROM_UPLINK.1, &mut f), f),
                        (HOST.0, before),
                        "{kind:?} to {mac:?}"
                    );
                }
            }
        }
    }
}
