//! The slots that Services and namespaces have, and how many more they may get.
//!
//! One tenant's Services would otherwise fill the map for all. The reconciler keeps it up to date
//! with what is published; limits are shares of the largest map (`desired::limits`).

use std::sync::Arc;

use hashbrown::HashMap;

use super::ids::ServiceId;
use super::published::PublishedPort;
use crate::proxy::desired::limits::{NAMESPACE_SHARE, SERVICE_SHARE};

/// Slots in use, by Service and by namespace.
#[derive(Debug, Default)]
pub(super) struct SlotQuota {
    /// By Service id; 0 for one without slots, whose namespace may be that of an earlier Service.
    services: Vec<(Arc<str>, u32)>,
    namespaces: HashMap<Arc<str>, u32>,
    /// Slots of the largest map; 0: unlimited.
    pub(super) largest: u32,
}

/// Which limit a [`Room`] follows from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SlotLimit {
    /// That of each Service.
    Service,
    /// That of the Service's namespace.
    Namespace,
}

impl SlotLimit {
    /// Returns a phrase for a message.
    #[must_use]
    pub const fn owner(self) -> &'static str {
        match self {
            Self::Service => "one Service",
            Self::Namespace => "its namespace",
        }
    }
}

/// The slots that a Service may have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Room {
    /// The number of slots.
    pub slots: u32,
    /// The limit that leaves no more.
    pub limit: SlotLimit,
}

impl Room {
    /// Room for any Service.
    pub const UNLIMITED: Self = Self { slots: u32::MAX, limit: SlotLimit::Service };
}

impl SlotQuota {
    /// Returns the room of a Service. It may always have as many slots as it has.
    pub(super) fn room(&self, id: ServiceId, namespace: &str) -> Room {
        if self.largest == 0 {
            return Room::UNLIMITED;
        }
        let own = self.services.get(id.index()).map_or(0, |(_, slots)| *slots);
        let others = self.namespaces.get(namespace).map_or(0, |slots| slots.saturating_sub(own));
        let (service, left) = (self.largest / SERVICE_SHARE, (self.largest / NAMESPACE_SHARE).saturating_sub(others));
        let limit = if service <= left { SlotLimit::Service } else { SlotLimit::Namespace };
        Room { slots: service.min(left).max(own), limit }
    }

    /// Names the namespace of a Service, before [`Self::set`].
    pub(super) fn register(&mut self, id: ServiceId, namespace: &Arc<str>) {
        if id.index() >= self.services.len() {
            self.services.resize_with(id.index() + 1, || (Arc::from(""), 0));
        }
        let (known, slots) = &mut self.services[id.index()];
        if *slots == 0 {
            *known = Arc::clone(namespace);
        }
    }

    /// Notes what the maps contain of a registered Service.
    pub(super) fn set(&mut self, id: ServiceId, ports: &[PublishedPort]) {
        let Some((namespace, slots)) = self.services.get_mut(id.index()) else { return };
        let before = std::mem::replace(slots, count(ports));
        if before == *slots {
            return;
        }
        let of_namespace = self.namespaces.entry(Arc::clone(namespace)).or_default();
        *of_namespace = of_namespace.saturating_sub(before).saturating_add(*slots);
        if *of_namespace == 0 {
            self.namespaces.remove(&**namespace);
        }
    }
}

/// Returns the number of slots of these ports.
pub(super) fn count(ports: &[PublishedPort]) -> u32 {
    ports.iter().flat_map(|port| port.tables).fold(0, |sum, table| sum.saturating_add(table.len))
}
