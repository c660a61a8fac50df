//! Random objects, events and faults.
//!
//! There are few names, addresses and ports, so that different objects often want the same one.

use std::sync::Arc;

use dataplane_common::types::address::octets16;
use ipnetwork::IpNetwork;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::super::*;
use super::Step;
use crate::proxy::apply::memory::Operation;
use crate::proxy::source::object::{Policy, Scheduling, ServiceExtra, Weights, Zones, name_hash};
use crate::proxy::source::{Rejection, RejectionOrigin};

const SERVICES: u8 = 4;
const SCHEDULERS: u8 = dataplane_common::types::service::scheduler::NAMES.len() as u8;
const PORT_NAMES: [&str; 3] = ["", "http", "dns"];
const PROTOCOLS: [u8; 3] = [proto::TCP, proto::UDP, proto::SCTP];

fn networks(texts: &[&str]) -> Vec<IpNetwork> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// Returns the ports with these bits: all of TCP, or of one protocol each, and then under one
/// number as well.
fn ports(bits: u8, mixed: bool, one_number: bool) -> impl Iterator<Item = (usize, u16, u8)> {
    (0..3).filter(move |p| bits & (1 << p) != 0).map(move |p| {
        let number = if mixed && one_number { 80 } else { 80 + p as u16 };
        (p, number, if mixed { PROTOCOLS[p] } else { proto::TCP })
    })
}

fn any_service(i: u8) -> impl Strategy<Value = ServiceObject> {
    let (addresses, times) = ((1..4_u8, 1..8_u8), (0..3_u32, 0..3_u32));
    (addresses, any::<[bool; 7]>(), times, prop::option::of(any_extra(i))).prop_map(
        move |((families, bits), [local_in, local_out, node_port, shared, mixed, one_number, _], times, extra)| {
            let policy = |local| if local { Policy::Local } else { Policy::Cluster };
            let (v4, v6) = (format!("10.96.{i}.1"), format!("fd00:96::{i}"));
            let addresses = [v4.as_str(), &v6].into_iter().zip([1, 2]).filter(|(_, bit)| families & bit != 0);
            let mut s = service(&addresses.map(|(addr, _)| addr).collect::<Vec<_>>(), &[]);
            let base = if shared { 30_500 } else { 30_000 + 10 * u16::from(i) };
            let port = |(p, port, proto): (usize, u16, u8)| {
                let node_port = if node_port { base + port - 80 } else { 0 };
                ServicePort { name: PORT_NAMES[p].into(), port, node_port, proto }
            };
            s.ports = ports(bits, mixed, one_number).map(port).collect();
            (s.internal, s.external) = (policy(local_in), policy(local_out));
            (s.affinity, s.created) = (times.0 * 100, times.1);
            s.extra = extra.map(Box::new);
            s
        },
    )
}

fn any_extra(i: u8) -> impl Strategy<Value = ServiceExtra> {
    // addresses that others claim as well: those of all Services, another's cluster IP, the node's
    let of = prop_oneof![Just(99), Just(i)];
    let another = format!("10.96.{}.1", (i + 1) % SERVICES);
    let other = select(vec![another, "10.1.0.1".into(), "192.0.2.1".into(), "198.51.100.7".into()]);
    let other = prop::option::weighted(0.4, other);
    // with the first of them the node's own address, and so all of them
    let ranges = ["192.0.2.0/24", "198.51.0.0/16", "2001:db8:7::/64", "203.0.113.0/25", "2001:db8::/64"];
    let ranges = subsequence(networks(&ranges), 0..4);
    // a range that can't be parsed
    let unreadable = prop::option::weighted(0.1, 0..2_usize);
    let health = any::<bool>();
    (of, 0..4_u8, other, any::<bool>(), ranges, unreadable, health, prop::option::of(any_scheduling())).prop_map(
        move |(of, externals, other, balancer, source_ranges, unreadable, health, scheduling)| {
            let external = (0..externals).map(|e| ip(&format!("203.0.{of}.{e}"))).chain(other.iter().map(|a| ip(a)));
            let balancers = [format!("203.0.{i}.9"), format!("203.0.{of}.0"), format!("2001:db8:9::{i}")];
            let mut restricted = IpFamily::BOTH.map(|family| source_ranges.iter().any(|r| family.has(r.ip())));
            unreadable.into_iter().for_each(|family| restricted[family] = true);
            ServiceExtra {
                external_ips: external.collect(),
                load_balancer_ips: balancers.iter().filter(|_| balancer).map(|a| ip(a)).collect(),
                source_ranges: source_ranges.into(),
                restricted,
                health_check_node_port: if health { 32_000 + u16::from(i) } else { 0 },
                scheduling: scheduling.map(Box::new),
            }
        },
    )
}

fn any_scheduling() -> impl Strategy<Value = Scheduling> {
    // the longest prefix first, as the decoder sorts them
    let networks = networks(&["10.1.0.1/32", "10.1.0.2/32", "fd00:1::2/128", "10.1.0.0/30", "10.1.0.0/24"]);
    let networks = subsequence(networks, 0..3).prop_flat_map(|networks| {
        let weights = prop::collection::vec(0..5_u16, networks.len());
        weights.prop_map(move |weights| networks.iter().copied().zip(weights).collect::<Vec<_>>())
    });
    let nodes = subsequence(vec!["n1", "n2"], 0..3).prop_flat_map(|nodes| {
        let weights = prop::collection::vec(0..5_u16, nodes.len());
        weights.prop_map(move |weights| nodes.iter().map(|n| name_hash(n)).zip(weights).collect::<Vec<_>>())
    });
    let size = prop::option::of(select(vec![251, 509]));
    let others = prop::option::of(0..3_u16);
    (prop::option::weighted(0.8, 0..SCHEDULERS), any::<bool>(), networks, nodes, size, others).prop_map(
        |(scheduler, hash_port, networks, nodes, maglev_size, others)| Scheduling {
            scheduler,
            maglev_size,
            hash_port,
            weights: Weights { networks: networks.into(), nodes: nodes.into(), others },
        },
    )
}

fn any_slice() -> impl Strategy<Value = SliceObject> {
    let zones = prop::option::weighted(0.7, select(vec![&["a"][..], &["b"], &["a", "b"]]));
    let hints =
        select(vec![0, endpoint_flags::NODE_HINTS, endpoint_flags::NODE_HINTS | endpoint_flags::THIS_NODE_HINTED]);
    let node = select(vec![("", 0), ("n1", endpoint_flags::LOCAL), ("n2", endpoint_flags::REMOTE)]);
    let conditions = prop_oneof![2 => Just(READY), 3 => 0..8_u8];
    let endpoint = (0..6_u8, conditions, node, zones, hints);
    let hinted = any::<[bool; 2]>();
    let ends = prop::collection::vec(endpoint, 0..5);
    (0..SERVICES, any::<[bool; 2]>(), hinted, ends, 1..8_u8).prop_map(
        |(of, [v6, mixed], [use_zones, use_hints], endpoints, bits)| {
            let addr = |i: u8| ip(&if v6 { format!("fd00:1::{i:x}") } else { format!("10.1.0.{i}") });
            let zones_of = |names: &[&str]| -> Arc<Zones> { Arc::new(names.iter().map(|z| (*z).into()).collect()) };
            let endpoint = |(i, conditions, (node, place), zones, hints): (u8, u8, (&str, u8), Option<&[&str]>, u8)| {
                let zones = zones.filter(|_| use_zones).map(zones_of);
                let flags = conditions | place | if use_hints { hints } else { 0 };
                Endpoint { addr: addr(i + 1), zones, node: name_hash(node), flags }
            };
            let mut endpoints: Vec<_> = endpoints.into_iter().map(endpoint).collect();
            endpoints.sort_by_key(|e| e.addr);
            let port =
                |(p, n, proto): (usize, u16, u8)| SlicePort { name: PORT_NAMES[p].into(), port: 8000 + n, proto };
            SliceObject {
                service: format!("s{of}").into(),
                ports: ports(bits, mixed, false).map(port).collect(),
                endpoints: endpoints.into(),
                triggered: 0,
                family: if v6 { IpFamily::V6 } else { IpFamily::V4 },
            }
        },
    )
}

/// Marks the endpoints of a slice in another namespace, so that they can be recognized in the maps.
fn mark_foreign(slice: &mut SliceObject) {
    for e in &mut slice.endpoints {
        let mut octets = octets16(e.addr);
        octets[14] ^= FOREIGN;
        e.addr = IpAddr::from(octets).to_canonical();
    }
}

/// Bit of the last but one octet of every endpoint in the namespace that has no Service.
pub(super) const FOREIGN: u8 = 0x40;

fn any_node() -> impl Strategy<Value = SourceEvent> {
    let zone = prop::option::of(select(vec!["a", "b"]));
    let own = prop::option::weighted(0.9, zone).prop_map(|there| {
        let object = there.map(|zone| NodeObject { zone: zone.map(Into::into), ..node() });
        SourceEvent::Node("n1".into(), object)
    });
    // an endpoint, an external and a cluster IP
    let addresses = subsequence(["10.1.0.1", "10.1.0.2", "203.0.99.1", "10.96.2.1"].map(ip).to_vec(), 0..3);
    let pods = subsequence(networks(&["203.0.1.0/24", "10.96.3.0/24", "fd00:1::/64"]), 0..2);
    let other = (0..2_u8, prop::option::of((addresses, pods))).prop_map(|(i, object)| {
        let object = object.map(|(addresses, pods)| NodeObject {
            addresses: addresses.into(),
            pod_cidrs: pods.into(),
            ..NodeObject::default()
        });
        SourceEvent::Node(format!("extra{i}").into(), object)
    });
    prop_oneof![own, other]
}

fn any_change() -> impl Strategy<Value = SourceEvent> {
    let service = (0..SERVICES).prop_flat_map(|i| {
        prop::option::weighted(0.8, any_service(i)).prop_map(move |s| SourceEvent::Service(key(&format!("s{i}")), s))
    });
    let slice = (0..8_u8, prop::option::weighted(0.8, any_slice())).prop_map(|(i, mut slice)| {
        let foreign = i >= 6;
        slice.iter_mut().filter(|_| foreign).for_each(mark_foreign);
        SourceEvent::Slice(ObjectKey::new(if foreign { "evil" } else { "shop" }, &format!("slice{i}")), slice)
    });
    let ranges = select(vec![("more", "203.0.99.0/24"), ("main", "10.96.0.0/23"), ("six", "fd00:96::/64")]);
    let ranges = (ranges, any::<bool>()).prop_map(|((name, range), there)| {
        SourceEvent::ServiceCidr(name.into(), there.then(|| [range.parse().unwrap()].into()))
    });
    prop_oneof![4 => service, 6 => slice, 1 => ranges, 1 => any_node()]
}

/// Returns what a source says of objects and files that it can't read.
fn any_report() -> impl Strategy<Value = SourceEvent> {
    let file = |n| format!("file{n}").into();
    let rejection = (0..SERVICES, any::<bool>(), 0..2_u8).prop_map(move |(i, of_file, n)| {
        let mut rejection = Rejection::of(ObjectKind::Service, &key(&format!("s{i}")), format!("spec.x{n}"), "is odd");
        if of_file {
            rejection.origin = RejectionOrigin::File { path: file(i) };
        }
        SourceEvent::Rejected(rejection)
    });
    prop_oneof![
        3 => rejection,
        1 => (0..SERVICES).prop_map(move |n| SourceEvent::Cleared(file(n))),
        1 => Just(SourceEvent::WatchError(ObjectKind::Slice, "gone".into())),
    ]
}

fn any_context() -> impl Strategy<Value = NodeContext> {
    let scheduler = prop_oneof![3 => Just(0), 1 => 0..SCHEDULERS];
    let (families, zone) = (select(vec![3, 3, 1, 2_u8]), prop::option::weighted(0.2, Just("b")));
    // cluster IPs on a device of the node, and whether a process listens there
    let carried = (subsequence(vec!["10.96.1.1", "fd00:96::1", "10.96.2.1"], 0..3), any::<bool>());
    (families, any::<[bool; 3]>(), zone, scheduler, carried).prop_map(
        |(families, [more, pods, range], zone, scheduler, (carried, listening))| {
            let mut c = NodeContext { ipv4: families & 1 != 0, ipv6: families & 2 != 0, scheduler, ..node_context() };
            c.zone = zone.map(Into::into);
            if more {
                c.addresses.push(ip("198.51.100.7"));
                c.nodeport_addresses.push(ip("198.51.100.7"));
            }
            c.addresses.extend(carried.iter().map(|a| ip(a)));
            c.listening.extend(carried.iter().map(|a| ip(a)).filter(|_| listening));
            c.pod_ranges.extend(networks(&["203.0.2.0/24"]).into_iter().filter(|_| pods));
            c.service_ranges.extend(networks(&["203.0.3.0/25"]).into_iter().filter(|_| range));
            c
        },
    )
}

/// Returns the context of all histories at first: small Maglev tables cost less time.
pub(super) fn node_context() -> NodeContext {
    NodeContext { maglev_size: 251, ..context() }
}

fn any_fault() -> impl Strategy<Value = Step> {
    let maps = ["services", "frontends4", "frontends6", "source_ranges4", "source_ranges6", "addresses4", "addresses6"];
    let set = select([&maps[..], &["backends", "slots"]].concat()).prop_map(|map| (map, Operation::Set));
    let remove = select(maps.to_vec()).prop_map(|map| (map, Operation::Remove));
    (prop_oneof![2 => set, 1 => remove], 0..4_u32)
        .prop_map(|((map, operation), after)| Step::Fault(map, operation, after))
}

pub(super) fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        24 => any_change().prop_map(Step::Change),
        2 => any_report().prop_map(Step::Change),
        4 => prop::collection::vec(any_change(), 0..6).prop_map(Step::Relist),
        1 => Just(Step::Restart),
        2 => (0..60_u32).prop_map(Step::Kill),
        1 => Just(Step::Grow),
        3 => any_fault(),
        16 => Just(Step::Reconcile),
        4 => (0..6000_u64).prop_map(Step::Wait),
        2 => any_context().prop_map(|c| Step::Context(Box::new(c))),
    ]
}

/// The maps that a history begins with.
#[derive(Clone, Debug)]
pub(super) struct Sizes {
    /// Entries of each hash map, slots and backends.
    pub(super) capacities: (u32, u32, u32),
    /// The generation of backend ids that were in use before.
    pub(super) generation: Option<u32>,
}

/// Sizes that every history fits into.
pub(super) const ENOUGH: (u32, u32, u32) = (1000, 40_000, 600);

pub(super) fn any_sizes() -> impl Strategy<Value = Sizes> {
    let small = (4..40_u32, 20..1500_u32, 4..40_u32);
    let capacities = prop_oneof![3 => Just(ENOUGH), 1 => small];
    let generation = prop::option::weighted(0.1, u32::MAX - 2..=u32::MAX);
    (capacities, generation).prop_map(|(capacities, generation)| Sizes { capacities, generation })
}
