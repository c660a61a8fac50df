//! Backends that end, and those that are about to.

use dataplane_common::service::{backend_state, proto};

use super::{BOTH_SETS, FROM_A, FROM_B, Net, OUT, TO_A, TO_B, at, backend, expect, node, service};
use crate::frame::Kind;
use crate::world::World;

pub(crate) fn udp_flow_leaves_a_backend_that_ended<W: World>(w: &mut W) {
    for net in node(w) {
        let (vip, old, new) = (at(net.vip, 53), at(net.remote, 53), at(net.b, 53));
        let client = at(net.a, 40000);
        service(w, vip, old);
        expect(w, FROM_A, Kind::Udp, (client, vip), OUT, (client, old));
        let id = if net.vip.is_ipv4() { 1 } else { 2 };
        w.put_backend(id, backend(new, BOTH_SETS, 2));
        expect(w, FROM_A, Kind::Udp, (client, vip), TO_B, (client, new));
        expect(w, FROM_B, Kind::Udp, (new, client), TO_A, (vip, client));
    }
}

pub(crate) fn tcp_flow_stays_with_a_terminating_backend<W: World>(w: &mut W) {
    for net in node(w) {
        let (vip, old, new) = (at(net.vip, 80), at(net.remote, 80), at(net.b, 80));
        let client = at(net.a, 40000);
        service(w, vip, old);
        expect(w, FROM_A, Kind::Syn, (client, vip), OUT, (client, old));
        let (id, other) = if net.vip.is_ipv4() { (1, 11) } else { (2, 12) };
        w.put_backend(id, backend(old, backend_state::SERVING | backend_state::TERMINATING, 1));
        w.put_backend(other, backend(new, BOTH_SETS, 1));
        w.put_slot(id, other);
        expect(w, FROM_A, Kind::Ack, (client, vip), OUT, (client, old));
        // the same ports for a new connection: it goes where new connections go
        expect(w, FROM_A, Kind::Syn, (client, vip), TO_B, (client, new));
    }
}

/// Where a datagram goes after the last of these pauses, ticks, before which the only backend has begun to terminate, but serves on.
enum To {
    Old,
    New,
}

/// A client sends from `port`, with pauses between.
fn after_pauses<W: World>(w: &mut W, net: &Net, port: u16, pauses: &[u32], to: &To) {
    let (vip, old, new, client) = (at(net.vip, 53), at(net.remote, 53), at(net.b, 53), at(net.a, port));
    let (id, other) = if net.vip.is_ipv4() { (1, 11) } else { (2, 12) };
    service(w, vip, old);
    let (last, before) = pauses.split_last().unwrap();
    expect(w, FROM_A, Kind::Udp, (client, vip), OUT, (client, old));
    for pause in before {
        w.age_flow(client, vip, proto::UDP, *pause);
        expect(w, FROM_A, Kind::Udp, (client, vip), OUT, (client, old));
    }
    w.put_backend(id, backend(old, backend_state::SERVING | backend_state::TERMINATING, 1));
    w.put_backend(other, backend(new, BOTH_SETS, 1));
    w.put_slot(id, other);
    w.age_flow(client, vip, proto::UDP, *last);
    match to {
        To::Old => expect(w, FROM_A, Kind::Udp, (client, vip), OUT, (client, old)),
        To::New => expect(w, FROM_A, Kind::Udp, (client, vip), TO_B, (client, new)),
    }
}

pub(crate) fn a_question_by_udp_is_not_for_a_terminating_backend<W: World>(w: &mut W) {
    for net in node(w) {
        for (port, pauses, to) in [
            // a question of several datagrams; later, by chance, another one from the same port
            (40000, &[0, 0][..], To::Old),
            (40001, &[3], To::New),
            (40002, &[0, 0, 100], To::New),
            (40003, &[60, 60, 3], To::New),
            // a conversation, which may pause
            (40004, &[1, 3], To::Old),
            (40005, &[0, 5, 0, 60], To::Old),
            (40006, &[60, 8, 100], To::Old),
        ] {
            after_pauses(w, &net, port, pauses, &to);
        }
    }
}
