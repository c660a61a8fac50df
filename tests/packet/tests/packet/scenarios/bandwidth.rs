//! Pods with an ingress bandwidth limit: every packet must pass through the queue of the veth.

use std::net::SocketAddr;

use dataplane_common::types::pod::{AddressInfo, NodeConfig, Pod, address_flags, address_kind, pod_flags};
use dataplane_common::types::service::{FrontendKey, proto};

use super::{
    FROM_A, FROM_B, FROM_UPLINK, FamilyAddresses, OUT, POD_A, POD_B, TO_A, TO_B, at, config, expect, node, pod, service,
};
use crate::frame::{Kind, frame_of, verify, verify_icmp_error};
use crate::testbed::{Action, Hook, Testbed};

/// MTU of pods: 1500 bytes less the VXLAN headers.
const POD_MTU: u32 = 1450;

/// Fills a node on which pod B has a limit.
fn limited<T: Testbed>(t: &mut T) -> [FamilyAddresses; 2] {
    let [v4, v6] = node(t);
    let entry = pod(u64::from(POD_B), v4.b, v6.b);
    t.put_pod(POD_B, Pod { flags: pod_flags::PRESENT | pod_flags::SHAPED, ..entry });
    for addr in [v4.b, v6.b] {
        t.put_addr(
            addr,
            AddressInfo { ifindex: POD_B, kind: address_kind::POD, flags: address_flags::SHAPED, mac: entry.mac },
        );
    }
    [v4, v6]
}

#[track_caller]
fn queued<T: Testbed>(t: &T, wanted: bool) {
    assert!(t.is_queued().is_none_or(|queued| queued == wanted), "through the queue of a device: expected {wanted}");
}

pub(crate) fn shaped_pod_receives_through_its_qdisc<T: Testbed>(t: &mut T) {
    for net in limited(t) {
        let (vip, front, to) = (at(net.vip, 80), at(net.node, 30080), at(net.b, 8080));
        service(t, vip, to);
        service(t, front, to);
        let any = if net.node.is_ipv4() { "0.0.0.0" } else { "::" }.parse().unwrap();
        for (first, reply, proto) in [(Kind::Syn, Kind::SynAck, proto::TCP), (Kind::Udp, Kind::Udp, proto::UDP)] {
            t.put_host_port(FrontendKey { addr: any, port: 8000, proto, pad: 0 }, to, POD_B);
            let (client, outside) = (at(net.a, 40000), at(net.outside, 40000));
            let into: [(_, SocketAddr, SocketAddr); 6] = [
                (FROM_A, client, to),
                (FROM_UPLINK, at(net.remote, 40000), to),
                (FROM_A, client, vip),
                (FROM_UPLINK, outside, front),
                (FROM_A, at(net.a, 40001), at(net.node, 8000)),
                (FROM_UPLINK, at(net.outside, 40001), at(net.node, 8000)),
            ];
            for (hook, from, front) in into {
                // The second packet uses the flow, if there is one.
                for kind in [first, if first == Kind::Syn { Kind::Ack } else { first }] {
                    expect(t, hook, kind, (from, front), TO_B, (from, to));
                    queued(t, true);
                }
            }
            // The limit does not apply to what the pod sends.
            expect(t, FROM_B, reply, (to, client), TO_A, (vip, client));
            queued(t, false);
            expect(t, FROM_B, reply, (to, outside), OUT, (front, outside));
            queued(t, true);
        }
    }
}

pub(crate) fn replies_to_a_shaped_client_use_its_qdisc<T: Testbed>(t: &mut T) {
    for net in limited(t) {
        let (vip, to, client) = (at(net.vip, 80), at(net.a, 8080), at(net.b, 40000));
        service(t, vip, to);
        for (first, reply) in [(Kind::Syn, Kind::SynAck), (Kind::Udp, Kind::Udp)] {
            expect(t, FROM_B, first, (client, vip), TO_A, (client, to));
            queued(t, false);
            for _ in 0..2 {
                expect(t, FROM_A, reply, (to, client), TO_B, (vip, client));
                queued(t, true);
            }
        }
    }
}

pub(crate) fn oversized_packet_to_a_shaped_pod_gets_frag_needed<T: Testbed>(t: &mut T) {
    let families = limited(t);
    t.put_config(NodeConfig { mtu: 1500, tunnel_mtu: POD_MTU, ..config(&families) });
    for net in families {
        let (front, to, client) = (at(net.node, 30080), at(net.b, 8080), at(net.outside, 40000));
        service(t, front, to);
        let mut fits = frame_of(Kind::Udp, client, front, &[0; 1300]);
        assert_eq!(t.run(Hook::FromUplink, super::UPLINK, &mut fits), Action::Redirect);
        assert_eq!(verify(&fits, 0), (client, to));
        queued(t, true);
        let mut large = frame_of(Kind::Udp, client, front, &[0; 1440]);
        assert_eq!(t.run(Hook::FromUplink, super::UPLINK, &mut large), Action::Redirect);
        assert_eq!(verify_icmp_error(&large).1, (net.node, net.outside));
        // Without a flow the host's stack reports or fragments it.
        let mut direct = frame_of(Kind::Udp, at(net.remote, 40000), to, &[0; 1440]);
        assert_eq!(t.run(Hook::FromUplink, super::UPLINK, &mut direct), Action::Pass);
        // A pod without a limit has no MTU check on this path.
        let mut other = frame_of(Kind::Udp, at(net.remote, 40000), at(net.a, 8080), &[0; 1440]);
        assert_eq!(t.run(Hook::FromUplink, super::UPLINK, &mut other), Action::Redirect);
        assert!(t.target().is_none_or(|target| target == POD_A));
        queued(t, false);
    }
}
