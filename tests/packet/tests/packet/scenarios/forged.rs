//! The spoof matrix: forged packets of each place, raw, tagged, in fragments and with options or
//! extension headers, of both families. None is delivered, none changes a flow, each is counted.
//!
//! `ROPEWAY_FORGED` is the number of packets of each place. What a namespace adds, such as the
//! host's stack, is in `tests/namespace/anti_spoofing/`.

use std::net::{IpAddr, SocketAddr};

use dataplane_common::types::pod::{Network, NodeConfig, TUNNEL_VNI, network_flags, node_features};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};

use super::martians::{KINDS, THIRD, ip, martians, with_networks};
use super::tunnel::encapsulated;
use super::{
    FROM_A, FROM_UPLINK, FamilyAddresses, TO_A, TO_B, TUNNEL, UPLINK, at, config, expect, fragments, number, service,
};
use crate::frame::{Kind, frame, with_extra_header};
use crate::testbed::{Action, Hook, Testbed};

const PACKETS: u64 = 20_000;

/// The form in which a packet is forged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Raw,
    Tagged,
    Options,
    FirstFragment,
    LaterFragment,
}

const FORMS: [Form; 5] = [Form::Raw, Form::Tagged, Form::Options, Form::FirstFragment, Form::LaterFragment];

impl Form {
    fn of(self, frame: &[u8]) -> Vec<u8> {
        match self {
            Self::Raw => frame.to_vec(),
            Self::Tagged => [&frame[..12], &[0x81, 0, 0, 0][..], &frame[12..]].concat(),
            Self::Options if crate::frame::is_v6(frame) => with_extra_header(frame, 60, &[0; 8]),
            Self::Options => with_extra_header(frame, 0, &[1; 8]),
            Self::FirstFragment => fragments(frame).0,
            // Of a datagram whose first fragment nobody has sent.
            Self::LaterFragment => fragments(frame).2,
        }
    }
}

/// A node with connections that forged packets could hit, and its addresses.
fn with_connections<T: Testbed>(t: &mut T) -> [FamilyAddresses; 2] {
    let families = with_networks(t);
    let features = node_features::NETWORKS | node_features::MASQUERADE;
    t.put_config(NodeConfig { features, tunnels: [TUNNEL, 0], tunnel_port: 4789, ..config(&families) });
    for net in families {
        let [bits, host] = if net.a.is_ipv4() { [24, 32] } else { [64, 128] };
        let third = Network { oif: TUNNEL, flags: network_flags::REMOTE | network_flags::KEEP_SOURCE, node: THIRD };
        t.put_network(third_pod(&net), bits, third);
        let node = Network { oif: TUNNEL, flags: network_flags::NODE | network_flags::KEEP_SOURCE, node: THIRD };
        t.put_network(third_node(&net), host, node);
        let (port, vip, to) = (at(net.node, 30080), at(net.vip, 80), at(net.b, 8080));
        service(t, port, to);
        service(t, vip, to);
        for kind in [Kind::Syn, Kind::Udp] {
            expect(t, FROM_A, kind, (at(net.a, 40000), vip), TO_B, (at(net.a, 40000), to));
            expect(t, FROM_UPLINK, kind, (at(net.outside, 50000), port), TO_B, (at(net.outside, 50000), to));
        }
        let mut answer = frame(Kind::SynAck, to, at(net.a, 40000));
        assert_eq!(t.run(Hook::FromPod, super::POD_B, &mut answer), TO_A.0);
    }
    families
}

fn third_pod(net: &FamilyAddresses) -> IpAddr {
    ip(if net.a.is_ipv4() { "10.3.0.1" } else { "fd00:3::1" })
}

fn third_node(net: &FamilyAddresses) -> IpAddr {
    ip(if net.a.is_ipv4() { "198.51.100.8" } else { "2001:db8::8" })
}

/// Returns a destination: a Service, a node port, a pod, the node, another node, the outside.
fn target(rng: &mut StdRng, net: &FamilyAddresses) -> SocketAddr {
    let hosts = [net.node, net.b, net.a, net.vip, net.remote, net.other, net.outside, net.free_vip];
    let known = [at(net.vip, 80), at(net.node, 30080), at(net.b, 8080), at(net.a, 40000), at(net.outside, 50000)];
    if rng.random_bool(0.6) { *known.choose(rng).unwrap() } else { at(*hosts.choose(rng).unwrap(), rng.random()) }
}

fn port(rng: &mut StdRng) -> u16 {
    if rng.random_bool(0.6) { *[40000, 50000, 8080, 80, 30080].choose(rng).unwrap() } else { rng.random() }
}

/// Sends forged packets, and expects that all are dropped and counted, and that no flow changes.
/// `forge` returns a frame with a false source to a target; `unseen`: later fragments without a
/// first one are left to the host's stack, which has none either.
fn expect_all_dropped<T: Testbed>(
    t: &mut T,
    (hook, ifindex): (Hook, u32),
    unseen: Action,
    mut forge: impl FnMut(&mut StdRng, &FamilyAddresses, Form) -> Vec<u8>,
) {
    let families = with_connections(t);
    let packets = crate::number("ROPEWAY_FORGED", PACKETS);
    let mut rng = StdRng::seed_from_u64(packets);
    let (flows, before) = (t.all_flows(), t.all_drops());
    let mut dropped = 0;
    for n in 0..packets {
        let (net, form) = (&families[n as usize % 2], FORMS[n as usize / 2 % FORMS.len()]);
        let forged = forge(&mut rng, net, form);
        let mut f = forged.clone();
        let action = t.run(hook, ifindex, &mut f);
        let passes = form == Form::LaterFragment && unseen == Action::Pass;
        let expected = if passes { Action::Pass } else { Action::Drop };
        assert_eq!(action, expected, "packet {n}, {form:?}: {forged:x?}");
        dropped += u64::from(!passes);
    }
    let counted: u64 = t.all_drops().iter().zip(before).map(|(after, before)| after - before).sum();
    assert_eq!(counted, dropped, "every drop has a reason");
    assert_eq!(t.all_flows(), flows, "a flow has changed");
}

pub(crate) fn forged_packets_of_a_pod_are_dropped<T: Testbed>(t: &mut T) {
    expect_all_dropped(t, FROM_A, Action::Drop, |rng, net, form| {
        let others = [net.b, net.node, net.vip, net.remote, net.other, net.outside, third_pod(net)];
        let mut sources = martians(net);
        sources.extend(others);
        sources.retain(|source| *source != net.a);
        let source = *sources.choose(rng).unwrap();
        let mut f = frame(*KINDS.choose(rng).unwrap(), at(source, port(rng)), target(rng, net));
        if rng.random_bool(0.2) {
            // The pod's own address with another MAC.
            f = frame(*KINDS.choose(rng).unwrap(), at(net.a, port(rng)), target(rng, net));
            f[6..12].copy_from_slice(&[2, 0, 0, 0, 0, rng.random_range(2..=255)]);
        }
        form.of(&f)
    });
}

pub(crate) fn forged_packets_of_the_link_are_dropped<T: Testbed>(t: &mut T) {
    expect_all_dropped(t, FROM_UPLINK, Action::Pass, |rng, net, form| {
        let mut sources = martians(net);
        // Pods of other nodes, which come by the tunnel. Their datagrams to the node itself pass:
        // pods reach some addresses of it without the tunnel.
        sources.extend([net.remote, third_pod(net)]);
        let source = *sources.choose(rng).unwrap();
        let mut to = target(rng, net);
        if [net.remote, third_pod(net)].contains(&source) {
            to = *[at(net.vip, 80), at(net.node, 30080), at(net.b, 8080)].choose(rng).unwrap();
        }
        form.of(&frame(*KINDS.choose(rng).unwrap(), at(source, port(rng)), to))
    });
}

pub(crate) fn forged_packets_in_the_tunnel_of_a_node_are_dropped<T: Testbed>(t: &mut T) {
    expect_all_dropped(t, FROM_UPLINK, Action::Pass, |rng, net, form| {
        // The families of outer and inner packet are independent.
        let inner = *super::addresses().choose(rng).unwrap();
        let mut sources = martians(&inner);
        sources.extend([third_pod(&inner), third_node(&inner), inner.outside]);
        // Neighbour discovery has this source, and reaches the node alone.
        sources.retain(|source| source.is_ipv4() || !source.is_unspecified());
        let kind = *KINDS.choose(rng).unwrap();
        let inside = frame(kind, at(*sources.choose(rng).unwrap(), port(rng)), target(rng, &inner));
        let to = *[net.node, net.vip, net.outside].choose(rng).unwrap();
        let ends = (at(net.other, port(rng)), at(to, 4789));
        let outer = |inside: &[u8]| encapsulated(ends, TUNNEL_VNI, inside);
        // A tag inside, as at the link; other forms of the outer packet.
        if form == Form::Tagged { outer(&form.of(&inside)) } else { form.of(&outer(&inside)) }
    });
}

pub(crate) fn datagrams_of_strangers_to_the_tunnel_are_dropped<T: Testbed>(t: &mut T) {
    expect_all_dropped(t, (Hook::FromUplink, UPLINK), Action::Pass, |rng, net, form| {
        let inner = *super::addresses().choose(rng).unwrap();
        let inside = frame(*KINDS.choose(rng).unwrap(), at(inner.remote, port(rng)), target(rng, &inner));
        let from =
            *[net.outside, ip(if net.a.is_ipv4() { "203.0.113.9" } else { "2001:db8:9::9" })].choose(rng).unwrap();
        form.of(&encapsulated((at(from, port(rng)), at(net.node, 4789)), TUNNEL_VNI, &inside))
    });
}

/// The flows of the connections are found by the packets that belong to them.
pub(crate) fn honest_packets_beside_the_forged_ones_are_delivered<T: Testbed>(t: &mut T) {
    for net in with_connections(t) {
        let (vip, to, client) = (at(net.vip, 80), at(net.b, 8080), at(net.a, 40000));
        expect(t, FROM_A, Kind::Ack, (client, vip), TO_B, (client, to));
        assert!(t.flow(client, vip, number(Kind::Ack)).is_some());
    }
}
