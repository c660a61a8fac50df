//! Decodes Services.
//!
//! Headless Services, `ExternalName` Services and those of other proxies have no object. Defaults
//! and limits are those of the Kubernetes API.

use std::net::IpAddr;

use super::address::refused;
use super::{Decoded, Decoder, FieldErrors, SERVICE_PROXY_NAME, label, scheduling};
use crate::proxy::source::ObjectKind;
use crate::proxy::source::object::{DualAddr, Policy, ServiceExtra, ServiceObject, ServicePort};
use crate::proxy::source::wire::{ServiceSpec, ServiceWire};

/// Default of `spec.sessionAffinityConfig.clientIP.timeoutSeconds`, in seconds.
const AFFINITY_DEFAULT: u32 = 10_800;
const AFFINITY_MAX: i64 = 86_400;

impl Decoder {
    /// Decodes a Service; no object if it is headless, of type `ExternalName`, or another proxy's.
    pub fn service(&mut self, wire: &ServiceWire) -> Decoded<ServiceObject> {
        let key = self.key(&wire.metadata, "default");
        let mut faults = FieldErrors::new(ObjectKind::Service, &key);
        let spec = &wire.spec;
        let skipped = label(&wire.metadata, SERVICE_PROXY_NAME).is_some()
            || spec.r#type.as_deref() == Some("ExternalName")
            || is_headless(spec);
        let cluster_ips = if skipped { None } else { cluster_ips(spec, &mut faults) };
        let object = cluster_ips.map(|cluster_ips| ServiceObject {
            cluster_ips,
            ports: self.service_ports(spec, &mut faults),
            created: wire
                .metadata
                .creation_timestamp
                .as_ref()
                .map_or(0, |t| u32::try_from(t.0.as_second().max(0)).unwrap_or(u32::MAX)),
            affinity: affinity(spec, &mut faults),
            internal: policy("spec.internalTrafficPolicy", spec.internal_traffic_policy.as_deref(), &mut faults),
            external: policy("spec.externalTrafficPolicy", spec.external_traffic_policy.as_deref(), &mut faults),
            extra: extra(wire, &mut faults),
        });
        let rejections = faults.found;
        Decoded { key, object, rejections }
    }

    fn service_ports(&mut self, spec: &ServiceSpec, faults: &mut FieldErrors<'_>) -> Box<[ServicePort]> {
        let has_node_ports = matches!(spec.r#type.as_deref(), Some("NodePort" | "LoadBalancer"));
        let mut ports: Vec<ServicePort> = Vec::new();
        for (i, wire) in spec.ports.iter().flatten().enumerate() {
            let field = |name: &str| format!("spec.ports[{i}].{name}");
            let Some(port) = faults.port(|| field("port"), wire.port) else { continue };
            let Some(proto) = faults.protocol(|| field("protocol"), wire.protocol.as_deref()) else { continue };
            let node_port = match wire.node_port {
                Some(n) if has_node_ports && n != 0 => faults.port(|| field("nodePort"), n).unwrap_or(0),
                _ => 0,
            };
            let name = wire.name.as_deref().unwrap_or_default();
            // Names of Service ports are DNS labels (63 characters); names of container ports have
            // at most 15.
            if name.len() > 63 || name.contains(':') {
                faults.add(field("name"), format!("{name:?} is not a valid port name"));
            } else if ports.iter().any(|p| (p.port, p.proto) == (port, proto)) {
                faults
                    .add(field("port"), format!("duplicate port {port}/{}", wire.protocol.as_deref().unwrap_or("TCP")));
            } else if ports.iter().any(|p| &*p.name == name) {
                faults.add(field("name"), format!("duplicate name {name:?}"));
            } else {
                ports.push(ServicePort { name: self.interner.string(name), port, node_port, proto });
            }
        }
        ports.into()
    }
}

fn is_headless(spec: &ServiceSpec) -> bool {
    let first = spec.cluster_ips.iter().flatten().next().or(spec.cluster_ip.as_ref());
    first.is_some_and(|ip| ip == "None")
}

/// Decodes the cluster IPs. Leaves out invalid addresses and a second address of a family.
fn cluster_ips(spec: &ServiceSpec, faults: &mut FieldErrors<'_>) -> Option<DualAddr> {
    let mut all: Vec<(String, &String)> =
        spec.cluster_ips.iter().flatten().enumerate().map(|(i, ip)| (format!("spec.clusterIPs[{i}]"), ip)).collect();
    // `clusterIP` is the older field with a single address.
    if all.is_empty() {
        all.extend(spec.cluster_ip.iter().map(|ip| ("spec.clusterIP".to_owned(), ip)));
    }
    all.retain(|(_, ip)| !ip.is_empty());
    if all.is_empty() {
        faults.add("spec.clusterIP", "is not set; only an API server can assign one");
        return None;
    }
    let mut dual = DualAddr::default();
    for (field, text) in all {
        let Some(addr) = faults.address(|| field.clone(), text) else { continue };
        if let Some(reason) = refused(addr) {
            faults.add(field, format!("{addr} {reason}"));
            continue;
        }
        match addr {
            IpAddr::V4(a) if dual.v4.is_none() => dual.v4 = Some(a),
            IpAddr::V6(a) if dual.v6.is_none() => dual.v6 = Some(a),
            _ => faults.add(field, format!("{addr} is a second address of its family")),
        }
    }
    Some(dual)
}

fn affinity(spec: &ServiceSpec, faults: &mut FieldErrors<'_>) -> u32 {
    match spec.session_affinity.as_deref() {
        None | Some("" | "None") => return 0,
        Some("ClientIP") => {}
        Some(other) => {
            faults.add("spec.sessionAffinity", format!("{other:?} is not None or ClientIP"));
            return 0;
        }
    }
    let seconds = spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref()?.timeout_seconds);
    match seconds {
        None => AFFINITY_DEFAULT,
        Some(s @ 1..=AFFINITY_MAX) => u32::try_from(s).unwrap_or(AFFINITY_DEFAULT),
        Some(s) => {
            let field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
            faults.add(field, format!("{s} is not between 1 and {AFFINITY_MAX}; {AFFINITY_DEFAULT} is used"));
            AFFINITY_DEFAULT
        }
    }
}

fn policy(field: &str, value: Option<&str>, faults: &mut FieldErrors<'_>) -> Policy {
    match value {
        None | Some("" | "Cluster") => Policy::Cluster,
        Some("Local") => Policy::Local,
        Some(other) => {
            faults.add(field, format!("{other:?} is not Cluster or Local; Cluster is used"));
            Policy::Cluster
        }
    }
}

fn extra(wire: &ServiceWire, faults: &mut FieldErrors<'_>) -> Option<Box<ServiceExtra>> {
    let spec = &wire.spec;
    let external = spec.external_ips.iter().flatten().enumerate().map(|(i, ip)| (format!("spec.externalIPs[{i}]"), ip));
    let external_ips = external_addresses(external, faults);
    let ingress = wire.status.load_balancer.iter().flat_map(|l| l.ingress.iter().flatten()).enumerate();
    // Reported after the loop, which already borrows `faults`.
    let mut odd_modes = Vec::new();
    // In mode Proxy, traffic must pass the load balancer, so the address is not served here.
    let vip = ingress.filter(|(i, ingress)| match ingress.ip_mode.as_deref() {
        None | Some("VIP") => true,
        Some("Proxy") => false,
        Some(other) => {
            let reason = format!("{other:?} is not VIP or Proxy; the address is not served");
            odd_modes.push((format!("status.loadBalancer.ingress[{i}].ipMode"), reason));
            false
        }
    });
    let vip = vip.filter_map(|(i, ingress)| {
        Some((format!("status.loadBalancer.ingress[{i}].ip"), ingress.ip.as_ref().filter(|ip| !ip.is_empty())?))
    });
    let load_balancer_ips = external_addresses(vip, faults);
    odd_modes.into_iter().for_each(|(field, reason)| faults.add(field, reason));
    let mut source_ranges = Vec::new();
    let mut restricted = [false; 2];
    for (i, text) in spec.load_balancer_source_ranges.iter().flatten().enumerate() {
        let text = text.trim();
        // Marked by the text alone: a range that can't be parsed must not open the Service.
        restricted[usize::from(text.contains(':'))] = true;
        source_ranges.extend(faults.range(|| format!("spec.loadBalancerSourceRanges[{i}]"), text));
    }
    let health_check_node_port = match spec.health_check_node_port {
        None | Some(0) => 0,
        Some(p) => faults.port(|| "spec.healthCheckNodePort".into(), p).unwrap_or(0),
    };
    let scheduling = scheduling::scheduling(&wire.metadata, faults);
    let source_ranges = source_ranges.into();
    let extra =
        ServiceExtra { external_ips, load_balancer_ips, source_ranges, restricted, health_check_node_port, scheduling };
    // Most Services have none of these fields and need no allocation.
    (extra != ServiceExtra::default()).then(|| Box::new(extra))
}

fn external_addresses<'a>(
    from: impl Iterator<Item = (String, &'a String)>,
    faults: &mut FieldErrors<'_>,
) -> Box<[IpAddr]> {
    let mut addresses = Vec::new();
    for (field, text) in from {
        let Some(addr) = faults.address(|| field.clone(), text) else { continue };
        match refused(addr) {
            Some(reason) => faults.add(field, format!("{addr} {reason}")),
            None if addresses.contains(&addr) => {}
            None => addresses.push(addr),
        }
    }
    addresses.into()
}
