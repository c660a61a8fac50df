//! Tests of the control plane against maps in the kernel: the state that a program would see,
//! restarts, full maps, bursts of events.
//!
//! The maps are not pinned and no programs are loaded.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails panics")]

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytemuck::Pod;
use dataplane_common::types::address::{Prefix, V4, V6, octets16};
use dataplane_common::types::clock::Clock;
use dataplane_common::types::ip_family::IpFamily;
use dataplane_common::types::pod::{AddressInfo, address_kind};
use dataplane_common::types::service::{Backend, Frontend, FrontendKey, NAME_LEN, ServiceName, Slot, SourceRange};
use dataplane_host::map::{PinnedMap, SharedArray};
use dataplane_host::sys::create_map;
use dataplane_user::proxy::apply::{FamilyMaps, ServiceMaps};
use dataplane_user::proxy::controller::{self, Core};
use dataplane_user::proxy::desired::NodeContext;
use dataplane_user::proxy::source::object::{DualAddr, Endpoint, ServiceExtra, ServicePort, SlicePort, endpoint_flags};
use dataplane_user::proxy::source::{ObjectKey, ObjectKind, ServiceObject, SliceObject, SourceEvent};

const HASH: u32 = 1;
const LPM_TRIE: u32 = 11;
const ARRAY: u32 = 2;
const NO_PREALLOC: u32 = 1;
const MMAPABLE: u32 = 1024;
const NOW: Duration = Duration::from_secs(100);
/// The time of invariant I2 in ARCHITECTURE.md.
const SLOTS_REST: Duration = Duration::from_secs(2);
const CLOCK: Clock = Clock { jiffies_per_second: 250 };

struct Maps {
    services: OwnedFd,
    frontends4: OwnedFd,
    frontends6: OwnedFd,
    sources4: OwnedFd,
    sources6: OwnedFd,
    addresses4: OwnedFd,
    addresses6: OwnedFd,
    slots: OwnedFd,
    backends: OwnedFd,
}

fn table<K: Pod, V: Pod>(fd: &OwnedFd) -> PinnedMap<K, V> {
    PinnedMap::from_fd("test", fd.try_clone().unwrap()).unwrap()
}

fn array<V: Pod>(fd: &OwnedFd) -> SharedArray<V> {
    SharedArray::from_fd("test", fd.try_clone().unwrap()).unwrap()
}

impl Maps {
    fn new(entries: u32) -> Self {
        Self::sized(entries, 4096)
    }

    fn sized(entries: u32, elements: u32) -> Self {
        fn hash<K, V>(entries: u32) -> OwnedFd {
            create_map(HASH, size_of::<K>() as u32, size_of::<V>() as u32, entries, NO_PREALLOC).unwrap()
        }
        fn trie<K>() -> OwnedFd {
            create_map(LPM_TRIE, size_of::<K>() as u32, 4, 64, NO_PREALLOC).unwrap()
        }
        fn shared<V>(elements: u32) -> OwnedFd {
            create_map(ARRAY, 4, size_of::<V>() as u32, elements, MMAPABLE).unwrap()
        }
        Self {
            services: hash::<u32, ServiceName>(entries),
            frontends4: hash::<FrontendKey<V4>, Frontend>(entries),
            frontends6: hash::<FrontendKey<V6>, Frontend>(entries),
            sources4: trie::<Prefix<SourceRange<V4>>>(),
            sources6: trie::<Prefix<SourceRange<V6>>>(),
            addresses4: hash::<V4, AddressInfo>(entries),
            addresses6: hash::<V6, AddressInfo>(entries),
            slots: shared::<Slot>(elements),
            backends: shared::<Backend>(elements),
        }
    }

    fn tables(&self) -> ServiceMaps {
        ServiceMaps {
            services: Box::new(table::<u32, ServiceName>(&self.services)),
            v4: FamilyMaps {
                sources: Box::new(table::<Prefix<SourceRange<V4>>, u32>(&self.sources4)),
                addresses: Box::new(table::<V4, AddressInfo>(&self.addresses4)),
                frontends: Box::new(table::<FrontendKey<V4>, Frontend>(&self.frontends4)),
            },
            v6: FamilyMaps {
                sources: Box::new(table::<Prefix<SourceRange<V6>>, u32>(&self.sources6)),
                addresses: Box::new(table::<V6, AddressInfo>(&self.addresses6)),
                frontends: Box::new(table::<FrontendKey<V6>, Frontend>(&self.frontends6)),
            },
            slots: Box::new(array::<Slot>(&self.slots)),
            backends: Box::new(array::<Backend>(&self.backends)),
        }
    }

    /// Returns the endpoints that a new connection from a pod may get.
    fn lookup(&self, addr: [u8; 4]) -> Option<Vec<[u8; 16]>> {
        let key = FrontendKey { addr: V4 { octets: addr }, port: 80, proto: 6, pad: 0 };
        let f = table::<FrontendKey<V4>, Frontend>(&self.frontends4).get(&key).unwrap()?;
        let (slots, backends) = (array::<Slot>(&self.slots), array::<Backend>(&self.backends));
        let range = f.internal.base..f.internal.base + f.internal.len;
        let found = range.map(|i| backends.get(slots.get(i).unwrap().backend).unwrap());
        Some(found.inspect(|b| assert_eq!(b.service_port, f.service_port)).map(|b| b.addr).collect())
    }

    fn count(&self) -> [usize; 3] {
        [
            table::<u32, ServiceName>(&self.services).entries().unwrap().len(),
            table::<FrontendKey<V4>, Frontend>(&self.frontends4).entries().unwrap().len(),
            table::<V4, AddressInfo>(&self.addresses4).entries().unwrap().len(),
        ]
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn key(i: usize) -> ObjectKey {
    ObjectKey::new("shop", &format!("s{i}"))
}

fn service(i: usize) -> SourceEvent {
    let v4 = Some([10, 96, (i / 256) as u8, (i % 256) as u8].into());
    let ports = [ServicePort { name: "http".into(), port: 80, node_port: 0, proto: 6 }].into();
    let object = ServiceObject { cluster_ips: DualAddr { v4, v6: None }, ports, ..ServiceObject::default() };
    SourceEvent::Service(key(i), Some(object))
}

fn slice(i: usize, endpoints: &[&str]) -> SourceEvent {
    let flags = endpoint_flags::READY | endpoint_flags::SERVING;
    let endpoint = |a: &&str| Endpoint { addr: ip(a), zones: None, node: 0, flags };
    let object = SliceObject {
        service: format!("s{i}").into(),
        ports: [SlicePort { name: "http".into(), port: 8080, proto: 6 }].into(),
        endpoints: endpoints.iter().map(endpoint).collect(),
        triggered: 0,
        family: IpFamily::V4,
    };
    SourceEvent::Slice(key(i), Some(object))
}

fn context() -> NodeContext {
    NodeContext {
        name: "n1".into(),
        addresses: vec![ip("192.0.2.1")],
        ipv4: true,
        ipv6: true,
        ..NodeContext::default()
    }
}

fn start(maps: &Maps, services: usize) -> Core {
    let mut core = Core::new(maps.tables(), CLOCK, NOW).unwrap();
    core.set_node_context(context());
    (0..services).for_each(|i| core.handle(service(i)));
    (0..services).for_each(|i| core.handle(slice(i, &["10.1.0.5", "10.1.0.6"])));
    ObjectKind::ALL.into_iter().for_each(|k| core.handle(SourceEvent::InSync(k)));
    core.reconcile(NOW);
    core
}

#[test]
#[ignore = "needs root"]
fn maps_follow_sync_restart_and_removal_of_all_services() {
    let maps = Maps::new(4096);
    let mut core = start(&maps, 1500);
    assert_eq!(maps.count(), [1500, 1500, 1501]);
    let wanted = [octets16(ip("10.1.0.5")), octets16(ip("10.1.0.6"))];
    assert_eq!(maps.lookup([10, 96, 5, 7]).unwrap(), wanted);
    core.handle(slice(7, &["10.1.0.6", "10.1.0.9"]));
    core.reconcile(NOW);
    assert_eq!(maps.lookup([10, 96, 0, 7]).unwrap(), [octets16(ip("10.1.0.6")), octets16(ip("10.1.0.9"))]);
    core.handle(slice(7, &["10.1.0.5", "10.1.0.6"]));
    core.reconcile(NOW);
    drop(core);
    let mut core = start(&maps, 1500);
    assert_eq!(core.operations().total(), 0, "{:?}", core.operations());
    for i in 0..1500 {
        core.handle(SourceEvent::Service(key(i), None));
    }
    core.reconcile(NOW);
    assert_eq!(maps.count(), [0, 0, 1]);
    let (backends, used) = (array::<Backend>(&maps.backends), 1..=3000);
    assert!(used.into_iter().all(|id| backends.get(id).is_some_and(|b| b.state == 0 && b.generation > 1)));
}

#[test]
#[ignore = "needs root"]
fn entries_removed_by_others_are_no_error() {
    let maps = Maps::new(64);
    let mut core = start(&maps, 10);
    let frontends = table::<FrontendKey<V4>, Frontend>(&maps.frontends4);
    for (key, _) in frontends.entries().unwrap().into_iter().step_by(2) {
        assert!(frontends.remove(&key).unwrap());
    }
    (0..10).for_each(|i| core.handle(SourceEvent::Service(key(i), None)));
    core.reconcile(NOW);
    assert_eq!(maps.count(), [0, 0, 1]);
    assert!(core.snapshot().last_error.is_none());
}

#[test]
#[ignore = "needs root"]
fn full_map_rejects_whole_services() {
    let maps = Maps::new(16);
    let mut core = start(&maps, 40);
    let [services, frontends, addresses] = maps.count();
    assert_eq!((services, frontends), (services, services), "each Service completely or not at all");
    assert!(addresses <= 16 && services >= 15, "{services} {addresses}");
    assert!(core.snapshot().rejected >= 24);
    for i in 0..25 {
        core.handle(SourceEvent::Service(key(i), None));
    }
    let mut now = NOW;
    core.reconcile(now);
    while let Some(at) = core.next_retry() {
        now = at.max(now);
        core.reconcile(now);
        assert!(now < NOW + Duration::from_mins(5), "{:?}", core.snapshot().rejections);
    }
    assert_eq!(maps.count(), [15, 15, 16]);
}

fn guarded(ranges: usize) -> SourceEvent {
    let SourceEvent::Service(key, Some(object)) = service(0) else { panic!() };
    let v4 = (0..ranges).map(|i| format!("198.51.{i}.0/24").parse().unwrap());
    let v6 = (0..ranges).map(|i| format!("2001:db8:{i:x}::/48").parse().unwrap());
    let extra = ServiceExtra {
        load_balancer_ips: [ip("203.0.113.2"), ip("2001:db8:ffff::2")].into(),
        source_ranges: v4.chain(v6).collect(),
        restricted: [ranges > 0; 2],
        ..ServiceExtra::default()
    };
    SourceEvent::Service(key, Some(ServiceObject { extra: Some(Box::new(extra)), ..object }))
}

#[test]
#[ignore = "needs root"]
fn rule_2_3_11_kernel_finds_a_client_in_its_range() {
    let maps = Maps::new(64);
    let mut core = start(&maps, 1);
    core.handle(guarded(20));
    core.reconcile(NOW);
    let found = |client: [u8; 4], service_port| {
        let data = SourceRange { service_port, client: V4 { octets: client } };
        table::<Prefix<SourceRange<V4>>, u32>(&maps.sources4).get(&Prefix { len: 64, data }).unwrap().is_some()
    };
    let port = table::<u32, ServiceName>(&maps.services).entries().unwrap()[0].0;
    assert!(found([198, 51, 7, 200], port) && !found([198, 51, 20, 1], port) && !found([198, 51, 7, 200], port + 1));
    let entries = || {
        let v4 = table::<Prefix<SourceRange<V4>>, u32>(&maps.sources4).entries().unwrap();
        let v6 = table::<Prefix<SourceRange<V6>>, u32>(&maps.sources6).entries().unwrap();
        (v4.len(), v6.len())
    };
    assert_eq!(entries(), (20, 20));
    drop(core);

    let mut core = Core::new(maps.tables(), CLOCK, NOW).unwrap();
    core.set_node_context(context());
    [guarded(20), slice(0, &["10.1.0.5", "10.1.0.6"])].into_iter().for_each(|e| core.handle(e));
    ObjectKind::ALL.into_iter().for_each(|k| core.handle(SourceEvent::InSync(k)));
    core.reconcile(NOW);
    assert_eq!(core.operations().total(), 0, "{:?}", core.operations());
    core.handle(guarded(5));
    core.reconcile(NOW);
    assert_eq!((entries(), found([198, 51, 7, 200], port), found([198, 51, 4, 200], port)), ((5, 5), false, true));
    core.handle(guarded(60));
    core.reconcile(NOW);
    assert_eq!(entries(), (60, 60));
    core.handle(guarded(65));
    core.reconcile(NOW);
    assert_eq!(entries(), (60, 60), "the trie holds 64");
    assert!(core.snapshot().rejections[0].to_string().contains("map source_ranges4 is full"));
    core.handle(SourceEvent::Service(key(0), None));
    core.reconcile(NOW);
    assert_eq!((entries(), maps.count()), ((0, 0), [0, 0, 1]));
}

#[test]
#[ignore = "needs root"]
fn unknown_entries_are_removed_at_start() {
    let maps = Maps::new(64);
    let foreign = V4 { octets: [203, 0, 113, 9] };
    let value = |kind| AddressInfo { ifindex: 7, kind, flags: 0, mac: [2; 6] };
    let addresses = table::<V4, AddressInfo>(&maps.addresses4);
    addresses.insert(&foreign, &value(address_kind::SERVICE)).unwrap();
    let pod = V4 { octets: [10, 1, 0, 5] };
    addresses.insert(&pod, &value(address_kind::POD)).unwrap();
    table::<u32, ServiceName>(&maps.services).insert(&9, &ServiceName { name: [b'x'; NAME_LEN] }).unwrap();
    start(&maps, 1);
    assert_eq!(addresses.get(&foreign).unwrap(), None);
    assert_eq!(addresses.get(&pod).unwrap(), Some(value(address_kind::POD)), "pods' entries belong to the plugin");
    assert_eq!(maps.count()[0], 1);
}

#[test]
#[ignore = "needs root"]
fn burst_of_events_ends_in_the_last_state() {
    let maps = Maps::new(4096);
    let handle = controller::start(maps.tables(), CLOCK).unwrap();
    handle.set_node_context(context());
    let events = handle.events();
    (0..200).for_each(|i| events.blocking_send(service(i)).unwrap());
    ObjectKind::ALL.into_iter().for_each(|k| events.blocking_send(SourceEvent::InSync(k)).unwrap());
    for round in 0..50 {
        let last = format!("10.1.1.{round}");
        (0..200).for_each(|i| events.blocking_send(slice(i, &[&last])).unwrap());
    }
    drop(events);
    let snapshots = handle.snapshots();
    handle.stop();
    assert!(snapshots.borrow().synced);
    for i in 0..200_usize {
        assert_eq!(maps.lookup([10, 96, 0, i as u8]).unwrap(), [octets16(ip("10.1.1.49"))], "{i}");
    }
}

/// The maps that a program reads to find a backend.
struct Reader {
    frontends: PinnedMap<FrontendKey<V4>, Frontend>,
    slots: SharedArray<Slot>,
    backends: SharedArray<Backend>,
}

impl Reader {
    fn new(maps: &Maps) -> Self {
        Self { frontends: table(&maps.frontends4), slots: array(&maps.slots), backends: array(&maps.backends) }
    }

    /// Reads a frontend, then its slots and backends, as a program does. Endpoints of Service `i`
    /// are 10.1.i.x. Returns the number of backends found.
    fn follow(&self, i: u8) -> usize {
        let key = FrontendKey { addr: V4 { octets: [10, 96, 0, i] }, port: 80, proto: 6, pad: 0 };
        let began = Instant::now();
        let Some(f) = self.frontends.get(&key).unwrap() else { return 0 };
        let slots = f.internal.base..f.internal.base + f.internal.len;
        let is_own = |b: &Backend| b.state != 0 && b.service_port == f.service_port && b.addr[14] == i;
        let found = slots.map(|at| self.backends.get(self.slots.get(at).unwrap().backend).unwrap());
        found
            .filter(|b| {
                let own = is_own(b);
                if !own {
                    assert_ne!(
                        self.frontends.get(&key).unwrap(),
                        Some(f),
                        "published: a missing or foreign backend, {b:?}"
                    );
                    // A program never takes that long between two lookups.
                    let late = began.elapsed() > SLOTS_REST / 2;
                    assert!(late || b.state == 0, "unpublished, and reused too early: {f:?} {b:?}");
                }
                own
            })
            .count()
    }
}

/// Returns a pseudo-random number below `limit`.
fn chance(state: &mut u64, limit: u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) % limit
}

#[test]
#[ignore = "needs root"]
fn reader_during_random_writes_finds_only_backends_of_its_service() {
    const SERVICES: u8 = 12;
    /// Long enough for freed slots to be reused after the grace time.
    const TIME: Duration = Duration::from_secs(7);
    /// Interval of changes, so that the reader always finds backends.
    const PAUSE: Duration = Duration::from_micros(500);
    let maps = Maps::sized(64, 1 << 15);
    let reader = Reader::new(&maps);
    let mut core = start(&maps, 0);
    let (ended, clock) = (AtomicBool::new(false), Instant::now());
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| {
            let (mut looks, mut found) = (0_u64, 0);
            while !ended.load(Ordering::Relaxed) && clock.elapsed() < TIME * 2 {
                found += (0..SERVICES).map(|i| reader.follow(i)).sum::<usize>();
                looks += 1;
            }
            (looks, found)
        });
        let mut state = 7;
        let mut changes = 0_u32;
        while clock.elapsed() < TIME && !reading.is_finished() {
            let i = chance(&mut state, SERVICES.into()) as usize;
            let event = match chance(&mut state, 10) {
                0 => SourceEvent::Service(key(i), None),
                1..4 => service(i),
                _ => {
                    let endpoints: Vec<_> = (0..6).filter(|_| chance(&mut state, 2) == 0).collect();
                    let endpoints: Vec<_> = endpoints.iter().map(|e| format!("10.1.{i}.{e}")).collect();
                    slice(i, &endpoints.iter().map(String::as_str).collect::<Vec<_>>())
                }
            };
            core.handle(event);
            changes += 1;
            while clock.elapsed() < PAUSE * changes {
                std::thread::yield_now();
            }
            core.reconcile(NOW + clock.elapsed());
        }
        ended.store(true, Ordering::Relaxed);
        assert_eq!(core.snapshot().failing, 0);
        let (looks, found) = reading.join().unwrap();
        println!("{changes} changes, {looks} looks at all Services, {found} backends, {:?}", core.operations());
        assert!(changes > 1000 && looks > 1000 && found > 1000, "{changes} {looks} {found}");
    });
}
