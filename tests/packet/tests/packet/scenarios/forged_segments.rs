//! TCP segments with the addresses and ports of a connection, but a guessed sequence number: they
//! are translated as any others, and do not shorten the life of the connection's flows.

use std::net::SocketAddr;

use super::flow_ownership::{CLOSING, Connection, connections, expect_open, open, with_timeouts};
use super::schedulers::fresh_port;
use super::{FROM_B, TO_B, at, expect, service};
use crate::frame::{Kind, frame_with_seq, verify};
use crate::testbed::{Action, Hook, Testbed};

/// Sequence numbers that are far from those of the connections, which begin with 1.
const GUESSED: [u32; 4] = [0x0010_0000, 0x4000_0000, 0x8000_0000, 0xf000_0000];

/// Runs a segment with this sequence number, and expects that it is translated.
#[track_caller]
fn send<T: Testbed>(
    t: &mut T,
    (hook, ifindex): (Hook, u32),
    kind: Kind,
    (from, to): (SocketAddr, SocketAddr),
    seq: u32,
    translated: (SocketAddr, SocketAddr),
) {
    let mut f = frame_with_seq(kind, from, to, seq);
    assert_eq!(t.run(hook, ifindex, &mut f), Action::Redirect, "{kind:?} {from} -> {to}");
    assert_eq!(verify(&f, 0), translated);
}

/// Expects that a connection has the long timeout, and that its flows keep their keys for it.
#[track_caller]
fn expect_long_life<T: Testbed>(t: &mut T, to: SocketAddr, c: Connection) {
    t.advance(CLOSING + 1);
    let other = at(c.front.ip(), c.front.port() + 1);
    service(t, other, to);
    service(t, c.front, to);
    let mut f = frame_with_seq(Kind::Syn, c.client, other, 1);
    assert_eq!(t.run(c.from.0, c.from.1, &mut f), Action::Redirect);
    assert_ne!(verify(&f, 0).0.port(), c.client.port(), "the key of the replies is still taken");
    expect_open(t, Kind::Ack, to, c);
}

pub(crate) fn guessed_rst_or_fin_does_not_shorten_a_connection<T: Testbed>(t: &mut T) {
    for net in with_timeouts(t) {
        let to = at(net.b, 8080);
        for kind in [Kind::Rst, Kind::Fin] {
            for c in connections(&net, fresh_port()) {
                service(t, c.front, to);
                open(t, Kind::Syn, Kind::SynAck, to, c);
                for seq in GUESSED {
                    send(t, c.from, kind, (c.client, c.front), seq, (c.client, to));
                    send(t, FROM_B, kind, (to, c.client), seq, (c.front, c.client));
                }
                expect_long_life(t, to, c);
            }
        }
    }
}

/// A segment with the number of the RST that follows it does not make that RST the sender's.
pub(crate) fn guessed_segment_before_a_rst_does_not_shorten_a_connection<T: Testbed>(t: &mut T) {
    for net in with_timeouts(t) {
        let to = at(net.b, 8080);
        for before in [Kind::Ack, Kind::Fin, Kind::Syn, Kind::SynAck] {
            for c in connections(&net, fresh_port()) {
                service(t, c.front, to);
                open(t, Kind::Syn, Kind::SynAck, to, c);
                for kind in [before, Kind::Rst, Kind::Fin] {
                    send(t, c.from, kind, (c.client, c.front), GUESSED[1], (c.client, to));
                }
                expect_long_life(t, to, c);
            }
        }
    }
}

/// Before the client's first segment after its SYN, a guessed one is taken for it. The client's own
/// segments put that right.
pub(crate) fn guessed_segment_of_the_handshake_is_corrected<T: Testbed>(t: &mut T) {
    for net in with_timeouts(t) {
        let to = at(net.b, 8080);
        for c in connections(&net, fresh_port()) {
            service(t, c.front, to);
            expect(t, c.from, Kind::Syn, (c.client, c.front), TO_B, (c.client, to));
            expect(t, FROM_B, Kind::SynAck, (to, c.client), c.back, (c.front, c.client));
            for kind in [Kind::Ack, Kind::Rst] {
                send(t, c.from, kind, (c.client, c.front), GUESSED[1], (c.client, to));
            }
            expect_open(t, Kind::Ack, to, c);
            expect_long_life(t, to, c);
        }
    }
}

pub(crate) fn repeated_syn_does_not_shorten_a_connection<T: Testbed>(t: &mut T) {
    for net in with_timeouts(t) {
        let to = at(net.b, 8080);
        for c in connections(&net, fresh_port()) {
            service(t, c.front, to);
            open(t, Kind::Syn, Kind::SynAck, to, c);
            for seq in GUESSED {
                send(t, c.from, Kind::Syn, (c.client, c.front), seq, (c.client, to));
            }
            expect_long_life(t, to, c);
        }
    }
}
