//! Tests of decoding: unusable fields are reported, and the other fields are used.
//!
//! Test names with `rule_x_y_z` refer to the rules of docs/service-matrix.md.
#![allow(clippy::type_complexity, reason = "tables of cases")]

mod scheduling;

use dataplane_common::types::ip_family::IpFamily;
use serde_json::{Value, json};

use super::*;
use crate::proxy::source::object::{Policy, endpoint_flags};
use crate::proxy::source::wire::{NodeWire, ServiceCidrWire, ServiceWire, SliceWire};
use crate::proxy::source::{NodeObject, ServiceObject, SliceObject};

fn service_of(value: Value) -> Decoded<ServiceObject> {
    Decoder::new("n1").service(&serde_json::from_value::<ServiceWire>(value).unwrap())
}

fn slice_of(value: Value) -> Decoded<SliceObject> {
    Decoder::new("n1").slice(&serde_json::from_value::<SliceWire>(value).unwrap())
}

fn node_of(value: Value) -> NodeObject {
    Decoder::new("n1").node(&serde_json::from_value::<NodeWire>(value).unwrap()).object.unwrap()
}

fn web(change: impl FnOnce(&mut Value)) -> Value {
    let mut value = json!({
        "metadata": {"name": "web", "namespace": "shop", "creationTimestamp": "2026-01-02T03:04:05Z"},
        "spec": {"type": "NodePort", "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00::1"],
                 "ports": [{"name": "http", "port": 80, "targetPort": "web", "nodePort": 30080}]}
    });
    change(&mut value);
    value
}

fn slice(change: impl FnOnce(&mut Value)) -> Value {
    let mut value = json!({
        "metadata": {"name": "web-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": [{"addresses": ["10.1.0.5", "10.1.0.99"], "nodeName": "n1"}]
    });
    change(&mut value);
    value
}

fn rejections<T>(decoded: &Decoded<T>) -> Vec<String> {
    decoded.rejections.iter().map(ToString::to_string).collect()
}

#[test]
fn service_is_decoded() {
    let decoded = service_of(web(|_| {}));
    assert_eq!(rejections(&decoded), [""; 0]);
    let object = decoded.object.unwrap();
    assert_eq!(decoded.key.to_string(), "shop/web");
    assert_eq!(object.cluster_ips.iter().count(), 2);
    assert_eq!((object.ports[0].port, object.ports[0].node_port, object.ports[0].proto), (80, 30080, 6));
    assert_eq!((object.created, object.affinity, object.extra), (1_767_323_045, 0, None));
}

#[test]
fn rule_2_1_1_headless_services_and_those_of_other_proxies_are_skipped() {
    let skipped: [fn(&mut Value); 4] = [
        |v| v["spec"]["clusterIPs"] = json!(["None"]),
        |v| v["spec"] = json!({"clusterIP": "None"}),
        |v| v["metadata"]["labels"] = json!({"service.kubernetes.io/service-proxy-name": "other"}),
        // rule 2.1.2
        |v| v["spec"]["type"] = json!("ExternalName"),
    ];
    for change in skipped {
        let decoded = service_of(web(change));
        assert!(decoded.object.is_none() && decoded.rejections.is_empty(), "{decoded:?}");
    }
}

#[test]
fn rule_2_1_1_slices_of_headless_services_and_other_proxies_are_skipped() {
    for label in ["service.kubernetes.io/headless", "service.kubernetes.io/service-proxy-name"] {
        let decoded = slice_of(slice(|v| v["metadata"]["labels"][label] = json!("")));
        assert!(decoded.object.is_none() && decoded.rejections.is_empty(), "{label}");
    }
    assert!(slice_of(slice(|v| v["addressType"] = json!("FQDN"))).object.is_none());
    assert!(slice_of(slice(|v| v["metadata"]["labels"] = json!({}))).object.is_none());
}

#[test]
fn rule_2_1_4_load_balancer_addresses_without_mode_proxy_are_served() {
    let ingress = json!([{"ip": "203.0.113.1"}, {"ip": "203.0.113.2", "ipMode": "VIP"},
                         {"ip": "203.0.113.3", "ipMode": "Proxy"}, {"hostname": "example.com"}]);
    let decoded = service_of(web(|v| v["status"] = json!({"loadBalancer": {"ingress": ingress}})));
    let ips = decoded.object.unwrap().extra.unwrap().load_balancer_ips;
    assert_eq!(ips.iter().map(ToString::to_string).collect::<Vec<_>>(), ["203.0.113.1", "203.0.113.2"]);
}

#[test]
fn rule_2_1_6_missing_conditions_have_defaults() {
    use endpoint_flags::{LOCAL, READY, SERVING, TERMINATING};
    for (conditions, wanted) in [
        (json!(null), READY | SERVING),
        (json!({}), READY | SERVING),
        (json!({"ready": false}), 0),
        (json!({"ready": false, "serving": true, "terminating": true}), SERVING | TERMINATING),
        (json!({"ready": true, "terminating": true}), READY | SERVING | TERMINATING),
    ] {
        let decoded = slice_of(slice(|v| v["endpoints"][0]["conditions"] = conditions.clone()));
        assert_eq!(decoded.object.unwrap().endpoints[0].flags, wanted | LOCAL, "{conditions}");
    }
}

#[test]
fn rule_2_1_6_first_address_is_used_and_ports_without_number_are_ignored() {
    let ports = json!([{"port": 80}, {"name": "none", "port": null}, {"name": "zero", "port": 0}]);
    let decoded = slice_of(slice(|v| v["ports"] = ports));
    assert_eq!(rejections(&decoded), [""; 0]);
    let object = decoded.object.unwrap();
    assert_eq!(object.endpoints.len(), 1);
    assert_eq!(object.ports.iter().map(|p| (&*p.name, p.port, p.proto)).collect::<Vec<_>>(), [("", 80, 6)]);
}

#[test]
fn rule_2_2_2_hints_are_reduced_to_what_this_node_needs() {
    let hints = json!({"forZones": [{"name": "z1"}], "forNodes": [{"name": "n1"}]});
    let object = slice_of(slice(|v| v["endpoints"][0]["hints"] = hints)).object.unwrap();
    let flags = object.endpoints[0].flags;
    assert_ne!(flags & endpoint_flags::NODE_HINTS, 0);
    assert_ne!(flags & endpoint_flags::THIS_NODE_HINTED, 0);
    assert_eq!(*object.endpoints[0].zones.as_ref().unwrap()[0], *"z1");
}

#[test]
fn rule_2_4_2_affinity_has_its_default_and_limits() {
    let with = |timeout: Value| {
        service_of(web(|v| {
            v["spec"]["sessionAffinity"] = json!("ClientIP");
            v["spec"]["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": timeout}});
        }))
    };
    assert_eq!(with(json!(null)).object.unwrap().affinity, 10_800);
    assert_eq!(with(json!(5)).object.unwrap().affinity, 5);
    let bad = with(json!(-1));
    assert_eq!(bad.object.as_ref().unwrap().affinity, 10_800);
    assert_eq!(
        rejections(&bad),
        [
            "Service shop/web, spec.sessionAffinityConfig.clientIP.timeoutSeconds: -1 is not between 1 and 86400; 10800 is used"
        ]
    );
}

#[test]
fn port_name_is_a_dns_label() {
    let of_length = |length| web(move |v| v["spec"]["ports"][0]["name"] = json!("p".repeat(length)));
    let good = service_of(of_length(63));
    assert_eq!((good.rejections.len(), good.object.unwrap().ports.len()), (0, 1));
    let bad = service_of(of_length(64));
    assert_eq!((bad.rejections.len(), bad.object.unwrap().ports.len()), (1, 0));
}

#[test]
fn invalid_service_fields_are_reported_and_the_rest_counts() {
    let cases: [(fn(&mut Value), &str); 16] = [
        (|v| v["spec"]["ports"][0]["port"] = json!(70000), "spec.ports[0].port: 70000 is not a port from 1 to 65535"),
        (|v| v["spec"]["ports"][0]["port"] = json!(-1), "spec.ports[0].port: -1 is not a port from 1 to 65535"),
        (|v| v["spec"]["ports"][0]["nodePort"] = json!(-5), "spec.ports[0].nodePort: -5 is not a port from 1 to 65535"),
        (
            |v| v["spec"]["ports"][0]["protocol"] = json!("QUIC"),
            "spec.ports[0].protocol: \"QUIC\" is not TCP, UDP or SCTP",
        ),
        (
            |v| v["spec"]["ports"] = json!([{"name": "a", "port": 80}, {"name": "b", "port": 80}]),
            "spec.ports[1].port: duplicate port 80/TCP",
        ),
        (
            |v| v["spec"]["ports"] = json!([{"name": "a", "port": 80}, {"name": "a", "port": 81}]),
            "spec.ports[1].name: duplicate name \"a\"",
        ),
        (
            |v| v["spec"]["clusterIPs"] = json!(["10.96.0.1", "10.96.0.2"]),
            "spec.clusterIPs[1]: 10.96.0.2 is a second address of its family",
        ),
        (|v| v["spec"]["externalIPs"] = json!(["127.0.0.1"]), "spec.externalIPs[0]: 127.0.0.1 is a loopback address"),
        (
            |v| v["spec"]["externalIPs"] = json!(["not-an-ip"]),
            "spec.externalIPs[0]: \"not-an-ip\" is not an IP address",
        ),
        (
            |v| v["spec"]["ports"][0]["port"] = json!(i64::MAX),
            "spec.ports[0].port: 9223372036854775807 is not a port from 1 to 65535",
        ),
        (
            |v| v["spec"]["externalIPs"] = json!(["169.254.1.1"]),
            "spec.externalIPs[0]: 169.254.1.1 is a link-local address",
        ),
        (
            |v| v["status"] = json!({"loadBalancer": {"ingress": [{"ip": "224.0.0.9"}]}}),
            "status.loadBalancer.ingress[0].ip: 224.0.0.9 is a multicast or broadcast address",
        ),
        (
            |v| v["status"] = json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.9", "ipMode": "Tunnel"}]}}),
            "status.loadBalancer.ingress[0].ipMode: \"Tunnel\" is not VIP or Proxy; the address is not served",
        ),
        (
            |v| v["spec"]["healthCheckNodePort"] = json!(99_999),
            "spec.healthCheckNodePort: 99999 is not a port from 1 to 65535",
        ),
        (
            |v| v["spec"]["sessionAffinity"] = json!("Cookie"),
            "spec.sessionAffinity: \"Cookie\" is not None or ClientIP",
        ),
        (
            |v| v["spec"]["internalTrafficPolicy"] = json!("Zonal"),
            "spec.internalTrafficPolicy: \"Zonal\" is not Cluster or Local; Cluster is used",
        ),
    ];
    for (change, wanted) in cases {
        let decoded = service_of(web(change));
        assert_eq!(rejections(&decoded), [format!("Service shop/web, {wanted}")]);
        let object = decoded.object.unwrap();
        assert_eq!(object.internal, Policy::Cluster);
        assert!(object.cluster_ips.v4.is_some(), "{wanted}");
    }
    let unset = service_of(web(|v| v["spec"] = json!({"ports": []})));
    assert_eq!(rejections(&unset), ["Service shop/web, spec.clusterIP: is not set; only an API server can assign one"]);
}

#[test]
fn rule_2_3_11_source_ranges_are_normalized_and_an_invalid_one_opens_nothing() {
    let with = |ranges: Value| service_of(web(|v| v["spec"]["loadBalancerSourceRanges"] = ranges));
    let good = with(json!([" 198.51.100.7/24 ", "2001:db8::1/32"]));
    assert_eq!(rejections(&good), [""; 0]);
    let extra = good.object.unwrap().extra.unwrap();
    assert_eq!(
        extra.source_ranges.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["198.51.100.0/24", "2001:db8::/32"]
    );
    assert_eq!(extra.restricted, [true, true]);
    let bad = with(json!(["198.51.100.0/33", "10.0.0.0/8"]));
    assert_eq!(
        rejections(&bad),
        ["Service shop/web, spec.loadBalancerSourceRanges[0]: \"198.51.100.0/33\" is not a CIDR"]
    );
    let extra = bad.object.unwrap().extra.unwrap();
    assert_eq!((extra.source_ranges.len(), extra.restricted), (1, [true, false]));
    let none = with(json!(["everybody", "::ffff:10.0.0.0/104"]));
    assert_eq!(none.rejections.len(), 2);
    let extra = none.object.unwrap().extra.unwrap();
    assert_eq!((extra.source_ranges.len(), extra.restricted), (0, [true, true]));
}

#[test]
fn endpoints_at_forbidden_addresses_are_rejected() {
    for (bad, reason) in [
        ("127.0.0.1", "is a loopback address"),
        ("169.254.169.254", "is a link-local address"),
        ("224.0.0.1", "is a multicast or broadcast address"),
        ("255.255.255.255", "is a multicast or broadcast address"),
        ("0.0.0.0", "is an unspecified address"),
        ("0.1.2.3", "is an unspecified address"),
        ("127.255.0.9", "is a loopback address"),
    ] {
        let decoded = slice_of(slice(|v| v["endpoints"].as_array_mut().unwrap().push(json!({"addresses": [bad]}))));
        assert_eq!(
            rejections(&decoded),
            [format!("EndpointSlice shop/web-1, endpoints[1].addresses[0]: {bad} {reason}")]
        );
        assert_eq!(decoded.object.unwrap().endpoints.len(), 1);
    }
    for bad in ["::1", "fe80::1", "ff02::1", "::", "::ffff:10.0.0.1"] {
        let decoded = slice_of(slice(|v| {
            v["addressType"] = json!("IPv6");
            v["endpoints"] = json!([{"addresses": [bad]}, {"addresses": ["fd00::5"]}]);
        }));
        assert_eq!(decoded.rejections.len(), 1, "{bad}");
        assert_eq!(decoded.object.unwrap().endpoints.len(), 1);
    }
}

#[test]
fn invalid_slice_fields_are_reported_and_the_rest_counts() {
    let mixed = slice_of(slice(|v| v["endpoints"].as_array_mut().unwrap().push(json!({"addresses": ["fd00::5"]}))));
    assert_eq!(
        rejections(&mixed),
        ["EndpointSlice shop/web-1, endpoints[1].addresses[0]: fd00::5 does not match addressType"]
    );
    let empty = slice_of(slice(|v| v["endpoints"].as_array_mut().unwrap().push(json!({"addresses": []}))));
    assert_eq!(rejections(&empty), ["EndpointSlice shop/web-1, endpoints[1].addresses: is empty"]);
    let huge = slice_of(slice(|v| v["endpoints"] = json!(vec![json!({"addresses": ["10.1.0.5"]}); 10_000])));
    assert_eq!(rejections(&huge), ["EndpointSlice shop/web-1, endpoints: has 10000 elements, more than 1000"]);
    assert!(huge.object.is_none());
}

#[test]
fn service_cidrs_are_decoded_and_invalid_ranges_reported() {
    let value =
        json!({"metadata": {"name": "extra"}, "spec": {"cidrs": ["10.112.0.9/16", "fd00:112::/112", "10.0.0.0/40"]}});
    let decoded = Decoder::new("n1").service_cidr(&serde_json::from_value::<ServiceCidrWire>(value).unwrap());
    assert_eq!(rejections(&decoded), ["ServiceCIDR extra, spec.cidrs[2]: \"10.0.0.0/40\" is not a CIDR"]);
    let ranges: Vec<_> = decoded.object.unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(ranges, ["10.112.0.0/16", "fd00:112::/112"]);
}

#[test]
fn nodes_are_decoded() {
    let node = node_of(json!({
        "metadata": {"name": "n1", "labels": {"topology.kubernetes.io/zone": "z1"}},
        "spec": {"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24", "fd00:1::/64"],
                 "taints": [{"key": "ToBeDeletedByClusterAutoscaler"}]},
        "status": {"addresses": [{"type": "ExternalIP", "address": "203.0.113.9"}, {"type": "Hostname", "address": "n1"},
                                 {"type": "InternalIP", "address": "192.0.2.1"}]}
    }));
    assert_eq!(node.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(), ["192.0.2.1", "203.0.113.9"]);
    assert_eq!((node.external, node.host(IpFamily::V4)), (1, Some("192.0.2.1".parse().unwrap())));
    assert_eq!((node.pod_cidrs.len(), node.zone.as_deref(), node.leaving), (2, Some("z1"), true));
}
