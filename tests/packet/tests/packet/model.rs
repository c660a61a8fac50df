//! The model's half of the packet tests: `dataplane-common` over byte slices and hash maps.
//!
//! The same functions are compiled into the kernel programs. The model also checks what the kernel
//! cannot show: the target of a redirect, and the device's sum of the whole packet.

mod packet;
mod tables;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use dataplane_common::packet::family::Family;
use dataplane_common::path::datapath;
use dataplane_common::path::deliver;
use dataplane_common::path::judge;
use dataplane_common::path::port_reuse;
use dataplane_common::path::recheck;
use dataplane_common::path::reject::{Reply, reject};
use dataplane_common::path::sctp_ports;
use dataplane_common::path::socket::{self, ConnectRequest, SocketVerdict};
use dataplane_common::path::{tunnel_source, udp_failover};
use dataplane_common::types::address::{Address, V4, V6};
use dataplane_common::types::event::DropReason;
use dataplane_common::types::flow::{Flow, FlowKey};
use dataplane_common::types::pod::{AddressInfo, MasqueradeSource, Network, NodeConfig, Pod, PodNetns};
use dataplane_common::types::policy::{PodRules, Rule, RuleKey};
use dataplane_common::types::service::{
    Backend, BackendLoad, Frontend, FrontendKey, HostPort, Slot, SockPeer, SockPeerKey, proto,
};
use dataplane_common::types::stage::{Origin, Stage};
use dataplane_common::verdict::{self as core, Verdict};
use dataplane_common::wire::checksum;

use crate::testbed::{Action, AllFlows, FlowView, Hook, Testbed, flow_key, octets, view};
use packet::Frame;
use tables::{FlowTable, Maps, Shared, Surplus, View};

/// A node on the host.
#[derive(Default)]
pub(crate) struct Model {
    shared: Shared,
    v4: Maps<V4>,
    v6: Maps<V6>,
    flows4: HashMap<FlowKey<V4>, Flow<V4>>,
    flows6: HashMap<FlowKey<V6>, Flow<V6>>,
    surplus4: Surplus<V4>,
    surplus6: Surplus<V6>,
    drops: HashMap<u32, u64>,
    target: Option<u32>,
    queued: bool,
    /// Packets may arrive with wrong checksums.
    wrong_sums: bool,
}

/// Returns the sum that a device computes (`CHECKSUM_COMPLETE`): everything behind the Ethernet
/// header.
fn sum(frame: &[u8]) -> u32 {
    let half = |pair: &[u8]| u32::from(u16::from_ne_bytes([pair[0], pair.get(1).copied().unwrap_or_default()]));
    frame[14.min(frame.len())..].chunks(2).fold(0, |sum, pair| checksum::add(sum, half(pair)))
}

/// Returns true if a checksum in the packet makes that sum predictable. SCTP has none, and UDP over
/// IPv4 may have none.
fn has_sum<A: Address>(frame: &[u8]) -> bool {
    let (mut proto, mut at) = (frame[if A::V6 { 20 } else { 23 }], 14 + A::HEADER);
    if A::V6 {
        loop {
            let next = frame[at];
            let length = match proto {
                0 | 43 | 60 | 135 => 8 + 8 * usize::from(frame[at + 1]),
                44 => 8,
                51 => 8 + 4 * usize::from(frame[at + 1]),
                _ => break,
            };
            (proto, at) = (next, at + length);
        }
    }
    proto != proto::SCTP && (A::V6 || proto != proto::UDP || frame.get(at + 6..at + 8) != Some(&[0, 0]))
}

/// Tail calls of one packet.
const MAX_TAIL_CALLS: u32 = 33;

fn run<A: Family + Reply>(
    hook: Hook,
    ifindex: u32,
    frame: &mut Vec<u8>,
    mut flows: FlowTable<'_, A>,
    tables: &View<'_, A>,
    (inner, checks_sum): ((&View<'_, V4>, &View<'_, V6>), bool),
) -> Verdict {
    let (size, before) = (frame.len(), sum(frame));
    let mut packet = Frame {
        bytes: frame,
        scratch: 0,
        socket: tables.0.socket,
        sum_change: 0,
        routes: &tables.0.routes,
        ingress: tables.0.ingress,
    };
    let (origin, mut verdict) = match hook {
        Hook::FromPod => {
            (Origin::Pod, datapath::ingress::<A, _, _, _>(&mut packet, &mut flows, tables, Origin::Pod, ifindex))
        }
        Hook::FromUplink => {
            (Origin::Uplink, datapath::ingress::<A, _, _, _>(&mut packet, &mut flows, tables, Origin::Uplink, ifindex))
        }
        Hook::ToPod => {
            (Origin::Host, datapath::from_host::<A, _, _, _, false>(&mut packet, &mut flows, tables, ifindex))
        }
        Hook::ToUplink => {
            (Origin::Host, datapath::from_host::<A, _, _, _, true>(&mut packet, &mut flows, tables, ifindex))
        }
    };
    let mut calls = 0;
    while let Some(stage) = verdict.stage() {
        // The kernel ends a packet's tail calls like this (`MAX_TAIL_CALL_CNT` in
        // include/linux/bpf.h); the program then finds no stage.
        calls += 1;
        if calls > MAX_TAIL_CALLS {
            return Verdict::drop(DropReason::NoStage);
        }
        let payload = verdict.without_stage();
        verdict = match stage {
            Stage::NewConnection => {
                datapath::new_connection::<A, _, _, _, false>(&mut packet, &mut flows, tables, origin, ifindex)
            }
            Stage::LeastConnections => {
                datapath::new_connection::<A, _, _, _, true>(&mut packet, &mut flows, tables, origin, ifindex)
            }
            Stage::PortReuse => {
                let received = (origin, verdict);
                port_reuse::port_reuse::<A, _, _, _>(&mut packet, &mut flows, tables, received, ifindex)
            }
            Stage::IcmpError => {
                datapath::icmp_error::<A, _, _, _>(&mut packet, &mut flows, tables, origin, ifindex, payload)
            }
            Stage::Reject => reject::<A, _, _>(&mut packet, tables, payload),
            Stage::SctpPorts => sctp_ports::set_ports::<A, _>(&mut packet, payload),
            Stage::TunnelSource => {
                tunnel_source::check_inner_source::<A, _, _, _, _>(&mut packet, tables, inner.0, inner.1)
            }
            Stage::Judge => judge::judge::<A, _, _, _>(&mut packet, &mut flows, tables, (origin, payload), ifindex),
            Stage::Deliver => deliver::deliver::<A, _, _, _>(&mut packet, &mut flows, tables, ifindex),
            Stage::Recheck => recheck::recheck::<A, _, _, _>(&mut packet, &mut flows, tables, origin, ifindex),
            Stage::UdpFailover => udp_failover::fail_over::<A, _, _, _>(&mut packet, &mut flows, tables),
        };
    }
    if !checks_sum {
        return verdict;
    }
    let balanced = checksum::add(before, packet.sum_change);
    if matches!(verdict.action(), core::Action::ToPod | core::Action::ToUplink)
        && frame.len() == size
        && has_sum::<A>(frame)
    {
        assert!(
            checksum::same(checksum::fold(sum(frame)), checksum::fold(balanced)),
            "the sum of the whole packet is wrong"
        );
    }
    verdict
}

/// A map of the model in which tests limit the room.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Table {
    /// Both flow tables.
    Flows,
    Affinity,
    Fragments,
    SockPeers,
}

/// A socket, as its hooks know it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Socket {
    pub(crate) cookie: u64,
    pub(crate) netns_cookie: u64,
    pub(crate) proto: u8,
    /// True: each datagram has an address (sendmsg(2)).
    pub(crate) unconnected: bool,
}

/// The answer of a socket hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Connected {
    /// To the address that the application gave: the packet path decides.
    Unchanged,
    /// To a backend or pod.
    To(SocketAddr),
    /// The system call fails.
    Refused,
}

impl Model {
    /// Accepts packets whose checksums were wrong before.
    pub(crate) fn tolerate_wrong_sums(&mut self) {
        self.wrong_sums = true;
    }

    /// Sets the present tick.
    pub(crate) fn set_now(&mut self, now: u32) {
        self.shared.now = now;
    }

    /// Has a map take so many new entries and refuse those that follow; `None`: it takes all.
    pub(crate) fn limit(&mut self, table: Table, entries: Option<u32>) {
        let rooms = match table {
            Table::Flows => [&self.shared.flow_room; 2],
            Table::Affinity => [&self.v4.affinity.room, &self.v6.affinity.room],
            Table::Fragments => [&self.v4.fragments.room, &self.v6.fragments.room],
            Table::SockPeers => [&self.v4.sock_peers.room, &self.v6.sock_peers.room],
        };
        rooms.iter().for_each(|room| room.limit(entries));
    }

    /// Returns the present tick.
    pub(crate) fn now(&self) -> u32 {
        self.shared.now
    }

    /// Returns the IPv4 flow table.
    pub(crate) fn flows4(&self) -> &HashMap<FlowKey<V4>, Flow<V4>> {
        &self.flows4
    }

    /// Replaces the IPv4 flow table.
    pub(crate) fn set_flows4(&mut self, flows: HashMap<FlowKey<V4>, Flow<V4>>) {
        self.flows4 = flows;
    }

    /// Returns the number of entries in both flow tables.
    pub(crate) fn flows(&self) -> usize {
        self.flows4.len() + self.flows6.len()
    }

    /// Adds a route of the host's stack to one address.
    pub(crate) fn put_route(&mut self, addr: IpAddr, ifindex: u32) {
        self.shared.routes.insert(dataplane_common::types::address::octets16(addr), ifindex);
    }

    /// Sets the addresses of masqueraded packets that leave by a device.
    pub(crate) fn put_masquerade_source(&mut self, ifindex: u32, source: MasqueradeSource) {
        self.shared.masquerade_sources.insert(ifindex, source);
    }

    pub(crate) fn put_pod_netns(&mut self, cookie: u64, pod: PodNetns) {
        self.shared.pod_netns.insert(cookie, pod);
    }

    /// Sets the connected socket that sends the following packets, by its cookie; 0: none.
    pub(crate) fn set_socket(&mut self, cookie: u64) {
        self.shared.socket = cookie;
    }

    /// Adds the entry of a socket that asked for `frontend` and was given `backend`.
    pub(crate) fn put_sock_peer(
        &mut self,
        cookie: u64,
        backend: SocketAddr,
        frontend: SocketAddr,
        (id, generation): (u32, u32),
    ) {
        fn entry<A: Address>(
            maps: &Maps<A>,
            cookie: u64,
            [at, shown]: [SocketAddr; 2],
            (backend, generation): (u32, u32),
        ) {
            let key = SockPeerKey { cookie, addr: octets(at.ip()), port: at.port(), pad: 0 };
            let peer = SockPeer { addr: octets(shown.ip()), port: shown.port(), pad: 0, backend, generation };
            assert!(maps.sock_peers.set(&key, &peer));
        }
        let ends = [backend, frontend];
        if backend.is_ipv4() {
            entry(&self.v4, cookie, ends, (id, generation));
        } else {
            entry(&self.v6, cookie, ends, (id, generation));
        }
    }

    /// Runs the hook of connect(2), or of sendmsg(2) for an unconnected socket.
    pub(crate) fn connect(&mut self, socket: Socket, to: SocketAddr) -> Connected {
        fn ask<A: Family + Into<IpAddr>>(tables: &View<'_, A>, socket: Socket, to: SocketAddr) -> Connected {
            let Socket { cookie, netns_cookie, proto, unconnected } = socket;
            let (addr, port) = (octets(to.ip()), to.port());
            let request = ConnectRequest::<A> { addr, port, proto, unconnected, cookie, netns_cookie };
            let decision = socket::connect(tables, &request);
            match decision.action {
                SocketVerdict::Keep => Connected::Unchanged,
                SocketVerdict::Redirect => Connected::To(SocketAddr::new(decision.addr.into(), decision.port)),
                SocketVerdict::Reject => Connected::Refused,
            }
        }
        if to.is_ipv4() {
            ask(&View(&self.shared, &self.v4), socket, to)
        } else {
            ask(&View(&self.shared, &self.v6), socket, to)
        }
    }

    /// Runs the hook of recvmsg(2): returns the address that the application sees for a backend.
    pub(crate) fn shown(&self, cookie: u64, from: SocketAddr) -> SocketAddr {
        fn ask<A: Address + Into<IpAddr>>(tables: &View<'_, A>, cookie: u64, from: SocketAddr) -> SocketAddr {
            socket::original_destination(tables, cookie, octets(from.ip()), from.port())
                .map_or(from, |peer| SocketAddr::new(peer.addr.into(), peer.port))
        }
        if from.is_ipv4() {
            ask(&View(&self.shared, &self.v4), cookie, from)
        } else {
            ask(&View(&self.shared, &self.v6), cookie, from)
        }
    }
}

impl Testbed for Model {
    fn put_pod(&mut self, ifindex: u32, pod: Pod) {
        self.shared.pods.insert(ifindex, pod);
    }
    fn put_addr(&mut self, addr: IpAddr, entry: AddressInfo) {
        match addr {
            IpAddr::V4(a) => drop(self.v4.addresses.insert(a.into(), entry)),
            IpAddr::V6(a) => drop(self.v6.addresses.insert(a.into(), entry)),
        }
    }
    fn put_frontend(&mut self, key: FrontendKey<IpAddr>, frontend: Frontend) {
        let FrontendKey { addr, port, proto, pad } = key;
        if addr.is_ipv4() {
            self.v4.frontends.insert(FrontendKey { addr: octets(addr), port, proto, pad }, frontend);
        } else {
            self.v6.frontends.insert(FrontendKey { addr: octets(addr), port, proto, pad }, frontend);
        }
    }
    fn put_slot(&mut self, index: u32, backend: u32) {
        self.shared.slots.borrow_mut().insert(index, Slot { backend, turn: 0 });
    }
    fn put_backend(&mut self, id: u32, backend: Backend) {
        self.shared.backends.insert(id, backend);
    }
    fn put_load(&mut self, id: u32, load: BackendLoad) {
        self.shared.loads.insert(id, load);
    }
    fn flows_of(&mut self, id: u32) -> u32 {
        self.shared.stats.borrow().get(&id).map_or(0, |s| s.flows as u32)
    }
    fn put_config(&mut self, config: NodeConfig) {
        self.shared.config = config;
    }
    fn put_pod_rules(&mut self, ifindex: u32, rules: PodRules) {
        self.shared.pod_rules.insert(ifindex, rules);
    }
    fn put_rule(&mut self, key: RuleKey, rule: Option<Rule>) {
        match rule {
            Some(rule) => drop(self.shared.rules.insert(key, rule)),
            None => drop(self.shared.rules.remove(&key)),
        }
    }
    fn put_peer(&mut self, addr: IpAddr, class: u32) {
        match addr {
            IpAddr::V4(a) => drop(self.v4.peers.insert(a.into(), class)),
            IpAddr::V6(a) => drop(self.v6.peers.insert(a.into(), class)),
        }
    }
    fn put_block(&mut self, addr: IpAddr, len: u32, class: u32) {
        fn put<A: Address>(blocks: &mut Vec<(A, u32, u32)>, addr: A, len: u32, class: u32) {
            blocks.retain(|(_, other, _)| *other != len);
            blocks.push((addr, len, class));
        }
        match addr {
            IpAddr::V4(a) => put(&mut self.v4.blocks, a.into(), len, class),
            IpAddr::V6(a) => put(&mut self.v6.blocks, a.into(), len, class),
        }
    }
    fn put_port(&mut self, table: u32, port: Option<(u8, u16)>, decision: u32) {
        self.shared.ports.insert((table, port), decision);
    }
    fn set_ingress(&mut self, ifindex: u32) {
        self.shared.ingress = ifindex;
    }
    fn put_network(&mut self, addr: IpAddr, len: u32, net: Network) {
        match addr {
            IpAddr::V4(a) => self.v4.networks.push((a.into(), len, net)),
            IpAddr::V6(a) => self.v6.networks.push((a.into(), len, net)),
        }
    }
    fn put_source_range(&mut self, service_port: u32, addr: IpAddr, len: u32) {
        match addr {
            IpAddr::V4(a) => self.v4.source_ranges.push((service_port, a.into(), len)),
            IpAddr::V6(a) => self.v6.source_ranges.push((service_port, a.into(), len)),
        }
    }
    fn put_host_port(&mut self, key: FrontendKey<IpAddr>, to: SocketAddr, ifindex: u32) {
        let FrontendKey { addr, port, proto, pad } = key;
        if to.is_ipv4() {
            let value = HostPort { addr: octets(to.ip()), port: to.port(), pad: 0, ifindex };
            self.v4.host_ports.insert(FrontendKey { addr: octets(addr), port, proto, pad }, value);
        } else {
            let value = HostPort { addr: octets(to.ip()), port: to.port(), pad: 0, ifindex };
            self.v6.host_ports.insert(FrontendKey { addr: octets(addr), port, proto, pad }, value);
        }
    }
    fn flow(&mut self, from: SocketAddr, to: SocketAddr, proto: u8) -> Option<FlowView> {
        if from.is_ipv4() {
            self.flows4.get(&flow_key(from, to, proto)).copied().map(view)
        } else {
            self.flows6.get(&flow_key(from, to, proto)).copied().map(view)
        }
    }
    fn evict_flow(&mut self, from: SocketAddr, to: SocketAddr, proto: u8) {
        let removed = if from.is_ipv4() {
            self.flows4.remove(&flow_key(from, to, proto)).is_some()
        } else {
            self.flows6.remove(&flow_key(from, to, proto)).is_some()
        };
        assert!(removed, "no flow {from} -> {to}");
    }
    fn advance(&mut self, ticks: u32) {
        self.shared.now = self.shared.now.wrapping_add(ticks);
    }
    fn clock_slack(&self) -> u32 {
        0
    }
    fn all_drops(&self) -> Vec<u64> {
        DropReason::ALL.iter().map(|reason| self.drops.get(&(*reason as u32)).copied().unwrap_or(0)).collect()
    }
    fn all_flows(&self) -> AllFlows {
        AllFlows::of(self.flows4.iter().map(|(k, f)| (*k, *f)), self.flows6.iter().map(|(k, f)| (*k, *f)))
    }
    fn run(&mut self, hook: Hook, ifindex: u32, frame: &mut Vec<u8>) -> Action {
        let (four, six) = (View(&self.shared, &self.v4), View(&self.shared, &self.v6));
        let verdict = match frame[12..14] {
            [0x86, 0xdd] => run(
                hook,
                ifindex,
                frame,
                FlowTable(&mut self.flows6, &self.shared.flow_room, &mut self.surplus6),
                &six,
                ((&four, &six), !self.wrong_sums),
            ),
            [8, 0] => run(
                hook,
                ifindex,
                frame,
                FlowTable(&mut self.flows4, &self.shared.flow_room, &mut self.surplus4),
                &four,
                ((&four, &six), !self.wrong_sums),
            ),
            [0x81, 0] | [0x88, 0xa8] if hook == Hook::FromUplink => Verdict::drop(DropReason::ForbiddenControl),
            // The entry points in `dataplane-ebpf` decide about frames that are not IP.
            _ if hook == Hook::FromPod => Verdict::drop(DropReason::ForbiddenControl),
            _ => Verdict::PASS,
        };
        self.target = None;
        self.queued = verdict.action() != core::Action::ToPod;
        match verdict.action() {
            core::Action::Pass => Action::Pass,
            core::Action::Drop => {
                *self.drops.entry(verdict.reason()).or_default() += 1;
                Action::Drop
            }
            core::Action::ToPod | core::Action::ToUplink => {
                self.target = Some(verdict.ifindex());
                Action::Redirect
            }
            core::Action::Reply => {
                *self.drops.entry(verdict.reason()).or_default() += 1;
                self.target = Some(ifindex);
                Action::Redirect
            }
            core::Action::Translate => panic!("not a final action"),
        }
    }
    fn target(&self) -> Option<u32> {
        self.target
    }
    fn is_queued(&self) -> Option<bool> {
        self.target.map(|_| self.queued)
    }
}
