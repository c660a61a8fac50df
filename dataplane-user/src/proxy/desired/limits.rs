//! Limits of one Service, so that no tenant's object can fill the maps of all nodes.
//!
//! Checked by the controller before it derives the desired state, which would be as large. A
//! Service beyond a limit keeps what it has.

use super::context::Context;
use crate::proxy::source::object::{ServiceObject, SliceObject};

/// Most frontends of a Service: its ports times its addresses.
pub const MAX_FRONTENDS: usize = 4096;
/// Most backends of a Service: its ports times its endpoints.
pub const MAX_BACKENDS: usize = 65_536;

/// A limit that a Service exceeds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the Service has {wanted} {what}; at most {most} are served, so its entries stay as they are")]
pub struct Excess {
    /// What there is too much of.
    pub what: &'static str,
    /// The number in the objects.
    pub wanted: usize,
    /// The limit.
    pub most: usize,
}

impl Excess {
    /// Returns the excess of `wanted` over `most`.
    fn over(what: &'static str, wanted: usize, most: usize) -> Option<Self> {
        (wanted > most).then_some(Self { what, wanted, most })
    }
}

/// Returns the first limit that a Service exceeds. Counts an address in two lists twice.
#[must_use]
pub fn excess<'a>(
    service: &ServiceObject,
    slices: impl Iterator<Item = &'a SliceObject>,
    context: &Context,
) -> Option<Excess> {
    let extra = service.extra.as_ref().map_or(0, |e| e.external_ips.len() + e.load_balancer_ips.len());
    let addresses = service.cluster_ips.iter().count() + extra;
    let node_ports = service.ports.iter().filter(|port| port.node_port != 0).count();
    let frontends = service.ports.len() * addresses + node_ports * context.node.nodeport_addresses.len();
    let endpoints: usize = slices.map(|slice| slice.endpoints.len()).sum();
    Excess::over("frontends (ports times addresses)", frontends, MAX_FRONTENDS)
        .or_else(|| Excess::over("backends (ports times endpoints)", service.ports.len() * endpoints, MAX_BACKENDS))
}
