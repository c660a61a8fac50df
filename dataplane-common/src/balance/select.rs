//! Selection of a backend for a frontend: session affinity, then the scheduler's slot.
//!
//! A scheduler is a table and a rule that computes an index into it. Everything that takes more
//! than a few instructions (weights, Maglev's permutations) is already in the table; see
//! `dataplane-user/src/proxy/reconcile/table`. Schedulers that compare connection counts look at
//! many slots: see [`crate::balance::least_connections`].

use crate::maps::{FamilyMaps, SharedMaps};
use crate::types::address::Address;
use crate::types::load::Search;
use crate::types::service::{
    Affinity, AffinityKey, Frontend, FrontendKey, HostPort, SourceRange, frontend_flags, scheduler,
};
use crate::types::side::TrafficSide;

/// Returns true if the frontend has no source ranges, or if they contain the client.
#[inline(always)]
pub fn is_client_allowed<A: Address, T: FamilyMaps<A>>(tables: &T, frontend: &Frontend, client: A) -> bool {
    frontend.flags & frontend_flags::SOURCE_RANGES == 0
        || tables.is_source_allowed(&SourceRange { service_port: frontend.service_port, client })
}

/// The tuple of a new connection, as far as schedulers use it.
#[derive(Clone, Copy, Debug)]
pub struct ClientTuple<'a, A> {
    /// Address of the client. Packet path and socket hooks both use a pod's own address.
    pub addr: &'a A,
    /// Port of the client, CPU order; 0 if the kernel has not chosen it yet.
    pub port: u16,
    /// Address of the frontend.
    pub destination: &'a A,
}

/// Returns the backend id for a new connection; 0 if there is no backend.
///
/// If session affinity applies, returns the remembered backend; otherwise calls `choose`, which is
/// [`pick`] or, for schedulers that compare connection counts, the result of [`least_loaded`].
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
        // An update of an LRU entry costs up to 340 ns: once a tick is enough.
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

/// Returns the backend id in the slot that the scheduler's rule selects; 0 if there is none.
#[inline(always)]
pub fn pick<A: Address, T: FamilyMaps<A>>(
    tables: &T,
    frontend: &Frontend,
    client: &ClientTuple<'_, A>,
    side: TrafficSide,
) -> u32 {
    // First, while few values are live: values of the table would have to be spilled meanwhile.
    let draw = draw(tables, frontend, client);
    let table = side.table(frontend);
    if table.len == 0 {
        return 0;
    }
    let slot = if matches!(frontend.scheduler, scheduler::RR | scheduler::WRR) {
        tables.take_turn(table)
    } else {
        // Multiply-shift instead of a modulo (Lemire, "Fast random integer generation in an
        // interval"): `%` by a variable leaves a panic in the object, which must not load.
        ((draw as u64 * table.len as u64) >> 32) as u32
    };
    tables.slot(table.base.wrapping_add(slot)).unwrap_or(0)
}

/// Returns the id of the backend with the fewest connections for its weight; 0 if there is none.
#[inline(always)]
pub fn least_loaded<T: SharedMaps>(tables: &T, frontend: &Frontend, side: TrafficSide) -> u32 {
    let table = side.table(frontend);
    if table.len == 0 { 0 } else { tables.search(Search::new(table, frontend.scheduler, tables.random())) }
}

/// Returns the pod of a host port on an address of the node. An entry for exactly this address
/// precedes one for every address.
///
/// The caller has checked that the address is the node's and that no frontend has it with this
/// port.
#[inline(always)]
pub fn host_port<A: Address, T: FamilyMaps<A>>(tables: &T, addr: A, port: u16, proto: u8) -> Option<&HostPort<A>> {
    let key = FrontendKey { addr, port, proto, pad: 0 };
    tables.host_port(&key).or_else(|| tables.host_port(&FrontendKey { addr: A::UNSPECIFIED, ..key }))
}

/// Returns 32 bits that select a slot, for schedulers that do not take turns.
#[inline(always)]
fn draw<A: Address, T: FamilyMaps<A>>(tables: &T, frontend: &Frontend, client: &ClientTuple<'_, A>) -> u32 {
    let by_port = frontend.flags & frontend_flags::HASH_PORT != 0;
    let (addr, seed) = match frontend.scheduler {
        scheduler::DH => (*client.destination, 0),
        // Before the kernel has chosen the port (connect(2) on an unbound socket), a random number
        // spreads the connections as the hash of a random port would.
        scheduler::SH | scheduler::MH if !by_port || client.port != 0 => {
            (*client.addr, if by_port { client.port as u32 } else { 0 })
        }
        _ => return tables.random(),
    };
    hash(&addr, seed)
}

/// Hashes an address.
///
/// A function of its own: the 64-bit multiplications need registers, and inlined they would spill
/// those of the caller to its stack.
#[inline(never)]
fn hash<A: Address>(addr: &A, seed: u32) -> u32 {
    addr.digest(seed)
}
