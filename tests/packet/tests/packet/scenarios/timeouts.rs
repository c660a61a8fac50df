//! Idle flows: each kind of flow is valid until its timeout, and not longer.
//!
//! The three timeouts differ, so that a scenario fails if the program takes the wrong one.

use std::net::SocketAddr;

use dataplane_common::types::event::DropReason;
use dataplane_common::types::pod::{NodeConfig, node_features};

use super::backend_removal::{DRAINING, succeed};
use super::{
    ASSURED, BOTH_SETS, FROM_A, FROM_B, FROM_UPLINK, FamilyAddresses, HOST, OUT, TO_A, TO_B, UPLINK, at, config,
    expect, expect_drop, node, service,
};
use crate::frame::{Kind, echo, echo_reply, frame, verify_echo};
use crate::model::Model;
use crate::testbed::{Action, Hook, Testbed};

const UDP: u32 = 100;
const TCP: u32 = 1000;
const CLOSING: u32 = 30;

/// Fills a node with these timeouts.
fn with_timeouts<T: Testbed>(t: &mut T) -> [FamilyAddresses; 2] {
    let families = node(t);
    t.put_config(NodeConfig { udp_ticks: UDP, tcp_ticks: TCP, closing_ticks: CLOSING, ..config(&families) });
    families
}

/// Returns the longest pause after which a flow with this timeout is still valid.
fn within<T: Testbed>(t: &T, timeout: u32) -> u32 {
    timeout - t.clock_slack()
}

/// Opens a TCP connection from pod A to pod B.
fn handshake<T: Testbed>(t: &mut T, client: SocketAddr, vip: SocketAddr, to: SocketAddr) {
    expect(t, FROM_A, Kind::Syn, (client, vip), TO_B, (client, to));
    expect(t, FROM_B, Kind::SynAck, (to, client), TO_A, (vip, client));
    expect(t, FROM_A, Kind::Ack, (client, vip), TO_B, (client, to));
    expect(t, FROM_B, Kind::Ack, (to, client), TO_A, (vip, client));
}

/// Expects that no flow translates segments in either direction.
#[track_caller]
fn expect_no_connection<T: Testbed>(t: &mut T, client: SocketAddr, vip: SocketAddr, to: SocketAddr) {
    expect_drop(t, FROM_A, frame(Kind::Ack, client, vip), DropReason::NoFlow);
    expect(t, FROM_B, Kind::Ack, (to, client), TO_A, (to, client));
}

pub(crate) fn idle_tcp_connection_ends_after_its_timeout<T: Testbed>(t: &mut T) {
    for net in with_timeouts(t) {
        let (vip, to) = (at(net.vip, 80), at(net.b, 8080));
        service(t, vip, to);
        let client = at(net.a, 40000);
        handshake(t, client, vip, to);
        // Each packet begins the time anew, for its own direction.
        for _ in 0..2 {
            t.advance(within(t, TCP));
            expect(t, FROM_A, Kind::Ack, (client, vip), TO_B, (client, to));
            expect(t, FROM_B, Kind::Ack, (to, client), TO_A, (vip, client));
        }
        t.advance(TCP + 1);
        expect_no_connection(t, client, vip, to);
        // A SYN opens a new connection with the same ports.
        handshake(t, client, vip, to);
    }
}

pub(crate) fn closing_tcp_connection_has_a_short_timeout<T: Testbed>(t: &mut T) {
    for net in with_timeouts(t) {
        let (vip, to) = (at(net.vip, 80), at(net.b, 8080));
        service(t, vip, to);
        for (port, last) in [(40000, Kind::Fin), (40001, Kind::Rst)] {
            let client = at(net.a, port);
            handshake(t, client, vip, to);
            expect(t, FROM_A, last, (client, vip), TO_B, (client, to));
            expect(t, FROM_B, last, (to, client), TO_A, (vip, client));
            // Segments after it are translated, and do not bring the long timeout back.
            for _ in 0..2 {
                t.advance(within(t, CLOSING));
                expect(t, FROM_A, Kind::Ack, (client, vip), TO_B, (client, to));
                expect(t, FROM_B, Kind::Ack, (to, client), TO_A, (vip, client));
            }
            t.advance(CLOSING + 1);
            expect_no_connection(t, client, vip, to);
        }
    }
}

/// One side has sent its FIN, and the other goes on sending.
pub(crate) fn half_closed_tcp_connection_keeps_the_open_direction<T: Testbed>(t: &mut T) {
    for net in with_timeouts(t) {
        let (vip, to, client) = (at(net.vip, 80), at(net.b, 8080), at(net.a, 40000));
        service(t, vip, to);
        handshake(t, client, vip, to);
        expect(t, FROM_A, Kind::Fin, (client, vip), TO_B, (client, to));
        t.advance(CLOSING + 1);
        expect_drop(t, FROM_A, frame(Kind::Ack, client, vip), DropReason::NoFlow);
        expect(t, FROM_B, Kind::Ack, (to, client), TO_A, (vip, client));
    }
}

pub(crate) fn syn_after_a_fin_opens_a_connection_with_the_long_timeout<T: Testbed>(t: &mut T) {
    for net in with_timeouts(t) {
        let (vip, to, client) = (at(net.vip, 80), at(net.b, 8080), at(net.a, 40000));
        service(t, vip, to);
        handshake(t, client, vip, to);
        expect(t, FROM_A, Kind::Fin, (client, vip), TO_B, (client, to));
        expect(t, FROM_B, Kind::Fin, (to, client), TO_A, (vip, client));
        handshake(t, client, vip, to);
        t.advance(CLOSING + 1);
        expect(t, FROM_A, Kind::Ack, (client, vip), TO_B, (client, to));
        expect(t, FROM_B, Kind::Ack, (to, client), TO_A, (vip, client));
    }
}

pub(crate) fn idle_datagram_flow_chooses_a_backend_again<T: Testbed>(t: &mut T) {
    for net in with_timeouts(t) {
        let (vip, old, new) = (at(net.vip, 80), at(net.remote, 8080), at(net.b, 8080));
        for (kind, port) in [(Kind::Udp, 40000), (Kind::Sctp, 40001)] {
            let client = at(net.a, port);
            service(t, vip, old);
            expect(t, FROM_A, kind, (client, vip), OUT, (client, old));
            // The old backend takes connections still, but the slot leads to another one.
            succeed(t, [old, new], BOTH_SETS, 1);
            for _ in 0..2 {
                t.advance(within(t, UDP));
                expect(t, FROM_A, kind, (client, vip), OUT, (client, old));
            }
            t.advance(UDP + 1);
            expect(t, FROM_A, kind, (client, vip), TO_B, (client, new));
        }
    }
}

/// The reply has the timeouts of its own direction.
pub(crate) fn late_reply_is_not_translated<T: Testbed>(t: &mut T) {
    for net in with_timeouts(t) {
        let (vip, to, client) = (at(net.vip, 80), at(net.remote, 8080), at(net.a, 40000));
        service(t, vip, to);
        for kind in [Kind::Udp, Kind::Sctp] {
            expect(t, FROM_A, kind, (client, vip), OUT, (client, to));
            t.advance(within(t, UDP));
            expect(t, FROM_UPLINK, kind, (to, client), TO_A, (vip, client));
            t.advance(UDP + 1);
            expect(t, FROM_UPLINK, kind, (to, client), TO_A, (to, client));
        }
    }
}

/// The host's stack sends the replies of a backend on the node itself.
pub(crate) fn late_reply_of_the_node_is_not_translated<T: Testbed>(t: &mut T) {
    const TO_UPLINK: (Hook, u32) = (Hook::ToUplink, UPLINK);
    for net in with_timeouts(t) {
        let (front, to) = (at(net.node, 30080), at(net.node, 8080));
        service(t, front, to);
        for (first, reply, timeout, port) in [
            (Kind::Syn, Kind::SynAck, TCP, 50000),
            (Kind::Udp, Kind::Udp, UDP, 50001),
            (Kind::Sctp, Kind::Sctp, UDP, 50002),
        ] {
            let client = at(net.outside, port);
            expect(t, FROM_UPLINK, first, (client, front), HOST, (client, to));
            for _ in 0..2 {
                t.advance(within(t, timeout));
                expect(t, TO_UPLINK, reply, (to, client), HOST, (front, client));
            }
            t.advance(timeout + 1);
            expect(t, TO_UPLINK, reply, (to, client), HOST, (to, client));
        }
    }
}

/// A SYN of the same ports is a retransmission for a short time only: afterwards it is a new
/// connection, which a terminating backend does not get.
pub(crate) fn syn_of_an_answered_flow_is_a_retransmission_for_a_short_time<T: Testbed>(t: &mut T) {
    for net in with_timeouts(t) {
        let (vip, old, new) = (at(net.vip, 80), at(net.remote, 8080), at(net.b, 8080));
        for (port, pause, stays) in [(40000, within(t, ASSURED), true), (40001, ASSURED + 1, false)] {
            let client = at(net.a, port);
            service(t, vip, old);
            expect(t, FROM_A, Kind::Syn, (client, vip), OUT, (client, old));
            expect(t, FROM_UPLINK, Kind::SynAck, (old, client), TO_A, (vip, client));
            succeed(t, [old, new], DRAINING, 1);
            t.advance(pause);
            let (way, to) = if stays { (OUT, old) } else { (TO_B, new) };
            expect(t, FROM_A, Kind::Syn, (client, vip), way, (client, to));
        }
    }
}

/// Runs a scenario while the 32 bits of the clock wrap around.
#[test]
fn host_timeouts_hold_while_the_clock_wraps() {
    type Scenario = fn(&mut Model);
    let scenarios: [Scenario; 5] = [
        idle_tcp_connection_ends_after_its_timeout,
        closing_tcp_connection_has_a_short_timeout,
        idle_datagram_flow_chooses_a_backend_again,
        super::unreplied_udp_flow_leaves_a_terminating_backend,
        super::affinity_lasts_while_it_is_used,
    ];
    for scenario in scenarios {
        for before in [0, 1, 10, 100, 1000] {
            let mut model = Model::default();
            model.set_now(u32::MAX - before);
            scenario(&mut model);
        }
    }
}

/// Every protocol but TCP has the timeout of UDP.
pub(crate) fn masqueraded_ping_has_the_timeout_of_datagrams<T: Testbed>(t: &mut T) {
    let families = with_timeouts(t);
    let features = node_features::NETWORKS | node_features::MASQUERADE;
    t.put_config(NodeConfig { udp_ticks: UDP, tcp_ticks: TCP, closing_ticks: CLOSING, features, ..config(&families) });
    for net in families {
        let mut request = echo(net.a, net.outside, 77);
        assert_eq!(t.run(FROM_A.0, FROM_A.1, &mut request), Action::Redirect);
        let (_, id) = verify_echo(&request);
        for (pause, action) in [(within(t, UDP), Action::Redirect), (UDP + 1, Action::Pass)] {
            t.advance(pause);
            let mut reply = echo_reply(net.outside, net.node, id);
            assert_eq!(t.run(FROM_UPLINK.0, FROM_UPLINK.1, &mut reply), action, "after {pause} ticks");
        }
    }
}
