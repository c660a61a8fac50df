//! Who may replace or remove a flow: packets of other connections, and forged ones, change nothing.

use std::net::SocketAddr;

use dataplane_common::types::event::DropReason;
use dataplane_common::types::pod::{Network, NodeConfig, network_flags, node_features};

use super::backend_removal::{DRAINING, succeed};
use super::schedulers::fresh_port;
use super::{
    DIALOGUES, FROM_A, FROM_B, FROM_UPLINK, FamilyAddresses, HOST, OUT, POD_B, SNAT_MAX, SNAT_MIN, TO_A, TO_B, UPLINK,
    at, backend, config, expect, expect_drop, node, number, service,
};
use crate::frame::{Kind, frame, verify};
use crate::testbed::{Action, Hook, Testbed};

const UDP: u32 = 100;
const TCP: u32 = 1000;
pub(super) const CLOSING: u32 = 30;

/// Fills a node with these timeouts.
pub(super) fn with_timeouts<T: Testbed>(t: &mut T) -> [FamilyAddresses; 2] {
    let families = node(t);
    t.put_config(NodeConfig { udp_ticks: UDP, tcp_ticks: TCP, closing_ticks: CLOSING, ..config(&families) });
    families
}

/// Returns the packet that follows the first one and its reply.
fn next(first: Kind) -> Kind {
    if first == Kind::Syn { Kind::Ack } else { first }
}

/// A connection to pod B: where its packets arrive, where its replies leave, client and frontend.
#[derive(Clone, Copy)]
pub(super) struct Connection {
    pub(super) from: (Hook, u32),
    pub(super) back: (Action, u32),
    pub(super) client: SocketAddr,
    pub(super) front: SocketAddr,
}

/// Opens a connection, whose backend answers.
#[track_caller]
pub(super) fn open<T: Testbed>(t: &mut T, first: Kind, reply: Kind, to: SocketAddr, c: Connection) {
    expect(t, c.from, first, (c.client, c.front), TO_B, (c.client, to));
    expect(t, FROM_B, reply, (to, c.client), c.back, (c.front, c.client));
    expect_open(t, next(first), to, c);
}

/// Expects that packets of a connection are translated in both directions.
#[track_caller]
pub(super) fn expect_open<T: Testbed>(t: &mut T, kind: Kind, to: SocketAddr, c: Connection) {
    expect(t, c.from, kind, (c.client, c.front), TO_B, (c.client, to));
    expect(t, FROM_B, kind, (to, c.client), c.back, (c.front, c.client));
}

/// Expects that a packet is sent to `to` with the client's address and a port of the pool. Returns
/// that source.
#[track_caller]
pub(super) fn translated_port<T: Testbed>(
    t: &mut T,
    (hook, ifindex): (Hook, u32),
    mut f: Vec<u8>,
    (client, to): (SocketAddr, SocketAddr),
) -> SocketAddr {
    assert_eq!(t.run(hook, ifindex, &mut f), Action::Redirect, "from {client}");
    let (from, dst) = verify(&f, 0);
    assert_eq!((from.ip(), dst), (client.ip(), to), "the client's address is kept");
    assert!((SNAT_MIN..=SNAT_MAX).contains(&from.port()), "{from}");
    from
}

/// Returns a connection of pod A to a cluster IP, and one from outside to a node port.
pub(super) fn connections(net: &FamilyAddresses, port: u16) -> [Connection; 2] {
    [
        Connection { from: FROM_A, back: TO_A, client: at(net.a, port), front: at(net.vip, 80) },
        Connection { from: FROM_UPLINK, back: OUT, client: at(net.outside, port), front: at(net.node, 30080) },
    ]
}

/// One client port, two frontends of one backend: the second connection gets another source port.
pub(crate) fn two_frontends_of_one_backend_keep_their_replies<T: Testbed>(t: &mut T) {
    for net in with_timeouts(t) {
        let to = at(net.b, 8080);
        for (first, reply) in DIALOGUES {
            for c in connections(&net, fresh_port()) {
                let other = at(c.front.ip(), c.front.port() + 1);
                service(t, other, to);
                service(t, c.front, to);
                open(t, first, reply, to, c);
                let from = translated_port(t, c.from, frame(first, c.client, other), (c.client, to));
                expect(t, FROM_B, reply, (to, from), c.back, (other, c.client));
                expect(t, c.from, next(first), (c.client, other), TO_B, (from, to));
                expect_open(t, next(first), to, c);
            }
        }
    }
}

pub(crate) fn taken_reply_key_without_a_free_port_is_dropped<T: Testbed>(t: &mut T) {
    let families = with_timeouts(t);
    t.put_config(NodeConfig { snat_port_min: 0, ..config(&families) });
    for net in families {
        let to = at(net.b, 8080);
        for (first, reply) in DIALOGUES {
            for c in connections(&net, fresh_port()) {
                let other = at(c.front.ip(), c.front.port() + 1);
                service(t, other, to);
                service(t, c.front, to);
                open(t, first, reply, to, c);
                expect_drop(t, c.from, frame(first, c.client, other), DropReason::SnatPortsExhausted);
                assert!(t.flow(c.client, other, number(first)).is_none(), "no half stays");
                expect_open(t, next(first), to, c);
            }
        }
    }
}

/// A pair that has ended is removed whole, for a packet of anybody.
pub(crate) fn ended_pair_is_removed_whole<T: Testbed>(t: &mut T) {
    for net in with_timeouts(t) {
        let to = at(net.b, 8080);
        for (first, reply) in DIALOGUES {
            let [_, c] = connections(&net, fresh_port());
            service(t, c.front, to);
            let idle = if first == Kind::Syn { TCP } else { UDP } + 1;
            open(t, first, reply, to, c);
            t.advance(idle);
            open(t, first, reply, to, c);
            t.advance(idle);
            expect(t, FROM_UPLINK, first, (c.client, to), TO_B, (c.client, to));
            expect(t, FROM_B, reply, (to, c.client), OUT, (to, c.client));
            assert!(t.flow(c.client, c.front, number(first)).is_none(), "no half stays");
        }
    }
}

/// The backend never answers, so only one half is used. It keeps the key of the other one.
pub(crate) fn unanswered_datagrams_keep_the_key_of_their_replies<T: Testbed>(t: &mut T) {
    for net in with_timeouts(t) {
        let to = at(net.b, 8080);
        for kind in [Kind::Udp, Kind::Sctp] {
            for c in connections(&net, fresh_port()) {
                let other = at(c.front.ip(), c.front.port() + 1);
                service(t, other, to);
                service(t, c.front, to);
                for _ in 0..3 {
                    expect(t, c.from, kind, (c.client, c.front), TO_B, (c.client, to));
                    t.advance(UDP / 2);
                }
                let mut f = frame(kind, c.client, other);
                assert_eq!(t.run(c.from.0, c.from.1, &mut f), Action::Redirect);
                assert_ne!(verify(&f, 0).0.port(), c.client.port());
                expect(t, c.from, kind, (c.client, c.front), TO_B, (c.client, to));
            }
        }
    }
}

/// A client has a connection to a Service, and opens one to its backend with the same port. The
/// second one gets another source port, and both last.
pub(crate) fn direct_connection_beside_one_to_the_service_keeps_both<T: Testbed>(t: &mut T) {
    for net in with_timeouts(t) {
        let to = at(net.b, 8080);
        for (first, reply) in DIALOGUES {
            for c in connections(&net, fresh_port()) {
                service(t, c.front, to);
                open(t, first, reply, to, c);
                for _ in 0..2 {
                    let from = translated_port(t, c.from, frame(first, c.client, to), (c.client, to));
                    expect(t, FROM_B, reply, (to, from), c.back, (to, c.client));
                    expect(t, c.from, next(first), (c.client, to), TO_B, (from, to));
                    expect_open(t, next(first), to, c);
                }
            }
        }
    }
}

/// The device of pod B gets another pod, which neither receives nor continues the connections of
/// the old one.
pub(crate) fn flows_of_a_removed_pod_are_not_those_of_the_next_with_its_index<T: Testbed>(t: &mut T) {
    let [v4, v6] = with_timeouts(t);
    for net in [v4, v6] {
        let to = at(net.b, 8080);
        for (first, reply) in DIALOGUES {
            for c in connections(&net, fresh_port()) {
                service(t, c.front, to);
                open(t, first, reply, to, c);
                t.put_pod(POD_B, super::pod(99, "10.1.0.4".parse().unwrap(), "fd00:1::4".parse().unwrap()));
                let next = next(first);
                if next == Kind::Ack {
                    let mut f = frame(next, c.client, c.front);
                    assert_ne!(t.run(c.from.0, c.from.1, &mut f), Action::Redirect, "{:?}", c.from);
                }
                expect_drop(t, FROM_B, frame(next, to, c.client), DropReason::Spoofed);
                t.put_pod(POD_B, super::pod(u64::from(POD_B), v4.b, v6.b));
            }
        }
    }
}

/// A pod of another node has a connection to pod B without flows here, because its own node has
/// translated it. A packet to a node port with that source, forged or not, leaves the answers
/// alone.
pub(crate) fn node_port_flow_of_a_remote_pod_translates_no_direct_answers<T: Testbed>(t: &mut T) {
    let families = with_timeouts(t);
    t.put_config(NodeConfig { features: node_features::NETWORKS, udp_ticks: UDP, tcp_ticks: TCP, ..config(&families) });
    for net in families {
        let to = at(net.b, 8080);
        let len = if net.remote.is_ipv4() { 24 } else { 64 };
        t.put_network(
            net.remote,
            len,
            Network { oif: 0, flags: network_flags::KEEP_SOURCE | network_flags::REMOTE, node: 0 },
        );
        for (first, reply) in DIALOGUES {
            let (client, front) = (at(net.remote, fresh_port()), at(net.node, 30080));
            service(t, front, to);
            expect(t, FROM_UPLINK, first, (client, to), TO_B, (client, to));
            let from = translated_port(t, FROM_UPLINK, frame(first, client, front), (client, to));
            expect(t, FROM_B, reply, (to, client), OUT, (to, client));
            expect(t, FROM_B, reply, (to, from), OUT, (front, client));
        }
    }
}

/// A client has a connection to a Service whose backend is a process of the node, and opens one to
/// that process with the same port.
pub(crate) fn direct_connection_to_the_node_beside_one_to_the_service_keeps_both<T: Testbed>(t: &mut T) {
    for net in with_timeouts(t) {
        let to = at(net.node, 8080);
        for (first, reply) in DIALOGUES {
            let [c, _] = connections(&net, fresh_port());
            service(t, c.front, to);
            expect(t, c.from, first, (c.client, c.front), HOST, (c.client, to));
            expect(t, (Hook::ToUplink, UPLINK), reply, (to, c.client), HOST, (c.front, c.client));
            let mut f = frame(first, c.client, to);
            assert_eq!(t.run(c.from.0, c.from.1, &mut f), Action::Pass);
            let (from, dst) = verify(&f, 0);
            assert_eq!((from.ip(), dst), (c.client.ip(), to), "the client's address is kept");
            assert!((SNAT_MIN..=SNAT_MAX).contains(&from.port()), "{from}");
            expect(t, (Hook::ToUplink, UPLINK), reply, (to, from), HOST, (to, c.client));
            expect(t, (Hook::ToUplink, UPLINK), next(first), (to, c.client), HOST, (c.front, c.client));
        }
    }
}

/// A SYN from outside, while the backend of an established connection takes no new ones.
pub(crate) fn forged_syn_to_a_terminating_backend_ends_no_connection<T: Testbed>(t: &mut T) {
    for net in with_timeouts(t) {
        let (old, new) = (at(net.b, 8080), at(net.a, 8080));
        let [_, c] = connections(&net, fresh_port());
        service(t, c.front, old);
        open(t, Kind::Syn, Kind::SynAck, old, c);
        succeed(t, [old, new], DRAINING, 1);
        for _ in 0..2 {
            expect(t, FROM_UPLINK, Kind::Syn, (c.client, c.front), TO_B, (c.client, old));
            expect_open(t, Kind::Ack, old, c);
        }
        // A backend that has ended has no connection any more.
        t.put_backend(if c.front.is_ipv4() { 1 } else { 2 }, backend(old, 0, 2));
        expect(t, FROM_UPLINK, Kind::Syn, (c.client, c.front), TO_A, (c.client, new));
    }
}

/// A packet from outside with the source of a pod's connection.
pub(crate) fn forged_source_of_a_pod_takes_no_flow<T: Testbed>(t: &mut T) {
    for net in with_timeouts(t) {
        let to = at(net.b, 8080);
        for (first, reply) in DIALOGUES {
            let [c, _] = connections(&net, fresh_port());
            service(t, c.front, to);
            open(t, first, reply, to, c);
            expect_drop(t, FROM_UPLINK, frame(first, c.client, c.front), DropReason::Spoofed);
            expect_open(t, next(first), to, c);
        }
    }
}
