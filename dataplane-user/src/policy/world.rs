//! The objects that decide about connections, and the pod that an address belongs to.
//!
//! A pod that has ended keeps its address in the API although another pod may have it, and a pod
//! in its node's network has its node's address. Neither can be selected.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::IpAddr;

use super::cluster_policy::{ClusterPolicy, ClusterRule, Tier, order};
use super::object::{Direction, Key, Labels, NetworkPolicy, Pod, Rule};

/// All objects that decide about connections.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// Labels of each Namespace, by name.
    pub namespaces: BTreeMap<Box<str>, Labels>,
    /// Pods of all nodes.
    pub pods: BTreeMap<Key, Pod>,
    /// Policies of all namespaces.
    pub policies: BTreeMap<Key, NetworkPolicy>,
    /// Policies of the cluster; the namespace of their keys is empty.
    pub cluster_policies: BTreeMap<Key, ClusterPolicy>,
}

impl World {
    /// Returns the selectable pod that has the address.
    ///
    /// If the API shows several, a pod that is not terminating has it, then the newer one.
    #[must_use]
    pub fn pod_at(&self, address: IpAddr) -> Option<(&Key, &Pod)> {
        let has = |pod: &Pod| pod.is_selectable() && pod.addresses.contains(&address);
        self.pods.iter().filter(|(_, pod)| has(pod)).max_by_key(|(key, pod)| rank(key, pod))
    }

    /// Returns the selectable pod of each address; for one address the same as [`Self::pod_at`].
    #[must_use]
    pub fn pods_by_address(&self) -> BTreeMap<IpAddr, (&Key, &Pod)> {
        let mut owners: BTreeMap<IpAddr, (&Key, &Pod)> = BTreeMap::new();
        for (key, pod) in self.pods.iter().filter(|(_, pod)| pod.is_selectable()) {
            for address in &pod.addresses {
                let owner = owners.entry(*address).or_insert((key, pod));
                if rank(key, pod) > rank(owner.0, owner.1) {
                    *owner = (key, pod);
                }
            }
        }
        owners
    }

    /// Returns the policies that isolate a pod in a direction, in the order of their keys, with
    /// their rules for it.
    #[must_use]
    pub fn isolating(&self, key: &Key, pod: &Pod, direction: Direction) -> Vec<(&Key, &[Rule])> {
        let selecting = self.policies.iter().filter(|(policy_key, policy)| {
            policy_key.namespace == key.namespace && pod.is_selectable() && policy.subject.matches(&pod.labels)
        });
        selecting.filter_map(|(policy_key, policy)| Some((policy_key, policy.rules(direction)?))).collect()
    }

    /// Returns the policies of a tier that have rules about a pod in a direction, in the order in
    /// which they are asked.
    #[must_use]
    pub fn of_tier(&self, tier: Tier, key: &Key, pod: &Pod, direction: Direction) -> Vec<(&Key, &[ClusterRule])> {
        let Some(labels) = self.namespaces.get(&key.namespace) else { return Vec::new() };
        let selects = |policy: &ClusterPolicy| policy.tier == tier && policy.selects(pod, labels);
        let mut selecting: Vec<_> = self.cluster_policies.iter().filter(|(_, policy)| selects(policy)).collect();
        selecting.sort_by_key(|(key, policy)| order(key, policy));
        let rules = selecting.into_iter().map(|(key, policy)| (key, policy.rules(direction)));
        rules.filter(|(_, rules)| !rules.is_empty()).collect()
    }
}

/// The order of pods that claim one address; the largest has it.
fn rank<'a>(key: &'a Key, pod: &'a Pod) -> (bool, &'a str, Reverse<&'a Key>) {
    (!pod.terminating, &pod.created, Reverse(key))
}
