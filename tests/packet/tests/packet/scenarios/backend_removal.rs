//! Backends that have ended or terminate: which flows leave them, and which stay.

use std::net::SocketAddr;

use dataplane_common::types::event::DropReason;
use dataplane_common::types::service::backend_state;

use super::{
    ASSURED, BOTH_SETS, FROM_A, FROM_B, FROM_UPLINK, FamilyAddresses, OUT, TO_A, TO_B, UNREPLIED, at, backend, expect,
    expect_drop, node, service,
};
use crate::frame::{Kind, frame};
use crate::testbed::Testbed;

/// State of a backend that terminates and still serves.
pub(super) const DRAINING: u8 = backend_state::SERVING | backend_state::TERMINATING;

/// Sets state and generation of the only backend `old`, and directs new connections to `new`.
pub(super) fn succeed<T: Testbed>(t: &mut T, [old, new]: [SocketAddr; 2], state: u8, generation: u32) {
    let (id, other) = if old.is_ipv4() { (1, 11) } else { (2, 12) };
    t.put_backend(id, backend(old, state, generation));
    t.put_backend(other, backend(new, BOTH_SETS, 1));
    t.put_slot(id, other);
}

pub(crate) fn udp_flow_leaves_a_removed_backend<T: Testbed>(t: &mut T) {
    for net in node(t) {
        let (vip, old, new) = (at(net.vip, 53), at(net.remote, 53), at(net.b, 53));
        let client = at(net.a, 40000);
        service(t, vip, old);
        expect(t, FROM_A, Kind::Udp, (client, vip), OUT, (client, old));
        let id = if net.vip.is_ipv4() { 1 } else { 2 };
        t.put_backend(id, backend(new, BOTH_SETS, 2));
        expect(t, FROM_A, Kind::Udp, (client, vip), TO_B, (client, new));
        expect(t, FROM_B, Kind::Udp, (new, client), TO_A, (vip, client));
    }
}

pub(crate) fn tcp_flow_stays_with_a_terminating_backend<T: Testbed>(t: &mut T) {
    for net in node(t) {
        let (vip, old, new) = (at(net.vip, 80), at(net.remote, 80), at(net.b, 80));
        let client = at(net.a, 40000);
        service(t, vip, old);
        expect(t, FROM_A, Kind::Syn, (client, vip), OUT, (client, old));
        succeed(t, [old, new], DRAINING, 1);
        expect(t, FROM_A, Kind::Ack, (client, vip), OUT, (client, old));
        // A new connection with the same ports goes to the new backend.
        expect(t, FROM_A, Kind::Syn, (client, vip), TO_B, (client, new));
    }
}

/// Repeats a client's SYN after `answer` has come from its backend, which takes no new connections
/// any more.
fn repeated<T: Testbed>(t: &mut T, net: &FamilyAddresses, port: u16, answer: Option<Kind>, state: u8, generation: u32) {
    let (vip, old, new, client) = (at(net.vip, 80), at(net.remote, 80), at(net.b, 80), at(net.a, port));
    service(t, vip, old);
    expect(t, FROM_A, Kind::Syn, (client, vip), OUT, (client, old));
    if let Some(kind) = answer {
        expect(t, FROM_UPLINK, kind, (old, client), TO_A, (vip, client));
    }
    succeed(t, [old, new], state, generation);
    if answer == Some(Kind::SynAck) {
        for kind in [Kind::Syn, Kind::Syn, Kind::Ack] {
            expect(t, FROM_A, kind, (client, vip), OUT, (client, old));
        }
        expect(t, FROM_UPLINK, Kind::Ack, (old, client), TO_A, (vip, client));
        // After the retransmissions, a SYN opens a new connection.
        expect(t, FROM_A, Kind::Syn, (client, vip), TO_B, (client, new));
    } else {
        expect(t, FROM_A, Kind::Syn, (client, vip), TO_B, (client, new));
        expect(t, FROM_B, Kind::SynAck, (new, client), TO_A, (vip, client));
    }
    // The old backend's segments no longer belong to the connection: the client resets them.
    expect(t, FROM_UPLINK, Kind::SynAck, (old, client), TO_A, (old, client));
    expect(t, FROM_A, Kind::Rst, (client, old), OUT, (client, old));
}

pub(crate) fn retransmitted_syn_reaches_one_backend<T: Testbed>(t: &mut T) {
    for net in node(t) {
        let mut port = 40000;
        for (state, generation) in [(DRAINING, 1), (0, 2)] {
            for answer in [None, Some(Kind::SynAck), Some(Kind::Rst)] {
                port += 1;
                repeated(t, &net, port, answer, state, generation);
            }
        }
    }
}

pub(crate) fn syn_of_another_pod_ends_no_flow<T: Testbed>(t: &mut T) {
    for net in node(t) {
        let (vip, old, new, client) = (at(net.vip, 80), at(net.remote, 80), at(net.b, 80), at(net.a, 40000));
        service(t, vip, old);
        expect(t, FROM_A, Kind::Syn, (client, vip), OUT, (client, old));
        succeed(t, [old, new], DRAINING, 1);
        // Another pod with that source address ends no flow.
        expect_drop(t, FROM_B, frame(Kind::Syn, client, vip), DropReason::Spoofed);
        expect(t, FROM_UPLINK, Kind::SynAck, (old, client), TO_A, (vip, client));
    }
}

/// Backend of the last datagram. Before its pause, the only backend begins to terminate.
enum To {
    Old,
    New,
}

/// Sends datagrams from `port`, with pauses (ticks) between them.
fn after_pauses<T: Testbed>(t: &mut T, net: &FamilyAddresses, port: u16, pauses: &[u32], to: &To) {
    let (vip, old, new, client) = (at(net.vip, 53), at(net.remote, 53), at(net.b, 53), at(net.a, port));
    service(t, vip, old);
    let (last, before) = pauses.split_last().unwrap();
    expect(t, FROM_A, Kind::Udp, (client, vip), OUT, (client, old));
    for pause in before {
        t.advance(*pause);
        expect(t, FROM_A, Kind::Udp, (client, vip), OUT, (client, old));
    }
    succeed(t, [old, new], DRAINING, 1);
    t.advance(*last);
    match to {
        To::Old => expect(t, FROM_A, Kind::Udp, (client, vip), OUT, (client, old)),
        To::New => expect(t, FROM_A, Kind::Udp, (client, vip), TO_B, (client, new)),
    }
}

pub(crate) fn unreplied_udp_flow_leaves_a_terminating_backend<T: Testbed>(t: &mut T) {
    let slack = t.clock_slack();
    for net in node(t) {
        for (port, pauses, to) in [
            // Unreplied: datagrams of one exchange, and later another exchange from the same port.
            (40000, &[0, 0][..], To::Old),
            (40001, &[UNREPLIED - 1 - slack], To::Old),
            (40002, &[UNREPLIED], To::New),
            (40003, &[0, 0, 100], To::New),
            (40004, &[60, 60, 3], To::New),
            (40005, &[ASSURED + 1, 3], To::New),
            // Assured: a flow that may pause.
            (40006, &[1, 3], To::Old),
            (40007, &[0, 5, 0, 60], To::Old),
            (40008, &[60, ASSURED - slack, 100], To::Old),
        ] {
            after_pauses(t, &net, port, pauses, &to);
        }
    }
}
