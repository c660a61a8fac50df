//! Derives the client ranges that may use the load-balancer addresses of a Service.
//!
//! From `spec.loadBalancerSourceRanges`. Invalid ranges were left out by the decoder;
//! [`are_restricted`] still counts them, so that a Service whose ranges are all invalid is closed.

use std::net::IpAddr;
use std::sync::Arc;

use dataplane_common::types::ip_family::IpFamily;
use dataplane_common::types::service::frontend_flags as flags;

use super::context::Context;
use super::{ClientRange, DesiredFrontend, Sources};
use crate::proxy::source::object::ServiceObject;

/// Returns the ranges of a Service. If one contains the node's primary address, all addresses of
/// the node are added, because a process may send from any of them.
pub(super) fn allowed(service: &ServiceObject, context: &Context) -> Sources {
    let ranges = service.extra.as_ref().map_or(&[][..], |e| &e.source_ranges);
    if ranges.is_empty() {
        return None;
    }
    let mut all: Vec<ClientRange> = ranges.iter().map(|r| ClientRange { addr: r.network(), len: r.prefix() }).collect();
    for primary in context.node.primary.iter().filter(|p| ranges.iter().any(|r| r.contains(**p))) {
        let own = context.node.addresses.iter().filter(|a| a.is_ipv6() == primary.is_ipv6());
        all.extend(own.map(|a| ClientRange { addr: *a, len: if a.is_ipv6() { 128 } else { 32 } }));
    }
    all.sort_unstable();
    all.dedup();
    Some(Arc::new(all.into()))
}

/// Returns the ranges for one port; `None` if no frontend of it checks them.
pub(super) fn of_port(allowed: &Sources, frontends: &[DesiredFrontend]) -> Sources {
    allowed.clone().filter(|_| frontends.iter().any(|f| f.flags & flags::SOURCE_RANGES != 0))
}

/// Returns true if clients of the address's family must be in a range.
pub(super) fn are_restricted(service: &ServiceObject, addr: IpAddr) -> bool {
    service.extra.as_ref().is_some_and(|e| e.restricted[IpFamily::of(addr).index()])
}
