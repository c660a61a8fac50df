//! Tests of hardware addresses, tunnel addresses and the comparison of devices.
//!
//! The values are part of the protocol between nodes of different versions and must never change.

use super::*;
use crate::config::VXLAN_PORT;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn tunnel(local: &str) -> Tunnel {
    let local = ip(local);
    let mtu = 1500 - overhead(IpFamily::of(local));
    Tunnel { local, mac: mac(local), mtu, port: VXLAN_PORT, addresses: BTreeSet::new(), peers: Peers::new() }
}

fn link(wanted: &Tunnel) -> Link {
    Link {
        index: IfIndex(7),
        name: wanted.name().into(),
        mac: wanted.mac,
        ethernet: true,
        mtu: wanted.mtu,
        up: true,
        running: true,
        kind: Some("vxlan".into()),
        group: 0,
        lower: None,
        peer_netns: None,
        controller: None,
        vxlan: Some(wanted.settings()),
    }
}

#[test]
fn tunnel_addresses_follow_from_node_addresses() {
    assert_eq!(mac(ip("192.168.50.11")), [0x52, 0x57, 192, 168, 50, 11]);
    assert_eq!(link_local([0x52, 0x57, 192, 168, 50, 11]), ip("fe80::5057:c0ff:fea8:320b"));
    // FNV-1a of zero bytes follows from its definition: 16 multiplications of the offset basis.
    let (mut hash, mut macs) = (0xcbf2_9ce4_8422_2325_u64, BTreeSet::new());
    for _ in 0..16 {
        hash = hash.wrapping_mul(0x0100_0000_01b3);
    }
    assert_eq!(mac(ip("::"))[1..], hash.to_be_bytes()[3..]);
    for i in 0..5000_u32 {
        let m = mac(Ipv6Addr::from_bits(0xfd00_0050 << 96 | u128::from(i)).into());
        assert_eq!(m[0] & 3, 2, "locally administered, one machine");
        macs.insert(m);
    }
    assert_eq!(macs.len(), 5000);
}

#[test]
fn overhead_is_the_sum_of_the_headers() {
    // IP, UDP, VXLAN, Ethernet
    assert_eq!((overhead(IpFamily::V4), overhead(IpFamily::V6)), (20 + 8 + 8 + 14, 40 + 8 + 8 + 14));
}

#[test]
fn tunnel_addresses_are_never_given_to_pods() {
    let of = |ranges: &[&str]| {
        let ranges: Vec<_> = ranges.iter().map(|r| r.parse().unwrap()).collect();
        addresses(&ranges).iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(of(&["10.244.1.0/24", "fd00:1::/64", "10.9.0.0/24"]), ["10.244.1.0/32", "fd00:1::/128"]);
    assert_eq!(of(&["10.244.1.0/30"]), ["10.244.1.0/32"]);
    assert_eq!(of(&["10.244.1.0/31", "fd00:1::7/128"]), [""; 0]);
}

#[test]
fn only_differing_settings_are_changed() {
    for local in ["192.168.50.11", "fd00:50::11"] {
        let wanted = tunnel(local);
        let right = link(&wanted);
        assert_eq!(action(None, &wanted), TunnelAction::Make);
        assert_eq!(action(Some(&right), &wanted), TunnelAction::Keep);
        let changed = Link { mtu: 9000, up: false, ..right.clone() };
        assert_eq!(action(Some(&changed), &wanted), TunnelAction::Change { mac: false, mtu: true, down: true });
        for other in [
            Vxlan { port: 8472, ..wanted.settings() },
            Vxlan { learning: true, ..wanted.settings() },
            Vxlan { local: Some(ip("192.0.2.9")), ..wanted.settings() },
        ] {
            assert_eq!(action(Some(&Link { vxlan: Some(other), ..right.clone() }), &wanted), TunnelAction::Remake);
        }
        let foreign = Vxlan { vni: 4096, ..wanted.settings() };
        assert_eq!(action(Some(&Link { vxlan: Some(foreign), ..right.clone() }), &wanted), TunnelAction::Foreign);
        assert_eq!(action(Some(&Link { vxlan: None, kind: None, ..right }), &wanted), TunnelAction::Foreign);
    }
}
