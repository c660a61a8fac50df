//! Decodes a `ClusterNetworkPolicy` (v1beta1 and v1alpha2, whose schemas are the same).
//!
//! Closed by action: an unusable peer or port of an Accept rule matches nothing, and any other rule
//! with an unusable part denies everything in its direction. So a field that is newer than this
//! program never opens anything. The experimental peers `nodes` and `domainNames` are not read.

use serde_json::Value;

use super::field::Field;
use super::ports::{number, protocol_number};
use super::{Decoded, Fault, block, selector};
use crate::policy::cluster_policy::{Action, ClusterPolicy, ClusterRule, Tier};
use crate::policy::object::{Block, Key, Namespaces, Peer, Peers, PortMatch, PortRange, Ports, Rule, protocol};
use crate::policy::selector::Selector;

/// Largest priority.
const LAST_PRIORITY: u64 = 1000;
/// Most rules of a direction, peers of a rule, networks of a peer, and ports of a rule.
const MOST: usize = 25;

/// Decodes a `ClusterNetworkPolicy` of `policy.networking.k8s.io` from its JSON.
#[must_use]
pub fn cluster_policy(value: &Value) -> Decoded<ClusterPolicy> {
    let key = Key::new("", value["metadata"]["name"].as_str().unwrap_or_default());
    let mut faults = Vec::new();
    let object = if key.name.is_empty() {
        Err(Fault::new("metadata.name", "is missing"))
    } else {
        policy_of(&Field::new("spec", &value["spec"]), &mut faults)
    };
    let refuse =
        |fault: Fault| faults.push(Fault { reason: format!("{}: the policy is not used", fault.reason), ..fault });
    let object = object.map_err(refuse).ok();
    Decoded::new(key, object, faults)
}

fn policy_of(spec: &Field<'_>, faults: &mut Vec<Fault>) -> Result<ClusterPolicy, Fault> {
    spec.object()?;
    let known = spec.known(&["tier", "priority", "subject", "ingress", "egress"]);
    faults.extend(known.err().map(|fault| Fault { reason: format!("{}: it is ignored", fault.reason), ..fault }));
    let tier = match spec.text("tier")? {
        "Admin" => Tier::Admin,
        "Baseline" => Tier::Baseline,
        other => return Err(spec.fault(format!("tier {other:?} is not Admin or Baseline"))),
    };
    let priority = spec.get("priority").and_then(|field| field.value.as_u64()).filter(|it| *it <= LAST_PRIORITY);
    let Some(priority) = priority else { return Err(spec.fault("priority is not a number from 0 to 1000")) };
    let Some(subject) = spec.get("subject") else { return Err(spec.fault("subject is missing")) };
    let (namespaces, pods) = pods_of(&subject)?;
    let ingress = rules(spec, "ingress", "from", faults)?;
    let egress = rules(spec, "egress", "to", faults)?;
    Ok(ClusterPolicy { tier, priority: priority as u16, namespaces, pods, ingress, egress })
}

/// Decodes `namespaces` or `pods`, of which exactly one must be there.
fn pods_of(field: &Field<'_>) -> Result<(Selector, Selector), Fault> {
    field.object()?;
    field.known(&["namespaces", "pods"])?;
    match (field.get("namespaces"), field.get("pods")) {
        (Some(namespaces), None) => Ok((selector::of(&namespaces)?, Selector::everything())),
        (None, Some(pods)) => {
            pods.object()?;
            pods.known(&["namespaceSelector", "podSelector"])?;
            match (pods.get("namespaceSelector"), pods.get("podSelector")) {
                (Some(namespaces), Some(pods)) => Ok((selector::of(&namespaces)?, selector::of(&pods)?)),
                _ => Err(pods.fault("needs both a namespaceSelector and a podSelector")),
            }
        }
        _ => Err(field.fault("must have exactly one known field")),
    }
}

/// Decodes the rules of one direction. Every rule keeps its place.
fn rules(spec: &Field<'_>, list: &str, peers: &str, faults: &mut Vec<Fault>) -> Result<Vec<ClusterRule>, Fault> {
    let Some(field) = spec.get(list) else { return Ok(Vec::new()) };
    let items = field.items().ok_or_else(|| field.fault("is not a list"))?;
    if items.len() > MOST {
        return Err(field.fault(format!("has more than {MOST} rules")));
    }
    Ok(items.iter().map(|item| rule(item, peers, faults)).collect())
}

/// Decodes a rule, closed: one that can't be read has the widest match that its action denies, or
/// the narrowest that it accepts.
fn rule(field: &Field<'_>, peers: &str, faults: &mut Vec<Fault>) -> ClusterRule {
    let action = match field.get("action").as_ref().and_then(|action| action.value.as_str()) {
        Some("Accept") => Action::Accept,
        Some("Deny") => Action::Deny,
        Some("Pass") => Action::Pass,
        _ => {
            faults.push(field.fault("action is not Accept, Deny or Pass: the rule denies everything"));
            return ClusterRule { action: Action::Deny, matches: Rule { peers: Peers::Every, ports: Ports::All } };
        }
    };
    let mut found = Vec::new();
    let matches = matches(field, peers, &mut found);
    if found.is_empty() {
        return ClusterRule { action, matches };
    }
    let closed = action != Action::Accept;
    let consequence = if closed { "the rule denies everything" } else { "the part accepts nothing" };
    faults.extend(found.into_iter().map(|fault| Fault { reason: format!("{}: {consequence}", fault.reason), ..fault }));
    if closed {
        return ClusterRule { action: Action::Deny, matches: Rule { peers: Peers::Every, ports: Ports::All } };
    }
    ClusterRule { action, matches }
}

/// Decodes peers and ports; leaves out unusable ones.
fn matches(field: &Field<'_>, peers: &str, found: &mut Vec<Fault>) -> Rule {
    let mut rule = Rule::nothing();
    if let Err(fault) = field.object().and_then(|()| field.known(&["name", "action", peers, "protocols"])) {
        found.push(fault);
        return rule;
    }
    let is_egress = peers == "to";
    let mut list = Vec::new();
    for item in some_items(field, peers, found) {
        match peer(&item, is_egress) {
            Ok(peers) => list.extend(peers),
            Err(fault) => found.push(fault),
        }
    }
    rule.peers = Peers::Only(list);
    if field.get("protocols").is_none() {
        rule.ports = Ports::All;
        return rule;
    }
    let mut list = Vec::new();
    for item in some_items(field, "protocols", found) {
        match ports(&item) {
            Ok(ports) => list.extend(ports),
            Err(fault) => found.push(fault),
        }
    }
    rule.ports = Ports::Only(list);
    rule
}

/// Returns the items of a list that must have 1 to 25 of them; none with a fault otherwise.
fn some_items<'a>(field: &Field<'a>, name: &str, found: &mut Vec<Fault>) -> Vec<Field<'a>> {
    let items = field.get(name).and_then(|list| list.items()).unwrap_or_default();
    if (1..=MOST).contains(&items.len()) {
        return items;
    }
    found.push(field.fault(format!("{name} is not a list of 1 to {MOST} items")));
    Vec::new()
}

fn peer(field: &Field<'_>, is_egress: bool) -> Result<Vec<Peer>, Fault> {
    let networks = field.get("networks").filter(|_| is_egress);
    let Some(networks) = networks else {
        let (namespaces, pods) = pods_of(field)?;
        return Ok(vec![Peer::Pods { namespaces: Namespaces::Matching(namespaces), pods }]);
    };
    field.known(&["networks"])?;
    let items = networks.items().filter(|items| (1..=MOST).contains(&items.len()));
    let items = items.ok_or_else(|| networks.fault(format!("is not a list of 1 to {MOST} items")))?;
    let network = |item: &Field<'_>| {
        let text = item.value.as_str().ok_or_else(|| item.fault("is not a string"))?;
        let cidr = block::range(text).map_err(|reason| item.fault(format!("{text:?} {reason}")))?;
        let written = text.split_once('/').and_then(|(address, _)| address.parse().ok());
        if written != Some(cidr.network()) {
            return Err(item.fault(format!("{text:?} is not written as {cidr}")));
        }
        Ok(Peer::Block(Block { cidr, excepts: Vec::new() }))
    };
    items.iter().map(network).collect()
}

fn ports(field: &Field<'_>) -> Result<Vec<PortMatch>, Fault> {
    field.object()?;
    field.known(&["tcp", "udp", "sctp", "destinationNamedPort"])?;
    let fields = ["tcp", "udp", "sctp", "destinationNamedPort"].map(|name| (name, field.get(name)));
    let mut present = fields.into_iter().filter_map(|(name, value)| Some((name, value?)));
    let (Some((name, value)), None) = (present.next(), present.next()) else {
        return Err(field.fault("must have exactly one field"));
    };
    if let Some(protocol) = protocol_number(&name.to_ascii_uppercase()) {
        return Ok(vec![PortMatch { protocol, port: destination_port(&value)? }]);
    }
    // The name counts for every protocol in which the destination has it.
    let name = value.value.as_str().filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| value.fault("is not the name of a port"))?;
    let protocols = [protocol::TCP, protocol::UDP, protocol::SCTP];
    Ok(protocols.map(|protocol| PortMatch { protocol, port: PortRange::Named(name.into()) }).into())
}

/// Decodes `destinationPort` of a protocol: a number or a range.
fn destination_port(field: &Field<'_>) -> Result<PortRange, Fault> {
    field.object()?;
    field.known(&["destinationPort"])?;
    let Some(port) = field.get("destinationPort") else { return Err(field.fault("has no destinationPort")) };
    port.object()?;
    port.known(&["number", "range"])?;
    match (port.get("number"), port.get("range")) {
        (Some(value), None) => number(&value).map(|number| PortRange::Numbers(number, number)),
        (None, Some(range)) => {
            range.object()?;
            range.known(&["start", "end"])?;
            let (Some(start), Some(end)) = (range.get("start"), range.get("end")) else {
                return Err(range.fault("needs a start and an end"));
            };
            let (start, end) = (number(&start)?, number(&end)?);
            if start < end {
                Ok(PortRange::Numbers(start, end))
            } else {
                Err(range.fault("does not begin before its end"))
            }
        }
        _ => Err(port.fault("must have exactly one of number and range")),
    }
}
