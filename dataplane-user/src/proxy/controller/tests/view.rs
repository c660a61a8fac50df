//! The maps from a client's point of view: without ids and positions, so that two histories can be
//! compared.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use dataplane_common::types::address::{Address, Prefix, V4, V6};
use dataplane_common::types::ip_family::IpFamily;
use dataplane_common::types::pod::AddressInfo;
use dataplane_common::types::service::{
    Backend, Frontend, FrontendKey, ServiceName, Slot, SlotTable, SourceRange, frontend_flags, scheduler,
};

use crate::proxy::apply::memory::MemoryMaps;

/// Address, port, state, weight.
pub(super) type Seen = (IpAddr, u16, u8, u32);

/// The target of a frontend.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct FrontendView {
    pub(super) service: String,
    /// Backends for internal clients, in the order of the slot table.
    pub(super) internal: Vec<Seen>,
    pub(super) external: Vec<Seen>,
    pub(super) flags: u16,
    pub(super) scheduler: u8,
    pub(super) affinity_ticks: u32,
}

/// The content of all service maps.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct View {
    pub(super) frontends: BTreeMap<(IpAddr, u16, u8), FrontendView>,
    pub(super) backends: BTreeSet<(String, Seen)>,
    /// Backends of service ports that have no name: what an agent that was killed may leave.
    pub(super) orphans: usize,
    pub(super) names: BTreeSet<String>,
    /// Service port, first address, bits of the address.
    pub(super) sources: BTreeSet<(String, IpAddr, u32)>,
    pub(super) addresses: BTreeMap<IpAddr, u8>,
}

fn text(name: &ServiceName) -> String {
    let end = name.name.iter().position(|b| *b == 0).unwrap();
    String::from_utf8(name.name[..end].to_vec()).unwrap()
}

fn ip(backend: &Backend) -> IpAddr {
    IpAddr::from(backend.addr).to_canonical()
}

/// Reads the maps and checks the invariants of every instant.
pub(super) fn view(memory: &MemoryMaps) -> View {
    let mut view = View::default();
    let names: BTreeMap<u32, String> =
        memory.services.typed::<u32, ServiceName>().iter().map(|(id, n)| (*id, text(n))).collect();
    let backends: BTreeMap<u32, Backend> = memory
        .backends
        .typed::<u32, Backend>()
        .into_iter()
        .map(|(id, b)| (u32::from_be(id), b))
        .filter(|(_, b)| b.state != 0)
        .collect();
    sources::<V4>(&memory.sources4.typed(), &names, &mut view);
    sources::<V6>(&memory.sources6.typed(), &names, &mut view);
    addresses::<V4>(&memory.addresses4.typed(), &mut view);
    addresses::<V6>(&memory.addresses6.typed(), &mut view);
    for b in backends.values() {
        if let Some(name) = names.get(&b.service_port) {
            let new = view.backends.insert((name.clone(), (ip(b), b.port, b.state, b.weight)));
            assert!(new, "two ids for one endpoint: {b:?}");
        } else {
            view.orphans += 1;
        }
    }
    let mut resolved: BTreeMap<(u32, u32, u32, IpFamily, u8), Vec<Seen>> = BTreeMap::new();
    let mut resolve = |table: SlotTable, f: &Frontend, family: IpFamily| -> Vec<Seen> {
        let what = (table.base, table.len, f.service_port, family, f.scheduler);
        if let Some(known) = resolved.get(&what) {
            return known.clone();
        }
        let slots: Vec<Slot> = memory.slots.elements(table.base, table.len);
        assert_eq!(slots.len(), table.len as usize, "{f:?}: a slot was never written");
        let all: Vec<Seen> = slots
            .iter()
            .map(|Slot { backend: id, .. }| {
                let b = backends.get(id).unwrap_or_else(|| panic!("{f:?}: backend {id} is missing"));
                assert_eq!(b.service_port, f.service_port, "{f:?}: backend {id} is another's: {b:?}");
                assert!(family.has(ip(b)), "{f:?}: {b:?} is of the other family");
                (ip(b), b.port, b.state, b.weight)
            })
            .collect();
        let expands = matches!(f.scheduler, scheduler::RANDOM | scheduler::WRR | scheduler::SH | scheduler::MH);
        let distinct = || all.iter().collect::<BTreeSet<_>>().len();
        assert!(expands || distinct() == all.len(), "{f:?}: a backend is there twice");
        resolved.insert(what, all.clone());
        all
    };
    let mut add = |addr: IpAddr, port: u16, proto: u8, f: &Frontend| {
        let service = names.get(&f.service_port).unwrap_or_else(|| panic!("{f:?} has no name")).clone();
        let kind = view.addresses.get(&addr).copied();
        // A node port may be without the entry of the node's address, if that write failed.
        let node_port = f.flags & frontend_flags::NODE_PORT != 0;
        assert!(kind.is_some() || node_port, "{service}: no entry for the address of {f:?}");
        let internal = resolve(f.internal, f, IpFamily::of(addr));
        let external = resolve(f.external, f, IpFamily::of(addr));
        let affinity_ticks = f.affinity_ticks;
        let seen = FrontendView { service, internal, external, flags: f.flags, scheduler: f.scheduler, affinity_ticks };
        view.frontends.insert((addr, port, proto), seen);
    };
    for (k, f) in memory.frontends4.typed::<FrontendKey<V4>, Frontend>() {
        add(k.addr.into(), k.port, k.proto, &f);
    }
    for (k, f) in memory.frontends6.typed::<FrontendKey<V6>, Frontend>() {
        add(k.addr.into(), k.port, k.proto, &f);
    }
    view.names = names.into_values().collect();
    view
}

fn sources<A: Address + Into<IpAddr>>(
    entries: &[(Prefix<SourceRange<A>>, u32)],
    names: &BTreeMap<u32, String>,
    view: &mut View,
) {
    for (key, _) in entries {
        let name = names.get(&key.data.service_port).unwrap_or_else(|| panic!("{key:?} belongs to no Service")).clone();
        view.sources.insert((name, key.data.client.into(), key.len - 32));
    }
}

fn addresses<A: Address + Into<IpAddr>>(entries: &[(A, AddressInfo)], view: &mut View) {
    view.addresses.extend(entries.iter().map(|(a, v)| ((*a).into(), v.kind)));
}
