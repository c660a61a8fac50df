//! Allocates what Services share: ids, slots, frontend keys, addresses.
//!
//! [`super::assign()`] takes from it, the diff plans with it and commits to it, and
//! [`super::restore`] rebuilds it from the maps after a restart. It holds no Service's state and
//! writes no map.

use std::net::IpAddr;
use std::time::Duration;

use dataplane_common::types::pod::address_kind;
use dataplane_common::types::service::{SlotTable, frontend_flags};
use hashbrown::{HashMap, HashSet};

use super::ids::{BackendId, BackendIds, PortIds, ServiceId, ServicePortId};
use super::plan::Plan;
use super::quota::Room;
use super::slots::FreeList;
use crate::proxy::desired::{ClientRange, DesiredFrontend, FrontendAddr};

/// The sizes of the maps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capacities {
    /// Entries of `services`.
    pub services: u32,
    /// Entries of `frontends4`.
    pub frontends4: u32,
    /// Entries of `frontends6`.
    pub frontends6: u32,
    /// Entries of `source_ranges4`.
    pub sources4: u32,
    /// Entries of `source_ranges6`.
    pub sources6: u32,
    /// Elements of `backends`.
    pub backends: u32,
    /// Elements of `slots`.
    pub slots: u32,
}

/// The use of an address, and its entry in `addresses4/6`.
#[derive(Clone, Copy, Default, Debug)]
struct AddrUse {
    frontends: u32,
    /// Those of them for which it is an external or load-balancer IP.
    external: u32,
    /// Those for which it is a cluster IP; for the others it is a node's address.
    cluster: u32,
    /// An address of this node.
    node: bool,
    /// The kind in the map; 0: no entry; [`UNSURE`]: unknown.
    entered: u8,
}

/// The kind of an entry after a failed write.
const UNSURE: u8 = u8::MAX;

impl AddrUse {
    const fn wanted(self) -> u8 {
        match (self.node, self.frontends) {
            // Also if a device of the node has it: what else arrives there is nobody's.
            _ if self.cluster > 0 => address_kind::SERVICE,
            (true, _) => address_kind::NODE,
            (false, 0) => 0,
            (false, all) if all == self.external => address_kind::EXTERNAL,
            (false, _) => address_kind::SERVICE,
        }
    }
}

/// Everything that Services share, with what is in use of it.
#[derive(Debug)]
pub struct Allocator {
    /// Entries that fit into each map.
    pub capacities: Capacities,
    /// Space for slot tables.
    pub slots: FreeList,
    /// Backend ids.
    pub backends: BackendIds,
    /// Service port ids.
    pub ports: PortIds,
    /// The slots that the Service may have that is assigned next.
    pub(super) room: Room,
    pub(super) frontends: HashMap<FrontendAddr, ServicePortId>,
    pub(super) allocated: Allocated,
    v6_frontends: u32,
    sources: HashSet<(ServicePortId, ClientRange)>,
    v6_sources: u32,
    addresses: HashMap<IpAddr, AddrUse>,
    touched: Vec<(IpAddr, ServiceId)>,
}

/// The resources that the current assignment has allocated, to give them back if it fails.
#[derive(Debug, Default)]
pub(super) struct Allocated {
    pub(super) slots: Vec<SlotTable>,
    pub(super) backends: Vec<BackendId>,
    pub(super) ports: Vec<ServicePortId>,
}

impl Allocator {
    /// Creates the allocator of empty maps.
    #[must_use]
    pub fn new(capacities: Capacities) -> Self {
        let backends = BackendIds::new(capacities.backends, Vec::new(), |_| false, Duration::ZERO);
        Self::with(capacities, FreeList::new(capacities.slots), backends, PortIds::new(std::iter::empty()))
    }

    pub(super) fn with(capacities: Capacities, slots: FreeList, backends: BackendIds, ports: PortIds) -> Self {
        Self {
            capacities,
            slots,
            backends,
            ports,
            room: Room::UNLIMITED,
            frontends: HashMap::new(),
            allocated: Allocated::default(),
            v6_frontends: 0,
            sources: HashSet::new(),
            v6_sources: 0,
            addresses: HashMap::new(),
            touched: Vec::new(),
        }
    }

    /// Makes room in memory for about `count` more frontends.
    pub fn reserve(&mut self, count: usize) {
        self.frontends.reserve(count);
        self.addresses.reserve(count);
    }

    /// Returns the service port that has this frontend.
    #[must_use]
    pub fn frontend_owner(&self, key: &FrontendAddr) -> Option<ServicePortId> {
        self.frontends.get(key).copied()
    }

    /// Returns the number of frontends in the maps, IPv4 and IPv6.
    #[must_use]
    pub fn frontend_counts(&self) -> (u32, u32) {
        (self.frontends.len() as u32 - self.v6_frontends, self.v6_frontends)
    }

    /// Returns true if Services have frontends at this address.
    #[must_use]
    pub fn has_frontends(&self, addr: IpAddr) -> bool {
        self.addresses.get(&addr).is_some_and(|a| a.frontends > 0)
    }

    /// Returns true if another service port than this one owns the frontend.
    pub(super) fn is_of_another(&self, key: &FrontendAddr, port: ServicePortId) -> bool {
        self.frontend_owner(key).is_some_and(|owner| owner != port)
    }

    /// Records that the service port has this frontend.
    pub fn enter_frontend(&mut self, key: FrontendAddr, port: ServicePortId) {
        if self.frontends.insert(key, port).is_none() && key.addr.is_ipv6() {
            self.v6_frontends += 1;
        }
    }

    pub(super) fn remove_frontend_owner(&mut self, key: &FrontendAddr) {
        if self.frontends.remove(key).is_some() && key.addr.is_ipv6() {
            self.v6_frontends -= 1;
        }
    }

    /// Returns the number of client ranges in the maps, IPv4 and IPv6.
    #[must_use]
    pub fn source_counts(&self) -> (u32, u32) {
        (self.sources.len() as u32 - self.v6_sources, self.v6_sources)
    }

    pub(super) fn enter_source(&mut self, port: ServicePortId, range: ClientRange) {
        let new = self.sources.insert((port, range));
        self.v6_sources += u32::from(new && range.addr.is_ipv6());
    }

    pub(super) fn release_source(&mut self, port: ServicePortId, range: ClientRange) {
        let known = self.sources.remove(&(port, range));
        self.v6_sources -= u32::from(known && range.addr.is_ipv6());
    }

    /// Counts a frontend at its address. Loopback gets no entry: the socket hooks do not look one
    /// up, and packets to loopback are not the dataplane's (CVE-2020-8558).
    pub(super) fn use_addr(&mut self, frontend: &DesiredFrontend, service: ServiceId) {
        let addr = frontend.key.addr;
        if addr.is_loopback() {
            return;
        }
        let entry = self.addresses.entry(addr).or_default();
        entry.frontends += 1;
        let (external, cluster) = roles(frontend);
        entry.external += u32::from(external);
        entry.cluster += u32::from(cluster);
        if entry.entered != entry.wanted() {
            self.touched.push((addr, service));
        }
    }

    /// Counts a frontend whose role may have changed.
    pub(super) fn change_addr(&mut self, before: &DesiredFrontend, after: &DesiredFrontend, service: ServiceId) {
        if roles(before) != roles(after) {
            self.use_addr(after, service);
            self.leave_addr(before, service);
        }
    }

    /// Uncounts a frontend that a Service gave up.
    pub fn leave_addr(&mut self, frontend: &DesiredFrontend, service: ServiceId) {
        let addr = frontend.key.addr;
        if addr.is_loopback() {
            return;
        }
        let entry = self.addresses.entry(addr).or_default();
        entry.frontends = entry.frontends.saturating_sub(1);
        let (external, cluster) = roles(frontend);
        entry.external = entry.external.saturating_sub(u32::from(external));
        entry.cluster = entry.cluster.saturating_sub(u32::from(cluster));
        // also if others have it still: they may leave in the same round
        if self.touched.last() != Some(&(addr, service)) {
            self.touched.push((addr, service));
        }
    }

    /// Notes an entry of `addresses4/6` that was found after a restart.
    pub(super) fn found_addr(&mut self, addr: IpAddr, kind: u8) {
        self.addresses.entry(addr).or_default().entered = kind;
        self.touched.push((addr, ServiceId::NODE));
    }

    /// Adds addresses of this node.
    pub fn add_node_addresses(&mut self, addresses: &[IpAddr]) {
        for addr in addresses {
            self.addresses.entry(*addr).or_default().node = true;
            self.touched.push((*addr, ServiceId::NODE));
        }
    }

    /// Drops other addresses of this node, after the Services' node ports have left them.
    pub fn keep_node_addresses(&mut self, addresses: &[IpAddr]) {
        for (addr, entry) in &mut self.addresses {
            if entry.node && !addresses.contains(addr) {
                entry.node = false;
                self.touched.push((*addr, ServiceId::NODE));
            }
        }
    }

    /// Notes that a write to the entry of an address failed: the next round repeats it, together
    /// with the Service for which it failed.
    pub fn addr_failed(&mut self, addr: IpAddr, service: ServiceId) {
        self.addresses.entry(addr).or_default().entered = UNSURE;
        self.touched.push((addr, service));
    }

    /// Returns true if [`Self::plan_addresses`] has addresses to check.
    #[must_use]
    pub const fn has_addr_changes(&self) -> bool {
        !self.touched.is_empty()
    }

    /// Adds the operations for the addresses that changed in this round. An address that several
    /// Services get is set for each of them, because the operations of one Service may be left out.
    /// An address that several leave is checked again when all of them have left.
    pub fn plan_addresses(&mut self, plan: &mut Plan) {
        let mut touched = std::mem::take(&mut self.touched);
        touched.sort_unstable();
        touched.dedup();
        for group in touched.chunk_by(|a, b| a.0 == b.0) {
            let addr = group[0].0;
            let Some(entry) = self.addresses.get_mut(&addr) else { continue };
            let wanted = entry.wanted();
            if wanted == 0 && entry.entered != 0 && group.len() > 1 {
                self.touched.push((addr, ServiceId::NODE));
                continue;
            }
            if entry.entered != wanted {
                group.iter().for_each(|(_, service)| plan.change_address(*service, addr, wanted));
                entry.entered = wanted;
            }
            if wanted == 0 {
                self.addresses.remove(&addr);
            }
        }
        touched.clear();
        touched.append(&mut self.touched);
        self.touched = touched;
    }
}

/// Returns true, first, if the frontend's address is an external or load-balancer IP, and second,
/// if it is a cluster IP.
const fn roles(frontend: &DesiredFrontend) -> (bool, bool) {
    let either = frontend_flags::EXTERNAL | frontend_flags::NODE_PORT;
    (frontend.flags & frontend_flags::EXTERNAL != 0, frontend.flags & either == 0)
}
