//! The baseline: the same entries, prepared in advance, written in the cheapest way that there is:
//! arrays by mmap, hashes with one batch each.
//!
//! This is the least that any control plane must do; the benchmark compares Ropeway with it.

use dataplane_common::types::address::V4;
use dataplane_common::types::pod::{AddressInfo, address_kind};
use dataplane_common::types::service::{
    Backend, Frontend, FrontendKey, NAME_LEN, ServiceName, Slot, SlotTable, backend_state, proto,
};

use crate::maps::{Maps, table};
use crate::objects;
use crate::stats::{Cost, cost};

pub(crate) struct Entries {
    services: (Vec<u32>, Vec<ServiceName>),
    frontends: (Vec<FrontendKey<V4>>, Vec<Frontend>),
    addresses: (Vec<V4>, Vec<AddressInfo>),
    slots: Vec<Slot>,
    backends: Vec<Backend>,
}

impl Entries {
    pub(crate) fn new() -> Self {
        let ids = 1..=objects::SERVICES as u32;
        let per = objects::PER_SERVICE as u32;
        let name = |i: usize| {
            let mut name = [0; NAME_LEN];
            let text = format!("{}/{}:http", objects::namespace(i), objects::name(i));
            name[..text.len()].copy_from_slice(text.as_bytes());
            ServiceName { name }
        };
        let frontend = |id: u32| {
            let table = SlotTable { base: (id - 1) * per, len: per };
            let (internal, external) = (table, table);
            Frontend { service_port: id, affinity_ticks: 0, internal, external, flags: 0, scheduler: 0, pad: 0 }
        };
        let key =
            |i: usize| FrontendKey { addr: V4::from(objects::cluster_ip(i)), port: 80, proto: proto::TCP, pad: 0 };
        let backend = |b: usize| {
            let (i, n) = (b / objects::PER_SERVICE, b % objects::PER_SERVICE);
            let state = backend_state::LISTED | backend_state::SERVING | backend_state::INTERNAL;
            let addr = objects::endpoint(i, n).to_ipv6_mapped().octets();
            Backend { addr, port: 8080, state, pad: 0, generation: 1, service_port: i as u32 + 1, weight: 1 }
        };
        let addr = AddressInfo { ifindex: 0, kind: address_kind::SERVICE, flags: 0, mac: [0; 6] };
        let slot = |backend| Slot { backend, turn: 0 };
        let (services, endpoints) = (0..objects::SERVICES, 0..objects::ENDPOINTS);
        Self {
            services: (ids.clone().collect(), services.clone().map(name).collect()),
            frontends: (services.clone().map(key).collect(), ids.map(frontend).collect()),
            addresses: (services.map(|i| objects::cluster_ip(i).into()).collect(), vec![addr; objects::SERVICES]),
            slots: (1..=objects::ENDPOINTS as u32).map(slot).collect(),
            backends: endpoints.map(backend).collect(),
        }
    }

    pub(crate) fn write(&self, maps: &Maps) -> Cost {
        let (backends, slots) = (maps.backends(), maps.slots());
        let services = table::<u32, ServiceName>("services", &maps.services);
        let addresses = table::<V4, AddressInfo>("addresses4", &maps.addresses4);
        let frontends = table::<FrontendKey<V4>, Frontend>("frontends4", &maps.frontends4);
        let write = || {
            // Backend 0 is none.
            assert!((1..).zip(&self.backends).all(|(id, backend)| backends.set(id, backend)));
            assert!((0..).zip(&self.slots).all(|(index, slot)| slots.set(index, slot)));
            services.insert_batch(&self.services.0, &self.services.1).unwrap();
            addresses.insert_batch(&self.addresses.0, &self.addresses.1).unwrap();
            frontends.insert_batch(&self.frontends.0, &self.frontends.1).unwrap();
        };
        cost(write).1
    }
}
