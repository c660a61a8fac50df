//! From a frontend to one of its backends: affinity, then the scheduler's slot.
//!
//! A scheduler is a table and a rule that gives an index into it. Whatever needs more than a few instructions (weights, Maglev's permutations) is
//! in the table already; see `dataplane-user/src/proxy/reconcile/table`. Those that count connections look at many slots: see [`crate::balance::least_connections`].

use crate::maps::{FamilyMaps, SharedMaps};
use crate::types::address::Address;
use crate::types::load::Search;
use crate::types::service::{
    Affinity, AffinityKey, Frontend, FrontendKey, HostPort, SourceRange, frontend_flags, scheduler,
};
use crate::types::side::TrafficSide;

/// Whether the source ranges of a frontend, if it has any, allow a client.
#[inline(always)]
pub fn is_client_allowed<A: Address, T: FamilyMaps<A>>(tables: &T, frontend: &Frontend, client: A) -> bool {
    frontend.flags & frontend_flags::SOURCE_RANGES == 0
        || tables.is_source_allowed(&SourceRange { service_port: frontend.service_port, client })
}

/// Who asks for what, as far as a scheduler wants to know.
#[derive(Clone, Copy, Debug)]
pub struct ClientTuple<'a, A> {
    /// The client; a pod's own address at both layers.
    pub addr: &'a A,
    /// Its port, CPU order; 0: not known yet, because the kernel will choose one.
    pub port: u16,
    /// The address that it asked for.
    pub destination: &'a A,
}

/// The id of the backend for a new connection; 0: there is none. Who is remembered gets the same again; for others `choose` gives an id: [`pick`] or,
/// where the scheduler counts connections, [`least_loaded`].
#[inline(always)]
pub fn select<A: Address, T: FamilyMaps<A>>(
    tables: &T,
    frontend: &Frontend,
    client: A,
    side: TrafficSide,
    choose: impl FnOnce() -> u32,
) -> u32 {
    let key = AffinityKey { client, service_port: frontend.service_port };
    if frontend.affinity_ticks != 0
        && let Some(&Affinity { backend, generation, last_used }) = tables.affinity(&key)
        && let now = tables.now()
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
    let id = choose();
    if id != 0
        && frontend.affinity_ticks != 0
        && let Some(b) = tables.backend(id)
    {
        let (generation, now) = (b.generation, tables.now());
        tables.set_affinity(&key, &Affinity { backend: id, generation, last_used: now });
    }
    id
}

/// The id in the slot that the scheduler's rule gives; 0: there is none.
#[inline(always)]
pub fn pick<A: Address, T: FamilyMaps<A>>(
    tables: &T,
    frontend: &Frontend,
    client: &ClientTuple<'_, A>,
    side: TrafficSide,
) -> u32 {
    // before anything is known of the table, which would have to be kept meanwhile
    let draw = draw(tables, frontend, client);
    let table = side.table(frontend);
    if table.len == 0 {
        return 0;
    }
    let slot = if matches!(frontend.scheduler, scheduler::RR | scheduler::WRR) {
        tables.take_turn(table)
    } else {
        // multiply-shift instead of a modulo (Lemire, "Fast random integer generation in an interval")
        ((draw as u64 * table.len as u64) >> 32) as u32
    };
    tables.slot(table.base.wrapping_add(slot)).unwrap_or(0)
}

/// The id of the backend that has the least to do; 0: there is none.
#[inline(always)]
pub fn least_loaded<T: SharedMaps>(tables: &T, frontend: &Frontend, side: TrafficSide) -> u32 {
    let table = side.table(frontend);
    if table.len == 0 { 0 } else { tables.search(Search::new(table, frontend.scheduler, tables.random())) }
}

/// Where a host port of an address of the node leads: the one of just that address goes before the one of every address. The caller knows that
/// the address is the node's own and that no frontend has it with this port.
#[inline(always)]
pub fn host_port<A: Address, T: FamilyMaps<A>>(tables: &T, addr: A, port: u16, proto: u8) -> Option<&HostPort<A>> {
    let key = FrontendKey { addr, port, proto, pad: 0 };
    tables.host_port(&key).or_else(|| tables.host_port(&FrontendKey { addr: A::UNSPECIFIED, ..key }))
}

/// A number from all of 32 bits that decides for a slot, where none takes turns.
#[inline(always)]
fn draw<A: Address, T: FamilyMaps<A>>(tables: &T, frontend: &Frontend, client: &ClientTuple<'_, A>) -> u32 {
    let by_port = frontend.flags & frontend_flags::HASH_PORT != 0;
    let (addr, seed) = match frontend.scheduler {
        scheduler::DH => (*client.destination, 0),
        // one port is as good as another as long as the kernel has not chosen it
        scheduler::SH | scheduler::MH if !by_port || client.port != 0 => {
            (*client.addr, if by_port { client.port as u32 } else { 0 })
        }
        _ => return tables.random(),
    };
    hash(&addr, seed)
}

/// A function of its own: it needs registers, and those of its callers are full.
#[inline(never)]
fn hash<A: Address>(addr: &A, seed: u32) -> u32 {
    addr.digest(seed)
}
