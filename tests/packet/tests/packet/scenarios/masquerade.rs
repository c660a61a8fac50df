//! Masquerading, the tunnel, host ports, and reuse of old ports.

use std::net::SocketAddr;

use dataplane_common::types::event::DropReason;
use dataplane_common::types::pod::{AddressInfo, Network, NodeConfig, address_kind, network_flags, node_features};
use dataplane_common::types::service::{FrontendKey, proto};

use super::schedulers::fresh_port;
use super::{
    DIALOGUES, FROM_A, FROM_B, FROM_UPLINK, HOST, OUT, POD_A, POD_B, SNAT_MAX, SNAT_MIN, TO_A, TO_B, TUNNEL, UPLINK,
    at, config, expect, expect_drop, node, number, service,
};
use crate::frame::{Kind, echo, echo_reply, frame, icmp_error, verify, verify_echo, verify_icmp_error};
use crate::testbed::{Action, Hook, Testbed};

/// Fills a node that masquerades; `remote` is in the pod network.
fn masquerading<T: Testbed>(t: &mut T) -> [super::FamilyAddresses; 2] {
    let families = node(t);
    t.put_config(NodeConfig { features: node_features::NETWORKS | node_features::MASQUERADE, ..config(&families) });
    for net in families {
        let len = if net.remote.is_ipv4() { 24 } else { 64 };
        t.put_network(net.remote, len, Network { oif: 0, flags: network_flags::KEEP_SOURCE, node: 0 });
    }
    families
}

/// Sends the first packet of a connection out of the cluster, and returns its translated source.
#[track_caller]
fn leave<T: Testbed>(t: &mut T, kind: Kind, client: SocketAddr, to: SocketAddr) -> SocketAddr {
    let mut f = frame(kind, client, to);
    assert_eq!(t.run(Hook::FromPod, POD_A, &mut f), Action::Redirect);
    assert!(t.target().is_none_or(|t| t == UPLINK));
    let (from, dst) = verify(&f, 0);
    assert_eq!(dst, to);
    from
}

pub(crate) fn egress_from_pods_is_masqueraded<T: Testbed>(t: &mut T) {
    for net in masquerading(t) {
        let (client, target) = (at(net.a, 40000), at(net.outside, 443));
        for (first, reply) in DIALOGUES {
            let next = if first == Kind::Syn { Kind::Ack } else { first };
            let from = leave(t, first, client, target);
            assert_eq!(from.ip(), net.node);
            assert!((SNAT_MIN..=SNAT_MAX).contains(&from.port()), "{from}");
            expect(t, FROM_UPLINK, reply, (target, from), TO_A, (target, client));
            expect(t, FROM_A, next, (client, target), OUT, (from, target));
            // An error about it is translated back.
            let mut f = icmp_error(net.outside, net.node, &frame(next, from, target));
            assert_eq!(t.run(Hook::FromUplink, UPLINK, &mut f), Action::Redirect);
            let (_, outer, inner) = verify_icmp_error(&f);
            assert_eq!((outer, inner), ((net.outside, net.a), (client, target)));
        }
        // Within the pod network the source is kept.
        expect(t, FROM_A, Kind::Syn, (client, at(net.remote, 80)), OUT, (client, at(net.remote, 80)));
        expect(t, FROM_A, Kind::Syn, (client, at(net.b, 80)), TO_B, (client, at(net.b, 80)));
        // A Service with an endpoint outside the cluster.
        service(t, at(net.vip, 80), target);
        let mut f = frame(Kind::Syn, client, at(net.vip, 80));
        assert_eq!(t.run(Hook::FromPod, POD_A, &mut f), Action::Redirect);
        let (from, dst) = verify(&f, 0);
        assert_eq!((from.ip(), dst), (net.node, target));
        expect(t, FROM_UPLINK, Kind::SynAck, (target, from), TO_A, (at(net.vip, 80), client));
    }
}

/// A port of the pool is kept as long as no other connection to the destination has it.
pub(crate) fn client_port_in_the_pool_is_kept<T: Testbed>(t: &mut T) {
    for net in masquerading(t) {
        let (client, target) = (at(net.a, SNAT_MIN + 77), at(net.outside, 443));
        for (first, reply) in DIALOGUES {
            let from = leave(t, first, client, target);
            assert_eq!(from, at(net.node, client.port()), "{first:?}");
            expect(t, FROM_UPLINK, reply, (target, from), TO_A, (target, client));
            let mut f = frame(first, at(net.b, client.port()), target);
            assert_eq!(t.run(Hook::FromPod, POD_B, &mut f), Action::Redirect);
            let (other, _) = verify(&f, 0);
            assert_ne!(other.port(), client.port(), "{first:?}: the port is taken");
            assert!((SNAT_MIN..=SNAT_MAX).contains(&other.port()), "{other}");
        }
    }
}

/// Report 7: the cloud's metadata server and resolver are outside, unless a device of the node has
/// the address, or the host's routes lead there.
pub(crate) fn link_local_ipv4_is_masqueraded_like_the_outside<T: Testbed>(t: &mut T) {
    let [net, _] = masquerading(t);
    let (client, metadata) = (at(net.a, 40000), at("169.254.169.254".parse().unwrap(), 80));
    for (first, reply) in DIALOGUES {
        let from = leave(t, first, client, metadata);
        assert_eq!(from.ip(), net.node);
        expect(t, FROM_UPLINK, reply, (metadata, from), TO_A, (metadata, client));
    }
    let cache = at("169.254.20.10".parse().unwrap(), 53);
    t.put_addr(cache.ip(), AddressInfo { ifindex: 0, kind: address_kind::NODE, flags: 0, mac: [0; 6] });
    let by_host = at("169.254.170.2".parse().unwrap(), 80);
    t.put_network(
        by_host.ip(),
        32,
        Network { oif: 0, flags: network_flags::OWN | network_flags::KEEP_SOURCE, node: 0 },
    );
    for kind in [Kind::Syn, Kind::Udp] {
        for to in [cache, by_host] {
            expect(t, FROM_A, kind, (client, to), HOST, (client, to));
        }
    }
}

pub(crate) fn ping_is_masqueraded<T: Testbed>(t: &mut T) {
    for net in masquerading(t) {
        let mut f = echo(net.a, net.outside, 77);
        assert_eq!(t.run(Hook::FromPod, POD_A, &mut f), Action::Redirect);
        let ((from, to), id) = verify_echo(&f);
        assert_eq!((from, to), (net.node, net.outside));
        assert!((SNAT_MIN..=SNAT_MAX).contains(&id), "{id}");
        let mut about = f.clone();
        let mut reply = echo_reply(net.outside, net.node, id);
        assert_eq!(t.run(Hook::FromUplink, UPLINK, &mut reply), Action::Redirect);
        assert!(t.target().is_none_or(|t| t == POD_A));
        assert_eq!(verify_echo(&reply), ((net.outside, net.a), 77));
        // An error about the echo request.
        let mut error = icmp_error(net.outside, net.node, &about);
        assert_eq!(t.run(Hook::FromUplink, UPLINK, &mut error), Action::Redirect);
        let (_, outer, _) = verify_icmp_error(&error);
        assert_eq!(outer, (net.outside, net.a));
        about.clear();
        // Replies to a packet without ports or identifier could not be recognized.
        let mut opaque = frame(Kind::Udp, at(net.a, 1), at(net.outside, 2));
        opaque[if net.a.is_ipv4() { 23 } else { 20 }] = 47;
        if net.a.is_ipv4() {
            crate::frame::fix_ipv4_checksum(&mut opaque);
        }
        expect_drop(t, FROM_A, opaque, DropReason::NotTranslatable);
    }
}

pub(crate) fn snat_port_exhaustion_drops_new_flows<T: Testbed>(t: &mut T) {
    let families = masquerading(t);
    let features = node_features::NETWORKS | node_features::MASQUERADE;
    t.put_config(NodeConfig { features, snat_port_max: SNAT_MIN, ..config(&families) });
    for net in families {
        let target = at(net.outside, 443);
        assert_eq!(leave(t, Kind::Udp, at(net.a, 40000), target), at(net.node, SNAT_MIN));
        expect_drop(t, FROM_A, frame(Kind::Udp, at(net.a, 40001), target), DropReason::SnatPortsExhausted);
        // Ports are reserved per destination.
        assert_eq!(leave(t, Kind::Udp, at(net.a, 40001), at(net.outside, 444)).port(), SNAT_MIN);
    }
}

/// One port, which a new connection gets as soon as the old one has ended, also without an agent.
pub(crate) fn full_pool_gives_the_port_of_an_ended_connection<T: Testbed>(t: &mut T) {
    const CLOSING: u32 = 24;
    const UDP: u32 = 100;
    let families = node(t);
    let features = node_features::NETWORKS | node_features::MASQUERADE;
    t.put_config(NodeConfig {
        features,
        snat_port_max: SNAT_MIN,
        closing_ticks: CLOSING,
        udp_ticks: UDP,
        tcp_ticks: 1000,
        ..config(&families)
    });
    let dialogues: [(&[Kind], u32); 6] = [
        (&[Kind::Syn], CLOSING / 2),
        (&[Kind::Syn, Kind::Rst], CLOSING / 12),
        (&[Kind::Syn, Kind::Ack, Kind::Fin], CLOSING / 12),
        (&[Kind::Udp], CLOSING / 2),
        (&[Kind::Syn, Kind::Ack], 1000),
        (&[Kind::Sctp], UDP),
    ];
    for net in families {
        let world = at(net.outside, 443);
        let shown = at(net.node, SNAT_MIN);
        for (kinds, limit) in dialogues {
            let (old, new) = (at(net.a, fresh_port()), at(net.a, fresh_port()));
            for kind in kinds {
                assert_eq!(leave(t, *kind, old, world), shown, "{kind:?}");
                if *kind == Kind::Ack || *kind == Kind::Fin {
                    expect(t, FROM_UPLINK, *kind, (world, shown), TO_A, (world, old));
                }
            }
            let slack = t.clock_slack();
            t.advance(limit - slack);
            let first = kinds[0];
            expect_drop(t, FROM_A, frame(first, new, world), DropReason::SnatPortsExhausted);
            t.advance(slack + 1);
            assert_eq!(leave(t, first, new, world), shown, "{kinds:?} after {limit} ticks");
            assert!(t.flow(old, world, number(first)).is_none(), "{kinds:?}: no half stays");
            t.advance(1001);
        }
    }
}

pub(crate) fn remote_subnet_is_reached_through_the_tunnel<T: Testbed>(t: &mut T) {
    let families = node(t);
    t.put_config(NodeConfig { features: node_features::NETWORKS, tunnels: [0, TUNNEL], ..config(&families) });
    for net in families {
        let len = if net.remote.is_ipv4() { 24 } else { 64 };
        let flags = network_flags::KEEP_SOURCE | network_flags::REMOTE;
        t.put_network(net.remote, len, Network { oif: TUNNEL, flags, node: 0 });
        let (client, remote, vip) = (at(net.a, 40000), at(net.remote, 8080), at(net.vip, 80));
        service(t, vip, remote);
        let tunnel = (Action::Redirect, TUNNEL);
        for kind in [Kind::Syn, Kind::Udp] {
            expect(t, FROM_A, kind, (client, vip), tunnel, (client, remote));
            expect(t, FROM_A, kind, (client, at(net.remote, 9)), tunnel, (client, at(net.remote, 9)));
        }
        expect(t, (Hook::FromUplink, TUNNEL), Kind::SynAck, (remote, client), TO_A, (vip, client));
        expect(t, FROM_A, Kind::Udp, (client, at(net.outside, 9)), OUT, (client, at(net.outside, 9)));
    }
}

pub(crate) fn host_port_reaches_its_pod<T: Testbed>(t: &mut T) {
    for net in node(t) {
        let (front, to) = (at(net.node, 8000), at(net.b, 80));
        for (kind, proto) in [(Kind::Syn, proto::TCP), (Kind::Udp, proto::UDP), (Kind::Sctp, proto::SCTP)] {
            let any = if net.node.is_ipv4() { "0.0.0.0" } else { "::" }.parse().unwrap();
            t.put_host_port(FrontendKey { addr: any, port: 8000, proto, pad: 0 }, to, POD_B);
            let reply = if kind == Kind::Syn { Kind::SynAck } else { kind };
            let client = at(net.outside, 40000);
            expect(t, FROM_UPLINK, kind, (client, front), TO_B, (client, to));
            expect(t, FROM_B, reply, (to, client), OUT, (front, client));
            let pod = at(net.a, 40000);
            expect(t, FROM_A, kind, (pod, front), TO_B, (pod, to));
            expect(t, FROM_B, reply, (to, pod), TO_A, (front, pod));
            // The same port of another host is not touched, and other ports of the node pass to the
            // host.
            expect(t, FROM_A, kind, (pod, at(net.outside, 8000)), OUT, (pod, at(net.outside, 8000)));
            expect(t, FROM_UPLINK, kind, (client, at(net.node, 8001)), HOST, (client, at(net.node, 8001)));
            // An entry for the address itself precedes the one for all, and a Service precedes
            // both.
            t.put_host_port(FrontendKey { addr: net.node, port: 8000, proto, pad: 0 }, at(net.b, 81), POD_B);
            let other = at(net.outside, 40001);
            expect(t, FROM_UPLINK, kind, (other, front), TO_B, (other, at(net.b, 81)));
        }
        service(t, front, at(net.b, 82));
        for kind in [Kind::Syn, Kind::Udp] {
            let client = at(net.outside, 40002);
            expect(t, FROM_UPLINK, kind, (client, front), TO_B, (client, at(net.b, 82)));
        }
    }
}

pub(crate) fn host_port_flow_ends_with_its_pod<T: Testbed>(t: &mut T) {
    for net in node(t) {
        let (front, client) = (at(net.node, 8000), at(net.outside, 40000));
        let key = FrontendKey { addr: net.node, port: 8000, proto: proto::UDP, pad: 0 };
        t.put_host_port(key, at(net.b, 80), POD_B);
        expect(t, FROM_UPLINK, Kind::Udp, (client, front), TO_B, (client, at(net.b, 80)));
        // Another pod has the interface now, and the host port leads elsewhere.
        let [v4, v6] = super::addresses();
        t.put_pod(POD_B, super::pod(99, v4.b, v6.b));
        t.put_host_port(key, at(net.a, 80), POD_A);
        expect(t, FROM_UPLINK, Kind::Udp, (client, front), TO_A, (client, at(net.a, 80)));
        t.put_pod(POD_B, super::pod(u64::from(POD_B), v4.b, v6.b));
    }
}

pub(crate) fn node_icmp_error_has_the_frontend_as_source<T: Testbed>(t: &mut T) {
    for net in node(t) {
        let (front, to, client) = (at(net.node, 30080), at(net.node, 8080), at(net.outside, 50000));
        service(t, front, to);
        expect(t, FROM_UPLINK, Kind::Udp, (client, front), HOST, (client, to));
        // No socket has that port: the host's stack reports it about the translated packet.
        let mut f = icmp_error(net.node, net.outside, &frame(Kind::Udp, client, to));
        assert_eq!(t.run(Hook::ToUplink, UPLINK, &mut f), Action::Pass);
        let (_, outer, inner) = verify_icmp_error(&f);
        assert_eq!((outer, inner), ((net.node, net.outside), (client, front)));
    }
}
