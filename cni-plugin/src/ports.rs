//! Host ports: the entries of `host_ports4` and `host_ports6` of a pod.
//!
//! An entry belongs to the pod whose address it leads to. Entries are written after all others and
//! removed before them, so that none leads to an address without a pod.

pub(crate) mod in_use;

use std::net::IpAddr;

use bytemuck::Pod;
use dataplane_common::types::address::{Address, V4, V6};
use dataplane_common::types::service::{FrontendKey, HostPort, proto};
use dataplane_host::map::PinnedMap;
use dataplane_host::netlink::IfIndex;
use dataplane_host::pins::Pins;
use dataplane_host::store::{AttachmentRecord, Choice, PortMapping, Transport};

use crate::error::CniError;

/// The maps of both families.
#[derive(Debug)]
pub(crate) struct HostPorts {
    four: HostPortMap<V4>,
    six: HostPortMap<V6>,
}

/// The entries of both maps.
#[derive(Debug)]
pub(crate) struct HostPortEntries {
    four: Vec<HostPortEntry<V4>>,
    six: Vec<HostPortEntry<V6>>,
}

impl HostPortEntries {
    pub(crate) const fn is_empty(&self) -> bool {
        self.four.is_empty() && self.six.is_empty()
    }
}

/// A host port that is not free.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PortConflict {
    /// Protocol, address and port, e.g. `TCP port 192.0.2.1:8080`.
    pub(crate) port: String,
    /// The address of the pod that has it.
    pub(crate) holder: IpAddr,
}

impl From<PortConflict> for CniError {
    fn from(PortConflict { port, holder }: PortConflict) -> Self {
        Self::PortTaken { port, holder }
    }
}

impl HostPorts {
    pub(crate) fn open(pins: &Pins) -> Result<Self, CniError> {
        Ok(Self {
            four: HostPortMap(PinnedMap::open(pins, "host_ports4")?),
            six: HostPortMap(PinnedMap::open(pins, "host_ports6")?),
        })
    }

    /// Enters all host ports of a record. `index` is that of the pod's device. Ports of other pods
    /// are not overwritten.
    pub(crate) fn insert(&self, record: &AttachmentRecord, index: IfIndex) -> Result<(), CniError> {
        self.four.insert(record, index)?;
        self.six.insert(record, index)
    }

    /// Returns the host ports of a record that other pods have.
    pub(crate) fn conflicts(&self, record: &AttachmentRecord) -> Result<Vec<PortConflict>, CniError> {
        let mut all = self.four.conflicts(record)?;
        all.extend(self.six.conflicts(record)?);
        Ok(all)
    }

    /// Removes the host ports of a record as far as they lead to it.
    pub(crate) fn remove(&self, record: &AttachmentRecord) -> Result<(), CniError> {
        self.four.remove(&entries(record, NO_DEVICE))?;
        self.six.remove(&entries(record, NO_DEVICE))
    }

    /// Removes every host port that leads to one of these addresses, for a pod whose record is
    /// lost.
    pub(crate) fn remove_by_address(&self, addresses: &[IpAddr]) -> Result<(), CniError> {
        let HostPortEntries { mut four, mut six } = self.entries()?;
        four.retain(|entry| addresses.contains(&entry.pod.addr.into()));
        six.retain(|entry| addresses.contains(&entry.pod.addr.into()));
        self.four.remove(&four)?;
        self.six.remove(&six)
    }

    pub(crate) fn entries(&self) -> Result<HostPortEntries, CniError> {
        Ok(HostPortEntries { four: self.four.entries()?, six: self.six.entries()? })
    }

    /// Removes entries that lead to `ours` and are in none of the records, which must have been
    /// read after `seen`. Returns descriptions of the removed entries.
    pub(crate) fn remove_stale(
        &self,
        HostPortEntries { mut four, mut six }: HostPortEntries,
        records: &[AttachmentRecord],
        ours: impl Fn(&IpAddr) -> bool,
    ) -> Result<Vec<String>, CniError> {
        four.retain(|entry| ours(&entry.pod.addr.into()) && !records.iter().any(|r| entry.is_of(r)));
        six.retain(|entry| ours(&entry.pod.addr.into()) && !records.iter().any(|r| entry.is_of(r)));
        self.four.remove(&four)?;
        self.six.remove(&six)?;
        Ok(four.iter().map(HostPortEntry::name).chain(six.iter().map(HostPortEntry::name)).collect())
    }

    /// Describes the entries that are missing or differ from what [`Self::insert`] wrote.
    pub(crate) fn differences(&self, record: &AttachmentRecord, index: IfIndex) -> Result<Vec<String>, CniError> {
        let mut all = self.four.differences(record, index)?;
        all.extend(self.six.differences(record, index)?);
        Ok(all)
    }
}

/// Fails if a host port is for addresses of a family that pods don't have.
pub(crate) fn check_families(ports: &[PortMapping], families: &[Choice]) -> Result<(), CniError> {
    let ranges = || families.iter().flat_map(|family| &family.ranges);
    let has = |ip: &IpAddr| ranges().any(|range| range.network().is_ipv4() == ip.is_ipv4());
    match ports.iter().find(|port| port.host_ip.is_some_and(|ip| !has(&ip))) {
        Some(port) => Err(CniError::Config {
            field: "runtimeConfig.portMappings",
            reason: format!("{port}: pods of this node have no address of that family"),
        }),
        None => Ok(()),
    }
}

/// An address family of the maps.
trait PortFamily: Address + Into<IpAddr> {
    fn of(address: IpAddr) -> Option<Self>;
}

impl PortFamily for V4 {
    fn of(address: IpAddr) -> Option<Self> {
        if let IpAddr::V4(a) = address { Some(a.into()) } else { None }
    }
}

impl PortFamily for V6 {
    fn of(address: IpAddr) -> Option<Self> {
        if let IpAddr::V6(a) = address { Some(a.into()) } else { None }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct HostPortEntry<A> {
    key: FrontendKey<A>,
    pod: HostPort<A>,
}

/// Stands for the device where only keys and addresses of entries are compared.
const NO_DEVICE: IfIndex = IfIndex(0);

/// Returns a record's entries in the map of a family; `index` is that of the pod's device.
fn entries<A: PortFamily>(record: &AttachmentRecord, index: IfIndex) -> Vec<HostPortEntry<A>> {
    let Some(pod) = record.addresses.iter().find_map(|a| A::of(*a)) else { return Vec::new() };
    let entry = |mapping: &PortMapping| {
        // A host port of an address is only for the family of that address.
        let addr = mapping.host_ip.map_or(Some(A::UNSPECIFIED), A::of)?;
        let proto = match mapping.protocol {
            Transport::Tcp => proto::TCP,
            Transport::Udp => proto::UDP,
            Transport::Sctp => proto::SCTP,
        };
        Some(HostPortEntry {
            key: FrontendKey { addr, port: mapping.host_port, proto, pad: 0 },
            pod: HostPort { addr: pod, port: mapping.container_port, pad: 0, ifindex: index.0 },
        })
    };
    record.ports.iter().filter_map(entry).collect()
}

impl<A: PortFamily> HostPortEntry<A> {
    fn name(&self) -> String {
        let protocol = match self.key.proto {
            proto::TCP => Transport::Tcp,
            proto::UDP => Transport::Udp,
            _ => Transport::Sctp,
        };
        let host_ip = Some(self.key.addr.into());
        PortMapping { protocol, host_ip, host_port: self.key.port, container_port: 0 }.to_string()
    }

    fn is_of(&self, record: &AttachmentRecord) -> bool {
        entries(record, IfIndex(self.pod.ifindex)).contains(self)
    }
}

/// The map of a family.
#[derive(Debug)]
struct HostPortMap<A>(PinnedMap<FrontendKey<A>, HostPort<A>>);

impl<A: PortFamily> HostPortMap<A>
where
    FrontendKey<A>: Pod,
    HostPort<A>: Pod,
{
    fn insert(&self, record: &AttachmentRecord, index: IfIndex) -> Result<(), CniError> {
        for entry in entries(record, index) {
            if self.0.insert_new(&entry.key, &entry.pod)? {
                continue;
            }
            let present = self.0.get(&entry.key)?;
            if present != Some(entry.pod) {
                let holder = present.map_or(entry.pod.addr, |other| other.addr);
                return Err(PortConflict { port: entry.name(), holder: holder.into() }.into());
            }
        }
        Ok(())
    }

    fn conflicts(&self, record: &AttachmentRecord) -> Result<Vec<PortConflict>, CniError> {
        let mut all = Vec::new();
        for entry in entries(record, NO_DEVICE) {
            let other = self.0.get(&entry.key)?.filter(|other| other.addr != entry.pod.addr);
            all.extend(other.map(|other| PortConflict { port: entry.name(), holder: other.addr.into() }));
        }
        Ok(all)
    }

    /// Removes entries, except those that lead to another pod by now.
    fn remove(&self, entries: &[HostPortEntry<A>]) -> Result<(), CniError> {
        for HostPortEntry { key, pod } in entries {
            if self.0.get(key)?.is_some_and(|present| present.addr == pod.addr) {
                self.0.remove(key)?;
            }
        }
        Ok(())
    }

    fn entries(&self) -> Result<Vec<HostPortEntry<A>>, CniError> {
        Ok(self.0.entries()?.into_iter().map(|(key, pod)| HostPortEntry { key, pod }).collect())
    }

    fn differences(&self, record: &AttachmentRecord, index: IfIndex) -> Result<Vec<String>, CniError> {
        let mut wrong = Vec::new();
        for entry in entries(record, index) {
            if self.0.get(&entry.key)? != Some(entry.pod) {
                wrong.push(format!("map {} does not lead {} to the pod", self.0.name(), entry.name()));
            }
        }
        Ok(wrong)
    }
}
