//! The matrix of forged frames: for each protocol and header, one frame for each identity that a
//! pod could claim. Also the honest frames that prove that the watchers see anything.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ropeway_tests::pod::IpFamily;

use super::frames::{ARP, BROADCAST, FromTo, Mac, arp, ethernet, icmp, tagged, udp};

/// The text in every forged frame.
pub(crate) const FORGED: &str = "rw-forged-packet";
/// The text in every honest frame, which proves that the watchers see frames.
pub(crate) const HONEST: &str = "rw-honest-packet";

/// The addresses that the pod knows.
pub(crate) struct Cast {
    pub(crate) own: Identity,
    /// The node's end of its veth.
    pub(crate) gateway: Mac,
    /// Another pod on the node, a pod on another node, the node itself, a Service.
    pub(crate) others: Vec<Identity>,
}

#[derive(Clone, Copy)]
pub(crate) struct Identity {
    pub(crate) mac: Mac,
    pub(crate) four: Ipv4Addr,
    pub(crate) six: Ipv6Addr,
}

impl Identity {
    pub(crate) fn ip(&self, family: IpFamily) -> IpAddr {
        match family {
            IpFamily::V4 => self.four.into(),
            IpFamily::V6 => self.six.into(),
        }
    }
}

const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0xbad);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: Mac = [0x33, 0x33, 0, 0, 0, 1];
const DHCP_AGENTS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
/// An unassigned MAC.
pub(crate) const FORGED_MAC: Mac = [0x02, 0xba, 0xd0, 0xba, 0xd0, 0x01];

fn sources(family: IpFamily, cast: &Cast) -> Vec<IpAddr> {
    let mut all: Vec<IpAddr> = cast.others.iter().map(|other| other.ip(family)).collect();
    all.extend(match family {
        IpFamily::V4 => ["0.0.0.0", "127.0.0.1", "169.254.1.1", "224.0.0.1", "255.255.255.255", "198.51.100.7"]
            .map(|a| a.parse::<IpAddr>().unwrap())
            .to_vec(),
        IpFamily::V6 => ["::", "::1", "fe80::1", "ff02::1", "2001:db8::7", "::ffff:10.244.1.1"]
            .map(|a| a.parse::<IpAddr>().unwrap())
            .to_vec(),
    });
    all
}

/// Returns the forged frames. Ports differ, so that no frame belongs to a flow that another one has
/// opened.
pub(crate) fn forged(cast: &Cast) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    let mut port = 20_000;
    let mut datagram = |from, to| {
        port += 1;
        udp(FromTo { from, to }, FromTo { from: port, to: 8080 }, FORGED.as_bytes())
    };
    for family in IpFamily::BOTH {
        let own = cast.own.ip(family);
        for other in &cast.others {
            let to = other.ip(family);
            for from in sources(family, cast).into_iter().filter(|from| *from != to) {
                let (kind, packet) = datagram(from, to);
                let plain = ethernet(cast.gateway, cast.own.mac, kind, &packet);
                all.push(ethernet(cast.gateway, FORGED_MAC, kind, &packet));
                all.push(ethernet(BROADCAST, other.mac, kind, &packet));
                all.push(tagged(&plain, &[7]));
                all.push(tagged(&plain, &[7, 8]));
                all.push(plain);
            }
        }
        // The pod's address with another's MAC, or in another 802.1Q network of the link.
        for other in &cast.others {
            let (kind, packet) = datagram(own, other.ip(family));
            for mac in [FORGED_MAC, other.mac, cast.gateway] {
                all.push(ethernet(cast.gateway, mac, kind, &packet));
            }
            let plain = ethernet(cast.gateway, cast.own.mac, kind, &packet);
            all.push(tagged(&plain, &[7]));
            all.push(tagged(&plain, &[7, 8]));
        }
        let loopback: IpAddr =
            if family == IpFamily::V4 { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
        let (kind, packet) = datagram(own, loopback);
        all.push(ethernet(cast.gateway, cast.own.mac, kind, &packet));
    }
    all.extend(arps(cast));
    all.extend(discovery(cast));
    all.extend(redirects(cast));
    all.extend(dhcp(cast));
    all
}

fn arps(cast: &Cast) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for other in &cast.others {
        for mac in [cast.own.mac, FORGED_MAC] {
            let (owner, unknown) = ((mac, other.four), ([0; 6], other.four));
            let requested = (cast.gateway, cast.own.four);
            for (operation, target, to) in
                [(2, requested, cast.gateway), (2, owner, BROADCAST), (1, unknown, BROADCAST)]
            {
                let message = arp(operation, owner, target, FORGED.as_bytes());
                all.push(ethernet(to, mac, ARP, &message));
                all.push(tagged(&ethernet(to, mac, ARP, &message), &[7]));
            }
        }
    }
    all
}

/// Returns an IP option of type 253, which is for experiments (RFC 4727), so that other programs
/// ignore it.
fn option() -> Vec<u8> {
    [&[253, 3][..], FORGED.as_bytes(), &[0; 6]].concat()
}

/// Returns neighbour solicitations and advertisements, and router advertisements (RFC 4861, section
/// 4).
fn discovery(cast: &Cast) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    let link_layer = |kind: u8| [&[kind, 1][..], &FORGED_MAC[..]].concat();
    for from in [LINK_LOCAL, cast.own.six, cast.others[0].six] {
        for other in &cast.others {
            let target = other.six.octets();
            let solicitation = [&[0; 4][..], &target, &link_layer(1), &option()].concat();
            let advertisement = [&[0xe0, 0, 0, 0][..], &target, &link_layer(2), &option()].concat();
            for (kind, rest) in [(135, solicitation), (136, advertisement)] {
                let (ether, packet) = icmp(FromTo { from: from.into(), to: ALL_NODES.into() }, kind, &rest);
                all.push(ethernet(ALL_NODES_MAC, FORGED_MAC, ether, &packet));
            }
        }
        // A router with a lifetime of half an hour and a prefix.
        let prefix = [&[3, 4, 64, 0xc0][..], &[0, 0, 7, 8, 0, 0, 7, 8, 0, 0, 0, 0], &LINK_PREFIX.octets()].concat();
        let router = [&[64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0][..], &prefix, &link_layer(1), &option()].concat();
        let (ether, packet) = icmp(FromTo { from: from.into(), to: ALL_NODES.into() }, 134, &router);
        all.push(ethernet(ALL_NODES_MAC, FORGED_MAC, ether, &packet));
    }
    all
}

const LINK_PREFIX: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xbad, 0, 0, 0, 0, 0);

/// Returns redirects to the pod (RFC 792; RFC 4861, section 4.5).
fn redirects(cast: &Cast) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    let node = &cast.others[cast.others.len() - 1];
    for other in &cast.others {
        let (_, about) =
            udp(FromTo { from: node.four.into(), to: other.four.into() }, FromTo { from: 1, to: 2 }, FORGED.as_bytes());
        let rest = [&cast.own.four.octets()[..], &about].concat();
        for from in [cast.own.four, Ipv4Addr::new(169, 254, 1, 1)] {
            let (ether, packet) = icmp(FromTo { from: from.into(), to: node.four.into() }, 5, &rest);
            all.push(ethernet(cast.gateway, cast.own.mac, ether, &packet));
        }
        let rest = [&[0; 4][..], &LINK_LOCAL.octets(), &other.six.octets(), &option()].concat();
        for from in [LINK_LOCAL, Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1)] {
            let (ether, packet) = icmp(FromTo { from: from.into(), to: node.six.into() }, 137, &rest);
            all.push(ethernet(cast.gateway, cast.own.mac, ether, &packet));
        }
    }
    all
}

/// Returns a server's answers, from the pod's address and from another's.
fn dhcp(cast: &Cast) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for from in [cast.own, cast.others[0]] {
        let four = FromTo { from: IpAddr::from(from.four), to: Ipv4Addr::BROADCAST.into() };
        let (ether, packet) = udp(four, FromTo { from: 67, to: 68 }, FORGED.as_bytes());
        all.push(ethernet(BROADCAST, cast.own.mac, ether, &packet));
        for to in [ALL_NODES, DHCP_AGENTS] {
            let six = FromTo { from: IpAddr::from(from.six), to: to.into() };
            let (ether, packet) = udp(six, FromTo { from: 547, to: 546 }, FORGED.as_bytes());
            all.push(ethernet(ALL_NODES_MAC, cast.own.mac, ether, &packet));
        }
    }
    all
}

/// Returns the honest frames: one to each of `to`, in each family.
pub(crate) fn honest(cast: &Cast, to: &[Identity]) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for family in IpFamily::BOTH {
        for other in to {
            let from_to = FromTo { from: cast.own.ip(family), to: other.ip(family) };
            let (kind, packet) = udp(from_to, FromTo { from: 19_999, to: 8080 }, HONEST.as_bytes());
            all.push(ethernet(cast.gateway, cast.own.mac, kind, &packet));
        }
    }
    all
}
