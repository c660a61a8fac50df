//! The scenarios of the packet tests: basic paths, and the node that all scenarios share.
//!
//! The node has two pods, an uplink and a tunnel. Every scenario runs for IPv4 and IPv6, on the
//! model and in the kernel (`both!` in `main.rs`). Scenarios of one subject have a file of their
//! own in `scenarios/`.

mod affinity;
mod backend_removal;
mod bandwidth;
mod connection_counts;
mod flow_ownership;
mod flow_share;
mod forged;
mod forged_segments;
mod headers;
mod interleavings;
mod martians;
mod masquerade;
mod node_client;
mod policy;
mod reject;
mod schedulers;
mod sctp;
mod socket_hooks;
mod tables;
mod timeouts;
mod tunnel;
mod udp_failover;
mod uplinks;

use std::net::{IpAddr, SocketAddr};

use dataplane_common::types::address::{Address, V4, V6};
use dataplane_common::types::event::DropReason;
use dataplane_common::types::pod::{AddressInfo, NodeConfig, Pod, address_kind, node_features, pod_flags};
use dataplane_common::types::service::{Backend, Frontend, FrontendKey, SlotTable, backend_state, proto};

use crate::frame::{Kind, frame, ttl, verify, with_extra_header};
use crate::testbed::{Action, Hook, Testbed, octets};

pub(crate) use affinity::*;
pub(crate) use backend_removal::*;
pub(crate) use bandwidth::*;
pub(crate) use connection_counts::*;
pub(crate) use flow_ownership::*;
pub(crate) use flow_share::*;
pub(crate) use forged::*;
pub(crate) use forged_segments::*;
pub(crate) use headers::*;
pub(crate) use martians::*;
pub(crate) use masquerade::*;
pub(crate) use node_client::*;
pub(crate) use policy::*;
pub(crate) use reject::*;
pub(crate) use schedulers::*;
pub(crate) use sctp::*;
pub(crate) use tables::*;
pub(crate) use timeouts::*;
pub(crate) use tunnel::*;
pub(crate) use uplinks::*;

pub(crate) const POD_A: u32 = 2;
pub(crate) const POD_B: u32 = 3;
pub(crate) const UPLINK: u32 = 20;
pub(crate) const TUNNEL: u32 = 21;
pub(crate) const SECOND_UPLINK: u32 = 22;
/// Interface indexes of the devices that must exist in the kernel's namespace.
pub(crate) const DEVICES: [u32; 5] = [POD_A, POD_B, UPLINK, TUNNEL, SECOND_UPLINK];

const SNAT_MIN: u16 = 61000;
const SNAT_MAX: u16 = 65535;
const IDLE_TICKS: u32 = 100_000;
/// Pause that ends an unreplied UDP exchange, and the longest one of an assured flow, in ticks.
const UNREPLIED: u32 = 2;
const ASSURED: u32 = 8;

/// The addresses of the scenarios, for one family.
#[derive(Clone, Copy)]
struct FamilyAddresses {
    a: IpAddr,
    b: IpAddr,
    remote: IpAddr,
    node: IpAddr,
    vip: IpAddr,
    outside: IpAddr,
    /// An address in the range of cluster IPs that no Service has.
    free_vip: IpAddr,
    /// An external address, or another host.
    other: IpAddr,
}

const ADDRESSES: [[&str; 8]; 2] = [
    ["10.1.0.2", "10.1.0.3", "10.2.0.9", "192.168.50.11", "10.96.0.10", "192.168.50.1", "10.96.7.7", "198.51.100.7"],
    ["fd00:1::2", "fd00:1::3", "fd00:2::9", "fd00:50::11", "fd00:96::a", "fd00:50::1", "fd00:96::7", "2001:db8::7"],
];

fn addresses() -> [FamilyAddresses; 2] {
    ADDRESSES.map(|n| {
        let [a, b, remote, node, vip, outside, free_vip, other] = n.map(|s| s.parse().unwrap());
        FamilyAddresses { a, b, remote, node, vip, outside, free_vip, other }
    })
}

fn at(ip: IpAddr, port: u16) -> SocketAddr {
    (ip, port).into()
}

fn number(kind: Kind) -> u8 {
    match kind {
        Kind::Udp => proto::UDP,
        Kind::Sctp => proto::SCTP,
        _ => proto::TCP,
    }
}

/// Returns the node's configuration without optional features.
fn config([v4, v6]: &[FamilyAddresses; 2]) -> NodeConfig {
    NodeConfig {
        node4: octets(v4.node),
        node6: octets(v6.node),
        uplink: UPLINK,
        snat_port_min: SNAT_MIN,
        snat_port_max: SNAT_MAX,
        udp_ticks: IDLE_TICKS,
        tcp_ticks: IDLE_TICKS,
        closing_ticks: IDLE_TICKS,
        unreplied_ticks: UNREPLIED as u16,
        assured_ticks: ASSURED as u16,
        ..NodeConfig::default()
    }
}

fn pod(netns_cookie: u64, addr4: IpAddr, addr6: IpAddr) -> Pod {
    Pod {
        netns_cookie,
        addr4: octets::<V4>(addr4),
        addr6: octets::<V6>(addr6),
        mac: [2, 0, 0, 0, 0, 1],
        host_mac: [0xee; 6],
        flags: pod_flags::PRESENT,
        pad: 0,
    }
}

/// Fills a node: pods, addresses and configuration of both families.
fn node<T: Testbed>(t: &mut T) -> [FamilyAddresses; 2] {
    let [v4, v6] = addresses();
    t.put_config(config(&[v4, v6]));
    for (ifindex, addr4, addr6) in [(POD_A, v4.a, v6.a), (POD_B, v4.b, v6.b)] {
        let pod = pod(u64::from(ifindex), addr4, addr6);
        t.put_pod(ifindex, pod);
        for addr in [addr4, addr6] {
            t.put_addr(addr, AddressInfo { ifindex, kind: address_kind::POD, flags: 0, mac: pod.mac });
        }
    }
    for net in [v4, v6] {
        for (addr, kind) in [(net.node, address_kind::NODE), (net.vip, address_kind::SERVICE)] {
            t.put_addr(addr, AddressInfo { ifindex: 0, kind, flags: 0, mac: [0; 6] });
        }
    }
    [v4, v6]
}

const BOTH_SETS: u8 = backend_state::INTERNAL | backend_state::EXTERNAL | backend_state::SERVING;

fn backend(to: SocketAddr, state: u8, generation: u32) -> Backend {
    let addr = match to.ip() {
        IpAddr::V4(a) => V4::from(a).to_octets16(),
        IpAddr::V6(a) => a.octets(),
    };
    Backend { addr, port: to.port(), state, pad: 0, generation, service_port: 1, weight: 1 }
}

fn frontend(base: u32, len: u32) -> Frontend {
    let table = SlotTable { base, len };
    Frontend { service_port: 1, affinity_ticks: 0, internal: table, external: table, flags: 0, scheduler: 0, pad: 0 }
}

/// First packet of a connection, and its reply.
const DIALOGUES: [(Kind, Kind); 3] = [(Kind::Syn, Kind::SynAck), (Kind::Udp, Kind::Udp), (Kind::Sctp, Kind::Sctp)];

/// Adds a frontend for TCP, UDP and SCTP with one backend.
fn service<T: Testbed>(t: &mut T, vip: SocketAddr, to: SocketAddr) {
    let id = if vip.is_ipv4() { 1 } else { 2 };
    t.put_backend(id, backend(to, BOTH_SETS, 1));
    t.put_slot(id, id);
    for proto in [proto::TCP, proto::UDP, proto::SCTP] {
        t.put_frontend(FrontendKey { addr: vip.ip(), port: vip.port(), proto, pad: 0 }, frontend(id, 1));
    }
}

/// Runs a packet at a hook. Expects this action, these addresses, and correct checksums.
#[track_caller]
fn expect<T: Testbed>(
    t: &mut T,
    (hook, ifindex): (Hook, u32),
    kind: Kind,
    (from, to): (SocketAddr, SocketAddr),
    (action, target): (Action, u32),
    (new_from, new_to): (SocketAddr, SocketAddr),
) {
    let mut f = frame(kind, from, to);
    assert_eq!(t.run(hook, ifindex, &mut f), action, "{kind:?} {from} -> {to} at {hook:?}");
    assert_eq!(verify(&f, 0), (new_from, new_to), "{kind:?} {from} -> {to} at {hook:?}");
    if action == Action::Redirect {
        assert_eq!(ttl(&f), 63, "the hop limit of a redirected packet is decremented");
        assert!(t.target().is_none_or(|t| t == target), "redirected to {:?}, expected {target}", t.target());
    }
}

#[track_caller]
fn expect_drop<T: Testbed>(t: &mut T, (hook, ifindex): (Hook, u32), mut f: Vec<u8>, reason: DropReason) {
    let before = t.drops(reason);
    assert_eq!(t.run(hook, ifindex, &mut f), Action::Drop, "{reason:?}");
    assert_eq!(t.drops(reason), before + 1, "{reason:?} is counted");
}

const FROM_A: (Hook, u32) = (Hook::FromPod, POD_A);
const FROM_B: (Hook, u32) = (Hook::FromPod, POD_B);
const FROM_UPLINK: (Hook, u32) = (Hook::FromUplink, UPLINK);
const TO_A: (Action, u32) = (Action::Redirect, POD_A);
const TO_B: (Action, u32) = (Action::Redirect, POD_B);
const OUT: (Action, u32) = (Action::Redirect, UPLINK);
const HOST: (Action, u32) = (Action::Pass, 0);

pub(crate) fn pod_to_cluster_ip_and_back<T: Testbed>(t: &mut T) {
    for net in node(t) {
        let (vip, to) = (at(net.vip, 80), at(net.b, 8080));
        service(t, vip, to);
        for (first, reply) in DIALOGUES {
            let next = if first == Kind::Syn { Kind::Ack } else { first };
            let client = at(net.a, 40000);
            expect(t, FROM_A, first, (client, vip), TO_B, (client, to));
            expect(t, FROM_B, reply, (to, client), TO_A, (vip, client));
            expect(t, FROM_A, next, (client, vip), TO_B, (client, to));
            let there = t.flow(client, vip, number(first)).expect("flow of the client's packets");
            let back = t.flow(to, client, number(first)).expect("flow of the replies");
            assert_eq!((there.src, there.dst, there.iif, there.oif), (client, to, POD_A, POD_B));
            assert_eq!((back.src, back.dst, back.iif, back.oif), (vip, client, POD_B, POD_A));
        }
    }
}

pub(crate) fn pod_to_remote_backend_and_back<T: Testbed>(t: &mut T) {
    for net in node(t) {
        let (vip, to, client) = (at(net.vip, 80), at(net.remote, 8080), at(net.a, 40000));
        service(t, vip, to);
        for (first, reply) in DIALOGUES {
            expect(t, FROM_A, first, (client, vip), OUT, (client, to));
            expect(t, FROM_UPLINK, reply, (to, client), TO_A, (vip, client));
        }
    }
}

pub(crate) fn service_with_options_and_extension_headers<T: Testbed>(t: &mut T) {
    for net in node(t) {
        let (vip, to, client) = (at(net.vip, 80), at(net.b, 8080), at(net.a, 40000));
        service(t, vip, to);
        for kind in [Kind::Syn, Kind::Udp, Kind::Sctp] {
            // Four no-operation options (IPv4); a destination options header with padding (IPv6).
            let (next, extra): (u8, &[u8]) =
                if net.vip.is_ipv4() { (0, &[1, 1, 1, 1]) } else { (60, &[0, 0, 1, 4, 0, 0, 0, 0]) };
            let mut f = with_extra_header(&frame(kind, client, vip), next, extra);
            assert_eq!(t.run(Hook::FromPod, POD_A, &mut f), Action::Redirect);
            assert_eq!(verify(&f, extra.len()), (client, to));
        }
    }
}

pub(crate) fn frontend_and_backend_share_a_port<T: Testbed>(t: &mut T) {
    for net in node(t) {
        let (vip, to, client) = (at(net.vip, 80), at(net.b, 80), at(net.a, 40000));
        service(t, vip, to);
        for kind in [Kind::Udp, Kind::Sctp] {
            expect(t, FROM_A, kind, (client, vip), TO_B, (client, to));
            expect(t, FROM_B, kind, (to, client), TO_A, (vip, client));
        }
    }
}

pub(crate) fn outside_to_node_port_on_a_local_pod<T: Testbed>(t: &mut T) {
    for net in node(t) {
        let (front, to, client) = (at(net.node, 30080), at(net.b, 8080), at(net.outside, 50000));
        service(t, front, to);
        for (first, reply) in DIALOGUES {
            // The pod sees the client's address.
            expect(t, FROM_UPLINK, first, (client, front), TO_B, (client, to));
            expect(t, FROM_B, reply, (to, client), OUT, (front, client));
        }
    }
}

pub(crate) fn outside_to_node_port_on_a_remote_backend<T: Testbed>(t: &mut T) {
    for net in node(t) {
        let (front, to, client) = (at(net.node, 30080), at(net.remote, 8080), at(net.outside, 50000));
        service(t, front, to);
        for (first, reply) in DIALOGUES {
            let mut f = frame(first, client, front);
            assert_eq!(t.run(Hook::FromUplink, UPLINK, &mut f), Action::Redirect);
            let (from, dst) = verify(&f, 0);
            assert_eq!((from.ip(), dst), (net.node, to), "the reply must return to this node");
            assert!((SNAT_MIN..=SNAT_MAX).contains(&from.port()), "{from}");
            expect(t, FROM_UPLINK, reply, (to, from), OUT, (front, client));
        }
    }
}

pub(crate) fn outside_to_node_port_on_the_node_itself<T: Testbed>(t: &mut T) {
    for net in node(t) {
        let (front, to) = (at(net.node, 30080), at(net.node, 8080));
        service(t, front, to);
        reached_by_the_host(t, &net, front, to);
    }
}

pub(crate) fn local_pod_of_another_plugin_is_reached_through_the_host_stack<T: Testbed>(t: &mut T) {
    for net in node(t) {
        let (front, to) = (at(net.node, 30080), at(net.remote, 8080));
        service(t, front, to);
        t.put_backend(if front.is_ipv4() { 1 } else { 2 }, backend(to, BOTH_SETS | backend_state::LOCAL, 1));
        reached_by_the_host(t, &net, front, to);
    }
}

/// Expects that clients keep their addresses, and that replies come through the host's stack: to a
/// client outside at the egress of an uplink, to a pod at that of its device.
fn reached_by_the_host<T: Testbed>(t: &mut T, net: &FamilyAddresses, front: SocketAddr, to: SocketAddr) {
    let (client, pod) = (at(net.outside, 50000), at(net.a, 40000));
    for (client, there, back) in [(client, FROM_UPLINK, (Hook::ToUplink, UPLINK)), (pod, FROM_A, (Hook::ToPod, POD_A))]
    {
        for (first, reply) in DIALOGUES {
            expect(t, there, first, (client, front), HOST, (client, to));
            expect(t, back, reply, (to, client), HOST, (front, client));
        }
    }
}

pub(crate) fn host_routing_passes_pod_packets_to_the_host_stack<T: Testbed>(t: &mut T) {
    let families = node(t);
    t.put_config(NodeConfig { features: node_features::HOST_ROUTING, ..config(&families) });
    for net in families {
        let (a, b, outside) = (at(net.a, 40000), at(net.b, 80), at(net.outside, 80));
        for kind in [Kind::Syn, Kind::SynAck, Kind::Udp] {
            expect(t, FROM_A, kind, (a, b), HOST, (a, b));
            expect(t, FROM_A, kind, (a, outside), HOST, (a, outside));
            expect(t, FROM_UPLINK, kind, (outside, a), HOST, (outside, a));
        }
        expect_drop(t, FROM_A, frame(Kind::Syn, b, outside), DropReason::Spoofed);
    }
}

pub(crate) fn hairpin_connection_reaches_the_same_pod<T: Testbed>(t: &mut T) {
    for net in node(t) {
        let (vip, to, client) = (at(net.vip, 80), at(net.a, 8080), at(net.a, 40000));
        service(t, vip, to);
        for (first, reply) in DIALOGUES {
            let mut f = frame(first, client, vip);
            assert_eq!(t.run(Hook::FromPod, POD_A, &mut f), Action::Redirect);
            let (from, dst) = verify(&f, 0);
            assert_eq!((from.ip(), dst), (net.node, to), "a pod does not accept packets from its own address");
            expect(t, FROM_A, reply, (to, from), TO_A, (vip, client));
        }
    }
}

pub(crate) fn pod_to_pod_without_a_service<T: Testbed>(t: &mut T) {
    for net in node(t) {
        for kind in [Kind::Syn, Kind::Ack, Kind::Udp] {
            let (a, b) = (at(net.a, 40000), at(net.b, 8080));
            expect(t, FROM_A, kind, (a, b), TO_B, (a, b));
            assert_eq!(t.flow(a, b, number(kind)), None, "no flow for untranslated packets");
            let remote = at(net.remote, 8080);
            expect(t, FROM_UPLINK, kind, (remote, b), TO_B, (remote, b));
        }
    }
}

pub(crate) fn pod_to_external_address_and_to_its_node<T: Testbed>(t: &mut T) {
    for net in node(t) {
        let (a, outside, node) = (at(net.a, 40000), at(net.outside, 443), at(net.node, 10250));
        expect(t, FROM_A, Kind::Syn, (a, outside), OUT, (a, outside));
        expect(t, FROM_A, Kind::Syn, (a, node), HOST, (a, node));
        expect(t, FROM_UPLINK, Kind::Syn, (outside, node), HOST, (outside, node));
    }
}

pub(crate) fn spoofed_source_ip_is_dropped<T: Testbed>(t: &mut T) {
    for net in node(t) {
        let (vip, to) = (at(net.vip, 80), at(net.b, 8080));
        service(t, vip, to);
        let client = at(net.a, 40000);
        expect(t, FROM_A, Kind::Udp, (client, vip), TO_B, (client, to));
        for kind in [Kind::Syn, Kind::Udp] {
            for source in [net.b, net.node, net.outside, net.vip] {
                for target in [vip, at(net.outside, 53), at(net.a, 53)] {
                    expect_drop(t, FROM_A, frame(kind, at(source, 40000), target), DropReason::Spoofed);
                }
            }
            // The flow of another pod does not help.
            expect_drop(t, FROM_B, frame(kind, client, vip), DropReason::Spoofed);
        }
    }
}

pub(crate) fn unknown_interface_and_other_protocols<T: Testbed>(t: &mut T) {
    for net in node(t) {
        let f = frame(Kind::Syn, at(net.a, 40000), at(net.b, 80));
        expect_drop(t, (Hook::FromPod, UPLINK), f.clone(), DropReason::UnknownPod);
        let mut arp = f;
        arp[12..14].copy_from_slice(&[8, 6]);
        expect_drop(t, FROM_A, arp.clone(), DropReason::ForbiddenControl);
        assert_eq!(t.run(Hook::FromUplink, UPLINK, &mut arp), Action::Pass, "ARP at the uplink is left to the host");
    }
    // Router and neighbour discovery of a pod has a link-local source.
    let f = frame(Kind::Udp, "[fe80::1]:1".parse().unwrap(), "[ff02::2]:1".parse().unwrap());
    expect_drop(t, FROM_A, f, DropReason::ForbiddenControl);
}

pub(crate) fn midstream_tcp_without_a_flow_is_dropped<T: Testbed>(t: &mut T) {
    for net in node(t) {
        let (vip, to) = (at(net.vip, 80), at(net.remote, 8080));
        service(t, vip, to);
        for kind in [Kind::Ack, Kind::SynAck, Kind::Fin, Kind::Rst] {
            expect_drop(t, FROM_A, frame(kind, at(net.a, 40000), vip), DropReason::NoFlow);
        }
    }
}

/// Only the host's stack knows connections from before the installation. It resets unknown ones.
pub(crate) fn midstream_tcp_to_a_node_port_passes<T: Testbed>(t: &mut T) {
    for net in node(t) {
        let front = at(net.node, 30080);
        service(t, front, at(net.remote, 8080));
        for kind in [Kind::Ack, Kind::SynAck, Kind::Fin, Kind::Rst] {
            for (hook, client) in [((Hook::FromUplink, UPLINK), at(net.outside, 50000)), (FROM_A, at(net.a, 40000))] {
                let mut f = frame(kind, client, front);
                let before = f.clone();
                assert_eq!((t.run(hook.0, hook.1, &mut f), f), (Action::Pass, before), "{kind:?} from {client}");
            }
        }
    }
}
