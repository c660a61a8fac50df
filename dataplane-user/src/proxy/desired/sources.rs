//! Who may use the load-balancer addresses of a Service.

use std::net::IpAddr;
use std::sync::Arc;

use dataplane_common::types::service::frontend_flags as flags;

use super::context::{Context, octets16};
use super::{ClientRange, DesiredFrontend, Sources};
use crate::proxy::source::object::ServiceObject;

/// The ranges of a Service. Where the node's own address is in one of them, all addresses of the node are: a process may send from any.
pub(super) fn allowed(service: &ServiceObject, context: &Context) -> Sources {
    let ranges = service.extra.as_ref().map_or(&[][..], |e| &e.source_ranges);
    if ranges.is_empty() {
        return None;
    }
    let mut all: Vec<ClientRange> =
        ranges.iter().map(|r| ClientRange { addr: octets16(r.network()), len: r.prefix() }).collect();
    for primary in context.node.primary.iter().filter(|p| ranges.iter().any(|r| r.contains(**p))) {
        let own = context.node.addresses.iter().filter(|a| a.is_ipv6() == primary.is_ipv6());
        all.extend(own.map(|a| ClientRange { addr: octets16(*a), len: if a.is_ipv6() { 128 } else { 32 } }));
    }
    all.sort_unstable();
    all.dedup();
    Some(Arc::new(all.into()))
}

/// The same for one port; none if no frontend asks for it.
pub(super) fn of_port(allowed: &Sources, frontends: &[DesiredFrontend]) -> Sources {
    allowed.clone().filter(|_| frontends.iter().any(|f| f.flags & flags::SOURCE_RANGES != 0))
}

/// Whether clients of this family need a range.
pub(super) fn are_restricted(service: &ServiceObject, addr: IpAddr) -> bool {
    service.extra.as_ref().is_some_and(|e| e.restricted[usize::from(addr.is_ipv6())])
}
