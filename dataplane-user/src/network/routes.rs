//! Installs routes to the pods of other nodes.
//!
//! [`plan`] computes the next hops from Nodes (pure); [`apply`] changes the kernel's main table by
//! the difference. The node task calls both. Our routes have protocol 82 and lead to a gateway or
//! are blackholes. Routes of protocol 82 that lead straight to a device are the CNI plugin's, one
//! for each pod. All other routes belong to other programs: they are never changed or replaced.

mod plan;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use dataplane_host::netlink::{Hop, NetlinkError, PROTOCOL, Route, Socket, add_route, delete_route, replace_route};
use ipnetwork::IpNetwork;
use tracing::{debug, info};

pub use plan::{HostDeviceRoutes, LocalNode, NextHop, RoutePlan, first, plan};

/// Up to this many changes are logged one by one.
const FEW: usize = 16;

/// The changes that turn the present routes into the wanted ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteChanges {
    /// Routes to destinations for which no route of ours exists.
    pub add: Vec<Route>,
    /// Routes that replace one of ours with the same destination and metric.
    pub replace: Vec<Route>,
    /// Routes of ours that are no longer wanted.
    pub remove: Vec<Route>,
}

impl RouteChanges {
    /// Computes the difference. `present` may contain routes of all owners.
    #[must_use]
    pub fn between(present: &[Route], wanted: &BTreeSet<Route>) -> Self {
        let key = |r: &Route| (r.destination, r.metric);
        let ours: BTreeSet<_> = present.iter().filter(|r| is_ours(r)).copied().collect();
        let taken: BTreeSet<_> = ours.iter().map(key).collect();
        let kept: BTreeSet<_> = wanted.iter().map(key).collect();
        let (replace, add) = wanted.difference(&ours).copied().partition(|r| taken.contains(&key(r)));
        // A replaced route has the same key, so it must not be removed as well.
        let remove = ours.difference(wanted).filter(|r| !kept.contains(&key(r))).copied().collect();
        Self { add, replace, remove }
    }

    /// Returns the number of routes to add, replace and remove.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.add.len() + self.replace.len() + self.remove.len()
    }

    /// Returns true if the table needs no change.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Returns true if this agent, or one before it, has installed the route.
#[must_use]
pub const fn is_ours(route: &Route) -> bool {
    route.protocol == PROTOCOL && !matches!(route.hop, Hop::Device { .. })
}

/// The result of [`apply`].
#[derive(Debug, Default)]
pub struct RouteOutcome {
    /// Number of routes that were changed.
    pub operations: usize,
    /// Ranges for which another program's route is in the way.
    pub blocked: Vec<IpNetwork>,
    /// All failures that are not a conflict with another program's route.
    pub errors: Vec<NetlinkError>,
}

/// Changes the kernel's table by the difference between `present` and `wanted`. `present` may
/// contain routes of all owners.
pub fn apply(socket: &mut Socket, present: &[Route], wanted: &BTreeSet<Route>) -> RouteOutcome {
    let changes = RouteChanges::between(present, wanted);
    let mut outcome = RouteOutcome::default();
    if changes.is_empty() {
        return outcome;
    }
    // Removals come first: a stale route could be in the way of a new one.
    let requests: Vec<_> = (changes.remove.iter().map(delete_route))
        .chain(changes.replace.iter().map(replace_route))
        .chain(changes.add.iter().map(add_route))
        .collect();
    let routes: Vec<_> = changes.remove.iter().chain(&changes.replace).chain(&changes.add).collect();
    // The first sync of a large cluster would fill the log.
    if requests.len() > FEW {
        let RouteChanges { add, replace, remove } = &changes;
        info!(added = add.len(), replaced = replace.len(), removed = remove.len(), "routes changed");
        requests.iter().for_each(|request| debug!("{}", request.attempt()));
    } else {
        requests.iter().for_each(|request| info!("{}", request.attempt()));
    }
    let failed = socket.run_each(&requests);
    outcome.operations = requests.len() - failed.len();
    // EEXIST: another program has a route with this destination and metric. A route that is already
    // gone needs no removal.
    for (i, error) in failed {
        if error.refusal() == Some(libc::EEXIST) {
            outcome.blocked.extend(routes.get(i).map(|r| r.destination));
        } else if i >= changes.remove.len() || !error.is_missing() {
            outcome.errors.push(error);
        }
    }
    outcome
}
