//! Tests against the real kernel, each in new network namespaces. They fail with a message unless
//! they run as root.

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::Duration;

use super::*;
use crate::netns::Netns;
use crate::sys;

/// A socket in a new namespace, and the namespace.
fn node() -> (Netns, Socket) {
    let home = Netns::current().unwrap();
    let node = Netns::new().expect("these tests make network namespaces: run them as root");
    let socket = node.within(&home, Socket::open).unwrap().unwrap();
    (node, socket)
}

fn within<R>(netns: &Netns, f: impl FnOnce() -> R) -> R {
    netns.within(&Netns::current().unwrap(), f).unwrap()
}

fn pair<'a>(peer: &'a Netns, index: u32, name: &'a str) -> Veth<'a> {
    Veth {
        name,
        index: IfIndex(index),
        mac: [0xee; 6],
        mtu: 1400,
        peer_name: "eth0",
        peer_mac: [2, 0, 0, 0, 0, 7],
        peer_netns: peer.as_fd(),
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
#[ignore = "needs root"]
fn veth_has_requested_index_and_peer_namespace() {
    let (node_netns, mut host) = node();
    let (pod_netns, mut pod) = node();
    assert_eq!(host.netns_number(pod_netns.as_fd()).unwrap(), None, "nothing leads there");
    host.run(&[create_veth(&pair(&pod_netns, 4711, "rw0")), quiet_link(IfIndex(4711), true), set_up(IfIndex(4711))])
        .unwrap();
    let link = host.link_by_name("rw0").unwrap().unwrap();
    assert_eq!((link.index, link.mtu, link.mac, link.up), (IfIndex(4711), 1400, [0xee; 6], true));
    assert_eq!(link.kind.as_deref(), Some("veth"));
    let peer = pod.link_by_name("eth0").unwrap().unwrap();
    assert_eq!((peer.mac, peer.up, peer.lower), ([2, 0, 0, 0, 0, 7], false, Some(IfIndex(4711))));
    let number = host.netns_number(pod_netns.as_fd()).unwrap();
    assert!(number.is_some() && link.peer_netns == number && link.lower == Some(peer.index), "{link:?}");
    assert_eq!(peer.peer_netns, pod.netns_number(node_netns.as_fd()).unwrap());
    let no_netns = std::fs::File::open("/proc/self/status").unwrap();
    assert_eq!(host.netns_number(no_netns.as_fd()).unwrap_err().refusal(), Some(libc::EINVAL));
    assert_eq!(host.link_by_index(IfIndex(4711)).unwrap(), Some(link));

    let taken = host.run(&[create_veth(&pair(&pod_netns, 4711, "rw1"))]).unwrap_err();
    assert!(matches!(taken.refusal(), Some(libc::EBUSY | libc::EEXIST)), "{taken}");
    assert_eq!(host.run(&[create_veth(&pair(&pod_netns, 4712, "rw0"))]).unwrap_err().refusal(), Some(libc::EEXIST));

    host.run(&[set_group(IfIndex(4711), 0x5257)]).unwrap();
    host.run(&[delete_group(0x5257)]).unwrap();
    assert_eq!(host.link_by_name("rw0").unwrap(), None);
    assert_eq!(pod.link_by_name("eth0").unwrap(), None);
    assert!(host.run(&[delete_link(IfIndex(4711))]).unwrap_err().is_missing());
}

#[test]
fn quiet_link_without_ipv6_names_no_ipv6() {
    use netlink_packet_route::RouteNetlinkMessage;
    use netlink_packet_route::link::{AfSpecUnspec, LinkAttribute};
    let families = |request: NetlinkRequest| {
        let RouteNetlinkMessage::SetLink(message) = request.message else { panic!("{}", request.attempt) };
        let specs = message.attributes.iter().filter_map(|a| match a {
            LinkAttribute::AfSpecUnspec(specs) => Some(specs.iter().map(|s| matches!(s, AfSpecUnspec::Inet6(_)))),
            _ => None,
        });
        specs.flatten().collect::<Vec<_>>()
    };
    assert_eq!(families(quiet_link(IfIndex(2), true)), [false, true]);
    assert_eq!(families(quiet_link(IfIndex(2), false)), [false]);
}

#[test]
#[ignore = "needs root"]
fn quiet_link_gets_no_address_and_no_redirects() {
    let (node_netns, mut host) = node();
    let (pod_netns, _pod) = node();
    host.run(&[create_veth(&pair(&pod_netns, 20, "rw0")), quiet_link(IfIndex(20), true), set_up(IfIndex(20))]).unwrap();
    let read = |path: &str| within(&node_netns, || std::fs::read_to_string(format!("/proc/sys/net/{path}")).unwrap());
    assert_eq!(read("ipv4/conf/rw0/send_redirects").trim(), "0");
    assert_eq!(read("ipv4/conf/rw0/accept_redirects").trim(), "0");
    assert_eq!(read("ipv6/conf/rw0/addr_gen_mode").trim(), "1");
    assert!(host.addresses().unwrap().iter().all(|a| a.index != IfIndex(20)));
}

#[test]
#[ignore = "needs root"]
fn addresses_routes_and_neighbours_are_set_and_listed() {
    let (_node, mut host) = node();
    let (pod_netns, mut pod) = node();
    host.run(&[create_veth(&pair(&pod_netns, 20, "rw0")), set_up(IfIndex(20))]).unwrap();
    let eth0 = pod.link_by_name("eth0").unwrap().unwrap().index;
    pod.run(&[set_up(eth0)]).unwrap();
    let (four, six) = ("10.9.0.5/32".parse().unwrap(), "fd00:9::5/128".parse().unwrap());
    pod.run(&[add_address(eth0, four), add_address(eth0, six)]).unwrap();
    let found = pod.addresses().unwrap();
    for network in [four, six] {
        let address = found.iter().find(|a| a.network == network).unwrap();
        assert!(!address.tentative && !address.narrow && address.index == eth0);
    }
    assert_eq!(pod.run(&[add_address(eth0, four)]).unwrap_err().refusal(), Some(libc::EEXIST));

    let hop = |via, onlink| Hop::Gateway { via: ip(via), index: Some(eth0), onlink };
    let routes = [
        Route::new("0.0.0.0/0".parse().unwrap(), hop("169.254.1.1", true)),
        Route::new("::/0".parse().unwrap(), hop("fe80::1", false)),
        Route { metric: 7, mtu: Some(1300), ..Route::new("10.8.0.0/24".parse().unwrap(), Hop::Device { index: eth0 }) },
        Route::new("10.7.0.0/24".parse().unwrap(), Hop::Blackhole),
        Route { metric: 9, ..Route::new("fd00:7::/64".parse().unwrap(), Hop::Blackhole) },
        Route { source: Some(four.ip()), ..Route::new("10.6.0.0/24".parse().unwrap(), hop("169.254.1.1", true)) },
    ];
    pod.run(&routes.each_ref().map(add_route)).unwrap();
    let foreign = Route { protocol: 4, ..Route::new("10.5.0.0/24".parse().unwrap(), Hop::Device { index: eth0 }) };
    pod.run(&[add_route(&foreign)]).unwrap();
    let mut found = pod.routes(PROTOCOL).unwrap();
    for route in &mut found {
        if route.destination.is_ipv6() && route.hop == Hop::Blackhole {
            // The kernel names the loopback device here.
            assert_eq!(route.metric, 9);
        }
    }
    let mut expected = routes.to_vec();
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
    assert_eq!(pod.run(&[add_route(&routes[2])]).unwrap_err().refusal(), Some(libc::EEXIST));
    pod.run(&[replace_route(&routes[2])]).unwrap();
    // Another program's route with the same destination stays.
    let ours = Route { protocol: PROTOCOL, ..foreign };
    assert!(pod.run(&[delete_route(&ours)]).unwrap_err().is_missing());
    assert_eq!(pod.routes(4).unwrap(), [foreign]);
    for route in &routes {
        pod.run(&[delete_route(route)]).unwrap();
    }
    assert_eq!(pod.routes(PROTOCOL).unwrap(), []);

    for address in ["169.254.1.1", "fe80::1"].map(ip) {
        pod.run(&[replace_neighbour(eth0, address, [1; 6]), replace_neighbour(eth0, address, [0xee; 6])]).unwrap();
        let found = pod.neighbours().unwrap();
        let entry = found.iter().find(|n| n.address == address).unwrap();
        assert_eq!((entry.mac, entry.permanent, entry.index), (Some([0xee; 6]), true, eth0));
        pod.run(&[delete_neighbour(eth0, address)]).unwrap();
    }
}

#[test]
#[ignore = "needs root"]
fn filter_replacement_leaves_other_filters_alone() {
    let (_node, mut host) = node();
    let (pod_netns, _pod) = node();
    let (first, second) = (sys::return_program("first", 0).unwrap(), sys::return_program("second", 0).unwrap());
    host.run(&[create_veth(&pair(&pod_netns, 20, "rw0")), add_clsact(IfIndex(20)), add_clsact(IfIndex(20))]).unwrap();
    assert_eq!(host.filters(IfIndex(20)).unwrap(), []);
    for program in [&first, &second] {
        host.run(&[
            replace_filter(IfIndex(20), Direction::Ingress, "from_pod", program.as_fd()),
            replace_filter(IfIndex(20), Direction::Egress, "to_pod", program.as_fd()),
        ])
        .unwrap();
        let (_, id) = sys::type_and_id(program.as_fd()).unwrap();
        let found = host.filters(IfIndex(20)).unwrap();
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found.iter().all(|f| f.is_ours() && f.program == Some(id) && f.direct_action), "{found:?}");
        assert_eq!(found[0].name.as_deref(), Some("from_pod"));
    }
    host.run(&[delete_filter(IfIndex(20), Direction::Ingress)]).unwrap();
    let left = host.filters(IfIndex(20)).unwrap();
    assert_eq!(left.iter().map(|f| f.direction).collect::<Vec<_>>(), [Direction::Egress]);
    assert!(host.run(&[delete_filter(IfIndex(20), Direction::Ingress)]).unwrap_err().is_missing());
}

#[test]
#[ignore = "needs root"]
fn errors_name_the_attempt_and_the_kernels_reason() {
    let (_node, mut host) = node();
    let via = Hop::Gateway { via: ip("10.1.1.1"), index: None, onlink: false };
    let unreachable = add_route(&Route::new("10.8.0.0/24".parse().unwrap(), via));
    let results = host.run_each(&[set_up(IfIndex(77)), unreachable, set_up(IfIndex(1))]);
    assert_eq!(results.iter().map(|(i, _)| *i).collect::<Vec<_>>(), [0, 1]);
    assert_eq!(results[0].1.to_string(), "device 77: set up: No such device (os error 19)");
    let text = results[1].1.to_string();
    assert!(
        text.starts_with("add route 10.8.0.0/24 to 10.1.1.1: ") && text.ends_with("Nexthop has invalid gateway"),
        "{text}"
    );
    assert!(host.link_by_index(IfIndex(1)).unwrap().unwrap().up, "the third request has run all the same");
}

#[test]
#[ignore = "needs root"]
fn monitor_reports_added_and_removed_objects() {
    let (node_netns, mut host) = node();
    let mut monitor = within(&node_netns, || Monitor::open(&Group::ALL)).unwrap();
    assert_eq!(monitor.read().unwrap(), []);
    host.run(&[set_up(IfIndex(1))]).unwrap();
    let route = Route::new("10.7.0.0/24".parse().unwrap(), Hop::Blackhole);
    host.run(&[add_route(&route), delete_route(&route)]).unwrap();
    let events = monitor.wait(Duration::from_secs(5)).unwrap();
    assert!(events.iter().any(|e| matches!(e, NetlinkEvent::Link(l) if l.name == "lo" && l.up)), "{events:?}");
    assert!(
        events.contains(&NetlinkEvent::Route(route)) && events.contains(&NetlinkEvent::RouteGone(route)),
        "{events:?}"
    );
    assert_eq!(monitor.wait(Duration::from_millis(1)).unwrap(), []);
}

#[test]
#[ignore = "needs root"]
fn vxlan_sends_only_to_fdb_entries() {
    let (node_netns, mut host) = node();
    let mac = [0x52, 0x57, 1, 2, 3, 4];
    for (name, local, remote) in [("rw4", "192.0.2.1", "192.0.2.2"), ("rw6", "2001:db8::1", "2001:db8::2")] {
        let wanted = Vxlan {
            vni: 82,
            port: 4790,
            local: Some(ip(local)),
            learning: false,
            zero_checksum6_sent: true,
            zero_checksum6_taken: true,
        };
        host.run(&[create_vxlan(name, mac, 1400, &wanted)]).unwrap();
        let link = host.link_by_name(name).unwrap().unwrap();
        assert_eq!((link.kind.as_deref(), link.mac, link.mtu, link.vxlan), (Some("vxlan"), mac, 1400, Some(wanted)));
        host.run(&[quiet_tunnel(link.index, true), set_up(link.index)]).unwrap();
        let filter =
            within(&node_netns, || std::fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{name}/rp_filter")));
        assert_eq!(filter.unwrap().trim(), "2");

        assert_eq!(host.fdb(link.index).unwrap(), []);
        host.run(&[replace_fdb(link.index, [2; 6], ip(local)), replace_fdb(link.index, [2; 6], ip(remote))]).unwrap();
        let entry = FdbEntry { mac: [2; 6], remote: ip(remote), permanent: true };
        assert_eq!(host.fdb(link.index).unwrap(), [entry]);
        host.run(&[delete_fdb(link.index, [2; 6])]).unwrap();
        assert_eq!(host.fdb(link.index).unwrap(), []);
        assert_eq!(host.run(&[create_vxlan(name, mac, 1400, &wanted)]).unwrap_err().refusal(), Some(libc::EEXIST));
        host.run(&[delete_link(link.index)]).unwrap();
    }
}

#[test]
#[ignore = "needs root"]
fn thousands_of_requests_and_errors_fit_the_buffers() {
    let (_node, mut host) = node();
    host.run(&[set_up(IfIndex(1))]).unwrap();
    let route = |i: u32| Route::new(format!("10.{}.{}.0/24", i / 256, i % 256).parse().unwrap(), Hop::Blackhole);
    let requests: Vec<_> = (0..3000).map(|i| add_route(&route(i))).collect();
    host.run(&requests).unwrap();
    assert_eq!(host.routes(PROTOCOL).unwrap().len(), 3000);
    let refused = host.run_each(&requests);
    assert!(refused.iter().enumerate().all(|(n, (i, e))| n == *i && e.refusal() == Some(libc::EEXIST)));
    assert_eq!(refused.len(), 3000);
}

#[test]
#[ignore = "needs root"]
fn nftables_chains_are_listed() {
    let (node, _socket) = node();
    assert_eq!(within(&node, chains).unwrap(), []);
    let add = |what: &str| {
        let words = what.split(' ');
        let status = within(&node, || std::process::Command::new("nft").arg("add").args(words).status()).unwrap();
        assert!(status.success(), "nft add {what}");
    };
    add("table ip kube-proxy");
    add("table ip6 nat");
    let all: Vec<_> = (0..300).map(|i| format!("chain-{i}")).collect();
    all.iter().for_each(|name| add(&format!("chain ip kube-proxy {name}")));
    add("chain ip6 nat KUBE-SERVICES");
    let found = within(&node, chains).unwrap();
    assert_eq!(found.len(), 301, "more than one datagram has room for");
    assert!(found.contains(&NftChain { table: "nat".into(), name: "KUBE-SERVICES".into() }));
    assert!(all.iter().all(|name| found.contains(&NftChain { table: "kube-proxy".into(), name: name.clone() })));
}
