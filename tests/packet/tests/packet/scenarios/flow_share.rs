//! Floods of new flows: each removes flows of floods, and none of a sender within its budget.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use dataplane_common::types::flow_budget::rate;
use dataplane_common::types::pod::NodeConfig;

use super::flow_ownership::{Connection, expect_open, open};
use super::{
    DIALOGUES, FROM_A, FROM_B, FROM_UPLINK, FamilyAddresses, OUT, TO_A, TO_B, at, config, node, number, service,
};
use crate::frame::{Kind, frame};
use crate::testbed::{Action, Testbed};

/// Elements of the rings: a pod may open 16 flows a tick, and 256 at once.
const ENTRIES: u32 = 1024;
/// Flows that a pod may open in the time that a scenario takes, and those of a ring.
const MOST: usize = (rate(ENTRIES) * (16 + 30) + ENTRIES / 2) as usize;
const FLOOD: u16 = 4000;

fn with_budgets<T: Testbed>(t: &mut T) -> [FamilyAddresses; 2] {
    let families = node(t);
    t.put_config(NodeConfig { surplus: ENTRIES, ..config(&families) });
    families
}

/// Runs a packet that must be sent on.
fn send<T: Testbed>(t: &mut T, hook: (crate::testbed::Hook, u32), kind: Kind, from: SocketAddr, to: SocketAddr) {
    assert_eq!(t.run(hook.0, hook.1, &mut frame(kind, from, to)), Action::Redirect, "{kind:?} {from} -> {to}");
}

/// Returns the number of these tuples that have a flow.
fn count<T: Testbed>(t: &mut T, tuples: impl Iterator<Item = (SocketAddr, SocketAddr)>, proto: u8) -> usize {
    tuples.filter(|(from, to)| t.flow(*from, *to, proto).is_some()).count()
}

/// One pod opens thousands of flows, of one packet and of three. The connections of another pod and
/// from outside stay, as do the first ones of the pod itself.
pub(crate) fn flood_of_a_pod_removes_its_own_flows<T: Testbed>(t: &mut T) {
    for net in with_budgets(t) {
        let (vip, node_port, to) = (at(net.vip, 80), at(net.node, 30080), at(net.b, 8080));
        service(t, node_port, to);
        service(t, vip, to);
        for (first, reply) in [DIALOGUES[0], DIALOGUES[1]] {
            let next = if first == Kind::Syn { Kind::Ack } else { first };
            let mine = Connection { from: FROM_A, back: TO_A, client: at(net.a, 999), front: vip };
            let outside = Connection { from: FROM_UPLINK, back: OUT, client: at(net.outside, 999), front: node_port };
            t.advance(1000);
            for held in [mine, outside] {
                open(t, first, reply, to, held);
            }
            let clients = || (1000..1000 + FLOOD).map(|port| (at(net.a, port), vip));
            for (client, _) in clients() {
                send(t, FROM_A, first, client, vip);
                send(t, FROM_B, reply, to, client);
                send(t, FROM_A, next, client, vip);
            }
            let left = count(t, clients(), number(first));
            assert!(left <= MOST, "{first:?}: {left} flows of the flood are left");
            assert!(left >= 256, "{first:?}: the budget is for use, but {left} flows are left");
            let replies = count(t, clients().map(|(client, _)| (to, client)), number(first));
            assert_eq!(replies, left, "pairs go whole");
            // The newest is open, like those of others.
            let newest = Connection { client: at(net.a, 1000 + FLOOD - 1), ..mine };
            for held in [mine, outside, newest] {
                expect_open(t, next, to, held);
            }
        }
    }
}

/// The link forges sources in thousands of networks. A client outside can still connect, and its
/// connection stays, because its backend has answered.
pub(crate) fn forged_flood_removes_no_answered_connection<T: Testbed>(t: &mut T) {
    for net in with_budgets(t) {
        let (front, to) = (at(net.node, 30080), at(net.b, 8080));
        service(t, front, to);
        for (first, reply) in [DIALOGUES[0], DIALOGUES[1]] {
            t.advance(1000);
            let clients = || (1..=FLOOD).map(|n| (at(stranger(front.ip(), n), 7), front));
            let held = |port| Connection { from: FROM_UPLINK, back: OUT, client: at(net.outside, port), front };
            for (n, (client, _)) in clients().enumerate() {
                if n % 500 == 0 {
                    open(t, first, reply, to, held(2000 + n as u16));
                }
                send(t, FROM_UPLINK, first, client, front);
            }
            let left = count(t, clients(), number(first));
            assert!(left <= MOST, "{first:?}: {left} flows of the flood are left");
            if first == Kind::Syn {
                for n in (0..FLOOD).step_by(500) {
                    expect_open(t, Kind::Ack, to, held(2000 + n));
                }
            } else {
                expect_open(t, first, to, held(2000));
            }
        }
    }
}

/// A network outside that opens too many flows costs another one no budget.
pub(crate) fn flood_of_one_network_costs_another_no_budget<T: Testbed>(t: &mut T) {
    for net in with_budgets(t) {
        let (front, to) = (at(net.node, 30080), at(net.b, 8080));
        service(t, front, to);
        t.advance(1000);
        for port in 1..=FLOOD {
            send(t, FROM_UPLINK, Kind::Udp, at(net.outside, port), front);
        }
        // In the budget of its network, so it is not surplus, although nothing has answered.
        let client = at(stranger(front.ip(), 1), 7);
        send(t, FROM_UPLINK, Kind::Udp, client, front);
        for port in 10_000..10_000 + FLOOD {
            send(t, FROM_UPLINK, Kind::Udp, at(net.outside, port), front);
        }
        assert!(t.flow(client, front, number(Kind::Udp)).is_some());
        expect_udp_reply(t, to, client, front);
    }
}

fn expect_udp_reply<T: Testbed>(t: &mut T, from: SocketAddr, client: SocketAddr, front: SocketAddr) {
    super::expect(t, FROM_B, Kind::Udp, (from, client), OUT, (front, client));
    super::expect(t, FROM_UPLINK, Kind::Udp, (client, front), TO_B, (client, from));
}

/// Returns an address of the `n`th network outside.
fn stranger(family_of: IpAddr, n: u16) -> IpAddr {
    let [high, low] = n.to_be_bytes();
    match family_of {
        IpAddr::V4(_) => Ipv4Addr::new(203, high, low, 5).into(),
        IpAddr::V6(_) => Ipv6Addr::new(0x2001, 0xdb8, 0xf00, n, 0, 0, 0, 5).into(),
    }
}
