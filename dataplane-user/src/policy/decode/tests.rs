//! Tests of decoding. A rule's number (NP-1 and so on) is in the comment of its test.

mod bad;
mod cluster;
mod good;

use serde_json::{Value, json};

use super::*;
use crate::policy::object::{Block, PortMatch, PortRange, protocol};

/// Decodes a policy with this spec and returns it with its faults.
fn decoded(spec: &Value) -> (Option<NetworkPolicy>, Vec<String>) {
    let value = json!({"metadata": {"name": "p", "namespace": "x"}, "spec": spec});
    let decoded = network_policy(&value);
    (decoded.object, decoded.faults.iter().map(ToString::to_string).collect())
}

/// Decodes a policy without faults.
fn policy(spec: &Value) -> NetworkPolicy {
    let (object, faults) = decoded(spec);
    assert_eq!(faults, [""; 0], "{spec}");
    object.unwrap()
}

/// Decodes a policy with one ingress rule and returns the rule with the policy's faults.
fn ingress_rule(rule: &Value) -> (Rule, Vec<String>) {
    let (object, faults) = decoded(&json!({"ingress": [rule]}));
    let [rule] = <[Rule; 1]>::try_from(object.unwrap().ingress.unwrap()).unwrap();
    (rule, faults)
}

/// Decodes a selector as the subject of a policy.
fn selector(value: &Value) -> Selector {
    policy(&json!({"podSelector": value})).subject
}
