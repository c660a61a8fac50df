//! Creates and repairs the tunnel devices, their addresses, forwarding and neighbour entries.
//!
//! Called by the node task with a listing of the present devices. Changes only what differs. A
//! failure with one device does not stop the work on the other.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use dataplane_common::types::ip_family::IpFamily;
use dataplane_host::netlink::{
    IfIndex, InterfaceAddress, Link, NetlinkError, NetlinkRequest, Socket, add_address, create_vxlan, delete_address,
    delete_fdb, delete_link, delete_neighbour, has_ipv6, quiet_tunnel, replace_fdb, replace_neighbour, set_mac,
    set_mtu, set_up,
};
use ipnetwork::IpNetwork;
use tracing::info;

use super::{Devices, NAMES, Peers, Tunnel, TunnelAction, action, is_ours, mac};

/// The reason why a tunnel can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TunnelError {
    /// The kernel rejected a request.
    #[error("tunnel: {0}")]
    Netlink(#[from] NetlinkError),
    /// Another program's device has the name.
    #[error("tunnel: device {name} exists and was not made by Ropeway: remove or rename it")]
    Foreign {
        /// Name of the device.
        name: &'static str,
    },
    /// The device disappeared right after it was created.
    #[error("tunnel: device {name} was removed by another program while it was being created")]
    Gone {
        /// Name of the device.
        name: &'static str,
    },
}

/// The result of [`apply`].
#[derive(Debug, Default)]
pub struct TunnelOutcome {
    /// Devices that are ready.
    pub devices: Devices,
    /// Number of changes that were made.
    pub operations: usize,
    /// All failures, at most one for each device.
    pub errors: Vec<TunnelError>,
}

/// Creates, adopts and repairs the `wanted` tunnels, including their entries for remote nodes.
///
/// Removes our devices of families that are not `used`. A used one that is not wanted stays: this
/// node has lost its address and may get it back. `links` and `present` are all devices and
/// addresses of the node.
pub fn apply(
    socket: &mut Socket,
    links: &[Link],
    present: &[InterfaceAddress],
    wanted: &[Tunnel],
    used: [bool; 2],
) -> TunnelOutcome {
    let mut outcome = TunnelOutcome::default();
    let unused = |l: &&Link| is_ours(l) && !used[usize::from(l.name == NAMES[1])];
    for link in links.iter().filter(unused) {
        match remove(socket, link) {
            Ok(count) => outcome.operations += count,
            Err(e) => outcome.errors.push(e.into()),
        }
    }
    for tunnel in wanted {
        let link = links.iter().find(|l| l.name == tunnel.name());
        let done = device(socket, link, tunnel).and_then(|(index, changes)| {
            outcome.operations += changes;
            outcome.operations += addresses(socket, index, present, &tunnel.addresses)?;
            outcome.devices.indices[IpFamily::of(tunnel.local).index()] = Some(index);
            Ok(peers(socket, index, &tunnel.peers)?)
        });
        match done {
            Ok(changes) => outcome.operations += changes,
            Err(e) => outcome.errors.push(e),
        }
    }
    outcome
}

fn remove(socket: &mut Socket, link: &Link) -> Result<usize, NetlinkError> {
    match socket.run(&[delete_link(link.index)]) {
        Ok(()) => {
            info!(device = link.name, "tunnel removed: no node needs it");
            Ok(1)
        }
        Err(e) if e.is_missing() => Ok(0),
        Err(e) => Err(e),
    }
}

fn device(socket: &mut Socket, present: Option<&Link>, wanted: &Tunnel) -> Result<(IfIndex, usize), TunnelError> {
    let name = wanted.name();
    let requests = match (action(present, wanted), present) {
        (TunnelAction::Foreign, _) => return Err(TunnelError::Foreign { name }),
        (TunnelAction::Make, _) | (_, None) => return make(socket, wanted),
        (TunnelAction::Remake, Some(link)) => {
            info!(device = name, present = ?link.vxlan, wanted = ?wanted.settings(), "tunnel settings differ: replacing the device");
            socket.run(&[delete_link(link.index)])?;
            return make(socket, wanted).map(|(index, changes)| (index, changes + 1));
        }
        (TunnelAction::Keep, Some(link)) => return Ok((link.index, 0)),
        (TunnelAction::Change { mac, mtu, down }, Some(link)) => {
            let index = link.index;
            let all = [(mac, set_mac(index, wanted.mac)), (mtu, set_mtu(index, wanted.mtu)), (down, set_up(index))];
            all.into_iter().filter_map(|(due, request)| due.then_some(request)).collect::<Vec<_>>()
        }
    };
    for request in &requests {
        info!(device = name, "{}", request.attempt());
    }
    socket.run(&requests)?;
    Ok((present.map_or(IfIndex(0), |l| l.index), requests.len()))
}

fn make(socket: &mut Socket, wanted: &Tunnel) -> Result<(IfIndex, usize), TunnelError> {
    let name = wanted.name();
    socket.run(&[create_vxlan(name, wanted.mac, wanted.mtu, &wanted.settings())])?;
    let index = socket.link_by_name(name)?.ok_or(TunnelError::Gone { name })?.index;
    // The settings come before `up`, so that the kernel assigns no addresses to the device.
    socket.run(&[quiet_tunnel(index, has_ipv6()), set_up(index)])?;
    info!(device = name, local = %wanted.local, mtu = wanted.mtu, port = wanted.port, "tunnel created");
    Ok((index, 1))
}

/// Ensures that the device has exactly these addresses of global scope. Link-local ones are the
/// kernel's.
fn addresses(
    socket: &mut Socket,
    index: IfIndex,
    present: &[InterfaceAddress],
    wanted: &BTreeSet<IpNetwork>,
) -> Result<usize, NetlinkError> {
    let present: BTreeSet<_> = present.iter().filter(|a| a.index == index && !a.narrow).map(|a| a.network).collect();
    let missing = wanted.difference(&present).map(|network| add_address(index, *network));
    let stale = present.difference(wanted).map(|network| delete_address(index, *network));
    let requests: Vec<_> = missing.chain(stale).collect();
    for (_, error) in socket.run_each(&requests) {
        // Another program may have made the same change in between.
        if error.refusal() != Some(libc::EEXIST) && !error.is_missing() {
            return Err(error);
        }
    }
    Ok(requests.len())
}

/// Ensures that the device has forwarding and neighbour entries for exactly these remote nodes.
fn peers(socket: &mut Socket, index: IfIndex, wanted: &Peers) -> Result<usize, NetlinkError> {
    let remotes: BTreeMap<[u8; 6], IpAddr> = wanted.keys().map(|remote| (mac(*remote), *remote)).collect();
    let neighbours: BTreeMap<IpAddr, [u8; 6]> =
        wanted.iter().flat_map(|(remote, inner)| inner.iter().map(|a| (*a, mac(*remote)))).collect();
    let mut requests: Vec<NetlinkRequest> = Vec::new();

    let present = socket.fdb(index)?;
    // Entries that are not permanent may expire, so they are replaced.
    let right: BTreeSet<_> = present.iter().filter(|e| e.permanent).map(|e| (e.mac, e.remote)).collect();
    requests
        .extend(remotes.iter().filter(|(m, r)| !right.contains(&(**m, **r))).map(|(m, r)| replace_fdb(index, *m, *r)));
    let stale: BTreeSet<_> = present.iter().map(|e| e.mac).filter(|m| !remotes.contains_key(m)).collect();
    requests.extend(stale.into_iter().map(|mac| delete_fdb(index, mac)));

    let present: BTreeMap<_, _> = socket
        .neighbours()?
        .into_iter()
        .filter(|n| n.index == index && n.permanent)
        .map(|n| (n.address, n.mac))
        .collect();
    let set = neighbours.iter().filter(|(a, m)| present.get(a) != Some(&Some(**m)));
    requests.extend(set.map(|(a, m)| replace_neighbour(index, *a, *m)));
    let stale = present.keys().filter(|a| !neighbours.contains_key(a));
    requests.extend(stale.map(|a| delete_neighbour(index, *a)));

    for (_, error) in socket.run_each(&requests) {
        if !error.is_missing() {
            return Err(error);
        }
    }
    Ok(requests.len())
}

/// Removes all tunnel devices of ours, for `ropeway uninstall`.
///
/// # Errors
/// The kernel rejected a request.
pub fn remove_all(socket: &mut Socket) -> Result<usize, NetlinkError> {
    let mut count = 0;
    for name in NAMES {
        if let Some(link) = socket.link_by_name(name)?.filter(is_ours) {
            count += remove(socket, &link)?;
        }
    }
    Ok(count)
}
