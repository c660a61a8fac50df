//! Fuzzing of objects of the API and of manifests.
//!
//! Objects go on to what is derived from them. `cargo xtask fuzz` runs these tests longer.

use std::path::Path;

use super::parse;
use crate::proxy::desired::limits::excess;
use crate::proxy::desired::{ClusterContext, Context, NodeContext, service};
use crate::proxy::source::SourceEvent;
use crate::proxy::source::decode::Decoder;

const SERVICE: &[u8] = br#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"web","namespace":"shop",
    "annotations":{"ropeway.dev/scheduler":"mh","ropeway.dev/weights":"10.1.0.5=3","ropeway.dev/maglev-table-size":"251"}},
    "spec":{"clusterIP":"10.96.0.1","clusterIPs":["10.96.0.1","fd00:96::1"],"type":"LoadBalancer","sessionAffinity":"ClientIP",
    "sessionAffinityConfig":{"clientIP":{"timeoutSeconds":60}},"externalIPs":["203.0.113.1"],"loadBalancerSourceRanges":["10.0.0.0/8"],
    "externalTrafficPolicy":"Local","internalTrafficPolicy":"Cluster","healthCheckNodePort":30001,
    "ports":[{"name":"http","port":80,"targetPort":8080,"protocol":"TCP","nodePort":30080}]},
    "status":{"loadBalancer":{"ingress":[{"ip":"203.0.113.2"}]}}}"#;
const SLICE: &[u8] = br#"{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","metadata":{"name":"web-1","namespace":"shop",
    "labels":{"kubernetes.io/service-name":"web"}},"addressType":"IPv4","ports":[{"name":"http","port":8080,"protocol":"TCP"}],
    "endpoints":[{"addresses":["10.1.0.5"],"nodeName":"n1","zone":"a","conditions":{"ready":true,"serving":true,"terminating":false},
    "hints":{"forZones":[{"name":"a"}]}}]}"#;
const NODE: &[u8] = br#"{"apiVersion":"v1","kind":"Node","metadata":{"name":"n1","labels":{"topology.kubernetes.io/zone":"a"}},
    "spec":{"podCIDR":"10.1.0.0/24","podCIDRs":["10.1.0.0/24","fd00:1::/64"],"taints":[{"key":"x","effect":"NoSchedule"}]},
    "status":{"addresses":[{"type":"InternalIP","address":"192.0.2.1"}]}}"#;
const LIST: &[u8] =
    br#"{"apiVersion":"v1","kind":"List","items":[{"apiVersion":"networking.k8s.io/v1","kind":"ServiceCIDR",
    "metadata":{"name":"kubernetes"},"spec":{"cidrs":["10.96.0.0/12"]}}]}"#;
const WORDS: &[&str] = &[
    "metadata",
    "spec",
    "status",
    "name",
    "namespace",
    "annotations",
    "labels",
    "items",
    "kind",
    "clusterIP",
    "clusterIPs",
    "externalIPs",
    "ports",
    "port",
    "nodePort",
    "protocol",
    "SCTP",
    "endpoints",
    "addresses",
    "conditions",
    "ready",
    "nodeName",
    "zone",
    "hints",
    "forZones",
    "Local",
    "None",
    "ExternalName",
    "ropeway.dev/scheduler",
    "wlc",
    "ip",
    "ropeway.dev/weights",
    "ropeway.dev/maglev-table-size",
    "131071",
    "loadBalancerSourceRanges",
    "deletionTimestamp",
    "---\n",
    "&a ",
    "*a",
    "<<: *a\n",
];

fn context() -> Context {
    let node = NodeContext {
        name: "n1".into(),
        addresses: vec!["192.0.2.1".parse().unwrap()],
        nodeport_addresses: vec!["192.0.2.1".parse().unwrap()],
        ipv4: true,
        ipv6: true,
        ..NodeContext::default()
    };
    Context { node, cluster: ClusterContext::default() }
}

/// Parses a file, and derives all that its objects ask for. Returns true if it has objects.
fn derive(path: &str, input: &[u8], context: &Context) -> bool {
    let Ok(parsed) = parse::parse(Path::new(path), input, &mut Decoder::new("n1")) else { return false };
    let events: Vec<_> = parsed.objects.into_iter().flat_map(|(.., events)| events).collect();
    let slices: Vec<_> =
        events.iter().filter_map(|e| if let SourceEvent::Slice(_, s) = e { s.as_ref() } else { None }).collect();
    for event in &events {
        if let SourceEvent::Service(key, Some(object)) = event
            && excess(object, slices.iter().copied(), context).is_none()
        {
            let derived = service(key, object, slices.iter().copied(), context, |_| false);
            assert!(derived.ports.len() <= object.ports.len());
        }
    }
    !events.is_empty()
}

#[test]
fn fuzz_api_objects() {
    let context = context();
    fuzzing::run("api_objects", &[SERVICE, SLICE, NODE, LIST], WORDS, |input| derive("x.json", input, &context));
}

#[test]
fn fuzz_manifests() {
    let yaml: &[u8] = b"
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.0.1, ports: [{name: http, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [10.1.0.5]}]
";
    let context = context();
    fuzzing::run("manifests", &[yaml, SERVICE], WORDS, |input| derive("x.yaml", input, &context));
}
