//! `ropeway pod list`: the pods of this node as the programs know them.

use std::collections::HashMap;
use std::net::IpAddr;

use dataplane_common::addr::{Address, V4, V6};
use dataplane_common::pod::{Pod, pod_flags};
use dataplane_host::map::{MapError, Table};
use dataplane_host::netlink::Socket;
use dataplane_host::pins::Pins;
use serde::Serialize;
use tracing::debug;

use super::{SCHEMA, View, table};
use crate::row;

/// The view.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Pods {
    /// [`SCHEMA`].
    pub version: u32,
    /// By index of the device.
    pub pods: Vec<PodView>,
}

/// One pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PodView {
    /// Its addresses, IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// Host-side device; `None`: there is no device with that index (any longer).
    pub device: Option<String>,
    /// Index of that device.
    pub ifindex: u32,
    /// MAC of the pod's end.
    pub mac: String,
    /// The kernel's cookie of its network namespace.
    #[serde(rename = "netnsCookie")]
    pub netns_cookie: u64,
}

/// Reads the pods.
///
/// # Errors
/// The map can't be read.
pub fn gather(pins: &Pins) -> Result<Pods, MapError> {
    let present = read(pins)?;
    let devices: HashMap<u32, String> = Socket::open()
        .and_then(|mut s| s.links())
        .map_err(|e| debug!(error = %e, "names of devices are left out"))
        .unwrap_or_default()
        .into_iter()
        .map(|l| (l.index, l.name))
        .collect();
    let pods = present.into_iter().map(|(ifindex, pod)| view(ifindex, &pod, devices.get(&ifindex).cloned())).collect();
    Ok(Pods { version: SCHEMA, pods })
}

/// The entries in use, by index.
pub(super) fn read(pins: &Pins) -> Result<Vec<(u32, Pod)>, MapError> {
    let mut all = Table::<u32, Pod>::open(pins, "pods")?.entries()?;
    all.retain(|(_, pod)| pod.flags & pod_flags::PRESENT != 0);
    Ok(all)
}

fn view(ifindex: u32, pod: &Pod, device: Option<String>) -> PodView {
    let (v4, v6): (V4, V6) = (pod.addr4, pod.addr6);
    let v4 = (!v4.is_unspecified()).then(|| IpAddr::from(v4));
    let v6 = (!v6.is_unspecified()).then(|| IpAddr::from(v6));
    let mac = pod.mac.map(|b| format!("{b:02x}")).join(":");
    PodView { addresses: v4.into_iter().chain(v6).collect(), device, ifindex, mac, netns_cookie: pod.netns_cookie }
}

impl View for Pods {
    fn text(&self) -> String {
        let mut rows = vec![row!["IPV4", "IPV6", "DEVICE", "INDEX", "MAC", "NETNS"]];
        for pod in &self.pods {
            let of = |v6| pod.addresses.iter().find(|a| a.is_ipv6() == v6).map_or("-".to_owned(), ToString::to_string);
            let device = pod.device.as_deref().unwrap_or("(gone)");
            rows.push(row![of(false), of(true), device, pod.ifindex, pod.mac, pod.netns_cookie]);
        }
        table::render(&rows)
    }
}
