//! Finds the pair of host devices among the kernel's links.
//!
//! Used by the job in `host_device`, by `routing` for the routes and by `ropeway uninstall`. Reads
//! only what was listed before; never asks the kernel.

use dataplane_host::netlink::{Hop, Link, NetlinkEvent, Route};
use ipnetwork::IpNetwork;

use crate::network::routes;

/// The node's end of the pair: Services are routed to it.
pub const OUT: &str = "ropeway.out";
/// The programs' end: packets sent to [`OUT`] arrive here and run the programs of a pod.
pub const IN: &str = "ropeway.in";

/// The pair, as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostDevice {
    /// [`OUT`].
    pub out: Link,
    /// [`IN`].
    pub inner: Link,
}

impl HostDevice {
    /// Returns the pair if an agent has created it: veths of these names that are each other's
    /// peer.
    #[must_use]
    pub fn find(links: &[Link]) -> Option<Self> {
        let named = |name| links.iter().find(|l: &&Link| l.name == name && l.kind.as_deref() == Some("veth"));
        let (out, inner) = (named(OUT)?, named(IN)?);
        (out.lower == Some(inner.index) && out.peer_netns.is_none())
            .then(|| Self { out: out.clone(), inner: inner.clone() })
    }

    /// Returns the networks that Ropeway's routes send to [`OUT`].
    #[must_use]
    pub fn networks(&self, routes: &[Route]) -> Vec<IpNetwork> {
        let leads_here = |route: &&Route| match route.hop {
            Hop::Gateway { index, .. } => routes::is_ours(route) && index == Some(self.out.index),
            _ => false,
        };
        routes.iter().filter(leads_here).map(|route| route.destination).collect()
    }

    /// Returns true if an event changes or removes one of the two links.
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

#[cfg(test)]
mod tests {
    use dataplane_host::netlink::IfIndex;

    use super::*;

    fn link(name: &str, index: u32, lower: u32) -> Link {
        Link {
            index: IfIndex(index),
            name: name.into(),
            mac: [0x52, 0x57, 0, 0, 0, 1],
            ethernet: true,
            mtu: 1500,
            up: true,
            running: true,
            kind: Some("veth".into()),
            group: 0,
            lower: Some(IfIndex(lower)),
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
}
