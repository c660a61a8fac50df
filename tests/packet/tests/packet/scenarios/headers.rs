//! Unusual packets: fragments, malformed headers, expiring hop limits, ICMP errors, foreign MACs.

use std::net::IpAddr;

use dataplane_common::types::event::DropReason;
use dataplane_common::types::pod::Pod;
use dataplane_common::types::service::proto;

use super::{FROM_A, FROM_B, FROM_UPLINK, POD_A, TO_B, UPLINK, addresses, at, expect, expect_drop, node, pod, service};
use crate::frame::{
    Kind, fix_ipv4_checksum, frame, frame_with_ttl, icmp_about, icmp_error, ttl, verify, verify_icmp_error,
    with_extra_header,
};
use crate::testbed::{Action, Hook, Testbed};

pub(crate) fn later_fragments_follow_the_first<T: Testbed>(t: &mut T) {
    for net in node(t) {
        let (vip, to, client) = (at(net.vip, 53), at(net.b, 5353), at(net.a, 40000));
        service(t, vip, to);
        let (mut first, mut later, mut stranger) = fragments(&frame(Kind::Udp, client, vip));
        expect_drop(t, FROM_A, later.clone(), DropReason::UnknownFragment);
        assert_eq!(t.run(Hook::FromPod, POD_A, &mut first), Action::Redirect);
        assert_eq!(t.run(Hook::FromPod, POD_A, &mut later), Action::Redirect);
        let dst = |f: &[u8]| match to.ip() {
            IpAddr::V4(_) => IpAddr::from(<[u8; 4]>::try_from(&f[30..34]).unwrap()),
            IpAddr::V6(_) => IpAddr::from(<[u8; 16]>::try_from(&f[38..54]).unwrap()),
        };
        assert_eq!((dst(&first), dst(&later)), (to.ip(), to.ip()));
        assert_eq!(t.run(Hook::FromPod, POD_A, &mut stranger), Action::Drop, "a fragment of another datagram");
    }
}

/// The identification is 16 bits in IPv4 and soon used again. No clock ends an entry.
pub(crate) fn later_fragments_follow_the_newest_datagram<T: Testbed>(t: &mut T) {
    for net in node(t) {
        let (old, new, client) = (at(net.b, 5353), at(net.b, 5354), at(net.a, 40000));
        for (port, to) in [(53, old), (54, new)] {
            service(t, at(net.vip, port), to);
            let (mut first, mut later, _) = fragments(&frame(Kind::Udp, client, at(net.vip, port)));
            assert_eq!(t.run(Hook::FromPod, POD_A, &mut first), Action::Redirect);
            t.advance(1000);
            assert_eq!(t.run(Hook::FromPod, POD_A, &mut later), Action::Redirect);
            let there = t.flow(client, at(net.vip, port), proto::UDP).unwrap();
            assert_eq!(there.dst, to);
        }
        // With its ports, the later fragment finds the flow of the second datagram alone.
        t.evict_flow(client, at(net.vip, 53), proto::UDP);
        let (_, mut later, _) = fragments(&frame(Kind::Udp, client, at(net.vip, 53)));
        assert_eq!(t.run(Hook::FromPod, POD_A, &mut later), Action::Redirect);
        assert_eq!(t.flow(client, at(net.vip, 53), proto::UDP), None);
    }
}

/// A pod can forge the addresses and the identification of another pod's datagram, and must not
/// lead its later fragments elsewhere.
pub(crate) fn forged_first_fragment_leads_no_later_ones<T: Testbed>(t: &mut T) {
    for net in node(t) {
        let (vip, to, client) = (at(net.vip, 53), at(net.b, 5353), at(net.a, 40000));
        service(t, vip, to);
        let (honest, later, _) = fragments(&frame(Kind::Udp, client, vip));
        let (forged, ..) = fragments(&frame(Kind::Udp, at(net.a, 1), at(net.vip, 54)));
        let pass = |t: &mut T, f: &[u8]| t.run(FROM_A.0, FROM_A.1, &mut f.to_vec());
        expect_drop(t, FROM_B, forged.clone(), DropReason::Spoofed);
        expect_drop(t, FROM_UPLINK, forged, DropReason::Martian);
        expect_drop(t, FROM_A, later.clone(), DropReason::UnknownFragment);
        assert_eq!(pass(t, &honest), Action::Redirect);
        // The forger knows the flow of the datagram, too.
        expect_drop(t, FROM_B, honest.clone(), DropReason::Spoofed);
        expect_drop(t, FROM_B, later.clone(), DropReason::UnknownFragment);
        assert_eq!(pass(t, &later), Action::Redirect);
    }
}

/// Returns the first fragment of a datagram, a later one, and a later one of another datagram.
pub(crate) fn fragments(whole: &[u8]) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    if crate::frame::is_v6(whole) {
        let header = |offset_and_more: u16, id: u8| {
            let o = offset_and_more.to_be_bytes();
            with_extra_header(whole, 44, &[0, 0, o[0], o[1], 0, 0, 0, id])
        };
        (header(1, 7), header(8 << 3, 7), header(8 << 3, 8))
    } else {
        let header = |flags_and_offset: u16, id: u16| {
            let mut f = whole.to_vec();
            f[18..20].copy_from_slice(&id.to_be_bytes());
            f[20..22].copy_from_slice(&flags_and_offset.to_be_bytes());
            fix_ipv4_checksum(&mut f);
            f
        };
        (header(0x2000, 7), header(8, 7), header(8, 8))
    }
}

pub(crate) fn malformed_packets_are_dropped<T: Testbed>(t: &mut T) {
    for net in node(t) {
        let f = frame(Kind::Syn, at(net.a, 40000), at(net.b, 80));
        let v6 = net.a.is_ipv6();
        let header = if v6 { 54 } else { 34 };
        expect_drop(t, FROM_A, f[..header + 6].to_vec(), DropReason::Malformed);
        // BPF_PROG_TEST_RUN itself refuses packets that are shorter than an IP header.
        let mut version = f.clone();
        version[14] ^= 0xf0;
        expect_drop(t, FROM_A, version, DropReason::Malformed);
        if v6 {
            // A chain of extension headers that is too long.
            let endless = with_extra_header(&f, 60, &[60, 0, 1, 4, 0, 0, 0, 0].repeat(9));
            let mut endless = endless;
            endless[54] = 60;
            expect_drop(t, FROM_A, endless, DropReason::Malformed);
        } else {
            let mut short = f.clone();
            short[14] = 0x44;
            expect_drop(t, FROM_A, short, DropReason::Malformed);
        }
    }
}

pub(crate) fn expiring_hop_limit_passes_to_the_host_stack<T: Testbed>(t: &mut T) {
    for net in node(t) {
        let (vip, to, client) = (at(net.vip, 80), at(net.b, 8080), at(net.a, 40000));
        service(t, vip, to);
        for target in [vip, at(net.b, 80), at(net.outside, 80)] {
            let mut f = frame_with_ttl(Kind::Syn, client, target, 1);
            assert_eq!(t.run(Hook::FromPod, POD_A, &mut f), Action::Pass, "{target}");
            assert_eq!(verify(&f, 0), (client, target), "unchanged: the host's stack reports it");
        }
    }
}

/// Type and code of [`icmp_error`], for each family.
const UNREACHABLE: [(u8, u8); 2] = [(3, 1), (1, 4)];

pub(crate) fn icmp_error_and_its_quoted_packet_are_translated<T: Testbed>(t: &mut T) {
    for net in node(t) {
        let (vip, to, client) = (at(net.vip, 80), at(net.remote, 8080), at(net.a, 40000));
        service(t, vip, to);
        for kind in [Kind::Syn, Kind::Udp, Kind::Sctp] {
            // The error quotes the translated packet.
            let mut sent = frame(kind, client, vip);
            assert_eq!(t.run(Hook::FromPod, POD_A, &mut sent), Action::Redirect);
            assert_eq!(verify(&sent, 0), (client, to));
            // From a router on the way, and from the backend itself.
            for (reporter, shown) in [(net.outside, net.outside), (net.remote, net.vip)] {
                let mut f = icmp_error(reporter, net.a, &sent);
                assert_eq!(t.run(Hook::FromUplink, UPLINK, &mut f), Action::Redirect);
                assert!(t.target().is_none_or(|t| t == POD_A));
                assert_eq!(
                    verify_icmp_error(&f),
                    (UNREACHABLE[usize::from(net.a.is_ipv6())], (shown, net.a), (client, vip))
                );
                assert_eq!(ttl(&f), 63);
            }
            // Reverse direction: the client reports an error about a reply, which it has seen
            // translated.
            let mut reply = frame(if kind == Kind::Syn { Kind::SynAck } else { kind }, to, client);
            assert_eq!(t.run(Hook::FromUplink, UPLINK, &mut reply), Action::Redirect);
            let mut f = icmp_error(net.a, net.vip, &reply);
            assert_eq!(t.run(Hook::FromPod, POD_A, &mut f), Action::Redirect);
            let (_, outer, inner) = verify_icmp_error(&f);
            assert_eq!((outer, inner), ((net.a, net.remote), (to, client)));
        }
        // About a packet without a flow: nothing is translated.
        let about = frame(Kind::Udp, at(net.a, 1), at(net.outside, 2));
        let mut f = icmp_error(net.outside, net.a, &about);
        assert_eq!(t.run(Hook::FromUplink, UPLINK, &mut f), Action::Redirect);
        let (_, outer, inner) = verify_icmp_error(&f);
        assert_eq!((outer, inner), ((net.outside, net.a), (at(net.a, 1), at(net.outside, 2))));
    }
}

/// ICMP types of errors (RFC 792; RFC 4443, section 2.1), for each family.
const ERRORS: [&[u8]; 2] = [&[3, 4, 5, 11, 12], &[1, 2, 3, 4]];
/// ICMP types of other messages: echo, router discovery, timestamp; `ICMPv6` types from 128 on.
const NO_ERRORS: [&[u8]; 2] = [&[0, 8, 9, 10, 13, 14], &[128, 129, 133, 136]];

pub(crate) fn icmp_errors_of_every_type_are_translated<T: Testbed>(t: &mut T) {
    for net in node(t) {
        let (vip, to, client) = (at(net.vip, 80), at(net.remote, 8080), at(net.a, 40000));
        service(t, vip, to);
        let mut sent = frame(Kind::Udp, client, vip);
        assert_eq!(t.run(Hook::FromPod, POD_A, &mut sent), Action::Redirect);
        for number in ERRORS[usize::from(net.a.is_ipv6())] {
            let mut f = icmp_about((*number, 0), net.outside, net.a, &sent);
            assert_eq!(t.run(Hook::FromUplink, UPLINK, &mut f), Action::Redirect);
            let translated = ((*number, 0), (net.outside, net.a), (client, vip));
            assert_eq!(verify_icmp_error(&f), translated, "type {number}");
        }
        for number in NO_ERRORS[usize::from(net.a.is_ipv6())] {
            let mut f = icmp_about((*number, 0), net.outside, net.a, &sent);
            assert_eq!(t.run(Hook::FromUplink, UPLINK, &mut f), Action::Redirect);
            let unchanged = ((*number, 0), (net.outside, net.a), (client, to));
            assert_eq!(verify_icmp_error(&f), unchanged, "type {number} quotes no packet");
        }
    }
}

/// IPv6 extension headers by number, without their first byte, which names the next header. Lengths
/// are in units of 8 bytes beyond the first 8 (RFC 8200, section 4; RFC 6275, section 6.1), of the
/// authentication header in units of 4 beyond the first 8 (RFC 4302, section 2.2).
const EXTENSIONS: [(u8, &[u8]); 7] = [
    (0, &[0, 1, 4, 0, 0, 0, 0]),
    (0, &[1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
    (43, &[2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
    (51, &[4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9]),
    (60, &[0, 1, 4, 0, 0, 0, 0]),
    (60, &[1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
    (135, &[0, 0, 0, 0, 0, 0, 0]),
];

pub(crate) fn extension_headers_of_every_kind_are_skipped<T: Testbed>(t: &mut T) {
    let [_, net] = node(t);
    let (vip, to) = (at(net.vip, 80), at(net.b, 8080));
    service(t, vip, to);
    for (n, (number, rest)) in EXTENSIONS.iter().enumerate() {
        let client = at(net.a, 40000 + n as u16);
        for kind in [Kind::Syn, Kind::Udp, Kind::Sctp] {
            let header = [&[0], *rest].concat();
            let mut f = with_extra_header(&frame(kind, client, vip), *number, &header);
            assert_eq!(t.run(Hook::FromPod, POD_A, &mut f), Action::Redirect, "header {number}");
            assert_eq!(verify(&f, header.len()), (client, to), "header {number}");
            assert!(t.flow(client, vip, super::number(kind)).is_some(), "a flow of {kind:?} with its ports");
        }
    }
}

/// IPv4 options up to the longest header.
pub(crate) fn ipv4_options_of_every_length_are_skipped<T: Testbed>(t: &mut T) {
    let [net, _] = node(t);
    let (vip, to) = (at(net.vip, 80), at(net.b, 8080));
    service(t, vip, to);
    for words in 1..=10_u16 {
        let client = at(net.a, 40000 + words);
        for kind in [Kind::Syn, Kind::Udp, Kind::Sctp] {
            let options = vec![1; 4 * usize::from(words)];
            let mut f = with_extra_header(&frame(kind, client, vip), 0, &options);
            assert_eq!(t.run(Hook::FromPod, POD_A, &mut f), Action::Redirect, "{words} words");
            assert_eq!(verify(&f, options.len()), (client, to), "{words} words");
        }
    }
}

pub(crate) fn icmp_error_about_another_pods_flow_is_not_translated<T: Testbed>(t: &mut T) {
    for net in node(t) {
        let (vip, to, client) = (at(net.vip, 80), at(net.remote, 8080), at(net.a, 40000));
        service(t, vip, to);
        let mut sent = frame(Kind::Udp, client, vip);
        assert_eq!(t.run(Hook::FromPod, POD_A, &mut sent), Action::Redirect);
        let reply = frame(Kind::Udp, vip, client);
        // With its own address about another pod's flow: not translated. With that pod's address:
        // spoofed.
        expect_drop(t, FROM_B, icmp_error(net.b, net.vip, &reply), DropReason::NoFrontend);
        expect_drop(t, FROM_B, icmp_error(net.a, net.vip, &reply), DropReason::Spoofed);
    }
}

pub(crate) fn spoofed_source_mac_is_dropped<T: Testbed>(t: &mut T) {
    for net in node(t) {
        let (vip, to, client) = (at(net.vip, 80), at(net.b, 8080), at(net.a, 40000));
        service(t, vip, to);
        for kind in [Kind::Syn, Kind::Udp] {
            expect(t, FROM_A, kind, (client, vip), TO_B, (client, to));
        }
        // To a flow, a pod, a host outside and the node: the pod's own address, but one bit of its
        // MAC differs.
        for target in [vip, to, at(net.outside, 443), at(net.node, 22)] {
            for (kind, byte) in [(Kind::Syn, 6), (Kind::Ack, 7), (Kind::Udp, 8), (Kind::Udp, 9), (Kind::Ack, 11)] {
                let mut f = frame(kind, client, target);
                f[byte] ^= 0x10;
                expect_drop(t, FROM_A, f, DropReason::Spoofed);
            }
        }
        expect(t, FROM_A, Kind::Ack, (client, vip), TO_B, (client, to));
        // The MAC of a packet from outside is a router's.
        let mut f = frame(Kind::Udp, at(net.remote, 1), to);
        f[6..12].copy_from_slice(&[2, 0x11, 0x22, 0x33, 0x44, 0x55]);
        assert_eq!(t.run(Hook::FromUplink, UPLINK, &mut f), Action::Redirect);
    }
}

/// A pod without an address of a family has the unspecified one in its entry. It is no address that
/// a pod may send from.
pub(crate) fn pod_without_an_address_of_a_family_cannot_send_in_it<T: Testbed>(t: &mut T) {
    let [v4, v6] = node(t);
    let (none4, none6): (IpAddr, IpAddr) = ("0.0.0.0".parse().unwrap(), "::".parse().unwrap());
    for (net, none, addr4, addr6) in [(v4, none4, none4, v6.a), (v6, none6, v4.a, none6)] {
        service(t, at(net.vip, 80), at(net.b, 8080));
        t.put_pod(POD_A, pod(u64::from(POD_A), addr4, addr6));
        // IPv6: the unspecified address belongs to neighbour discovery, which pods do not need.
        let reason = if none.is_ipv4() { DropReason::Spoofed } else { DropReason::ForbiddenControl };
        for target in [at(net.vip, 80), at(net.b, 67), at(net.outside, 67), at(net.node, 67)] {
            for kind in [Kind::Syn, Kind::Ack, Kind::Udp] {
                expect_drop(t, FROM_A, frame(kind, at(none, 68), target), reason);
            }
        }
    }
    t.put_pod(POD_A, pod(u64::from(POD_A), v4.a, v6.a));
}

pub(crate) fn pod_being_deleted_cannot_send<T: Testbed>(t: &mut T) {
    for net in node(t) {
        let (vip, to, client) = (at(net.vip, 80), at(net.b, 8080), at(net.a, 40000));
        service(t, vip, to);
        expect(t, FROM_A, Kind::Udp, (client, vip), TO_B, (client, to));
        let [v4, v6] = addresses();
        t.put_pod(POD_A, Pod { flags: 0, ..pod(u64::from(POD_A), v4.a, v6.a) });
        for target in [vip, to] {
            expect_drop(t, FROM_A, frame(Kind::Udp, client, target), DropReason::UnknownPod);
        }
        t.put_pod(POD_A, pod(u64::from(POD_A), v4.a, v6.a));
    }
}
