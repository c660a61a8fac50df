//! Reads the service maps when the agent starts.
//!
//! The result goes to `reconcile::restore`. Nothing is read later: the published state is kept in
//! memory.

use dataplane_common::types::service::Backend;
use dataplane_host::map::MapError;

use super::ServiceMaps;
use crate::proxy::reconcile::Capacities;
use crate::proxy::reconcile::ids::{BackendId, Generation, ServicePortId};
use crate::proxy::reconcile::restore::TableContents;

/// Returns the sizes of the maps.
#[must_use]
pub fn capacities(tables: &ServiceMaps) -> Capacities {
    Capacities {
        services: tables.services.capacity(),
        frontends4: tables.v4.frontends.capacity(),
        frontends6: tables.v6.frontends.capacity(),
        sources4: tables.v4.sources.capacity(),
        sources6: tables.v6.sources.capacity(),
        backends: tables.backends.capacity(),
        slots: tables.slots.capacity(),
    }
}

/// Returns the content of the maps.
///
/// # Errors
/// The kernel refused to list a map.
pub fn read(tables: &ServiceMaps) -> Result<TableContents, MapError> {
    let names = tables.services.entries()?;
    let mut found = TableContents {
        names: names.into_iter().map(|(id, name)| (ServicePortId::new(id), name)).collect(),
        ..TableContents::default()
    };
    found.add_frontends(tables.v4.frontends.entries()?);
    found.add_frontends(tables.v6.frontends.entries()?);
    found.odd_sources4 = found.add_sources(tables.v4.sources.entries()?);
    found.odd_sources6 = found.add_sources(tables.v6.sources.entries()?);
    found.add_addresses(tables.v4.addresses.entries()?);
    found.add_addresses(tables.v6.addresses.entries()?);
    let backends =
        |id| tables.backends.get(id).filter(|b: &Backend| b.generation != 0 || b.state != 0).map(|b| (id, b));
    for (id, backend) in (1..tables.backends.capacity()).filter_map(backends) {
        found.generations.resize(id as usize, Generation::default());
        found.generations.push(Generation::new(backend.generation));
        if backend.state != 0 {
            found.backends.push((BackendId::new(id), backend));
        }
    }
    let end =
        found.frontends.iter().flat_map(|(_, f)| [f.internal, f.external]).map(|t| t.base.saturating_add(t.len)).max();
    let end = end.unwrap_or(0).min(tables.slots.capacity());
    found.slots = (0..end).filter_map(|i| tables.slots.get(i)).map(|s| s.backend).collect();
    Ok(found)
}
