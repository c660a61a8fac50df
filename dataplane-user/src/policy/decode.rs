//! Decodes policies of both kinds, Namespaces and Pods into the objects of this room.
//!
//! Tolerant and closed: each unusable part is named by its path, and allows nothing. An unknown
//! field makes its selector, peer, port or rule unusable, because it may be a restriction that was
//! misspelt or is newer than this program. Reads JSON values for policies, since it must tell an
//! absent field from an empty and from a wrong one.

mod block;
mod cluster;
mod field;
#[cfg(test)]
mod fuzz;
mod pod;
mod ports;
mod selector;
#[cfg(test)]
mod tests;

use serde_json::Value;

pub use self::cluster::cluster_policy;
pub use self::pod::{NamespaceWire, PodWire, namespace, pod};

use self::field::Field;
use super::object::{Key, Namespaces, NetworkPolicy, Peer, Peers, Ports, Rule};
use super::selector::Selector;

/// Label of every namespace with its name.
pub const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// Most faults that are kept of one object.
pub const MAX_FAULTS: usize = 16;

/// A part of an object that can't be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct Fault {
    /// Path of the field, such as `spec.ingress[0].from[1]`.
    pub field: String,
    /// The reason, with its consequence.
    pub reason: String,
}

impl Fault {
    fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { field: field.into(), reason: reason.into() }
    }
}

/// The result of decoding an object.
#[derive(Debug)]
pub struct Decoded<T> {
    /// Namespace and name of the object.
    pub key: Key,
    /// The object; `None` if it is unusable as a whole, so that its last usable version must stay.
    pub object: Option<T>,
    /// The parts that can't be used, at most [`MAX_FAULTS`].
    pub faults: Vec<Fault>,
}

impl<T> Decoded<T> {
    fn new(key: Key, object: Option<T>, mut faults: Vec<Fault>) -> Self {
        faults.truncate(MAX_FAULTS);
        Self { key, object, faults }
    }
}

/// Decodes a `NetworkPolicy` of `networking.k8s.io/v1` from its JSON.
#[must_use]
pub fn network_policy(value: &Value) -> Decoded<NetworkPolicy> {
    let text = |name: &str| value["metadata"][name].as_str().filter(|text| !text.is_empty());
    let key = Key::new(text("namespace").unwrap_or("default"), text("name").unwrap_or_default());
    let mut faults = Vec::new();
    if key.name.is_empty() {
        faults.push(Fault::new("metadata.name", "is missing: the policy is not used"));
        return Decoded::new(key, None, faults);
    }
    let nothing = Value::Object(serde_json::Map::new());
    let spec = match &value["spec"] {
        Value::Null => &nothing,
        spec => spec,
    };
    let object = policy_of(&Field::new("spec", spec), &mut faults);
    let object = object.map_err(|fault| faults.push(fault)).ok();
    Decoded::new(key, object, faults)
}

fn policy_of(spec: &Field<'_>, faults: &mut Vec<Fault>) -> Result<NetworkPolicy, Fault> {
    spec.object()?;
    let known = spec.known(&["podSelector", "ingress", "egress", "policyTypes"]);
    faults.extend(known.err().map(|fault| Fault { reason: format!("{}: it is ignored", fault.reason), ..fault }));
    let subject = match spec.get("podSelector") {
        None => Selector::everything(),
        Some(field) => selector::of(&field)
            .map_err(|fault| Fault { reason: format!("{}: the policy is not used", fault.reason), ..fault })?,
    };
    let (has_ingress, has_egress) = isolated(spec, faults);
    Ok(NetworkPolicy {
        subject,
        ingress: has_ingress.then(|| rules(spec, "ingress", "from", faults)),
        egress: has_egress.then(|| rules(spec, "egress", "to", faults)),
    })
}

/// Returns the directions that a policy isolates: ingress, egress.
fn isolated(spec: &Field<'_>, faults: &mut Vec<Fault>) -> (bool, bool) {
    // A list that can't be read counts as a rule, or the policy would open egress.
    let egress_rules = spec.get("egress").is_some_and(|list| list.items().is_none_or(|items| !items.is_empty()));
    let default = (true, egress_rules);
    let Some(field) = spec.get("policyTypes") else { return default };
    let Some(types) = field.items() else {
        faults.push(field.fault("is not a list: the default is used"));
        return default;
    };
    if types.is_empty() {
        return default;
    }
    if types.len() > 2 {
        faults.push(field.fault("has more than two entries"));
    }
    let mut found = (false, false);
    for entry in types {
        match entry.value.as_str() {
            Some("Ingress") => found.0 = true,
            Some("Egress") => found.1 = true,
            _ => {
                faults.push(entry.fault("is not Ingress or Egress: the default directions are isolated too"));
                found = (found.0 | default.0, found.1 | default.1);
            }
        }
    }
    found
}

/// Decodes the rules of one direction. An unusable rule keeps its place and allows nothing.
fn rules(spec: &Field<'_>, list: &str, peers: &str, faults: &mut Vec<Fault>) -> Vec<Rule> {
    let Some(field) = spec.get(list) else { return Vec::new() };
    let Some(items) = field.items() else {
        faults.push(field.fault("is not a list: nothing is allowed"));
        return Vec::new();
    };
    let mut rules = Vec::new();
    for item in items {
        rules.push(rule(&item, peers, faults).unwrap_or_else(|fault| {
            faults.push(Fault { reason: format!("{}: the rule allows nothing", fault.reason), ..fault });
            Rule::nothing()
        }));
    }
    rules
}

/// Returns the usable items and reports the others with their consequence.
fn usable<T>(items: Vec<Result<T, Fault>>, consequence: &str, faults: &mut Vec<Fault>) -> Vec<T> {
    let mut kept = Vec::new();
    for item in items {
        match item {
            Ok(item) => kept.push(item),
            Err(fault) => faults.push(Fault { reason: format!("{}: {consequence}", fault.reason), ..fault }),
        }
    }
    kept
}

fn rule(field: &Field<'_>, peers: &str, faults: &mut Vec<Fault>) -> Result<Rule, Fault> {
    field.object()?;
    field.known(&[peers, "ports"])?;
    let list = |name: &str| match field.get(name) {
        None => Ok(Vec::new()),
        Some(list) => list.items().ok_or_else(|| list.fault("is not a list")),
    };
    let (peers, ports) = (list(peers)?, list("ports")?);
    let peers = if peers.is_empty() {
        Peers::Every
    } else {
        let decoded: Vec<_> = peers.iter().map(|item| peer(item, faults)).collect();
        Peers::Only(usable(decoded, "the peer matches nothing", faults))
    };
    let ports = if ports.is_empty() {
        Ports::All
    } else {
        let decoded = ports.iter().map(ports::of).collect();
        Ports::Only(usable(decoded, "the port allows nothing", faults))
    };
    Ok(Rule { peers, ports })
}

fn peer(field: &Field<'_>, faults: &mut Vec<Fault>) -> Result<Peer, Fault> {
    field.object()?;
    field.known(&["podSelector", "namespaceSelector", "ipBlock"])?;
    let selectors = (field.get("namespaceSelector"), field.get("podSelector"));
    if let Some(block) = field.get("ipBlock") {
        return match selectors {
            (None, None) => block::of(&block, faults).map(Peer::Block),
            _ => Err(field.fault("has an ipBlock and a selector")),
        };
    }
    let namespaces = |field: &Field<'_>| selector::of(field).map(Namespaces::Matching);
    Ok(match selectors {
        (None, None) => return Err(field.fault("has no podSelector, namespaceSelector or ipBlock")),
        (None, Some(pods)) => Peer::Pods { namespaces: Namespaces::Own, pods: selector::of(&pods)? },
        (Some(of), None) => Peer::Pods { namespaces: namespaces(&of)?, pods: Selector::everything() },
        (Some(of), Some(pods)) => Peer::Pods { namespaces: namespaces(&of)?, pods: selector::of(&pods)? },
    })
}
