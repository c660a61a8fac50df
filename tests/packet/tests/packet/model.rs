//! The model's half of the packet tests: `dataplane-common` over byte slices and hash maps.
//!
//! The same functions are compiled into the kernel programs. The model also checks what the kernel
//! cannot show: the target of a redirect, and the device's sum of the whole packet.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use dataplane_common::balance::least_connections;
use dataplane_common::maps::{FamilyMaps, FlowMap, SharedMaps};
use dataplane_common::packet::access::Packet;
use dataplane_common::packet::family::Family;
use dataplane_common::path::datapath;
use dataplane_common::path::port_reuse;
use dataplane_common::path::reject::{Reply, reject};
use dataplane_common::path::sctp_ports;
use dataplane_common::path::udp_failover;
use dataplane_common::types::address::{Address, V4, V6};
use dataplane_common::types::event::{Counter, DropReason};
use dataplane_common::types::flow::{Flow, FlowKey, FragmentKey, Ports};
use dataplane_common::types::load::{ConnectionCounts, Search};
use dataplane_common::types::pod::{AddressInfo, Network, NodeConfig, Pod, PodNetns};
use dataplane_common::types::service::{
    Affinity, AffinityKey, Backend, BackendLoad, BackendStats, Frontend, FrontendKey, HostPort, Slot, SlotTable,
    SockPeer, SockPeerKey, SourceRange, proto,
};
use dataplane_common::types::stage::{Origin, Stage};
use dataplane_common::verdict::{self as core, Verdict};
use dataplane_common::wire::byte_order::{Be16, Be32};
use dataplane_common::wire::checksum::{self, ChecksumChange};

use crate::testbed::{Action, FlowView, Hook, Testbed, flow_key, octets, view};

/// A packet; the scratch word for the next stage; the cookie of the connected socket that sent it;
/// the change that was applied to the device's sum of the packet.
struct Bytes<'a>(&'a mut Vec<u8>, u32, u64, u32);

impl Bytes<'_> {
    fn read<const N: usize>(&self, offset: usize) -> Option<[Be32; N]> {
        let bytes = self.0.get(offset..offset + N * 4)?;
        Some(std::array::from_fn(|i| Be32(u32::from_ne_bytes(bytes[i * 4..][..4].try_into().unwrap()))))
    }
    fn write(&mut self, offset: usize, bytes: &[u8]) -> Option<()> {
        self.0.get_mut(offset..offset + bytes.len())?.copy_from_slice(bytes);
        Some(())
    }
}

impl Packet for Bytes<'_> {
    fn load_words<const N: usize>(&self, offset: usize) -> Option<[Be32; N]> {
        self.read(offset)
    }
    fn load_u16(&self, offset: usize) -> Option<Be16> {
        self.0.get(offset..offset + 2).map(|b| Be16(u16::from_ne_bytes(b.try_into().unwrap())))
    }
    fn load_words_at<const N: usize>(&self, offset: usize, _usual: usize) -> Option<[Be32; N]> {
        self.read(offset)
    }
    fn load_words_via_helper<const N: usize>(&self, offset: usize) -> Option<[Be32; N]> {
        self.read(offset)
    }
    fn store_words<const N: usize>(&mut self, offset: usize, words: &[Be32; N]) -> Option<()> {
        words.iter().enumerate().try_for_each(|(i, t)| self.write(offset + i * 4, &t.0.to_ne_bytes()))
    }
    fn store_word_at(&mut self, offset: usize, _usual: usize, word: Be32) -> Option<()> {
        self.write(offset, &word.0.to_ne_bytes())
    }
    fn store_word_via_helper(&mut self, offset: usize, word: Be32) -> Option<()> {
        self.write(offset, &word.0.to_ne_bytes())
    }
    fn correct_checksum(&mut self, offset: usize, _usual: usize, change: ChecksumChange) -> Option<()> {
        let field = self.load_u16(offset)?;
        if change.udp && field.0 == 0 {
            return Some(());
        }
        if !change.v6 {
            self.adjust_csum_complete(!change.addresses);
        }
        let sum = checksum::apply(field, checksum::add(change.addresses, change.ports));
        let sum = if change.udp && sum.0 == 0 { 0xffff } else { sum.0 };
        self.write(offset, &sum.to_ne_bytes())
    }
    fn correct_crc(&mut self, offset: usize, difference: u32) -> Option<()> {
        let [before] = self.read(offset)?;
        self.write(offset, &(before.0 ^ difference).to_ne_bytes())
    }
    fn adjust_csum_complete(&mut self, difference: u32) {
        self.3 = checksum::add(self.3, difference);
    }
    fn size(&self) -> u32 {
        u32::try_from(self.0.len()).unwrap()
    }
    fn gso_size(&self) -> u32 {
        0
    }
    // The scenarios have one uplink and no other routes.
    fn route_ifindex<A: Address>(&self, _addr: &A) -> u32 {
        0
    }
    fn socket_cookie(&self) -> u64 {
        self.2
    }
    fn truncate(&mut self, size: u32) -> Option<()> {
        self.0.truncate(size as usize);
        Some(())
    }
    fn grow_header(&mut self, bytes: u32) -> Option<()> {
        self.0.splice(14..14, std::iter::repeat_n(0, bytes as usize));
        Some(())
    }
    fn set_scratch(&mut self, word: u32) {
        self.1 = word;
    }
    fn scratch(&self) -> u32 {
        self.1
    }
}

/// The maps of one address family.
#[derive(Default)]
pub(crate) struct Maps<A> {
    addresses: HashMap<A, AddressInfo>,
    frontends: HashMap<FrontendKey<A>, Frontend>,
    host_ports: HashMap<FrontendKey<A>, HostPort<A>>,
    affinity: RefCell<HashMap<AffinityKey<A>, &'static Affinity>>,
    fragments: RefCell<HashMap<FragmentKey<A>, Ports>>,
    networks: Vec<(A, u32, Network)>,
    source_ranges: Vec<(u32, A, u32)>,
    sock_peers: HashMap<SockPeerKey<A>, SockPeer<A>>,
}

/// Returns true if the first `len` bits are equal.
fn matches<A: Address>(a: &A, b: &A, len: u32) -> bool {
    let bits = |addr: &A| u128::from_be_bytes(addr.to_octets16());
    let len = len + if A::V6 { 0 } else { 96 };
    len == 0 || (bits(a) ^ bits(b)).leading_zeros() >= len
}

/// The maps that do not depend on the address family.
#[derive(Default)]
pub(crate) struct Shared {
    pods: HashMap<u32, Pod>,
    slots: RefCell<HashMap<u32, Slot>>,
    backends: HashMap<u32, Backend>,
    stats: RefCell<HashMap<u32, BackendStats>>,
    loads: HashMap<u32, BackendLoad>,
    config: NodeConfig,
    socket: u64,
}

/// A node on the host.
#[derive(Default)]
pub(crate) struct Model {
    shared: Shared,
    v4: Maps<V4>,
    v6: Maps<V6>,
    flows4: HashMap<FlowKey<V4>, Flow<V4>>,
    flows6: HashMap<FlowKey<V6>, Flow<V6>>,
    drops: HashMap<u32, u64>,
    target: Option<u32>,
    queued: bool,
}

struct View<'a, A>(&'a Shared, &'a Maps<A>);
struct FlowTable<'a, A>(&'a mut HashMap<FlowKey<A>, Flow<A>>);

impl<A> SharedMaps for View<'_, A> {
    fn now(&self) -> u32 {
        1000
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
    fn pod_netns(&self, _cookie: u64) -> Option<&PodNetns> {
        None
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
}

impl<A: Address> FamilyMaps<A> for View<'_, A> {
    fn address(&self, addr: &A) -> Option<AddressInfo> {
        self.1.addresses.get(addr).copied()
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
        self.1.affinity.borrow().get(key).copied()
    }
    fn set_affinity(&self, key: &AffinityKey<A>, affinity: &Affinity) {
        // Leaked: a test makes a handful, and a reader may hold the previous one.
        self.1.affinity.borrow_mut().insert(*key, Box::leak(Box::new(*affinity)));
    }
    fn fragment(&self, key: &FragmentKey<A>) -> Option<Ports> {
        self.1.fragments.borrow().get(key).copied()
    }
    fn set_fragment(&self, key: &FragmentKey<A>, ports: &Ports) {
        self.1.fragments.borrow_mut().insert(*key, *ports);
    }
    fn sock_peer(&self, key: &SockPeerKey<A>) -> Option<&SockPeer<A>> {
        self.1.sock_peers.get(key)
    }
    // The packet path only reads socket entries.
    fn set_sock_peer(&self, _key: &SockPeerKey<A>, _peer: &SockPeer<A>) -> bool {
        false
    }
    fn remove_sock_peer(&self, _key: &SockPeerKey<A>) {}
}

impl<A: Address> FlowMap<A> for FlowTable<'_, A> {
    fn get(&mut self, key: &FlowKey<A>) -> Option<&mut Flow<A>> {
        self.0.get_mut(key)
    }
    fn insert(&mut self, key: &FlowKey<A>, flow: &Flow<A>) -> bool {
        self.0.insert(*key, *flow);
        true
    }
    fn insert_new(&mut self, key: &FlowKey<A>, flow: &Flow<A>) -> bool {
        !self.0.contains_key(key) && self.insert(key, flow)
    }
    fn remove(&mut self, key: &FlowKey<A>) {
        self.0.remove(key);
    }
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
    while A::V6 && matches!(proto, 0 | 43 | 44 | 60) {
        (proto, at) = (frame[at], at + if proto == 44 { 8 } else { 8 + 8 * usize::from(frame[at + 1]) });
    }
    proto != proto::SCTP && (A::V6 || proto != proto::UDP || frame.get(at + 6..at + 8) != Some(&[0, 0]))
}

fn run<A: Family + Reply>(
    hook: Hook,
    ifindex: u32,
    frame: &mut Vec<u8>,
    mut flows: FlowTable<'_, A>,
    tables: &View<'_, A>,
) -> Verdict {
    let (size, before) = (frame.len(), sum(frame));
    let mut packet = Bytes(frame, 0, tables.0.socket, 0);
    let (origin, mut verdict) = match hook {
        Hook::FromPod => {
            (Origin::Pod, datapath::ingress::<A, _, _, _>(&mut packet, &mut flows, tables, Origin::Pod, ifindex))
        }
        Hook::FromUplink => {
            (Origin::Uplink, datapath::ingress::<A, _, _, _>(&mut packet, &mut flows, tables, Origin::Uplink, ifindex))
        }
        Hook::ToPod => (Origin::Host, datapath::from_host::<A, _, _, _, false>(&mut packet, &mut flows, tables)),
        Hook::ToUplink => (Origin::Host, datapath::from_host::<A, _, _, _, true>(&mut packet, &mut flows, tables)),
    };
    while let Some(stage) = verdict.stage() {
        let payload = verdict.without_stage();
        verdict = match stage {
            Stage::NewConnection => {
                datapath::new_connection::<A, _, _, _, false>(&mut packet, &mut flows, tables, origin, ifindex)
            }
            Stage::LeastConnections => {
                datapath::new_connection::<A, _, _, _, true>(&mut packet, &mut flows, tables, origin, ifindex)
            }
            Stage::PortReuse => port_reuse::port_reuse::<A, _, _, _>(&mut packet, &mut flows, tables, origin, ifindex),
            Stage::IcmpError => {
                datapath::icmp_error::<A, _, _, _>(&mut packet, &mut flows, tables, origin, ifindex, payload)
            }
            Stage::Reject => reject::<A, _, _>(&mut packet, tables, payload),
            Stage::SctpPorts => sctp_ports::set_ports::<A, _>(&mut packet, payload),
            Stage::UdpFailover => udp_failover::fail_over::<A, _, _, _>(&mut packet, &mut flows, tables),
        };
    }
    let balanced = checksum::add(before, packet.3);
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

impl Model {
    /// Sets the connected socket that sends the following packets, by its cookie; 0: none.
    pub(crate) fn set_socket(&mut self, cookie: u64) {
        self.shared.socket = cookie;
    }

    /// Adds the entry of a socket that asked for `frontend` and was given `backend`.
    pub(crate) fn connect(
        &mut self,
        cookie: u64,
        backend: SocketAddr,
        frontend: SocketAddr,
        (id, generation): (u32, u32),
    ) {
        fn entry<A: Address>(
            maps: &mut Maps<A>,
            cookie: u64,
            [at, shown]: [SocketAddr; 2],
            (backend, generation): (u32, u32),
        ) {
            let key = SockPeerKey { cookie, addr: octets(at.ip()), port: at.port(), pad: 0 };
            let peer = SockPeer { addr: octets(shown.ip()), port: shown.port(), pad: 0, backend, generation };
            maps.sock_peers.insert(key, peer);
        }
        let ends = [backend, frontend];
        if backend.is_ipv4() {
            entry(&mut self.v4, cookie, ends, (id, generation));
        } else {
            entry(&mut self.v6, cookie, ends, (id, generation));
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
    fn age_flow(&mut self, from: SocketAddr, to: SocketAddr, proto: u8, ticks: u32) {
        let last_seen = if from.is_ipv4() {
            &mut self.flows4.get_mut(&flow_key(from, to, proto)).unwrap().last_seen
        } else {
            &mut self.flows6.get_mut(&flow_key(from, to, proto)).unwrap().last_seen
        };
        *last_seen = last_seen.wrapping_sub(ticks);
    }
    fn drops(&mut self, reason: DropReason) -> u64 {
        self.drops.get(&(reason as u32)).copied().unwrap_or(0)
    }
    fn run(&mut self, hook: Hook, ifindex: u32, frame: &mut Vec<u8>) -> Action {
        let verdict = match frame[12..14] {
            [0x86, 0xdd] => {
                let view = View(&self.shared, &self.v6);
                run(hook, ifindex, frame, FlowTable(&mut self.flows6), &view)
            }
            [8, 0] => {
                let view = View(&self.shared, &self.v4);
                run(hook, ifindex, frame, FlowTable(&mut self.flows4), &view)
            }
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
