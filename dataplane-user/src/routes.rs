//! Routes to the pods of other nodes.
//!
//! A pure plan from Nodes to routes, and a reconciliation with the kernel's table. Ours are the routes of protocol 82
//! that lead to a router or nowhere; those of the same protocol that lead straight to a device are the CNI plugin's, one
//! for each pod. All others belong to somebody else and are never touched, nor overwritten.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use dataplane_host::netlink::{Hop, NetlinkError, PROTOCOL, Route, Socket, add_route, delete_route, replace_route};
use ipnetwork::IpNetwork;
use tracing::{info, warn};

use crate::source::NodeObject;

#[cfg(test)]
mod tests;

/// What the routes should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The routes, at most one for each range.
    pub routes: BTreeSet<Route>,
    /// Ranges without one, and why.
    pub problems: Vec<String>,
}

/// What the plan depends on besides the Nodes.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings<'a> {
    /// Name of this node.
    pub node: &'a str,
    /// This node's ranges.
    pub pod_cidrs: &'a [IpNetwork],
    /// The networks that are reached without a router: network and device.
    pub on_link: &'a [(IpNetwork, u32)],
    /// Metric of the routes; `None`: the kernel's.
    pub metric: Option<u32>,
}

/// Makes the plan: each other node's ranges go to its address if that is a neighbour; what of the own ranges belongs to no pod goes nowhere.
#[must_use]
pub fn plan<'a>(nodes: impl Iterator<Item = (&'a str, &'a NodeObject)>, around: &Surroundings<'_>) -> Plan {
    let mut plan = Plan::default();
    let mut owners: BTreeMap<IpNetwork, &str> = BTreeMap::new();
    let own = around.pod_cidrs.iter().map(|range| (around.node, *range, None));
    let others = nodes.filter(|(name, _)| *name != around.node);
    let others = others.flat_map(|(name, node)| node.pod_cidrs.iter().map(move |range| (name, *range, Some(node))));
    for (name, range, node) in own.chain(others) {
        if let Some((other, owner)) = owners.iter().find(|(other, _)| overlap(other, &range)) {
            plan.problems.push(format!("range {range} of node {name} overlaps {other} of node {owner}: no route"));
            continue;
        }
        let hop = match node {
            None => Hop::Blackhole,
            Some(node) => match neighbour(node, range.is_ipv6(), around.on_link) {
                Ok((via, index)) => Hop::Gateway { via, index: Some(index), onlink: false },
                Err(problem) => {
                    plan.problems.push(format!("range {range} of node {name}: {problem}: no route"));
                    continue;
                }
            },
        };
        owners.insert(range, name);
        let metric = around.metric.unwrap_or(0);
        plan.routes.insert(Route { metric, ..Route::new(range, hop) });
    }
    plan
}

/// The first of a node's addresses that needs no router.
fn neighbour(node: &NodeObject, v6: bool, on_link: &[(IpNetwork, u32)]) -> Result<(IpAddr, u32), String> {
    let addresses: Vec<_> = node.addresses.iter().filter(|a| a.is_ipv6() == v6).collect();
    if addresses.is_empty() {
        return Err(format!("the node has no {} address", if v6 { "IPv6" } else { "IPv4" }));
    }
    let device = |ip: IpAddr| on_link.iter().find(|(network, _)| network.contains(ip)).map(|(_, index)| (ip, *index));
    let found = addresses.iter().find_map(|ip| device(**ip));
    found.ok_or_else(|| format!("its address {} is behind a router", addresses[0]))
}

fn overlap(a: &IpNetwork, b: &IpNetwork) -> bool {
    a.contains(b.network()) || b.contains(a.network())
}

/// What has to be done to the table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// To destinations that have none of ours.
    pub add: Vec<Route>,
    /// In place of one of ours with the same destination and metric.
    pub replace: Vec<Route>,
    /// No longer wanted.
    pub remove: Vec<Route>,
}

impl Changes {
    /// From what is there, of all owners, to what should be.
    #[must_use]
    pub fn between(present: &[Route], wanted: &BTreeSet<Route>) -> Self {
        let ours: BTreeSet<_> = present.iter().filter(|r| is_ours(r)).copied().collect();
        let key = |r: &Route| (r.destination, r.metric);
        let mut changes = Self::default();
        for route in wanted.difference(&ours) {
            let replaces = ours.iter().any(|r| key(r) == key(route));
            if replaces { changes.replace.push(*route) } else { changes.add.push(*route) }
        }
        let kept: BTreeSet<_> = wanted.iter().map(key).collect();
        changes.remove = ours.difference(wanted).filter(|r| !kept.contains(&key(r))).copied().collect();
        changes
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

/// Brings the kernel's table to `wanted`; gives how many routes changed and what failed.
///
/// # Errors
/// The table can't be listed.
pub fn apply(socket: &mut Socket, wanted: &BTreeSet<Route>) -> Result<(usize, Vec<NetlinkError>), NetlinkError> {
    let changes = Changes::between(&socket.routes(PROTOCOL)?, wanted);
    let requests: Vec<_> = (changes.replace.iter().map(replace_route))
        .chain(changes.add.iter().map(add_route))
        .chain(changes.remove.iter().map(delete_route))
        .collect();
    if requests.is_empty() {
        return Ok((0, Vec::new()));
    }
    for request in &requests {
        info!("{}", request.attempt());
    }
    let mut failed = Vec::new();
    let errors = socket.run_each(&requests);
    let missing = errors.len();
    for (_, error) in errors {
        if error.refusal() == Some(libc::EEXIST) {
            warn!(%error, "another program's route is in the way; it is left alone");
        } else if error.is_missing() {
            continue;
        }
        failed.push(error);
    }
    Ok((requests.len() - missing, failed))
}
