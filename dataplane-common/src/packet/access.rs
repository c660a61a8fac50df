//! The windows of this crate: packet bytes, tables, flows.

use crate::balance::least_connections::{Load, Search};
use crate::types::address::{Address, Be16, Be32};
use crate::types::event::Counter;
use crate::types::flow::{Flow, FlowKey, FragmentKey, Ports};
use crate::types::pod::{Addr, Net, NodeConfig, Pod, PodNetns};
use crate::types::service::{
    Affinity, AffinityKey, Backend, Frontend, FrontendKey, HostPort, SlotTable, SockPeer, SockPeerKey, SourceRange,
};
use crate::wire::checksum::Change;

/// Where the IP header starts: after an Ethernet header.
pub const L3: usize = 14;

/// Packet bytes, from the Ethernet header on. `None`: beyond the end, or the kernel refused.
///
/// An offset that the packet decides comes with its `usual` value: on the kernel's side a packet pointer with a variable offset
/// costs the verifier dearly, so the usual offset is read and written in place and any other through a helper.
pub trait Packet {
    /// `N` words at a fixed offset.
    fn words<const N: usize>(&self, offset: usize) -> Option<[Be32; N]>;
    /// Two bytes at a fixed offset.
    fn half(&self, offset: usize) -> Option<Be16>;
    /// `N` words at a variable offset.
    fn words_at<const N: usize>(&self, offset: usize, usual: usize) -> Option<[Be32; N]>;
    /// `N` words at a variable offset that has no usual value.
    fn words_far<const N: usize>(&self, offset: usize) -> Option<[Be32; N]>;
    /// Writes `N` words at a fixed offset.
    #[must_use]
    fn store_words<const N: usize>(&mut self, offset: usize, words: &[Be32; N]) -> Option<()>;
    /// Writes a word at a variable offset.
    #[must_use]
    fn store_word_at(&mut self, offset: usize, usual: usize, word: Be32) -> Option<()>;
    /// Writes a word at a variable offset that has no usual value.
    #[must_use]
    fn store_word_far(&mut self, offset: usize, word: Be32) -> Option<()>;
    /// Corrects the L4 checksum at `offset` for changed addresses and changed ports; a UDP checksum that is not used stays so.
    #[must_use]
    fn correct_checksum(&mut self, offset: usize, usual: usize, change: Change) -> Option<()>;
    /// Changes a CRC of four bytes at `offset`, which has no usual value, by `difference` (exclusive or, as they stand in memory); one that is left
    /// to the device stays as it is.
    #[must_use]
    fn correct_crc(&mut self, offset: usize, difference: u32) -> Option<()>;
    /// A word that no checksum covers has changed by this difference: puts the device's sum of the whole packet right, if it has made one.
    fn balance(&mut self, _difference: u32) {}
    /// Length of the frame, bytes.
    fn size(&self) -> u32;
    /// Of a packet that is cut up on its way out (GSO): the payload of one segment, bytes; else 0.
    fn segment(&self) -> u32;
    /// The interface by which the host's routes lead a packet that came in here on to an address; 0: none does.
    fn way_to<A: Address>(&self, addr: &A) -> u32;
    /// The kernel's cookie of the socket of this node that sent it, if that is a connected one; else 0.
    fn socket(&self) -> u64;
    /// Cuts off what lies behind the first `size` bytes, if anything does.
    #[must_use]
    fn cut(&mut self, size: u32) -> Option<()>;
    /// Makes room for `bytes` between the Ethernet header and the IP header.
    #[must_use]
    fn make_room(&mut self, bytes: u32) -> Option<()>;
    /// Leaves a word for the step that follows.
    fn hand_on(&mut self, word: u32);
    /// What [`Self::hand_on`] left.
    fn handed_on(&self) -> u32;
    /// Returns `v` in a way that makes the verifier forget what it knew of it, so that paths that
    /// differ in nothing else become one. On the host the identity.
    #[must_use]
    fn forget(&mut self, v: u32) -> u32 {
        v
    }
}

/// Clock, chance and the tables that do not depend on the address family.
pub trait Node {
    /// The same number, of which the compiler knows nothing any more.
    fn opaque(&self, n: u32) -> u32 {
        n
    }
    /// Clock ticks ([`crate::TICK_SHIFT`]).
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
    fn load(&self, backend: u32, generation: u32) -> Load;
    /// [`Search::run`], for which a kernel program has a function of its own.
    fn search(&self, search: Search) -> u32
    where
        Self: Sized,
    {
        search.run(self)
    }
    /// Counts a connection to a backend.
    fn count_connection(&self, backend: u32);
    /// Counts a new flow to a backend of this generation, for [`Self::load`].
    fn count_flow(&self, backend: u32, generation: u32);
    /// Counts an event.
    fn count(&self, counter: Counter);
}

/// The tables of one address family. They are shared with other CPUs and with the agent, hence never exclusive.
pub trait Tables<A: Address>: Node {
    /// What an address is.
    fn addr(&self, addr: &A) -> Option<Addr>;
    /// What the network of an address is.
    fn net(&self, addr: &A) -> Option<Net>;
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

/// The flow table of one address family. Apart from [`Tables`], so that a flow can be held while tables are read.
pub trait Flows<A: Address> {
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
