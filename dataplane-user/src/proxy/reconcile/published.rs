//! The map entries of a Service as they were last written; [`crate::proxy::desired`] has those that
//! are wanted.
//!
//! The reconciler keeps them per Service and changes them only after a write. The module also
//! converts between these types and the map keys. It never reads a map.

use std::net::IpAddr;
use std::sync::Arc;

use dataplane_common::types::address::{Address, Prefix, octets16};
use dataplane_common::types::ip_family::IpFamily;
use dataplane_common::types::service::{self, FrontendKey, SlotTable, frontend_flags};

use super::ids::{BackendId, ServicePortId};
use crate::proxy::desired::context::sort_key;
use crate::proxy::desired::{self, ClientRange, FrontendAddr, Sources, sets};

/// One port of a Service in the maps.
#[derive(Clone, PartialEq, Debug)]
pub struct PublishedPort {
    /// The port's name; may be empty.
    pub name: Arc<str>,
    /// Its entry in `services`.
    pub id: ServicePortId,
    /// The value in the entries of its frontends.
    pub affinity_ticks: u32,
    /// Slot tables, by [`table_index`].
    pub tables: [SlotTable; 4],
    /// Sorted by key.
    pub frontends: Box<[desired::DesiredFrontend]>,
    /// Sorted by address and port.
    pub backends: Box<[PublishedBackend]>,
    /// Its entries in `source_ranges4/6`.
    pub sources: Sources,
    /// The value in the entries of its frontends.
    pub scheduler: u8,
    /// True if a write failed, or if the entries found after a restart contradict each other. The
    /// next round writes all of them again.
    pub uncertain: bool,
}

/// One backend in the maps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PublishedBackend {
    /// Address.
    pub addr: IpAddr,
    /// Port.
    pub port: u16,
    /// Bits of [`service::backend_state`].
    pub state: u8,
    /// Bits of [`sets`].
    pub sets: u8,
    /// The value in its entry in `backends`.
    pub weight: u16,
    /// Index into `backends`.
    pub id: BackendId,
}

impl PublishedBackend {
    /// Returns the identity of the endpoint within its service port.
    #[must_use]
    pub const fn endpoint(&self) -> (u128, u16) {
        (sort_key(self.addr), self.port)
    }
}

/// Returns the index of a port's slot table by family and set.
#[must_use]
pub const fn table_index(family: IpFamily, set: u8) -> usize {
    2 * family.index() + (if set == sets::LOCAL { 1 } else { 0 })
}

/// The slot tables of a port: index, family, set.
pub const TABLES: [(usize, IpFamily, u8); 4] = [
    (0, IpFamily::V4, sets::CLUSTER),
    (1, IpFamily::V4, sets::LOCAL),
    (2, IpFamily::V6, sets::CLUSTER),
    (3, IpFamily::V6, sets::LOCAL),
];

impl PublishedPort {
    /// Returns its client ranges, sorted.
    #[must_use]
    pub fn sources(&self) -> &[ClientRange] {
        self.sources.as_ref().map_or(&[], |s| s)
    }

    /// Returns its frontend with this key.
    #[must_use]
    pub fn find(&self, key: &FrontendAddr) -> Option<&desired::DesiredFrontend> {
        self.frontends.binary_search_by_key(key, |f| f.key).ok().map(|i| &self.frontends[i])
    }

    /// Removes a frontend.
    pub fn remove(&mut self, key: &FrontendAddr) {
        self.frontends = self.frontends.iter().filter(|f| f.key != *key).copied().collect();
    }

    /// Returns the backends of one slot table, by address and port.
    pub fn members(&self, family: IpFamily, set: u8) -> impl Iterator<Item = &PublishedBackend> + Clone {
        self.backends.iter().filter(move |b| b.sets & set != 0 && family.has(b.addr))
    }

    /// Returns the map entry of one of its frontends.
    #[must_use]
    pub fn value(&self, frontend: &desired::DesiredFrontend) -> service::Frontend {
        let family = IpFamily::of(frontend.key.addr);
        let table = |drop| {
            let set = if frontend.flags & drop == 0 { sets::CLUSTER } else { sets::LOCAL };
            self.tables[table_index(family, set)]
        };
        service::Frontend {
            service_port: self.id.get(),
            affinity_ticks: self.affinity_ticks,
            internal: table(frontend_flags::INTERNAL_DROP),
            external: table(frontend_flags::EXTERNAL_DROP),
            flags: frontend.flags,
            scheduler: self.scheduler,
            pad: 0,
        }
    }
}

/// Returns the entries that the maps may contain if neither the change to `after` nor the rollback
/// was completed: those of both, all of them uncertain. Also returns the slot tables of `after`
/// that are not in the first result: they must not be reused until the Service is certain again.
#[must_use]
pub fn union(before: &[PublishedPort], after: &[PublishedPort]) -> (Box<[PublishedPort]>, Vec<SlotTable>) {
    let mut both: Vec<PublishedPort> = before.to_vec();
    let mut tables = Vec::new();
    for port in after {
        let Some(known) = both.iter_mut().find(|p| p.id == port.id) else {
            both.push(port.clone());
            continue;
        };
        tables.extend(port.tables.into_iter().filter(|t| t.len > 0 && !known.tables.contains(t)));
        let mut backends = known.backends.to_vec();
        let new = port.backends.iter().filter(|b| !known.backends.iter().any(|k| k.id == b.id));
        backends.extend(new.map(|b| PublishedBackend { sets: 0, ..*b }));
        backends.sort_by_key(PublishedBackend::endpoint);
        known.backends = backends.into();
        let mut frontends = known.frontends.to_vec();
        frontends.extend(port.frontends.iter().filter(|f| !known.frontends.iter().any(|k| k.key == f.key)));
        frontends.sort_by_key(|f| f.key);
        known.frontends = frontends.into();
        let mut sources: Vec<_> = known.sources().iter().chain(port.sources()).copied().collect();
        sources.sort_unstable();
        sources.dedup();
        known.sources = (!sources.is_empty()).then(|| Arc::new(sources.into()));
    }
    both.iter_mut().for_each(|p| p.uncertain = true);
    (both.into(), tables)
}

/// Returns the key in `frontends4` or `frontends6`.
#[must_use]
pub fn frontend_key<A: Address>(key: &FrontendAddr) -> FrontendKey<A> {
    FrontendKey { addr: A::from_octets16(&octets16(key.addr)), port: key.port, proto: key.proto, pad: 0 }
}

/// Reverses [`frontend_key`].
#[must_use]
pub fn frontend_addr<A: Address + Into<IpAddr>>(key: &FrontendKey<A>) -> FrontendAddr {
    FrontendAddr { addr: key.addr.into(), port: key.port, proto: key.proto }
}

/// Returns the key in `source_ranges4` or `source_ranges6`.
#[must_use]
pub fn source_key<A: Address>(service_port: ServicePortId, range: &ClientRange) -> Prefix<service::SourceRange<A>> {
    let data =
        service::SourceRange { service_port: service_port.get(), client: A::from_octets16(&octets16(range.addr)) };
    Prefix { len: SERVICE_PORT_BITS + u32::from(range.len), data }
}

/// Reverses [`source_key`]; `None` for a key that the agent never writes.
#[must_use]
pub fn source_range<A: Address + Into<IpAddr>>(
    key: &Prefix<service::SourceRange<A>>,
) -> Option<(ServicePortId, ClientRange)> {
    let len = u8::try_from(key.len.checked_sub(SERVICE_PORT_BITS)?).ok()?;
    let addr: IpAddr = key.data.client.into();
    let bits = 8 * size_of::<A>() as u32;
    let rest = bits.checked_sub(u32::from(len))?;
    let clean = sort_key(addr).trailing_zeros() >= rest;
    // The decoder rejects IPv4-mapped ranges.
    let mapped = addr.to_canonical() != addr;
    (clean && !mapped).then_some((ServicePortId::new(key.data.service_port), ClientRange { addr, len }))
}

/// Bits of the prefix before the client: the service port, which is matched whole.
const SERVICE_PORT_BITS: u32 = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn per_backend_types_have_their_expected_size() {
        assert_eq!(size_of::<PublishedBackend>(), 28);
        assert_eq!(size_of::<desired::DesiredFrontend>(), 22);
        assert!(size_of::<PublishedPort>() <= 104);
    }
}
