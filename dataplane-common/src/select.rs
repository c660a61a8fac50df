//! From a frontend to one of its backends: affinity, then the scheduler's slot.

use crate::addr::Address;
use crate::packet::Tables;
use crate::service::{
    Affinity, AffinityKey, Frontend, FrontendKey, HostPort, SourceRange, backend_state, frontend_flags,
};

/// Who asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// A pod or a node of the cluster.
    Internal,
    /// Anyone else.
    External,
}

impl Side {
    /// The state bit of backends that take new connections from this side.
    #[inline(always)]
    #[must_use]
    pub const fn state_bit(self) -> u8 {
        match self {
            Self::Internal => backend_state::INTERNAL,
            Self::External => backend_state::EXTERNAL,
        }
    }
}

/// Whether the source ranges of a frontend, if it has any, allow a client.
#[inline(always)]
pub fn may_use<A: Address, T: Tables<A>>(tables: &T, frontend: &Frontend, client: A) -> bool {
    frontend.flags & frontend_flags::SOURCE_RANGES == 0
        || tables.is_source_allowed(&SourceRange { service_port: frontend.service_port, client })
}

/// The id of the backend for a new connection; 0: there is none.
#[inline(always)]
pub fn select<A: Address, T: Tables<A>>(tables: &T, frontend: &Frontend, client: A, side: Side, now: u32) -> u32 {
    let key = AffinityKey { client, service_port: frontend.service_port };
    if frontend.affinity_ticks != 0
        && let Some(&Affinity { backend, generation, last_used }) = tables.affinity(&key)
        && now.wrapping_sub(last_used) < frontend.affinity_ticks
        && let Some(b) = tables.backend(backend)
        && b.generation == generation
        && b.state & side.state_bit() != 0
    {
        if last_used != now {
            tables.set_affinity(&key, &Affinity { backend, generation, last_used: now });
        }
        return backend;
    }
    let table = match side {
        Side::Internal => frontend.internal,
        Side::External => frontend.external,
    };
    if table.len == 0 {
        return 0;
    }
    // multiply-shift instead of a modulo (Lemire, "Fast random integer generation in an interval")
    let slot = ((tables.random() as u64 * table.len as u64) >> 32) as u32;
    let Some(id) = tables.slot(table.base.wrapping_add(slot)) else { return 0 };
    if frontend.affinity_ticks != 0
        && let Some(b) = tables.backend(id)
    {
        let generation = b.generation;
        tables.set_affinity(&key, &Affinity { backend: id, generation, last_used: now });
    }
    id
}

/// Where a host port of an address of the node leads: the one of just that address goes before the one of every address. The caller knows that
/// the address is the node's own and that no frontend has it with this port.
#[inline(always)]
pub fn host_port<A: Address, T: Tables<A>>(tables: &T, addr: A, port: u16, proto: u8) -> Option<&HostPort<A>> {
    let key = FrontendKey { addr, port, proto, pad: 0 };
    tables.host_port(&key).or_else(|| tables.host_port(&FrontendKey { addr: A::UNSPECIFIED, ..key }))
}
