//! Network policy in the packet path: each way of a connection's first packet, its replies, and
//! what happens when a permission is taken away.
//!
//! Pod B has one rule set for connections to it, pod A one for connections that it opens. Numbers
//! such as NP-50 are those of the contract of `NetworkPolicy`.

mod ports;

use std::net::{IpAddr, SocketAddr};

use dataplane_common::types::event::DropReason;
use dataplane_common::types::pod::{NodeConfig, Pod, node_features, pod_flags};
use dataplane_common::types::policy::{PodRules, Rule, RuleKey, decision};
use dataplane_common::types::service::{FrontendKey, proto};

use super::headers::fragments;
use super::schedulers::fresh_port;
use super::{
    DIALOGUES, FROM_A, FROM_B, FROM_UPLINK, FamilyAddresses, HOST, OUT, POD_A, POD_B, TO_A, TO_B, UPLINK, addresses,
    at, config, expect, expect_drop, node, number, service,
};
use crate::frame::{Kind, echo, echo_reply, frame, frame_with_ttl, icmp_error, verify};
use crate::testbed::{Action, Hook, Testbed};

pub(crate) use ports::*;

/// Rule sets: connections to pod B, and connections that pod A opens.
const INGRESS: u32 = 1;
const EGRESS: u32 = 2;
/// Class of the peers that the scenario names.
const CLASS: u32 = 7;
/// A device of the host that has no programs.
const FOREIGN: u32 = 300;
const TO_POD_B: (Hook, u32) = (Hook::ToPod, POD_B);

const ALL_PORTS: Rule = Rule {
    table: 0,
    first: 0,
    last: 0,
    proto: 0,
    inside: decision::ALLOW as u8,
    outside: decision::ALLOW as u8,
    pad: 0,
};

/// Returns the rule that allows these ports of TCP alone.
const fn tcp(first: u16, last: u16) -> Rule {
    Rule { first, last, proto: proto::TCP, outside: decision::DENY as u8, ..ALL_PORTS }
}

/// Has the node judge connections in this epoch.
fn set_epoch<T: Testbed>(t: &mut T, policy_epoch: u32, features: u32) {
    let features = node_features::POLICY | features;
    t.put_config(NodeConfig { features, policy_epoch, ..config(&addresses()) });
}

/// Isolates a pod; a set of 0 isolates it not in that direction.
fn isolate<T: Testbed>(t: &mut T, ifindex: u32, ingress: u32, egress: u32) {
    // `super::node` gives each pod its interface index as cookie.
    t.put_pod_rules(ifindex, PodRules { device: ifindex | ifindex << 16, ingress, egress, flags: 0 });
}

/// Fills a node on which pod B is isolated for ingress, and pod A not at all.
fn isolated<T: Testbed>(t: &mut T) -> [FamilyAddresses; 2] {
    let families = node(t);
    set_epoch(t, 1, 0);
    isolate(t, POD_B, INGRESS, 0);
    isolate(t, POD_A, 0, 0);
    families
}

fn allow<T: Testbed>(t: &mut T, set: u32, peer: IpAddr, rule: Rule) {
    t.put_peer(peer, CLASS);
    t.put_rule(RuleKey { set, class: CLASS }, Some(rule));
}

/// Takes the rule of [`allow`] away.
fn forbid<T: Testbed>(t: &mut T, set: u32) {
    t.put_rule(RuleKey { set, class: CLASS }, None);
}

fn next(first: Kind) -> Kind {
    if first == Kind::Syn { Kind::Ack } else { first }
}

/// NP-9, NP-50, NP-67 and way 1: on one node, the sender's program judges for both pods.
pub(crate) fn np_9_both_ends_on_one_node_are_judged<T: Testbed>(t: &mut T) {
    for net in isolated(t) {
        for (first, reply) in DIALOGUES {
            forbid(t, INGRESS);
            forbid(t, EGRESS);
            isolate(t, POD_A, 0, 0);
            let (a, b) = (at(net.a, fresh_port()), at(net.b, 8080));
            expect_drop(t, FROM_A, frame(first, a, b), DropReason::PolicyIngress);
            assert_eq!(t.flow(a, b, number(first)), None, "a refused packet leaves no flow");
            allow(t, INGRESS, net.a, ALL_PORTS);
            expect(t, FROM_A, first, (a, b), TO_B, (a, b));
            // The client may be isolated: it is an answer.
            isolate(t, POD_A, INGRESS + 10, 0);
            expect(t, FROM_B, reply, (b, a), TO_A, (b, a));
            expect(t, FROM_A, next(first), (a, b), TO_B, (a, b));
            // The other way round it is another connection.
            let (back, to) = (at(net.b, fresh_port()), at(net.a, 8080));
            expect_drop(t, FROM_B, frame(first, back, to), DropReason::PolicyIngress);
            // The sender's rules come first.
            isolate(t, POD_A, 0, EGRESS);
            let a = at(net.a, fresh_port());
            expect_drop(t, FROM_A, frame(first, a, b), DropReason::PolicyEgress);
            t.put_peer(net.b, CLASS);
            t.put_rule(RuleKey { set: EGRESS, class: CLASS }, Some(ALL_PORTS));
            expect(t, FROM_A, first, (a, b), TO_B, (a, b));
        }
    }
}

/// NP-39, NP-40, NP-58 and way 3: the backend and its port are judged, not the cluster IP.
pub(crate) fn np_58_service_is_judged_by_its_backend<T: Testbed>(t: &mut T) {
    for net in isolated(t) {
        let (vip, to) = (at(net.vip, 80), at(net.b, 8080));
        service(t, vip, to);
        for (rule, allowed) in [(None, false), (Some(tcp(80, 80)), false), (Some(tcp(8000, 8080)), true)] {
            let client = at(net.a, fresh_port());
            t.put_peer(net.a, CLASS);
            t.put_rule(RuleKey { set: INGRESS, class: CLASS }, rule);
            if allowed {
                expect(t, FROM_A, Kind::Syn, (client, vip), TO_B, (client, to));
                expect(t, FROM_B, Kind::SynAck, (to, client), TO_A, (vip, client));
                expect_drop(t, FROM_A, frame(Kind::Udp, client, vip), DropReason::PolicyIngress);
            } else {
                expect_drop(t, FROM_A, frame(Kind::Syn, client, vip), DropReason::PolicyIngress);
                assert_eq!(t.flow(client, vip, proto::TCP), None);
                assert_eq!(t.flow(to, client, proto::TCP), None);
            }
        }
    }
}

/// NP-34 and way 4 and 5: egress by a Service is judged with the backend, on whichever node it is.
pub(crate) fn np_34_egress_is_judged_after_translation<T: Testbed>(t: &mut T) {
    for net in isolated(t) {
        isolate(t, POD_A, 0, EGRESS);
        let (vip, to) = (at(net.vip, 80), at(net.remote, 8080));
        service(t, vip, to);
        let client = at(net.a, fresh_port());
        allow(t, EGRESS, net.vip, ALL_PORTS);
        expect_drop(t, FROM_A, frame(Kind::Syn, client, vip), DropReason::PolicyEgress);
        forbid(t, EGRESS);
        allow(t, EGRESS, net.remote, tcp(8080, 8080));
        expect(t, FROM_A, Kind::Syn, (client, vip), OUT, (client, to));
        expect(t, FROM_UPLINK, Kind::SynAck, (to, client), TO_A, (vip, client));
        forbid(t, EGRESS);
    }
}

/// NP-29, NP-54 and ways 2 and 15: blocks decide about addresses beyond the node; the longest
/// prefix wins.
pub(crate) fn np_29_block_and_its_exception_decide_beyond_the_node<T: Testbed>(t: &mut T) {
    for net in isolated(t) {
        isolate(t, POD_A, INGRESS, EGRESS);
        let to = at(net.outside, 443);
        let bits = if net.outside.is_ipv4() { 32 } else { 128 };
        for (first, reply) in DIALOGUES {
            let client = at(net.a, fresh_port());
            t.put_rule(RuleKey { set: EGRESS, class: CLASS }, Some(ALL_PORTS));
            t.put_block(net.outside, bits, CLASS + 1);
            t.put_block(net.outside, bits - 8, CLASS);
            expect_drop(t, FROM_A, frame(first, client, to), DropReason::PolicyEgress);
            t.put_block(net.outside, bits, CLASS);
            expect(t, FROM_A, first, (client, to), OUT, (client, to));
            expect(t, FROM_UPLINK, reply, (to, client), TO_A, (to, client));
            expect_drop(t, FROM_UPLINK, frame(first, at(net.outside, 9), at(net.a, 9)), DropReason::PolicyIngress);
            t.put_rule(RuleKey { set: EGRESS, class: CLASS }, None);
        }
    }
}

/// NP-33, NP-59, NP-63 and way 10: the client's own address, and the pod's port.
pub(crate) fn np_59_node_port_and_host_port_are_judged_with_the_client<T: Testbed>(t: &mut T) {
    for net in isolated(t) {
        let (front, hosted, to) = (at(net.node, 30080), at(net.node, 8000), at(net.b, 8080));
        service(t, front, to);
        t.put_host_port(FrontendKey { addr: net.node, port: 8000, proto: proto::TCP, pad: 0 }, to, POD_B);
        for front in [front, hosted, to] {
            let client = at(net.outside, fresh_port());
            forbid(t, INGRESS);
            expect_drop(t, FROM_UPLINK, frame(Kind::Syn, client, front), DropReason::PolicyIngress);
            allow(t, INGRESS, net.outside, tcp(8080, 8080));
            expect(t, FROM_UPLINK, Kind::Syn, (client, front), TO_B, (client, to));
            expect(t, FROM_B, Kind::SynAck, (to, client), OUT, (front, client));
        }
        forbid(t, INGRESS);
    }
}

/// NP-57 and way 6: a pod that reaches itself is not judged.
pub(crate) fn np_57_pod_reaches_itself_through_a_service<T: Testbed>(t: &mut T) {
    for net in isolated(t) {
        isolate(t, POD_A, INGRESS, EGRESS);
        let (vip, to, client) = (at(net.vip, 80), at(net.a, 8080), at(net.a, 40000));
        service(t, vip, to);
        for (first, reply) in DIALOGUES {
            let mut f = frame(first, client, vip);
            assert_eq!(t.run(Hook::FromPod, POD_A, &mut f), Action::Redirect);
            let (from, _) = verify(&f, 0);
            expect(t, FROM_A, reply, (to, from), TO_A, (vip, client));
        }
    }
}

/// NP-51, NP-52 and way 12: the node's own packets pass, and so do the answers, in any isolation.
pub(crate) fn np_51_own_node_reaches_isolated_pods<T: Testbed>(t: &mut T) {
    for net in isolated(t) {
        isolate(t, POD_B, INGRESS, EGRESS);
        t.set_ingress(0);
        for (first, reply) in DIALOGUES {
            let (probe, to) = (at(net.node, fresh_port()), at(net.b, 8080));
            // Without the probe, the same packet is the pod's own.
            if reply != Kind::SynAck {
                expect_drop(t, FROM_B, frame(reply, to, probe), DropReason::PolicyEgress);
            }
            expect(t, TO_POD_B, first, (probe, to), HOST, (probe, to));
            expect(t, FROM_B, reply, (to, probe), HOST, (to, probe));
            expect(t, TO_POD_B, next(first), (probe, to), HOST, (probe, to));
            // A change of rules does not end it.
            set_epoch(t, 2, 0);
            expect(t, FROM_B, next(first), (to, probe), HOST, (to, probe));
            expect(t, TO_POD_B, next(first), (probe, to), HOST, (probe, to));
            set_epoch(t, 1, 0);
        }
        // The host device is the node, too.
        t.put_pod(FOREIGN, Pod { flags: pod_flags::PRESENT | pod_flags::NODE, ..super::pod(5, net.node, net.node) });
        let (probe, to) = (at(net.node, fresh_port()), at(net.b, 8081));
        t.set_ingress(FOREIGN);
        expect(t, TO_POD_B, Kind::Syn, (probe, to), HOST, (probe, to));
        t.set_ingress(0);
    }
}

/// NP-53 and way 14: what a pod opens to its own node is judged.
pub(crate) fn np_53_egress_to_the_own_node_is_judged<T: Testbed>(t: &mut T) {
    for net in isolated(t) {
        isolate(t, POD_A, INGRESS, EGRESS);
        let to = at(net.node, 10250);
        for (first, reply) in DIALOGUES {
            let client = at(net.a, fresh_port());
            expect_drop(t, FROM_A, frame(first, client, to), DropReason::PolicyEgress);
            allow(t, EGRESS, net.node, ALL_PORTS);
            expect(t, FROM_A, first, (client, to), HOST, (client, to));
            expect(t, (Hook::ToPod, POD_A), reply, (to, client), HOST, (to, client));
            expect(t, FROM_A, next(first), (client, to), HOST, (client, to));
            forbid(t, EGRESS);
        }
    }
}

/// Way 16: packets that the host's stack forwards from devices without programs.
pub(crate) fn packets_forwarded_by_the_host_are_judged<T: Testbed>(t: &mut T) {
    for net in isolated(t) {
        isolate(t, POD_B, INGRESS, EGRESS);
        for (first, reply) in DIALOGUES {
            let (client, to) = (at(net.other, fresh_port()), at(net.b, 8080));
            t.set_ingress(FOREIGN);
            expect_drop(t, TO_POD_B, frame(first, client, to), DropReason::PolicyIngress);
            allow(t, INGRESS, net.other, ALL_PORTS);
            expect(t, TO_POD_B, first, (client, to), HOST, (client, to));
            expect(t, FROM_B, reply, (to, client), HOST, (to, client));
            expect(t, TO_POD_B, next(first), (client, to), HOST, (client, to));
            // Its permission is taken away.
            forbid(t, INGRESS);
            set_epoch(t, 2, 0);
            expect_drop(t, TO_POD_B, frame(next(first), client, to), DropReason::PolicyIngress);
            set_epoch(t, 1, 0);
            t.set_ingress(0);
        }
    }
}

/// A packet that was judged where it arrived, and that the host's stack forwards for another
/// reason.
pub(crate) fn packet_is_judged_once_on_its_way_through_the_host<T: Testbed>(t: &mut T) {
    for net in isolated(t) {
        let (vip, to, client) = (at(net.vip, 80), at(net.b, 8080), at(net.a, fresh_port()));
        service(t, vip, to);
        allow(t, INGRESS, net.a, ALL_PORTS);
        expect(t, FROM_A, Kind::Udp, (client, vip), TO_B, (client, to));
        expect(t, FROM_A, Kind::Udp, (client, at(net.b, 9)), TO_B, (client, at(net.b, 9)));
        forbid(t, INGRESS);
        t.set_ingress(POD_A);
        // Translated by its flow, and untranslated.
        for to in [to, at(net.b, 9)] {
            expect(t, TO_POD_B, Kind::Udp, (client, to), HOST, (client, to));
        }
        expect_drop(t, TO_POD_B, frame(Kind::Udp, client, at(net.b, 10)), DropReason::PolicyIngress);
        // An expiring hop limit sends a packet to the stack, judged or not.
        let mut f = frame_with_ttl(Kind::Udp, client, at(net.b, 11), 1);
        assert_eq!(t.run(Hook::FromPod, POD_A, &mut f), Action::Drop);
        t.set_ingress(0);
    }
}

/// NP-78 (D-20): a connection that loses its permission ends with its next packet, whichever end
/// sends it; one that keeps it goes on.
pub(crate) fn np_78_revoked_connection_ends_with_its_next_packet<T: Testbed>(t: &mut T) {
    for net in isolated(t) {
        let vip = at(net.vip, 80);
        service(t, vip, at(net.b, 8080));
        for (first, reply) in DIALOGUES {
            for front in [at(net.b, 8080), vip] {
                for client_sends in [true, false] {
                    let (to, kind) = (at(net.b, 8080), next(first));
                    let [lost, kept] = [at(net.a, fresh_port()), at(net.outside, fresh_port())];
                    let outside = if front == vip { to } else { front };
                    set_epoch(t, 1, 0);
                    allow(t, INGRESS, net.a, ALL_PORTS);
                    allow(t, INGRESS, net.outside, ALL_PORTS);
                    expect(t, FROM_A, first, (lost, front), TO_B, (lost, to));
                    expect(t, FROM_B, reply, (to, lost), TO_A, (front, lost));
                    expect(t, FROM_UPLINK, first, (kept, outside), TO_B, (kept, to));
                    t.put_peer(net.a, CLASS + 1);
                    set_epoch(t, 2, 0);
                    let (at_hook, f) =
                        if client_sends { (FROM_A, frame(kind, lost, front)) } else { (FROM_B, frame(kind, to, lost)) };
                    expect_drop(t, at_hook, f, DropReason::PolicyIngress);
                    assert_eq!(t.flow(lost, front, number(first)), None, "no half stays");
                    assert_eq!(t.flow(to, lost, number(first)), None, "no half stays");
                    expect(t, FROM_B, reply, (to, kept), OUT, (to, kept));
                    expect(t, FROM_UPLINK, kind, (kept, outside), TO_B, (kept, to));
                }
            }
        }
    }
}

/// A SYN with the ports of an answer opens another connection, in the direction that may be closed.
pub(crate) fn syn_in_the_direction_of_the_answers_is_judged<T: Testbed>(t: &mut T) {
    for net in isolated(t) {
        for outside in [at(net.a, 80), at(net.outside, 80)] {
            let (client, hook) = (at(net.b, fresh_port()), if outside.ip() == net.a { FROM_A } else { FROM_UPLINK });
            let there = if outside.ip() == net.a { TO_A } else { OUT };
            expect(t, FROM_B, Kind::Syn, (client, outside), there, (client, outside));
            expect(t, hook, Kind::SynAck, (outside, client), TO_B, (outside, client));
            expect_drop(t, hook, frame(Kind::Syn, outside, client), DropReason::PolicyIngress);
            expect(t, hook, Kind::Ack, (outside, client), TO_B, (outside, client));
        }
    }
}

/// A connection from before the pod was isolated: the end with the smaller port is the server.
pub(crate) fn connection_from_before_isolation_keeps_its_direction<T: Testbed>(t: &mut T) {
    for net in isolated(t) {
        // Pod B is the client: answers pass.
        let (client, server) = (at(net.b, 40000), at(net.outside, 443));
        expect(t, FROM_UPLINK, Kind::Ack, (server, client), TO_B, (server, client));
        expect_drop(t, FROM_UPLINK, frame(Kind::Syn, server, client), DropReason::PolicyIngress);
        expect(t, FROM_B, Kind::Ack, (client, server), OUT, (client, server));
        set_epoch(t, 2, 0);
        expect(t, FROM_UPLINK, Kind::Ack, (server, client), TO_B, (server, client));
        // Pod B is the server, and nobody may reach it.
        let (client, server) = (at(net.outside, 40000), at(net.b, 443));
        expect_drop(t, FROM_UPLINK, frame(Kind::Ack, client, server), DropReason::PolicyIngress);
        expect_drop(t, FROM_B, frame(Kind::Ack, server, client), DropReason::PolicyIngress);
        set_epoch(t, 1, 0);
    }
}

/// The kernel evicts single halves of a pair. The other half tells who has opened the connection.
pub(crate) fn evicted_half_of_an_untranslated_pair_is_restored<T: Testbed>(t: &mut T) {
    for net in isolated(t) {
        isolate(t, POD_A, INGRESS, 0);
        allow(t, INGRESS, net.a, ALL_PORTS);
        t.put_peer(net.b, CLASS + 1);
        for (first, reply) in DIALOGUES {
            // The client has the smaller port, so that the ports say nothing.
            let (client, server) = (at(net.a, 1000), at(net.b, 50000));
            expect(t, FROM_A, first, (client, server), TO_B, (client, server));
            expect(t, FROM_B, reply, (server, client), TO_A, (server, client));
            t.evict_flow(server, client, number(first));
            expect(t, FROM_B, next(first), (server, client), TO_A, (server, client));
            t.evict_flow(client, server, number(first));
            expect(t, FROM_A, next(first), (client, server), TO_B, (client, server));
            expect(t, FROM_B, next(first), (server, client), TO_A, (server, client));
        }
    }
}

/// NP-50 and NP-48 and way 18: errors about known connections pass, others are judged like any
/// packet without ports.
pub(crate) fn np_50_icmp_errors_of_known_connections_pass<T: Testbed>(t: &mut T) {
    for net in isolated(t) {
        let (client, server) = (at(net.b, fresh_port()), at(net.outside, 443));
        expect(t, FROM_B, Kind::Udp, (client, server), OUT, (client, server));
        let mut f = icmp_error(net.other, net.b, &frame(Kind::Udp, client, server));
        assert_eq!(t.run(Hook::FromUplink, UPLINK, &mut f), Action::Redirect);
        let stray = icmp_error(net.other, net.b, &frame(Kind::Udp, at(net.b, 1), server));
        expect_drop(t, FROM_UPLINK, stray.clone(), DropReason::PolicyIngress);
        t.set_ingress(FOREIGN);
        expect_drop(t, TO_POD_B, stray.clone(), DropReason::PolicyIngress);
        t.set_ingress(0);
        assert_eq!(t.run(Hook::ToPod, POD_B, &mut stray.clone()), Action::Pass, "the node itself reports it");
        // Ping: rules with ports do not allow it, rules without do.
        let ping = echo(net.a, net.b, 7);
        allow(t, INGRESS, net.a, tcp(0, u16::MAX));
        expect_drop(t, FROM_A, ping.clone(), DropReason::PolicyIngress);
        allow(t, INGRESS, net.a, ALL_PORTS);
        assert_eq!(t.run(Hook::FromPod, POD_A, &mut ping.clone()), Action::Redirect);
        isolate(t, POD_A, INGRESS + 10, 0);
        assert_eq!(t.run(Hook::FromPod, POD_B, &mut echo_reply(net.b, net.a, 7)), Action::Redirect);
        isolate(t, POD_A, 0, 0);
    }
}

/// NP-68: a fragment without its first one never reaches an isolated pod.
pub(crate) fn np_68_unknown_fragment_does_not_reach_an_isolated_pod<T: Testbed>(t: &mut T) {
    for net in isolated(t) {
        let whole = frame(Kind::Udp, at(net.other, fresh_port()), at(net.b, 53));
        let (first, later, stranger) = fragments(&whole);
        t.set_ingress(FOREIGN);
        expect_drop(t, TO_POD_B, stranger.clone(), DropReason::UnknownFragment);
        expect_drop(t, TO_POD_B, first.clone(), DropReason::PolicyIngress);
        expect_drop(t, TO_POD_B, later.clone(), DropReason::PolicyIngress);
        allow(t, INGRESS, net.other, ALL_PORTS);
        for f in [first, later] {
            assert_eq!(t.run(Hook::ToPod, POD_B, &mut f.clone()), Action::Pass);
        }
        forbid(t, INGRESS);
        t.set_ingress(0);
        assert_eq!(t.run(Hook::ToPod, POD_B, &mut stranger.clone()), Action::Pass, "the node itself sends it");
    }
}

/// Masquerading comes after the judgement, with the pod's own address (NP-34).
pub(crate) fn masqueraded_egress_is_judged<T: Testbed>(t: &mut T) {
    for net in isolated(t) {
        set_epoch(t, 1, node_features::NETWORKS | node_features::MASQUERADE);
        isolate(t, POD_A, INGRESS, EGRESS);
        let to = at(net.outside, 443);
        for (first, reply) in DIALOGUES {
            let client = at(net.a, fresh_port());
            forbid(t, EGRESS);
            expect_drop(t, FROM_A, frame(first, client, to), DropReason::PolicyEgress);
            allow(t, EGRESS, net.outside, ALL_PORTS);
            let mut f = frame(first, client, to);
            assert_eq!(t.run(Hook::FromPod, POD_A, &mut f), Action::Redirect);
            let (from, _) = verify(&f, 0);
            assert_eq!(from.ip(), net.node);
            expect(t, FROM_UPLINK, reply, (to, from), TO_A, (to, client));
        }
        forbid(t, EGRESS);
    }
}

/// NP-74: rules of an earlier pod with the same interface index do not apply. Pods without rules
/// have no flows, also on a node with policies.
pub(crate) fn np_74_rules_are_those_of_one_pod<T: Testbed>(t: &mut T) {
    for net in isolated(t) {
        t.put_pod_rules(POD_B, PodRules { device: POD_B | 99 << 16, ingress: INGRESS, egress: 0, flags: 0 });
        let (a, b) = (at(net.a, fresh_port()), at(net.b, 8080));
        expect(t, FROM_A, Kind::Syn, (a, b), TO_B, (a, b));
        t.put_pod_rules(POD_B, PodRules::default());
        let (a, b) = (at(net.a, fresh_port()), at(net.b, 8080));
        for (from, to, out) in [(a, b, TO_B), (a, at(net.outside, 443), OUT)] {
            expect(t, FROM_A, Kind::Syn, (from, to), out, (from, to));
            assert_eq!(t.flow(from, to, proto::TCP), None, "no flow for pods without rules");
        }
        isolate(t, POD_B, INGRESS, 0);
    }
}

/// A connection beside one to the Service with the same port (T-46): both keep their answers.
pub(crate) fn judged_connection_beside_one_to_the_service_keeps_both<T: Testbed>(t: &mut T) {
    for net in isolated(t) {
        let (vip, to) = (at(net.vip, 80), at(net.b, 8080));
        service(t, vip, to);
        allow(t, INGRESS, net.a, ALL_PORTS);
        for (first, reply) in DIALOGUES {
            let client: SocketAddr = at(net.a, fresh_port());
            expect(t, FROM_A, first, (client, vip), TO_B, (client, to));
            expect(t, FROM_B, reply, (to, client), TO_A, (vip, client));
            let mut f = frame(first, client, to);
            assert_eq!(t.run(Hook::FromPod, POD_A, &mut f), Action::Redirect);
            let (from, _) = verify(&f, 0);
            assert_ne!(from, client, "another source port");
            expect(t, FROM_B, reply, (to, from), TO_A, (to, client));
            expect(t, FROM_B, reply, (to, client), TO_A, (vip, client));
        }
    }
}
