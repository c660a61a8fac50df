//! Tests of loading, adopting and replacing programs with real pins, links and filters.
//!
//! Each test runs in a node of namespaces, with a bpf file system and a cgroup for it alone.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails panics")]

mod node;

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsFd;
use std::path::Path;

use dataplane_common::types::address::{V4, V6};
use dataplane_common::types::pod::{AddressInfo, Pod, address_kind, pod_flags};
use dataplane_common::types::service::{Frontend, FrontendKey, HostPort, Slot, proto};
use dataplane_host::map::{PinnedMap, SharedArray};
use dataplane_host::netlink::{self, Direction, Socket};
use dataplane_host::pins::Pins;
use dataplane_host::sys;
use dataplane_user::config::UplinkAttach;
use dataplane_user::load::object::Object;
use dataplane_user::load::probe::KernelFacts;
use dataplane_user::load::programs::{self, LoadSettings, Programs};
use dataplane_user::load::{attach, migrate, resize};
use node::{Node, enter, object, run};

const ROOT: &str = "/sys/fs/bpf/ropeway";

fn pins() -> Pins {
    Pins::new(Path::new(ROOT))
}

const fn settings<'a>(trace: bool, resizable: &'a [(&'static str, u32)]) -> LoadSettings<'a> {
    LoadSettings { trace, fixed: &[("flows4", 1024), ("flows6", 1024)], resizable }
}

fn load(trace: bool) -> Programs {
    let object = Object::get(Some(object())).unwrap();
    programs::load(&pins(), &object, &settings(trace, &[])).unwrap()
}

fn ids(dir: &str) -> BTreeMap<String, u32> {
    let entries = fs::read_dir(pins().directory().join(dir)).unwrap().map(|e| e.unwrap().path());
    let id = |path: &Path| sys::type_and_id(sys::obj_get(path).unwrap().as_fd()).unwrap().1;
    entries.map(|p| (p.file_name().unwrap().to_string_lossy().into_owned(), id(&p))).collect()
}

fn attach_all(programs: &Programs, node: &Node, how: UplinkAttach) -> usize {
    let mut socket = Socket::open().unwrap();
    let devices: Vec<_> = ["up0", "up1"].iter().filter_map(|n| socket.link_by_name(n).unwrap()).collect();
    let uplinks = attach::uplinks(&pins(), programs, &devices, how, &mut socket).unwrap();
    attach::cgroup(&pins(), programs, &node.cgroup).unwrap()
        + uplinks.operations
        + uplinks.detach_others(&pins(), &mut socket).unwrap()
        + attach::pods(&pins(), programs, &mut socket).unwrap()
}

fn filters(device: &str) -> Vec<(Direction, Option<u32>)> {
    let mut socket = Socket::open().unwrap();
    let index = socket.link_by_name(device).unwrap().unwrap().index;
    socket.filters(index).unwrap().into_iter().map(|f| (f.direction, f.program)).collect()
}

#[test]
#[ignore = "needs root and the eBPF object"]
fn kernel_has_all_features() {
    let Some(node) = enter("kernel_has_all_features") else { return };
    let facts = KernelFacts::gather().unwrap();
    assert!(facts.missing.is_empty(), "{facts:?}");
    facts.check(Path::new(ROOT), Some(&node.cgroup)).unwrap();
    run("umount /sys/fs/bpf");
    let message = KernelFacts::gather().unwrap().check(Path::new(ROOT), Some(&node.cgroup)).unwrap_err().to_string();
    assert!(message.contains("not in a bpf file system"), "{message}");
}

#[test]
#[ignore = "needs root and the eBPF object"]
fn unchanged_restart_changes_nothing() {
    let Some(node) = enter("unchanged_restart_changes_nothing") else { return };
    run("ip link add up0 type veth peer name up1; ip link set up0 up; ip link set up1 up");
    let first = load(false);
    assert!(first.operations > 20, "{}", first.operations);
    assert_eq!(attach_all(&first, &node, UplinkAttach::Auto), 13);
    let before = (ids("maps"), ids("programs"), ids("links"));
    assert_eq!((before.0.len(), before.1.len(), before.2.len()), (43, 36, 13));
    assert!(before.2.contains_key("from_uplink-up0") && before.2.contains_key("sock_connect4"));
    drop(first);

    let second = load(false);
    assert_eq!(second.operations, 0);
    assert_eq!(attach_all(&second, &node, UplinkAttach::Auto), 0);
    assert_eq!((ids("maps"), ids("programs"), ids("links")), before);
}

#[test]
#[ignore = "needs root and the eBPF object"]
fn another_build_replaces_programs_in_place() {
    let Some(node) = enter("another_build_replaces_programs_in_place") else { return };
    run("ip link add up0 type veth peer name up1; ip link set up0 up; ip link set up1 up");
    run("ip link add rwpod type veth peer name pod; ip link set rwpod up");
    let first = load(false);
    let mut socket = Socket::open().unwrap();
    let pod = socket.link_by_name("rwpod").unwrap().unwrap().index;
    let mut requests = vec![netlink::add_clsact(pod)];
    for (name, direction) in attach::POD_HOOKS {
        requests.push(netlink::replace_filter(pod, direction, name, first.get(name).unwrap().fd.as_fd()));
    }
    socket.run(&requests).unwrap();
    assert_eq!(attach_all(&first, &node, UplinkAttach::Auto), 13, "the pod's filters need no change");
    let (maps, links) = (ids("maps"), ids("links"));
    let pod_filters = filters("rwpod");
    drop(first);

    let second = load(true); // tracing is compiled in: other programs
    assert_eq!(second.operations, 58, "36 programs, 22 of them in `stages`");
    assert_eq!(attach_all(&second, &node, UplinkAttach::Auto), 15);
    assert_eq!((ids("maps"), ids("links")), (maps, links), "same maps, same links, other programs");
    assert_ne!(filters("rwpod"), pod_filters);
    assert_eq!(filters("rwpod").len(), 2);
    let link = sys::obj_get(&pins().link("sock_connect4")).unwrap();
    assert_eq!(sys::link_program(link.as_fd()).unwrap(), ids("programs")["sock_connect4"]);
}

#[test]
#[ignore = "needs root and the eBPF object"]
fn uplinks_are_attached_and_detached() {
    let Some(node) = enter("uplinks_are_attached_and_detached") else { return };
    run("ip link add up0 type veth peer name up1; ip link set up0 up; ip link set up1 up");
    let programs = load(false);
    attach_all(&programs, &node, UplinkAttach::Tcx);
    run("ip link del up0; ip link add up0 type veth peer name other");
    assert_eq!(attach_all(&programs, &node, UplinkAttach::Auto), 4, "two new links, two unpinned");
    assert_eq!(ids("links").len(), 11);

    assert_eq!(attach_all(&programs, &node, UplinkAttach::Clsact), 4, "two filters, two links unpinned");
    assert_eq!(ids("links").len(), 9);
    let used = ids("programs");
    let both = vec![(Direction::Ingress, Some(used["from_uplink"])), (Direction::Egress, Some(used["to_uplink"]))];
    assert_eq!(filters("up0"), both);
    assert_eq!(attach_all(&programs, &node, UplinkAttach::Clsact), 0);
    assert_eq!(attach_all(&programs, &node, UplinkAttach::Auto), 4, "back to tcx");
    assert_eq!(filters("up0"), vec![]);
}

#[test]
#[ignore = "needs root and the eBPF object"]
fn links_of_another_abi_are_adopted() {
    let Some(node) = enter("links_of_another_abi_are_adopted") else { return };
    run("ip link add up0 type veth peer name up1");
    let old = load(false);
    attach_all(&old, &node, UplinkAttach::Auto);
    let links = ids("links");
    drop(old);
    let pod = Pod {
        netns_cookie: 7,
        addr4: V4 { octets: [10, 1, 0, 2] },
        addr6: V6::default(),
        mac: [2; 6],
        host_mac: [0xee; 6],
        flags: pod_flags::PRESENT,
        pad: 0,
    };
    let addr = AddressInfo { ifindex: 9, kind: address_kind::POD, flags: 0, mac: [2; 6] };
    PinnedMap::open(&pins(), "pods").unwrap().insert(&9_u32, &pod).unwrap();
    let old_addresses = PinnedMap::<V4, AddressInfo>::open(&pins(), "addresses4").unwrap();
    old_addresses.insert(&pod.addr4, &addr).unwrap();
    old_addresses.insert(&V4 { octets: [10, 96, 0, 1] }, &AddressInfo { kind: address_kind::SERVICE, ..addr }).unwrap();
    let port = FrontendKey { addr: V4::default(), port: 8080, proto: proto::TCP, pad: 0 };
    let target = HostPort { addr: pod.addr4, port: 80, pad: 0, ifindex: 9 };
    PinnedMap::open(&pins(), "host_ports4").unwrap().insert(&port, &target).unwrap();
    let other = Path::new(ROOT).join("0123456789abcdef");
    fs::rename(pins().directory(), &other).unwrap();

    assert!(attach::has_predecessor(&pins()));
    let new = load(false);
    assert_eq!(
        migrate::migrate_maps(&pins()).unwrap(),
        3,
        "the pod, its address and its host port, not the Service's address"
    );
    assert_eq!(migrate::migrate_maps(&pins()).unwrap(), 0, "entries are copied once");
    assert_eq!(PinnedMap::<u32, Pod>::open(&pins(), "pods").unwrap().get(&9).unwrap(), Some(pod));
    assert_eq!(
        PinnedMap::<V4, AddressInfo>::open(&pins(), "addresses4").unwrap().entries().unwrap(),
        [(pod.addr4, addr)]
    );
    assert_eq!(PinnedMap::open(&pins(), "host_ports4").unwrap().get(&port).unwrap(), Some(target));
    assert_eq!(attach_all(&new, &node, UplinkAttach::Auto), 26, "two operations for each link: program and pin");
    assert_eq!(ids("links"), links, "nothing was detached");
    assert!(!attach::has_predecessor(&pins()));
    assert_eq!(attach::remove_predecessors(&pins()).unwrap(), 1);
    assert!(!other.exists());
}

#[test]
#[ignore = "needs root and the eBPF object"]
fn failed_load_is_rolled_back() {
    let Some(_node) = enter("failed_load_is_rolled_back") else { return };
    let good = Object::get(Some(object())).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    // Renames the last program that is loaded, so that loading fails after all others.
    let mut bytes = good.bytes().to_vec();
    let places: Vec<_> = bytes.windows(6).enumerate().filter(|(_, w)| w == b"\0clock").map(|(i, _)| i).collect();
    for at in places {
        bytes[at + 1] = b'k';
    }
    fs::write(file.path(), bytes).unwrap();
    let bad = Object::get(Some(file.path())).unwrap();
    let error = programs::load(&pins(), &bad, &settings(false, &[])).unwrap_err();
    println!("{error}");
    assert!(!Path::new(ROOT).exists(), "pins were left behind");
}

#[test]
#[ignore = "needs root and the eBPF object"]
fn resized_maps_keep_their_entries() {
    let Some(node) = enter("resized_maps_keep_their_entries") else { return };
    let object = Object::get(Some(object())).unwrap();
    let resized = |resizable: &[(&'static str, u32)]| {
        let programs = programs::load(&pins(), &object, &settings(false, resizable)).unwrap();
        attach_all(&programs, &node, UplinkAttach::Auto);
        let size = |map| resize::entries(&pins(), map).unwrap().unwrap();
        (programs.operations, ["frontends4", "backends", "backend_stats", "backend_loads", "slots"].map(size))
    };
    let small = [("frontends4", 64), ("backends", 16), ("backend_stats", 16), ("backend_loads", 16), ("slots", 8)];
    let (first, sizes) = resized(&small);
    assert!(first > 20, "{first}");
    assert_eq!(sizes, [64, 16, 16, 16, 8]);

    let key = |port| FrontendKey { addr: V4 { octets: [10, 96, 0, 1] }, port, proto: proto::TCP, pad: 0 };
    let frontend = |id| Frontend { service_port: id, ..bytemuck::Zeroable::zeroed() };
    let table = || PinnedMap::<FrontendKey<V4>, Frontend>::open(&pins(), "frontends4").unwrap();
    (1..=64).for_each(|port| table().insert(&key(port), &frontend(port.into())).unwrap());
    let slots = || SharedArray::<Slot>::open(&pins(), "slots").unwrap();
    assert!((0..8).all(|i| slots().set(i, &Slot { backend: i + 1, turn: 0 })));

    let large = [("frontends4", 128), ("backends", 32), ("backend_stats", 32), ("backend_loads", 32), ("slots", 4096)];
    let (operations, sizes) = resized(&large);
    assert_eq!(sizes, [128, 32, 32, 32, 4096]);
    assert_eq!(operations, 58, "36 programs, 22 of them in `stages`: no program uses an old map");
    assert_eq!(table().entries().unwrap().len(), 64);
    assert_eq!(table().get(&key(64)).unwrap(), Some(frontend(64)));
    assert_eq!((slots().get(7), slots().get(8)), (Some(Slot { backend: 8, turn: 0 }), Some(Slot::default())));
    assert_eq!(resized(&small), (0, sizes), "maps do not shrink, and nothing is loaded again");

    // An agent was killed during a resize: the new map, which may be incomplete, must not be used.
    let (pin, other) = (pins().map("slots"), pins().map("slots+before"));
    let before = ids("maps");
    fs::rename(&pin, &other).unwrap();
    sys::obj_pin(sys::obj_get(&pins().map("config")).unwrap().as_fd(), &pin).unwrap();
    assert_eq!(resized(&small).1, sizes);
    assert_eq!(ids("maps"), before);
}
