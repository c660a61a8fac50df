//! The traits by which the packet logic reads and writes maps.
//!
//! `dataplane-ebpf/src/kernel/tables.rs` implements them over BPF maps, the tests over hash maps.
//! All modules above [`crate::types`] take them as parameters. The packet logic never names a map
//! and never calls a helper.

use crate::types::address::Address;
use crate::types::answer_budget::AnswerKind;
use crate::types::event::Counter;
use crate::types::flow::{Flow, FlowKey, FragmentKey, Ports};
use crate::types::flow_budget::Ring;
use crate::types::load::{ConnectionCounts, Search};
use crate::types::pod::{AddressInfo, MasqueradeSource, Network, NodeConfig, Pod, PodNetns};
use crate::types::policy::{PodRules, Rule, RuleKey};
use crate::types::service::{
    Affinity, AffinityKey, Backend, Frontend, FrontendKey, HostPort, SlotTable, SockPeer, SockPeerKey, SourceRange,
};

/// Clock, random numbers, and the maps that do not depend on the address family.
pub trait SharedMaps {
    /// Returns `n` unchanged, but hides its value from the optimizer (like `black_box`).
    fn optimization_barrier(&self, n: u32) -> u32 {
        n
    }
    /// Returns the time in ticks ([`crate::types::clock`]).
    fn now(&self) -> u32;
    /// Returns 32 random bits.
    fn random(&self) -> u32;
    /// Returns the node's configuration; `None` before the agent has written it.
    fn config(&self) -> Option<&NodeConfig>;
    /// Returns the pod behind a host-side interface. The element can be unused
    /// ([`crate::types::pod::pod_flags::PRESENT`]).
    fn pod(&self, ifindex: u32) -> Option<&Pod>;
    /// Returns the rules of the pod behind a host-side interface. They can be an earlier pod's
    /// ([`PodRules::device`]).
    fn pod_rules(&self, ifindex: u32) -> Option<&PodRules>;
    /// Returns the pod in a network namespace.
    fn pod_netns(&self, cookie: u64) -> Option<&PodNetns>;
    /// Returns the addresses of masqueraded packets that leave by a device; `None`: the node's.
    fn masquerade_source(&self, ifindex: u32) -> Option<&MasqueradeSource>;
    /// Returns the backend id in a slot; `None` if the index is out of range.
    fn slot(&self, index: u32) -> Option<u32>;
    /// Returns the position in a table whose turn it is, counted from 0, and advances the turn. A
    /// turn beyond the end of the table starts again at 0.
    fn take_turn(&self, table: SlotTable) -> u32;
    /// Returns a backend; its id can be free ([`Backend::state`] 0).
    fn backend(&self, id: u32) -> Option<&Backend>;
    /// Returns the connection counts of a backend of this generation.
    fn connection_counts(&self, backend: u32, generation: u32) -> ConnectionCounts;
    /// Runs [`crate::balance::least_connections::run`]. A method, because the kernel programs call
    /// a global function for it, which the verifier checks once.
    fn search(&self, search: Search) -> u32;
    /// Counts a new connection to a backend.
    fn count_connection(&self, backend: u32);
    /// Counts a new flow to a backend of this generation, for [`Self::connection_counts`].
    fn count_flow(&self, backend: u32, generation: u32);
    /// Counts an event of the programs.
    fn count(&self, counter: Counter);
    /// Takes a new flow from the budget with this index, which regains `rate` flows a tick. Returns
    /// false if it is empty ([`crate::types::flow_budget`]).
    fn take_flow(&self, budget: u32, rate: u32) -> bool;
    /// Counts an answer to a rejected packet; returns false if it must not be sent
    /// ([`crate::types::answer_budget`]).
    fn take_answer(&self, kind: AnswerKind) -> bool;
}

/// The rules of network policy, as [`crate::policy::evaluate`] reads them. The agent's tests
/// implement it too.
pub trait RuleMaps<A: Address> {
    /// Returns the class of a pod's address.
    fn peer_class(&self, addr: &A) -> Option<u32>;
    /// Returns the class of the longest matching block of an address.
    fn block_class(&self, addr: &A) -> Option<u32>;
    /// Returns the decision of a rule set about a class of peers.
    fn rule(&self, key: &RuleKey) -> Option<&Rule>;
    /// Returns the decision of a port table, one of [`crate::types::policy::decision`].
    fn port_decision(&self, table: u32, proto: u8, port: u16) -> Option<u32>;
}

/// The maps of one address family. Methods take `&self`: other CPUs and the agent write too, so
/// access is never exclusive.
pub trait FamilyMaps<A: Address>: SharedMaps + RuleMaps<A> {
    /// Returns the role of an address.
    fn address(&self, addr: &A) -> Option<AddressInfo>;
    /// Runs [`crate::policy::evaluate`]; `ports`: the protocol above 16 bits of the port. A method,
    /// because the kernel programs call a global function for it, which the verifier checks once.
    fn judge(&self, set: u32, peer: &A, ports: u32) -> u32;
    /// Returns the longest matching network of an address.
    fn network(&self, addr: &A) -> Option<Network>;
    /// Returns the pod behind a host port.
    fn host_port(&self, key: &FrontendKey<A>) -> Option<&HostPort<A>>;
    /// Returns true if a client may use the load-balancer addresses of a service port that has
    /// source ranges.
    fn is_source_allowed(&self, client: &SourceRange<A>) -> bool;
    /// Returns the frontend at an address, port and protocol.
    fn frontend(&self, key: &FrontendKey<A>) -> Option<&Frontend>;
    /// Returns the backend that a client was given last.
    fn affinity(&self, key: &AffinityKey<A>) -> Option<&Affinity>;
    /// Records the backend that a client was given.
    fn set_affinity(&self, key: &AffinityKey<A>, affinity: &Affinity);
    /// Returns the ports of a fragmented datagram.
    fn fragment(&self, key: &FragmentKey<A>) -> Option<Ports>;
    /// Records the ports of a fragmented datagram.
    fn set_fragment(&self, key: &FragmentKey<A>, ports: &Ports);
    /// Returns the frontend or backend that a socket's address stands for.
    fn sock_peer(&self, key: &SockPeerKey<A>) -> Option<&SockPeer<A>>;
    /// Records the frontend or backend that a socket's address stands for. Returns false if the
    /// map refused the entry.
    #[must_use]
    fn set_sock_peer(&self, key: &SockPeerKey<A>, peer: &SockPeer<A>) -> bool;
    /// Removes the entry of a socket's address, if there is one.
    fn remove_sock_peer(&self, key: &SockPeerKey<A>);
}

/// The flow table of one address family. A trait apart from [`FamilyMaps`], so that a mutable
/// reference to a flow can be held while other maps are read.
pub trait FlowMap<A: Address> {
    /// Returns a flow in place.
    fn get(&mut self, key: &FlowKey<A>) -> Option<&mut Flow<A>>;
    /// Inserts or replaces a flow. Returns false if the map refused it.
    #[must_use]
    fn insert(&mut self, key: &FlowKey<A>, flow: &Flow<A>) -> bool;
    /// Inserts a flow if its key is free (`BPF_NOEXIST`). Returns false if it was not inserted.
    #[must_use]
    fn insert_new(&mut self, key: &FlowKey<A>, flow: &Flow<A>) -> bool;
    /// Removes a flow, if it exists.
    fn remove(&mut self, key: &FlowKey<A>);
    /// Writes the key of a surplus flow into the next element of its ring. Returns the key that was
    /// there, all zero if there was none; `None` if the element could not be written. `entries`:
    /// size of both rings.
    fn replace_surplus(&mut self, ring: Ring, entries: u32, key: &FlowKey<A>) -> Option<FlowKey<A>>;
}
