//! The compiled form of the policies, and its interpreter.
//!
//! The form is what a kernel program can run: arrays, hash tables and longest-prefix-match tries,
//! with numbers for everything. One direction costs at most five look-ups, whatever the number of
//! policies. These are not the kernel's maps (`dataplane_common::types::policy`), which the agent
//! does not fill yet; [`judge`] shows the look-ups. Numbers are those of one compilation and mean
//! nothing in the next one.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use super::evaluate::{Connection, Reason};
use super::object::{Direction, Key};

/// A decision with the number of its reason.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Decision {
    /// The connection may pass in this direction.
    pub allowed: bool,
    /// Index in [`Tables::reasons`].
    pub reason: u32,
}

impl Decision {
    /// Allows: no policy isolates the pod in this direction.
    pub const NOT_ISOLATED: Self = Self { allowed: true, reason: 0 };
    /// Allows: the pod's own node opens the connection.
    pub const OWN_NODE: Self = Self { allowed: true, reason: 1 };
    /// Allows: the pod opens the connection to itself.
    pub const ITSELF: Self = Self { allowed: true, reason: 2 };
    /// The reasons of the constants above.
    pub(super) const REASONS: [Reason; 3] = [Reason::NotIsolated, Reason::OwnNode, Reason::Itself];
}

/// All that applies to a pod in one direction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RuleSet {
    /// Number of the rule set; pods with the same policies share it. 0 if no policy applies.
    pub number: u32,
    /// The decision about peers for which the rule set has no entry.
    pub default: Decision,
}

impl RuleSet {
    /// The rule set of a pod to which no policy applies.
    pub const NONE: Self = Self { number: 0, default: Decision::NOT_ISOLATED };
}

/// The entry of a local pod about which policies have something to say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PodRules {
    /// The pod's addresses.
    pub addresses: Vec<IpAddr>,
    /// The rule set for connections to the pod.
    pub ingress: RuleSet,
    /// The rule set for connections that the pod opens.
    pub egress: RuleSet,
}

/// An entry of [`Tables::rules`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Outcome {
    /// The same decision for all protocols and ports.
    Same(Decision),
    /// One decision for a range of ports of one protocol, and one for all others.
    Range {
        /// IP protocol number.
        protocol: u8,
        /// First port.
        first: u16,
        /// Last port.
        last: u16,
        /// The decision about ports in the range.
        inside: Decision,
        /// The decision about all others.
        outside: Decision,
    },
    /// Number of a table in [`Tables::ports`].
    Table(u32),
}

/// The compiled policies of one node.
#[derive(Clone, PartialEq, Debug)]
pub struct Tables {
    /// Local pods to which policies apply.
    pub pods: BTreeMap<Key, PodRules>,
    /// Address of each pod of the cluster -> identity.
    pub peers: HashMap<IpAddr, u32>,
    /// Prefix -> identity of IPv4 addresses that no pod has.
    pub blocks4: Lpm<u32>,
    /// Prefix -> identity of IPv6 addresses that no pod has.
    pub blocks6: Lpm<u32>,
    /// Identity -> class. Identity 0 is every address that is in no other table.
    pub identities: Vec<u32>,
    /// Rule set and class -> outcome.
    pub rules: HashMap<(u32, u32), Outcome>,
    /// Key of [`port_key`] -> decision.
    pub ports: Lpm<Decision>,
    /// The reasons of decisions.
    pub reasons: Vec<Reason>,
}

/// Bits of the key of [`Tables::ports`]: table, protocol and port.
pub const PORT_KEY_BITS: u32 = 56;
/// Prefix length of a table's decision for all protocols and ports without an entry.
pub const TABLE_BITS: u32 = 32;

/// Returns the key of a port in a port table.
#[must_use]
pub const fn port_key(table: u32, protocol: u8, port: u16) -> u128 {
    (table as u128) << 24 | (protocol as u128) << 16 | port as u128
}

/// Decides about a connection of a local pod by the compiled tables.
#[must_use]
pub fn judge(tables: &Tables, pod: &PodRules, connection: &Connection, direction: Direction) -> Decision {
    let peer = connection.ends(direction).1;
    if direction == Direction::Ingress && connection.from_own_node {
        return Decision::OWN_NODE;
    }
    if pod.addresses.contains(&peer) {
        return Decision::ITSELF;
    }
    let set = match direction {
        Direction::Ingress => pod.ingress,
        Direction::Egress => pod.egress,
    };
    if set.number == 0 {
        return set.default;
    }
    let identity = tables.peers.get(&peer).or_else(|| match peer {
        IpAddr::V4(address) => tables.blocks4.get(u128::from(address.to_bits())),
        IpAddr::V6(address) => tables.blocks6.get(address.to_bits()),
    });
    let class = identity.and_then(|identity| tables.identities.get(*identity as usize));
    let class = class.or_else(|| tables.identities.first()).copied().unwrap_or_default();
    match tables.rules.get(&(set.number, class)) {
        None => set.default,
        Some(Outcome::Same(decision)) => *decision,
        Some(Outcome::Range { protocol, first, last, inside, outside }) => {
            let is_inside = *protocol == connection.protocol && (*first..=*last).contains(&connection.port);
            if is_inside { *inside } else { *outside }
        }
        Some(Outcome::Table(table)) => {
            let key = port_key(*table, connection.protocol, connection.port);
            tables.ports.get(key).copied().unwrap_or(set.default)
        }
    }
}

/// A longest-prefix-match trie with the meaning of `BPF_MAP_TYPE_LPM_TRIE`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lpm<V> {
    /// Bits of a key.
    width: u32,
    /// Prefix length and the key's first bits -> value.
    entries: BTreeMap<(u32, u128), V>,
}

impl<V> Lpm<V> {
    /// Creates an empty trie for keys of so many bits.
    #[must_use]
    pub const fn new(width: u32) -> Self {
        Self { width, entries: BTreeMap::new() }
    }

    /// Sets the value of a prefix: the first `length` bits of the key.
    pub fn insert(&mut self, key: u128, length: u32, value: V) {
        self.entries.insert((length, self.head(key, length)), value);
    }

    /// Returns the value of the longest prefix that the key begins with.
    #[must_use]
    pub fn get(&self, key: u128) -> Option<&V> {
        (0..=self.width).rev().find_map(|length| self.entries.get(&(length, self.head(key, length))))
    }

    /// Returns the number of prefixes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns true if there is no prefix.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn head(&self, key: u128, length: u32) -> u128 {
        key.checked_shr(self.width - length).unwrap_or_default()
    }
}
