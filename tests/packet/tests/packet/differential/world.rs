//! A node with random tables: few addresses and ports, so that everything meets everything.

use std::net::{IpAddr, SocketAddr};

use dataplane_common::types::pod::{
    AddressInfo, Network, NodeConfig, Pod, address_kind, network_flags, node_features, pod_flags,
};
use dataplane_common::types::service::{
    Backend, Frontend, FrontendKey, SlotTable, backend_state, frontend_flags, proto, scheduler,
};
use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

use crate::scenarios::{POD_A, POD_B, TUNNEL, UPLINK};
use crate::testbed::{Testbed, octets};

/// Addresses of both families: pods, the node, Services, other nodes and their pods, the outside,
/// and those that no packet should have.
pub(super) const ADDRESSES: [&[&str]; 2] = [
    &[
        "10.1.0.2",
        "10.1.0.3",
        "10.1.0.77",
        "192.168.50.11",
        "10.96.0.10",
        "10.96.7.7",
        "10.2.0.9",
        "10.3.0.9",
        "192.168.50.12",
        "192.168.50.13",
        "192.168.50.1",
        "198.51.100.7",
        "169.254.1.1",
        "127.0.0.1",
        "224.0.0.1",
        "0.0.0.0",
    ],
    &[
        "fd00:1::2",
        "fd00:1::3",
        "fd00:1::77",
        "fd00:50::11",
        "fd00:96::a",
        "fd00:96::7",
        "fd00:2::9",
        "fd00:3::9",
        "fd00:50::12",
        "fd00:50::13",
        "fd00:50::1",
        "2001:db8::7",
        "fe80::12",
        "::1",
        "ff02::1",
        "::",
    ],
];
pub(super) const PORTS: [u16; 8] = [80, 8080, 30080, 40000, 40001, 4789, 53, 61000];
pub(super) const PROTOCOLS: [u8; 3] = [proto::TCP, proto::UDP, proto::SCTP];
/// The only port of the pool, because the kernel's random numbers differ from the model's.
const POOL: u16 = 61000;
/// Longer than any batch, so that nothing depends on the clock.
const LONG: u32 = 60_000;

pub(super) fn address(rng: &mut StdRng, family: usize) -> IpAddr {
    ADDRESSES[family].choose(rng).unwrap().parse().unwrap()
}

/// The entries of the maps that the agent and the plugin write.
#[derive(Debug)]
pub(super) struct World {
    config: NodeConfig,
    pods: Vec<(u32, Pod)>,
    addresses: Vec<(IpAddr, AddressInfo)>,
    networks: Vec<(IpAddr, u32, Network)>,
    backends: Vec<(u32, Backend)>,
    slots: Vec<(u32, u32)>,
    frontends: Vec<(FrontendKey<IpAddr>, Frontend)>,
    host_ports: Vec<(FrontendKey<IpAddr>, SocketAddr, u32)>,
    source_ranges: Vec<(u32, IpAddr, u32)>,
}

impl World {
    pub(super) fn random(rng: &mut StdRng) -> Self {
        let mut world = Self {
            config: config(rng),
            pods: Vec::new(),
            addresses: Vec::new(),
            networks: Vec::new(),
            backends: Vec::new(),
            slots: Vec::new(),
            frontends: Vec::new(),
            host_ports: Vec::new(),
            source_ranges: Vec::new(),
        };
        for (ifindex, at) in [(POD_A, 0), (POD_B, 1)] {
            let [four, six] = [0, 1].map(|family: usize| ADDRESSES[family][at].parse::<IpAddr>().unwrap());
            let shaped = if rng.random_bool(0.2) { pod_flags::SHAPED } else { 0 };
            let pod = Pod {
                netns_cookie: u64::from(ifindex),
                addr4: octets(four),
                addr6: octets(six),
                mac: [2, 0, 0, 0, 0, 1],
                host_mac: [0xee; 6],
                flags: if rng.random_bool(0.95) { pod_flags::PRESENT | shaped } else { 0 },
                pad: 0,
            };
            world.pods.push((ifindex, pod));
            for addr in [four, six] {
                let flags = shaped as u8;
                world.addresses.push((addr, AddressInfo { ifindex, kind: address_kind::POD, flags, mac: pod.mac }));
            }
        }
        (0..2).for_each(|family| world.add_family(rng, family));
        world
    }

    fn add_family(&mut self, rng: &mut StdRng, family: usize) {
        let named = |at: usize| ADDRESSES[family][at].parse::<IpAddr>().unwrap();
        let [pods, services, host] = [[24, 16, 32], [64, 112, 128]][family];
        for (at, kind) in [(3, address_kind::NODE), (4, address_kind::SERVICE), (11, address_kind::EXTERNAL)] {
            if rng.random_bool(0.9) {
                self.addresses.push((named(at), AddressInfo { ifindex: 0, kind, flags: 0, mac: [0; 6] }));
            }
        }
        let keep = network_flags::KEEP_SOURCE;
        let own = network_flags::LOCAL | if rng.random_bool(0.8) { network_flags::OWN } else { 0 };
        let [to_second, to_third] = [0, 1].map(|_| if rng.random_bool(0.6) { TUNNEL } else { 0 });
        for (at, len, oif, flags, node) in [
            (0, pods, 0, keep | own, 0),
            (4, services, 0, network_flags::SERVICE, 0),
            (6, pods, to_second, keep | network_flags::REMOTE, 12),
            (7, pods, to_third, keep | network_flags::REMOTE, 13),
            (8, host, to_second, keep | network_flags::NODE, 12),
            (9, host, to_third, keep | network_flags::NODE, 13),
        ] {
            if rng.random_bool(0.9) {
                self.networks.push((named(at), len, Network { oif, flags, node }));
            }
        }
        for _ in 0..4 {
            let id = self.backends.len() as u32 + 1;
            let (addr, port) = (address(rng, family), *PORTS.choose(rng).unwrap());
            let state = if rng.random_bool(0.8) { 0x47 } else { rng.random() } | backend_state::LISTED;
            let addr = dataplane_common::types::address::octets16(addr);
            self.backends.push((id, Backend { addr, port, state, pad: 0, generation: 1, service_port: 1, weight: 1 }));
            self.slots.push((id, id));
        }
        for service_port in 1..=6 {
            let addr =
                if rng.random_bool(0.7) { named(*[3, 4, 11].choose(rng).unwrap()) } else { address(rng, family) };
            let (port, proto) = (*PORTS.choose(rng).unwrap(), *PROTOCOLS.choose(rng).unwrap());
            let key = FrontendKey { addr, port, proto, pad: 0 };
            let base = family as u32 * 4;
            let mut table = || SlotTable { base: base + rng.random_range(1..=3), len: rng.random_range(0..=2) };
            let (internal, external) = (table(), table());
            let flags = rng.random::<u16>() & !frontend_flags::SOURCE_RANGES
                | if rng.random_bool(0.2) { frontend_flags::SOURCE_RANGES } else { 0 };
            let schedulers = [scheduler::RR, scheduler::SH, scheduler::DH, scheduler::MH];
            let frontend = Frontend {
                service_port,
                affinity_ticks: if rng.random_bool(0.2) { LONG } else { 0 },
                internal,
                external,
                flags,
                scheduler: *schedulers.choose(rng).unwrap(),
                pad: 0,
            };
            self.frontends.push((key, frontend));
            if rng.random_bool(0.3) {
                self.source_ranges.push((service_port, address(rng, family), host));
            }
        }
        for (ifindex, at) in [(POD_A, 0), (POD_B, 1)] {
            let addr = if rng.random_bool(0.5) { named(3) } else { named(15) };
            let key =
                FrontendKey { addr, port: *PORTS.choose(rng).unwrap(), proto: *PROTOCOLS.choose(rng).unwrap(), pad: 0 };
            self.host_ports.push((key, SocketAddr::new(named(at), *PORTS.choose(rng).unwrap()), ifindex));
        }
    }

    /// Returns the address of a frontend.
    pub(super) fn frontend(&self, rng: &mut StdRng, family: usize) -> SocketAddr {
        let of_family: Vec<_> =
            self.frontends.iter().filter(|(key, _)| usize::from(key.addr.is_ipv6()) == family).collect();
        let (key, _) = of_family.choose(rng).unwrap();
        SocketAddr::new(key.addr, key.port)
    }

    /// Writes the entries into empty maps.
    pub(super) fn fill(&self, t: &mut impl Testbed) {
        t.put_config(self.config);
        self.pods.iter().for_each(|(ifindex, pod)| t.put_pod(*ifindex, *pod));
        self.addresses.iter().for_each(|(addr, info)| t.put_addr(*addr, *info));
        self.networks.iter().for_each(|(addr, len, net)| t.put_network(*addr, *len, *net));
        self.backends.iter().for_each(|(id, backend)| t.put_backend(*id, *backend));
        self.slots.iter().for_each(|(index, backend)| t.put_slot(*index, *backend));
        self.frontends.iter().for_each(|(key, frontend)| t.put_frontend(*key, *frontend));
        self.host_ports.iter().for_each(|(key, to, ifindex)| t.put_host_port(*key, *to, *ifindex));
        self.source_ranges.iter().for_each(|(port, addr, len)| t.put_source_range(*port, *addr, *len));
    }
}

fn config(rng: &mut StdRng) -> NodeConfig {
    let node = |family: usize| ADDRESSES[family][3].parse::<IpAddr>().unwrap();
    let mut features = if rng.random_bool(0.9) { node_features::NETWORKS } else { 0 };
    for (feature, often) in
        [(node_features::MASQUERADE, 0.5), (node_features::HOST_ROUTING, 0.1), (node_features::NODE_CLIENT, 0.5)]
    {
        features |= if rng.random_bool(often) { feature } else { 0 };
    }
    NodeConfig {
        node4: octets(node(0)),
        node6: octets(node(1)),
        uplink: if rng.random_bool(0.8) { UPLINK } else { 0 },
        snat_port_min: POOL,
        snat_port_max: POOL,
        udp_ticks: LONG,
        tcp_ticks: LONG,
        closing_ticks: LONG,
        features,
        mtu: *[0, 120, 1500].choose(rng).unwrap(),
        tunnel_mtu: *[0, 100, 1450].choose(rng).unwrap(),
        unreplied_ticks: LONG as u16,
        assured_ticks: LONG as u16,
        netns_cookie: 7,
        tunnels: [if rng.random_bool(0.8) { TUNNEL } else { 0 }, 0],
        tunnel_port: if rng.random_bool(0.8) { 4789 } else { 0 },
        pad: [0; 3],
        // No budgets: they depend on clocks, which differ.
        surplus: 0,
        policy_epoch: 0,
    }
}
