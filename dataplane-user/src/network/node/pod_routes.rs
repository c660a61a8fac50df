//! Repairs the routes and neighbour entries by which the node's own processes reach its pods.
//!
//! The plugin sets them when it attaches a pod; a job of the node's task, [`PodRoutes::apply`],
//! sets them again if another program has removed them (`ip neigh flush`, `networkctl reload`).
//! Packets that the programs deliver do not need them. Nothing is done for a pod whose device is
//! down, because the plugin may still be attaching it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use dataplane_common::types::address::Address as _;
use dataplane_common::types::pod::{Pod, pod_flags};
use dataplane_host::map::PinnedMap;
use dataplane_host::netlink::{
    Hop, IfIndex, Link, Neighbour, NetlinkEvent, NetlinkRequest, PROTOCOL, Route, Socket, add_route, delete_neighbour,
    delete_route, replace_neighbour,
};
use dataplane_host::pins::Pins;
use ipnetwork::IpNetwork;
use tracing::warn;

use super::discover::KernelSnapshot;
use super::error::NodeError;
use super::status::NodeStatus;

/// A route or a neighbour entry to one address of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Entry {
    Route(IfIndex, IpAddr),
    Neighbour(IfIndex, IpAddr, [u8; 6]),
}

impl Entry {
    fn index(self) -> IfIndex {
        let (Self::Route(index, _) | Self::Neighbour(index, ..)) = self;
        index
    }

    fn set(self) -> NetlinkRequest {
        match self {
            Self::Route(index, address) => add_route(&route(index, address)),
            Self::Neighbour(index, address, mac) => replace_neighbour(index, address, mac),
        }
    }

    fn remove(self) -> NetlinkRequest {
        match self {
            Self::Route(index, address) => delete_route(&route(index, address)),
            Self::Neighbour(index, address, _) => delete_neighbour(index, address),
        }
    }
}

fn route(index: IfIndex, address: IpAddr) -> Route {
    Route::new(IpNetwork::from(address), Hop::Device { index })
}

/// What the last look at the kernel's tables has found.
#[derive(Debug)]
pub(super) struct PodRoutes {
    /// The next refresh looks at the kernel's tables.
    due: bool,
    /// Missing at the last look. What is still missing at the next one is set again: between the
    /// looks the plugin finishes what it is doing with the pod.
    missing: BTreeSet<Entry>,
    /// A second look has to follow soon.
    pending: bool,
}

impl Default for PodRoutes {
    fn default() -> Self {
        Self { due: true, missing: BTreeSet::new(), pending: false }
    }
}

impl PodRoutes {
    /// Looks at the next refresh.
    pub(super) const fn look(&mut self) {
        self.due = true;
    }

    /// Returns true if a second look has to follow soon.
    pub(super) const fn is_pending(&self) -> bool {
        self.pending
    }

    /// Sets what was missing at the last look too, and returns the number of operations.
    pub(super) fn apply(
        &mut self,
        socket: &mut Socket,
        pins: &Pins,
        snapshot: &KernelSnapshot,
        status: &NodeStatus,
    ) -> Result<usize, NodeError> {
        if !std::mem::take(&mut self.due) {
            return Ok(0);
        }
        let table = PinnedMap::<u32, Pod>::open(pins, "pods")?;
        let mut pods = Vec::new();
        for link in snapshot.links.iter().filter(|l| l.index.0 < table.max_entries()) {
            pods.extend(table.get(&link.index.0)?.map(|pod| (link, pod)));
        }
        let missing = missing(&pods, &snapshot.routes, &socket.neighbours()?);
        let (lost, new): (BTreeSet<_>, _) = missing.into_iter().partition(|entry| self.missing.contains(entry));
        (self.pending, self.missing) = (!new.is_empty(), new);
        let (mut operations, mut routes) = (0, 0);
        for entry in lost {
            match socket.run(&[entry.set()]) {
                Ok(()) => operations += 1,
                // The pod was removed.
                Err(e) if e.is_missing() => continue,
                // Another program has set a route to the address. Tried again at the next look.
                Err(e) if e.refusal() == Some(libc::EEXIST) => {
                    self.missing.insert(entry);
                    continue;
                }
                Err(e) => return Err(e.into()),
            }
            let index = entry.index();
            let seen = pods.iter().find(|(link, _)| link.index == index).map(|(_, pod)| *pod);
            if table.get(&index.0)? != seen {
                // Another pod has got the device meanwhile.
                let _ = socket.run(&[entry.remove()]);
                continue;
            }
            routes += usize::from(matches!(entry, Entry::Route(..)));
            let what = if matches!(entry, Entry::Route(..)) { "route" } else { "neighbour entry" };
            let (Entry::Route(_, address) | Entry::Neighbour(_, address, _)) = entry;
            warn!(%address, device = %index, "another program removed the {what} to a pod: set again");
        }
        status.lost_routes(routes);
        Ok(operations)
    }
}

/// Returns true if an event can mean that another program removed a pod's route. (The kernel
/// reports the removal of an IPv4 route with its device as that of the device only.)
pub(super) fn is_relevant(event: &NetlinkEvent) -> bool {
    let NetlinkEvent::RouteGone(route) = event else { return false };
    route.protocol == PROTOCOL && route.destination.is_ipv4() && matches!(route.hop, Hop::Device { .. })
}

/// Returns the entries that are missing or wrong for pods whose device is up at both ends.
fn missing(pods: &[(&Link, Pod)], routes: &[Route], neighbours: &[Neighbour]) -> BTreeSet<Entry> {
    let routes: BTreeSet<_> = routes.iter().map(|r| (r.destination, r.hop)).collect();
    let is_attached = |(link, pod): &&(&Link, Pod)| {
        link.running && pod.flags & (pod_flags::PRESENT | pod_flags::NODE) == pod_flags::PRESENT
    };
    let mut missing = BTreeSet::new();
    for (link, pod) in pods.iter().filter(is_attached) {
        let four = (!pod.addr4.is_unspecified()).then(|| IpAddr::from(pod.addr4));
        let six = (!pod.addr6.is_unspecified()).then(|| IpAddr::from(pod.addr6));
        for address in four.into_iter().chain(six) {
            let route = route(link.index, address);
            if !routes.contains(&(route.destination, route.hop)) {
                missing.insert(Entry::Route(link.index, address));
            }
            let neighbour = Neighbour { index: link.index, address, mac: Some(pod.mac), permanent: true };
            if !neighbours.contains(&neighbour) {
                missing.insert(Entry::Neighbour(link.index, address, pod.mac));
            }
        }
    }
    missing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_routes_and_neighbours_of_attached_pods_are_found() {
        let link =
            |index: u32, running| Link { index: IfIndex(index), running, ..super::super::tests::link(index, "rw") };
        let (attached, starting, gone) = (link(7, true), link(8, false), link(9, true));
        let pod = |last: u8, flags| Pod {
            addr4: std::net::Ipv4Addr::new(10, 1, 0, last).into(),
            mac: [last; 6],
            flags,
            ..bytemuck::Zeroable::zeroed()
        };
        let present = pod_flags::PRESENT;
        let pods = [(&attached, pod(7, present)), (&starting, pod(8, present)), (&gone, pod(9, 0))];
        let address = IpAddr::from([10, 1, 0, 7]);
        let expected = [Entry::Route(IfIndex(7), address), Entry::Neighbour(IfIndex(7), address, [7; 6])];
        assert!(missing(&pods, &[], &[]).into_iter().eq(expected));
        let neighbour = Neighbour { index: IfIndex(7), address, mac: Some([7; 6]), permanent: true };
        assert!(missing(&pods, &[route(IfIndex(7), address)], &[neighbour]).is_empty());
        let wrong = Neighbour { permanent: false, ..neighbour };
        assert!(missing(&pods, &[route(IfIndex(8), address)], &[wrong]).into_iter().eq(expected), "another device");
        let host_device = [(&attached, pod(7, present | pod_flags::NODE))];
        assert!(missing(&host_device, &[], &[]).is_empty());
    }
}
