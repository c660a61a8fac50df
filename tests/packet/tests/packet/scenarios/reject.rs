//! Rejected packets, which get an answer, and packets that are dropped silently.

use std::net::SocketAddr;

use dataplane_common::types::answer_budget::PER_TICK;
use dataplane_common::types::event::DropReason;
use dataplane_common::types::pod::{AddressInfo, Network, NodeConfig, address_kind, network_flags, node_features};
use dataplane_common::types::service::{Frontend, FrontendKey, frontend_flags, proto};

use super::{
    FROM_A, FROM_UPLINK, OUT, POD_A, TO_B, TUNNEL, UPLINK, at, config, expect, expect_drop, frontend, node, service,
};
use crate::frame::{Kind, echo, frame, frame_of, verify_icmp_error, verify_reset};
use crate::testbed::{Action, Hook, Testbed};

/// Expects that the packet is answered by the interface at which it arrived and counted as dropped.
/// Returns the answer.
#[track_caller]
pub(super) fn expect_answer<T: Testbed>(
    t: &mut T,
    (hook, ifindex): (Hook, u32),
    mut f: Vec<u8>,
    reason: DropReason,
) -> Vec<u8> {
    let (before, macs) = (t.drops(reason), [f[6..12].to_vec(), f[0..6].to_vec()].concat());
    assert_eq!(t.run(hook, ifindex, &mut f), Action::Redirect, "{reason:?}");
    assert_eq!(t.drops(reason), before + 1, "{reason:?} is counted");
    assert!(t.target().is_none_or(|t| t == ifindex), "by the interface at which it arrived");
    assert_eq!(f[..12], macs, "to the MAC that sent it");
    f
}

/// Expects a reset for TCP and "port unreachable" for UDP, from the address that the client used.
#[track_caller]
pub(super) fn expect_rejection<T: Testbed>(
    t: &mut T,
    at_hook: (Hook, u32),
    client: SocketAddr,
    to: SocketAddr,
    reason: DropReason,
) {
    let answer = expect_answer(t, at_hook, frame(Kind::Syn, client, to), reason);
    // The frame's sequence number is 1, its SYN counts as one byte, and its payload has eight.
    assert_eq!(verify_reset(&answer), ((to, client), (0, 10), true));
    let answer = expect_answer(t, at_hook, frame(Kind::Udp, client, to), reason);
    let (types, outer, inner) = verify_icmp_error(&answer);
    assert_eq!(types, if client.is_ipv4() { (3, 3) } else { (1, 4) }, "port unreachable");
    assert_eq!((outer, inner), ((to.ip(), client.ip()), (client, to)));
}

pub(crate) fn service_without_backends_is_rejected<T: Testbed>(t: &mut T) {
    for net in node(t) {
        for (addr, client, hook) in
            [(net.vip, net.a, FROM_A), (net.node, net.a, FROM_A), (net.node, net.outside, FROM_UPLINK)]
        {
            for proto in [proto::TCP, proto::UDP] {
                t.put_frontend(FrontendKey { addr, port: 80, proto, pad: 0 }, frontend(0, 0));
            }
            expect_rejection(t, hook, at(client, 40000), at(addr, 80), DropReason::NoBackend);
        }
    }
}

/// Found by the differential run: a data offset (RFC 9293, section 3.1) beyond the segment's end.
pub(crate) fn segment_with_a_lying_data_offset_is_rejected<T: Testbed>(t: &mut T) {
    for net in node(t) {
        let (client, to) = (at(net.a, 40000), at(net.vip, 81));
        for offset in 0..16 {
            for payload in 0..4 {
                let mut f = frame_of(Kind::Syn, client, to, &vec![7; payload]);
                let tcp = if net.a.is_ipv4() { 34 } else { 54 };
                f[tcp + 12] = offset << 4;
                let answer = expect_answer(t, FROM_A, f, DropReason::NoFrontend);
                // The SYN counts as one, and what the offset leaves of the segment.
                let length = (20 + payload as u32 + 1).wrapping_sub(u32::from(offset) * 4);
                assert_eq!(verify_reset(&answer), ((to, client), (0, length.wrapping_add(1)), true), "offset {offset}");
            }
        }
    }
}

/// A flood of packets that would be refused. The limit is one of a CPU and a tick, both of which
/// can change during the test.
pub(crate) fn refusals_are_limited_per_tick<T: Testbed>(t: &mut T) {
    let [net, _] = node(t);
    let (client, front) = (at(net.outside, 40000), at(net.node, 80));
    t.put_frontend(FrontendKey { addr: net.node, port: 80, proto: proto::TCP, pad: 0 }, frontend(0, 0));
    let (mut answered, before) = (0, t.drops(DropReason::NoBackend));
    while t.run(FROM_UPLINK.0, FROM_UPLINK.1, &mut frame(Kind::Syn, client, front)) == Action::Redirect {
        answered += 1;
        assert!(answered < 100 * PER_TICK, "no limit");
    }
    assert!(answered >= PER_TICK, "only {answered} answers");
    assert_eq!(t.drops(DropReason::NoBackend) - before, u64::from(answered) + 1, "each is counted");
}

/// Sources that the link can have, but to which no answer may go (RFC 1122, section 3.2.2; RFC
/// 4443, section 2.4). Other such sources are martians.
const UNANSWERABLE: [&[&str]; 2] = [&["240.0.0.9"], &["fe80::9"]];

pub(crate) fn packet_from_an_unanswerable_source_is_dropped<T: Testbed>(t: &mut T) {
    for net in node(t) {
        for proto in [proto::TCP, proto::UDP] {
            t.put_frontend(FrontendKey { addr: net.vip, port: 80, proto, pad: 0 }, frontend(0, 0));
        }
        let vip = at(net.vip, 80);
        for source in UNANSWERABLE[usize::from(net.vip.is_ipv6())] {
            let client = at(source.parse().unwrap(), 40000);
            for kind in [Kind::Syn, Kind::Udp] {
                expect_drop(t, FROM_UPLINK, frame(kind, client, vip), DropReason::NoBackend);
            }
        }
        // The same packet of another host is answered.
        expect_rejection(t, FROM_UPLINK, at(net.outside, 40000), vip, DropReason::NoBackend);
    }
}

pub(crate) fn undefined_cluster_ip_port_is_rejected<T: Testbed>(t: &mut T) {
    for net in node(t) {
        service(t, at(net.vip, 80), at(net.b, 8080));
        expect_rejection(t, FROM_A, at(net.a, 40000), at(net.vip, 81), DropReason::NoFrontend);
        expect_rejection(t, FROM_UPLINK, at(net.outside, 40000), at(net.vip, 81), DropReason::NoFrontend);
        // An echo request is answered too; errors and resets are not.
        let answer = expect_answer(t, FROM_A, echo(net.a, net.vip, 7), DropReason::NoFrontend);
        assert_eq!(verify_icmp_error(&answer).1, (net.vip, net.a));
        expect_drop(t, FROM_A, frame(Kind::Rst, at(net.a, 40000), at(net.vip, 81)), DropReason::NoFrontend);
    }
}

pub(crate) fn undefined_external_ip_port_passes<T: Testbed>(t: &mut T) {
    for net in node(t) {
        let external = net.other;
        t.put_addr(external, AddressInfo { ifindex: 0, kind: address_kind::EXTERNAL, flags: 0, mac: [0; 6] });
        service(t, at(external, 80), at(net.b, 8080));
        for kind in [Kind::Syn, Kind::Udp] {
            let client = at(net.a, 40000);
            expect(t, FROM_A, kind, (client, at(external, 80)), TO_B, (client, at(net.b, 8080)));
            expect(t, FROM_A, kind, (client, at(external, 81)), OUT, (client, at(external, 81)));
        }
        expect_drop(t, FROM_A, frame(Kind::Ack, at(net.a, 41000), at(external, 80)), DropReason::NoFlow);
    }
}

pub(crate) fn local_traffic_policy_without_backends_drops_silently<T: Testbed>(t: &mut T) {
    for net in node(t) {
        for (addr, flags, client, hook) in [
            (net.vip, frontend_flags::INTERNAL_DROP, net.a, FROM_A),
            (net.node, frontend_flags::EXTERNAL_DROP, net.outside, FROM_UPLINK),
        ] {
            for (kind, proto) in [(Kind::Syn, proto::TCP), (Kind::Udp, proto::UDP)] {
                let key = FrontendKey { addr, port: 80, proto, pad: 0 };
                t.put_frontend(key, Frontend { flags, ..frontend(0, 0) });
                expect_drop(t, hook, frame(kind, at(client, 40000), at(addr, 80)), DropReason::NoBackend);
            }
        }
    }
}

pub(crate) fn source_ranges_apply_on_every_path<T: Testbed>(t: &mut T) {
    for net in node(t) {
        let balancer = at(net.other, 80);
        t.put_addr(net.other, AddressInfo { ifindex: 0, kind: address_kind::EXTERNAL, flags: 0, mac: [0; 6] });
        service(t, balancer, at(net.b, 8080));
        let id = if net.vip.is_ipv4() { 1 } else { 2 };
        for proto in [proto::TCP, proto::UDP] {
            let key = FrontendKey { addr: balancer.ip(), port: 80, proto, pad: 0 };
            let flags = frontend_flags::SOURCE_RANGES;
            t.put_frontend(key, Frontend { flags, service_port: id, ..frontend(id, 1) });
        }
        // The range contains the client outside, but no pod. The range of another service port
        // allows all clients.
        t.put_source_range(id, net.outside, if net.vip.is_ipv4() { 24 } else { 64 });
        t.put_source_range(id + 10, net.a, 0);
        for kind in [Kind::Syn, Kind::Udp] {
            let (inside, outside) = (at(net.a, 40000), at(net.outside, 40000));
            expect(t, FROM_UPLINK, kind, (outside, balancer), TO_B, (outside, at(net.b, 8080)));
            expect_drop(t, FROM_A, frame(kind, inside, balancer), DropReason::SourceRange);
            expect_drop(t, FROM_UPLINK, frame(kind, at(net.remote, 40000), balancer), DropReason::SourceRange);
        }
    }
}

pub(crate) fn unallocated_cluster_ip_is_dropped<T: Testbed>(t: &mut T) {
    let families = node(t);
    t.put_config(NodeConfig { features: node_features::NETWORKS, ..config(&families) });
    for net in families {
        let free = at(net.free_vip, 80);
        t.put_network(
            net.vip,
            if free.is_ipv4() { 16 } else { 112 },
            Network { oif: 0, flags: network_flags::SERVICE, node: 0 },
        );
        for kind in [Kind::Syn, Kind::Udp, Kind::Ack] {
            expect_drop(t, FROM_A, frame(kind, at(net.a, 40000), free), DropReason::UnallocatedAddress);
            expect_drop(t, FROM_UPLINK, frame(kind, at(net.outside, 40000), free), DropReason::UnallocatedAddress);
        }
        expect_drop(t, FROM_A, echo(net.a, free.ip(), 1), DropReason::UnallocatedAddress);
    }
}

pub(crate) fn oversized_packet_gets_frag_needed<T: Testbed>(t: &mut T) {
    const MTU: u32 = 1280;
    let families = node(t);
    t.put_config(NodeConfig { mtu: MTU, ..config(&families) });
    for net in families {
        let (vip, to, client) = (at(net.vip, 80), at(net.remote, 8080), at(net.a, 40000));
        service(t, vip, to);
        let large = frame_of(Kind::Udp, client, vip, &[0; 1400]);
        let answer = expect_answer(t, FROM_A, large.clone(), DropReason::TooBig);
        let (types, outer, inner) = verify_icmp_error(&answer);
        assert_eq!(types, if client.is_ipv4() { (3, 4) } else { (2, 0) }, "fragmentation needed, packet too big");
        assert_eq!((outer, inner), ((net.vip, net.a), (client, vip)), "quotes the packet as it was sent");
        let header = if client.is_ipv4() { 34 } else { 54 };
        assert_eq!(answer[header + 4..header + 8], MTU.to_be_bytes());
        // Without a Service the host's stack reports it.
        let mut direct = frame_of(Kind::Udp, client, at(net.outside, 80), &[0; 1400]);
        assert_eq!(t.run(Hook::FromPod, POD_A, &mut direct), Action::Pass);
        if net.vip.is_ipv4() {
            // Without "don't fragment" the host's stack fragments the translated packet.
            let mut f = large.clone();
            f[20] &= !0x40;
            crate::frame::fix_ipv4_checksum(&mut f);
            let direct = f.clone();
            assert_eq!(t.run(Hook::FromPod, POD_A, &mut f), Action::Pass);
            assert_eq!(crate::frame::verify(&f, 0), (client, to));
            // With another device as uplink, this one is the tunnel, which fragments its outer
            // datagram.
            t.put_config(NodeConfig { mtu: 1500, tunnel_mtu: MTU, uplink: TUNNEL, ..config(&families) });
            let mut f = direct;
            assert_eq!(t.run(Hook::FromPod, POD_A, &mut f), Action::Redirect);
            assert_eq!(crate::frame::verify(&f, 0), (client, to));
            t.put_config(NodeConfig { mtu: MTU, ..config(&families) });
        }
        // A packet that fits is forwarded, and packets to pods have no such limit.
        expect(t, FROM_A, Kind::Udp, (client, vip), OUT, (client, to));
        service(t, at(net.vip, 81), at(net.b, 8080));
        let mut f = frame_of(Kind::Udp, at(net.outside, 9), at(net.vip, 81), &[0; 1400]);
        assert_eq!(t.run(Hook::FromUplink, UPLINK, &mut f), Action::Redirect);
    }
}
