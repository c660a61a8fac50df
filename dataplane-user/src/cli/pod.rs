//! `ropeway pod list`: the pods of this node as the programs know them.
//!
//! Reads the maps `pods`, `host_ports4` and `host_ports6`; device names come from the kernel. The
//! pods' names are not in the maps: `ropeway ipam show` has them.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use dataplane_common::types::address::{Address, V4, V6};
use dataplane_common::types::pod::{Pod, pod_flags};
use dataplane_common::types::service::{FrontendKey, HostPort};
use dataplane_host::map::{MapError, PinnedMap};
use dataplane_host::netlink::Socket;
use dataplane_host::pins::Pins;
use serde::Serialize;

use super::{CliError, SCHEMA, View, service, table};
use crate::row;

/// The view of `ropeway pod list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Pods {
    /// Version of the view, [`SCHEMA`].
    pub version: u32,
    /// Pods in the order of the map.
    pub pods: Vec<PodView>,
}

/// An entry of the map `pods`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PodView {
    /// The pod's addresses, IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// Name of the host-side device; `None` if no device has that index.
    pub device: Option<String>,
    /// Interface index of the host-side device.
    pub ifindex: u32,
    /// MAC address of the interface in the pod.
    pub mac: String,
    /// Cookie of the pod's network namespace (`SO_NETNS_COOKIE`).
    #[serde(rename = "netnsCookie")]
    pub netns_cookie: u64,
    /// Host ports that are forwarded to the pod.
    #[serde(rename = "hostPorts")]
    pub host_ports: Vec<HostPortView>,
}

/// A host port of a pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HostPortView {
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// Node address; unspecified stands for every address.
    #[serde(rename = "hostIP")]
    pub host_ip: IpAddr,
    /// Port on the node.
    pub host_port: u16,
    /// Port in the pod.
    pub container_port: u16,
}

/// Reads the pods and their host ports.
///
/// # Errors
/// A map or the devices could not be read.
pub fn gather(pins: &Pins) -> Result<Pods, CliError> {
    let present = read(pins)?;
    let devices: HashMap<u32, String> =
        Socket::open()?.links()?.into_iter().map(|link| (link.index.0, link.name)).collect();
    let mut ports = host_ports::<V4>(pins, "host_ports4")?;
    ports.extend(host_ports::<V6>(pins, "host_ports6")?);
    ports.sort();
    let view = |(ifindex, pod)| view(ifindex, &pod, devices.get(&ifindex).cloned(), &ports);
    Ok(Pods { version: SCHEMA, pods: present.into_iter().map(view).collect() })
}

/// Returns the host ports of one family, each with the interface index of its pod.
fn host_ports<A: Into<IpAddr>>(pins: &Pins, map: &str) -> Result<Vec<(u32, HostPortView)>, MapError>
where
    FrontendKey<A>: bytemuck::Pod,
    HostPort<A>: bytemuck::Pod,
{
    let view = |(key, target): (FrontendKey<A>, HostPort<A>)| {
        let protocol = service::protocol_name(key.proto);
        let (host_ip, host_port, container_port) = (key.addr.into(), key.port, target.port);
        (target.ifindex, HostPortView { protocol, host_ip, host_port, container_port })
    };
    Ok(PinnedMap::<FrontendKey<A>, HostPort<A>>::open(pins, map)?.entries()?.into_iter().map(view).collect())
}

/// Returns the entries of pods with their interface index, without the node's own entry.
pub(super) fn read(pins: &Pins) -> Result<Vec<(u32, Pod)>, MapError> {
    let mut all = PinnedMap::<u32, Pod>::open(pins, "pods")?.entries()?;
    all.retain(|(_, pod)| pod.flags & (pod_flags::PRESENT | pod_flags::NODE) == pod_flags::PRESENT);
    Ok(all)
}

fn view(ifindex: u32, pod: &Pod, device: Option<String>, ports: &[(u32, HostPortView)]) -> PodView {
    let (v4, v6): (V4, V6) = (pod.addr4, pod.addr6);
    let v4 = (!v4.is_unspecified()).then(|| IpAddr::from(v4));
    let v6 = (!v6.is_unspecified()).then(|| IpAddr::from(v6));
    let mac = pod.mac.map(|b| format!("{b:02x}")).join(":");
    let host_ports = ports.iter().filter(|(index, _)| *index == ifindex).map(|(_, port)| port.clone()).collect();
    let addresses = v4.into_iter().chain(v6).collect();
    PodView { addresses, device, ifindex, mac, netns_cookie: pod.netns_cookie, host_ports }
}

impl fmt::Display for HostPortView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = SocketAddr::new(self.host_ip, self.host_port);
        write!(f, "{host}->{}/{}", self.container_port, self.protocol.to_lowercase())
    }
}

impl View for Pods {
    fn text(&self) -> String {
        let mut rows = vec![row!["IPV4", "IPV6", "DEVICE", "INDEX", "MAC", "NETNS", "HOST PORTS"]];
        for pod in &self.pods {
            let of = |v6| pod.addresses.iter().find(|a| a.is_ipv6() == v6).map_or("-".to_owned(), ToString::to_string);
            let device = pod.device.as_deref().unwrap_or("(gone)");
            let ports: Vec<_> = pod.host_ports.iter().map(ToString::to_string).collect();
            let ports = if ports.is_empty() { "-".to_owned() } else { ports.join(",") };
            rows.push(row![of(false), of(true), device, pod.ifindex, pod.mac, pod.netns_cookie, ports]);
        }
        table::render(&rows)
    }
}
