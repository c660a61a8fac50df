//! The traits of `dataplane_common::maps` over BPF maps.
//!
//! A reference into a map stays valid while the program runs (it holds the RCU read lock), but its
//! bytes may change: agent and other CPUs write too. Values are therefore copied before the next
//! write to the same map, and every value is valid whatever its bytes. The module only stores and
//! finds; decisions are in `dataplane-common`.

use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::helpers::{bpf_get_prandom_u32, bpf_jiffies64};
use dataplane_common::balance::least_connections;
use dataplane_common::maps::{FamilyMaps, FlowMap, RuleMaps, SharedMaps};
use dataplane_common::policy::evaluate;
use dataplane_common::types::address::{Address, V4, V6};
use dataplane_common::types::answer_budget::AnswerKind;
use dataplane_common::types::clock::TICK_SHIFT;
use dataplane_common::types::event::Counter;
use dataplane_common::types::flow::{Flow, FlowKey, FragmentKey, Ports};
use dataplane_common::types::flow_budget::Ring;
use dataplane_common::types::load::{ConnectionCounts, Search};
use dataplane_common::types::pod::{AddressInfo, MasqueradeSource, Network, NodeConfig, Pod, PodNetns};
use dataplane_common::types::policy::{PodRules, PortKey, Rule, RuleKey};
use dataplane_common::types::service::{
    Affinity, AffinityKey, Backend, BackendLoad, BackendStats, Frontend, FrontendKey, HostPort, SlotTable, SockBackend,
    SockPeer, SockPeerKey, SourceRange,
};

use crate::kernel::machine;
use crate::maps;

/// Returns the jiffies since boot.
#[inline(always)]
pub fn jiffies() -> u64 {
    // SAFETY: no arguments; the verifier inlines it as one load.
    unsafe { bpf_jiffies64() }
}

/// Counts a dropped packet; `reason` is the number of its `DropReason`.
#[inline(always)]
pub fn count_drop(reason: u32) {
    if let Some(n) = maps::drops.get_ptr_mut(reason) {
        // Per CPU, so that no counter's cache line moves between CPUs.
        // SAFETY: this CPU's own counter, and a program is not interrupted by another of its kind
        // on the same CPU.
        unsafe { *n += 1 };
    }
}

/// Returns the counters of a backend, set to zero if they belong to another generation.
///
/// Two CPUs that give an endpoint its first two connections at the same instant may both reset the
/// counters: then one connection is not counted.
#[inline(always)]
fn stats_of(of: SockBackend) -> Option<*mut BackendStats> {
    let stats = maps::backend_stats.get_ptr_mut(of.backend)?;
    // SAFETY: aligned words that only programs write.
    unsafe {
        if (*stats).generation != of.generation {
            ((*stats).sockets, (*stats).flows) = (0, 0);
            (*stats).generation = of.generation;
        }
    }
    Some(stats)
}

/// Counts a socket for its backend.
#[inline(always)]
pub fn count_socket(of: SockBackend) {
    if let Some(stats) = stats_of(of) {
        // SAFETY: an aligned counter of that element.
        unsafe { machine::add(&raw mut (*stats).sockets, 1) };
    }
}

/// Ends the count of a socket for its backend.
#[inline(always)]
pub fn uncount_socket(of: SockBackend) {
    if let Some(stats) = maps::backend_stats.get_ptr_mut(of.backend) {
        // SAFETY: as above; adding `u64::MAX` subtracts one.
        unsafe {
            if (*stats).generation == of.generation {
                machine::add(&raw mut (*stats).sockets, u64::MAX);
            }
        }
    }
}

/// Searches for the least loaded backend ([`SharedMaps::search`]).
///
/// Exported, hence a global function: the verifier checks it once for any arguments, and not again
/// with what it knows at each call (`do_check_subprogs` in kernel/bpf/verifier.c). Arguments are
/// plain numbers, because a global function takes no pointers to structures without BTF tags.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn least_loaded(base: u32, len: u32, first: u32, addend: u32, formula: u32) -> u32 {
    least_connections::run(Search::from_words([base, len, first, addend, formula]), &KernelMaps)
}

/// Decides by a rule set about an IPv4 peer, given in memory order ([`FamilyMaps::judge`]).
/// Exported like [`least_loaded`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn judge_peer4(set: u32, peer: u32, ports: u32) -> u32 {
    evaluate::<V4, _>(&KernelMaps, set, &V4::from_word(peer), (ports >> 16) as u8, ports as u16)
}

/// Decides by a rule set about an IPv6 peer, given as two halves in memory order.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn judge_peer6(set: u32, first: u64, second: u64, ports: u32) -> u32 {
    let words = [first as u32, (first >> 32) as u32, second as u32, (second >> 32) as u32];
    evaluate::<V6, _>(&KernelMaps, set, &V6::from_words(words), (ports >> 16) as u8, ports as u16)
}

/// All maps except the flow tables.
pub struct KernelMaps;

/// The flow tables of both families.
pub struct KernelFlows;

impl SharedMaps for KernelMaps {
    #[inline(always)]
    fn optimization_barrier(&self, n: u32) -> u32 {
        machine::optimization_barrier(n)
    }
    #[inline(always)]
    fn now(&self) -> u32 {
        (jiffies() >> TICK_SHIFT) as u32
    }
    #[inline(always)]
    fn random(&self) -> u32 {
        // SAFETY: no arguments.
        unsafe { bpf_get_prandom_u32() }
    }
    #[inline(always)]
    fn config(&self) -> Option<&NodeConfig> {
        maps::config.get(0)
    }
    #[inline(always)]
    fn pod(&self, ifindex: u32) -> Option<&Pod> {
        maps::pods.get(ifindex)
    }
    #[inline(always)]
    fn pod_rules(&self, ifindex: u32) -> Option<&PodRules> {
        maps::pod_rules.get(ifindex)
    }
    #[inline(always)]
    fn pod_netns(&self, cookie: u64) -> Option<&PodNetns> {
        // SAFETY: see the module's doc.
        unsafe { maps::pod_netns.get(cookie) }
    }
    #[inline(always)]
    fn masquerade_source(&self, ifindex: u32) -> Option<&MasqueradeSource> {
        // SAFETY: see the module's doc.
        unsafe { maps::masq_sources.get(ifindex) }
    }
    #[inline(always)]
    fn slot(&self, index: u32) -> Option<u32> {
        maps::slots.get(index).map(|s| s.backend)
    }
    #[inline(always)]
    fn take_turn(&self, table: SlotTable) -> u32 {
        let Some(slot) = maps::slots.get_ptr_mut(table.base) else { return 0 };
        // SAFETY: one aligned word that only programs write. Two CPUs that read the same turn use
        // it twice and advance by one: two connections go to one backend, and nothing else is lost.
        // An atomic would serialize the CPUs for no gain.
        let next = unsafe { &mut (*slot).turn };
        let turn = if *next < table.len { *next } else { 0 };
        *next = turn + 1;
        turn
    }
    #[inline(always)]
    fn backend(&self, id: u32) -> Option<&Backend> {
        maps::backends.get(id)
    }
    #[inline(always)]
    fn count_connection(&self, backend: u32) {
        if let Some(stats) = maps::backend_stats.get_ptr_mut(backend) {
            // SAFETY: an aligned counter of that element, which the program may write.
            unsafe { machine::add(&raw mut (*stats).connections, 1) };
        }
    }
    #[inline(always)]
    fn count_flow(&self, backend: u32, generation: u32) {
        if let Some(stats) = stats_of(SockBackend { backend, generation }) {
            // SAFETY: as above.
            unsafe { machine::add(&raw mut (*stats).flows, 1) };
        }
    }
    #[inline(always)]
    fn connection_counts(&self, backend: u32, generation: u32) -> ConnectionCounts {
        let found: Option<&BackendLoad> = maps::backend_loads.get(backend);
        match (maps::backend_stats.get(backend), found) {
            (Some(stats), Some(found)) => ConnectionCounts::new(stats, found, generation),
            _ => ConnectionCounts::default(),
        }
    }
    #[inline(always)]
    fn search(&self, search: Search) -> u32 {
        let [base, len, first, addend, formula] = search.words();
        least_loaded(base, len, first, addend, formula)
    }
    #[inline(always)]
    fn count(&self, counter: Counter) {
        if let Some(n) = maps::counters.get_ptr_mut(counter as u32) {
            // SAFETY: this CPU's own counter.
            unsafe { *n += 1 };
        }
    }
    #[inline(always)]
    fn take_flow(&self, budget: u32, rate: u32) -> bool {
        // SAFETY: aligned words that only programs write. Two CPUs at once may take one flow for
        // two.
        maps::flow_budgets.get_ptr_mut(budget).is_some_and(|budget| unsafe { (*budget).take(self.now(), rate) })
    }
    #[inline(always)]
    fn take_answer(&self, kind: AnswerKind) -> bool {
        // SAFETY: this CPU's own element.
        maps::answers.get_ptr_mut(kind as u32).is_some_and(|budget| unsafe { (*budget).take(self.now()) })
    }
}

macro_rules! family {
    ($addr:ty: $addresses:ident, $frontends:ident, $flows:ident, $affinity:ident, $fragments:ident, $peers:ident,
     $networks:ident, $ranges:ident, $host_ports:ident, $surplus:ident, $classes:ident, $blocks:ident,
     |$set:ident, $peer:ident, $ports:ident| $judge:expr) => {
        impl RuleMaps<$addr> for KernelMaps {
            #[inline(always)]
            fn peer_class(&self, addr: &$addr) -> Option<u32> {
                // SAFETY: see the module's doc.
                unsafe { maps::$classes.get(addr) }.copied()
            }
            #[inline(always)]
            fn block_class(&self, addr: &$addr) -> Option<u32> {
                maps::$blocks.get(&Key::new(size_of::<$addr>() as u32 * 8, *addr)).copied()
            }
            #[inline(always)]
            fn rule(&self, key: &RuleKey) -> Option<&Rule> {
                // SAFETY: see the module's doc.
                unsafe { maps::rules.get(key) }
            }
            #[inline(always)]
            fn port_decision(&self, table: u32, proto: u8, port: u16) -> Option<u32> {
                maps::ports.get(&Key::new(56, PortKey::new(table, proto, port))).copied()
            }
        }

        impl FamilyMaps<$addr> for KernelMaps {
            #[inline(always)]
            fn address(&self, addr: &$addr) -> Option<AddressInfo> {
                // SAFETY: see the module's doc.
                unsafe { maps::$addresses.get(addr) }.copied()
            }
            #[inline(always)]
            fn judge(&self, $set: u32, $peer: &$addr, $ports: u32) -> u32 {
                $judge
            }
            #[inline(always)]
            fn network(&self, addr: &$addr) -> Option<Network> {
                maps::$networks.get(&Key::new(size_of::<$addr>() as u32 * 8, *addr)).copied()
            }
            #[inline(always)]
            fn host_port(&self, key: &FrontendKey<$addr>) -> Option<&HostPort<$addr>> {
                // SAFETY: see the module's doc.
                unsafe { maps::$host_ports.get(key) }
            }
            #[inline(always)]
            fn is_source_allowed(&self, client: &SourceRange<$addr>) -> bool {
                maps::$ranges.get(&Key::new(size_of::<SourceRange<$addr>>() as u32 * 8, *client)).is_some()
            }
            #[inline(always)]
            fn frontend(&self, key: &FrontendKey<$addr>) -> Option<&Frontend> {
                // SAFETY: see the module's doc.
                unsafe { maps::$frontends.get(key) }
            }
            #[inline(always)]
            fn affinity(&self, key: &AffinityKey<$addr>) -> Option<&Affinity> {
                // SAFETY: see the module's doc.
                unsafe { maps::$affinity.get(key) }
            }
            #[inline(always)]
            fn set_affinity(&self, key: &AffinityKey<$addr>, affinity: &Affinity) {
                // If the map refuses the entry, the client's next connection gets any backend.
                let _ = maps::$affinity.insert(key, affinity, 0);
            }
            #[inline(always)]
            fn fragment(&self, key: &FragmentKey<$addr>) -> Option<Ports> {
                // SAFETY: see the module's doc.
                unsafe { maps::$fragments.get(key) }.copied()
            }
            #[inline(always)]
            fn set_fragment(&self, key: &FragmentKey<$addr>, ports: &Ports) {
                // If the map refuses the entry, later fragments are dropped and counted.
                let _ = maps::$fragments.insert(key, ports, 0);
            }
            #[inline(always)]
            fn sock_peer(&self, key: &SockPeerKey<$addr>) -> Option<&SockPeer<$addr>> {
                // SAFETY: see the module's doc.
                unsafe { maps::$peers.get(key) }
            }
            #[inline(always)]
            fn set_sock_peer(&self, key: &SockPeerKey<$addr>, peer: &SockPeer<$addr>) -> bool {
                maps::$peers.insert(key, peer, 0).is_ok()
            }
            #[inline(always)]
            fn remove_sock_peer(&self, key: &SockPeerKey<$addr>) {
                // Usually there is no entry.
                let _ = maps::$peers.remove(key);
            }
        }

        impl FlowMap<$addr> for KernelFlows {
            #[inline(always)]
            fn get(&mut self, key: &FlowKey<$addr>) -> Option<&mut Flow<$addr>> {
                // SAFETY: see the module's doc. Fields are single words; a race between CPUs loses
                // at most a tick or a state, which the next packet sets again.
                maps::$flows.get_ptr_mut(key).map(|p| unsafe { &mut *p })
            }
            #[inline(always)]
            fn insert(&mut self, key: &FlowKey<$addr>, flow: &Flow<$addr>) -> bool {
                maps::$flows.insert(key, flow, 0).is_ok()
            }
            #[inline(always)]
            fn insert_new(&mut self, key: &FlowKey<$addr>, flow: &Flow<$addr>) -> bool {
                maps::$flows.insert(key, flow, BPF_NOEXIST as u64).is_ok()
            }
            #[inline(always)]
            fn remove(&mut self, key: &FlowKey<$addr>) {
                // Usually there is no entry.
                let _ = maps::$flows.remove(key);
            }
            #[inline(always)]
            fn replace_surplus(&mut self, ring: Ring, entries: u32, key: &FlowKey<$addr>) -> Option<FlowKey<$addr>> {
                let head = maps::surplus_heads.get_ptr_mut(ring.head(<$addr>::V6))?;
                // SAFETY: an aligned counter of that element, which the program may write.
                let n = unsafe { machine::fetch_add(head, 1) };
                let element = maps::$surplus.get_ptr_mut(ring.element(n as u32, entries))?;
                // SAFETY: see the module's doc. No other CPU gets this element before a whole turn
                // of the ring.
                Some(core::mem::replace(unsafe { &mut *element }, *key))
            }
        }
    };
}

family!(V4: addresses4, frontends4, flows4, affinity4, fragments4, sock_peers4, networks4, source_ranges4, host_ports4,
    surplus4, peers4, blocks4, |set, peer, ports| judge_peer4(set, peer.word(), ports));
family!(V6: addresses6, frontends6, flows6, affinity6, fragments6, sock_peers6, networks6, source_ranges6, host_ports6,
surplus6, peers6, blocks6, |set, peer, ports| {
    let [a, b, c, d] = peer.words().map(u64::from);
    judge_peer6(set, b << 32 | a, d << 32 | c, ports)
});
