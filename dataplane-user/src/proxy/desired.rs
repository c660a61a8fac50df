//! Derives the frontends and backends of a Service from its objects. Pure.
//!
//! The rules are kube-proxy's. The controller calls [`service`] for each changed Service and hands
//! the result to `reconcile`. This module knows no ids, slots or maps, and reads no clock.

mod choose;
pub mod context;
mod frontends;
pub mod limits;
mod sources;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;

use crate::proxy::source::object::{ServiceObject, SliceObject};
use crate::proxy::source::{ObjectKey, Rejection};

pub use choose::ready_local;
pub use context::{ClusterContext, Context, NodeContext};

/// The desired state of one Service.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Desired {
    /// The desired ports, one for each of `spec.ports`.
    pub ports: Vec<DesiredPort>,
    /// The parts of the Service that can't be served.
    pub rejections: Vec<Rejection>,
}

/// The desired state of one port of a Service.
#[derive(Clone, PartialEq, Debug)]
pub struct DesiredPort {
    /// Name of the port; may be empty.
    pub name: Arc<str>,
    /// Frontends of the port. Each key occurs once.
    pub frontends: Vec<DesiredFrontend>,
    /// Backends of the port, sorted by address and port.
    pub backends: Vec<DesiredBackend>,
    /// Client ranges that may use the frontends with `SOURCE_RANGES`.
    pub sources: Sources,
    /// Timeout of client-IP affinity in seconds; 0 if there is no affinity.
    pub affinity: u32,
    /// Scheduler of the Service or of the node: one of
    /// [`dataplane_common::types::service::scheduler`].
    pub scheduler: u8,
    /// Wanted length of Maglev tables; 0 for the default.
    pub maglev_size: u32,
}

/// An address, port and protocol.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct FrontendAddr {
    /// Address.
    pub addr: IpAddr,
    /// Port, in host byte order.
    pub port: u16,
    /// IP protocol number: 6 (TCP), 17 (UDP) or 132 (SCTP).
    pub proto: u8,
}

/// A frontend at which clients reach a Service port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DesiredFrontend {
    /// Address, port and protocol.
    pub key: FrontendAddr,
    /// Bits of [`dataplane_common::types::service::frontend_flags`].
    ///
    /// They also select the slot tables: internal clients use the Local set if `INTERNAL_DROP` is
    /// set, external clients if `EXTERNAL_DROP` is set, and the Cluster set otherwise.
    pub flags: u16,
}

/// A range of client addresses.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ClientRange {
    /// First address of the range.
    pub addr: IpAddr,
    /// Prefix length, counted in the address's own family.
    pub len: u8,
}

/// Ranges of clients, sorted and without duplicates; `None` if all clients are allowed. One pointer
/// wide, because few Services have ranges.
pub type Sources = Option<Arc<Box<[ClientRange]>>>;

/// The desired entry of one endpoint of a Service port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DesiredBackend {
    /// Address.
    pub addr: IpAddr,
    /// Port, in host byte order.
    pub port: u16,
    /// State that the programs check: bits of [`dataplane_common::types::service::backend_state`].
    pub state: u8,
    /// Bits of [`sets`]: the sets of endpoints that contain the backend.
    pub sets: u8,
    /// Share of new connections. With weight 0 the backend is in no set.
    pub weight: u16,
}

/// Bits for the sets of endpoints that contain a backend.
pub mod sets {
    /// Endpoints for clients under policy Cluster.
    pub const CLUSTER: u8 = 1;
    /// Endpoints for clients under policy Local.
    pub const LOCAL: u8 = 2;
}

/// Returns the sets of endpoints that these frontends use: for IPv4 and for IPv6.
#[must_use]
pub fn wanted_sets(frontends: &[DesiredFrontend]) -> [u8; 2] {
    choose::Wants::of(frontends).map(choose::Wants::sets)
}

/// Derives the desired state of a Service from the Service and its slices.
///
/// `is_cluster_ip` returns true for addresses that are a cluster IP of some Service. Such an
/// address can't be an external address of another one.
#[must_use]
#[expect(clippy::needless_pass_by_value, reason = "an iterator that is made for the call, and cheap to clone")]
pub fn service<'a>(
    key: &ObjectKey,
    service: &ServiceObject,
    slices: impl Iterator<Item = &'a SliceObject> + Clone,
    context: &Context,
    is_cluster_ip: impl Fn(IpAddr) -> bool,
) -> Desired {
    let mut rejections = Vec::new();
    let claims = frontends::claims(key, service, context, is_cluster_ip, &mut rejections);
    let sources = sources::allowed(service, context);
    let scheduling = service.scheduling();
    let maglev_size = limits::maglev_size(key, scheduling.and_then(|s| s.maglev_size), context, &mut rejections);
    let ports = service.ports.iter().map(|port| {
        let frontends = frontends::of_port((key, service), port, &claims, context, &mut rejections);
        let wants = choose::Wants::of(&frontends);
        DesiredPort {
            name: port.name.clone(),
            backends: choose::backends(service, port, slices.clone(), wants, context),
            sources: sources::of_port(&sources, &frontends),
            frontends,
            affinity: service.affinity,
            scheduler: scheduling.and_then(|s| s.scheduler).unwrap_or(context.node.scheduler),
            maglev_size,
        }
    });
    let ports = ports.collect();
    Desired { ports, rejections }
}
