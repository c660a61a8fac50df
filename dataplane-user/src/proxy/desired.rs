//! What the tables should say: pure functions from objects to frontends and backends.
//!
//! The rules are kube-proxy's. Nothing here knows ids, slots or maps, and nothing here reads a clock.

mod choose;
pub mod context;
mod frontends;
mod sources;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::proxy::source::object::{ServiceObject, SliceObject};
use crate::proxy::source::{ObjectKey, Rejection};

pub use choose::ready_local;
pub use context::{ClusterContext, Context, NodeContext};

/// What one Service should have.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Desired {
    /// One for each of `spec.ports`.
    pub ports: Vec<DesiredPort>,
    /// What of the Service can't be served.
    pub rejections: Vec<Rejection>,
}

/// What one port of a Service should have.
#[derive(Clone, PartialEq, Debug)]
pub struct DesiredPort {
    /// The port's name; may be empty.
    pub name: Arc<str>,
    /// Where clients find it. No key is there twice.
    pub frontends: Vec<DesiredFrontend>,
    /// Its endpoints, by address and port.
    pub backends: Vec<DesiredBackend>,
    /// Who may use its frontends with `SOURCE_RANGES`.
    pub sources: Sources,
    /// Client-IP affinity in seconds; 0: none.
    pub affinity: u32,
    /// One of [`dataplane_common::types::service::scheduler`].
    pub scheduler: u8,
    /// Wanted length of Maglev tables; 0: the default.
    pub maglev_size: u32,
}

/// An address, port and protocol, IPv4 as `::ffff:a.b.c.d`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct FrontendAddr {
    /// Address.
    pub addr: [u8; 16],
    /// Port.
    pub port: u16,
    /// IP protocol number.
    pub proto: u8,
}

/// Where clients find a Service port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DesiredFrontend {
    /// Key of the entry.
    pub key: FrontendAddr,
    /// Bits of [`dataplane_common::types::service::frontend_flags`]. They also say which tables it uses: internal clients have the
    /// Local set iff `INTERNAL_DROP`, external ones iff `EXTERNAL_DROP`, else the Cluster set.
    pub flags: u16,
}

/// A range of clients.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ClientRange {
    /// First address, IPv4 as `::ffff:a.b.c.d`.
    pub addr: [u8; 16],
    /// Length of the prefix, counted in the address's own family.
    pub len: u8,
}

/// Ranges of clients, sorted, each once; `None`: none. Thin, because hardly any Service has some.
pub type Sources = Option<Arc<Box<[ClientRange]>>>;

/// An endpoint of a Service port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DesiredBackend {
    /// Address, IPv4 as `::ffff:a.b.c.d`.
    pub addr: [u8; 16],
    /// Port.
    pub port: u16,
    /// Bits of [`dataplane_common::types::service::backend_state`].
    pub state: u8,
    /// Bits of [`sets`].
    pub sets: u8,
    /// Its share of new connections; with 0 it is in no set.
    pub weight: u16,
}

/// Which sets of endpoints a backend is in.
pub mod sets {
    /// The set of policy Cluster.
    pub const CLUSTER: u8 = 1;
    /// The set of policy Local.
    pub const LOCAL: u8 = 2;
}

/// Whether the 16-byte form is that of an IPv4 address.
#[must_use]
pub fn is_v4(addr: &[u8; 16]) -> bool {
    addr[..12] == [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]
}

/// Which sets of endpoints these frontends ask for: of IPv4 and of IPv6.
#[must_use]
pub fn wanted_sets(frontends: &[DesiredFrontend]) -> [u8; 2] {
    choose::Wants::of(frontends).map(choose::Wants::sets)
}

/// Derives what a Service should have from the Service and its slices. `is_cluster_ip` says whether some Service has this
/// address as its cluster IP, which no Service may have as an external one.
#[must_use]
#[expect(clippy::needless_pass_by_value, reason = "an iterator that is made for the call, and cheap to clone")]
pub fn service<'a>(
    key: &ObjectKey,
    service: &ServiceObject,
    slices: impl Iterator<Item = &'a SliceObject> + Clone,
    context: &Context,
    is_cluster_ip: impl Fn(&[u8; 16]) -> bool,
) -> Desired {
    let mut rejections = Vec::new();
    let claims = frontends::claims(key, service, context, is_cluster_ip, &mut rejections);
    let sources = sources::allowed(service, context);
    let scheduling = service.scheduling();
    let ports = service.ports.iter().map(|port| {
        let frontends = frontends::of_port(service, port, &claims, context);
        let wants = choose::Wants::of(&frontends);
        DesiredPort {
            name: port.name.clone(),
            backends: choose::backends(service, port, slices.clone(), wants, context),
            sources: sources::of_port(&sources, &frontends),
            frontends,
            affinity: service.affinity,
            scheduler: scheduling.and_then(|s| s.scheduler).unwrap_or(context.node.scheduler),
            maglev_size: scheduling.and_then(|s| s.maglev_size).unwrap_or(context.node.maglev_size),
        }
    });
    let ports = ports.collect();
    Desired { ports, rejections }
}
