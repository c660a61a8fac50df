//! Fuzzing of network policies and of the objects that they choose from.
//!
//! `cargo xtask fuzz` runs the test longer.

use serde_json::Value;

use super::{cluster_policy, namespace, network_policy, pod};

#[test]
fn fuzz_policies() {
    let seeds: [&[u8]; 3] = [
        br#"{"metadata":{"name":"a","namespace":"shop"},"spec":{"podSelector":{"matchLabels":{"app":"web"}},"policyTypes":["Ingress","Egress"],
            "ingress":[{"from":[{"ipBlock":{"cidr":"10.0.0.0/8","except":["10.1.0.0/16"]}},{"namespaceSelector":{}}],
            "ports":[{"port":80,"endPort":90,"protocol":"TCP"},{"port":"http"}]}],"egress":[{}]}}"#,
        br#"{"metadata":{"name":"a"},"spec":{"tier":"Admin","priority":10,"subject":{"namespaces":{}},
            "ingress":[{"action":"Deny","from":[{"namespaces":{"matchLabels":{"a":"b"}}}]}]}}"#,
        br#"{"metadata":{"name":"web","namespace":"shop","labels":{"app":"web"}},"spec":{"nodeName":"n1","containers":[{"ports":
            [{"name":"http","containerPort":80}]}]},"status":{"phase":"Running","podIPs":[{"ip":"10.1.0.5"}]}}"#,
    ];
    let words = [
        "metadata",
        "name",
        "namespace",
        "labels",
        "spec",
        "podSelector",
        "matchLabels",
        "matchExpressions",
        "key",
        "operator",
        "In",
        "NotIn",
        "Exists",
        "values",
        "namespaceSelector",
        "ipBlock",
        "cidr",
        "except",
        "ports",
        "port",
        "endPort",
        "protocol",
        "SCTP",
        "policyTypes",
        "ingress",
        "egress",
        "from",
        "to",
        "tier",
        "priority",
        "action",
        "subject",
        "namespaces",
        "pods",
        "networks",
        "status",
        "podIPs",
        "hostNetwork",
        "deletionTimestamp",
    ];
    fuzzing::run("policies", &seeds, &words, |input| {
        let Ok(value) = serde_json::from_slice::<Value>(input) else { return false };
        let decoded = [network_policy(&value).object.is_some(), cluster_policy(&value).object.is_some()];
        if let Ok(wire) = serde_json::from_slice(input) {
            drop(pod(&wire));
        }
        if let Ok(wire) = serde_json::from_slice(input) {
            drop(namespace(&wire));
        }
        decoded.contains(&true) || seeds.contains(&input)
    });
}
