//! ADD: reserves addresses, creates the pod's kernel objects and returns the result.
//!
//! If a step fails, everything is rolled back. If the process is killed, the next call that takes
//! the store's lock does that. A repeated ADD keeps the addresses of the interrupted one.

use std::net::IpAddr;
use std::time::Instant;

use dataplane_host::netlink::Socket;
use dataplane_host::store::{
    AddressStore, Attachment, AttachmentClaim, AttachmentId, AttachmentRecord, LOCK_DEADLINE, LockedStore, Reservation,
    StoreError, Written,
};

use crate::attach::NamespacePair;
use crate::capabilities::{Bandwidth, Capabilities};
use crate::config::NetworkConfig;
use crate::dataplane::{PodMaps, PodPrograms};
use crate::env::Invocation;
use crate::error::CniError;
use crate::log::log;
use crate::ranges::{self, PodRequest, Ranges};
use crate::result::ResultBase;
use crate::{ports, rollback};

/// Runs ADD. Returns the result and the pod's MTU.
pub(crate) fn run(invocation: &Invocation, config: &NetworkConfig) -> Result<(String, u32), CniError> {
    let capabilities = Capabilities::parse(config.runtime.as_ref(), &invocation.arguments)?;
    let base = ResultBase::new(config)?;
    let pod = PodRequest::new(invocation.pod.as_deref(), &capabilities);
    let ranges = ranges::resolve(config, config.node_defaults()?.as_ref(), pod)?;
    ports::check_families(&capabilities.ports, &ranges.choices()?)?;
    if !capabilities.ports.is_empty() {
        ports::in_use::check(&capabilities.ports, &config.reserved_ports()?)?;
    }
    let maps = PodMaps::open(&config.pin_root)?;
    let programs = PodPrograms::open(&config.pin_root)?;
    let netns = invocation.netns.as_ref().ok_or_else(|| CniError::environment("CNI_NETNS", "is missing"))?;
    let mut namespaces = NamespacePair::open(netns)?;
    let store = AddressStore::open(&config.state_dir)?;
    let desired = DesiredAttachment {
        facts: facts(invocation, config, &capabilities),
        bandwidth: capabilities.bandwidth,
        ranges: &ranges,
        maps: &maps,
    };
    let allocated = desired.attachment(&store, &mut namespaces)?;
    match desired.wire(&mut namespaces, &allocated, &store, &programs) {
        Ok(()) => {
            let result = base.complete(allocated.record(), ranges.mtu, &namespaces.netns, capabilities.dns);
            Ok((result, ranges.mtu))
        }
        Err(error) => {
            desired.roll_back(&store, &mut namespaces.host_socket, allocated.attachment());
            Err(error)
        }
    }
}

/// An attachment with its addresses: new and perhaps not yet on the disk, or from an interrupted
/// ADD.
enum Allocated {
    New(Written),
    Resumed(Attachment),
}

impl Allocated {
    const fn record(&self) -> &AttachmentRecord {
        match self {
            Self::New(written) => &written.attachment.record,
            Self::Resumed(attachment) => &attachment.record,
        }
    }

    fn attachment(self) -> Attachment {
        match self {
            Self::New(written) => written.attachment,
            Self::Resumed(attachment) => attachment,
        }
    }
}

fn facts(invocation: &Invocation, config: &NetworkConfig, capabilities: &Capabilities) -> AttachmentRecord {
    AttachmentRecord {
        version: 1,
        id: invocation.id.clone(),
        network: config.name.clone(),
        pod: invocation.pod.clone(),
        addresses: Vec::new(),
        mac: capabilities.mac,
        mtu: config.own_mtu(),
        ports: capabilities.ports.clone(),
        host_ifname: invocation.id.host_ifname(),
        boot: String::new(),
        generation: 0,
    }
}

/// The attachment that this call is to create.
struct DesiredAttachment<'a> {
    facts: AttachmentRecord,
    bandwidth: Bandwidth,
    ranges: &'a Ranges,
    maps: &'a PodMaps,
}

impl DesiredAttachment<'_> {
    fn id(&self) -> &AttachmentId {
        &self.facts.id
    }

    /// Returns the attachment with its addresses: those of an interrupted ADD, or new ones.
    fn attachment(&self, store: &AddressStore, namespaces: &mut NamespacePair) -> Result<Allocated, CniError> {
        let deadline = Instant::now() + LOCK_DEADLINE;
        loop {
            let mut locked = store.lock(LOCK_DEADLINE)?;
            let claim = locked.claim(self.id())?;
            locked.findings().iter().for_each(|finding| log(finding));
            match claim {
                AttachmentClaim::Absent => {
                    namespaces.check_free(&self.id().ifname)?;
                    return self.reserve(store, locked, &mut namespaces.host_socket);
                }
                AttachmentClaim::Owned(attachment) if !attachment.releasing && self.fits(&attachment.record)? => {
                    drop(locked);
                    return self.take_over(store, namespaces, attachment);
                }
                AttachmentClaim::Owned(mut attachment) => {
                    locked.mark(&mut attachment)?;
                    drop(locked);
                    rollback::release(&mut namespaces.host_socket, store, &attachment, Some(self.maps))?;
                    namespaces.check_free(&self.id().ifname)?;
                    return self.reserve(store, store.lock(LOCK_DEADLINE)?, &mut namespaces.host_socket);
                }
                AttachmentClaim::Busy { .. } if Instant::now() > deadline => return Err(super::still_busy(self.id())),
                AttachmentClaim::Busy { .. } => super::poll_again(locked),
            }
        }
    }

    /// Undoes the kernel objects of an interrupted ADD. The addresses stay.
    fn take_over(
        &self,
        store: &AddressStore,
        namespaces: &mut NamespacePair,
        attachment: Attachment,
    ) -> Result<Allocated, CniError> {
        let taken = rollback::detach(&mut namespaces.host_socket, &attachment.record, Some(self.maps));
        match taken.and_then(|()| namespaces.check_free(&self.id().ifname)) {
            Ok(()) => Ok(Allocated::Resumed(attachment)),
            Err(error) => {
                self.roll_back(store, &mut namespaces.host_socket, attachment);
                Err(error)
            }
        }
    }

    /// Returns whether a record matches this call: one address per family from the current ranges,
    /// the same host ports, MAC and MTU.
    fn fits(&self, record: &AttachmentRecord) -> Result<bool, CniError> {
        let choices = self.ranges.choices()?;
        let fit = choices.iter().zip(&record.addresses).all(|(choice, address)| choice.contains(*address));
        let same = (&record.ports, record.mac, record.mtu) == (&self.facts.ports, self.facts.mac, self.facts.mtu);
        Ok(same && record.addresses.len() == choices.len() && fit)
    }

    fn reserve<'s>(
        &self,
        store: &'s AddressStore,
        mut locked: LockedStore<'s>,
        socket: &mut Socket,
    ) -> Result<Allocated, CniError> {
        let reservation = match self.reserve_now(&mut locked) {
            Err(CniError::Store(error @ (StoreError::Exhausted { .. } | StoreError::InUse { .. }))) => {
                // Processes that died while releasing may still hold addresses.
                let abandoned = locked.abandoned_releases()?;
                drop(locked);
                if abandoned.is_empty() {
                    return Err(self.none_left(error));
                }
                for attachment in &abandoned {
                    rollback::release(socket, store, attachment, Some(self.maps))?;
                }
                self.reserve_now(&mut store.lock(LOCK_DEADLINE)?)?
            }
            other => {
                drop(locked);
                other?
            }
        };
        Ok(Allocated::New(reservation.write(store)?))
    }

    /// Reserves one address of each family from the present ranges.
    fn reserve_now(&self, locked: &mut LockedStore<'_>) -> Result<Reservation, CniError> {
        Ok(locked.reserve(&self.facts, &self.ranges.choices()?)?)
    }

    fn none_left(&self, error: StoreError) -> CniError {
        match error {
            StoreError::Exhausted { .. } if self.ranges.agent_may_claim_more() => {
                CniError::PoolsNotReady { reason: format!("{error}; the agent claims another block if there is one") }
            }
            other => other.into(),
        }
    }

    /// Creates the kernel objects while the record goes to the disk.
    fn wire(
        &self,
        namespaces: &mut NamespacePair,
        allocated: &Allocated,
        store: &AddressStore,
        programs: &PodPrograms,
    ) -> Result<(), CniError> {
        let kernel = |namespaces: &mut NamespacePair| {
            self.free_ports(store, &mut namespaces.host_socket, allocated.record())?;
            namespaces.wire(allocated.record(), self.ranges.mtu, &self.bandwidth, self.maps, programs)
        };
        let Allocated::New(written) = allocated else { return kernel(namespaces) };
        std::thread::scope(|scope| {
            let disk = scope.spawn(|| written.sync(store));
            let wired = kernel(namespaces);
            let synced = disk.join().map_err(|_| CniError::io("write the record", std::io::Error::other("panic")))?;
            wired.and(synced.map_err(CniError::from))
        })
    }

    /// Fails if other pods have the host ports of a record. Entries of half-removed pods are
    /// removed first.
    fn free_ports(&self, store: &AddressStore, socket: &mut Socket, record: &AttachmentRecord) -> Result<(), CniError> {
        let ports = &self.maps.ports;
        if ports.conflicts(record)?.is_empty() {
            return Ok(());
        }
        let mut locked = store.lock(LOCK_DEADLINE)?;
        let abandoned = locked.abandoned_releases()?;
        let ranges = self.ranges.all()?;
        let ours = |address: &IpAddr| ranges.iter().any(|range| range.slot(*address).is_some());
        // An entry to an address without a record is stale: a live pod wrote its record before its
        // entries.
        let seen = ports.entries()?;
        for port in ports.remove_stale(seen, &locked.attachments()?, ours)? {
            log(&format!("stale host port removed: {port} led to a pod that does not have it"));
        }
        drop(locked);
        for attachment in &abandoned {
            rollback::release(socket, store, attachment, Some(self.maps))?;
        }
        ports.conflicts(record)?.into_iter().next().map_or(Ok(()), |taken| Err(taken.into()))
    }

    /// Rolls back after a failure. What cannot be removed here is left to DEL.
    fn roll_back(&self, store: &AddressStore, socket: &mut Socket, mut attachment: Attachment) {
        let mut roll_back = || {
            store.lock(LOCK_DEADLINE)?.mark(&mut attachment)?;
            rollback::release(socket, store, &attachment, Some(self.maps))
        };
        let undone: Result<(), CniError> = roll_back();
        if let Err(error) = undone {
            log(&format!("rollback after a failed ADD: {error}; DEL will finish it"));
        }
    }
}
