//! Limits of one Service, so that no tenant's object can fill the maps of all nodes.
//!
//! Checked by the controller before it derives the desired state, which would be as large. A
//! Service beyond a limit keeps what it has.

use super::context::Context;
use crate::config::maglev;
use crate::proxy::source::object::{ServiceObject, SliceObject};
use crate::proxy::source::{Cause, ObjectKey, ObjectKind, Rejection};

/// Most frontends of a Service: its ports times its addresses.
pub const MAX_FRONTENDS: usize = 4096;
/// Most backends of a Service: its ports times its endpoints.
pub const MAX_BACKENDS: usize = 65_536;

/// Share of the slots of the largest map that one Service may have: one in so many.
pub const SERVICE_SHARE: u32 = 16;
/// Share that the Services of one namespace may have.
pub const NAMESPACE_SHARE: u32 = 4;

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

/// Returns the length of a Service's Maglev tables: `wanted`, unless it is larger than the node's
/// settings allow. Whoever operates the nodes decides about larger tables than the default.
pub(super) fn maglev_size(
    key: &ObjectKey,
    wanted: Option<u32>,
    context: &Context,
    rejections: &mut Vec<Rejection>,
) -> u32 {
    let of_node = context.node.maglev_size;
    let most = of_node.max(maglev::DEFAULT_SIZE);
    if let Some(size) = wanted.filter(|size| *size > most) {
        let reason = format!("{size} is larger than {most}, which the agent's option --maglev-table-size allows");
        let field = "metadata.annotations[ropeway.dev/maglev-table-size]";
        rejections.push(Rejection::of(ObjectKind::Service, key, field, reason).because(Cause::LimitExceeded));
    }
    wanted.filter(|size| *size <= most).unwrap_or(of_node)
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
