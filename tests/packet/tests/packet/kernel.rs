//! The kernel's half of the packet tests: the real programs, run by `BPF_PROG_TEST_RUN`.
//!
//! Each scenario runs in a network namespace of its own, with maps of its own. The namespace has
//! the devices that the programs redirect to.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::process::Command;

use aya::Ebpf;
use aya::maps::{Map, MapData, PerCpuArray};
use aya::programs::{SchedClassifier, TestRun, TestRunOptions};
use bytemuck::{Pod as Plain, Zeroable as _};
use dataplane_common::types::address::{Address, Prefix, V4, V6};
use dataplane_common::types::answer_budget::AnswerKind;
use dataplane_common::types::clock::TICK_SHIFT;
use dataplane_common::types::event::DropReason;
use dataplane_common::types::flow::{Flow, FlowKey, FragmentKey, Ports};
use dataplane_common::types::flow_budget::FlowBudget;
use dataplane_common::types::pod::{AddressInfo, Network, NodeConfig, Pod};
use dataplane_common::types::policy::{PodRules, PortKey, Rule, RuleKey};
use dataplane_common::types::service::{
    Affinity, AffinityKey, Backend, BackendLoad, BackendStats, Frontend, FrontendKey, HostPort, Slot, SourceRange,
};
use dataplane_host::map::PinnedMap;
use dataplane_host::verifier::despite_signals;

use crate::frame::DEVICE_MAC;
use crate::scenarios::DEVICES;
use crate::testbed::{Action, AllFlows, FlowView, Hook, Testbed, flow_key, octets, view};

// Return values of the programs (linux/pkt_cls.h).
const TC_ACT_UNSPEC: i32 = -1;
const TC_ACT_SHOT: i32 = 2;
const TC_ACT_REDIRECT: i32 = 7;

fn table<K: Plain, V: Plain>(ebpf: &Ebpf, name: &str) -> PinnedMap<K, V> {
    packet_tests::table(ebpf, name).unwrap()
}

struct Maps<A> {
    addresses: PinnedMap<A, AddressInfo>,
    frontends: PinnedMap<FrontendKey<A>, Frontend>,
    flows: PinnedMap<FlowKey<A>, Flow<A>>,
    affinity: PinnedMap<AffinityKey<A>, Affinity>,
    networks: PinnedMap<Prefix<A>, Network>,
    source_ranges: PinnedMap<Prefix<SourceRange<A>>, u32>,
    host_ports: PinnedMap<FrontendKey<A>, HostPort<A>>,
    fragments: PinnedMap<FragmentKey<A>, Ports>,
    peers: PinnedMap<A, u32>,
    blocks: PinnedMap<Prefix<A>, u32>,
}

impl<A: Address + Plain> Maps<A>
where
    FrontendKey<A>: Plain,
    FlowKey<A>: Plain,
    Flow<A>: Plain,
    AffinityKey<A>: Plain,
    Prefix<A>: Plain,
    Prefix<SourceRange<A>>: Plain,
    HostPort<A>: Plain,
    FragmentKey<A>: Plain,
{
    fn open(ebpf: &Ebpf, family: u8) -> Self {
        Self {
            addresses: table(ebpf, &format!("addresses{family}")),
            frontends: table(ebpf, &format!("frontends{family}")),
            flows: table(ebpf, &format!("flows{family}")),
            affinity: table(ebpf, &format!("affinity{family}")),
            networks: table(ebpf, &format!("networks{family}")),
            source_ranges: table(ebpf, &format!("source_ranges{family}")),
            host_ports: table(ebpf, &format!("host_ports{family}")),
            fragments: table(ebpf, &format!("fragments{family}")),
            peers: table(ebpf, &format!("peers{family}")),
            blocks: table(ebpf, &format!("blocks{family}")),
        }
    }

    /// Removes all entries.
    fn clear(&self) {
        fn remove_all<K: Plain, V: Plain>(map: &PinnedMap<K, V>) {
            map.entries().unwrap().iter().for_each(|(key, _)| assert!(map.remove(key).unwrap()));
        }
        remove_all(&self.addresses);
        remove_all(&self.frontends);
        remove_all(&self.flows);
        remove_all(&self.affinity);
        remove_all(&self.networks);
        remove_all(&self.source_ranges);
        remove_all(&self.host_ports);
        remove_all(&self.fragments);
    }

    fn put_frontend(&self, key: FrontendKey<IpAddr>, frontend: &Frontend) {
        let FrontendKey { addr, port, proto, pad } = key;
        self.frontends.insert(&FrontendKey { addr: octets(addr), port, proto, pad }, frontend).unwrap();
    }

    fn put_network(&self, addr: IpAddr, len: u32, net: Network) {
        self.networks.insert(&Prefix { len, data: octets(addr) }, &net).unwrap();
    }

    fn put_source_range(&self, service_port: u32, addr: IpAddr, len: u32) {
        let data = SourceRange { service_port, client: octets(addr) };
        self.source_ranges.insert(&Prefix { len: 32 + len, data }, &1).unwrap();
    }

    /// Moves the times of all entries back, because the kernel's clock can't be moved forward.
    fn advance(&self, ticks: u32) {
        for (key, flow) in self.flows.entries().unwrap() {
            self.flows.insert(&key, &Flow { last_seen: flow.last_seen.wrapping_sub(ticks), ..flow }).unwrap();
        }
        for (key, affinity) in self.affinity.entries().unwrap() {
            let last_used = affinity.last_used.wrapping_sub(ticks);
            self.affinity.insert(&key, &Affinity { last_used, ..affinity }).unwrap();
        }
    }

    fn put_host_port(&self, key: FrontendKey<IpAddr>, to: SocketAddr, ifindex: u32) {
        let FrontendKey { addr, port, proto, pad } = key;
        let value = HostPort { addr: octets(to.ip()), port: to.port(), pad: 0, ifindex };
        self.host_ports.insert(&FrontendKey { addr: octets(addr), port, proto, pad }, &value).unwrap();
    }
}

/// A node in the kernel.
pub(crate) struct Kernel {
    ebpf: Ebpf,
    v4: Maps<V4>,
    v6: Maps<V6>,
    pods: PinnedMap<u32, Pod>,
    slots: PinnedMap<u32, Slot>,
    backends: PinnedMap<u32, Backend>,
    stats: PinnedMap<u32, BackendStats>,
    loads: PinnedMap<u32, BackendLoad>,
    config: PinnedMap<u32, NodeConfig>,
    budgets: PinnedMap<u32, FlowBudget>,
    pod_rules: PinnedMap<u32, PodRules>,
    rules: PinnedMap<RuleKey, Rule>,
    ports: PinnedMap<Prefix<PortKey>, u32>,
    /// Interface by which the packets arrive at the node.
    ingress: u32,
    /// `gso_size` of the packets that are run; 0: no GSO packet.
    gso_size: u32,
}

impl Kernel {
    fn new() -> Self {
        let mut ebpf = packet_tests::load("ropeway").unwrap();
        for name in ["from_pod", "to_pod", "from_uplink", "to_uplink", "clock"] {
            despite_signals(|| program(&mut ebpf, name).load()).unwrap();
        }
        Self {
            v4: Maps::open(&ebpf, 4),
            v6: Maps::open(&ebpf, 6),
            pods: table(&ebpf, "pods"),
            slots: table(&ebpf, "slots"),
            backends: table(&ebpf, "backends"),
            stats: table(&ebpf, "backend_stats"),
            loads: table(&ebpf, "backend_loads"),
            config: table(&ebpf, "config"),
            budgets: table(&ebpf, "flow_budgets"),
            pod_rules: table(&ebpf, "pod_rules"),
            rules: table(&ebpf, "rules"),
            ports: table(&ebpf, "ports"),
            ingress: 0,
            gso_size: 0,
            ebpf,
        }
    }
}

/// Elements of the arrays that scenarios use.
const USED: u32 = 64;

impl Kernel {
    /// Empties all maps but the counters.
    pub(crate) fn clear(&mut self) {
        self.v4.clear();
        self.v6.clear();
        for index in 0..USED {
            self.pods.insert(&index, &Pod::zeroed()).unwrap();
            self.slots.insert(&index, &Slot::zeroed()).unwrap();
            self.backends.insert(&index, &Backend::zeroed()).unwrap();
        }
        // An element is a tick and a number of answers.
        let mut answers = per_cpu::<u64>(&self.ebpf, "answers");
        for kind in 0..AnswerKind::COUNT as u32 {
            let none = vec![0; aya::util::nr_cpus().unwrap()];
            answers.set(kind, none.try_into().unwrap(), 0).unwrap();
        }
    }

    /// Returns the present tick.
    pub(crate) fn tick(&mut self) -> u32 {
        let frame = [0; 64];
        let options = TestRunOptions { data_in: Some(&frame), ..TestRunOptions::default() };
        program(&mut self.ebpf, "clock").test_run(options).unwrap().return_value >> TICK_SHIFT
    }
}

/// Opens a per-CPU array of the object.
fn per_cpu<V: aya::Pod>(ebpf: &Ebpf, name: &str) -> PerCpuArray<MapData, V> {
    let Some(Map::PerCpuArray(data)) = ebpf.map(name) else { panic!("no map {name}") };
    let data = MapData::from_fd(data.fd().as_fd().try_clone_to_owned().unwrap()).unwrap();
    PerCpuArray::try_from(Map::PerCpuArray(data)).unwrap()
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> &'a mut SchedClassifier {
    ebpf.program_mut(name).unwrap().try_into().unwrap()
}

/// Runs `scenario` on a fresh node, in a thread with a network namespace of its own. The namespace
/// ends with the thread.
pub(crate) fn in_own_netns(scenario: impl FnOnce(&mut Kernel) + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
                .expect("cannot create a network namespace (needs root)");
            let mac = DEVICE_MAC.map(|byte| format!("{byte:02x}")).join(":");
            for ifindex in DEVICES {
                let [index, name] = [ifindex.to_string(), format!("dev{ifindex}")];
                let args = ["link", "add", "name", &name, "index", &index, "address", &mac, "type", "bridge"];
                assert!(Command::new("ip").args(args).status().unwrap().success(), "{args:?}");
            }
            scenario(&mut Kernel::new());
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

impl Testbed for Kernel {
    fn put_pod(&mut self, ifindex: u32, pod: Pod) {
        self.pods.insert(&ifindex, &pod).unwrap();
    }
    fn put_addr(&mut self, addr: IpAddr, entry: AddressInfo) {
        match addr {
            IpAddr::V4(a) => self.v4.addresses.insert(&a.into(), &entry).unwrap(),
            IpAddr::V6(a) => self.v6.addresses.insert(&a.into(), &entry).unwrap(),
        }
    }
    fn put_frontend(&mut self, key: FrontendKey<IpAddr>, frontend: Frontend) {
        if key.addr.is_ipv4() {
            self.v4.put_frontend(key, &frontend);
        } else {
            self.v6.put_frontend(key, &frontend);
        }
    }
    fn put_slot(&mut self, index: u32, backend: u32) {
        self.slots.insert(&index, &Slot { backend, turn: 0 }).unwrap();
    }
    fn put_backend(&mut self, id: u32, backend: Backend) {
        self.backends.insert(&id, &backend).unwrap();
    }
    fn put_load(&mut self, id: u32, load: BackendLoad) {
        self.loads.insert(&id, &load).unwrap();
    }
    fn flows_of(&mut self, id: u32) -> u32 {
        self.stats.get(&id).unwrap().unwrap().flows as u32
    }
    fn put_config(&mut self, config: NodeConfig) {
        self.config.insert(&0, &config).unwrap();
    }
    fn put_pod_rules(&mut self, ifindex: u32, rules: PodRules) {
        self.pod_rules.insert(&ifindex, &rules).unwrap();
    }
    fn put_rule(&mut self, key: RuleKey, rule: Option<Rule>) {
        match rule {
            Some(rule) => self.rules.insert(&key, &rule).unwrap(),
            None => drop(self.rules.remove(&key).unwrap()),
        }
    }
    fn put_peer(&mut self, addr: IpAddr, class: u32) {
        match addr {
            IpAddr::V4(a) => self.v4.peers.insert(&a.into(), &class).unwrap(),
            IpAddr::V6(a) => self.v6.peers.insert(&a.into(), &class).unwrap(),
        }
    }
    fn put_block(&mut self, addr: IpAddr, len: u32, class: u32) {
        match addr {
            IpAddr::V4(_) => self.v4.blocks.insert(&Prefix { len, data: octets(addr) }, &class).unwrap(),
            IpAddr::V6(_) => self.v6.blocks.insert(&Prefix { len, data: octets(addr) }, &class).unwrap(),
        }
    }
    fn put_port(&mut self, table: u32, port: Option<(u8, u16)>, decision: u32) {
        let (proto, number) = port.unwrap_or_default();
        let len = if port.is_some() { 56 } else { 32 };
        self.ports.insert(&Prefix { len, data: PortKey::new(table, proto, number) }, &decision).unwrap();
    }
    fn set_ingress(&mut self, ifindex: u32) {
        self.ingress = ifindex;
    }
    fn put_network(&mut self, addr: IpAddr, len: u32, net: Network) {
        if addr.is_ipv4() { self.v4.put_network(addr, len, net) } else { self.v6.put_network(addr, len, net) }
    }
    fn put_source_range(&mut self, service_port: u32, addr: IpAddr, len: u32) {
        if addr.is_ipv4() {
            self.v4.put_source_range(service_port, addr, len);
        } else {
            self.v6.put_source_range(service_port, addr, len);
        }
    }
    fn put_host_port(&mut self, key: FrontendKey<IpAddr>, to: SocketAddr, ifindex: u32) {
        if to.is_ipv4() { self.v4.put_host_port(key, to, ifindex) } else { self.v6.put_host_port(key, to, ifindex) }
    }
    fn flow(&mut self, from: SocketAddr, to: SocketAddr, proto: u8) -> Option<FlowView> {
        if from.is_ipv4() {
            self.v4.flows.get(&flow_key(from, to, proto)).unwrap().map(view)
        } else {
            self.v6.flows.get(&flow_key(from, to, proto)).unwrap().map(view)
        }
    }
    fn evict_flow(&mut self, from: SocketAddr, to: SocketAddr, proto: u8) {
        let removed = if from.is_ipv4() {
            self.v4.flows.remove(&flow_key(from, to, proto))
        } else {
            self.v6.flows.remove(&flow_key(from, to, proto))
        };
        assert!(removed.unwrap(), "no flow {from} -> {to}");
    }
    fn advance(&mut self, ticks: u32) {
        self.v4.advance(ticks);
        self.v6.advance(ticks);
        for (index, budget) in self.budgets.entries().unwrap() {
            if budget.used != 0 {
                let tick = budget.tick.wrapping_sub(ticks);
                self.budgets.insert(&index, &FlowBudget { tick, ..budget }).unwrap();
            }
        }
    }
    fn clock_slack(&self) -> u32 {
        // A tick is about a second. A scenario takes less, but it may begin at the end of one.
        1
    }
    fn all_drops(&self) -> Vec<u64> {
        let counts = per_cpu::<u64>(&self.ebpf, "drops");
        DropReason::ALL.iter().map(|reason| counts.get(&(*reason as u32), 0).unwrap().iter().sum()).collect()
    }
    fn all_flows(&self) -> AllFlows {
        AllFlows::of(self.v4.flows.entries().unwrap().into_iter(), self.v6.flows.entries().unwrap().into_iter())
    }
    fn run(&mut self, hook: Hook, ifindex: u32, frame: &mut Vec<u8>) -> Action {
        let name = match hook {
            Hook::FromPod => "from_pod",
            Hook::ToPod => "to_pod",
            Hook::FromUplink => "from_uplink",
            Hook::ToUplink => "to_uplink",
        };
        // In `struct __sk_buff`, `ingress_ifindex` is the tenth word, `ifindex` the eleventh and
        // `gso_size` the 45th.
        let mut context = [0_u8; 192];
        context[36..40].copy_from_slice(&self.ingress.to_ne_bytes());
        context[40..44].copy_from_slice(&ifindex.to_ne_bytes());
        context[176..180].copy_from_slice(&self.gso_size.to_ne_bytes());
        let mut out = vec![0; frame.len() + 64];
        let program = program(&mut self.ebpf, name);
        let result = program
            .test_run(TestRunOptions {
                data_in: Some(frame),
                data_out: Some(&mut out),
                ctx_in: Some(&context),
                ..TestRunOptions::default()
            })
            .unwrap();
        out.truncate(result.data_size_out as usize);
        *frame = out;
        match result.return_value.cast_signed() {
            TC_ACT_UNSPEC => Action::Pass,
            TC_ACT_SHOT => Action::Drop,
            TC_ACT_REDIRECT => Action::Redirect,
            other => panic!("{name} returned {other}"),
        }
    }
    fn target(&self) -> Option<u32> {
        None
    }
    fn is_queued(&self) -> Option<bool> {
        None
    }
}

/// The packets in an SCTP GSO packet (`GSO_BY_FRAGS`) have different sizes, which their sender has
/// fitted to the MTU. Other GSO packets have one segment size, which is compared with the MTU.
#[test]
#[ignore = "needs root"]
fn kernel_forwards_sctp_gso_by_frags() {
    in_own_netns(|t| {
        for (gso_size, fits) in [(0, false), (1400, false), (1200, true), (0xffff, true)] {
            t.gso_size = gso_size;
            crate::scenarios::large_sctp_to_the_uplink(t, fits);
        }
    });
}

/// The programs must use the kernel's numbers where `aya_ebpf` does not name them.
#[test]
fn host_numbers_of_the_user_api_match_libc() {
    use dataplane_common::types::uapi;
    use nix::libc;

    assert_eq!(i32::from(uapi::AF_INET), libc::AF_INET);
    assert_eq!(i32::from(uapi::AF_INET6), libc::AF_INET6);
    assert_eq!(uapi::ECONNREFUSED, libc::ECONNREFUSED);
    assert_eq!(uapi::IPPROTO_TCP.cast_signed(), libc::IPPROTO_TCP);
    assert_eq!(uapi::IPPROTO_UDP.cast_signed(), libc::IPPROTO_UDP);
    assert_eq!(uapi::IPPROTO_MPTCP.cast_signed(), libc::IPPROTO_MPTCP);
    assert_eq!(uapi::PACKET_HOST, u32::from(libc::PACKET_HOST));
}
