//! Small random worlds: few labels, names, ports and addresses, so that objects meet.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use proptest::collection::{btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use crate::policy::cluster_policy::{Action, ClusterPolicy, ClusterRule, Tier};
use crate::policy::decode::NAMESPACE_NAME;
use crate::policy::object::{
    Block, Key, Labels, NamedPort, Namespaces, NetworkPolicy, Peer, Peers, Pod, PortMatch, PortRange, Ports, Rule,
};
use crate::policy::selector::{Condition, Requirement, Selector};
use crate::policy::world::World;

/// The node whose pods are judged.
pub(super) const NODE: &str = "n1";
/// Number of addresses of each family.
pub(super) const ADDRESSES: u16 = 16;
/// First IPv4 address: 10.0.0.16.
pub(super) const BASE4: u32 = 0x0a00_0010;
/// First IPv6 address: `fd00::10`.
pub(super) const BASE6: u128 = 0xfd00 << 112 | 0x10;

const NAMESPACES: [&str; 3] = ["x", "y", "z"];
const KEYS: [&str; 3] = ["app", "tier", "zone"];
const VALUES: [&str; 2] = ["a", "b"];
const NAMES: [&str; 3] = ["web", "dns", "adm"];

fn any_labels() -> impl Strategy<Value = Labels> {
    let labels = vec((select(&KEYS[..]), select(&VALUES[..])), 0..3);
    labels.prop_map(|pairs| pairs.into_iter().map(|(key, value)| (key.into(), value.into())).collect())
}

fn any_values() -> impl Strategy<Value = BTreeSet<Box<str>>> {
    btree_set(select(&VALUES[..]).prop_map(Box::from), 1..3)
}

fn any_selector(keys: &'static [&'static str]) -> impl Strategy<Value = Selector> {
    let condition = prop_oneof![
        4 => any_values().prop_map(Condition::In),
        2 => any_values().prop_map(Condition::NotIn),
        1 => Just(Condition::Exists),
        1 => Just(Condition::DoesNotExist),
    ];
    let requirement = (select(keys), condition).prop_map(|(key, condition)| Requirement { key: key.into(), condition });
    vec(requirement, 0..3).prop_map(|requirements| Selector { requirements })
}

/// Returns selectors of namespaces: by labels, or by the label with the name.
fn any_namespace_selector() -> impl Strategy<Value = Selector> {
    let named = select(&NAMESPACES[..]).prop_map(|name| {
        let condition = Condition::In([name.into()].into());
        Selector { requirements: vec![Requirement { key: NAMESPACE_NAME.into(), condition }] }
    });
    prop_oneof![2 => any_selector(&KEYS[..1]), 1 => named]
}

fn any_address() -> impl Strategy<Value = (bool, u16)> {
    (any::<bool>(), 0..ADDRESSES)
}

fn address((is_v4, offset): (bool, u16)) -> IpAddr {
    if is_v4 {
        IpAddr::V4(Ipv4Addr::from_bits(BASE4 + u32::from(offset)))
    } else {
        IpAddr::V6(Ipv6Addr::from_bits(BASE6 + u128::from(offset)))
    }
}

/// Returns ranges around the addresses: most cut them, some hold them all.
fn any_range() -> impl Strategy<Value = IpNetwork> {
    let bits = prop_oneof![6 => 0_u8..6, 1 => Just(8), 1 => Just(32)];
    (any_address(), bits).prop_map(|(of, bits)| {
        let address = address(of);
        let width = if address.is_ipv4() { 32 } else { 128 };
        // 32 bits less than the whole of IPv6 would still hold every address: take all of it.
        let prefix = if bits == 32 { 0 } else { width - bits };
        let range = IpNetwork::new(address, prefix).unwrap();
        IpNetwork::new(range.network(), prefix).unwrap()
    })
}

fn any_peer() -> impl Strategy<Value = Peer> {
    let namespaces = prop_oneof![Just(Namespaces::Own), any_namespace_selector().prop_map(Namespaces::Matching)];
    let pods = (namespaces, any_selector(&KEYS)).prop_map(|(namespaces, pods)| Peer::Pods { namespaces, pods });
    let block = (any_range(), vec(any_range(), 0..4)).prop_map(|(cidr, excepts)| Peer::Block(Block { cidr, excepts }));
    prop_oneof![pods, block]
}

fn any_protocol() -> impl Strategy<Value = u8> {
    prop_oneof![3 => Just(6), 2 => Just(17), 1 => Just(132)]
}

fn any_port_match() -> impl Strategy<Value = PortMatch> {
    let port = prop_oneof![
        1 => Just(PortRange::All),
        3 => (1_u16..9, 0_u16..4).prop_map(|(first, more)| PortRange::Numbers(first, first + more)),
        2 => select(&NAMES[..]).prop_map(|name| PortRange::Named(name.into())),
    ];
    (any_protocol(), port).prop_map(|(protocol, port)| PortMatch { protocol, port })
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let peers = prop_oneof![1 => Just(Peers::Every), 4 => vec(any_peer(), 0..3).prop_map(Peers::Only)];
    let ports = prop_oneof![1 => Just(Ports::All), 2 => vec(any_port_match(), 0..4).prop_map(Ports::Only)];
    (peers, ports).prop_map(|(peers, ports)| Rule { peers, ports })
}

fn any_policy() -> impl Strategy<Value = NetworkPolicy> {
    let rules = || option::weighted(0.8, vec(any_rule(), 0..4));
    (any_selector(&KEYS[..2]), rules(), rules()).prop_map(|(subject, ingress, egress)| NetworkPolicy {
        subject,
        ingress,
        egress,
    })
}

fn any_cluster_policy() -> impl Strategy<Value = ClusterPolicy> {
    let tier = prop_oneof![Just(Tier::Admin), Just(Tier::Baseline)];
    let action = prop_oneof![2 => Just(Action::Accept), 2 => Just(Action::Deny), 1 => Just(Action::Pass)];
    let rule = (action, any_rule()).prop_map(|(action, matches)| ClusterRule { action, matches });
    let rules = vec(rule, 0..4).boxed();
    (tier, 0_u16..3, any_namespace_selector(), any_selector(&KEYS[..2]), rules.clone(), rules).prop_map(
        |(tier, priority, namespaces, pods, ingress, egress)| ClusterPolicy {
            tier,
            priority,
            namespaces,
            pods,
            ingress,
            egress,
        },
    )
}

fn any_pod() -> impl Strategy<Value = Pod> {
    let named = (select(&NAMES[..]), any_protocol(), 1_u16..9);
    let named = named.prop_map(|(name, protocol, number)| NamedPort { name: name.into(), protocol, number });
    let node = select(vec!["n1", "n2"]);
    let flag = || prop::bool::weighted(0.1);
    let created = select(vec!["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"]);
    (any_labels(), vec(any_address(), 1..3), btree_set(named, 0..4), node, flag(), flag(), flag(), created).prop_map(
        |(labels, addresses, named_ports, node, host_network, ended, terminating, created)| Pod {
            labels,
            addresses: addresses.into_iter().map(address).collect(),
            named_ports,
            node: node.into(),
            host_network,
            ended,
            terminating,
            created: created.into(),
        },
    )
}

fn keyed<T>(list: Vec<(&str, T)>) -> impl Iterator<Item = (Key, T)> {
    list.into_iter().enumerate().map(|(index, (namespace, object))| (Key::new(namespace, &index.to_string()), object))
}

/// Returns small worlds, in which a pod's namespace may be unknown and addresses may be shared.
pub(super) fn any_world() -> impl Strategy<Value = World> {
    let namespaces = vec(option::weighted(0.9, any_labels()), NAMESPACES.len());
    let pods = vec((select(&NAMESPACES[..]), any_pod()), 1..9);
    let policies = vec((select(&NAMESPACES[..2]), any_policy()), 0..6);
    let cluster_policies = prop_oneof![1 => Just(Vec::new()), 1 => vec((Just(""), any_cluster_policy()), 0..5)];
    (namespaces, pods, policies, cluster_policies).prop_map(|(namespaces, pods, policies, cluster_policies)| {
        let known = NAMESPACES.into_iter().zip(namespaces).filter_map(|(name, labels)| Some((name, labels?)));
        let labelled = known.map(|(name, mut labels)| {
            labels.insert(NAMESPACE_NAME.into(), name.into());
            (name.into(), labels)
        });
        World {
            namespaces: labelled.collect(),
            pods: keyed(pods).collect(),
            policies: keyed(policies).collect(),
            cluster_policies: keyed(cluster_policies).collect(),
        }
    })
}
