//! Host ports: capability `portMappings`.
//!
//! Sorted and without duplicates. [`crate::ports`] writes them to the maps.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use dataplane_host::store::{PortMapping, Transport};
use serde::Deserialize;
use serde_json::Value;

use crate::error::CniError;

/// Longest accepted list, far above the number of host ports that pods have.
const MOST_PORTS: usize = 512;

/// A host port as runtimes write it.
#[derive(Deserialize)]
struct RawPort {
    #[serde(rename = "hostport", default)]
    host_port: u16,
    #[serde(rename = "containerport", default)]
    container_port: u16,
    #[serde(default)]
    protocol: Option<String>,
    #[serde(rename = "hostip", default)]
    host_ip: Option<String>,
}

/// Parses `portMappings`. Returns them sorted and without duplicates.
pub(super) fn parse(value: Option<Value>) -> Result<Vec<PortMapping>, CniError> {
    const FIELD: &str = "runtimeConfig.portMappings";
    let raw: Option<Vec<RawPort>> =
        value.map_or(Ok(None), serde_json::from_value).map_err(|e| CniError::config(FIELD, e.to_string()))?;
    let raw = raw.unwrap_or_default();
    if raw.len() > MOST_PORTS {
        return Err(CniError::config(FIELD, format!("has {} entries, {MOST_PORTS} are allowed", raw.len())));
    }
    let numbered = raw.into_iter().enumerate();
    let parsed: Result<Vec<_>, _> = numbered
        .map(|(i, raw)| port(&raw).map_err(|reason| CniError::config(FIELD, format!("entry {i}: {reason}"))))
        .collect();
    let mut ports = parsed?;
    ports.sort_unstable();
    ports.dedup();
    let mut seen = HashMap::new();
    for port in &ports {
        let every: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
        for host_ip in port.host_ip.map_or(every.to_vec(), |ip| vec![ip]) {
            match seen.insert((port.protocol, host_ip, port.host_port), port.container_port) {
                Some(other) if other != port.container_port => {
                    return Err(CniError::config(
                        FIELD,
                        format!("{port} leads to both {other} and {}", port.container_port),
                    ));
                }
                _ => {}
            }
        }
    }
    Ok(ports)
}

fn port(raw: &RawPort) -> Result<PortMapping, String> {
    let protocol = match raw.protocol.as_deref().unwrap_or_default().to_ascii_lowercase().as_str() {
        "" | "tcp" => Transport::Tcp,
        "udp" => Transport::Udp,
        "sctp" => Transport::Sctp,
        _ => {
            return Err(format!(
                "protocol {:?} is none of tcp, udp, sctp",
                raw.protocol.as_deref().unwrap_or_default()
            ));
        }
    };
    if raw.host_port == 0 || raw.container_port == 0 {
        let which = if raw.host_port == 0 { "hostPort" } else { "containerPort" };
        return Err(format!("{which} is missing or 0"));
    }
    let host_ip = match raw.host_ip.as_deref() {
        None | Some("") => None,
        Some(text) => {
            let ip: IpAddr = text.parse().map_err(|_| format!("hostIP {text:?} is not an IP address"))?;
            if ip.is_multicast() {
                return Err(format!("hostIP {text} is a multicast address"));
            }
            Some(ip.to_canonical())
        }
    };
    Ok(PortMapping { protocol, host_ip, host_port: raw.host_port, container_port: raw.container_port })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capabilities::Capabilities;
    use crate::env::Arguments;
    use serde_json::json;

    fn ports(value: &Value) -> Result<Vec<String>, String> {
        let capabilities = Capabilities::parse(Some(&json!({ "portMappings": value })), &Arguments::default())
            .map_err(|e| e.to_string())?;
        Ok(capabilities.ports.iter().map(|p| format!("{p} to {}", p.container_port)).collect())
    }

    #[test]
    fn host_ports_of_all_runtimes_are_parsed() {
        let conventional = json!([
            { "hostPort": 8080, "containerPort": 80, "protocol": "tcp" },
            { "hostPort": 8080, "containerPort": 80, "protocol": "udp", "hostIP": "127.0.0.1" },
            { "hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "" },
        ]);
        assert_eq!(ports(&conventional).unwrap(), ["TCP port 8080 to 80", "UDP port 127.0.0.1:8080 to 80"]);
        // containerd has no names in its JSON, and writes protocols in the case of Kubernetes.
        let containerd = json!([
            { "HostPort": 53, "ContainerPort": 5353, "Protocol": "UDP", "HostIP": "" },
            { "HostPort": 53, "ContainerPort": 5353, "Protocol": "SCTP", "HostIP": "fd00::1" },
            { "HostPort": 54, "ContainerPort": 54, "Protocol": "", "HostIP": "::ffff:192.0.2.1" },
        ]);
        assert_eq!(
            ports(&containerd).unwrap(),
            ["TCP port 192.0.2.1:54 to 54", "UDP port 53 to 5353", "SCTP port [fd00::1]:53 to 5353"]
        );
        assert_eq!(ports(&Value::Null).unwrap(), [""; 0]);
        assert_eq!(Capabilities::parse(None, &Arguments::default()).unwrap(), Capabilities::default());
        assert_eq!(
            Capabilities::parse(Some(&json!({ "other": [1] })), &Arguments::default()).unwrap(),
            Capabilities::default()
        );
    }

    #[test]
    fn invalid_host_ports_are_rejected() {
        for (value, words) in [
            (json!({}), "portMappings: invalid type"),
            (json!([{ "hostPort": 70000, "containerPort": 1 }]), "70000"),
            (json!([{ "hostPort": -1, "containerPort": 1 }]), "-1"),
            (
                json!([{ "hostPort": 1, "containerPort": 1 }, { "containerPort": 1 }]),
                "entry 1: hostPort is missing or 0",
            ),
            (json!([{ "hostPort": 1 }]), "entry 0: containerPort is missing or 0"),
            (json!([{ "hostPort": 1, "containerPort": 1, "protocol": "icmp" }]), "protocol \"icmp\" is none of"),
            (json!([{ "hostPort": 1, "containerPort": 1, "hostIP": "host" }]), "hostIP \"host\" is not an IP address"),
            (json!([{ "hostPort": 1, "containerPort": 1, "hostIP": "fe80::1%eth0" }]), "is not an IP address"),
            (
                json!([{ "hostPort": 1, "containerPort": 1, "hostIP": "224.0.0.1" }]),
                "hostIP 224.0.0.1 is a multicast address",
            ),
            (
                json!([{ "hostPort": 1, "containerPort": 1 }, { "hostPort": 1, "containerPort": 2 }]),
                "TCP port 1 leads to both 1 and 2",
            ),
            (
                json!([{ "hostPort": 1, "containerPort": 1 }, { "hostPort": 1, "containerPort": 2, "hostIP": "::" }]),
                "TCP port [::]:1 leads to both 1 and 2",
            ),
        ] {
            let message = ports(&value).unwrap_err();
            assert!(message.contains(words) && message.contains("portMappings"), "{value}: {message}");
        }
        let many = vec![json!({ "hostPort": 1, "containerPort": 1 }); MOST_PORTS + 1];
        assert!(ports(&many.into()).unwrap_err().contains("has 513 entries"));
        assert!(Capabilities::parse(Some(&json!([])), &Arguments::default()).is_err());
    }
}
