//! Session affinity: which backend a client is given again, and for how long.
//!
//! The table of the Service has one slot. A client that gets another backend than the one in the
//! slot has been remembered.

use std::net::{IpAddr, SocketAddr};

use dataplane_common::types::service::{Frontend, FrontendKey, backend_state, proto};

use super::backend_removal::DRAINING;
use super::schedulers::fresh_port;
use super::{BOTH_SETS, FROM_A, FROM_UPLINK, FamilyAddresses, POD_A, TO_B, at, backend, expect, frontend, node};
use crate::frame::{Kind, frame, verify};
use crate::testbed::{Action, Hook, Testbed};

/// Timeout of the affinity, ticks.
const TIMEOUT: u32 = 20;

/// A Service with affinity at a cluster IP and a node port, and two backends in pod B.
struct Sticky {
    net: FamilyAddresses,
    /// Id of the first backend; the second one follows.
    id: u32,
    /// Port of the last client.
    port: u16,
}

impl Sticky {
    fn new<T: Testbed>(t: &mut T, net: FamilyAddresses) -> Self {
        let id = if net.vip.is_ipv4() { 21 } else { 31 };
        let sticky = Self { net, id, port: 0 };
        for n in 0..2 {
            t.put_backend(id + n, backend(sticky.backend(n), BOTH_SETS, 1));
        }
        sticky.lead_to(t, 0);
        let front = Frontend { affinity_ticks: TIMEOUT, service_port: id, ..frontend(id, 1) };
        for (addr, port) in [(net.vip, 80), (net.node, 30080)] {
            for proto in [proto::TCP, proto::UDP] {
                t.put_frontend(FrontendKey { addr, port, proto, pad: 0 }, front);
            }
        }
        sticky
    }

    fn backend(&self, n: u32) -> SocketAddr {
        at(self.net.b, 8000 + n as u16)
    }

    /// Has clients without affinity get the backend `n`.
    fn lead_to<T: Testbed>(&self, t: &mut T, n: u32) {
        t.put_slot(self.id, self.id + n);
    }

    /// Opens a connection of pod A from a port of its own, and returns its backend.
    fn inside<T: Testbed>(&mut self, t: &mut T, kind: Kind) -> u32 {
        self.open(t, FROM_A, kind, self.net.a, at(self.net.vip, 80))
    }

    /// Opens a connection of a client outside to the node port.
    fn outside<T: Testbed>(&mut self, t: &mut T, kind: Kind) -> u32 {
        self.open(t, FROM_UPLINK, kind, self.net.outside, at(self.net.node, 30080))
    }

    fn open<T: Testbed>(
        &mut self,
        t: &mut T,
        (hook, ifindex): (Hook, u32),
        kind: Kind,
        client: IpAddr,
        front: SocketAddr,
    ) -> u32 {
        self.port = fresh_port();
        let mut f = frame(kind, at(client, self.port), front);
        assert_eq!(t.run(hook, ifindex, &mut f), Action::Redirect);
        let to = verify(&f, 0).1;
        (0..2).find(|n| self.backend(*n) == to).unwrap_or_else(|| panic!("{to} is no backend of the Service"))
    }
}

pub(crate) fn affinity_lasts_while_it_is_used<T: Testbed>(t: &mut T) {
    for net in node(t) {
        let mut sticky = Sticky::new(t, net);
        let almost = TIMEOUT - 1 - t.clock_slack();
        for kind in [Kind::Syn, Kind::Udp] {
            sticky.lead_to(t, 0);
            // The entry of the kind before has ended.
            t.advance(TIMEOUT);
            assert_eq!((sticky.inside(t, kind), sticky.outside(t, kind)), (0, 0));
            sticky.lead_to(t, 1);
            // More than the timeout in all, but each pause is shorter.
            for _ in 0..3 {
                t.advance(almost);
                assert_eq!((sticky.inside(t, kind), sticky.outside(t, kind)), (0, 0), "{kind:?}");
            }
        }
    }
}

pub(crate) fn affinity_ends_when_its_timeout_is_reached<T: Testbed>(t: &mut T) {
    for net in node(t) {
        let mut sticky = Sticky::new(t, net);
        for kind in [Kind::Syn, Kind::Udp] {
            sticky.lead_to(t, 0);
            t.advance(TIMEOUT);
            assert_eq!((sticky.inside(t, kind), sticky.outside(t, kind)), (0, 0));
            sticky.lead_to(t, 1);
            t.advance(TIMEOUT);
            assert_eq!((sticky.inside(t, kind), sticky.outside(t, kind)), (1, 1), "{kind:?}");
            // The new choice is remembered from now on.
            sticky.lead_to(t, 0);
            assert_eq!((sticky.inside(t, kind), sticky.outside(t, kind)), (1, 1), "{kind:?}");
        }
    }
}

/// A connection that stays with its backend does not prolong the affinity of its client.
pub(crate) fn affinity_is_renewed_by_new_connections_alone<T: Testbed>(t: &mut T) {
    for net in node(t) {
        let mut sticky = Sticky::new(t, net);
        assert_eq!(sticky.inside(t, Kind::Syn), 0);
        let (client, vip, to) = (at(net.a, sticky.port), at(net.vip, 80), sticky.backend(0));
        sticky.lead_to(t, 1);
        for _ in 0..2 {
            t.advance(TIMEOUT / 2);
            expect(t, FROM_A, Kind::Ack, (client, vip), TO_B, (client, to));
        }
        assert_eq!(sticky.inside(t, Kind::Syn), 1);
    }
}

/// A client of the other side has an affinity of its own only by its address.
pub(crate) fn affinity_is_kept_per_client<T: Testbed>(t: &mut T) {
    for net in node(t) {
        let mut sticky = Sticky::new(t, net);
        assert_eq!(sticky.inside(t, Kind::Syn), 0);
        sticky.lead_to(t, 1);
        assert_eq!(sticky.outside(t, Kind::Syn), 1, "another client");
        assert_eq!((sticky.inside(t, Kind::Udp), sticky.outside(t, Kind::Udp)), (0, 1), "one affinity for all ports");
    }
}

/// A client is not sent to a remembered backend that takes no new connections of its side.
pub(crate) fn affinity_leaves_a_backend_without_new_connections<T: Testbed>(t: &mut T) {
    const DRAINED: u8 = backend_state::LISTED | backend_state::SERVING;
    for net in node(t) {
        for (state, inside, outside) in [
            (DRAINING, 1, 1),
            // Weight 0.
            (DRAINED, 1, 1),
            // In the table of one side only, as with a policy Local.
            (DRAINED | backend_state::INTERNAL, 0, 1),
            (DRAINED | backend_state::EXTERNAL | backend_state::LOCAL, 1, 0),
        ] {
            let mut sticky = Sticky::new(t, net);
            t.advance(TIMEOUT);
            assert_eq!((sticky.inside(t, Kind::Syn), sticky.outside(t, Kind::Syn)), (0, 0));
            sticky.lead_to(t, 1);
            t.put_backend(sticky.id, backend(sticky.backend(0), state, 1));
            for kind in [Kind::Syn, Kind::Udp] {
                assert_eq!((sticky.inside(t, kind), sticky.outside(t, kind)), (inside, outside), "{state:#x}");
            }
        }
    }
}

/// The id of a removed backend is given to an endpoint of another Service.
pub(crate) fn affinity_ignores_a_reused_backend_id<T: Testbed>(t: &mut T) {
    for net in node(t) {
        let mut sticky = Sticky::new(t, net);
        assert_eq!((sticky.inside(t, Kind::Syn), sticky.outside(t, Kind::Syn)), (0, 0));
        sticky.lead_to(t, 1);
        t.put_backend(sticky.id, backend(at(net.remote, 9), BOTH_SETS, 2));
        for kind in [Kind::Syn, Kind::Udp] {
            assert_eq!((sticky.inside(t, kind), sticky.outside(t, kind)), (1, 1), "{kind:?}");
        }
    }
}

pub(crate) fn session_affinity_keeps_the_backend<T: Testbed>(t: &mut T) {
    for net in node(t) {
        let vip = at(net.vip, 80);
        let base = if net.vip.is_ipv4() { 100 } else { 200 };
        for i in 0..10 {
            t.put_backend(base + i, backend(at(net.b, 8000 + u16::try_from(i).unwrap()), BOTH_SETS, 1));
            t.put_slot(base + i, base + i);
        }
        let service_port = base;
        let front = Frontend { affinity_ticks: 10_000, service_port, ..frontend(base, 10) };
        for proto in [proto::TCP, proto::UDP] {
            t.put_frontend(FrontendKey { addr: net.vip, port: 80, proto, pad: 0 }, front);
        }
        let pick = |t: &mut T, port: u16, kind| {
            let client = at(net.a, port);
            let mut f = frame(kind, client, vip);
            assert_eq!(t.run(Hook::FromPod, POD_A, &mut f), Action::Redirect);
            verify(&f, 0).1
        };
        let first = pick(t, 40000, Kind::Syn);
        for port in 40001..40030 {
            assert_eq!(pick(t, port, if port % 2 == 0 { Kind::Syn } else { Kind::Udp }), first);
        }
        // The backend ends: the client gets another one, and keeps it.
        let id = base + u32::from(first.port() - 8000);
        t.put_backend(id, backend(first, 0, 2));
        t.put_slot(id, if id == base { base + 1 } else { base });
        let second = pick(t, 41000, Kind::Syn);
        assert_ne!(second, first);
        assert_eq!(pick(t, 41001, Kind::Syn), second);
    }
}
