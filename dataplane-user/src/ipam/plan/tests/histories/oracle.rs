//! The rules that hold at each instant, read off the cluster without the planner: an address is
//! held once and can be given out by one node, a range belongs to one node, and a pod's address is
//! in a range of its node.

use super::cluster::{Cluster, name};
use super::*;

/// Checks the rules of each instant.
pub(super) fn check(cluster: &Cluster) -> Result<(), TestCaseError> {
    let held: Vec<_> = each(cluster, |n| cluster.machines[n].pods.iter().flat_map(|pod| pod.held.clone()).collect());
    for (i, (n, address)) in held.iter().enumerate() {
        let other = held[..i].iter().find(|(_, other)| other == address);
        prop_assert!(other.is_none(), "{} of {} is also of {:?}", address, name(*n), other.map(|(n, _)| name(*n)));
        let reserved = cluster.objects().pools.iter().flat_map(|pool| &pool.reserved);
        let asked = || cluster.machines[*n].pods.iter().any(|pod| pod.request.addresses.contains(address));
        let is_reserved = reserved.clone().any(|range| range.contains(*address));
        prop_assert!(!is_reserved || asked(), "{} of {} is reserved", address, name(*n));
    }
    let usable: Vec<_> = each(cluster, |n| cluster.machines[n].usable().collect());
    for (i, (n, range)) in usable.iter().enumerate() {
        let other = usable[..i].iter().find(|(_, other)| overlap(*other, *range));
        prop_assert!(other.is_none(), "{} can give out {}, and {:?}", name(*n), range, other);
    }
    let owned: Vec<_> = cluster.objects().blocks.values().flat_map(Block::users).collect();
    for (i, (n, range)) in owned.iter().enumerate() {
        let other = owned[..i].iter().find(|(_, other)| overlap(*other, *range));
        prop_assert!(other.is_none(), "{} of {} overlaps {:?}", range, n, other);
    }
    for (n, address) in held {
        let is_owned = owned.iter().any(|(node, range)| *node == name(n) && range.contains(address));
        prop_assert!(is_owned, "{} of {} is in no range of its node: {:?}", address, name(n), owned);
    }
    Ok(())
}

/// Returns the items of each node whose machine is on, with the node.
fn each<T>(cluster: &Cluster, items: impl Fn(usize) -> Vec<T>) -> Vec<(usize, T)> {
    cluster.running().into_iter().flat_map(|n| items(n).into_iter().map(move |item| (n, item))).collect()
}

/// Checks a cluster without pods in which nothing is left to do: nodes that do not exist have no
/// range, but for the rest of a block of which an existing node uses a part, and existing nodes can
/// give out an address of each family.
pub(super) fn check_end(cluster: &Cluster) -> Result<(), TestCaseError> {
    check(cluster)?;
    for block in cluster.objects().blocks.values() {
        let exists = |node: &str| cluster.objects().nodes.contains_key(node);
        prop_assert!(block.users().any(|(node, _)| exists(node)), "{} of {} is left", block.cidr, block.node);
        let is_of_the_gone = |part: &Lent| exists(&block.node) && !exists(&part.node);
        prop_assert!(!block.sharing.lent.iter().any(is_of_the_gone), "a part is left: {:?}", block);
    }
    let reserved: Vec<_> = cluster.objects().pools.iter().flat_map(|pool| pool.reserved.clone()).collect();
    for n in cluster.running() {
        for family in IpFamily::BOTH {
            let ranges = cluster.machines[n].usable().filter(|range| family.has(range.ip()));
            let mut addresses = ranges.flat_map(|range| range.iter());
            let has_one = addresses.any(|address| !reserved.iter().any(|range| range.contains(address)));
            prop_assert!(has_one, "{} has no {} address: {:?}", name(n), family, cluster.objects().blocks);
        }
    }
    Ok(())
}
