//! Kubernetes objects for tests, as JSON documents of the kind that the API server would send.

use std::net::IpAddr;

use serde_json::{Value, json};

/// A port of a Service.
#[derive(Clone, Copy, Debug)]
pub struct Port<'a> {
    /// Name, by which slices refer to the port.
    pub name: &'a str,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: &'a str,
    /// Port of the cluster IP.
    pub port: u16,
    /// Port of the nodes' addresses; 0 for none.
    pub node_port: u16,
}

impl<'a> Port<'a> {
    /// Returns a TCP port without a node port.
    #[must_use]
    pub const fn tcp(name: &'a str, port: u16) -> Self {
        Self { name, protocol: "TCP", port, node_port: 0 }
    }

    /// Returns a UDP port without a node port.
    #[must_use]
    pub const fn udp(name: &'a str, port: u16) -> Self {
        Self { name, protocol: "UDP", port, node_port: 0 }
    }

    /// Returns an SCTP port without a node port.
    #[must_use]
    pub const fn sctp(name: &'a str, port: u16) -> Self {
        Self { name, protocol: "SCTP", port, node_port: 0 }
    }

    /// Returns the same port with a node port.
    #[must_use]
    pub const fn with_node_port(self, node_port: u16) -> Self {
        Self { node_port, ..self }
    }
}

/// Returns a Node object with these addresses and pod ranges.
#[must_use]
pub fn node(name: &str, addresses: &[IpAddr], pod_cidrs: &[String]) -> Value {
    let addresses: Vec<_> = addresses.iter().map(|address| json!({"type": "InternalIP", "address": address})).collect();
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
        "spec": {"podCIDR": pod_cidrs.first(), "podCIDRs": pod_cidrs},
        "status": {"addresses": addresses},
    })
}

/// Returns a Service, of type NodePort if one of its ports has a node port, else ClusterIP.
#[must_use]
pub fn service(name: &str, cluster_ips: &[IpAddr], ports: &[Port<'_>]) -> Value {
    let with_node_ports = ports.iter().any(|port| port.node_port != 0);
    let ports: Vec<_> = ports.iter().map(service_port).collect();
    let families: Vec<_> = cluster_ips.iter().map(|ip| family(*ip)).collect();
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "type": if with_node_ports { "NodePort" } else { "ClusterIP" },
            "clusterIP": cluster_ips.first(), "clusterIPs": cluster_ips, "ipFamilies": families,
            "ipFamilyPolicy": "PreferDualStack", "ports": ports,
        },
    })
}

fn service_port(&Port { name, protocol, port, node_port }: &Port<'_>) -> Value {
    let mut value = json!({"name": name, "protocol": protocol, "port": port});
    if node_port != 0 {
        value["nodePort"] = json!(node_port);
    }
    value
}

/// One endpoint of a slice.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// The IP address of the endpoint.
    pub address: IpAddr,
    /// The name of its node.
    pub node: String,
    /// The condition `ready`; `serving` is always true.
    pub ready: bool,
    /// The condition `terminating` of the endpoint.
    pub terminating: bool,
}

impl Endpoint {
    /// Returns an endpoint that takes new connections.
    #[must_use]
    pub fn ready(address: IpAddr, node: &str) -> Self {
        Self { address, node: node.to_owned(), ready: true, terminating: false }
    }

    /// Returns an endpoint that serves existing connections and takes no new ones.
    #[must_use]
    pub fn terminating(address: IpAddr, node: &str) -> Self {
        Self { address, node: node.to_owned(), ready: false, terminating: true }
    }
}

/// Returns an EndpointSlice for each family among the endpoints. Every port leads to the same
/// target port.
#[must_use]
pub fn slices(service: &str, ports: &[Port<'_>], target: u16, endpoints: &[Endpoint]) -> Vec<Value> {
    ["IPv4", "IPv6"].into_iter().filter_map(|kind| slice(service, kind, ports, target, endpoints)).collect()
}

fn slice(service: &str, kind: &str, ports: &[Port<'_>], target: u16, endpoints: &[Endpoint]) -> Option<Value> {
    let of_family: Vec<_> = endpoints.iter().filter(|endpoint| family(endpoint.address) == kind).collect();
    if of_family.is_empty() {
        return None;
    }
    let one = |endpoint: &&Endpoint| {
        json!({
            "addresses": [endpoint.address], "nodeName": endpoint.node,
            "conditions": {"ready": endpoint.ready, "serving": true, "terminating": endpoint.terminating},
        })
    };
    let ports: Vec<_> =
        ports.iter().map(|port| json!({"name": port.name, "protocol": port.protocol, "port": target})).collect();
    Some(json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": kind,
        "metadata": {
            "name": format!("{service}-{}", kind.to_lowercase()), "namespace": "default",
            "labels": {"kubernetes.io/service-name": service},
        },
        "ports": ports, "endpoints": of_family.iter().map(one).collect::<Vec<_>>(),
    }))
}

fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_split_by_family() {
        let endpoints = [
            Endpoint::ready("10.0.0.1".parse().unwrap(), "n1"),
            Endpoint::terminating("fd00::1".parse().unwrap(), "n2"),
        ];
        let made = slices("web", &[Port::tcp("http", 80)], 8080, &endpoints);
        assert_eq!(made.len(), 2);
        assert_eq!(made[0]["endpoints"][0]["addresses"][0], "10.0.0.1");
        assert_eq!(made[1]["endpoints"][0]["conditions"]["ready"], false);
        assert_eq!(made[1]["ports"][0]["port"], 8080);
    }

    #[test]
    fn node_port_makes_the_service_type_node_port() {
        let ip = ["10.96.0.1".parse().unwrap()];
        assert_eq!(service("a", &ip, &[Port::tcp("http", 80)])["spec"]["type"], "ClusterIP");
        assert_eq!(
            service("a", &ip, &[Port::tcp("http", 80).with_node_port(30080)])["spec"]["ports"][0]["nodePort"],
            30080
        );
    }
}
