//! Declarations of all maps: types, default sizes, flags.
//!
//! The agent replaces the sizes when it loads the object (`dataplane-user/src/load/sizes.rs`). BTF
//! keeps the field names for `bpftool map dump`. Names, kinds and writers are listed in
//! ARCHITECTURE.md. Only `kernel/` uses the statics.
#![allow(non_upper_case_globals, reason = "the name of the static is the name of the map")]

use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC};
use aya_ebpf::btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, ProgramArray, SkStorage};
use aya_ebpf::macros::btf_map;
use dataplane_common::types::address::{V4, V6};
use dataplane_common::types::answer_budget::{AnswerBudget, AnswerKind};
use dataplane_common::types::event::{Counter, DropReason};
use dataplane_common::types::flow::{Flow, FlowKey, FragmentKey, Ports};
use dataplane_common::types::flow_budget::{BUDGETS, FlowBudget, Ring};
use dataplane_common::types::pod::{AddressInfo, MasqueradeSource, Network, NodeConfig, POD_SLOTS, Pod, PodNetns};
use dataplane_common::types::policy::{PodRules, PortKey, Rule, RuleKey};
use dataplane_common::types::service::{
    Affinity, AffinityKey, Backend, BackendLoad, BackendStats, Frontend, FrontendKey, HostPort, ServiceName, Slot,
    SockBackend, SockPeer, SockPeerKey, SourceRange,
};
use dataplane_common::types::stage::Stage;

/// Flag of hash maps that are mostly empty: elements are allocated as they are inserted.
const ON_DEMAND: usize = BPF_F_NO_PREALLOC as usize;
/// Flag of arrays that the agent maps into its memory, to write without system calls.
const SHARED: usize = BPF_F_MMAPABLE as usize;

#[btf_map]
pub static frontends4: HashMap<FrontendKey<V4>, Frontend, 131072, ON_DEMAND> = HashMap::new();
#[btf_map]
pub static frontends6: HashMap<FrontendKey<V6>, Frontend, 131072, ON_DEMAND> = HashMap::new();
#[btf_map]
pub static slots: Array<Slot, 262144, SHARED> = Array::new();
#[btf_map]
pub static backends: Array<Backend, 65536, SHARED> = Array::new();
#[btf_map]
pub static backend_stats: Array<BackendStats, 65536, SHARED> = Array::new();
#[btf_map]
pub static backend_loads: Array<BackendLoad, 65536, SHARED> = Array::new();
#[btf_map]
pub static services: HashMap<u32, ServiceName, 131072, ON_DEMAND> = HashMap::new();
// The kernel allocates all elements of an LRU hash at once: it refuses `ON_DEMAND` for this kind
// (`htab_map_alloc_check` in kernel/bpf/hashtab.c).
#[btf_map]
pub static affinity4: LruHashMap<AffinityKey<V4>, Affinity, 65536> = LruHashMap::new();
#[btf_map]
pub static affinity6: LruHashMap<AffinityKey<V6>, Affinity, 65536> = LruHashMap::new();
#[btf_map]
pub static flows4: LruHashMap<FlowKey<V4>, Flow<V4>, 131072> = LruHashMap::new();
#[btf_map]
pub static flows6: LruHashMap<FlowKey<V6>, Flow<V6>, 131072> = LruHashMap::new();
#[btf_map]
pub static fragments4: LruHashMap<FragmentKey<V4>, Ports, 4096> = LruHashMap::new();
#[btf_map]
pub static fragments6: LruHashMap<FragmentKey<V6>, Ports, 4096> = LruHashMap::new();
#[btf_map]
pub static sock_peers4: LruHashMap<SockPeerKey<V4>, SockPeer<V4>, 65536> = LruHashMap::new();
#[btf_map]
pub static sock_peers6: LruHashMap<SockPeerKey<V6>, SockPeer<V6>, 65536> = LruHashMap::new();
#[btf_map]
pub static sock_backends: SkStorage<SockBackend> = SkStorage::new();
#[btf_map]
pub static pods: Array<Pod, { POD_SLOTS as usize }> = Array::new();
#[btf_map]
pub static addresses4: HashMap<V4, AddressInfo, 262144, ON_DEMAND> = HashMap::new();
#[btf_map]
pub static addresses6: HashMap<V6, AddressInfo, 262144, ON_DEMAND> = HashMap::new();
#[btf_map]
pub static pod_netns: HashMap<u64, PodNetns, 4096, ON_DEMAND> = HashMap::new();
#[btf_map]
pub static masq_sources: HashMap<u32, MasqueradeSource, 1024, ON_DEMAND> = HashMap::new();
#[btf_map]
pub static config: Array<NodeConfig, 1> = Array::new();
#[btf_map]
pub static counters: PerCpuArray<u64, { Counter::ALL.len() }> = PerCpuArray::new();
#[btf_map]
pub static drops: PerCpuArray<u64, { DropReason::ALL.len() }> = PerCpuArray::new();
#[btf_map]
pub static answers: PerCpuArray<AnswerBudget, { AnswerKind::COUNT }> = PerCpuArray::new();
#[btf_map]
pub static flow_budgets: Array<FlowBudget, { BUDGETS as usize }> = Array::new();
#[btf_map]
pub static surplus_heads: Array<u64, { Ring::HEADS }> = Array::new();
#[btf_map]
pub static surplus4: Array<FlowKey<V4>, 32768> = Array::new();
#[btf_map]
pub static surplus6: Array<FlowKey<V6>, 32768> = Array::new();
#[btf_map]
pub static networks4: LpmTrie<V4, Network, 16384> = LpmTrie::new();
#[btf_map]
pub static networks6: LpmTrie<V6, Network, 16384> = LpmTrie::new();
#[btf_map]
pub static source_ranges4: LpmTrie<SourceRange<V4>, u32, 1048576> = LpmTrie::new();
#[btf_map]
pub static source_ranges6: LpmTrie<SourceRange<V6>, u32, 1048576> = LpmTrie::new();
#[btf_map]
pub static host_ports4: HashMap<FrontendKey<V4>, HostPort<V4>, 16384, ON_DEMAND> = HashMap::new();
#[btf_map]
pub static host_ports6: HashMap<FrontendKey<V6>, HostPort<V6>, 16384, ON_DEMAND> = HashMap::new();
#[btf_map]
pub static pod_rules: Array<PodRules, { POD_SLOTS as usize }> = Array::new();
#[btf_map]
pub static peers4: HashMap<V4, u32, 262144, ON_DEMAND> = HashMap::new();
#[btf_map]
pub static peers6: HashMap<V6, u32, 262144, ON_DEMAND> = HashMap::new();
#[btf_map]
pub static blocks4: LpmTrie<V4, u32, 262144> = LpmTrie::new();
#[btf_map]
pub static blocks6: LpmTrie<V6, u32, 262144> = LpmTrie::new();
#[btf_map]
pub static rules: HashMap<RuleKey, Rule, 1048576, ON_DEMAND> = HashMap::new();
#[btf_map]
pub static ports: LpmTrie<PortKey, u32, 262144> = LpmTrie::new();
/// Stage programs, indexed by `Stage::index`.
#[btf_map]
pub static stages: ProgramArray<{ Stage::ALL.len() * 2 }> = ProgramArray::new();
