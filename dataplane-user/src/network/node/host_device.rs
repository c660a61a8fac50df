//! The host devices: the veth pair [`OUT`] and [`IN`], which makes the node a client of its own
//! packet path.
//!
//! A socket hook redirects most of what the node's processes send to a Service. The rest (protocols
//! without such a hook, raw packets, packets that are to be dropped silently) needs the packet
//! path, which begins at ingress. So the networks of Services are routed into [`OUT`]. Packets sent
//! there arrive at [`IN`], which has the programs of a pod and an entry in `pods` with the node's
//! addresses; replies take the same path back. The node's own pod blocks are routed there too: a
//! connected socket whose local backend is gone keeps sending, and the program at the egress of
//! [`OUT`] redirects it to another backend.

mod pair;

use std::os::fd::AsFd;

use bytemuck::Zeroable;
use dataplane_common::types::pod::{POD_SLOTS, Pod, pod_flags};
use dataplane_host::map::{MapError, PinnedMap};
use dataplane_host::netlink::{
    IfIndex, Link, NetlinkError, NetlinkEvent, NetlinkRequest, Socket, Veth, create_veth, delete_link, quiet_link,
    set_mtu, set_up, without_arp,
};
use dataplane_host::netns::Netns;
use dataplane_host::pins::Pins;
use tracing::info;

use super::discover::NodeFacts;
use crate::load::programs::Programs;
use crate::load::{LoadError, attach};
pub use pair::{HostDevice, IN, OUT};

/// MAC address of both ends. ARP is off, so the kernel writes the sending device's own address as
/// the destination.
const MAC: [u8; 6] = [0x52, 0x57, 0, 0, 0, 1];
/// Number of interface indices that are tried, because other programs create links at the same
/// time.
const TRIES: usize = 8;

/// Error of creating or configuring the host devices.
#[derive(Debug, thiserror::Error)]
pub enum HostDeviceError {
    /// The kernel refused a netlink request.
    #[error("host devices {OUT} and {IN}: {0}")]
    Netlink(#[from] NetlinkError),
    /// The programs could not be attached.
    #[error("host devices {OUT} and {IN}: {0}")]
    Load(#[from] LoadError),
    /// The entry in `pods` could not be written.
    #[error("host devices {OUT} and {IN}: {0}")]
    Map(#[from] MapError),
    /// The network namespace could not be opened.
    #[error("host devices {OUT} and {IN}: cannot open this network namespace: {0}")]
    Namespace(#[source] std::io::Error),
    /// Another program's link has one of the names.
    #[error("host devices {OUT} and {IN}: device {name} exists and was not made by Ropeway: remove or rename it")]
    Foreign {
        /// Name of that link.
        name: String,
    },
    /// The pair was removed right after it was created, or no interface index is free.
    #[error("cannot create the host devices {OUT} and {IN} (or another program removed them)")]
    Gone,
}

/// Creates or repairs the pair, its programs and its entry in `pods`. Returns it with the number of
/// operations.
///
/// # Errors
/// It cannot be created, or its programs or its entry cannot be written.
fn ensure(
    socket: &mut Socket,
    (pins, programs): (&Pins, &Programs),
    links: &[Link],
    facts: &NodeFacts,
    mtu: u32,
) -> Result<(HostDevice, usize), HostDeviceError> {
    let table = PinnedMap::<u32, Pod>::open(pins, "pods")?;
    let mut operations = 0;
    let host_device = if let Some(host_device) = HostDevice::find(links) {
        host_device
    } else {
        operations += 1;
        make(socket, &table, links, mtu)?
    };
    let entry = entry(facts);
    if table.get(&host_device.inner.index.0)? != Some(entry) {
        table.insert(&host_device.inner.index.0, &entry)?;
        operations += 1;
    }
    // Before the links are up: the first packet must find the programs.
    operations += attach::by_filter(programs, host_device.inner.index, &attach::POD_HOOKS, socket)?;
    operations += attach::by_filter(programs, host_device.out.index, &attach::POD_HOOKS[1..], socket)?;
    let requests: Vec<NetlinkRequest> =
        [&host_device.inner, &host_device.out].into_iter().flat_map(|link| settings(link, mtu, facts.ipv6)).collect();
    operations += requests.len();
    socket.run(&requests)?;
    if requests.is_empty() { Ok((host_device, operations)) } else { Ok((find(socket)?, operations)) }
}

/// Returns the requests that configure a link. A link that is down was just created, by this agent
/// or by one that was killed meanwhile, so it gets all settings.
fn settings(link: &Link, mtu: u32, ipv6: bool) -> Vec<NetlinkRequest> {
    let index = link.index;
    let mut requests = if link.up { vec![] } else { vec![quiet_link(index, ipv6), without_arp(index), set_up(index)] };
    if link.mtu != mtu {
        requests.push(set_mtu(index, mtu));
    }
    requests
}

fn find(socket: &mut Socket) -> Result<HostDevice, HostDeviceError> {
    HostDevice::find(&socket.links()?).ok_or(HostDeviceError::Gone)
}

/// Creates the pair; the links are down.
fn make(
    socket: &mut Socket,
    table: &PinnedMap<u32, Pod>,
    links: &[Link],
    mtu: u32,
) -> Result<HostDevice, HostDeviceError> {
    if let Some(link) = links.iter().find(|l| [OUT, IN].contains(&l.name.as_str())) {
        return Err(HostDeviceError::Foreign { name: link.name.clone() });
    }
    let entries = table.entries()?;
    for (index, _) in entries.iter().filter(|(_, pod)| pod.flags & pod_flags::NODE != 0) {
        table.insert(index, &Pod::zeroed())?;
    }
    let here = Netns::current().map_err(HostDeviceError::Namespace)?;
    // From the highest index down, because the kernel assigns its own from the lowest up.
    let taken = |index: &IfIndex| {
        let is_pod = |(i, pod): &(u32, Pod)| *i == index.0 && pod.flags & pod_flags::PRESENT != 0;
        links.iter().any(|l| l.index == *index) || entries.iter().any(is_pod)
    };
    let free = (1..POD_SLOTS).rev().map(IfIndex).filter(|index| !taken(index)).take(TRIES);
    for index in free {
        let veth = Veth { name: IN, index, mac: MAC, mtu, peer_name: OUT, peer_mac: MAC, peer_netns: here.as_fd() };
        match socket.run(&[create_veth(&veth)]) {
            Ok(()) => {
                let host_device = find(socket)?;
                info!(device = OUT, index = host_device.out.index.0, mtu, "host devices created");
                return Ok(host_device);
            }
            Err(e) if matches!(e.refusal(), Some(libc::EBUSY | libc::EEXIST)) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Err(HostDeviceError::Gone)
}

/// Returns the node's entry in `pods`. `SHAPED` sends packets through the device's queue, because
/// `bpf_redirect_peer` drops packets whose device is in the same network namespace
/// (`skb_do_redirect` in the kernel's net/core/filter.c).
fn entry(facts: &NodeFacts) -> Pod {
    let (addr4, addr6) = facts.own();
    let flags = pod_flags::PRESENT | pod_flags::SHAPED | pod_flags::NODE;
    Pod { addr4, addr6, mac: MAC, host_mac: MAC, flags, ..Pod::zeroed() }
}

/// The job of the node's task: keeps the pair while the service proxy is on.
#[derive(Debug, Default)]
pub(super) struct HostDeviceState {
    present: Option<HostDevice>,
}

/// What the pair depends on.
#[derive(Clone, Copy)]
pub(super) struct HostDeviceInputs<'a> {
    pub(super) service_proxy: bool,
    /// The maps are complete; see `Conditions`.
    pub(super) maps: bool,
    pub(super) links: &'a [Link],
    pub(super) facts: &'a NodeFacts,
    /// MTU of pods.
    pub(super) mtu: u32,
}

impl HostDeviceState {
    /// Returns the pair as of the last call of [`Self::apply`].
    pub(super) const fn present(&self) -> Option<&HostDevice> {
        self.present.as_ref()
    }

    pub(super) fn is_relevant(&self, event: &NetlinkEvent) -> bool {
        self.present.as_ref().is_some_and(|pair| pair.is_relevant(event))
    }

    /// Creates, repairs or removes the pair, and returns the number of operations. While the maps
    /// are incomplete, the pair of the previous agent stays as it is.
    pub(super) fn apply(
        &mut self,
        socket: &mut Socket,
        programs: (&Pins, &Programs),
        inputs: &HostDeviceInputs<'_>,
    ) -> Result<usize, HostDeviceError> {
        let HostDeviceInputs { service_proxy, maps, links, facts, mtu } = *inputs;
        self.present = None;
        if !service_proxy {
            return Ok(remove(socket, links)?);
        }
        if !maps {
            self.present = HostDevice::find(links);
            return Ok(0);
        }
        let (pair, operations) = ensure(socket, programs, links, facts, mtu)?;
        self.present = Some(pair);
        Ok(operations)
    }
}

/// Deletes the pair; the kernel removes its routes and programs with it. Returns the number of
/// operations.
///
/// # Errors
/// The kernel refused the request.
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

    #[test]
    fn node_has_an_address_of_each_family() {
        let with = |node_ips| entry(&NodeFacts { node_ips, ..NodeFacts::default() });
        let pod = with(vec!["192.168.50.11".parse().unwrap(), "fd00:50::11".parse().unwrap()]);
        assert_eq!(IpAddr::from(pod.addr4).to_string(), "192.168.50.11");
        assert_eq!(IpAddr::from(pod.addr6).to_string(), "fd00:50::11");
        assert_eq!(IpAddr::from(with(vec![]).addr4).to_string(), "0.0.0.0");
    }
}
