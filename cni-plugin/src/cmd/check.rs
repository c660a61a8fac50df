//! CHECK: verifies that everything that ADD created is still present.
//!
//! Changes nothing. Reports all differences in one error.

use std::os::fd::AsFd;
use std::path::Path;
use std::time::Instant;

use dataplane_host::netlink::{Direction, IfIndex, Neighbour, Socket};
use dataplane_host::store::{AddressStore, AttachmentClaim, AttachmentRecord, LOCK_DEADLINE};
use dataplane_host::sys as host_sys;
use serde_json::{Map, Value};

use crate::attach::NamespacePair;
use crate::capabilities::{Bandwidth, Capabilities};
use crate::config::NetworkConfig;
use crate::dataplane::{PodMaps, PodPrograms};
use crate::env::Invocation;
use crate::error::CniError;
use crate::log::log;
use crate::{plan, result};

pub(crate) fn run(invocation: &Invocation, config: &NetworkConfig) -> Result<(), CniError> {
    config.require("CHECK", "0.4.0")?;
    let Some(previous) = result::previous(config)? else {
        return Err(CniError::Config {
            field: "prevResult",
            reason: "is missing; CHECK needs the result of ADD".into(),
        });
    };
    let (maps, programs) = (PodMaps::open(&config.pin_root)?, PodPrograms::open(&config.pin_root)?);
    let netns = invocation.netns.as_deref().unwrap_or(Path::new(""));
    let mut namespaces = NamespacePair::open(netns)?;
    let Some(record) = record(invocation, config)? else {
        return Err(CniError::Differs(vec!["the address store has no record of it".into()]));
    };
    let mut wrong = promised(previous, &record);
    let capabilities = Capabilities::parse(config.runtime.as_ref(), &invocation.arguments)?;
    if config.runtime.is_some() && capabilities.ports != record.ports {
        wrong.push("runtimeConfig does not have the host ports that ADD was told".into());
    }
    wrong.extend(inside(&mut namespaces.pod_socket, &record, &capabilities.bandwidth)?);
    match namespaces.host_socket.link_by_name(&record.host_ifname)? {
        Some(link) if link.up => {
            tell_of_mtu(config, &record, link.mtu);
            wrong.extend(outside(&mut namespaces.host_socket, &record, link.index)?);
            if let Some(rate) = capabilities.bandwidth.ingress
                && namespaces.host_socket.rate(link.index)? != Some(rate.bytes_per_second)
            {
                wrong.push(format!("device {} is not limited to {rate}", record.host_ifname));
            }
            wrong.extend(attached(&mut namespaces.host_socket, link.index, &programs)?);
            let cookie = host_sys::netns_cookie(namespaces.pod_socket.as_fd())
                .map_err(|e| CniError::io("cookie of the netns", e))?;
            wrong.extend(maps.differences(&record, link.index, cookie)?);
        }
        Some(_) => wrong.push(format!("device {} is down", record.host_ifname)),
        None => wrong.push(format!("there is no device {}", record.host_ifname)),
    }
    if wrong.is_empty() { Ok(()) } else { Err(CniError::Differs(wrong)) }
}

/// Logs that a pod does not have the node's new MTU yet. That is no fault: this call changes it
/// after its answer.
fn tell_of_mtu(config: &NetworkConfig, record: &AttachmentRecord, now: u32) {
    if record.mtu.is_none()
        && config.own_mtu().is_none()
        && let Ok(Some(wanted)) = config.node_mtu()
        && wanted != now
    {
        log(&format!(
            "device {} has MTU {now}, the node's is {wanted}: it is changed after this call",
            record.host_ifname
        ));
    }
}

fn record(invocation: &Invocation, config: &NetworkConfig) -> Result<Option<AttachmentRecord>, CniError> {
    let Some(store) = AddressStore::open_existing(&config.state_dir)? else { return Ok(None) };
    let deadline = Instant::now() + LOCK_DEADLINE;
    loop {
        let mut locked = store.lock(LOCK_DEADLINE)?;
        match locked.claim(&invocation.id)? {
            AttachmentClaim::Owned(attachment) if !attachment.releasing => return Ok(Some(attachment.record)),
            AttachmentClaim::Absent | AttachmentClaim::Owned(_) | AttachmentClaim::Busy { releasing: true } => {
                return Ok(None);
            }
            AttachmentClaim::Busy { .. } if Instant::now() > deadline => return Err(super::still_busy(&invocation.id)),
            AttachmentClaim::Busy { .. } => super::poll_again(locked),
        }
    }
}

/// Describes the addresses of the record that `prevResult` lacks.
fn promised(previous: &Map<String, Value>, record: &AttachmentRecord) -> Vec<String> {
    let ips = previous.get("ips").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let told = |address: &str| ips.iter().any(|ip| ip["address"] == address);
    let missing = record.addresses.iter().map(|a| plan::host_network(*a).to_string()).filter(|a| !told(a));
    missing.map(|a| format!("prevResult does not have address {a}")).collect()
}

fn inside(socket: &mut Socket, record: &AttachmentRecord, bandwidth: &Bandwidth) -> Result<Vec<String>, CniError> {
    let ifname = &record.id.ifname;
    let Some(link) = socket.link_by_name(ifname)? else { return Ok(vec![format!("the pod has no device {ifname}")]) };
    let mut wrong = Vec::new();
    if !link.up {
        wrong.push(format!("the pod's {ifname} is down"));
    }
    if link.mac != plan::pod_mac(record) {
        wrong.push(format!("the pod's {ifname} has another MAC"));
    }
    if let Some(rate) = bandwidth.egress
        && socket.rate(link.index)? != Some(rate.bytes_per_second)
    {
        wrong.push(format!("the pod's {ifname} is not limited to {rate}"));
    }
    let (addresses, neighbours) = (socket.addresses()?, socket.neighbours()?);
    let routes = socket.routes(plan::POD_ROUTE_PROTOCOL)?;
    for address in &record.addresses {
        let network = plan::host_network(*address);
        if !addresses.iter().any(|a| a.index == link.index && a.network == network) {
            wrong.push(format!("the pod's {ifname} has no address {network}"));
        }
        if !routes.contains(&plan::pod_route(*address, link.index)) {
            wrong.push(format!("the pod has no default route over {}", plan::gateway(*address)));
        }
        let gateway = plan::gateway(*address);
        let wanted = Neighbour { index: link.index, address: gateway, mac: Some(plan::HOST_MAC), permanent: true };
        if !neighbours.contains(&wanted) {
            wrong.push(format!("the pod does not know the MAC of {gateway}"));
        }
    }
    Ok(wrong)
}

fn outside(socket: &mut Socket, record: &AttachmentRecord, index: IfIndex) -> Result<Vec<String>, CniError> {
    let routes = socket.routes(dataplane_host::netlink::PROTOCOL)?;
    let neighbours = socket.neighbours()?;
    let mut wrong = Vec::new();
    for address in &record.addresses {
        if !routes.contains(&plan::host_route(*address, index)) {
            wrong.push(format!("the node has no route to {address}"));
        }
        let mac = Some(plan::pod_mac(record));
        if !neighbours.contains(&Neighbour { index, address: *address, mac, permanent: true }) {
            wrong.push(format!("the node does not know the MAC of {address}"));
        }
    }
    Ok(wrong)
}

/// Describes the pinned programs that are not attached to the device.
fn attached(socket: &mut Socket, index: IfIndex, programs: &PodPrograms) -> Result<Vec<String>, CniError> {
    let filters = socket.filters(index)?;
    let mut wrong = Vec::new();
    for (name, direction, program) in
        [("from_pod", Direction::Ingress, &programs.from_pod), ("to_pod", Direction::Egress, &programs.to_pod)]
    {
        let (_, id) = host_sys::type_and_id(program.as_fd()).map_err(|e| CniError::io(format!("program {name}"), e))?;
        if !filters.iter().any(|f| f.is_ours() && f.direction == direction && f.program == Some(id)) {
            wrong.push(format!("program {name} is not attached to device {index}"));
        }
    }
    Ok(wrong)
}
