//! The decoded `ClusterNetworkPolicy`: ordered rules of the cluster's administrator.
//!
//! Peers and ports are those of `NetworkPolicy` rules, so that one code compares them. A rule with
//! an unusable part is closed already: it accepts nothing, or denies everything.

use super::object::{Direction, Key, Labels, Pod, Rule};
use super::selector::Selector;

/// The place of a policy in the order of decisions.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Tier {
    /// Before all `NetworkPolicy` objects.
    Admin,
    /// After them, for pods that none of them isolates in the direction.
    Baseline,
}

/// The action of a rule on connections that it matches.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Action {
    /// The connection may pass, whatever comes below.
    Accept,
    /// The connection may not pass, whatever comes below.
    Deny,
    /// The rest of the tier is skipped.
    Pass,
}

/// A `ClusterNetworkPolicy` of the group `policy.networking.k8s.io`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClusterPolicy {
    /// The tier.
    pub tier: Tier,
    /// The place in the tier, from 0 to 1000; the smaller number is asked first.
    pub priority: u16,
    /// Namespaces of the pods that the policy is about.
    pub namespaces: Selector,
    /// Labels of these pods.
    pub pods: Selector,
    /// Rules for connections to the pods, in order.
    pub ingress: Vec<ClusterRule>,
    /// Rules for connections that the pods open, in order.
    pub egress: Vec<ClusterRule>,
}

/// A rule of a `ClusterNetworkPolicy`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClusterRule {
    /// The action.
    pub action: Action,
    /// Peers and ports that the rule matches.
    pub matches: Rule,
}

impl ClusterPolicy {
    /// Returns the rules of a direction.
    #[must_use]
    pub fn rules(&self, direction: Direction) -> &[ClusterRule] {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }

    /// Returns true if the policy is about a pod; `namespace` has the labels of the pod's.
    #[must_use]
    pub fn selects(&self, pod: &Pod, namespace: &Labels) -> bool {
        pod.is_selectable() && self.namespaces.matches(namespace) && self.pods.matches(&pod.labels)
    }
}

/// The order of policies in a tier: by priority, then by name.
pub(super) const fn order<'a>(key: &'a Key, policy: &ClusterPolicy) -> (u16, &'a Key) {
    (policy.priority, key)
}
