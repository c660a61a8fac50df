//! The two flows of a connection, which are inserted and removed as a pair.
//!
//! Two connections can want one key: a client may use one port for two frontends of one backend, a
//! port is used again, a source address is forged. An entry is never overwritten
//! ([`insert_flow_pair`]). A pair is removed for a packet of its own client, and for any packet
//! after it has ended ([`Pair::has_ended`]). The stages that open flows and [`super::port_reuse`]
//! call this module. It never changes the packet.

use crate::maps::{FamilyMaps, FlowMap, SharedMaps};
use crate::packet::family::Family;
use crate::path::conntrack::{idle_ticks, pair_timeout, port_timeout};
use crate::path::new_connection::{FlowTarget, Source, pod_flow_flags};
use crate::types::address::Address;
use crate::types::event::DropReason;
use crate::types::flow::{Flow, FlowKey, flow_flags, flow_state};
use crate::types::pod::NodeConfig;
use crate::types::service::proto;
use crate::types::stage::{Origin, Stage};
use crate::verdict::Verdict;

/// Bits of the scratch word with which [`Stage::NewConnection`] gets a packet.
pub mod attempt {
    /// No other stage has seen the packet.
    pub const FIRST: u32 = 0;
    /// [`super::Stage::PortReuse`] has decided about the flow that would translate the answers.
    pub const CHECKED: u32 = 1;
    /// A flow of another connection would translate the answers to this untranslated packet, so it
    /// gets another source port.
    pub const TRANSLATE_PORT: u32 = 2;
    /// [`super::insert_flow_pair`] could not insert the flow of the packet.
    pub const FAILED: u32 = 4;
    /// Added for each search for a free source port that failed.
    pub const SEARCH: u32 = 8;
    /// The bits of the number of searches, which end when all are set.
    pub const SEARCHES: u32 = 7 * SEARCH;
    /// With [`SEARCHES`]: the source address is translated too.
    pub const FROM_NODE: u32 = 64;
    /// With [`SEARCHES`]: position of the port that was tried last, or with which the next search
    /// begins; 0: with any.
    pub const PORT: u32 = 16;
}

/// Number of ports that one search for a free one tries.
const SNAT_TRIES: u32 = 16;

/// The result of [`insert_flow_pair`] without a free source port. `dport` of the flow that the
/// caller gave is the port that was tried last.
pub const NO_PORT: Verdict = Verdict::drop(DropReason::SnatPortsExhausted);

/// Inserts both directions of a new flow, the reply first: a packet is sent only if its reply can
/// be translated back.
///
/// If another connection has the key of the reply, this one gets another source port, as
/// `nf_nat_used_tuple` in `net/netfilter/nf_nat_core.c` has it.
///
/// `flow` holds, at first, the address that replaces a translated source address as `src` (IPv4;
/// for IPv6 it is the node's), and the port with which the search for a source port begins, if it
/// is in the pool, as `dport`.
/// The flows get its epoch.
///
/// Not inlined: keys and values of both directions need a stack frame of their own. The frames of
/// all nested calls together must fit into 512 bytes (`check_max_stack_depth` in
/// kernel/bpf/verifier.c).
#[inline(never)]
pub fn insert_flow_pair<A: Family, F: FlowMap<A>, T: FamilyMaps<A>>(
    flows: &mut F,
    tables: &T,
    key: &FlowKey<A>,
    target: &FlowTarget<A>,
    origin: Origin,
    ifindex: u32,
    flow: &mut Flow<A>,
) -> Verdict {
    let now = tables.now();
    let internal = matches!(origin, Origin::Pod);
    let client = if internal { tables.pod(ifindex) } else { None };
    let (pod_flags, client) = client.map_or((0, ifindex), |pod| (pod_flow_flags(pod.flags as u8), pod.device(ifindex)));
    let node = if A::V6 { A::UNSPECIFIED } else { flow.src };
    let first_port = flow.dport;
    // `flow` is the caller's: one buffer serves as the value of both insertions, and afterwards as
    // the flow by which the packet is translated.
    *flow = Flow {
        src: key.dst,
        dst: key.src,
        sport: key.dport,
        dport: key.sport,
        iif: target.iif,
        oif: client,
        backend: target.backend,
        generation: target.generation,
        last_seen: now,
        epoch: flow.epoch,
        state: flow_state::NEW,
        flags: flow_flags::REPLY | pod_flags | of_pair(target.flags, origin),
        seq: 0,
    };
    let (src, sport) = (target.addr, target.port);
    let mut back = FlowKey { src, dst: key.src, sport, dport: key.sport, proto: key.proto, pad: [0; 3] };
    if target.source != Source::KEEP || !flows.insert_new(&back, flow) {
        if target.source & Source::NODE != 0 {
            back.dst = tables.config().map_or(A::UNSPECIFIED, |c| if A::V6 { A::of_node(c) } else { node });
        }
        let verdict = reserve_snat_port(flows, tables, &mut back, first_port, flow);
        if verdict != Verdict::TRANSLATE {
            flow.dport = back.dport;
            return verdict;
        }
    }
    // The forward direction is derived from the key of the reply, which holds the translated source
    // port.
    flow.src = back.dst;
    flow.sport = back.dport;
    flow.dst = target.addr;
    // An ICMP echo has one identifier for both directions.
    flow.dport = back.sport;
    // The reply leaves by the interface by which the packet came.
    flow.iif = if internal { flow.oif } else { origin.iif(ifindex) };
    flow.oif = target.oif;
    flow.flags = target.flags | of_pair(target.flags, origin) | if internal { 0 } else { flow_flags::EXTERNAL };
    if flows.insert_new(key, flow) {
        return Verdict::TRANSLATE;
    }
    // Half a pair would translate replies of a connection that does not exist.
    flows.remove(&back);
    // Another CPU has opened the flow meanwhile, or it is another client's, or the table is full.
    Verdict::PASS.then(Stage::PortReuse)
}

/// Returns the flags that both halves of a pair have.
#[inline(always)]
const fn of_pair(flags: u8, origin: Origin) -> u8 {
    let from_node = if matches!(origin, Origin::Host) { flow_flags::FROM_NODE } else { 0 };
    flags & flow_flags::UNTRANSLATED | from_node
}

/// The states of both halves of a pair.
#[derive(Clone, Copy)]
pub struct Pair {
    there: Half,
    back: Half,
    protocol: u8,
    /// Both halves were found. If not, both fields hold the one.
    is_whole: bool,
}

/// The part of a flow that decides whether its pair has ended.
#[derive(Clone, Copy)]
struct Half {
    last_seen: u32,
    state: u8,
}

impl Half {
    #[inline(always)]
    const fn of<A>(flow: &Flow<A>) -> Self {
        Self { last_seen: flow.last_seen, state: flow.state }
    }
}

impl Pair {
    /// Reads the pair of which the flow with the key `key` is a half; `other` is set to the key of
    /// the other half. `None` if there is no such flow.
    #[inline(always)]
    pub fn read<A: Address, F: FlowMap<A>>(flows: &mut F, key: &FlowKey<A>, other: &mut FlowKey<A>) -> Option<Self> {
        let flow = flows.get(key)?;
        let (half, is_reply) = (Half::of(flow), flow.flags & flow_flags::REPLY != 0);
        *other = flow.reverse_key(key);
        let found = flows.get(other).filter(|flow| flow.is_reverse_of(key)).map(|flow| Half::of(flow));
        let partner = found.unwrap_or(half);
        let (there, back) = if is_reply { (partner, half) } else { (half, partner) };
        Some(Self { there, back, protocol: key.proto, is_whole: found.is_some() })
    }

    /// Returns true if neither half was used for as long as their states allow.
    #[inline(always)]
    pub fn has_ended<T: SharedMaps>(&self, tables: &T) -> bool {
        self.is_idle(tables, pair_timeout)
    }

    #[inline(always)]
    fn is_idle<T: SharedMaps>(&self, tables: &T, timeout: impl Fn(u8, u8, u8, &NodeConfig) -> u32) -> bool {
        let Some(config) = tables.config() else { return false };
        let now = tables.now();
        let limit = timeout(self.protocol, self.there.state, self.back.state, config);
        idle_ticks(now, self.there.last_seen) > limit && idle_ticks(now, self.back.last_seen) > limit
    }

    /// Returns true if the backend has answered, and has not closed the connection.
    #[inline(always)]
    #[must_use]
    pub const fn has_answered(&self) -> bool {
        self.is_whole && self.back.state == flow_state::ESTABLISHED
    }
}

/// Removes the flow with the key `key`, and first its other half, if that has the key `other`.
#[inline(always)]
pub fn remove_pair<A: Address, F: FlowMap<A>>(flows: &mut F, other: &FlowKey<A>, key: &FlowKey<A>) {
    // A flow there can belong to another pair.
    if flows.get(other).is_some_and(|flow| flow.is_reverse_of(key)) {
        flows.remove(other);
    }
    flows.remove(key);
}

/// Removes the flow with the key `key` and its other half, if there are such.
///
/// Not inlined, so that its frame does not add to those of nested calls.
#[inline(never)]
pub fn end_pair<A: Address, F: FlowMap<A>>(flows: &mut F, key: &FlowKey<A>) {
    if let Some(flow) = flows.get(key) {
        let other = flow.reverse_key(key);
        remove_pair(flows, &other, key);
    }
}

/// Number of pairs that [`free_port`] tries.
const FREED: u32 = 3;

/// Removes one of the pairs with the key `key`, or with one of the ports after it, that may give
/// its port away ([`port_timeout`]). Returns the port; 0 if none may.
#[inline(always)]
pub fn free_port<A: Family, F: FlowMap<A>, T: FamilyMaps<A>>(flows: &mut F, tables: &T, key: &mut FlowKey<A>) -> u16 {
    let echo = key.proto == if A::V6 { proto::ICMP6 } else { proto::ICMP };
    for _ in 0..FREED {
        let mut other = *key;
        if Pair::read(flows, key, &mut other).is_some_and(|pair| pair.is_idle(tables, port_timeout)) {
            remove_pair(flows, &other, key);
            return key.dport;
        }
        key.dport = key.dport.wrapping_add(1);
        if echo {
            key.sport = key.dport;
        }
    }
    0
}

/// Returns true if an address is that of the pod which sends the packet.
#[inline(always)]
pub fn is_own_address<A: Family, T: SharedMaps>(tables: &T, addr: &A, origin: Origin, ifindex: u32) -> bool {
    matches!(origin, Origin::Pod) && tables.pod(ifindex).is_some_and(|pod| A::of_pod(pod) == *addr)
}

/// Finds a free source port for `back`, and reserves it by inserting the reply's flow. Tries
/// `first_port` first, if it is in the pool.
#[inline(always)]
fn reserve_snat_port<A: Family, F: FlowMap<A>, T: FamilyMaps<A>>(
    flows: &mut F,
    tables: &T,
    back: &mut FlowKey<A>,
    mut first_port: u16,
    flow: &Flow<A>,
) -> Verdict {
    let Some(config) = tables.config() else { return NO_PORT };
    let (min, ports) = (config.snat_port_min, config.snat_port_max.saturating_sub(config.snat_port_min) as u32 + 1);
    if min == 0 || back.dst.is_unspecified() {
        return NO_PORT;
    }
    // An ICMP echo has one identifier for both directions, which stands for both ports.
    let echo = back.proto == if A::V6 { proto::ICMP6 } else { proto::ICMP };
    let mut random = tables.random();
    for _ in 0..SNAT_TRIES {
        back.dport = min.wrapping_add(((random as u64 * ports as u64) >> 32) as u16);
        if min <= first_port && first_port <= config.snat_port_max {
            back.dport = first_port;
        }
        first_port = 0;
        if echo {
            back.sport = back.dport;
        }
        // Answers to the tunnel's port would be dropped as a pod's datagrams to it. With the port
        // that the client has asked, a pod that reaches itself by a node port would get a reply
        // with the key of its question.
        let is_taken = back.dport == config.tunnel_port || back.dport == flow.sport;
        // `BPF_NOEXIST` makes test and reservation one atomic step between CPUs.
        if !is_taken && flows.insert_new(back, flow) {
            return Verdict::TRANSLATE;
        }
        // A linear congruential step: the helper for random numbers costs about 20 ns a call.
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
    }
    if flows.get(back).is_some() { NO_PORT } else { Verdict::drop(DropReason::FlowTableFull) }
}
