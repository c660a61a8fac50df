//! The host devices: the pair [`OUT`] and [`IN`], by which the node is a client of its own packet path.
//!
//! A socket hook redirects most of what the node's processes send to a Service. The rest (protocols without such a hook,
//! raw packets, packets that are to be dropped silently) needs the packet path, which begins at ingress. So the networks
//! of Services are routed into [`OUT`]. Packets sent there arrive at [`IN`], which has the programs of a pod and an entry
//! in `pods` with the node's addresses. Answers go back the same way. The node's own pod blocks are routed there too: a
//! connected socket whose backend on this node is gone keeps sending, and the program at the egress of [`OUT`] redirects
//! it to another backend.

use std::os::fd::AsFd;

use bytemuck::Zeroable;
use dataplane_common::types::pod::{POD_SLOTS, Pod, pod_flags};
use dataplane_host::map::{MapError, Table};
use dataplane_host::netlink::{
    Hop, Link, NetlinkError, NetlinkEvent, NetlinkRequest, Route, Socket, Veth, create_veth, delete_link, quiet_link,
    set_mtu, set_up, without_arp,
};
use dataplane_host::netns::Netns;
use dataplane_host::pins::Pins;
use ipnetwork::IpNetwork;
use tracing::info;

use super::discover::NodeFacts;
use crate::load::programs::Programs;
use crate::load::{LoadError, attach};
use crate::network::routes;

/// The node's end of the pair.
pub const OUT: &str = "ropeway.out";
/// The end by which packets come to the programs.
pub const IN: &str = "ropeway.in";
/// The hardware address of both ends: without ARP, the kernel writes the sending device's own address for the other end's.
const MAC: [u8; 6] = [0x52, 0x57, 0, 0, 0, 1];
/// So many indices are tried for a device, which others make meanwhile.
const TRIES: usize = 8;

/// The reason why the host devices could not be put in place.
#[derive(Debug, thiserror::Error)]
pub enum HostDeviceError {
    /// The kernel refused.
    #[error("host devices {OUT} and {IN}: {0}")]
    Netlink(#[from] NetlinkError),
    /// The programs can't be attached.
    #[error("host devices {OUT} and {IN}: {0}")]
    Load(#[from] LoadError),
    /// The entry in `pods` can't be written.
    #[error("host devices {OUT} and {IN}: {0}")]
    Map(#[from] MapError),
    /// This namespace can't be named.
    #[error("host devices {OUT} and {IN}: opening this network namespace: {0}")]
    Namespace(#[source] std::io::Error),
    /// A name is taken.
    #[error("host devices {OUT} and {IN}: device {name} exists and was not made by Ropeway: remove or rename it")]
    Foreign {
        /// The name.
        name: String,
    },
    /// It was made, and is gone again, or no index is free for it.
    #[error("cannot create the host devices {OUT} and {IN} (or another program removed them)")]
    Gone,
}

/// The pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostDevice {
    /// [`OUT`].
    pub out: Link,
    /// [`IN`].
    pub inner: Link,
}

impl HostDevice {
    /// The pair, if an agent has made it.
    #[must_use]
    pub fn find(links: &[Link]) -> Option<Self> {
        let named = |name| links.iter().find(|l: &&Link| l.name == name && l.kind.as_deref() == Some("veth"));
        let (out, inner) = (named(OUT)?, named(IN)?);
        (out.lower == Some(inner.index) && out.peer_netns.is_none())
            .then(|| Self { out: out.clone(), inner: inner.clone() })
    }

    /// The networks that our routes lead there.
    #[must_use]
    pub fn networks(&self, routes: &[Route]) -> Vec<IpNetwork> {
        let leads_here = |route: &&Route| match route.hop {
            Hop::Gateway { index, .. } => routes::is_ours(route) && index == Some(self.out.index),
            _ => false,
        };
        routes.iter().filter(leads_here).map(|route| route.destination).collect()
    }

    /// Whether an event has to do with the pair.
    #[must_use]
    pub fn is_relevant(&self, event: &NetlinkEvent) -> bool {
        let own = [&self.out, &self.inner];
        match event {
            NetlinkEvent::Link(link) => own.into_iter().any(|l| l.index == link.index && l != link),
            NetlinkEvent::LinkGone(link) => own.into_iter().any(|l| l.index == link.index),
            _ => false,
        }
    }
}

/// Creates or repairs the pair, its programs and its entry in `pods`. Returns it with the number of operations.
///
/// # Errors
/// It can't be made, or its programs and entry can't be put in place.
pub fn ensure(
    socket: &mut Socket,
    (pins, programs): (&Pins, &Programs),
    links: &[Link],
    facts: &NodeFacts,
    mtu: u32,
) -> Result<(HostDevice, usize), HostDeviceError> {
    let table = Table::<u32, Pod>::open(pins, "pods")?;
    let mut operations = 0;
    let host_device = if let Some(host_device) = HostDevice::find(links) {
        host_device
    } else {
        operations += 1;
        make(socket, &table, links, mtu)?
    };
    let entry = entry(facts);
    if table.get(&host_device.inner.index)? != Some(entry) {
        table.insert(&host_device.inner.index, &entry)?;
        operations += 1;
    }
    // The programs before the first packet.
    operations += attach::by_filter(programs, host_device.inner.index, &attach::POD_HOOKS, socket)?;
    operations += attach::by_filter(programs, host_device.out.index, &attach::POD_HOOKS[1..], socket)?;
    let requests: Vec<NetlinkRequest> =
        [&host_device.inner, &host_device.out].into_iter().flat_map(|link| settings(link, mtu)).collect();
    operations += requests.len();
    socket.run(&requests)?;
    if requests.is_empty() { Ok((host_device, operations)) } else { Ok((find(socket)?, operations)) }
}

/// What a device lacks. One that is down has been made just now, by this agent or one that died over it, or is in doubt.
fn settings(link: &Link, mtu: u32) -> Vec<NetlinkRequest> {
    let index = link.index;
    let mut requests = if link.up { vec![] } else { vec![quiet_link(index), without_arp(index), set_up(index)] };
    if link.mtu != mtu {
        requests.push(set_mtu(index, mtu));
    }
    requests
}

fn find(socket: &mut Socket) -> Result<HostDevice, HostDeviceError> {
    HostDevice::find(&socket.links()?).ok_or(HostDeviceError::Gone)
}

/// Makes the pair, down.
fn make(socket: &mut Socket, table: &Table<u32, Pod>, links: &[Link], mtu: u32) -> Result<HostDevice, HostDeviceError> {
    if let Some(link) = links.iter().find(|l| [OUT, IN].contains(&l.name.as_str())) {
        return Err(HostDeviceError::Foreign { name: link.name.clone() });
    }
    let entries = table.entries()?;
    for (index, _) in entries.iter().filter(|(_, pod)| pod.flags & pod_flags::NODE != 0) {
        table.insert(index, &Pod::zeroed())?;
    }
    let here = Netns::current().map_err(HostDeviceError::Namespace)?;
    // From above: the kernel counts from below.
    let taken = |index: &u32| {
        let is_pod = |(i, pod): &(u32, Pod)| i == index && pod.flags & pod_flags::PRESENT != 0;
        links.iter().any(|l| l.index == *index) || entries.iter().any(is_pod)
    };
    let free = (1..POD_SLOTS).rev().filter(|index| !taken(index)).take(TRIES);
    for index in free {
        let veth = Veth { name: IN, index, mac: MAC, mtu, peer_name: OUT, peer_mac: MAC, peer_netns: here.as_fd() };
        match socket.run(&[create_veth(&veth)]) {
            Ok(()) => {
                let host_device = find(socket)?;
                info!(device = OUT, index = host_device.out.index, mtu, "host devices created");
                return Ok(host_device);
            }
            Err(e) if matches!(e.refusal(), Some(libc::EBUSY | libc::EEXIST)) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Err(HostDeviceError::Gone)
}

/// The node as a pod. Its packets go through the queue of its device: past it, the kernel lets none into the namespace that they are in.
fn entry(facts: &NodeFacts) -> Pod {
    let (addr4, addr6) = facts.own();
    let flags = pod_flags::PRESENT | pod_flags::SHAPED | pod_flags::NODE;
    Pod { addr4, addr6, mac: MAC, host_mac: MAC, flags, ..Pod::zeroed() }
}

/// Removes the pair, and with it its routes and programs.
///
/// # Errors
/// The kernel refused.
pub fn remove(socket: &mut Socket, links: &[Link]) -> Result<usize, NetlinkError> {
    let Some(host_device) = HostDevice::find(links) else { return Ok(0) };
    match socket.run(&[delete_link(host_device.out.index)]) {
        Err(e) if !e.is_missing() => Err(e),
        _ => Ok(1),
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn link(name: &str, index: u32, lower: u32) -> Link {
        Link {
            index,
            name: name.into(),
            mac: MAC,
            mtu: 1500,
            up: true,
            running: true,
            kind: Some("veth".into()),
            group: 0,
            lower: Some(lower),
            peer_netns: None,
            controller: None,
            vxlan: None,
        }
    }

    #[test]
    fn only_a_pair_is_ours() {
        let pair = [link(IN, 16383, 7), link(OUT, 7, 16383)];
        let host_device = HostDevice::find(&pair).unwrap();
        assert!(
            host_device.is_relevant(&NetlinkEvent::LinkGone(pair[1].clone()))
                && !host_device.is_relevant(&NetlinkEvent::Link(pair[0].clone()))
        );
        assert_eq!(HostDevice::find(&pair[1..]), None);
        assert_eq!(HostDevice::find(&[pair[0].clone(), link(OUT, 7, 9)]), None);
        let mut elsewhere = pair.clone();
        elsewhere[1].peer_netns = Some(1);
        assert_eq!(HostDevice::find(&elsewhere), None);
        let mut other = pair;
        other[0].kind = Some("dummy".into());
        assert_eq!(HostDevice::find(&other), None);
    }

    #[test]
    fn the_node_has_an_address_of_each_family() {
        let with = |node_ips| entry(&NodeFacts { node_ips, ..NodeFacts::default() });
        let pod = with(vec!["192.168.50.11".parse().unwrap(), "fd00:50::11".parse().unwrap()]);
        assert_eq!(IpAddr::from(pod.addr4).to_string(), "192.168.50.11");
        assert_eq!(IpAddr::from(pod.addr6).to_string(), "fd00:50::11");
        assert_eq!(IpAddr::from(with(vec![]).addr4).to_string(), "0.0.0.0");
    }
}
