//! The traits by which the core reads and writes the maps.
//!
//! The kernel programs implement them over BPF maps, the host tests over hash maps. All modules above [`crate::types`]
//! take them as parameters. The core never names a map and never calls a helper.

use crate::types::address::Address;
use crate::types::event::Counter;
use crate::types::flow::{Flow, FlowKey, FragmentKey, Ports};
use crate::types::load::{ConnectionCounts, Search};
use crate::types::pod::{AddressInfo, Network, NodeConfig, Pod, PodNetns};
use crate::types::service::{
    Affinity, AffinityKey, Backend, Frontend, FrontendKey, HostPort, SlotTable, SockPeer, SockPeerKey, SourceRange,
};

/// Clock, chance and the tables that do not depend on the address family.
pub trait SharedMaps {
    /// The same number, of which the compiler knows nothing any more.
    fn optimization_barrier(&self, n: u32) -> u32 {
        n
    }
    /// Returns the present clock tick, which wraps ([`crate::types::clock`]).
    fn now(&self) -> u32;
    /// 32 random bits.
    fn random(&self) -> u32;
    /// The node's configuration.
    fn config(&self) -> Option<&NodeConfig>;
    /// The pod behind a host-side interface.
    fn pod(&self, ifindex: u32) -> Option<&Pod>;
    /// The pod in a network namespace.
    fn pod_netns(&self, cookie: u64) -> Option<&PodNetns>;
    /// A backend id.
    fn slot(&self, index: u32) -> Option<u32>;
    /// Whose turn it is in a table, counted from its first slot, and passes the turn on. A turn beyond the end is that of the first.
    fn take_turn(&self, table: SlotTable) -> u32;
    /// A backend.
    fn backend(&self, id: u32) -> Option<&Backend>;
    /// What a backend of this generation has to do.
    fn connection_counts(&self, backend: u32, generation: u32) -> ConnectionCounts;
    /// [`crate::balance::least_connections::run`], for which a kernel program has a function of its own.
    fn search(&self, search: Search) -> u32;
    /// Counts a connection to a backend.
    fn count_connection(&self, backend: u32);
    /// Counts a new flow to a backend of this generation, for [`Self::connection_counts`].
    fn count_flow(&self, backend: u32, generation: u32);
    /// Counts an event.
    fn count(&self, counter: Counter);
}

/// The tables of one address family. They are shared with other CPUs and with the agent, hence never exclusive.
pub trait FamilyMaps<A: Address>: SharedMaps {
    /// What an address is.
    fn address(&self, addr: &A) -> Option<AddressInfo>;
    /// What the network of an address is.
    fn network(&self, addr: &A) -> Option<Network>;
    /// Where a host port leads.
    fn host_port(&self, key: &FrontendKey<A>) -> Option<&HostPort<A>>;
    /// Whether a client may use the load-balancer addresses of a service port that has source ranges.
    fn is_source_allowed(&self, client: &SourceRange<A>) -> bool;
    /// A frontend.
    fn frontend(&self, key: &FrontendKey<A>) -> Option<&Frontend>;
    /// A client's backend.
    fn affinity(&self, key: &AffinityKey<A>) -> Option<&Affinity>;
    /// Remembers a client's backend.
    fn set_affinity(&self, key: &AffinityKey<A>, affinity: &Affinity);
    /// The ports of a fragmented datagram.
    fn fragment(&self, key: &FragmentKey<A>) -> Option<Ports>;
    /// Remembers the ports of a fragmented datagram.
    fn set_fragment(&self, key: &FragmentKey<A>, ports: &Ports);
    /// What a socket's address stands for.
    fn sock_peer(&self, key: &SockPeerKey<A>) -> Option<&SockPeer<A>>;
    /// Remembers what a socket's address stands for; says whether the table took it.
    #[must_use]
    fn set_sock_peer(&self, key: &SockPeerKey<A>, peer: &SockPeer<A>) -> bool;
    /// Forgets it, if it is known.
    fn forget_sock_peer(&self, key: &SockPeerKey<A>);
}

/// The flow table of one address family. Apart from [`FamilyMaps`], so that a flow can be held while tables are read.
pub trait FlowMap<A: Address> {
    /// A flow, in place.
    fn get(&mut self, key: &FlowKey<A>) -> Option<&mut Flow<A>>;
    /// Adds or replaces a flow; says whether the table took it.
    #[must_use]
    fn insert(&mut self, key: &FlowKey<A>, flow: &Flow<A>) -> bool;
    /// Adds a flow if its key is free; says whether it did.
    #[must_use]
    fn insert_new(&mut self, key: &FlowKey<A>, flow: &Flow<A>) -> bool;
    /// Removes a flow if it is there.
    fn remove(&mut self, key: &FlowKey<A>);
}
