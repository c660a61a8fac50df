//! A pod that uses an address which is not its own is not heard, and each packet is counted.

pub(crate) mod frames;
mod matrix;

use ropeway_tests::cluster::{Node, Shape};
use ropeway_tests::load::{self, Place, Watch};
use ropeway_tests::peer::{self, Protocol};
use ropeway_tests::pod::{Family, Pod};
use ropeway_tests::{process, view};

use crate::fixture::{Scene, TARGET};

const COUNT: u64 = 5;

#[test]
fn a_spoofed_source_goes_nowhere_and_is_counted() {
    let scene = Scene::new(Shape { nodes: 2, mtu: 1500 }, &[0, 1]);
    let node = &scene.cluster.nodes[0];
    for (family, stolen, flags) in [
        (Family::V4, "10.244.1.200", "--source=10.244.1.200"),
        (Family::V6, "fd00:10:244:1::200", "--source=fd00:10:244:1::200"),
    ] {
        let length = if family == Family::V4 { 32 } else { 128 };
        let nodad = if family == Family::V4 { "" } else { "nodad" };
        scene.client.ip(&[format!("address add {stolen}/{length} dev eth0 {nodad}")]).unwrap();
        let targets = [
            (scene.backends[0].port(family, TARGET).unwrap(), "a pod on this node"),
            (scene.backends[1].port(family, TARGET).unwrap(), "a pod elsewhere"),
            (std::net::SocketAddr::new(crate::fixture::cluster_ip(family), 53), "a Service"),
            (node.port(family, 30053), "a node port"),
        ];
        for (target, what) in targets {
            let before = view::drops(&node.space, "spoofed").unwrap();
            let flags = [flags, "--timeout=50"];
            let report = load::ask_with(&scene.client, target, Protocol::Udp, COUNT, &flags).unwrap();
            assert_eq!(report.errors.get("timeout"), Some(&COUNT), "{what}: {report:?}");
            let counted = view::drops(&node.space, "spoofed").unwrap() - before;
            assert!(counted >= COUNT, "{what}: {counted} counted");
        }
        // With its own address it is heard.
        let own = format!("--source={}", scene.client.address(family).unwrap());
        let elsewhere = scene.backends[1].port(family, TARGET).unwrap();
        let own = load::ask_with(&scene.client, elsewhere, Protocol::Udp, COUNT, &[own.as_str()]).unwrap();
        assert_eq!(own.ok, COUNT, "{own:?}");
    }
}

/// How many forged packets.
const FORGED_PACKETS: usize = 100_000;

/// All that the node's stack believes of its neighbours and routes.
fn beliefs(node: &Node) -> Vec<String> {
    let show = |words: &str| {
        let mut command = node.space.command("ip").unwrap();
        process::output(words, command.args(words.split_whitespace())).unwrap()
    };
    let mut all: Vec<String> = Vec::new();
    for words in ["-4 route show table all", "-6 route show table all", "-o address show", "-o link show"] {
        all.extend(show(words).lines().map(str::to_owned));
    }
    // What is not permanent may come and go; whose addresses are forged must never be there.
    all.extend(
        show("neighbour show").lines().filter(|l| l.contains("PERMANENT") || l.contains("02:ba:d0")).map(str::to_owned),
    );
    all
}

/// An address of Ethernet, as people write it.
fn mac(text: &str) -> matrix::Identity {
    let bytes: Vec<u8> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    let unspecified = (std::net::Ipv4Addr::UNSPECIFIED, std::net::Ipv6Addr::UNSPECIFIED);
    matrix::Identity { mac: bytes.try_into().unwrap(), four: unspecified.0, six: unspecified.1 }
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
fn nothing_forged_gets_anywhere_and_the_node_believes_none_of_it() {
    let scene = Scene::new(Shape { nodes: 2, mtu: 1500 }, &[0, 1]);
    let [near, far] = [&scene.cluster.nodes[0], &scene.cluster.nodes[1]];
    let pod = |pod: &Pod| identity(pod.addresses(), pod.result()["interfaces"][1]["mac"].as_str().unwrap());
    let both = |node: &Node| Family::BOTH.map(|family| node.address(family));
    let nobody = "02:00:00:00:00:99";
    let pods = [pod(&scene.backends[0]), pod(&scene.backends[1])];
    let cast = matrix::Cast {
        own: pod(&scene.client),
        gateway: mac(scene.client.result()["interfaces"][0]["mac"].as_str().unwrap()).mac,
        others: vec![
            pods[0],
            pods[1],
            identity(&Family::BOTH.map(crate::fixture::cluster_ip), nobody),
            identity(&both(far), nobody),
            identity(&both(near), nobody),
        ],
    };
    let hex = |frames: &[Vec<u8>]| frames.iter().map(|frame| peer::hex(frame)).collect::<Vec<_>>();
    let forged = hex(&matrix::forged(&cast));
    let honest = hex(&matrix::honest(&cast, &pods));
    // So that the node knows its neighbours before.
    load::ask(&scene.client, scene.backends[1].port(Family::V4, TARGET).unwrap(), Protocol::Udp, 1).unwrap();
    load::ask(&scene.client, scene.backends[1].port(Family::V6, TARGET).unwrap(), Protocol::Udp, 1).unwrap();
    let before = beliefs(near);
    let places: [(&str, &dyn Place); 5] = [
        ("another pod on the node", &scene.backends[0]),
        ("a pod on another node", &scene.backends[1]),
        ("the node's uplink", &near.space),
        ("another node's uplink", &far.space),
        ("somebody on the link", &scene.cluster.client),
    ];
    let watch =
        |(_, place): (&str, &dyn Place)| Watch::start(place, "eth0", &[matrix::FORGED, matrix::HONEST]).unwrap();
    let watchers: Vec<_> = places.into_iter().map(watch).collect();
    let times = FORGED_PACKETS.div_ceil(forged.len()) as u64;
    println!("{} forged frames, each {times} times", forged.len());
    load::send_frames(&scene.client, "eth0", &forged, times).unwrap();
    load::send_frames(&scene.client, "eth0", &honest, 1).unwrap();
    for ((what, _), watcher) in places.into_iter().zip(watchers) {
        let seen = watcher.stop().unwrap();
        assert_eq!(seen.frames[matrix::FORGED], 0, "{what} saw {}", seen.first[matrix::FORGED]);
        let expected = if what == "somebody on the link" { 0 } else { 2 };
        assert!(seen.frames[matrix::HONEST] >= expected, "{what} saw {seen:?}");
    }
    assert_eq!(beliefs(near), before);
}
