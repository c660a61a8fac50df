//! Anti-spoofing: packets of a pod with a source address or MAC that is not the pod's are dropped
//! and counted, and so are packets from the link with a source of the node. Forged frames of many
//! kinds reach no other pod, node or uplink, and do not change the node's routes and neighbour
//! tables.

pub(crate) mod frames;
mod from_link;
mod matrix;
mod tunnel;

use ropeway_tests::cluster::{Node, Shape};
use ropeway_tests::load::{self, TrafficEndpoint, Watch};
use ropeway_tests::peer::{self, Protocol};
use ropeway_tests::pod::{IpFamily, Pod};
use ropeway_tests::{process, view};

use crate::fixture::{Fixture, TARGET};

const COUNT: u64 = 5;

#[test]
#[ignore = "needs root"]
fn spoofed_source_address_is_dropped_and_counted() {
    let fixture = Fixture::new(Shape { nodes: 2, mtu: 1500 }, &[0, 1]);
    let node = &fixture.cluster.nodes[0];
    for (family, stolen, flags) in [
        (IpFamily::V4, "10.244.1.200", "--source=10.244.1.200"),
        (IpFamily::V6, "fd00:10:244:1::200", "--source=fd00:10:244:1::200"),
    ] {
        let length = if family == IpFamily::V4 { 32 } else { 128 };
        let nodad = if family == IpFamily::V4 { "" } else { "nodad" };
        fixture.client.ip(&[format!("address add {stolen}/{length} dev eth0 {nodad}")]).unwrap();
        let targets = [
            (fixture.backends[0].port(family, TARGET).unwrap(), "a pod on this node"),
            (fixture.backends[1].port(family, TARGET).unwrap(), "a pod elsewhere"),
            (std::net::SocketAddr::new(crate::fixture::cluster_ip(family), 53), "a Service"),
            (node.port(family, 30053), "a node port"),
        ];
        for (target, what) in targets {
            let before = view::drops(&node.machine, "spoofed").unwrap();
            let flags = [flags, "--timeout=50"];
            let report = load::send_requests_with(&fixture.client, target, Protocol::Udp, COUNT, &flags).unwrap();
            assert_eq!(report.errors.get("timeout"), Some(&COUNT), "{what}: {report:?}");
            let counted = view::drops(&node.machine, "spoofed").unwrap() - before;
            assert!(counted >= COUNT, "{what}: only {counted} of {COUNT} packets were counted");
        }
        // A datagram with the pod's address arrives.
        let own = format!("--source={}", fixture.client.address(family).unwrap());
        let elsewhere = fixture.backends[1].port(family, TARGET).unwrap();
        let own = load::send_requests_with(&fixture.client, elsewhere, Protocol::Udp, COUNT, &[own.as_str()]).unwrap();
        assert_eq!(own.ok, COUNT, "{own:?}");
    }
}

/// Number of forged packets.
const FORGED_PACKETS: usize = 100_000;

/// Returns the node's neighbour entries and routes.
fn beliefs(node: &Node) -> Vec<String> {
    let show = |words: &str| {
        let mut command = node.machine.command("ip").unwrap();
        process::output(words, command.args(words.split_whitespace())).unwrap()
    };
    let mut all: Vec<String> = Vec::new();
    for words in ["-4 route show table all", "-6 route show table all", "-o address show", "-o link show"] {
        all.extend(show(words).lines().map(str::to_owned));
    }
    // Entries that are not permanent may come and go. Those with a forged MAC must never exist.
    all.extend(
        show("neighbour show").lines().filter(|l| l.contains("PERMANENT") || l.contains("02:ba:d0")).map(str::to_owned),
    );
    all
}

fn parse_mac(text: &str) -> frames::Mac {
    let bytes: Vec<u8> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    bytes.try_into().unwrap()
}

/// Returns an identity without addresses.
fn mac(text: &str) -> matrix::Identity {
    let unspecified = (std::net::Ipv4Addr::UNSPECIFIED, std::net::Ipv6Addr::UNSPECIFIED);
    matrix::Identity { mac: parse_mac(text), four: unspecified.0, six: unspecified.1 }
}

fn identity(addresses: &[std::net::IpAddr], text: &str) -> matrix::Identity {
    let mut identity = mac(text);
    for address in addresses {
        match address {
            std::net::IpAddr::V4(four) => identity.four = *four,
            std::net::IpAddr::V6(six) => identity.six = *six,
        }
    }
    identity
}

#[test]
#[ignore = "needs root"]
fn forged_frames_are_dropped_and_leave_neighbour_tables_unchanged() {
    let fixture = Fixture::new(Shape { nodes: 2, mtu: 1500 }, &[0, 1]);
    let [near, far] = [&fixture.cluster.nodes[0], &fixture.cluster.nodes[1]];
    let pod = |pod: &Pod| identity(pod.addresses(), pod.result()["interfaces"][1]["mac"].as_str().unwrap());
    let both = |node: &Node| IpFamily::BOTH.map(|family| node.address(family));
    let unknown = "02:00:00:00:00:99";
    let pods = [pod(&fixture.backends[0]), pod(&fixture.backends[1])];
    let cast = matrix::Cast {
        own: pod(&fixture.client),
        gateway: mac(fixture.client.result()["interfaces"][0]["mac"].as_str().unwrap()).mac,
        others: vec![
            pods[0],
            pods[1],
            identity(&IpFamily::BOTH.map(crate::fixture::cluster_ip), unknown),
            identity(&both(far), unknown),
            identity(&both(near), unknown),
        ],
    };
    let hex = |frames: &[Vec<u8>]| frames.iter().map(|frame| peer::hex(frame)).collect::<Vec<_>>();
    let forged = hex(&matrix::forged(&cast));
    let honest = hex(&matrix::honest(&cast, &pods));
    // Resolve the node's neighbours first.
    load::send_requests(&fixture.client, fixture.backends[1].port(IpFamily::V4, TARGET).unwrap(), Protocol::Udp, 1)
        .unwrap();
    load::send_requests(&fixture.client, fixture.backends[1].port(IpFamily::V6, TARGET).unwrap(), Protocol::Udp, 1)
        .unwrap();
    let before = beliefs(near);
    let places: [(&str, &dyn TrafficEndpoint); 5] = [
        ("another pod on the node", &fixture.backends[0]),
        ("a pod on another node", &fixture.backends[1]),
        ("the node's uplink", &near.machine),
        ("another node's uplink", &far.machine),
        ("a machine on the link", &fixture.cluster.client),
    ];
    let watch = |(_, place): (&str, &dyn TrafficEndpoint)| {
        Watch::start(place, "eth0", &[matrix::FORGED, matrix::HONEST]).unwrap()
    };
    let watchers: Vec<_> = places.into_iter().map(watch).collect();
    let times = FORGED_PACKETS.div_ceil(forged.len()) as u64;
    println!("{} forged frames, each {times} times", forged.len());
    load::send_frames(&fixture.client, "eth0", &forged, times).unwrap();
    load::send_frames(&fixture.client, "eth0", &honest, 1).unwrap();
    for ((what, _), watcher) in places.into_iter().zip(watchers) {
        let seen = watcher.stop().unwrap();
        assert_eq!(seen.frames[matrix::FORGED], 0, "{what} saw {}", seen.first[matrix::FORGED]);
        let expected = if what == "a machine on the link" { 0 } else { 2 };
        assert!(seen.frames[matrix::HONEST] >= expected, "{what} saw fewer than {expected} honest frames: {seen:?}");
    }
    assert_eq!(beliefs(near), before);
}
