//! Routes to the pods of other nodes.
//!
//! A pure [`plan`] from Nodes to ways, and a reconciliation with the kernel's table. Ours are the routes of protocol 82
//! that lead to a router or nowhere; those of the same protocol that lead straight to a device are the CNI plugin's, one
//! for each pod. All others belong to somebody else and are never touched, nor overwritten.

mod plan;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use dataplane_host::netlink::{Hop, NetlinkError, PROTOCOL, Route, Socket, add_route, delete_route, replace_route};
use ipnetwork::IpNetwork;
use tracing::{debug, info};

pub use plan::{HostDeviceRoutes, LocalNode, NextHop, RoutePlan, first, plan};

/// So many changes at once are logged one by one.
const FEW: usize = 16;

/// What has to be done to the table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteChanges {
    /// To destinations that have none of ours.
    pub add: Vec<Route>,
    /// In place of one of ours with the same destination and metric.
    pub replace: Vec<Route>,
    /// No longer wanted.
    pub remove: Vec<Route>,
}

impl RouteChanges {
    /// From what is there, of all owners, to what should be.
    #[must_use]
    pub fn between(present: &[Route], wanted: &BTreeSet<Route>) -> Self {
        let key = |r: &Route| (r.destination, r.metric);
        let ours: BTreeSet<_> = present.iter().filter(|r| is_ours(r)).copied().collect();
        let taken: BTreeSet<_> = ours.iter().map(key).collect();
        let kept: BTreeSet<_> = wanted.iter().map(key).collect();
        let (replace, add) = wanted.difference(&ours).copied().partition(|r| taken.contains(&key(r)));
        let remove = ours.difference(wanted).filter(|r| !kept.contains(&key(r))).copied().collect();
        Self { add, replace, remove }
    }

    /// How many operations that is.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.add.len() + self.replace.len() + self.remove.len()
    }

    /// Whether the table is right.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Whether the agent has made this route, or one before it.
#[must_use]
pub const fn is_ours(route: &Route) -> bool {
    route.protocol == PROTOCOL && !matches!(route.hop, Hop::Device { .. })
}

/// What came of it.
#[derive(Debug, Default)]
pub struct RouteOutcome {
    /// How many routes changed.
    pub operations: usize,
    /// Ranges with a route of somebody else in the way.
    pub blocked: Vec<IpNetwork>,
    /// What else failed.
    pub errors: Vec<NetlinkError>,
}

/// Brings the kernel's table from `present`, which may name routes of others as well, to `wanted`.
pub fn apply(socket: &mut Socket, present: &[Route], wanted: &BTreeSet<Route>) -> RouteOutcome {
    let changes = RouteChanges::between(present, wanted);
    let mut outcome = RouteOutcome::default();
    if changes.is_empty() {
        return outcome;
    }
    // What goes makes room for what comes.
    let requests: Vec<_> = (changes.remove.iter().map(delete_route))
        .chain(changes.replace.iter().map(replace_route))
        .chain(changes.add.iter().map(add_route))
        .collect();
    let routes: Vec<_> = changes.remove.iter().chain(&changes.replace).chain(&changes.add).collect();
    if requests.len() > FEW {
        let RouteChanges { add, replace, remove } = &changes;
        info!(added = add.len(), replaced = replace.len(), removed = remove.len(), "routes");
        requests.iter().for_each(|request| debug!("{}", request.attempt()));
    } else {
        requests.iter().for_each(|request| info!("{}", request.attempt()));
    }
    let failed = socket.run_each(&requests);
    outcome.operations = requests.len() - failed.len();
    for (i, error) in failed {
        if error.refusal() == Some(libc::EEXIST) {
            outcome.blocked.extend(routes.get(i).map(|r| r.destination));
        } else if i >= changes.remove.len() || !error.is_missing() {
            outcome.errors.push(error);
        }
    }
    outcome
}
