//! The fields of Kubernetes objects that the agent reads, in the form of JSON and YAML.
//!
//! Numbers are wide and enumerations are strings, so that an invalid value affects one field and
//! not the whole object or list; [`super::decode`] validates them. The parser skips all other
//! fields. The field names are those of the Kubernetes API reference.

use std::borrow::Cow;
use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::{ClusterResourceScope, NamespaceResourceScope};
use serde::{Deserialize, Deserializer};

macro_rules! resource {
    ($ty:ident, $scope:ty, $group:literal, $version:literal, $kind:literal, $plural:literal) => {
        impl kube::Resource for $ty {
            type DynamicType = ();
            type Scope = $scope;
            fn kind((): &()) -> Cow<'_, str> {
                $kind.into()
            }
            fn group((): &()) -> Cow<'_, str> {
                $group.into()
            }
            fn version((): &()) -> Cow<'_, str> {
                $version.into()
            }
            fn plural((): &()) -> Cow<'_, str> {
                $plural.into()
            }
            fn meta(&self) -> &ObjectMeta {
                &self.metadata
            }
            fn meta_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        }
    };
}

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
    // v1.Service
    ServiceWire { #[serde(deserialize_with = "metadata")] metadata: ObjectMeta, spec: ServiceSpec, status: ServiceStatus, }
    // v1.Service.spec
    ServiceSpec {
        r#type: Option<String>,
        #[serde(rename = "clusterIP")] cluster_ip: Option<String>,
        #[serde(rename = "clusterIPs")] cluster_ips: Option<Vec<String>>,
        #[serde(rename = "externalIPs")] external_ips: Option<Vec<String>>,
        ports: Option<Vec<ServicePortWire>>,
        session_affinity: Option<String>,
        session_affinity_config: Option<AffinityConfig>,
        internal_traffic_policy: Option<String>,
        external_traffic_policy: Option<String>,
        traffic_distribution: Option<String>,
        load_balancer_source_ranges: Option<Vec<String>>,
        health_check_node_port: Option<i64>,
    }
    // v1.ServicePort
    ServicePortWire { name: Option<String>, port: i64, protocol: Option<String>, node_port: Option<i64>, }
    // v1.SessionAffinityConfig
    AffinityConfig { #[serde(rename = "clientIP")] client_ip: Option<ClientIpConfig>, }
    // v1.ClientIPConfig
    ClientIpConfig { timeout_seconds: Option<i64>, }
    // v1.Service.status
    ServiceStatus { load_balancer: Option<LoadBalancerStatus>, }
    // v1.LoadBalancerStatus
    LoadBalancerStatus { ingress: Option<Vec<Ingress>>, }
    // v1.LoadBalancerIngress
    Ingress { ip: Option<String>, ip_mode: Option<String>, }
    // discovery.k8s.io/v1.EndpointSlice
    SliceWire {
        #[serde(deserialize_with = "metadata")] metadata: ObjectMeta,
        address_type: String,
        ports: Option<Vec<SlicePortWire>>,
        endpoints: Option<Vec<EndpointWire>>,
    }
    // discovery.k8s.io/v1.EndpointPort
    SlicePortWire { name: Option<String>, port: Option<i64>, protocol: Option<String>, }
    // discovery.k8s.io/v1.Endpoint
    EndpointWire {
        addresses: Option<Vec<String>>,
        conditions: Option<Conditions>,
        node_name: Option<String>,
        hints: Option<Hints>,
    }
    // discovery.k8s.io/v1.EndpointConditions
    Conditions { ready: Option<bool>, serving: Option<bool>, terminating: Option<bool>, }
    // discovery.k8s.io/v1.EndpointHints
    Hints { for_zones: Option<Vec<Named>>, for_nodes: Option<Vec<Named>>, }
    /// A hint: the name of a zone or node.
    Named { name: String, }
    // v1.Node
    NodeWire { #[serde(deserialize_with = "metadata")] metadata: ObjectMeta, spec: NodeSpec, status: NodeStatus, }
    // v1.Node.spec
    NodeSpec {
        #[serde(rename = "podCIDR")] pod_cidr: Option<String>,
        #[serde(rename = "podCIDRs")] pod_cidrs: Option<Vec<String>>,
        taints: Option<Vec<Taint>>,
    }
    // v1.Taint
    Taint { key: String, }
    // v1.Node.status
    NodeStatus { addresses: Option<Vec<NodeAddress>>, }
    // v1.NodeAddress
    NodeAddress { r#type: String, address: String, }
    // networking.k8s.io/v1.ServiceCIDR
    ServiceCidrWire { #[serde(deserialize_with = "metadata")] metadata: ObjectMeta, spec: ServiceCidrSpec, }
    // networking.k8s.io/v1.ServiceCIDR.spec
    ServiceCidrSpec { cidrs: Option<Vec<String>>, }
}

/// The fields of `ObjectMeta` that the agent reads.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Metadata {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    creation_timestamp: Option<Time>,
    deletion_timestamp: Option<Time>,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, String>>,
}

/// Reads metadata without `managedFields`: they are the largest part of most objects, and a parser
/// that builds them gives up at a depth that a tenant chooses.
fn metadata<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    let Metadata {
        name,
        namespace,
        uid,
        resource_version,
        creation_timestamp,
        deletion_timestamp,
        labels,
        annotations,
    } = Option::deserialize(deserializer)?.unwrap_or_default();
    Ok(ObjectMeta {
        name,
        namespace,
        uid,
        resource_version,
        creation_timestamp,
        deletion_timestamp,
        labels,
        annotations,
        ..ObjectMeta::default()
    })
}

resource!(ServiceWire, NamespaceResourceScope, "", "v1", "Service", "services");
resource!(SliceWire, NamespaceResourceScope, "discovery.k8s.io", "v1", "EndpointSlice", "endpointslices");
resource!(NodeWire, ClusterResourceScope, "", "v1", "Node", "nodes");
resource!(ServiceCidrWire, ClusterResourceScope, "networking.k8s.io", "v1", "ServiceCIDR", "servicecidrs");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deeply_nested_managed_fields_are_skipped() {
        let nested = format!("{}{}", "{\"f:a\":".repeat(500), "{}".to_owned() + &"}".repeat(500));
        let text = format!(
            r#"{{"metadata":{{"name":"web","labels":null,"uid":"u1","managedFields":[{{"fieldsV1":{nested}}}]}},"spec":{{"clusterIP":"10.96.0.1"}}}}"#
        );
        let service: ServiceWire = serde_json::from_str(&text).unwrap();
        assert_eq!((service.metadata.name.as_deref(), service.metadata.uid.as_deref()), (Some("web"), Some("u1")));
        assert_eq!(service.spec.cluster_ip.as_deref(), Some("10.96.0.1"));
        let empty: ServiceWire = serde_json::from_str(r#"{"metadata":null}"#).unwrap();
        assert_eq!(empty.metadata, ObjectMeta::default());
    }
}
