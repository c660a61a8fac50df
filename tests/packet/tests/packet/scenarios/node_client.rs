//! The node as a client of the packet path, by the host device.

use dataplane_common::types::event::DropReason;
use dataplane_common::types::pod::{
    AddressInfo, Network, NodeConfig, Pod, address_kind, network_flags, node_features, pod_flags,
};
use dataplane_common::types::service::{Frontend, FrontendKey, frontend_flags, proto};

use super::{
    DIALOGUES, FROM_A, FROM_B, FROM_UPLINK, FamilyAddresses, HOST, OUT, POD_A, TO_A, TO_B, UPLINK, at, config, expect,
    expect_drop, expect_rejection, frontend, node, pod, service,
};
use crate::frame::{Kind, frame};
use crate::testbed::{Hook, Testbed};

/// Fills a node whose host device has the interface of pod A. The neighbours of pod B are in the
/// node's pod range, and those of the cluster IP in the range of cluster IPs.
fn with_host_device<T: Testbed>(t: &mut T) -> [FamilyAddresses; 2] {
    let [v4, v6] = node(t);
    let entry = pod(0, v4.node, v6.node);
    t.put_pod(POD_A, Pod { flags: pod_flags::PRESENT | pod_flags::SHAPED | pod_flags::NODE, ..entry });
    t.put_config(NodeConfig { features: node_features::NETWORKS, ..config(&[v4, v6]) });
    for net in [v4, v6] {
        let [pods, services] = if net.b.is_ipv4() { [24, 16] } else { [64, 112] };
        t.put_network(net.b, pods, Network { oif: 0, flags: network_flags::KEEP_SOURCE | network_flags::OWN, node: 0 });
        t.put_network(net.vip, services, Network { oif: 0, flags: network_flags::SERVICE, node: 0 });
    }
    [v4, v6]
}

pub(crate) fn node_reaches_services_without_socket_hooks<T: Testbed>(t: &mut T) {
    for net in with_host_device(t) {
        let (client, vip) = (at(net.node, 40000), at(net.vip, 80));
        for (to, there, back) in [(at(net.b, 8080), TO_B, FROM_B), (at(net.remote, 8080), OUT, FROM_UPLINK)] {
            service(t, vip, to);
            for (first, reply) in DIALOGUES {
                // Another port for each backend, because a flow stays with its backend.
                let client = at(client.ip(), client.port() + u16::from(there == OUT));
                for kind in [first, if first == Kind::Syn { Kind::Ack } else { first }] {
                    expect(t, FROM_A, kind, (client, vip), there, (client, to));
                }
                expect(t, back, reply, (to, client), TO_A, (vip, client));
                assert!(t.is_queued().unwrap_or(true), "bpf_redirect_peer works between namespaces only");
            }
        }
        expect_rejection(t, FROM_A, client, at(net.vip, 81), DropReason::NoFrontend);
        expect_drop(t, FROM_A, frame(Kind::Syn, client, at(net.free_vip, 80)), DropReason::UnallocatedAddress);
    }
}

pub(crate) fn node_is_dropped_silently_where_pods_are<T: Testbed>(t: &mut T) {
    for net in with_host_device(t) {
        let (client, vip) = (at(net.node, 40000), at(net.vip, 80));
        for (kind, proto) in [(Kind::Syn, proto::TCP), (Kind::Udp, proto::UDP), (Kind::Sctp, proto::SCTP)] {
            let none = frontend(0, 0);
            let silent = Frontend { flags: frontend_flags::INTERNAL_DROP, ..none };
            t.put_frontend(FrontendKey { addr: vip.ip(), port: vip.port(), proto, pad: 0 }, silent);
            expect_drop(t, FROM_A, frame(kind, client, vip), DropReason::NoBackend);
        }
    }
}

pub(crate) fn address_of_a_deleted_pod_is_unreachable<T: Testbed>(t: &mut T) {
    for net in with_host_device(t) {
        let gone = if net.b.is_ipv4() { "10.1.0.200:8080" } else { "[fd00:1::200]:8080" };
        let (own, gone) = (at(net.node, 40000), gone.parse().unwrap());
        expect_rejection(t, FROM_A, own, gone, DropReason::UnallocatedAddress);
        // Packets of other senders are left to the host's routes, which lead to the host device.
        for (hook, from) in [(FROM_B, at(net.b, 40000)), (FROM_UPLINK, at(net.outside, 40000))] {
            for kind in [Kind::Syn, Kind::Ack, Kind::Udp] {
                expect(t, hook, kind, (from, gone), HOST, (from, gone));
                expect_drop(t, FROM_A, frame(kind, from, gone), DropReason::UnallocatedAddress);
            }
        }
    }
}

pub(crate) fn node_sctp_reaches_external_ips<T: Testbed>(t: &mut T) {
    for net in with_host_device(t) {
        t.put_addr(net.other, AddressInfo { ifindex: 0, kind: address_kind::EXTERNAL, flags: 0, mac: [0; 6] });
        let (client, front, leaves) = (at(net.node, 40000), at(net.other, 80), (Hook::ToUplink, UPLINK));
        for (to, there, back) in [(at(net.b, 8080), TO_B, FROM_B), (at(net.remote, 8080), OUT, FROM_UPLINK)] {
            service(t, front, to);
            let client = at(client.ip(), client.port() + u16::from(there == OUT));
            for _ in 0..2 {
                expect(t, leaves, Kind::Sctp, (client, front), there, (client, to));
            }
            expect(t, back, Kind::Sctp, (to, client), HOST, (front, client));
        }
        // At egress of the host device it passes: at its other end the node is a pod.
        expect(t, (Hook::ToPod, POD_A), Kind::Sctp, (client, front), HOST, (client, front));
        // TCP and UDP are left to the socket hooks, and the next port has no frontend.
        expect(t, leaves, Kind::Syn, (client, front), HOST, (client, front));
        expect(t, leaves, Kind::Udp, (client, front), HOST, (client, front));
        expect(t, leaves, Kind::Sctp, (client, at(net.other, 81)), HOST, (client, at(net.other, 81)));
    }
}
