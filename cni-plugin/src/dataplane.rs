//! The agent's pinned maps and programs, as far as the plugin uses them.
//!
//! Writes and removes the map entries of a pod. Order matters: a pod is unreachable before its
//! device is up, and its own packets are blocked before anything else is removed.

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::Path;

use bytemuck::Zeroable;
use dataplane_common::types::address::{V4, V6};
use dataplane_common::types::pod::{AddressInfo, Pod, PodNetns, address_flags, address_kind, pod_flags};
use dataplane_host::map::{MapError, PinnedMap};
use dataplane_host::netlink::IfIndex;
use dataplane_host::pins::Pins;
use dataplane_host::store::AttachmentRecord;

use crate::error::CniError;
use crate::log::log;
use crate::plan;
use crate::ports::HostPorts;

/// The maps of the pod network.
#[derive(Debug)]
pub(crate) struct PodMaps {
    pods: PinnedMap<u32, Pod>,
    addresses4: PinnedMap<V4, AddressInfo>,
    addresses6: PinnedMap<V6, AddressInfo>,
    pod_netns: PinnedMap<u64, PodNetns>,
    pub(crate) ports: HostPorts,
}

/// The programs of a pod's veth.
#[derive(Debug)]
pub(crate) struct PodPrograms {
    pub(crate) from_pod: OwnedFd,
    pub(crate) to_pod: OwnedFd,
}

impl PodPrograms {
    pub(crate) fn open(root: &Path) -> Result<Self, CniError> {
        let pins = Pins::new(root);
        Ok(Self { from_pod: pins.open(&pins.program("from_pod"))?, to_pod: pins.open(&pins.program("to_pod"))? })
    }
}

impl PodMaps {
    pub(crate) fn open(root: &Path) -> Result<Self, CniError> {
        let pins = Pins::new(root);
        Ok(Self {
            pods: PinnedMap::open(&pins, "pods")?,
            addresses4: PinnedMap::open(&pins, "addresses4")?,
            addresses6: PinnedMap::open(&pins, "addresses6")?,
            pod_netns: PinnedMap::open(&pins, "pod_netns")?,
            ports: HostPorts::open(&pins)?,
        })
    }

    /// Opens the maps, for a verb that removes. Returns `None`, and logs it, if there are none, so
    /// that nothing is left to remove.
    ///
    /// # Errors
    /// The maps exist and can't be opened, or are those of another version. Entries of a pod may be
    /// in them, so the verb fails and the runtime repeats it.
    pub(crate) fn open_existing(root: &Path) -> Result<Option<Self>, CniError> {
        match Self::open(root) {
            Err(CniError::Pin(e) | CniError::Map(MapError::Pin(e))) if e.is_absence() => {
                log(&format!("no map entries to remove: {e}"));
                Ok(None)
            }
            opened => opened.map(Some),
        }
    }

    /// Returns whether the slot of an interface index is free.
    pub(crate) fn is_free(&self, index: IfIndex) -> Result<bool, CniError> {
        Ok(self.pods.get(&index.0)?.is_none_or(|p| p.flags & pod_flags::PRESENT == 0))
    }

    /// Enters a pod into the maps. It is unreachable until its device is up. `shaped`: packets to
    /// the pod must go through the queue of its device.
    pub(crate) fn insert(
        &self,
        record: &AttachmentRecord,
        index: IfIndex,
        netns_cookie: u64,
        shaped: bool,
    ) -> Result<(), CniError> {
        let (addr4, addr6) = plan::map_addresses(record);
        let mac = plan::pod_mac(record);
        let flags = pod_flags::PRESENT | if shaped { pod_flags::SHAPED } else { 0 };
        let pod = Pod { netns_cookie, addr4, addr6, mac, host_mac: plan::HOST_MAC, flags, pad: 0 };
        // Addresses first: rollback after a kill starts from them and finds the other entries.
        let flags = if shaped { address_flags::SHAPED } else { 0 };
        let addr = AddressInfo { ifindex: index.0, kind: address_kind::POD, flags, mac };
        for address in &record.addresses {
            if self.get(*address)?.is_some_and(|a| a.kind != address_kind::POD) {
                return Err(CniError::AddressTaken { address: *address });
            }
            match *address {
                IpAddr::V4(a) => self.addresses4.insert(&a.into(), &addr)?,
                IpAddr::V6(a) => self.addresses6.insert(&a.into(), &addr)?,
            }
        }
        self.pods.insert(&index.0, &pod)?;
        // The source entry of a pod with several interfaces names the first one.
        self.pod_netns.insert_new(&netns_cookie, &PodNetns { addr4, addr6, ifindex: index.0 })?;
        self.ports.insert(record, index)
    }

    /// Removes the entries of a record that [`Self::insert`] wrote, from any state. `device` is the
    /// index of its device, if that still exists.
    pub(crate) fn remove(&self, record: &AttachmentRecord, device: Option<IfIndex>) -> Result<(), CniError> {
        self.ports.remove(record)?;
        self.remove_addresses(&record.addresses, device)
    }

    /// Removes the entries of an attachment whose record is lost; otherwise like [`Self::remove`].
    pub(crate) fn remove_unrecorded(&self, addresses: &[IpAddr], device: Option<IfIndex>) -> Result<(), CniError> {
        self.ports.remove_by_address(addresses)?;
        self.remove_addresses(addresses, device)
    }

    /// Removes the entries of the addresses. The pod's element goes first, which blocks the pod's
    /// own packets.
    fn remove_addresses(&self, addresses: &[IpAddr], device: Option<IfIndex>) -> Result<(), CniError> {
        let mut indexes: Vec<IfIndex> = device.into_iter().collect();
        let mut ours = Vec::new();
        for address in addresses {
            if let Some(addr) = self.get(*address)?.filter(|a| a.kind == address_kind::POD) {
                indexes.push(IfIndex(addr.ifindex));
                ours.push(*address);
            }
        }
        for index in indexes {
            self.remove_pod(index, addresses)?;
        }
        for address in ours {
            match address {
                IpAddr::V4(a) => self.addresses4.remove(&a.into())?,
                IpAddr::V6(a) => self.addresses6.remove(&a.into())?,
            };
        }
        Ok(())
    }

    /// Frees the slot of a device if a pod with one of these addresses has it.
    fn remove_pod(&self, index: IfIndex, addresses: &[IpAddr]) -> Result<(), CniError> {
        let Some(pod) = self.pods.get(&index.0)? else { return Ok(()) };
        let has = |a: &IpAddr| match *a {
            IpAddr::V4(a) => pod.addr4 == a.into(),
            IpAddr::V6(a) => pod.addr6 == a.into(),
        };
        if pod == Pod::zeroed() || !addresses.iter().any(has) {
            return Ok(());
        }
        // Blocked first; the entry still records the addresses to remove.
        self.pods.insert(&index.0, &Pod { flags: 0, ..pod })?;
        if self.pod_netns.get(&pod.netns_cookie)?.is_some_and(|n| n.ifindex == index.0) {
            self.pod_netns.remove(&pod.netns_cookie)?;
        }
        self.pods.insert(&index.0, &Pod::zeroed())?;
        Ok(())
    }

    /// Returns the addresses of all pods in the maps.
    pub(crate) fn pod_addresses(&self) -> Result<Vec<IpAddr>, CniError> {
        let four = self.addresses4.entries()?.into_iter().map(|(address, addr)| (IpAddr::from(address), addr));
        let six = self.addresses6.entries()?.into_iter().map(|(address, addr)| (IpAddr::from(address), addr));
        Ok(four.chain(six).filter(|(_, addr)| addr.kind == address_kind::POD).map(|(address, _)| address).collect())
    }

    /// Returns the index of the device of the pod that has an address.
    pub(crate) fn device_of(&self, address: IpAddr) -> Result<Option<IfIndex>, CniError> {
        let Some(index) = self.get(address)?.filter(|a| a.kind == address_kind::POD).map(|a| IfIndex(a.ifindex)) else {
            return Ok(None);
        };
        // Another device may have reused the index; the pod's entry has the addresses of its pod.
        Ok(self.addresses_of(index)?.contains(&address).then_some(index))
    }

    /// Describes the map entries of a pod that are missing or differ from what [`Self::insert`]
    /// wrote.
    pub(crate) fn differences(
        &self,
        record: &AttachmentRecord,
        index: IfIndex,
        netns_cookie: u64,
    ) -> Result<Vec<String>, CniError> {
        let (addr4, addr6) = plan::map_addresses(record);
        let mut wrong = Vec::new();
        let pod = self.pods.get(&index.0)?.filter(|p| p.flags & pod_flags::PRESENT != 0);
        if !pod.is_some_and(|p| p.netns_cookie == netns_cookie && p.addr4 == addr4 && p.addr6 == addr6) {
            wrong.push(format!("map pods has no such pod at {index}"));
        }
        if self.pod_netns.get(&netns_cookie)?.is_none() {
            wrong.push("map pod_netns does not know the network namespace".into());
        }
        for address in &record.addresses {
            if !self.get(*address)?.is_some_and(|a| a.kind == address_kind::POD && a.ifindex == index.0) {
                wrong.push(format!("map addresses does not map {address} to device {index}"));
            }
        }
        wrong.extend(self.ports.differences(record, index)?);
        Ok(wrong)
    }

    /// Returns the addresses of the pod with that device, for an attachment whose record is lost.
    pub(crate) fn addresses_of(&self, index: IfIndex) -> Result<Vec<IpAddr>, CniError> {
        let Some(pod) = self.pods.get(&index.0)?.filter(|p| p.flags & pod_flags::PRESENT != 0) else {
            return Ok(Vec::new());
        };
        let all = [IpAddr::from(pod.addr4), IpAddr::from(pod.addr6)];
        Ok(all.into_iter().filter(|a| !a.is_unspecified()).collect())
    }

    fn get(&self, address: IpAddr) -> Result<Option<AddressInfo>, CniError> {
        Ok(match address {
            IpAddr::V4(a) => self.addresses4.get(&a.into())?,
            IpAddr::V6(a) => self.addresses6.get(&a.into())?,
        })
    }
}
