//! The custom resources of pool mode: `IPPool`, created by people, and `IPBlock`, created by
//! agents.
//!
//! manifests/crds is generated from these types; a test compares. The API server enforces the
//! validation rules. The agent checks the same again in [`super::pool`], because an object may be
//! older than a rule.
#![allow(
    unreachable_pub,
    clippy::duplicated_attributes,
    reason = "the derive macros repeat the types and their attributes"
)]

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A range of addresses for pods, cut into blocks that nodes claim.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "ropeway.dev",
    version = "v1alpha1",
    kind = "IPPool",
    root = "IpPool",
    plural = "ippools",
    singular = "ippool",
    doc = "A range of addresses for pods, cut into blocks that nodes claim.",
    printcolumn(name = "CIDR", type_ = "string", json_path = ".spec.cidr"),
    printcolumn(name = "Block size", type_ = "integer", json_path = ".spec.blockSize"),
    printcolumn(name = "Disabled", type_ = "boolean", json_path = ".spec.disabled"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.cidr == oldSelf.cidr").message("cidr can't change: make another pool, disable this one"),
    validation = Rule::new("has(self.blockSize) == has(oldSelf.blockSize) && (!has(self.blockSize) || self.blockSize == oldSelf.blockSize)")
        .message("blockSize can't change: make another pool, disable this one"),
    validation = Rule::new("isCIDR(self.cidr) && cidr(self.cidr) == cidr(self.cidr).masked()")
        .message("cidr must be a network such as 10.244.0.0/16, without bits beyond its prefix"),
    validation = Rule::new("!has(self.blockSize) || !isCIDR(self.cidr) || (self.blockSize >= cidr(self.cidr).prefixLength() && (cidr(self.cidr).ip().family() == 4 ? self.blockSize >= 20 && self.blockSize <= 32 : self.blockSize >= 116))")
        .message("blockSize must be a prefix length from 20 to 32 (IPv4) or 116 to 128 (IPv6), not shorter than that of cidr"),
    validation = Rule::new("!has(self.reserved) || self.reserved.all(r, isCIDR(r))").message("reserved must be a list of networks")
)]
pub struct IpPoolSpec {
    /// The range, such as `10.244.0.0/16` or `fd00:10:244::/48`. Pools must not overlap; of two
    /// that do, only the older one is used.
    #[schemars(length(max = 43))]
    pub cidr: String,
    /// Prefix length of the blocks. Default: 26 (64 addresses) for IPv4, 122 for IPv6.
    #[schemars(range(min = 20, max = 128))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_size: Option<i32>,
    /// The nodes that may claim blocks. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<LabelSelector>,
    /// The namespaces whose pods may use the pool, if they or the pod ask for it by annotation.
    /// Without a selector all pods may, and it is one of the default pools.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,
    /// Give out no more addresses; pods keep theirs.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub disabled: bool,
    /// Ranges from which a pod gets an address only if it asks for that address.
    #[schemars(length(max = 64), inner(length(max = 43)))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reserved: Vec<String>,
    /// Nodes with few free addresses get parts of other nodes' blocks when no block is left.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub borrow: bool,
    /// Pods may ask for an address with the annotation ropeway.dev/ipAddrs.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_fixed_addresses: bool,
}

/// Chooses objects by their labels; all conditions must hold.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LabelSelector {
    /// Labels that the object must have, with these values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub match_labels: BTreeMap<String, String>,
    /// Conditions on the object's labels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub match_expressions: Vec<Requirement>,
}

/// A condition on one label.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Requirement {
    /// Name of the label.
    pub key: String,
    /// Relation between the label's value and `values`.
    pub operator: Operator,
    /// Values for `In` and `NotIn`; ignored for the other operators.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
}

/// The relation between a label and a list of values.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operator {
    /// The label exists and has one of the values.
    In,
    /// The label does not exist or has none of the values.
    NotIn,
    /// The label exists, with any value.
    Exists,
    /// The label does not exist.
    DoesNotExist,
}

/// A piece of a pool that belongs to one node. Created, changed and removed by agents only. The
/// name is made from the range, so a range can't be claimed twice. The object alone says which node
/// uses which part, so its version decides between nodes.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "ropeway.dev",
    version = "v1alpha1",
    kind = "IPBlock",
    root = "IpBlock",
    plural = "ipblocks",
    singular = "ipblock",
    doc = "A piece of an IPPool that belongs to one node. Made and removed by Ropeway's agents only.",
    printcolumn(name = "CIDR", type_ = "string", json_path = ".spec.cidr"),
    printcolumn(name = "Pool", type_ = "string", json_path = ".spec.pool"),
    printcolumn(name = "Node", type_ = "string", json_path = ".spec.node"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    selectable = ".spec.node",
    selectable = ".spec.pool"
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.cidr == oldSelf.cidr && self.pool == oldSelf.pool && self.node == oldSelf.node")
        .message("a block can't change: it is given back and claimed again")
)]
pub struct IpBlockSpec {
    /// The range of the block, such as `10.244.0.64/26`.
    #[schemars(length(max = 43))]
    pub cidr: String,
    /// Name of the pool that contains the block.
    #[schemars(length(max = 253))]
    pub pool: String,
    /// Name of the node that has claimed the block.
    #[schemars(length(max = 253))]
    pub node: String,
    /// Parts that other nodes use until they give them back.
    #[schemars(length(max = 8))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lent: Vec<LentPart>,
    /// Name of a node that asks for a part. The block's node lends it one, or removes the name.
    #[schemars(length(max = 253))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<String>,
}

/// A part of a block that another node uses.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LentPart {
    /// The range of the part.
    #[schemars(length(max = 43))]
    pub cidr: String,
    /// Name of the node that uses the part.
    #[schemars(length(max = 253))]
    pub node: String,
}

impl LabelSelector {
    /// Returns true if the selector chooses an object with these labels.
    #[must_use]
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.match_expressions.iter().all(|r| r.matches(labels))
    }
}

impl Requirement {
    fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(&self.key);
        let listed = value.is_some_and(|v| self.values.contains(v));
        match self.operator {
            Operator::In => listed,
            Operator::NotIn => !listed,
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use kube::CustomResourceExt;

    use super::*;

    #[test]
    fn selectors_match_labels() {
        let labels: BTreeMap<String, String> = [("zone".into(), "a".into()), ("gpu".into(), String::new())].into();
        for (selector, expected) in [
            ("{}", true),
            ("{matchLabels: {zone: a}}", true),
            ("{matchLabels: {zone: b}}", false),
            ("{matchLabels: {rack: a}}", false),
            ("{matchExpressions: [{key: zone, operator: In, values: [b, a]}]}", true),
            ("{matchExpressions: [{key: zone, operator: NotIn, values: [a]}]}", false),
            ("{matchExpressions: [{key: rack, operator: NotIn, values: [a]}]}", true),
            ("{matchExpressions: [{key: gpu, operator: Exists}, {key: rack, operator: DoesNotExist}]}", true),
            ("{matchLabels: {zone: a}, matchExpressions: [{key: gpu, operator: DoesNotExist}]}", false),
        ] {
            let parsed: LabelSelector = serde_saphyr::from_str(selector).unwrap();
            assert_eq!(parsed.matches(&labels), expected, "{selector}");
        }
    }

    /// `ROPEWAY_WRITE_MANIFESTS=1 cargo test -p dataplane-user crds_in_manifests` writes the files.
    #[test]
    fn crds_in_manifests_are_up_to_date() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/crds");
        for (name, crd) in [("ippools.yaml", IpPool::crd()), ("ipblocks.yaml", IpBlock::crd())] {
            let path = directory.join(name);
            let yaml = serde_saphyr::to_string(&crd).unwrap();
            let text = format!("# Generated from dataplane-user/src/ipam/crd.rs; a test compares.\n{yaml}");
            if std::env::var_os("ROPEWAY_WRITE_MANIFESTS").is_some() {
                std::fs::write(&path, &text).unwrap();
            }
            assert_eq!(
                std::fs::read_to_string(&path).unwrap(),
                text,
                "{name}: run with ROPEWAY_WRITE_MANIFESTS=1 to update it"
            );
            let back: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
            assert_eq!(back, serde_json::to_value(&crd).unwrap(), "{name} reads back to another object");
        }
    }
}
