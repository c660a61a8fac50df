//! Full maps and lost entries: a connection opens whole or not at all.
//!
//! The kernel's flow tables evict old entries, and refuse new ones only if memory runs out or other
//! CPUs hold all of a bucket's entries. The model refuses at a chosen insertion.

use dataplane_common::types::event::DropReason;
use dataplane_common::types::pod::{NodeConfig, node_features};
use dataplane_common::types::service::{Frontend, FrontendKey, proto};

use super::headers::fragments;
use super::schedulers::fresh_port;
use super::{
    BOTH_SETS, DIALOGUES, FROM_A, FROM_B, FROM_UPLINK, TO_A, TO_B, at, backend, config, expect, expect_drop, frontend,
    node, number, service,
};
use crate::frame::{Kind, frame, verify};
use crate::model::{Model, Table};
use crate::testbed::{Action, Testbed};

#[test]
fn host_full_flow_table_opens_no_half_of_a_connection() {
    let t = &mut Model::default();
    for net in node(t) {
        let to = at(net.b, 8080);
        for (hook, client, front) in [(FROM_A, net.a, at(net.vip, 80)), (FROM_UPLINK, net.outside, at(net.node, 30080))]
        {
            service(t, front, to);
            for (first, _) in DIALOGUES {
                let client = at(client, fresh_port());
                let before = t.flows();
                for room in [0, 1] {
                    t.limit(Table::Flows, Some(room));
                    expect_drop(t, hook, frame(first, client, front), DropReason::FlowTableFull);
                    assert_eq!(t.flows(), before, "room for {room}: no half stays");
                }
                t.limit(Table::Flows, Some(2));
                expect(t, hook, first, (client, front), TO_B, (client, to));
                assert_eq!(t.flows(), before + 2);
                t.limit(Table::Flows, None);
            }
        }
    }
}

#[test]
fn host_full_flow_table_reserves_no_port() {
    let t = &mut Model::default();
    let families = node(t);
    t.put_config(NodeConfig { features: node_features::NETWORKS | node_features::MASQUERADE, ..config(&families) });
    for net in families {
        let world = at(net.outside, 443);
        let before = t.flows();
        for (room, reason) in [(0, DropReason::FlowTableFull), (1, DropReason::FlowTableFull)] {
            t.limit(Table::Flows, Some(room));
            expect_drop(t, FROM_A, frame(Kind::Udp, at(net.a, 40000), world), reason);
            assert_eq!(t.flows(), before, "room for {room}");
        }
        t.limit(Table::Flows, None);
        let mut f = frame(Kind::Udp, at(net.a, 40000), world);
        assert_eq!(t.run(FROM_A.0, FROM_A.1, &mut f), Action::Redirect);
        assert_eq!((verify(&f, 0).0.ip(), t.flows()), (net.node, before + 2));
    }
}

#[test]
fn host_full_fragment_table_drops_later_fragments_alone() {
    let t = &mut Model::default();
    for net in node(t) {
        service(t, at(net.vip, 53), at(net.b, 5353));
        let (mut first, later, _) = fragments(&frame(Kind::Udp, at(net.a, 40000), at(net.vip, 53)));
        t.limit(Table::Fragments, Some(0));
        assert_eq!(t.run(FROM_A.0, FROM_A.1, &mut first), Action::Redirect);
        expect_drop(t, FROM_A, later, DropReason::UnknownFragment);
        t.limit(Table::Fragments, None);
    }
}

#[test]
fn host_full_affinity_table_chooses_by_the_scheduler() {
    let t = &mut Model::default();
    for net in node(t) {
        let (vip, one, two) = (at(net.vip, 80), at(net.b, 8001), at(net.b, 8002));
        for (id, to) in [(21, one), (22, two)] {
            t.put_backend(id, backend(to, BOTH_SETS, 1));
        }
        let sticky = Frontend { affinity_ticks: 100, service_port: 21, ..frontend(21, 1) };
        t.put_frontend(FrontendKey { addr: net.vip, port: 80, proto: proto::TCP, pad: 0 }, sticky);
        for room in [Some(0), None] {
            t.limit(Table::Affinity, room);
            t.put_slot(21, 21);
            let client = at(net.a, fresh_port());
            expect(t, FROM_A, Kind::Syn, (client, vip), TO_B, (client, one));
            t.put_slot(21, 22);
            let client = at(net.a, fresh_port());
            expect(t, FROM_A, Kind::Syn, (client, vip), TO_B, (client, if room.is_some() { two } else { one }));
        }
    }
}

/// The kernel evicts single entries of a full table. Without its forward half, a connection is
/// opened anew where the protocol allows it.
pub(crate) fn flow_without_its_forward_half_is_opened_again<T: Testbed>(t: &mut T) {
    for net in node(t) {
        let (vip, to) = (at(net.vip, 80), at(net.b, 8080));
        service(t, vip, to);
        for (first, reply) in DIALOGUES {
            let client = at(net.a, fresh_port());
            expect(t, FROM_A, first, (client, vip), TO_B, (client, to));
            t.evict_flow(client, vip, number(first));
            expect(t, FROM_B, reply, (to, client), TO_A, (vip, client));
            if first == Kind::Syn {
                // A segment in the middle of a connection tells nothing of its backend.
                expect_drop(t, FROM_A, frame(Kind::Ack, client, vip), DropReason::NoFlow);
            }
            // Until the rest of the old pair has ended, the new one has another source port.
            let mut f = frame(first, client, vip);
            assert_eq!(t.run(FROM_A.0, FROM_A.1, &mut f), Action::Redirect);
            let (from, dst) = verify(&f, 0);
            assert_eq!((from.ip(), dst), (client.ip(), to));
            expect(t, FROM_B, reply, (to, from), TO_A, (vip, client));
        }
    }
}
