//! Makes the devices and their entries what they should be.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use dataplane_host::netlink::{
    InterfaceAddress, Link, NetlinkError, NetlinkRequest, Socket, add_address, create_vxlan, delete_address,
    delete_fdb, delete_link, delete_neighbour, quiet_tunnel, replace_fdb, replace_neighbour, set_mac, set_mtu, set_up,
};
use ipnetwork::IpNetwork;
use tracing::info;

use super::{Devices, NAMES, Peers, Tunnel, TunnelAction, action, is_ours, mac};

/// Why a tunnel is not there.
#[derive(Debug, thiserror::Error)]
pub enum TunnelError {
    /// The kernel refused.
    #[error("tunnel: {0}")]
    Netlink(#[from] NetlinkError),
    /// The name is taken.
    #[error("tunnel: there is a device {name} that is not ours: remove or rename it")]
    Foreign {
        /// The name.
        name: &'static str,
    },
    /// It was made, and is gone again.
    #[error("tunnel: device {name} was removed while it was being made")]
    Gone {
        /// The name.
        name: &'static str,
    },
}

/// What came of it.
#[derive(Debug, Default)]
pub struct TunnelOutcome {
    /// The devices that are as they should be.
    pub devices: Devices,
    /// How many things were changed.
    pub operations: usize,
    /// What failed.
    pub errors: Vec<TunnelError>,
}

/// Makes, adopts and repairs `wanted`, with their entries for the other ends. Removes ours of the families that are not `used`; one that is used but not
/// wanted waits for this node to have an address again. `links`, `present`: all devices
/// and addresses.
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
            outcome.devices.indices[usize::from(tunnel.local.is_ipv6())] = Some(index);
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
            info!(device = link.name, "removed a tunnel that leads nowhere");
            Ok(1)
        }
        Err(e) if e.is_missing() => Ok(0),
        Err(e) => Err(e),
    }
}

fn device(socket: &mut Socket, present: Option<&Link>, wanted: &Tunnel) -> Result<(u32, usize), TunnelError> {
    let name = wanted.name();
    let requests = match (action(present, wanted), present) {
        (TunnelAction::Foreign, _) => return Err(TunnelError::Foreign { name }),
        (TunnelAction::Make, _) | (_, None) => return make(socket, wanted),
        (TunnelAction::Remake, Some(link)) => {
            info!(device = name, present = ?link.vxlan, wanted = ?wanted.settings(), "the tunnel is made anew");
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
    Ok((present.map_or(0, |l| l.index), requests.len()))
}

fn make(socket: &mut Socket, wanted: &Tunnel) -> Result<(u32, usize), TunnelError> {
    let name = wanted.name();
    socket.run(&[create_vxlan(name, wanted.mac, wanted.mtu, &wanted.settings())])?;
    let index = socket.link_by_name(name)?.ok_or(TunnelError::Gone { name })?.index;
    socket.run(&[quiet_tunnel(index), set_up(index)])?;
    info!(device = name, local = %wanted.local, mtu = wanted.mtu, port = wanted.port, "made the tunnel");
    Ok((index, 1))
}

/// Sees to it that the device has these addresses and no others of its own.
fn addresses(
    socket: &mut Socket,
    index: u32,
    present: &[InterfaceAddress],
    wanted: &BTreeSet<IpNetwork>,
) -> Result<usize, NetlinkError> {
    let present: BTreeSet<_> = present.iter().filter(|a| a.index == index && !a.narrow).map(|a| a.network).collect();
    let missing = wanted.difference(&present).map(|network| add_address(index, *network));
    let stale = present.difference(wanted).map(|network| delete_address(index, *network));
    let requests: Vec<_> = missing.chain(stale).collect();
    for (_, error) in socket.run_each(&requests) {
        if error.refusal() != Some(libc::EEXIST) && !error.is_missing() {
            return Err(error);
        }
    }
    Ok(requests.len())
}

/// Sees to it that the device has entries for these ends and no others.
fn peers(socket: &mut Socket, index: u32, wanted: &Peers) -> Result<usize, NetlinkError> {
    let ends: BTreeMap<[u8; 6], IpAddr> = wanted.keys().map(|remote| (mac(*remote), *remote)).collect();
    let neighbours: BTreeMap<IpAddr, [u8; 6]> =
        wanted.iter().flat_map(|(remote, inner)| inner.iter().map(|a| (*a, mac(*remote)))).collect();
    let mut requests: Vec<NetlinkRequest> = Vec::new();

    let present = socket.fdb(index)?;
    let right: BTreeSet<_> = present.iter().filter(|e| e.permanent).map(|e| (e.mac, e.remote)).collect();
    requests.extend(ends.iter().filter(|(m, r)| !right.contains(&(**m, **r))).map(|(m, r)| replace_fdb(index, *m, *r)));
    let stale: BTreeSet<_> = present.iter().map(|e| e.mac).filter(|m| !ends.contains_key(m)).collect();
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

/// Removes all of ours: `ropeway uninstall`.
///
/// # Errors
/// The kernel refused.
pub fn remove_all(socket: &mut Socket) -> Result<usize, NetlinkError> {
    let mut count = 0;
    for name in NAMES {
        if let Some(link) = socket.link_by_name(name)?.filter(is_ours) {
            count += remove(socket, &link)?;
        }
    }
    Ok(count)
}
