//! [`Testbed`]: a node as scenarios see it, either the model or the kernel.
//!
//! Scenarios fill the maps through it, run packets at hooks, and read flows and drop counters.

use std::net::{IpAddr, SocketAddr};

use dataplane_common::types::address::{Address, V4, V6};
use dataplane_common::types::event::DropReason;
use dataplane_common::types::flow::{Flow, FlowKey};
use dataplane_common::types::pod::{AddressInfo, Network, NodeConfig, Pod};
use dataplane_common::types::policy::{PodRules, Rule, RuleKey};
use dataplane_common::types::service::{Backend, BackendLoad, Frontend, FrontendKey};

/// A hook of the packet path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hook {
    FromPod,
    ToPod,
    FromUplink,
    ToUplink,
}

/// The return value of a program, as far as both testbeds can tell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Pass,
    Drop,
    /// Redirected into a pod or out of a device. Only the model knows which: see
    /// [`Testbed::target`].
    Redirect,
}

/// A flow of either family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FlowView {
    pub(crate) src: SocketAddr,
    pub(crate) dst: SocketAddr,
    pub(crate) iif: u32,
    pub(crate) oif: u32,
}

/// The maps and programs of a node.
pub(crate) trait Testbed {
    fn put_pod(&mut self, ifindex: u32, pod: Pod);
    fn put_addr(&mut self, addr: IpAddr, entry: AddressInfo);
    fn put_frontend(&mut self, key: FrontendKey<IpAddr>, frontend: Frontend);
    fn put_slot(&mut self, index: u32, backend: u32);
    fn put_backend(&mut self, id: u32, backend: Backend);
    /// Sets the counts of the agent's last sweep for a backend.
    fn put_load(&mut self, id: u32, load: BackendLoad);
    /// Returns the number of flows that were counted for a backend.
    fn flows_of(&mut self, id: u32) -> u32;
    fn put_config(&mut self, config: NodeConfig);
    /// Adds a network with a prefix length in bits.
    fn put_network(&mut self, addr: IpAddr, len: u32, net: Network);
    /// Allows clients of a network to use a service port.
    fn put_source_range(&mut self, service_port: u32, addr: IpAddr, len: u32);
    fn put_pod_rules(&mut self, ifindex: u32, rules: PodRules);
    /// Sets or removes the decision of a rule set about a class.
    fn put_rule(&mut self, key: RuleKey, rule: Option<Rule>);
    /// Sets the class of a pod's address.
    fn put_peer(&mut self, addr: IpAddr, class: u32);
    /// Sets the class of a block with a prefix length in bits.
    fn put_block(&mut self, addr: IpAddr, len: u32, class: u32);
    /// Sets the decision of a port table about a protocol and port, or about all others.
    fn put_port(&mut self, table: u32, port: Option<(u8, u16)>, decision: u32);
    /// Sets the interface by which the following packets arrive at the node; 0: it sends them.
    fn set_ingress(&mut self, ifindex: u32);
    fn put_host_port(&mut self, key: FrontendKey<IpAddr>, to: SocketAddr, ifindex: u32);
    fn flow(&mut self, from: SocketAddr, to: SocketAddr, proto: u8) -> Option<FlowView>;
    /// Removes one direction of a flow, as the kernel does when the table is full.
    fn evict_flow(&mut self, from: SocketAddr, to: SocketAddr, proto: u8);
    /// Lets this many ticks pass: flows and affinity entries are that much older afterwards.
    fn advance(&mut self, ticks: u32);
    /// Returns the ticks that may pass by themselves while a scenario runs. The model's clock moves
    /// with [`Testbed::advance`] alone; the kernel's goes on. An age that must stay below a limit
    /// keeps this distance from it.
    fn clock_slack(&self) -> u32;
    /// Returns the number of packets that were dropped for a reason.
    fn drops(&mut self, reason: DropReason) -> u64 {
        self.all_drops()[reason as usize]
    }
    /// Returns the dropped packets by the number of their reason.
    fn all_drops(&self) -> Vec<u64>;
    /// Returns all flows but for the times of their last packets.
    fn all_flows(&self) -> AllFlows;
    fn run(&mut self, hook: Hook, ifindex: u32, frame: &mut Vec<u8>) -> Action;
    /// Returns the interface to which the last packet was redirected, if the testbed knows it.
    fn target(&self) -> Option<u32>;
    /// Returns true if the last packet was redirected to the queue of a device, false if past it
    /// into a pod; `None` if the testbed does not know.
    fn is_queued(&self) -> Option<bool>;
}

/// Returns the flow key of a packet.
pub(crate) fn flow_key<A: Address>(from: SocketAddr, to: SocketAddr, proto: u8) -> FlowKey<A> {
    FlowKey { src: octets(from.ip()), dst: octets(to.ip()), sport: from.port(), dport: to.port(), proto, pad: [0; 3] }
}

/// Converts an address to a family's type.
pub(crate) fn octets<A: Address>(addr: IpAddr) -> A {
    match addr {
        IpAddr::V4(a) => A::from_octets16(&a.to_ipv6_mapped().octets()),
        IpAddr::V6(a) => A::from_octets16(&a.octets()),
    }
}

/// Converts a flow of one family.
pub(crate) fn view<A: Into<IpAddr> + Copy>(flow: Flow<A>) -> FlowView {
    FlowView {
        src: (flow.src.into(), flow.sport).into(),
        dst: (flow.dst.into(), flow.dport).into(),
        // Of a pod's device, the index.
        iif: flow.iif & u32::from(u16::MAX),
        oif: flow.egress_ifindex(),
    }
}

/// All flows of a node, in an order that does not depend on the table. Times are left out.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct AllFlows(Vec<String>);

impl AllFlows {
    pub(crate) fn of(
        four: impl Iterator<Item = (FlowKey<V4>, Flow<V4>)>,
        six: impl Iterator<Item = (FlowKey<V6>, Flow<V6>)>,
    ) -> Self {
        let four = four.map(|(key, flow)| format!("{key:?} {:?}", Flow { last_seen: 0, ..flow }));
        let six = six.map(|(key, flow)| format!("{key:?} {:?}", Flow { last_seen: 0, ..flow }));
        let mut all: Vec<_> = four.chain(six).collect();
        all.sort_unstable();
        Self(all)
    }
}
