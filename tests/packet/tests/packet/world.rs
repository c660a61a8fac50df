//! What a scenario can do to a node, whether it is a model or a kernel.

use std::net::{IpAddr, SocketAddr};

use dataplane_common::types::address::Address;
use dataplane_common::types::event::DropReason;
use dataplane_common::types::flow::{Flow, FlowKey};
use dataplane_common::types::pod::{AddressInfo, Network, NodeConfig, Pod};
use dataplane_common::types::service::{Backend, BackendLoad, Frontend, FrontendKey};

/// A hook of the packet path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hook {
    FromPod,
    ToPod,
    FromUplink,
    ToUplink,
}

/// What a program returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Pass,
    Drop,
    /// Into a pod or out of an uplink. Which, only the model can tell: see [`World::target`].
    Redirect,
}

/// A flow, without its family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FlowView {
    pub(crate) src: SocketAddr,
    pub(crate) dst: SocketAddr,
    pub(crate) iif: u32,
    pub(crate) oif: u32,
}

/// The tables of one node, and its programs.
pub(crate) trait World {
    fn put_pod(&mut self, ifindex: u32, pod: Pod);
    fn put_addr(&mut self, addr: IpAddr, entry: AddressInfo);
    fn put_frontend(&mut self, key: FrontendKey<IpAddr>, frontend: Frontend);
    fn put_slot(&mut self, index: u32, backend: u32);
    fn put_backend(&mut self, id: u32, backend: Backend);
    /// What the agent has found of a backend.
    fn put_load(&mut self, id: u32, load: BackendLoad);
    /// How many flows to a backend were counted.
    fn flows_of(&mut self, id: u32) -> u32;
    fn put_config(&mut self, config: NodeConfig);
    /// An address with its length in bits.
    fn put_net(&mut self, addr: IpAddr, len: u32, net: Network);
    /// Allows clients of a network to use a service port.
    fn put_source_range(&mut self, service_port: u32, addr: IpAddr, len: u32);
    fn put_host_port(&mut self, key: FrontendKey<IpAddr>, to: SocketAddr, ifindex: u32);
    fn flow(&mut self, from: SocketAddr, to: SocketAddr, proto: u8) -> Option<FlowView>;
    /// Lets a flow have been idle for so many ticks more.
    fn age_flow(&mut self, from: SocketAddr, to: SocketAddr, proto: u8, ticks: u32);
    fn drops(&mut self, reason: DropReason) -> u64;
    fn run(&mut self, hook: Hook, ifindex: u32, frame: &mut Vec<u8>) -> Action;
    /// Where the last packet was redirected to, where that can be known.
    fn target(&self) -> Option<u32>;
    /// Whether the last packet was redirected to the queue of a device, and not past it into a pod, where that can be known.
    fn is_queued(&self) -> Option<bool>;
}

/// A flow key of either family.
pub(crate) fn flow_key<A: Address>(from: SocketAddr, to: SocketAddr, proto: u8) -> FlowKey<A> {
    FlowKey { src: octets(from.ip()), dst: octets(to.ip()), sport: from.port(), dport: to.port(), proto, pad: [0; 3] }
}

/// An address in a family's type.
pub(crate) fn octets<A: Address>(addr: IpAddr) -> A {
    match addr {
        IpAddr::V4(a) => A::from_octets16(&a.to_ipv6_mapped().octets()),
        IpAddr::V6(a) => A::from_octets16(&a.octets()),
    }
}

/// Without its family.
pub(crate) fn view<A: Into<IpAddr>>(flow: Flow<A>) -> FlowView {
    FlowView {
        src: (flow.src.into(), flow.sport).into(),
        dst: (flow.dst.into(), flow.dport).into(),
        iif: flow.iif,
        oif: flow.oif,
    }
}
