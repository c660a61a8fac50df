//! SCTP: its CRC covers the ports and the whole packet, but not the IP header.

use std::net::SocketAddr;

use dataplane_common::types::event::DropReason;
use dataplane_common::types::pod::NodeConfig;
use dataplane_common::types::service::{FrontendKey, proto};

use super::headers::fragments;
use super::reject::expect_answer;
use super::{FROM_A, POD_A, at, config, expect_drop, frontend, node, service};
use crate::frame::{Kind, fix_ipv4_checksum, frame, frame_of, is_v6, sctp_error, verify, verify_icmp_error};
use crate::testbed::{Action, Hook, Testbed};

/// Largest payload of a tested frame behind the SCTP header, bytes.
const MOST: usize = 1400;

/// Returns the offset of the SCTP header.
fn header(f: &[u8]) -> usize {
    if is_v6(f) { 54 } else { 34 }
}

pub(crate) fn sctp_checksum_is_correct_at_every_length<T: Testbed>(t: &mut T) {
    for net in node(t) {
        let (vip, to, client) = (at(net.vip, 80), at(net.b, 8080), at(net.a, 40000));
        service(t, vip, to);
        for bytes in (0..300).chain([500, 1000, MOST]) {
            let payload: Vec<u8> = (0..bytes).map(|i| (i * 7) as u8).collect();
            let mut f = frame_of(Kind::Sctp, client, vip, &payload);
            let length = f.len();
            // Ethernet pads short frames.
            f.resize(length.max(60), 0xaa);
            assert_eq!(t.run(Hook::FromPod, POD_A, &mut f), Action::Redirect, "{bytes} bytes");
            assert_eq!(verify(&f[..length], 0), (client, to), "{bytes} bytes");
            assert!(f[length..].iter().all(|b| *b == 0xaa));
        }
    }
}

pub(crate) fn sctp_fragment_with_translated_ports_is_dropped<T: Testbed>(t: &mut T) {
    for net in node(t) {
        let client = at(net.a, 40000);
        service(t, at(net.vip, 80), at(net.b, 8080));
        let (first, later, _) = fragments(&frame(Kind::Sctp, client, at(net.vip, 80)));
        // The first fragment opens a flow nevertheless.
        for f in [first.clone(), later, first] {
            expect_drop(t, FROM_A, f, DropReason::SctpFragment);
        }
        // Without a change of ports fragments are forwarded unchanged.
        let to = at(net.b, 90);
        service(t, at(net.vip, 90), to);
        let (first, later, _) = fragments(&frame(Kind::Sctp, client, at(net.vip, 90)));
        for f in [first, later] {
            let mut translated = f.clone();
            assert_eq!(t.run(Hook::FromPod, POD_A, &mut translated), Action::Redirect);
            let l4 = header(&f) + if is_v6(&f) { 8 } else { 0 };
            assert_eq!(translated[l4..], f[l4..]);
        }
    }
}

pub(crate) fn truncated_sctp_is_dropped<T: Testbed>(t: &mut T) {
    for net in node(t) {
        let (vip, client) = (at(net.vip, 80), at(net.a, 40000));
        service(t, vip, at(net.b, 8080));
        let whole = frame(Kind::Sctp, client, vip);
        // The frame is complete, but the IP header tells a shorter length.
        for bytes in [0_u8, 8, 11] {
            let mut f = whole.clone();
            if is_v6(&f) {
                f[18..20].copy_from_slice(&[0, bytes]);
            } else {
                f[16..18].copy_from_slice(&[0, 20 + bytes]);
                fix_ipv4_checksum(&mut f);
            }
            expect_drop(t, FROM_A, f, DropReason::Malformed);
        }
        // The IP header tells a longer length than the frame has.
        let mut f = whole;
        let cut = header(&f) + 9;
        f.truncate(cut);
        expect_drop(t, FROM_A, f, DropReason::Rewrite);
    }
}

pub(crate) fn wrong_sctp_checksum_stays_wrong<T: Testbed>(t: &mut T) {
    for net in node(t) {
        let (vip, to, client) = (at(net.vip, 80), at(net.b, 8080), at(net.a, 40000));
        service(t, vip, to);
        for wrong in [1_u32, 0x8000_0000, 0xdead_beef] {
            let mut f = frame(Kind::Sctp, client, vip);
            let l4 = header(&f);
            let sum = u32::from_le_bytes(f[l4 + 8..l4 + 12].try_into().unwrap());
            f[l4 + 8..l4 + 12].copy_from_slice(&(sum ^ wrong).to_le_bytes());
            assert_eq!(t.run(Hook::FromPod, POD_A, &mut f), Action::Redirect);
            assert_eq!(sctp_error(&f[l4..]), wrong);
        }
    }
}

/// The verification tag of a packet that opens an association is zero. Its sender recognizes it by
/// the tag in the first chunk (RFC 9260, section 10, ICMP6).
pub(crate) fn rejected_sctp_error_quotes_the_first_chunk<T: Testbed>(t: &mut T) {
    for net in node(t) {
        let (vip, client) = (at(net.vip, 80), at(net.a, 40000));
        t.put_frontend(FrontendKey { addr: net.vip, port: 80, proto: proto::SCTP, pad: 0 }, frontend(0, 0));
        let reject = |t: &mut T, payload: &[u8], to: SocketAddr, reason| {
            let f = frame_of(Kind::Sctp, client, to, payload);
            let answer = expect_answer(t, FROM_A, f.clone(), reason);
            let (types, outer, inner) = verify_icmp_error(&answer);
            assert_eq!(types, if client.is_ipv4() { (3, 3) } else { (1, 4) }, "port unreachable");
            assert_eq!((outer, inner), ((to.ip(), client.ip()), (client, to)));
            let quoted = answer[header(&answer) + 8..].len() - (header(&f) - 14);
            assert_eq!(answer[header(&answer) + 8..], f[14..header(&f) + quoted]);
            quoted
        };
        // INIT with its tag, and 12 further bytes.
        let init = [1, 0, 0, 20, 9, 8, 7, 6, 0, 1, 0, 0, 0, 1, 0, 1, 5, 5, 5, 5];
        assert_eq!(reject(t, &init, vip, DropReason::NoBackend), 20);
        assert_eq!(reject(t, &init, at(net.vip, 81), DropReason::NoFrontend), 20);
        // A chunk without content.
        assert_eq!(reject(t, &[11, 0, 0, 4], vip, DropReason::NoBackend), 8);
    }
}

/// Sends a packet larger than the MTU of the uplink, and expects that it `fits` or is rejected.
pub(crate) fn large_sctp_to_the_uplink<T: Testbed>(t: &mut T, fits: bool) {
    let families = node(t);
    t.put_config(NodeConfig { mtu: 1300, ..config(&families) });
    for net in families {
        let (vip, to, client) = (at(net.vip, 80), at(net.remote, 8080), at(net.a, 40000));
        service(t, vip, to);
        let mut f = frame_of(Kind::Sctp, client, vip, &[7; MOST]);
        if fits {
            assert_eq!(t.run(Hook::FromPod, POD_A, &mut f), Action::Redirect);
            assert_eq!(verify(&f, 0), (client, to));
        } else {
            let answer = expect_answer(t, FROM_A, f, DropReason::TooBig);
            assert_eq!(verify_icmp_error(&answer).1, (net.vip, net.a));
        }
    }
}
