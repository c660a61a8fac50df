//! Tests of the socket path: loopback, precedence of maps, number of lookups, rejection,
//! schedulers.
//!
//! They run on hash maps that count lookups and writes. The packet tests cover the packet path, the
//! namespace tests the hooks with real sockets.

extern crate std;

mod rules;
mod tunnel;

use core::cell::{Cell, RefCell};
use std::boxed::Box;
use std::collections::HashMap;
use std::vec;
use std::vec::Vec;

use super::*;
use crate::balance::least_connections;
use crate::types::address::{V4, V6};
use crate::types::answer_budget::AnswerKind;
use crate::types::flow::{FragmentKey, Ports};
use crate::types::load::{ConnectionCounts, Search};
use crate::types::pod::{
    AddressInfo, MasqueradeSource, Network, NodeConfig, Pod, PodNetns, network_flags, node_features,
};
use crate::types::policy::PodRules;
use crate::types::service::{
    Affinity, AffinityKey, Backend, Frontend, HostPort, SlotTable, SourceRange, proto, scheduler,
};

const NODE_NETNS: u64 = 7;
const POD_NETNS: u64 = 8;
const OTHER_NETNS: u64 = 9;

const NODE: V4 = V4 { octets: [192, 0, 2, 1] };
const LOOPBACK: V4 = V4 { octets: [127, 0, 0, 1] };
const POD: V4 = V4 { octets: [10, 0, 0, 5] };
const BACKEND: V4 = V4 { octets: [10, 0, 0, 9] };
const OUTSIDE: V4 = V4 { octets: [203, 0, 113, 1] };

struct Fake {
    config: NodeConfig,
    pod: PodNetns,
    addresses: HashMap<V4, AddressInfo>,
    frontends: HashMap<FrontendKey<V4>, Frontend>,
    /// Backends, by id from 1 on.
    backends: Vec<Backend>,
    ports: HashMap<FrontendKey<V4>, HostPort<V4>>,
    peers: RefCell<HashMap<SockPeerKey<V4>, &'static SockPeer<V4>>>,
    /// The network of every address.
    net: Cell<Option<Network>>,
    /// The only client that source ranges allow.
    allowed: Cell<V4>,
    turn: Cell<u32>,
    random: Cell<u32>,
    /// Active connections by backend id; missing ones have none.
    loads: RefCell<HashMap<u32, u32>>,
    writes: Cell<u32>,
    /// Number of lookups in hash tables, `frontends` and `sock_peers` excepted.
    lookups: Cell<u32>,
}

impl Fake {
    /// Returns a node with a pod, host port 8080 on every address, host port 9090 on loopback only,
    /// and a frontend at node port 30080.
    fn new() -> Self {
        let key = |addr, port| FrontendKey { addr, port, proto: proto::TCP, pad: 0 };
        let table = SlotTable { base: 0, len: 1 };
        let frontend = Frontend {
            service_port: 1,
            affinity_ticks: 0,
            internal: table,
            external: table,
            flags: frontend_flags::NODE_PORT,
            scheduler: 0,
            pad: 0,
        };
        let port = |port| HostPort { addr: POD, port, pad: 0, ifindex: 1024 };
        let node = AddressInfo { ifindex: 0, kind: address_kind::NODE, flags: 0, mac: [0; 6] };
        Self {
            config: NodeConfig { netns_cookie: NODE_NETNS, node4: NODE, ..NodeConfig::default() },
            pod: PodNetns { addr4: POD, addr6: V6::default(), ifindex: 1024 },
            addresses: [(NODE, node), (POD, AddressInfo { kind: address_kind::POD, ..node })].into(),
            frontends: [(key(NODE, 30080), frontend), (key(LOOPBACK, 30080), frontend)].into(),
            backends: vec![Backend {
                addr: BACKEND.to_octets16(),
                port: 80,
                state: backend_state::INTERNAL,
                pad: 0,
                generation: 3,
                service_port: 1,
                weight: 1,
            }],
            ports: [(key(V4::UNSPECIFIED, 8080), port(80)), (key(LOOPBACK, 9090), port(90))].into(),
            peers: RefCell::default(),
            net: Cell::default(),
            allowed: Cell::default(),
            turn: Cell::default(),
            random: Cell::default(),
            loads: RefCell::default(),
            writes: Cell::default(),
            lookups: Cell::default(),
        }
    }
    fn ask(&self, netns_cookie: u64, addr: V4, port: u16) -> Option<(V4, u16)> {
        self.send(netns_cookie, addr, port, false)
    }
    fn send(&self, netns_cookie: u64, addr: V4, port: u16, unconnected: bool) -> Option<(V4, u16)> {
        self.lookups.set(0);
        let asked = ConnectRequest { addr, port, proto: proto::TCP, unconnected, cookie: 1, netns_cookie };
        let decision = connect(self, &asked);
        match decision.action {
            SocketVerdict::Redirect => Some((decision.addr, decision.port)),
            _ => None,
        }
    }

    fn count(&self) {
        self.lookups.set(self.lookups.get() + 1);
    }
}

impl SharedMaps for Fake {
    fn now(&self) -> u32 {
        0
    }
    fn random(&self) -> u32 {
        self.random.get()
    }
    fn config(&self) -> Option<&NodeConfig> {
        Some(&self.config)
    }
    fn pod(&self, _ifindex: u32) -> Option<&Pod> {
        None
    }
    fn pod_rules(&self, _ifindex: u32) -> Option<&PodRules> {
        unreachable!()
    }
    fn pod_netns(&self, cookie: u64) -> Option<&PodNetns> {
        (cookie == POD_NETNS).then_some(&self.pod)
    }
    fn slot(&self, index: u32) -> Option<u32> {
        Some(index + 1)
    }
    fn take_turn(&self, table: SlotTable) -> u32 {
        self.turn.replace((self.turn.get() + 1) % table.len)
    }
    fn backend(&self, id: u32) -> Option<&Backend> {
        self.backends.get(id.checked_sub(1)? as usize)
    }
    fn connection_counts(&self, backend: u32, generation: u32) -> ConnectionCounts {
        assert_eq!(generation, 3);
        ConnectionCounts { active: self.loads.borrow().get(&backend).copied().unwrap_or(0), inactive: 0 }
    }
    fn search(&self, search: Search) -> u32 {
        least_connections::run(search, self)
    }
    fn count_connection(&self, _backend: u32) {}
    fn count_flow(&self, _backend: u32, _generation: u32) {}
    fn count(&self, _counter: Counter) {}
    fn masquerade_source(&self, _ifindex: u32) -> Option<&MasqueradeSource> {
        None
    }
    fn take_flow(&self, _budget: u32, _rate: u32) -> bool {
        unreachable!()
    }
    fn take_answer(&self, _kind: AnswerKind) -> bool {
        true
    }
}

impl FamilyMaps<V4> for Fake {
    fn judge(&self, _set: u32, _peer: &V4, _ports: u32) -> u32 {
        unreachable!()
    }
    fn address(&self, addr: &V4) -> Option<AddressInfo> {
        self.count();
        self.addresses.get(addr).copied()
    }
    fn network(&self, _addr: &V4) -> Option<Network> {
        self.net.get()
    }
    fn is_source_allowed(&self, client: &SourceRange<V4>) -> bool {
        (client.service_port, client.client) == (1, self.allowed.get())
    }
    fn frontend(&self, key: &FrontendKey<V4>) -> Option<&Frontend> {
        self.frontends.get(key)
    }
    fn affinity(&self, _key: &AffinityKey<V4>) -> Option<&Affinity> {
        None
    }
    fn set_affinity(&self, _key: &AffinityKey<V4>, _affinity: &Affinity) {}
    fn fragment(&self, _key: &FragmentKey<V4>) -> Option<Ports> {
        None
    }
    fn set_fragment(&self, _key: &FragmentKey<V4>, _ports: &Ports) {}
    fn sock_peer(&self, key: &SockPeerKey<V4>) -> Option<&SockPeer<V4>> {
        self.peers.borrow().get(key).copied()
    }
    fn set_sock_peer(&self, key: &SockPeerKey<V4>, peer: &SockPeer<V4>) -> bool {
        self.writes.set(self.writes.get() + 1);
        // Leaked, because the trait returns references; a test makes a handful.
        self.peers.borrow_mut().insert(*key, Box::leak(Box::new(*peer)));
        true
    }
    fn remove_sock_peer(&self, key: &SockPeerKey<V4>) {
        self.peers.borrow_mut().remove(key);
    }
    fn host_port(&self, key: &FrontendKey<V4>) -> Option<&HostPort<V4>> {
        self.count();
        self.ports.get(key)
    }
}

#[test]
fn host_ports_apply_to_node_addresses_only() {
    let fake = Fake::new();
    assert_eq!(fake.ask(NODE_NETNS, NODE, 8080), Some((POD, 80)));
    assert_eq!(fake.ask(POD_NETNS, NODE, 8080), Some((POD, 80)));
    assert_eq!(fake.ask(NODE_NETNS, LOOPBACK, 8080), Some((POD, 80)));
    assert_eq!(fake.ask(NODE_NETNS, LOOPBACK, 9090), Some((POD, 90)));
    assert_eq!(fake.ask(NODE_NETNS, NODE, 9090), None, "the entry is for loopback only");
    assert_eq!(fake.ask(NODE_NETNS, OUTSIDE, 8080), None, "the port of another host");
    assert_eq!(fake.ask(NODE_NETNS, POD, 8080), None);
    let shown = original_destination(&fake, 1, POD, 90).unwrap();
    assert_eq!((shown.addr, shown.port), (LOOPBACK, 9090));
}

#[test]
fn source_ranges_apply_to_pods_and_the_node() {
    let mut fake = Fake::new();
    let key = FrontendKey { addr: OUTSIDE, port: 80, proto: proto::TCP, pad: 0 };
    let frontend = *fake.frontends.values().next().unwrap();
    fake.frontends.insert(key, Frontend { flags: frontend_flags::SOURCE_RANGES, ..frontend });
    let ask = |netns_cookie| {
        let asked =
            ConnectRequest { addr: OUTSIDE, port: 80, proto: proto::TCP, unconnected: false, cookie: 1, netns_cookie };
        connect(&fake, &asked).action
    };
    // A pod's packet is dropped on the packet path; the node's would leave.
    assert_eq!((ask(POD_NETNS), ask(NODE_NETNS)), (SocketVerdict::Keep, SocketVerdict::Reject));
    fake.allowed.set(POD);
    assert_eq!((ask(POD_NETNS), ask(NODE_NETNS)), (SocketVerdict::Redirect, SocketVerdict::Reject));
    fake.allowed.set(NODE);
    assert_eq!((ask(POD_NETNS), ask(NODE_NETNS)), (SocketVerdict::Keep, SocketVerdict::Redirect));
}

/// The packet path rejects or drops a pod's packets; the node's would leave by its default route.
#[test]
fn node_process_is_rejected_at_addresses_without_a_service() {
    let mut fake = Fake::new();
    let service = V4 { octets: [10, 96, 0, 1] };
    fake.addresses.insert(service, AddressInfo { ifindex: 0, kind: address_kind::SERVICE, flags: 0, mac: [0; 6] });
    let ask = |fake: &Fake, netns_cookie, addr, port, proto, unconnected| {
        connect(fake, &ConnectRequest { addr, port, proto, unconnected, cookie: 1, netns_cookie }).action
    };
    let tcp = |fake: &Fake, netns_cookie, addr| ask(fake, netns_cookie, addr, 81, proto::TCP, false);
    assert_eq!(tcp(&fake, NODE_NETNS, service), SocketVerdict::Reject);
    assert_eq!(tcp(&fake, POD_NETNS, service), SocketVerdict::Keep);
    assert_eq!(tcp(&fake, NODE_NETNS, OUTSIDE), SocketVerdict::Keep);
    let udp = |port, unconnected| ask(&fake, NODE_NETNS, service, port, proto::UDP, unconnected);
    assert_eq!(
        (udp(81, false), udp(81, true), udp(9, true)),
        (SocketVerdict::Reject, SocketVerdict::Reject, SocketVerdict::Reject)
    );
    assert_eq!(
        (udp(0, false), udp(9, false)),
        (SocketVerdict::Keep, SocketVerdict::Keep),
        "a probe of the source address"
    );

    fake.net.set(Some(Network { oif: 0, flags: network_flags::SERVICE, node: 0 }));
    assert_eq!(tcp(&fake, NODE_NETNS, OUTSIDE), SocketVerdict::Keep, "networks are ignored unless the feature is on");
    fake.config.features = node_features::NETWORKS;
    assert_eq!(tcp(&fake, NODE_NETNS, OUTSIDE), SocketVerdict::Reject);
    assert_eq!(tcp(&fake, POD_NETNS, OUTSIDE), SocketVerdict::Keep);
    assert_eq!(tcp(&fake, NODE_NETNS, POD), SocketVerdict::Keep, "a pod's address is no cluster IP");
    fake.config.features |= node_features::NODE_CLIENT;
    assert_eq!(tcp(&fake, NODE_NETNS, OUTSIDE), SocketVerdict::Keep, "the packet path drops it");
    assert_eq!(tcp(&fake, NODE_NETNS, service), SocketVerdict::Reject);
}

#[test]
fn loopback_of_a_pod_is_not_translated() {
    let fake = Fake::new();
    for netns in [POD_NETNS, OTHER_NETNS] {
        for port in [8080, 9090, 30080] {
            assert_eq!(fake.ask(netns, LOOPBACK, port), None, "{netns} {port}");
        }
    }
    assert_eq!(fake.ask(NODE_NETNS, LOOPBACK, 30080), Some((BACKEND, 80)));
    assert_eq!(fake.ask(POD_NETNS, NODE, 30080), Some((BACKEND, 80)));
}

#[test]
fn service_precedes_host_port_and_host_ip_precedes_wildcard() {
    let mut fake = Fake::new();
    let key = |addr, port| FrontendKey { addr, port, proto: proto::TCP, pad: 0 };
    let port = |port| HostPort { addr: POD, port, pad: 0, ifindex: 1024 };
    fake.ports.insert(key(V4::UNSPECIFIED, 30080), port(80));
    fake.ports.insert(key(NODE, 30080), port(80));
    fake.ports.insert(key(NODE, 8080), port(81));
    assert_eq!(fake.ask(NODE_NETNS, NODE, 30080), Some((BACKEND, 80)));
    assert_eq!(fake.ask(NODE_NETNS, NODE, 8080), Some((POD, 81)));
    assert_eq!(fake.ask(NODE_NETNS, LOOPBACK, 8080), Some((POD, 80)));
}

#[test]
fn unrelated_address_costs_one_lookup() {
    let fake = Fake::new();
    for (netns, addr, lookups) in
        [(POD_NETNS, OUTSIDE, 1), (POD_NETNS, LOOPBACK, 0), (NODE_NETNS, LOOPBACK, 2), (NODE_NETNS, NODE, 3)]
    {
        assert_eq!(fake.ask(netns, addr, 1), None);
        assert_eq!(fake.lookups.get(), lookups, "{netns} {addr:?}");
    }
}

#[test]
fn datagrams_to_a_host_port_write_the_peer_once() {
    let fake = Fake::new();
    for _ in 0..10 {
        assert_eq!(fake.send(NODE_NETNS, NODE, 8080, true), Some((POD, 80)));
    }
    assert_eq!(fake.writes.get(), 1);
    // The same socket uses another address: that one must be shown from now on.
    assert_eq!(fake.send(NODE_NETNS, LOOPBACK, 8080, true), Some((POD, 80)));
    assert_eq!(original_destination(&fake, 1, POD, 80).map(|peer| peer.addr), Some(LOOPBACK));
}

/// Returns a node with a UDP frontend at [`OUTSIDE`].
fn with_datagrams(flags: u16, len: u32) -> Fake {
    let mut fake = Fake::new();
    let key = FrontendKey { addr: OUTSIDE, port: 53, proto: proto::UDP, pad: 0 };
    let frontend = *fake.frontends.values().next().unwrap();
    fake.frontends.insert(key, Frontend { flags, internal: SlotTable { base: 0, len }, ..frontend });
    fake
}

fn datagram(fake: &Fake, netns_cookie: u64, addr: V4, unconnected: bool) -> SocketVerdict {
    connect(fake, &ConnectRequest { addr, port: 53, proto: proto::UDP, unconnected, cookie: 1, netns_cookie }).action
}

/// The backend may end, and only the packet path sees the datagrams of a connected socket.
#[test]
fn connected_udp_of_a_pod_is_left_to_the_packet_path() {
    let fake = with_datagrams(0, 1);
    let ask = |netns_cookie, unconnected| datagram(&fake, netns_cookie, OUTSIDE, unconnected);
    assert_eq!((ask(POD_NETNS, false), fake.writes.get()), (SocketVerdict::Keep, 0));
    assert_eq!((ask(POD_NETNS, true), ask(NODE_NETNS, false)), (SocketVerdict::Redirect, SocketVerdict::Redirect));
    assert_eq!(ask(NODE_NETNS, true), SocketVerdict::Redirect);
    // Without a backend it is rejected at once, unless the policy demands a silent drop.
    let none = |flags, netns_cookie| datagram(&with_datagrams(flags, 0), netns_cookie, OUTSIDE, false);
    assert_eq!((none(0, POD_NETNS), none(0, NODE_NETNS)), (SocketVerdict::Reject, SocketVerdict::Reject));
    let silent = frontend_flags::INTERNAL_DROP;
    assert_eq!((none(silent, POD_NETNS), none(silent, NODE_NETNS)), (SocketVerdict::Keep, SocketVerdict::Reject));
    // With the host device, the node's packets can be dropped silently on the packet path.
    let led = |features, flags| {
        let mut fake = with_datagrams(silent, 0);
        fake.config.features = features;
        fake.net.set(Some(Network { oif: 0, flags, node: 0 }));
        datagram(&fake, NODE_NETNS, OUTSIDE, false)
    };
    let both = node_features::NETWORKS | node_features::NODE_CLIENT;
    assert_eq!(led(both, network_flags::SERVICE), SocketVerdict::Keep);
    assert_eq!(
        (led(both, 0), led(node_features::NETWORKS, network_flags::SERVICE)),
        (SocketVerdict::Reject, SocketVerdict::Reject)
    );
}

/// The socket must then be shown the backend's own address, and must not be redirected.
#[test]
fn direct_connect_to_a_backend_ends_the_redirection() {
    let fake = with_datagrams(0, 1);
    let led = fake.backends[0].port;
    assert_eq!(datagram(&fake, NODE_NETNS, OUTSIDE, false), SocketVerdict::Redirect);
    assert_eq!(original_destination(&fake, 1, BACKEND, led).map(|peer| peer.addr), Some(OUTSIDE));
    let itself = ConnectRequest {
        addr: BACKEND,
        port: led,
        proto: proto::UDP,
        unconnected: false,
        cookie: 1,
        netns_cookie: NODE_NETNS,
    };
    assert_eq!(connect(&fake, &itself).action, SocketVerdict::Keep);
    assert_eq!(original_destination(&fake, 1, BACKEND, led), None);
}

/// Returns a Service with 16 backends, at ports 1 to 16 of one address.
fn scheduled(scheduler: u8, flags: u16) -> Fake {
    let mut fake = Fake::new();
    let one = fake.backends[0];
    fake.backends = (1..=16).map(|port| Backend { port, ..one }).collect();
    let table = SlotTable { base: 0, len: 16 };
    for frontend in fake.frontends.values_mut() {
        *frontend = Frontend { scheduler, flags: frontend.flags | flags, internal: table, ..*frontend };
    }
    fake
}

fn ports(fake: &Fake, netns_cookie: u64, times: usize) -> Vec<u16> {
    (0..times).map(|_| fake.ask(netns_cookie, NODE, 30080).unwrap().1).collect()
}

#[test]
fn round_robin_continues_over_all_sockets() {
    for number in [scheduler::RR, scheduler::WRR] {
        let fake = scheduled(number, 0);
        let (mut got, rest) = (ports(&fake, POD_NETNS, 9), ports(&fake, NODE_NETNS, 9));
        got.extend(rest);
        assert_eq!(got, (1..=16).chain(1..=2).collect::<Vec<_>>(), "{number}");
    }
}

#[test]
fn source_hash_gives_one_client_one_backend() {
    for number in [scheduler::SH, scheduler::MH] {
        let fake = scheduled(number, 0);
        let (pod, node) = (ports(&fake, POD_NETNS, 5), ports(&fake, NODE_NETNS, 5));
        assert!(pod.iter().all(|p| *p == pod[0]) && node.iter().all(|p| *p == node[0]), "{number}: {pod:?} {node:?}");
        assert_ne!(pod[0], node[0], "{number}: by the client's address");
    }
}

#[test]
fn destination_hash_gives_one_address_one_backend() {
    let fake = scheduled(scheduler::DH, 0);
    let (pod, node) = (ports(&fake, POD_NETNS, 5), ports(&fake, NODE_NETNS, 5));
    assert!(pod.iter().chain(&node).all(|p| *p == pod[0]), "{pod:?} {node:?}");
}

/// The kernel chooses the source port after the hook has run, so a random number replaces the hash.
#[test]
fn unbound_source_port_is_not_hashed() {
    let fake = scheduled(scheduler::MH, frontend_flags::HASH_PORT);
    fake.random.set(u32::MAX);
    assert_eq!(ports(&fake, POD_NETNS, 2), [16, 16]);
    fake.random.set(0);
    assert_eq!(ports(&fake, POD_NETNS, 2), [1, 1]);
}

#[test]
fn least_connections_counts_sockets() {
    let ask = |fake: &Fake, unconnected| {
        let asked = ConnectRequest {
            addr: NODE,
            port: 30080,
            proto: proto::TCP,
            unconnected,
            cookie: 1,
            netns_cookie: POD_NETNS,
        };
        let decision = connect(fake, &asked);
        (decision.port, decision.counts)
    };
    let counted = |backend| SockBackend { backend, generation: 3 };
    for number in [scheduler::LC, scheduler::WLC, scheduler::SED, scheduler::NQ] {
        let fake = scheduled(number, 0);
        *fake.loads.borrow_mut() = (1..=16).map(|id| (id, if id == 11 { 4 } else { 5 })).collect();
        assert_eq!(ask(&fake, false), (11, counted(11)), "{number}");
        fake.loads.borrow_mut().insert(2, 1);
        assert_eq!(ask(&fake, true), (2, counted(2)), "{number}");
        // Later datagrams stay with that backend, for which the socket is counted already.
        fake.loads.borrow_mut().insert(9, 0);
        assert_eq!(ask(&fake, true), (2, SockBackend::default()), "{number}");
    }
    // Other schedulers do not count.
    assert_eq!(ask(&scheduled(scheduler::RR, 0), false), (1, SockBackend::default()));
}

/// `--translate-sockets=node`: a proxy in a pod sees the address of the Service.
#[test]
fn sockets_of_pods_are_left_alone_if_only_those_of_the_node_are_translated() {
    let mut fake = Fake::new();
    for (features, redirected) in [(0, true), (node_features::NODE_SOCKETS, false)] {
        fake.config.features = features;
        for unconnected in [false, true] {
            // A frontend and a host port.
            for port in [30080, 8080] {
                assert_eq!(fake.send(POD_NETNS, NODE, port, unconnected).is_some(), redirected, "{port}");
                assert!(fake.send(NODE_NETNS, NODE, port, unconnected).is_some(), "{port}");
            }
        }
    }
}
