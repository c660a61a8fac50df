//! Compiles the objects of the cluster to the tables of one node.
//!
//! All order is resolved here. Pods with the same policies share a rule set; peers of the same kind
//! share an identity, and identities that all rule sets treat alike share a class. A rule set and
//! a class give a decision, a range of ports or a port table. Compiles everything at once: there is
//! no incremental step yet, and no number outlives a compilation.

mod blocks;
mod identity;
mod port_function;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;

use self::blocks::{BlockSet, Blocks};
use self::identity::{Asked, Identity};
use self::port_function::{Painter, PortFunction, prefixes};
use super::cluster_policy::{Action, Tier};
use super::evaluate::Reason;
use super::object::{Block, Direction, Key, NamedPort, Peer, Peers, Pod, PortMatch, PortRange, Ports, Rule};
use super::tables::{Decision, Lpm, Outcome, PORT_KEY_BITS, PodRules, RuleSet, TABLE_BITS, Tables, port_key};
use super::world::World;

/// All that applies to a pod in one direction.
#[derive(Clone, PartialEq, Eq, Hash)]
struct SetKey<'a> {
    direction: Direction,
    /// The policies, in the order in which they are asked.
    policies: Vec<&'a Key>,
    /// Ingress: the pod's ports whose names the policies ask for.
    named_ports: BTreeSet<&'a NamedPort>,
}

/// A rule with its policy and its decision.
type Entry<'a, D> = (&'a Key, &'a Rule, D);

/// A rule set with its rules and their decisions.
struct Set<'a> {
    direction: Direction,
    policies: Vec<&'a Key>,
    /// Rules of the Admin tier; one without a decision passes to the rules below.
    admin: Vec<Entry<'a, Option<Decision>>>,
    /// Rules of `NetworkPolicy` objects, or of the Baseline tier if none isolates the pod.
    below: Vec<Entry<'a, Decision>>,
    named_ports: BTreeSet<&'a NamedPort>,
    default: Decision,
}

/// Gives equal values the same number, in the order of their first use.
struct Numbers<T> {
    numbers: HashMap<T, u32>,
    values: Vec<T>,
}

impl<T: Clone + Eq + Hash> Numbers<T> {
    fn from(values: impl IntoIterator<Item = T>) -> Self {
        let mut new = Self { numbers: HashMap::new(), values: Vec::new() };
        for value in values {
            new.of(value);
        }
        new
    }

    fn of(&mut self, value: T) -> u32 {
        let Self { numbers, values } = self;
        *numbers.entry(value).or_insert_with_key(|value| {
            values.push(value.clone());
            values.len() as u32 - 1
        })
    }
}

/// Compiles the policies of the pods on a node.
#[must_use]
pub fn compile(world: &World, node: &str) -> Tables {
    let mut reasons = Numbers::from(Decision::REASONS);
    let (pods, sets) = rule_sets(world, node, &mut reasons);
    let blocks = Blocks::new(sets.iter().flat_map(Set::blocks).collect());
    let asked = Asked::by(&sets);

    let mut identities = Numbers::from([Identity::unknown(BlockSet::new())]);
    let (mut blocks4, mut blocks6) = (Lpm::new(32), Lpm::new(128));
    for (prefix, set) in &blocks.prefixes {
        let identity = identities.of(Identity::unknown(set.clone()));
        blocks::insert(&mut blocks4, &mut blocks6, *prefix, identity);
    }
    let owners = world.pods_by_address().into_iter();
    let peers = owners
        .map(|(address, (key, pod))| {
            (address, identities.of(Identity::of_pod(key, pod, &asked, blocks.containing(address))))
        })
        .collect();

    // The first identity is asked first, so class 0 is the one of unknown addresses.
    let mut classes = Numbers::from([]);
    let rows = identities.values.iter().map(|identity| row(world, &sets, identity, &blocks));
    let identities = rows.map(|row| classes.of(row)).collect();
    let mut ports = PortTables { numbers: Numbers::from([]), entries: Lpm::new(PORT_KEY_BITS) };
    let mut rules = HashMap::new();
    for (class, row) in classes.values.iter().enumerate() {
        for (index, (set, function)) in sets.iter().zip(row).enumerate() {
            if !(function.pieces.is_empty() && function.rest == set.default) {
                rules.insert((index as u32 + 1, class as u32), ports.outcome(function));
            }
        }
    }
    Tables { pods, peers, blocks4, blocks6, identities, rules, ports: ports.entries, reasons: reasons.values }
}

/// Returns the isolated pods of a node, and the rule sets; a set's number is its place, from 1.
fn rule_sets<'a>(
    world: &'a World,
    node: &str,
    reasons: &mut Numbers<Reason>,
) -> (BTreeMap<Key, PodRules>, Vec<Set<'a>>) {
    let mut keys = Numbers::from([]);
    let mut sets = Vec::new();
    let mut pods = BTreeMap::new();
    for (key, pod) in world.pods.iter().filter(|(_, pod)| &*pod.node == node && pod.is_selectable()) {
        let [ingress, egress] = Direction::ALL.map(|direction| {
            let Some(set) = Set::new(world, key, pod, direction, reasons) else { return RuleSet::NONE };
            let (policies, named_ports) = (set.policies.clone(), set.named_ports.clone());
            let number = keys.of(SetKey { direction, policies, named_ports });
            let default = set.default;
            if number as usize == sets.len() {
                sets.push(set);
            }
            RuleSet { number: number + 1, default }
        });
        if (ingress.number, egress.number) != (0, 0) {
            pods.insert(key.clone(), PodRules { addresses: pod.addresses.clone(), ingress, egress });
        }
    }
    (pods, sets)
}

/// Returns the decisions of all rule sets about one identity.
fn row(world: &World, sets: &[Set<'_>], identity: &Identity, blocks: &Blocks<'_>) -> Vec<PortFunction> {
    sets.iter().map(|set| set.function(world, identity, blocks)).collect()
}

impl<'a> Set<'a> {
    /// Returns all that applies to a pod; `None` if no policy has anything to say.
    fn new(
        world: &'a World,
        key: &Key,
        pod: &'a Pod,
        direction: Direction,
        reasons: &mut Numbers<Reason>,
    ) -> Option<Self> {
        let (default, below) = (Decision::NOT_ISOLATED, Vec::new());
        let mut set =
            Self { direction, policies: Vec::new(), admin: Vec::new(), below, named_ports: BTreeSet::new(), default };
        for (policy, rule, action, reason) in set.tier(world, Tier::Admin, (key, pod), reasons) {
            let decision = Decision { allowed: action == Action::Accept, reason };
            set.admin.push((policy, rule, (action != Action::Pass).then_some(decision)));
        }
        let isolating = world.isolating(key, pod, direction);
        if isolating.is_empty() {
            for (policy, rule, action, reason) in set.tier(world, Tier::Baseline, (key, pod), reasons) {
                set.below.push((policy, rule, Decision { allowed: action != Action::Deny, reason }));
            }
        } else {
            let names = isolating.iter().map(|(policy, _)| (*policy).clone()).collect();
            set.default = Decision { allowed: false, reason: reasons.of(Reason::Isolated(names)) };
        }
        for (policy, rules) in isolating {
            set.policies.push(policy);
            for (index, rule) in rules.iter().enumerate() {
                let reason = reasons.of(Reason::Allowed { policy: policy.clone(), rule: index });
                set.below.push((policy, rule, Decision { allowed: true, reason }));
            }
        }
        if direction == Direction::Ingress {
            let names: BTreeSet<&str> = set.port_names().collect();
            set.named_ports = pod.named_ports.iter().filter(|port| names.contains(&*port.name)).collect();
        }
        (!set.policies.is_empty()).then_some(set)
    }

    /// Adds the policies of a tier and returns their rules, with action and number of the reason.
    fn tier(
        &mut self,
        world: &'a World,
        tier: Tier,
        (key, pod): (&Key, &Pod),
        reasons: &mut Numbers<Reason>,
    ) -> Vec<(&'a Key, &'a Rule, Action, u32)> {
        let mut entries = Vec::new();
        for (policy, rules) in world.of_tier(tier, key, pod, self.direction) {
            self.policies.push(policy);
            for (index, rule) in rules.iter().enumerate() {
                let reason = reasons.of(Reason::Cluster { policy: policy.clone(), rule: index });
                entries.push((policy, &rule.matches, rule.action, reason));
            }
        }
        entries
    }

    fn rules(&self) -> impl Iterator<Item = &'a Rule> {
        let below = self.below.iter().map(|(_, rule, _)| *rule);
        self.admin.iter().map(|(_, rule, _)| *rule).chain(below)
    }

    /// Returns the peers that the rules list.
    fn peers(&self) -> impl Iterator<Item = &'a Peer> {
        self.rules().flat_map(|rule| match &rule.peers {
            Peers::Every => [].iter(),
            Peers::Only(peers) => peers.iter(),
        })
    }

    fn blocks(&self) -> impl Iterator<Item = &'a Block> {
        self.peers().filter_map(|peer| match peer {
            Peer::Block(block) => Some(block),
            Peer::Pods { .. } => None,
        })
    }

    /// Returns the names of ports that the rules ask for.
    fn port_names(&self) -> impl Iterator<Item = &'a str> {
        let ports = self.rules().flat_map(|rule| match &rule.ports {
            Ports::All => [].iter(),
            Ports::Only(ports) => ports.iter(),
        });
        ports.filter_map(|port| match &port.port {
            PortRange::Named(name) => Some(&**name),
            PortRange::All | PortRange::Numbers(..) => None,
        })
    }

    /// Returns the decisions about a peer of this identity.
    fn function(&self, world: &World, identity: &Identity, blocks: &Blocks<'_>) -> PortFunction {
        let of_peer = |policy: &Key, rule: &Rule| match &rule.peers {
            Peers::Every => true,
            Peers::Only(peers) => peers.iter().any(|peer| identity.is(world, &policy.namespace, peer, blocks)),
        };
        let below = self.layer(&self.below, of_peer, identity, self.default);
        if self.admin.is_empty() { below } else { self.layer(&self.admin, of_peer, identity, None).over(&below) }
    }

    /// Returns the decisions of rules about a peer, and `rest` where no rule matches.
    fn layer<D: Copy + Ord>(
        &self,
        entries: &[Entry<'a, D>],
        of_peer: impl Fn(&Key, &Rule) -> bool,
        identity: &Identity,
        rest: D,
    ) -> PortFunction<D> {
        let mut painter = Painter::new();
        for (_, rule, decision) in entries.iter().filter(|(policy, rule, _)| of_peer(policy, rule)) {
            match &rule.ports {
                Ports::All => return painter.finish(*decision),
                Ports::Only(ports) => ports.iter().for_each(|port| self.paint(&mut painter, port, identity, *decision)),
            }
        }
        painter.finish(rest)
    }

    fn paint<D: Copy + Ord>(&self, painter: &mut Painter<D>, port: &PortMatch, identity: &Identity, decision: D) {
        let mut named = |name: &str, named: &NamedPort| {
            if *named.name == *name && named.protocol == port.protocol {
                painter.paint(port.protocol, named.number, named.number, decision);
            }
        };
        match (&port.port, self.direction) {
            (PortRange::All, _) => painter.paint(port.protocol, 0, u16::MAX, decision),
            (PortRange::Numbers(first, last), _) => painter.paint(port.protocol, *first, *last, decision),
            // A name is that of the destination, which is the pod itself or its peer.
            (PortRange::Named(name), Direction::Ingress) => self.named_ports.iter().for_each(|port| named(name, port)),
            (PortRange::Named(name), Direction::Egress) => identity.named_ports().for_each(|port| named(name, port)),
        }
    }
}

/// The port tables of the node; equal tables share a number.
struct PortTables {
    numbers: Numbers<PortFunction>,
    entries: Lpm<Decision>,
}

impl PortTables {
    /// Returns the form of a function that costs the fewest look-ups.
    fn outcome(&mut self, function: &PortFunction) -> Outcome {
        let mut pieces = function.pieces.iter().flat_map(|(protocol, list)| list.iter().map(move |p| (*protocol, *p)));
        match (pieces.next(), pieces.next()) {
            (None, _) => Outcome::Same(function.rest),
            (Some((protocol, (first, last, inside))), None) => {
                Outcome::Range { protocol, first, last, inside, outside: function.rest }
            }
            _ => Outcome::Table(self.table(function)),
        }
    }

    fn table(&mut self, function: &PortFunction) -> u32 {
        let table = self.numbers.of(function.clone());
        self.entries.insert(port_key(table, 0, 0), TABLE_BITS, function.rest);
        for (protocol, pieces) in &function.pieces {
            for (first, last, decision) in pieces {
                for (port, bits) in prefixes(*first, *last) {
                    self.entries.insert(port_key(table, *protocol, port), TABLE_BITS + 8 + bits, *decision);
                }
            }
        }
        table
    }
}
