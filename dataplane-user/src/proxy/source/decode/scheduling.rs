//! Decodes the annotations `ropeway.dev/*` of a Service, which choose the scheduler and weights.
//!
//! docs/schedulers.md describes them. An invalid annotation is reported and leaves the node's
//! setting.

use std::cmp::Reverse;
use std::net::IpAddr;

use dataplane_common::types::service::scheduler;
use ipnetwork::IpNetwork;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{FieldErrors, annotation};
use crate::config::maglev;
use crate::proxy::source::object::{Scheduling, Weights, name_hash};

/// Annotation: name of the scheduler.
pub(super) const SCHEDULER: &str = "ropeway.dev/scheduler";
/// Annotation: `hash-port` makes the schedulers `sh` and `mh` hash the client's port as well.
pub(super) const SCHEDULER_FLAGS: &str = "ropeway.dev/scheduler-flags";
/// Annotation: `KEY=WEIGHT`, separated by commas or spaces. A key is an address, a network, the
/// name of a node, or `*`.
pub(super) const WEIGHTS: &str = "ropeway.dev/weights";
/// Annotation: length of Maglev tables.
pub(super) const MAGLEV_TABLE_SIZE: &str = "ropeway.dev/maglev-table-size";

/// Most weights of a Service; the rest of the annotation is ignored.
pub(super) const MAX_WEIGHTS: usize = 1024;

/// Decodes the annotations; `None` if none of them has a valid value.
pub(super) fn scheduling(meta: &ObjectMeta, faults: &mut FieldErrors<'_>) -> Option<Box<Scheduling>> {
    meta.annotations.as_ref()?;
    let scheduler = annotation(meta, SCHEDULER).and_then(|name| {
        let number = scheduler::NAMES.iter().position(|n| *n == name.trim());
        if number.is_none() {
            let known = scheduler::NAMES.join(", ");
            faults.add(field(SCHEDULER), format!("{name:?} is not one of {known}; the node's scheduler is used"));
        }
        number.and_then(|n| u8::try_from(n).ok())
    });
    let maglev_size = annotation(meta, MAGLEV_TABLE_SIZE).and_then(|text| {
        let size = text.trim().parse().ok().filter(|n| maglev::SIZES.contains(n));
        if size.is_none() {
            let known = maglev::SIZES.map(|n| n.to_string()).join(", ");
            faults.add(
                field(MAGLEV_TABLE_SIZE),
                format!("{text:?} is not one of {known}; the node's table size is used"),
            );
        }
        size
    });
    let found = Scheduling {
        scheduler,
        maglev_size,
        hash_port: words(annotation(meta, SCHEDULER_FLAGS)).fold(false, |set, word| match word {
            "hash-port" => true,
            other => {
                faults.add(field(SCHEDULER_FLAGS), format!("unknown flag {other:?}; the only one is hash-port"));
                set
            }
        }),
        weights: weights(annotation(meta, WEIGHTS), faults),
    };
    (found != Scheduling::default()).then(|| Box::new(found))
}

fn field(name: &str) -> String {
    format!("metadata.annotations[{name}]")
}

fn words(text: Option<&str>) -> impl Iterator<Item = &str> {
    let split = |c: char| c == ',' || c.is_whitespace();
    text.unwrap_or_default().split(split).filter(|w| !w.is_empty())
}

enum WeightKey {
    Network(IpNetwork),
    Node(u32),
    Others,
}

/// Decodes weights. Leaves out invalid ones; of several for the same key, the first is used.
fn weights(text: Option<&str>, faults: &mut FieldErrors<'_>) -> Weights {
    let mut networks: Vec<(IpNetwork, u16)> = Vec::new();
    let mut nodes: Vec<(u32, u16)> = Vec::new();
    let mut others = None;
    let mut words = words(text);
    for word in words.by_ref().take(MAX_WEIGHTS) {
        let twice = match weight(word) {
            Ok((WeightKey::Network(n), _)) if networks.iter().any(|(known, _)| *known == n) => true,
            Ok((WeightKey::Node(n), _)) if nodes.iter().any(|(known, _)| *known == n) => true,
            Ok((WeightKey::Others, _)) if others.is_some() => true,
            Ok((WeightKey::Network(n), weight)) => {
                networks.push((n, weight));
                false
            }
            Ok((WeightKey::Node(n), weight)) => {
                nodes.push((n, weight));
                false
            }
            Ok((WeightKey::Others, weight)) => {
                others = Some(weight);
                false
            }
            Err(reason) => {
                faults.add(field(WEIGHTS), format!("{word:?} {reason}"));
                false
            }
        };
        if twice {
            faults.add(field(WEIGHTS), format!("{word:?} repeats a key; its first weight is used"));
        }
    }
    if words.next().is_some() {
        faults.add(field(WEIGHTS), format!("more than {MAX_WEIGHTS} weights; the first {MAX_WEIGHTS} are used"));
    }
    let bits = |n: &IpNetwork| Reverse(if n.is_ipv4() { n.prefix() + 96 } else { n.prefix() });
    // The longest prefix first: `Weights::of` takes the first network that contains the address.
    networks.sort_by_key(|(n, _)| (bits(n), n.network()));
    Weights { networks: networks.into(), nodes: nodes.into(), others }
}

fn weight(word: &str) -> Result<(WeightKey, u16), String> {
    let (key, weight) = word.split_once('=').ok_or("is not KEY=WEIGHT")?;
    let weight = weight.parse().map_err(|_| "has no weight between 0 and 65535")?;
    let key = if key == "*" {
        WeightKey::Others
    } else if let Ok(addr) = key.parse::<IpAddr>() {
        WeightKey::Network(addr.to_canonical().into())
    } else if let Ok(network) = key.parse::<IpNetwork>() {
        if network.ip() != network.network() {
            return Err(format!(
                "has bits beyond its prefix: did you mean {}/{}?",
                network.network(),
                network.prefix()
            ));
        }
        if matches!(network, IpNetwork::V6(n) if n.network().to_ipv4_mapped().is_some()) {
            return Err("has an IPv4 network written as IPv6".into());
        }
        WeightKey::Network(network)
    } else if is_node_name(key) {
        WeightKey::Node(name_hash(key))
    } else {
        return Err("has a key that is not an address, a network, a node name or *".into());
    };
    Ok((key, weight))
}

/// Returns true for a DNS subdomain (RFC 1123), the API server's rule for names of nodes.
fn is_node_name(text: &str) -> bool {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    !text.is_empty() && text.len() <= 253 && text.chars().all(good)
}
