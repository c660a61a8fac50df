//! Benchmark of the packet path (`cargo xtask bench packet`).
//!
//! Measures `from_pod` in nanoseconds net of an empty program, and as ratios to the map operations
//! that it cannot do without. All figures are measured in one run, in turn, on rotating flows,
//! because only ratios within a run are comparable between machines. The node is configured as an
//! agent configures one of a cluster: the tries of networks are filled and in use.
//!
//! Usage: `packet-bench [JSON file]`

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result, ensure};
use aya::Ebpf;
use aya::programs::{SchedClassifier, TestRun, TestRunOptions};
use bytemuck::{Pod as Plain, Zeroable};
use dataplane_common::types::address::{Address, Prefix, V4, V6};
use dataplane_common::types::pod::{
    AddressInfo, Network, NodeConfig, Pod, address_kind, network_flags, node_features, pod_flags,
};
use dataplane_common::types::service::{
    Backend, Frontend, FrontendKey, Slot, SlotTable, backend_state, proto, scheduler,
};
use packet_tests::table;

/// Number of flows over which hits rotate.
const FLOWS: u32 = 4096;
/// Number of packets in a round of hits or misses.
const PACKETS: u32 = 400_000;
/// Number of new flows in a round, each of which inserts a pair of entries.
const NEW: u32 = 50_000;
const ROUNDS: usize = 9;
/// Number of operations in one run of a bare map program.
const BARE: f64 = 8.0;

/// Input of the programs, with the layout of `dataplane-ebpf/src/kernel/bench.rs`.
#[derive(Clone, Copy, Plain, Zeroable)]
#[repr(C)]
struct Input {
    seq: u32,
    sport_mask: u32,
    dst_mask: u32,
    v6: u32,
    header: [u8; 44],
}

/// A kind of traffic, of which every packet is built.
#[derive(Clone, Copy)]
struct Traffic {
    v6: bool,
    udp: bool,
    /// Destination port; backends listen on 8080.
    port: u16,
    /// True if the destination is a Service, false if it is outside the cluster.
    service: bool,
}

struct Samples {
    name: String,
    values: Vec<f64>,
}

impl Samples {
    fn median(&self) -> f64 {
        let mut sorted = self.values.clone();
        sorted.sort_by(f64::total_cmp);
        sorted[sorted.len() / 2]
    }

    fn spread(&self) -> (f64, f64) {
        self.values.iter().fold((f64::MAX, f64::MIN), |(low, high), v| (low.min(*v), high.max(*v)))
    }
}

fn main() -> Result<()> {
    let mut all: Vec<Samples> = Vec::new();
    for round in 0..ROUNDS {
        for v6 in [false, true] {
            for (name, value) in
                measure(v6).context("measurement failed: build the object with `cargo xtask build`, and run as root")?
            {
                match all.iter_mut().find(|s| s.name == name) {
                    Some(s) => s.values.push(value),
                    None => all.push(Samples { name, values: vec![value] }),
                }
            }
        }
        eprintln!("round {} of {ROUNDS}", round + 1);
    }
    report(&all)
}

/// Measures one round for one family: each figure once, on fresh maps where the operation fills
/// them.
fn measure(v6: bool) -> Result<Vec<(String, f64)>> {
    let family = if v6 { "v6" } else { "v4" };
    let digit = if v6 { '6' } else { '4' };
    let mut figures = Vec::new();
    let mut add = |name: &str, value: f64| figures.push((format!("{family}.{name}"), value));
    let tcp = Traffic { v6, udp: false, port: 80, service: true };
    let udp = Traffic { udp: true, ..tcp };

    // Bare map operations.
    let mut ebpf = load()?;
    let none = bare(&mut ebpf, "bare_none", u32::MAX, 0, PACKETS / 8)?;
    let first = bare(&mut ebpf, &format!("bare_insert{digit}"), u32::MAX, 0, 2 * NEW / 8)?;
    add("insert", first - none);
    let mut ebpf = load()?;
    bare(&mut ebpf, &format!("bare_insert{digit}"), FLOWS - 1, 0, FLOWS)?;
    let lookup = bare(&mut ebpf, &format!("bare_lookup{digit}"), FLOWS - 1, 0, PACKETS / 8)?;
    add("lookup", lookup - none);

    // `from_pod`, of which `bench_base` is subtracted.
    let mut ebpf = load()?;
    fill(&ebpf, scheduler::RANDOM, 3)?;
    let base = run(&mut ebpf, "bench_base", tcp, FLOWS - 1, 0, PACKETS)?;
    for (name, traffic) in [("hit", tcp), ("udp_hit", udp), ("hit_same_port", Traffic { port: 8080, ..tcp })] {
        let syn = Traffic { ..traffic };
        open(&mut ebpf, syn)?;
        add(name, run(&mut ebpf, "bench_from_pod", traffic, FLOWS - 1, 0, PACKETS)? - base);
    }
    let elsewhere = Traffic { service: false, ..tcp };
    add("miss", run(&mut ebpf, "bench_from_pod", elsewhere, FLOWS - 1, 0, PACKETS)? - base);
    let datagrams = Traffic { udp: true, ..elsewhere };
    add("udp_miss", run(&mut ebpf, "bench_from_pod", datagrams, FLOWS - 1, 0, PACKETS)? - base);
    for (name, rule, backends) in [("new_flow", scheduler::RANDOM, 3), ("new_flow_sed_of_32", scheduler::SED, 32)] {
        let mut ebpf = load()?;
        fill(&ebpf, rule, backends)?;
        add(name, run_flags(&mut ebpf, "bench_from_pod", tcp, 0x02, 0xffff, 63, NEW)? - base);
    }
    Ok(figures)
}

fn load() -> Result<Ebpf> {
    packet_tests::load("bench")
}

/// Opens all flows: sends a SYN or datagram for each.
fn open(ebpf: &mut Ebpf, traffic: Traffic) -> Result<()> {
    run_flags(ebpf, "bench_from_pod", traffic, 0x02, FLOWS - 1, 0, FLOWS).map(drop)
}

fn bare(ebpf: &mut Ebpf, name: &str, mask: u32, seq: u32, repeat: u32) -> Result<f64> {
    let input = Input { seq, sport_mask: mask, dst_mask: 0, v6: 0, header: [0; 44] };
    table::<u32, Input>(ebpf, "bench")?.insert(&0, &input)?;
    let (ns, _) = test_run(ebpf, name, &[0; 128], repeat)?;
    Ok(ns / BARE)
}

fn run(ebpf: &mut Ebpf, name: &str, traffic: Traffic, mask: u32, dst_mask: u32, repeat: u32) -> Result<f64> {
    run_flags(ebpf, name, traffic, 0x10, mask, dst_mask, repeat)
}

fn run_flags(
    ebpf: &mut Ebpf,
    name: &str,
    traffic: Traffic,
    tcp_flags: u8,
    sport_mask: u32,
    dst_mask: u32,
    repeat: u32,
) -> Result<f64> {
    let frame = frame(traffic, tcp_flags);
    let mut header = [0; 44];
    header.copy_from_slice(&frame[14..58]);
    let input = Input { seq: 0, sport_mask, dst_mask, v6: u32::from(traffic.v6), header };
    table::<u32, Input>(ebpf, "bench")?.insert(&0, &input)?;
    let (ns, code) = test_run(ebpf, name, &frame, repeat)?;
    if name == "bench_from_pod" {
        ensure!(code == 7, "{name} returned {code}, not a redirect");
    }
    Ok(ns)
}

fn test_run(ebpf: &mut Ebpf, name: &str, frame: &[u8], repeat: u32) -> Result<(f64, u32)> {
    let program: &mut SchedClassifier =
        ebpf.program_mut(name).with_context(|| format!("the object has no program {name}"))?.try_into()?;
    if program.fd().is_err() {
        program.load()?;
    }
    let result = program.test_run(TestRunOptions { data_in: Some(frame), repeat, ..TestRunOptions::default() })?;
    #[expect(clippy::cast_precision_loss, reason = "nanoseconds of a packet")]
    Ok((result.duration.as_nanos() as f64, result.return_value))
}

const POD_MAC: [u8; 6] = [2; 6];
const POD4: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
const POD6: Ipv6Addr = Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 2);
const VIPS: u8 = 64;

fn vip(v6: bool, n: u8) -> IpAddr {
    if v6 {
        Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, u16::from(n)).into()
    } else {
        Ipv4Addr::new(10, 96, 0, n).into()
    }
}

fn frame(t: Traffic, tcp_flags: u8) -> Vec<u8> {
    let proto = if t.udp { proto::UDP } else { proto::TCP };
    let mut f = [[0xee; 6], POD_MAC].concat();
    let dst = if t.service {
        vip(t.v6, 1)
    } else if t.v6 {
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into()
    } else {
        Ipv4Addr::new(192, 0, 2, 1).into()
    };
    match dst {
        IpAddr::V4(dst) => {
            f.extend([8, 0, 0x45, 0, 0, 60, 0, 0, 0x40, 0, 64, proto, 0, 0]);
            f.extend(POD4.octets());
            f.extend(dst.octets());
        }
        IpAddr::V6(dst) => {
            f.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 40, proto, 64]);
            f.extend(POD6.octets());
            f.extend(dst.octets());
        }
    }
    f.extend([0, 1]);
    f.extend(t.port.to_be_bytes());
    if t.udp {
        f.extend([0, 40, 0x12, 0x34]);
    } else {
        f.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, tcp_flags, 0xff, 0xff, 0x12, 0x34, 0, 0]);
    }
    f.resize(f.len() + 40, 0);
    f
}

/// Fills the maps: a pod behind interface 1, and 64 Services of each family and protocol, which
/// share some remote backends.
fn fill(ebpf: &Ebpf, rule: u8, backends: u8) -> Result<()> {
    let config = NodeConfig {
        node4: Ipv4Addr::new(10, 9, 0, 1).into(),
        uplink: 1,
        features: node_features::NETWORKS | node_features::NODE_CLIENT,
        udp_ticks: u32::MAX,
        tcp_ticks: u32::MAX,
        closing_ticks: u32::MAX,
        ..NodeConfig::default()
    };
    table::<u32, NodeConfig>(ebpf, "config")?.insert(&0, &config)?;
    let pod = Pod {
        netns_cookie: 1,
        addr4: POD4.into(),
        addr6: POD6.into(),
        mac: POD_MAC,
        host_mac: [0xee; 6],
        flags: pod_flags::PRESENT,
        pad: 0,
    };
    table::<u32, Pod>(ebpf, "pods")?.insert(&1, &pod)?;
    for b in 1..=backends {
        for (id, addr) in [
            (u32::from(b), V4::from(Ipv4Addr::new(10, 2, 0, b)).to_octets16()),
            (u32::from(b) + 100, Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, u16::from(b)).octets()),
        ] {
            let state =
                backend_state::LISTED | backend_state::INTERNAL | backend_state::SERVING | backend_state::REMOTE;
            let backend = Backend { addr, port: 8080, state, pad: 0, generation: 1, service_port: 1, weight: 1 };
            table::<u32, Backend>(ebpf, "backends")?.insert(&id, &backend)?;
            table::<u32, Slot>(ebpf, "slots")?.insert(&id, &Slot { backend: id, turn: 0 })?;
        }
    }
    networks::<V4>(ebpf, 4, networks4())?;
    networks::<V6>(ebpf, 6, networks6())?;
    for n in 1..=VIPS {
        family::<V4>(ebpf, 4, &vip(false, n), SlotTable { base: 1, len: backends.into() }, rule)?;
        family::<V6>(ebpf, 6, &vip(true, n), SlotTable { base: 101, len: backends.into() }, rule)?;
    }
    Ok(())
}

/// Number of other nodes, each with a pod range and an address.
const NODES: u8 = 100;

/// Roles of networks: pods of this node, pods of others and other nodes, cluster IPs.
const OWN: u32 = network_flags::OWN | network_flags::KEEP_SOURCE;
const OTHER: u32 = network_flags::KEEP_SOURCE;
const SERVICE: u32 = network_flags::SERVICE;

fn networks4() -> Vec<(u32, V4, u32)> {
    let net = |length, octets: [u8; 4], flags| (length, Ipv4Addr::from(octets).into(), flags);
    let others = (0..NODES).flat_map(|n| [net(24, [10, 2, n, 0], OTHER), net(32, [10, 9, 1, n], OTHER)]);
    others.chain([net(24, [10, 1, 0, 0], OWN), net(12, [10, 96, 0, 0], SERVICE)]).collect()
}

fn networks6() -> Vec<(u32, V6, u32)> {
    let net = |length, start: [u16; 4], last, flags| {
        let [a, b, c, d] = start;
        (length, Ipv6Addr::new(a, b, c, d, 0, 0, 0, last).into(), flags)
    };
    let others = (0..u16::from(NODES))
        .flat_map(|n| [net(64, [0xfd00, 2, 0, n], 0, OTHER), net(128, [0xfd00, 9, 0, 0], n, OTHER)]);
    others.chain([net(64, [0xfd00, 1, 0, 0], 0, OWN), net(108, [0xfd00, 0x96, 0, 0], 0, SERVICE)]).collect()
}

fn networks<A>(ebpf: &Ebpf, digit: u8, all: Vec<(u32, A, u32)>) -> Result<()>
where
    Prefix<A>: Plain,
{
    let trie = table::<Prefix<A>, Network>(ebpf, &format!("networks{digit}"))?;
    for (len, data, flags) in all {
        trie.insert(&Prefix { len, data }, &Network { oif: 0, flags, node: 0 })?;
    }
    Ok(())
}

fn family<A: Address + Plain>(ebpf: &Ebpf, digit: u8, vip: &IpAddr, set: SlotTable, scheduler: u8) -> Result<()>
where
    FrontendKey<A>: Plain,
{
    let addr = match vip {
        IpAddr::V4(a) => A::from_octets16(&a.to_ipv6_mapped().octets()),
        IpAddr::V6(a) => A::from_octets16(&a.octets()),
    };
    let entry = AddressInfo { ifindex: 0, kind: address_kind::SERVICE, flags: 0, mac: [0; 6] };
    table::<A, AddressInfo>(ebpf, &format!("addresses{digit}"))?.insert(&addr, &entry)?;
    let frontend =
        Frontend { service_port: 1, affinity_ticks: 0, internal: set, external: set, flags: 0, scheduler, pad: 0 };
    for port in [80, 8080] {
        for proto in [proto::TCP, proto::UDP] {
            table::<FrontendKey<A>, Frontend>(ebpf, &format!("frontends{digit}"))?
                .insert(&FrontendKey { addr, port, proto, pad: 0 }, &frontend)?;
        }
    }
    Ok(())
}

/// Prints table and figures, and writes them to the JSON file.
fn report(all: &[Samples]) -> Result<()> {
    let mut text = String::from("what                     median ns      min      max\n");
    for s in all {
        let (low, high) = s.spread();
        writeln!(text, "{:24} {:9.1} {low:8.1} {high:8.1}", s.name, s.median())?;
    }
    // Ratios are computed round by round, so that a slow minute of the machine affects both parts.
    let values = |name: &str| all.iter().find(|s| s.name == name).map(|s| s.values.clone()).unwrap_or_default();
    let mut figures = Vec::new();
    for (figure, what, over, times) in [
        ("packet.hit_over_lookup", "v4.hit", "v4.lookup", 1.0),
        ("packet.new_flow_over_inserts", "v4.new_flow", "v4.insert", 2.0),
        ("packet.miss_over_lookup", "v4.miss", "v4.lookup", 1.0),
        ("packet.udp_hit_over_lookup", "v4.udp_hit", "v4.lookup", 1.0),
        ("packet.hit_same_port_over_lookup", "v4.hit_same_port", "v4.lookup", 1.0),
        ("packet.v6_hit_over_lookup", "v6.hit", "v6.lookup", 1.0),
        ("packet.v6_new_flow_over_inserts", "v6.new_flow", "v6.insert", 2.0),
        ("packet.v6_miss_over_lookup", "v6.miss", "v6.lookup", 1.0),
        ("packet.v6_udp_hit_over_lookup", "v6.udp_hit", "v6.lookup", 1.0),
    ] {
        let ratios = values(what).iter().zip(values(over)).map(|(a, b)| a / (b * times)).collect();
        let ratio = Samples { name: figure.into(), values: ratios };
        let (min, max) = ratio.spread();
        let value = ratio.median();
        writeln!(text, "{figure:36} {value:6.2} ({min:.2} to {max:.2})")?;
        figures.push(serde_json::json!({ "name": figure, "value": value, "min": min, "max": max, "unit": "x" }));
    }
    print!("{text}");
    if let Some(path) = std::env::args().nth(1) {
        let nanoseconds: serde_json::Map<_, _> =
            all.iter().map(|s| (s.name.clone(), serde_json::json!(s.values))).collect();
        let json = serde_json::json!({ "nanoseconds": nanoseconds, "figures": figures });
        std::fs::write(&path, serde_json::to_string_pretty(&json)?).with_context(|| format!("cannot write {path}"))?;
    }
    Ok(())
}
