//! Decisions about ports that do not fit into one entry of the map `rules`.

use dataplane_common::types::event::DropReason;
use dataplane_common::types::policy::{Rule, decision};
use dataplane_common::types::service::proto;

use super::super::schedulers::fresh_port;
use super::super::{FROM_A, TO_B, at, expect, expect_drop};
use super::{ALL_PORTS, INGRESS, allow, isolated};
use crate::frame::{Kind, frame};
use crate::testbed::Testbed;

/// A port table decides where one range does not suffice.
pub(crate) fn port_table_decides_about_ports<T: Testbed>(t: &mut T) {
    for net in isolated(t) {
        allow(t, INGRESS, net.a, Rule { table: 3, ..ALL_PORTS });
        t.put_port(3, None, decision::DENY);
        t.put_port(3, Some((proto::TCP, 80)), decision::ALLOW);
        t.put_port(3, Some((proto::UDP, 53)), decision::ALLOW);
        for (kind, port, passes) in [
            (Kind::Syn, 80, true),
            (Kind::Syn, 53, false),
            (Kind::Udp, 53, true),
            (Kind::Udp, 80, false),
            (Kind::Sctp, 80, false),
        ] {
            let (a, b) = (at(net.a, fresh_port()), at(net.b, port));
            if passes {
                expect(t, FROM_A, kind, (a, b), TO_B, (a, b));
            } else {
                expect_drop(t, FROM_A, frame(kind, a, b), DropReason::PolicyIngress);
            }
        }
    }
}
