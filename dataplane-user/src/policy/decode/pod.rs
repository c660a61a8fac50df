//! Decodes Pods and Namespaces.
//!
//! Typed, because a large cluster has many Pods and their fields restrict nothing: a part that
//! can't be read is left out, and no rule matches it.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::ports::protocol_number;
use super::{Decoded, Fault, NAMESPACE_NAME};
use crate::policy::object::{Key, Labels, NamedPort, Pod, protocol};

macro_rules! wire {
    ($($(#[$doc:meta])* $name:ident { $($(#[$attr:meta])* $field:ident: $ty:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, Default, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        #[allow(missing_docs, reason = "the fields are those of the Kubernetes API reference")]
        pub struct $name { $($(#[$attr])* pub $field: $ty,)* }
    )*};
}

wire! {
    // v1.ObjectMeta
    Metadata {
        name: Option<String>,
        namespace: Option<String>,
        labels: Option<BTreeMap<Box<str>, Box<str>>>,
        creation_timestamp: Option<String>,
        deletion_timestamp: Option<String>,
    }
    // v1.Namespace
    NamespaceWire { metadata: Metadata, }
    // v1.Pod
    PodWire { metadata: Metadata, spec: PodSpec, status: PodStatus, }
    // v1.Pod.spec
    PodSpec {
        node_name: Option<String>,
        host_network: Option<bool>,
        containers: Option<Vec<Container>>,
        init_containers: Option<Vec<Container>>,
    }
    // v1.Container
    Container { ports: Option<Vec<ContainerPort>>, restart_policy: Option<String>, }
    // v1.ContainerPort
    ContainerPort { name: Option<String>, #[serde(rename = "containerPort")] number: i64, protocol: Option<String>, }
    // v1.Pod.status
    PodStatus {
        phase: Option<String>,
        #[serde(rename = "podIP")] ip: Option<String>,
        #[serde(rename = "podIPs")] ips: Option<Vec<PodIp>>,
    }
    // v1.PodIP
    PodIp { ip: Option<String>, }
}

/// Decodes the labels of a Namespace; adds the label with its name, which the API server sets and
/// a manifest may lack.
#[must_use]
pub fn namespace(wire: &NamespaceWire) -> Decoded<Labels> {
    let name = wire.metadata.name.as_deref().unwrap_or_default();
    let key = Key::new("", name);
    if name.is_empty() {
        let fault = Fault::new("metadata.name", "is missing: the namespace is not used");
        return Decoded::new(key, None, vec![fault]);
    }
    let mut labels = wire.metadata.labels.clone().unwrap_or_default();
    labels.insert(NAMESPACE_NAME.into(), name.into());
    Decoded::new(key, Some(labels), Vec::new())
}

/// Decodes a Pod.
#[must_use]
pub fn pod(wire: &PodWire) -> Decoded<Pod> {
    let PodWire { metadata, spec, status } = wire;
    let namespace = metadata.namespace.as_deref().unwrap_or("default");
    let key = Key::new(namespace, metadata.name.as_deref().unwrap_or_default());
    let mut faults = Vec::new();
    if key.name.is_empty() {
        faults.push(Fault::new("metadata.name", "is missing: the pod is not used"));
        return Decoded::new(key, None, faults);
    }
    let mut object = Pod {
        labels: metadata.labels.clone().unwrap_or_default(),
        node: spec.node_name.as_deref().unwrap_or_default().into(),
        host_network: spec.host_network.unwrap_or_default(),
        ended: matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")),
        terminating: metadata.deletion_timestamp.is_some(),
        created: metadata.creation_timestamp.as_deref().unwrap_or_default().into(),
        ..Pod::default()
    };
    addresses(status, &mut object, &mut faults);
    for (index, container) in spec.containers.iter().flatten().enumerate() {
        named_ports(&format!("spec.containers[{index}]"), container, &mut object, &mut faults);
    }
    for (index, container) in spec.init_containers.iter().flatten().enumerate() {
        // Only an init container that keeps running (a sidecar) serves its ports.
        if container.restart_policy.as_deref() == Some("Always") {
            named_ports(&format!("spec.initContainers[{index}]"), container, &mut object, &mut faults);
        }
    }
    Decoded::new(key, Some(object), faults)
}

fn addresses(status: &PodStatus, pod: &mut Pod, faults: &mut Vec<Fault>) {
    let listed = status.ips.iter().flatten().filter_map(|entry| entry.ip.as_deref());
    for text in listed.chain(status.ip.as_deref()).filter(|text| !text.is_empty()) {
        match text.parse() {
            Ok(address) if !pod.addresses.contains(&address) => pod.addresses.push(address),
            Ok(_) => {}
            Err(_) => faults.push(Fault::new("status.podIPs", format!("{text:?} is not an IP address"))),
        }
    }
}

fn named_ports(path: &str, container: &Container, pod: &mut Pod, faults: &mut Vec<Fault>) {
    for (index, port) in container.ports.iter().flatten().enumerate() {
        let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) else { continue };
        let number = u16::try_from(port.number).ok().filter(|number| *number != 0);
        let protocol = port.protocol.as_deref().map_or(Some(protocol::TCP), protocol_number);
        match (number, protocol) {
            (Some(number), Some(protocol)) => {
                pod.named_ports.insert(NamedPort { name: name.into(), protocol, number });
            }
            (None, _) => {
                let reason = format!("{} is not a port from 1 to 65535", port.number);
                faults.push(Fault::new(format!("{path}.ports[{index}].containerPort"), reason));
            }
            (_, None) => {
                faults.push(Fault::new(format!("{path}.ports[{index}].protocol"), "is not TCP, UDP or SCTP"));
            }
        }
    }
}
