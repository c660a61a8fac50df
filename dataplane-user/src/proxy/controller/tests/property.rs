//! Random histories of events, faults and restarts. The entries never contradict each other, and in
//! the end the maps are equal to those of an agent that has just started.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use dataplane_common::types::address::octets16;
use proptest::prelude::*;

use super::reader::Reader;
use super::view::{FrontendView, view};
use super::*;
use crate::proxy::source::object::{Policy, Scheduling, ServiceExtra, Weights};

/// The objects as the API server has them.
#[derive(Clone, Default, Debug)]
struct ApiServer {
    services: BTreeMap<u8, ServiceObject>,
    slices: BTreeMap<u8, SliceObject>,
    context: NodeContext,
    nodes: BTreeMap<u8, NodeObject>,
    /// True if a `ServiceCIDR` exists that contains some external addresses.
    range: bool,
}

#[derive(Clone, Debug)]
enum Step {
    Service(u8, Option<ServiceObject>),
    Slice(u8, Option<SliceObject>),
    Node(u8, Option<NodeObject>),
    Range(bool),
    Context(NodeContext),
    /// The connection was lost, objects changed meanwhile, and all are listed again.
    Relist(Vec<Step>),
    Restart,
    Fault(&'static str),
    Reconcile,
    Wait(u64),
}

const SERVICES: u8 = 4;
const SCHEDULERS: u8 = dataplane_common::types::service::scheduler::NAMES.len() as u8;

fn any_service(i: u8) -> impl Strategy<Value = ServiceObject> {
    let flags = any::<[bool; 6]>();
    (1..8_u8, 0..4_u8, flags, 0..3_u32, 0..3_u32, prop::option::of(any_scheduling())).prop_map(
        move |(
            ports,
            externals,
            [v6, local_in, local_out, node_port, shared, greedy],
            affinity,
            created,
            scheduling,
        )| {
            let v4 = format!("10.96.{i}.1");
            let v6_addr = format!("fd00:96::{i}");
            let addresses = if v6 { vec![v4.as_str(), &v6_addr] } else { vec![v4.as_str()] };
            let names = ["", "http", "dns"];
            let ports: Vec<_> =
                (0..3_u16).filter(|p| ports & (1 << p) != 0).map(|p| (names[usize::from(p)], 80 + p)).collect();
            let policy = |local| if local { Policy::Local } else { Policy::Cluster };
            let mut s = service(&addresses, &ports);
            s.internal = policy(local_in);
            s.external = policy(local_out);
            s.affinity = affinity * 100;
            s.created = created;
            if node_port {
                s.ports
                    .iter_mut()
                    .zip(0..)
                    .for_each(|(p, n)| p.node_port = if shared { 30_500 + n } else { 30_000 + 10 * u16::from(i) + n });
            }
            if externals > 0 || scheduling.is_some() {
                // addresses that others claim as well: another's cluster IP, and external ones
                let of = if shared { 99 } else { i };
                let other = greedy.then(|| ip(&format!("10.96.{}.1", (i + 1) % SERVICES)));
                let external_ips = (0..externals).map(|e| ip(&format!("203.0.{of}.{e}"))).chain(other).collect();
                let load_balancer_ips = [ip(&format!("203.0.{i}.9")), ip(&format!("2001:db8:9::{i}"))].into();
                // with the first of them the node's own address, and so all of them
                let ranges = [["192.0.2.0/24", "198.51.0.0/16"], ["2001:db8:7::/64", "203.0.113.0/25"]];
                let source_ranges: Box<[_]> = ranges[usize::from(v6)][..usize::from(externals.max(1)) - 1]
                    .iter()
                    .map(|r| r.parse().unwrap())
                    .collect();
                let restricted = IpFamily::BOTH
                    .map(|family| source_ranges.iter().any(|r: &ipnetwork::IpNetwork| family.has(r.ip())));
                s.extra = Some(Box::new(ServiceExtra {
                    external_ips,
                    load_balancer_ips,
                    source_ranges,
                    restricted,
                    scheduling: scheduling.map(Box::new),
                    ..ServiceExtra::default()
                }));
            }
            s
        },
    )
}

fn any_scheduling() -> impl Strategy<Value = Scheduling> {
    let weight = (1..6_u8, 0..5_u16).prop_map(|(i, w)| (ip(&format!("10.1.0.{i}")).into(), w));
    (0..SCHEDULERS, any::<bool>(), prop::collection::vec(weight, 0..3), prop::option::of(0..3_u16)).prop_map(
        |(number, hash_port, networks, others)| Scheduling {
            scheduler: Some(number),
            maglev_size: Some(251),
            hash_port,
            weights: Weights { networks: networks.into(), nodes: Box::default(), others },
        },
    )
}

fn any_slice() -> impl Strategy<Value = SliceObject> {
    let endpoint = (0..6_u8, 0..16_u8);
    (0..SERVICES, any::<bool>(), prop::collection::vec(endpoint, 0..5), 1..8_u8).prop_map(
        |(of, v6, endpoints, ports)| {
            let family = if v6 { IpFamily::V6 } else { IpFamily::V4 };
            let addr = |i: u8| if v6 { format!("fd00:1::{i:x}") } else { format!("10.1.0.{i}") };
            let texts: Vec<_> = endpoints.iter().map(|(i, flags)| (addr(i + 1), *flags)).collect();
            let texts: Vec<_> = texts.iter().map(|(a, f)| (a.as_str(), *f)).collect();
            let names = ["", "http", "dns"];
            let ports: Vec<_> =
                (0..3_u16).filter(|p| ports & (1 << p) != 0).map(|p| (names[usize::from(p)], 8080 + p)).collect();
            SliceObject { family, ..slice_of(&format!("s{of}"), &ports, &texts) }
        },
    )
}

/// Marks the endpoints of slices in another namespace, so that they can be recognized in the maps.
fn foreign(i: u8, mut slice: Option<SliceObject>) -> Option<SliceObject> {
    if i >= 6 {
        slice.iter_mut().flat_map(|s| &mut s.endpoints).for_each(|e| {
            let mut octets = octets16(e.addr);
            octets[14] ^= FOREIGN;
            e.addr = IpAddr::from(octets).to_canonical();
        });
    }
    slice
}

const FOREIGN: u8 = 0x40;

fn any_change() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..SERVICES).prop_flat_map(|i| prop::option::weighted(0.8, any_service(i)).prop_map(move |s| Step::Service(i, s))),
        6 => (0..8_u8, prop::option::weighted(0.8, any_slice())).prop_map(|(i, s)| Step::Slice(i, foreign(i, s))),
        1 => any::<bool>().prop_map(Step::Range),
        1 => (0..2_u8, any::<bool>()).prop_map(|(i, there)| {
            let object = NodeObject { addresses: [ip(&format!("10.1.0.{}", i + 1))].into(), ..NodeObject::default() };
            Step::Node(i, there.then_some(object))
        }),
    ]
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => any_change(),
        2 => prop::collection::vec(any_change(), 0..6).prop_map(Step::Relist),
        1 => Just(Step::Restart),
        1 => prop::sample::select(vec!["backends", "slots", "services", "frontends4", "frontends6", "source_ranges4", "source_ranges6", "addresses4", "addresses6"]).prop_map(Step::Fault),
        8 => Just(Step::Reconcile),
        2 => (0..4000_u64).prop_map(Step::Wait),
        1 => any::<[bool; 2]>().prop_map(|[ipv6, more]| {
            let mut c = NodeContext { ipv6, ..context() };
            if more {
                c.addresses.push(ip("198.51.100.7"));
                c.nodeport_addresses.push(ip("198.51.100.7"));
            }
            Step::Context(c)
        }),
    ]
}

impl ApiServer {
    /// Applies the change and returns the event that a source sends for it.
    fn change(&mut self, step: &Step) -> Option<SourceEvent> {
        match step {
            Step::Service(i, object) => {
                set(&mut self.services, *i, object.clone());
                Some(SourceEvent::Service(key(&format!("s{i}")), object.clone()))
            }
            Step::Slice(i, object) => {
                set(&mut self.slices, *i, object.clone());
                Some(SourceEvent::Slice(slice_key(*i), object.clone()))
            }
            Step::Node(i, object) => {
                set(&mut self.nodes, *i, object.clone());
                Some(SourceEvent::Node(format!("extra{i}").into(), object.clone()))
            }
            Step::Range(there) => {
                self.range = *there;
                Some(self.range_event())
            }
            _ => None,
        }
    }

    fn range_event(&self) -> SourceEvent {
        SourceEvent::ServiceCidr("more".into(), self.range.then(|| ["203.0.99.0/24".parse().unwrap()].into()))
    }

    fn list(&self, core: &mut Core) {
        for kind in ObjectKind::ALL {
            core.handle(SourceEvent::Relist(kind));
        }
        core.handle(SourceEvent::Node("n1".into(), Some(node())));
        self.nodes
            .iter()
            .for_each(|(i, o)| core.handle(SourceEvent::Node(format!("extra{i}").into(), Some(o.clone()))));
        self.services
            .iter()
            .for_each(|(i, o)| core.handle(SourceEvent::Service(key(&format!("s{i}")), Some(o.clone()))));
        self.slices.iter().for_each(|(i, o)| core.handle(SourceEvent::Slice(slice_key(*i), Some(o.clone()))));
        core.handle(self.range_event());
        for kind in ObjectKind::ALL {
            core.handle(SourceEvent::InSync(kind));
        }
    }

    fn start(&self, memory: &MemoryMaps, now: Duration) -> Core {
        let mut core = Core::new(memory.tables(), CLOCK, now).unwrap();
        core.set_node_context(self.context.clone());
        self.list(&mut core);
        core
    }
}

/// Returns the key of slice `i`. Slices from 6 on are in another namespace, which has no Service.
fn slice_key(i: u8) -> ObjectKey {
    let namespace = if i < 6 { "shop" } else { "evil" };
    ObjectKey::new(namespace, &format!("slice{i}"))
}

fn set<T>(map: &mut BTreeMap<u8, T>, i: u8, object: Option<T>) {
    match object {
        Some(object) => drop(map.insert(i, object)),
        None => drop(map.remove(&i)),
    }
}

/// Reconciles until no retry is due.
fn settle(core: &mut Core, now: &mut Duration, reader: &Reader) {
    core.reconcile(*now);
    while let Some(at) = core.next_retry() {
        *now = at.max(*now);
        reader.set_clock(*now);
        core.reconcile(*now);
    }
}

/// Returns the rejections of the snapshot, and its counts of Services without local endpoints.
fn told(core: &mut Core) -> (Vec<String>, [[u32; 2]; 2]) {
    let snapshot = core.snapshot();
    let mut rejections: Vec<_> = snapshot.rejections.iter().map(ToString::to_string).collect();
    rejections.sort_unstable();
    (rejections, snapshot.no_local)
}

fn check(steps: &[Step]) {
    let memory = MemoryMaps::sized(1000, 40_000, 1000);
    let reader = Arc::new(Reader::new(memory.clone(), NOW));
    let (watched, reading) = (memory.clone(), reader.clone());
    let mut api = ApiServer { context: context(), ..ApiServer::default() };
    let mut now = NOW;
    let mut core = api.start(&memory, now);
    memory.observe(Some(Arc::new(move || {
        view(&watched);
        reading.look();
    })));
    for step in steps {
        match step {
            Step::Reconcile => core.reconcile(now),
            Step::Wait(ms) => {
                now += Duration::from_millis(*ms);
                reader.set_clock(now);
            }
            Step::Restart => {
                // no program runs as long as that takes
                reader.clear();
                core = api.start(&memory, now);
            }
            Step::Fault(map) => memory.fail_next(map),
            Step::Context(c) => {
                api.context = c.clone();
                core.set_node_context(c.clone());
            }
            Step::Relist(unseen) => {
                unseen.iter().for_each(|s| drop(api.change(s)));
                api.list(&mut core);
            }
            change => core.handle(api.change(change).unwrap()),
        }
    }
    settle(&mut core, &mut now, &reader);
    settle(&mut core, &mut now, &reader);
    assert_eq!((core.pending().services(), core.pending().endpoints()), (0, 0));
    memory.clear_faults();
    memory.observe(None);
    let fresh = MemoryMaps::sized(1000, 40_000, 1000);
    let mut started = api.start(&fresh, now);
    started.reconcile(now);
    assert_eq!(told(&mut core), told(&mut started));
    let (seen, wanted) = (view(&memory), view(&fresh));
    assert_eq!(seen, wanted);
    // only at the end: a backend gets weight 0 first, and is taken out of the slot tables
    // afterwards
    let drained = |f: &FrontendView| f.internal.iter().chain(&f.external).any(|b| b.3 == 0);
    assert!(!seen.frontends.values().any(drained), "a backend without weight takes new connections: {seen:?}");
    assert!(seen.backends.iter().all(|(_, (addr, ..))| octets16(*addr)[14] & FOREIGN == 0), "of another namespace");
    let before = *core.operations();
    core.mark_all();
    core.reconcile(now);
    assert_eq!(*core.operations(), before, "a second reconcile writes nothing");
    let mut restarted = api.start(&memory, now);
    restarted.reconcile(now);
    assert_eq!(restarted.operations().total(), 0, "a restart writes nothing: {:?}", restarted.operations());
}

/// Number of histories, shared by all tests. `PROPTEST_CASES` sets the number of each test instead.
const HISTORIES: u32 = 10_000;

fn config(tests: u32) -> ProptestConfig {
    let cases = HISTORIES.div_ceil(tests);
    ProptestConfig { cases, max_shrink_iters: 2000, failure_persistence: None, ..ProptestConfig::default() }
}

/// Declares the same test several times, so that it runs on several processors.
macro_rules! tests {
    ($($name:ident)*) => {
        proptest! {
            #![proptest_config(config([$(stringify!($name)),*].len() as u32))]
            $(
                #[test]
                fn $name(steps in prop::collection::vec(any_step(), 0..40)) {
                    check(&steps);
                }
            )*
        }
    };
}

mod histories_end_as_a_fresh_start_does {
    use super::*;

    tests! { first second third fourth }
}
