//! The maps of the model: hash maps with a clock that tests move, and with room that tests limit.
//!
//! The kernel's maps that the programs write can refuse an entry. [`Room`] does the same at a
//! chosen insertion.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::Hash;

use dataplane_common::balance::least_connections;
use dataplane_common::maps::{FamilyMaps, FlowMap, RuleMaps, SharedMaps};
use dataplane_common::policy::evaluate;
use dataplane_common::types::address::Address;
use dataplane_common::types::answer_budget::{AnswerBudget, AnswerKind};
use dataplane_common::types::event::Counter;
use dataplane_common::types::flow::{Flow, FlowKey, FragmentKey, Ports};
use dataplane_common::types::flow_budget::{FlowBudget, Ring};
use dataplane_common::types::load::{ConnectionCounts, Search};
use dataplane_common::types::pod::{AddressInfo, MasqueradeSource, Network, NodeConfig, Pod, PodNetns};
use dataplane_common::types::policy::{PodRules, Rule, RuleKey};
use dataplane_common::types::service::{
    Affinity, AffinityKey, Backend, BackendLoad, BackendStats, Frontend, FrontendKey, HostPort, Slot, SlotTable,
    SockPeer, SockPeerKey, SourceRange,
};

/// The number of new entries that a map still takes; unlimited unless a test sets it.
#[derive(Default)]
pub(super) struct Room(Cell<Option<u32>>);

impl Room {
    pub(super) fn limit(&self, entries: Option<u32>) {
        self.0.set(entries);
    }

    /// Returns false if the map is full. Takes the place of one entry otherwise.
    fn take(&self) -> bool {
        match self.0.get() {
            None => true,
            Some(0) => false,
            Some(left) => {
                self.0.set(Some(left - 1));
                true
            }
        }
    }
}

/// A map that programs write: key to value, and its room.
///
/// Values are leaked, because the traits return references and a reader may hold the previous one.
/// A test writes a handful.
pub(super) struct WrittenMap<K: 'static, V: 'static> {
    entries: RefCell<HashMap<K, &'static V>>,
    pub(super) room: Room,
}

impl<K, V> Default for WrittenMap<K, V> {
    fn default() -> Self {
        Self { entries: RefCell::default(), room: Room::default() }
    }
}

impl<K: Copy + Eq + Hash, V: Copy> WrittenMap<K, V> {
    fn get(&self, key: &K) -> Option<&V> {
        self.entries.borrow().get(key).copied()
    }

    /// Replaces an entry, or adds one if there is room.
    pub(super) fn set(&self, key: &K, value: &V) -> bool {
        let known = self.entries.borrow().contains_key(key);
        let fits = known || self.room.take();
        if fits {
            self.entries.borrow_mut().insert(*key, Box::leak(Box::new(*value)));
        }
        fits
    }

    fn remove(&self, key: &K) {
        self.entries.borrow_mut().remove(key);
    }
}

/// The maps of one address family.
#[derive(Default)]
pub(super) struct Maps<A: 'static> {
    pub(super) addresses: HashMap<A, AddressInfo>,
    pub(super) frontends: HashMap<FrontendKey<A>, Frontend>,
    pub(super) host_ports: HashMap<FrontendKey<A>, HostPort<A>>,
    pub(super) affinity: WrittenMap<AffinityKey<A>, Affinity>,
    pub(super) fragments: WrittenMap<FragmentKey<A>, Ports>,
    pub(super) peers: HashMap<A, u32>,
    pub(super) blocks: Vec<(A, u32, u32)>,
    pub(super) networks: Vec<(A, u32, Network)>,
    pub(super) source_ranges: Vec<(u32, A, u32)>,
    pub(super) sock_peers: WrittenMap<SockPeerKey<A>, SockPeer<A>>,
}

/// Returns true if the first `len` bits are equal.
fn matches<A: Address>(a: &A, b: &A, len: u32) -> bool {
    let bits = |addr: &A| u128::from_be_bytes(addr.to_octets16());
    let len = len + if A::V6 { 0 } else { 96 };
    len == 0 || (bits(a) ^ bits(b)).leading_zeros() >= len
}

/// The clock, and the maps that do not depend on the address family.
#[derive(Default)]
pub(super) struct Shared {
    /// The present tick.
    pub(super) now: u32,
    pub(super) pods: HashMap<u32, Pod>,
    pub(super) pod_rules: HashMap<u32, PodRules>,
    pub(super) rules: HashMap<RuleKey, Rule>,
    /// Table, protocol and port; no port: all others of the table.
    pub(super) ports: HashMap<(u32, Option<(u8, u16)>), u32>,
    /// Interface by which the packets arrive that the host's stack sends to pods; 0: none.
    pub(super) ingress: u32,
    pub(super) pod_netns: HashMap<u64, PodNetns>,
    pub(super) masquerade_sources: HashMap<u32, MasqueradeSource>,
    pub(super) slots: RefCell<HashMap<u32, Slot>>,
    pub(super) backends: HashMap<u32, Backend>,
    pub(super) stats: RefCell<HashMap<u32, BackendStats>>,
    pub(super) loads: HashMap<u32, BackendLoad>,
    pub(super) config: NodeConfig,
    pub(super) socket: u64,
    /// Interface index by destination address: the routes of the host's stack.
    pub(super) routes: HashMap<[u8; 16], u32>,
    pub(super) answers: RefCell<[AnswerBudget; AnswerKind::COUNT]>,
    /// Room of both flow tables together.
    pub(super) flow_room: Room,
    pub(super) budgets: RefCell<HashMap<u32, FlowBudget>>,
}

/// The rings of surplus flows of one family.
#[derive(Default)]
pub(super) struct Surplus<A> {
    /// Number of flows that each ring has had.
    heads: [u32; 2],
    elements: HashMap<u32, FlowKey<A>>,
}

/// All maps but the flow table, as a program of one family sees them.
pub(super) struct View<'a, A: 'static>(pub(super) &'a Shared, pub(super) &'a Maps<A>);

/// The flow table of one family, the room in it, and the keys of surplus flows.
pub(super) struct FlowTable<'a, A>(
    pub(super) &'a mut HashMap<FlowKey<A>, Flow<A>>,
    pub(super) &'a Room,
    pub(super) &'a mut Surplus<A>,
);

impl<A> SharedMaps for View<'_, A> {
    fn now(&self) -> u32 {
        self.0.now
    }
    fn random(&self) -> u32 {
        rand::random()
    }
    fn config(&self) -> Option<&NodeConfig> {
        Some(&self.0.config)
    }
    fn pod(&self, ifindex: u32) -> Option<&Pod> {
        self.0.pods.get(&ifindex)
    }
    fn pod_rules(&self, ifindex: u32) -> Option<&PodRules> {
        self.0.pod_rules.get(&ifindex)
    }
    fn pod_netns(&self, cookie: u64) -> Option<&PodNetns> {
        self.0.pod_netns.get(&cookie)
    }
    fn masquerade_source(&self, ifindex: u32) -> Option<&MasqueradeSource> {
        self.0.masquerade_sources.get(&ifindex)
    }
    fn slot(&self, index: u32) -> Option<u32> {
        self.0.slots.borrow().get(&index).map(|s| s.backend)
    }
    fn take_turn(&self, table: SlotTable) -> u32 {
        let mut slots = self.0.slots.borrow_mut();
        let Some(slot) = slots.get_mut(&table.base) else { return 0 };
        let turn = if slot.turn < table.len { slot.turn } else { 0 };
        slot.turn = turn + 1;
        turn
    }
    fn backend(&self, id: u32) -> Option<&Backend> {
        self.0.backends.get(&id)
    }
    fn connection_counts(&self, backend: u32, generation: u32) -> ConnectionCounts {
        let stats = self.0.stats.borrow().get(&backend).copied().unwrap_or_default();
        ConnectionCounts::new(&stats, &self.0.loads.get(&backend).copied().unwrap_or_default(), generation)
    }
    fn search(&self, search: Search) -> u32 {
        least_connections::run(search, self)
    }
    fn count_connection(&self, _backend: u32) {}
    fn count_flow(&self, backend: u32, generation: u32) {
        let mut all = self.0.stats.borrow_mut();
        let stats = all.entry(backend).or_default();
        if stats.generation != generation {
            *stats = BackendStats { generation, ..BackendStats::default() };
        }
        stats.flows += 1;
    }
    fn count(&self, _counter: Counter) {}
    fn take_flow(&self, budget: u32, rate: u32) -> bool {
        self.0.budgets.borrow_mut().entry(budget).or_default().take(self.0.now, rate)
    }
    fn take_answer(&self, kind: AnswerKind) -> bool {
        self.0.answers.borrow_mut()[kind as usize].take(self.0.now)
    }
}

impl<A: Address> RuleMaps<A> for View<'_, A> {
    fn peer_class(&self, addr: &A) -> Option<u32> {
        self.1.peers.get(addr).copied()
    }
    fn block_class(&self, addr: &A) -> Option<u32> {
        let found = self.1.blocks.iter().filter(|(net, len, _)| matches(net, addr, *len));
        found.max_by_key(|(_, len, _)| *len).map(|(.., class)| *class)
    }
    fn rule(&self, key: &RuleKey) -> Option<&Rule> {
        self.0.rules.get(key)
    }
    fn port_decision(&self, table: u32, proto: u8, port: u16) -> Option<u32> {
        let exact = self.0.ports.get(&(table, Some((proto, port))));
        exact.or_else(|| self.0.ports.get(&(table, None))).copied()
    }
}

impl<A: Address> FamilyMaps<A> for View<'_, A> {
    fn address(&self, addr: &A) -> Option<AddressInfo> {
        self.1.addresses.get(addr).copied()
    }
    fn judge(&self, set: u32, peer: &A, ports: u32) -> u32 {
        evaluate(self, set, peer, (ports >> 16) as u8, ports as u16)
    }
    fn network(&self, addr: &A) -> Option<Network> {
        let found = self.1.networks.iter().filter(|(net, len, _)| matches(net, addr, *len));
        found.max_by_key(|(_, len, _)| *len).map(|(.., net)| *net)
    }
    fn host_port(&self, key: &FrontendKey<A>) -> Option<&HostPort<A>> {
        self.1.host_ports.get(key)
    }
    fn is_source_allowed(&self, client: &SourceRange<A>) -> bool {
        let mut of_port = self.1.source_ranges.iter().filter(|(port, ..)| *port == client.service_port);
        of_port.any(|(_, net, len)| matches(net, &client.client, *len))
    }
    fn frontend(&self, key: &FrontendKey<A>) -> Option<&Frontend> {
        self.1.frontends.get(key)
    }
    fn affinity(&self, key: &AffinityKey<A>) -> Option<&Affinity> {
        self.1.affinity.get(key)
    }
    fn set_affinity(&self, key: &AffinityKey<A>, affinity: &Affinity) {
        self.1.affinity.set(key, affinity);
    }
    fn fragment(&self, key: &FragmentKey<A>) -> Option<Ports> {
        self.1.fragments.get(key).copied()
    }
    fn set_fragment(&self, key: &FragmentKey<A>, ports: &Ports) {
        self.1.fragments.set(key, ports);
    }
    fn sock_peer(&self, key: &SockPeerKey<A>) -> Option<&SockPeer<A>> {
        self.1.sock_peers.get(key)
    }
    fn set_sock_peer(&self, key: &SockPeerKey<A>, peer: &SockPeer<A>) -> bool {
        self.1.sock_peers.set(key, peer)
    }
    fn remove_sock_peer(&self, key: &SockPeerKey<A>) {
        self.1.sock_peers.remove(key);
    }
}

impl<A: Address> FlowMap<A> for FlowTable<'_, A> {
    fn get(&mut self, key: &FlowKey<A>) -> Option<&mut Flow<A>> {
        self.0.get_mut(key)
    }
    fn insert(&mut self, key: &FlowKey<A>, flow: &Flow<A>) -> bool {
        let fits = self.0.contains_key(key) || self.1.take();
        if fits {
            self.0.insert(*key, *flow);
        }
        fits
    }
    fn insert_new(&mut self, key: &FlowKey<A>, flow: &Flow<A>) -> bool {
        !self.0.contains_key(key) && self.insert(key, flow)
    }
    fn remove(&mut self, key: &FlowKey<A>) {
        self.0.remove(key);
    }
    fn replace_surplus(&mut self, ring: Ring, entries: u32, key: &FlowKey<A>) -> Option<FlowKey<A>> {
        let head = &mut self.2.heads[ring as usize];
        let old = self.2.elements.insert(ring.element(*head, entries), *key);
        *head += 1;
        let none = A::UNSPECIFIED;
        Some(old.unwrap_or(FlowKey { src: none, dst: none, sport: 0, dport: 0, proto: 0, pad: [0; 3] }))
    }
}
