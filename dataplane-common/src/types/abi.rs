//! The ABI hash: a fingerprint of every layout and name that two programs must agree on.
//!
//! The hash names the pin directory, so agent, plugin and kernel programs share maps only if their
//! hashes are equal. It is computed at compile time from the name, size, alignment and field
//! offsets of each shared type, and from the names of maps, stages and labels. A change of a layout
//! therefore changes the hash without further action; a change of meaning needs `REVISION`.

use core::mem::{align_of, offset_of, size_of};

use crate::types::address::{Prefix, V4, V6};
use crate::types::answer_budget::AnswerBudget;
use crate::types::event::{Counter, DropReason};
use crate::types::flow::{Flow, FlowKey, FragmentKey, Ports};
use crate::types::flow_budget::FlowBudget;
use crate::types::fnv;
use crate::types::pod::{AddressInfo, MasqueradeSource, Network, NodeConfig, POD_SLOTS, Pod, PodNetns};
use crate::types::policy::{PodRules, PortKey, Rule, RuleKey};
use crate::types::service::{
    Affinity, AffinityKey, Backend, BackendLoad, BackendStats, Frontend, FrontendKey, HostPort, ServiceName, Slot,
    SlotTable, SockBackend, SockPeer, SockPeerKey, SourceRange,
};
use crate::types::stage::STAGE_PROGRAMS;

/// Continues the hash with the bytes of a number, lowest first, without trailing zeros.
const fn mix_number(mut hash: u64, mut n: usize) -> u64 {
    loop {
        hash = fnv::extend64(hash, &[n as u8]);
        n >>= 8;
        if n == 0 {
            return hash;
        }
    }
}

macro_rules! layout {
    ($hash:expr; $($ty:ty { $($field:ident)* } = $size:literal;)*) => {{
        let mut hash = $hash;
        $(
            assert!(size_of::<$ty>() == $size);
            hash = fnv::extend64(hash, stringify!($ty).as_bytes());
            hash = mix_number(hash, size_of::<$ty>());
            hash = mix_number(hash, align_of::<$ty>());
            $(
                hash = fnv::extend64(hash, stringify!($field).as_bytes());
                hash = mix_number(hash, offset_of!($ty, $field));
            )*
        )*
        hash
    }};
}

/// Names of all pinned maps (at most 15 characters: `BPF_OBJ_NAME_LEN` - 1).
pub const MAPS: &[&str] = &[
    "frontends4",
    "frontends6",
    "slots",
    "backends",
    "backend_stats",
    "backend_loads",
    "services",
    "affinity4",
    "affinity6",
    "flows4",
    "flows6",
    "fragments4",
    "fragments6",
    "sock_peers4",
    "sock_peers6",
    "sock_backends",
    "pods",
    "addresses4",
    "addresses6",
    "pod_netns",
    "masq_sources",
    "config",
    "counters",
    "drops",
    "answers",
    "flow_budgets",
    "surplus_heads",
    "surplus4",
    "surplus6",
    "networks4",
    "networks6",
    "source_ranges4",
    "source_ranges6",
    "host_ports4",
    "host_ports6",
    "pod_rules",
    "peers4",
    "peers6",
    "blocks4",
    "blocks6",
    "rules",
    "ports",
    "stages",
];

/// Number to raise when the meaning of a field or the kind of a map changes but no layout does.
const REVISION: usize = 5;

/// FNV-1a over all layouts, names and labels; the name of the pin directory.
pub const HASH: u64 = {
    let mut hash = layout! { mix_number(fnv::BASIS64, REVISION);
        FrontendKey<V4> { addr port proto pad } = 8;
        FrontendKey<V6> { addr port proto pad } = 20;
        SlotTable { base len } = 8;
        Frontend { service_port affinity_ticks internal external flags scheduler pad } = 28;
        Backend { addr port state pad generation service_port weight } = 32;
        BackendStats { connections sockets flows generation pad } = 32;
        BackendLoad { generation active inactive flows } = 16;
        SockBackend { backend generation } = 8;
        Slot { backend turn } = 8;
        ServiceName { name } = 192;
        AffinityKey<V4> { client service_port } = 8;
        AffinityKey<V6> { client service_port } = 20;
        Affinity { backend generation last_used } = 12;
        FlowKey<V4> { src dst sport dport proto pad } = 16;
        FlowKey<V6> { src dst sport dport proto pad } = 40;
        Flow<V4> { src dst sport dport iif oif backend generation last_seen epoch state flags seq } = 40;
        Flow<V6> { src dst sport dport iif oif backend generation last_seen epoch state flags seq } = 64;
        FragmentKey<V4> { src dst id iif proto pad } = 16;
        FragmentKey<V6> { src dst id iif proto pad } = 40;
        Ports { src dst } = 4;
        SockPeerKey<V4> { cookie addr port pad } = 16;
        SockPeerKey<V6> { cookie addr port pad } = 28;
        SockPeer<V4> { addr port pad backend generation } = 16;
        SockPeer<V6> { addr port pad backend generation } = 28;
        Pod { netns_cookie addr4 addr6 mac host_mac flags pad } = 48;
        AddressInfo { ifindex kind flags mac } = 12;
        PodNetns { addr4 addr6 ifindex } = 24;
        NodeConfig { node4 node6 uplink snat_port_min snat_port_max udp_ticks tcp_ticks closing_ticks features mtu tunnel_mtu unreplied_ticks assured_ticks netns_cookie tunnels surplus policy_epoch tunnel_port pad } = 88;
        Prefix<V4> { len data } = 8;
        Prefix<V6> { len data } = 20;
        Network { oif flags node } = 12;
        MasqueradeSource { addr4 addr6 } = 20;
        AnswerBudget { tick used } = 8;
        FlowBudget { tick used } = 8;
        SourceRange<V4> { service_port client } = 8;
        SourceRange<V6> { service_port client } = 20;
        HostPort<V4> { addr port pad ifindex } = 12;
        HostPort<V6> { addr port pad ifindex } = 24;
        PodRules { device ingress egress flags } = 16;
        RuleKey { set class } = 8;
        Rule { table first last proto inside outside pad } = 12;
        Prefix<PortKey> { len data } = 12;
    };
    let mut i = 0;
    while i < MAPS.len() {
        hash = fnv::extend64(hash, MAPS[i].as_bytes());
        i += 1;
    }
    hash = mix_number(hash, POD_SLOTS as usize);
    i = 0;
    while i < STAGE_PROGRAMS.len() {
        hash = fnv::extend64(hash, STAGE_PROGRAMS[i].1.as_bytes());
        i += 1;
    }
    i = 0;
    while i < DropReason::ALL.len() {
        hash = fnv::extend64(hash, DropReason::ALL[i].label().as_bytes());
        i += 1;
    }
    i = 0;
    while i < Counter::ALL.len() {
        hash = fnv::extend64(hash, Counter::ALL[i].label().as_bytes());
        i += 1;
    }
    hash
};
