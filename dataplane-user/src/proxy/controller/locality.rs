//! Counts the Services with policy Local whose endpoints are all on other nodes.
//!
//! kube-proxy has the same metric. `Status` calls it when a Service's published state changes.

use dataplane_common::types::ip_family::IpFamily;
use dataplane_common::types::service::{backend_state, frontend_flags as flags};

use crate::proxy::desired::sets;
use crate::proxy::reconcile::PublishedPort;

/// Numbers of Services, by family (IPv4, IPv6) and policy (internal, external).
pub type NoLocal = [[u32; 2]; 2];

/// A set of families and policies, one bit for each pair.
pub(super) type Bits = u8;

const fn bit(family: IpFamily, external: bool) -> Bits {
    1 << (2 * family.index() + external as usize)
}

/// Returns the families and policies for which the Service has serving endpoints, but none here.
pub(super) fn missing(ports: &[PublishedPort]) -> Bits {
    ports.iter().fold(0, |bits, port| bits | of_port(port))
}

fn of_port(port: &PublishedPort) -> Bits {
    let wanted = port.frontends.iter().fold(0, |bits, f| {
        let external = f.flags & (flags::EXTERNAL | flags::NODE_PORT) != 0;
        let local = if external { flags::EXTERNAL_DROP } else { flags::INTERNAL_DROP };
        bits | if f.flags & local == 0 { 0 } else { bit(IpFamily::of(f.key.addr), external) }
    });
    if wanted == 0 {
        return 0;
    }
    let mut missing = 0;
    for family in IpFamily::BOTH {
        let of_family = || port.backends.iter().filter(|b| family.has(b.addr));
        let serves = of_family().any(|b| b.state & backend_state::SERVING != 0);
        if serves && !of_family().any(|b| b.sets & sets::LOCAL != 0) {
            missing |= bit(family, false) | bit(family, true);
        }
    }
    wanted & missing
}

/// Replaces the part of one Service in the counts.
pub(super) fn recount(all: &mut NoLocal, before: Bits, after: Bits) {
    for (family, counts) in IpFamily::BOTH.into_iter().zip(all) {
        for (policy, count) in counts.iter_mut().enumerate() {
            let bit = bit(family, policy == 1);
            *count += u32::from(after & bit != 0);
            *count -= u32::from(before & bit != 0);
        }
    }
}
