//! Creates the kernel objects of a pod for ADD: the veth pair, addresses, routes, neighbours, map
//! entries, filters.
//!
//! A failure at any step leaves the rest in place; [`crate::rollback`] removes it from any state.
//! Chooses nothing itself: names, MACs and routes come from [`crate::plan`].

use std::os::fd::AsFd;
use std::path::Path;

use dataplane_host::netlink::{
    Direction, IfIndex, NetlinkError, NetlinkRequest, Socket, Veth, add_address, add_clsact, add_route, create_veth,
    delete_link, has_ipv6, quiet_link, replace_filter, replace_neighbour, set_rate, set_up,
};
use dataplane_host::netns::Netns;
use dataplane_host::store::AttachmentRecord;
use dataplane_host::sys as host_sys;

use crate::capabilities::Bandwidth;
use crate::dataplane::{PodMaps, PodPrograms};
use crate::error::CniError;
use crate::{plan, sysctl};

/// The node's and the pod's network namespace, each with a netlink socket.
#[derive(Debug)]
pub(crate) struct NamespacePair {
    home: Netns,
    pod: Netns,
    pub(crate) netns: String,
    pub(crate) host_socket: Socket,
    pub(crate) pod_socket: Socket,
}

impl NamespacePair {
    /// Opens both. Rejects a path that is not a network namespace, or is the node's own.
    pub(crate) fn open(path: &Path) -> Result<Self, CniError> {
        use std::os::unix::fs::MetadataExt;
        let netns = path.display().to_string();
        let io = |e| CniError::io("enter the network namespaces", e);
        let home = Netns::current().map_err(io)?;
        let none = || CniError::environment("CNI_NETNS", format!("{netns} is not a network namespace"));
        // Opening other kinds of files may have effects or block, as with a pipe.
        if std::fs::metadata(path).is_ok_and(|found| !found.is_file()) {
            return Err(none());
        }
        let pod = Netns::open(path).map_err(|source| CniError::NoNetns { path: netns.clone(), source })?;
        let number = |p: &Path| std::fs::metadata(p).map(|m| (m.dev(), m.ino())).map_err(io);
        if number(path)? == number(Path::new("/proc/thread-self/ns/net"))? {
            return Err(CniError::environment("CNI_NETNS", format!("{netns} is the node's own network namespace")));
        }
        let host_socket = Socket::open()?;
        let pod_socket = pod.within(&home, Socket::open).map_err(|e| {
            if e.raw_os_error() == Some(libc::EINVAL) {
                none()
            } else {
                CniError::NoNetns { path: netns.clone(), source: e }
            }
        })??;
        Ok(Self { home, pod, netns, host_socket, pod_socket })
    }

    /// Fails if the pod has a device with that name.
    pub(crate) fn check_free(&mut self, ifname: &str) -> Result<(), CniError> {
        match self.pod_socket.link_by_name(ifname)? {
            None => Ok(()),
            Some(_) => Err(CniError::NameTaken { ifname: ifname.into(), netns: self.netns.clone() }),
        }
    }

    /// Runs all steps: both devices down, addresses and routes, maps and programs, and the host's
    /// end up last, so that no packet passes before the programs check it.
    pub(crate) fn wire(
        &mut self,
        record: &AttachmentRecord,
        mtu: u32,
        bandwidth: &Bandwidth,
        maps: &PodMaps,
        programs: &PodPrograms,
    ) -> Result<(), CniError> {
        let index = self.create(record, mtu, maps)?;
        sysctl::quiet_ipv6(&record.host_ifname)?;
        self.set_up_pod(record, bandwidth)?;
        let cookie = host_sys::netns_cookie(self.pod_socket.as_fd())
            .map_err(|e| CniError::io("read the network namespace's cookie", e))?;
        maps.insert(record, index, cookie, bandwidth.ingress.is_some())?;
        if let Some(rate) = bandwidth.ingress {
            self.host_socket.run(&[set_rate(index, rate)])?;
        }
        self.host_socket.run(&[
            quiet_link(index, has_ipv6()),
            add_clsact(index),
            replace_filter(index, Direction::Ingress, "from_pod", programs.from_pod.as_fd()),
            replace_filter(index, Direction::Egress, "to_pod", programs.to_pod.as_fd()),
        ])?;
        self.set_up_host(record, index)
    }

    /// Creates the pair, the pod's end directly in its namespace. Returns the index of the host's
    /// end.
    fn create(&mut self, record: &AttachmentRecord, mtu: u32, maps: &PodMaps) -> Result<IfIndex, CniError> {
        let mut stale_removed = false;
        for index in plan::indexes(&record.id) {
            if !maps.is_free(index)? {
                continue;
            }
            let veth = Veth {
                name: &record.host_ifname,
                index,
                mac: plan::HOST_MAC,
                mtu,
                peer_name: &record.id.ifname,
                peer_mac: plan::pod_mac(record),
                peer_netns: self.pod.as_fd(),
            };
            let mut result = self.host_socket.run(&[create_veth(&veth)]);
            if result.as_ref().is_err_and(exists)
                && !stale_removed
                && remove_stale(&mut self.host_socket, &record.host_ifname)?
            {
                stale_removed = true;
                result = self.host_socket.run(&[create_veth(&veth)]);
            }
            match result {
                Ok(()) => return Ok(index),
                Err(e) if exists(&e) && self.host_socket.link_by_index(index)?.is_some() => {}
                Err(e) if exists(&e) => {
                    self.check_free(&record.id.ifname)?;
                    return Err(e.into());
                }
                Err(e) => return Err(e.into()),
            }
        }
        Err(CniError::NoIndex)
    }

    fn set_up_pod(&mut self, record: &AttachmentRecord, bandwidth: &Bandwidth) -> Result<(), CniError> {
        let ifname = &record.id.ifname;
        let link = self.pod_socket.link_by_name(ifname)?;
        let index =
            link.ok_or_else(|| CniError::io(format!("find the new device {ifname} in the pod"), missing()))?.index;
        let mut requests: Vec<_> = bandwidth.egress.map(|rate| set_rate(index, rate)).into_iter().collect();
        requests.push(set_up(index));
        for address in &record.addresses {
            requests.push(add_address(index, plan::host_network(*address)));
            requests.push(replace_neighbour(index, plan::gateway(*address), plan::HOST_MAC));
            requests.push(add_route(&plan::pod_route(*address, index)));
        }
        match run_or_enable_ipv6(&mut self.pod_socket, &requests)? {
            None => Ok(()),
            Some(rest) => {
                let enabled = self.pod.within(&self.home, || sysctl::enable_ipv6(ifname));
                enabled.map_err(|e| CniError::io("enter the network namespaces", e))??;
                Ok(self.pod_socket.run(&rest)?)
            }
        }
    }

    fn set_up_host(&mut self, record: &AttachmentRecord, index: IfIndex) -> Result<(), CniError> {
        let mac = plan::pod_mac(record);
        let mut requests = vec![set_up(index)];
        for address in &record.addresses {
            requests.push(add_route(&plan::host_route(*address, index)));
            requests.push(replace_neighbour(index, *address, mac));
        }
        if let Some(rest) = run_or_enable_ipv6(&mut self.host_socket, &requests)? {
            sysctl::enable_ipv6(&record.host_ifname)?;
            self.host_socket.run(&rest)?;
        }
        Ok(())
    }
}

/// Runs requests. Returns those that failed only because IPv6 is disabled on the device.
fn run_or_enable_ipv6(
    socket: &mut Socket,
    requests: &[NetlinkRequest],
) -> Result<Option<Vec<NetlinkRequest>>, NetlinkError> {
    let mut rest = Vec::new();
    for (i, error) in socket.run_each(requests) {
        if error.refusal() != Some(libc::EACCES) && rest.is_empty() {
            return Err(error);
        }
        rest.push(requests[i].clone());
    }
    Ok((!rest.is_empty()).then_some(rest))
}

/// Removes a veth with our name that has no record in the store. Returns whether there was one.
fn remove_stale(socket: &mut Socket, name: &str) -> Result<bool, CniError> {
    match socket.link_by_name(name)? {
        Some(link) if link.kind.as_deref() == Some("veth") => {
            socket.run(&[delete_link(link.index)])?;
            Ok(true)
        }
        _ => Ok(false),
    }
}

fn exists(error: &NetlinkError) -> bool {
    matches!(error.refusal(), Some(libc::EEXIST | libc::EBUSY))
}

fn missing() -> std::io::Error {
    std::io::ErrorKind::NotFound.into()
}
